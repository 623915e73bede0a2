"""What a task takes from a model's forward pass, with a task made for this."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel

from fedfm.algorithms import FedAvg
from fedfm.clients import LocalSettings
from fedfm.clients.training import train_locally
from fedfm.server.experiment.build import Experiment
from fedfm.tasks import TextClassification
from fedfm.tasks.base import Batch
from tests.clients.test_stacked import ROWS, attached, batches, both, compare, moved, starting


class Prototypes(TextClassification):
    """Classes are the first axes of an embedding: a model without a head, which has no logits."""

    auto_class = AutoModel
    peft_type = "FEATURE_EXTRACTION"

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the tokens' last hidden states, ``[B, d]``, of length 1."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        hidden, mask = model(**inputs).last_hidden_state, batch["attention_mask"][..., None]
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


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
