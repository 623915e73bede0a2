"""The way an update takes: what a client sends back is encoded, carried and decoded."""

from fedfm.updates.messages import (
    Instruction,
    MessageError,
    Update,
    decode_instruction,
    decode_update,
    encode_instruction,
    encode_update,
)
from fedfm.updates.requests import Failure, Reply, Request

__all__ = [
    "Failure",
    "Instruction",
    "MessageError",
    "Reply",
    "Request",
    "Update",
    "decode_instruction",
    "decode_update",
    "encode_instruction",
    "encode_update",
]
