"""Matrices in few bits: against numbers worked out by hand, and sizes, in memory and in messages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.proxies.matrix_packing import (
    BLOCK,
    MatrixPacking,
    named,
    pack,
    packed_sizes,
    packings,
    round_in_place,
    unpack,
)
from fedfm.proxies.settings import Bits
from fedfm.wire import stored_bytes
from tests.models.cases import load
from tests.proxies.small_proxy import values

BITS = pytest.mark.parametrize("bits", [4, 8])


def test_four_bits_by_hand() -> None:
    # s = 3.5 / 7; 0.75 and 1.25 are halfway between two integers, and the even one is taken
    codes, scales = MatrixPacking(4).pack(torch.tensor([[3.5, -3.5, 0.75, 1.25, -0.3]]))
    assert scales.tolist() == [[0.5]]
    assert codes.tolist() == [15 | 1 << 4, 10 | 10 << 4, 7]  # 7, −7 | 2, 2 | −1, 8 added to each
    assert MatrixPacking(4).unpack(codes, scales, (1, 5)).tolist() == [[3.5, -3.5, 1.0, 1.0, -0.5]]


def test_eight_bits_by_hand() -> None:
    codes, scales = MatrixPacking(8, axis=1).pack(torch.tensor([[127.0, 0.0], [-63.6, 2.0]]))
    assert scales.tolist() == [[1.0], [0.0157470703125]]  # rows are columns; 2 / 127 in bfloat16
    assert codes.tolist() == [127, -64, 0, 127]
    rounded = MatrixPacking(8, axis=1).unpack(codes, scales, (2, 2))
    assert rounded.tolist() == [[127.0, 0.0], [-64.0, 127 * 0.0157470703125]]


def test_each_block_of_a_row_has_a_scale_and_none_reaches_into_the_next_row() -> None:
    tensor = torch.ones(2, BLOCK + 1)
    tensor[0, -1], tensor[1, 0] = 100, 7
    _, scales = MatrixPacking(4).pack(tensor)
    expected = torch.tensor([[1 / 7, 100 / 7], [1, 1 / 7]]).bfloat16()
    assert torch.equal(scales, expected)


@BITS
@pytest.mark.parametrize("size", [1e-40, 1e-30, 3e-5, 1.0, 1e30])
def test_rounded_values_are_packed_to_themselves(bits: int, size: float) -> None:
    torch.manual_seed(0)
    tensor = size * torch.randn(5, 3, 71)
    for packing in (MatrixPacking(bits), MatrixPacking(bits, axis=2)):
        codes, scales = packing.pack(tensor)
        rounded = packing.unpack(codes, scales, tensor.shape)
        again = packing.pack(rounded)
        assert torch.equal(again[0], codes)
        assert torch.equal(again[1], scales)
        assert torch.equal(packing.round(rounded), rounded)
        if size > 1e-35:
            step = tensor.abs().amax() / packing.most
            assert (rounded - tensor).abs().max() <= 0.51 * step
        else:
            assert not rounded.any()  # below bfloat16's normal numbers


@BITS
def test_a_neurons_slices_are_packed_alone_as_among_others(bits: int) -> None:
    torch.manual_seed(0)
    tensor, chosen = torch.randn(6, 70), torch.tensor([1, 4])
    for axis in (0, 1):
        packing = MatrixPacking(bits, axis)
        alone = packing.round(tensor.index_select(axis, chosen))
        assert torch.equal(alone, packing.round(tensor).index_select(axis, chosen))


@BITS
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (3, 5), (0, 7), (1, 197, 64)])
def test_sizes_are_known_without_values_and_are_bits_and_scales(bits: int, shape: tuple[int, ...]) -> None:
    params, packed = {"w": torch.zeros(shape), "b": torch.zeros(3)}, {"w": MatrixPacking(bits)}
    stored = pack(params, packed)
    assert stored_bytes(stored) == stored_bytes(packed_sizes(params, packed))
    codes, scales = stored["w.codes"], stored["w.scales"]
    assert codes.nbytes == -(-params["w"].numel() * bits // 8)
    assert scales.nbytes == 2 * shape[0] * -(-params["w"][:1].numel() // BLOCK)
    if params["w"].numel() > 100_000:
        assert stored_bytes(stored) < 1.03 * (bits / 8 + 2 / BLOCK) * params["w"].numel()


def test_what_is_packed_is_every_matrix_but_the_head() -> None:
    model, family = load("tiny-bert", "text").model, load("tiny-bert", "text").family

    def names(**bits: int) -> dict[str, MatrixPacking]:
        return named(model.named_parameters(), packings(model, family, Bits.model_validate(bits)))

    attention, ffn, embeddings = names(attention=4), names(ffn=8), names(embeddings=8)
    assert "bert.encoder.layer.1.attention.self.query.weight" in attention
    assert ffn["bert.encoder.layer.0.output.dense.weight"] == MatrixPacking(8, axis=1)
    assert "bert.embeddings.position_embeddings.weight" in embeddings
    everything = names(attention=4, ffn=8, embeddings=8)
    assert everything == {**attention, **ffn, **embeddings}
    matrices = {name for name, weight in model.named_parameters() if weight.dim() > 1}
    assert matrices - everything.keys() == {"bert.pooler.dense.weight", "classifier.weight"}
    assert names() == {}


def test_an_output_that_is_the_embedding_stays_it() -> None:
    backbone = load("tiny-gpt2", "causal")
    packed = packings(backbone.model, backbone.family, Bits(embeddings=4))
    before = values(backbone.model)
    round_in_place(packed)
    after = values(backbone.model)
    assert torch.equal(after["lm_head.weight"], after["transformer.wte.weight"])
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert torch.equal(after["transformer.h.0.attn.c_attn.weight"], before["transformer.h.0.attn.c_attn.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w.scales": None}, "w.scales is missing"),
        ({"w.scales": torch.tensor([[torch.nan]], dtype=torch.bfloat16)}, "w: a scale is negative or not finite"),
        ({"w.scales": torch.tensor([[-1.0]], dtype=torch.bfloat16)}, "w: a scale is negative or not finite"),
        ({"w.scales": torch.tensor([[1.0]])}, r"its scales are torch.float32 of shape \[1, 1\], not torch.bfloat16"),
        ({"w.codes": torch.zeros(4, dtype=torch.uint8)}, r"of shape \[4\], not torch.uint8 of shape \[2\]"),
        ({"w.codes": torch.zeros(2, dtype=torch.uint8)}, "an integer is below −7"),
    ],
)
def test_what_pack_does_not_write_is_refused(change: dict[str, Tensor | None], said: str) -> None:
    packed = {"w": MatrixPacking(4)}
    stored = {**pack({"w": torch.ones(1, 4)}, packed), **change}
    with pytest.raises(ValueError, match=said):
        unpack({name: part for name, part in stored.items() if part is not None}, packed, {"w": (1, 4)})


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="w has values that are not finite") as caught:
        pack({"w": torch.tensor([[torch.inf]])}, {"w": MatrixPacking(8)})
    assert caught.value.problems[0].where == "proxy.bits"
