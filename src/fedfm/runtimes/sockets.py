"""Envelopes over a Unix socket between processes of one machine and one user; who may open the socket may send."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from fedfm.errors import FedfmError, StorageError
from fedfm.runtimes.envelopes import MOST_BLOBS, MOST_HEAD, Envelope, EnvelopeError
from fedfm.spill import Spilled

_HEAD = struct.Struct("<IQI")
"""Bytes of a name, bytes of a head, and the number of its blobs."""

_SIZE = "Q"
"""How the size of a blob is packed."""

MOST_NAME = 2**10
"""A name of more bytes is not believed."""

MOST_ADDRESS = 107
"""Bytes of a Unix socket's path that Linux takes."""

IN_MEMORY = 2**24
"""Bytes of a blob that is not large."""

AT_ONCE = 2**30
"""Bytes that the system is asked for at a time."""


class TooLargeError(FedfmError):
    """A envelope was larger than it may be; it was read past, and the next can be received.

    Attributes:
        node: that it is from.
    """

    def __init__(self, node: str, size: int, most: int) -> None:
        super().__init__(f"its answer of {size:,} bytes is over the limit of {most:,}")
        self.node = node


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
    """A connection to whoever listens at ``path``.

    Args:
        path: of the socket.
        patience: seconds to try for; it may just be starting.

    Raises:
        OSError: nobody listens there.
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
    """Sends a envelope.

    Args:
        line: connected.
        envelope: to send.
        name: of the node that it is for, or from, where the other side deals with several; to a node's worker, of the
            message that brought it.
    """
    named, text = name.encode(), envelope.text.encode()
    sizes = struct.pack(f"<{len(envelope.blobs)}{_SIZE}", *map(len, envelope.blobs))
    line.sendall(_HEAD.pack(len(named), len(text), len(envelope.blobs)) + named + text + sizes)
    for blob in envelope.contents:
        line.sendall(blob)


def receive(line: socket.socket, *, most: int | None = None, spill: bool = False) -> tuple[str, Envelope] | None:
    """The next envelope, after the name that was sent with it; None when the other side has hung up.

    Args:
        line: connected.
        most: bytes that all blobs of a envelope may have; no memory is taken for more. None: any.
        spill: whether large blobs go to disk as they come.

    Raises:
        TooLargeError: they have more.
        EnvelopeError: what came is no envelope; nothing more can be read from the line.
        ConnectionError: the other side hung up in the middle of one.
        StorageError: the disk has no room for a large blob.
    """
    first = line.recv(1)
    if not first:
        return None
    named, length, count = _HEAD.unpack(first + _exactly(line, _HEAD.size - 1))
    if named > MOST_NAME or length > MOST_HEAD or count > MOST_BLOBS:
        raise EnvelopeError(f"not a envelope of fedfm (a head of {length} bytes with {count} blobs)")
    name, text = _exactly(line, named).decode(errors="replace"), _exactly(line, length)
    sizes = struct.unpack(f"<{count}{_SIZE}", _exactly(line, struct.calcsize(f"<{count}{_SIZE}")))
    if most is not None and sum(sizes) > most:
        deque(_chunks(line, sum(sizes)), maxlen=0)
        raise TooLargeError(name, sum(sizes), most)
    read = [_spooled if spill and size > IN_MEMORY else _exactly for size in sizes]
    return name, Envelope.of(text, [one(line, size) for one, size in zip(read, sizes, strict=True)])


def ask(path: Path, envelope: Envelope, *, patience: float, name: str = "") -> Iterator[Envelope]:
    """Sends a envelope to who listens at ``path``, and yields the parts of the answer.

    Args:
        path: of the socket.
        envelope: to send.
        patience: seconds to try for; who listens may just be starting.
        name: of the message that brought the envelope.

    Raises:
        OSError: nobody listens there, or who did hung up.
        EnvelopeError: the answer is no envelope.
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
            raise ConnectionError("the other side hung up in the middle of a envelope")
        size -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)  # of what came in one piece there is no second copy


def _spooled(line: socket.socket, size: int) -> Spilled:
    """So many bytes, on disk."""
    return Spilled(_chunks(line, size))


def _chunks(line: socket.socket, size: int) -> Iterator[bytes]:
    """So many bytes, a few at a time."""
    while size:
        yield (chunk := _exactly(line, min(size, 2**20)))
        size -= len(chunk)


def _address(path: Path) -> str:
    """The path as the system takes it, so from the working directory where that is shorter.

    Raises:
        StorageError: it is too long even so.
    """
    short = min(str(path), os.path.relpath(path), key=len)
    if len(os.fsencode(short)) > MOST_ADDRESS:
        raise StorageError(f"{path} is too long for the name of a socket ({MOST_ADDRESS} bytes): use a shorter folder")
    return short
