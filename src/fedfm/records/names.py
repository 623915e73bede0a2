"""What recipes and records call by short names, as people write it."""

from __future__ import annotations

NAMES = {
    "fedavg": "FedAvg",
    "fedavgm": "FedAvgM",
    "fedprox": "FedProx",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "lora": "LoRA",
    "dora": "DoRA",
    "ia3": "IA³",
    "bitfit": "BitFit",
}
"""Algorithms and tunables as their papers write them."""

BASELINES = {"majority": "commonest class", "local": "each client alone", "pooled": "all data in one place"}
"""Baselines of summary.json."""


def written(name: str) -> str:
    """An algorithm or a tunable as its paper writes it; others as they are."""
    return NAMES.get(name, name)
