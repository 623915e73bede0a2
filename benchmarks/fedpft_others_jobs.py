"""What `fedpft_others.py` measures: each job is one run of an ordinary recipe on a causal language model."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedfm import __version__
from fedpft_data import Sizes, split_rows
from ledger import RESULTS, digest

Part = Literal["validation", "test"]

SET, MODEL, PUBLIC = "shakespeare_roles", "models/stories260k", "c4_wiki_demo"
"""Folders of the data: turns of Shakespeare's roles, a Llama of 260,000 parameters, and web texts."""

SIZES = Sizes(train=10**9, validation=800)
"""Nine tenths of the training rows are trained on; those that remain, at most 800, are for validation."""

RATES = (1e-2, 2e-2, 3e-2)
"""Learning rates of clients that are tried for every method."""

TUNING_SEED = 100
"""Not among the seeds of the table."""

IDEAS_RATE = 2e-2
"""Learning rate of clients for all ideas."""

_PAPER = {"steps": 600, "batch_size": 16, "learning_rate": 6e-4}
_FIT = {"steps": 1500, "batch_size": 16, "learning_rate": 3e-3, "predictions": 0.2}
_ALIGN = {"share": 1.0, "steps": 50, "batch_size": 32, "learning_rate": 2e-3, "predictions": 0.2}
_PLUG_IN = {"distill": {"keep": "always", "steps": 800, "learning_rate": 3e-3}}
_CUT = {"kind": "fedpft", "ffn_keep": 0.45, "keep_layers": []}
_OFFSITE = {"kind": "offsite", "adapters": 1, "layers": 3, "distill": _FIT, "plug_in": _PLUG_IN}
_FEDPFT = {**_CUT, "score": "reconstruct", "distill": _FIT, "interval": 2, "align": _ALIGN, "plug_in": _PLUG_IN}


@dataclass(frozen=True)
class Method:
    """One way to tune.

    Attributes:
        title: for tables.
        proxy: the recipe's ``proxy``.
    """

    title: str
    proxy: Mapping[str, Any]


METHODS = {
    "full": Method("no proxy", {"kind": "none"}),
    "fedpft": Method("FedPFT", _FEDPFT),
    "paper": Method(
        "FedPFT as in the paper",
        {
            **_CUT,
            "score": "concat-l2",
            "distill": _PAPER,
            "interval": 5,
            "align": {**_PAPER, "share": 0.5, "steps": 20, "batch_size": 32},
        },
    ),
    "fedot": Method("FedOT", _OFFSITE),
}
"""Of 227 k parameters of the blocks, FedOT's proxy has 143 k, and FedPFT's 154 k. FedOT tunes two of five layers."""

_HIDDEN_ALONE = {"distill": {**_FIT, "predictions": 0.0}, "align": {**_ALIGN, "predictions": 0.0}}
IDEAS: dict[str, dict[str, Any]] = {
    "FedPFT": {},
    "hidden states alone (predictions: 0)": _HIDDEN_ALONE,
    "and the paper's distillation (600 steps at 6e-4)": {**_HIDDEN_ALONE, "distill": _PAPER},
    "and the paper's choice of neurons": {**_HIDDEN_ALONE, "distill": _PAPER, "score": "concat-l2"},
}
"""What is changed of FedPFT's ``proxy``."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        method: its name.
        seed: of the proxy, the order of clients and the adapters.
        learning_rate: of clients.
        judged: the part on which the run is evaluated; it gets no other.
        idea: a name in `IDEAS`.
    """

    method: str
    seed: int
    learning_rate: float
    judged: Part
    idea: str = "FedPFT"

    @property
    def proxy(self) -> dict[str, Any]:
        """The recipe's ``proxy``."""
        return {**METHODS[self.method].proxy, **IDEAS[self.idea]}

    def recipe(self) -> dict[str, Any]:
        """The recipe; in place of files it has the names of the parts and of folders."""
        recipe: dict[str, Any] = {
            "name": "fedpft-others",
            "seed": self.seed,
            "model": {"path": MODEL},
            "task": {"kind": "causal-lm"},
            "data": {"train": "train", "test": self.judged, "client": "client_id", "max_length": 64},
            "federation": {"clients": 50, "per_round": 10, "rounds": 10, "min_examples": 10},
            "local": {"batch_size": 8, "learning_rate": self.learning_rate, "max_steps": 5},
            "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
            "proxy": self.proxy,
            "evaluate": {"every": 20, "clients": 0},
            "checkpoint": {"every": 20, "keep": 1},
        }
        if self.proxy["kind"] != "none":
            recipe["public"] = {"data": PUBLIC, "limit": 4096, "max_length": 64}
        return recipe

    @property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        name = self.method if self.idea == "FedPFT" else self.idea
        words = f"{name}, rate {self.learning_rate:g}, on {self.judged}, seed {self.seed}"
        return f"{words} [{digest([self.recipe(), asdict(SIZES), __version__])}]"


def located(recipe: dict[str, Any], data: Path) -> dict[str, Any]:
    """A job's recipe with the files in their places."""
    parts = _parts(data)
    placed = recipe | {
        "data": recipe["data"] | {name: str(parts[recipe["data"][name]]) for name in ("train", "test")},
        "model": {"path": str(data / recipe["model"]["path"])},
    }
    if "public" in recipe:
        placed["public"] = recipe["public"] | {"data": str(data / recipe["public"]["data"] / "train.jsonl.gz")}
    return placed


def _parts(data: Path) -> dict[str, Path]:
    """Files of training and validation rows below ``results/``, written where they are not yet, and of test rows."""
    folder = RESULTS / "data" / f"{SET}-{SIZES.validation}"
    if not folder.exists():
        with gzip.open(data / SET / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = list(lines)
        beside = folder.with_suffix(".partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for part, chosen in zip(("train", "validation"), split_rows(len(rows), SIZES), strict=True):
            (beside / f"{part}.jsonl").write_text("".join(rows[row] for row in chosen), encoding="utf-8")
        beside.rename(folder)
    here = {part: folder / f"{part}.jsonl" for part in ("train", "validation")}
    return {**here, "test": data / SET / "test.jsonl.gz"}
