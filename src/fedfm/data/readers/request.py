"""Requests to read a file: the columns, the use of each, and the format of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from fedfm.data.settings import CsvSettings
from fedfm.errors import DataError, RecipeError
from fedfm.spelling import nearest

Role = Literal["text", "list", "turns", "client", "number", "label", "image", "any"]


@dataclass(frozen=True)
class RequestedColumn:
    """A column to read.

    Attributes:
        name: in the file.
        role: its use; ``any`` allows every single value, ``number`` also a list of numbers,
            ``turns`` a list of objects.
        where: the recipe key that names the column, for messages.
        required: whether the file must have the column.
    """

    name: str
    role: Role
    where: str
    required: bool = True


@dataclass(frozen=True)
class ReadRequest:
    """What to read from a file.

    Attributes:
        columns: the columns to read; None for all columns.
        csv: format of CSV and TSV files.
        group: the recipe group of ``csv``, with a final dot unless it is empty, for messages.
    """

    columns: tuple[RequestedColumn, ...] | None = None
    csv: CsvSettings = field(default_factory=CsvSettings)
    group: str = "data."

    def renamed(self, role: Role, name: str) -> ReadRequest:
        """The same request, in which the columns of one role are text columns with another name."""
        if self.columns is None:
            return self
        changed = [
            replace(column, name=name, role="text") if column.role == role else column for column in self.columns
        ]
        return replace(self, columns=tuple(changed))

    def present(self, names: Sequence[str], path: Path, hint: str = "") -> list[RequestedColumn]:
        """The requested columns that a file has, each once, in the order of first use.

        Args:
            names: of the file's columns.
            path: of the file, for messages.
            hint: advice for the message about a missing column.

        Raises:
            RecipeError: a required column is missing.
            DataError: two columns have the name of a requested column.
        """
        if self.columns is None:
            wanted = [RequestedColumn(name, "any", "") for name in names]
        else:
            wanted = [column for column in self.columns if column.required or column.name in names]
            if self.columns and not wanted:
                raise RecipeError(self.none_of(names, str(path)), where=self.columns[0].where)
        counts = Counter(names)
        for column in wanted:
            if not counts[column.name]:
                raise RecipeError(missing_column(column.name, names, str(path), hint), where=column.where)
            if counts[column.name] > 1:
                raise DataError(
                    f"{path}: {counts[column.name]} columns are called `{column.name}`; give each its own name"
                )
        roles: tuple[Role, ...] = get_args(Role)  # the strictest use of a column decides
        ordered = sorted(wanted, key=lambda column: roles.index(column.role))
        return list({column.name: column for column in reversed(ordered)}.values())[::-1]

    def none_of(self, names: Sequence[str], source: str) -> str:
        """The message about a file that has none of the columns, each of which may be missing."""
        wanted = ", ".join(f"`{column.name}`" for column in self.columns or ())
        return f"no column of {wanted} in {source}; columns: {', '.join(names)}"


def missing_column(name: str, names: Sequence[str], source: str, hint: str = "") -> str:
    """The message about a missing column; ends with the most similar name, otherwise with a hint."""
    listed = [repr(known) if known != known.strip() or not known else known for known in names]
    plain = {known.strip().casefold(): known for known in reversed(names)}
    near = plain.get(name.strip().casefold()) or nearest(name, names)
    advice = f"did you mean {near!r}?" if near else hint
    return f"no column `{name}` in {source}; columns: {', '.join(listed)}" + (f"; {advice}" if advice else "")
