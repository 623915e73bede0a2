"""What differential privacy of clients costs: accuracy by ε, method by method.

    python benchmarks/private.py --data FOLDER|hf [--budget-minutes N] [--only TABLE …] [--quick]

MiniLM on sst2 and ag_news (see `fedpft_data.py`): 4,000 training examples over 500 clients, of which each takes part in
a round with probability 0.1; 25 rounds, one local epoch in batches of 8. δ = 0.001. Three tables:

- ``curves``: LoRA with both factors and with A as drawn (FFA), ε of 1, 8 and ∞, two sets;
- ``tunables``: ε = 3 on sst2: FFA, Fed-SB, and tunables that are linear in what is trained;
- ``turns``: ten silos that all take part in every round, and 100 clients that take turns, with independent noise and
  with noise that is correlated over rounds, ε = 8 on sst2.

Clipping bound and learning rate are chosen together among six pairs, for each method, ε and table, on the validation
part of the first set with a seed that no table uses; then frozen. ± is the standard deviation over three seeds, and
has the noise in it, which no seed fixes. Without privacy (ε = ∞) the bound is not used, and the six tries are rates.
Runs are kept one by one, so that the benchmark goes on where it was stopped; several processes may measure at once.
``--quick`` makes each run tiny, to see that everything works; its figures mean nothing. ``--budget-minutes 0`` prints
what is there.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fedfm import __version__, load_recipe, run
from fedpft_data import HUB, SETS, Sizes, prepare
from fedpft_tables import MISSING, grid, percent
from ledger import claimed, digest, kept, measured, measured_on

NAME = "private"
FOLDER = Path(__file__).parents[2] / "shared" / "data"
SEEDS, TUNING_SEED = 3, 100
SIZES = Sizes(train=4000)
DELTA = 1e-3

Values = Mapping[str, Any]

UPPER = r".*layer\.[3-5]\.attention\.self\.(query|value)"
"""Few matrices of the upper layers: noise grows with the square root of the number of trained values."""
RANK_1 = {"kind": "lora", "r": 1, "lora_alpha": 8, "target_modules": UPPER}
METHODS: Mapping[str, dict[str, Values]] = {
    "LoRA r 1": {"tune": RANK_1, "aggregate": {"rule": "mean", "weights": "uniform"}},
    "FFA-LoRA r 1": {"tune": RANK_1, "aggregate": {"rule": "ffa"}},
    "Fed-SB r 16": {"tune": {"kind": "lora-sb", "r": 16, "lora_alpha": 16, "target_modules": UPPER}},
    "IA3": {"tune": {"kind": "ia3"}},
    "WaveFT": {"tune": {"kind": "waveft", "n_frequency": 400, "target_modules": UPPER}},
    "VeRA": {"tune": {"kind": "vera", "r": 64, "target_modules": UPPER}},
    "head": {"tune": {"kind": "head"}},
}

FEDERATIONS: Mapping[str, Values] = {
    "500 clients, Poisson": {"clients": 500, "per_round": 50, "sampling": "poisson"},
    "10 silos, all in every round": {"clients": 10, "per_round": 10},
    "100 clients in turn": {"clients": 100, "per_round": 10, "sampling": "cyclic"},
}

TRIES = tuple((clip, rate) for clip in (0.1, 0.5) for rate in (3e-3, 1e-2, 3e-2))
"""Pairs of C and the learning rate."""
FREE_TRIES = tuple((math.inf, rate) for rate in (1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2))
"""Rates without privacy, as many."""


@dataclass(frozen=True)
class Cell:
    """A place of a table.

    Attributes:
        data: the set.
        method: name in `METHODS`.
        federation: name in `FEDERATIONS`.
        epsilon: ε; ∞ for none.
        mechanism: of the noise.
    """

    data: str
    method: str
    federation: str = "500 clients, Poisson"
    epsilon: float = math.inf
    mechanism: str = "independent"


SILOS, TURNS = "10 silos, all in every round", "100 clients in turn"
TABLES: Mapping[str, tuple[Cell, ...]] = {
    "curves": tuple(
        Cell(data, method, epsilon=epsilon)
        for epsilon in (8.0, 1.0, math.inf)
        for data in ("sst2", "ag_news")
        for method in ("FFA-LoRA r 1", "LoRA r 1")
    ),
    "turns": tuple(
        Cell("sst2", "FFA-LoRA r 1", federation, epsilon, mechanism)
        for federation in (TURNS, SILOS)
        for epsilon, mechanism in ((8.0, "independent"), (8.0, "bisr"), (math.inf, "independent"))
    ),
    "tunables": tuple(Cell("sst2", method, epsilon=3.0) for method in METHODS if method != "LoRA r 1"),
}


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        cell: where it belongs.
        clip: C; ∞ without privacy.
        rate: learning rate.
        seed: of everything but noise and cohorts.
        part: on which it is evaluated.
        source: ``folder`` or ``hub``.
        quick: whether it is tiny.
    """

    cell: Cell
    clip: float
    rate: float
    seed: int
    part: str
    source: str
    quick: bool = False

    def recipe(self) -> dict[str, Any]:
        """The recipe, without files."""
        rounds, method = 3 if self.quick else 25, METHODS[self.cell.method]
        privacy: dict[str, Any] = {"kind": "none"}
        if self.cell.epsilon < math.inf:
            privacy = {"kind": "central", "epsilon": self.cell.epsilon, "delta": DELTA, "clip": self.clip}
            if self.cell.mechanism != "independent":
                privacy |= {"mechanism": self.cell.mechanism, "bands": 4}
        return {
            "name": NAME,
            "seed": self.seed,
            "model": {"path": "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {"max_length": SETS[self.cell.data].max_length},
            "federation": {**FEDERATIONS[self.cell.federation], "rounds": rounds},
            "local": {"batch_size": 8, "learning_rate": self.rate, "max_steps": 1 if self.quick else None},
            "aggregate": {"rule": "mean", "weights": "uniform"},
            "privacy": privacy,
            "runtime": {"processes": 1},
            "evaluate": {"every": rounds},
            "checkpoint": {"every": rounds, "keep": 1},
        } | method

    @cached_property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        cell = self.cell
        words = [cell.data, cell.federation, cell.method, f"epsilon {cell.epsilon:g}", cell.mechanism]
        words += [f"C {self.clip:g}", f"rate {self.rate:g}", f"on {self.part}", f"seed {self.seed}"]
        words += ["quick"] if self.quick else []
        return f"{' | '.join(words)} [{digest([self.recipe(), self.source, __version__])}]"


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Accuracy of a run, the ε that it spent, and how many values it trains."""
    recipe, files = job.recipe(), prepare(data, job.cell.data, SIZES)
    recipe["data"] |= {"train": str(files.train), "test": str(getattr(files, job.part))}
    summary = run(load_recipe(recipe | {"run_dir": str(scratch / "run")})).summary
    return {
        "accuracy": summary["final"]["accuracy"],
        "epsilon": None if summary["privacy"] is None else summary["privacy"]["epsilon"],
        "parameters": summary["parameters"]["trainable"],
        "seconds": summary["seconds"]["total"],
    }


@dataclass(frozen=True)
class Plan:
    """What is there, and what follows from it.

    Attributes:
        results: by key.
        source: ``folder`` or ``hub``.
        quick: whether runs are tiny.
    """

    results: Mapping[str, Mapping[str, Any]]
    source: str
    quick: bool

    def tries(self, cell: Cell) -> list[Job]:
        """The runs from which a cell's bound and rate are chosen: on the first set."""
        first = replace(cell, data="sst2")
        pairs = FREE_TRIES if cell.epsilon == math.inf else TRIES
        return [Job(first, clip, rate, TUNING_SEED, "validation", self.source, self.quick) for clip, rate in pairs]

    def chosen(self, cell: Cell) -> Job | None:
        """The best of the tries; None while one is missing."""
        tries = self.tries(cell)
        if any(job.key not in self.results for job in tries):
            return None
        return max(tries, key=lambda job: self.results[job.key]["accuracy"])

    def runs(self, cell: Cell) -> list[Job]:
        """The runs of a cell; none while its settings are not chosen."""
        best = self.chosen(cell)
        if best is None:
            return []
        return [replace(best, cell=cell, seed=seed, part="test") for seed in range(SEEDS)]

    def pending(self, cells: tuple[Cell, ...]) -> Iterator[Job]:
        """Runs that are missing and can be made now."""
        seen = set[str]()
        for cell in cells:
            for job in [*self.tries(cell), *self.runs(cell)]:
                if job.key not in self.results and job.key not in seen:
                    seen.add(job.key)
                    yield job

    def table(self, name: str) -> Iterator[str]:
        """A line for each cell."""
        rows = [["", "method", "noise", "values", "ε", "C", "rate", "accuracy %", "runs"]]
        for cell in TABLES[name]:
            best, found = self.chosen(cell), [self.results[j.key] for j in self.runs(cell) if j.key in self.results]
            spent = [run["epsilon"] for run in found if run["epsilon"] is not None]
            rows.append(
                [
                    f"{cell.data}, {cell.federation}",
                    cell.method,
                    cell.mechanism if cell.epsilon < math.inf else "none",
                    f"{found[0]['parameters']:,}" if found else MISSING,
                    f"{max(spent):.2f}" if spent else f"{cell.epsilon:g}".replace("inf", "∞"),
                    MISSING if best is None or best.clip == math.inf else f"{best.clip:g}",
                    MISSING if best is None else f"{best.rate:g}",
                    percent([run["accuracy"] for run in found]),
                    str(len(found)),
                ]
            )
        yield from grid(rows)


def main() -> None:
    """Makes the runs that are missing, for as long as it may, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="FOLDER", help="folder of the sets, or `hf`")
    parser.add_argument("--only", nargs="+", default=list(TABLES), choices=list(TABLES), help="only these tables")
    parser.add_argument("--quick", action="store_true", help="tiny runs")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no run after so long")
    options = parser.parse_args()
    source = "hub" if options.data == HUB else "folder"
    data = options.data if options.data == HUB else options.data.absolute()
    if data != HUB and not data.is_dir() and options.budget_minutes > 0:
        parser.error(f"{data} is not there; name the folder of the sets (--data FOLDER), or --data hf")
    cells = tuple(cell for name in options.only for cell in TABLES[name])
    end = time.monotonic() + 60 * options.budget_minutes
    while time.monotonic() < end and (jobs := list(Plan(kept(NAME), source, options.quick).pending(cells))):
        print(f"{len(jobs)} runs can be made now", flush=True)
        if not any(_made(job, data) for job in jobs):
            time.sleep(15)  # other processes make all that can be made
    plan = Plan(kept(NAME), source, options.quick)
    for name in options.only:
        print(f"\n{name}")
        print("\n".join(plan.table(name)))
    missing = sum(SEEDS - sum(job.key in plan.results for job in plan.runs(cell)) for cell in cells)
    print(f"\n{missing} runs of the tables are missing; ± is the deviation over {SEEDS} seeds", end="")
    print(f"; measured on {measured_on(NAME)}" if plan.results else "")


def _made(job: Job, data: Path) -> bool:
    """Whether a run was made here: not while another process makes it."""
    with claimed(NAME, job.key) as mine:
        if mine:
            print(f"  {job.key}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                measured(NAME, job.key, partial(measure, job, data, Path(scratch)))
        return mine


if __name__ == "__main__":
    main()
