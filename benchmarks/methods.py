"""Efficient federated tuning on one table: accuracy, bytes, memory and time of every method, in two stages.

    python benchmarks/methods.py --data FOLDER|hf [--budget-minutes N] [--plot FILE.svg] [--only NAME …]

MiniLM, 100 clients of which 10 train in a round, 4,000 training examples, one local epoch in batches of 4; sets and
their fixed parts are those of `fedpft_data.py`.

1. Screening: trec6 with unequal labels (Dirichlet 1 around the set's classes), every method of `methods_list.py` at
   three learning rates, one seed, on validation data; while the best is the smallest or the largest tried, the next one
   on that side follows, up to two more. Each method keeps its best rate.
2. The methods on the front of accuracy and bytes, FedIT, and the best of each group get trec6, sst2 and newsgroups20,
   IID and Dirichlet 1, three seeds, on the test set. Only these runs read it.

Beside it, under Dirichlet 0.1: every parameter tuned from the pretrained weights and from random ones, at three rates.
"MB to 95 %" are bytes up and down until the accuracy first reaches 95 % of FedIT's last one on the same set, partition
and seed; – where it does not. Several processes may measure at once, best as many as there are cores, with
OMP_NUM_THREADS=1. Stopped at any time, it goes on where it was; `--budget-minutes 0` prints what is there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, AutoModel, AutoTokenizer

from fedfm import Run, __version__, load_recipe, run
from fedfm.models.builtin import minilm_folder
from fedfm.randomness import torch_seed
from fedfm.records.costs import cost_columns, cost_totals
from fedpft_data import HUB, SETS, Sizes, prepare
from fedpft_statistics import standard_error
from fedpft_tables import MISSING, grid, percent
from ledger import RESULTS, claimed, digest, kept, measured, measured_on
from methods_list import REFERENCE, VARIANTS, WHOLE_LAYERS, Variant

NAME = "methods"
FOLDER = Path(__file__).parents[2] / "shared" / "data"
SIZES = Sizes(train=4000)
ROUNDS, LOOKS = {"trec6": 15, "sst2": 15, "newsgroups20": 25}, 5
"""Rounds of each set, and how often a run is evaluated."""
ALPHAS: Mapping[str, float | None] = {"iid": None, "dirichlet 1": 1.0, "dirichlet 0.1": 0.1}
SCREENED, SCREENING_SEED = ("trec6", "dirichlet 1"), 100
PLACES = tuple((data, partition) for data in ROUNDS for partition in ("iid", "dirichlet 1"))
SEEDS = 3
STARTS = {
    "pretrained": Variant("every parameter, pretrained", "start", ("tune={kind: full}",), WHOLE_LAYERS),
    "random": Variant("every parameter, random weights", "start", ("tune={kind: full}",), WHOLE_LAYERS),
}
RANDOM = RESULTS / "minilm-random"
SHARE_OF_REFERENCE = 0.95
LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""All learning rates that a method may be tried at."""
MORE_RATES = 2
"""Runs beyond a variant's own rates, at most."""
PAUSE_S = 15.0

Part = Literal["validation", "test"]
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of the method.
        variant: the method.
        data: name of the set.
        partition: how its examples are dealt to clients.
        rate: learning rate of clients.
        seed: of everything.
        judged: the part on which it is evaluated; it does not get the other.
        source: ``folder`` or ``hub``.
    """

    name: str
    variant: Variant
    data: str
    partition: str
    rate: float
    seed: int
    judged: Part
    source: str

    def recipe(self) -> dict[str, Any]:
        """The recipe; in place of files it has the names of the parts."""
        examples, alpha, rounds = SETS[self.data], ALPHAS[self.partition], ROUNDS[self.data]
        return {
            "name": "methods",
            "seed": self.seed,
            "model": {"path": "random" if self.name == "random" else "builtin:minilm"},
            "task": {"kind": "text-classification"},
            "data": {"train": "train", "test": self.judged, "max_length": examples.max_length},
            "federation": {
                "clients": 100,
                "per_round": 10,
                "rounds": rounds,
                "partition": {"kind": "iid"} if alpha is None else {"kind": "dirichlet", "alpha": alpha, "prior": True},
            },
            "local": {"batch_size": 4, "learning_rate": self.rate},
            "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
            "runtime": {"processes": 1},
            "evaluate": {"every": rounds // LOOKS},
            "checkpoint": {"every": rounds, "keep": 1},
        }

    @cached_property
    def key(self) -> str:
        """What the job is for people, and a digest of all that decides it."""
        words = [self.name, self.data, self.partition, f"rate {self.rate:g}", f"on {self.judged}", f"seed {self.seed}"]
        parts = [self.recipe(), self.variant.changes, self.source, __version__]
        return f"{', '.join(words)} [{digest(parts)}]"


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Runs a job; what the tables need of its outcome."""
    recipe, files = job.recipe(), prepare(data, job.data, SIZES)
    judged = files.validation if job.judged == "validation" else files.test
    recipe["data"] |= {"train": str(files.train), "test": str(judged)}
    if job.name == "random":
        recipe["model"]["path"] = str(_random_start())
    return outcome(run(load_recipe(recipe | {"run_dir": str(scratch / "run")}, job.variant.changes)))


