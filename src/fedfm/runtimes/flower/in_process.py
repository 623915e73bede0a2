"""A Flower grid without sockets or processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class InProcessGrid(Grid):
    """A grid whose nodes are in this process: a ClientApp is called when its reply is pulled.

    For tests of apps and of Flower's strategies without sockets or processes. A process can have one such grid, or one
    Flower run, at a time: Flower's messages carry the identity of the process.
    """

    def __init__(self, app: ClientApp, node_configs: Sequence[Mapping[str, str]]) -> None:
        """A grid with a node for each config; their ids count from 1."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        self.app = app
        self.contexts = {
            number: Context(run_id=1, node_id=number, node_config=dict(config), state=RecordDict(), run_config={})
            for number, config in enumerate(node_configs, start=1)
        }
        self._run = Run.create_empty(1)
        self._count = 0
        self._pushed: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Sets what Flower knows of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """What Flower knows of the run."""
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
        except Exception as error:  # as Flower does: an exception of an app becomes its node's error
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=str(error)), reply_to=message)
