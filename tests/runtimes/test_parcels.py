from __future__ import annotations

import json

import pytest

from fedfm.runtimes.parcels import (
    Answers,
    Fault,
    File,
    Parcel,
    ParcelError,
    Piece,
    Prepare,
    Ready,
    Refusal,
    Wanting,
    Work,
    job_digest,
    joined,
)

ANSWER = Parcel(Answers(clients=(("a", None), ("b", Fault(reason="no room")))), (b"update",))


def test_a_parcel_is_read_back_as_it_was() -> None:
    work = Parcel(Work(job="j", clients=(("a", 0), ("b", 1))), (b"one", b"two"))
    file, piece = File(name="f", size=9, sha256="0" * 64), Piece(file="f", start=3)
    prepare = Parcel(Prepare(job={}, files=(file,), pieces=(piece,)), (b"of a file",))
    wanting = Parcel(Wanting(job="j", pieces=(piece,)))
    for parcel in (work, prepare, wanting, ANSWER, Parcel(Refusal(reason="no"))):
        assert Parcel.of(parcel.text, parcel.blobs) == parcel


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
        (json.dumps({"kind": "work", "job": "j", "clients": [["a", 1]]}), [b"only one"]),
        (json.dumps({"kind": "work", "job": "j", "clients": [["a", -1]]}), [b"one"]),
        (json.dumps({"kind": "wanting", "job": "j", "pieces": []}), []),
        (json.dumps({"kind": "prepare", "job": {}, "pieces": [{"file": "f", "start": 0}]}), []),
        (json.dumps({"kind": "prepare", "job": {}, "files": [{"name": "f", "size": 1, "sha256": "x"}]}), []),
    ],
)
def test_what_is_no_parcel_is_refused(text: str, blobs: list[bytes]) -> None:
    with pytest.raises(ParcelError, match="parcel of fedfm"):
        Parcel.of(text, blobs)


def test_answers_in_parts_are_joined_and_anything_else_stands_for_all() -> None:
    other = Parcel(Answers(clients=(("c", None),)), (b"another",))
    assert joined([ANSWER, other]) == Parcel(
        Answers(clients=(*ANSWER.head.clients, *other.head.clients)),  # type: ignore[union-attr]
        (b"update", b"another"),
    )
    refusal = Parcel(Refusal(reason="out of memory"))
    assert joined([ANSWER, refusal]) == refusal


def test_a_job_is_known_by_its_content() -> None:
    assert job_digest({"a": 1, "b": [2]}) == job_digest({"b": [2], "a": 1}) != job_digest({"a": 1, "b": [3]})
    assert Ready(job="j", clients=None) == Ready.model_validate_json('{"kind": "ready", "job": "j", "clients": null}')
