"""JSON that others wrote, read within bounds: what is larger, deeper or less strict is refused before it is used."""

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
"""Lists and objects within each other; a resolved recipe has about six."""

MOST_VALUES = 2**20
"""Values, and lists and objects that may be empty."""

MOST_INTEGER = 2**63 - 1
"""Whole numbers are those of 64 bits."""

MAX_EXAMPLES = 2**31
"""A client that claims more training examples than this is not believed."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class UntrustedError(FedfmError):
    """Bytes from outside are not what they should be; the text says what is wrong with them."""


def read_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        UntrustedError: it is not JSON in UTF-8; an object has a key twice; it is nested deeper than `MOST_DEPTH`; it
            has more values than `MOST_VALUES`; a whole number is beyond 64 bits, or another number beyond floats.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise UntrustedError(f"it has more than {MOST_VALUES:,} values")
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_no_constant
        )
        if _SURROGATE.search(text):  # a lone one has no bytes
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
        raise UntrustedError(f"the number {quoted(digits, most=40)} is beyond floats")
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
