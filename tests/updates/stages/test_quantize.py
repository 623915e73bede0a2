"""Block quantisation: bytes, error, and a mean without bias."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import TensorSpec, count, empty, spec_of
from fedfm.updates import Asked, MessageKey, Payload, UpdatePath
from fedfm.updates.stages import Quantize, TopK
from fedfm.wire import stored_bytes

LORA = {
    f"base_model.model.bert.encoder.layer.{layer}.attention.self.{name}.lora_{factor}.weight": TensorSpec(shape)
    for layer in range(12)
    for name in ("query", "value")
    for factor, shape in (("A", (8, 260)), ("B", (261, 8)))
}
"""48 tensors, 100,032 values."""


def through(stage: Quantize, params: Params, seed: int = 0) -> Params:
    sent, _ = stage.encode(params, {}, numpy_generator(seed, "test"))
    return stage.decode(sent, spec_of(params))


def test_bytes_on_the_wire_are_within_three_percent_of_the_values() -> None:
    values = count(LORA)
    assert (len(LORA), values) == (48, 100_032)
    sent = UpdatePath((Quantize(),)).spec({"tunable": LORA})["tunable"]
    assert values < stored_bytes(empty(sent)) < 1.03 * values
    params = {name: torch.randn(tensor.shape) for name, tensor in LORA.items()}
    groups, _ = UpdatePath((Quantize(),)).encode({"tunable": params}, {}, MessageKey(0, 1))
    message = Payload(1, "b" * 64, Asked(learning_rate=5e-4), groups).encode()
    assert values < len(message) < 1.03 * values


def test_int8_both_ways_is_at_most_27_percent_of_float32_for_lora_and_a_head() -> None:
    head = {"dense.weight": (768, 768), "dense.bias": (768,), "out_proj.weight": (2, 768), "out_proj.bias": (2,)}
    spec = {
        f"base_model.model.roberta.encoder.layer.{layer}.attention.self.{name}.lora_{factor}.weight": TensorSpec(shape)
        for layer in range(12)
        for name in ("query", "value")
        for factor, shape in (("A", (8, 768)), ("B", (768, 8)))
    } | {f"base_model.model.classifier.{name}": TensorSpec(shape) for name, shape in head.items()}

    def size(path: UpdatePath) -> int:
        """Bytes of one message, as `Payload.encode` makes them; both directions have the same tensors."""
        sent = path.spec({"tunable": spec})
        return Payload(1, "b" * 64, Asked(), {group: empty(tensors) for group, tensors in sent.items()}).size_bytes

    stage = Quantize(direction="both")
    up, down = (UpdatePath.of([stage], direction) for direction in ("up", "down"))
    assert size(up) + size(down) <= 0.27 * 2 * size(UpdatePath())
    half = UpdatePath.of([Quantize(bits=4)], "up")
    assert size(half) <= 0.13 * size(UpdatePath())


def test_by_hand() -> None:
    # Blocks of 8: max|x| = 254 → s = 2; the second block is padded and zero.
    params = {"w": torch.tensor([254.0, -254.0, 2.0, 0.0, -6.0, 100.0, 8.0, -2.0, 0.0])}
    sent, _ = Quantize(block=8).encode(params, {}, numpy_generator(0, "test"))
    integers, scales = sent.values()
    assert integers.tolist() == [127, -127, 1, 0, -3, 50, 4, -1, 0]
    assert scales.tolist() == [2.0, 0.0]
    assert torch.equal(through(Quantize(block=8), params)["w"], params["w"])


def test_four_bits_by_hand() -> None:
    # Blocks of 8: max|x| = 14 → s = 2; two integers q in a byte, as q + 8, the first in the low bits.
    params = {"w": torch.tensor([14.0, -14.0, 2.0, 0.0, -6.0, 10.0, 8.0, -2.0, 0.0])}
    sent, _ = Quantize(block=8, bits=4).encode(params, {}, numpy_generator(0, "test"))
    integers, scales = sent.values()
    expected = [15 + 16 * 1, 9 + 16 * 8, 5 + 16 * 13, 12 + 16 * 7, 8]
    assert integers.tolist() == expected
    assert scales.tolist() == [2.0, 0.0]
    assert torch.equal(through(Quantize(block=8, bits=4), params)["w"], params["w"])


def test_scales_are_rounded_up_so_that_no_value_is_cut() -> None:
    torch.manual_seed(0)
    params = {"w": torch.randn(4096) * torch.logspace(-30, 30, 4096)}
    sent, _ = Quantize(block=8).encode(params, {}, numpy_generator(0, "test"))
    scales = sent[next(name for name in sent if name.endswith("scales"))].float()
    largest = params["w"].view(-1, 8).abs().amax(1)
    assert (scales * 127 >= largest * (1 - 1e-6)).all()
    assert (scales * 127 <= largest * (1 + 2**-7)).all()


def test_the_error_is_at_most_one_step() -> None:
    torch.manual_seed(0)
    params = {"w": torch.randn(64, 128), "v": torch.randn(130)}
    found = through(Quantize(), params)
    assert (found["w"] - params["w"]).abs().max() <= 1.01 * params["w"].abs().max() / 127
    error = sum((found[name] - tensor).norm() ** 2 for name, tensor in params.items())
    assert error / sum(tensor.norm() ** 2 for tensor in params.values()) < 0.01**2


@pytest.mark.parametrize("bits", [8, 4])
def test_the_mean_over_many_draws_is_the_value(bits: Literal[8, 4]) -> None:
    value = torch.tensor([1.0, 0.123456, -0.3333, 0.0071, -0.9, 0.5, 1e-4, 0.0])
    copies = 4000
    found = through(Quantize(block=8, bits=bits), {"w": value.repeat(copies)})["w"].view(copies, 8).double()
    step = 1.01 / (127 if bits == 8 else 7)
    within = 4 * step / 2 / np.sqrt(copies)  # four standard errors of a coin's largest deviation
    assert ((found.mean(0) - value.double()).abs() < within).all()
    assert len(found[:, 1].unique()) == 2


@pytest.mark.parametrize("scale", [torch.nan, torch.inf, -1.0])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    params = {"w": torch.randn(20)}
    sent, _ = Quantize(block=8).encode(params, {}, numpy_generator(0, "test"))
    name = next(name for name in sent if name.endswith("scales"))
    sent[name][1] = scale
    with pytest.raises(ValueError, match="negative or not finite"):
        Quantize(block=8).decode(sent, spec_of(params))


def test_after_top_k_values_are_quantised_and_positions_are_exact() -> None:
    torch.manual_seed(0)
    params = {"w": torch.randn(50, 40)}
    path = UpdatePath((TopK(share=0.1), Quantize()))
    specs = {"tunable": spec_of(params)}
    groups, kept = path.encode({"tunable": params}, path.start(specs), MessageKey(0, 1, "a"))
    assert {tensor.dtype for tensor in groups["tunable"].values()} == {torch.int8, torch.bfloat16, torch.int32}
    found = path.decode(groups, specs, MessageKey(0, 1, "a"))["tunable"]["w"]
    chosen = params["w"].abs() >= params["w"].abs().flatten().topk(200).values[-1]
    assert not found[~chosen].any()
    torch.testing.assert_close(found[chosen], params["w"][chosen], rtol=0, atol=0.05)
    assert not kept["stage-0/tunable"]["w"][chosen].any()


def test_values_below_the_smallest_scale_become_zero() -> None:
    found = through(Quantize(block=8), {"w": torch.full((8,), 1e-45)})
    assert found["w"].isfinite().all()
    assert (found["w"] <= 127 * 2**-133).all()
