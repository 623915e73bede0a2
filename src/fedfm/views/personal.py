"""A view for a client with a backbone of its own: it keeps its whole tunable, gets nothing and returns nothing."""

from __future__ import annotations

from fedfm.spec import Spec
from fedfm.views.base import Slices, View


class Personal(View):
    """The client keeps the whole tunable for itself; no recipe key asks for this view."""

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """Nothing."""
        return {}

    def personal(self, spec: Spec) -> frozenset[str]:
        """All tensors."""
        return frozenset(spec)
