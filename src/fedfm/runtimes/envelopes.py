"""What a server and a node hand each other in one piece: a head, which is JSON, and blobs of bytes.

Heads say what is asked or answered; what travels of models is in the blobs, which nobody on the way looks into.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedfm.errors import FedfmError
from fedfm.printable import line, lines, quoted
from fedfm.spill import Spilled
from fedfm.untrusted import MAX_EXAMPLES, MOST_INTEGER, UntrustedError, read_json

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Of a client that has data of its own."""

FILE = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$"
"""Of a file of a proxy's folder."""

MOST_HEAD, MOST_BLOBS = 2**26, 2**16
"""A envelope with a head of more bytes, or with more blobs, is not believed."""

MOST_FILES = 2**12
"""Files, and pieces of files, in a envelope."""

Count = Annotated[int, Field(strict=True, ge=0, le=MOST_INTEGER)]
Identifier = Annotated[str, Field(max_length=2**12)]
"""Of a client, a job, a node or a message; compared, and shown only as `fedfm.printable` does."""
Sentence = Annotated[str, AfterValidator(line)]
"""For people, on one line: made safe to show, and cut, on both sides."""
Paragraphs = Annotated[str, AfterValidator(lines)]
"""For people, on several lines."""


class EnvelopeError(FedfmError):
    """Bytes that are no sound envelope; the text says what is wrong with them."""


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Head):
    """A file of a proxy's folder."""

    name: Annotated[str, Field(pattern=FILE)]
    size: Count
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Piece(_Head):
    """A part of a file: what is there of it from a byte on."""

    file: Annotated[str, Field(pattern=FILE)]
    """Its name."""
    start: Count


class Prepare(_Head):
    """Server to node: what the run is. Blobs: the pieces."""

    kind: Literal["prepare"] = "prepare"
    job: dict[str, Any]
    """As `fedfm.hosts.job.Job` says it."""
    client: Annotated[str, Field(pattern=NAME)] | None = None
    """The client that the node is, where it has data of its own."""
    trial: bool = False
    """Whether it only tries on what it can before there is a proxy: the recipe, and its data with the tokenizer."""
    files: Annotated[tuple[File, ...], Field(max_length=MOST_FILES)] = ()
    """Of the proxy that it is to train on from now on, or of the tokenizer or image processor of a trial."""
    pieces: Annotated[tuple[Piece, ...], Field(max_length=MOST_FILES)] = ()
    """Of these files, as the node wanted them."""


class Wanting(_Head):
    """Node to server: it lacks files of the proxy, and keeps what it has of them. No blobs."""

    kind: Literal["wanting"] = "wanting"
    job: Identifier
    """`job_digest` of what it would be prepared for."""
    pieces: Annotated[tuple[Piece, ...], Field(min_length=1, max_length=MOST_FILES)]
    """What it lacks: of each of these files all from there on."""


class Ready(_Head):
    """Node to server: it is prepared. No blobs."""

    kind: Literal["ready"] = "ready"
    job: Identifier
    """`job_digest` of what it is prepared for."""
    clients: tuple[Identifier, ...] | None
    """Clients that it can train; null: any."""
    examples: Annotated[Count, Field(le=MAX_EXAMPLES)] | None = None
    """That it trains on, where it has data of its own."""


class Work(_Head):
    """Server to node: train clients. Blobs: the instructions."""

    kind: Literal["work"] = "work"
    job: Identifier
    """`job_digest` of the run's job."""
    clients: tuple[tuple[Identifier, Annotated[Count, Field(lt=MOST_BLOBS)]], ...]
    """Client id and the place of its instruction among the instructions."""


class Fault(_Head):
    """Why a client has no update."""

    reason: Sentence
    details: Paragraphs = ""
    stale: bool = False


class Answers(_Head):
    """Node to server: what clients came to. Blobs: the updates of those without a fault, in order."""

    kind: Literal["answers"] = "answers"
    clients: tuple[tuple[Identifier, Fault | None], ...]


class Ended(_Head):
    """Server to node: the run is over, for good or for now. No blobs; the node forgets it, and answers `Unprepared`."""

    kind: Literal["ended"] = "ended"
    job: str
    """`job_digest` of the run's job."""
    run: Annotated[str, Field(pattern=NAME)]
    """Its name."""
    status: Literal["completed", "interrupted", "failed"]
    rounds: Annotated[int, Field(ge=0, lt=2**63)]
    """That were played."""


