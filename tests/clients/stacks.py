"""Tiny models of all families with every tunable, and batches for them; for tests of passes that several share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import RANDOM_MODELS
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import TUNABLES
from fedfm.params import Params
from fedfm.tasks import Task
from fedfm.tasks.base import Batch
from fedfm.tasks.language_modeling import IGNORED
from tests.models.cases import ALIKE, OF_ANY_MODEL, REFUSED, THEIR_CASES, small
from tests.models.cases import CASES as SHARED
from tests.models.kinds import KINDS, folder_of

TINY = [name for name in RANDOM_MODELS if name.startswith("tiny-")]


def config_of(name: str) -> Any:
    """A model's config."""
    return RANDOM_MODELS[name].config() if name in TINY else KINDS[name].make()


_NAMES = {
    "text": "text-classification",
    "image": "image-classification",
    "causal": "causal-lm",
    "masked": "masked-lm",
}


_SHORT = {task: short for short, task in _NAMES.items()}


def tasks_of(name: str) -> list[str]:
    """Tasks that a model may be tuned for."""
    if name in KINDS:
        return [_NAMES[task] for task in KINDS[name].tasks]
    return [_NAMES[task] for known, task in (*SHARED, *ALIKE) if known == name]


RELATIVE = {(name, kind) for name in ["tiny-deberta"] for kind in TUNABLES if TUNABLES[kind].in_blocks}
"""Whose projections also read relative positions: `hosts.parallelism` trains them one by one."""
WHOLE = [*TINY, "t5, gated", "modernbert", "albert", "mixtral", "dinov2, gated", "mpnet", "gemma2"]
"""Those with parts that no other has; of the rest one task, and the tunables that differ from those like them."""
SINGLE = ("fourierft", "c3a")
"""Kinds whose transforms PEFT computes in float32, whatever the model is in."""
SINGLE_MODELS = {"gemma2": [*TUNABLES], "tiny-gemma": ["norms", "layers"]}
"""Models whose softmax or norms are in float32, whatever the model is in, and the kinds that meet them."""
ALONE = {("mixtral", "layers")}
"""Models with parts that cannot be stacked, and the kinds that train these: experts."""
NEAR = ("lora", "bitfit", "head")


def _tasks(name: str, kind: str) -> list[str]:
    """Tasks on which a model and a tunable are tested together: one, and all for tunables that are unlike in each."""
    allowed = [task for task in tasks_of(name) if (kind, (name, _SHORT[task])) not in REFUSED]
    return allowed if name in WHOLE and kind in NEAR else allowed[-1:]


CASES = [
    (name, task, kind)
    for name in (*TINY, *KINDS)
    for kind in (TUNABLES if name in WHOLE else NEAR)
    for task in _tasks(name, kind)
    if TUNABLES[kind].stackable
    and (name, kind) not in RELATIVE | ALONE
    and (kind not in OF_ANY_MODEL or name in dict(THEIR_CASES))
]
"""A rule works on gradients, whatever model they come from: on one model each tunable meets every rule."""


def attached(name: str, task: Task, kind: str, **settings: Any) -> tuple[Backbone, Tunable]:
    """A tunable in double precision, moved from where it starts, so that nothing is zero."""
    loaded = _load(name, task.auto_class, ("a", "b", "c") if task.labelled else None)
    backbone = replace(loaded, model=copy.deepcopy(loaded.model))
    if backbone.family.name in ("mixtral", "qwen3_moe"):
        backbone.model.set_experts_implementation("eager")  # the other kernels know no float64
    tunable = small(kind, **settings).attach(backbone, task_type=task.peft_type, seed=0)
    tunable.model.double()
    return backbone, tunable


@cache
def _load(name: str, auto_class: Any, labels: tuple[str, ...] | None) -> Backbone:
    path = f"builtin:{name}" if name in TINY else str(folder_of(name))
    return load_backbone(ModelSettings(path=path), auto_class, seed=0, labels=labels)


def moved(tunable: Tunable, seed: int) -> Params:
    """Values some way from the tunable's."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for name, parameter in tunable.parameters.items()
    }


def read(tunable: Tunable) -> Params:
    return {name: parameter.detach().clone() for name, parameter in tunable.parameters.items()}


def batches(task: Task, name: str, rows: list[int], seed: int) -> Iterator[Batch]:
    """Random examples of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    pad = config_of(name).pad_token_id if task.modality == "text" else 0
    for count in rows:
        if task.modality == "image":
            pixels = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
            yield {"pixel_values": pixels, "labels": torch.randint(3, (count,), generator=generator)}
            continue
        lengths = torch.randint(2, 9, (count,), generator=generator)
        there = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.randint(10, 200, there.shape, generator=generator)
        ids[torch.arange(count), lengths - 1] = config_of(name).eos_token_id  # by which T5 classifies
        ids = ids.where(there, pad)
        labels = torch.randint(3, (count,), generator=generator) if task.labelled else ids.where(there, IGNORED)
        yield {"input_ids": ids, "attention_mask": there.long(), "labels": labels}
