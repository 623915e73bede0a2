"""Clients that differ: their backbones and devices, and which client is of which group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from fedfm.client_patterns import first_match
from fedfm.models.tunables import Tune
from fedfm.randomness import numpy_generator
from fedfm.settings import Settings


def _clients(value: Any) -> int | float | str:
    """Accepts a count of clients, a fraction of them, or a pattern of their ids."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError("must be a count (at least 1), a fraction (between 0 and 1), or a pattern of client ids")


class OtherModel(Settings):
    """An element of the recipe's ``federation.models``."""

    path: Annotated[str, Field(min_length=1)]
    """The backbone of these clients, as `model.path`."""
    revision: str | None = None
    """Its branch, tag or commit, as `model.revision`."""
    tune: Tune | None = None
    """What is trained in it; null: as the recipe's `tune`."""
    clients: Annotated[int | float | str, BeforeValidator(_clients)]
    """Which clients have it: a count, a fraction below 1, or a pattern of client ids such as `hospital-*`."""

    @field_validator("tune")
    @classmethod
    def _is_whole(cls, tune: Tune | None) -> Tune | None:
        if tune is not None and tune.share is not None:
            raise ValueError("`share` has no meaning here: a client with another backbone sends nothing of its tunable")
        return tune


class Device(Settings):
    """An element of the recipe's ``federation.devices``: a kind of device, on a virtual clock."""

    name: Annotated[str, Field(min_length=1)]
    """Names the device in records."""
    speed: Annotated[float, Field(gt=0)]
    """Training examples a second."""
    up: Annotated[float, Field(gt=0)] | None = None
    """Bytes a second to the server; null: sending takes no time."""
    down: Annotated[float, Field(gt=0)] | None = None
    """Bytes a second from the server; null: receiving takes no time."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the clients that are such devices; the shares of all devices add up to 1."""

    def seconds(self, *, examples: int, down: int, up: int) -> float:
        """How long a client takes to receive ``down`` bytes, pass over ``examples`` examples and send ``up`` bytes."""
        receiving = down / self.down if self.down else 0.0
        sending = up / self.up if self.up else 0.0
        return receiving + examples / self.speed + sending


def refuse_bad_shares(shares: Sequence[float], *, whole: bool) -> None:
    """Refuses shares of one whole that do not add up.

    Raises:
        ValueError: they add up to more than 1, or, where they must be the ``whole``, to less.
    """
    total = math.fsum(shares)
    if total > 1 + 1e-9:
        raise ValueError(f"the shares add up to {total:g}, which is more than 1")
    if whole and total < 1 - 1e-9:
        raise ValueError(f"the shares add up to {total:g}; they must add up to 1")


def devices_of(devices: Sequence[Device], clients: Sequence[str], seed: int) -> dict[str, Device]:
    """Client → its device, in the shares that the devices have; empty where the recipe names no devices."""
    if not devices:
        return {}
    order = _keyed_order(clients, seed, "devices")
    ends = [
        round(math.fsum(device.share for device in devices[:count]) * len(order)) for count in range(len(devices) + 1)
    ]
    return {
        client: device
        for device, start, end in zip(devices, ends, ends[1:], strict=False)
        for client in order[start:end]
    }


def models_of(models: Sequence[OtherModel], clients: Sequence[str], seed: int) -> dict[str, OtherModel]:
    """Client → its backbone, without the clients that have the recipe's ``model``.

    Patterns come first; counts and fractions of all clients are dealt in a keyed order to the clients that no pattern
    names.

    Raises:
        ValueError: more clients are named than there are.
    """
    patterns = {model.clients: model for model in models if isinstance(model.clients, str)}
    found = {client: first_match(patterns, client, None) for client in clients}
    left = [client for client in _keyed_order(clients, seed, "models") if found[client] is None]
    for model in models:
        if isinstance(model.clients, str):
            continue
        count = model.clients if isinstance(model.clients, int) else round(model.clients * len(clients))
        if count > len(left):
            raise ValueError(f"`{model.path}` is for {count} clients, but only {len(left)} are left for it")
        found |= dict.fromkeys(left[:count], model)
        left = left[count:]
    return {client: model for client, model in found.items() if model is not None}


def _keyed_order(clients: Sequence[str], seed: int, purpose: str) -> list[str]:
    """The clients in an order that depends on seed and purpose, not on the order in which they are given."""
    ordered = sorted(clients)
    return [ordered[place] for place in numpy_generator(seed, purpose).permutation(len(ordered))]
