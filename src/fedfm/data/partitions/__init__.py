"""How examples are split among clients, one partition per file. To add one, write its file and add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.data.partitions.base import Partitioner, Pool, client_ids
from fedfm.data.partitions.by_task import ByTask
from fedfm.data.partitions.column import Column
from fedfm.data.partitions.dirichlet import Dirichlet
from fedfm.data.partitions.iid import Iid
from fedfm.data.partitions.quantity import Quantity
from fedfm.data.partitions.shards import Shards
from fedfm.registry import Choice

PARTITIONS: dict[str, type[Partitioner]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "quantity": Quantity,
    "column": Column,
    "tasks": ByTask,
}

Partition = Annotated[Partitioner, Choice(PARTITIONS, "kind", "fedfm.partitions")]

__all__ = [
    "PARTITIONS",
    "ByTask",
    "Column",
    "Dirichlet",
    "Iid",
    "Partition",
    "Partitioner",
    "Pool",
    "Quantity",
    "Shards",
    "client_ids",
]
