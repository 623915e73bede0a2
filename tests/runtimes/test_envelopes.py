from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.printable import line
from fedfm.runtimes.envelopes import (
    Ended,
    Envelope,
    EnvelopeError,
    Fault,
    File,
    Head,
    Inquiry,
    Lost,
    Nodes,
    Piece,
    Prepare,
    Ready,
    Refusal,
    Replies,
    Requests,
    Seen,
    Unprepared,
    Wanting,
    job_digest,
    joined,
)
from fedfm.spill import Spilled

ANSWER = Envelope(Replies(clients=(("a", None), ("b", Fault(reason="no room")))), (b"update",))


def test_a_parcel_is_read_back_as_it_was() -> None:
    work = Envelope(Requests(job="j", clients=(("a", 0), ("b", 1))), (b"one", b"two"))
    for envelope in (work, *SAMPLES):
        assert Envelope.of(envelope.text, envelope.blobs) == envelope


NO_FILES = ["../x.json", "/x.json", "", "..", "a/b.json", "a\0.json", "a\n.json", "\x1b[2J.json", "x" * 300]


def nested(depth: int) -> dict[str, Any]:
    return {"x": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("text", "blobs"),
    [
        ("", []),
        ("[]", []),
        ('{"kind": "nonsense"}', []),
        ('{"kind": "refusal"}', []),
        ('{"kind": "refusal", "reason": "no", "more": 1}', []),
        (ANSWER.text, []),
        (ANSWER.text, [b"", b""]),
        ('{"kind": "refusal", "reason": "no"}', [b"what for"]),
        (json.dumps({"kind": "requests", "job": "j", "clients": [["a", 1]]}), [b"only one"]),
        (json.dumps({"kind": "requests", "job": "j", "clients": [["a", -1]]}), [b"one"]),
        (json.dumps({"kind": "requests", "job": "j", "clients": [["a", 0]], "states": ["a"]}), [b"one"]),
        (json.dumps({"kind": "requests", "job": "j", "clients": [["a", 0]], "states": ["b"]}), [b"one", b"state"]),
        (json.dumps({"kind": "replies", "clients": [["a", None]], "states": ["a", "a"]}), [b"", b"", b""]),
        (json.dumps({"kind": "wanting", "job": "j", "pieces": []}), []),
        (json.dumps({"kind": "prepare", "job": {}, "pieces": [{"file": "f", "start": 0}]}), []),
        (json.dumps({"kind": "prepare", "job": {}, "files": [{"name": "f", "size": 1, "sha256": "x"}]}), []),
        *(
            (json.dumps({"kind": "wanting", "job": "j", "pieces": [{"file": name, "start": 0}]}), [])
            for name in NO_FILES
        ),
        (json.dumps({"kind": "wanting", "job": "j", "pieces": [{"file": "f", "start": 2**63}]}), []),
        (json.dumps({"kind": "ready", "job": "j", "clients": None, "examples": 2**31 + 1}), []),
        (json.dumps({"kind": "ready", "job": "j", "clients": None, "examples": 10**400}), []),
        (json.dumps({"kind": "ready", "job": "j", "clients": None, "examples": True}), []),
        (json.dumps({"kind": "ready", "job": "j" * 5_000, "clients": None}), []),
        (json.dumps({"kind": "ready", "job": "\ud800", "clients": None}), []),
        (json.dumps({"kind": "prepare", "job": nested(40)}), []),
        ('{"kind": "refusal", "reason": "no", "kind": "lost"}', []),
    ],
)
def test_what_is_no_parcel_is_refused(text: str, blobs: list[bytes]) -> None:
    with pytest.raises(EnvelopeError, match="envelope of fedfm"):
        Envelope.of(text, blobs)


def test_answers_in_parts_are_joined_and_anything_else_stands_for_all() -> None:
    other = Envelope(Replies(clients=(("c", None),)), (b"another",))
    assert joined([ANSWER, other]) == Envelope(
        Replies(clients=(*ANSWER.head.clients, *other.head.clients)),  # type: ignore[union-attr]
        (b"update", b"another"),
    )
    refusal = Envelope(Refusal(reason="out of memory"))
    assert joined([ANSWER, refusal]) == refusal


