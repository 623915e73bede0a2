"""The time of a shared pass is divided by examples; that of a client alone is its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from fedfm.clients.meter import metered
from fedfm.clients.work import Answer
from fedfm.updates import Done, Failure, Payload

CPU = torch.device("cpu")


def answer(client: str, samples: int, shared: int = 1) -> Answer:
    return Answer(client, Payload(1, "", Done(client=client, examples=1, samples=samples), {}), shared=shared)


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_pass_is_divided_by_examples() -> None:
    def answers() -> Iterator[Answer]:
        busy(0.04)
        yield answer("a", 30, shared=2)
        yield answer("b", 10, shared=2)
        busy(0.02)
        yield answer("c", 10)
        yield Answer("d", Failure("d", "absent"))

    found = {each.client: spent for each, spent in metered(answers(), CPU)}
    assert list(found) == ["a", "b", "c", "d"]
    assert found["a"].cpu_seconds == pytest.approx(3 * found["b"].cpu_seconds)
    assert found["a"].cpu_seconds + found["b"].cpu_seconds >= 0.04
    assert found["c"].cpu_seconds >= 0.02 > found["d"].cpu_seconds
    assert all(spent.seconds >= 0.0 for spent in found.values())
    assert min(spent.peak_bytes for spent in found.values()) > 10_000_000, "torch alone is larger"


def test_an_answer_is_passed_on_before_the_next_client_trains() -> None:
    trained = []

    def answers() -> Iterator[Answer]:
        for client in "ab":
            trained.append(client)
            yield answer(client, 1)

    first, _ = next(metered(answers(), CPU))
    assert (first.client, trained) == ("a", ["a"])
