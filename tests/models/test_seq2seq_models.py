"""Encoder-decoders that write responses: every tunable, plain peft, and clients in one pass."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.stacked import Layout, StackedTunable
from fedfm.models.tunables import TUNABLES, Lora
from fedfm.tasks import TASKS
from fedfm.tasks.base import Batch
from tests.models.cases import small

SEQ2SEQ = TASKS["seq2seq"]()
MODELS = ("tiny-t5", "tiny-bart")
REFUSED = {*product(("prompt", "p-tuning", "prefix", "head", "attention-adapter"), MODELS), ("bitfit", "tiny-t5")}
"""Kind of tunable and model that `attach` refuses: virtual tokens, a tied head, images, biases of T5."""


def load(name: str) -> Backbone:
    loaded = _load(name)
    return replace(loaded, model=copy.deepcopy(loaded.model))


@cache
def _load(name: str) -> Backbone:
    return load_backbone(ModelSettings(path=f"builtin:{name}"), AutoModelForSeq2SeqLM, seed=0)


def batch(backbone: Backbone) -> Batch:
    texts = [("a question", "yes"), ("another, longer one", "rather not")]
    sides = [(backbone.processor(asked), backbone.processor(given)) for asked, given in texts]  # type: ignore[operator]
    rows = [{"input_ids": asked["input_ids"], "labels": given["input_ids"]} for asked, given in sides]
    return SEQ2SEQ.collate(backbone.processor, seed=0)(rows)


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: Batch) -> torch.Tensor:
    return SEQ2SEQ.outputs(model.eval(), inputs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", TUNABLES)
def test_a_tunable_changes_it_and_loads_with_plain_libraries(kind: str, name: str, tmp_path: Path) -> None:
    backbone = load(name)
    inputs, settings = batch(backbone), small(kind)
    before = logits(backbone.model, inputs)
    if (kind, name) in REFUSED:
        with pytest.raises(RecipeError, match=r"tune\.kind: "):
            settings.attach(backbone, task_type=SEQ2SEQ.peft_type, seed=0)
        return
    tunable = settings.attach(backbone, task_type=SEQ2SEQ.peft_type, seed=0)
    noise = torch.Generator().manual_seed(0)
    tunable.write(
        {key: value + 0.3 * torch.randn(value.shape, generator=noise) for key, value in tunable.read().items()}
    )
    after = logits(tunable.model, inputs)
    assert not torch.allclose(after, before, atol=1e-4)
    tunable.save(tmp_path, backbone.processor)
    if tunable.is_adapter:
        again = PeftModel.from_pretrained(load(name).model, str(tmp_path))
    else:
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, inputs), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_clients_in_one_pass_get_what_each_gets_alone(name: str) -> None:
    backbone = load(name)
    tunable = Lora(r=2, target_modules="all").attach(backbone, task_type=SEQ2SEQ.peft_type, seed=0)
    nn = tunable.model.double()
    noise = torch.Generator().manual_seed(0)
    clients = [
        {key: value + 0.3 * torch.randn(value.shape, generator=noise) for key, value in tunable.read().items()}
        for _ in range(2)
    ]
    inputs = batch(backbone)
    alone = []
    for number, params in enumerate(clients):
        tunable.write(params)
        own = {key: tensor[number : number + 1] for key, tensor in inputs.items()}
        alone.append(logits(nn, own))
    stack = StackedTunable(tunable, clients)
    with stack.installed():
        stack.begin(Layout((1, 1), None))
        together = logits(nn, inputs)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-10, rtol=1e-10)
