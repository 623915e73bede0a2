"""Regular expressions of a recipe, tried in a separate process: Python cannot stop one that does not return."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

from fedfm.errors import RecipeError
from fedfm.models.tunables import Tune
from fedfm.models.tunables.targets import TARGETS

SECONDS = 10.0
"""Longest time that a pattern may take over the names of all modules of a model."""

_PROGRAM = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    found = re.compile(pattern)
except (re.error, OverflowError, RecursionError):
    sys.exit(0)  # it is refused where it is used, with the reason
for name in names:
    found.fullmatch(name)
"""

_KEYS = ("target_modules", "feedforward_modules")


def check_patterns(tune: Tune, modules: Iterable[str]) -> None:
    """Tries the regular expressions of a tunable on names of modules, each for at most `SECONDS`.

    Args:
        tune: the recipe's.
        modules: names of the model's modules.

    Raises:
        RecipeError: one takes longer, or its process ends.
    """
    names = list(modules)
    for key in _KEYS:
        pattern = getattr(tune, key, None)
        if isinstance(pattern, str) and pattern not in TARGETS:
            _try(pattern, names, where=f"tune.{key}")


def _try(pattern: str, names: list[str], *, where: str) -> None:
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program
            command, input=json.dumps([pattern, names]).encode(), timeout=SECONDS, capture_output=True, check=False
        )
    except subprocess.TimeoutExpired as error:
        reason = f"the regular expression takes longer than {SECONDS:g} seconds over the names of the model's modules"
        raise RecipeError(reason, where=where) from error
    if done.returncode != 0:
        raise RecipeError("the regular expression cannot be matched: it takes too much memory", where=where)
