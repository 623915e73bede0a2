"""The tables of `fedpft.py`: what is measured, and a mark where something is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from fedpft_jobs import (
    ABLATION,
    BEYOND,
    CONTRAST,
    MAIN,
    PARAMETERS,
    PARTITIONS,
    SETS,
    SIZES,
    STUDY_SET,
    Job,
    makes,
    parameter_job,
)

Result = Mapping[str, Any]

NAMES = {
    "full": "FedPETuning (no proxy)",
    "fedot": "FedOT",
    "fedpft": "FedPFT",
    "N": "FedPFT_N, neither",
    "D": "FedPFT_D, during only",
    "B": "FedPFT_B, before only",
    "closed form": "closed form only",
    "fedot, not distilled": "FedOT, not distilled",
}

REFITTED = ", read-out refitted"

MISSING = "–"


@dataclass(frozen=True)
class Measurements:
    """Results by key, and which of them the tables are about."""

    results: Mapping[str, Result]
    seeds: int
    overrides: tuple[str, ...] = ()

    def of(self, make: Callable[[int], Job]) -> list[Result]:
        """What is there of a job's seeds."""
        keys = [make(seed).key for seed in range(self.seeds)]
        return [self.results[key] for key in keys if key in self.results]

    def job(self, data: str, method: str, seed: int, **axes: str) -> Job:
        """A job of the plan; without a proxy its size and its public data make no difference."""
        if method == "full":
            axes = {name: value for name, value in axes.items() if name == "partition"}
        return Job(data, method, seed, overrides=self.overrides, **axes)  # type: ignore[arg-type]

    def column(self, data: str, method: str, field: str = "accuracy", **axes: str) -> list[float]:
        """One figure of every seed that is there."""
        found = self.of(lambda seed: self.job(data, method, seed, **axes))
        return [result[field] for result in found if result.get(field) is not None]

    def cell(self, values: Sequence[float]) -> str:
        """Per cent, mean ± deviation over seeds, and how many seeds where some are missing."""
        if not values:
            return MISSING
        text = f"{100 * statistics.mean(values):.1f}"
        if len(values) > 1:
            text += f" ± {100 * statistics.stdev(values):.1f}"
        return text if len(values) == self.seeds else f"{text} ({len(values)}/{self.seeds})"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method less another's, paired by set and seed, in points.

    Attributes:
        pairs: (set, seed) → the difference.
    """

    pairs: Mapping[tuple[str, int], float]

    @property
    def by_set(self) -> list[float]:
        """Means over seeds."""
        return self._means(0)

    @property
    def mean(self) -> float:
        """Mean over sets."""
        return statistics.mean(self.by_set)

    @property
    def error_of_seeds(self) -> float:
        """Standard error of the mean over these sets: from the seeds' means, which share no client, head or adapter."""
        return _standard_error(self._means(1))

    @property
    def error_of_sets(self) -> float:
        """Standard error of the mean over sets like these: from the sets' means."""
        return _standard_error(self.by_set)

    def _means(self, axis: int) -> list[float]:
        keys = dict.fromkeys(pair[axis] for pair in self.pairs)
        return [statistics.mean(value for pair, value in self.pairs.items() if pair[axis] == key) for key in keys]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def difference(found: Measurements, method: str, other: str, field: str = "accuracy", **axes: str) -> Difference:
    """How much better ``method``, by a field of its results, is than ``other``."""
    pairs = {}
    for data in SETS:
        for seed in range(found.seeds):
            ours, theirs = (found.results.get(found.job(data, name, seed, **axes).key, {}) for name in (method, other))
            if field in ours and theirs:
                pairs[data, seed] = 100 * (ours[field] - theirs["accuracy"])
    return Difference(pairs)


