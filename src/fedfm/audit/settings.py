"""The recipe's ``audit``: what is planted in the clients' data, so that a finished run can be audited."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedfm.settings import Settings


class AuditSettings(Settings):
    """Canaries: random examples with which `fedfm audit` measures what the model remembers of single examples."""

    canaries: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Random examples; a fair coin decides for each whether it is planted in the data of one client. 0: none. A run
    with canaries is for auditing: do not deliver its model."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Copies of a planted canary, all at one client; they take the places of examples of that client."""
    clients: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Clients among which the canaries are dealt, in turn; null: all. With as many clients as canaries, each client
    holds one at most."""
    length: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Random tokens of a canary, at most as many as `data.max_length` allows."""
    references: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Canaries that are never planted, among which the exposure of the planted ones is measured."""
