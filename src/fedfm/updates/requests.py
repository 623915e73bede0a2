"""Requests to clients and their replies; the state of a simulated client rides beside the messages."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.spill import Spilled


@dataclass(frozen=True)
class Failure:
    """A client that could not answer.

    Attributes:
        client: client id.
        reason: one line for people.
        details: the traceback, for the events file.
        stale: whether its proxy could not be brought up to date; it must download it again.
    """

    client: str
    reason: str
    details: str = ""
    stale: bool = False


@dataclass(frozen=True)
class Request:
    """A request to one client.

    Attributes:
        client: client id.
        message: the encoded payload; clients that are asked alike share one object. It counts as sent.
        state: what a simulated client keeps between rounds, as `fedfm.clients.state` encodes it; None where it keeps
            nothing, or keeps it on its own disk. It rides beside the message and does not count as sent.
    """

    client: str
    message: bytes
    state: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    Attributes:
        client: client id.
        content: the encoded payload, in memory or on disk, or the reason why there is no payload.
        state: what the client keeps from now on, where `Request.state` came with the request.
    """

    client: str
    content: bytes | Spilled | Failure
    state: bytes | None = None
