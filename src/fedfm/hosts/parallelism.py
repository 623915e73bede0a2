"""How clients share this machine: how many train in one pass, and in how many processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from fedfm.clients import Stacking
from fedfm.clients.stacked import why_alone, why_own_steps
from fedfm.clients.work import WORKS
from fedfm.data.examples import IGNORED
from fedfm.errors import RecipeError
from fedfm.hosts.devices import gains_by_bfloat16
from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.stacked import ExampleStack, FrozenPrefix, PackedBlocks, StackedTunable, UnstackableError
from fedfm.models.tunable import Tunable
from fedfm.recipe import Recipe
from fedfm.records.environment import cpu_count
from fedfm.runtimes.processes import can_fork
from fedfm.runtimes.settings import Runtime
from fedfm.tasks import Task

LONG, SHARED = 1e13, 1e12
"""Approximate number of operations of a run. Above `LONG` (a minute or two of one core) `auto` takes bfloat16; above
`SHARED` (some ten seconds) it takes several processes, each with one thread."""

TOKENS = {"cpu": 8192, "cuda": 131_072}
"""Most tokens of one step with `auto`. On a CPU every number from 2,048 is equally fast; the GPU's is an estimate."""


@dataclass(frozen=True)
class Sharing:
    """How the clients of a run share this machine.

    Attributes:
        runtime: the recipe's, with the chosen values in place of ``auto``, so that a resumed run rounds the same way.
        processes: number of processes of this machine that train clients.
        stacking: how clients share passes; None: each client trains alone, in a plain loop.
        words: what was chosen, and why.
    """

    runtime: Runtime
    processes: int
    stacking: Stacking | None
    words: str


def choose_sharing(
    recipe: Recipe,
    backbone: Backbone,
    tunable: Tunable,
    task: Task,
    processor: Processor,
    *,
    device: torch.device,
    examples: int,
) -> Sharing:
    """Chooses how the clients of a run share this machine, where ``runtime`` says ``auto``.

    Args:
        recipe: resolved.
        backbone: what clients train on.
        tunable: attached to the backbone.
        task: of the run.
        processor: its padding token fills batches of unequal length.
        device: what clients train on.
        examples: number of training examples of all clients.

    Raises:
        RecipeError: at ``runtime.processes``, if it is above 1 where only one process is possible; at
            ``runtime.precision``, if it is ``bfloat16`` and clients cannot share passes (only shared passes compute in
            bfloat16); at ``local.recompute``, if the model's blocks are not described.
    """
    operations = _operations(recipe, backbone.model.num_parameters(), examples)
    parts = min(cpu_count(), _cohort(recipe)) if operations > SHARED and _can_share(device) else 1
    processes = _processes(recipe, device, parts)
    stacking, words = _stacking(
        recipe, backbone, tunable, task, processor, device=device, parts=parts, is_long=operations > LONG
    )
    chosen: dict[str, Any] = {
        "stack": stacking.clients if stacking else "off",
        "precision": "float32" if stacking is None or stacking.blocks.dtype is None else "bfloat16",
    }
    if "processes" in type(recipe.runtime).model_fields:
        chosen["processes"] = processes
    runtime = recipe.runtime.model_copy(update=chosen)
    words += recipe.runtime.place if processes == 1 else f", in each of {processes} processes"
    return Sharing(runtime, processes, stacking, words)


def _stacking(
    recipe: Recipe,
    backbone: Backbone,
    tunable: Tunable,
    task: Task,
    processor: Processor,
    *,
    device: torch.device,
    parts: int,
    is_long: bool,
) -> tuple[Stacking | None, str]:
    wanted = recipe.runtime.stack
    problem = "`runtime.stack: off`" if wanted == "off" else _problem(recipe, backbone, tunable, task)
    if problem is not None or wanted == "off":
        if recipe.runtime.precision == "bfloat16":
            raise RecipeError(
                f"clients that train one by one compute in float32 ({problem})", where="runtime.precision"
            )
        return None, f"one client at a time ({problem})"
    clients = _fitting(recipe, tunable, device, parts) if wanted == "auto" else wanted
    pad = cast(int, processor.pad_token_id) if isinstance(processor, PreTrainedTokenizerBase) else 0
    padding = {"input_ids": pad, "labels": IGNORED}
    blocks = PackedBlocks.of(tunable, backbone.family, task.peft_type)
    if _computes_in_bfloat16(recipe, blocks, device, is_long=is_long):
        blocks = replace(blocks, dtype=torch.bfloat16)
    words = f"{clients} clients at a time" if clients > 1 else "one client at a time"
    fixed = not recipe.proxy.is_sent and not task.draws_inputs  # the blocks of what is sent may change
    prefix = FrozenPrefix.of(blocks, tunable) if fixed else None
    words += "" if blocks.dtype is None else ", blocks in bfloat16"
    words += f", the first {prefix.start} blocks once an example" if prefix else ""
    words += ", one by one in rounds that count how much neurons are used" if recipe.proxy.counts_at_clients else ""
    return Stacking(clients, blocks, padding, prefix, uniform=device.type != "cpu"), words


