"""CSV and TSV: rows are read exactly as written, or an error names the row."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm.data.readers.request import ReadRequest, RequestedColumn
from fedfm.data.readers.separated import read_separated
from fedfm.data.settings import CsvSettings
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError

TEXT, LABEL = RequestedColumn("text", "text", "data.text"), RequestedColumn("label", "label", "data.label")
CLIENT = RequestedColumn("hospital", "client", "data.client")
Read = Callable[..., Source]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(content: str, *columns: RequestedColumn, name: str = "x.csv", **dialect: Any) -> Source:
        (tmp_path / name).write_text(content, newline="", encoding=dialect.get("encoding") or "utf-8")
        return read_source(
            str(tmp_path / name),
            "train",
            where="data.train",
            columns=columns or (TEXT, LABEL),
            csv=CsvSettings(**dialect),
        )

    return write_and_read


def test_values_are_text_as_it_stands_in_the_file(read: Read) -> None:
    clients = ["001", "01", "1", "1.0", "1e5", "True", "2024-01-01", "98765432109876543210", "NA", "null", " a ", "12B"]
    rows = "".join(f"t,0,{client}\n" for client in clients)
    assert read("text,label,hospital\n" + rows, TEXT, CLIENT).table["hospital"][:] == clients
    numbers = read("text,label\n0,a\n17,b\n007,a\n", TEXT).table
    assert numbers["text"][:] == ["0", "17", "007"]


def test_no_type_is_guessed_and_other_columns_are_not_read(read: Read) -> None:
    rows = "".join(f"good {row},{row % 2},{row}\n" for row in range(3000))
    table = read(f"text,label,zip\n{rows}last,unknown,K1A 0B1\n").table
    assert table.column_names == ["text", "label"]
    assert table[-1] == {"text": "last", "label": "unknown"}


def test_fields_of_several_lines_are_kept(read: Read) -> None:
    texts = ["Great, loved it\nWould, buy\nAgain, soon", "a\r\nb", "a\rb", 'said "yes"\n', "one\n\n\ntwo, three"]
    quoted = "".join('"{}",{}\n'.format(text.replace('"', '""'), number % 2) for number, text in enumerate(texts))
    assert read(f"text,label\n{quoted}").table["text"][:] == texts


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.text(st.sampled_from('ab,;\t"\\ \n\r1'), max_size=12), st.sampled_from(["pos", "neg", "a b"])),
        min_size=1,
        max_size=8,
    ),
    delimiter=st.sampled_from(",;|"),
)
def test_what_the_csv_module_writes_is_read_back_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with (folder / "x.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
            [("text", "label"), *rows]
        )
    request = ReadRequest((TEXT, LABEL), CsvSettings(delimiter=delimiter))
    try:
        table = read_separated(folder / "x.csv", folder, request)
    except DataError as error:
        if "become part of a field" not in str(error):  # a text may look like rows
            raise
    else:
        assert [(row["text"], row["label"]) for row in table] == rows


MANY = "".join(f"good {row},{row % 2}\n" for row in range(10))
LAST = "".join(f"{row % 2},good {row}\n" for row in range(10))
STRAY = {
    "two that open fields": (f'text,label\n{MANY}"good,0\n{MANY}"good,0\n', r"x\.csv:12: row 11 has text after"),
    "one that opens, one that closes": (
        f'text,label\n{MANY}"good,0\n{MANY}good",0\n',
        "row 11 opens .* become part of a field",
    ),
    "neighbours": (f'text,label\n{MANY}"good,0\ngood",0\n', "row 11 opens .* become part of a field"),
    "in the last column": (f'label,text\n{LAST}0,"good\n{LAST}1,good"\n', "row 11 opens .* become part of a field"),
    "never closed": (f'text,label\n{MANY}"good,0\n{MANY}', r"x\.csv:12: row 11 opens .* never closed"),
    "text after it": ('text,label\na,0\n"good" film,1\n', r"x\.csv:3: row 2 has text after .*quotechar: null"),
    "escaped": ('text,label\n"he said \\"good\\" today",0\n', r"row 1 .* set data\.csv\.escapechar: '\\'"),
    "escaped, with a comma": ('text,label\n"he said \\"good, yes\\" today",0\n', r"set data\.csv\.escapechar"),
}


@pytest.mark.parametrize("name", STRAY)
def test_no_quotation_mark_swallows_rows(read: Read, name: str) -> None:
    content, message = STRAY[name]
    with pytest.raises(DataError, match=message):
        read(content)


def test_rows_swallowed_in_a_column_that_is_not_read(read: Read) -> None:
    rows = "".join(f"n{row},{row % 2},good {row}\n" for row in range(10))
    with pytest.raises(DataError, match=r"row 11 opens .* become part of a field"):
        read(f'note,label,text\n{rows}"n,0,good\n{rows}n",1,good\n')


def test_numbers_beside_swallowed_rows_give_them_away(read: Read) -> None:
    rows = "".join(f"{row},text {row}\n" for row in range(2000))
    with pytest.raises(DataError, match=r"row 2001 opens .* become part of a field"):
        read(f'id,text\n{rows}2000,"good\n2001,bad\n2002,worse\n2003,best"\n', TEXT)


def test_rows_swallowed_beside_free_text(read: Read) -> None:
    words = ["the film", "a book", "it was", "he said no", "they left"]
    rows = "".join(
        f"{words[row % 5]} {words[row % 3]},{words[row % 4]} {words[row % 5]},{row % 2}\n" for row in range(30)
    )
    columns = RequestedColumn("premise", "text", "data.text"), RequestedColumn("hypothesis", "text", "data.text")
    with pytest.raises(DataError, match=r"row 31 opens .* become part of a field"):
        read(
            f'premise,hypothesis,label\n{rows}"a day,a night,1\nan hour,a week,0\na month,a year",to wait,1\n', *columns
        )


def test_identifiers_beside_swallowed_rows_give_them_away(read: Read) -> None:
    rows = "".join(f"p-{row},text {'ab'[row % 2] * (row % 7)}\n" for row in range(20))
    with pytest.raises(DataError, match=r"row 21 opens .* become part of a field"):
        read(f'id,text\n{rows}p-20,"good\np-21,bad\np-22,worse\np-23,best"\n', TEXT)


def test_tsv_swallows_nothing(read: Read) -> None:
    with pytest.raises(DataError, match=r"row 1 opens .* become part of a field"):
        read('text\tlabel\n" oops\t1\nb\t2\nc "\t3\n', name="x.tsv")


RAGGED = {
    "wide": (
        "text,label\na,1\nb,2,3,4\n",
        r"x\.csv:3: row 2 has 4 fields, the header has 2; put a field that contains",
    ),
    "narrow": ("text,label\na,1\nb\n", r"x\.csv:3: row 2 has 1 field, the header has 2"),
    "after blank lines": ("text,label\n\n\na,1\n\nb\n", r"x\.csv:6: row 2 has 1 field"),
    "after a long field": ('text,label\n"a\nb",1\nb\n', r"x\.csv:4: row 2 has 1 field"),
    "all wide": (
        "text,label\na,1,\nb,1,\n",
        r"x\.csv:2: row 1 has 3 fields, .*; end the header with as many delimiters",
    ),
    "a bare carriage return": ("text,label\na,1\ngo\rod,1\n", r"x\.csv:3: row 2 has 1 field, .* or a line break"),
}


@pytest.mark.parametrize("name", RAGGED)
def test_rows_of_another_width_are_refused(read: Read, name: str) -> None:
    content, message = RAGGED[name]
    with pytest.raises(DataError, match=message):
        read(content)


HEADERS = {
    "semicolons": ("text;label\na;1\n", r"set data\.csv\.delimiter: ';'"),
    "tabs": ("text\tlabel\na\t1\n", r'set data\.csv\.delimiter: "\\t"'),
    "bars": ("text|label\na|1\n", r"set data\.csv\.delimiter: '\|'"),
    "capitals": ("Text,Label\na,1\n", "columns: Text, Label; did you mean 'Text'?"),
    "spaces": ("text, label\na,1\n", "columns: text, ' label'; did you mean ' label'?"),
    "a line before": ("# exported\ntext,label\na,1\n", "the next line has all required columns: remove"),
    "no header": ("a,1\nb,0\n", "columns: a, 1; the first line must name the columns"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_missing_column_comes_with_what_may_be_meant(read: Read, name: str) -> None:
    content, message = HEADERS[name]
    with pytest.raises(RecipeError, match=message) as caught:
        read(content)
    assert caught.value.problems[0].where in ("data.text", "data.label")


def test_quoted_names_between_other_delimiters(read: Read) -> None:
    with pytest.raises(DataError, match=r"the header has text after .* set data\.csv\.delimiter: ';'"):
        read('"text";"label"\na;1\n')


def test_two_columns_of_a_needed_name(read: Read) -> None:
    with pytest.raises(DataError, match="2 columns are called `text`"):
        read("text,text,label\na,b,1\n")
    assert read("text,label,note,note,\na,1,x,y,\n").table.to_list() == [{"text": "a", "label": "1"}]


DIALECTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "delimiter": ("text;label\na, b;1\n", {"delimiter": ";"}, "a, b"),
    "tab in a csv": ("text\tlabel\na, b\t1\n", {"delimiter": "\t"}, "a, b"),
    "tab, as typed": ("text\tlabel\na, b\t1\n", {"delimiter": r"\t"}, "a, b"),
    "escape": ('text,label\n"he said \\"a, b\\"",1\n', {"escapechar": "\\"}, 'he said "a, b"'),
    "no quoting": ('text,label\n"Good" film,1\n', {"quotechar": None}, '"Good" film'),
    "other quotes": ("text,label\n'a, \"b',1\n", {"quotechar": "'"}, 'a, "b'),
    "encoding": ("text,label\ncafé,1\n", {"encoding": "cp1252"}, "café"),
    "utf-16 without a mark": ("text,label\ncafé,1\n", {"encoding": "utf-16-le"}, "café"),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_how_the_file_is_written_can_be_said(read: Read, name: str) -> None:
    content, dialect, text = DIALECTS[name]
    assert read(content, **dialect).table.to_list() == [{"text": text, "label": "1"}]


def test_another_dialect_is_another_table(read: Read) -> None:
    content = 'text,label\n"a",1\n'
    plain, literal = read(content), read(content, quotechar=None)
    assert (plain.table[0]["text"], literal.table[0]["text"]) == ("a", '"a"')
    assert plain.digest != literal.digest


def test_a_wrong_encoding_is_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("text,label\na,1\ncafé,1\n".encode())
    with pytest.raises(DataError, match=r"x\.csv:\d: is not ascii from this line on; set data\.csv\.encoding"):
        read_source(str(tmp_path / "x.csv"), "train", where="data.train", csv=CsvSettings(encoding="ascii"))


@pytest.mark.parametrize(
    "dialect",
    [{"delimiter": ";;"}, {"delimiter": "\n"}, {"delimiter": '"'}, {"encoding": "latin-9000"}, {"encoding": "hex"}],
)
def test_dialects_that_cannot_be(dialect: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"must be|not a text encoding"):
        CsvSettings(**dialect)
