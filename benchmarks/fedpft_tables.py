"""The tables of `fedpft.py`: accuracy by set, differences and how sure they are, choices, costs, goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedpft_choices import TUNING_SEED, Cell, Choice, MissingRuns, Protocol
from fedpft_jobs import subject_of
from fedpft_methods import FEDOT, METHODS, TEXT, VISION, Subject
from fedpft_statistics import Difference, unpacked

MISSING = "–"
LEGEND = """Accuracy in % on the test set. ± is the standard deviation over seeds; n is written where seeds are missing.
A seed decides the proxy, the clients' data, their order, the head and the adapters."""
LEGEND_OF_DIFFERENCES = """Differences in points, paired by set, seed and test example. "seeds": standard error of the
mean over these sets, from the seeds' means; "sets": standard error of the mean over sets like these, from the sets'
means; [ ]: 95 % of a paired bootstrap over seeds and test examples."""


@dataclass(frozen=True)
class Table:
    """What is measured on one partition with one size of proxy.

    Attributes:
        seeds: how many; they count from 0.
    """

    title: str
    subject: Subject
    partition: str
    size: str
    methods: tuple[str, ...]
    seeds: int

    def cells(self, seed: int) -> Iterator[Cell]:
        """The runs of one seed."""
        for method in self.methods:
            for data in self.subject.sets:
                yield Cell(data, method, self.partition, self.size, seed)


MAIN = ("full", "fedpft", FEDOT)
TABLES = (
    Table("Table 1, IID", TEXT, "iid", "matched", MAIN, 5),
    Table("Table 2, α = 1", TEXT, "dirichlet 1", "matched", MAIN, 5),
    Table("Table 1, IID, strong compression (ffn_keep 0.1, none whole)", TEXT, "iid", "harder", MAIN, 3),
    Table("Table 2, α = 5", TEXT, "dirichlet 5", "matched", MAIN, 3),
    Table("Table 2, α = 10", TEXT, "dirichlet 10", "matched", MAIN, 3),
    Table("Images, IID", VISION, "iid", "matched", MAIN, 3),
    Table("Images, α = 1", VISION, "dirichlet 1", "matched", MAIN, 3),
    Table("Table 1, IID, half the bytes (proxy.bits)", TEXT, "iid", "matched", ("full", "packed"), 3),
    Table("Table 3, what each part contributes, IID", TEXT, "iid", "matched", ("N", "B", "D", "paper"), 3),
)

_DIFFERENCES = (("full", "fedpft"), ("fedpft", FEDOT), ("full", "packed"))


def cells_of(tables: Sequence[Table]) -> Iterator[Cell]:
    """All runs, seed by seed: to stop early leaves whole tables of fewer seeds."""
    for seed in range(max((table.seeds for table in tables), default=0)):
        for table in tables:
            if seed < table.seeds:
                yield from table.cells(seed)


@dataclass(frozen=True)
class Measured:
    """A result as its method's choice reads it.

    Attributes:
        accuracy: of the plug-in that was chosen.
        correct: bool [N], of each test example, likewise.
        result: all of it.
    """

    accuracy: float
    correct: np.ndarray
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Measurements:
    """What is there, read through the choices."""

    protocols: Mapping[str, Protocol]

    def of(self, table: Table, method: str, data: str) -> dict[int, Measured]:
        """Results by seed."""
        found = {}
        for seed in range(table.seeds):
            result = self._result(Cell(data, method, table.partition, table.size, seed))
            if result is not None and (chosen := self.choice(table, method)) is not None:
                correct = unpacked(result["correct"][chosen.plug])
                found[seed] = Measured(result[chosen.plug], correct, result)
        return found

    def _result(self, cell: Cell) -> Mapping[str, Any] | None:
        """The result of a run; None where it is not made, or its settings are not chosen."""
        protocol = self.protocols[subject_of(cell.data).title]
        try:
            return protocol.results.get(protocol.job(cell).key)
        except MissingRuns:
            return None

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Which runs of tables are not measured."""
        return [cell for cell in cells if self._result(cell) is None]

    def choice(self, table: Table, method: str) -> Choice | None:
        """The method's choice; None where it is not made yet."""
        try:
            return self.protocols[table.subject.title].choice(method, table.partition, table.size)
        except MissingRuns:
            return None

    def difference(self, table: Table, method: str, other: str) -> Difference:
        """How much better ``method`` is than ``other``, over the seeds and sets that both have."""
        pairs, examples = {}, {}
        for data in table.subject.sets:
            ours, theirs = self.of(table, method, data), self.of(table, other, data)
            for seed in ours.keys() & theirs.keys():
                pairs[data, seed] = 100 * (ours[seed].accuracy - theirs[seed].accuracy)
                examples[data, seed] = ours[seed].correct.astype(np.int8) - theirs[seed].correct.astype(np.int8)
        return Difference(pairs, examples)


