"""What could make FedPFT better, each idea on validation data only: neurons, fit, alignment, plug-in distillation.

    python benchmarks/fedpft_beyond.py --data FOLDER|hf [--seeds 3] [--sets SET …] [--budget-minutes N]

The setting is that of `fedpft.py` on trec6, sst2 and newsgroups20, with strong compression (ffn_keep 0.1, no layer
whole), IID, 60 % of the rounds, one learning rate for all. The test set is never read. The tables, in the order in
which runs are made:

- the paper's settings beside fedfm's own;
- alignment (5, 25, 50, 100 steps, or the closed form) × interval (1, 2), with the megabytes that clients are sent;
- choice of neurons × fit before training (closed form alone, or distillation too), aligned by the closed form;
- logits adjusted by each client's shares of the classes (`local.logit_adjustment`) under Dirichlet 1, without and with
  a proxy.

Every run is evaluated before and after plug-in distillation, so it serves as both. ± is the standard deviation over
seeds of the mean over sets; "less the first" is paired by set and seed, ± its standard error over seeds.
Several processes may measure at once, best as many as there are cores, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedpft_choices import PLUGS, Plug, Results
from fedpft_jobs import Job
from fedpft_methods import DISTILLED, FIT, METHODS, Scale
from fedpft_runner import argument_parser, make_runs, read_arguments, scale_of
from fedpft_statistics import Difference
from fedpft_tables import MISSING, grid, percent
from ledger import kept, measured_on

NAME = "fedpft_beyond"
ROUNDS = {"trec6": 9, "sst2": 9, "newsgroups20": 24}
"""60 % of 15, 15 and 40."""
RATE, SEEDS = 3e-3, 3


@dataclass(frozen=True)
class Idea:
    """What is tried.

    Attributes:
        method: that it changes.
        changes: to the recipe's ``proxy``, as `Job.changes`.
        overrides: KEY=VALUE changes to the recipe.
        partition: of the clients' data.
    """

    method: str = "fedpft"
    changes: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = ()
    partition: str = "iid"


def _changed(values: Mapping[str, object]) -> Idea:
    """What differs from FedPFT itself, so that two tables share the runs that are the same."""
    proxy = METHODS["fedpft"].proxy
    return Idea(changes=tuple((key, json.dumps(value)) for key, value in values.items() if proxy.get(key) != value))


def _aligned(steps: int | None, interval: int) -> dict[str, object]:
    align: dict[str, object] = {"closed_form": True}
    if steps is not None:
        align = {"share": 0.5, "steps": steps, "batch_size": 16, "learning_rate": 6e-4}
    return {"align": align, "interval": interval}


SETTINGS = {
    "fedfm's": Idea(),
    "the paper's": Idea("paper", (("plug_in", json.dumps(DISTILLED)),)),
}
NEURONS = {
    f"{score}, {fit}": _changed({"score": score, "distill": distill})
    for fit, distill in {"closed form alone": None, "with distillation": FIT}.items()
    for score in ("concat-l2", "activation", "gradient", "reconstruct", "random")
}
ALIGNMENT = {
    f"{'closed form' if steps is None else f'{steps} steps'}, interval {interval}": _changed(_aligned(steps, interval))
    for interval in (2, 1)
    for steps in (None, 25, 5, 50, 100)
}
ADJUSTED = {
    f"{METHODS[method].title}, τ = {strength}": Idea(
        method,
        overrides=(f"local.logit_adjustment={strength}",) if strength else (),
        partition="dirichlet 1",
    )
    for method in ("full", "fedpft")
    for strength in (0, 0.5, 1)
}
TABLES = {
    "The paper's settings and fedfm's": SETTINGS,
    "Alignment × interval": ALIGNMENT,
    "Neurons × fit": NEURONS,
    "Adjusted logits, Dirichlet 1": ADJUSTED,
}


def job(idea: Idea, data: str, seed: int, scale: Scale, rounds: int | None) -> Job:
    """A run on validation data."""
    size = "matched" if idea.method == "full" else "harder"
    scale = replace(scale, overrides=(*scale.overrides, *idea.overrides))
    number = rounds or ROUNDS[data]
    return Job(
        data, idea.method, seed, RATE, number, "validation", idea.partition, size, changes=idea.changes, scale=scale
    )


def table(jobs: Mapping[tuple[str, str, int], Job], results: Results, variants: Sequence[str]) -> Iterator[str]:
    """A line for each idea and evaluation of its plug-in.

    Args:
        jobs: by idea, set and seed.
        results: by key.
        variants: ideas of the table; the others are compared with the first.
    """
    sets = list(dict.fromkeys(data for _, data, _ in jobs))

    def column(variant: str, field: str) -> dict[tuple[str, int], float]:
        found = {(data, seed): results.get(job.key) for (name, data, seed), job in jobs.items() if name == variant}
        return {place: result[field] for place, result in found.items() if result and result[field] is not None}

    def less(variant: str, first: str, plug: Plug) -> str:
        ours, theirs = column(variant, plug), column(first, plug)
        pairs = {place: 100 * (ours[place] - theirs[place]) for place in ours.keys() & theirs.keys()}
        gap = Difference(pairs, {})
        if not pairs:
            return MISSING
        error = "" if math.isnan(gap.error_of_seeds) else f" ± {gap.error_of_seeds:.1f}"
        return f"{gap.mean:+.1f}{error} (n = {len(pairs)})"

    rows = [["", *sets, "mean", "less the first", "MB down", "seconds"]]
    for variant in variants:
        down, seconds = list(column(variant, "bytes_down").values()), list(column(variant, "seconds").values())
        costs = [f"{statistics.mean(down) / 1e6:.1f}", f"{statistics.mean(seconds):.0f}"] if down else [MISSING] * 2
        for field in (*PLUGS, "proxy_accuracy"):
            found = column(variant, field)
            cells = [percent([value for (name, _), value in found.items() if name == data]) for data in sets]
            gap = less(variant, variants[0], field) if field in PLUGS else ""
            rows.append(
                [f"{variant}, {field.replace('_accuracy', ' itself')}", *cells, _mean(found, sets), gap, *costs]
            )
    yield from grid(rows)


def _mean(found: Mapping[tuple[str, int], float], sets: Sequence[str]) -> str:
    """Mean over sets ± standard deviation over the seeds that all sets have."""
    seeds = [seed for seed in dict.fromkeys(seed for _, seed in found) if all((data, seed) in found for data in sets)]
    return percent([statistics.mean(found[data, seed] for data in sets) for seed in seeds])


def main() -> None:
    """Makes the runs that are missing, for as long as it may, then prints the tables."""
    parser = argument_parser(__doc__)
    parser.set_defaults(seeds=SEEDS, sets=list(ROUNDS))
    options = read_arguments(parser)
    if unknown := [name for name in options.sets if name not in ROUNDS]:
        parser.error(f"{', '.join(unknown)}: choose among {', '.join(ROUNDS)}")
    rounds = None if options.rounds is None else max(options.rounds)
    scale = replace(scale_of(options), rounds=())
    jobs = {
        (name, data, seed): job(idea, data, seed, scale, rounds)
        for ideas in TABLES.values()
        for seed in range(options.seeds)
        for name, idea in ideas.items()
        for data in options.sets
    }

    def missing() -> Iterator[Job]:
        results = kept(NAME)
        return iter({job.key: job for job in jobs.values() if job.key not in results}.values())

    make_runs(NAME, missing, options.data, time.monotonic() + 60 * options.budget_minutes)
    results = kept(NAME)
    print("Accuracy in % on validation data, mean ± standard deviation over seeds; n counts pairs of runs")
    for title, variants in TABLES.items():
        print("\n".join((f"\n{title}", *table(jobs, results, list(variants)))))
    print(f"{sum(job.key in results for job in jobs.values())} of {len(jobs)} runs measured", end="")
    print(f", on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