def everything(found: Measurements) -> Iterator[str]:
    """All tables, line by line."""
    for size, shape in SIZES.items():
        kept = f"ffn_keep {shape.ffn_keep:g}, {len(shape.keep_layers)} of 6 layers whole; FedOT {shape.layers} layers"
        yield f"\nTable 1 ({size}: {kept}). Accuracy in %, IID"
        yield from _by_set(found, MAIN, size=size)
    yield "\nTable 3 (matched). What distillation before and alignment during training contribute, IID"
    yield from _by_set(found, ("fedot", *ABLATION, "fedpft", *BEYOND))
    yield "\nTable 2 (matched). Prior-scaled Dirichlet"
    for partition in PARTITIONS:
        if partition != "iid":
            yield f"  {partition.replace('dirichlet', 'α =')}"
            yield from _by_set(found, MAIN, partition=partition)
            yield from _differences(found, partition)
    yield f"\nTable 4 (matched). Interval t and updated share p of alignment, {STUDY_SET}, IID"
    yield from grid([[name, found.cell(_parameter(found, name))] for name in PARAMETERS])
    yield "\nPublic text unlike the task (builtin:pydoc), matched, IID"
    yield from _by_set(found, ("closed form", "fedpft"), public=CONTRAST)
    yield "\nCosts a run (matched, IID, mean over sets and seeds that are there)"
    yield from _costs(found)
    yield "\nTransfer efficiency: gain over the untuned backbone, of FedPETuning's gain (matched, IID)"
    yield from _transfer(found)
    yield "\nHow like the backbone's is the proxy's gradient before round 1 (cosine, matched, IID)"
    yield from _cosines(found)
    yield from _correlation(found)
    yield "\nDifferences in points, IID (mean over sets ± standard error: of seeds; of sets)"
    yield from acceptance(found)


def _differences(found: Measurements, partition: str) -> Iterator[str]:
    """The same as the last table's, of another partition; and what refitting the read-out adds."""
    for title, (method, other, field) in {
        "FedPETuning − FedPFT": ("full", "fedpft", "accuracy"),
        "FedPFT − FedOT": ("fedpft", "fedot", "accuracy"),
        f"{NAMES['fedpft']}{REFITTED} − without": ("fedpft", "fedpft", "refitted"),
        f"{NAMES['fedot']}{REFITTED} − without": ("fedot", "fedot", "refitted"),
    }.items():
        gap = difference(found, method, other, field, partition=partition)
        if gap.pairs:
            error = f"{gap.mean:+.2f} ± {gap.error_of_seeds:.2f}; {gap.error_of_sets:.2f}"
            yield f"    {title}: {error}, of {len(gap.pairs)} pairs"


def acceptance(found: Measurements) -> Iterator[str]:
    """What has to hold, ticked where it does; nothing is ticked on half of the runs."""
    for title, gap, holds in _claims(found):
        wanted = len(SETS) * found.seeds
        if not gap.pairs:
            yield f"  [ ] {title}: not measured"
            continue
        figures = f"{gap.mean:+.2f} ± {gap.error_of_seeds:.2f}; {gap.error_of_sets:.2f}"
        figures += f" ({', '.join(f'{value:+.1f}' for value in gap.by_set)})"
        if len(gap.pairs) < wanted:
            yield f"  [ ] {title}: {figures}, on {len(gap.pairs)} of {wanted} pairs of runs so far"
        else:
            yield f"  [{'x' if holds(gap) else ' '}] {title}: {figures}"


def _claims(found: Measurements) -> Iterator[tuple[str, Difference, Callable[[Difference], bool]]]:
    """Each claim, the difference that it is about, and when it holds."""
    yield (
        "FedPFT − FedOT > 2 standard errors of seeds",
        difference(found, "fedpft", "fedot"),
        lambda gap: gap.mean > 2 * gap.error_of_seeds,
    )
    yield "FedPETuning − FedPFT ≤ 1.5 points", difference(found, "full", "fedpft"), lambda gap: gap.mean <= 1.5
    yield "B − N > 0", difference(found, "B", "N"), lambda gap: gap.mean > 0
    yield "FedPFT − D > 0", difference(found, "fedpft", "D"), lambda gap: gap.mean > 0


