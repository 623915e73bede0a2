"""Forgetting a client: a new run in which it never took part, from what a finished or stopped run has kept.

A replay starts from the newest checkpoint that the client has no part in, or from the start, and draws each cohort as
the run did, minus the client (`federation.without`). Every choice is keyed and every round is a function of the state
before it, so that the new run equals, bit for bit, one that was played with `federation.without` from its first round.
Calibrated forgetting is the protocol `calibrated`. The new folder is written before anything is played, its recipe
first: a process that is killed in between leaves a run that `fedfm resume` continues, without the client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fedfm.clients.store import ClientStore
from fedfm.errors import RecipeError, StorageError
from fedfm.private import private
from fedfm.protocols.calibrated import norms_of
from fedfm.recipe import Recipe, dump, load_recipe
from fedfm.records import disk, jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import recipe_digest
from fedfm.server.rounds.checkpoints import Checkpoint, checkpoint_without, save_checkpoint
from fedfm.server.runs.api import resume
from fedfm.server.runs.finished import Run
from fedfm.server.runs.refusals import refuse_unforgettable
from fedfm.trackers.listeners import Listener

How = Literal["replay", "calibrated"]


def forget(
    folder: Path | str,
    client: str,
    out: Path | str,
    *,
    how: How = "replay",
    overrides: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
) -> Run:
    """Plays a run again as if one of its simulated clients had never taken part, in a new folder.

    The folder of the run stays as it is, with all that the client left in it. Metrics of the server's own test and
    validation data, and the names of the classes, are those of the recipe, whoever's examples they come from.

    Args:
        folder: of the run.
        client: client id.
        out: folder of the new run.
        how: ``replay`` plays all rounds from the last checkpoint before the client first took part, bit for bit.
            ``calibrated`` approximates that by a part of the rounds, whose steps are as long as they were
            (FedEraser, arXiv:2012.13891); the run must have recorded them (``protocol.norms``).
        overrides: with ``calibrated``, ``local.epochs``, ``local.max_steps`` and ``protocol.every``.
        listeners: are called at each step.

    Raises:
        RecipeError: the client cannot be forgotten, with the reason; or the new folder exists.
        StorageError: a file of the run is missing or damaged, or the disk is full.
        TooFewClientsError: a round had fewer sound updates than the quorum; the new run can be resumed.
        InterruptedRunError: Ctrl-C was pressed; the new run can be resumed.
    """
    refuse_unforgettable(folder, client, out, how, overrides)
    opened = RunFolder.open(folder)
    with private(), opened.lock():
        before = load_recipe(opened.recipe)
        recipe = _recipe(opened, before, client, out, how, overrides)
        saved = _start(opened, before, client) if how == "replay" else None
        started = 0 if saved is None else saved.state.round
        new = RunFolder.create(out)
        new.write_text(new.recipe, dump(recipe))
        said = {"client": client, "how": how, "run": opened.path.name, "from_round": started}
        new.write_json(new.forgotten, said)
        if saved is not None:
            _copy(opened, new, saved, client, recipe)
    return resume(new.path, listeners=listeners)


def _recipe(
    opened: RunFolder, before: Recipe, client: str, out: Path | str, how: How, overrides: Sequence[str]
) -> Recipe:
    """The recipe of the new run.

    Raises:
        RecipeError: it cannot leave clients out, or the run has no norms.
    """
    known = {row["id"] for row in jsonl.read(opened.clients, shapes.CLIENTS)}
    if client not in known:
        raise RecipeError(f"the run has no client of this name; {opened.clients} lists them", where="--client")
    without = [*before.federation.without, client]
    changes = [f"federation.without={json.dumps(without)}", f"run_dir={json.dumps(str(disk.normal(out)))}"]
    if how == "calibrated":
        changes += ["protocol.kind=calibrated", f"protocol.of={json.dumps(str(opened.path.absolute()))}", *overrides]
        recipe = load_recipe(opened.recipe, changes)
        rounds = len(norms_of(opened.path))
        changes.append(f"federation.rounds={-(-rounds // getattr(recipe.protocol, 'every', 1))}")
    return load_recipe(opened.recipe, changes)


def _start(opened: RunFolder, before: Recipe, client: str) -> Checkpoint | None:
    """The checkpoint to replay from; None: the start, also where clients evaluate, since all do from the start on.

    Raises:
        RecipeError: the recipe is not that of the checkpoints.
    """
    saved = checkpoint_without(opened, client) if before.evaluate.at == "server" else None
    if saved is not None and saved.identity.get("recipe") != recipe_digest(before):
        raise RecipeError("this is not the run that was begun: recipe.yaml was edited since", source="run")
    return saved


def _copy(opened: RunFolder, new: RunFolder, saved: Checkpoint, client: str, recipe: Recipe) -> None:
    """Writes what the run had kept up to a checkpoint, the checkpoint last.

    Raises:
        StorageError: something is missing or damaged, or cannot be written.
    """
    old, store = ClientStore(opened.client_state), ClientStore(new.client_state)
    for key, version in saved.state.versions.items():
        content = old.get(key, version.number, sha256=version.sha256)
        store.put(key, version.number, content or b"")
    for name in new.offsets():
        size, path = saved.offsets.get(name, 0), opened.path / name
        with disk.storage(path, "copy"):
            content = path.read_bytes()[:size] if size else b""
            (new.path / name).write_bytes(content)
        if len(content) < size:
            raise StorageError(f"{path} is damaged: {len(content)} bytes, where the checkpoint counts {size}")
    for event in jsonl.records(opened.events, shapes.EVENT):
        if event["round"] <= saved.state.round and event.get("client") != client:
            new.append(new.events, event)
    identity = {**saved.identity, "recipe": recipe_digest(recipe)}
    save_checkpoint(new, saved.state, new.offsets(), keep=recipe.checkpoint.keep, identity=identity)
