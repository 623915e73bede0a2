"""Errors for people: what is wrong, where, and what to do. Each class has the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class FedfmError(Exception):
    """Base class of every error that fedfm raises on purpose."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe.

    Attributes:
        where: dotted recipe key, e.g. ``federation.clients``; empty for the recipe as a whole.
        message: what is wrong and what to do instead.
        got: the wrong value as the user wrote it; None if no value can be shown.
    """

    where: str
    message: str
    got: str | None = None

    def __str__(self) -> str:
        got = f" (got {self.got})" if self.got is not None else ""
        return f"{self.where}: {self.message}{got}" if self.where else f"{self.message}{got}"


class RecipeError(FedfmError):
    """The recipe, or something that it names, cannot be run. Lists every problem, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str, *, where: str = "", source: str = "recipe") -> None:
        if isinstance(problems, str):
            problems = [Problem(where, problems)]
        self.problems = list(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in self.problems)]))


class DataError(FedfmError):
    """A data file exists, but its content is not what its name says.

    Attributes:
        where: dotted recipe key that the error is about; may be empty.
    """

    exit_code = 3

    def __init__(self, text: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {text}" if where else text)
        self.where = where


class TooFewClientsError(FedfmError):
    """A round received fewer valid updates than its quorum.

    Attributes:
        repeats: whether the same clients would give the same answers if the round were repeated.
    """

    exit_code = 4

    def __init__(self, text: str, *, repeats: bool = False) -> None:
        super().__init__(text)
        self.repeats = repeats


class StorageError(FedfmError):
    """A run's folder cannot be written or read (full disk, read-only folder, damaged checkpoint)."""

    exit_code = 5


class TripwireError(FedfmError):
    """A run does not do what its recipe says: nothing that should train has moved, or frozen weights have changed."""

    exit_code = 7


class InterruptedRunError(FedfmError):
    """The user stopped the run. Its last round is saved, and the run can be resumed."""

    exit_code = 130


class Gathering:
    """Collects the errors of several attempts, to raise them together.

    Examples:
        >>> gathering = Gathering()
        >>> for name in ("train", "test"):
        ...     with gathering.attempt():
        ...         raise RecipeError("no such file", where=f"data.{name}")
        >>> gathering.tell()
        Traceback (most recent call last):
        ...
        fedfm.errors.RecipeError: recipe: 2 problems
          data.train: no such file
          data.test: no such file
    """

    def __init__(self) -> None:
        self.errors: list[RecipeError | DataError] = []

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Collects an error about the recipe or the data that the block raises, and continues after the block."""
        try:
            yield
        except (RecipeError, DataError) as error:
            self.errors.append(error)

    def tell(self) -> None:
        """Raises the collected errors as one, if there are any.

        Raises:
            RecipeError: all errors are about the recipe.
            DataError: at least one error is about a data file.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if any(isinstance(error, DataError) for error in self.errors):
            raise DataError("\n".join(map(str, self.errors)))
        problems = [problem for error in self.errors if isinstance(error, RecipeError) for problem in error.problems]
        if problems:
            raise RecipeError(list(dict.fromkeys(problems)))
