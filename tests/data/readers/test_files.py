"""Files of every format give the same table; errors name the line."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fedfm.data.readers import text_files
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError, StorageError

JSON_LINES = b'{"text": "a \xc3\xa4", "label": 1}\n\n{"text": "b, \\"c\\"", "label": 0}\n'
CSV = b'text,label\na \xc3\xa4,1\n"b, ""c""",0\n'
TSV = b'text\tlabel\na \xc3\xa4\t1\n"b, ""c"""\t0\n'
ROWS = [{"text": "a ä", "label": "1"}, {"text": 'b, "c"', "label": "0"}]
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
    "macintosh.csv": CSV.replace(b"\n", b"\r"),
    "utf16.csv": CSV.decode().encode("utf-16"),
    "big endian.csv": b"\xfe\xff" + CSV.decode().encode("utf-16-be"),
    "utf32.csv": CSV.decode().encode("utf-32"),
    "excel.csv": b"sep=;\r\n" + b'text;label\na \xc3\xa4;1\n"b, ""c""";0\n',
    "two members.csv.gz": gzip.compress(CSV[:14]) + gzip.compress(CSV[14:]),
    "pretty.jsonl": b'{\n "text": "a \xc3\xa4",\n "label": 1\n}\n{\n "text": "b, \\"c\\"", "label": 0}\n',
    "pretty list.json": b'[\n {"text": "a \xc3\xa4",\n  "label": 1},\n {"text": "b, \\"c\\"", "label": 0}\n]\n',
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


def test_parquet_keeps_types_and_names_of_classes(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "unused": Value("int8")})
    table = {"text": ["a", "b"], "label": [1, 0], "unused": [1, 2]}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "x.parquet")
    columns = [RequestedColumn("label", "label", "data.label"), RequestedColumn("text", "text", "data.text")]
    source = read_source(str(tmp_path / "x.parquet"), "train", where="data.train", columns=columns)
    assert source.table.features == Features({"text": Value("string"), "label": features["label"]})
    assert source.table.to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


ENCODED = {
    "categories": pa.array(["a", "b"]).dictionary_encode(),
    "string view": pa.array(["a", "b"], pa.string_view()),
    "large string": pa.array(["a", "b"], pa.large_string()),
}


@pytest.mark.parametrize("name", ENCODED)
def test_encodings_of_parquet_columns_do_not_matter(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"text": ENCODED[name]}), tmp_path / "x.parquet")
    table = read_source(str(tmp_path / "x.parquet"), "train", where="data.train").table
    assert (table["text"][:], table.features["text"]) == (["a", "b"], Value("string"))


def test_parquet_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], [1]], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="2 columns are called `text`"):
        read_source(path, "train", where="data.train", columns=[RequestedColumn("text", "text", "data.text")])
    labels = read_source(path, "train", where="data.train", columns=[RequestedColumn("label", "label", "data.label")])
    assert labels.table.to_list() == [{"label": 1}]


MALFORMED = {
    "gzip.csv": (gzip.compress(CSV), r"gzip\.csv: is a gzip file, but its name has another ending"),
    "parquet.csv": (b"PAR1\0\0", r"parquet\.csv: is a Parquet file"),
    "excel.csv": (b"PK\x03\x04\0", r"excel\.csv: is a zip archive or an Excel workbook"),
    "pickle.jsonl": (b"\x80\x04\x95\0", r"pickle\.jsonl: is a pickle.*never loaded"),
    "no gzip.jsonl.gz": (b"plain", r"no gzip\.jsonl\.gz: its name ends in \.gz, but it is not a gzip file"),
    "cut.jsonl.gz": (gzip.compress(JSON_LINES * 9000)[:-20], r"cut\.jsonl\.gz: damaged gzip"),
    "latin1.jsonl": (b'{"text": "a"}\n{"text": "\xe4"}\n', r"latin1\.jsonl:2: is not UTF-8 \(byte 11 .*save as UTF-8$"),
    "nul.jsonl": (b'{"text": "a"}\n{"text": "\0"}\n', r"nul\.jsonl:2: has a NUL byte"),
    "latin1.csv": (b"text,label\n\xe4,1\n", r"latin1\.csv:2: is not UTF-8 .*data\.csv\.encoding=latin-1"),
    "windows.csv": (b"text,label\n\x93,1\n", r"windows\.csv:2: is not UTF-8 .*data\.csv\.encoding=cp1252"),
    "utf16.csv": (b"\xff\xfet\0,\0\xd8", r"utf16\.csv:1: is not utf-16 from this line on"),
    "nul.csv": (b"text,label\na\0b,1\n", r"nul\.csv:2: has a NUL byte.*data\.csv\.encoding"),
    "x.parquet": (b"PAR1 and no more", r"x\.parquet: cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_b06_malformed_files_name_the_line(read: Callable[[str, bytes], Source], name: str) -> None:
    content, message = MALFORMED[name]
    with pytest.raises(DataError, match=message) as caught:
        read(name, content)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_b07_a_line_without_end_is_named(
    read: Callable[[str, bytes], Source], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 40)
    content = {"x.jsonl": JSON_LINES + b'{"text": "' + b"a" * 50, "x.csv": CSV + b"a" * 50}[name]
    with pytest.raises(DataError, match=r"x\.(jsonl:4|csv:4): has more than 40 characters; write a row a line$"):
        read(name, content)


def test_b07_a_huge_file_takes_little_memory(tmp_path: Path) -> None:
    """50 GB without a line end."""
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.truncate(50 << 30)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"huge\.jsonl:1: has a NUL byte"):
        next(text_files.lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 30


EMPTY = {"x.jsonl": b"", "blank.jsonl": b"\n \n", "x.csv": b"", "head.csv": b"text,label\n", "head.tsv": b"a\tb\n\n"}


@pytest.mark.parametrize("name", EMPTY)
def test_files_without_examples(read: Callable[[str, bytes], Source], name: str) -> None:
    with pytest.raises(RecipeError, match=r"is empty: it has no examples") as caught:
        read(name, EMPTY[name])
    assert caught.value.problems[0].where == "data.train"


def test_an_empty_list_of_objects(read: Callable[[str, bytes], Source]) -> None:
    with pytest.raises(RecipeError, match="is empty"):
        read("x.json", b"[]")


def test_a_full_disk_is_not_blamed_on_the_file(
    read: Callable[[str, bytes], Source], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", fill)
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
