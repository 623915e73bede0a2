"""Clusters of experts against numpy and scipy, one cluster against star, and runs with contradicting clients."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from scipy.spatial.distance import cosine
from transformers import AutoModelForSequenceClassification

import fedfm
from fedfm import run
from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import Algorithm, FedAvg, FedAvgM
from fedfm.errors import RecipeError
from fedfm.params import digest
from fedfm.protocols import Ask, ClientUpdate, Clusters, State
from fedfm.protocols.clusters import distances, grouped
from fedfm.recipe import load_recipe
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.spec import spec_of
from fedfm.updates import Done, UpdatePath
from fedfm.wire import TUNABLE
from tests.small import WORDS, small_recipe

LR = 0.3
EXAMPLES = {"a": 1, "b": 4, "c": 2, "d": 3, "late": 5}
A, B, HEAD = "layer.lora_A.weight", "layer.lora_B.weight", "head.weight"
LEFT, RIGHT = np.array([[2.0], [0.1], [0.0]]), np.array([[-0.1], [-1.0], [1.0]])
CENTRES = {
    "a": LEFT + 0.1,
    "b": RIGHT,
    "c": LEFT - 0.05,
    "d": RIGHT * 1.5,
    "late": RIGHT + 0.1,
}


class Clients:
    """Clients that take one gradient step of B towards their own centres; plays the part of `fedfm.protocols.IO`."""

    rule, up, seed, clients = Mean(weights="examples"), UpdatePath(), 0, EXAMPLES

    def __init__(self, cohorts: list[list[str]], algorithm: Algorithm | None = None) -> None:
        self.cohorts, self.algorithm = cohorts, algorithm or FedAvg()
        self.start = {
            A: torch.ones(1, 2, dtype=torch.float64),
            B: torch.zeros(3, 1, dtype=torch.float64),
            HEAD: torch.zeros(1, dtype=torch.float64),
        }
        self.spec = spec_of(self.start)

    def cohort(self, number: int) -> dict[str, int]:
        return dict.fromkeys(self.cohorts[number - 1], 1)

    def learning_rate(self, number: int) -> float:
        return LR

    def ask(self, asks: Mapping[str, Ask], *, copies: Mapping[str, int]) -> Iterator[ClientUpdate]:
        for client, ask in asks.items():
            delta = {
                A: torch.full((1, 2), 0.01, dtype=torch.float64),
                B: -LR * (ask.params[B] - torch.from_numpy(CENTRES[client])),
                HEAD: torch.ones(1, dtype=torch.float64),
            }
            contribution = Contribution(client, EXAMPLES[client], 1, copies[client])
            done = Done(client=client, examples=EXAMPLES[client], steps=1)
            yield ClientUpdate(client, {TUNABLE: delta}, done, contribution, dict.fromkeys(delta, ()))

    def require_updates(self, updates: int) -> None:
        assert updates

    def record(self, figures: Mapping[str, float]) -> None:
        pass


def played(protocol: Clusters, io: Clients) -> Iterator[State]:
    state = protocol.start(io.start, io.algorithm)
    for _ in io.cohorts:
        state = protocol.step(state, io)  # type: ignore[arg-type]
        yield state


def updates(factors: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]) -> dict[str, ClientUpdate]:
    """Updates of some factors B by client and layer."""
    found = {}
    for client, layers in factors.items():
        tensors = {f"{layer}.lora_B.weight": torch.from_numpy(b) for layer, b in layers.items()}
        tensors |= {f"{layer}.lora_A.weight": torch.rand(2, 3) for layer in layers}
        done, contribution = Done(client=client, examples=1), Contribution(client, 1, 1)
        found[client] = ClientUpdate(client, {TUNABLE: tensors}, done, contribution, dict.fromkeys(tensors, ()))
    return found


def test_distances_are_the_means_of_cosine_distances_of_b() -> None:
    rng = np.random.default_rng(0)
    factors = {client: {"one": rng.normal(size=(4, 2)), "two": rng.normal(size=(5, 2))} for client in "abc"}
    factors["d"] = {"one": 3 * factors["a"]["one"], "two": np.zeros((5, 2))}  # nothing trained in layer two
    found = updates(factors)
    spec = spec_of(found["a"].groups[TUNABLE])
    apart = distances(found, spec)
    for i, x in enumerate("abc"):
        for j, y in enumerate("abc"):
            expected = np.mean([cosine(factors[x][at].ravel(), factors[y][at].ravel()) for at in ("one", "two")])
            assert apart[i, j] == pytest.approx(expected, abs=1e-12)
    assert apart[0, 3] == pytest.approx((0 + 1) / 2, abs=1e-12)
    assert (apart == apart.T).all()
    assert (apart.diagonal() == 0).all()


def test_clients_that_trained_nothing_are_one_cluster() -> None:
    """D19 of FedLEASE's code: with the first training left out, clients are clustered by B = 0, which tells nothing."""
    found = updates({client: {"one": np.zeros((4, 2))} for client in "abcd"})
    apart = distances(found, spec_of(found["a"].groups[TUNABLE]))
    assert not apart.any()
    assert grouped(apart, None, 8) == ([0, 0, 0, 0], 0.0)


