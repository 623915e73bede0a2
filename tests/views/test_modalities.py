"""Clients of one kind: what they hold, and the mean over those that hold a tensor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedfm.aggregation.base import Contribution
from fedfm.aggregation.mean import Mean
from fedfm.spec import TensorSpec
from fedfm.views import Modalities, narrow

SPEC = {
    name: TensorSpec((2,))
    for name in (
        "base_model.model.vision_model.layers.0.q.lora_A.weight",
        "base_model.model.text_model.layers.0.q.lora_A.weight",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
    )
}
IMAGE = {name for name in SPEC if "vis" in name}
TEXT = {name for name in SPEC if "text" in name}


def view(kinds: Any) -> Modalities:
    found = Modalities.of(SimpleNamespace(seed=3, federation=SimpleNamespace(modalities=kinds)))
    assert found is not None
    return found


def test_a_client_holds_the_towers_of_its_kinds() -> None:
    clients = view({"camera-*": "image", "phone": "text"})
    assert clients.held(SPEC, "camera-1", 1).keys() == IMAGE
    assert clients.held(SPEC, "phone", 1).keys() == TEXT
    assert clients.held(SPEC, "another", 1).keys() == SPEC.keys()


def test_a_client_gets_what_belongs_to_neither_tower_too() -> None:
    """Without the temperature of the others, its own loss would have a temperature of 1."""
    clients = view({"camera-*": "image", "phone": "text"})
    assert clients.gets(SPEC, "camera-1", 1).keys() == IMAGE | {"logit_scale"}
    assert clients.gets(SPEC, "phone", 1).keys() == TEXT | {"logit_scale"}
    assert clients.gets(SPEC, "another", 1).keys() == SPEC.keys()


def test_kinds_are_drawn_by_client_and_seed() -> None:
    names = [str(number) for number in range(300)]
    drawn = [view(["both", "image", "text"]).kind(name) for name in names]
    assert drawn == [view(["both", "image", "text"]).kind(name) for name in names]
    assert min(drawn.count(kind) for kind in ("both", "image", "text")) > 70


def test_a_tensor_is_averaged_over_the_clients_that_train_it() -> None:
    clients = view({"i": "image", "t": "text"})
    fold = Mean(weights="examples").start(SPEC, {name: torch.zeros(2) for name in SPEC})
    for client, examples, value in (("b", 1, 1.0), ("i", 3, 5.0), ("t", 1, 3.0)):
        held = clients.held(SPEC, client, 1)
        update = narrow({name: torch.full((2,), value) for name in SPEC}, held)
        fold.add(update, Contribution(client, examples, 1), held)
    found = {name: tensor[0].item() for name, tensor in fold.result().items()}
    means = dict.fromkeys(IMAGE, (1 + 15) / 4) | dict.fromkeys(TEXT, (1 + 3) / 2) | {"logit_scale": 1.0}
    assert found == pytest.approx(means)
