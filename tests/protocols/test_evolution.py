"""Votes against scikit-learn's neighbours, rank selection by hand, and a whole run on a task whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.neighbors import NearestNeighbors
from torch import nn

from fedfm import resume, run
from fedfm.aggregation import Contribution
from fedfm.clients.work.vote import CANDIDATES, CLASSES, FEATURES, HISTOGRAM, VOTES, votes_of
from fedfm.data.builtins.planted import SLOTS, SUBJECTS, is_right, planted
from fedfm.models.tunable import Tunable
from fedfm.protocols import Ask, ClientUpdate, Evolution, State
from fedfm.protocols.evolution import best
from fedfm.records import jsonl
from fedfm.updates import Done

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


class Alone:
    """A server whose clients vote by the subject and quality of their sentences alone; see `fedfm.protocols.IO`."""

    def __init__(self) -> None:
        layer = nn.Linear(28, 4)
        tunable = Tunable(cast(Any, nn.Sequential(layer)), {"0.weight": layer.weight, "0.bias": layer.bias})
        evaluator = SimpleNamespace(labels=sorted(SUBJECTS), tunable=tunable)
        self.student, self.seed, self.params = SimpleNamespace(evaluator=evaluator), 0, tunable.read()
        table = planted().select(range(240))
        self.features, self.labels = bags(table["text"]), np.array([sorted(SUBJECTS).index(c) for c in table["label"]])

    def cohort(self, number: int) -> dict[str, int]:
        return {f"{client}": 1 for client in range(30)}

    def release(self, number: int, state: Any, groups: Any) -> None:
        """Nothing is promised."""

    def ask(self, asks: Mapping[str, Ask], *, copies: Mapping[str, int]) -> Iterator[ClientUpdate]:
        for client, ask in asks.items():
            group, own = ask.groups[CANDIDATES], np.arange(240) % 30 == int(client)
            found = votes_of(self.features[own], self.labels[own], group[FEATURES].numpy(), group[CLASSES].numpy()) / 8
            assert np.linalg.norm(found) <= 1
            votes = {VOTES: {HISTOGRAM: torch.from_numpy(found).float()}}
            yield ClientUpdate(client, votes, Done(client=client, examples=8), Contribution(client, 8, 1), {})


def bags(texts: Sequence[str]) -> np.ndarray:
    """float32 [N, 28]: which subject and which quality a sentence has."""
    words = [*SLOTS["subject"], *SLOTS["quality"]]
    return CountVectorizer(vocabulary=words).transform(texts).toarray().astype(np.float32)


def test_votes_find_what_belongs_to_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 of 16 of the generator's texts is right; only the votes say which subject is of which class."""
    features = staticmethod(lambda rows, io: torch.from_numpy(bags([text for text, _ in rows])))
    monkeypatch.setattr(Evolution, "_features", features)
    io, protocol = Alone(), Evolution(keep=8, variations=3)
    state = State(0, io.params)
    for _ in range(8):
        state = protocol.step(state, cast(Any, io))
    right, accuracy = {}, {}
    for name, found in protocol.synthetic(state).items():
        right[name] = np.mean([is_right(text, sorted(SUBJECTS)[label]) for text, label in found.rows])
        logits = io.features @ found.params["0.weight"].numpy().T + found.params["0.bias"].numpy()
        accuracy[name] = (logits.argmax(1) == io.labels).mean()
    assert right["with votes"] >= 0.6 > 0.3 >= right["without votes"]
    assert accuracy["with votes"] >= 0.9 > 0.6 >= accuracy["without votes"]


def test_a_run_writes_texts_and_scores_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(recipe(tmp_path, name="whole"))
    rows = list(jsonl.records(whole.folder.synthetic))
    assert len(rows) == 16
    assert {row["label"] for row in rows} == {"food", "health", "sport", "travel"}
    scores = jsonl.read(whole.folder.synthetic_scores)["sets"]
    assert set(scores) == {"with votes", "without votes", "real examples"}
    assert scores["with votes"]["accuracy"] == pytest.approx(whole.summary["final"]["accuracy"])
    assert "Synthetic texts" in whole.folder.report.read_text()
    part = run(recipe(tmp_path, name="part", federation={"clients": 20, "per_round": 20, "rounds": 1}))
    resume(part.path, ["federation.rounds=2"])
    assert part.folder.synthetic.read_bytes() == whole.folder.synthetic.read_bytes()
    assert {n: t.tolist() for n, t in part.state.params.items()} == {
        n: t.tolist() for n, t in whole.state.params.items()
    }
