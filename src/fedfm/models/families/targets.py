"""Parts of every block, the way peft selects modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fedfm.models.families.parts import Family, Stack

Parts = Callable[[Stack], Sequence[str]]
"""Chooses parts of a stack's blocks by their paths."""


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
    """Names parts of a block, in every block, the way peft selects modules.

    peft takes a list as endings of module names, which most tools around it read. Where an ending would catch another
    module too (BERT's FFN ``output.dense`` ends its ``attention.output.dense``), it is a `pattern`.
    """
    chosen = list(dict.fromkeys(path for stack in family.stacks for path in parts(stack)))
    for stack in family.stacks:
        others = {*stack.matrices, *family.beside_blocks} - set(parts(stack))
        if any(other == path or other.endswith(f".{path}") for other in others for path in chosen):
            return pattern(family, parts)
    return chosen


def pattern(family: Family, parts: Parts) -> str:
    """A regular expression for the whole names of parts of every block, whatever stands before the stack."""
    lists: dict[tuple[str, ...], list[str]] = {}
    for stack in family.stacks:
        lists.setdefault(tuple(parts(stack)), []).append(stack.path)
    made = [
        rf"(?:{'|'.join(map(re.escape, stacks))})\.\d+\.(?:{'|'.join(map(re.escape, paths))})"
        for paths, stacks in lists.items()
    ]
    return rf"(?:.*\.)?{made[0]}" if len(made) == 1 else rf"(?:.*\.)?(?:{'|'.join(made)})"
