"""Privacy without chance, so that two runs of one recipe can be compared; no run of a user has this."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from fedfm.privacy.noise import SystemNoise
from fedfm.server.rounds import privacy_guard


def without_chance(patch: pytest.MonkeyPatch) -> None:
    """Every release has the same noise, and every cohort all clients but the first."""

    def begin(self: SystemNoise, key: bytes | None = None) -> None:
        self._generator = torch.Generator().manual_seed(0)  # type: ignore[assignment]

    def draw(self: SystemNoise, shape: Iterable[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, dtype=torch.float64)  # type: ignore[call-overload]

    patch.setattr(SystemNoise, "__init__", begin)
    patch.setattr(SystemNoise, "__call__", draw)
    patch.setattr(privacy_guard, "drawn", lambda clients, rate: list(clients)[1:])
