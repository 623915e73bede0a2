"""Reads JSON: one object per row, on lines, in a list, or one after the other; values as written in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from datasets import Dataset

from fedfm.data.readers.request import ReadRequest, RequestedColumn, missing_column
from fedfm.data.readers.rows import text_table
from fedfm.data.readers.text_files import lines
from fedfm.errors import DataError, RecipeError


class _Number(str):
    """A number with its digits as written in the file, so that no precision is lost."""

    __slots__ = ()


class _Repeating(dict[str, Any]):
    """An object with duplicate keys, which are in ``keys_twice``."""

    keys_twice: frozenset[str] = frozenset()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeating = _Repeating(found)
    names = [name for name, _ in pairs]
    repeating.keys_twice = frozenset(name for name in found if names.count(name) > 1)
    return repeating


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_Number, parse_float=_Number, parse_constant=_Number)


def read_json(path: Path, scratch: Path, request: ReadRequest) -> Dataset:
    """Reads the requested columns from objects: one per line, one after the other, or in one list.

    Missing keys, ``null`` and ``NaN`` are missing values. Numbers, true and false in columns of labels and clients
    become text, as written in the file; a text column must contain text.

    Raises:
        RecipeError: no object has a required column.
        DataError: the file is not such JSON; with file and line, and the column if the error is about one.
    """
    wanted = request.columns
    if wanted is None:
        names = dict.fromkeys(name for _, value in _values(path) for name in value)
        wanted = tuple(RequestedColumn(name, "any", "") for name in names)
    columns = ReadRequest(wanted).present([column.name for column in wanted], path)
    seen: set[str] = set()
    table = text_table([column.name for column in columns], _rows(path, columns, seen), scratch, path)
    if not len(table):
        return table
    if columns and not seen and not any(column.required for column in columns):
        found = list(dict.fromkeys(name for _, value in _values(path) for name in value))
        raise RecipeError(request.none_of(found, str(path)), where=columns[0].where)
    for column in columns:
        if column.name not in seen:
            if column.required:
                raise RecipeError(_missing(column, path), where=column.where)
            table = table.remove_columns(column.name)
    return table


def _rows(path: Path, columns: list[RequestedColumn], seen: set[str]) -> Iterator[list[str | None]]:
    """The requested values of each object; adds the names of columns that occur to ``seen``."""
    for row, (line, value) in enumerate(_values(path), start=1):
        if isinstance(value, _Repeating):
            twice = next((column.name for column in columns if column.name in value.keys_twice), None)
            if twice is not None:
                raise DataError(f"{path}:{line}: row {row} has the key `{twice}` twice; remove one of them")
        values: list[str | None] = []
        for column in columns:
            if column.name not in value:
                values.append(None)
                continue
            seen.add(column.name)
            text = _text(value[column.name], column)
            if isinstance(text, _Unfit):
                single = row == 1 and len(list(islice(_values(path), 2))) == 1
                raise DataError(
                    f"{path}:{line}: row {row}, column `{column.name}`: {text}" + (f"; {_ONE_OBJECT}" if single else "")
                )
            values.append(text)
        yield values


_ONE_OBJECT = (
    "the file contains only one object; rows must be objects, one per line or in a list "
    '(pandas: `to_json(orient="records")`)'
)


class _Unfit(str):
    """The reason why a value cannot be used in its column."""

    __slots__ = ()


def _text(value: Any, column: RequestedColumn) -> str | None:
    """A value as text; None if it is missing, `_Unfit` if it cannot be used."""
    if value is None or (type(value) is _Number and value == "NaN"):
        return None
    if isinstance(value, list) and column.role in ("list", "number", "any"):
        return _list(value, column)
    if type(value) is str and column.role != "list":
        return value
    if column.role == "any":
        return str(value)
    if type(value) is _Number and column.role == "number":
        return str(value)
    if column.role in ("label", "client"):
        if isinstance(value, bool):
            return str(value).lower()
        if type(value) is _Number and (column.role == "label" or value.lstrip("-").isdigit()):
            return str(value)
    if column.role == "turns" and isinstance(value, list):
        return _as_json(value)
    several = column.role == "label" and isinstance(value, list)
    more = (
        "; several labels an example need `task.kind: multi-label`, lists of tags token-classification"
        if several
        else ""
    )
    return _Unfit(f"contains {_described(value)}, {_EXPECTED[column.role]}{more}")


def _list(values: list[Any], column: RequestedColumn) -> str:
    """A list as JSON, in which numbers, true and false are text."""
    for value in values:
        if not isinstance(value, str | bool):
            return _Unfit(f"contains a list with {_described(value)}, not a list of texts or numbers")
    return json.dumps([str(v).lower() if isinstance(v, bool) else v for v in values], ensure_ascii=False)


def _as_json(value: Any) -> str:
    """A value as JSON; `_Unfit` if an object in it has a key twice."""
    twice: list[str] = []

    def plain(part: Any) -> Any:
        if isinstance(part, _Repeating):
            twice.extend(sorted(part.keys_twice))
        if isinstance(part, dict):
            return {key: plain(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [plain(inner) for inner in part]
        return float(part) if type(part) is _Number else part

    text = json.dumps(plain(value), ensure_ascii=False)
    return _Unfit(f"has the key `{twice[0]}` twice in an object; remove one of them") if twice else text


_EXPECTED = {
    "text": "not text",
    "list": "not a list",
    "number": "not a number",
    "turns": "not a list of turns",
    "client": "but a client's name must be text or a whole number",
    "label": "but a label must be text, a whole number, true or false",
    "image": "not the path of an image",
}


def _described(value: Any) -> str:
    if type(value) is _Number:
        return f"the number {value[:20]}"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with the line on which it begins.

    Raises:
        DataError: something in the file is not a JSON object; with its line.
    """
    try:
        yield from _by_line(path)
    except RecursionError as error:
        raise DataError(f"{path}: has values nested too deeply to be read") from error


