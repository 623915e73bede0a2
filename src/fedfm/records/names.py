"""Short names of recipes and records, as the papers and people write them."""

from __future__ import annotations

NAMES = {
    "fedavg": "FedAvg",
    "fedavgm": "FedAvgM",
    "fedprox": "FedProx",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "diloco": "DiLoCo",
    "scaffold": "SCAFFOLD",
    "feddyn": "FedDyn",
    "fedadagrad": "FedAdagrad",
    "fedexp": "FedExP",
    "fednova": "FedNova",
    "fedpm": "FedPM",
    "ewc": "EWC",
    "lwf": "LwF",
    "o-lora": "O-LoRA",
    "ditto": "Ditto",
    "lora": "LoRA",
    "dora": "DoRA",
    "lora-sb": "LoRA-SB",
    "ravan": "Ravan",
    "vera": "VeRA",
    "ia3": "IA³",
    "fourierft": "FourierFT",
    "waveft": "WaveFT",
    "tinylora": "TinyLoRA",
    "miss": "MiSS",
    "shira": "SHiRA",
    "c3a": "C3A",
    "bitfit": "BitFit",
}
"""Algorithms and tunables as their papers write them."""

BASELINES = {"majority": "most frequent class", "local": "each client alone", "pooled": "all data in one place"}
"""Baselines of summary.json → their names in a sentence."""


def written(name: str) -> str:
    """A name as its paper writes it; a name that is not in `NAMES` is unchanged."""
    return NAMES.get(name, name)
