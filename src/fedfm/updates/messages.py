"""What the server tells a client and what a client sends back, and their bytes on the wire.

A message is one safetensors blob: the tensors, and everything else as JSON strings in its header. Clients of a
cohort that hold the same version of the proxy get the same instruction, byte for byte.
"""

from __future__ import annotations

import json
import math
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedfm.errors import FedfmError
from fedfm.params import Params
from fedfm.printable import quoted
from fedfm.spill import Spilled
from fedfm.untrusted import UntrustedError, read_json
from fedfm.wire import Tensors, from_bytes, to_bytes

PROXY, ACTIVITY = "proxy/", "activity/"
"""Prefixes of the names of tensors that are not the tunable's."""

MOST_TEXT = 2**12
"""Characters of a field that is a text."""

FIELDS = "fedfm"
"""The one key of a message's metadata."""


class MessageError(FedfmError):
    """Bytes that are not a sound message; the text says what is wrong with them."""


@dataclass(frozen=True)
class Instruction:
    """What a cohort is asked to do in one round.

    Attributes:
        round: 1-based round.
        base: digest of ``params``; an update names the base it was computed on.
        learning_rate: local learning rate of this round.
        params: the tunable w_t.
        proxy_version: of the proxy to train on; 0 as first downloaded, and where there is no proxy.
        proxy_since: the version that ``proxy`` brings up to date.
        proxy: what of the proxy has changed since; empty when nothing has.
        count_activity: whether to count how much neurons are used, and send that back.
    """

    round: int
    base: str
    learning_rate: float
    params: Params
    proxy_version: int = 0
    proxy_since: int = 0
    proxy: Params = field(default_factory=dict)
    count_activity: bool = False

    @property
    def tensors(self) -> Params:
        """All that travels in it, by the names on the wire."""
        return {**self.params, **_prefixed(PROXY, self.proxy)}


@dataclass(frozen=True)
class Update:
    """What a client sends back.

    Attributes:
        round: the instruction's round.
        client: client id.
        base: the instruction's base.
        examples: training examples the client holds, n_c.
        steps: optimiser steps taken.
        samples: examples that these steps processed.
        loss: mean training loss a prediction; not a number where nothing was predicted.
        params: w_c − w_t.
        predictions: examples or tokens that were predicted in those steps, over which the loss is a mean.
        proxy_version: of the proxy it was trained on.
        activity: counts of neurons' use, where they were asked for.

    Tensors of an update that is on disk are read every time that they are asked for.
    """

    round: int
    client: str
    base: str
    examples: int
    steps: int
    samples: int
    loss: float
    params: Mapping[str, Tensor]
    predictions: int = 0
    proxy_version: int = 0
    activity: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that travels in it, by the names on the wire."""
        return ChainMap(_prefixed(ACTIVITY, self.activity), self.params)  # type: ignore[arg-type] # it is only read


def encode_instruction(instruction: Instruction) -> bytes:
    """The bytes of an instruction."""
    return _encode(
        instruction.tensors,
        round=instruction.round,
        base=instruction.base,
        learning_rate=instruction.learning_rate,
        proxy_version=instruction.proxy_version,
        proxy_since=instruction.proxy_since,
        count_activity=instruction.count_activity,
    )


def decode_instruction(message: bytes) -> Instruction:
    """The instruction in these bytes.

    Raises:
        MessageError: not a message, or a field is missing or of another type.
    """
    tensors, fields = _decode(message)
    params, proxy = tensors.parted(PROXY)
    found = Instruction(
        round=_integer(fields, "round"),
        base=_text(fields, "base"),
        learning_rate=_number(fields, "learning_rate"),
        params=dict(params),
        proxy_version=_integer(fields, "proxy_version"),
        proxy_since=_integer(fields, "proxy_since"),
        proxy=dict(proxy),
        count_activity=_flag(fields, "count_activity"),
    )
    _end(fields)
    if not 0 <= found.learning_rate < math.inf:
        raise MessageError(f"field `learning_rate` must be a positive number or 0, not {found.learning_rate}")
    return found


def encode_update(update: Update) -> bytes:
    """The bytes of an update."""
    return _encode(
        update.tensors,
        round=update.round,
        client=update.client,
        base=update.base,
        examples=update.examples,
        steps=update.steps,
        samples=update.samples,
        loss=update.loss,
        predictions=update.predictions,
        proxy_version=update.proxy_version,
    )


def decode_update(message: bytes | Spilled) -> Update:
    """The update in these bytes; what it says is still to be screened.

    Raises:
        MessageError: not a message, or a field is missing or of another type.
    """
    tensors, fields = _decode(message)
    params, activity = tensors.parted(ACTIVITY)
    found = Update(
        round=_integer(fields, "round"),
        client=_text(fields, "client"),
        base=_text(fields, "base"),
        examples=_integer(fields, "examples"),
        steps=_integer(fields, "steps"),
        samples=_integer(fields, "samples"),
        loss=_number(fields, "loss"),
        params=params,
        predictions=_integer(fields, "predictions"),
        proxy_version=_integer(fields, "proxy_version"),
        activity=activity,
    )
    _end(fields)
    return found


def _encode(params: Mapping[str, Tensor], **fields: object) -> bytes:
    # Strict JSON has no NaN; a loss that is not a number travels as null.
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in fields.items()
    }
    return to_bytes(params, {FIELDS: json.dumps(plain, allow_nan=False)})


def _decode(message: bytes | Spilled) -> tuple[Tensors, dict[str, Any]]:
    try:
        params, metadata = from_bytes(message)
        if metadata.keys() != {FIELDS}:
            raise UntrustedError(f"its metadata are not `{FIELDS}` alone")
        fields = read_json(metadata[FIELDS])
    except UntrustedError as error:
        raise MessageError(f"not a fedfm message ({error})") from error
    if not isinstance(fields, dict):
        raise MessageError("not a fedfm message (its fields are no JSON object)")
    return params, fields


def _prefixed(prefix: str, params: Mapping[str, Tensor]) -> Params:
    return {f"{prefix}{name}": tensor for name, tensor in params.items()}


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = _field(fields, key)
    if type(value) is not bool:
        raise MessageError(f"field `{key}` must be true or false, not {quoted(value)}")
    return value


def _integer(fields: dict[str, Any], key: str) -> int:
    value = _field(fields, key)
    if type(value) is not int:
        raise MessageError(f"field `{key}` must be a whole number, not {quoted(value)}")
    return value


def _number(fields: dict[str, Any], key: str) -> float:
    value = _field(fields, key)
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise MessageError(f"field `{key}` must be a number, not {quoted(value)}")
    return float(value)


def _text(fields: dict[str, Any], key: str) -> str:
    value = _field(fields, key)
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise MessageError(f"field `{key}` must be a text of at most {MOST_TEXT} characters, not {quoted(value)}")
    return value


def _field(fields: dict[str, Any], key: str) -> Any:
    """Takes a field out."""
    if key not in fields:
        raise MessageError(f"field `{key}` is missing")
    return fields.pop(key)


def _end(fields: dict[str, Any]) -> None:
    """Refuses fields that nothing took."""
    if fields:
        raise MessageError(f"{len(fields)} fields are not known, first {quoted(next(iter(fields)))}")
