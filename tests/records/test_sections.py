"""What the sections work out, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm.records import sections
from fedfm.records.ledger import TensorGroup, Totals
from fedfm.records.reading import RunFiles
from fedfm.records.sections.learning import _bytes_until


def run_files(**changes: Any) -> RunFiles:
    files: dict[str, Any] = {
        "recipe_text": "name: x\n",
        "recipe": {"name": "x", "federation": {"rounds": 2, "per_round": 0.5}},
        "summary": None,
        "environment": None,
        "clients": [],
        "metrics": [],
        "events": [],
        "traffic": Totals(down=0, up=0, by_round={}),
        "tensors": [],
    }
    return RunFiles(**(files | changes))


def test_bytes_add_up_until_the_end_of_a_round() -> None:
    run = run_files(traffic=Totals(down=0, up=0, by_round={1: {"down": 10, "up": 1}, 3: {"down": 20, "up": 2}}))
    until = _bytes_until(run)
    assert [until({"round": number}) for number in range(5)] == [0, 11, 11, 33, 33]


def test_the_headline_is_the_summarys_or_the_first_metric_or_the_loss() -> None:
    row = {"round": 0, "split": "test", "client": None, "loss": 1.0, "matthews": 0.1, "examples": 3, "seconds": 1.0}
    assert run_files(summary={"metric": "macro_f1"}, metrics=[row]).headline == "macro_f1"
    assert run_files(metrics=[row]).headline == "matthews"
    assert run_files().headline == "loss"


def test_a_baseline_of_several_counts_with_its_mean_and_none_is_left_out() -> None:
    found = {"majority": None, "local": {"mean": 0.4, "worst": 0.3, "best": 0.5}, "pooled": 0.8}
    outcome = sections.outcome(
        run_files(summary={"metric": "accuracy", "final": {"accuracy": 0.7}, "baselines": found})
    )
    assert [(level.name, level.width) for level in outcome.levels] == [
        ("Each client alone", pytest.approx(40)),
        ("All data in one place", pytest.approx(80)),
        ("This run", pytest.approx(70)),
    ]


def test_a_fraction_of_clients_a_round_is_said_as_such() -> None:
    facts = {fact.name: fact for fact in sections.outcome(run_files()).facts}
    assert (facts["Rounds"].value, facts["Rounds"].note) == ("0", "of 2 planned, 50 % clients each")


def test_both_ways_of_a_tensor_stand_in_one_row() -> None:
    groups = [
        TensorGroup("down", "a", "float32", (8, 4), 6, 1000),
        TensorGroup("down", "b", "int8", (), 1, 5),
        TensorGroup("up", "a", "float32", (8, 4), 6, 900),
    ]
    traffic = Totals(down=1, up=1, by_round={1: {"down": 1, "up": 1}})
    wire = sections.wire(run_files(tensors=groups, traffic=traffic))
    assert wire is not None
    assert [(row.name, row.shape, row.down, row.up) for row in wire.rows] == [
        ("a", "8 × 4", "1.00 kB", "900 B"),
        ("b", "scalar", "5 B", "–"),
    ]


def test_only_the_last_evaluation_of_clients_is_shown_from_the_lowest() -> None:
    rows = [
        {"round": number, "split": "client", "client": client, "accuracy": value, "loss": 1.0, "examples": 3}
        for number, client, value in [(1, "a", 0.1), (2, "a", 0.9), (2, "b", 0.6), (2, "c", None)]
    ]
    spread = sections.spread(run_files(summary={"metric": "accuracy"}, metrics=rows))
    assert spread is not None
    assert (spread.round, spread.count) == (2, 2)
    assert [(fact.name, fact.value, fact.note) for fact in spread.facts] == [
        ("Lowest", "60.0 %", "client b"),
        ("Highest", "90.0 %", "client a"),
    ]


def test_the_latest_faults_are_listed_and_all_are_counted() -> None:
    events = [{"round": number, "kind": "failed", "client": "a", "reason": ""} for number in range(60)]
    faults = sections.faults(run_files(events=events))
    assert faults.counts == [("failed", 60)]
    assert (len(faults.rows), faults.left_out, faults.rows[-1]["round"]) == (50, 10, 59)
