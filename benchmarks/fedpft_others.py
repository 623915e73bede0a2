"""FedPFT against FedOT and no proxy on a causal language model: a small Llama, tuned on turns of Shakespeare's roles.

    python benchmarks/fedpft_others.py [--data FOLDER] [--seeds 3] [--budget-minutes N] [--ideas]
    python benchmarks/fedpft_others.py --earlier

The model, stories260k, is tuned by 50 roles, each a client; its proxies are fitted on c4_wiki_demo. Each method has
three tries for its clients' learning rate, with a seed that is not among those of the table, on validation data:
training rows that no client has. Whether plug-in distillation counts is chosen likewise. Only then is a method run on
the test set. `--ideas` compares, on validation data and at one learning rate, what FedPFT's parts contribute. Runs are
kept at once: stopped at any time, it goes on where it was. `--budget-minutes 0` makes none. `fedpft.py` has text
classification and images; `--earlier` prints what was measured, on images too, when rates were chosen by the test sets.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedfm import Run, load_recipe, run
from fedpft_others_jobs import IDEAS, IDEAS_RATE, METHODS, RATES, TUNING_SEED, Job, located
from fedpft_tables import MISSING, grid
from ledger import kept, mean_and_deviation, measured, measured_on

NAME, EARLIER = "fedpft_others", "fedpft_others_earlier"

PLUGS = ("plugged", "distilled")

Results = Mapping[str, Mapping[str, Any]]

_COSTS = ("bytes_up", "bytes_down", "first_download", "seconds")
_HEADS = ("perplexity", "% above full", "before plug-in distillation", "the proxy itself")
_HEADS_OF_COSTS = ("MB up", "MB down", "MB first", "seconds")
_KEY = re.compile(r"(?P<data>\w+), (?P<method>\w+), seed \d+ \[\w+\]")


def measure(job: Job, data: Path, scratch: Path) -> dict[str, Any]:
    """Runs a job; what the tables need of its outcome."""
    return outcome(run(load_recipe(located(job.recipe(), data) | {"run_dir": str(scratch / "run")})))


def outcome(finished: Run) -> dict[str, Any]:
    """The figures of a run; None where it has no such thing."""
    summary = finished.summary
    metric, proxy = summary["metric"], summary["proxy"] or {}
    plugged = proxy["plugged"] if proxy else summary["final"]
    return {
        "plugged": plugged[metric],
        "distilled": (proxy.get("distilled") or {}).get(metric),
        "proxy_itself": (proxy.get("final") or {}).get(metric),
        "initial": summary["initial"][metric],
        "block_parameters": proxy.get("parameters", {}).get("blocks"),
        "client_parameters": summary["parameters"]["client"],
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        "first_download": summary["bytes"]["first_download"],
        "seconds": summary["seconds"]["total"],
    }


def choice(method: str, results: Results) -> tuple[float, str] | None:
    """The learning rate with the lowest perplexity on validation data, and which evaluation counts.

    None while tries are missing.
    """
    tries = {rate: results.get(Job(method, TUNING_SEED, rate, "validation").key) for rate in RATES}
    found = {
        (rate, plug): result[plug]
        for rate, result in tries.items()
        for plug in PLUGS
        if result and result[plug] is not None
    }
    return None if None in tries.values() else min(found, key=found.__getitem__)


def plan(seeds: int, ideas: bool, results: Results) -> list[Job]:
    """Every job that can be named by now: methods get their runs on the test set when their rate is chosen."""
    if ideas:
        return [_idea(idea, seed) for seed in range(seeds) for idea in IDEAS]
    tries = [Job(method, TUNING_SEED, rate, "validation") for rate in RATES for method in METHODS]
    chosen = {method: choice(method, results) for method in METHODS}
    tests = [Job(method, seed, found[0], "test") for seed in range(seeds) for method, found in chosen.items() if found]
    return [*tries, *tests]


def _idea(idea: str, seed: int) -> Job:
    return Job("fedpft", seed, IDEAS_RATE, "validation", idea)


def table_of_choices(results: Results) -> Iterator[str]:
    """Perplexity on validation data of every try, after plug-in distillation where there is one."""
    rows = [["On validation data", *(f"rate {rate:g}" for rate in RATES), "chosen"]]
    for method in METHODS:
        found = [results.get(Job(method, TUNING_SEED, rate, "validation").key) for rate in RATES]
        cells = [MISSING if not result else f"{result['distilled'] or result['plugged']:.2f}" for result in found]
        made = choice(method, results)
        rows.append([METHODS[method].title, *cells, f"{made[0]:g}, {made[1]}" if made else MISSING])
    yield from grid(rows)


def table(results: Results, seeds: int) -> Iterator[str]:
    """A line for each method on the test set; "% above full" is paired by seed."""
    rows = [["On the test set", *_HEADS, *_HEADS_OF_COSTS]]
    full = _runs("full", results, seeds)
    for method in METHODS:
        found, made = _runs(method, results, seeds), choice(method, results)
        name = METHODS[method].title + (f" ({len(found)}/{seeds})" if 0 < len(found) < seeds else "")
        if not found or made is None:
            rows.append([name, *[MISSING] * (len(_HEADS) + len(_HEADS_OF_COSTS))])
            continue
        counts = {seed: result[made[1]] for seed, result in found.items()}
        above = [100 * (value / full[seed]["plugged"] - 1) for seed, value in counts.items() if seed in full]
        rows.append(
            [
                name,
                mean_and_deviation(list(counts.values())),
                mean_and_deviation(above, digits=1) if above and method != "full" else "",
                *_figures(list(found.values())),
            ]
        )
    yield from grid(rows)


def table_of_ideas(results: Results, seeds: int) -> Iterator[str]:
    """A line for each idea on validation data; differences are paired by seed."""
    rows = [["On validation data", "perplexity", "less FedPFT's", *_HEADS[2:], *_HEADS_OF_COSTS]]
    first = {seed: results.get(_idea("FedPFT", seed).key) for seed in range(seeds)}
    for idea in IDEAS:
        found = {seed: result for seed in range(seeds) if (result := results.get(_idea(idea, seed).key))}
        pairs = [result["distilled"] - ours["distilled"] for seed, result in found.items() if (ours := first[seed])]
        rows.append(
            [
                f"{idea} ({len(found)}/{seeds})",
                mean_and_deviation([result["distilled"] for result in found.values()]) if found else MISSING,
                mean_and_deviation(pairs) if pairs and idea != "FedPFT" else "",
                *_figures(list(found.values())),
            ]
        )
    yield from grid(rows)


def earlier_table() -> Iterator[str]:
    """The results of the earlier protocol: accuracy in %, of the language model perplexity."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for key, result in kept(EARLIER).items():
        if matched := _KEY.fullmatch(key):
            groups.setdefault((matched["data"], matched["method"]), []).append(result)
    rows = [["", "untuned", "tuned", "the proxy itself", "seeds"]]
    for (data, method), found in sorted(groups.items()):
        unit = 1.0 if found[0]["metric"] == "perplexity" else 100.0
        fields = [[result[field] for result in found] for field in ("initial", "final", "proxy_final")]
        cells = [mean_and_deviation(values, unit, 1) if None not in values else "" for values in fields]
        rows.append([f"{data}, {method}", *cells, str(len(found))])
    yield from grid(rows)


