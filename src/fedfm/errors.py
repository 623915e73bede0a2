"""Errors for people: what was wrong, where, and what to do. Each knows the exit code the command line ends with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class FedfmError(Exception):
    """Base of every error that fedfm raises on purpose."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe.

    Attributes:
        where: dotted recipe key, e.g. ``federation.clients``; empty for the recipe as a whole.
        message: what is wrong and what to do instead.
        got: the offending value as the user wrote it, or None when there is none to show.
    """

    where: str
    message: str
    got: str | None = None

    def __str__(self) -> str:
        got = f" (got {self.got})" if self.got is not None else ""
        return f"{self.where}: {self.message}{got}" if self.where else f"{self.message}{got}"


class RecipeError(FedfmError):
    """The recipe, or what it names, cannot make a run. Lists every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str, *, where: str = "", source: str = "recipe") -> None:
        if isinstance(problems, str):
            problems = [Problem(where, problems)]
        self.problems = list(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in self.problems)]))


class DataError(FedfmError):
    """A data file exists but cannot be read as what it says it is.

    Attributes:
        where: dotted recipe key that the fault is about, where there is one.
    """

    exit_code = 3

    def __init__(self, text: str, *, where: str = "") -> None:
        super().__init__(f"{where}: {text}" if where else text)
        self.where = where


class TooFewClientsError(FedfmError):
    """Fewer sound updates than the quorum asks for.

    Attributes:
        repeats: whether the same clients would answer in the same way if they were asked again.
    """

    exit_code = 4

    def __init__(self, text: str, *, repeats: bool = False) -> None:
        super().__init__(text)
        self.repeats = repeats


class StorageError(FedfmError):
    """A run's folder cannot be written or read (full disk, read-only folder, damaged checkpoint)."""

    exit_code = 5


class InterruptedRunError(FedfmError):
    """The run was stopped by the user; its last round is saved and it can be resumed."""

    exit_code = 130


class Gathering:
    """Errors of several attempts, told together.

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
        """Goes on after the block, whatever is wrong with recipe or data in it."""
        try:
            yield
        except (RecipeError, DataError) as error:
            self.errors.append(error)

    def tell(self) -> None:
        """Raises what was gathered, if anything was.

        Raises:
            RecipeError: only the recipe is to blame.
            DataError: a file of data is, perhaps beside the recipe.
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if any(isinstance(error, DataError) for error in self.errors):
            raise DataError("\n".join(map(str, self.errors)))
        problems = [problem for error in self.errors if isinstance(error, RecipeError) for problem in error.problems]
        if problems:
            raise RecipeError(list(dict.fromkeys(problems)))
