"""The methods that `methods.py` compares, each as changes to one recipe, with the learning rates that are tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rates = tuple[float, float, float]

LORA: Rates = (1e-3, 3e-3, 1e-2)
FEW_VALUES: Rates = (3e-3, 1e-2, 3e-2)
"""Tunables of few values take larger steps; as many are tried."""
WHOLE_LAYERS: Rates = (1e-4, 3e-4, 1e-3)
"""Whole layers take smaller steps."""


@dataclass(frozen=True)
class Variant:
    """One way to tune.

    Attributes:
        title: for tables.
        group: methods that do the same part of the work; the best of each group is measured in the second stage.
        changes: to the recipe, as KEY=VALUE.
        rates: learning rates of clients that are tried.
        personal: whether it is judged at the clients, on examples that they hold out; such an accuracy is not that of
            the others, and the method stays in the first stage.
    """

    title: str
    group: str
    changes: tuple[str, ...] = ()
    rates: Rates = LORA
    personal: bool = False


def _tune(title: str, *changes: str, rates: Rates = FEW_VALUES) -> Variant:
    return Variant(title, "tunable", changes, rates)


def _rule(title: str, *changes: str) -> Variant:
    return Variant(title, "rule for LoRA", changes)


def _stages(title: str, up: str, down: str = "") -> Variant:
    stages = [up, *([f"{{{down}, direction: down}}"] if down else [])]
    return Variant(title, "compression", (f"updates=[{', '.join(stages)}]",))


def _server(title: str, *changes: str, rates: Rates = LORA) -> Variant:
    return Variant(title, "optimiser", changes, rates)


_FOUR_BITS = "updates=[{kind: quantize, bits: 4}, {kind: quantize, bits: 4, direction: down}]"


def _few_bytes(title: str, *changes: str, rates: Rates = FEW_VALUES) -> Variant:
    return Variant(f"{title}, 4 bits up and down", "combination", (*changes, _FOUR_BITS), rates)


REFERENCE = "fedit"
"""Accuracy, bytes and memory of the others are compared with those of this method."""

VARIANTS: Mapping[str, Variant] = {
    REFERENCE: _rule("FedIT: LoRA r 8, mean of the factors"),
    "ffa": _rule("FFA-LoRA: B alone", "aggregate.rule=ffa"),
    "rolora": _rule("RoLoRA: A and B by turns", "aggregate.rule=rolora"),
    "flexlora": _rule("FlexLoRA: SVD of the mean product", "aggregate.rule=flexlora"),
    "fedsvd": _rule("FedSVD: B alone, A by SVD", "aggregate.rule=fedsvd"),
    "lora-fair": _rule("LoRA-FAIR: B corrected", "aggregate.rule=lora-fair"),
    "fedrot": _rule("FedRot: factors turned alike", "aggregate.rule=fedrot"),
    "fedsa": Variant(
        "FedSA-LoRA: A shared, B personal (at clients)",
        "rule for LoRA",
        ('tune.share=["*lora_A*", head]', "evaluate.at=clients", "federation.holdout=0.2"),
        personal=True,
    ),
    "lora r 1": _tune("LoRA r 1", "tune.r=1", "tune.lora_alpha=2", rates=LORA),
    "dora": _tune("DoRA r 8", "tune.kind=dora", rates=LORA),
    "ia3": _tune("IA3", "tune={kind: ia3}"),
    "vera": _tune("VeRA", "tune={kind: vera}"),
    "tinylora": _tune("TinyLoRA", "tune={kind: tinylora}"),
    "fourierft": _tune("FourierFT", "tune={kind: fourierft}"),
    "waveft": _tune("WaveFT", "tune={kind: waveft}"),
    "c3a": _tune("C3A", "tune={kind: c3a}"),
    "miss": _tune("MiSS", "tune={kind: miss}", rates=LORA),
    "shira": _tune("SHiRA", "tune={kind: shira}", rates=LORA),
    "fed-sb": _tune("Fed-SB: core matrices", "tune={kind: lora-sb}"),
    "ravan": _tune("Ravan: heads of core matrices", "tune={kind: ravan}"),
    "prompt": _tune("prompt tuning", "tune={kind: prompt}"),
    "prefix": _tune("prefix tuning", "tune={kind: prefix}"),
    "bitfit": _tune("BitFit", "tune={kind: bitfit}"),
    "head": _tune("head alone", "tune={kind: head}"),
    "full": _tune("every parameter", "tune={kind: full}", rates=WHOLE_LAYERS),
    "int8": _stages("8 bits up", "{kind: quantize}"),
    "int8 both": _stages("8 bits up and down", "{kind: quantize}", "kind: quantize"),
    "int4": _stages("4 bits up", "{kind: quantize, bits: 4}"),
    "nf4": _stages("NF4 up, error feedback", "{kind: nf4}"),
    "sign": _stages("sign up, error feedback", "{kind: sign}"),
    "top-k 1 %": _stages("top-k 1 % up, error feedback", "{kind: top-k, share: 0.01}"),
    "top-k 1 %, no feedback": _stages("top-k 1 % up alone", "{kind: top-k, share: 0.01, error_feedback: false}"),
    "random-k 5 %": _stages("random-k 5 % up", "{kind: random-k, share: 0.05}"),
    "power-sgd": _stages("PowerSGD r 1 up", "{kind: power-sgd, rank: 1}"),
    "fedavgm": _server("FedAvgM", "algorithm.name=fedavgm", "algorithm.momentum=0.3"),
    "fedadam": _server("FedAdam", "algorithm.name=fedadam"),
    "fedyogi": _server("FedYogi", "algorithm.name=fedyogi"),
    "fedadagrad": _server("FedAdagrad", "algorithm.name=fedadagrad"),
    "fedexp": _server("FedExP", "algorithm.name=fedexp"),
    "fedprox": _server("FedProx", "algorithm.name=fedprox"),
    "few: rolora": _few_bytes("RoLoRA r 1", "aggregate.rule=rolora", "tune.r=1", "tune.lora_alpha=2", rates=LORA),
    "few: waveft": _few_bytes("WaveFT of 100 values", "tune={kind: waveft, n_frequency: 100}", rates=LORA),
    "few: fed-sb": _few_bytes("Fed-SB", "tune={kind: lora-sb}"),
    "few: tinylora": _few_bytes("TinyLoRA", "tune={kind: tinylora}"),
    "few: ia3": _few_bytes("IA3", "tune={kind: ia3}"),
    "few: bitfit": _few_bytes("BitFit", "tune={kind: bitfit}"),
}
"""By name, in the order of the screening."""
