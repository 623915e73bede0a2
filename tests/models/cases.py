"""The tiny models and tasks for tests of models and tunables, and how a batch for each is made."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import torch
import transformers

from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import RANDOM_MODELS
from fedfm.models.families import family_of
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import TUNABLES, TuneSettings
from fedfm.models.tunables.matrices import OfMatrices
from tests.models.kinds import KINDS, folder_of


@dataclass(frozen=True)
class Task:
    auto_class: Any
    task_type: str | None
    labels: tuple[str, ...] | None = None


LABELS = ("a", "b", "c")
TASKS = {
    "text": Task(transformers.AutoModelForSequenceClassification, "SEQ_CLS", LABELS),
    "image": Task(transformers.AutoModelForImageClassification, None, LABELS),
    "causal": Task(transformers.AutoModelForCausalLM, "CAUSAL_LM"),
    "masked": Task(transformers.AutoModelForMaskedLM, None),
}
Case = tuple[str, str]
CASES: list[Case] = [
    *[(f"tiny-{name}", "text") for name in ("bert", "roberta", "deberta", "distilbert", "gpt2", "opt", "llama", "t5")],
    *[(f"tiny-{name}", "image") for name in ("vit", "clip")],
    *[(f"tiny-{name}", "causal") for name in ("gpt2", "gpt-neox", "opt", "llama", "phi3")],
    *[(f"tiny-{name}", "masked") for name in ("bert", "roberta", "distilbert")],
]
ALIKE: list[Case] = [  # the same parts as in some case above
    *[(f"tiny-{name}", "text") for name in ("gpt-neox", "mistral", "qwen3", "gemma", "phi3")],
    *[(f"tiny-{name}", "causal") for name in ("mistral", "qwen3", "gemma")],
    ("tiny-deberta", "masked"),
]
SMALL: dict[str, dict[str, Any]] = {
    "fourierft": {"n_frequency": 20, "scaling": 20.0},
    "waveft": {"n_frequency": 20, "scaling": 5.0},
    "shira": {"r": 2},
    "vera": {"r": 16},
    "mask": {"initial_probability": 0.51},
}
"""Settings of kinds whose defaults are too large for matrices of 16 x 16 and 16 x 8; a mask that a step changes."""
_STORED_TRANSPOSED = [case for case in CASES if case[0] == "tiny-gpt2"]
REFUSED = {
    *product(["miss", "shira", "c3a"], _STORED_TRANSPOSED),
    *product(["prompt", "p-tuning", "prefix"], [case for case in CASES if case[1] in ("image", "masked")]),
    *[(kind, (f"tiny-{name}", "text")) for kind in ("prompt", "p-tuning") for name in ("gpt2", "opt", "llama", "t5")],
    *[("prefix", (f"tiny-{name}", "text")) for name in ("distilbert", "deberta", "t5")],
    *[("bitfit", (f"tiny-{name}", task)) for name, task in (("llama", "text"), ("llama", "causal"), ("t5", "text"))],
    ("bitfit", ("tiny-phi3", "causal")),
    *product(["attention-adapter"], CASES),
    *[("head", (f"tiny-{name}", "causal")) for name in ("gpt2", "opt", "llama", "phi3")],
}
"""Kind of tunable and case that `attach` refuses."""
OF_MATRICES = [kind for kind, settings in TUNABLES.items() if issubclass(settings, OfMatrices)]
"""Kinds that change matrices in a form of their own."""
OF_ANY_MODEL = {*OF_MATRICES, "lora-sb", "ravan", "dual-lora"}
"""Kinds that replace linear layers by others, whatever model these are in."""
THEIR_CASES = [("tiny-bert", "text"), ("tiny-gpt2", "text"), ("tiny-llama", "causal"), ("tiny-vit", "image")]
"""On which these are tested: stored transposed or not, with fewer keys than queries, images."""
GRID = [
    (kind, case)
    for kind, case in product(TUNABLES, CASES)
    if (kind, case) not in REFUSED and (kind not in OF_ANY_MODEL or case in THEIR_CASES)
]
"""Kind of tunable and case that it takes."""
CUT_KINDS: list[Case] = [
    (name, kind.tasks[0]) for name, kind in KINDS.items() if family_of(kind.make()).uncuttable is None
]
"""Models that are no builtins and may have a proxy."""


def first_case(kind: str) -> Case:
    """The first case that a kind of tunable takes."""
    return next(case for known, case in GRID if known == kind)


def small(kind: str, **changes: Any) -> TuneSettings:
    """A tunable's default settings, made to fit tiny models."""
    return TUNABLES[kind](kind=kind, **SMALL.get(kind, {}) | changes)


SPARSE = [
    (kind, case)
    for kind, case in GRID
    if kind == "lora" or small(kind).virtual_tokens or case in THEIR_CASES or case == first_case(kind)
]
"""Of the grid: LoRA and prompts on every case, each kind on `THEIR_CASES`; for what does not depend on both at once."""


def load(name: str, task: str, seed: int = 0) -> Backbone:
    """A fresh copy of a builtin, or of another kind of model, with the head of a task."""
    loaded = _load(name, task, seed)
    return replace(loaded, model=copy.deepcopy(loaded.model))


@cache
def _load(name: str, task: str, seed: int) -> Backbone:
    chosen = TASKS[task]
    path = f"builtin:{name}" if name in RANDOM_MODELS else str(folder_of(name))
    return load_backbone(ModelSettings(path=path), chosen.auto_class, seed=seed, labels=chosen.labels)


def batch(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Two texts of different length, or two images."""
    if backbone.model.main_input_name == "pixel_values":
        return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().reshape(2, 3, 8, 8)}
    return dict(backbone.processor(["a text", "another, longer text"], padding=True, return_tensors="pt"))


def logits(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**inputs).logits
