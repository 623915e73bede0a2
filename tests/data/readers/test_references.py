"""References of `data.train`: files, folders of files, patterns, lists of these; and files as clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedfm.data.columns import clients_of, column_of
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError

COLUMNS = (
    RequestedColumn("text", "text", "data.text"),
    RequestedColumn("file", "client", "data.client", required=False),
)


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} 0,0\n{name} 1,1\n")
    (tmp_path / ".hidden.csv").write_text("nothing")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*references: str, split: str = "train") -> Source:
    named: str | list[str] = references[0] if len(references) == 1 else list(references)
    return read_source(named, split, where="data.train", columns=COLUMNS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "references", [("*.csv",), (".",), ("a.csv", "b.csv", "c.csv"), ("[ab].csv", "c.csv"), ("**/*.csv",)]
)
def test_files_come_in_the_order_of_their_names(hospitals: Path, references: tuple[str, ...]) -> None:
    source = read(*references)
    assert source.table["text"][:] == ["a 0", "a 1", "b 0", "b 1", "c 0", "c 1"]
    clients = clients_of(source, "file")
    assert clients is not None
    assert clients.tolist() == ["a", "a", "b", "b", "c", "c"]
    assert source.digest == read("*.csv").digest


def test_a_list_keeps_its_order_and_content_decides_the_digest(hospitals: Path) -> None:
    assert read("c.csv", "a.csv").table["text"][:] == ["c 0", "c 1", "a 0", "a 1"]
    before = read("*.csv").digest
    (hospitals / "b.csv").write_text("text,label\nother,0\n")
    assert read("*.csv").digest != before


def test_messages_name_row_and_file(hospitals: Path) -> None:
    (hospitals / "b.csv").write_text("text,label\nb 0,0\n ,1\n")
    source = read("*.csv")
    with pytest.raises(
        DataError, match=rf"blank in 1 of 6 rows of \*\.csv \(3 files\); the first is row 2 of {hospitals}/b\.csv"
    ):
        column_of(source, "text", "data.text")
    chosen = source.select([5, 3])
    with pytest.raises(DataError, match=r"the first is row 2 of .*/b\.csv"):
        column_of(chosen, "text", "data.text")
    clients = clients_of(chosen, "file")
    assert clients is not None
    assert clients.tolist() == ["c", "b"]


def test_a_file_that_lacks_a_column_is_named(hospitals: Path) -> None:
    (hospitals / "b.csv").write_text("review,label\nb,0\n")
    with pytest.raises(RecipeError, match=r"no column `text` in .*/b\.csv; columns: review, label"):
        read("*.csv")


@pytest.mark.parametrize("content", ["", "\n", "text,label\n"])
def test_a_file_without_rows_is_named(hospitals: Path, content: str) -> None:
    (hospitals / "b.csv").write_text(content)
    with pytest.raises(RecipeError, match=r"data\.train: .*/b\.csv is empty: it has no examples"):
        read("*.csv")


def test_other_columns_need_not_agree(hospitals: Path) -> None:
    (hospitals / "b.csv").write_text("id,label,text\n1,0,b 0\n2,1,b 1\n")
    assert len(read("*.csv")) == 6


def test_files_with_other_types(hospitals: Path) -> None:
    import pandas as pd

    pd.DataFrame({"text": ["a"], "label": [1]}).to_parquet("d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: has different columns from .*a\.csv: .*int64.*, not .*string"):
        read_source(["a.csv", "d.parquet"], "train", where="data.train")


def test_what_a_folder_holds_besides_is_counted_and_named(hospitals: Path) -> None:
    (hospitals / "README.txt").write_text("x")
    assert read(".").notes == (f"{hospitals}: left out 1 file: 1 .txt (README.txt)",)
    (hospitals / "more.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(
        RecipeError, match=r"files in several formats: 3 × \.csv and 1 × \.jsonl; choose one: .*/\*\.csv"
    ):
        read(".")


WRONG = {
    "no match": (("*.tsv",), "no file matches .*/\\*\\.tsv"),
    "no file": (("a.csv", "d.csv"), "no such file or folder: .*/d.csv"),
    "twice": (("*.csv", "a.csv"), "names a file twice: .*/a.csv"),
    "a set in a list": (("a.csv", "builtin:pydoc"), "can contain only files, folders and patterns, not builtin:pydoc"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read(hospitals: Path, name: str) -> None:
    references, message = WRONG[name]
    with pytest.raises(RecipeError, match=message) as caught:
        read(*references)
    assert caught.value.problems[0].where == "data.train"


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("north/train.csv", "south/train.csv", "south/train.tsv", "west.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\na\n")
    source = read(f"{tmp_path}/*/train.*", f"{tmp_path}/west.csv")
    assert [part.client for part in source.parts] == ["north/train", "south/train.csv", "south/train.tsv", "west"]


def test_files_are_clients_only_where_that_has_a_meaning(hospitals: Path, make_source: Callable[..., Source]) -> None:
    assert clients_of(read("a.csv", split="test"), "file") is None
    test = clients_of(read("*.csv", split="test"), "file")
    assert test is not None
    assert set(test) == {"a", "b", "c"}
    with pytest.raises(
        RecipeError, match=r"data\.client: `file` makes each file a client, but made\.jsonl is not a file"
    ):
        clients_of(make_source(text=["a"]), "file")
    (hospitals / "a.csv").write_text("text,file\na,x\n")
    with pytest.raises(RecipeError, match="also has a column of that name"):
        clients_of(read("a.csv"), "file")
