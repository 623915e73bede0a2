"""Envelopes: what a server and a node send each other in one piece, a head of JSON and blobs of bytes.

Heads say what is asked or answered. Tensors travel in the blobs, which are not read on the way.
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
"""Pattern of the name of a client that has data of its own."""

FILE = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$"
"""Pattern of the name of a file in a proxy's folder."""

MOST_HEAD, MOST_BLOBS = 2**26, 2**16
"""Bytes of a head, and blobs of an envelope, at most; anything larger is refused."""

MOST_FILES = 2**12
"""Files, and pieces of files, in an envelope, at most."""

Count = Annotated[int, Field(strict=True, ge=0, le=MOST_INTEGER)]
Identifier = Annotated[str, Field(max_length=2**12)]
"""Identifies a client, a job, a node or a message. It is compared, and shown only through `fedfm.printable`."""
Sentence = Annotated[str, AfterValidator(line)]
"""One line for people: made safe to show, and cut, on both sides."""
Paragraphs = Annotated[str, AfterValidator(lines)]
"""Several lines for people."""


RunStatus = Literal["completed", "interrupted", "failed"]
"""How a run ended."""


class EnvelopeError(FedfmError):
    """Bytes that are not a valid envelope; the text says what is wrong with them."""


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Head):
    """A file of a proxy's folder."""

    name: Annotated[str, Field(pattern=FILE)]
    size: Count
    """Bytes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Piece(_Head):
    """A part of a file, from some byte on."""

    file: Annotated[str, Field(pattern=FILE)]
    """Name of the file."""
    start: Count
    """First byte."""


class Prepare(_Head):
    """Server to node: the run that it has to prepare for. Blobs: the pieces."""

    kind: Literal["prepare"] = "prepare"
    job: dict[str, Any]
    """The run, as `fedfm.hosts.job.Job` writes it."""
    client: Annotated[str, Field(pattern=NAME)] | None = None
    """The client that the node is, where it has data of its own."""
    trial: bool = False
    """Whether it only tries what it can before the proxy exists: the recipe, and its data with the tokenizer."""
    files: Annotated[tuple[File, ...], Field(max_length=MOST_FILES)] = ()
    """Files of the proxy that it trains on from now on, or of the tokenizer or image processor of a trial."""
    pieces: Annotated[tuple[Piece, ...], Field(max_length=MOST_FILES)] = ()
    """Pieces of these files that come along, as the node asked for them."""


class Wanting(_Head):
    """Node to server: it lacks files of the proxy; what it has received it keeps. No blobs."""

    kind: Literal["wanting"] = "wanting"
    job: Identifier
    """`job_digest` of the job that it prepares for."""
    pieces: Annotated[tuple[Piece, ...], Field(min_length=1, max_length=MOST_FILES)]
    """What it lacks: each of these files from that byte on."""


class LabelAnswers(_Head):
    """How many examples answered each class of the recipe; see `fedfm.privacy.randomized_response`."""

    answers: Annotated[tuple[Annotated[Count, Field(le=MAX_EXAMPLES)], ...], Field(min_length=1, max_length=100_000)]
    epsilon: Annotated[float, Field(gt=0, le=20)]
    """ε of each example."""


class Ready(_Head):
    """Node to server: it is prepared. No blobs."""

    kind: Literal["ready"] = "ready"
    job: Identifier
    """`job_digest` of the job that it is prepared for."""
    clients: tuple[Identifier, ...] | None
    """Clients that it can train; null: any."""
    examples: Annotated[Count, Field(le=MAX_EXAMPLES)] | None = None
    """Training examples, where it has data of its own."""
    labels: LabelAnswers | None = None
    """Their classes under randomised response, where it tells them."""


class Requests(_Head):
    """Server to node: train clients. Blobs: the instructions, then the states of the clients that have one."""

    kind: Literal["requests"] = "requests"
    job: Identifier
    """`job_digest` of the run's job."""
    clients: tuple[tuple[Identifier, Annotated[Count, Field(lt=MOST_BLOBS)]], ...]
    """Client id and the place of its instruction among the instructions."""
    states: tuple[Identifier, ...] = ()
    """Clients whose state comes along, in the order of the blobs; never at a site with data of its own."""


class Fault(_Head):
    """Why a client has no update."""

    reason: Sentence
    details: Paragraphs = ""
    stale: bool = False


