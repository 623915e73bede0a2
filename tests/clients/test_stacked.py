"""Clients trained in one pass give the same results as each alone: every tunable, every family, in float64."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.algorithms import ALGORITHMS, Algorithm, Ewc, FedAvg, FedProx
from fedfm.clients import ClientRound, LocalSettings, Stacking, StackMember, train_locally, train_stacked
from fedfm.errors import RecipeError
from fedfm.models.stacked import PackedBlocks, StackedTunable, UnstackableError
from fedfm.models.tunables import TUNABLES
from fedfm.params import Params
from fedfm.tasks import TASKS, MaskedLM, Task
from fedfm.tasks.base import Batch
from fedfm.tasks.language_modeling import IGNORED
from tests.clients.stacks import (
    ALONE,
    CASES,
    SINGLE,
    SINGLE_MODELS,
    attached,
    batches,
    config_of,
    moved,
    read,
    tasks_of,
)

ROWS = [[3, 3, 2], [3], [1, 2]]
"""Examples of each step of each client: the first has more steps, the others smaller batches."""
MILD = {"fedprox": FedProx(mu=0.5), "ewc": Ewc(strength=0.5)}
"""In place of defaults: with these gradients drawn at random, a strong pull diverges."""
RULES = {name: MILD.get(name) or kind() for name, kind in ALGORITHMS.items()}
AT_CLIENTS = list({type(algorithm).gradient: name for name, algorithm in RULES.items()}.values())
"""One algorithm for each that differs at the clients; the others differ at the server, which sees no stacks."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.01, "max_grad_norm": None},
    "clipped": {"optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.01, "momentum": 0.9},
}


