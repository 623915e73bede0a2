"""The methods that `fedpft.py` compares, the backbones, and how examples are dealt to clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedpft_data import IMAGE_SETS, TEXT_SETS, Sizes
from ledger import digest
from pretrain_vit import Training

RATES = (1e-3, 2e-3, 3e-3, 5e-3)
"""Learning rates that are tried for every method that trains LoRA."""

RATES_OF_LAYERS = (1e-4, 2e-4, 5e-4, 1e-3)
"""Whole layers take smaller steps; as many are tried."""

ROUNDS = (15, 25, 40)
"""A run has the fewest of these after which the full model has converged; never more than 40."""


@dataclass(frozen=True)
class Method:
    """One way to tune.

    Attributes:
        title: for tables.
        proxy: the recipe's ``proxy``, but for its size.
        tune: the recipe's ``tune``.
        rates: learning rates that are tried.
        tuned_as: the method whose choice this one takes; None: it has its own.
        distils: whether a run with strong compression also gives the plug-in after distillation.
    """

    title: str
    proxy: Mapping[str, Any]
    tune: Mapping[str, Any]
    rates: tuple[float, ...] = RATES
    tuned_as: str | None = None
    distils: bool = False


def _lora(rank: int) -> dict[str, Any]:
    return {"kind": "lora", "r": rank, "lora_alpha": 2 * rank, "target_modules": "attention"}


FIT = {"steps": 600, "batch_size": 16, "learning_rate": 6e-4}
DISTILLED = {"distill": {"keep": "always"}}
"""A run gives the plug-in before and after distillation; which of both counts is chosen on validation data."""

_OFFSITE = {"kind": "offsite", "adapters": 1, "distill": FIT}
_CUT = {"kind": "fedpft", "score": "concat-l2", "closed_form": False, "distill": None, "interval": None}
_STEPS = {"interval": 2, "align": {"share": 0.5, "steps": 25, "batch_size": 16, "learning_rate": 6e-4}}
_BEFORE = {"kind": "fedpft", "score": "reconstruct", "closed_form": True, "distill": None}
_DURING = {"interval": 2, "align": {"closed_form": True}}

_FEDPFT = {**_BEFORE, **_DURING}
_PAPER = {"kind": "fedpft", "score": "concat-l2", "closed_form": True, "distill": FIT, **_STEPS}
_BITS = {"attention": 4, "ffn": 8, "embeddings": 8}

METHODS = {
    "full": Method("no proxy (FedPETuning)", {"kind": "none"}, _lora(8)),
    "fedpft": Method("FedPFT", _FEDPFT, _lora(8), distils=True),
    "fedot r 8": Method("FedOT, LoRA r 8", _OFFSITE, _lora(8), distils=True),
    "fedot r 24": Method("FedOT, LoRA r 24", _OFFSITE, _lora(24), distils=True),
    "fedot layers": Method("FedOT, its own layers", _OFFSITE, {"kind": "full"}, RATES_OF_LAYERS, distils=True),
    "packed": Method("FedPFT in 4 and 8 bits", {**_FEDPFT, "bits": _BITS}, _lora(8), tuned_as="fedpft"),
    "paper": Method("FedPFT as in the paper", _PAPER, _lora(8), tuned_as="fedpft"),
    "N": Method("N: only cut", _CUT, _lora(8), tuned_as="fedpft"),
    "B": Method("B: fitted before training only", {**_BEFORE, "interval": None}, _lora(8), tuned_as="fedpft"),
    "D": Method("D: aligned during training only", {**_CUT, **_DURING}, _lora(8), tuned_as="fedpft"),
}
"""By name. N, B and D as in the paper's Table 3."""

FEDOT_FORMS = ("fedot r 8", "fedot r 24", "fedot layers")
FEDOT = "fedot"
"""Stands for the form of FedOT that is best on validation data."""


@dataclass(frozen=True)
class Subject:
    """A backbone, and the federation in which it is tuned.

    Attributes:
        sets: their names.
        model: a recipe's ``model.path``; `VIT_FOLDER` for the ViT of `pretrain_vit.py`.
        public: kind of its public data.
        proxies: the keys of ``proxy`` that decide its size, by name of the size and kind of the proxy.
        sizes: rows of each set.
        clients: of the federation.
        per_round: clients a round.
        batch_size: of a client's step.
    """

    title: str
    sets: tuple[str, ...]
    model: str
    task: str
    public: str
    proxies: Mapping[str, Mapping[str, Mapping[str, Any]]]
    sizes: Sizes
    clients: int
    per_round: int
    batch_size: int


PRETRAINING = Training(epochs=50, width=128, patch=8)
"""Of the ViT: some 20 minutes of one CPU core."""

VIT_FOLDER = f"vit-{digest(asdict(PRETRAINING))}"
"""Below ``results/``."""

TEXT = Subject(
    title="MiniLM",
    sets=tuple(TEXT_SETS),
    model="builtin:minilm",
    task="text-classification",
    public="text",
    proxies={
        "matched": {"fedpft": {"ffn_keep": 0.25, "keep_layers": [0, -1]}, "offsite": {"layers": 4}},
        "harder": {"fedpft": {"ffn_keep": 0.1, "keep_layers": []}, "offsite": {"layers": 3}},
    },
    sizes=Sizes(train=4000),
    clients=100,
    per_round=10,
    batch_size=4,
)
"""Of the encoder's 10.65 M parameters, FedPFT and FedOT hold 7.10 and 7.10 M; harder: 4.26 and 5.32 M."""

VISION = Subject(
    title="ViT",
    sets=tuple(IMAGE_SETS),
    model=VIT_FOLDER,
    task="image-classification",
    public="image",
    proxies={"matched": {"fedpft": {"ffn_keep": 0.25, "keep_layers": [0, -1]}, "offsite": {"layers": 4}}},
    sizes=Sizes(train=1000),
    clients=20,
    per_round=5,
    batch_size=10,
)
"""Six layers; of 1.19 M parameters of its blocks, both proxies hold 0.79 M. cifar100 is among its pretraining sets."""

PARTITIONS: dict[str, float | None] = {"iid": None, "dirichlet 1": 1, "dirichlet 5": 5, "dirichlet 10": 10}
"""α of a Dirichlet distribution around a set's own classes; None: evenly."""

TUNED_ON = {"iid": "iid", "dirichlet 1": "dirichlet 1", "dirichlet 5": "iid", "dirichlet 10": "iid"}
"""The partition on which rates and rounds are chosen."""


@dataclass(frozen=True)
class Scale:
    """How large a measurement is; everything here is part of a result's key.

    Attributes:
        rounds: numbers of rounds that are tried, ascending.
        train: rows of a set at most; None: the subject's own number.
        source: ``folder`` or ``hub``.
        overrides: KEY=VALUE changes to every recipe.
    """

    rounds: tuple[int, ...] = ROUNDS
    train: int | None = None
    source: str = "folder"
    overrides: tuple[str, ...] = field(default=())
