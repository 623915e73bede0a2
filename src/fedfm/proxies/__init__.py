"""Proxies: compressed stand-ins for the backbone that clients tune in its place."""

from __future__ import annotations

from typing import Literal

from fedfm.settings import Settings


class NoProxy(Settings):
    """Clients hold the backbone itself (FedPETuning)."""

    kind: Literal["none"] = "none"
    """No proxy: clients get the backbone."""
