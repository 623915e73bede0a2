"""The runtime: it carries requests to clients and brings their replies back, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fedfm.runtimes.envelopes import RunStatus

if TYPE_CHECKING:  # they load torch, and commands read `LOOK` before they need it
    from fedfm.proxies.base import ModelVersion
    from fedfm.updates import Reply, Request

LOOK = 1.0
"""Seconds between two calls of a check that attends a wait."""


class Runtime(Protocol):
    """Carries requests and replies; does not read what is in them.

    Replies come in no particular order: neither in that of the requests, nor submission after submission. A caller
    that needs an order establishes it. Each request gets exactly one reply, which may be a failure.

    Attributes:
        remote: whether clients train outside of this process and its forks. The caller may then free the memory that
            only training needs.
        keeps_state: whether clients keep their state on their own disks (real sites). Otherwise it travels in
            `Request.state` and `Reply.state`.
    """

    remote: bool
    keeps_state: bool

    def submit(self, requests: Sequence[Request]) -> None:
        """Sends requests to their clients; may be called again while earlier ones are outstanding.

        Args:
            requests: clients that are asked alike share one message object.

        Raises:
            ValueError: a client has an outstanding request, or a state comes with a request although the clients keep
                theirs.
            TooFewClientsError: no client can be reached, with the reasons.
        """
        ...

    def next(self, timeout: float | None = None) -> Reply | None:
        """Returns the next reply; None when no request is outstanding, or the timeout has passed.

        Args:
            timeout: seconds to wait for a reply; None: no limit. It does not end work that is done in this process.

        Raises:
            TooFewClientsError: no client can be reached any more, with the reasons.
        """
        ...

    def drop(self) -> None:
        """Gives up the outstanding requests; their replies are never returned."""
        ...

    def share(self, clients: Sequence[str], version: ModelVersion) -> None:
        """Lets clients download a proxy as it is now, before they are asked to train on it.

        Args:
            clients: those without the proxy. May be empty: the runtime needs the version for nodes that join later.
            version: the latest version of the proxy.
        """
        ...

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` about once a second while `next` waits; an exception that it raises ends the waiting."""
        ...

    def say_ended(self, run: str, status: RunStatus, rounds: int) -> None:
        """Tells sites that a run has ended; does nothing where clients are simulated.

        Args:
            run: its name.
            status: how it ended.
            rounds: rounds that were played.
        """
        ...

    def rehearse(self) -> None:
        """Lets nodes prepare what they can before the first round; does nothing where there are no nodes.

        Raises:
            TooFewClientsError: no node can train, with the reasons.
        """
        ...

    def close(self) -> None:
        """Releases processes, connections and memory; the runtime cannot be used after that."""
        ...


class Simulated:
    """What runtimes on this machine share: clients without a disk, and no sites that have to be told anything."""

    remote = False
    keeps_state = False

    def say_ended(self, run: str, status: RunStatus, rounds: int) -> None:
        """Does nothing: as `Runtime.say_ended` where clients are simulated."""

    def rehearse(self) -> None:
        """Does nothing: as `Runtime.rehearse` where there are no nodes."""


def refuse_repeats(outstanding: set[str], requests: Sequence[Request]) -> None:
    """Refuses requests to clients that have one already.

    Args:
        outstanding: clients that have.
        requests: new ones.

    Raises:
        ValueError: a client has an outstanding request, or two of the new ones are for the same client.
    """
    asked = set(outstanding)
    for request in requests:
        if request.client in asked:
            raise ValueError(f"client {request.client} has an outstanding request already")
        asked.add(request.client)
