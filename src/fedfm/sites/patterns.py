"""Patterns of a recipe, tried in a separate process: Python cannot stop one that does not return."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from fedfm.errors import RecipeError
from fedfm.models.tunables.targets import TARGETS
from fedfm.recipe import Recipe

SECONDS = 10.0
"""Longest time that the patterns of a key may take over the names of all modules of a model."""

_PROGRAM = """
import fnmatch, json, re, sys
patterns, are_globs, names = json.load(sys.stdin)
for pattern in patterns:
    try:
        found = re.compile(fnmatch.translate(pattern) if are_globs else pattern)
    except (re.error, OverflowError, RecursionError):
        continue  # it is refused where it is used, with the reason
    for name in names:
        found.fullmatch(name)
"""

_EXPRESSIONS = ("target_modules", "feedforward_modules")


def check_patterns(recipe: Recipe, modules: Iterable[str]) -> None:
    """Tries the patterns of a recipe on names of modules, those of one key for at most `SECONDS`.

    The patterns are regular expressions of what is tuned, and patterns of tensors and clients such as ``*lora_A*``.

    Args:
        recipe: of the run.
        modules: names of the model's modules.

    Raises:
        RecipeError: some take longer, or their process ends.
    """
    names = list(modules)
    for key in _EXPRESSIONS:
        pattern = getattr(recipe.tune, key, None)
        if isinstance(pattern, str) and pattern not in TARGETS:
            _try([pattern], names, are_globs=False, where=f"tune.{key}")
    share, federation = recipe.tune.share, recipe.federation
    if share is not None:
        _try([share] if isinstance(share, str) else share, names, are_globs=True, where="tune.share")
    for key, given in (("ranks", federation.ranks), ("budgets", federation.budgets)):
        if isinstance(given, Mapping):
            _try(list(given), names, are_globs=True, where=f"federation.{key}")


def _try(patterns: Sequence[str], names: list[str], *, are_globs: bool, where: str) -> None:
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    given = json.dumps([patterns, are_globs, names]).encode()
    what = "patterns" if are_globs else "regular expression"
    try:
        done = subprocess.run(command, input=given, timeout=SECONDS, capture_output=True, check=False)  # noqa: S603 - a fixed program
    except subprocess.TimeoutExpired as error:
        reason = f"matching the {what} with the names of the model's modules takes longer than {SECONDS:g} seconds"
        raise RecipeError(reason, where=where) from error
    if done.returncode != 0:
        raise RecipeError(f"the {what} cannot be matched: that takes too much memory", where=where)
