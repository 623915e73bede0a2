"""Versions of frozen weights: the same bits on every path, thin as long as that is smaller."""

from __future__ import annotations

import pytest
import torch

from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.params import Params, digest
from fedfm.proxies.base import ModelVersion
from fedfm.proxies.whole_model import WholeModel
from tests.models.cases import load


def whole_model(name: str = "tiny-bert") -> WholeModel:
    def attach(backbone: object) -> Tunable:
        return Lora(r=2, lora_alpha=6).attach(backbone, task_type="SEQ_CLS", seed=0)  # type: ignore[arg-type]

    return WholeModel(load(name, "text"), attach)


def residual(model: WholeModel, seed: int, rank: int = 1) -> Params:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in model.tunable.read().items():
        if "lora_A" in name:
            found[name] = torch.randn(rank, value.shape[1], generator=generator)
        elif "lora_B" in name:
            found[name] = torch.randn(value.shape[0], rank, generator=generator)
    return found


def weights(model: WholeModel) -> Params:
    return {
        name: value.detach().clone()
        for name, value in model.tunable.model.named_parameters()
        if "base_layer.weight" in name
    }


def played(rounds: int, rank: int = 1) -> tuple[WholeModel, list[ModelVersion], list[Params]]:
    model = whole_model()
    versions, after = [ModelVersion()], [weights(model)]
    for number in range(rounds):
        versions.append(model.absorb(versions[-1], residual(model, number, rank)))
        after.append(weights(model))
    return model, versions, after


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_a_residual_is_added_with_the_scale_of_its_layer(name: str) -> None:
    model = whole_model(name)
    before, added = weights(model), residual(model, 0)
    model.absorb(ModelVersion(), added)
    for name_, value in weights(model).items():
        module = name_.removesuffix(".base_layer.weight")
        change = 3 * added[f"{module}.lora_B.weight"] @ added[f"{module}.lora_A.weight"]  # α/r = 6/2
        expected = before[name_] + (change.T if name == "tiny-gpt2" else change)
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("stops", [[7], [1, 7], [3, 4, 7], [2, 5, 6, 7], [7, 4, 7], [5, 0, 7]])
def test_the_bits_do_not_depend_on_the_path(stops: list[int], rank: int) -> None:
    """With rank 3 the logs are replaced by the matrices on the way."""
    _, versions, after = played(7, rank)
    other = whole_model()
    for stop in stops:
        other.load(versions[stop])
        assert other.client.number == stop
        assert digest(weights(other)) == digest(after[stop])


def test_a_client_gets_what_it_missed_and_the_matrix_where_that_is_smaller() -> None:
    model, versions, _ = played(7)
    assert model.changes(versions[7], 7) == {}
    one, all_ = model.changes(versions[7], 6), model.changes(versions[7], 0)
    assert all(name.endswith((".000007.up", ".000007.down")) for name in one)
    assert len(one) == 2 * 8
    assert len(all_) == 7 * 2 * 8
    model, versions, after = played(9)  # 9 ranks of a 16 × 16 matrix are more than the matrix
    sent = model.changes(versions[9], 0)
    assert sum(value.numel() for value in sent.values()) <= sum(value.numel() for value in after[9].values())
    assert len(model.changes(versions[8], 7)) == 2 * 8


def test_the_pretrained_weights_come_back_for_a_block() -> None:
    model, versions, after = played(2)
    with model.pretrained(versions[2]):
        assert digest(weights(model)) == digest(after[0])
    assert digest(weights(model)) == digest(after[2])


def test_a_factor_without_a_layer_is_an_error() -> None:
    model = whole_model()
    with pytest.raises(ValueError, match="no LoRA layer"):
        model.absorb(ModelVersion(), {"x.lora_A.weight": torch.zeros(1, 2), "x.lora_B.weight": torch.zeros(2, 1)})
    assert model.client.number == 0
