"""A run's folder: where its files lie, and the only way they are written.

Whole files are replaced atomically; records are appended line by line and can be cut back to a checkpoint, so that a
resumed run leaves the same files as one that was never interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from fedfm.data.settings import SITES
from fedfm.errors import RecipeError, StorageError
from fedfm.plain_files import open_plain, refuse_links
from fedfm.private import private_folder
from fedfm.records import disk, jsonl
from fedfm.yaml_text import YamlError, parse

LOCK, OWNER = ".lock", ".pid"

FILES = (
    "recipe.yaml", "env.json", "profile.json", "clients.json", "metrics.jsonl", "events.jsonl", "wire.jsonl",
    "privacy.jsonl", "LATEST", "summary.json", "report.html", LOCK, OWNER,
)  # fmt: skip
FOLDERS = ("checkpoints", "client_state", "clients", "adapter", "model", "proxy", "tensorboard")
"""Names at which there may be a file only, or a folder only."""


class RunFolder:
    """The folder of one run. `create` or `open` make sure of what is there; this constructor only names it."""

    def __init__(self, path: Path | str) -> None:
        self.path = disk.normal(path)

    @classmethod
    def create(cls, path: Path | str) -> RunFolder:
        """A new folder, parents included; an empty one that exists is taken.

        Raises:
            RecipeError: something is there already, or the last part is no name for a folder.
            StorageError: it cannot be created or written.
        """
        folder = cls(path)
        cls.refuse_existing(folder.path)
        with disk.storage(folder.path, "create"):
            private_folder(folder.path)
        if not os.access(folder.path, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write to {folder.path}: permission denied")
        return folder

    @staticmethod
    def refuse_existing(path: Path | str) -> None:
        """Checks that a new run may be written to ``path``, before anything is computed or created.

        Raises:
            RecipeError: something is there already, or the last part is no name for a folder.
            StorageError: it cannot be looked into.
        """
        path = disk.normal(path)
        if path.name in ("", "..") or not path.name.isprintable():
            raise RecipeError(f"{str(path)!r} does not name a folder", where="name")
        blocked = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
        if blocked is not None:
            raise RecipeError(f"{path} cannot be a folder: {blocked} is a file", where="name")
        with disk.storage(path, "read"):
            found = {entry.name for entry in path.iterdir()} - {LOCK, OWNER} if path.exists() else set()
        if path.exists() and not found:
            refuse_links(path, files=(LOCK, OWNER))
        if found:
            raise RecipeError(
                f"{path} exists already; continue it with `fedfm resume {path}` (`fedfm server {path} …` where sites "
                "hold the data), or give the new run another name with `name=OTHER`",
                where="name",
            )

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """The folder of an existing run, which somebody else may have made.

        Raises:
            RecipeError: there is no such folder, or it is not a run's.
            StorageError: it holds links, or anything else that is neither file nor folder.
        """
        folder = cls(path)
        if folder.path.is_dir():
            refuse_links(folder.path, files=FILES, folders=FOLDERS)
            if folder.recipe.is_file():
                return folder
        raise RecipeError(_no_run(folder), source="run")

    @property
    def again(self) -> str:
        """The command that continues the run: with simulated clients, or with sites that hold their own data."""
        try:
            recipe = parse(self.recipe.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, YamlError):
            recipe = None
        data = recipe.get("data") if isinstance(recipe, dict) else None
        if isinstance(data, dict) and data.get("train") == SITES:
            return f"fedfm server {self.path} --tls … --allow …"
        return f"fedfm resume {self.path}"

    @property
    def recipe(self) -> Path:
        """The resolved recipe; runs again as it is."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions and hardware."""
        return self.path / "env.json"

    @property
    def profile(self) -> Path:
        """Where the time went, of a run that was profiled."""
        return self.path / "profile.json"

    @property
    def evaluation(self) -> Path:
        """The delivered model on the test set: metrics, and how each class fared."""
        return self.path / "evaluation.json"

    @property
    def clients(self) -> Path:
        """The federation: id, sizes and label counts of every client."""
        return self.path / "clients.json"

    @property
    def client_state(self) -> Path:
        """What simulated clients keep between rounds."""
        return self.path / "client_state"

    @property
    def metrics(self) -> Path:
        """Loss and metrics by round and split, one line each."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Whatever did not go as planned: refused updates, failures, resumes."""
        return self.path / "events.jsonl"

    @property
    def wire(self) -> Path:
        """The wire ledger: every message with its tensors."""
        return self.path / "wire.jsonl"

    @property
    def privacy(self) -> Path:
        """The privacy ledger, written before noise is spent; never cut back."""
        return self.path / "privacy.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved round."""
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path:
        """Names the checkpoint to resume from."""
        return self.path / "LATEST"

    @property
    def adapter(self) -> Path:
        """What was tuned, as PEFT loads it."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The merged model, as transformers load it; on request."""
        return self.path / "model"

    @property
    def proxy(self) -> Path:
        """The proxy, where the recipe has one."""
        return self.path / "proxy"

    @property
    def summary(self) -> Path:
        """The outcome in figures."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The outcome as a page."""
        return self.path / "report.html"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process, and keeps others out; the lock dies with the process: none is ever stale.

        Raises:
            RecipeError: another process holds it; says which.
            StorageError: the lock file cannot be written.
        """
        lock = FileLock(self.path / LOCK, timeout=0)
        with disk.storage(self.path, "lock"):
            private_folder(self.path)
            try:
                lock.acquire()
            except Timeout as error:
                raise RecipeError(
                    f"{self.path} is in use by process {self.process() or '(unknown)'}; wait for it or stop it first",
                    source="run",
                ) from error
        try:
            self.write_text(OWNER, f"{os.getpid()}\n")
            yield
        finally:
            (self.path / OWNER).unlink(missing_ok=True)
            lock.release()

    def process(self) -> int | None:
        """The process that holds the folder; None when none does, or it was killed."""
        try:
            number = int((self.path / OWNER).read_text())
        except (OSError, ValueError):
            return None
        return number if psutil.pid_exists(number) else None

    def append(self, file: Path | str, record: Mapping[str, object]) -> None:
        """Adds one line to a JSONL file of this folder and hands it to the operating system.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._inside(file)
        with disk.storage(path, "write"):
            descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with os.fdopen(descriptor, "ab") as lines:
                lines.write(jsonl.line(record))

    def offsets(self) -> dict[str, int]:
        """Size in bytes of every file of records, all forced to disk: what a checkpoint keeps for `truncate`.

        Raises:
            StorageError: they cannot be forced to disk.
        """
        return {path.name: disk.synced_size(path) for path in self._cuttable()}

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Cuts the records back to ``offsets``; files that ``offsets`` does not name had not begun and are emptied.

        Raises:
            StorageError: a file is shorter than its checkpoint says, or cannot be cut.
        """
        for path in self._cuttable():
            size, kept = disk.synced_size(path), offsets.get(path.name, 0)
            if size < kept:
                raise StorageError(f"{path} is damaged: {size} bytes, where the checkpoint counts {kept}")
            if size > kept:
                with disk.storage(path, "write"), os.fdopen(open_plain(path, os.O_WRONLY), "ab") as records:
                    records.truncate(kept)

    def write_text(self, name: Path | str, text: str) -> Path:
        """Replaces a file of this folder in one step: after a crash it is the old one or the new one, whole.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._inside(name)
        disk.replace_text(path, text)
        return path

    def write_json(self, name: Path | str, value: object) -> Path:
        """As `write_text`, indented JSON; NaN and infinities become null.

        Raises:
            StorageError: it cannot be written.
        """
        return self.write_text(name, jsonl.dumps(value, indent=2) + "\n")

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Yields an empty folder to write into; when the block ends well it becomes ``folder``, in one step.

        Raises:
            StorageError: it cannot be written; what was there is intact.
        """
        with disk.replacing_folder(self._inside(folder)) as beside:
            yield beside

    def _cuttable(self) -> list[Path]:
        return [self.metrics, self.wire]  # events happened, whatever becomes of their round

    def _inside(self, name: Path | str) -> Path:
        """The path of a file in this folder, given by its name or its path."""
        path = self.path / Path(name).name
        if Path(name) not in (path, Path(path.name)):
            raise ValueError(f"{name} is not a file directly in {self.path}")
        return path


def _no_run(folder: RunFolder) -> str:
    """Why a path is no run's folder, and what was probably meant."""
    path = folder.path
    if not path.exists():
        return f"no such folder: {path.absolute()}"
    if not path.is_dir():
        if RunFolder(path.parent).recipe.is_file():
            return f"{path} is a file; the run's folder is {path.parent}"
        return f"{path} is a file, not the folder of a run; a recipe is started with `fedfm run {path}`"
    with disk.storage(path, "read"):
        runs = sorted(entry.name for entry in path.iterdir() if RunFolder(entry).recipe.is_file())
    inside = f"; runs in it: {', '.join(runs[:10])}{', …' if len(runs) > 10 else ''}" if runs else ""
    return f"{path} is not a run's folder: it has no {folder.recipe.name}{inside}"
