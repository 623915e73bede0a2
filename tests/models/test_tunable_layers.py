"""Which parameters are in which layer, in every family."""

from __future__ import annotations

import re

import pytest

from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable_layers import layers_of
from fedfm.models.tunables import TUNABLES
from fedfm.tasks import TASKS
from tests.models.cases import CASES

TASK_OF = {"text": "text-classification", "image": "image-classification"}
NAMES = [(name, TASK_OF[task]) for name, task in CASES if task in TASK_OF]


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize(("name", "task_name"), NAMES)
def test_each_parameter_of_a_block_is_in_its_layer(name: str, task_name: str, kind: str) -> None:
    task = TASKS[task_name]()
    backbone = load_backbone(ModelSettings(path=f"builtin:{name}"), task.auto_class, seed=0, labels=["a", "b"])
    tunable = TUNABLES[kind](kind=kind).attach(backbone, task_type=task.peft_type, seed=0)
    layers = layers_of(tunable, backbone.family)
    inside = [parameter for tensors in layers.tensors for parameter in tensors]
    assert len(inside) == len(set(inside))
    assert not set(inside) & set(layers.beside)
    for path, tensors in zip(layers.names, layers.tensors, strict=True):
        assert all(re.search(rf"(^|\.){re.escape(path)}\.", parameter) for parameter in tensors), path
    left = tunable.parameters.keys() - set(inside) - set(layers.beside)
    assert not any(re.search(r"\.\d+\..*lora_", parameter) for parameter in left)
    if kind == "lora":
        assert not left
    else:
        assert any(re.search("embed|token|wte|shared", parameter) for parameter in left), left
    assert all(0 < few <= all_ for few, all_ in zip(layers.trained, layers.total, strict=True))
    assert all(layers.kept)
    if kind == "full":
        assert layers.trained == layers.total


def test_parameters_that_do_not_count_are_in_no_layer() -> None:
    task = TASKS["text-classification"]()
    backbone = load_backbone(ModelSettings(path="builtin:tiny-bert"), task.auto_class, seed=0, labels=["a", "b"])
    tunable = TUNABLES["lora"](kind="lora").attach(backbone, task_type=task.peft_type, seed=0)
    own = [name for name in tunable.parameters if ".layer.0." in name or "classifier" in name]
    layers = layers_of(tunable, backbone.family, without=own)
    assert layers.names == ("encoder.layer.1",)
    assert layers.beside == ()
