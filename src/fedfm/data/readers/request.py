"""What is read of a file: which columns, what each is used for, and how the file is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fedfm.data.settings import CsvSettings
from fedfm.errors import DataError, RecipeError
from fedfm.spelling import nearest

Role = Literal["text", "client", "label", "image", "any"]


@dataclass(frozen=True)
class RequestedColumn:
    """A column that is needed.

    Attributes:
        name: in the file.
        role: what it is used for; ``any`` takes every single value.
        where: the recipe key that names it, for messages.
        required: whether the file must have it.
    """

    name: str
    role: Role
    where: str
    required: bool = True


@dataclass(frozen=True)
class Request:
    """What is read of a file.

    Attributes:
        columns: those needed; None for all that there are.
        csv: how CSV and TSV files are written.
        group: the recipe key that holds ``csv``, with a dot at its end where it is not empty, for messages.
    """

    columns: tuple[RequestedColumn, ...] | None = None
    csv: CsvSettings = field(default_factory=CsvSettings)
    group: str = "data."

    def renamed(self, role: Role, name: str) -> Request:
        """The same, with the columns of one role under another name, which is text."""
        if self.columns is None:
            return self
        changed = [
            replace(column, name=name, role="text") if column.role == role else column for column in self.columns
        ]
        return replace(self, columns=tuple(changed))

    def present(self, names: Sequence[str], path: Path, hint: str = "") -> list[RequestedColumn]:
        """The needed columns among those of a file, each once, in the order of its first use.

        Args:
            names: of the file's columns.
            path: of the file, for messages.
            hint: what else is said where a column is missing.

        Raises:
            RecipeError: a required column is missing.
            DataError: two columns have the name of a needed one.
        """
        if self.columns is None:
            wanted = [RequestedColumn(name, "any", "") for name in names]
        else:
            wanted = [column for column in self.columns if column.required or column.name in names]
        counts = Counter(names)
        for column in wanted:
            if not counts[column.name]:
                raise RecipeError(missing_column(column.name, names, str(path), hint), where=column.where)
            if counts[column.name] > 1:
                raise DataError(
                    f"{path}: column `{column.name}` stands {counts[column.name]} times in it; give each its own name"
                )
        roles: tuple[Role, ...] = ("text", "client", "label", "image", "any")  # the strictest use of a column counts
        ordered = sorted(wanted, key=lambda column: roles.index(column.role))
        return list({column.name: column for column in reversed(ordered)}.values())[::-1]


def missing_column(name: str, names: Sequence[str], source: str, hint: str = "") -> str:
    """The message about a column that a source does not have; ends with the nearest name, else with a hint."""
    listed = [repr(known) if known != known.strip() or not known else known for known in names]
    plain = {known.strip().casefold(): known for known in reversed(names)}
    near = plain.get(name.strip().casefold()) or nearest(name, names)
    advice = f"did you mean {near!r}?" if near else hint
    return f"no column `{name}` in {source}; columns: {', '.join(listed)}" + (f"; {advice}" if advice else "")
