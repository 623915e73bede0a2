"""The docstrings of the standard library as a classification set with natural clients."""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from fedfm.data.builtins.chapters import CHAPTERS, chapter_of, public_name
from fedfm.data.builtins.pydoc import _clients, _documented, _of_node, pydoc
from fedfm.data.sources import read_source
from fedfm.errors import DataError


def rows(split: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = read_source("builtin:pydoc", split, where="data.train").table.to_list()  # type: ignore[arg-type]
    return found


def test_it_is_large_enough_to_federate() -> None:
    train, test = rows("train"), rows("test")
    assert len(train) > 3000
    assert 0.17 < len(test) / (len(train) + len(test)) < 0.23
    labels = Counter(row["label"] for row in train)
    assert set(labels) == set(CHAPTERS)
    assert max(labels.values()) < len(train) / 4
    assert sum(size >= 20 for size in Counter(row["client"] for row in train).values()) >= 60


def test_no_text_is_in_it_twice_and_test_texts_are_unseen() -> None:
    texts = [row["text"] for split in ("train", "test") for row in rows(split)]
    assert len(texts) == len(set(texts))


def test_rows_say_what_python_says() -> None:
    import email.message

    by_name = {row["name"]: row for split in ("train", "test") for row in rows(split)}
    walk = by_name["email.message.Message.get_payload"]
    assert walk["text"] == inspect.getdoc(email.message.Message.get_payload)
    assert (walk["label"], walk["client"]) == ("internet", "email.message")
    assert by_name["builtins.sorted"]["text"] == inspect.getdoc(sorted)
    assert by_name["pathlib.Path.glob"]["label"] == "files"


def test_private_things_and_short_remarks_are_left_out() -> None:
    for row in (*rows("train"), *rows("test")):
        assert not any(part.startswith("_") for part in row["name"].split("."))
        assert row["text"] == inspect.cleandoc(row["text"]).strip()
        assert len(row["text"]) >= 40
        assert chapter_of(row["client"]) == row["label"]


def test_names_and_docstrings_of_a_module() -> None:
    tree = ast.parse(
        '''"""What the module does, in more than forty characters."""
class Public:
    """What the class does, in more than forty characters."""
    def method(self):
        """What the method does, in more than forty characters."""
        def inner():
            """Not seen, because nobody outside can call it at all."""
    def _private(self):
        """Not seen, because its name begins with an underscore."""
async def function():
    """Too short."""
'''
    )
    assert [row.name for row in _of_node(tree, "m", "m")] == ["m", "m.Public", "m.Public.method"]


def test_doctests_are_no_prose() -> None:
    assert list(_documented("m", "m", "Adds.\n\n>>> add(1, 2) + add(3, 4) + add(5, 6) + add(7, 8)\n")) == []
    assert list(_documented("m", "m", None)) == []


def test_small_submodules_join_their_package() -> None:
    sizes = Counter({"a": 3, "a.big": 25, "a.b": 5, "a.b.c": 24, "a.b.d": 30, "x.y.z": 2, "top": 1})
    assert _clients(sizes) == {
        "a": "a",
        "a.big": "a.big",
        "a.b": "a.b",
        "a.b.c": "a.b",
        "a.b.d": "a.b.d",
        "x.y.z": "x",
        "top": "top",
    }


@pytest.mark.parametrize(
    ("module", "public", "chapter"),
    [
        ("email.message", "email.message", "internet"),
        ("_pydecimal", "decimal", "numbers"),
        ("pathlib._local", "pathlib", "files"),
        ("posixpath", "os.path", "files"),
        ("os", "os", "operating system"),
        ("_private", None, None),
        ("antigravity", "antigravity", None),
    ],
)
def test_chapters(module: str, public: str | None, chapter: str | None) -> None:
    assert public_name(module) == public
    assert chapter_of(public or "") == chapter


def test_no_module_is_in_two_chapters() -> None:
    modules = [module for chapter in CHAPTERS.values() for module in chapter.split()]
    assert len(modules) == len(set(modules))


def test_chapters_name_modules_that_python_has_or_had() -> None:
    gone = {"nntplib", "telnetlib"}
    public = {module.partition(".")[0] for chapter in CHAPTERS.values() for module in chapter.split()}
    assert public - gone - sys.stdlib_module_names == set()


def test_a_python_without_the_source_of_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="needs the source of Python's standard library"):
        pydoc()
