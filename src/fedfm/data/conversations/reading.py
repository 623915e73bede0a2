"""Reads the conversations of a source, whatever the format of each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import Features, Value, concatenate_datasets

from fedfm.data.cache import cache_key
from fedfm.data.conversations import FORMATS, Format
from fedfm.data.conversations.turns import checked, written
from fedfm.data.encoding import Encode, encoded
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import ConversationSettings
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

CONVERSATION = "(conversation)"
"""Column of the conversations that `with_conversations` has read."""

KEY = "data.conversation"


def conversation_columns(settings: ConversationSettings) -> list[RequestedColumn]:
    """The columns in which conversations may be; those that the settings name must exist."""
    named = {settings.prompt: "prompt", settings.response: "response", settings.turns: "turns"}
    roles = {name: role for form in formats(settings).values() for name, role in form.columns.items()}
    return [
        RequestedColumn(name, role, f"{KEY}.{named[name]}" if name in named else KEY, required=name in named)
        for name, role in roles.items()
    ]


def formats(settings: ConversationSettings) -> dict[str, Format]:
    """The formats that rows may have, with the columns that the settings name."""
    chosen = dict(FORMATS)
    if settings.format != "auto":
        chosen = {settings.format: FORMATS[settings.format]}
    elif settings.prompt is not None:
        chosen = {"pairs": FORMATS["pairs"]}
    elif settings.turns is not None:
        chosen = {name: FORMATS[name] for name in ("messages", "sharegpt")}
    return {name: form.named(settings) for name, form in chosen.items()}


def with_conversations(source: Source, settings: ConversationSettings) -> Source:
    """A source with its conversations in the column `CONVERSATION`; each row may have another format.

    Raises:
        RecipeError: at `data.conversation`: the source has the columns of no format.
        DataError: a row is no conversation, or fits two formats.
    """
    known, names = formats(settings), source.table.column_names
    possible = {name: form for name, form in known.items() if form.is_possible(names)}
    if not possible:
        raise RecipeError(
            f"{source.name} has no conversations: its columns are {', '.join(names)}, and those of "
            f"{', '.join(known)} are in docs/methods/instruct.md; name them with `data.conversation.prompt` and "
            "`.response`, or `.turns`",
            where=KEY,
        )
    chosen = list(dict.fromkeys(name for form in possible.values() for name in form.columns if name in names))
    says = settings.model_dump()
    key = cache_key(kind="conversations", source=source.digest, settings=says, version=1)

    def prepare() -> Encode:
        columns = {name: source.table.with_format("arrow")[:][name].to_pylist() for name in chosen}

        def read(rows: list[int]) -> dict[str, Any]:
            values = ({name: column[row] for name, column in columns.items()} for row in rows)
            return {
                CONVERSATION: [_read(value, possible, source, row) for value, row in zip(values, rows, strict=True)]
            }

        return read

    table = encoded(key, len(source), prepare, Features({CONVERSATION: Value("string")}), batch_size=1000)
    digest = hashlib.sha256(f"{source.digest}/{json.dumps(says, sort_keys=True)}".encode()).hexdigest()
    return replace(source, table=concatenate_datasets([source.table, table], axis=1), digest=digest)


def _read(row: Mapping[str, Any], possible: Mapping[str, Format], source: Source, index: int) -> str:
    """The conversation of one row, as `written`."""
    place = f"{source.name}: {source.place(index)}"
    fitting = [name for name, form in possible.items() if form.fits(row)]
    if len(fitting) > 1:
        raise DataError(f"{place} is {fitting[0]} and also {fitting[1]}; set {KEY}.format to one of them", where=KEY)
    if not fitting:
        raise DataError(f"{place} has no prompt and no turns ({', '.join(possible)})", where=KEY)
    try:
        return written(checked(possible[fitting[0]].turns(row)))
    except ValueError as error:
        raise DataError(f"{place} ({fitting[0]}) {error}", where=KEY) from error
