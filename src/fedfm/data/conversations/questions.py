"""Reads what a language model is to answer, with the answers that the data has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedfm.data.conversations.reading import KEY, formats
from fedfm.data.conversations.turns import Turn
from fedfm.data.settings import ConversationSettings
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError


@dataclass(frozen=True)
class Question:
    """What a model is to continue.

    Attributes:
        turns: of the conversation, the last one not the assistant's; a text has one.
        answer: that the data has; None if it has none.
    """

    turns: Sequence[Turn]
    answer: str | None = None

    @property
    def text(self) -> str:
        """The last turn's."""
        return self.turns[-1].text

    @classmethod
    def of(cls, text: str) -> Question:
        """A text as a question without an answer."""
        return cls((Turn("user", text),))


def questions_of(turns: Sequence[Turn]) -> Question:
    """The last question of a conversation, and its answer.

    Raises:
        ValueError: there is no question.
    """
    asked = list(turns[:-1]) if turns and turns[-1].role == "assistant" else list(turns)
    if not asked or asked[-1].role != "user" or not asked[-1].text.strip():
        raise ValueError("has no question to answer")
    answer = turns[-1].text if len(asked) < len(turns) else None
    return Question(tuple(asked), answer if answer and answer.strip() else None)


def read_questions(source: Source, settings: ConversationSettings) -> list[Question]:
    """The last question of each row's conversation; its answer may be missing.

    Raises:
        RecipeError: at `data.conversation`: the source has the columns of no format.
        DataError: a row has no question, or fits two formats.
    """
    names = source.table.column_names
    possible = {
        name: form
        for name, form in ((name, form.without_responses()) for name, form in formats(settings).items())
        if form.is_possible(names)
    }
    if not possible:
        raise RecipeError(f"{source.name} has no questions: its columns are {', '.join(names)}", where=KEY)
    found, table = [], source.table.with_format("arrow")[:]
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in names}
    for index in range(len(source)):
        row = {name: values[index] for name, values in columns.items()}
        fitting = [name for name, form in possible.items() if form.fits(row)]
        if len(fitting) != 1:
            many = f"is {fitting[0]} and also {fitting[1]}; set {KEY}.format" if fitting else "has no question"
            raise DataError(f"{source.name}: {source.place(index)} {many}", where=KEY)
        try:
            found.append(questions_of(possible[fitting[0]].turns(row)))
        except ValueError as error:
            raise DataError(f"{source.name}: {source.place(index)} ({fitting[0]}) {error}", where=KEY) from error
    return found
