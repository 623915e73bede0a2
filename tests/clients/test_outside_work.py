"""A kind of work that fedfm does not have, with its protocol: clients send scalars, and no tunable travels.

After FedKSeed, Qin et al., arXiv:2312.06353: a step moves w by −η·g·z_s, where z_s follows from one of K seeds and
g = (L(w + εz_s) − L(w − εz_s)) / 2ε. With the sum of all g of a seed, each side walks from the initial values to w.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

import fedfm
from fedfm import registry
from fedfm.algorithms import Algorithm
from fedfm.clients import Worker
from fedfm.clients.work import WORKS, Answer, ClientTask, Work
from fedfm.params import Params
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.records import jsonl
from fedfm.spec import Spec, TensorSpec
from fedfm.updates import Done, Payload
from tests.small import small_recipe

SEEDS, STEP, EPSILON = 4, 0.05, 1e-3


def moved(params: Mapping[str, Tensor], seed: int, length: float) -> Params:
    """w + length·z_s."""
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor + length * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}


def walk(start: Mapping[str, Tensor], sums: Tensor) -> Params:
    """w_0 − η·Σ_s g_s·z_s."""
    params = dict(start)
    for seed, total in enumerate(sums.tolist()):
        params = moved(params, seed, -STEP * total)
    return params


@torch.no_grad()
def zeroth(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """The slope along each seed, one batch each."""
    for task in tasks:
        worker.update_copy(task.instruction)
        number, indices = task.instruction.round, worker.clients[task.client]
        params = walk(worker.contract.start, task.instruction.groups["seeds"]["sum"])
        plan = worker.plan(len(indices), task.client, number, SEEDS)
        found, samples = torch.zeros(SEEDS), 0
        for seed, batch in enumerate(worker.on_device(worker.batches(indices, plan, task.client, number))):
            losses = []
            for side in (EPSILON, -EPSILON):
                worker.tunable.write(moved(params, seed, side))
                totals, counts = worker.task.losses(worker.task.outputs(worker.tunable.model, batch), batch)
                losses.append(totals.sum() / counts.sum())
            found[seed], samples = (losses[0] - losses[1]) / (2 * EPSILON), samples + len(counts)
        facts = Done(client=task.client, examples=len(indices), steps=len(plan), samples=samples)
        groups = {"seeds": {"sum": found}}
        yield Answer(task.client, Payload(number, task.instruction.base, facts, groups, work="zeroth"))


class KSeed(Protocol):
    """Clients send slopes along K seeds."""

    kind: Literal["kseed"] = "kseed"
    """Clients send slopes along K seeds."""

    works: ClassVar[Sequence[str]] = ("zeroth",)

    def returns(self, work: str, classes: int) -> Mapping[str, Spec]:
        """A slope for each seed."""
        return {"seeds": {"sum": TensorSpec((SEEDS,))}}

    def folds(self, cohort: int) -> None:
        """Slopes are averaged."""

    def start(self, params: Params, algorithm: Algorithm) -> State:
        return State(0, params, {"seeds": {"sum": torch.zeros(SEEDS)}})

    def step(self, state: State, io: IO) -> State:
        number, cohort, seeds = state.round + 1, io.cohort(state.round + 1), state.server["seeds"]
        ask = Ask(number, {}, groups={"seeds": seeds}, work="zeroth", expects=self.returns("zeroth", 0))
        answers = [update.groups["seeds"]["sum"] for update in io.ask(dict.fromkeys(cohort, ask), copies=cohort)]
        total = seeds["sum"] + torch.stack(answers).mean(0)
        return State(number, walk(io.start, total), {"seeds": {"sum": total}})


@pytest.fixture(autouse=True)
def _zeroth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORKS, "zeroth", Work(zeroth, trains=True))
    monkeypatch.setattr(registry, "_GIVEN", {})


def played(folder: Path, processes: int, *overrides: str) -> fedfm.Run:
    recipe: dict[str, Any] = small_recipe(
        folder,
        federation={"clients": 4, "per_round": 3, "rounds": 3},
        runtime={"processes": processes},
        evaluate={"every": 3},
    )
    return fedfm.run(recipe, [f"name=run-{processes}", *overrides], protocol=KSeed())


def delivered(run: fedfm.Run) -> str:
    return hashlib.sha256((run.folder.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_both_ends_walk_from_the_initial_values(tmp_path: Path) -> None:
    whole, short = played(tmp_path, 1), played(tmp_path, 2, "federation.rounds=1")
    messages = list(jsonl.records(whole.folder.wire))
    sent = {(line["direction"], tensor["name"], *tensor["shape"]) for line in messages for tensor in line["tensors"]}
    assert sent == {("down", "seeds/sum", SEEDS), ("up", "seeds/sum", SEEDS)}
    after_one = delivered(short)
    again = fedfm.resume(
        short.path, ["federation.rounds=3"], protocol=KSeed()
    )  # by forked processes, from a checkpoint
    assert delivered(again) == delivered(whole) != after_one
