"""What is compared: jobs of several sizes, ways to do them, and how much faster fedfm is meant to be."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace

from fedfm import __version__

CORES = os.cpu_count() or 1

MOST_COMPARED = 60_000
"""Tokens a round up to which the adapters of a job are compared."""


@dataclass(frozen=True)
class Size:
    """A job: all clients take part in each round and take a few steps.

    Attributes:
        model: ``minilm``, ``tiny encoder`` (two layers of 128) or ``tiny llama``.
        length: tokens of each text, or at most that many with ``natural``.
        clients: of a round.
        rounds: at least four; the first and the last are left out of the figures.
        natural: sentences of their natural lengths (sst2) in place of texts that fill ``length``.
        proxy: clients train on a FedPFT proxy with a quarter of the FFN neurons in every layer.
        optimizer: of the clients.
        learning_rate: of the clients.
    """

    model: str
    batch_size: int
    length: int
    clients: int
    steps: int = 4
    rounds: int = 5
    natural: bool = False
    proxy: bool = False
    optimizer: str = "adamw"
    learning_rate: float = 1e-3

    @property
    def name(self) -> str:
        """All of it that differs, in words."""
        model = f"{self.model}'s proxy" if self.proxy else self.model
        length = f"up to {self.length}" if self.natural else f"{self.length}"
        return f"{model}, {self.clients} clients x {self.steps} steps of {self.batch_size} x {length} tokens"

    @property
    def compared(self) -> bool:
        """Whether adapters are held against the torch loop's; in the largest jobs that alone takes many minutes."""
        return self.clients * self.steps * self.batch_size * self.length <= MOST_COMPARED

    @property
    def digest(self) -> str:
        """Of everything that decides the job."""
        return hashlib.sha256(json.dumps([asdict(self), __version__]).encode()).hexdigest()[:12]


MINILM = Size("minilm", batch_size=8, length=32, clients=16)
TINY = Size("tiny encoder", batch_size=4, length=32, clients=16, rounds=14)
"""The sizes for which targets are set."""

PROXY = Size("minilm", batch_size=8, length=32, clients=16, proxy=True)

SIZES = (
    MINILM,
    TINY,
    Size("minilm", batch_size=8, length=64, clients=16, natural=True),
    PROXY,
    Size("tiny llama", batch_size=4, length=64, clients=16, rounds=14),
    *(
        Size("minilm", batch_size=batch_size, length=length, clients=clients)
        for clients in (10, 100)
        for length in (32, 64)
        for batch_size in (4, 8)
    ),
    Size("tiny encoder", batch_size=4, length=32, clients=100, rounds=14),
)

CHECK = Size("tiny encoder", batch_size=2, length=16, clients=3, steps=2, rounds=4, optimizer="sgd", learning_rate=0.1)
"""A job of seconds; with SGD all ways agree to rounding."""


@dataclass(frozen=True)
class Row:
    """A way to do a job.

    Attributes:
        name: for people.
        script: the runner, in this folder.
        precision: ``float32`` or ``bfloat16``.
        settings: what the runner understands.
        environment: the virtual environment that it needs; None: this one.
        threads: cores that it may use, by threads or by processes.
        torchrun: processes to start by torchrun; None: it starts its own, where it has more than one.
    """

    name: str
    script: str
    precision: str
    settings: tuple[str, ...] = ()
    environment: str | None = None
    threads: int = CORES
    torchrun: int | None = None

    @property
    def label(self) -> str:
        """All of it, in words."""
        return f"{self.name}, {self.precision}" + ("" if self.threads == CORES else f", {self.threads} thread")


ONE_BY_ONE = "fedfm, one by one, 1 process"
STACKED = "fedfm, stacked, 1 process"
FEDFM = f"fedfm, stacked, {CORES} processes"
KEPT = "flwr, model kept"
LOADED = "flwr, model loaded per message"
PFL = "pfl"
TRAINER = "Trainer per client"
PRODUCTS = "matrix products alone"


def in_one_process(row: Row) -> list[Row]:
    """With all threads, and with one: threads may cost a small model more than they bring."""
    return [replace(row, threads=threads) for threads in dict.fromkeys((CORES, 1))]


def rows(precision: str) -> list[Row]:
    """All ways to do a job with this precision; one by one, fedfm has but float32."""
    one_by_one = Row(ONE_BY_ONE, "with_fedfm", precision, ("runtime.stack=off", "runtime.processes=1"))
    return [
        *(in_one_process(one_by_one) if precision == "float32" else []),
        *in_one_process(Row(STACKED, "with_fedfm", precision, ("runtime.processes=1",))),
        Row(FEDFM, "with_fedfm", precision, (f"runtime.processes={CORES}",)),
        Row(KEPT, "with_flower", precision, ("model kept",), "flower"),
        Row(LOADED, "with_flower", precision, ("model loaded",), "flower"),
        *in_one_process(Row(PFL, "with_pfl", precision, (), "pfl")),
        Row(f"{PFL}, {CORES} processes", "with_pfl", precision, (), "pfl", torchrun=CORES),
        *in_one_process(Row(TRAINER, "with_trainer", precision)),
        *in_one_process(Row("torch loop", "with_torch", precision)),
        *in_one_process(Row(PRODUCTS, "roofline", precision)),
    ]


ROWS = [*rows("float32"), *rows("bfloat16")]


@dataclass(frozen=True)
class Target:
    """How much faster fedfm is meant to be than another way, each with the number of threads that suits it best.

    Attributes:
        size: of the job.
        fast: name and precision of fedfm's rows.
        slow: name and precision of the others.
        factor: at least so many times.
        figure: of a result, that is compared.
    """

    size: Size
    fast: tuple[str, str]
    slow: tuple[str, str]
    factor: float
    figure: str = "seconds"


_FAST = (FEDFM, "bfloat16")
TARGETS = (
    Target(MINILM, _FAST, (KEPT, "float32"), 4),
    Target(MINILM, _FAST, (LOADED, "float32"), 10),
    Target(MINILM, _FAST, (PFL, "float32"), 7),
    Target(MINILM, _FAST, (TRAINER, "float32"), 12, "cpu_seconds"),
    Target(MINILM, (STACKED, "float32"), (ONE_BY_ONE, "float32"), 1.4),
    Target(MINILM, (STACKED, "bfloat16"), (ONE_BY_ONE, "float32"), 4),
    Target(TINY, _FAST, (KEPT, "float32"), 7),
    Target(TINY, _FAST, (LOADED, "float32"), 25),
    Target(TINY, _FAST, (PFL, "float32"), 8),
    Target(TINY, _FAST, (TRAINER, "float32"), 30),
)
