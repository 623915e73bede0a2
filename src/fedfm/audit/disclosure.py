"""What a client learns of the backbone: the share of its blocks that the proxy has nearly unchanged."""

from __future__ import annotations

from typing import Any

from fedfm.audit.base import Audit, Audited, NotMeasuredError


class BackboneShare(Audit):
    """The share of the backbone that clients hold, as the run measured it."""

    def measure(self, run: Audited) -> dict[str, Any]:
        """``disclosed``, 0 to 1: 1 without a proxy."""
        if run.proxy is None:
            return {"disclosed": 1.0}
        if run.proxy.get("disclosed") is None:
            raise NotMeasuredError("the run has no figure of what its proxy discloses")
        return {"disclosed": run.proxy["disclosed"]}