def outcome(finished: Run) -> dict[str, Any]:
    """Figures of a run; ``curve`` has, for each evaluation, the round, the accuracy, and all bytes up to it."""
    summary, records = finished.summary, finished.metrics.to_dict("records")
    rounds = cost_totals(finished.folder.costs).rounds
    curve = []
    for record in records:
        if record["split"] == "test" and record["round"]:
            sent = sum(costs.up + costs.down for number, costs in rounds.items() if number <= record["round"])
            curve.append((int(record["round"]), record["accuracy"], sent))
    errors = [record["aggregation_error"] for record in records if record.get("aggregation_error") is not None]
    errors = [error for error in errors if error == error]
    return {
        "accuracy": summary["final"]["accuracy"],
        "curve": curve,
        "trainable": summary["parameters"]["trainable"],
        "aggregation_error": statistics.mean(errors) if errors else None,
        "seconds": summary["seconds"]["total"],
        **cost_columns(summary),
    }


def bytes_to(result: Mapping[str, Any], accuracy: float) -> float | None:
    """Bytes until an accuracy was first seen; None where it was not."""
    return next((sent for _, found, sent in result["curve"] if found >= accuracy), None)


def screening(results: Results, source: str) -> dict[str, list[Job]]:
    """The first stage's runs by method: one for each rate, as far as these can be named by now."""
    return {name: _tried(name, variant, results, source) for name, variant in VARIANTS.items()}


def _tried(name: str, variant: Variant, results: Results, source: str) -> list[Job]:
    """A method's runs in the order of their rates: the variant's, and those beyond the best while it is at an edge."""
    rates = list(variant.rates)
    while True:
        jobs = [Job(name, variant, *SCREENED, rate, SCREENING_SEED, "validation", source) for rate in rates]
        found = best(jobs, results)
        if found is None or len(rates) == len(variant.rates) + MORE_RATES:
            return jobs
        first, last = LADDER.index(rates[0]), LADDER.index(rates[-1])
        if found.rate == rates[-1] and last + 1 < len(LADDER):
            rates.append(LADDER[last + 1])
        elif found.rate == rates[0] and first > 0:
            rates.insert(0, LADDER[first - 1])
        else:
            return jobs


def best(jobs: Sequence[Job], results: Results) -> Job | None:
    """The run with the highest accuracy; None while runs are missing."""
    if any(job.key not in results for job in jobs):
        return None
    return max(jobs, key=lambda job: results[job.key]["accuracy"])


def front(found: Mapping[str, tuple[float, float]]) -> list[str]:
    """Methods that no other beats in one of accuracy and bytes without losing in the other, from few bytes to many.

    Args:
        found: name → accuracy, bytes.
    """
    order = sorted(found, key=lambda name: (found[name][1], -found[name][0]))
    kept_names: list[str] = []
    for name in order:
        if not kept_names or found[name][0] > found[kept_names[-1]][0]:
            kept_names.append(name)
    return kept_names


def going_on(results: Results, source: str) -> dict[str, Job]:
    """Methods of the second stage, with the screening's run that has their rate; empty until the screening is done."""
    chosen = {name: best(jobs, results) for name, jobs in screening(results, source).items()}
    if None in chosen.values():
        return {}
    jobs = {name: job for name, job in chosen.items() if job is not None and not VARIANTS[name].personal}
    accuracy = {name: results[job.key]["accuracy"] for name, job in jobs.items()}
    found = {name: (accuracy[name], _sent(results[job.key])) for name, job in jobs.items()}
    groups = dict.fromkeys(VARIANTS[name].group for name in jobs)
    leaders = [max((n for n in jobs if VARIANTS[n].group == group), key=accuracy.__getitem__) for group in groups]
    return {name: jobs[name] for name in dict.fromkeys([REFERENCE, *front(found), *leaders])}


