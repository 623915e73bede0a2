"""Selects parts of every block as peft's ``target_modules``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fedfm.models.families.parts import Family, Stack

Parts = Callable[[Stack], Sequence[str]]
"""A function of a stack that returns paths of parts of its blocks."""


def attention_targets(family: Family) -> list[str] | str:
    """Query, key, value and output projections of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.attention_matrices)


def ffn_targets(family: Family) -> list[str] | str:
    """All FFN matrices of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.ffn_matrices)


def all_targets(family: Family) -> list[str] | str:
    """Attention and FFN of every block, as peft's ``target_modules``."""
    return targets(family, lambda stack: stack.matrices)


def targets(family: Family, parts: Parts) -> list[str] | str:
    """Parts of every block, as peft's ``target_modules``.

    peft reads a list as endings of module names, a form that most other tools also read. If an ending would match
    another module too (BERT's FFN ``output.dense`` is an ending of ``attention.output.dense``), the result is a
    `pattern`.
    """
    chosen = list(dict.fromkeys(path for stack in family.stacks for path in parts(stack)))
    for stack in family.stacks:
        others = {*stack.matrices, *family.beside_blocks} - set(parts(stack))
        if any(other == path or other.endswith(f".{path}") for other in others for path in chosen):
            return pattern(family, parts)
    return chosen


def pattern(family: Family, parts: Parts) -> str:
    """A regular expression for the full names of parts of every block, with any prefix before the stack."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for stack in family.stacks:
        lists.setdefault(tuple(parts(stack)), []).append(stack.path)
    made = [
        rf"(?:{'|'.join(map(re.escape, stacks))})\.\d+\.(?:{'|'.join(map(re.escape, paths))})"
        for paths, stacks in lists.items()
    ]
    return rf"(?:.*\.)?{made[0]}" if len(made) == 1 else rf"(?:.*\.)?(?:{'|'.join(made)})"
