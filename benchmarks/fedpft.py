"""FedPFT against FedOT and no proxy: the paper's Tables 1 to 4 (arXiv:2404.11536) with MiniLM, 100 clients, five sets.

    python benchmarks/fedpft.py [--seeds 3] [--only WORD …] [--budget-minutes N] [--data FOLDER] [--set KEY=VALUE …]

Every run is an ordinary recipe: 10 of 100 clients a round, 15 rounds of one local epoch in batches of 4 (qnli, which
is hardly learnt before the tenth: 25), LoRA r 8 on attention, a little server momentum, one learning rate for every
set and method. Sets are cut to 4,000 training examples of 32 to 64 tokens and 800 test examples, so that a run takes
a few minutes of one CPU core. Clients train with the frozen blocks in bfloat16; everything is evaluated in float32.
Proxies that are fitted on public data are made once, with one seed, and kept in results/proxies; the seeds of the
tables draw clients, partitions, heads and adapters.
Several processes may measure at once, best as many as there are cores, with OMP_NUM_THREADS=1.

Runs are made breadth first and kept at once: stopped at any time, it goes on where it was, and the tables say what is
missing. `--only sst2 fedpft iid` makes only runs with these values; `--budget-minutes 0` makes none.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fedfm import Run, build_experiment, build_proxy, load_recipe, run
from fedpft_jobs import PER_RUN, PUBLIC_SETS, Job, chosen, located, plan
from fedpft_tables import Measurements, everything
from ledger import RESULTS, claimed, kept, measured, measured_on
from readout import refit_readout

NAME = "fedpft"

TEST_EXAMPLES = 800
"""Of a set's test examples, so many are read: the same in every run."""

REFITTED_ON, RIDGE = (16, 32), 0.1
"""Public examples a batch and batches on which a read-out is refitted, and the pull towards what clients tuned."""


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Runs a job; what the tables need of its outcome."""
    web, test = write_texts(job, data, scratch)
    recipe = located(job.recipe(), data, test, web, scratch / "run")
    if job.is_fitted:
        recipe = with_fitted_proxy(recipe, job.proxy_key, job.overrides)
    finished = run(load_recipe(recipe, job.overrides))
    return outcome(finished) | (refitted(finished) if job.method != "full" else {})


def write_texts(job: Job, data: Path, scratch: Path) -> tuple[Path, Path]:
    """Files with the public texts, and with the job's test examples."""
    web, test = scratch / "web.jsonl", scratch / "test.jsonl"
    web.write_text("".join(_texts(data)))
    test.write_text("".join(_lines(data / job.data / "test.jsonl.gz", TEST_EXAMPLES)))
    return web, test


def with_fitted_proxy(recipe: dict[str, Any], key: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe, its proxy read from the folder that ``key`` names; it is made there where it is not yet."""
    folder = RESULTS / "proxies" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # another process may be making it
        if not folder.exists():
            beside = folder.with_suffix(".partial")
            shutil.rmtree(beside, ignore_errors=True)
            build_proxy(load_recipe({**recipe, "seed": 0}, overrides), beside)
            beside.rename(folder)
    held = {name: value for name, value in recipe["proxy"].items() if name in ("kind", *PER_RUN)}
    return {**recipe, "proxy": held | {"path": str(folder)}}


def outcome(finished: Run) -> dict[str, Any]:
    """The figures of a run; None where it has no such thing."""
    summary = finished.summary
    proxy = summary["proxy"] or {}
    probes = [record for record in finished.metrics.to_dict("records") if record["split"] == "proxy"]
    cosines = [record["gradient_cosine"] for record in probes if record["round"] == 0 and "gradient_cosine" in record]
    return {
        "accuracy": summary["final"]["accuracy"],
        "initial": summary["initial"]["accuracy"],
        "majority": summary["baselines"]["majority"],
        "proxy_accuracy": proxy.get("final", {}).get("accuracy"),
        "block_parameters": proxy.get("parameters", {}).get("blocks"),
        "disclosed": proxy.get("disclosed"),
        "gradient_cosine": cosines[-1] if cosines else None,
        "client_parameters": summary["parameters"]["client"],
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        "first_download": summary["bytes"]["first_download"],
        "seconds": summary["seconds"]["total"],
    }


def refitted(finished: Run, *, ridge: float = RIDGE) -> dict[str, float]:
    """Accuracy if the backbone's read-out were refitted to the proxy's answers as it takes over what was tuned."""
    experiment, state = build_experiment(finished.recipe), finished.state
    model = experiment.client_model
    public = getattr(model, "public", None)
    if state.proxy is None or public is None:
        raise RuntimeError(f"{finished} has no proxy that was fitted on public data")
    model.load(state.proxy)
    model.server_tunable.write(state.params)
    experiment.plug_in(state.params)
    batches = public.fixed(*REFITTED_ON, seed=experiment.recipe.seed, purpose="read-out")
    refit_readout(model.tunable, model.server_tunable, batches, ridge)
    return {"refitted": experiment.evaluator(experiment.data.test)["accuracy"]}


def _lines(path: Path, most: int) -> list[str]:
    """At most so many lines of a file, a fixed choice."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = list(file)
    return [lines[place] for place in np.random.default_rng(0).permutation(len(lines))[:most]]


def _texts(data: Path) -> list[str]:
    """Lines of JSON with the texts of the public sets."""
    lines = []
    for name in PUBLIC_SETS:
        with gzip.open(data / name / "train.jsonl.gz", "rt", encoding="utf-8") as file:
            lines += [json.dumps({"text": json.loads(line)["text"]}) + "\n" for line in file]
    return lines


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Of the arguments that all benchmarks of this setting have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no run after so long")
    return parser


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; ends with a message where the data is not there."""
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name the folder of the data sets (--data)")
    return options


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the tables."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="sets, methods, partitions, sizes, texts")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    options = read_arguments(parser)
    overrides = tuple(options.set)
    try:
        jobs = chosen(plan(options.seeds, overrides), options.only)
    except ValueError as error:
        parser.error(str(error))
    end = time.monotonic() + 60 * options.budget_minutes
    for number, job in enumerate(jobs, start=1):
        if time.monotonic() >= end:
            break
        with claimed(NAME, job.key) as mine, tempfile.TemporaryDirectory() as folder:
            if mine:
                print(f"{number} of {len(jobs)}: {job.key}", flush=True)
                measured(NAME, job.key, partial(measure, job, options.data.absolute(), Path(folder)))
    results = kept(NAME)
    print("\n".join(everything(Measurements(results, options.seeds, overrides))))
    print(f"{sum(job.key in results for job in jobs)} of {len(jobs)} runs measured", end="")
    print(f", on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