def blocks(*sizes: int) -> np.ndarray[Any, Any]:
    """Distances 0.1 within groups and 0.9 between them."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    apart = np.where(group[:, None] == group, 0.1, 0.9)
    np.fill_diagonal(apart, 0)
    return apart


@pytest.mark.parametrize("sizes", [(2, 3), (3, 3, 2), (2, 2, 2, 2)])
def test_the_silhouette_finds_the_number_of_clusters(sizes: tuple[int, ...]) -> None:
    labels, silhouette = grouped(blocks(*sizes), None, 8)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    assert len({*zip(labels, groups, strict=True)}) == len({*labels}) == len(sizes)
    assert silhouette == pytest.approx((0.9 - 0.1) / 0.9)  # (b − a) / max(a, b), alike for all


def test_the_number_of_clusters_can_be_named() -> None:
    apart = blocks(2, 2, 2)
    assert len(set(grouped(apart, 2, 8)[0])) == 2
    assert len(set(grouped(apart, 9, 8)[0])) == 6
    assert grouped(apart, 1, 8) == ([0] * 6, 0.0)
    assert len(set(grouped(apart, None, 2)[0])) == 2
    for few in (1, 2):  # a silhouette needs 2 clusters of 3 clients at least
        assert grouped(blocks(*[1] * few), None, 8) == ([0] * few, 0.0)


def test_rounds_by_hand() -> None:
    cohorts = [["a", "b", "c", "d"], ["a", "b", "late"], ["c", "late"], ["a"]]
    protocol, io = Clusters(), Clients(cohorts)
    homes = {"a": 0, "b": 1, "c": 0, "d": 1}
    w = [np.zeros((3, 1)), np.zeros((3, 1))]
    for cohort, state in zip(cohorts, played(protocol, io), strict=True):
        before = [w[0], w[1]]
        for k in (0, 1):
            members = [client for client in cohort if homes.get(client) == k]
            n = sum(EXAMPLES[client] for client in members)
            steps = [EXAMPLES[client] / n * -LR * (before[k] - CENTRES[client]) for client in members]
            w[k] = before[k] + sum(steps) if steps else before[k]
        homes |= {client: 1 for client in cohort if client == "late"}  # its first update is not folded
        experts = protocol.experts(state)
        for k in (0, 1):
            np.testing.assert_allclose(experts[f"expert-{k}"][B].numpy(), w[k], atol=1e-12)
        assert {c: protocol.expert_of(c, state) for c in homes} == {c: f"expert-{k}" for c, k in homes.items()}
        share = sum(homes.values()) / len(homes)
        np.testing.assert_allclose(state.params[B].numpy(), (1 - share) * w[0] + share * w[1], atol=1e-12)
    assert protocol.expert_of("unknown", state) is None
    assert protocol.figures(state)["experts"] == 2
    assert protocol.figures(state)["silhouette"] > 0.5


def test_each_expert_has_the_algorithm_s_own_state() -> None:
    io = Clients([["a", "b", "c", "d"], ["a", "c"], ["a", "c"]], FedAvgM(momentum=0.5))
    *_, state = played(Clusters(clusters=2), io)
    velocity = {key: group[HEAD].item() for key, group in state.server.items() if "algorithm/" in key}
    assert velocity == {
        "expert-0/algorithm/velocity": pytest.approx(1 + 0.5 * (1 + 0.5)),
        "expert-1/algorithm/velocity": pytest.approx(1.0),
    }


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Six clients; half of them label the same texts the other way round."""
    values = small_recipe(folder)
    words = list(WORDS)
    for name, count, start in (("train", 216, 0), ("test", 24, 1000)):
        rows = [
            {
                "text": f"{words[i % 6]} thing {i}",
                "label": WORDS[words[i % 6]] ^ (i // 6 % 6 >= 3 and name == "train"),
                "site": "abcdef"[i // 6 % 6],
            }
            for i in range(start, start + count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        **values,
        "data": {**values["data"], "client": "site"},
        "federation": {"rounds": 3, "holdout": 0.2},
        "local": {"batch_size": 6, "learning_rate": 0.01, "epochs": 3, "lr_scheduler_type": "constant"},
        "evaluate": {"at": "clients", "every": 3},
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> fedfm.Run:
    return run(recipe(tmp_path_factory.mktemp("clusters"), protocol={"kind": "clusters"}))


def test_contradicting_clients_get_experts_that_beat_one_model(clustered: fedfm.Run, tmp_path: Path) -> None:
    one = run(recipe(tmp_path))
    served = json.loads((clustered.folder.path / "experts" / "clients.json").read_text())
    assert served == {**dict.fromkeys("abc", "expert-0"), **dict.fromkeys("def", "expert-1")}
    assert clustered.summary["protocol"]["experts"] == 2
    assert clustered.summary["final_by"] == "clients"
    assert "several experts" in (clustered.folder.adapter / "README.md").read_text(encoding="utf-8")
    assert one.summary["final"]["accuracy"] < 0.7 < 0.9 < clustered.summary["final"]["accuracy"]


def test_an_expert_loads_with_plain_peft_with_both_of_its_factors(clustered: fedfm.Run) -> None:
    """D18 of FedLEASE's code: a factor A under an overwritten name is dropped without an error, and stays random."""
    saved = load_checkpoint(clustered.folder)
    assert saved is not None
    experts = Clusters().experts(saved.state.protocol)
    first, second = experts["expert-0"], experts["expert-1"]
    for number, (name, expected) in enumerate(experts.items()):
        path = clustered.folder.path / "experts" / name / "adapter"
        torch.manual_seed(number)  # what is not in the file would be drawn, and differ
        base = AutoModelForSequenceClassification.from_pretrained(clustered.folder.adapter / "base", num_labels=2)
        loaded = get_peft_model_state_dict(PeftModel.from_pretrained(base, path))
        assert {"lora_A", "lora_B"} <= {part for key in expected for part in key.split(".")}
        assert load_file(path / "adapter_model.safetensors").keys() == expected.keys() == loaded.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(loaded[key], tensor, rtol=0, atol=0)
    for factor in ("lora_A", "lora_B"):
        assert all(not torch.equal(first[key], second[key]) for key in first if factor in key)


def test_clients_have_trained_before_they_are_clustered(clustered: fedfm.Run) -> None:
    """D19: the silhouette is that of trained factors."""
    assert clustered.summary["protocol"]["silhouette"] > 0.2


def test_a_resumed_run_has_the_experts_of_an_uninterrupted_one(clustered: fedfm.Run, tmp_path: Path) -> None:
    values = recipe(tmp_path, protocol={"kind": "clusters"})
    short = run({**values, "federation": {**values["federation"], "rounds": 2}})
    resumed = fedfm.resume(short.folder.path, ["federation.rounds=3"])
    for name in ("expert-0", "expert-1"):
        file = Path("experts", name, "adapter", "adapter_model.safetensors")
        before, after = (digest(load_file(of.folder.path / file)) for of in (clustered, resumed))
        assert before == after


def test_no_device_number_is_hard_coded() -> None:
    """D20: a device is what the recipe says; only help texts name one with a number."""
    package, fixed = Path(fedfm.__file__).parent, re.compile(r"""(?<!`)(cuda|xpu|mps):\d|\.cuda\(""")
    assert [str(path) for path in package.rglob("*.py") if fixed.search(path.read_text(encoding="utf-8"))] == []


def test_one_cluster_is_star_to_the_bit(tmp_path: Path) -> None:
    quick = {
        "federation": {"clients": 3, "rounds": 2},
        "local": {"batch_size": 5, "max_steps": 2, "learning_rate": 0.01},
        "algorithm": {"name": "fedadam"},
        "evaluate": {"every": 2},
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
    }
    adapters = {}
    for kind in ("star", "clusters"):
        protocol = {"kind": kind, **({"clusters": 1} if kind == "clusters" else {})}
        finished = run(small_recipe(tmp_path, name=kind, protocol=protocol, **quick))
        adapters[kind] = digest(load_file(finished.folder.adapter / "adapter_model.safetensors"))
    assert adapters["star"] == adapters["clusters"]


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"tune": {"kind": "head"}}, "protocol.kind", "compared by their factors B"),
        ({"tune": {"kind": "lora", "share": "not head"}}, "protocol.kind", "keeps a part of the tunable"),
        ({"aggregate": {"rule": "fedex"}}, "aggregate.rule", "each cluster has its own"),
        ({"data": {"validation": 0.2}, "evaluate": {"patience": 2}}, "evaluate.patience", "each cluster has its own"),
    ],
)
def test_what_clusters_refuse(tmp_path: Path, changes: dict[str, Any], where: str, reason: str) -> None:
    values = small_recipe(tmp_path, protocol={"kind": "clusters"})
    values |= {key: {**values.get(key, {}), **group} for key, group in changes.items()}
    with pytest.raises(RecipeError) as caught:
        load_recipe(values)
    assert any(problem.where == where and reason in problem.message for problem in caught.value.problems), caught.value