def everything(found: Measurements, tables: Sequence[Table]) -> Iterator[str]:
    """All tables, line by line."""
    yield LEGEND
    yield LEGEND_OF_DIFFERENCES
    for table in tables:
        yield f"\n{table.title} ({table.subject.title}, {table.seeds} seeds)"
        yield from _accuracies(found, table)
        for method, other in _DIFFERENCES:
            if method in table.methods and other in table.methods:
                yield f"  {_difference_line(found, table, method, other)}"
    yield "\nChosen on validation data (see fedpft_choices.py), with the tuning seed " + str(TUNING_SEED)
    yield from _choices(found, tables)
    yield "\nCosts a run (mean over sets and seeds that are there)"
    yield from _costs(found, tables)
    yield "\nGoals"
    yield from goals(found, tables)


def _accuracies(found: Measurements, table: Table) -> Iterator[str]:
    rows = [["", *table.subject.sets, "mean"]]
    for method in table.methods:
        columns = {data: found.of(table, method, data) for data in table.subject.sets}
        rows.append(_row(_title(method), table, {name: _values(column) for name, column in columns.items()}))
        for field, title in (
            ("plugged", "plugged"),
            ("distilled", "distilled"),
            ("proxy_accuracy", "the proxy itself"),
        ):
            values = {data: _values(column, field) for data, column in columns.items()}
            if METHODS.get(method, METHODS["fedpft"]).proxy["kind"] != "none" and any(values.values()):
                rows.append(_row(f"  {title}", table, values))
    majority = [_values(found.of(table, table.methods[0], data), "majority") for data in table.subject.sets]
    rows.append(["majority class", *(f"{100 * values[0]:.1f}" if values else MISSING for values in majority), ""])
    yield from grid(rows)


def _values(column: Mapping[int, Measured], field: str | None = None) -> list[float]:
    if field is None:
        return [measured.accuracy for measured in column.values()]
    return [value for measured in column.values() if (value := measured.result[field]) is not None]


def _row(title: str, table: Table, columns: Mapping[str, list[float]]) -> list[str]:
    """Cells of the sets and their mean, which is there where every set has a value."""
    means = [statistics.mean(values) for values in columns.values() if values]
    mean = f"{100 * statistics.mean(means):.1f}" if len(means) == len(columns) else MISSING
    return [title, *(_cell(values, table.seeds) for values in columns.values()), mean]


def _cell(values: Sequence[float], seeds: int) -> str:
    text = percent(values)
    return text if len(values) in (0, seeds) else f"{text} (n = {len(values)})"


def _title(method: str) -> str:
    return "FedOT, its best form" if method == FEDOT else METHODS[method].title


def _difference_line(found: Measurements, table: Table, method: str, other: str) -> str:
    title, gap = f"{_title(method)} − {_title(other)}", found.difference(table, method, other)
    return f"{title}: {figures(gap)}" if gap.pairs else f"{title}: not measured"


def figures(gap: Difference) -> str:
    """A difference in a line: mean, errors, interval, the mean without the set that contributes most, and n."""
    low, high = gap.interval()
    by_set = ", ".join(f"{name} {value:+.1f}" for name, value in gap.by_set.items())
    errors = f"seeds ± {gap.error_of_seeds:.2f}, sets ± {gap.error_of_sets:.2f}"
    return (
        f"{gap.mean:+.2f} ({errors}) [{low:+.2f}, {high:+.2f}]; "
        f"without {gap.largest} {gap.without_largest:+.2f}; n = {len(gap.pairs)} pairs ({by_set})"
    )


