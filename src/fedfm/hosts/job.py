"""What a node gets to know of a run before the first round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fedfm import __version__
from fedfm.errors import FedfmError
from fedfm.models.identity import ModelIdentity
from fedfm.printable import line, quoted
from fedfm.recipe import Recipe
from fedfm.runtimes.envelopes import EnvelopeError, job_digest
from fedfm.settings import Settings

RESUMABLE = ("federation.rounds", "report_to")
"""Keys of the recipe that a resumed run may change, as `fedfm.server.runs.refusals` has them."""


class VersionError(FedfmError):
    """Server and node have different versions of fedfm."""


class Job(Settings):
    """A run, as a node needs to know it."""

    version: str = __version__
    """Version of fedfm at the server. A node of another version could compute something else."""
    recipe: dict[str, Any]
    """The resolved recipe: it leaves no choice to the node."""
    data: str | None
    """Digest of the source of the training examples; None where each node has its own data."""
    model: ModelIdentity | None
    """Identity of the backbone; None where clients get a proxy."""

    @classmethod
    def of(cls, recipe: Recipe, *, data: str | None, model: ModelIdentity | None) -> Job:
        """The job of a resolved recipe."""
        return cls(recipe=recipe.model_dump(mode="json"), data=data, model=model)

    @property
    def run_digest(self) -> str:
        """sha256 (hex) of the job without the keys that a resumed run may change: equal before and after a resume."""
        job = self.model_dump(mode="json")
        for *groups, key in (name.split(".") for name in RESUMABLE):
            settings = job["recipe"]
            for group in groups:
                settings = settings.get(group) or {}
            settings.pop(key, None)
        return job_digest(job)

    @classmethod
    def read(cls, job: Mapping[str, Any]) -> Job:
        """The job that a server sent.

        Raises:
            VersionError: the server has another version of fedfm.
            EnvelopeError: it is not a valid job.
        """
        if (version := job.get("version")) != __version__:
            raise VersionError(
                f"the server has fedfm {line(version, most=40)}, and this node has {__version__}: "
                "install the same version at both"
            )
        try:
            return cls.model_validate(job)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise EnvelopeError(f"the server sent no valid job ({quoted(first['loc'])}: {first['msg']})") from error
