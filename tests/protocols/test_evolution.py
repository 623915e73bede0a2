"""Votes against scikit-learn's neighbours, rank selection by hand, and a whole run on a task whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.neighbors import NearestNeighbors

from fedfm import resume, run
from fedfm.clients.work.vote import votes_of
from fedfm.data.builtins.planted import is_right, planted
from fedfm.protocols.evolution import best
from fedfm.records import jsonl

PROTOCOL = {"kind": "evolution", "keep": 4, "variations": 3}


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    table: Dataset = planted().select(range(130))
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    for name, part in (("train", rows[:100]), ("test", rows[100:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return {
        "name": "votes",
        "output": str(folder / "runs"),
        "model": {"path": "builtin:tiny-bert"},
        "task": {"kind": "text-classification"},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "max_length": 64},
        "federation": {"clients": 20, "per_round": 20, "rounds": 2},
        "tune": {"kind": "head"},
        "protocol": PROTOCOL,
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
        "evaluate": {"every": 2},
        **changes,
    }


def test_an_example_votes_for_the_nearest_candidate_of_its_class() -> None:
    rng = np.random.default_rng(0)
    features, candidates = rng.standard_normal((40, 6)), rng.standard_normal((9, 6)).astype(np.float32)
    labels, classes = rng.integers(0, 4, 40), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])  # no candidate of class 3
    found = votes_of(features, labels, candidates, classes)
    expected = np.zeros(9)
    for label in range(3):
        places = np.flatnonzero(classes == label)
        near = NearestNeighbors(n_neighbors=1).fit(candidates[places]).kneighbors(features[labels == label])[1]
        np.add.at(expected, places[near[:, 0]], 1)
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == (labels < 3).sum()


def test_the_most_voted_of_each_class_are_kept() -> None:
    histogram, classes = torch.tensor([0.1, -3.0, 0.5, 2.0, 2.0, 9.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert best(histogram, classes, 2) == [2, 0, 5, 3]


def test_votes_find_what_clients_have_and_the_run_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """Candidates that nobody voted for are right once in sixteen times."""
    whole = run(recipe(tmp_path, name="whole"))
    rows = list(jsonl.records(whole.folder.synthetic))
    assert len(rows) == 16
    assert {row["label"] for row in rows} == {"food", "health", "sport", "travel"}
    assert np.mean([is_right(row["text"], row["label"]) for row in rows]) >= 0.4
    scores = jsonl.read(whole.folder.synthetic_scores)["sets"]
    assert set(scores) == {"with votes", "without votes", "real examples"}
    assert scores["with votes"]["accuracy"] == pytest.approx(whole.summary["final"]["accuracy"])
    assert scores["with votes"]["kernel_distance"] < scores["without votes"]["kernel_distance"]
    assert "Synthetic texts" in whole.folder.report.read_text()
    part = run(recipe(tmp_path, name="part", federation={"clients": 20, "per_round": 20, "rounds": 1}))
    resume(part.path, ["federation.rounds=2"])
    assert part.folder.synthetic.read_bytes() == whole.folder.synthetic.read_bytes()
    assert {n: t.tolist() for n, t in part.state.params.items()} == {
        n: t.tolist() for n, t in whole.state.params.items()
    }