def _choices(found: Measurements, tables: Sequence[Table]) -> Iterator[str]:
    rows = [["", "rate", "plug-in", "validation %", "tries"]]
    for table in tables:
        for method in table.methods:
            if (chosen := found.choice(table, method)) is not None:
                tries = ", ".join(f"{name}: {100 * value:.1f}" for name, value in chosen.tries.items())
                name = f"{table.title}, {METHODS[chosen.method].title}"
                rows.append([name, f"{chosen.learning_rate:g}", chosen.plug, f"{100 * chosen.validation:.1f}", tries])
    yield from grid(rows)
    for table in tables:
        yield f"  rounds, {table.title}: {', '.join(_rounds(found, table))}"


def _rounds(found: Measurements, table: Table) -> Iterator[str]:
    for data in table.subject.sets:
        try:
            yield f"{data} {found.protocols[table.subject.title].rounds(data, table.partition)}"
        except MissingRuns:
            yield f"{data} {MISSING}"


_COSTS = {
    "MB up": ("bytes_up", 1e-6),
    "MB down": ("bytes_down", 1e-6),
    "MB first": ("first_download", 1e-6),
    "client M": ("client_parameters", 1e-6),
    "blocks M": ("block_parameters", 1e-6),
    "disclosed %": ("disclosed", 100.0),
    "seconds": ("seconds", 1.0),
}


def _costs(found: Measurements, tables: Sequence[Table]) -> Iterator[str]:
    rows = [["", *_COSTS]]
    for table in tables:
        for method in table.methods:
            columns = [found.of(table, method, data) for data in table.subject.sets]
            if not any(columns):
                continue
            row = [f"{table.title}, {_title(method)}"]
            for field, unit in _COSTS.values():
                values = [value for column in columns for value in _values(column, field)]
                row.append(f"{statistics.mean(values) * unit:.1f}" if values else MISSING)
            rows.append(row)
    yield from grid(rows)


def goals(found: Measurements, tables: Sequence[Table]) -> Iterator[str]:
    """What is to be reached, marked where it is; nothing is marked before all runs of a table are there."""
    for table in tables:
        if "packed" in table.methods:
            gap = found.difference(table, "full", "packed")
            yield _goal(table, "gap to the full model ≤ 2.5 points", gap, lambda gap: gap.mean <= 2.5)
        if table.subject.title != TEXT.title or "fedpft" not in table.methods:
            continue
        most = 4.0 if table.size == "harder" else 1.5
        gap = found.difference(table, "full", "fedpft")
        yield _goal(table, f"gap to the full model ≤ {most:g} points", gap, lambda gap, most=most: gap.mean <= most)
        lead = found.difference(table, "fedpft", FEDOT)
        yield _goal(
            table,
            "lead over the best FedOT > 2 standard errors, over seeds and over sets",
            lead,
            lambda lead: lead.mean > 2 * max(lead.error_of_seeds, lead.error_of_sets),
        )


def _goal(table: Table, title: str, gap: Difference, holds: Any) -> str:
    wanted = len(table.subject.sets) * table.seeds
    if len(gap.pairs) < wanted:
        return f"  [ ] {table.title}: {title}: {len(gap.pairs)} of {wanted} pairs of runs so far"
    return f"  [{'x' if holds(gap) else ' '}] {table.title}: {title}: {gap.mean:+.2f}"


def limited(tables: Sequence[Table], seeds: int | None, sets: Sequence[str]) -> tuple[Table, ...]:
    """Tables with at most so many seeds and only some sets; a table of which no set is left is left out.

    Raises:
        ValueError: there is no such set.
    """
    known = [name for subject in (TEXT, VISION) for name in subject.sets]
    if unknown := [name for name in sets if name not in known]:
        raise ValueError(f"{', '.join(unknown)}: choose among {', '.join(known)}")
    found = []
    for table in tables:
        left = tuple(name for name in table.subject.sets if not sets or name in sets)
        most = table.seeds if seeds is None else min(seeds, table.seeds)
        if left:
            found.append(replace(table, subject=replace(table.subject, sets=left), seeds=most))
    return tuple(found)


def grid(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as aligned lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = [
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(["  " + first, *others])


def percent(values: Sequence[float]) -> str:
    """Mean ± standard deviation of shares, in per cent; of one value no deviation."""
    if not values:
        return MISSING
    text = f"{100 * statistics.mean(values):.1f}"
    return text if len(values) < 2 else f"{text} ± {100 * statistics.stdev(values):.1f}"
