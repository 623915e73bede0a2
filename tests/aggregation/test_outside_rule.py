"""Krum from outside of fedfm, in a class of its own. It needs a number of updates, and says whose it leaves out.

Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, arXiv:1703.02757. Of m
updates, f of them hostile, the score of an update is the sum of the squared distances to its m − f − 2 nearest; the
update with the smallest score is the aggregate. It needs m ≥ 2f + 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

import fedfm
from fedfm import registry
from fedfm.aggregation import Contribution, Fold, Rule
from fedfm.aggregation.gathered import Gathered
from fedfm.capabilities import WHOLE_VIEWS
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.params import Params
from fedfm.recipe import load_recipe
from fedfm.recipe.cohorts import least_clients
from fedfm.records import jsonl
from fedfm.spec import Spec, spec_of
from fedfm.views import Slices, whole
from tests.events import irregular
from tests.small import small_recipe


class OutsideKrum(Rule):
    """The update that is nearest to its neighbours."""

    rule: Literal["outside-krum"] = "outside-krum"
    """The update that is nearest to its neighbours."""
    byzantine: int = 1
    """f: hostile clients of a round."""

    gathers: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {WHOLE_VIEWS: "it compares whole updates"}

    @property
    def least(self) -> int:
        """2f + 3."""
        return 2 * self.byzantine + 3

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> OutsideFold:
        """An empty fold."""
        return OutsideFold(spec, self.byzantine)


class OutsideFold(Fold):
    """Updates on disk; their distances follow from their scalar products."""

    def __init__(self, spec: Spec, byzantine: int) -> None:
        self._spec, self._byzantine, self._gathered = spec, byzantine, Gathered(spec)
        self._clients: list[str] = []
        self._left_out: dict[str, str] = {}

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        self._gathered.add(update, slices, contribution.copies)
        self._clients += [contribution.client] * contribution.copies

    def result(self) -> Params:
        pieces = (piece.double() for name in self._spec for piece in self._gathered.pieces(name))
        products = torch.stack([piece @ piece.T for piece in pieces]).sum(0)
        squares = products.diag()
        distances = (squares[:, None] + squares - 2 * products).sort(1).values
        scores = distances[:, 1 : len(self._clients) - self._byzantine - 1].sum(1)
        chosen = int(scores.argmin())
        others = {client: float(score) for client, score in zip(self._clients, scores, strict=True)}
        del others[self._clients[chosen]]
        self._left_out = {client: f"its score is {score:.4g}" for client, score in others.items()}
        return {
            name: torch.cat([piece[chosen] for piece in self._gathered.pieces(name)]).view(spec.shape)
            for name, spec in self._spec.items()
        }

    def notes(self) -> Mapping[str, str]:
        return self._left_out


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes known is known to that test alone."""
    monkeypatch.setattr(registry, "_GIVEN", {})


def federation(**settings: Any) -> dict[str, Any]:
    return {"clients": 6, "per_round": 5, "rounds": 1, **settings}


def test_the_update_nearest_to_its_neighbours_is_chosen() -> None:
    spec = spec_of({"w": torch.zeros(2), "v": torch.zeros(1)})
    fold = OutsideKrum().start(spec, {})
    for client, x in {"a": 1.0, "b": 2.0, "c": 2.5, "d": 3.5, "far": 100.0}.items():
        fold.add({"w": torch.tensor([x, 0.0]), "v": torch.tensor([x])}, Contribution(client, 1, 1), whole(spec))
    # With m − f − 2 = 2 neighbours, in units of 2·x²: a 1 + 2.25, b 0.25 + 1, c 0.25 + 1, d 1 + 2.25.
    found = fold.result()
    assert found["w"].tolist() == [2.0, 0.0]
    assert found["v"].tolist() == [2.0]
    assert fold.notes().keys() == {"a", "c", "d", "far"}
    assert fold.notes()["c"] == "its score is 2.5"


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"federation": federation(per_round=4)}, "federation.per_round"),
        ({"federation": federation(per_round=0.6)}, "federation.per_round"),
        ({"federation": federation(clients=4, per_round=None)}, "federation.clients"),
        ({"federation": federation(clients=4, per_round=0.9, sampling="poisson")}, "federation.clients"),
        ({"protocol": {"kind": "buffered", "size": 4}}, "protocol.size"),
    ],
)
def test_a_cohort_that_is_too_small_is_refused(tmp_path: Path, changes: dict[str, Any], limit: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(small_recipe(tmp_path, **{"federation": federation(), **changes}), aggregate=OutsideKrum())
    (problem,) = caught.value.problems
    assert problem.where == "aggregate.rule"
    assert "`outside-krum` needs 5 updates for a step, which has 4 at most" in problem.message
    assert f"({limit})" in problem.message


@pytest.mark.parametrize(
    "changes",
    [
        {"federation": federation()},
        {"federation": federation(per_round=None)},
        {"federation": federation(per_round=0.8)},
        {"federation": federation(per_round=3), "protocol": {"kind": "buffered", "size": 5}},
    ],
)
def test_a_cohort_that_is_large_enough_is_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    load_recipe(small_recipe(tmp_path, **changes), aggregate=OutsideKrum())


def test_a_natural_federation_that_is_too_small_is_refused_when_its_clients_are_known(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, federation={"per_round": 0.8, "rounds": 1})  # of five clients
    recipe["data"]["client"] = "site"
    with pytest.raises(
        RecipeError, match=r"aggregate\.rule: `outside-krum` needs 5 .* 4 at most \(federation\.per_round\)"
    ):
        fedfm.run(load_recipe(recipe, aggregate=OutsideKrum()))
    assert not (tmp_path / "runs" / "small").exists()


def test_a_run_records_whose_updates_were_left_out(tmp_path: Path) -> None:
    run = fedfm.run(small_recipe(tmp_path, federation=federation()), aggregate=OutsideKrum())
    events = irregular(jsonl.records(run.folder.events))
    assert len(events) == 4
    for event in events:
        assert event["kind"] == "left out"
        assert event["reason"].startswith("its score is ")
    assert len({event["client"] for event in events}) == 4


def test_a_round_with_too_few_updates_ends_the_run_as_one_below_the_quorum(tmp_path: Path) -> None:
    drawn = federation(per_round=0.5, rounds=6, sampling="poisson")
    with pytest.raises(
        TooFewClientsError, match=r"fewer than the 5 that `aggregate\.rule: outside-krum` needs"
    ) as caught:
        fedfm.run(small_recipe(tmp_path, federation=drawn), aggregate=OutsideKrum())
    assert caught.value.exit_code == 4
    assert caught.value.repeats


def test_a_server_with_sites_waits_for_as_many_as_the_rule_needs(tmp_path: Path) -> None:
    recipe = load_recipe(small_recipe(tmp_path, federation=federation()))
    assert least_clients(recipe, 6) == 3  # the quorum of five
    assert least_clients(load_recipe(recipe.model_dump(), aggregate=OutsideKrum()), 6) == 5
