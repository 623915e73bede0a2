"""Which coordinates of the tunable the updates of a round cover. At the others the server keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views import Slices, holds


class Coverage:
    """The coordinates that no update covers so far."""

    def __init__(self, spec: Spec) -> None:
        """No update covers anything.

        Args:
            spec: of the whole tunable.
        """
        self._spec = spec
        self._unheld: dict[str, Tensor | None] = dict.fromkeys(spec)
        """Tensor → the coordinates that no update covers; None: all of them. Tensors that are covered are absent."""

    def add(self, slices: Slices) -> None:
        """Takes the part that an update covers."""
        for name in self._unheld.keys() & slices.keys():
            if not slices[name]:
                del self._unheld[name]
                continue
            unheld, covered = self._unheld[name], holds(slices, name, self._spec[name].shape)
            unheld = ~covered if unheld is None else unheld & ~covered
            if unheld.any():
                self._unheld[name] = unheld
            else:
                del self._unheld[name]

    def decided(self, names: Iterable[str]) -> None:
        """Takes whole tensors that the rule decides, whoever covers them."""
        for name in names:
            self._unheld.pop(name, None)

    def kept(self, stepped: Params, before: Mapping[str, Tensor]) -> Params:
        """What was stepped to, and what was before where no update covers a coordinate."""
        kept = dict(stepped)
        for name in self._unheld.keys() & before.keys() & stepped.keys():
            unheld = self._unheld[name]
            kept[name] = before[name] if unheld is None else before[name].where(unheld, stepped[name])
        return kept
