"""Payloads: instructions to clients and their updates, one type for both directions, and their bytes.

A payload is one safetensors blob: groups of named tensors, and everything else as JSON in its header. Tensors of the
group ``tunable`` travel under their own names, those of another group as ``GROUP/NAME``. Clients that are asked alike
get the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from torch import Tensor

from fedfm.errors import FedfmError
from fedfm.printable import quoted
from fedfm.spill import Spilled
from fedfm.untrusted import MOST_INTEGER, UntrustedError, read_json
from fedfm.wire import TUNABLE, from_bytes, stored_bytes, to_bytes

PROXY, ACTIVITY = "proxy", "activity"
"""Groups of a proxy: its changes, and counts of how much its neurons are used."""

FISHER = "fisher"
"""Group, and kind of work: the diagonal of a client's Fisher information."""

MOST_TEXT = 2**12
"""Characters of a text."""

MOST_EXTRA = 16
"""A method's own facts in one payload."""

METADATA = "fedfm"
"""The one key of a payload's metadata."""

Count = Annotated[int, Field(ge=0, le=MOST_INTEGER)]
Text = Annotated[str, StringConstraints(max_length=MOST_TEXT)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,63}$")]
Fact = Annotated[str, StringConstraints(pattern=r"^[a-z][A-Za-z0-9_.-]{0,63}$")]
Extra = Annotated[dict[Fact, float], Field(max_length=MOST_EXTRA)]


class MessageError(FedfmError):
    """Bytes that are not a sound payload; the text says what is wrong with them."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Asked(_Facts):
    """Facts of an instruction, beside its tensors."""

    learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Local learning rate of this round."""
    proxy_version: Count = 0
    """Version of the proxy to train on; 0: as first downloaded, and in runs without a proxy."""
    proxy_since: Count = 0
    """The version that group ``proxy`` brings up to date."""
    count_activity: bool = False
    """Whether to count how much neurons are used, and send that back."""
    continue_from: Count = 0
    """Version of the client's state to continue from; 0: as before its first round."""
    forget_before: Count = 0
    """Older versions of the client's state are no longer needed."""
    extra: Extra = {}
    """A method's own facts."""


class Done(_Facts):
    """Facts of an update, beside its tensors."""

    client: Text
    """Client id."""
    examples: Count
    """Training examples that the client holds, n_c."""
    steps: Count = 0
    """Optimiser steps taken."""
    samples: Count = 0
    """Examples that these steps processed."""
    predictions: Count = 0
    """Examples or tokens that were predicted, over which the loss is a mean."""
    loss: float | None = None
    """Mean loss a prediction; null where nothing was predicted, or where it is not a number."""
    proxy_version: Count = 0
    """Version of the proxy that was trained on."""
    state: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    """sha256 of what the client keeps from now on; empty where it keeps nothing."""
    extra: Extra = {}
    """A method's own facts."""


FactsT = TypeVar("FactsT", Asked, Done)


@dataclass(frozen=True)
class Payload(Generic[FactsT]):
    """One message, either way.

    Attributes:
        round: 1-based round.
        base: digest of the server's tunable that the work starts from; an answer repeats it.
        facts: everything beside tensors that depends on the direction.
        groups: group → tensors by name; tensors of a payload on disk are read at each access.
        work: the kind of work, a key of ``fedfm.clients.work.WORKS``.
    """

    round: int
    base: str
    facts: FactsT
    groups: Mapping[str, Mapping[str, Tensor]]
    work: str = "train"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors by their names on the wire, each read when it is asked for."""
        return _Named(self.groups)

    def encode(self) -> bytes:
        """The bytes."""
        return to_bytes(self.tensors, self._metadata())

    @property
    def size_bytes(self) -> int:
        """The number of bytes that `encode` makes; the tensors may be on torch's meta device."""
        return stored_bytes(self.tensors, self._metadata())

    def _metadata(self) -> dict[str, str]:
        facts = {key: None if _is_no_number(value) else value for key, value in self.facts.model_dump().items()}
        head = {"round": self.round, "base": self.base, "work": self.work, "facts": facts}
        return {METADATA: json.dumps(head, allow_nan=False, separators=(",", ":"))}


class _Named(Mapping[str, Tensor]):
    """Tensors of all groups by their names on the wire."""

    def __init__(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._groups = groups

    def __getitem__(self, name: str) -> Tensor:
        group, slash, rest = name.partition("/")
        return self._groups[group][rest] if slash else self._groups[TUNABLE][name]

    def __iter__(self) -> Iterator[str]:
        for group, tensors in self._groups.items():
            yield from tensors if group == TUNABLE else (f"{group}/{name}" for name in tensors)

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))


Instruction = Payload[Asked]
Update = Payload[Done]


class _Header(_Facts, Generic[FactsT]):
    round: Count
    base: Text
    work: Word
    facts: FactsT


_ASKED, _DONE = _Header[Asked], _Header[Done]  # pydantic makes such a class again where nothing holds it


def decode_instruction(message: bytes) -> Instruction:
    """The instruction in these bytes.

    Raises:
        MessageError: the bytes are not a payload, or a field is missing, unknown or of another type.
    """
    return _decode(message, _ASKED)


def decode_update(message: bytes | Spilled) -> Update:
    """The update in these bytes; its content is not yet screened.

    Raises:
        MessageError: the bytes are not a payload, or a field is missing, unknown or of another type.
    """
    return _decode(message, _DONE)


def _decode(message: bytes | Spilled, head_type: type[_Header[FactsT]]) -> Payload[FactsT]:
    try:
        tensors, metadata = from_bytes(message)
        if metadata.keys() != {METADATA}:
            raise UntrustedError(f"its metadata are not `{METADATA}` alone")
        head = head_type.model_validate(read_json(metadata[METADATA]))
    except UntrustedError as error:
        raise MessageError(f"not a fedfm message ({error})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise MessageError(f"field {quoted(where)} of the message: {first['msg']}") from error
    return Payload(head.round, head.base, head.facts, tensors.by_group(), head.work)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