def second_stage(results: Results, source: str) -> Iterator[Job]:
    """The second stage's runs, seed by seed."""
    chosen = going_on(results, source)
    for seed in range(SEEDS):
        for data, partition in PLACES:
            for job in chosen.values():
                yield replace(job, data=data, partition=partition, seed=seed, judged="test")


def starts(source: str) -> Iterator[Job]:
    """Pretrained and random weights under very unequal labels, on validation data."""
    for seed in range(SEEDS):
        for name, variant in STARTS.items():
            for rate in variant.rates:
                yield Job(name, variant, "trec6", "dirichlet 0.1", rate, seed, "validation", source)


def plan(results: Results, source: str) -> list[Job]:
    """All runs that can be named by now, in the order in which they are wanted."""
    by_rate = zip_longest(*screening(results, source).values())
    return [
        *(job for jobs in by_rate for job in jobs if job is not None),
        *second_stage(results, source),
        *starts(source),
    ]


def table_of_screening(results: Results, source: str) -> Iterator[str]:
    """A line for each method: its best rate, and what that cost."""
    reference = best(screening(results, source)[REFERENCE], results)
    goal = SHARE_OF_REFERENCE * results[reference.key]["accuracy"] if reference else None
    goes_on = going_on(results, source)
    rows = [["", "group", "rate", "accuracy %", "MB to 95 %", *_COSTS, "stage"]]
    for name, jobs in screening(results, source).items():
        there = [job for job in jobs if job.key in results]
        if not there:
            rows.append([VARIANTS[name].title, VARIANTS[name].group, *[MISSING] * (3 + len(_COSTS)), ""])
            continue
        job = max(there, key=lambda job: results[job.key]["accuracy"])
        result = results[job.key]
        rate = f"{job.rate:g}" + ("" if len(there) == len(jobs) else f" ({len(there)} of {len(jobs)})")
        sent = None if goal is None else bytes_to(result, goal)
        rows.append(
            [
                VARIANTS[name].title,
                VARIANTS[name].group,
                rate,
                f"{100 * result['accuracy']:.1f}",
                MISSING if sent is None else f"{sent / 1e6:.3g}",
                *_costs([result]),
                "2" if name in goes_on else "1",
            ]
        )
    yield from grid(rows)


def tables_of_second_stage(results: Results, source: str) -> Iterator[str]:
    """A table for each set and partition: accuracy, the difference to FedIT, bytes, memory and time."""
    chosen = going_on(results, source)
    for data, partition in PLACES if chosen else ():
        at = {name: _runs(replace(job, data=data, partition=partition), results) for name, job in chosen.items()}
        reference = at[REFERENCE]
        rows = [[f"{data}, {partition}", "accuracy %", "less FedIT", "MB to 95 %", *_COSTS]]
        for name, found in at.items():
            pairs = [100 * (found[s]["accuracy"] - reference[s]["accuracy"]) for s in found.keys() & reference.keys()]
            goals = {s: SHARE_OF_REFERENCE * reference[s]["accuracy"] for s in found.keys() & reference.keys()}
            sent = [bytes_to(found[seed], goal) for seed, goal in goals.items()]
            reached = [value for value in sent if value is not None]
            gap = f"{statistics.mean(pairs):+.1f} ± {standard_error(pairs):.1f}" if pairs else MISSING
            rows.append(
                [
                    VARIANTS[name].title + (f" (n = {len(found)})" if len(found) < SEEDS else ""),
                    percent([result["accuracy"] for result in found.values()]),
                    "" if name == REFERENCE else gap,
                    f"{statistics.mean(reached) / 1e6:.3g}" if reached and len(reached) == len(sent) else MISSING,
                    *_costs(list(found.values())),
                ]
            )
        yield ""
        yield from grid(rows)


def table_of_starts(results: Results, source: str) -> Iterator[str]:
    """Accuracy of pretrained and random weights, at each rate."""
    jobs = [job for job in starts(source) if job.key in results]
    rows = [["trec6, dirichlet 0.1", *(f"rate {rate:g}" for rate in WHOLE_LAYERS)]]
    for name, variant in STARTS.items():
        cells = [
            percent([results[job.key]["accuracy"] for job in jobs if (job.name, job.rate) == (name, rate)])
            for rate in variant.rates
        ]
        rows.append([variant.title, *cells])
    yield from grid(rows)


