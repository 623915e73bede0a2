"""What a node is told of a run before its first round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedfm import __version__
from fedfm.models.identity import ModelIdentity
from fedfm.printable import quoted
from fedfm.recipe import Recipe
from fedfm.runtimes.envelopes import EnvelopeError
from fedfm.settings import Settings


class Job(Settings):
    """A run, as a node needs to know it."""

    version: str = __version__
    """Of fedfm at the server; a node of another one could compute otherwise."""
    recipe: dict[str, Any]
    """Resolved: nothing in it is left to the node."""
    data: str | None
    """Digest of the training examples' source; None where each node has its own."""
    model: ModelIdentity | None
    """Of the backbone; None where clients get a proxy."""

    @classmethod
    def of(cls, recipe: Recipe, *, data: str | None, model: ModelIdentity | None) -> Job:
        """The job of a resolved recipe."""
        return cls(recipe=recipe.model_dump(mode="json"), data=data, model=model)

    @classmethod
    def read(cls, job: Mapping[str, Any]) -> Job:
        """The job that a server sent.

        Raises:
            EnvelopeError: it is not one.
        """
        try:
            return cls.model_validate(job)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise EnvelopeError(f"the server sent no valid job ({quoted(first['loc'])}: {first['msg']})") from error
