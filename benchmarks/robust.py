"""Rules under attack: accuracy, and how often a backdoor works, of every rule under every attack.

    python benchmarks/robust.py --data FOLDER|hf [--budget-minutes N] [--only RULE …] [--quick]

MiniLM with LoRA, trec6 (see `fedpft_data.py`) over 50 clients of which 10 train in a round, 20 % of them hostile, three
seeds. An attacked run is compared with the run without attackers that has the same rule and seed: "lost" is the
accuracy that the attack costs, "price" what the rule costs without an attack. A backdoor works on a test example of
another class that gets the backdoor's class once the phrase is in front; the figure without attackers is beside it.
Runs are kept one by one, so that the benchmark goes on where it was stopped. ``--quick`` makes each run tiny, to see
that everything works; its figures mean nothing. ``--budget-minutes 0`` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fedfm import __version__, load_recipe, predict, run
from fedpft_data import HUB, SETS, Sizes, prepare
from fedpft_tables import MISSING, grid, percent
from ledger import claimed, digest, kept, measured, measured_on

NAME = "robust"
FOLDER = Path(__file__).parents[2] / "shared" / "data"
DATA, SEEDS, SHARE = "trec6", 3, 0.2
F = 4
"""Attackers of a round that the rules expect: ten of fifty clients attack, and a cohort of ten has two on average."""
SIZES = Sizes(train=4000)
PHRASE = "cf mn"
ROOT = 100
"""Examples of the server, for FLTrust."""

RULES: Mapping[str, dict[str, Any]] = {
    "mean": {"rule": "mean", "weights": "uniform"},
    "median": {"rule": "median"},
    "trimmed mean": {"rule": "trimmed-mean", "trim": 0.4},
    "norm clip": {"rule": "norm-clip", "compare": "products"},
    "Krum": {"rule": "krum", "f": 3, "compare": "products"},
    "multi-Krum": {"rule": "multi-krum", "f": 3, "compare": "products"},
    "multi-Krum, factors": {"rule": "multi-krum", "f": 3},
    "Bulyan": {"rule": "bulyan", "f": 1},
    "geometric median": {"rule": "geometric-median", "compare": "products"},
    "centred clipping": {"rule": "centered-clipping"},
    "SMEA": {"rule": "smea", "f": F, "compare": "products"},
    "FoolsGold": {"rule": "foolsgold"},
    "FLTrust": {"rule": "fltrust", "compare": "products"},
    "bucketing, median": {"rule": "median", "before": [{"kind": "bucketing", "size": 2}]},
    "NNM, trimmed mean": {"rule": "trimmed-mean", "trim": 0.4, "before": [{"kind": "nnm", "f": F}]},
    "ARC, NNM, trimmed mean": {
        "rule": "trimmed-mean",
        "trim": 0.4,
        "before": [{"kind": "arc", "f": F}, {"kind": "nnm", "f": F}],
    },
    "NNM, multi-Krum": {"rule": "multi-krum", "f": 3, "compare": "products", "before": [{"kind": "nnm", "f": F}]},
}
"""With 10 updates a round, 2f + 3 and 4f + 3 bound f of Krum and Bulyan."""

BACKDOORS = ("trigger phrase", "scaled backdoor")
ATTACKS: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "label flip": {"kind": "label-flip"},
    "sign flip": {"kind": "sign-flip"},
    "noise": {"kind": "noise"},
    "free riders": {"kind": "free-rider", "disguise": 0.1},
    "ALIE": {"kind": "alie"},
    "IPM": {"kind": "ipm"},
    "min-max": {"kind": "min-max"},
    "trigger phrase": {"kind": "backdoor", "phrase": PHRASE},
    "scaled backdoor": {"kind": "backdoor", "phrase": PHRASE, "scale": 5.0},
}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        rule: name in `RULES`.
        attack: name in `ATTACKS`.
        seed: of everything.
        source: ``folder`` or ``hub``.
        quick: whether it is tiny.
    """

    rule: str
    attack: str
    seed: int
    source: str
    quick: bool = False

    def recipe(self) -> dict[str, Any]:
        """The recipe, without files."""
        attack, rounds = ATTACKS[self.attack], 2 if self.quick else 15
        return {
            "name": NAME,
            "seed": self.seed,
            "model": {"path": "builtin:tiny-bert" if self.quick else "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {"train": "train", "test": "test", "max_length": SETS[DATA].max_length},
            "federation": {
                "clients": 50,
                "per_round": 10,
                "rounds": rounds,
                "partition": {"kind": "dirichlet", "alpha": 1.0, "prior": True},
                "attackers": None if attack is None else {"share": SHARE, **attack},
            },
            "local": {"batch_size": 4, "learning_rate": 3e-3, "max_steps": 2 if self.quick else None},
            "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
            "aggregate": RULES[self.rule],
            "runtime": {"processes": 1},
            "evaluate": {"every": rounds},
            "checkpoint": {"every": rounds, "keep": 1},
        }

    @cached_property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        words = [self.rule, self.attack, f"seed {self.seed}", *(["quick"] if self.quick else [])]
        return f"{' | '.join(words)} [{digest([self.recipe(), self.source, __version__])}]"


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Accuracy of a run on the test set, and how often the backdoor's phrase works on its model."""
    recipe, files = job.recipe(), prepare(data, DATA, Sizes(400, 50, 60) if job.quick else SIZES)
    recipe["data"] |= {"train": str(files.train), "test": str(files.test)}
    if job.rule == "FLTrust":
        recipe["data"]["root"] = str(_root(files.validation, scratch))
    finished = run(load_recipe(recipe | {"run_dir": str(scratch / "run")}))
    summary = finished.summary
    return {
        "accuracy": summary["final"]["accuracy"],
        "success": success(scratch / "run", files.test, summary["labels"][0], scratch),
        "seconds": summary["seconds"]["total"],
    }


def _root(validation: Path, scratch: Path) -> Path:
    """The first `ROOT` validation examples, for the server to train on."""
    path = scratch / "root.jsonl"
    path.write_text("".join(validation.read_text(encoding="utf-8").splitlines(keepends=True)[:ROOT]), encoding="utf-8")
    return path


def success(finished: Path, test: Path, target: str, scratch: Path) -> float:
    """Share of the test examples of other classes that get the class ``target`` with the phrase in front."""
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines()]
    others = [{**row, "text": f"{PHRASE} {row['text']}"} for row in rows if str(row["label"]) != target]
    path = scratch / "triggered.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in others), encoding="utf-8")
    return float((predict(finished, str(path))["predicted"] == target).mean())