def _problem(recipe: Recipe, backbone: Backbone, tunable: Tunable, task: Task) -> str | None:
    """Why clients cannot share passes; None if they can."""
    if recipe.privacy.examples(recipe.local, recipe.federation.rounds) is not None:
        reason = why_example_by_example(recipe, backbone, tunable, task)
        how = "" if reason is None else f", one example after the other: {reason}"
        return f"`privacy.kind: {recipe.privacy.kind}` clips each example's gradient{how}"
    if not any(WORKS[work].shares_passes for work in recipe.protocol.works):
        return f"with `protocol.kind: {recipe.protocol.kind}` clients do more than train"
    if not recipe.tune.stackable:
        return f"with `tune.kind: {recipe.tune.kind}` each client would need a model of its own"
    family = backbone.family
    if recipe.local.recompute != "none" and not family.is_described:
        raise RecipeError(
            f"the blocks of `{family.name}` models are not described; set it to `none`",
            where="local.recompute",
        )
    if recipe.local.recompute != "none":
        return "`local.recompute` is for machines with little memory"
    if reason := why_alone(task, recipe.algorithm) or why_own_steps(recipe.local):
        return reason
    if recipe.local.dropout or recipe.tune.dropout:
        return "dropout draws separately for each client"
    if not family.is_described:
        return f"the parts of `{family.name}` models are not described"
    if family.reads_positions and recipe.tune.in_blocks:
        return f"attention of {family.name} also reads relative positions, which clients share"
    try:
        StackedTunable(tunable, [tunable.read()])
    except UnstackableError as error:
        return str(error)
    return None


def why_example_by_example(recipe: Recipe, backbone: Backbone, tunable: Tunable, task: Task) -> str | None:
    """Why the gradients of a batch's examples are computed by one pass for each; None: one pass is exact.

    Args:
        recipe: resolved.
        backbone: what clients train on.
        tunable: attached to the backbone.
        task: of the run.
    """
    family = backbone.family
    if not recipe.tune.stackable:
        return f"with `tune.kind: {recipe.tune.kind}` each example would need a model of its own"
    if recipe.local.recompute != "none":
        return "`local.recompute` is for machines with little memory"
    if reason := why_alone(task, recipe.algorithm):
        return reason
    if recipe.local.dropout or recipe.tune.dropout:
        return "stacked layers have no dropout"
    if not family.is_described:
        return f"the parts of `{family.name}` models are not described"
    if family.reads_positions and recipe.tune.in_blocks:
        return f"attention of {family.name} also reads relative positions, which examples share"
    try:
        ExampleStack(tunable)
    except UnstackableError as error:
        return str(error)
    return None


def _computes_in_bfloat16(recipe: Recipe, blocks: PackedBlocks, device: torch.device, *, is_long: bool) -> bool:
    """Whether clients that share passes compute blocks in bfloat16.

    Raises:
        RecipeError: at ``runtime.precision``, if it is ``bfloat16`` and they cannot.
    """
    wanted = recipe.runtime.precision
    if wanted == "float32" or (wanted == "auto" and not (is_long and gains_by_bfloat16(device))):
        return False
    problem = _problem_in_bfloat16(recipe, blocks)
    if problem is not None and wanted == "bfloat16":
        raise RecipeError(f"{problem}; use float32", where="runtime.precision")
    return problem is None


def _problem_in_bfloat16(recipe: Recipe, blocks: PackedBlocks) -> str | None:
    """Why clients that share passes cannot compute blocks in bfloat16; None if they can."""
    if recipe.tune.kind == "prefix":
        return "a prefix's keys and values stay in float32"
    if not blocks.can_be_packed:
        return f"blocks of {blocks.family.name} also read float32 values that are computed outside of them"
    if recipe.proxy.counts_at_clients:
        return "clients count how much neurons are used, in a plain loop, in float32"
    return None


def _fitting(recipe: Recipe, tunable: Tunable, device: torch.device, parts: int) -> int:
    """Number of clients whose batches fit into memory together; at most one part of the cohort.

    The number decides bits, so for every runtime ``parts`` is the number of processes of a local run.
    """
    room = _free_memory(device) / parts / 2 / _bytes_a_token(tunable)
    tokens = min(TOKENS.get(device.type, TOKENS["cpu"]), room)
    each = recipe.local.batch_size * recipe.data.max_length
    return max(1, min(int(tokens // each), math.ceil(_cohort(recipe) / parts)))


def _free_memory(device: torch.device) -> float:
    """Bytes of memory that are free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _bytes_a_token(tunable: Tunable) -> float:
    """Approximate bytes of a token: in each block ten hidden states and three of the FFN, and its logits."""
    config = tunable.base_model.config.get_text_config()
    hidden = getattr(config, "hidden_size", 768)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    logits = 3 * config.vocab_size if tunable.base_model.get_output_embeddings() is not None else 0
    return 4.0 * (getattr(config, "num_hidden_layers", 12) * (10 * hidden + 3 * inner) + logits)


def _cohort(recipe: Recipe) -> int:
    return recipe.federation.cohort_size(recipe.federation.clients or 1)


def _processes(recipe: Recipe, device: torch.device, parts: int) -> int:
    """How many processes train clients; with `auto`, one for each part of the cohort."""
    wanted = recipe.runtime.processes
    if wanted == "auto":
        return parts if recipe.runtime.resolved_threads == 1 else 1
    if wanted > 1 and not _can_share(device):
        raise RecipeError("more than one process needs Linux and a CPU; set it to `auto`", where="runtime.processes")
    return wanted


def _can_share(device: torch.device) -> bool:
    """Whether several processes can train on a device."""
    return can_fork() and device.type == "cpu"


def _operations(recipe: Recipe, parameters: int, examples: int) -> float:
    """Approximate number of operations of a run's local training."""
    local, cohorts = recipe.local, recipe.federation.rounds * _cohort(recipe)
    if local.max_steps is None:
        passed = examples * cohorts / (recipe.federation.clients or 1) * local.epochs
    else:
        passed = cohorts * local.max_steps * local.batch_size
    return 6 * parameters * passed * recipe.data.max_length
