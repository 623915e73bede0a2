"""Tensors as bytes: what we write safetensors reads, and the other way round; what it refuses we refuse."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedfm import params as p
from fedfm.spool import Spooled
from fedfm.wire import MOST_HEADER, from_bytes, stored_bytes, to_bytes

WIDE = (torch.uint64, torch.int64, torch.float64, torch.complex64, torch.float32, torch.uint32, torch.int32)
HALF = (torch.bfloat16, torch.float16, torch.uint16, torch.int16)
NARROW = (torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.bool)
SMALL = {"b": torch.arange(3.0), "a": torch.eye(2), "n": torch.tensor([1, 2], dtype=torch.int32)}


def tensors(width: int) -> dict[str, Tensor]:
    """Of every dtype, with names and shapes of all sorts."""
    kinds = [*WIDE, *HALF, *NARROW]
    found = {f"größe-{number}": torch.ones(width).to(kind) for number, kind in enumerate(kinds)}
    return found | {'a "name"': torch.tensor(1.5), "matrix": torch.randn(width, 2).T, "z" * width: torch.empty(0, 3)}


@pytest.mark.parametrize("width", [0, 1, 3, 12, 333, 12_345])
def test_it_is_what_safetensors_writes(width: int) -> None:
    given_, whole = {"note": '{"x": "é"}'}, {name: each.contiguous() for name, each in tensors(width).items()}
    assert to_bytes(whole, given_) == safetensors.torch.save(whole, given_)
    assert to_bytes(tensors(width)).count(b"__metadata__") == 0
    assert to_bytes({}) == safetensors.torch.save({})


@pytest.mark.parametrize("width", [0, 1, 12, 12_345])
def test_its_length_is_known_before(width: int) -> None:
    there = tensors(width)
    assert stored_bytes(there) == len(to_bytes(there))
    assert stored_bytes({name: tensor.to("meta") for name, tensor in there.items()}) == stored_bytes(there)
    assert stored_bytes(there, {"k": "value"}) == len(to_bytes(there, {"k": "value"}))
    assert stored_bytes({}) == len(to_bytes({}))


def test_what_safetensors_writes_is_read() -> None:
    there = {name: tensor.contiguous() for name, tensor in tensors(5).items()}
    back, metadata = from_bytes(safetensors.torch.save(there, {"note": "x"}))
    assert p.digest(back) == p.digest(there)
    assert list(back) == sorted(there)
    assert metadata == {"note": "x"}


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_it_comes_back_exactly(values: list[float]) -> None:
    params = {"w": torch.tensor(values), "half": torch.tensor(values).to(torch.bfloat16)}
    assert p.digest(from_bytes(to_bytes(params))[0]) == p.digest(params)


def test_nothing_is_copied() -> None:
    message = to_bytes(SMALL)
    whole = torch.frombuffer(message, dtype=torch.uint8)
    for tensor in from_bytes(message)[0].values():
        assert 0 <= tensor.data_ptr() - whole.data_ptr() <= len(message) - tensor.nbytes


def test_on_disk_it_is_read_as_it_is_asked_for() -> None:
    there = tensors(333)
    message = to_bytes(there, {"note": "x"})
    held, metadata = from_bytes(Spooled([message[:100], message[100:]]))
    assert metadata == {"note": "x"}
    assert list(held) == sorted(there)
    assert p.digest(held) == p.digest(there)


def test_names_with_a_prefix_are_parted() -> None:
    held = from_bytes(to_bytes({"a": torch.ones(1), "part/b": torch.ones(2), "part/a": torch.ones(3)}))[0]
    others, parted = held.parted("part/")
    assert (list(others), {name: len(tensor) for name, tensor in parted.items()}) == (["a"], {"a": 3, "b": 2})
    assert len(parted) == 2


def forged(header: object, values: bytes = b"\0" * 8) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(**changed: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"w": entry(shape=[4], data_offsets=[0, 16])}, "or behind it"),
        ([], "no JSON object"),
        ({"w": []}, "no tensor"),
        ({"w": entry(dtype="F9")}, "no tensor"),
        ({"w": entry(dtype=["F32"])}, "no tensor"),
        ({"w": entry(shape=2)}, "no tensor"),
        ({"w": entry(shape=[2.0])}, "no tensor"),
        ({"w": entry(shape=[True, 2])}, "no tensor"),
        ({"w": entry(shape=[-1, -2])}, "no tensor"),
        ({"w": entry(shape=[2**64])}, "no tensor"),
        ({"w": entry(data_offsets=[0, 8, 8])}, "no tensor"),
        ({"w": entry(data_offsets=[4, 8], shape=[1])}, "where they belong"),
        ({"w": entry(data_offsets=[0, 4])}, "where they belong"),
        ({"w": entry(data_offsets=[8, 0])}, "where they belong"),
        ({"w": entry(shape=[2**40], data_offsets=[0, 2**42])}, "or behind it"),
        ({"w": entry(), "twice": entry()}, "where they belong"),
        ({"w": entry(shape=[1], data_offsets=[0, 4])}, "or behind it"),
        ({"__metadata__": {"a": 1}, "w": entry()}, "not texts"),
        ({"__metadata__": "a", "w": entry()}, "not texts"),
    ],
)
def test_what_is_wrong_is_said(header: object, reason: str) -> None:
    message = forged(header)
    with pytest.raises(ValueError, match=reason):
        from_bytes(message)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load(message)


def test_a_header_without_end_is_not_read() -> None:
    with pytest.raises(ValueError, match="too long"):
        from_bytes((MOST_HEADER + 1).to_bytes(8, "little") + bytes(MOST_HEADER + 1))


@given(st.integers(0, 400), st.integers(0, 255))
def test_what_safetensors_refuses_is_refused(place: int, value: int) -> None:
    whole = bytearray(to_bytes(SMALL, {"note": "x"}))
    whole[place % len(whole)] = value
    try:
        found = from_bytes(bytes(whole))[0]
    except ValueError:
        return
    assert p.digest(found) == p.digest(safetensors.torch.load(bytes(whole)))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_bytes(noise)
