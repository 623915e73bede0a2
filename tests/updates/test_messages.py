"""Messages: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.params import digest
from fedfm.printable import line
from fedfm.spill import Spilled
from fedfm.updates import (
    Instruction,
    MessageError,
    Update,
    decode_instruction,
    decode_update,
    encode_instruction,
    encode_update,
)
from fedfm.updates.messages import MOST_TEXT
from fedfm.wire import to_bytes

Read = TypeVar("Read")
PARAMS = {"b.weight": torch.randn(3, 2), "a.weight": torch.randn(4)}


def update(**changes: object) -> Update:
    fields: dict = {
        "round": 3,
        "client": "asyncio",
        "base": "abc",
        "examples": 12,
        "steps": 2,
        "samples": 24,
        "loss": 0.25,
        "predictions": 48,
        "params": PARAMS,
    }
    return Update(**{**fields, **changes})


def test_instruction_round_trip() -> None:
    sent = Instruction(round=2, base=digest(PARAMS), learning_rate=5e-4, params=PARAMS)
    got = decode_instruction(encode_instruction(sent))
    assert (got.round, got.base, got.learning_rate) == (2, sent.base, 5e-4)
    assert digest(got.params) == sent.base


def test_an_update_may_lie_on_disk() -> None:
    sent = encode_update(update(activity={"layer.0": torch.tensor([1, 2])}))
    got, expected = decode_update(Spilled([sent])), decode_update(sent)
    assert {**vars(got), "params": None, "activity": None} == {**vars(expected), "params": None, "activity": None}
    assert digest(got.tensors) == digest(expected.tensors)
    assert got.params["a.weight"] is not got.params["a.weight"]  # it is read anew


def test_what_changed_of_a_proxy_travels_beside_the_tunable() -> None:
    changes = {"encoder.layer.1.neurons": torch.tensor([0, 2], dtype=torch.int32), "a.weight": torch.randn(2, 4)}
    sent = Instruction(2, "abc", 0.1, PARAMS, proxy_version=3, proxy_since=1, proxy=changes, count_activity=True)
    got = decode_instruction(encode_instruction(sent))
    assert (got.proxy_version, got.proxy_since, got.count_activity) == (3, 1, True)
    assert digest(got.params) == digest(PARAMS)  # although both have an `a.weight`
    assert digest(got.proxy) == digest(changes)
    assert sent.tensors.keys() == {*PARAMS, "proxy/encoder.layer.1.neurons", "proxy/a.weight"}


def test_counts_of_neurons_travel_beside_the_update() -> None:
    counts = {"encoder.layer.1.zeros": torch.tensor([5, 0])}
    got = decode_update(encode_update(update(proxy_version=2, activity=counts)))
    assert got.proxy_version == 2
    assert digest(got.params) == digest(PARAMS)
    assert digest(got.activity) == digest(counts)


@pytest.mark.parametrize("client", ["7", "Ärzte/1", '"quoted"\n', "<script>"])
def test_update_round_trip(client: str) -> None:
    got = decode_update(encode_update(update(client=client)))
    assert (got.client, got.examples, got.steps, got.samples, got.loss) == (client, 12, 2, 24, 0.25)
    assert got.predictions == 48
    assert digest(got.params) == digest(PARAMS)


def test_a_loss_that_is_not_a_number_travels() -> None:
    assert math.isnan(decode_update(encode_update(update(loss=math.nan))).loss)
    assert math.isnan(decode_update(encode_update(update(loss=math.inf))).loss)


def test_the_same_message_has_the_same_bytes() -> None:
    shuffled = dict(reversed(PARAMS.items()))
    assert encode_update(update()) == encode_update(update(params=shuffled))


def test_message_is_little_more_than_its_tensors() -> None:
    payload = sum(tensor.numel() * 4 for tensor in PARAMS.values())
    assert payload < len(encode_update(update())) < payload + 600


def forged(**fields: object) -> bytes:
    return to_bytes(PARAMS, {"fedfm": json.dumps(fields)})


SOUND = {
    "round": 1,
    "client": "1",
    "base": "x",
    "examples": 1,
    "steps": 1,
    "samples": 1,
    "loss": 0.5,
    "predictions": 1,
    "proxy_version": 0,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round", "1"),
        ("round", True),
        ("examples", 1.5),
        ("examples", None),
        ("client", 7),
        ("base", None),
        ("loss", "0.5"),
        ("steps", [1]),
    ],
)
def test_fields_of_another_type_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(MessageError, match=f"`{field}`"):
        decode_update(forged(**{**SOUND, field: value}))


@pytest.mark.parametrize("field", SOUND)
def test_missing_fields_are_refused_by_name(field: str) -> None:
    with pytest.raises(MessageError, match=f"`{field}`"):
        decode_update(forged(**{key: value for key, value in SOUND.items() if key != field}))


def test_a_plain_safetensors_file_is_no_message() -> None:
    with pytest.raises(MessageError, match="not a fedfm message"):
        decode_update(to_bytes(PARAMS))


def test_a_number_beyond_all_floats_is_refused_by_name() -> None:
    with pytest.raises(MessageError, match="beyond 64 bits"):
        decode_update(forged(**{**SOUND, "loss": 10**400}))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"examples": 10**4_000}, "beyond 64 bits"),
        ({"client": "x" * (MOST_TEXT + 1)}, "`client` must be a text of at most 4096 characters"),
        ({"client": "\ud800"}, "not JSON"),
        ({"\x1b[2J\n": 1}, r"1 fields are not known, first `\\x1b\[2J\\n`"),
        ({"base": ["\x1b[2J" * 999]}, r"`base` must be a text .*, not `\['\\x1b\[2J"),
    ],
)
def test_what_a_field_may_not_be(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason) as refused:
        decode_update(forged(**{**SOUND, **fields}))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("rate", [math.nan, -0.1, "0.1", None])
def test_an_instruction_has_a_learning_rate(rate: Any) -> None:
    sent = encode_instruction(Instruction(round=1, base="x", learning_rate=rate, params=PARAMS))
    with pytest.raises(MessageError, match="`learning_rate`"):
        decode_instruction(sent)


def test_metadata_beside_the_fields_are_refused() -> None:
    with pytest.raises(MessageError, match="metadata"):
        decode_update(to_bytes(PARAMS, {"fedfm": json.dumps(SOUND), "more": "x"}))


def test_strides_that_overflow_are_refused_in_every_group() -> None:
    whole = {"fedfm": json.dumps(SOUND)}
    for name in ("a.weight", "activity/a.weight", "proxy/a.weight"):
        entry = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
        header = json.dumps({"__metadata__": whole, name: entry}).encode()
        with pytest.raises(MessageError, match="is no tensor"):
            decode_update(struct.pack("<Q", len(header)) + header)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**31, 2**63, 10**400, -1, "\ud800", "\x1b[31m", "9" * 5_000]),
        st.floats(),
        st.text(max_size=8),
    ),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=4,
)
SENT = Instruction(4, "b" * 64, 0.1, PARAMS, proxy_version=2, proxy={"h.neurons": torch.tensor([1])})


def read(decode: Callable[[bytes], Read], message: bytes) -> Read | str:
    """What is read, or why it is refused."""
    try:
        return decode(message)
    except MessageError as error:
        return str(error)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*SOUND, "more"]), ANYTHING, max_size=3), st.sampled_from(["", "activity/"]))
def test_whatever_fields_an_update_has_it_is_read_or_refused(changes: dict[str, Any], prefix: str) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in PARAMS.items()}
    found = read(decode_update, to_bytes(tensors, {"fedfm": json.dumps(SOUND | changes)}))
    if isinstance(found, str):
        assert found == line(found, most=300)
        return
    assert encode_update(found)
    assert max(map(abs, (found.round, found.examples, found.steps, found.samples, found.proxy_version))) < 2**63


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["round", "learning_rate", "proxy_since", "count_activity"]), ANYTHING))
def test_whatever_fields_an_instruction_has_it_is_read_or_refused(changes: dict[str, Any]) -> None:
    fields = {"round": 1, "base": "x", "learning_rate": 0.1, "proxy_version": 0, "proxy_since": 0}
    message = to_bytes(SENT.tensors, {"fedfm": json.dumps(fields | {"count_activity": False} | changes)})
    found = read(decode_instruction, message)
    if isinstance(found, str):
        assert found == line(found, most=300)
        return
    assert 0 <= found.learning_rate < math.inf
    assert digest(found.tensors) == digest(SENT.tensors)


@settings(max_examples=200)
@given(st.integers(0, 900), st.binary(max_size=8), st.integers(0, 8), st.booleans())
def test_a_message_with_a_piece_changed_is_read_or_refused(place: int, piece: bytes, gone: int, up: bool) -> None:
    whole = encode_update(update(activity={"h.zeros": torch.tensor([1])})) if up else encode_instruction(SENT)
    place %= len(whole)
    read(decode_update if up else decode_instruction, whole[:place] + piece + whole[place + gone :])


def test_fields_nested_without_end_are_refused() -> None:
    deep = 100_000
    with pytest.raises(MessageError, match="not a fedfm message"):
        decode_update(to_bytes(PARAMS, {"fedfm": "[" * deep + "]" * deep}))


def test_fields_must_be_an_object() -> None:
    with pytest.raises(MessageError, match="no JSON object"):
        decode_update(to_bytes(PARAMS, {"fedfm": "[1]"}))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(MessageError):
        decode_update(noise)


@given(st.integers(0, 400))
def test_truncated_messages_are_refused(length: int) -> None:
    whole = encode_update(update())
    with pytest.raises(MessageError):
        decode_update(whole[: min(length, len(whole) - 1)])


def test_a_header_that_claims_to_be_huge_is_refused() -> None:
    with pytest.raises(MessageError):
        decode_update(struct.pack("<Q", 2**62) + b"{}")
