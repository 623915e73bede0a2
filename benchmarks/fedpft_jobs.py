"""One run of the FedPFT benchmarks: an ordinary recipe, what is kept of its outcome, and the proxy that it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from fedfm import Experiment, Recipe, Run, __version__, build_experiment, build_proxy, load_recipe, run
from fedpft_data import SETS, Files, Sizes, prepare, public_file
from fedpft_methods import DISTILLED, METHODS, PARTITIONS, TEXT, VISION, VIT_FOLDER, Scale, Subject
from fedpft_statistics import packed
from ledger import RESULTS, digest

Part = Literal["validation", "test"]

LEFT_OPEN = ("kind", "interval", "align", "plug_in", "probe")
"""What of a recipe's ``proxy`` a folder with a proxy leaves open."""


def subject_of(data: str) -> Subject:
    """The backbone that is tuned on a set."""
    return VISION if data in VISION.sets else TEXT


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        data: name of the set.
        method: its name.
        seed: of the proxy, the clients' data, the order of clients, the head and the adapters.
        learning_rate: of clients.
        rounds: of the run.
        judged: the part on which the run is evaluated; a run that is judged on validation data does not get the test
            data, and the reverse.
        changes: to the method's ``proxy``, as (key, value in JSON); keys may have a dot.
    """

    data: str
    method: str
    seed: int
    learning_rate: float
    rounds: int
    judged: Part
    partition: str = "iid"
    size: str = "matched"
    changes: tuple[tuple[str, str], ...] = ()
    scale: Scale = field(default_factory=Scale)

    @property
    def proxy(self) -> dict[str, Any]:
        """The recipe's ``proxy``."""
        proxy: dict[str, Any] = json.loads(json.dumps(METHODS[self.method].proxy))
        proxy |= subject_of(self.data).proxies[self.size].get(proxy["kind"], {})
        if METHODS[self.method].distils and self.size == "harder":
            proxy["plug_in"] = DISTILLED
        if proxy["kind"] != "none":
            proxy["probe"] = 0  # no table shows what a comparison of gradients finds
        for key, value in self.changes:
            *groups, name = key.split(".")
            inner = proxy
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[name] = json.loads(value)
        return proxy

    @property
    def is_fitted(self) -> bool:
        """Whether making the proxy takes more than cutting it out of the backbone."""
        return bool(self.proxy.get("closed_form") or self.proxy.get("distill"))

    @property
    def shows_convergence(self) -> bool:
        """Whether the run is one of those from which the number of rounds is chosen."""
        return self.method == "full" and self.judged == "validation" and self.rounds >= 5

    @property
    def sizes(self) -> Sizes:
        """Rows of the set's parts."""
        sizes = subject_of(self.data).sizes
        return sizes if self.scale.train is None else replace(sizes, train=self.scale.train)

    def recipe(self) -> dict[str, Any]:
        """The recipe; in place of files it has the names of the parts."""
        examples, subject, alpha = SETS[self.data], subject_of(self.data), PARTITIONS[self.partition]
        method = METHODS[self.method]
        data: dict[str, Any] = {"train": "train", "test": self.judged}
        public: dict[str, Any] = {"data": subject.public, "limit": None}
        if not examples.is_images:
            data |= {"text": list(examples.columns), "max_length": examples.max_length}
            public |= {"max_length": examples.public_length}
        dirichlet = {"kind": "dirichlet", "alpha": alpha, "prior": True}
        recipe: dict[str, Any] = {
            "name": "fedpft",
            "seed": self.seed,
            "model": {"path": subject.model},
            "task": {"kind": subject.task},
            "data": data,
            "federation": {
                "clients": subject.clients,
                "per_round": subject.per_round,
                "rounds": self.rounds,
                "partition": {"kind": "iid"} if alpha is None else dirichlet,
            },
            "algorithm": {"name": "fedavgm", "momentum": 0.3},
            "local": {"batch_size": subject.batch_size, "learning_rate": self.learning_rate},
            "tune": dict(method.tune),
            "proxy": self.proxy,
            "runtime": {"precision": "auto", "processes": 1},
            "evaluate": {"every": self.rounds // 5 if self.shows_convergence else self.rounds, "clients": 0},
            "checkpoint": {"every": self.rounds, "keep": 1},
        }
        if self.proxy["kind"] != "none":
            recipe["public"] = public
        return recipe

    @cached_property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        words = [self.data, self.partition, self.method, self.size, f"rate {self.learning_rate:g}"]
        words += [f"{self.rounds} rounds", f"on {self.judged}", *(f"{name} {value}" for name, value in self.changes)]
        parts = [self.recipe(), asdict(self.sizes), self.scale.source, self.scale.overrides, __version__]
        return f"{', '.join([*words, *self.scale.overrides, f'seed {self.seed}'])} [{digest(parts)}]"

    @property
    def proxy_key(self) -> str:
        """Names the fitted proxy: made with the run's seed; alignment, the set and its labels do not change it."""
        made_by = {key: value for key, value in self.proxy.items() if key not in LEFT_OPEN}
        recipe = self.recipe()
        overrides = [word for word in self.scale.overrides if word.startswith(("model.", "public.", "proxy."))]
        texts = len(SETS[self.data].columns)
        kind = self.proxy["kind"]
        source = self.scale.source
        return digest(
            [kind, made_by, recipe["model"], recipe["public"], texts, self.seed, source, overrides, __version__]
        )


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Runs a job; what the choices and the tables need of its outcome."""
    recipe = located(job, data, scratch / "run")
    if job.is_fitted:
        recipe = with_fitted_proxy(recipe, job.proxy_key, job.scale.overrides)
    read = load_recipe(recipe, job.scale.overrides)
    finished = run(read)
    return outcome(finished) | ({"correct": correct(read, finished)} if job.judged == "test" else {})


def located(job: Job, data: Path, run_folder: Path) -> dict[str, Any]:
    """The job's recipe with files in place of names, and the folder of its run."""
    recipe, files = job.recipe(), prepare(data, job.data, job.sizes)
    recipe["data"] |= {"train": str(files.train), "test": str(_part(files, job.judged))}
    if "public" in recipe:
        recipe["public"]["data"] = str(public_file(data, recipe["public"]["data"]))
    if recipe["model"]["path"] == VIT_FOLDER:
        recipe["model"]["path"] = str(RESULTS / VIT_FOLDER)
    return recipe | {"run_dir": str(run_folder)}


def _part(files: Files, name: Part) -> Path:
    return files.validation if name == "validation" else files.test


def with_fitted_proxy(recipe: dict[str, Any], key: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe, its proxy read from the folder that ``key`` names; it is made there where it is not yet."""
    folder = RESULTS / "proxies" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # another process may be making it
        if not folder.exists():
            beside = folder.with_suffix(".partial")
            shutil.rmtree(beside, ignore_errors=True)
            made_by = {
                name: value for name, value in recipe["proxy"].items() if name == "kind" or name not in LEFT_OPEN
            }
            build_proxy(load_recipe({**recipe, "proxy": made_by}, overrides), beside)
            beside.rename(folder)
    left = {name: value for name, value in recipe["proxy"].items() if name in LEFT_OPEN}
    return {**recipe, "proxy": left | {"path": str(folder)}}


def outcome(finished: Run) -> dict[str, Any]:
    """The figures of a run; None where it has no such thing.

    ``plugged`` is the accuracy of the backbone with what clients tuned, ``distilled`` that after plug-in distillation,
    ``curve`` the accuracy by round.
    """
    summary = finished.summary
    proxy = summary["proxy"] or {}
    records = finished.metrics.to_dict("records")
    curve = {int(record["round"]): record["accuracy"] for record in reversed(records) if record["split"] == "test"}
    plugged = proxy["plugged"] if proxy else summary["final"]
    return {
        "plugged": plugged["accuracy"],
        "distilled": (proxy.get("distilled") or {}).get("accuracy"),
        "proxy_accuracy": (proxy.get("final") or {}).get("accuracy"),
        "initial": summary["initial"]["accuracy"],
        "majority": summary["baselines"]["majority"],
        "curve": {str(number): curve[number] for number in sorted(curve)},
        "block_parameters": proxy.get("parameters", {}).get("blocks"),
        "disclosed": proxy.get("disclosed"),
        "client_parameters": summary["parameters"]["client"],
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        "first_download": summary["bytes"]["first_download"],
        "seconds": summary["seconds"]["total"],
    }


def correct(recipe: Recipe, finished: Run) -> dict[str, str]:
    """Which test examples the backbone classifies correctly, in their order: plugged, and distilled where it was.

    Raises:
        RuntimeError: the accuracy is not that of the run.
    """
    experiment, state = build_experiment(recipe), finished.state
    if state.proxy is not None:
        experiment.client_model.load(state.proxy)
    experiment.plug_in(state.delivered().params)
    found = {"plugged": packed(_correct(experiment, state.delivered().metrics["accuracy"]))}
    if state.refined is not None and state.refined.params:
        experiment.tunable.write(state.refined.params)
        found["distilled"] = packed(_correct(experiment, state.refined.scores["test"]["accuracy"]))
    return found


def _correct(experiment: Experiment, accuracy: float) -> np.ndarray:
    """Of each test example, bool [N]; refused where it is not what the run itself has measured."""
    examples = experiment.data.test
    found: np.ndarray = experiment.evaluator.logits(examples).argmax(-1) == examples.labels
    if abs(found.mean() - accuracy) > 1e-9:
        raise RuntimeError(
            f"{found.mean():.4f} of the examples are right, but the run has an accuracy of {accuracy:.4f}"
        )
    return found
