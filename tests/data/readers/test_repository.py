"""Folders of tables: the files of each split, by the repository's card or by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.data.readers.repository import files_of_split, table_files
from fedfm.data.sources import Split, read_source
from fedfm.errors import DataError, RecipeError


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'{{"text": "{name}"}}\n')


def texts(folder: Path, split: Split = "train") -> list[str]:
    return list(read_source(str(folder), split, where=f"data.{split}").table["text"])


def test_shards_named_for_their_split(tmp_path: Path) -> None:
    write(tmp_path, "data/train-00001-of-00002.jsonl", "data/train-00000-of-00002.jsonl", "data/test-0-of-1.jsonl")
    (tmp_path / "README.md").write_text("# Poems\n")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    assert texts(tmp_path) == ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]
    assert texts(tmp_path, "test") == ["data/test-0-of-1.jsonl"]
    with pytest.raises(RecipeError, match=r"has no files for validation \(.*\); it has test, train"):
        texts(tmp_path, "validation")


def test_folders_named_for_their_split(tmp_path: Path) -> None:
    write(tmp_path, "train/test_station.jsonl", "dev/b.jsonl")
    write(tmp_path, "notes.jsonl")
    assert texts(tmp_path) == ["train/test_station.jsonl"]
    assert texts(tmp_path, "validation") == ["dev/b.jsonl"]
    (note,) = read_source(str(tmp_path), "train", where="data.train").notes
    assert note == f"{tmp_path}: left out 1 file: 1 .jsonl (notes.jsonl), which belong to no split"


def test_the_card_decides(tmp_path: Path) -> None:
    write(tmp_path, "raw/a.jsonl", "raw/b.jsonl", "more/train.jsonl", "held/c.jsonl")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: raw/*\n"
        "  - split: test\n    path: [held/c.jsonl]\n- config_name: other\n  data_files: more/train.jsonl\n---\nPoems.\n"
    )
    assert texts(tmp_path) == ["raw/a.jsonl", "raw/b.jsonl"]
    assert texts(tmp_path, "test") == ["held/c.jsonl"]


def test_a_card_with_several_data_sets(tmp_path: Path) -> None:
    write(tmp_path, "en/train.jsonl", "fr/train.jsonl")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: fr\n  data_files: fr/*\n---\n"
    )
    with pytest.raises(RecipeError, match="describes several data sets: en, fr; give the folder of one"):
        texts(tmp_path)
    assert texts(tmp_path / "fr") == ["fr/train.jsonl"]
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(DataError, match=r"README\.md: the YAML at its top is damaged"):
        texts(tmp_path)


def test_without_any_split_all_files_are_one_table(tmp_path: Path) -> None:
    write(tmp_path, "hospital_b.jsonl", "hospital_a.jsonl", "more/c.jsonl")
    files = table_files(tmp_path, [".jsonl"])
    assert files_of_split(tmp_path, files, "train", where="data.train") == (files, ())
    assert texts(tmp_path) == ["hospital_a.jsonl", "hospital_b.jsonl", "more/c.jsonl"]


def test_tables_with_other_columns(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"words": "x"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl: has different columns from .*a\.jsonl: words .*, not text"):
        texts(tmp_path)


def test_a_pointer_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(DataError, match=r"train\.parquet: is a Git LFS pointer, not the data; run `git lfs pull`"):
        texts(tmp_path)
