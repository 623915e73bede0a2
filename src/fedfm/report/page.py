"""``report.html``: a run as one self-contained page, written only from the files of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedfm.data.settings import SITES, shown
from fedfm.privacy.statement import statement
from fedfm.records import names, units
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig, read_run
from fedfm.report import sections, svg, templates

REPRODUCING = ("torch", "transformers", "peft", "datasets")
"""Packages that a reproduction pins."""


def write_report(folder: Path | str) -> Path:
    """Writes the report of a run, also of one that has not ended; an existing report is replaced.

    Raises:
        RecipeError: the folder is not that of a run.
        DataError: a file of the run is damaged; the message names it.
        StorageError: the folder cannot be read or written.
    """
    opened = RunFolder.open(folder)
    return opened.write_text(opened.report, render(read_run(opened)))


def render(run: RunFiles) -> str:
    """The page."""
    versions = dig(run.environment, "versions") or dig(run.summary, "versions") or {}
    return templates.render(
        "report.html.j2",
        autoescape=True,
        run=run,
        status=dig(run.summary, "status") or "running",
        subtitle=_subtitle(run.recipe),
        commands=_commands(run),
        colours=svg.variables(),
        outcome=sections.outcome(run),
        learning=sections.learning(run),
        continual=sections.continual(run),
        classes=sections.classes(run),
        samples=sections.samples(run),
        synthetic=sections.synthetic(run),
        federation=sections.federation(run),
        spread=sections.spread(run),
        groups=sections.groups(run),
        own_models=sections.own_models(run),
        comparison=sections.comparison(run),
        contribution=sections.contribution(run),
        off=dig(run.recipe, "evaluate.clients") == 0,
        selection=sections.selection(run),
        proxy=sections.proxy(run),
        wire=sections.wire(run),
        costs=sections.costs(run),
        time=sections.time(run),
        checks=sections.checks(run),
        privacy=statement(dig(run.summary, "privacy")),
        audit=sections.audit(run),
        faults=sections.faults(run),
        simulated=dig(run.recipe, "runtime.kind") != "flower",
        versions=versions,
        machine=_machine(run.environment),
        pins=[f"{name}=={versions[name].split('+')[0]}" for name in REPRODUCING if name in versions],
    )


@dataclass(frozen=True)
class Commands:
    """The commands that continue a run and repeat it."""

    again: str
    reproduce: str


def _commands(run: RunFiles) -> Commands:
    """The commands for simulated clients, or for sites that hold their own data."""
    where = run.recipe.get("run_dir") or f"{run.recipe.get('output') or 'runs'}/{run.name}"
    another = f"{where}/recipe.yaml name={run.name}-again"
    if dig(run.recipe, "data.train") == SITES:
        return Commands(f"fedfm server {where} --tls … --allow …", f"fedfm server {another} --tls … --allow …")
    return Commands(f"fedfm resume {where}", f"fedfm run {another}")


def _subtitle(recipe: Record) -> str:
    """Tunable, model, task, data, algorithm and seed, in one line."""
    tune = dig(recipe, "tune") or {}
    rank = f" r {tune['r']}" if "r" in tune else ""
    parts = [
        f"{names.written(str(tune.get('kind')))}{rank} on {dig(recipe, 'model.path')}",
        dig(recipe, "task.kind"),
        shown(dig(recipe, "data.train") or ""),
        names.written(str(dig(recipe, "algorithm.name"))),
        f"seed {recipe.get('seed')}",
    ]
    return " · ".join(str(part) for part in parts if part)


def _machine(environment: Record | None) -> str:
    """Hardware in one line; empty when env.json is missing."""
    if environment is None:
        return ""
    cpu, memory = environment.get("cpu") or {}, environment.get("memory_bytes")
    parts = [
        environment.get("platform"),
        f"{cpu.get('count')} × {cpu.get('model')}" if cpu else None,
        f"{units.size(memory)} memory" if memory else None,
        *(environment.get("gpus") or ["no GPU"]),
        units.counted(environment["threads"], "thread", "threads") if environment.get("threads") else None,
    ]
    return " · ".join(str(part) for part in parts if part)