def _runs(method: str, results: Results, seeds: int) -> dict[int, Mapping[str, Any]]:
    """Runs on the test set by seed."""
    made = choice(method, results)
    jobs = {seed: Job(method, seed, made[0], "test") for seed in range(seeds)} if made else {}
    return {seed: results[job.key] for seed, job in jobs.items() if job.key in results}


def _figures(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Perplexity before plug-in distillation and of the proxy itself, then costs."""
    if not found:
        return [MISSING] * (2 + len(_HEADS_OF_COSTS))
    mean = {field: statistics.mean(result[field] for result in found) for field in _COSTS}
    has_proxy = found[0]["proxy_itself"] is not None
    return [
        *(
            mean_and_deviation([result[field] for result in found]) if has_proxy else ""
            for field in ("plugged", "proxy_itself")
        ),
        *(f"{mean[field] / 1e6:.2f}" for field in ("bytes_up", "bytes_down", "first_download")),
        f"{mean['seconds']:.0f}",
    ]


def main() -> None:
    """Measures what is not yet kept, for as long as it may, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ideas", action="store_true", help="compare ideas on validation data")
    parser.add_argument("--earlier", action="store_true", help="print the results of the earlier protocol only")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin nothing after so long")
    options = parser.parse_args()
    if options.earlier:
        print("\n".join(earlier_table()))
        return
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name the folder of the data sets (--data)")
    data, end = options.data.absolute(), time.monotonic() + 60 * options.budget_minutes

    def missing() -> list[Job]:
        results = kept(NAME)
        return [job for job in plan(options.seeds, options.ideas, results) if job.key not in results]

    while (jobs := missing()) and time.monotonic() < end:
        print(f"{len(jobs)} to make: {jobs[0].key}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measured(NAME, jobs[0].key, partial(measure, jobs[0], data, Path(folder)))
    results = kept(NAME)
    print("Perplexity, mean ± deviation over seeds")
    if options.ideas:
        print("\n".join(table_of_ideas(results, options.seeds)))
    else:
        print("\n".join((*table_of_choices(results), "", *table(results, options.seeds))))
    print(f"{len(missing())} runs are missing", end="")
    print(f"; measured on {measured_on(NAME)}" if results else "")


if __name__ == "__main__":
    main()
