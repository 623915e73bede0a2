"""What `fedpft_others.py` measures: each job is one run of an ordinary recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm import __version__
from fedpft_methods import VIT_FOLDER
from ledger import RESULTS, digest

_FIT = {"steps": 600, "batch_size": 16, "learning_rate": 6e-4}
_ALIGN = {"share": 0.5, "steps": 20, "batch_size": 32, "learning_rate": 6e-4}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "none"},
    "fedot": {"kind": "offsite", "adapters": 1, "distill": _FIT},
    "fedpft": {"kind": "fedpft", "closed_form": True, "distill": _FIT, "interval": 5, "align": _ALIGN},
}
"""The recipe's ``proxy`` by method, but for its size."""


@dataclass(frozen=True)
class Subject:
    """A backbone, and what its proxies are like.

    Attributes:
        path: of the model.
        task: its kind.
        public: the recipe's ``public``.
        proxies: by ``proxy.kind``, the keys that decide its size.
        local: the recipe's ``local``.
    """

    path: str
    task: str
    public: dict[str, Any]
    proxies: dict[str, dict[str, Any]]
    local: dict[str, Any]


VIT = Subject(
    path=VIT_FOLDER,
    task="image-classification",
    public={"data": "tiny_imagenet/train.npz", "limit": None},
    proxies={"fedpft": {"ffn_keep": 0.25, "keep_layers": [0, -1]}, "offsite": {"layers": 4}},
    local={"batch_size": 10, "learning_rate": 4e-3},
)
"""Six layers; of 1.19 M parameters of its blocks, both proxies have 0.79 M."""

STORIES = Subject(
    path="models/stories260k",
    task="causal-lm",
    public={"data": "c4_wiki_demo/train.jsonl.gz", "limit": 4096, "max_length": 64},
    proxies={"fedpft": {"ffn_keep": 0.45, "keep_layers": []}, "offsite": {"layers": 3}},
    local={"batch_size": 8, "learning_rate": 2e-2, "max_steps": 5},
)
"""Five layers; of 227 k parameters of its blocks, both proxies have 136 k."""


@dataclass(frozen=True)
class Set:
    """Data to tune on, and how clients have it.

    Attributes:
        data: the recipe's ``data``, without its files.
    """

    subject: Subject
    ending: str
    data: dict[str, Any]
    federation: dict[str, Any]


_SIMULATED = {"clients": 20, "per_round": 5, "rounds": 20}

SETS = {
    "cifar10": Set(VIT, "npz", {"limit": 1000}, _SIMULATED),
    "flowers17": Set(VIT, "npz", {}, _SIMULATED),
    "pacs": Set(VIT, "npz", {"limit": 1000}, _SIMULATED),
    "shakespeare_roles": Set(
        STORIES,
        "jsonl.gz",
        {"client": "client_id", "max_length": 64},
        {"clients": 50, "per_round": 10, "rounds": 10, "min_examples": 10},
    ),
}


@dataclass(frozen=True)
class Job:
    """One run."""

    data: str
    method: str
    seed: int

    @property
    def proxy(self) -> dict[str, Any]:
        """The recipe's ``proxy``."""
        method = METHODS[self.method]
        return method | SETS[self.data].subject.proxies.get(method["kind"], {})

    def recipe(self) -> dict[str, Any]:
        """The recipe, its files named from the folder of data sets, and a pretrained model by its name."""
        chosen = SETS[self.data]
        files = {split: f"{self.data}/{split}.{chosen.ending}" for split in ("train", "test")}
        recipe: dict[str, Any] = {
            "name": "fedpft-others",
            "seed": self.seed,
            "model": {"path": chosen.subject.path},
            "task": {"kind": chosen.subject.task},
            "data": files | chosen.data,
            "federation": chosen.federation,
            "local": chosen.subject.local,
            "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
            "proxy": self.proxy,
            "evaluate": {"every": 20, "clients": 0},
            "checkpoint": {"every": 20, "keep": 1},
        }
        if self.proxy["kind"] != "none":
            recipe["public"] = chosen.subject.public
        return recipe

    @property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        return f"{self.data}, {self.method}, seed {self.seed} [{digest([self.recipe(), __version__])}]"

    @property
    def proxy_key(self) -> str:
        """Names the fitted proxy: made with the run's seed; alignment and the set do not change it."""
        made_by = {key: value for key, value in self.proxy.items() if key not in ("interval", "align")}
        recipe = self.recipe()
        return digest([made_by, recipe["public"], recipe["model"], self.seed, __version__])


def located(recipe: dict[str, Any], data: Path) -> dict[str, Any]:
    """A job's recipe with the files in their places."""
    files = {split: str(data / recipe["data"][split]) for split in ("train", "test")}
    models = RESULTS if recipe["model"]["path"] == VIT.path else data
    placed = recipe | {
        "data": recipe["data"] | files,
        "model": {"path": str(models / recipe["model"]["path"])},
    }
    if "public" in recipe:
        placed["public"] = recipe["public"] | {"data": str(data / recipe["public"]["data"])}
    return placed


def plan(seeds: int) -> list[Job]:
    """Every job once, breadth first: to stop early leaves a whole table of fewer seeds."""
    return [Job(data, method, seed) for seed in range(seeds) for data in SETS for method in METHODS]


def chosen(jobs: list[Job], words: list[str]) -> list[Job]:
    """The jobs of the sets and methods named; where none of either is named, of all.

    Raises:
        ValueError: a word is no set and no method.
    """
    if unknown := [word for word in words if word not in (*SETS, *METHODS)]:
        raise ValueError(f"{'; '.join(unknown)}: choose among {'; '.join((*SETS, *METHODS))}")
    for axis, values in {"data": SETS, "method": METHODS}.items():
        if wanted := [value for value in values if value in words]:
            jobs = [job for job in jobs if getattr(job, axis) in wanted]
    return jobs
