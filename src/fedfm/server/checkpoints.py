"""Checkpoints: a round is a transaction. Written beside, synced, renamed; then the pointer moves.

    checkpoints/round-0007/params.safetensors    the tunable
                           server.safetensors    the algorithm's state, tensors named STATE/NAME
                           best.safetensors      the best round's tunable (with early stopping)
                           state.json            counters, metrics so far, sizes of the record files
                           MANIFEST.json         sha256 of each of these files
    LATEST                                       "round-0007"

No random state is stored: every random choice is keyed by its round and client.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from fedfm import params as tensors
from fedfm.algorithms import ServerState
from fedfm.errors import StorageError
from fedfm.params import Params
from fedfm.records.disk import replace_text, replacing_folder, storage
from fedfm.server.state import RunState

FORMAT = 1
"""Version of the layout above; a checkpoint of another version is refused, not guessed at."""


def save_checkpoint(run: Path, state: RunState, offsets: Mapping[str, int], *, keep: int) -> Path:
    """Writes the state after a round and makes it the latest, then removes all but the ``keep`` newest.

    Args:
        run: the run's folder.
        state: what to save.
        offsets: sizes of the record files; records beyond them belong to a later, unfinished round.
        keep: checkpoints to keep, ≥ 1.

    Raises:
        StorageError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    folder = run / "checkpoints" / f"round-{state.round:04d}"
    with storage(folder, "save"):
        folder.parent.mkdir(exist_ok=True)
    with replacing_folder(folder) as beside:
        _write(beside, state, offsets)
    replace_text(run / "LATEST", folder.name + "\n")
    for old in _names(run)[:-keep]:
        shutil.rmtree(folder.parent / old, ignore_errors=True)
    return folder


def _write(folder: Path, state: RunState, offsets: Mapping[str, int]) -> None:
    try:
        tensors.save(state.params, folder / "params.safetensors")
        tensors.save(_flatten(state.algorithm), folder / "server.safetensors")
        tensors.save(state.best_params, folder / "best.safetensors")
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error
    saved = {"format": FORMAT, "offsets": dict(offsets), "state": state.numbers()}
    (folder / "state.json").write_text(json.dumps(saved, indent=1) + "\n")
    manifest = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


def load_checkpoint(run: Path) -> tuple[RunState, dict[str, int], list[str]] | None:
    """The latest sound checkpoint of a run.

    Returns:
        State, sizes of the record files, and a warning for each newer checkpoint that was damaged and passed over;
        None when the run has no checkpoint yet.

    Raises:
        StorageError: there are checkpoints, and none is sound.
    """
    latest = _pointer(run)
    if latest is None:
        return None
    warnings: list[str] = []
    for name in [latest, *(name for name in reversed(_names(run)) if name < latest)]:
        folder = run / "checkpoints" / name
        if damage := _damage(folder):
            warnings.append(f"checkpoint {name} is damaged ({damage}); going back to the one before")
            continue
        saved = json.loads((folder / "state.json").read_text())
        if saved["format"] != FORMAT:
            raise StorageError(
                f"{folder} was written by another version of fedfm (format {saved['format']}, this one reads {FORMAT})"
            )
        state = RunState.restore(
            saved["state"],
            tensors.load(folder / "params.safetensors"),
            _unflatten(tensors.load(folder / "server.safetensors")),
            tensors.load(folder / "best.safetensors"),
        )
        return state, saved["offsets"], warnings
    raise StorageError("no sound checkpoint is left: " + "; ".join(warnings))


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("round-*"))


def _pointer(run: Path) -> str | None:
    path = run / "LATEST"
    return path.read_text().strip() if path.exists() else None


def _damage(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        for name, digest in manifest.items():
            if _sha256(folder / name) != digest:
                return f"{name} does not match its sha256"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(state: ServerState) -> Params:
    return {f"{part}/{name}": tensor for part, group in state.items() for name, tensor in group.items()}


def _unflatten(flat: Params) -> ServerState:
    state: ServerState = {}
    for key, tensor in flat.items():
        part, name = key.split("/", 1)
        state.setdefault(part, {})[name] = tensor
    return state
