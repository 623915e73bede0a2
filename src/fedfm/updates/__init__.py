"""The way an update takes: what a client sends back is encoded, carried and decoded."""

from fedfm.updates.path import MessageKey, UpdatePath
from fedfm.updates.payload import (
    Asked,
    Done,
    Instruction,
    MessageError,
    Payload,
    Update,
    decode_instruction,
    decode_update,
)
from fedfm.updates.requests import Failure, Reply, Request

__all__ = [
    "Asked",
    "Done",
    "Failure",
    "Instruction",
    "MessageError",
    "MessageKey",
    "Payload",
    "Reply",
    "Request",
    "Update",
    "UpdatePath",
    "decode_instruction",
    "decode_update",
]
