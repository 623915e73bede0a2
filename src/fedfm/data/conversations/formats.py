"""Formats of conversations: columns of prompts and responses, or one column with a list of turns."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedfm.data.conversations.turns import ROLES, Turn
from fedfm.data.settings import ConversationSettings

Row = Mapping[str, Any]
"""Column → value, None if it is missing."""


class Format(ABC):
    """One format of conversations."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, Literal["text", "turns"]]:
        """The columns that it may have, and what they contain."""

    @abstractmethod
    def named(self, settings: ConversationSettings) -> Format:
        """The same format with the column names that a recipe gives."""

    @abstractmethod
    def is_possible(self, names: Collection[str]) -> bool:
        """Whether a table with these columns can have rows of the format."""

    @abstractmethod
    def fits(self, row: Row) -> bool:
        """Whether a row is of this format."""

    @abstractmethod
    def turns(self, row: Row) -> list[Turn]:
        """The turns of a row that `fits`.

        Raises:
            ValueError: they cannot be read; the reason continues "row 3 …".
        """


@dataclass(frozen=True)
class Columns(Format):
    """One question and its response in columns of their own.

    Attributes:
        prompts: names of the column of the question.
        responses: names of the column of the response.
        inputs: names of the column of a text that the question is about, which follows it; may be absent or blank.
        systems: names of the column of the system's text; may be absent or blank.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    systems: tuple[str, ...] = ("system", "system_prompt")

    @property
    def columns(self) -> dict[str, Literal["text", "turns"]]:
        """Columns of text."""
        return dict.fromkeys((*self.prompts, *self.responses, *self.inputs, *self.systems), "text")

    def named(self, settings: ConversationSettings) -> Columns:
        """With the recipe's columns of prompt and response."""
        if settings.prompt is None or settings.response is None:
            return self
        return replace(self, prompts=(settings.prompt,), responses=(settings.response,))

    def is_possible(self, names: Collection[str]) -> bool:
        """A prompt and a response are needed."""
        return any(name in names for name in self.prompts) and any(name in names for name in self.responses)

    def fits(self, row: Row) -> bool:
        """A row with a prompt; its response may be missing, which `turns` then has as an empty text."""
        return self.is_possible(row) and any(_said(row.get(name)) for name in self.prompts)

    def turns(self, row: Row) -> list[Turn]:
        """System, question and response."""
        system, question, about = (self._one(row, names) for names in (self.systems, self.prompts, self.inputs))
        question = f"{question}\n{about}" if about else question
        start = [Turn("system", system)] if system else []
        return [*start, Turn("user", question), Turn("assistant", self._one(row, self.responses), learned=True)]

    def _one(self, row: Row, names: Sequence[str]) -> str:
        """The text of the one of some columns that is not blank; empty if all are."""
        found = {name: row[name] for name in names if _said(row.get(name))}
        if len(found) > 1:
            listed = " and ".join(f"`{name}`" for name in found)
            raise ValueError(f"has {listed}; name the columns with data.conversation.prompt and .response")
        for name, value in found.items():
            if not isinstance(value, str):
                raise ValueError(f"has {_described(value)} in column `{name}`, not text")
            return value
        return ""


@dataclass(frozen=True)
class TurnList(Format):
    """A list of turns in one column, each an object with the role and the text.

    Attributes:
        role: key of the role.
        text: key of the text.
        names: names of the column.
    """

    role: str
    text: str
    names: tuple[str, ...] = ("messages", "conversations", "conversation")

    @property
    def columns(self) -> dict[str, Literal["text", "turns"]]:
        """Columns of lists of turns."""
        return dict.fromkeys(self.names, "turns")

    def named(self, settings: ConversationSettings) -> TurnList:
        """With the recipe's column of turns."""
        return self if settings.turns is None else replace(self, names=(settings.turns,))

    def is_possible(self, names: Collection[str]) -> bool:
        """One column is needed."""
        return any(name in names for name in self.names)

    def fits(self, row: Row) -> bool:
        """A row with a list whose first turn has the key of the role."""
        return any(self._is_mine(row.get(name)) for name in self.names)

    def turns(self, row: Row) -> list[Turn]:
        """One turn for each object."""
        found = [name for name in self.names if self._is_mine(row.get(name))]
        if len(found) > 1:
            raise ValueError(f"has turns in `{found[0]}` and `{found[1]}`; name one with data.conversation.turns")
        return [self._turn(value, number) for number, value in enumerate(_listed(row[found[0]]), start=1)]

    def _is_mine(self, value: Any) -> bool:
        turns = _listed(value)
        return bool(turns) and isinstance(turns[0], dict) and turns[0].get(self.role) is not None

    def _turn(self, value: Any, number: int) -> Turn:
        keys = f"`{self.role}` and `{self.text}`"
        if not isinstance(value, dict) or value.get(self.role) is None:
            raise ValueError(f"has turn {number} without the keys {keys}")
        role, text, weight = str(value[self.role]), value.get(self.text), value.get("weight")
        if role.strip().lower() not in ROLES:
            raise ValueError(f"has turn {number} with the role {role[:40]!r}; known are {', '.join(ROLES)}")
        if not isinstance(text, str):
            more = "; calls of tools are not available in this version" if value.get("tool_calls") else ""
            raise ValueError(f"has {_described(text)} in `{self.text}` of turn {number}, not text{more}")
        if weight not in (None, 0, 1):
            raise ValueError(f"has the weight {weight!r} in turn {number}; 1 is learnt, 0 is not")
        known = ROLES[role.strip().lower()]
        return Turn(known, text, learned=known == "assistant" and weight != 0)


def _listed(value: Any) -> list[Any]:
    """The turns of a value: a list, or a list as JSON; empty for everything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def _said(value: Any) -> bool:
    """Whether a value is there and not blank."""
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _described(value: Any) -> str:
    names = {type(None): "nothing", bool: "true or false", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
