"""What client-level privacy goes with, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.privacy import Attendance, Central, statement
from fedfm.recipe import Recipe, load_recipe
from tests.small import small_recipe

PRIVATE = {"kind": "central", "noise_multiplier": 1.0, "delta": 1e-2}
POISSON = {"clients": 6, "per_round": 3, "rounds": 4, "sampling": "poisson"}


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return small_recipe(tmp_path, privacy=PRIVATE, federation=POISSON)


def refusals(values: dict[str, Any], **changes: Any) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values | changes)
    return {problem.where: problem.message for problem in caught.value.problems}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "weights by examples": (
        {"aggregate": {"rule": "mean", "weights": "examples"}},
        "aggregate.rule",
        "must not count more",
    ),
    "clients by examples": (
        {"federation": POISSON | {"sampling": "weighted"}},
        "federation.sampling",
        "must not count",
    ),
    "a fixed cohort": (
        {"federation": POISSON | {"sampling": "uniform"}},
        "privacy.kind",
        "federation.sampling=poisson",
    ),
    "another clip": ({"updates": [{"kind": "clip"}]}, "updates[0].kind", "privacy.clip"),
    "error feedback": ({"updates": [{"kind": "top-k", "share": 0.1}]}, "updates[0].kind", "what was sent"),
    "a median": ({"aggregate": {"rule": "median"}}, "aggregate.rule", "only one mean with noise"),
    "what measures updates": (
        {"algorithm": {"name": "fedexp"}, "local": {"optimizer": "sgd", "max_grad_norm": None}},
        "algorithm.name",
        "only one mean with noise",
    ),
    "personal parts": ({"tune": {"kind": "lora", "share": "head"}}, "privacy.kind", "tune.share"),
    "correlated noise on Poisson samples": (
        {"privacy": PRIVATE | {"mechanism": "bisr"}},
        "privacy.kind",
        "federation.sampling=cyclic",
    ),
    "correlated noise under a bound that moves": (
        {"privacy": PRIVATE | {"mechanism": "bisr", "clip": "adaptive"}},
        "privacy",
        "in units of one bound",
    ),
    "ranks": ({"federation": POISSON | {"ranks": [2, 4]}}, "privacy.kind", "federation.ranks"),
    "an asynchronous protocol": ({"protocol": {"kind": "buffered", "size": 2}}, "privacy.kind", "protocol.kind"),
    "a δ that protects nobody": ({"privacy": PRIVATE | {"delta": 0.2}}, "privacy.kind", "privacy.delta"),
    "neither ε nor noise": ({"privacy": {"kind": "central"}}, "privacy", "privacy.epsilon"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_b11_b13_what_breaks_the_promise_is_refused_with_the_reason(values: dict[str, Any], case: str) -> None:
    changes, where, words = REFUSED[case]
    found = refusals(values, **changes)
    assert where in found
    assert words in found[where]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregate": {"rule": "ffa"}},
        {"aggregate": {"rule": "fedsvd"}},
        {"aggregate": {"rule": "rolora"}},
        {"updates": [{"kind": "quantize", "bits": 8}]},
        {"algorithm": {"name": "fedadam"}},
        {"algorithm": {"name": "scaffold"}, "local": {"optimizer": "sgd", "max_grad_norm": None}},
        {"federation": {"clients": 6, "per_round": 6}},
        {"federation": POISSON | {"sampling": "cyclic"}},
    ],
)
def test_what_keeps_the_promise_is_accepted(values: dict[str, Any], changes: dict[str, Any]) -> None:
    assert load_recipe(values | changes).privacy == Central(**PRIVATE)


def test_public_counts_are_needed_for_a_private_proxy(values: dict[str, Any]) -> None:
    proxy = {"kind": "fedpft", "interval": 1, "align": {"data": "clients", "closed_form": False}}
    found = refusals(values, proxy=proxy, public={"data": "builtin:pydoc"})
    assert "there is no noise in them" in found["proxy.kind"]


def test_adaptive_clipping_is_refused_where_its_count_alone_spends_too_much() -> None:
    """z < 2·σ_b with σ_b = m/20 (arXiv:1905.03871): ten clients a round are too few for z = 1, a hundred are not."""
    settings = Central(noise_multiplier=1.0, clip="adaptive", delta=1e-4)
    with pytest.raises(RecipeError, match=r"privacy\.clip: .*raise federation\.per_round"):
        settings.promise(Attendance(100, 10, "poisson", rounds=5))
    assert settings.promise(Attendance(1000, 100, "poisson", rounds=5)).rate == 0.1
    assert settings._adaptation(100, 1.0)[1] == pytest.approx(1.005037815, abs=1e-9)


def test_the_noise_follows_from_a_target() -> None:
    promise = Central(epsilon=3.0, delta=1e-4).promise(Attendance(1000, 50, "poisson", rounds=200))
    assert promise.noise_multiplier == pytest.approx(1.163491, rel=1e-3)
    assert promise.budget == 3.0


def test_all_clients_in_every_round_are_not_a_sample() -> None:
    promise = Central(noise_multiplier=4.0, delta=1e-2).promise(Attendance(10, 10, "uniform", rounds=20))
    assert promise.rate == 1
    assert promise.epsilon(dict.fromkeys(range(20), 1)) == pytest.approx(2.6936415, abs=1e-3)


def test_one_statement_is_quoted_everywhere() -> None:
    assert statement(None).short == "ε = ∞ (no differential privacy)"
    figures = {"epsilon": 7.943, "delta": 1e-5, "unit": "client"}
    said = statement(figures)
    assert said.short == "ε = 7.94 (δ = 1e-05, per client)"
    more = {"noise_multiplier": 1.0, "rate": 0.1, "releases": 20, "accountant": "pld"}
    assert "each client takes part with probability 0.1; 20 releases, accountant pld." in statement(figures | more).text
    page = " ".join(
        (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8").replace("\n> ", " ").split()
    )
    assert said.limits in page
    assert statement(None).text in page


def test_a_recipe_without_privacy_promises_nothing(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(small_recipe(tmp_path))
    assert recipe.privacy.promise(Attendance(6, 3, "uniform", rounds=4)) is None
