"""What a task takes from a model's forward pass, and a task whose loss compares examples: two tasks made for this."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from fedfm import registry
from fedfm.algorithms import FedAvg
from fedfm.clients import LocalSettings, Worker
from fedfm.clients.stacked import why_alone
from fedfm.clients.work.train import train_locally
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.tasks import TASKS, Task, TextClassification
from fedfm.tasks.base import Batch
from tests.asked import instruction, trained
from tests.clients.stacks import attached, batches, moved
from tests.clients.test_stacked import ROWS, both, compare, starting
from tests.small import small_recipe


class Prototypes(TextClassification):
    """Classes are the first axes of an embedding: a model without a head, which has no logits."""

    auto_class = AutoModel
    peft_type = "FEATURE_EXTRACTION"

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the tokens' last hidden states, ``[B, d]``, of length 1."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        hidden, mask = model(**inputs).last_hidden_state, batch["attention_mask"][..., None]
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


class Contrastive(TextClassification):
    """Each example is to be unlike the others of its batch."""

    across_examples = True

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """In-batch cross-entropy: the right answer to an example is itself."""
        own = torch.arange(len(logits))
        return cross_entropy(logits @ logits.T, own, reduction="none"), self.predictions(batch)


@pytest.mark.parametrize("uniform", [False, True])
def test_a_shared_pass_reads_what_the_task_takes_from_a_model_without_logits(uniform: bool) -> None:
    local = LocalSettings(optimizer="sgd", learning_rate=0.5, max_grad_norm=None)
    compare(*both("tiny-bert", Prototypes(), "lora", local, FedAvg(), uniform=uniform))


class Distant(FedAvg):
    """Keeps a client's outputs near those of the tunable that it received."""

    name: Literal["distant"] = "distant"
    teacher: ClassVar[Literal["received"]] = "received"
    asked: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def loss(self, outputs: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """Squared distance of the outputs."""
        assert teacher is not None
        self.asked.append((outputs.detach(), teacher))
        return (outputs - teacher).square().sum(-1)


def test_an_algorithm_compares_what_the_task_takes_from_the_model() -> None:
    task, rule = Prototypes(), Distant()
    _, tunable = attached("tiny-bert", task, "lora")
    at = starting(rule, moved(tunable, 0), 0, 0.5)
    tunable.write(at.received)
    train_locally(tunable, task, batches(task, "tiny-bert", ROWS[0], 0), LocalSettings(), rule, at)
    width = tunable.base_model.config.hidden_size
    assert [outputs.shape for outputs, _ in rule.asked] == [(rows, width) for rows in ROWS[0]]
    torch.testing.assert_close(*rule.asked[0])  # before the first step, both are the received tunable
    assert not torch.allclose(*rule.asked[-1])


def test_an_evaluation_reads_what_the_task_takes_from_the_model(experiment: Experiment) -> None:
    class Opposite(TextClassification):
        def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
            return -super().outputs(model, batch)

    examples = experiment.worker.own.examples
    turned = replace(experiment.evaluator, task=Opposite())
    right = experiment.evaluator(examples)["accuracy"]
    assert turned(examples)["accuracy"] == pytest.approx(1 - right)  # there are two classes


class Joined(Contrastive):
    """The same loss without the declaration."""

    across_examples = False


def answers(worker: Worker, task: Task, message: bytes) -> dict[str, Any]:
    """What three clients answer in a worker that may train them in one pass."""
    return trained(replace(worker, task=task), dict.fromkeys(list(worker.clients)[:3], message))


def test_clients_of_a_task_that_compares_examples_share_no_pass(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(small_recipe(tmp_path, runtime={"stack": 3})))
    shared = experiment.worker.own
    message = instruction(shared.tunable.read())
    alone = answers(replace(shared, stacking=None), Contrastive(), message)
    assert shared.stacking is not None
    assert answers(shared, Contrastive(), message) == alone
    assert answers(shared, Joined(), message) != alone


def test_a_run_says_why_they_share_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "text-classification", Contrastive)
    experiment = build_experiment(load_recipe(small_recipe(tmp_path)))
    assert experiment.recipe.runtime.stack == "off"
    assert experiment.training == f"one client at a time ({why_alone(Contrastive(), FedAvg())})"
    assert "compares the examples of a batch" in experiment.training


def test_a_run_says_that_a_term_of_the_algorithm_is_why_they_share_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_GIVEN", {})
    experiment = build_experiment(load_recipe(small_recipe(tmp_path), algorithm=Distant()))
    assert experiment.training == "one client at a time (the algorithm adds a term to the loss)"
