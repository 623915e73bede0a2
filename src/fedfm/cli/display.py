"""The display of a run: a live bar and one line a round on a terminal; plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

import fedfm
from fedfm.cli.output import Output
from fedfm.errors import InterruptedRunError
from fedfm.privacy.statement import statement
from fedfm.records import contributions, units
from fedfm.records.names import BASELINES
from fedfm.trackers.listeners import Listener

Record = dict[str, Any]


class Display(Listener):
    """A listener that prints; a context manager that restores the terminal, also after an error."""

    def __init__(self, terminal: Console) -> None:
        self.terminal = terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restores the terminal."""

    def on_start(self, plan: Record) -> None:
        """Prints the facts of the run."""
        self.terminal.print(describe_plan(plan))
        self.terminal.print()
        self._check_reader("before round 1")

    def on_round(self, record: Record) -> None:
        """Prints a line for the round."""
        self._line(describe_round(record))
        self._check_reader(f"after round {record['round']}")

    def on_warning(self, text: str) -> None:
        """Prints a warning."""
        self._line(Text(f"warning: {text}", style="yellow"))

    def _line(self, line: str | Text) -> None:
        """Prints a line; a terminal wraps it between words, a log does not wrap it."""
        self.terminal.print(line, soft_wrap=not self.terminal.is_terminal)

    def _check_reader(self, where: str) -> None:
        """Ends the run when its output is closed.

        Raises:
            InterruptedRunError: the output is a closed pipe or a closed terminal.
        """
        if isinstance(self.terminal.file, Output) and self.terminal.file.lost:
            raise InterruptedRunError(f"stopped {where} (its output was closed)")


