"""The same LoRA job by fedfm and by its peers: seconds a round, CPU seconds, memory, and whether the adapters agree.

    python benchmarks/peers/compare.py [--repeats 3] [--only WORD ...] [--budget-minutes N] [--data FOLDER]
    python benchmarks/peers/compare.py --check

Jobs and ways to do them are in sizes.py: fedfm one by one, stacked, in one process or one a core; Flower's simulation
on Ray with the model kept in its actors, and loaded per message as its examples do; pfl-research's simulation; a
Hugging Face Trainer per client; a torch loop; and the matrix products alone, which bound them all. All take the same
steps on the same batches from the same adapter and weigh clients by their examples. They use all cores; those in one
process try a single one too. Peers get their most favourable settings, and in bfloat16 torch.autocast.

Each run is a process of its own, and ways take turns, so that a machine that gets slower does so for all. Figures are
medians over the repeats, of the rounds between the first and the last. `first` is the time from the start of the
process until the first round is over, `x ours` compares with fedfm's stacked processes of the same precision, and
`differs` is the distance of a way's final adapter from that of the torch loop in float32, over how far that one moved
(not in the three largest jobs).

Linux only, and only on a machine that does nothing else. Flower and pfl get environments of their own, by pip, in
results/environments.

Runs are kept at once: stopped at any time, it goes on where it was; a run in float32 whose adapter is not the others'
ends it. `--only minilm float32` makes only runs whose name holds all these words; `--budget-minutes 0` makes none.
`--check` does a job of seconds once in every way, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1]))  # where ledger.py is

from environments import python_of
from job import Job, Params
from ledger import RESULTS, kept, measured, measured_on
from prepare import prepare
from sizes import CHECK, ROWS, SIZES, Row, Size
from tables import proxies, table, targets

NAME = "peers"
HERE = Path(__file__).parent
REFERENCE = Row("torch loop", "with_torch", "float32", threads=1)
"""Whose adapter the others are compared with."""
TOLERANCE = {"sgd": 1e-4, "adamw": 0.02}
"""How far float32 adapters may differ, by the optimiser: AdamW divides gradients that are all rounding."""


def measure(size: Size, row: Row, shared: Path) -> dict[str, Any]:
    """Does a job in one way; what it took, and how far its adapter is from the reference's.

    Raises:
        RuntimeError: it failed, or it did another job in float32.
    """
    folder = prepared(size, shared)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "adapter.safetensors"
        result = run_job(size, row, folder, output)
        differs = distance(folder, load_file(output)) if output.is_file() and size.compared else None
    if differs is not None and row.precision == "float32" and differs > TOLERANCE[size.optimizer]:
        raise RuntimeError(f"{row.label} did another job: its adapter differs by {differs:.1e}")
    return {**result, "differs": differs}


def run_job(size: Size, row: Row, folder: Path, output: Path) -> dict[str, Any]:
    """Does a job in a process of its own.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
    """
    python = python_of(row.environment, RESULTS / "environments") if row.environment else Path(sys.executable)
    command = [str(python), str(HERE / f"{row.script}.py")]
    if row.torchrun is not None:
        processes = min(row.torchrun, size.clients)  # one that has no client would wait for ever
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    job = Job(
        folder=folder,
        auto_class="AutoModelForCausalLM" if size.model == "tiny llama" else "AutoModelForSequenceClassification",
        batch_size=size.batch_size,
        learning_rate=size.learning_rate,
        optimizer=size.optimizer,
        threads=row.threads,
        precision=row.precision,
        settings=row.settings,
        output=output,
        started=time.time(),
    )
    unwanted = {"OMP_NUM_THREADS"} | ({"PYTHONPATH"} if row.environment else set())
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    done = subprocess.run([*command, job.dump()], capture_output=True, check=False, env=environment, text=True)
    if done.returncode:
        raise RuntimeError(f"{row.label} failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def prepared(size: Size, shared: Path) -> Path:
    """The folder of a job, with its reference where there is one; made once."""
    folder = RESULTS / NAME / size.digest
    if not (folder / "examples.safetensors").is_file():  # which is written last
        prepare(size, folder, shared)
    if size.compared and not (folder / "reference.safetensors").is_file():
        beside = folder / "reference.partial"
        run_job(size, REFERENCE, folder, beside)
        beside.rename(folder / "reference.safetensors")
    return folder


def distance(folder: Path, adapter: Params) -> float:
    """How far an adapter is from the reference, over how far that one is from the start."""
    start = load_file(folder / "adapter" / "adapter_model.safetensors")
    reference = load_file(folder / "reference.safetensors")
    if not start.keys() == reference.keys() == adapter.keys():
        raise RuntimeError(f"the adapters have different tensors: {sorted(adapter.keys() ^ reference.keys())}")

    def norm(a: Params, b: Params) -> float:
        return sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5

    return norm(adapter, reference) / norm(reference, start)


def key_of(size: Size, row: Row, repeat: int) -> str:
    """What a run is for people, and a digest of what decides its job."""
    return f"{size.name}, {row.label}, repeat {repeat} [{size.digest}]"


def check(shared: Path) -> None:
    """Does a small job once in every way."""
    found = {row.label: [measure(CHECK, row, shared)] for row in ROWS}
    print("\n".join(table(CHECK, lambda _, row: found[row.label])))


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="runs whose name holds all these words")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--check", action="store_true", help="do a small job once in every way, and keep nothing")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name the folder of the data sets (--data)")
    if options.check:
        check(options.data.absolute())
        return
    jobs = [(size, row, repeat) for size in SIZES for repeat in range(options.repeats) for row in ROWS]
    plan = {key_of(*job): job[:2] for job in jobs if all(word in key_of(*job) for word in options.only)}
    end = time.monotonic() + 60 * options.budget_minutes
    for number, (key, (size, row)) in enumerate(plan.items(), start=1):
        if key in kept(NAME):
            continue
        if time.monotonic() >= end:
            break
        print(f"{number} of {len(plan)}: {key}", flush=True)
        measured(NAME, key, partial(measure, size, row, options.data.absolute()))
    results = kept(NAME)

    def repeats(size: Size, row: Row) -> list[dict[str, Any]]:
        keys = (key_of(size, row, repeat) for repeat in range(options.repeats))
        return [results[key] for key in keys if key in results]

    lines = [line for size in SIZES for line in table(size, repeats)]
    print("\n".join(lines + targets(repeats) + proxies(repeats)))
    print(f"{sum(key in results for key in plan)} of {len(plan)} runs measured", end="")
    print(f", on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
