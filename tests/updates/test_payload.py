"""Payloads: decoding gives what was encoded, and refuses everything else."""

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
from pydantic import ValidationError

from fedfm.params import digest
from fedfm.printable import line
from fedfm.spill import Spilled
from fedfm.untrusted import MOST_INTEGER
from fedfm.updates import (
    Asked,
    Done,
    Instruction,
    MessageError,
    Payload,
    Update,
    decode_instruction,
    decode_update,
)
from fedfm.updates.payload import ACTIVITY, MOST_EXTRA, MOST_TEXT, PROXY
from fedfm.wire import TUNABLE, to_bytes

Read = TypeVar("Read")
PARAMS = {"b.weight": torch.randn(3, 2), "a.weight": torch.randn(4)}
COUNTS = {"layer.0": torch.tensor([1, 2])}


def update(groups: dict[str, Any] | None = None, **changes: object) -> Update:
    facts: dict[str, Any] = {
        "client": "asyncio",
        "examples": 12,
        "steps": 2,
        "samples": 24,
        "loss": 0.25,
        "predictions": 48,
    }
    return Payload(3, "abc", Done(**{**facts, **changes}), {TUNABLE: PARAMS} if groups is None else groups)


def instruction(groups: dict[str, Any] | None = None, **facts: Any) -> Instruction:
    return Payload(2, digest(PARAMS), Asked(**{"learning_rate": 5e-4, **facts}), groups or {TUNABLE: PARAMS})


def test_instruction_round_trip() -> None:
    sent = instruction(continue_from=4, forget_before=3, extra={"temperature": 2.5})
    got = decode_instruction(sent.encode())
    assert (got.round, got.base, got.work, got.facts) == (2, sent.base, "train", sent.facts)
    assert digest(got.groups[TUNABLE]) == sent.base


@pytest.mark.parametrize("client", ["7", "Ärzte/1", '"quoted"\n', "<script>"])
def test_update_round_trip(client: str) -> None:
    sent = update(client=client, extra={"accuracy": 0.5})
    got = decode_update(sent.encode())
    assert (got.round, got.base, got.facts) == (3, "abc", sent.facts)
    assert digest(got.groups[TUNABLE]) == digest(PARAMS)


def test_an_update_may_lie_on_disk() -> None:
    sent = update({TUNABLE: PARAMS, ACTIVITY: COUNTS}).encode()
    got, expected = decode_update(Spilled([sent])), decode_update(sent)
    assert (got.round, got.base, got.facts) == (expected.round, expected.base, expected.facts)
    assert digest(got.tensors) == digest(expected.tensors)
    assert got.groups[TUNABLE]["a.weight"] is not got.groups[TUNABLE]["a.weight"]  # each time it is read from disk


def test_groups_travel_beside_the_tunable() -> None:
    changes = {"encoder.layer.1.neurons": torch.tensor([0, 2], dtype=torch.int32), "a.weight": torch.randn(2, 4)}
    sent = instruction(
        {TUNABLE: PARAMS, PROXY: changes, "control": PARAMS}, proxy_version=3, proxy_since=1, count_activity=True
    )
    got = decode_instruction(sent.encode())
    assert got.facts == sent.facts
    assert {group: digest(tensors) for group, tensors in got.groups.items()} == {
        TUNABLE: digest(PARAMS),  # although the others have an `a.weight` as well
        PROXY: digest(changes),
        "control": digest(PARAMS),
    }
    assert set(sent.tensors) == {
        *PARAMS,
        "proxy/encoder.layer.1.neurons",
        "proxy/a.weight",
        *(f"control/{name}" for name in PARAMS),
    }
    assert torch.equal(sent.tensors["proxy/a.weight"], changes["a.weight"])


def test_a_payload_may_have_no_tensors() -> None:
    sent = Payload(1, "x", Done(client="a", examples=3, extra={"accuracy": 1.0}), {}, work="evaluate")
    got = decode_update(sent.encode())
    assert (got.work, got.groups, got.facts) == ("evaluate", {}, sent.facts)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_facts_are_finite(value: float) -> None:
    with pytest.raises(ValidationError):
        update(loss=value)
    with pytest.raises(ValidationError):
        update(extra={"accuracy": value})
    with pytest.raises(ValidationError):
        instruction(learning_rate=value)


def test_the_same_payload_has_the_same_bytes() -> None:
    shuffled = dict(reversed(PARAMS.items()))
    assert update().encode() == update({TUNABLE: shuffled}).encode()


