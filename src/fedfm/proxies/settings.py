"""What clients hold in place of the backbone: the recipe's ``proxy``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedfm.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Score = Literal["concat-l2", "product", "activation", "gradient"]
"""What tells which neurons stay; see `fedfm.proxies.scores`."""


class NoProxy(Settings):
    """Clients hold the backbone itself (FedPETuning, arXiv:2212.10025)."""

    kind: Literal["none"] = "none"
    """No proxy: clients get the backbone."""

    interval: ClassVar[None] = None
    counts_at_clients: ClassVar[bool] = False


class Distillation(Settings):
    """How a proxy is fitted to the backbone on public data, by gradient steps."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Public examples a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Peak learning rate of AdamW; it rises over the warm-up, then falls linearly to zero."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.048
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of matrices; biases and norms do not decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient to this L2 norm."""
    product: Annotated[float, Field(ge=0)] = 0.0
    """Weight α of the error of the FFN's weight product W₂W₁ in the loss; the released code's never had a gradient."""


class Alignment(Settings):
    """How a proxy is realigned while clients tune it (arXiv:2404.11536, neuron-level alignment)."""

    share: Share = 0.5
    """Share of the neurons of a compressed FFN that are refitted, those used least."""
    score: Literal["auto", "apoz", "soft-apoz", "contribution"] = "auto"
    """What tells how much a neuron is used: `apoz`, the share of exact zeros, tells neurons apart only under ReLU;
    `soft-apoz` counts values near zero; `contribution` is E|a|·‖w₂‖; `auto` is apoz for ReLU, else contribution."""
    data: Literal["public", "clients"] = "public"
    """What it is measured on; `clients` sends counts of their activations to the server."""
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 50
    """Optimiser steps of one alignment."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Public examples a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Peak learning rate of AdamW; it rises over the warm-up, then falls linearly to zero."""


class FedPFT(Settings):
    """A proxy with every layer and, in most of them, only some FFN neurons (FedPFT, arXiv:2404.11536)."""

    kind: Literal["fedpft"] = "fedpft"
    """Every layer stays, most FFN neurons go."""
    path: str | None = None
    """A proxy's folder, as `fedfm proxy build` writes it: taken as it is, with the settings it was made by."""
    ffn_keep: Share | list[Share] = 0.25
    """Share of its neurons that a compressed FFN keeps; a list names one for each compressed layer."""
    keep_layers: list[int] = [0, -1]
    """Layers that stay whole, from 0; -1 is the last."""
    score: Score = "concat-l2"
    """Which neurons stay: by the norm of all their weights (the paper), by the product of the norms of their weight
    vectors, by E|a|·‖w₂‖ on public data, or by |Σ a·∂ℓ/∂a| there."""
    align_to: Annotated[int, Field(ge=1)] = 1
    """Round the neurons kept to a multiple of this, such as 64, for faster kernels."""
    closed_form: bool = True
    """Refit each compressed FFN's output matrix by ridge regression on public data, layer by layer."""
    ridge: Annotated[float, Field(gt=0)] = 0.01
    """Pull of that regression towards the backbone's weights, as a share of the mean squared activation."""
    distill: Distillation | None = Distillation()
    """Layer-level distillation before round 1; null: none."""
    interval: Annotated[int, Field(ge=1)] | None = 10
    """Rounds between alignments; null: none."""
    align: Alignment = Alignment()
    """Neuron-level alignment during training."""
    stale: Literal["refuse", "accept"] = "refuse"
    """What becomes of an update that was trained on an older version of the proxy."""
    probe: Annotated[int, Field(ge=0)] = 16
    """Public examples on which proxy and backbone are compared, gradient by gradient, after each stage; 0: never."""
    reproduce: bool = False
    """Choose the neurons that alignment refits as the released code does: by `align.score: apoz`, exact zeros, with
    `align.data: clients`. Where that gives many neurons the same score, chance chooses among them."""

    @model_validator(mode="after")
    def _refuse_another_score(self) -> Self:
        if self.reproduce and self.align.score not in ("auto", "apoz"):
            raise ValueError(f"reproduce means align.score: apoz, not {self.align.score}; leave one of the two out")
        return self

    @property
    def alignment(self) -> Alignment:
        """``align``, as ``reproduce`` has it."""
        return self.align.model_copy(update={"score": "apoz", "data": "clients"}) if self.reproduce else self.align

    @property
    def counts_at_clients(self) -> bool:
        """Whether clients count how much neurons are used."""
        return self.interval is not None and self.alignment.data == "clients" and self.alignment.share < 1

    @property
    def public_use(self) -> str | None:
        """The key that needs public data, None where nothing does."""
        needs = {
            "score": self.path is None and self.score in ("activation", "gradient"),
            "closed_form": self.path is None and self.closed_form,
            "distill": self.path is None and self.distill is not None,
            "interval": self.interval is not None,
        }
        return next((key for key, needed in needs.items() if needed), None)


class Offsite(Settings):
    """A proxy with only some of the layers (offsite tuning, arXiv:2302.04870, in a federation: FedOT).

    The first and last layers are tuned; an emulator of evenly spaced layers stands for those between.
    """

    kind: Literal["offsite"] = "offsite"
    """Few layers stay, whole; those at the ends are tuned."""
    path: str | None = None
    """A proxy's folder, as `fedfm proxy build` writes it: taken as it is, with the settings it was made by."""
    layers: Annotated[int, Field(ge=2)] | None = None
    """Layers to keep; null: as many as come closest in parameters to FedPFT with `ffn_keep` and `keep_layers`."""
    adapters: Annotated[int, Field(ge=1)] = 2
    """Layers at each end that are tuned."""
    ffn_keep: Share = 0.25
    """The FedPFT proxy to match in size."""
    keep_layers: list[int] = [0, -1]
    """The FedPFT proxy to match in size."""
    distill: Distillation | None = Distillation()
    """Fitting the emulator's output to the backbone's before round 1; null: none."""
    probe: Annotated[int, Field(ge=0)] = 16
    """Public examples on which proxy and backbone are compared, gradient by gradient, after each stage; 0: never."""

    interval: ClassVar[None] = None
    counts_at_clients: ClassVar[bool] = False

    @property
    def public_use(self) -> str | None:
        """The key that needs public data, None where nothing does."""
        return "distill" if self.path is None and self.distill is not None else None


Proxy = Annotated[NoProxy | FedPFT | Offsite, Field(discriminator="kind")]
"""The recipe's ``proxy``."""
