"""Turns of a conversation: who speaks, the text, and whether a model learns it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Names of roles in data → role."""

RESERVED = "\ufdd0\ufdd1\ufdd2\ufdd3\uffff"
"""Code points that are not characters, which mark places in a text while it is encoded."""


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        role: who speaks.
        text: what is said.
        learned: whether a model learns to say it; only of the assistant's turns.
    """

    role: Role
    text: str
    learned: bool = False


def checked(turns: Sequence[Turn]) -> list[Turn]:
    """A conversation up to its last response; a blank response is not learnt.

    Raises:
        ValueError: it has no response, its first turn is not a question, or a text has a code point of `RESERVED`.
    """
    last = max((number for number, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        raise ValueError("has no turn of the assistant, so there is nothing to learn")
    if next(turn.role for turn in turns if turn.role != "system") == "assistant":
        raise ValueError("begins with a turn of the assistant, which answers nothing; remove that turn")
    kept = [replace(turn, learned=turn.learned and bool(turn.text.strip())) for turn in turns[: last + 1]]
    for number, turn in enumerate(kept, start=1):
        for character in RESERVED:
            if character in turn.text:
                raise ValueError(f"has U+{ord(character):04X} in turn {number}, which is not a character; remove it")
    return kept


def written(turns: Sequence[Turn]) -> str:
    """A conversation as one text; the inverse of `parsed`."""
    return json.dumps([astuple(turn) for turn in turns], ensure_ascii=False)


def parsed(text: str) -> list[Turn]:
    """The inverse of `written`."""
    return [Turn(*values) for values in json.loads(text)]
