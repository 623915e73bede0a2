"""Fast checks of a run, or of its resumption, before anything slow is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedfm.data.settings import BY_TASK, SITES
from fedfm.errors import FedfmError, Problem, RecipeError, StorageError
from fedfm.extras import how_to_install
from fedfm.printable import line
from fedfm.recipe import load_keys, read_recipe
from fedfm.recipe.problems import overlap
from fedfm.records.disk import normal
from fedfm.records.folder import RunFolder
from fedfm.records.reading import dig, last_round, summary_of

EXTRAS = {"flower": "flwr", "ray": "ray", "secagg": "Crypto"}
"""Kind of a runtime or of `secure` → a module that its extra brings."""

_NAMES = {"secagg": "secure"}
"""Kind → the name of its extra, where that is another."""

PRIVATE = ("dp_accounting", "randomgen")
"""Modules of the extra `dp`, which every kind of privacy but `none` needs."""

RESUMABLE = ("federation.rounds", "report_to")
"""The only keys that `resume` may change; any other would make it a different run."""

CALIBRATION = ("local.epochs", "local.max_steps", "protocol.every")
"""The keys that calibrated forgetting may change."""

UNFORGETTABLE: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "data.train",
        lambda train: train != SITES,
        "its rounds would need the other sites again; start a new run with `fedfm server` and without the site",
    ),
    (
        "privacy.kind",
        lambda kind: kind == "none",
        "the model depends on each client by no more than (ε, δ) allow, so that beyond them there is nothing to "
        "forget; a replay would draw other noise, and spend the other clients' privacy a second time",
    ),
    (
        "secure.kind",
        lambda kind: kind == "none",
        "the server knows only sums with the client; a replay would give it the same sums without, and the difference "
        "is the client's update",
    ),
)
"""Key, whether its value allows a client to be forgotten, and why not otherwise."""


def refuse_unrunnable(source: str | Path, overrides: Sequence[str] = ()) -> None:
    """Refuses a recipe with faulty keys, or one that needs what this machine does not have.

    Raises:
        RecipeError: with all problems that can be found without imports.
    """
    name, values, problems = read_recipe(source, overrides)
    for obstacle in obstacles(values):
        if not any(overlap(obstacle.where, known.where) for known in problems):
            problems.append(obstacle)
    if problems:
        raise RecipeError(problems, source=name)


def obstacles(values: Mapping[str, Any]) -> list[Problem]:
    """What a recipe names and this machine does not have; invalid values are ignored here."""
    return [problem for look in (_folder, _missing_extras, _missing_files) for problem in look(values)]


def missing_extra(kind: str) -> str | None:
    """What to install for a kind of runtime or of `secure`; None where everything is installed."""
    if kind not in EXTRAS or find_spec(EXTRAS[kind]) is not None:
        return None
    name = _NAMES.get(kind, kind)
    return f"`{kind}` needs the extra {name}; {how_to_install(name)}"


def _folder(values: Mapping[str, Any]) -> Iterator[Problem]:
    """The run's folder must be new, and it must be possible to create it."""
    output, name, folder = values.get("output", "runs"), values.get("name"), values.get("run_dir")
    if not isinstance(name, str) or not isinstance(output, str) or not isinstance(folder, str | None):
        return
    path = normal(folder or Path(output) / name)
    where = "run_dir" if folder else "name"
    try:
        RunFolder.refuse_existing(path)
    except FedfmError as error:
        problems = error.problems if isinstance(error, RecipeError) else [Problem(where, str(error))]
        yield from (Problem(where, problem.message) for problem in problems)
        return
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        yield Problem(
            "run_dir" if folder else "output", f"{path} cannot be created: no permission to write to {parent}"
        )


def _missing_extras(values: Mapping[str, Any]) -> Iterator[Problem]:
    trackers = values.get("report_to")
    for where in ("runtime.kind", "secure.kind"):
        kind = dig(values, where)
        if isinstance(kind, str) and (missing := missing_extra(kind)):
            yield Problem(where, missing)
    if dig(values, "privacy.kind") not in (None, "none") and not all(map(find_spec, PRIVATE)):
        yield Problem("privacy.kind", f"{' and '.join(PRIVATE)} are not installed; {how_to_install('dp')}")
    if isinstance(trackers, list) and "tensorboard" in trackers and find_spec("tensorboard") is None:
        yield Problem("report_to", f"tensorboard is not installed; {how_to_install('track')}")


