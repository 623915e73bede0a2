"""Messages between server and clients: payloads, requests, and the stages that encode them."""

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
from fedfm.updates.requests import Failure, Reply, Request, Spent

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
    "Spent",
    "Update",
    "UpdatePath",
    "decode_instruction",
    "decode_update",
]
