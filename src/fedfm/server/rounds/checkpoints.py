"""Checkpoints: a round is a transaction. Written beside, synced, renamed: it is whole or not there.

    checkpoints/round-0007/params.safetensors    the tunable
                           server.safetensors    what the protocol keeps beside it, tensors named GROUP/NAME
                           best.safetensors      the best round's tunable (with early stopping)
                           proxy.safetensors     what alignment changes of a proxy, and when; counts of
                                                 neurons' use (with a proxy)
                           state.json            counters, metrics so far, sizes of the record files; client →
                                                 version and sha256 of what it keeps in ``client_state/``
                           MANIFEST.json         sha256 of each of these files
    LATEST                                       "round-0007", for people and other programs

No random state is stored: every random choice is keyed by its round and client.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from fedfm import __version__
from fedfm import params as tensors
from fedfm.algorithms import ServerState
from fedfm.errors import StorageError
from fedfm.params import Params
from fedfm.printable import line
from fedfm.proxies.base import ModelVersion
from fedfm.records.disk import replace_text, replacing_folder, storage
from fedfm.records.folder import RunFolder
from fedfm.server.rounds.state import RunState

FORMAT = 5
"""Version of the layout above; a checkpoint of another version is refused, not guessed at."""

MANIFEST = "MANIFEST.json"
REQUIRED = frozenset({"params.safetensors", "server.safetensors", "best.safetensors", "state.json"})
"""Files that every checkpoint has."""

NAME = re.compile(r"round-(\d{4,9})", re.ASCII)
"""Of a checkpoint's folder."""

DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError)
"""What reading a checkpoint raises that is not as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved round.

    Attributes:
        state: the run after it.
        offsets: sizes of the record files; records beyond them belong to a later, unfinished round.
        identity: what makes the run that run; see `Experiment.identity`.
        warnings: one for each newer checkpoint that was damaged and passed over.
    """

    state: RunState
    offsets: dict[str, int]
    identity: dict[str, str]
    warnings: tuple[str, ...] = ()


def save_checkpoint(
    run: RunFolder,
    state: RunState,
    offsets: Mapping[str, int],
    *,
    keep: int | Literal["all"],
    identity: Mapping[str, str],
) -> Path:
    """Writes the state after a round and makes it the latest, then removes all but the ``keep`` newest.

    Args:
        run: the run's folder.
        state: what to save.
        offsets: sizes of the record files.
        keep: checkpoints to keep, ≥ 1, or ``all``.
        identity: what makes the run that run.

    Raises:
        StorageError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    folder = run.checkpoints / f"round-{state.round:04d}"
    with storage(folder, "save"):
        folder.parent.mkdir(exist_ok=True)
    with replacing_folder(folder) as beside:
        _write(beside, state, offsets, identity)
    replace_text(run.latest, folder.name + "\n")
    folders = _folders(run)
    newest = folders.index(folder) + 1  # later ones were damaged, and passed over when the run was resumed
    for other in [*folders[newest:], *([] if keep == "all" else folders[:newest][:-keep])]:
        shutil.rmtree(other, ignore_errors=True)
    return folder


def _write(folder: Path, state: RunState, offsets: Mapping[str, int], identity: Mapping[str, str]) -> None:
    try:
        tensors.save(state.params, folder / "params.safetensors")
        tensors.save(_flatten(state.protocol.server), folder / "server.safetensors")
        tensors.save(state.best_params, folder / "best.safetensors")
        if state.refined is not None:
            tensors.save(state.refined.params, folder / "refined.safetensors")
        if state.proxy is not None:
            parts = {"own": state.proxy.own, "changed": state.proxy.changed, "activity": state.activity}
            tensors.save(_flatten(parts), folder / "proxy.safetensors")
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error
    saved = {"format": FORMAT, "offsets": dict(offsets), "identity": dict(identity), "state": state.numbers()}
    (folder / "state.json").write_text(json.dumps(saved, indent=1) + "\n")
    manifest = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def load_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The newest sound checkpoint of a run, or None when the run has no checkpoint yet.

    Raises:
        StorageError: there are checkpoints, and none is sound; or one is of another version of fedfm; or ``LATEST``
            names something that is no checkpoint of a run.
    """
    _check_latest(run)
    warnings: list[str] = []
    for folder in reversed(_folders(run)):
        try:
            return _read(folder, tuple(warnings))
        except DAMAGED as error:
            damage = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            warnings.append(f"checkpoint {folder.name} is damaged ({damage}); going back to the one before")
    if warnings:
        raise StorageError("no sound checkpoint is left: " + "; ".join(warnings))
    return None