class Unprepared(_Head):
    """Node to server: it knows no such job, or not any more. No blobs."""

    kind: Literal["unprepared"] = "unprepared"


class Refusal(_Head):
    """Node to server: it cannot or will not do this. No blobs."""

    kind: Literal["refusal"] = "refusal"
    reason: Annotated[str, AfterValidator(partial(line, most=2_000))]


class Lost(_Head):
    """To the server, from what carries its envelopes: no answer will come, or no more of it. No blobs."""

    kind: Literal["lost"] = "lost"
    reason: Sentence
    late: bool = False
    """Whether the time for it is over."""


class Ask(_Head):
    """To a node, from what carries the server's envelopes: has it had this message? No blobs."""

    kind: Literal["ask"] = "ask"
    message: Identifier
    """By the name that it was sent under."""


class Seen(_Head):
    """Node to what carries its envelopes: whether it has had the message. No blobs."""

    kind: Literal["seen"] = "seen"
    seen: bool


class Nodes(_Head):
    """To the server, from what carries its envelopes: the nodes that are there now. No blobs."""

    kind: Literal["nodes"] = "nodes"
    nodes: tuple[Identifier, ...]


Head = Annotated[
    Prepare | Wanting | Ready | Work | Answers | Ended | Unprepared | Refusal | Lost | Ask | Seen | Nodes,
    Field(discriminator="kind"),
]
_HEADS: TypeAdapter[Head] = TypeAdapter(Head)


@dataclass(frozen=True)
class Envelope:
    """A head and its blobs, of which large ones may lie on disk."""

    head: Head
    blobs: tuple[bytes | Spilled, ...] = ()

    @property
    def contents(self) -> tuple[bytes, ...]:
        """The blobs, all of them in memory.

        Raises:
            StorageError: the disk does not give one back.
        """
        return tuple(blob[:] if isinstance(blob, Spilled) else blob for blob in self.blobs)

    @property
    def text(self) -> str:
        """The head as JSON."""
        return self.head.model_dump_json()

    @classmethod
    def of(cls, text: str | bytes, blobs: Iterable[bytes | Spilled]) -> Envelope:
        """The envelope with this head.

        Raises:
            EnvelopeError: the head is not one, or has another number of blobs.
        """
        blobs = tuple(blobs)
        if len(text) > MOST_HEAD or len(blobs) > MOST_BLOBS:
            raise EnvelopeError(f"not a envelope of fedfm (a head of {len(text)} bytes with {len(blobs)} blobs)")
        try:
            head = _HEADS.validate_python(read_json(text))
        except UntrustedError as error:
            raise EnvelopeError(f"not a envelope of fedfm ({error})") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = quoted(".".join(map(str, first["loc"])))
            raise EnvelopeError(f"not a envelope of fedfm ({where}: {line(first['msg'], most=120)})") from error
        envelope = cls(head, blobs)
        if problem := envelope._problem():
            raise EnvelopeError(f"not a sound envelope of fedfm ({problem})")
        return envelope

    def _problem(self) -> str | None:
        match self.head:
            case Work(clients=clients):
                least, most = max((place for _, place in clients), default=-1) + 1, None
            case Prepare(pieces=pieces):
                least = most = len(pieces)
            case Answers(clients=clients):
                least = most = sum(fault is None for _, fault in clients)
            case _:
                least = most = 0
        if len(self.blobs) < least or (most is not None and len(self.blobs) > most):
            return f"{len(self.blobs)} blobs with a head of kind {self.head.kind}"
        return None


def joined(parts: Iterable[Envelope]) -> Envelope:
    """One envelope of a node's answers in several; what is no answer stands for all."""
    clients: list[tuple[str, Fault | None]] = []
    blobs: list[bytes | Spilled] = []
    for part in parts:
        if not isinstance(part.head, Answers):
            return part
        clients += part.head.clients
        blobs += part.blobs
    return Envelope(Answers(clients=tuple(clients)), tuple(blobs))


def job_digest(job: dict[str, Any]) -> str:
    """sha256 (hex) of a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
