"""Local training against a plain loop of torch and transformers, and the promises of a worker."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from fedfm.algorithms import FedProx
from fedfm.clients import LocalSettings, Worker
from fedfm.data.batches import batch_plan
from fedfm.params import Params, digest
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.updates import Failure, Update, decode_update
from fedfm.wire import TUNABLE
from tests.asked import instruction, trained
from tests.small import small_recipe


def instruct(
    worker: Worker, params: Params, clients: list[str], *, number: int = 1, lr: float = 0.01
) -> dict[str, Update]:
    message = instruction(params, number=number, lr=lr)
    answers = {}
    for client, answer in trained(worker, dict.fromkeys(clients, message)).items():
        assert not isinstance(answer, Failure), answer.details
        answers[client] = decode_update(answer)
    return answers


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_one_client_is_plain_training(experiment: Experiment, optimizer: str, max_grad_norm: float | None) -> None:
    local = LocalSettings(
        batch_size=4, epochs=2, optimizer=optimizer, max_grad_norm=max_grad_norm, weight_decay=0.01, learning_rate=0.02
    )
    worker = dataclasses.replace(experiment.worker, local=local, stacking=None)
    tunable, client = experiment.tunable, "2"
    start = tunable.read()
    update = instruct(worker, start, [client], lr=0.02)[client]

    tunable.write(start)
    model = tunable.model
    model.eval()  # the backbone's dropout is off during local training
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    steps = kind(trained, lr=0.02, weight_decay=0.01)
    indices = worker.clients[client]
    plan = batch_plan(
        len(indices), 4, epochs=2, max_steps=None, generator=numpy_generator(0, "batches", round=1, client=client)
    )
    losses = []
    for step in plan:
        batch = worker.processor.pad(worker.examples.take(indices[step]), return_tensors="pt")
        loss = model(**batch).loss
        steps.zero_grad()
        loss.backward()
        if max_grad_norm is not None:
            clip_grad_norm_(trained, max_grad_norm)
        steps.step()
        losses.append(len(step) * loss.item())
    after = tunable.read()
    assert update.facts.steps == len(plan) == 6
    assert update.facts.samples == update.facts.predictions == 20
    assert update.facts.examples == len(indices) == 10
    assert update.facts.loss == pytest.approx(sum(losses) / 20, rel=1e-5)
    for name in start:
        torch.testing.assert_close(update.groups[TUNABLE][name], after[name] - start[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stack", [False, True])
def test_logits_are_adjusted_by_a_clients_own_shares_of_the_classes(experiment: Experiment, stack: bool) -> None:
    local = LocalSettings(batch_size=10, optimizer="sgd", max_grad_norm=None, logit_adjustment=1.5)
    worker = dataclasses.replace(experiment.worker, local=local)
    worker = worker if stack else dataclasses.replace(worker, stacking=None)
    labels = worker.examples.labels
    assert labels is not None
    some = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate((6, 1))])
    worker = dataclasses.replace(worker, clients={**worker.clients, "1": some, "2": some[::-1].copy()})
    tunable = experiment.tunable
    start = tunable.read()
    updates = instruct(worker, start, ["1", "2"], lr=0.5)

    tunable.write(start)
    trained = tunable.parameters
    rows = worker.examples.take(some)
    batch = worker.processor.pad(rows, return_tensors="pt")
    logits = tunable.model.eval()(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    shares = (torch.bincount(batch["labels"], minlength=2) + 1) / (len(some) + 2)
    loss = torch.nn.functional.cross_entropy(logits + 1.5 * shares.log(), batch["labels"])
    for update in updates.values():
        assert update.facts.loss == pytest.approx(loss.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(trained.values()))
    for name, gradient in zip(trained, gradients, strict=True):
        for update in updates.values():
            torch.testing.assert_close(update.groups[TUNABLE][name], -0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_clients_do_not_see_each_other(experiment: Experiment) -> None:
    worker, start = dataclasses.replace(experiment.worker, stacking=None), experiment.tunable.read()
    forwards = instruct(worker, start, ["0", "1", "2", "3"])
    backwards = instruct(worker, start, ["3", "2", "1", "0"])
    alone = instruct(worker, start, ["2"])
    for client in forwards:
        assert digest(forwards[client].groups[TUNABLE]) == digest(backwards[client].groups[TUNABLE])
    assert digest(alone["2"].groups[TUNABLE]) == digest(forwards["2"].groups[TUNABLE])
    assert len({digest(update.groups[TUNABLE]) for update in forwards.values()}) == 4


def test_a_shared_pass_gives_each_client_what_it_gets_alone(experiment: Experiment) -> None:
    start, local = experiment.tunable.read(), LocalSettings(batch_size=4, optimizer="sgd", learning_rate=0.02)
    sharing = dataclasses.replace(experiment.worker, local=local)
    assert sharing.stacking is not None
    assert sharing.stacking.clients == 2
    together = instruct(sharing, start, ["0", "1", "2"])
    alone = instruct(dataclasses.replace(sharing, stacking=None), start, ["0", "1", "2"])
    assert list(together) == list(alone)
    for client, update in alone.items():
        assert together[client].facts.steps == update.facts.steps
        assert together[client].facts.samples == update.facts.samples
        for name, tensor in update.groups[TUNABLE].items():
            torch.testing.assert_close(together[client].groups[TUNABLE][name], tensor, rtol=1e-4, atol=1e-6)


def test_rounds_draw_other_batches(experiment: Experiment) -> None:
    worker, start = experiment.worker, experiment.tunable.read()
    first, second = (instruct(worker, start, ["1"], number=number)["1"] for number in (1, 2))
    assert digest(first.groups[TUNABLE]) != digest(second.groups[TUNABLE])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_adapters_dropout_is_on_and_keyed(tmp_path: Path, kind: str) -> None:
    updates = []
    for dropout in (0.5, 0.5, 0.0):
        tune = {"kind": kind, "lora_dropout": dropout}
        dropping = build_experiment(load_recipe(small_recipe(tmp_path, tune=tune)))
        updates.append(digest(instruct(dropping.worker, dropping.start, ["1"])["1"].groups[TUNABLE]))
    assert updates[0] == updates[1] != updates[2]


def test_the_backbones_dropout_is_off_unless_asked_for_and_keyed(experiment: Experiment) -> None:
    worker, start = experiment.worker, experiment.tunable.read()
    local = worker.local.model_copy(update={"dropout": True})
    dropping = dataclasses.replace(worker, local=local, stacking=None)
    once, again = (instruct(dropping, start, ["1"])["1"] for _ in range(2))
    assert digest(once.groups[TUNABLE]) == digest(again.groups[TUNABLE])
    assert digest(once.groups[TUNABLE]) != digest(instruct(worker, start, ["1"])["1"].groups[TUNABLE])


def test_the_backbone_is_never_touched(experiment: Experiment) -> None:
    trained = {id(parameter) for parameter in experiment.tunable.parameters.values()}
    frozen = {name: p.clone() for name, p in experiment.tunable.model.named_parameters() if id(p) not in trained}
    instruct(experiment.worker, experiment.tunable.read(), ["0", "1"])
    now = dict(experiment.tunable.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_max_steps_replaces_epochs(experiment: Experiment) -> None:
    local = experiment.worker.local.model_copy(update={"max_steps": 7})
    worker = dataclasses.replace(experiment.worker, local=local, stacking=None)
    assert instruct(worker, experiment.tunable.read(), ["0"])["0"].facts.steps == 7


def test_the_algorithm_steers_local_training(experiment: Experiment) -> None:
    worker, start = experiment.worker, experiment.tunable.read()
    free = instruct(worker, start, ["0"])["0"]
    contract = dataclasses.replace(worker.contract, rule=FedProx(mu=100.0))
    pulled = instruct(dataclasses.replace(worker, contract=contract), start, ["0"])["0"]

    def length(update: Update) -> float:
        return math.sqrt(sum(tensor.pow(2).sum().item() for tensor in update.groups[TUNABLE].values()))

    assert length(pulled) < length(free)


def test_one_clients_failure_is_reported_and_the_others_go_on(experiment: Experiment) -> None:
    clients = {**experiment.worker.clients, "1": np.array([10**6])}
    worker = dataclasses.replace(experiment.worker, clients=clients)
    start = experiment.tunable.read()
    message = instruction(start)
    answers = trained(worker, dict.fromkeys(["0", "1", "2"], message))
    assert isinstance(answers["1"], Failure)
    assert "IndexError" in answers["1"].reason
    assert "Traceback" in answers["1"].details
    sound = instruct(experiment.worker, start, ["2"])["2"]
    assert digest(decode_update(answers["2"]).groups[TUNABLE]) == digest(sound.groups[TUNABLE])  # type: ignore[arg-type]


def test_out_of_memory_says_what_to_do(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("fedfm.clients.worker.train_locally", exhausted)
    start = experiment.tunable.read()
    message = instruction(start)
    (answer,) = trained(dataclasses.replace(experiment.worker, stacking=None), {"0": message}).values()
    assert isinstance(answer, Failure)
    assert answer.reason == "out of memory: lower local.batch_size or data.max_length"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.1, 0.075, 0.05, 0.025]),
        ("cosine", [0.1, 0.0853553, 0.05, 0.0146447]),
    ],
)
def test_learning_rate_over_rounds(kind: str, expected: list[float]) -> None:
    local = LocalSettings(learning_rate=0.1, lr_scheduler_type=kind)
    assert [local.learning_rate_at(number, 4) for number in (1, 2, 3, 4)] == pytest.approx(expected, rel=1e-5)
