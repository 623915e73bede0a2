"""Gradient inversion on a tiny model: the label and the tokens of one example, from one SGD step on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedfm.audit.gradients import Victim
from fedfm.audit.inversion import recovered
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Lora
from fedfm.tasks import TASKS


@pytest.fixture(scope="module")
def victim() -> Victim:
    task = TASKS["text-classification"]()
    backbone = load_backbone(
        ModelSettings(path="builtin:tiny-bert"), task.auto_class, seed=0, labels=["a", "b", "c"], allow_network=False
    )
    tunable = Lora().attach(backbone, task_type=task.peft_type, seed=0)
    ids = torch.randint(5, 200, (1, 4), generator=torch.Generator().manual_seed(1))
    return Victim(tunable, task, ids, torch.tensor([1]), classes=3, clip=1.0, noise_multiplier=1.0)


def test_an_update_as_sent_is_read_and_one_with_noise_is_not(victim: Victim) -> None:
    before = {name: value.clone() for name, value in victim.tunable.parameters.items()}
    found = recovered(victim, 0)
    assert found["sent"]["labels"] == 1.0
    assert found["sent"]["cosine"] > 0.7
    assert found["sent"]["tokens"] >= 0.75
    assert abs(found["released"]["cosine"]) < 0.5
    assert found["released"]["tokens"] <= 0.25
    assert all(torch.equal(value, before[name]) for name, value in victim.tunable.parameters.items())


def test_clipping_alone_hides_nothing(victim: Victim) -> None:
    found = recovered(replace(victim, noise_multiplier=0.0), 0)["released"]
    assert found["labels"] == 1.0
    assert found["tokens"] >= 0.75
