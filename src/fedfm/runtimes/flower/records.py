"""Envelopes as Flower carries them."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedfm.printable import quoted
from fedfm.runtimes.envelopes import Envelope, EnvelopeError


def to_record(envelope: Envelope) -> RecordDict:
    """An envelope as Flower carries it: the head as text, each blob as an array of bytes."""
    blobs = ArrayRecord()
    for place, blob in enumerate(envelope.contents):
        blobs[str(place)] = Array(dtype="uint8", shape=(len(blob),), stype="fedfm", data=blob)
    return RecordDict({"head": ConfigRecord({"json": envelope.text}), "blobs": blobs})


def from_record(record: object) -> Envelope:
    """The envelope in a record.

    Raises:
        EnvelopeError: the record holds no valid envelope.
    """
    if not isinstance(record, RecordDict):
        raise EnvelopeError(f"not an envelope of fedfm (a {type(record).__name__})")
    try:
        head, blobs = record.config_records["head"], record.array_records["blobs"]
        return Envelope.of(str(head["json"]), [blobs[str(place)].data for place in range(len(blobs))])
    except KeyError as error:
        raise EnvelopeError(f"not an envelope of fedfm (no {quoted(error.args[0])})") from error