def starting(algorithm: Algorithm, received: Params, seed: int, lr: float) -> ClientRound:
    """A client's round, with values in all groups of the algorithm."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def draw() -> Params:
        return {
            name: 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            for name, tensor in received.items()
        }

    own = {group: draw() for group in algorithm.client_start(received)}
    return ClientRound(received, {group: draw() for group in algorithm.sent}, own, lr)


def both(
    name: str,
    task: Task,
    kind: str,
    local: LocalSettings,
    rule: Algorithm,
    *,
    uniform: bool = False,
    trains: Mapping[int, Mapping[str, Tensor]] | None = None,
    personal: frozenset[str] = frozenset(),
    **settings: Any,
) -> tuple[list[Any], list[Any]]:
    """What clients get alone, and in one pass.

    Args:
        name: of the model.
        task: of the clients.
        kind: of tunable.
        local: how they train.
        rule: the algorithm.
        uniform: whether clients are filled up.
        trains: client → coordinates that it trains; all where it is not named.
        personal: tensors that are each client's own.
        settings: of the tunable.
    """
    trains = trains or {}
    backbone, tunable = attached(name, task, kind, **settings)
    starts = [moved(tunable, client) for client in range(len(ROWS))]
    rounds = [
        dataclasses.replace(starting(rule, start, client, local.learning_rate), personal=personal)
        for client, start in enumerate(starts)
    ]
    alone = []
    for client, (rows, at) in enumerate(zip(ROWS, rounds, strict=True)):
        tunable.write(at.received)
        steps = batches(task, name, rows, client)
        result = train_locally(tunable, task, steps, local, rule, at, trains=trains.get(client))
        alone.append((result, read(tunable)))
    before = read(tunable)
    pad = config_of(name).pad_token_id if task.modality == "text" else 0
    blocks = PackedBlocks(tunable.base_model, backbone.family, first_only=task.peft_type == "SEQ_CLS")
    members = [
        StackMember(
            at,
            [np.arange(count) for count in rows],
            batches(task, name, rows, client),
            trains=trains.get(client),
        )
        for client, (rows, at) in enumerate(zip(ROWS, rounds, strict=True))
    ]
    stacking = Stacking(len(members), blocks, {"input_ids": pad, "labels": IGNORED}, uniform=uniform)
    together = train_stacked(tunable, stacking, task, members, local, rule, device=torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in read(tunable).items())
    return alone, together


def compare(alone: list[Any], together: list[Any], tolerance: float = 1e-10) -> None:
    for (result, params), (stacked_result, stacked_params) in zip(alone, together, strict=True):
        assert dataclasses.replace(stacked_result, loss=0.0) == dataclasses.replace(result, loss=0.0)
        assert stacked_result.loss == pytest.approx(result.loss, abs=tolerance, nan_ok=True)
        assert stacked_params.keys() == params.keys()
        for key, value in params.items():
            torch.testing.assert_close(
                stacked_params[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize(("name", "task", "kind"), CASES)
def test_every_tunable_in_every_family(name: str, task: str, kind: str) -> None:
    local = LocalSettings(**OPTIMIZERS["sgd"])
    try:
        alone, together = both(name, TASKS[task](), kind, local, RULES["scaffold"])
    except RecipeError as error:
        pytest.skip(f"no such tunable: {error.problems[0].message}")
    compare(alone, together, 1e-5 if kind in SINGLE or kind in SINGLE_MODELS.get(name, ()) else 1e-10)


@pytest.mark.parametrize("rule", AT_CLIENTS)
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [*[("lora", optimizer) for optimizer in OPTIMIZERS], ("prefix", "adamw"), ("head", "clipped")],
)
def test_every_rule_and_optimiser(kind: str, optimizer: str, rule: str) -> None:
    local = LocalSettings(**OPTIMIZERS[optimizer])
    compare(*both("tiny-bert", TASKS["text-classification"](), kind, local, RULES[rule]))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-phi3", "tiny-vit"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_every_matrix(name: str, kind: str) -> None:
    task = TASKS[tasks_of(name)[0]]()
    compare(*both(name, task, kind, LocalSettings(**OPTIMIZERS["sgd"]), RULES["fedavg"], target_modules="all"))


@pytest.mark.parametrize("kind", [kind for kind in TUNABLES if TUNABLES[kind].stackable])
@pytest.mark.parametrize(("name", "task"), [("tiny-bert", 0), ("tiny-llama", 1), ("tiny-vit", 0)])
def test_clients_filled_up_as_for_a_gpu(name: str, task: int, kind: str) -> None:
    local = LocalSettings(**OPTIMIZERS["sgd"])
    try:
        alone, together = both(name, TASKS[tasks_of(name)[task]](), kind, local, RULES["fedavg"], uniform=True)
    except RecipeError as error:
        pytest.skip(f"no such tunable: {error.problems[0].message}")
    compare(alone, together, 1e-5 if kind in SINGLE else 1e-10)


def test_what_predicts_nothing_has_no_part_in_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 0 predicts nothing in its first step, client 1 in none."""
    made = batches

    def partly_masked(task: Task, name: str, rows: list[int], seed: int) -> Iterator[Batch]:
        for number, batch in enumerate(made(task, name, rows, seed)):
            if seed == 1 or (seed == 0 and number == 0):
                batch["labels"] = torch.full_like(batch["labels"], IGNORED)
            yield batch

    task, local = MaskedLM(), LocalSettings(optimizer="sgd", learning_rate=0.1)
    full = both("tiny-bert", task, "lora", local, FedAvg())[0]
    monkeypatch.setattr(sys.modules[__name__], "batches", partly_masked)
    alone, together = both("tiny-bert", task, "lora", local, FedAvg())
    compare(alone, together)
    assert alone[0][0].loss > 3  # a random model's, about ln 261; with the empty step as 0 it would be less
    assert 0 < alone[0][0].predictions < full[0][0].predictions
    assert alone[1][0].predictions == 0
    assert math.isnan(alone[1][0].loss)


def test_one_that_diverges_ends_the_pass() -> None:
    task, local = TASKS["text-classification"](), LocalSettings()
    backbone, tunable = attached("tiny-bert", task, "lora")
    sound = moved(tunable, 0)
    starts = [sound, {name: tensor * torch.inf for name, tensor in sound.items()}]
    plan = [np.arange(2)]
    members = [
        StackMember(ClientRound(start, {}, {}, lr=0.1), plan, batches(task, "tiny-bert", [2], 0)) for start in starts
    ]
    stacking = Stacking(2, PackedBlocks(tunable.base_model, backbone.family), {})
    with pytest.raises(FloatingPointError, match="step 1 of a client is not finite"):
        train_stacked(tunable, stacking, task, members, local, FedAvg(), device=torch.device("cpu"))


DECAYING = LocalSettings(optimizer="adamw", learning_rate=0.01, weight_decay=0.5)


@pytest.mark.parametrize("rule", AT_CLIENTS)
def test_clients_that_train_parts_and_have_personal_tensors(rule: str) -> None:
    """Client 0 trains half of the coordinates, client 1 no factor A, client 2 everything."""
    task = TASKS["text-classification"]()
    _, tunable = attached("tiny-bert", task, "lora")
    generator = torch.Generator().manual_seed(5)
    halves = {name: torch.rand(tensor.shape, generator=generator) < 0.5 for name, tensor in tunable.parameters.items()}
    no_a = {name: torch.full(tensor.shape, "lora_A" not in name) for name, tensor in tunable.parameters.items()}
    head = frozenset(name for name in tunable.parameters if "classifier" in name)
    trains = {0: halves, 1: no_a}
    alone, together = both("tiny-bert", task, "lora", DECAYING, RULES[rule], trains=trains, personal=head)
    compare(alone, together)
    starts = [moved(tunable, client) for client in range(3)]
    for client, masks in trains.items():
        for name, mask in masks.items():
            trained = alone[client][1][name]
            assert torch.equal(trained[~mask], starts[client][name][~mask])  # although weights decay
            if name in head:
                assert not torch.equal(trained[mask], starts[client][name][mask])


