"""What tasks on conversations share: they read conversations of any known format, and learn the responses."""

from __future__ import annotations

from fedfm.data.conversations.reading import CONVERSATION, conversation_columns, with_conversations
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.tasks.base import Task, client_columns


class Conversational(Task):
    """A task on conversations."""

    own_keys = frozenset({"conversation"})

    def inputs(self, data: DataSettings) -> list[str]:
        """The column of conversations, which `prepare` adds."""
        return [CONVERSATION]

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """The columns in which conversations may be."""
        return [*conversation_columns(data.conversation), *client_columns(data)]

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source with the column of conversations.

        Raises:
            RecipeError, DataError: as `with_conversations`.
        """
        return with_conversations(source, data.conversation)
