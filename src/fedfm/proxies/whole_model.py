"""No proxy: clients hold the backbone itself, whose frozen weights change only where a rule adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.params import Params
from fedfm.proxies.added_weights import AddedWeights, extended, is_long, missed, shortened
from fedfm.proxies.base import Attach, ClientCopy, ClientModel, ModelVersion, Report
from fedfm.proxies.joined_adapter import SummedAdapter, joined


class WholeCopy(ClientCopy):
    """A client's copy on this machine, which is the server's backbone itself: both are always at one version."""

    def __init__(self, model: Backbone, weights: AddedWeights) -> None:
        """The copy of a backbone whose weights are at the version of ``weights``."""
        self._weights = weights
        super().__init__(model)

    @property
    def number(self) -> int:
        """The version that the weights are at."""
        return self._weights.number

    @number.setter
    def number(self, number: int) -> None:
        if number != self._weights.number:
            raise ValueError(f"the backbone is at version {self._weights.number}, not {number}")

    def download(self, version: ModelVersion) -> None:
        """Brings the backbone to a version."""
        self._weights.set(version)


class WholeModel(ClientModel):
    """No proxy: clients hold the backbone itself."""

    def __init__(self, backbone: Backbone, attach: Attach) -> None:
        """Attaches what is tuned to ``backbone``."""
        self._bytes = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
        self.tunable = self.server_tunable = self.client_tunable = attach(backbone)
        self._weights = AddedWeights(self.tunable)
        self.client = WholeCopy(backbone, self._weights)

    @property
    def is_sent(self) -> bool:
        """The server does not send the backbone."""
        return False

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Empty: clients have the backbone, or fetch it where the server did."""
        return {}

    @property
    def download_bytes(self) -> int:
        """Bytes of the backbone's parameters."""
        return self._bytes

    def to_backbone(self, params: Params) -> Params:
        """The identity."""
        return params

    def from_backbone(self, params: Params) -> Params:
        """The identity."""
        return params

    def prepare(self, start: Params, report: Report) -> ModelVersion:
        """The pretrained weights, to which nothing is added yet."""
        return ModelVersion()

    def load(self, version: ModelVersion) -> None:
        """Adds to the backbone's weights what a version has, in the order of the rounds."""
        self._weights.set(version)

    def absorb(self, version: ModelVersion, residual: Params) -> ModelVersion:
        """The version after a residual, scaled by α/r, was added to the backbone's weights; they are changed."""
        self._weights.set(version)
        added = self._weights.product(residual)
        after = extended(version, added)
        self._weights.set(after)
        for module in added:
            if is_long(after, module):
                after = shortened(after, module, self._weights.matrix(module))
        return after

    def changes(self, version: ModelVersion, since: int) -> Params:
        """What was added since."""
        return missed(version, since)

    @contextmanager
    def pretrained(self, version: ModelVersion | None) -> Iterator[None]:
        """The backbone without what was added to it."""
        self._weights.set(ModelVersion())
        try:
            yield
        finally:
            self._weights.set(version or ModelVersion())

    def joined(self, version: ModelVersion, max_rank: int) -> SummedAdapter | None:
        """One LoRA with the tunable's factors and all that was added; None where its rank exceeds ``max_rank``."""
        return joined(self.tunable, version, max_rank)

    def sizes(self) -> dict[str, Any]:
        """Empty: there is nothing to compare with the backbone."""
        return {}

    def save(self, folder: Path, version: ModelVersion) -> None:
        """Refuses: the server does not send the backbone."""
        raise ValueError("clients hold the backbone; the server has no proxy to save")
