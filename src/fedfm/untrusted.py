"""Reads JSON from untrusted sources within limits: larger, deeper or non-standard JSON is refused before it is used."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from fedfm.errors import FedfmError
from fedfm.printable import line, quoted

MOST_DEPTH = 32
"""Maximum nesting of lists and objects; a resolved recipe has about six levels."""

MOST_VALUES = 2**20
"""Maximum number of values, including lists and objects."""

MOST_INTEGER = 2**63 - 1
"""Largest whole number, of 64 bits."""

MAX_EXAMPLES = 2**31
"""Largest number of training examples that a client may claim."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class UntrustedError(FedfmError):
    """Untrusted bytes are invalid; the message says what is wrong with them."""


def read_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        UntrustedError: it is not JSON in UTF-8; an object has a key twice; it is nested deeper than `MOST_DEPTH`; it
            has more values than `MOST_VALUES`; a whole number exceeds 64 bits, or another number the range of floats.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise UntrustedError(f"it has more than {MOST_VALUES:,} values")
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_no_constant
        )
        if _SURROGATE.search(text):  # a lone surrogate cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UntrustedError(f"it is not JSON ({line(error, most=120)})") from error
    if _is_deep(value):
        raise UntrustedError(f"it is nested deeper than {MOST_DEPTH} levels")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise UntrustedError(f"it has the key {quoted(twice)} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > len(str(-MOST_INTEGER)) or abs(number := int(digits)) > MOST_INTEGER:
        raise UntrustedError(f"the whole number {quoted(digits, most=40)} is beyond 64 bits")
    return number


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise UntrustedError(f"the number {quoted(digits, most=40)} is beyond the range of floats")
    return number


def _no_constant(name: str) -> float:
    raise UntrustedError(f"{name} is not JSON")


def _is_deep(value: Any) -> bool:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MOST_DEPTH):
        level = [item for held in level for item in _items(held) if type(item) in (dict, list)]
    return bool(level)


def _items(held: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held