def _missing_files(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Missing files and folders of data; patterns are not checked here."""
    places = ("data.train", "data.validation", "data.test", "data.root", "public.data", "protocol.of")
    for where, named in (*((where, dig(values, where)) for where in places), *_named_by_tasks(values)):
        for reference in named if isinstance(named, list) else [named]:
            if not isinstance(reference, str) or not reference or not _is_path(reference):
                continue
            path = normal(reference)
            if not path.exists():
                yield Problem(where, f"no such file or folder: {path.absolute()}")


def _named_by_tasks(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Key and value of each source that one of several tasks names."""
    tasks = dig(values, "task.tasks")
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if isinstance(task, Mapping):
            yield from ((f"task.tasks[{number}].{split}", task.get(split)) for split in ("train", "validation", "test"))


def _is_path(reference: str) -> bool:
    """Whether a reference names one file or folder, and not a built-in, a hub set, a keyword or a pattern."""
    elsewhere = reference in (SITES, BY_TASK) or reference.partition(":")[0] in ("builtin", "hf", "memory")
    return not elsewhere and not any(sign in reference for sign in "*?[")


def refuse_unresumable(folder: RunFolder, overrides: Sequence[str] = ()) -> None:
    """Refuses a run that cannot be resumed, before anything is imported, computed or written.

    Raises:
        RecipeError: the overrides would make it a different run, or the run is finished.
        StorageError: rounds were played, but their checkpoints are missing.
        DataError: a file of the run is damaged.
    """
    before = load_keys(folder.recipe).model_dump()
    after = load_keys(folder.recipe, overrides).model_dump() if overrides else before
    refuse_changes(before, after)
    _refuse_finished(folder, before["federation"]["rounds"], after["federation"]["rounds"])
    _refuse_without_checkpoints(folder)


def refuse_unforgettable(
    folder: str | Path, client: str, out: str | Path, how: str, overrides: Sequence[str] = ()
) -> None:
    """Refuses to forget a client of a run for which `fedfm.forget` would not hold what it says.

    Args:
        folder: of the run.
        client: client id.
        out: folder of the new run.
        how: `replay` or `calibrated`.
        overrides: as for `fedfm.forget`.

    Raises:
        RecipeError: with the reason.
    """
    recipe = load_keys(RunFolder.open(folder).recipe).model_dump()
    RunFolder.refuse_existing(out)
    if client in recipe["federation"]["without"]:
        raise RecipeError(f"the run is without {line(client)} already", where="federation.without")
    for where, fits, reason in UNFORGETTABLE:
        if not fits(dig(recipe, where)):
            raise RecipeError(f"a client of this run cannot be forgotten: {reason}", where=where, source="run")
    protocol = recipe["protocol"]
    if how == "calibrated" and not protocol.get("norms"):
        raise RecipeError(
            "calibrated forgetting needs the norms of each update, which this run did not record "
            "(protocol.norms=true); use --how replay",
            where="protocol.norms",
            source="run",
        )
    allowed = CALIBRATION if how == "calibrated" else ()
    if others := [text for text in overrides if text.partition("=")[0] not in allowed]:
        says = f"calibrated forgetting may only change {', '.join(allowed)}" if allowed else "a replay changes no key"
        raise RecipeError(f"{says}, not {line(', '.join(others))}", where=others[0].partition("=")[0])


def refuse_changes(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuses changes of keys that are not in `RESUMABLE`."""
    old, new = _flat(before), _flat(after)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key) and key not in RESUMABLE]
    if changed:
        raise RecipeError(
            "a resumed run may only change "
            + " and ".join(RESUMABLE)
            + "; "
            + ", ".join(f"{key}: {old.get(key)} → {new.get(key)}" for key in changed)
            + " would make it a different run: start a new one",
            where=changed[0],
        )


def is_finished(folder: RunFolder) -> bool:
    """Whether a run has played all the rounds that it may, and has its report."""
    summary = summary_of(folder)
    return summary is not None and summary.get("status") in ("completed", "budget") and folder.report.is_file()


def _refuse_finished(folder: RunFolder, planned: int, wanted: int) -> None:
    """Refuses to resume a run that is finished without more rounds to play."""
    summary = summary_of(folder)
    if summary is None or not is_finished(folder):
        return
    played = summary["rounds"]
    if summary["status"] == "budget":
        raise RecipeError(
            f"{folder.path} is finished: another round after {played} would exceed the privacy budget, which "
            "cannot be raised for data that were used already",
            source="run",
        )
    promised = (summary.get("privacy") or {}).get("planned")
    if promised is not None and wanted > promised:
        raise RecipeError(
            f"{folder.path} is finished: its promise of privacy is for {promised} rounds together, and their noise was "
            "drawn for that number; to train longer, start a new run",
            source="run",
        )
    if played < planned:
        raise RecipeError(
            f"{folder.path} is finished: it stopped early, after round {played} of {planned} (evaluate.patience); "
            "to train longer, start a new run",
            source="run",
        )
    if wanted <= played:
        raise RecipeError(
            f"{folder.path} is finished: all {played} rounds are played; to play more, set federation.rounds=N with N "
            f"above {played}",
            source="run",
        )


def _refuse_without_checkpoints(folder: RunFolder) -> None:
    """Refuses a run without checkpoints: to start again would overwrite its results."""
    if any(folder.checkpoints.glob("round-*")):
        return
    played = last_round(folder)
    if played or folder.latest.exists() or folder.adapter.exists() or folder.model.exists():
        what = f"{played} rounds were played" if played else "the run had begun"
        raise StorageError(
            f"{folder.path} cannot be resumed: {what}, and {folder.checkpoints} holds no checkpoint. Restore "
            "the checkpoints, or start a new run under another name; nothing in the folder was changed"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
