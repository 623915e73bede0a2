"""Scores of a round's clients: coalitions against numpy, and whole runs with a client that has wrong labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfm import run
from fedfm.aggregation import GeometricMedian, Mean, Median, Rule, TrimmedMean
from fedfm.algorithms import Algorithm, FedAvg, FedAvgM
from fedfm.contributions import GradientCosine, LeaveOneOut, NoValuation, Shapley, Valuation
from fedfm.errors import RecipeError
from fedfm.protocols import State
from fedfm.protocols.star import Star
from fedfm.recipe import load_recipe
from fedfm.records.client_scores import scores_of
from fedfm.views.selection import NoSelection
from tests.protocols.test_soups import BEST, DELTAS, EXAMPLES, START, Kitchen, mean_of, with_a_bad_client
from tests.small import small_recipe

EVERYONE = ["a", "b", "c", "bad"]


class Scored(Kitchen):
    """A server that scores; keeps the lines of the metrics."""

    selection, sums_only = NoSelection(), False

    def __init__(
        self, contribution: Valuation, *, rule: Rule | None = None, algorithm: Algorithm | None = None
    ) -> None:
        super().__init__()
        self.contribution, self.lines = contribution, list[dict[str, Any]]()
        self.rule, self.algorithm = rule or Kitchen.rule, algorithm or FedAvg()

    def measure(self, split: str, figures: Mapping[str, Any]) -> None:
        self.lines.append({"split": split, "client": None, **figures})

    def ends_task(self, number: int) -> bool:
        return False

    def release(self, number: int, kept: Any) -> None:
        return None

    @property
    def scores(self) -> dict[str, float]:
        return {line["client"]: line["score"] for line in self.lines if line["client"] is not None}


def played(io: Scored) -> State:
    params = {"x": torch.from_numpy(START)}
    return Star().step(State(0, params, io.algorithm.start(params)), io)  # type: ignore[arg-type]


def utility(x: np.ndarray[Any, Any]) -> float:
    return -float(((x - BEST) ** 2).sum())


def test_a_coalition_is_the_mean_of_its_clients_and_the_step_is_that_of_a_star_that_does_not_score() -> None:
    io, plain = Scored(LeaveOneOut()), Scored(NoValuation())
    assert torch.equal(played(io).params["x"], played(plain).params["x"])
    assert (plain.lines, plain.judged) == ([], 0)
    whole = utility(mean_of(EVERYONE, DELTAS))
    expected = {c: whole - utility(mean_of([o for o in EVERYONE if o != c], DELTAS)) for c in EVERYONE}
    assert io.scores == pytest.approx(expected)
    assert min(io.scores, key=io.scores.__getitem__) == "bad"
    assert io.lines[-1]["change"] == pytest.approx(whole - utility(START))
    assert io.lines[-1]["evaluations"] == io.judged == 6
    assert io.left_out == []


@pytest.mark.parametrize("rule", [Mean(weights="examples"), Median(), TrimmedMean(trim=0.3), GeometricMedian()])
@pytest.mark.parametrize("algorithm", [FedAvg(), FedAvgM(server_lr=0.5)])
def test_the_scores_add_up_to_what_the_servers_own_step_changed(rule: Rule, algorithm: Algorithm) -> None:
    io = Scored(Shapley(), rule=rule, algorithm=algorithm)
    after = played(io).params["x"].numpy()
    assert sum(io.scores.values()) == pytest.approx(utility(after) - utility(START))
    assert io.judged == 2**4


def test_a_free_rider_is_paid_nothing() -> None:
    io = Scored(Shapley())
    io.deltas = {**DELTAS, "bad": np.zeros(3)}
    played(io)
    others = [io.scores[c] for c in "abc"]
    assert min(others) > 0 >= io.scores["bad"] > -min(others)  # its zero update only holds the others back


def test_the_cosine_is_with_the_aggregate_and_takes_no_evaluation() -> None:
    io = Scored(GradientCosine())
    played(io)
    step = mean_of(EVERYONE, DELTAS) - START
    expected = {c: d @ step / np.linalg.norm(d) / np.linalg.norm(step) for c, d in DELTAS.items()}
    assert io.scores == pytest.approx(expected)
    assert io.lines[-1] == {"split": "contribution", "client": None, "evaluations": 0}
    assert list(EXAMPLES) == EVERYONE


def test_scores_are_summed_over_rounds() -> None:
    lines = [
        {"split": "test", "client": None, "loss": 1.0},
        {"split": "contribution", "client": "a", "score": 1.5},
        {"split": "contribution", "client": "b", "score": None},
        {"split": "contribution", "client": None, "evaluations": 4, "change": 1.5},
        {"split": "contribution", "client": "a", "score": -0.5},
        {"split": "contribution", "client": None, "evaluations": 2, "change": -0.5},
    ]
    assert scores_of(lines).summary("shapley") == {
        "kind": "shapley",
        "evaluations": 6,
        "change": 1.0,
        "by_client": {"a": {"score": 1.0, "rounds": 2}, "b": {"score": 0.0, "rounds": 1}},
    }


def test_a_run_scores_the_client_with_wrong_labels_least(tmp_path: Path) -> None:
    finished = run(with_a_bad_client(tmp_path, contribution={"kind": "gtg-shapley", "utility": "loss"}))
    found = finished.summary["contribution"]
    scores = {client: of["score"] for client, of in found["by_client"].items()}
    assert min(scores, key=scores.__getitem__) == "d"
    assert scores["d"] < 0 < min(score for client, score in scores.items() if client != "d")
    assert 6 <= found["evaluations"] <= 16
    lines = finished.metrics.query("split == 'contribution'")
    assert len(lines) == 5
    page = finished.folder.report.read_text(encoding="utf-8")
    assert '<section id="contribution">' in page
    assert "gtg-shapley" in page


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"data": {"validation": None}}, "data.validation", "fraction such as 0.1"),
        ({"protocol": {"kind": "gossip"}}, "contribution.kind", "there is no server"),
        ({"protocol": {"kind": "hierarchical", "edges": 2}}, "contribution.kind", "gives that with star"),
        ({"secure": {"kind": "secagg"}}, "contribution.kind", "the sum of a round's updates only"),
        ({"aggregate": {"rule": "fedex"}}, "aggregate.rule", "before the round"),
        ({"tune": {"kind": "lora", "share": "head"}}, "contribution.kind", "one model for all clients"),
        ({"federation": {"clients": 12, "per_round": 11}}, "contribution.kind", "10 clients a round at most"),
    ],
)
def test_what_cannot_be_scored(tmp_path: Path, changes: dict[str, Any], where: str, reason: str) -> None:
    values = small_recipe(tmp_path)
    values |= {"contribution": {"kind": "shapley"}}
    values["data"] = {**values["data"], "validation": 0.2}
    for key, group in changes.items():
        values[key] = {**values.get(key, {}), **group} if key in ("data", "federation") else group
    with pytest.raises(RecipeError) as caught:
        load_recipe(values)
    assert any(p.where == where and reason in p.message for p in caught.value.problems), str(caught.value)
