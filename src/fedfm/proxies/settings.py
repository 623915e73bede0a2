"""What every kind of the recipe's ``proxy`` declares, the case without a proxy, and settings that kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedfm.capabilities import BACKBONE_WEIGHTS, MODEL_CHANGES
from fedfm.data.settings import PublicSettings
from fedfm.progress import stage
from fedfm.settings import Capabilities, Settings

if TYPE_CHECKING:
    from fedfm.models.backbones import Backbone
    from fedfm.models.tunables import Tune
    from fedfm.proxies.base import Attach, ClientCopy, ClientModel
    from fedfm.proxies.ffn import Kept
    from fedfm.proxies.pair import ProxyPair
    from fedfm.tasks.public import PublicData

Share = Annotated[float, Field(gt=0, le=1)]


class Bits(Settings):
    """In how many bits the matrices of a proxy are sent; server and clients compute with the values so rounded.

    Symmetric, in blocks of 64 values with a scale of 2 bytes each. Biases, norms and the head stay as they are.
    """

    attention: Literal[4, 8] | None = None
    """Bits a value of attention's matrices; null: as they are."""
    ffn: Literal[4, 8] | None = None
    """Bits a value of the FFNs' matrices, those of whole layers too; null: as they are."""
    embeddings: Literal[4, 8] | None = None
    """Bits a value of embeddings and of the output onto the vocabulary; null: as they are."""


class ProxySettings(Settings):
    """One kind of proxy; its methods import the code of the kind when they are called, so that a recipe reads fast.

    Attributes:
        title: name of the kind, as its paper writes it.
        is_sent: whether the server sends clients the model that they train; else they load the backbone themselves.
    """

    title: ClassVar[str]
    is_sent: ClassVar[bool] = True
    takes: ClassVar[Mapping[str, str]] = {BACKBONE_WEIGHTS: "clients hold a smaller model"}

    kind: str

    def capabilities(self) -> Capabilities:
        """Also what a model that is sent takes."""
        takes = {MODEL_CHANGES: "the weights that clients hold are not the backbone's"} if self.is_sent else {}
        return Capabilities(self.needs, self.gives, {**takes, **self.takes})

    @property
    def counts_at_clients(self) -> bool:
        """Whether clients count how much neurons are used, in some rounds."""
        return False

    @property
    def accepts_stale(self) -> bool:
        """Whether an update that was trained on an older version of the proxy counts."""
        return False

    @property
    def public_use(self) -> str | None:
        """The key that needs public data; None where no key does."""
        return None

    @property
    def plug_in_public(self) -> PublicSettings | None:
        """Public data that only what happens to the plug-in reads; None: the recipe's ``public``."""
        return None

    @property
    def wire_bits(self) -> Bits:
        """In how many bits the proxy is sent."""
        return Bits()

    def refuses(self, tune: Tune) -> str | None:
        """Why what is tuned cannot be plugged into the backbone, as far as the recipe alone tells; None: it can."""
        return None

    @classmethod
    def sized(cls, ffn_keep: float, keep_layers: list[int], score: str | None, adapters: int) -> Self | None:
        """Settings of about the size that FedPFT has with ``ffn_keep`` and ``keep_layers``, to compare kinds.

        Args:
            ffn_keep: share of its neurons that a compressed FFN keeps.
            keep_layers: layers that stay whole.
            score: chooses neurons, where the kind chooses some.
            adapters: layers at each end that are tuned, where the kind tunes only some.

        Returns:
            None where the kind makes no proxy.
        """
        return None

    def at_server(self, backbone: Backbone, attach: Attach, public: PublicData | None, *, seed: int) -> ClientModel:
        """The model that clients hold, as the server keeps it; a proxy is cut here and not yet fitted.

        Args:
            backbone: without a tunable; gets one.
            attach: attaches what the recipe tunes.
            public: public data; None where the recipe names none.
            seed: the recipe's seed.

        Raises:
            RecipeError: the backbone has no such proxy, or what is tuned has no place in both.
            DataError: the proxy's folder is damaged.
        """
        from fedfm.proxies.pair import make_pair

        with stage("making the proxy"):
            pair = make_pair(self, backbone, public, seed=seed)
        return pair.at_server(self, attach, public, seed=seed)

    def cut(self, backbone: Backbone, public: PublicData | None, *, seed: int, kept: Kept | None = None) -> ProxyPair:
        """Cuts the proxy out of a backbone; nothing is trained.

        Args:
            backbone: without a tunable.
            public: what data-driven scores are computed on.
            seed: the recipe's seed.
            kept: neurons that stay, by block path, as the folder of a proxy names them; None: chosen here.

        Raises:
            RecipeError: the backbone has no such layers or neurons.
        """
        raise NotImplementedError

    def client_copy(self, proxy: Backbone, kept: Kept, version: int) -> ClientCopy:
        """A client's copy of a proxy that was made by these settings.

        Args:
            proxy: loaded from the proxy's folder.
            kept: neurons that stay, by block path.
            version: of the folder.
        """
        from fedfm.proxies.base import ClientCopy

        return ClientCopy(proxy, number=version)


class NoProxy(ProxySettings):
    """Clients hold the backbone itself (FedPETuning, arXiv:2212.10025)."""

    title: ClassVar[str] = "no proxy"
    is_sent: ClassVar[bool] = False
    takes: ClassVar[Mapping[str, str]] = {}

    kind: Literal["none"] = "none"
    """No proxy: clients get the backbone."""

    def at_server(self, backbone: Backbone, attach: Attach, public: PublicData | None, *, seed: int) -> ClientModel:
        """The backbone."""
        from fedfm.proxies.whole_model import WholeModel

        return WholeModel(backbone, attach)


class Descent(Settings):
    """How parameters are fitted by AdamW: steps, batches, learning rate."""

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


class DistillSettings(Descent):
    """How a proxy is fitted to the backbone on public data, by gradient steps."""

    product: Annotated[float, Field(ge=0)] = 0.0
    """Weight α of the error of the FFN's weight product W₂W₁ in the loss; in the released code it has no gradient."""
    predictions: Annotated[float, Field(ge=0)] = 0.0
    """Weight γ of the divergence of predictions in the loss, for heads that are not new, as those of language models;
    0: hidden states alone, as in the paper."""


class PlugInDistillation(Descent):
    """How the plugged backbone learns from the tuned proxy on public data; only what was tuned changes."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 8
    """Public examples a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW; it rises over the warm-up, then falls linearly to zero."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices; biases and norms do not decay."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Both models' logits are divided by it before they are compared."""
    hidden: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the hidden states' relative error beside the divergence of predictions."""
    keep: Literal["if-better", "always"] = "if-better"
    """Whether the outcome is dropped if it is no better: by the validation set, else by held-back public examples."""


class PlugInSettings(Settings):
    """What the server does with the tunable after training, once it is plugged into the backbone."""

    distill: PlugInDistillation | None = None
    """The backbone learns from the tuned proxy on public data; null: the plug-in is final."""
    public: PublicSettings | None = None
    """Public data for that alone, such as texts like the task's; null: the recipe's `public`."""

    @model_validator(mode="after")
    def _refuse_data_that_nobody_reads(self) -> Self:
        if self.public is not None and self.distill is None:
            raise ValueError("public is read by distill alone, which is null; set distill, or leave public out")
        return self

    @property
    def needs_public(self) -> bool:
        """Whether it reads the recipe's ``public``."""
        return self.distill is not None and self.public is None