class PlainDisplay(Display):
    """Plain lines of text, for logs and pipes; at least one a minute."""

    def __init__(self, terminal: Console, *, silence: float = 60.0) -> None:
        """Prints to ``terminal``; after ``silence`` seconds without a line, prints the current work."""
        super().__init__(terminal)
        self.silence = silence
        self.doing = "loading libraries"
        self._begun = self._said = time.monotonic()
        self._over = Event()
        self._watch = Thread(target=self._keep_talking, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the thread that prints the current work."""
        self._over.set()
        self._watch.join()

    def on_start(self, plan: Record) -> None:
        """Prints the facts of the run."""
        super().on_start(plan)
        self._now("evaluating before round 1")

    def on_progress(self, stage: str, done: int, total: int | None) -> None:
        """Notes the current work."""
        self._now(_describe_progress(stage, done, total), said=False)

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        """Notes the progress of the round."""
        self._now(f"round {round}: client {done}/{total}", said=False)

    def on_round(self, record: Record) -> None:
        """Prints a line for the round."""
        super().on_round(record)
        over = record["round"] >= record["rounds"]
        self._now("finishing: adapter, report" if over else f"round {record['round'] + 1}")

    def _now(self, doing: str, *, said: bool = True) -> None:
        self.doing = doing
        if said:
            self._said = time.monotonic()

    def _keep_talking(self) -> None:
        """Prints the current work whenever nothing was printed for ``silence`` seconds."""
        while not self._over.wait(max(0.01, self._said + self.silence - time.monotonic())):
            now = time.monotonic()
            if now - self._said >= self.silence:
                self._said = now
                self._line(f"… {self.doing} (running for {units.duration(now - self._begun)})")


class RichDisplay(Display):
    """One live bar below the lines: completed rounds, and the progress of the current cohort."""

    def __init__(self, terminal: Console) -> None:
        super().__init__(terminal)
        self.rounds = 0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=terminal,
            transient=True,
        )
        self.job = self.bar.add_task("loading libraries", total=None, left="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the bar."""
        self.bar.stop()

    def on_start(self, plan: Record) -> None:
        """Prints the facts of the run and an empty bar."""
        super().on_start(plan)
        self.rounds = plan["federation"]["rounds"]
        self.bar.update(self.job, description="evaluating before round 1", total=self.rounds, completed=0)

    def on_progress(self, stage: str, done: int, total: int | None) -> None:
        """Shows work between the rounds beside the bar."""
        self.bar.update(self.job, description=_describe_progress(stage, done, total))

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        """Advances the bar by one client."""
        self.bar.update(
            self.job,
            description=f"round {round}/{self.rounds}  client {done}/{total}",
            completed=round - 1 + done / total,
        )

    def on_round(self, record: Record) -> None:
        """Prints a line for the round and updates the remaining time."""
        super().on_round(record)
        over = record["round"] >= record["rounds"]
        coming = "finishing: adapter, report" if over else f"round {record['round'] + 1}/{self.rounds}"
        self.bar.update(
            self.job,
            description=coming,
            completed=record["round"],
            left="" if over else f"{units.duration(record['eta_seconds'])} left",
        )


def _describe_progress(stage: str, done: int, total: int | None) -> str:
    """A stage and its progress: as a count, from 100 steps on in percent."""
    if not total:
        return stage
    return f"{stage}  {100 * done // total} %" if total >= 100 else f"{stage}  {done}/{total}"


def describe_plan(plan: Record) -> RenderableType:
    """The facts of a run before it starts, as a table of two columns."""
    model, data, federation, size = plan["model"], plan["data"], plan["federation"], plan["bytes"]
    tunable, trainable, whole = plan["tunable"]["kind"], plan["tunable"]["parameters"], model["parameters"]
    left_out = f", {units.number(federation['left_out'])} too small left out" if federation["left_out"] else ""
    rows = {
        "model": f"{model['name']}, {units.number(whole)} parameters ({model['family']})",
        "tunable": f"{tunable}, {units.number(trainable)} parameters ({units.share(trainable, whole)}) are sent",
        "data": _describe_data(data),
        "clients": (
            f"{units.number(federation['clients'])} by {federation['partition']}{left_out}"
            + (f", with {_describe_sizes(data['client_examples'])}" if data["client_examples"] else "")
        ),
        "rounds": f"{federation['rounds']} of {federation['per_round']} clients each, {plan['algorithm']}",
        "bytes": (
            f"{units.size(size['per_client_down'])} down, {units.size(size['per_client_up'])} up a client and round; "
            f"{units.size(size['total'])} in all"
            + (f", {units.size(size['residual'])} of that for residuals" if size.get("residual") else "")
            + f"; first download, once: {units.size(size['first_download'])}"
            + (f"; after an alignment {units.size(size['alignment'])} down" if size["alignment"] else "")
            + (f"; an evaluation at clients {units.size(size['evaluation'])}" if size.get("evaluation") else "")
        ),
        **_describe_protocol(plan.get("protocol") or {}),
        **_describe_costs(plan),
        "privacy": statement(plan["privacy"]).short,
        **({"updates": plan["secure"]} if plan["secure"] else {}),
        "device": f"{plan['device']}, {plan['training']}",
    }
    if plan["proxy"]:
        rows["proxy"] = _describe_held(plan["proxy"])
        if making := _describe_making(plan["proxy"]):
            rows["making it"] = making
    table = Table.grid(padding=(0, 2))
    for name, fact in rows.items():
        table.add_row(Text(name, style="dim"), Text(fact))
    warnings = [Text(f"warning: {text}", style="yellow") for text in plan["warnings"]]
    return Group(Text(f"fedfm {fedfm.__version__}  {plan['name']}", style="bold"), table, *warnings)


def _describe_protocol(protocol: Record) -> dict[str, str]:
    """A row for a protocol of which figures are known before a run."""
    figures = units.listed(protocol)
    return {"protocol": f"{protocol['kind']}: {figures}"} if figures else {}


def _describe_costs(plan: Record) -> dict[str, str]:
    """Rows for the memory and the time of a client, where they are known."""
    rows = {}
    if plan.get("memory") is not None:
        rows["memory"] = f"about {units.size(plan['memory'])} for training at a client, beside the program"
    if found := plan.get("time"):
        link = "no runtime.link" if found["link"] is None else f"{units.duration(found['link'])} of messages"
        rows["time"] = (
            f"about {units.duration(found['round'])} a round where each client has a machine like this one "
            f"({units.duration(found['client'])} of training, {link}), {units.duration(found['run'])} in all"
        )
    return rows


def _describe_held(proxy: Record) -> str:
    """The model that clients hold in place of the backbone."""
    sizes = proxy["parameters"]
    share = units.share(sizes["blocks"], sizes["backbone_blocks"])
    return (
        f"{proxy['kind']}: clients hold {units.number(sizes['total'])} parameters; its layers have {share} of the "
        f"backbone's parameters and disclose at most {units.share(proxy['disclosed'], 1)} of them"
    )


def _describe_making(proxy: Record) -> str:
    """What is left of making a proxy, and where an earlier run has left the rest."""
    stages: dict[str, str] = proxy["making"]
    found = [name for name, state in stages.items() if state == "found"]
    missing = [name for name, state in stages.items() if state == "missing"]
    parts = []
    if found:
        parts.append("found in the cache" if len(found) == len(stages) else f"found in the cache: {', '.join(found)}")
    if "cpu_seconds" in proxy:
        seconds = proxy["cpu_seconds"]
        if missing:
            each = [f"{name} {units.duration(seconds[name])}" for name in missing]
            parts.append(f"about {units.duration(sum(map(seconds.get, missing)))} of CPU time ({', '.join(each)})")
        if "alignment" in seconds:
            parts.append(f"an alignment about {units.duration(seconds['alignment'])} of CPU time")
    return "; ".join(parts)


def _describe_data(data: Record) -> str:
    """The number of examples of each split, and how many of them were cut at `data.max_length`."""
    splits = [f"{units.number(data[split])} {split}" for split in ("train", "validation", "test") if data[split]]
    labels = f", {len(data['labels'])} labels" if data["labels"] else ""
    cut = sum(data["cut"].values())
    cuts = f"; {units.number(cut)} are longer than data.max_length, and cut" if cut else ""
    return " + ".join(splits) + " examples" + labels + cuts


def _describe_sizes(examples: Record) -> str:
    """The number of examples of a client."""
    smallest, median, largest = (units.number(examples[figure]) for figure in ("min", "median", "max"))
    return f"{smallest} examples each" if smallest == largest else f"{smallest} to {largest} examples, median {median}"


def describe_round(record: Record) -> str:
    """A round in one line. Its metric is from the validation set, else the test set, else the mean over clients."""
    rounds, clients, size = record["rounds"], record["clients"], record["bytes"]
    width = len(str(rounds))
    asked = sum(clients.values())
    parts = [f"round {record['round']:>{width}}/{rounds}"]
    if record["loss"] is not None:
        parts.append(f"loss {record['loss']:.3f}")
    for split in ("validation", "test", "clients"):
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
    """The outcome of a run: the headline metric and its baselines, the files, and the next step."""
    metric = summary["metric"]
    initial, final = (units.metric(metric, summary[when].get(metric)) for when in ("initial", "final"))
    where = "as the mean over clients" if summary.get("final_by") == "clients" else "on the test set"
    protocol = units.listed(summary.get("protocol") or {})
    compared = ", ".join(_baseline(metric, name, value) for name, value in summary["baselines"].items())
    made = [f"{name}/" for name in ("adapter", "model") if (folder / name).is_dir()]
    files = [name for name in ("report.html", "summary.json", "metrics.jsonl") if (folder / name).is_file()]
    lines = [
        Text(),
        Text.assemble(
            f"{units.metric_name(metric)} {where}: ",
            (f"{initial} → {final}", "bold"),
            f"   ({compared})" if compared else "",
        ),
        *([Text(f"protocol {summary['protocol']['kind']}: {protocol}")] if protocol else []),
        *map(Text, contributions.lines(summary)),
        *_describe_privacy(summary),
        *([Text(summary["secure"])] if summary.get("secure") else []),
        Text(f"in {folder}/: {'  '.join([*made, *files])}"),
        Text(_describe_reload(made[0] if made else "", summary["reloaded"])),
    ]
    lines += [Text(f"code to load it: {folder}/{name}README.md") for name in made]
    return Group(*lines)


def _describe_privacy(summary: Record) -> list[Text]:
    """What was spent, where something was promised, and whether it ended the run."""
    if not summary.get("privacy"):
        return []
    lines = [Text(f"privacy: {statement(summary['privacy']).short}")]
    if summary["status"] == "budget":
        lines.append(
            Text(f"ended after round {summary['rounds']}: another would exceed privacy.epsilon", style="yellow")
        )
    return lines


def _describe_reload(made: str, again: Record) -> str:
    """Says whether the written model is the measured model."""
    if again["agrees"] is None:
        return f"{made} was not verified: {again['reason']}"
    if again["difference"] is None:
        return f"{made} loaded again with plain {again['with']}: NOT THE MEASURED MODEL, {again['reason']}"
    result = "same logits as measured" if again["agrees"] else "DIFFERENT LOGITS THAN MEASURED"
    return f"{made} loaded again with plain {again['with']}: {result} (difference {again['difference']:.0e})"


def _baseline(metric: str, name: str, value: float | dict[str, float] | None) -> str:
    """A baseline with its name; for clients that train alone, their mean."""
    figure = value["mean"] if isinstance(value, dict) else value
    return f"{BASELINES.get(name, name)} {units.metric(metric, figure)}"