def test_a_message_is_little_more_than_its_tensors() -> None:
    size = sum(tensor.nbytes for tensor in PARAMS.values())
    assert size < len(update().encode()) < size + 700


FACTS: dict[str, Any] = {
    "client": "1",
    "examples": 1,
    "steps": 1,
    "samples": 1,
    "loss": 0.5,
    "predictions": 1,
    "proxy_version": 0,
}
HEAD: dict[str, Any] = {"round": 1, "base": "x", "work": "train", "facts": FACTS}


def forged(head: object, tensors: dict[str, torch.Tensor] = PARAMS) -> bytes:
    return to_bytes(tensors, {"fedfm": json.dumps(head)})


def with_facts(**facts: object) -> bytes:
    return forged({**HEAD, "facts": {**FACTS, **facts}})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round", "1"),
        ("round", True),
        ("round", -1),
        ("round", 1.0),
        ("base", None),
        ("base", ["x"]),
        ("work", "Train"),
        ("work", "x" * 65),
        ("work", "train\n"),
        ("facts", []),
        ("facts", None),
    ],
)
def test_a_head_of_another_type_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(MessageError, match=f"field `{field}` of the message"):
        decode_update(forged({**HEAD, field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("examples", 1.5),
        ("examples", None),
        ("examples", -1),
        ("client", 7),
        ("client", "x" * (MOST_TEXT + 1)),
        ("loss", "0.5"),
        ("loss", True),
        ("steps", [1]),
        ("steps", "1"),
        ("state", "abc"),
        ("state", "G" * 64),
        ("extra", {"Not a word": 1.0}),
        ("extra", {"a": "1"}),
        ("extra", {f"a{'b' * number}": 1.0 for number in range(MOST_EXTRA + 1)}),
        ("learning_rate", 0.1),
    ],
)
def test_facts_of_another_type_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(MessageError, match=rf"field `facts\.{field}"):
        decode_update(with_facts(**{field: value}))


@pytest.mark.parametrize("field", HEAD)
def test_missing_fields_are_refused_by_name(field: str) -> None:
    with pytest.raises(MessageError, match=f"field `{field}`"):
        decode_update(forged({key: value for key, value in HEAD.items() if key != field}))


@pytest.mark.parametrize("field", ["client", "examples"])
def test_missing_facts_are_refused_by_name(field: str) -> None:
    with pytest.raises(MessageError, match=rf"field `facts\.{field}`"):
        decode_update(forged({**HEAD, "facts": {key: value for key, value in FACTS.items() if key != field}}))


def test_a_plain_safetensors_file_is_no_message() -> None:
    with pytest.raises(MessageError, match="not a fedfm message"):
        decode_update(to_bytes(PARAMS))


@pytest.mark.parametrize("number", [10**400, -(10**400), 10**4_000, MOST_INTEGER + 1])
@pytest.mark.parametrize("field", ["loss", "examples"])
def test_a_number_beyond_64_bits_is_refused(field: str, number: int) -> None:
    with pytest.raises(MessageError, match="beyond 64 bits"):
        decode_update(with_facts(**{field: number}))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["loss", "examples"])
def test_t12_what_is_not_a_number_is_refused(field: str, text: str) -> None:
    whole = json.dumps({**HEAD, "facts": {**FACTS, field: 12345}}).replace("12345", text)
    with pytest.raises(MessageError):
        decode_update(to_bytes(PARAMS, {"fedfm": whole}))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({**HEAD, "facts": {**FACTS, "client": "\ud800"}}, "not JSON"),
        ({**HEAD, "\x1b[2J\n": 1}, r"field `\\x1b\[2J\\n` of the message"),
        ({**HEAD, "facts": {**FACTS, "\x1b[2J\n": 1}}, r"field `facts\.\\x1b\[2J\\n` of the message"),
        ({**HEAD, "base": ["\x1b[2J" * 999]}, "field `base` of the message"),
        ({**HEAD, "facts": {**FACTS, "extra": {"\x1b[2J" * 999: 1.0}}}, r"field `facts\.extra"),
    ],
)
def test_a_refusal_is_short_and_controls_no_terminal(head: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason) as refused:
        decode_update(forged(head))
    assert str(refused.value) == line(str(refused.value), most=300)


@pytest.mark.parametrize("text", ['{"round": 1, "round": 2}', '{"facts": {"client": "a", "client": "b"}}'])
def test_a_field_that_is_there_twice_is_refused(text: str) -> None:
    with pytest.raises(MessageError, match="not a fedfm message"):
        decode_update(to_bytes(PARAMS, {"fedfm": text}))


