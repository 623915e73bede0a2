"""A run's folder: the places of its files, and the functions that write them.

Whole files are replaced atomically. Records are appended line by line and can be cut back to a checkpoint, so that a
resumed run leaves the same files as a run that was never interrupted.
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
    "recipe.yaml", "env.json", "forgotten.json", "profile.json", "clients.json", "metrics.jsonl", "events.jsonl",
    "wire.jsonl", "costs.jsonl", "privacy.jsonl", "answers.jsonl", "answers-wire.jsonl", "LATEST",
    "summary.json", "evaluation.json", "matrix.json", "samples.json", "judge.json", "synthetic.jsonl", "synthetic.json",
    "audit.json", "report.html", LOCK, OWNER,
)  # fmt: skip
FOLDERS = ("checkpoints", "client_state", "clients", "adapter", "experts", "heads", "model", "proxy", "tensorboard")
"""`FILES` must be files and `FOLDERS` must be folders, where they exist."""


class RunFolder:
    """The folder of one run. `create` and `open` check the folder; the constructor only takes its path."""

    def __init__(self, path: Path | str) -> None:
        self.path = disk.normal(path)

    @classmethod
    def create(cls, path: Path | str) -> RunFolder:
        """Creates a new folder and its parents; an existing empty folder is accepted.

        Raises:
            RecipeError: the path exists and is not empty, or its last part cannot name a folder.
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
        """Checks that a new run may be written to ``path``. Computes and creates nothing.

        Raises:
            RecipeError: the path exists and is not empty, or its last part cannot name a folder.
            StorageError: the folder cannot be read.
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
        """Opens the folder of an existing run, which may come from another person.

        Raises:
            RecipeError: the folder is missing, or is not that of a run.
            StorageError: it holds links or other entries that are neither files nor folders.
        """
        folder = cls(path)
        if folder.path.is_dir():
            refuse_links(folder.path, files=FILES, folders=FOLDERS)
            if folder.recipe.is_file():
                return folder
        raise RecipeError(_no_run(folder), source="run")

    @property
    def again(self) -> str:
        """The command that continues the run, with simulated clients or with sites that hold their own data."""
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
        """The resolved recipe; it can be run without a change."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions and hardware."""
        return self.path / "env.json"

    @property
    def answers(self) -> Path:
        """Answers of clients to questions, a line a question."""
        return self.path / "answers.jsonl"

    @property
    def answers_wire(self) -> Path:
        """The ledger of messages with questions and answers; they are not part of the run's bytes."""
        return self.path / "answers-wire.jsonl"

    @property
    def profile(self) -> Path:
        """Time by phase, of a run that was profiled."""
        return self.path / "profile.json"

    @property
    def forgotten(self) -> Path:
        """What was forgotten, and how, in a run that `fedfm forget` played."""
        return self.path / "forgotten.json"

    @property
    def evaluation(self) -> Path:
        """The delivered model on the test set: metrics, and precision, recall and F1 of each class."""
        return self.path / "evaluation.json"

    @property
    def matrix(self) -> Path:
        """Each simulated client's model on each client's examples, where the recipe asks for it."""
        return self.path / "matrix.json"

    @property
    def samples(self) -> Path:
        """What a language model wrote before round 1 and after the last, and its scores."""
        return self.path / "samples.json"

    @property
    def judge(self) -> Path:
        """How a judge compared what the model wrote, as `fedfm judge` has asked it."""
        return self.path / "judge.json"

    @property
    def synthetic(self) -> Path:
        """Synthetic texts with their classes, a line a text, in the columns of the recipe's data."""
        return self.path / "synthetic.jsonl"

    @property
    def synthetic_scores(self) -> Path:
        """Scores of these texts, and of those that they are compared with."""
        return self.path / "synthetic.json"

    @property
    def audit(self) -> Path:
        """What the run gives away, as `fedfm audit` has measured it."""
        return self.path / "audit.json"

    @property
    def clients(self) -> Path:
        """The federation: id, sizes and label counts of every client."""
        return self.path / "clients.json"

    @property
    def client_models(self) -> Path:
        """Adapters of single clients, where clients hold different ones: ``ID/adapter/``."""
        return self.path / "clients"

    @property
    def experts(self) -> Path:
        """Adapters of a protocol with several models at the server: ``NAME/adapter/``, and each client's expert."""
        return self.path / "experts"

    @property
    def heads(self) -> Path:
        """Adapters of single tasks, where the model learns several: ``NAME/``, each with its own head."""
        return self.path / "heads"

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
        """Irregular events: refused updates, failures, resumes."""
        return self.path / "events.jsonl"

    @property
    def wire(self) -> Path:
        """The wire ledger: every message with its tensors."""
        return self.path / "wire.jsonl"

    @property
    def costs(self) -> Path:
        """The ledger of costs: what each client sent, computed and needed in each round."""
        return self.path / "costs.jsonl"

    @property
    def privacy(self) -> Path:
        """The privacy ledger, written before noise is added; it is never cut back."""
        return self.path / "privacy.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved round."""
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path:
        """The file that names the checkpoint to resume from."""
        return self.path / "LATEST"

    @property
    def adapter(self) -> Path:
        """The tuned parameters, in the format of PEFT."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The merged model, in the format of transformers; written on request."""
        return self.path / "model"

    @property
    def proxy(self) -> Path:
        """The proxy, of a recipe that has one."""
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
        """Locks the folder for this process. The lock ends with the process, so it is never stale.

        Raises:
            RecipeError: another process holds the lock; the message has its id.
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
        """The id of the process that holds the lock; None where no such process runs."""
        try:
            number = int((self.path / OWNER).read_text())
        except (OSError, ValueError):
            return None
        return number if psutil.pid_exists(number) else None

    def append(self, file: Path | str, record: Mapping[str, object]) -> None:
        """Appends one line to a JSONL file of this folder and passes it to the operating system.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._inside(file)
        with disk.storage(path, "write"):
            descriptor = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with os.fdopen(descriptor, "ab") as lines:
                lines.write(jsonl.line(record))

    def cut_unfinished_line(self, file: Path | str) -> None:
        """Removes the end of a JSONL file that was being written when the machine stopped; no reader counts it.

        Raises:
            StorageError: it cannot be read or cut.
        """
        path = self._inside(file)
        with disk.storage(path, "write"):
            if not path.exists():
                return
            with os.fdopen(open_plain(path, os.O_RDWR), "rb+") as lines:
                lines.truncate(lines.read().rfind(b"\n") + 1)

    def offsets(self) -> dict[str, int]:
        """The size in bytes of each file of records, forced to disk; a checkpoint keeps these for `truncate`.

        Raises:
            StorageError: they cannot be forced to disk.
        """
        return {path.name: disk.synced_size(path) for path in self._cuttable()}

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Cuts the records back to ``offsets``; a file that ``offsets`` does not name had not begun and is emptied.

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
        """Replaces a file of this folder in one step: after a crash it is complete, in its old or its new version.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._inside(name)
        disk.replace_text(path, text)
        return path

    def write_json(self, name: Path | str, value: object) -> Path:
        """Like `write_text`, with a value as indented JSON; NaN and infinities become null.

        Raises:
            StorageError: it cannot be written.
        """
        return self.write_text(name, jsonl.dumps(value, indent=2) + "\n")

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Yields an empty folder to write into; after the block it becomes ``folder``, in one step.

        Raises:
            StorageError: it cannot be written; the old folder is unchanged.
        """
        with disk.replacing_folder(self._inside(folder)) as beside:
            yield beside

    def _cuttable(self) -> list[Path]:
        return [self.metrics, self.wire, self.costs]  # events stay when their round is played again

    def _inside(self, name: Path | str) -> Path:
        """The path of a file in this folder, given by its name or its path."""
        path = self.path / Path(name).name
        if Path(name) not in (path, Path(path.name)):
            raise ValueError(f"{name} is not a file directly in {self.path}")
        return path


def _no_run(folder: RunFolder) -> str:
    """Says why a path is not the folder of a run, and what was probably meant."""
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
