"""Parcels as Flower carries them."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedfm.printable import quoted
from fedfm.runtimes.parcels import Parcel, ParcelError


def to_record(parcel: Parcel) -> RecordDict:
    """A parcel as Flower carries it: the head as text, each blob as an array of bytes."""
    blobs = ArrayRecord()
    for place, blob in enumerate(parcel.contents):
        blobs[str(place)] = Array(dtype="uint8", shape=(len(blob),), stype="fedfm", data=blob)
    return RecordDict({"head": ConfigRecord({"json": parcel.text}), "blobs": blobs})


def from_record(record: object) -> Parcel:
    """The parcel in a record.

    Raises:
        ParcelError: there is none in it.
    """
    if not isinstance(record, RecordDict):
        raise ParcelError(f"not a parcel of fedfm (a {type(record).__name__})")
    try:
        head, blobs = record.config_records["head"], record.array_records["blobs"]
        return Parcel.of(str(head["json"]), [blobs[str(place)].data for place in range(len(blobs))])
    except KeyError as error:
        raise ParcelError(f"not a parcel of fedfm (no {quoted(error.args[0])})") from error