class Replies(_Head):
    """Node to server: the results of clients.

    Blobs: the updates of those without a fault, in order, then the states of the clients that have one.
    """

    kind: Literal["replies"] = "replies"
    clients: tuple[tuple[Identifier, Fault | None], ...]
    states: tuple[Identifier, ...] = ()
    """Clients whose new state comes along, in the order of the blobs; never from a site with data of its own."""


class Ended(_Head):
    """Server to node: the run has ended or stopped. No blobs; the node forgets it, and answers `Unprepared`."""

    kind: Literal["ended"] = "ended"
    job: str
    """`job_digest` of the run's job."""
    run: Annotated[str, Field(pattern=NAME)]
    """Name of the run."""
    status: RunStatus
    rounds: Annotated[int, Field(ge=0, lt=2**63)]
    """Rounds that were played."""


class Unprepared(_Head):
    """Node to server: it is not prepared for this job, or not any more. No blobs."""

    kind: Literal["unprepared"] = "unprepared"


class Refusal(_Head):
    """Node to server: it cannot or will not do this. No blobs."""

    kind: Literal["refusal"] = "refusal"
    reason: Annotated[str, AfterValidator(partial(line, most=2_000))]


class Lost(_Head):
    """Line to server: no answer will come from a node, or no more of it. No blobs."""

    kind: Literal["lost"] = "lost"
    reason: Sentence
    late: bool = False
    """Whether the deadline has passed."""


class Inquiry(_Head):
    """Line to node: has it received this message? No blobs."""

    kind: Literal["ask"] = "ask"
    message: Identifier
    """The name under which it was sent."""


class Seen(_Head):
    """Node to line: whether it has received the message. No blobs."""

    kind: Literal["seen"] = "seen"
    seen: bool


class Nodes(_Head):
    """Line to server: the nodes that are there now. No blobs."""

    kind: Literal["nodes"] = "nodes"
    nodes: tuple[Identifier, ...]


Head = Annotated[
    Prepare | Wanting | Ready | Requests | Replies | Ended | Unprepared | Refusal | Lost | Inquiry | Seen | Nodes,
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
            EnvelopeError: the head is not valid, or does not fit the number of blobs.
        """
        blobs = tuple(blobs)
        if len(text) > MOST_HEAD or len(blobs) > MOST_BLOBS:
            raise EnvelopeError(f"not an envelope of fedfm (a head of {len(text)} bytes with {len(blobs)} blobs)")
        try:
            head = _HEADS.validate_python(read_json(text))
        except UntrustedError as error:
            raise EnvelopeError(f"not an envelope of fedfm ({error})") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = quoted(".".join(map(str, first["loc"])))
            raise EnvelopeError(f"not an envelope of fedfm ({where}: {line(first['msg'], most=120)})") from error
        envelope = cls(head, blobs)
        if problem := envelope._problem():
            raise EnvelopeError(f"not a valid envelope of fedfm ({problem})")
        return envelope

    def _problem(self) -> str | None:
        match self.head:
            case Requests(clients=clients, states=states):
                least, most = max((place for _, place in clients), default=-1) + 1 + len(states), None
            case Replies(clients=clients, states=states):
                least = most = sum(fault is None for _, fault in clients) + len(states)
            case Prepare(pieces=pieces):
                clients, states = (), ()
                least = most = len(pieces)
            case _:
                clients, states = (), ()
                least = most = 0
        if len(self.blobs) < least or (most is not None and len(self.blobs) > most):
            return f"{len(self.blobs)} blobs with a head of kind {self.head.kind}"
        if len(set(states)) < len(states) or set(states) - {client for client, _ in clients}:
            return f"states of other clients in a head of kind {self.head.kind}"
        return None


def joined(parts: Iterable[Envelope]) -> Envelope:
    """One envelope with all replies of a node's parts; a part that is not `Replies` stands for all."""
    clients: list[tuple[str, Fault | None]] = []
    states: list[str] = []
    updates: list[bytes | Spilled] = []
    kept: list[bytes | Spilled] = []
    for part in parts:
        if not isinstance(part.head, Replies):
            return part
        count = len(part.blobs) - len(part.head.states)
        clients += part.head.clients
        states += part.head.states
        updates += part.blobs[:count]
        kept += part.blobs[count:]
    return Envelope(Replies(clients=tuple(clients), states=tuple(states)), (*updates, *kept))


def job_digest(job: dict[str, Any]) -> str:
    """sha256 (hex) of a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
