"""Where clients execute."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from fedfm.runtimes.link import Link
from fedfm.settings import Settings


class RuntimeSettings(Settings):
    """Settings of all runtimes."""

    stack: Literal["auto", "off"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    """Clients trained in one pass, which gives each what it gets alone, to rounding. `auto` takes as many as fit and
    writes down their number; `off` trains one by one in a plain loop."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """`auto` takes a GPU when there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the frozen blocks in local training; the tunable, its optimiser and every evaluation stay in
    float32. `auto` is bfloat16 where a run takes longer than a minute or two, on CPUs with instructions for it."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Threads of a process where the number decides bits: in training, making and aligning a proxy, and the server's
    step. `auto` is 1, everywhere; more than 1 needs `processes: 1`. Evaluation uses all cores, unless
    `evaluate.patience` goes by it."""

    link: Link | None = None
    """The network of the clients, for estimates of the time that messages take, such as
    `{up: 10Mbit, down: 50Mbit}`; null: no estimate. Nothing waits for it."""
    watts: Annotated[float, Field(ge=0, le=100_000)] = 10.0
    """Power of a processor core that trains, in watts, for the estimate of energy: watts times CPU seconds."""

    def with_threads(self) -> Self:
        """The same with a number in place of `auto`."""
        return self.model_copy(update={"threads": self.resolved_threads})

    @property
    def resolved_threads(self) -> int:
        """Threads where their number decides bits."""
        return 1 if self.threads == "auto" else self.threads


class Local(RuntimeSettings):
    """Everything on this machine."""

    kind: Literal["local"] = "local"
    """Processes of this machine."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Processes of this machine that train clients, with one thread each and one backbone between them (Linux, on
    CPUs). `auto` takes one a core for runs that are worth it."""

    spares: ClassVar[float] = 0.0  # no client is slow or away
    deadline: ClassVar[float | None] = None  # likewise

    @property
    def place(self) -> str:
        """Words that say where clients are trained; empty for this process."""
        return ""

    def asked(self, per_round: int, clients: int) -> int:
        """Clients that are asked where ``per_round`` are wanted: as many."""
        return per_round


class OnNodes(RuntimeSettings):
    """Settings of runtimes whose clients are on nodes, which may be slow or away."""

    processes: ClassVar[int] = 1  # of a node
    deadline: Annotated[float, Field(gt=0)] | None = None
    """Seconds that nodes have for a round; what comes later is not waited for."""
    spares: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Clients that are asked beyond `federation.per_round`, as a share of it: a round ends when `per_round` have sent a
    sound update, and the others are not waited for. Who counts depends on who is fast, and so does the run."""

    def asked(self, per_round: int, clients: int) -> int:
        """Clients that are asked where ``per_round`` of ``clients`` are wanted."""
        return min(clients, math.ceil((1 + self.spares) * per_round))


class Flower(OnNodes):
    """A whole Flower federation on this machine, over TLS on its loopback: for trying a recipe before real machines."""

    kind: Literal["flower"] = "flower"
    """SuperNodes of a Flower federation."""
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 2
    """SuperNodes, each of which trains any of the clients."""

    @property
    def place(self) -> str:
        """Words that say where clients are trained."""
        return f", on {self.nodes} nodes behind Flower"


class Ray(OnNodes):
    """Actors of a Ray cluster, each with one backbone."""

    kind: Literal["ray"] = "ray"
    """Actors of a Ray cluster."""
    address: str | None = None
    """Of a cluster that runs, e.g. `auto` or `ray://head:10001`; null starts one on this machine for the run."""
    nodes: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Actors; null: one for each core, or GPU, of the cluster."""

    @property
    def place(self) -> str:
        """Words that say where clients are trained."""
        return ", in actors of Ray" if self.nodes is None else f", in {self.nodes} actors of Ray"


Runtime = Annotated[Local | Flower | Ray, Field(discriminator="kind")]