def test_states_in_parts_are_joined_behind_the_updates() -> None:
    parts = [
        Envelope(Replies(clients=((client, None),), states=(client,)), (b"update", client.encode())) for client in "ab"
    ]
    assert joined(parts) == Envelope(
        Replies(clients=(("a", None), ("b", None)), states=("a", "b")), (b"update", b"update", b"a", b"b")
    )


def test_a_job_is_known_by_its_content() -> None:
    assert job_digest({"a": 1, "b": [2]}) == job_digest({"b": [2], "a": 1}) != job_digest({"a": 1, "b": [3]})
    assert Ready(job="j", clients=None) == Ready.model_validate_json('{"kind": "ready", "job": "j", "clients": null}')


HOSTILE = "\x1b[2J\x9b31m\n2026-01-01 INFO all is well\r\u202e"


def test_words_for_people_are_made_safe_and_cut_where_they_enter() -> None:
    heads = (
        Refusal(reason=HOSTILE * 999),
        Lost(reason=HOSTILE * 999),
        Replies(clients=(("a", Fault(reason=HOSTILE * 999, details="Traceback\n" + HOSTILE * 999)),)),
    )
    for head in heads:
        assert len(head.model_dump_json()) < 10_000
        assert Envelope.of(Envelope(head).text, ()).head == head
    assert str(heads[0].reason).isprintable()
    fault = heads[2].clients[0][1]
    assert fault is not None
    assert fault.reason.isprintable()
    assert fault.details.startswith("Traceback\n")
    assert fault.details.replace("\n", "").isprintable()


FILE, PIECE = File(name="f", size=9, sha256="0" * 64), Piece(file="f", start=3)
SAMPLES: tuple[Envelope, ...] = (
    Envelope(Prepare(job={"version": "1", "recipe": {"seed": 0}}, client="a", files=(FILE,), pieces=(PIECE,)), (b"",)),
    Envelope(Wanting(job="j", pieces=(PIECE,))),
    Envelope(Ready(job="j", clients=("a",), examples=7)),
    Envelope(Requests(job="j", clients=(("a", 0), ("b", 1)), states=("b",)), (b"one", b"two", b"state")),
    ANSWER,
    Envelope(Unprepared()),
    Envelope(Refusal(reason="no")),
    Envelope(Lost(reason="gone", late=True)),
    Envelope(Inquiry(message="7")),
    Envelope(Seen(seen=True)),
    Envelope(Nodes(nodes=("1", "2"))),
    Envelope(Ended(job="j", run="r", status="failed", rounds=3)),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, 10**400, -1, "\ud800", HOSTILE, "x" * 5_000, [], {}, [[]], {"x": 1}, 1e308]),
    st.floats(),
    st.text(max_size=8),
)


def changed(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON with something in it replaced, added or taken out."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 3)):
        inside: Any = value.copy()
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        if draw(st.integers(0, 5)):
            inside[key] = changed(draw, value[key])
        else:
            del inside[key]
        return inside
    return draw(ODD)


def read(text: str | bytes, blobs: Sequence[bytes | Spilled]) -> Envelope | str:
    """What is read, or why it is refused."""
    try:
        return Envelope.of(text, blobs)
    except EnvelopeError as error:
        return str(error)


def test_there_is_a_sample_of_every_kind() -> None:
    assert {type(sample.head) for sample in SAMPLES} == set(get_args(get_args(Head)[0]))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.head.kind)
def test_whatever_a_head_says_it_is_read_or_refused(sample: Envelope) -> None:
    @settings(max_examples=50)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        text = json.dumps(changed(data.draw, json.loads(sample.text)))
        found = read(text, sample.blobs)
        if isinstance(found, str):
            assert found == line(found, most=400)
            return
        assert read(found.text, found.blobs) == found

    check()


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.integers(0, 300), st.binary(max_size=6), st.integers(0, 6))
def test_a_head_with_a_piece_changed_is_read_or_refused(sample: Envelope, place: int, piece: bytes, gone: int) -> None:
    whole = sample.text.encode()
    place %= len(whole)
    read(whole[:place] + piece + whole[place + gone :], sample.blobs)
