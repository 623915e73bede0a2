"""JSON: values as written in the file, or an error with file, line, row and column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedfm.data.columns import clients_of, column_of
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError

COLUMNS = (
    RequestedColumn("text", "text", "data.text"),
    RequestedColumn("label", "label", "data.label"),
    RequestedColumn("who", "client", "data.client", required=False),
)
Read = Callable[..., Source]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(content: str | list[dict[str, Any]], name: str = "x.jsonl") -> Source:
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text)
        return read_source(str(tmp_path / name), "train", where="data.train", columns=COLUMNS)

    return write_and_read


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [
        {"text": "a", "label": 0} | dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]


def test_clients_are_text_as_it_stands_in_the_file(read: Read) -> None:
    names = ["2024-01-01", "001", 1, 98765432109876543210123, True, "1e5", "null", -3]
    found = clients_of(read(rows(who=names)), "who")
    assert found is not None
    assert found.tolist() == ["2024-01-01", "001", "1", "98765432109876543210123", "true", "1e5", "null", "-3"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["2019-01-01", "2020-01-01"], ("2019-01-01", "2020-01-01")),
        ([1.0, 1, 0], ("0", "1")),
        (["0", 1, 0], ("0", "1")),
        ([None, "late"] * 0 + ["early", "late"], ("early", "late")),
        ([True, False], ("false", "true")),
    ],
)
def test_labels_of_several_types(read: Read, labels: list[Any], names: tuple[str, ...]) -> None:
    assert LabelMap.from_source(read(rows(label=labels)), "label").names == names


def test_other_columns_may_hold_anything(read: Read) -> None:
    others = [None] * 1500 + ["text", 1, [1], {"a": {}}, float("nan"), 1e400, True]
    table = read([{"text": str(row), "label": 0, "": other} for row, other in enumerate(others)]).table
    assert table.column_names == ["text", "label"]
    assert len(table) == len(others)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_values(read: Read, missing: float | None) -> None:
    source = read([*rows(text=["a", missing]), {"label": 1}])
    with pytest.raises(DataError, match=r"column `text` is empty in 2 of 3 rows .*; the first is row 2"):
        column_of(source, "text", "data.text")


WRONG = {
    "a number for a text": (
        rows(text=["a", 42]),
        r"x\.jsonl:2: row 2, column `text`: contains the number 42, not text",
    ),
    "a list for a text": (rows(text=["a", ["b"]]), r"x\.jsonl:2: row 2, column `text`: contains a list, not text"),
    "an object for a text": (rows(text=["a", {"en": "b"}]), "row 2, column `text`: contains an object"),
    "true for a text": (rows(text=["a", True]), "row 2, column `text`: contains true"),
    "several labels": (
        rows(label=[0, [0, 1]]),
        "row 2, column `label`: contains a list.*need `task.kind: multi-label`",
    ),
    "part of a client": (rows(who=["a", 0.5]), r"row 2, column `who`: contains the number 0\.5, but a client's name"),
    "a key twice": ('{"text": "a", "label": 0}\n{"text": "b", "text": "c"}\n', "row 2 has the key `text` twice"),
    "half a character": (
        rows(text=["a", "b\ud83d"]),
        r"row 2, column `text`: has half of a surrogate pair \(\\ud83d\)",
    ),
    "too deep": ('{"text": "a", "label": ' + "[" * 100_000, "nested too deeply"),
    "no value": ('{"text": "a"}\n\n{"text": }\n', r"x\.jsonl:3: not JSON: .* at column 10"),
    "cut off": ('{"text": "a"}\n{"text": "b"\n', r"x\.jsonl:2: not JSON"),
    "single quotes": ("{'text': 'a'}\n", r"x\.jsonl:1: not JSON: .*double quotes at column 2"),
    "commas between": (
        '{"text": "a"},\n{"text": "b"}\n',
        r"x\.jsonl:1: not JSON: .* remove the comma at the end of the line",
    ),
    "a comma at the end": ('[\n{"text": "a"},\n{"text": "b"},\n]\n', r"x\.jsonl:3: not JSON: unexpected comma before"),
    "an open list": ('[\n{"text": "a"}\n', r"x\.jsonl:3: not JSON: a comma or the closing bracket"),
    "something after a list": ('[\n{"text": "a"}\n]\n{}', r"x\.jsonl:4: not JSON: something follows the list"),
    "numbers": ('{"text": "a"}\n5\n', r"x\.jsonl:2: a JSON number, not an object"),
    "lists": ('["a", 0]\n["b", 1]\n', r"x\.jsonl:1: a JSON list, not an object"),
    "plain text": ("good\nbad\n", r"x\.jsonl:1: not JSON"),
    "columns": (
        '{"text": ["a", "b"], "label": [0, 1]}',
        r"row 1, column `text`: .*; the file contains only one object",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_place(read: Read, name: str) -> None:
    content, message = WRONG[name]
    with pytest.raises(DataError, match=message) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_key_that_no_object_has(read: Read) -> None:
    with pytest.raises(RecipeError, match=r"data\.label: no column `label` in .*; columns: text, Label; did you mean"):
        read('{"text": "a"}\n{"Label": 1}\n')
    with pytest.raises(RecipeError, match=r"no column `text` .*; columns: version, data; .*save the list below `data`"):
        read('{"version": 1, "data": [{"text": "a", "label": 0}]}', name="x.json")


def test_a_key_twice_matters_only_where_it_is_read(read: Read) -> None:
    assert (
        len(read('{"id": 1, "id": 2, "text": "a", "label": {"a": 1, "a": 2}}\n'.replace('{"a": 1, "a": 2}', "0"))) == 1
    )