def test_a_header_in_another_encoding_is_refused() -> None:
    header = json.dumps({"__metadata__": {"fedfm": json.dumps(HEAD)}})
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        content = header.encode(encoding)
        with pytest.raises(MessageError, match="not a fedfm message"):
            decode_update(struct.pack("<Q", len(content)) + content)


@pytest.mark.parametrize("rate", [-0.1, "0.1", None, True])
def test_an_instruction_has_a_learning_rate(rate: Any) -> None:
    with pytest.raises(MessageError, match=r"field `facts\.learning_rate`"):
        decode_instruction(forged({**HEAD, "facts": {"learning_rate": rate}}))


def test_an_update_is_no_instruction() -> None:
    with pytest.raises(MessageError, match=r"field `facts\."):
        decode_instruction(update().encode())
    with pytest.raises(MessageError, match=r"field `facts\."):
        decode_update(instruction().encode())


def test_metadata_beside_the_head_are_refused() -> None:
    with pytest.raises(MessageError, match="metadata"):
        decode_update(to_bytes(PARAMS, {"fedfm": json.dumps(HEAD), "more": "x"}))


def test_strides_that_overflow_are_refused_in_every_group() -> None:
    whole = {"fedfm": json.dumps(HEAD)}
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
SENT = instruction({TUNABLE: PARAMS, PROXY: {"h.neurons": torch.tensor([1])}}, proxy_version=2)


def read(decode: Callable[[bytes], Read], message: bytes) -> Read | str:
    """What is read, or why it is refused."""
    try:
        return decode(message)
    except MessageError as error:
        return str(error)


@settings(max_examples=80)
@given(
    st.dictionaries(st.sampled_from([*HEAD, "more"]), ANYTHING, max_size=1),
    st.dictionaries(st.sampled_from([*FACTS, "state", "extra", "more"]), ANYTHING, max_size=3),
    st.sampled_from(["", "activity/"]),
)
def test_whatever_fields_an_update_has_it_is_read_or_refused(
    head: dict[str, Any], facts: dict[str, Any], prefix: str
) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in PARAMS.items()}
    found = read(decode_update, forged({**HEAD, "facts": {**FACTS, **facts}, **head}, tensors))
    if isinstance(found, str):
        assert found == line(found, most=300)
        return
    assert decode_update(found.encode()).facts == found.facts
    facts_read = found.facts
    assert all(0 <= count < 2**63 for count in (found.round, facts_read.examples, facts_read.steps, facts_read.samples))


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*Asked.model_fields, "more"]), ANYTHING, max_size=3))
def test_whatever_fields_an_instruction_has_it_is_read_or_refused(facts: dict[str, Any]) -> None:
    tensors = dict(SENT.tensors)
    found = read(decode_instruction, forged({**HEAD, "facts": {"learning_rate": 0.1, **facts}}, tensors))
    if isinstance(found, str):
        assert found == line(found, most=300)
        return
    assert 0 <= found.facts.learning_rate < math.inf
    assert digest(found.tensors) == digest(tensors)


@settings(max_examples=150)
@given(st.integers(0, 900), st.binary(max_size=8), st.integers(0, 8), st.booleans())
def test_a_message_with_a_piece_changed_is_read_or_refused(place: int, piece: bytes, gone: int, up: bool) -> None:
    whole = (update({TUNABLE: PARAMS, ACTIVITY: COUNTS}) if up else SENT).encode()
    place %= len(whole)
    read(decode_update if up else decode_instruction, whole[:place] + piece + whole[place + gone :])


def test_fields_nested_without_end_are_refused() -> None:
    deep = 100_000
    with pytest.raises(MessageError, match="not a fedfm message"):
        decode_update(to_bytes(PARAMS, {"fedfm": "[" * deep + "]" * deep}))


@pytest.mark.parametrize("whole", ["[1]", "1", '"x"', "null"])
def test_the_head_must_be_an_object(whole: str) -> None:
    with pytest.raises(MessageError):
        decode_update(to_bytes(PARAMS, {"fedfm": whole}))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(MessageError):
        decode_update(noise)


@given(st.integers(0, 500))
def test_truncated_messages_are_refused(length: int) -> None:
    whole = update().encode()
    with pytest.raises(MessageError):
        decode_update(whole[: min(length, len(whole) - 1)])


def test_a_header_that_claims_to_be_huge_is_refused() -> None:
    with pytest.raises(MessageError):
        decode_update(struct.pack("<Q", 2**62) + b"{}")
