"""Envelopes over a Unix socket between processes of one machine and one user, who alone can open the socket.

The framing is not that of `multiprocessing.connection`: there a message over the limit ends the connection, a message
is held in memory twice, and none can go to disk as it comes.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from fedfm.errors import FedfmError, StorageError
from fedfm.runtimes.envelopes import MOST_BLOBS, MOST_HEAD, Envelope, EnvelopeError
from fedfm.spill import Spilled

_HEAD = struct.Struct("<IQI")
"""Bytes of a name, bytes of a head, and the number of its blobs."""

_SIZE = "Q"
"""How the size of a blob is packed."""

MOST_NAME = 2**10
"""Bytes of a name, at most; a longer one is refused."""

MOST_ADDRESS = 107
"""Bytes of a Unix socket's path that Linux accepts."""

IN_MEMORY = 2**24
"""Bytes of a blob that stays in memory, at most."""

AT_ONCE = 2**30
"""Bytes requested from the system at a time."""


class TooLargeError(FedfmError):
    """An envelope was larger than the limit; it was skipped, and the next can be received.

    Attributes:
        name: that was sent with it.
    """

    def __init__(self, name: str, size: int, most: int) -> None:
        super().__init__(f"its answer of {size:,} bytes is over the limit of {most:,}")
        self.name = name


def listen(path: Path) -> socket.socket:
    """A socket at ``path`` that only this user can open; a stale one there is replaced.

    Args:
        path: in a folder that is made, for this user alone, where it is missing.

    Raises:
        StorageError: the path is too long.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(_address(path))
    finally:
        os.umask(before)
    server.listen()
    return server


def connect(path: Path, *, patience: float) -> socket.socket:
    """A connection to the process that listens at ``path``.

    Args:
        path: of the socket.
        patience: seconds to try for; the process may just be starting.

    Raises:
        OSError: no process listens there.
    """
    end = time.monotonic() + patience
    while True:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(_address(path))
        except OSError:
            line.close()
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
        else:
            return line


def send(line: socket.socket, envelope: Envelope, *, name: str = "") -> None:
    """Sends an envelope.

    Args:
        line: connected.
        envelope: to send.
        name: tells envelopes apart: to and from a relay, the node's name and the envelope's number; to a node's worker,
            the name of the message that brought the envelope.
    """
    named, text = name.encode(), envelope.text.encode()
    sizes = struct.pack(f"<{len(envelope.blobs)}{_SIZE}", *map(len, envelope.blobs))
    line.sendall(_HEAD.pack(len(named), len(text), len(envelope.blobs)) + named + text + sizes)
    for blob in envelope.contents:
        line.sendall(blob)


def receive(
    line: socket.socket, *, most: Callable[[str], int | None] = lambda name: None, spill: bool = False
) -> tuple[str, Envelope] | None:
    """The next envelope and the name that was sent with it; None when the other side has hung up.

    Args:
        line: connected.
        most: name → bytes that all blobs of that envelope may have; no memory is taken for more. None: any number.
        spill: whether large blobs go to disk as they come.

    Raises:
        TooLargeError: they have more.
        EnvelopeError: the bytes are not a valid envelope; nothing more can be read from the line.
        ConnectionError: the other side hung up in the middle of an envelope.
        StorageError: the disk has no room for a large blob.
    """
    first = line.recv(1)
    if not first:
        return None
    named, length, count = _HEAD.unpack(first + _exactly(line, _HEAD.size - 1))
    if named > MOST_NAME or length > MOST_HEAD or count > MOST_BLOBS:
        raise EnvelopeError(f"not an envelope of fedfm (a head of {length} bytes with {count} blobs)")
    name, text = _exactly(line, named).decode(errors="replace"), _exactly(line, length)
    sizes = struct.unpack(f"<{count}{_SIZE}", _exactly(line, struct.calcsize(f"<{count}{_SIZE}")))
    limit = most(name)
    if limit is not None and sum(sizes) > limit:
        deque(_chunks(line, sum(sizes)), maxlen=0)
        raise TooLargeError(name, sum(sizes), limit)
    read = [_spilled if spill and size > IN_MEMORY else _exactly for size in sizes]
    return name, Envelope.of(text, [one(line, size) for one, size in zip(read, sizes, strict=True)])


def ask(path: Path, envelope: Envelope, *, patience: float, name: str = "") -> Iterator[Envelope]:
    """Sends an envelope to the process that listens at ``path``, and yields the parts of the answer.

    Args:
        path: of the socket.
        envelope: to send.
        patience: seconds to try for; the process may just be starting.
        name: of the message that brought the envelope.

    Raises:
        OSError: no process listens there, or it hung up.
        EnvelopeError: the answer is not a valid envelope.
    """
    with connect(path, patience=patience) as line:
        send(line, envelope, name=name)
        line.shutdown(socket.SHUT_WR)
        answered = False
        while (part := receive(line)) is not None:
            yield part[1]
            answered = True
        if not answered:
            raise ConnectionError("the other side hung up without an answer")


def _exactly(line: socket.socket, size: int) -> bytes:
    """So many bytes."""
    parts = []
    while size:
        parts.append(line.recv(min(size, AT_ONCE), socket.MSG_WAITALL))
        if not parts[-1]:
            raise ConnectionError("the other side hung up in the middle of an envelope")
        size -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)  # bytes that came in one piece are not copied


def _spilled(line: socket.socket, size: int) -> Spilled:
    """So many bytes, on disk."""
    return Spilled(_chunks(line, size))


def _chunks(line: socket.socket, size: int) -> Iterator[bytes]:
    """So many bytes, a few at a time."""
    while size:
        yield (chunk := _exactly(line, min(size, 2**20)))
        size -= len(chunk)


def _address(path: Path) -> str:
    """The path as the system accepts it: relative to the working directory where that is shorter.

    Raises:
        StorageError: it is too long even then.
    """
    short = min(str(path), os.path.relpath(path), key=len)
    if len(os.fsencode(short)) > MOST_ADDRESS:
        raise StorageError(f"{path} is too long for the name of a socket ({MOST_ADDRESS} bytes): use a shorter folder")
    return short
