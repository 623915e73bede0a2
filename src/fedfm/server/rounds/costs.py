"""What a client's round costs: bytes from the ledger of messages, estimates from the model, measurements of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fedfm.clients.example_cost import ExampleCost, measure_example_cost, training_bytes
from fedfm.records.jsonl import Record
from fedfm.runtimes.link import ClientLine
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.round_records import Records

ZERO = {"down": 0, "up": 0, "download": 0, "messages": 0}


class CostBook:
    """Makes the lines of ``costs.jsonl``.

    Bytes, operations, estimated memory and the time of the link depend on the recipe alone, and are the same in every
    runtime. What workers measured (``cpu_seconds``, ``seconds``, ``peak_bytes``) is different each time; it is null
    where clients are not in this process or in forks of it.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._flops: dict[str, float] = {}
        self._memory: dict[str, int] = {}

    @cached_property
    def example(self) -> ExampleCost:
        """Costs of one example in the model that clients hold."""
        experiment, data = self._experiment, self._experiment.data
        examples = data.test if data.training is None else data.training.train
        tunable = experiment.client_model.client_tunable
        empty = not tunable.has_values  # as it is while sites train
        if empty:
            tunable.write(dict(experiment.start))
        cost = measure_example_cost(
            tunable, data.task, data.processor, examples, experiment.recipe.local, experiment.device
        )
        if empty:
            tunable.let_go()
        return cost

    def lines(self, records: Records) -> list[dict[str, Any]]:
        """One line for each client that a round's messages or answers name, in sorted order."""
        traffic = traffic_by_client(records.wire)
        clients = sorted(traffic.keys() | records.spent.keys() | records.trained.keys())
        return [self._line(client, records, traffic.get(client, ZERO)) for client in clients]

    def _line(self, client: str, records: Records, traffic: Mapping[str, int]) -> dict[str, Any]:
        steps, samples = records.trained.get(client, (0, 0))
        spent = records.spent.get(client)
        line = self.link(client)
        received = traffic["down"] + traffic["download"]
        link = line and line.seconds(down=received, up=traffic["up"], messages=traffic["messages"])
        flops = self.flops(client)
        return {
            "round": records.number,
            "client": client,
            "down": traffic["down"],
            "up": traffic["up"],
            **({"download": traffic["download"]} if traffic["download"] else {}),
            "steps": steps,
            "samples": samples,
            "flops": None if flops is None else flops * samples,
            "memory_bytes": self.memory(client),
            "link_seconds": link,
            "cpu_seconds": spent and round(spent.cpu_seconds, 6),
            "seconds": spent and round(spent.seconds, 6),
            "peak_bytes": spent and spent.peak_bytes,
        }

    def flops(self, client: str) -> float | None:
        """Operations of training on one example of a client, on average; None for a backbone of its own."""
        if client in self._experiment.backbones:
            return None
        if client not in self._flops:
            teacher = self._experiment.contract.rule.teacher != "none"
            self._flops[client] = float(self.example.flops(self._lengths(client), teacher=teacher).mean())
        return self._flops[client]

    def memory(self, client: str) -> int | None:
        """Bytes that training needs at its peak, about; None for a backbone of its own."""
        if client in self._experiment.backbones:
            return None
        if client not in self._memory:
            local, tunable = self._experiment.recipe.local, self._experiment.client_model.client_tunable
            lengths = self._lengths(client)
            kept = local.batch_size * self.example.activation_bytes(int(lengths.max()))
            self._memory[client] = training_bytes(tunable, local, kept)
        return self._memory[client]

    def link(self, client: str) -> ClientLine | None:
        """The network of a client: that of ``runtime.link``, else that of its device; None without either."""
        link = self._experiment.recipe.runtime.link
        if link is not None:
            return link.of(client)
        device = self._experiment.devices.get(client)
        if device is None or device.up is None or device.down is None:
            return None
        return ClientLine(up=8 * device.up, down=8 * device.down)

    def _lengths(self, client: str) -> np.ndarray:
        """Lengths of a client's examples; of a site's, which are not known, the largest that there may be."""
        data = self._experiment.data
        if data.training is None:
            text = data.task.modality == "text"
            return np.asarray([data.recipe.data.max_length if text else 1])
        lengths: np.ndarray = data.training.train.lengths[data.training.federation.train[client]]
        return lengths


def traffic_by_client(wire: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Client → bytes that it got (``down``), sent (``up``) and downloaded once, and its number of messages."""
    found: dict[str, dict[str, int]] = {}

    def book(client: str, key: str, size: int, times: int = 1) -> None:
        of = found.setdefault(client, dict(ZERO))
        of[key] += size * times
        of["messages"] += times

    for message in wire:
        if message.get("kind") == "edge":  # between aggregators, which are no clients
            continue
        size, clients = message["bytes"], message["clients"]
        if message["direction"] == "down":
            for client in clients:
                book(client, "download" if message.get("kind") == "download" else "down", size)
        else:
            book(clients[0], "up", size, max(1, len(clients) - 1))
            for receiver in clients[1:]:
                book(receiver, "down", size)
    return found
