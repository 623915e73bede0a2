"""FedPFT against FedOT and no proxy beyond text classification: a vision transformer and a causal language model.

    python benchmarks/fedpft_others.py [--seeds 3] [--only WORD …] [--budget-minutes N] [--data FOLDER]

The ViT is pretrained by `pretrain_vit.py` where its checkpoint is not yet in results/, and tuned on 1,000 images of
cifar10, 884 of flowers17 and 1,000 of pacs, dealt alike to 20 clients; its proxies are fitted on tiny_imagenet.
The language model, stories260k, is tuned on the turns of 50 of Shakespeare's roles, each a client; its proxies are
fitted on c4_wiki_demo. Both proxies of a model have as many parameters, and as many steps of distillation.

This is the earlier protocol: learning rates were chosen without a proxy, with seed 0, by the test sets: 4e-3 (of it
and 1e-2) for images, 2e-2 (of it and 1e-2) for text. `fedpft.py` has images in the present protocol. Runs are made
breadth first and kept at once: stopped at any time, it goes on where it was. `--only pacs fedpft` makes only runs with
these values; `--budget-minutes 0` makes none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedfm import Run, load_recipe, run
from fedpft_jobs import with_fitted_proxy
from fedpft_methods import PRETRAINING
from fedpft_others_jobs import METHODS, SETS, VIT, Job, chosen, located, plan
from fedpft_tables import MISSING, grid
from ledger import RESULTS, kept, mean_and_deviation, measured, measured_on
from pretrain_vit import pretrain

NAME = "fedpft_others"

NAMES = {"full": "no proxy", "fedot": "FedOT", "fedpft": "FedPFT"}

UNITS = {"accuracy": 100.0, "perplexity": 1.0}
"""What the table's figures are multiplied by."""

_COSTS = ("client_parameters", "bytes_up", "bytes_down", "first_download", "seconds")
_HEADS = ("client k", "untuned", "tuned", "gap to full", "MB up", "MB down", "MB first", "seconds")


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Runs a job; what the table needs of its outcome."""
    recipe = located(job.recipe(), data) | {"run_dir": str(scratch / "run")}
    if job.proxy["kind"] != "none":
        recipe = with_fitted_proxy(recipe, job.proxy_key)
    return outcome(run(load_recipe(recipe)))


def outcome(finished: Run) -> dict[str, Any]:
    """The figures of a run; None where it has no such thing."""
    summary = finished.summary
    metric, proxy = summary["metric"], summary["proxy"] or {}
    return {
        "metric": metric,
        "final": summary["final"][metric],
        "initial": summary["initial"][metric],
        "proxy_final": proxy.get("final", {}).get(metric),
        "block_parameters": proxy.get("parameters", {}).get("blocks"),
        "client_parameters": summary["parameters"]["client"],
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        "first_download": summary["bytes"]["first_download"],
        "seconds": summary["seconds"]["total"],
    }


def table(results: Mapping[str, Any], seeds: int) -> Iterator[str]:
    """A line for each set and method; the gap to full is paired by seed, and positive where full is better."""
    yield "\nAccuracy in %; of language models perplexity. Mean ± deviation over seeds"
    rows = [["", *_HEADS]]
    for data in SETS:
        for method in METHODS:
            jobs = [Job(data, method, seed) for seed in range(seeds)]
            found = [results[job.key] for job in jobs if job.key in results]
            name = f"{data}, {NAMES[method]}" + (f" ({len(found)}/{seeds})" if 0 < len(found) < seeds else "")
            rows.append([name, *(_row(found, _gaps(results, jobs)) if found else [MISSING] * len(_HEADS))])
    yield from grid(rows)


def _row(found: list[Mapping[str, Any]], gaps: list[float]) -> list[str]:
    unit = UNITS[found[0]["metric"]]
    mean = {field: statistics.mean(result[field] for result in found) for field in _COSTS}
    return [
        f"{mean['client_parameters'] / 1e3:.0f}",
        mean_and_deviation([result["initial"] for result in found], unit, 1),
        mean_and_deviation([result["final"] for result in found], unit, 1),
        mean_and_deviation(gaps, digits=1) if gaps else MISSING,
        *(f"{mean[field] / 1e6:.2f}" for field in ("bytes_up", "bytes_down", "first_download")),
        f"{mean['seconds']:.0f}",
    ]


def _gaps(results: Mapping[str, Any], jobs: list[Job]) -> list[float]:
    """How much better no proxy is, in the table's units, for each seed that both have."""
    gaps = []
    for job in jobs:
        reference = Job(job.data, "full", job.seed)
        if job != reference and job.key in results and reference.key in results:
            full, other = results[reference.key], results[job.key]
            sign = -1 if full["metric"] == "perplexity" else 1
            gaps.append(sign * (full["final"] - other["final"]) * UNITS[full["metric"]])
    return gaps


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="sets and methods")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin nothing after so long")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name the folder of the data sets (--data)")
    try:
        jobs = chosen(plan(options.seeds), options.only)
    except ValueError as error:
        parser.error(str(error))
    data, end = options.data.absolute(), time.monotonic() + 60 * options.budget_minutes
    vit = RESULTS / VIT.path
    for number, job in enumerate(jobs, start=1):
        if job.key in kept(NAME):
            continue
        if SETS[job.data].subject == VIT and not vit.exists():
            RESULTS.mkdir(exist_ok=True)
            for line in pretrain(data, vit, PRETRAINING, end):
                print(line, flush=True)
        if time.monotonic() >= end:
            break
        print(f"{number} of {len(jobs)}: {job.key}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measured(NAME, job.key, partial(measure, job, data, Path(folder)))
    results = kept(NAME)
    print("\n".join(table(results, options.seeds)))
    print(f"{sum(job.key in results for job in jobs)} of {len(jobs)} runs measured", end="")
    print(f", on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
