"""References to data, and the errors for those that name nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError


def test_a_missing_file_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=f"data.test: no such file or folder: {tmp_path}/data/no.jsonl"):
        read_source("data/no.jsonl", "test", where="data.test")


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n')
    assert len(read_source("~/x.jsonl", "train", where="data.train")) == 1


def test_an_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(
        RecipeError,
        match=r"the format of .*x\.xlsx is not clear from its name, which must end in \.jsonl, .*\.parquet, .*\.npz",
    ):
        read_source(str(tmp_path / "x.xlsx"), "train", where="data.train")


@pytest.mark.parametrize(("name", "near"), [("pydocs", "pydoc"), ("digit", "digits"), ("pydoc-topic", "pydoc-topics")])
def test_an_unknown_builtin_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RecipeError, match=f"no built-in data set `builtin:{name}`; did you mean `builtin:{near}`?"):
        read_source(f"builtin:{name}", "train", where="data.train")


def test_builtins_have_no_validation_split() -> None:
    with pytest.raises(RecipeError, match="only the splits train and test; give a fraction to hold out") as caught:
        read_source("builtin:digits", "validation", where="data.validation")
    assert caught.value.problems[0].where == "data.validation"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n')

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"x\.jsonl: cannot be read: Permission denied"):
        read_source(str(path), "train", where="data.train")


def test_a_source_knows_what_it_was_read_as(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    assert read_source(str(tmp_path / "a.jsonl"), "test", where="x").select([0]).split == "test"
    assert read_source("builtin:digits", "train", where="x").split == "train"


def test_equal_files_have_equal_digests(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    first, second = (read_source(str(tmp_path / name), "train", where="x") for name in ("a.jsonl", "b.jsonl"))
    assert first.digest == second.digest
    assert first.name != second.name


def test_selected_rows_keep_their_numbers_and_get_another_digest(make_source: Callable[..., Source]) -> None:
    whole = make_source(text=["a", "b", "c", "d"])
    part = whole.select(np.array([3, 1, 2])).select([0, 2])
    assert part.table["text"][:] == ["d", "c"]
    assert [part.row_number(0), part.row_number(1)] == [4, 3]
    assert part.digest not in (whole.digest, whole.select([3, 2]).digest)
    assert whole.select([0, 1]).digest != whole.select([1, 0]).digest
