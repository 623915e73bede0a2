"""Requests to clients and their replies; the state of a simulated client rides beside the messages."""

from __future__ import annotations

from dataclasses import dataclass, field

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
class Spent:
    """What the work of one client took, measured where it was done.

    Attributes:
        cpu_seconds: of all threads; of clients that shared a pass, each its share by examples.
        seconds: by the clock, likewise.
        peak_bytes: the largest memory that the process (on a GPU, its tensors) has had until then.
    """

    cpu_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        """Both, one after the other."""
        return Spent(
            self.cpu_seconds + other.cpu_seconds,
            self.seconds + other.seconds,
            max(self.peak_bytes, other.peak_bytes),
        )

    def share(self, part: float) -> Spent:
        """A part of the time; the memory is not divided."""
        return Spent(part * self.cpu_seconds, part * self.seconds, self.peak_bytes)


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    Attributes:
        client: client id.
        content: the encoded payload, in memory or on disk, or the reason why there is no payload.
        state: what the client keeps from now on, where `Request.state` came with the request.
        spent: what its work took, in simulations; None where it was not measured. It rides beside the content, whose
            bytes thus do not depend on a clock, and a site never sends it.
    """

    client: str
    content: bytes | Spilled | Failure
    state: bytes | None = None
    spent: Spent | None = field(default=None, compare=False)
