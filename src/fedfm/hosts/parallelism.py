"""How clients share this machine: how many train in one pass, and in how many processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from fedfm.clients import Stacking
from fedfm.errors import RecipeError
from fedfm.hosts.devices import gains_by_bfloat16
from fedfm.models.backbones import Backbone
from fedfm.models.processors import Processor
from fedfm.models.stacked import FrozenPrefix, PackedBlocks, StackedTunable, UnstackableError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Dora, Lora
from fedfm.recipe import Recipe
from fedfm.records.environment import cpu_count
from fedfm.runtimes.processes import can_fork
from fedfm.runtimes.settings import Local, Runtime
from fedfm.tasks import Task
from fedfm.tasks.language_modeling import IGNORED

LONG, SHARED = 1e13, 1e12
"""Operations of a run, roughly, from which `auto` takes bfloat16 (a minute or two of one core), and from which it takes
several processes, each of one thread (some ten seconds)."""

TOKENS = {"cpu": 8192, "cuda": 131_072}
"""Tokens of a step, at most, that `auto` puts together: on a CPU all from 2,048 up are as fast, a GPU's are a guess."""


@dataclass(frozen=True)
class Sharing:
    """How the clients of a run share this machine.

    Attributes:
        runtime: the recipe's, with what was chosen in place of ``auto``: a resumed run rounds alike.
        processes: of this machine that train clients.
        stacking: how they share passes; None: each trains by itself, in a plain loop.
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
    """How the clients of a run share this machine, as ``runtime`` says, and as suits them where it says ``auto``.

    Args:
        recipe: resolved.
        backbone: the one that clients train on.
        tunable: attached to it.
        task: of the run.
        processor: its padding fills batches of unequal length.
        device: that they train on.
        examples: training examples of all clients.

    Raises:
        RecipeError: at ``runtime.processes`` when several are asked for where there can be but one; at
            ``runtime.precision`` when clients cannot share passes: only shared ones compute in bfloat16; at
            ``local.recompute`` when the model's blocks are not described.
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
    if isinstance(recipe.runtime, Local):
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
    problem = "`runtime.stack: off`" if wanted == "off" else _problem(recipe, backbone, tunable)
    if problem is not None or wanted == "off":
        if recipe.runtime.precision == "bfloat16":
            raise RecipeError(f"one by one, clients are trained in float32 ({problem})", where="runtime.precision")
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
    words += ", one by one in rounds that count neurons' use" if recipe.proxy.counts_at_clients else ""
    return Stacking(clients, blocks, padding, prefix, uniform=device.type != "cpu"), words


def _problem(recipe: Recipe, backbone: Backbone, tunable: Tunable) -> str | None:
    """Why clients cannot share passes."""
    if not recipe.tune.stackable:
        return f"with `tune.kind: {recipe.tune.kind}` each would have a model of its own"
    family = backbone.family
    if recipe.local.recompute != "none" and not family.is_described:
        raise RecipeError(
            f"where `{family.name}` models have their blocks is not described; set it to `none`",
            where="local.recompute",
        )
    if recipe.local.recompute != "none":
        return "with `local.recompute` memory is short"
    if recipe.local.dropout or (isinstance(recipe.tune, Lora | Dora) and recipe.tune.lora_dropout):
        return "what dropout drops is drawn for each client by itself"
    if not family.is_described:
        return f"the parts of `{family.name}` models are not described"
    if family.reads_positions and recipe.tune.kind in ("lora", "dora", "ia3", "bitfit"):
        return f"attention of {family.name} also reads relative positions, which are no client's"
    try:
        StackedTunable(tunable, [tunable.read()])
    except UnstackableError as error:
        return str(error)
    return None


def _computes_in_bfloat16(recipe: Recipe, blocks: PackedBlocks, device: torch.device, *, is_long: bool) -> bool:
    """Whether clients that share passes compute blocks in bfloat16.

    Raises:
        RecipeError: at ``runtime.precision`` when they are asked to and cannot.
    """
    wanted = recipe.runtime.precision
    if wanted == "float32" or (wanted == "auto" and not (is_long and gains_by_bfloat16(device))):
        return False
    problem = _problem_in_bfloat16(recipe, blocks)
    if problem is not None and wanted == "bfloat16":
        raise RecipeError(f"{problem}; use float32", where="runtime.precision")
    return problem is None


def _problem_in_bfloat16(recipe: Recipe, blocks: PackedBlocks) -> str | None:
    """Why clients that share passes cannot compute blocks in bfloat16."""
    if recipe.tune.kind == "prefix":
        return "a prefix's keys and values stay in float32"
    if not blocks.can_be_packed:
        return f"blocks of {blocks.family.name} also read what is computed outside them, in float32"
    if recipe.proxy.counts_at_clients:
        return "neurons' use is counted at the clients, in a plain loop, in float32"
    return None


def _fitting(recipe: Recipe, tunable: Tunable, device: torch.device, parts: int) -> int:
    """Clients whose batches fit together, at most a part of the cohort.

    It decides bits, so ``parts`` is how many processes a local run would have, whatever the runtime is.
    """
    room = _free_memory(device) / parts / 2 / _bytes_a_token(tunable)
    tokens = min(TOKENS.get(device.type, TOKENS["cpu"]), room)
    each = recipe.local.batch_size * recipe.data.max_length
    return max(1, min(int(tokens // each), math.ceil(_cohort(recipe) / parts)))


def _free_memory(device: torch.device) -> float:
    """Bytes that nobody uses."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def _bytes_a_token(tunable: Tunable) -> float:
    """What a token takes, roughly: ten hidden states and three of the FFN's in each block, and its logits."""
    config = tunable.base_model.config.get_text_config()
    hidden = getattr(config, "hidden_size", 768)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    logits = 3 * config.vocab_size if tunable.base_model.get_output_embeddings() is not None else 0
    return 4.0 * (getattr(config, "num_hidden_layers", 12) * (10 * hidden + 3 * inner) + logits)


def _cohort(recipe: Recipe) -> int:
    return recipe.federation.cohort_size(recipe.federation.clients or 1)


def _processes(recipe: Recipe, device: torch.device, parts: int) -> int:
    """How many processes train clients; by itself, one for each of so many parts of the cohort."""
    if not isinstance(recipe.runtime, Local):
        return 1
    wanted = recipe.runtime.processes
    if wanted == "auto":
        return parts if recipe.runtime.resolved_threads == 1 else 1
    if wanted > 1 and not _can_share(device):
        raise RecipeError("several processes need Linux and a CPU; leave it at `auto`", where="runtime.processes")
    return wanted


def _can_share(device: torch.device) -> bool:
    """Whether several processes can train on it."""
    return can_fork() and device.type == "cpu"


def _operations(recipe: Recipe, parameters: int, examples: int) -> float:
    """Of a run's local training, roughly."""
    local, cohorts = recipe.local, recipe.federation.rounds * _cohort(recipe)
    if local.max_steps is None:
        passed = examples * cohorts / (recipe.federation.clients or 1) * local.epochs
    else:
        passed = cohorts * local.max_steps * local.batch_size
    return 6 * parameters * passed * recipe.data.max_length
