"""File: the graph that a file names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedfm.errors import Problem, RecipeError
from fedfm.printable import line
from fedfm.protocols.graphs.base import WHERE, Graph, Senders

LISTED = 5
"""Problems of a file that an error lists, at most."""


class FileGraph(Graph):
    """The graph of a JSON file: an object with each client's id and the list of its neighbours' ids."""

    kind: Literal["file"] = "file"
    """The graph of a JSON file."""
    path: Annotated[str, Field(min_length=1)]
    """The file: an object from the id of each client to the list of its neighbours' ids, such as
    {"a": ["b"], "b": ["a", "c"], "c": ["b"]}. Each edge is listed at both of its ends."""

    @property
    def digest(self) -> str:
        """That of the file."""
        return hashlib.sha256(_content(self.path)).hexdigest()

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The neighbours, as the file lists them."""
        lists = _read(self.path)
        if found := list(_problems(lists, clients)):
            more = [Problem("", f"and {len(found) - LISTED} more")] if len(found) > LISTED else []
            listed = [Problem(f"{WHERE}.path", f"{self.path}: {reason}") for reason in found[:LISTED]]
            raise RecipeError([*listed, *more])
        return {client: frozenset(lists[client]) for client in clients}


def _content(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}", where=f"{WHERE}.path") from error


def _read(path: str) -> dict[str, list[str]]:
    """The lists of a file.

    Raises:
        RecipeError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(_content(path).decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a client twice, or nested too deeply
        raise RecipeError(f"{path} is not a JSON file of a graph: {error}", where=f"{WHERE}.path") from error
    lists = isinstance(content, dict) and all(
        isinstance(others, list) and all(isinstance(other, str) for other in others) for others in content.values()
    )
    if not lists:
        raise RecipeError(
            f"{path} must be an object from each client's id to the list of its neighbours' ids, all text, such as "
            '{"a": ["b"], "b": ["a"]}',
            where=f"{WHERE}.path",
        )
    found: dict[str, list[str]] = content
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"`{line(key)}` is listed twice")
        found[key] = value
    return found


def _problems(lists: Mapping[str, Sequence[str]], clients: Sequence[str]) -> Iterator[str]:
    """What is wrong with the lists, each a sentence."""
    known = frozenset(clients)
    for client in sorted(lists):
        if client not in known:
            yield f"`{line(client)}` is no client of this run; `fedfm data` lists them"
    for client in clients:
        if client not in lists:
            yield f"client `{line(client)}` is missing: add it with the list of its neighbours"
    for client in clients:
        others = lists.get(client, [])
        for other in dict.fromkeys(others):
            if others.count(other) > 1:
                yield f"`{line(client)}` lists `{line(other)}` {others.count(other)} times: once is enough"
            if other == client:
                yield f"`{line(client)}` lists itself: remove it, a client always keeps a part of its own values"
            elif other not in known:
                yield f"`{line(client)}` lists `{line(other)}`, which is no client of this run"
            elif other in lists and client not in lists[other]:
                yield (
                    f"`{line(client)}` lists `{line(other)}`, but `{line(other)}` does not list `{line(client)}`: list "
                    "an edge at both ends, or remove it"
                )
