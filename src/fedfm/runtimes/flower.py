"""Flower as the way to nodes: the one module that knows flwr.

A run's server loop stays in its own process. Flower's ServerApp is a relay: it connects to a Unix socket of that
process, pushes the parcels that come from there to nodes, and hands back what the nodes answer, each as it is pulled.
So the loop survives the ServerApp, and the SuperLink, and the other way round. The ClientApp, which Flower starts anew
for every message, hands its parcel to a worker that stays.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedfm.runtimes import sockets
from fedfm.runtimes.parcels import Nodes, Parcel, ParcelError, Refusal, joined

SOCKET = "fedfm-socket"
"""Key, of a ServerApp's run config and of a node's config, of the socket to speak to."""

POLL = 0.2
"""Seconds between two looks for replies."""

PATIENCE = 60.0
"""Seconds that an app waits for the process behind its socket, which may be starting anew."""

Handler = Callable[[Parcel], Iterable[Parcel]]
"""Answers a parcel, in parts."""

_ACTION = "work"


def to_record(parcel: Parcel) -> RecordDict:
    """A parcel as Flower carries it: the head as text, each blob as an array of bytes."""
    blobs = ArrayRecord()
    for place, blob in enumerate(parcel.blobs):
        blobs[str(place)] = Array(dtype="uint8", shape=(len(blob),), stype="fedfm", data=blob)
    return RecordDict({"head": ConfigRecord({"json": parcel.text}), "blobs": blobs})


def from_record(record: RecordDict) -> Parcel:
    """The parcel in a record.

    Raises:
        ParcelError: there is none in it.
    """
    try:
        text, blobs = record["head"]["json"], record["blobs"]
        return Parcel.of(text, [blobs[str(place)].data for place in range(len(blobs))])
    except (KeyError, TypeError, AttributeError) as error:
        raise ParcelError(f"not a parcel of fedfm ({type(error).__name__}: {error})") from error


class GridLine:
    """The way to the nodes of a Flower grid: parcels are pushed as they come, replies pulled one by one."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._asked: dict[str, str] = {}

    def nodes(self) -> list[str]:
        """The nodes that are online."""
        return sorted(str(node) for node in self.grid.get_node_ids())

    def push(self, node: str, parcel: Parcel) -> bool:
        """Sends a parcel to a node; whether Flower took it."""
        message = Message(to_record(parcel), dst_node_id=int(node), message_type=f"train.{_ACTION}")
        numbers = list(self.grid.push_messages([message]))
        if not numbers or numbers[0] is None:
            return False
        self._asked[numbers[0]] = node
        return True

    def pull(self) -> Iterator[tuple[str, Parcel | str]]:
        """The replies that are there, each pulled when the one before was taken; a text says why there is none."""
        for number in list(self._asked):
            for reply in self.grid.pull_messages([number]):
                node = self._asked.pop(number)
                if reply.has_error():
                    yield node, _reason(reply.error)
                    continue
                try:
                    yield node, from_record(reply.content)
                except ParcelError as error:
                    yield node, str(error)


def _reason(error: Error) -> str:
    lines = (error.reason or "").strip().splitlines()
    return f"Flower reports error {error.code}" + (f": {lines[-1]}" if lines else "")


def relay(grid: Grid, path: Path, *, poll: float = POLL) -> None:
    """Carries parcels between a server's socket and the nodes of a grid until the server hangs up.

    Args:
        grid: Flower's.
        path: of the server's socket.
        poll: seconds between two looks for replies.

    Raises:
        OSError: no server listens there.
    """
    line, known, looked = GridLine(grid), list[str](), -float("inf")
    with sockets.connect(path, patience=PATIENCE) as server:
        while True:
            if time.monotonic() - looked > max(1.0, poll):
                known, looked = _told(server, line.nodes(), known), time.monotonic()
            if select.select([server], [], [], poll)[0]:
                asked = sockets.receive(server)
                if asked is None:
                    return
                if not line.push(*asked):
                    sockets.send(server, Parcel(Refusal(reason="Flower did not take its parcel")), node=asked[0])
                continue  # all that is asked goes out before anything is pulled
            for node, answer in line.pull():
                parcel = answer if isinstance(answer, Parcel) else Parcel(Refusal(reason=answer))
                sockets.send(server, parcel, node=node)


def _told(server: socket.socket, nodes: list[str], known: list[str]) -> list[str]:
    if nodes != known:
        sockets.send(server, Parcel(Nodes(nodes=tuple(nodes))))
    return nodes


server_app = ServerApp()


@server_app.main()
def _main(grid: Grid, context: Context) -> None:
    relay(grid, Path(str(context.run_config[SOCKET])))


def make_client_app(handler_for: Callable[[Context], Handler]) -> ClientApp:
    """A ClientApp that hands every parcel to the handler of its node."""
    app = ClientApp()

    @app.train(_ACTION)
    def work(message: Message, context: Context) -> Message:
        try:
            answer = joined(handler_for(context)(from_record(message.content)))
        except (ParcelError, OSError) as error:
            answer = Parcel(Refusal(reason=f"{type(error).__name__}: {error}"))
        return Message(to_record(answer), reply_to=message)

    return app


def _resident(context: Context) -> Handler:
    """The worker that stays on this node, behind its socket."""
    return lambda parcel: sockets.ask(Path(str(context.node_config[SOCKET])), parcel, patience=PATIENCE)


client_app = make_client_app(_resident)


class InProcessGrid(Grid):
    """A grid whose nodes are in this process: a ClientApp is called when its reply is pulled.

    For tests of apps, one's own and those of Flower's strategies, without sockets or processes. One such grid, or one
    Flower run, at a time: Flower's messages carry the identity of the process.
    """

    def __init__(self, app: ClientApp, node_configs: Sequence[Mapping[str, str]]) -> None:
        """A grid with a node for each config; their ids count from 1."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        self.app = app
        self.contexts = {
            number: Context(
                run_id=1, node_id=number, node_config=dict(config), state=RecordDict(), run_config={}
            )
            for number, config in enumerate(node_configs, start=1)
        }
        self._run = Run.create_empty(1)
        self._count = 0
        self._pushed: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Takes what Flower says of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """What Flower says of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The nodes, all of them online."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keeps messages until their replies are pulled."""
        numbers = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            self._pushed[str(self._count)] = message
            numbers.append(str(self._count))
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Calls the ClientApp for each of these messages that was not pulled before."""
        return [self._reply(self._pushed.pop(number)) for number in message_ids if number in self._pushed]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies."""
        return self.pull_messages(self.push_messages(messages))

    def _reply(self, message: Message) -> Message:
        try:
            return self.app(message, self.contexts[message.metadata.dst_node_id])
        except Exception as error:  # as Flower does: whatever an app raises is its node's error
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=str(error)), reply_to=message)
