"""Requests and replies as envelopes; beside them, as further blobs, what simulated clients keep between rounds."""

from __future__ import annotations

from collections.abc import Sequence

from fedfm.runtimes.envelopes import Envelope, Fault, Replies, Requests
from fedfm.spill import Spilled
from fedfm.updates import Failure, Reply, Request


def work_envelope(job: str, requests: Sequence[Request], messages: Sequence[bytes]) -> Envelope:
    """The envelope that asks a node for replies.

    Args:
        job: `job_digest` of the run's job.
        requests: what clients are asked.
        messages: all different messages that the node gets; those of the requests are among them, as the same objects.
    """
    places = {id(message): place for place, message in enumerate(messages)}
    states = {request.client: request.state for request in requests if request.state is not None}
    clients = tuple((request.client, places[id(request.message)]) for request in requests)
    return Envelope(Requests(job=job, clients=clients, states=tuple(states)), (*messages, *states.values()))


def read_requests(asked: Requests, blobs: Sequence[bytes]) -> tuple[list[Request], Sequence[bytes]]:
    """The requests in such an envelope, and all different messages that came with them."""
    count = len(blobs) - len(asked.states)
    states = dict(zip(asked.states, blobs[count:], strict=True))
    return [Request(client, blobs[place], states.get(client)) for client, place in asked.clients], blobs[:count]


def replies_envelope(given: Sequence[Reply]) -> Envelope:
    """The envelope with which a node answers for clients."""
    clients, updates, states = list[tuple[str, Fault | None]](), list[bytes | Spilled](), dict[str, bytes]()
    for reply in given:
        if isinstance(content := reply.content, Failure):
            fault = Fault(reason=content.reason, details=content.details, stale=content.stale)
            clients.append((reply.client, fault))
        else:
            clients.append((reply.client, None))
            updates.append(content)
        if reply.state is not None:
            states[reply.client] = reply.state
    return Envelope(Replies(clients=tuple(clients), states=tuple(states)), (*updates, *states.values()))


def read_replies(answer: Replies, blobs: Sequence[bytes | Spilled]) -> list[Reply]:
    """The replies in such an envelope.

    Raises:
        StorageError: the disk does not return a state.
    """
    count = len(blobs) - len(answer.states)
    updates = iter(blobs[:count])
    states = {client: blob[:] for client, blob in zip(answer.states, blobs[count:], strict=True)}
    return [
        Reply(client, next(updates) if fault is None else Failure(client, **fault.model_dump()), states.get(client))
        for client, fault in answer.clients
    ]
