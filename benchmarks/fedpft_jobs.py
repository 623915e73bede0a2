"""What `fedpft.py` measures: each job is one run of an ordinary recipe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedfm import __version__

WEB = "web"
"""Public text: web pages and encyclopaedia articles, `c4_wiki_demo` and `wikitext2` joined."""

CONTRAST = "builtin:pydoc"
"""Public text unlike any of the sets."""

PUBLIC_SETS = ("c4_wiki_demo", "wikitext2")


@dataclass(frozen=True)
class TextSet:
    """A classification set, and how much of it a run takes.

    Attributes:
        text: the text column, or two.
        max_length: tokens.
        public_length: tokens of a piece of public text; a pair, where examples are pairs.
        rounds: enough for it to be learnt.
    """

    text: tuple[str, ...] = ("text",)
    max_length: int = 64
    public_length: int = 32
    rounds: int = 15


SETS = {
    "sst2": TextSet(),
    "qnli": TextSet(text=("text_a", "text_b"), public_length=48, rounds=25),
    "trec6": TextSet(max_length=32),
    "ag_news": TextSet(max_length=32),
    "newsgroups20": TextSet(max_length=40),
}


@dataclass(frozen=True)
class Size:
    """How small a proxy is.

    Attributes:
        layers: whole layers of the offsite proxy, two of them tuned; the fewest that it can have are three.
    """

    ffn_keep: float
    keep_layers: tuple[int, ...]
    layers: int


SIZES = {"matched": Size(0.25, (0, -1), 4), "harder": Size(0.1, (), 3)}
"""Of MiniLM's 10.65 M encoder parameters, FedPFT and FedOT: 7.10 and 7.10 M; 4.26 and 5.32 M."""

FIT = {"steps": 600, "batch_size": 16, "learning_rate": 6e-4}
ALIGN = {"share": 0.5, "batch_size": 16, "learning_rate": 6e-4}
INTERVAL = 2
PER_RUN = ("interval", "align", "probe")
"""What of a recipe's ``proxy`` a folder with a proxy leaves open."""

_ALIGNED = {"interval": INTERVAL, "align": ALIGN, "probe": 2}  # each alignment is probed twice
_NOTHING = {"closed_form": False, "distill": None, "interval": None}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "none"},
    "fedot": {"kind": "offsite", "adapters": 1, "distill": FIT},
    "fedpft": {"kind": "fedpft", "closed_form": True, "distill": FIT, **_ALIGNED},
    "N": {"kind": "fedpft", **_NOTHING},
    "B": {"kind": "fedpft", "closed_form": True, "distill": FIT, "interval": None},
    "D": {"kind": "fedpft", **_NOTHING, **_ALIGNED},
    "closed form": {"kind": "fedpft", **_NOTHING, "closed_form": True},
    "fedot, not distilled": {"kind": "offsite", "adapters": 1, "distill": None},
}
"""The recipe's ``proxy`` by method, but for its size. N, B, D as in the paper's Table 3."""


@dataclass(frozen=True)
class Split:
    """How examples are dealt to clients, and what training needs to come through it.

    Attributes:
        alpha: of a Dirichlet distribution around the set's own classes; None: evenly.
        rounds: times those of the set.
        align_steps: of each alignment of a proxy.
    """

    alpha: float | None = None
    learning_rate: float = 3e-3
    rounds: float = 1
    align_steps: int = 5

    @property
    def partition(self) -> dict[str, Any]:
        """The recipe's ``federation.partition``."""
        return {"kind": "iid"} if self.alpha is None else {"kind": "dirichlet", "alpha": self.alpha, "prior": True}


PARTITIONS = {
    "iid": Split(),
    "dirichlet 1": Split(1, learning_rate=2e-3, rounds=1.6, align_steps=25),
    "dirichlet 5": Split(5, learning_rate=2e-3),
    "dirichlet 10": Split(10),
}
"""Learning rate and rounds were chosen without a proxy: evenly dealt, and with α = 1, of 1e-3, 1.5e-3 and 2e-3.

Five steps of alignment are enough where labels are equal; the more unequal they are, the more help. A recipe's default
is 50.
"""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        changes: to the method's ``proxy``, as (key, value in JSON); keys may have a dot.
        overrides: KEY=VALUE changes to the whole recipe.
    """

    data: str
    method: str
    seed: int
    partition: str = "iid"
    size: str = "matched"
    public: str = WEB
    changes: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def proxy(self) -> dict[str, Any]:
        """The recipe's ``proxy``."""
        proxy: dict[str, Any] = json.loads(json.dumps(METHODS[self.method]))
        size = SIZES[self.size]
        if proxy["kind"] == "fedpft":
            proxy |= {"ffn_keep": size.ffn_keep, "keep_layers": list(size.keep_layers)}
        elif proxy["kind"] == "offsite":
            proxy["layers"] = size.layers
        if "align" in proxy:
            proxy["align"]["steps"] = PARTITIONS[self.partition].align_steps
        for key, value in self.changes:
            group, _, name = key.rpartition(".")
            (proxy[group] if group else proxy)[name] = json.loads(value)
        return proxy

    @property
    def is_fitted(self) -> bool:
        """Whether making the proxy takes more than cutting it out of the backbone."""
        return bool(self.proxy.get("closed_form") or self.proxy.get("distill"))

    def recipe(self) -> dict[str, Any]:
        """The recipe, its files named from the folder of data sets."""
        chosen, split = SETS[self.data], PARTITIONS[self.partition]
        rounds = round(split.rounds * chosen.rounds)
        recipe: dict[str, Any] = {
            "name": "fedpft",
            "seed": self.seed,
            "model": {"path": "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {
                "train": f"{self.data}/train.jsonl.gz",
                "test": f"{self.data}/test.jsonl.gz",
                "text": list(chosen.text),
                "max_length": chosen.max_length,
                "limit": 4000,
            },
            "federation": {
                "clients": 100,
                "per_round": 10,
                "rounds": rounds,
                "partition": split.partition,
            },
            "algorithm": {"name": "fedavgm", "momentum": 0.3},
            "local": {"batch_size": 4, "learning_rate": split.learning_rate},
            "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
            "proxy": self.proxy,
            "runtime": {"precision": "bfloat16", "stack": 10, "processes": 1},
            "evaluate": {"every": rounds, "clients": 0},
            "checkpoint": {"every": rounds, "keep": 1},
        }
        if self.proxy["kind"] != "none":
            recipe["public"] = {"data": self.public, "limit": None, "max_length": chosen.public_length}
        return recipe

    @property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        words = [self.data, self.partition, self.method, self.size, f"{self.public} text"]
        words += [f"{name} {value}" for name, value in self.changes] + [*self.overrides, f"seed {self.seed}"]
        return f"{', '.join(words)} [{digest([self.recipe(), self.overrides, __version__])}]"

    @property
    def proxy_key(self) -> str:
        """Names the fitted proxy: alignment, the set and the run's seed do not change it."""
        made_by = {key: value for key, value in self.proxy.items() if key not in PER_RUN}
        public = [self.recipe()["public"], len(SETS[self.data].text)]
        model = [word for word in self.overrides if word.startswith(("model.", "public.", "proxy."))]
        return digest([made_by, public, model, __version__])


