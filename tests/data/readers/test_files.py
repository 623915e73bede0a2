"""Files of every ending give the same table; what is wrong with one is said with its line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError, StorageError

JSON_LINES = b'{"text": "a \xc3\xa4", "label": 1}\n\n{"text": "b, \\"c\\"", "label": 0}\n'
CSV = b'text,label\na \xc3\xa4,1\n"b, ""c""",0\n'
TSV = b'text\tlabel\na \xc3\xa4\t1\n"b, ""c"""\t0\n'
ROWS = [{"text": "a ä", "label": 1}, {"text": 'b, "c"', "label": 0}]
FILES = {
    "x.jsonl": JSON_LINES,
    "x.json": JSON_LINES,
    "list.json": b'[{"text": "a \xc3\xa4", "label": 1}, {"text": "b, \\"c\\"", "label": 0}]',
    "bom.jsonl": b"\xef\xbb\xbf" + JSON_LINES,
    "x.JSONL": JSON_LINES,
    "x.jsonl.gz": gzip.compress(JSON_LINES),
    "no line end.jsonl": JSON_LINES.rstrip(),
    "windows.jsonl": JSON_LINES.replace(b"\n", b"\r\n"),
    "x.csv": CSV,
    "bom.csv": b"\xef\xbb\xbf" + CSV,
    "x.csv.gz": gzip.compress(CSV),
    "windows.csv": CSV.replace(b"\n", b"\r\n"),
    "x.tsv": TSV,
    "x.tsv.gz": gzip.compress(TSV),
    "a [b] *.jsonl": JSON_LINES,
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, bytes], Source]:
    def write_and_read(name: str, content: bytes) -> Source:
        (tmp_path / name).write_bytes(content)
        return read_source(str(tmp_path / name), "train", where="data.train")

    return write_and_read


@pytest.mark.parametrize("name", FILES)
def test_all_endings_give_the_same_rows(read: Callable[[str, bytes], Source], name: str) -> None:
    assert read(name, FILES[name]).table.to_list() == ROWS


def test_parquet(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(tmp_path / "x.parquet")
    assert read_source(str(tmp_path / "x.parquet"), "train", where="data.train").table.to_list() == ROWS


def test_words_that_pandas_takes_for_missing_stay_words(read: Callable[[str, bytes], Source]) -> None:
    assert read("x.csv", b"text,label\nNA,null\nNone,nan\n").table.to_list() == [
        {"text": "NA", "label": "null"},
        {"text": "None", "label": "nan"},
    ]


MALFORMED = {
    "value.jsonl": (b'{"text": "a"}\n\n{"text": }\n', r"value\.jsonl:3: not JSON"),
    "open.jsonl": (b'{"text": "a"}\n{"text": "b"\n', r"open\.jsonl:2: not JSON"),
    "number.jsonl": (b'{"text": "a"}\n5\n', r"number\.jsonl:2: a JSON int, not an object"),
    "twice.jsonl": (b'{"text": "a", "text": "b"}\n', r"twice\.jsonl: .*specified twice"),
    "latin1.jsonl": (b'{"text": "a"}\n{"text": "\xe4"}\n', r"latin1\.jsonl:2: is not UTF-8 \(byte 11 "),
    "nul.jsonl": (b'{"text": "a"}\n{"text": "\0"}\n', r"nul\.jsonl:2: has a NUL byte"),
    "latin1.csv": (b"text,label\n\xe4,1\n", r"latin1\.csv:2: is not UTF-8"),
    "nul.csv": (b"text,label\na\0b,1\n", r"nul\.csv:2: has a NUL byte"),
    "wide.csv": (b"text,label\na,1\nb,2,3,4\n", r"wide\.csv:3: malformed: .*Expected 2 fields"),
    "all wide.csv": (b"text,label\na,1,2\nb,1,2\n", r"all wide\.csv: malformed: the rows have more fields"),
    "quote.csv": (b'text,label\n"a,1\nb,2\n', r"quote\.csv: malformed: .*EOF inside string"),
    "swallows.tsv": (b'text\tlabel\n" oops\t1\nb\t2\nc "\t3\n', r"swallows\.tsv: row 1 opens a quotation mark"),
    "no gzip.jsonl.gz": (b"plain", r"no gzip\.jsonl\.gz: damaged gzip"),
    "cut.jsonl.gz": (gzip.compress(JSON_LINES * 9000)[:-20], r"cut\.jsonl\.gz: damaged gzip"),
    "x.parquet": (b"PAR1 and no more", r"x\.parquet: cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_name_the_line(read: Callable[[str, bytes], Source], name: str) -> None:
    content, message = MALFORMED[name]
    with pytest.raises(DataError, match=message) as caught:
        read(name, content)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


EMPTY = {"x.jsonl": b"", "blank.jsonl": b"\n \n", "x.csv": b"", "head.csv": b"text,label\n", "head.tsv": b"a\tb\n\n"}


@pytest.mark.parametrize("name", EMPTY)
def test_files_without_examples(read: Callable[[str, bytes], Source], name: str) -> None:
    with pytest.raises(RecipeError, match=r"is empty: it has no examples") as caught:
        read(name, EMPTY[name])
    assert caught.value.problems[0].where == "data.train"


def test_an_empty_list_of_objects(read: Callable[[str, bytes], Source]) -> None:
    with pytest.raises((RecipeError, DataError)):
        read("x.json", b"[]")


def test_a_full_disk_is_not_blamed_on_the_file(
    read: Callable[[str, bytes], Source], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def fill(*_: object, **__: object) -> Dataset:
        raise DatasetGenerationError("generating") from OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "from_json", fill)
    with pytest.raises(StorageError, match="No space left"):
        read("x.jsonl", JSON_LINES)


def test_a_file_that_changes_is_read_again(read: Callable[[str, bytes], Source]) -> None:
    first = read("x.jsonl", b'{"text": "a"}\n')
    second = read("x.jsonl", b'{"text": "b"}\n')
    assert (first.table["text"][:], second.table["text"][:]) == (["a"], ["b"])
    assert first.digest != second.digest


def test_nothing_of_the_libraries_stays_in_the_cache(read: Callable[[str, bytes], Source], own_cache: Path) -> None:
    read("x.jsonl.gz", FILES["x.jsonl.gz"])
    assert [path.suffix for path in own_cache.rglob("*")] == [".arrow"]