def _by_line(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    first = True
    for number, line in enumerate(lines(path), start=1):
        if line.isspace():
            continue
        try:
            value = _DECODER.decode(line)
        except JSONDecodeError as error:
            if first and (not line[error.pos :].strip() or line.lstrip()[0] == "["):
                yield from _whole(path)  # an object or a list continues on the next line
                return
            comma = ": remove the comma at the end of the line" if line.rstrip().endswith("},") else ""
            raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}{comma}") from error
        if first and isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            yield from _whole(path)
            return
        first = False
        yield number, _checked(value, path, number)


def _whole(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects that extend over several lines, or are in one list."""
    text = "".join(lines(path))
    place = _after_space(text, 0)
    listed = text[place] == "["
    line, counted = 1, 0
    try:
        if listed:
            place = _after_space(text, place + 1)
        while place < len(text) and not (listed and text[place] == "]"):
            line, counted = line + text.count("\n", counted, place), place
            value, place = _DECODER.raw_decode(text, place)
            place = _after_space(text, place)
            yield line, _checked(value, path, line)
            if listed and text[place : place + 1] == ",":
                comma, place = place, _after_space(text, place + 1)
                if text[place : place + 1] == "]":
                    raise JSONDecodeError("unexpected comma before the closing bracket", text, comma)
            elif listed and text[place : place + 1] != "]":
                raise JSONDecodeError("a comma or the closing bracket is missing", text, place)
        if listed and text[place + 1 :].strip():
            raise JSONDecodeError("something follows the list", text, _after_space(text, place + 1))
    except JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _checked(value: Any, path: Path, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = {list: "list", _Number: "number", str: "text", bool: "true or false"}.get(type(value), "null")
        raise DataError(f"{path}:{line}: a JSON {kind}, not an object with one value per column")
    return value


def _missing(column: RequestedColumn, path: Path) -> str:
    """The message for a column that no object has."""
    objects = [value for _, value in _values(path)]
    names = dict.fromkeys(name for value in objects for name in value)
    inner = next((name for name, value in objects[0].items() if isinstance(value, list)), None)
    below = f"; save the list below `{inner}`" if inner else ""
    hint = _ONE_OBJECT + below if len(objects) == 1 else ""
    return missing_column(column.name, list(names), str(path), hint)
