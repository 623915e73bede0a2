"""``builtin:pydoc``: docstrings of the running Python's standard library; the class is the chapter of the library."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from fedfm.data.builtins.chapters import chapter_of, public_name
from fedfm.data.builtins.splitting import is_test
from fedfm.data.cache import cache_key, cached
from fedfm.errors import DataError

_SHORTEST_PROSE = 40
_SMALLEST_SUBMODULE = 25
_LEFT_OUT = {"__pycache__", "idlelib", "lib-dynload", "site-packages", "test", "tests", "turtledemo"}
_WRITTEN_IN_C = ("array", "cmath", "fcntl", "grp", "math", "mmap", "select", "unicodedata", "zlib")


class Documented(NamedTuple):
    """One docstring: its public module, the dotted name of the object it describes, and its text."""

    module: str
    name: str
    text: str


def pydoc() -> Dataset:
    """Columns ``text``, ``label`` (chapter), ``client`` (module) and ``name`` (``email.message.Message.walk``).

    Public modules, classes, methods and functions with at least 40 characters of prose, each text once. The source is
    parsed and never imported, except for modules written in C, whose import has no side effects. A client is a module;
    a submodule with fewer than 25 docstrings is merged into its package. CPython 3.11 gives about 5,000 examples in 11
    classes, and more than 60 clients with at least 20 training examples.

    Raises:
        DataError: this Python installation has no source of its standard library.
    """
    files = _library_files()
    content = hashlib.sha256()
    for path, text in files.items():
        content.update(hashlib.sha256(path.encode() + b"\0" + text).digest())
    key = cache_key(kind="builtin:pydoc", library=content.hexdigest(), python=sys.version, version=1)
    return cached(key, lambda scratch: _table(files))


def _table(files: dict[str, bytes]) -> Dataset:
    unique: dict[str, Documented] = {}
    for found in (*_from_source(files), *_from_interpreter()):
        unique.setdefault(found.text, found)
    rows = sorted(
        (row for row in unique.values() if chapter_of(row.module)), key=lambda row: (row.module, row.name, row.text)
    )
    clients = _clients(Counter(row.module for row in rows))
    return Dataset.from_dict(
        {
            "text": [row.text for row in rows],
            "label": [chapter_of(row.module) for row in rows],
            "client": [clients[row.module] for row in rows],
            "name": [row.name for row in rows],
            "is_test": [is_test(row.text) for row in rows],
        }
    )


def _clients(sizes: Counter[str]) -> dict[str, str]:
    """The client of each module: itself, or its nearest package if the module is too small; deepest modules first."""
    sizes = sizes.copy()
    client = {module: module for module in sizes}
    while small := [name for name in sizes if "." in name and sizes[name] < _SMALLEST_SUBMODULE]:
        deepest = max(small, key=lambda name: (name.count("."), name))
        package = deepest.rpartition(".")[0]
        sizes[package] += sizes.pop(deepest)
        client = {module: package if joined == deepest else joined for module, joined in client.items()}
    return client


def _library_files() -> dict[str, bytes]:
    """The source files of documented modules, by path below the library's folder, in a fixed order."""
    folder = Path(sysconfig.get_path("stdlib"))
    files: dict[str, Path] = {}
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        paths = (Path(parent, name) for name in names if name.endswith(".py"))
        files.update((path.relative_to(folder).as_posix(), path) for path in paths)
    documented = {name: files[name].read_bytes() for name in sorted(files) if _module_of(name)}
    if not documented:
        raise DataError(f"builtin:pydoc needs the source of Python's standard library, and {folder} has none")
    return documented


def _module_of(path: str) -> str | None:
    """The public module of a source file, if the table of chapters lists it."""
    parts = path.removesuffix(".py").split("/")
    module = public_name(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return module if module and chapter_of(module) else None


def _from_source(files: dict[str, bytes]) -> Iterator[Documented]:
    for path, text in files.items():
        module = _module_of(path)
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a template, such as those of 2to3
            continue
        if module:
            yield from _of_node(tree, module, module)


def _of_node(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str, name: str
) -> Iterator[Documented]:
    yield from _documented(module, name, ast.get_docstring(node))
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith(
                "_"
            ):
                yield from _of_node(child, module, f"{name}.{child.name}")


def _from_interpreter() -> Iterator[Documented]:
    for written_in_c in (*sys.builtin_module_names, *_WRITTEN_IN_C):
        module = public_name(written_in_c) or written_in_c.removeprefix("_")
        if not chapter_of(module):
            continue
        try:
            contents = importlib.import_module(written_in_c)
        except ImportError:  # an extension that this platform or build does not have
            continue
        yield from _documented(module, module, contents.__doc__)
        for name, value in sorted(vars(contents).items()):
            if (
                name.startswith("_")
                or not (inspect.isclass(value) or inspect.isroutine(value))
                or name != value.__name__
            ):
                continue
            yield from _documented(module, f"{module}.{name}", value.__doc__)
            for method, member in sorted(vars(value).items()) if inspect.isclass(value) else ():
                if not method.startswith("_"):
                    yield from _documented(module, f"{module}.{name}.{method}", getattr(member, "__doc__", None))


def _documented(module: str, name: str, docstring: object) -> Iterator[Documented]:
    """One row, if the docstring has enough prose; lines of doctests do not count."""
    if not isinstance(docstring, str):
        return
    text = inspect.cleandoc(docstring).strip()
    prose = [line for line in text.splitlines() if not line.lstrip().startswith((">>>", "..."))]
    if sum(map(len, prose)) >= _SHORTEST_PROSE:
        yield Documented(module, name, text)