@pytest.mark.parametrize("rule", AT_CLIENTS)
def test_an_algorithm_does_not_act_on_personal_tensors(rule: str) -> None:
    task = TASKS["text-classification"]()
    _, tunable = attached("tiny-bert", task, "head")
    personal = frozenset(tunable.parameters)
    alone, together = both("tiny-bert", task, "head", DECAYING, RULES[rule], personal=personal)
    compare(alone, together)
    compare(both("tiny-bert", task, "head", DECAYING, FedAvg())[0], alone, 0.0)


def test_what_is_everyones_own_is_refused() -> None:
    _, tunable = attached("tiny-bert", TASKS["text-classification"](), "full")
    with pytest.raises(UnstackableError, match="no stacked form"):
        StackedTunable(tunable, [read(tunable)])


@pytest.mark.parametrize(("name", "kind"), sorted(ALONE))
def test_what_has_parts_that_cannot_be_stacked_is_refused(name: str, kind: str) -> None:
    _, tunable = attached(name, TASKS["causal-lm"](), kind)
    with pytest.raises(UnstackableError, match=r"experts.* lies in a layer that has no stacked form"):
        StackedTunable(tunable, [read(tunable)])


def test_the_model_is_left_as_it_was() -> None:
    backbone, tunable = attached("tiny-bert", TASKS["text-classification"](), "lora")
    modules = list(tunable.model.modules())
    blocks = PackedBlocks(tunable.base_model, backbone.family, first_only=True, dtype=torch.bfloat16)
    before = {name: (parameter, parameter.dtype) for name, parameter in tunable.model.named_parameters()}
    with StackedTunable(tunable, [read(tunable)]).installed(), blocks.installed():
        inside = {parameter.dtype for parameter in tunable.base_model.base_model.encoder.parameters()}
        assert torch.bfloat16 in inside
    assert all("forward" not in vars(module) for module in modules)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert tunable.base_model.config._attn_implementation == "sdpa"
    after = dict(tunable.model.named_parameters())
    assert all(after[name] is parameter and after[name].dtype == dtype for name, (parameter, dtype) in before.items())


def cosine(one: Params, other: Params) -> float:
    a, b = (torch.cat([tensor.flatten().double() for tensor in params.values()]) for params in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


def test_blocks_in_bfloat16_go_the_same_way() -> None:
    task = TASKS["text-classification"]()
    backbone, tunable = attached("tiny-bert", task, "lora")
    tunable.model.float()
    start = {name: tensor.float() for name, tensor in moved(tunable, 0).items()}
    local = LocalSettings(**OPTIMIZERS["sgd"])
    updates = []
    for dtype in (None, torch.bfloat16):
        blocks = PackedBlocks(tunable.base_model, backbone.family, first_only=True, dtype=dtype)
        stacking = Stacking(2, blocks, {})
        plan = [np.arange(count) for count in (3, 3, 2)]
        at = ClientRound(start, {}, {}, lr=0.1)
        members = [StackMember(at, plan, batches(task, "tiny-bert", [3, 3, 2], client)) for client in range(2)]
        ((_, params), _) = train_stacked(tunable, stacking, task, members, local, FedAvg(), device=torch.device("cpu"))
        assert all(tensor.dtype == torch.float32 for tensor in params.values())
        updates.append({name: tensor - start[name] for name, tensor in params.items()})
    assert cosine(*updates) > 0.98
    assert any(not torch.equal(updates[0][name], updates[1][name]) for name in updates[0])


def test_a_proxy_that_changes_is_seen_in_lower_precision() -> None:
    backbone, tunable = attached("tiny-bert", TASKS["text-classification"](), "lora")
    blocks = PackedBlocks(tunable.base_model, backbone.family, dtype=torch.bfloat16)
    weight = next(p for name, p in tunable.base_model.named_parameters() if "intermediate.dense.weight" in name)

    def seen() -> Tensor:
        with blocks.installed():
            return next(
                p for name, p in tunable.base_model.named_parameters() if "intermediate.dense.weight" in name
            ).clone()

    first = seen()
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(seen(), first * 2)
