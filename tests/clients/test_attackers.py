"""Attackers: what they send against byzfl and numpy, what they do to their data, and what becomes of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.stats import norm

import fedfm
from fedfm.aggregation import Contribution
from fedfm.clients.attackers import ATTACKS, Alie, AnyAttack, Attack, HonestUpdates, Ipm, MinMax, attackers_of
from fedfm.clients.attackers.alie import hidden_shift
from fedfm.errors import RecipeError
from fedfm.hosts.training_data import read_training
from fedfm.protocols import ClientUpdate
from fedfm.recipe import load_recipe
from fedfm.server.rounds.attacks import attacked
from fedfm.spec import spec_of
from fedfm.updates import Done
from fedfm.views import whole
from tests.aggregation import byzfl_answers as byzfl
from tests.small import small_recipe

HONEST = np.array(byzfl.UPDATES)[:8]
SPEC = spec_of({"w": torch.zeros(6, dtype=torch.float64)})


def update(client: str, row: np.ndarray) -> ClientUpdate:
    facts = Done(client=client, examples=3, steps=1, samples=3)
    return ClientUpdate(
        client, {"tunable": {"w": torch.from_numpy(row)}}, facts, Contribution(client, 3, 1), whole(SPEC)
    )


def sent(attack: Attack, rows: np.ndarray = HONEST, others: int = 2) -> list[tuple[str, np.ndarray]]:
    """Client and update of a round with honest clients, and attackers before and after them."""
    bad = [f"bad{number}" for number in range(others)]
    updates: Iterable[ClientUpdate] = [
        *(update(client, np.full(6, 7.0)) for client in bad),
        *(update(f"good{number}", row) for number, row in enumerate(rows)),
    ]
    found = attacked(iter(updates), attack, set(bad), SPEC, seed=0, number=3)
    return [(each.client, each.groups["tunable"]["w"].numpy()) for each in found]


@pytest.mark.parametrize("name", ATTACKS)
def test_registry_and_schema_agree(name: str) -> None:
    assert type(TypeAdapter(AnyAttack).validate_python({"kind": name})) is ATTACKS[name]


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_updates_stay_and_colluders_come_last(name: str) -> None:
    found = sent(ATTACKS[name]())
    good = [row for client, row in found if client.startswith("good")]
    np.testing.assert_array_equal(np.stack(good), HONEST)
    bad = [row for client, row in found if client.startswith("bad")]
    assert len(bad) == 2
    assert all(np.isfinite(row).all() for row in bad)
    if ATTACKS[name].colludes:
        assert [client for client, _ in found[-2:]] == ["bad0", "bad1"]
        np.testing.assert_array_equal(*bad)


def test_what_colluders_send_equals_byzfls() -> None:
    mean = HONEST.mean(0)
    np.testing.assert_allclose(sent(Alie(z=1.5))[-1][1], 2 * mean - np.array(byzfl.ALIE), rtol=0, atol=1e-9)
    np.testing.assert_allclose(sent(Ipm(epsilon=2.0))[-1][1], byzfl.IPM, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("clients", "attackers"), [(50, 24), (10, 2), (25, 5)])
def test_the_shift_of_alie_hides_among_the_supporters(clients: int, attackers: int) -> None:
    honest = clients - attackers
    expected = norm.ppf((honest - (clients // 2 + 1 - attackers)) / honest)
    assert hidden_shift(clients, attackers) == pytest.approx(max(0.0, expected))


def test_min_max_goes_as_far_as_two_honest_updates_are() -> None:
    found = sent(MinMax())[-1][1]
    diameter = max(np.linalg.norm(a - b) for a in HONEST for b in HONEST)
    assert max(np.linalg.norm(found - row) for row in HONEST) == pytest.approx(diameter)
    direction = (HONEST.mean(0) - found) / HONEST.std(0, ddof=1)
    np.testing.assert_allclose(direction, direction[0])
    assert direction[0] > 0


def test_what_single_attackers_send() -> None:
    by_name = {name: dict(sent(ATTACKS[name]())) for name in ("sign-flip", "free-rider", "noise", "label-flip")}
    assert by_name["sign-flip"]["bad0"].tolist() == [-28.0] * 6
    assert by_name["free-rider"]["bad0"].tolist() == [0.0] * 6
    assert by_name["label-flip"]["bad0"].tolist() == [7.0] * 6
    assert not np.array_equal(by_name["noise"]["bad0"], by_name["noise"]["bad1"])
    assert 5 < np.linalg.norm(by_name["noise"]["bad0"]) / np.sqrt(6) < 100
    assert dict(sent(ATTACKS["backdoor"](scale=3.0)))["bad1"].tolist() == [21.0] * 6


def test_colluders_without_honest_clients_send_nothing() -> None:
    found = sent(Ipm(), rows=np.empty((0, 6)))
    assert [row.tolist() for _, row in found] == [[0.0] * 6] * 2


def test_distances_of_honest_updates_with_others() -> None:
    honest = HonestUpdates(SPEC)
    for row in HONEST:
        honest.add({"w": torch.from_numpy(row)}, whole(SPEC))
    rows = np.vstack([HONEST, np.ones(6)])
    np.testing.assert_allclose(honest.products_with({"w": torch.ones(6, dtype=torch.float64)}), rows @ rows.T)


def test_who_attacks_is_drawn_by_the_seed() -> None:
    clients = [f"c{number}" for number in range(20)]
    drawn = attackers_of(Ipm(share=0.2), clients, 1)
    assert len(drawn) == 4
    assert drawn == attackers_of(Ipm(share=0.2), reversed(clients), 1)
    assert drawn != attackers_of(Ipm(share=0.2), clients, 2)


def federation(**attackers: Any) -> dict[str, Any]:
    return {"clients": 6, "per_round": 6, "rounds": 1, "attackers": {"share": 0.34, **attackers}}


def test_flipped_labels_and_phrases_are_in_the_attackers_examples_alone(tmp_path: Path) -> None:
    clean = read_training(load_recipe(small_recipe(tmp_path, federation={"clients": 6, "per_round": 6, "rounds": 1})))
    attack = federation(kind="label-flip")
    flipped = read_training(load_recipe(small_recipe(tmp_path, federation=attack)))
    attack = federation(kind="backdoor", phrase="zq", label="1", examples=0.5)
    backdoor = read_training(load_recipe(small_recipe(tmp_path, federation=attack)))
    bad = attackers_of(Ipm(share=0.34), clean.federation.train, 0)
    assert len(bad) == 2
    assert clean.train.labels is not None
    assert flipped.train.labels is not None
    assert backdoor.train.labels is not None
    tokens = [clean.processor.decode(row["input_ids"]) for row in backdoor.train.take(range(len(clean.train)))]
    for client, held in clean.federation.train.items():
        np.testing.assert_array_equal(backdoor.federation.train[client], held)
        truth = clean.train.labels[held]
        np.testing.assert_array_equal(flipped.train.labels[held], 1 - truth if client in bad else truth)
        poisoned = ["zq" in tokens[row] for row in held]
        assert sum(poisoned) == (len(held) // 2 if client in bad else 0)
        np.testing.assert_array_equal(backdoor.train.labels[held], np.where(poisoned, 1, truth))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation": {"attackers": {"kind": "alie"}}, "protocol": {"kind": "buffered"}}, "attackers wait"),
        ({"federation": {"attackers": {"kind": "ipm"}}, "protocol": {"kind": "gossip"}}, "individual updates"),
        (
            {"data": {"train": "sites", "test": "t.csv"}, "federation": {"attackers": {"kind": "noise"}}},
            "are simulated",
        ),
        ({"federation": {"attackers": {"kind": "noise", "share": 1.0}}}, "must be < 1"),
    ],
)
def test_where_attackers_cannot_be_they_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(small_recipe(tmp_path, **changes))


def test_a_class_that_a_backdoor_names_must_be_there(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, federation=federation(kind="backdoor", label="sport"))
    with pytest.raises(RecipeError, match=r"federation\.attackers\.label: `sport` is not one of the classes: 0, 1"):
        read_training(load_recipe(recipe))


def test_a_run_is_harmed_with_the_mean_and_not_with_a_rule(tmp_path: Path) -> None:
    found = {}
    for rule in ({"rule": "mean"}, {"rule": "multi-krum", "f": 2, "compare": "products"}):
        attack = {
            "clients": 8,
            "per_round": 8,
            "rounds": 4,
            "attackers": {"kind": "sign-flip", "scale": 20.0, "share": 0.25},
        }
        recipe = small_recipe(tmp_path, federation=attack, aggregate=rule, name=str(rule["rule"]))
        run = fedfm.run(recipe)
        found[rule["rule"]] = run.summary["final"]["loss"]
        records = [record for record in run.metrics.to_dict("records") if record["split"] == "train"]
        assert [record["attackers"] for record in records] == [2.0] * 4
    assert found["multi-krum"] < 0.8 * found["mean"]
