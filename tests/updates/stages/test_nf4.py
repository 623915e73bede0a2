"""NF4 against the published levels, a search over all levels, and 4-bit integers on normal values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import spec_of
from fedfm.updates.stages import NormalFloat, Quantize, Stage
from fedfm.updates.stages.nf4 import LEVELS

ANY = numpy_generator(0, "test")
PUBLISHED = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
"""Appendix E of arXiv:2305.14314."""


def through(stage: Stage, params: Params) -> Params:
    sent, _ = stage.encode(params, {}, numpy_generator(0, "test"))
    return stage.decode(sent, spec_of(params))


def test_levels_are_the_published_ones() -> None:
    np.testing.assert_allclose(LEVELS.numpy(), PUBLISHED, rtol=0, atol=1e-6)


def test_each_value_becomes_the_nearest_level_of_its_block() -> None:
    values = np.random.default_rng(0).standard_t(3, size=203).astype(np.float32)
    scales = [np.abs(values[start : start + 64]).max() for start in range(0, 203, 64)]
    found = through(NormalFloat(), {"w": torch.from_numpy(values)})["w"].numpy()
    for place, value in enumerate(values):
        choices = np.array(PUBLISHED) * scales[place // 64]
        # scales are rounded to 8 bits, so that the nearest level is sought with that tolerance
        assert abs(found[place] - value) <= np.abs(choices - value).min() + 0.01 * scales[place // 64]


def test_two_levels_in_a_byte_by_hand() -> None:
    params = {"w": torch.tensor([2.0, -2.0, 0.0])}
    sent, _ = NormalFloat(block=8, error_feedback=False).encode(params, {}, ANY)
    levels, scales = sent.values()
    assert levels.tolist() == [15 + 16 * 0, 7]
    assert scales.tolist() == [2.0]
    assert torch.equal(through(NormalFloat(block=8), params)["w"], params["w"])


def test_normal_values_lose_less_than_with_integers_of_four_bits() -> None:
    torch.manual_seed(0)
    params = {"w": torch.randn(64, 64)}
    errors = [
        float((through(stage, params)["w"] - params["w"]).norm())
        for stage in (NormalFloat(), Quantize(bits=4, block=64))
    ]
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize("scale", [torch.nan, torch.inf, -1.0])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    params = {"w": torch.randn(20)}
    sent, _ = NormalFloat(block=8).encode(params, {}, ANY)
    sent[next(name for name in sent if name.endswith("scales"))][1] = scale
    with pytest.raises(ValueError, match="negative or not finite"):
        NormalFloat(block=8).decode(sent, spec_of(params))
