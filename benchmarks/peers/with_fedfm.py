"""The job with fedfm as anybody runs it: the job's recipe, with all the records of a run.

The job's settings are changes to the recipe (`runtime.stack=off`, `runtime.processes=2`). A small test set is
evaluated before the first round and in the last, which are left out of the figures, but not of the profile.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from clock import Clock
from fedfm import Listener, load_recipe, run
from job import Job


class Rounds(Listener):
    """Takes the time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_round(self, record: dict[str, Any]) -> None:
        """A round is over."""
        self.clock.lap()


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    torch.set_num_threads(job.threads)
    clock = Clock(job)
    with tempfile.TemporaryDirectory() as scratch:
        changes = [f"runtime.precision={job.precision}", *job.settings]
        recipe = load_recipe(job.folder / "recipe.yaml", [*changes, f"run_dir={Path(scratch) / 'run'}"])
        finished = run(recipe, listeners=[Rounds(clock)], profile=True)
        adapter = load_file(finished.path / "adapter" / "adapter_model.safetensors")
        clock.report(adapter, profile=json.loads((finished.path / "profile.json").read_text()))


if __name__ == "__main__":
    main()
