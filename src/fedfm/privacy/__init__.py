"""Privacy: accounting and calibration."""

from __future__ import annotations

from typing import Literal

from fedfm.settings import Settings


class NoPrivacy(Settings):
    """No differential privacy: ε = ∞."""

    kind: Literal["none"] = "none"
    """No differential privacy (ε = ∞)."""
