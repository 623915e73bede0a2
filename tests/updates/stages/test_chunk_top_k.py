"""Chunked top-k: what is sent of each chunk, its size on the wire, and what comes back with the next update."""

import pytest
import torch

from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.spec import spec_of
from fedfm.updates.stages.chunk_top_k import ChunkTopK
from fedfm.wire import to_bytes

STAGE = ChunkTopK(share=0.5, chunk=8, decay=0.5)
FIRST = {"w": torch.tensor([8.0, -2.0, 0.5, 0.0, -6.0, 4.0, 0.25, 1.0, 0.125, -0.5])}


def sent(stage: ChunkTopK, update: Params, own: Params) -> tuple[Params, Params]:
    encoded, kept = stage.encode(update, own, numpy_generator(0, "test"))
    return stage.decode(encoded, spec_of(update)), kept


def test_two_rounds_by_hand() -> None:
    arrived, kept = sent(STAGE, FIRST, STAGE.start(spec_of(FIRST)))
    # |8|, |2|, |6|, |4| have the mean 5: 8 and 6 are large, with the mean 7; 2 and 4 are small, with the mean 3.
    # the second chunk has two values and four places: 0.125 and 0 are small, with the mean 0.125 / 3
    small = torch.tensor(0.125 / 3).bfloat16().item()
    assert arrived["w"].tolist() == [7, -3, 0, 0, -7, 3, 0, 0, small, -0.5]
    torch.testing.assert_close(kept["w"], FIRST["w"] - arrived["w"])
    again, left = sent(STAGE, {"w": torch.zeros(10)}, kept)
    torch.testing.assert_close(left["w"], STAGE.decay * kept["w"] - again["w"])
    assert again["w"].count_nonzero() > 0


def test_few_bytes_cross() -> None:
    update = {"w": torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))}
    stage = ChunkTopK()
    encoded, _ = stage.encode(update, stage.start(spec_of(update)), numpy_generator(0, "test"))
    assert len(to_bytes(update)) / len(to_bytes(encoded)) > 80


def test_positions_must_ascend_within_a_chunk() -> None:
    encoded, _ = STAGE.encode(FIRST, STAGE.start(spec_of(FIRST)), numpy_generator(0, "test"))
    name = next(name for name in encoded if name.endswith("positions"))
    for bad in (encoded[name].flip(0), encoded[name] - 1, encoded[name] + 8):
        with pytest.raises(ValueError, match="not in ascending order"):
            STAGE.decode({**encoded, name: bad}, spec_of(FIRST))