def checkpoint_without(run: RunFolder, client: str) -> Checkpoint | None:
    """The newest sound checkpoint in which a client had not been asked for anything; None where none is kept.

    Raises:
        StorageError: a checkpoint is of another version of fedfm.
    """
    for folder in reversed(_folders(run)):
        with suppress(*DAMAGED):
            found = _read(folder, ())
            if not found.state.knows(client):
                return found
    return None


def oldest_versions(run: RunFolder) -> dict[str, int]:
    """Client id → the version of its state in the oldest readable checkpoint; older ones are not needed again."""
    for folder in _folders(run):
        with suppress(*DAMAGED):
            versions = json.loads((folder / "state.json").read_text())["state"]["versions"]
            return {client: version["number"] for client, version in versions.items()}
    return {}


def _read(folder: Path, warnings: tuple[str, ...]) -> Checkpoint:
    """A checkpoint; raises one of `DAMAGED` when it is not sound."""
    _check_manifest(folder)
    saved = json.loads((folder / "state.json").read_text())
    if type(saved["format"]) is not int:
        raise ValueError("its format is no number")
    if saved["format"] != FORMAT:
        raise StorageError(
            f"{folder} was written by fedfm{_writer(folder.parent.parent)} in checkpoint format {saved['format']}, and "
            f"fedfm {__version__} reads format {FORMAT}: continue the run with the version that wrote it, or start a "
            "new one"
        )
    if missing := sorted(REQUIRED - {path.name for path in folder.iterdir()}):
        raise ValueError(f"{', '.join(missing)} is missing")
    state = RunState.restore(
        saved["state"],
        tensors.load(folder / "params.safetensors"),
        _unflatten(tensors.load(folder / "server.safetensors")),
        tensors.load(folder / "best.safetensors"),
        *_proxy(folder / "proxy.safetensors", saved["state"]["proxy_version"]),
        {} if saved["state"]["refined"] is None else tensors.load(folder / "refined.safetensors"),
    )
    if state.round != int(folder.name.removeprefix("round-")):
        raise ValueError(f"it is of round {state.round}")
    offsets, identity = dict(saved["offsets"]), dict(saved["identity"])
    if not all(type(size) is int and size >= 0 for size in offsets.values()):
        raise ValueError("a size of a record file is no number from 0 up")
    if not all(isinstance(value, str) for value in identity.values()):
        raise ValueError("its identity is no text")
    return Checkpoint(state, offsets, identity, warnings)


def _writer(run: Path) -> str:
    """The version of fedfm that played a run, in words; empty where the run does not say."""
    with suppress(*DAMAGED):
        return f" {line(str(json.loads(RunFolder(run).environment.read_text())['versions']['fedfm']))}"
    return ""


def _proxy(path: Path, number: int | None) -> tuple[ModelVersion | None, Params]:
    """The proxy's version, and the counts that its next alignment goes by."""
    if number is None:
        return None, {}
    parts = _unflatten(tensors.load(path))
    return ModelVersion(number, parts.get("own", {}), parts.get("changed", {})), parts.get("activity", {})


def _folders(run: RunFolder) -> list[Path]:
    """The checkpoints in the order of their rounds; entries of other names are none."""
    found = run.checkpoints.glob("round-*") if run.checkpoints.is_dir() else ()
    rounds = {path: match for path in found if (match := NAME.fullmatch(path.name))}
    return sorted(rounds, key=lambda path: int(rounds[path][1]))


def _check_latest(run: RunFolder) -> None:
    """Refuses a pointer to somewhere else; one that is empty or names a checkpoint that is gone was not yet written."""
    name = run.latest.read_text(errors="replace").strip() if run.latest.is_file() else ""
    if name and not NAME.fullmatch(name):
        raise StorageError(f"{run.latest} names no checkpoint of this run ({name[:40]!r}): it may have been changed")


def _check_manifest(folder: Path) -> None:
    """Compares the files of a checkpoint with its manifest, which names each of them and no other.

    Raises:
        OSError, ValueError: they differ, or it cannot be read.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST} is no table of files")
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    if missing := sorted(({"state.json"} | manifest.keys()) - there):
        raise ValueError(f"{', '.join(missing)} is missing")
    if extra := sorted(there - manifest.keys()):
        raise ValueError(f"{MANIFEST} does not name {', '.join(extra)}")
    for name, digest in manifest.items():
        if _sha256(folder / name) != digest:
            raise ValueError(f"{name} does not match its sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(state: ServerState) -> Params:
    return {f"{part}/{name}": tensor for part, group in state.items() for name, tensor in group.items()}


def _unflatten(flat: Params) -> ServerState:
    state: ServerState = {}
    for key, tensor in flat.items():
        part, name = key.rsplit("/", 1)
        state.setdefault(part, {})[name] = tensor
    return state
