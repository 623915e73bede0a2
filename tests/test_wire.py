"""Tensors as bytes: safetensors reads what fedfm writes and the reverse; what safetensors refuses, fedfm refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfm import params as p
from fedfm.spill import Spilled
from fedfm.untrusted import UntrustedError
from fedfm.wire import MOST_HEADER, MOST_NAME, TUNABLE, from_bytes, on_disk, stored_bytes, to_bytes

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
    held, metadata = from_bytes(Spilled([message[:100], message[100:]]))
    assert metadata == {"note": "x"}
    assert list(held) == sorted(there)
    assert p.digest(held) == p.digest(there)


def test_tensors_put_on_disk_come_back_exactly_and_do_not_stay_in_memory() -> None:
    there = tensors(7)
    held = on_disk(there)
    assert list(held) == sorted(there)
    assert p.digest(held) == p.digest(there)
    name = max(there, key=lambda name: there[name].numel())
    assert held[name].data_ptr() != there[name].data_ptr()
    first, second = held[name], held[name]
    assert first.data_ptr() != second.data_ptr()


def test_names_with_a_prefix_are_those_of_a_group() -> None:
    held = from_bytes(to_bytes({"a": torch.ones(1), "part/b": torch.ones(2), "part/a": torch.ones(3)}))[0]
    groups = {
        group: {name: len(tensor) for name, tensor in params.items()} for group, params in held.by_group().items()
    }
    assert groups == {TUNABLE: {"a": 1}, "part": {"a": 3, "b": 2}}


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
        ({"w": entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])}, "no tensor"),
        ({"w": entry(shape=[2**64])}, "beyond 64 bits"),
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
    with pytest.raises(UntrustedError, match=reason):
        from_bytes(message)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load(message)


@pytest.mark.parametrize(
    "header",
    [
        {"w": entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0])},  # torch cannot compute its strides
        {"w": entry(shape=[0, 2**61], data_offsets=[0, 0])},
        {"w": entry(shape=[1] * 9, data_offsets=[0, 4])},
        {"n" * (MOST_NAME + 1): entry()},
        {"w": entry(note="more")},
        {"__metadata__": None, "w": entry()},
        {f"{number}": entry(shape=[0], data_offsets=[0, 0]) for number in range(5)},
    ],
)
def test_t17_beyond_its_limits_is_refused_although_safetensors_takes_it(
    header: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfm.wire.MOST_TENSORS", 4)
    size = max(each["data_offsets"][1] for each in header.values() if each)
    message = forged(header, bytes(size))
    assert takes(message)
    with pytest.raises(UntrustedError):
        from_bytes(message)


def test_a_name_twice_is_refused() -> None:
    whole = json.dumps({"w": entry(shape=[1], data_offsets=[0, 4])})
    twice = f"{whole[:-1]}, {whole[1:]}".encode()
    with pytest.raises(UntrustedError, match="key `w` twice"):
        from_bytes(len(twice).to_bytes(8, "little") + twice + bytes(4))


ODD = [2**31, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, -1, 1.0, True, None, "1"]
SIZES = st.one_of(st.integers(0, 3), st.sampled_from(ODD))
NAMES = st.one_of(st.sampled_from(["w", "activity/w", "__metadata__", "\x1b[2J", "\ud800"]), st.text(max_size=5))


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header of tensors that follow each other, as it should be or nearly, and how many bytes are behind it."""
    found: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype = draw(st.sampled_from(["F32", "F64", "BF16", "BOOL", "U8", "F8_E4M3", "F4", "f32", 7]))
        shape = draw(st.lists(SIZES, max_size=4) | SIZES)
        size = draw(st.sampled_from([0, 1, 4, 8]))
        if isinstance(shape, list) and all(type(number) is int for number in shape):
            size = min(math.prod(shape) * {"F64": 8, "F32": 4, "BF16": 2}.get(str(dtype), 1), 2**70)
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    if found and draw(st.integers(0, 3)) == 0:
        found[draw(st.sampled_from(sorted(found)))] = draw(st.sampled_from([None, [], {}, {"dtype": "F32"}]))
    return found, end if 0 <= end < 400 else 8


def outcome(read: Callable[[bytes], Mapping[str, Tensor]], message: bytes) -> str | None:
    """The digest of what is read; None where that ends with the one error."""
    try:
        return p.digest(read(message))
    except UntrustedError:
        return None


def takes(message: bytes) -> bool:
    """Whether safetensors takes a message; it makes no tensors of it."""
    try:
        safetensors.deserialize(message)
    except safetensors.SafetensorError:
        return False
    return True


@settings(max_examples=500)
@given(headers(), st.integers(-1, 2), st.booleans())
def test_what_is_read_is_what_safetensors_reads(made: tuple[dict[str, Any], int], more: int, aligned: bool) -> None:
    header, size = made
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8) * aligned
    message = len(text).to_bytes(8, "little") + text + bytes(max(0, size + (more if abs(more) == 1 else 0)))
    ours = outcome(lambda message: from_bytes(message)[0], message)
    assert outcome(lambda message: from_bytes(Spilled([message]))[0], message) == ours
    if ours is not None:
        assert ours == p.digest(safetensors.torch.load(message))
    elif takes(message):  # torch cannot make such tensors, or not use them
        shapes = [each["shape"] for name, each in header.items() if name != "__metadata__"]
        assert any(0 in shape and max(shape) >= 2**61 for shape in shapes) or header.get("__metadata__", 0) is None


@settings(max_examples=300)
@given(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6))
def test_a_piece_put_in_place_of_another_is_refused_or_read_as_safetensors_reads_it(
    place: int, piece: bytes, gone: int
) -> None:
    whole = to_bytes(SMALL, {"note": "x"})
    place %= len(whole)
    message = whole[:place] + piece + whole[place + gone :]
    ours = outcome(lambda message: from_bytes(message)[0], message)
    if ours is not None:
        assert ours == p.digest(safetensors.torch.load(message))


def test_a_header_without_end_is_not_read() -> None:
    with pytest.raises(UntrustedError, match="too long"):
        from_bytes((MOST_HEADER + 1).to_bytes(8, "little") + bytes(MOST_HEADER + 1))


@given(st.integers(0, 400), st.integers(0, 255))
def test_what_safetensors_refuses_is_refused(place: int, value: int) -> None:
    whole = bytearray(to_bytes(SMALL, {"note": "x"}))
    whole[place % len(whole)] = value
    try:
        found = from_bytes(bytes(whole))[0]
    except UntrustedError:
        return
    assert p.digest(found) == p.digest(safetensors.torch.load(bytes(whole)))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(UntrustedError, match=r"."):
        from_bytes(noise)
