"""Results of the earlier protocol, as they are stored: choices were made on the test sets, one proxy served all seeds.

They are kept so that every figure ever published has its runs. They are not compared with later ones: rates and rounds
were chosen after runs on the same test sets, FedOT had one form, and a fitted proxy was made once, with seed 0.
Results whose name has "as of COMMIT" were measured with settings that later commits replaced; at 476dea8, α = 1 had a
learning rate of 3e-3 and 15 rounds.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from scipy.stats import spearmanr

from fedpft_data import TEXT_SETS
from fedpft_statistics import Difference
from fedpft_tables import MISSING, grid, percent
from ledger import kept, measured_on

Sets = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Set → seed → the result."""

LEDGERS = {"fedpft_earlier": "FedPFT, FedOT, no proxy", "fedpft_beyond_earlier": "ideas, strong compression, IID"}
FIELDS = {
    "accuracy": "",
    "proxy_accuracy": ", the proxy itself",
    "refitted": ", read-out refitted",
    "bias": ", its bias alone refitted",
    "gradient_cosine": ", cosine of the gradient before round 1, × 100",
}

_MATCHED = "matched, web text"
DIFFERENCES = {
    "IID: no proxy − FedPFT": (f"iid, full, {_MATCHED}", f"iid, fedpft, {_MATCHED}"),
    "IID: FedPFT − FedOT": (f"iid, fedpft, {_MATCHED}", f"iid, fedot, {_MATCHED}"),
    "IID: B − N": (f"iid, B, {_MATCHED}", f"iid, N, {_MATCHED}"),
    "IID: FedPFT − D": (f"iid, fedpft, {_MATCHED}", f"iid, D, {_MATCHED}"),
    **{
        f"α = {alpha}: {title}": (f"dirichlet {alpha}, {ours}, {_MATCHED}", f"dirichlet {alpha}, {theirs}, {_MATCHED}")
        for alpha in (10, 5, 1)
        for title, ours, theirs in (("no proxy − FedPFT", "full", "fedpft"), ("FedPFT − FedOT", "fedpft", "fedot"))
    },
    "α = 5, each at its better rate: no proxy − FedPFT": (
        f"dirichlet 5, full, {_MATCHED}, local.learning_rate=3e-3",
        f"dirichlet 5, fedpft, {_MATCHED}",
    ),
    "α = 5, each at its better rate: FedPFT − FedOT": (
        f"dirichlet 5, fedpft, {_MATCHED}",
        f"dirichlet 5, fedot, {_MATCHED}, local.learning_rate=3e-3",
    ),
}
"""Title → the settings that are compared."""

STUDIED = re.compile(r"iid, (N|closed form|B), (matched|harder), web text(, ffn_keep [\d.]+)?")
"""Proxies of different make, none of them realigned, all on trec6."""

_KEY = re.compile(r"(?P<data>\w+), (?P<setting>.*), seed (?P<seed>\d+) \[\w+\]")


def earlier_tables() -> Iterator[str]:
    """Every setting by set: mean ± standard deviation over seeds in per cent, line by line."""
    for name, title in LEDGERS.items():
        yield f"\nEarlier protocol: {title}. Accuracy in %, mean ± standard deviation over seeds; {measured_on(name)}"
        yield from grid([["", *TEXT_SETS, "n"], *_rows(by_setting(kept(name)))])
    found = by_setting(kept("fedpft_earlier"))
    yield "\nEarlier protocol: differences in points, paired by set and seed, with their standard errors"
    for title, (ours, theirs) in DIFFERENCES.items():
        yield f"  {title}: {_difference(found[ours], found[theirs])}"
    yield "\nEarlier protocol: MB that clients are sent in a run, IID, mean over sets and seeds"
    for method in ("full", "fedpft", "fedot"):
        runs = [result for by_seed in found[f"iid, {method}, {_MATCHED}"].values() for result in by_seed.values()]
        yield f"  {method}: {statistics.mean(result['bytes_down'] for result in runs) / 1e6:.0f}"
    points = [_cosine_and_accuracy(sets["trec6"]) for setting, sets in found.items() if STUDIED.fullmatch(setting)]
    cosines, accuracies = zip(*points, strict=True)
    linear, ranked = statistics.correlation(cosines, accuracies), spearmanr(cosines, accuracies).statistic
    correlation = f"correlation {linear:.2f}, of ranks {ranked:.2f}"
    yield f"  {len(points)} proxies on trec6, cosine of the gradient and accuracy: {correlation}"


def by_setting(results: Mapping[str, Any]) -> dict[str, dict[str, dict[int, Mapping[str, Any]]]]:
    """setting → set → seed → the result.

    Raises:
        ValueError: a key is not of the earlier form, or two results have the same setting, set and seed.
    """
    found: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for key, result in results.items():
        if (parts := _KEY.fullmatch(key)) is None:
            raise ValueError(f"{key} is not the key of an earlier result")
        seeds = found.setdefault(parts["setting"], {}).setdefault(parts["data"], {})
        if int(parts["seed"]) in seeds:
            raise ValueError(f"{key}: there are two results of this setting")
        seeds[int(parts["seed"])] = result
    return found


def _difference(ours: Sets, theirs: Sets) -> str:
    pairs = {
        (data, seed): 100 * (result["accuracy"] - theirs[data][seed]["accuracy"])
        for data, seeds in ours.items()
        for seed, result in seeds.items()
    }
    gap = Difference(pairs, {})
    errors = f"seeds ± {gap.error_of_seeds:.1f}, sets ± {gap.error_of_sets:.1f}"
    return f"{gap.mean:+.1f} ({errors}); without {gap.largest} {gap.without_largest:+.1f}; n = {len(pairs)} pairs"


def _cosine_and_accuracy(seeds: Mapping[int, Mapping[str, Any]]) -> tuple[float, float]:
    """Means over seeds."""
    cosine, accuracy = (
        statistics.mean(result[field] for result in seeds.values()) for field in ("gradient_cosine", "accuracy")
    )
    return cosine, accuracy


def _rows(found: Mapping[str, Sets]) -> Iterator[list[str]]:
    for setting, sets in found.items():
        for field, title in FIELDS.items():
            columns = [
                [result[field] for result in sets.get(data, {}).values() if result.get(field) is not None]
                for data in TEXT_SETS
            ]
            if any(columns):
                cells = [percent(values) if values else MISSING for values in columns]
                yield [f"{setting}{title}", *cells, str(sum(map(len, columns)))]
