"""What a stage of the update path is: a reversible step between an update and its bytes."""

from __future__ import annotations

from typing import ClassVar

from fedfm.settings import Settings


class Stage(Settings):
    """One step of the update path; it encodes at the sender and decodes at the receiver."""

    linear: ClassVar[bool] = False
    """Whether the sum of encoded updates decodes to the sum of the updates."""
    stateful: ClassVar[bool] = False
    """Whether the client keeps tensors between rounds for it."""