def located(recipe: dict[str, Any], data: Path, test: Path, web: Path, run: Path) -> dict[str, Any]:
    """A job's recipe with the files in their places, and the run in its own."""
    placed = {**recipe, "run_dir": str(run)}
    placed["data"] = recipe["data"] | {"train": str(data / recipe["data"]["train"]), "test": str(test)}
    if recipe.get("public", {}).get("data") == WEB:
        placed["public"] = recipe["public"] | {"data": str(web)}
    return placed


def digest(parts: Any) -> str:
    """Twelve letters that stand for values, which JSON must know."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


MAIN = ("full", "fedot", "fedpft")
ABLATION = ("N", "D", "B")
BEYOND = ("closed form", "fedot, not distilled")
"""Not in the paper."""
STUDY_SET = "trec6"
"""Of Table 4 and of the makes of proxies: here they differ most, and a run is short. The paper takes qnli."""

PARAMETERS: dict[str, tuple[tuple[str, str], ...]] = {
    **{f"t = {interval}": (("interval", str(interval)),) for interval in (1, 2, 5)},
    **{f"p = {share}": (("align.share", str(share)),) for share in (0.3, 0.5, 0.8)},
}
"""The paper's Table 4: rounds between alignments (of 15), share of the neurons that one updates."""


_DEFAULTS = (("interval", str(INTERVAL)), ("align.share", str(ALIGN["share"])))


def parameter_job(name: str, seed: int, overrides: tuple[str, ...]) -> Job:
    """A cell of Table 4; what is the default anyway is the job of Table 1."""
    changes = tuple(change for change in PARAMETERS[name] if change not in _DEFAULTS)
    return Job(STUDY_SET, "fedpft", seed, changes=changes, overrides=overrides)


def makes(seed: int, overrides: tuple[str, ...]) -> list[Job]:
    """Proxies of different make, none of them realigned: does a gradient like the backbone's go with accuracy?"""
    jobs = []
    for method in ("N", "closed form", "B"):
        jobs += [Job(STUDY_SET, method, seed, size=size, overrides=overrides) for size in SIZES]
        for keep in ("0.05", "0.5"):
            changes = (("ffn_keep", keep),)
            jobs.append(Job(STUDY_SET, method, seed, size="harder", changes=changes, overrides=overrides))
    return jobs


def plan(seeds: int, overrides: tuple[str, ...]) -> list[Job]:
    """Every job once, breadth first: to stop early leaves whole tables of fewer seeds."""
    main, ablation, beyond = (
        [(method, seed) for seed in range(seeds) for method in group] for group in (MAIN, ABLATION, BEYOND)
    )
    skewed = [partition for partition in PARTITIONS if partition != "iid"]
    jobs = [Job(data, method, seed) for method, seed in main + ablation for data in SETS]
    jobs += [Job(data, method, seed, partition) for method, seed in main for partition in skewed for data in SETS]
    jobs += [Job(data, method, seed, size="harder") for method, seed in main if method != "full" for data in SETS]
    jobs = [replace(job, overrides=overrides) for job in jobs]
    for seed in range(seeds):
        jobs += makes(seed, overrides)
        jobs += [parameter_job(name, seed, overrides) for name in PARAMETERS]
    jobs += [Job(data, method, seed, overrides=overrides) for method, seed in beyond for data in SETS]
    for seed in range(seeds):
        jobs += [
            Job(data, method, seed, public=CONTRAST, overrides=overrides)
            for method in ("closed form", "fedpft")
            for data in SETS
        ]
    return list(dict.fromkeys(jobs))


def chosen(jobs: list[Job], words: list[str]) -> list[Job]:
    """The jobs that have, of every axis that ``words`` name, one of the values named.

    Raises:
        ValueError: a word is no value of any axis.
    """
    axes = {
        "data": list(SETS),
        "method": list(METHODS),
        "partition": list(PARTITIONS),
        "size": list(SIZES),
        "public": [WEB, CONTRAST],
    }
    known = [value for values in axes.values() for value in values]
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"{'; '.join(unknown)}: choose among {'; '.join(known)}")
    for axis, values in axes.items():
        if wanted := [value for value in values if value in words]:
            jobs = [job for job in jobs if getattr(job, axis) in wanted]
    return jobs