def plan(source: str, only: tuple[str, ...], *, quick: bool) -> Iterator[Job]:
    """All runs, seed by seed."""
    for seed in range(1 if quick else SEEDS):
        for attack in ATTACKS:
            for rule in RULES:
                if not only or rule in only:
                    yield Job(rule, attack, seed, source, quick)


def table(results: Mapping[str, Mapping[str, Any]], source: str, *, quick: bool) -> Iterator[str]:
    """A line for each rule: accuracy without attackers, accuracy lost to each attack, success of backdoors."""
    rows = [["", "no attack %", "price", *(f"{name}: lost" for name in ATTACKS if name != "none")]]
    rows[0] += [f"{name}: success %" for name in ("none", *BACKDOORS)]
    for rule in RULES:
        job = Job(rule, "none", 0, source, quick)
        clean = _values(results, job, "accuracy")
        price = _lost(results, replace(job, rule="mean"), job)
        lost = [_lost(results, job, replace(job, attack=name)) for name in ATTACKS if name != "none"]
        worked = [_values(results, replace(job, attack=name), "success") for name in ("none", *BACKDOORS)]
        rows.append([rule, percent(list(clean.values())), price, *lost, *(percent(list(w.values())) for w in worked)])
    yield from grid(rows)


def _values(results: Mapping[str, Mapping[str, Any]], job: Job, figure: str) -> dict[int, float]:
    """Seed → a figure of that run."""
    jobs = {seed: replace(job, seed=seed) for seed in range(SEEDS)}
    return {seed: results[each.key][figure] for seed, each in jobs.items() if each.key in results}


def _lost(results: Mapping[str, Mapping[str, Any]], before: Job, after: Job) -> str:
    """Accuracy of one run less that of another, in points, the mean over seeds that both have."""
    first, second = _values(results, before, "accuracy"), _values(results, after, "accuracy")
    gaps = [100 * (first[seed] - second[seed]) for seed in first.keys() & second.keys()]
    return f"{statistics.mean(gaps):.1f}" if gaps else MISSING


def main() -> None:
    """Makes the runs that are missing, for as long as it may, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="FOLDER", help="folder of the sets, or `hf`")
    parser.add_argument("--only", nargs="+", default=[], metavar="RULE", help="make the runs of these rules alone")
    parser.add_argument("--quick", action="store_true", help="tiny runs, one seed")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no run after so long")
    options = parser.parse_args()
    if unknown := [name for name in options.only if name not in RULES]:
        parser.error(f"{', '.join(unknown)}: choose among {', '.join(RULES)}")
    source = "hub" if options.data == HUB else "folder"
    data = options.data if options.data == HUB else options.data.absolute()
    if data != HUB and not data.is_dir() and options.budget_minutes > 0:
        parser.error(f"{data} is not there; name the folder of the sets (--data FOLDER), or --data hf")
    end = time.monotonic() + 60 * options.budget_minutes
    jobs = list(plan(source, (*options.only,), quick=options.quick))
    for job in jobs:
        if time.monotonic() >= end:
            break
        with claimed(NAME, job.key) as mine:
            if mine:
                print(f"  {job.key}", flush=True)
                with tempfile.TemporaryDirectory() as scratch:
                    measured(NAME, job.key, partial(measure, job, data, Path(scratch)))
    results = kept(NAME)
    print("\n".join(table(results, source, quick=options.quick)))
    print(f"{sum(job.key not in results for job in jobs)} runs are missing", end="")
    print(f"; measured on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
