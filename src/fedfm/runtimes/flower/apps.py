"""The two apps that Flower runs; both only carry envelopes.

A run's server loop stays in its own process. The ServerApp is a relay: it connects to a Unix socket of that process,
pushes the envelopes that come from there to nodes, and returns the nodes' answers as it pulls them. So Flower holds no
state of a run. The ClientApp, which Flower starts for every message, passes its envelope to a worker that stays.
Neither loads torch.

A message that Flower was delivering when a connection broke is lost, and Flower regards it as delivered. So the relay
asks nodes that do not answer whether they have received theirs.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Lost, Nodes, Refusal, joined
from fedfm.runtimes.flower.grid import ACTION, ASK, GridNodes
from fedfm.runtimes.flower.records import from_record, to_record
from fedfm.runtimes.message_log import MessageLog

POLL = 0.2
"""Seconds between two looks for replies."""

PATIENCE = 60.0
"""Seconds that an app waits for the process behind its socket, which may be restarting."""

_log = logging.getLogger(__name__)

Handler = Callable[[Envelope], Iterable[Envelope]]
"""Answers an envelope, in parts."""


def relay(grid: Grid, path: Path, *, poll: float = POLL, ask: float = ASK) -> None:
    """Carries envelopes between a server's socket and the nodes of a grid until the server hangs up.

    Args:
        grid: Flower's.
        path: of the server's socket.
        poll: seconds between two looks for replies.
        ask: seconds without an answer after which a node is asked whether it has received its message.

    Raises:
        OSError: no server listens there.
    """
    line, known, looked = GridNodes(grid, ask=ask), list[str](), -float("inf")
    names: dict[str, str] = {}
    with sockets.connect(path, patience=PATIENCE) as server:
        while True:
            if time.monotonic() - looked > max(1.0, poll):
                known, looked = _told(server, line.nodes(), known), time.monotonic()
            if select.select([server], [], [], poll)[0]:
                if not _passed_on(server, line, names):
                    return
                continue  # all that is asked goes out before anything is pulled
            for node, answer in line.pull():
                sockets.send(server, answer, name=names[node])
                del answer  # as large as an update: it does not stay in memory while the next is pulled
            line.ask(known)


def _passed_on(server: socket.socket, line: GridNodes, names: dict[str, str]) -> bool:
    """Pushes the server's next envelope; False when the server has hung up.

    Args:
        server: connected.
        line: to the nodes.
        names: node → name of the last envelope for it, under which its answer goes back.
    """
    asked = sockets.receive(server)
    if asked is None:
        return False
    name, envelope = asked
    node = name.partition(" ")[0]  # a number follows
    names[node] = name
    if not line.push(node, envelope):
        sockets.send(server, Envelope(Lost(reason="Flower did not take its envelope")), name=name)
    return True


def _told(server: socket.socket, nodes: list[str], known: list[str]) -> list[str]:
    if nodes != known:
        sockets.send(server, Envelope(Nodes(nodes=tuple(nodes))))
    return nodes


def make_client_app(handler_for: Callable[[Context], Handler]) -> ClientApp:
    """A ClientApp that passes every envelope to the handler of its node.

    The app itself answers whether it has received a message. Where Flower starts it for every message, it knows of no
    earlier one; but a node takes one after the other, and is asked only about those that it has not answered.
    """
    message_log = MessageLog()

    def answer(message: str, context: Context, envelope: Envelope) -> Iterable[Envelope]:
        seen = message_log.take(message, envelope)
        return handler_for(context)(envelope) if seen is None else [seen]

    return _client_app(answer)


def _client_app(answer: Callable[[str, Context, Envelope], Iterable[Envelope]]) -> ClientApp:
    """A ClientApp whose ``answer`` gets the name of a message, its node, and the envelope in it."""
    app = ClientApp()

    @app.train(ACTION)
    def work(message: Message, context: Context) -> Message:
        try:
            answered = joined(answer(message.metadata.message_id, context, from_record(message.content)))
        except OSError:  # its worker is restarting, or ended in the middle
            _log.exception("the worker of the node does not answer")
            answered = Envelope(Lost(reason="the worker of the node does not answer"))
        except Exception:  # Flower would send the text of any other to the server
            _log.exception("a message could not be answered")
            answered = Envelope(Refusal(reason="the node could not read what it was sent, or what its worker answered"))
        return Message(to_record(answered), reply_to=message)

    return app


def client_app(path: Path) -> ClientApp:
    """A ClientApp that passes every envelope to the worker that stays, behind its socket at ``path``."""

    def by_worker(message: str, context: Context, envelope: Envelope) -> Iterable[Envelope]:
        return sockets.ask(path, envelope, patience=PATIENCE, name=message)

    return _client_app(by_worker)
