"""How many clients train in one pass: what the recipe asks for, and what tunable, backbone and memory allow."""

from __future__ import annotations

from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from fedfm.clients import Stacking
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.stacked import PackedBlocks, StackedTunable, UnstackableError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Dora, Lora
from fedfm.recipe import Recipe
from fedfm.tasks import Task
from fedfm.tasks.language_modeling import IGNORED

TOKENS = 8192
"""Tokens of a step, at most, that `auto` puts together: beyond that a CPU gains nothing and memory still grows."""


def choose_stacking(
    recipe: Recipe, backbone: Backbone, tunable: Tunable, task: Task, processor: Processor
) -> tuple[Stacking | None, str]:
    """How the clients of a run share passes, and in words what was chosen and why.

    Args:
        recipe: ``runtime.stack`` says how many at most.
        backbone: the one that clients train on.
        tunable: attached to it.
        task: of the run.
        processor: its padding fills batches of unequal length.

    Raises:
        RecipeError: at ``runtime.precision`` when clients cannot share passes: only shared ones compute in bfloat16.
    """
    wanted = recipe.runtime.stack
    problem = "`runtime.stack: off`" if wanted == "off" else _problem(recipe, backbone, tunable)
    if problem is not None or wanted == "off":
        if recipe.runtime.precision == "bfloat16":
            raise RecipeError(f"one by one, clients are trained in float32 ({problem})", where="runtime.precision")
        return None, f"one client at a time ({problem})"
    clients = _fitting(recipe) if wanted == "auto" else wanted
    first_only = task.peft_type == "SEQ_CLS"
    pad = cast(int, processor.pad_token_id) if isinstance(processor, PreTrainedTokenizerBase) else 0
    padding = {"input_ids": pad, "labels": IGNORED}
    dtype = torch.bfloat16 if recipe.runtime.precision == "bfloat16" else None
    blocks = PackedBlocks(tunable.base_model, backbone.family, first_only=first_only, dtype=dtype)
    words = f"{clients} clients at a time" if clients > 1 else "one client at a time"
    return Stacking(clients, blocks, padding), words if dtype is None else f"{words}, blocks in bfloat16"


def _problem(recipe: Recipe, backbone: Backbone, tunable: Tunable) -> str | None:
    """Why clients cannot share passes."""
    if not recipe.tune.stackable:
        return f"with `tune.kind: {recipe.tune.kind}` each would have a model of its own"
    if recipe.local.dropout or (isinstance(recipe.tune, Lora | Dora) and recipe.tune.lora_dropout):
        return "what dropout drops is drawn for each client by itself"
    if backbone.family.reads_positions and recipe.tune.kind in ("lora", "dora", "ia3", "bitfit"):
        return f"attention of {backbone.family.name} also reads relative positions, which are no client's"
    try:
        StackedTunable(tunable, [tunable.read()])
    except UnstackableError as error:
        return str(error)
    return None


def _fitting(recipe: Recipe) -> int:
    """Clients whose batches make `TOKENS` tokens, at most a cohort."""
    each = recipe.local.batch_size * recipe.data.max_length
    cohort = recipe.federation.per_round
    most = max(1, TOKENS // each)
    return most if cohort is None or cohort < 1 else min(most, int(cohort))
