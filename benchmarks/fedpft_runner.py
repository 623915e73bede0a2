"""Makes the missing runs of a FedPFT benchmark one by one; several processes may do so at once."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock

from fedpft_choices import Protocol
from fedpft_data import HUB, pretraining_folder
from fedpft_jobs import Job, measure, subject_of
from fedpft_methods import PRETRAINING, ROUNDS, VISION, VIT_FOLDER, Scale
from fedpft_tables import Measurements, Table
from ledger import RESULTS, claimed, kept, measured
from pretrain_vit import pretrain

FOLDER = Path(__file__).parents[2] / "shared" / "data"
PAUSE_S = 15.0
"""How long a process waits where others make all runs that can be made."""


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Of the arguments that the benchmarks of FedPFT share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="FOLDER", help="folder of the sets, or `hf`")
    parser.add_argument("--seeds", type=int, help="at most so many seeds a table")
    parser.add_argument("--sets", nargs="+", default=[], metavar="SET", help="only these sets")
    parser.add_argument(
        "--budget-minutes", type=float, default=float("inf"), help="begin no run after so long; 0: none"
    )
    parser.add_argument("--rounds", nargs="+", type=int, metavar="N", help="rounds to try, for a smaller measurement")
    parser.add_argument("--train", type=int, metavar="N", help="training examples of a set, for a smaller measurement")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    return parser


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; ends with a message where the data is not there."""
    options = parser.parse_args()
    if options.data != HUB and not options.data.is_dir() and options.budget_minutes > 0:
        parser.error(f"{options.data} is not there; name the folder of the sets (--data FOLDER), or --data hf")
    if options.data != HUB:
        options.data = options.data.absolute()
    return options


def scale_of(options: argparse.Namespace) -> Scale:
    """The scale that the arguments describe."""
    source = "hub" if options.data == HUB else "folder"
    rounds = ROUNDS if options.rounds is None else tuple(sorted(options.rounds))
    return Scale(rounds, options.train, source, tuple(options.set))


def measurements(name: str, tables: Sequence[Table], scale: Scale) -> Measurements:
    """What is stored under the name of a benchmark, and the choices that follow."""
    results, subjects = kept(name), {table.subject.title: table.subject for table in tables}
    return Measurements(
        {title: Protocol(results, subject, scale, f"{name}_choices") for title, subject in subjects.items()}
    )


def make_runs(name: str, missing: Callable[[], Iterable[Job]], data: Path, end: float) -> None:
    """Makes runs until none is missing, or until the time is over.

    Args:
        name: under which results are stored.
        missing: the runs that can be made now, in the order in which they are wanted; asked again after each.
        data: folder of the sets, or `HUB`.
        end: no run begins later than this, in `time.monotonic`'s seconds.
    """
    while time.monotonic() < end and (jobs := list(missing())):
        print(f"{len(jobs)} runs can be made now", flush=True)
        if not any(_make(name, job, data, end) for job in jobs):
            time.sleep(PAUSE_S)


def _make(name: str, job: Job, data: Path, end: float) -> bool:
    """Whether a run was made here: not while another process makes it."""
    with claimed(name, job.key) as mine:
        if not mine:
            return False
        print(f"  {job.key}", flush=True)
        if subject_of(job.data) == VISION:
            for line in _pretraining(data, end):
                print(f"  {line}", flush=True)
            if not (RESULTS / VIT_FOLDER).exists():
                return True
        with tempfile.TemporaryDirectory() as scratch:
            measured(name, job.key, partial(measure, job, data, Path(scratch)))
    return True


def _pretraining(data: Path, end: float) -> Iterator[str]:
    """Pretrains the ViT where it is not there yet."""
    with FileLock(RESULTS / f"{VIT_FOLDER}.lock"):
        if not (RESULTS / VIT_FOLDER).exists():
            yield from pretrain(pretraining_folder(data), RESULTS / VIT_FOLDER, PRETRAINING, end)
