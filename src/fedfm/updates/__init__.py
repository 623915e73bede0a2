"""The way an update takes: what a client sends back is encoded, carried and decoded."""

from fedfm.updates.messages import (
    Failure,
    Instruction,
    MessageError,
    Update,
    decode_instruction,
    decode_update,
    encode_instruction,
    encode_update,
)

__all__ = [
    "Failure",
    "Instruction",
    "MessageError",
    "Update",
    "decode_instruction",
    "decode_update",
    "encode_instruction",
    "encode_update",
]