def plot(results: Results, source: str, path: Path) -> None:
    """Accuracy against bytes of the screening, both of each method's best rate."""
    from matplotlib.figure import Figure

    found = {}
    for name, jobs in screening(results, source).items():
        if (job := best(jobs, results)) is not None:
            found[name] = (results[job.key]["accuracy"], _sent(results[job.key]))
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", xlabel="MB up and down", ylabel="accuracy on validation data, %")
    for group in dict.fromkeys(variant.group for variant in VARIANTS.values()):
        names = [name for name in found if VARIANTS[name].group == group]
        axes.scatter([found[n][1] / 1e6 for n in names], [100 * found[n][0] for n in names], label=group, s=18)
    line = front(found)
    axes.step([found[n][1] / 1e6 for n in line], [100 * found[n][0] for n in line], where="post", lw=0.8, color="grey")
    for name, (accuracy, sent) in found.items():
        axes.annotate(name, (sent / 1e6, 100 * accuracy), fontsize=6, xytext=(3, 2), textcoords="offset points")
    axes.legend(loc="lower right")
    figure.savefig(path)


_COSTS = ("MB down", "MB up", "client MB", "CPU s")


def _costs(found: Sequence[Mapping[str, Any]]) -> list[str]:
    means = []
    for name in _COSTS:
        values = [result[name] for result in found if result[name] is not None]
        means.append(f"{statistics.mean(values):.3g}" if values else MISSING)
    return means


def _sent(result: Mapping[str, Any]) -> float:
    """Bytes of a run, up and down."""
    return 1e6 * float(result["MB up"] + result["MB down"])


def _runs(job: Job, results: Results) -> dict[int, Mapping[str, Any]]:
    """Runs on the test set by seed."""
    jobs = {seed: replace(job, seed=seed, judged="test") for seed in range(SEEDS)}
    return {seed: results[job.key] for seed, job in jobs.items() if job.key in results}


def _random_start() -> Path:
    """MiniLM with random weights, made where it is not there yet."""
    if not RANDOM.exists():
        beside, source = RANDOM.with_suffix(".partial"), minilm_folder()
        with torch_seed(0, "random start"):
            AutoModel.from_config(AutoConfig.from_pretrained(source)).save_pretrained(beside)
        AutoTokenizer.from_pretrained(source).save_pretrained(beside)
        beside.rename(RANDOM)
    return RANDOM


def main() -> None:
    """Makes the runs that are missing, for as long as it may, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="FOLDER", help="folder of the sets, or `hf`")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="make the runs of these methods alone")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against bytes")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no run after so long")
    options = parser.parse_args()
    if unknown := [name for name in options.only if name not in {**VARIANTS, **STARTS}]:
        parser.error(f"{', '.join(unknown)}: choose among {', '.join({**VARIANTS, **STARTS})}")
    source = "hub" if options.data == HUB else "folder"
    data = options.data if options.data == HUB else options.data.absolute()
    if data != HUB and not data.is_dir() and options.budget_minutes > 0:
        parser.error(f"{data} is not there; name the folder of the sets (--data FOLDER), or --data hf")
    end = time.monotonic() + 60 * options.budget_minutes

    def missing() -> list[Job]:
        results = kept(NAME)
        jobs = {job.key: job for job in plan(results, source) if job.key not in results}
        return [job for job in jobs.values() if not options.only or job.name in options.only]

    while time.monotonic() < end and (jobs := missing()):
        if not any(_make(job, data) for job in jobs):
            time.sleep(PAUSE_S)
    results = kept(NAME)
    print("Screening: trec6, Dirichlet 1, validation data, one seed, the best rate of three to five")
    print("\n".join(table_of_screening(results, source)))
    print("\n".join(tables_of_second_stage(results, source)))
    print("\n".join(("", *table_of_starts(results, source))))
    print(f"{len(missing())} runs are missing", end="")
    print(f"; measured on {measured_on(NAME)}" if results else "")
    if options.plot:
        plot(results, source, options.plot)


def _make(job: Job, data: Path) -> bool:
    """Whether a run was made here: not while another process makes it."""
    with claimed(NAME, job.key) as mine:
        if mine:
            print(f"  {job.key}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                measured(NAME, job.key, partial(measure, job, data, Path(scratch)))
    return mine


if __name__ == "__main__":
    main()
