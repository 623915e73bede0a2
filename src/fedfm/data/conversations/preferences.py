"""Reads pairs of responses to one prompt, of which one is preferred, in the formats that are usual for them.

A row has `chosen` and `rejected`. Each is a response, or a whole conversation that ends with one. The prompt is a
question, or a list of turns, in a column of its own; whole conversations need none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import Features, Value, concatenate_datasets

from fedfm.data.cache import cache_key
from fedfm.data.conversations import FORMATS
from fedfm.data.conversations.turns import Turn, checked, parsed, written
from fedfm.data.encoding import Encode, encoded
from fedfm.data.readers.request import RequestedColumn, missing_column
from fedfm.data.settings import PreferenceSettings
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

PAIR = "(preference)"
"""Column of the pairs that `with_preferences` has read."""

KEY = "data.preference"

PROMPTS = ("prompt", "question", "instruction", "query")
SYSTEMS = ("system", "system_prompt")


def preference_columns(settings: PreferenceSettings) -> list[RequestedColumn]:
    """The columns in which pairs may be; `chosen` and `rejected`, and a prompt that the settings name, must exist."""
    sides = [RequestedColumn(getattr(settings, side), "turns", f"{KEY}.{side}") for side in ("chosen", "rejected")]
    if settings.prompt is not None:
        return [*sides, RequestedColumn(settings.prompt, "turns", f"{KEY}.prompt"), *_systems()]
    return [*sides, *(RequestedColumn(name, "turns", KEY, required=False) for name in PROMPTS), *_systems()]


def _systems() -> list[RequestedColumn]:
    return [RequestedColumn(name, "text", KEY, required=False) for name in SYSTEMS]


def with_preferences(source: Source, settings: PreferenceSettings) -> Source:
    """A source with its pairs in the column `PAIR`.

    Raises:
        RecipeError: at `data.preference`: a column is missing.
        DataError: a row is no pair of different responses to one prompt.
    """
    names = source.table.column_names
    for side in ("chosen", "rejected"):
        if (column := getattr(settings, side)) not in names:
            raise RecipeError(missing_column(column, names, source.name), where=f"{KEY}.{side}")
    says = settings.model_dump()
    key = cache_key(kind="preferences", source=source.digest, settings=says, version=1)
    wanted = {settings.chosen, settings.rejected, settings.prompt, *PROMPTS, *SYSTEMS}

    def prepare() -> Encode:
        columns = {name: source.table.with_format("arrow")[:][name].to_pylist() for name in names if name in wanted}

        def read(rows: list[int]) -> dict[str, Any]:
            values = [{name: column[row] for name, column in columns.items()} for row in rows]
            return {PAIR: [_read(value, settings, source, row) for value, row in zip(values, rows, strict=True)]}

        return read

    table = encoded(key, len(source), prepare, Features({PAIR: Value("string")}), batch_size=1000)
    digest = hashlib.sha256(f"{source.digest}/{json.dumps(says, sort_keys=True)}".encode()).hexdigest()
    return replace(source, table=concatenate_datasets([source.table, table], axis=1), digest=digest)


def parsed_pair(text: str) -> tuple[list[Turn], list[Turn]]:
    """The two conversations of a value of `PAIR`, the chosen one first; only their last responses are learnt."""
    chosen, rejected = json.loads(text)
    return parsed(chosen), parsed(rejected)


def _read(row: Mapping[str, Any], settings: PreferenceSettings, source: Source, index: int) -> str:
    """The pair of one row as text."""
    try:
        sides = [_conversation(row, settings, getattr(settings, side)) for side in ("chosen", "rejected")]
        _refuse_unequal(*sides)
        return json.dumps([written(side) for side in sides], ensure_ascii=False)
    except ValueError as error:
        raise DataError(f"{source.name}: {source.place(index)} {error}", where=KEY) from error


def _conversation(row: Mapping[str, Any], settings: PreferenceSettings, column: str) -> list[Turn]:
    """The conversation that ends with the response of one column.

    Raises:
        ValueError: there is none; the reason continues "row 3 …".
    """
    prompts = PROMPTS if settings.prompt is None else (settings.prompt,)
    said = [name for name in prompts if _is_said(row.get(name)) and name != column]
    if len(said) > 1:
        raise ValueError(f"has `{said[0]}` and `{said[1]}`; name the column of the prompt with {KEY}.prompt")
    prompt = _turns(row[said[0]], said[0], "user") if said else []
    if not _is_said(row.get(column)):
        raise ValueError(f"has no response in column `{column}`")
    answer = _turns(row[column], column, "assistant")
    if next((turn.role for turn in answer if turn.role != "system"), None) == "assistant":
        if not any(turn.role == "user" for turn in prompt):
            raise ValueError(f"has no prompt before `{column}`; name its column with {KEY}.prompt")
        whole = [*prompt, *answer]
    else:
        whole = answer  # has its own prompt
        if any(turn not in whole for turn in prompt):
            raise ValueError(f"has a prompt in `{said[0]}` that is not in the conversation of `{column}`")
    if whole[0].role != "system":
        whole = [*(Turn("system", row[name]) for name in SYSTEMS if _is_said(row.get(name))), *whole]
    last = whole[-1]
    if last.role != "assistant" or not last.text.strip():
        raise ValueError(f"has no response at the end of `{column}`")
    turns = [replace(turn, learned=False) for turn in whole[:-1]]
    return checked([*turns, replace(last, learned=True)])


def _turns(value: Any, column: str, role: str) -> list[Turn]:
    """A text as one turn of a role, or a list of turns."""
    for name in ("messages", "sharegpt"):
        form = replace(FORMATS[name], names=(column,))  # type: ignore[type-var]
        if form.fits({column: value}):
            return form.turns({column: value})
    if not isinstance(value, str):
        raise ValueError(f"has neither text nor turns in column `{column}`")
    return [Turn("user" if role == "user" else "assistant", value)]


def _refuse_unequal(chosen: list[Turn], rejected: list[Turn]) -> None:
    """Refuses a pair whose conversations differ before their responses, or not at all."""
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("has conversations that differ before their last response, so that they answer two prompts")
    if chosen[-1] == rejected[-1]:
        raise ValueError("has one response as the chosen and the rejected one; remove the row")


def _is_said(value: Any) -> bool:
    """Whether a value is there and not blank; an empty list is `[]` once it is read from JSON."""
    return value is not None and value != [] and (not isinstance(value, str) or value.strip() not in ("", "[]"))