def _by_set(found: Measurements, methods: Sequence[str], **axes: str) -> Iterator[str]:
    rows = [["", *SETS, "mean"]]
    for method, field in [*((method, "accuracy") for method in methods), *((method, "refitted") for method in methods)]:
        columns = {data: found.column(data, method, field, **axes) for data in SETS}
        whole = all(len(values) == found.seeds for values in columns.values())
        means = [statistics.mean(values) for values in columns.values() if values]
        mean = f"{100 * statistics.mean(means):.1f}" if whole else MISSING
        if means or field == "accuracy":
            title = NAMES[method] + (REFITTED if field == "refitted" else "")
            rows.append([title, *map(found.cell, columns.values()), mean])
    majority = [found.column(data, "full", "majority") for data in SETS]
    rows.append(["majority class", *(f"{100 * values[0]:.1f}" if values else MISSING for values in majority), ""])
    yield from grid(rows)


def _parameter(found: Measurements, name: str) -> list[float]:
    return [result["accuracy"] for result in found.of(lambda seed: parameter_job(name, seed, found.overrides))]


def _costs(found: Measurements) -> Iterator[str]:
    fields = {
        "MB up": ("bytes_up", 1e-6),
        "MB down": ("bytes_down", 1e-6),
        "MB first": ("first_download", 1e-6),
        "client M": ("client_parameters", 1e-6),
        "blocks M": ("block_parameters", 1e-6),
        "seconds": ("seconds", 1.0),
        "proxy's own %": ("proxy_accuracy", 100.0),
    }
    rows = [["", *fields]]
    for method in (*MAIN, "N", "D", "B"):
        row = [NAMES[method]]
        for field, unit in fields.values():
            values = [value for data in SETS for value in found.column(data, method, field)]
            row.append(f"{statistics.mean(values) * unit:.1f}" if values else MISSING)
        rows.append(row)
    yield from grid(rows)


def _transfer(found: Measurements) -> Iterator[str]:
    """(accuracy of the backbone with what was tuned on the proxy − untuned) / (the same, tuned itself), by set."""
    rows = [["", *SETS]]
    for method in ("fedot", "N", "D", "B", "fedpft"):
        row = [NAMES[method]]
        for data in SETS:
            gains = [
                statistics.mean(accuracies) - statistics.mean(untuned)
                for name in (method, "full")
                if (accuracies := found.column(data, name)) and (untuned := found.column(data, name, "initial"))
            ]
            row.append(f"{gains[0] / gains[1]:.2f}" if len(gains) == 2 else MISSING)
        rows.append(row)
    yield from grid(rows)


def _cosines(found: Measurements) -> Iterator[str]:
    rows = [["", *SETS]]
    for method in ("N", "closed form", "B", "fedot"):
        columns = [found.column(data, method, "gradient_cosine") for data in SETS]
        rows.append([NAMES[method], *(f"{statistics.mean(values):.3f}" if values else MISSING for values in columns)])
    yield from grid(rows)


def _correlation(found: Measurements) -> Iterator[str]:
    """Cosine and accuracy of proxies of different make, and their correlation, seeds averaged."""
    points, rows = [], [["", "cosine", "accuracy"]]
    for place, job in enumerate(makes(0, found.overrides)):
        results = found.of(lambda seed, place=place: makes(seed, found.overrides)[place])  # type: ignore[misc]
        if results and all(result["gradient_cosine"] is not None for result in results):
            points.append([statistics.mean(r[field] for r in results) for field in ("gradient_cosine", "accuracy")])
            whole = "ends" if job.proxy["keep_layers"] else "none"
            name = f"{NAMES[job.method]}, ffn_keep {job.proxy['ffn_keep']}, {whole} whole"
            rows.append([name, f"{points[-1][0]:.3f}", found.cell([result["accuracy"] for result in results])])
    yield f"  by make, on {STUDY_SET}:"
    yield from grid(rows)
    text = "too few to correlate with accuracy"
    if len(points) >= 3:
        cosines, accuracies = zip(*points, strict=True)
        linear, ranked = statistics.correlation(cosines, accuracies), spearmanr(cosines, accuracies).statistic
        text = f"its correlation with accuracy is {linear:.2f}, of ranks {ranked:.2f}"
    yield f"  over {len(points)} proxies of different make on {STUDY_SET}: {text}"


def grid(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as aligned lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = [
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(["  " + first, *others])
