"""What a server learns about an error at a site: one of a fixed set of sentences, and keys of fedfm's own schemas.

The text of an error may quote what the site holds: rows, labels, columns, paths. It stays in the site's own log. The
sentence for the server depends on the type of the error only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

from fedfm.errors import DataError, FedfmError, RecipeError, StorageError
from fedfm.hosts.job import VersionError
from fedfm.recipe import Recipe
from fedfm.recipe.fields import all_keys
from fedfm.runtimes.envelopes import EnvelopeError
from fedfm.sites.causes import Cause
from fedfm.sites.policy import Policy
from fedfm.updates import MessageError


class PolicyError(FedfmError):
    """A server asks for something that this site's policy does not allow.

    Attributes:
        keys: of the policy that do not allow it.
    """

    def __init__(self, text: str, keys: Iterable[str]) -> None:
        super().__init__(text)
        self.keys = tuple(keys)


class UnannouncedError(FedfmError):
    """An update holds more than the site announced."""


@dataclass(frozen=True)
class PublicReason:
    """Why a site does not do what it was asked, as far as a server may know.

    Attributes:
        cause: gives the sentence.
        keys: dotted keys of the recipe, or keys of a policy.

    Raises:
        ValueError: a key is in neither schema.
    """

    cause: Cause
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not known_keys().issuperset(self.keys):
            raise ValueError("a reason for the server may only name keys of the recipe or of a policy")

    def __str__(self) -> str:
        return self.cause.sentence(*self.keys)


_CAUSES: dict[type[BaseException], Cause] = {
    PolicyError: Cause.POLICY,
    UnannouncedError: Cause.UNANNOUNCED,
    VersionError: Cause.VERSION,
    RecipeError: Cause.RECIPE,
    DataError: Cause.DATA,
    MessageError: Cause.MESSAGE,
    EnvelopeError: Cause.MESSAGE,
    StorageError: Cause.STORAGE,
    MemoryError: Cause.MEMORY,
    torch.OutOfMemoryError: Cause.MEMORY,
}


def public_reason(error: BaseException) -> PublicReason:
    """What a server learns about an error."""
    cause = next((cause for kind, cause in _CAUSES.items() if isinstance(error, kind)), Cause.UNFORESEEN)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        cause = Cause.STORAGE
    if isinstance(error, PolicyError):
        return PublicReason(cause, tuple(dict.fromkeys(error.keys)))
    if isinstance(error, RecipeError):
        return PublicReason(cause, _known(problem.where for problem in error.problems))
    if isinstance(error, DataError):
        return PublicReason(cause, _known([error.where]))
    return PublicReason(cause)


@cache
def known_keys() -> frozenset[str]:
    """Dotted keys of the recipe, and keys of a policy."""
    recipe = (f"{key.group}.{key.name}".lstrip(".") for key in all_keys(Recipe))
    return frozenset([*recipe, *Policy.model_fields])


def _known(places: Iterable[str]) -> tuple[str, ...]:
    """The keys that contain some places, each once."""
    return tuple(dict.fromkeys(key for key in map(_known_part, places) if key))


def _known_part(where: str) -> str:
    """The longest beginning of a dotted place that is a key; empty if no beginning is."""
    while where and where not in known_keys():
        where = where.rpartition(".")[0]
    return where
