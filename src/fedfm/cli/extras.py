"""Optional dependencies of commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install


@contextmanager
def needs_flower() -> Iterator[None]:
    """Wraps imports that need the extra `flower`.

    Raises:
        RecipeError: the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RecipeError(f"needs the extra `flower`; {how_to_install('flower')}", source="this command") from error
