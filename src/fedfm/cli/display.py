"""What a run looks like while it happens: a live bar and a line a round; without a terminal the same lines, plainly."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

import fedfm
from fedfm.records import units
from fedfm.records.listeners import Listener

Record = dict[str, Any]


class Display(Listener):
    """A listener that prints; a context, so that the terminal is left as it was whatever happens."""

    def __init__(self, terminal: Console) -> None:
        self.terminal = terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""

    def on_start(self, plan: Record) -> None:
        """The run's facts."""
        self.terminal.print(describe_plan(plan))
        self.terminal.print()

    def on_round(self, record: Record) -> None:
        """A line that stays."""
        self.terminal.print(describe_round(record), soft_wrap=True)

    def on_warning(self, text: str) -> None:
        """A warning that stays."""
        self.terminal.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


class PlainDisplay(Display):
    """Lines of text and nothing else: for logs and pipes."""


class RichDisplay(Display):
    """One live bar below the lines: rounds done, and how far the cohort of this one is."""

    def __init__(self, terminal: Console) -> None:
        super().__init__(terminal)
        self.rounds = 0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=terminal,
            transient=True,
        )
        self.job = self.bar.add_task("reading data, loading the model", total=None, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away."""
        self.bar.stop()

    def on_start(self, plan: Record) -> None:
        """The run's facts, then an empty bar."""
        super().on_start(plan)
        self.rounds = plan["federation"]["rounds"]
        self.bar.update(self.job, description="evaluating before round 1", total=self.rounds, completed=0)

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        """Moves the bar by one client."""
        self.bar.update(
            self.job,
            description=f"round {round}/{self.rounds}  client {done}/{total}",
            completed=round - 1 + done / total,
        )

    def on_round(self, record: Record) -> None:
        """A line that stays, and the time left."""
        super().on_round(record)
        over = record["round"] >= record["rounds"]
        coming = "finishing: adapter, report" if over else f"round {record['round'] + 1}/{self.rounds}"
        self.bar.update(
            self.job,
            description=coming,
            completed=record["round"],
            left="" if over else f"{units.duration(record['eta_seconds'])} left",
        )


def describe_plan(plan: Record) -> RenderableType:
    """The facts of a run before it starts, as a table of two columns."""
    model, data, federation, size = plan["model"], plan["data"], plan["federation"], plan["bytes"]
    tunable, trainable, whole = plan["tunable"]["kind"], plan["tunable"]["parameters"], model["parameters"]
    clients = data["client_examples"]
    left_out = f", {units.number(federation['left_out'])} too small left out" if federation["left_out"] else ""
    rows = {
        "model": f"{model['name']}, {units.number(whole)} parameters ({model['family']})",
        "tunable": f"{tunable}, {units.number(trainable)} parameters ({units.share(trainable, whole)}) travel",
        "data": _describe_data(data),
        "clients": (
            f"{units.number(federation['clients'])} by {federation['partition']}{left_out}, with "
            f"{units.number(clients['min'])} to {units.number(clients['max'])} examples, "
            f"median {units.number(clients['median'])}"
        ),
        "rounds": f"{federation['rounds']} of {federation['per_round']} clients each, {plan['algorithm']}",
        "bytes": (
            f"{units.size(size['per_client_down'])} down, {units.size(size['per_client_up'])} up a client and round; "
            f"{units.size(size['total'])} in all; the model itself, once: {units.size(size['first_download'])}"
        ),
        "privacy": "ε = ∞ (no differential privacy)",
        "device": plan["device"],
    }
    table = Table.grid(padding=(0, 2))
    for name, fact in rows.items():
        table.add_row(Text(name, style="dim"), Text(fact))
    return Group(Text(f"fedfm {fedfm.__version__}  {plan['name']}", style="bold"), table)


def _describe_data(data: Record) -> str:
    """How many examples there are for what."""
    splits = [f"{units.number(data[split])} {split}" for split in ("train", "validation", "test") if data[split]]
    labels = f", {len(data['labels'])} labels" if data["labels"] else ""
    return " + ".join(splits) + " examples" + labels


def describe_round(record: Record) -> str:
    """A round in one line; what is measured on the validation set where there is one, else on the test set."""
    rounds, clients, size = record["rounds"], record["clients"], record["bytes"]
    width = len(str(rounds))
    asked = sum(clients.values())
    parts = [f"round {record['round']:>{width}}/{rounds}"]
    if record["loss"] is not None:
        parts.append(f"loss {record['loss']:.3f}")
    for split in ("validation", "test"):
        if scores := record["metrics"].get(split):
            parts += _headline(scores)
            break
    parts.append(f"clients {clients['ok']}/{asked}")
    parts += [f"{clients[fault]} {fault}" for fault in ("failed", "refused") if clients[fault]]
    parts.append(f"{units.size(size['down'])} down, {units.size(size['up'])} up")
    parts.append(units.duration(record["seconds"]))
    if record["round"] < rounds:
        parts.append(f"{units.duration(record['eta_seconds'])} left")
    return "   ".join(parts)


def _headline(scores: dict[str, float]) -> list[str]:
    """The first metric that is not the loss."""
    name = next((name for name in scores if name != "loss"), "loss")
    return [f"{units.metric_name(name)} {units.metric(name, scores[name])}"]


def describe_outcome(folder: Path, summary: Record) -> RenderableType:
    """What came of a run: the headline metric, where things are, what to do next."""
    metric = summary["metric"]
    final, initial = summary["final"].get(metric), summary["initial"].get(metric)
    compared = [
        f"{name.replace('_', ' ')} {units.metric(metric, value)}" for name, value in summary["baselines"].items()
    ]
    made = [name for name in ("adapter", "model") if (folder / name).is_dir()]
    lines = [
        Text(),
        Text.assemble(
            f"{units.metric_name(metric)} on the test set  ",
            (f"{units.metric(metric, initial)} → {units.metric(metric, final)}", "bold"),
            f"  ({', '.join(compared)})" if compared else "",
        ),
        Text(
            f"{folder}/  " + "  ".join([*(f"{name}/" for name in made), "report.html", "metrics.jsonl", "summary.json"])
        ),
    ]
    lines += [Text(f"to load it: {folder / name / 'README.md'}") for name in made]
    return Group(*lines)
