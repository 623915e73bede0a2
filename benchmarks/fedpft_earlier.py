"""Results of the earlier protocol, as they are stored: choices were made on the test sets, one proxy served all seeds.

They are kept so that every figure ever published has its runs. They are not compared with later ones: rates and rounds
were chosen after runs on the same test sets, FedOT had one form, and a fitted proxy was made once, with seed 0.
Results whose name has "as of COMMIT" were measured with settings that later commits replaced; at 476dea8, α = 1 had a
learning rate of 3e-3 and 15 rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedpft_data import TEXT_SETS
from fedpft_tables import MISSING, grid, percent
from ledger import kept, measured_on

LEDGERS = {"fedpft_earlier": "FedPFT, FedOT, no proxy", "fedpft_beyond_earlier": "ideas, strong compression, IID"}
FIELDS = {
    "accuracy": "",
    "proxy_accuracy": ", the proxy itself",
    "refitted": ", read-out refitted",
    "bias": ", its bias alone refitted",
}

_KEY = re.compile(r"(?P<data>\w+), (?P<setting>.*), seed (?P<seed>\d+) \[\w+\]")


def earlier_tables() -> Iterator[str]:
    """Every setting by set: mean ± standard deviation over seeds in per cent, line by line."""
    for name, title in LEDGERS.items():
        yield f"\nEarlier protocol: {title}. Accuracy in %, mean ± standard deviation over seeds; {measured_on(name)}"
        yield from grid([["", *TEXT_SETS, "n"], *_rows(by_setting(kept(name)))])


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


def _rows(found: Mapping[str, Mapping[str, Mapping[int, Mapping[str, Any]]]]) -> Iterator[list[str]]:
    for setting, sets in found.items():
        for field, title in FIELDS.items():
            columns = [
                [result[field] for result in sets.get(data, {}).values() if result.get(field) is not None]
                for data in TEXT_SETS
            ]
            if any(columns):
                cells = [percent(values) if values else MISSING for values in columns]
                yield [f"{setting}{title}", *cells, str(sum(map(len, columns)))]
