from __future__ import annotations

import re

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Dora, Full, Head, Lora
from tests.models.cases import batch, load


def attach(dropout: float = 0.0) -> Tunable:
    return Lora(lora_dropout=dropout).attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)


def test_read_gives_float32_copies_in_sorted_order() -> None:
    tunable = Head().attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)
    tunable.model.to(torch.bfloat16)
    params = tunable.read()
    assert list(params) == ["classifier.bias", "classifier.weight"]
    assert {(tensor.dtype, tensor.requires_grad) for tensor in params.values()} == {(torch.float32, False)}
    params["classifier.bias"].fill_(7)
    assert not (tunable.parameters["classifier.bias"] == 7).any()


def test_write_keeps_the_parameters_that_an_optimiser_holds() -> None:
    tunable = Head().attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)
    held = list(tunable.parameters.values())
    tunable.write({name: torch.full_like(tensor, 3.0) for name, tensor in tunable.read().items()})
    assert all(mine is parameter for mine, parameter in zip(held, tunable.parameters.values(), strict=True))
    assert all((parameter == 3).all() for parameter in tunable.model.classifier.parameters())


def test_write_lists_every_difference_and_writes_nothing() -> None:
    tunable = Head().attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)
    before = tunable.read()
    wrong = {"classifier.weight": torch.zeros(2, 16), "extra": torch.zeros(1)}
    said = "missing classifier.bias; unknown extra; classifier.weight has shape (2, 16), not (3, 16)"
    with pytest.raises(ValueError, match=re.escape(said)):
        tunable.write(wrong)
    with pytest.raises(ValueError, match=r"classifier\.weight has shape"):
        tunable.write({"classifier.bias": torch.ones(3), "classifier.weight": torch.zeros(16, 3)})
    after = tunable.read()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", [Full, Lora, Head])
def test_between_let_go_and_write_it_holds_nothing(kind: type[Full | Lora | Head]) -> None:
    backbone = load("tiny-bert", "text")
    tunable = kind().attach(backbone, task_type="SEQ_CLS", seed=0)
    tunable.eval()
    held, before, inputs = list(tunable.parameters.values()), tunable.read(), batch(backbone)
    expected = tunable.model(**inputs).logits
    assert tunable.has_values
    tunable.let_go()
    assert not tunable.has_values
    assert {parameter.untyped_storage().nbytes() for parameter in held} == {0}
    with pytest.raises(ValueError, match="missing"):
        tunable.write({})
    tunable.write(before)
    assert all(mine is parameter for mine, parameter in zip(held, tunable.parameters.values(), strict=True))
    assert all(parameter.requires_grad for parameter in held)
    assert torch.equal(tunable.model(**inputs).logits, expected)


def test_training_without_dropout_leaves_only_the_adapters_own() -> None:
    tunable = attach(dropout=0.5)
    tunable.train(dropout=False)
    on = [module for module in tunable.model.modules() if isinstance(module, nn.Dropout) and module.training]
    own = [
        dropout
        for layer in tunable.model.modules()
        if isinstance(layer, LoraLayer)
        for dropout in layer.lora_dropout.values()
    ]
    assert len(on) == 2 * 4
    assert {id(module) for module in on} == {id(module) for module in own}
    tunable.train(dropout=True)
    assert all(module.training for module in tunable.model.modules())
    tunable.eval()
    assert not any(module.training for module in tunable.model.modules())


def test_training_without_dropout_is_deterministic_and_with_it_is_not() -> None:
    backbone = load("tiny-bert", "text")
    inputs = batch(backbone)
    tunable = Full().attach(backbone, task_type=None, seed=0)
    tunable.train(dropout=False)
    assert torch.equal(tunable.model(**inputs).logits, tunable.model(**inputs).logits)
    tunable.train(dropout=True)
    assert not torch.equal(tunable.model(**inputs).logits, tunable.model(**inputs).logits)


@pytest.mark.parametrize("kind", [Lora, Dora])
def test_the_adapters_own_dropout_acts_without_the_backbones(kind: type[Lora | Dora]) -> None:
    def trained(dropout: float) -> torch.Tensor:
        tunable = kind(lora_dropout=dropout).attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)
        tunable.write({name: tensor + 0.1 for name, tensor in tunable.read().items()})  # B is zero at first
        tunable.train(dropout=False)
        torch.manual_seed(0)
        return tunable.model(**batch(load("tiny-bert", "text"))).logits

    assert torch.equal(trained(0.0), trained(0.0))
    assert not torch.allclose(trained(0.0), trained(0.5), atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", [Lora, Full])
def test_moved_to_a_gpu_the_parameters_are_the_same_objects(kind: type[Lora | Full]) -> None:
    tunable = kind().attach(load("tiny-bert", "text"), task_type="SEQ_CLS", seed=0)
    before = tunable.read()
    tunable.to(torch.device("cuda"))
    assert {parameter.device.type for parameter in tunable.parameters.values()} == {"cuda"}
    assert {id(parameter) for parameter in tunable.model.parameters() if parameter.requires_grad} == {
        id(parameter) for parameter in tunable.parameters.values()
    }
    after = tunable.read()
    assert all(torch.equal(before[name], after[name]) for name in before)
