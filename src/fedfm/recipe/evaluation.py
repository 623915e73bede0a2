"""When and how a run is measured, and when it is saved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings
from fedfm.tasks.generation_settings import GenerationSettings


class EvaluateSettings(Settings):
    """The recipe's ``evaluate``."""

    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Evaluate after every so many rounds, and after the last."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Examples a forward pass."""
    at: Literal["server", "clients", "both"] = "server"
    """Who measures: the `server` its own model on `data.test`; the `clients` what each of them holds, on the examples
    that it holds out (`federation.holdout`); or `both`. Clients send means and counts, never rows."""
    metrics: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = "auto"
    """Metrics to report, the headline first; `auto`: all that the task has."""
    clients: Annotated[int, Field(ge=0)] = 100
    """At most so many clients in the per-client evaluation (on what `federation.holdout` keeps, else on the test
    examples that name the client), and with an adapter of their own in `clients/`; 0 turns it off."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many rounds without a better result on the validation set, and deliver the best of them; null:
    never, and the last round is delivered."""
    baselines: list[Literal["local", "pooled"]] = []
    """Also train each client alone (`local`), and one model on all data in one place (`pooled`), to compare with; for
    each client too, where clients have examples of their own to evaluate on (`federation.holdout`)."""
    matrix: bool = False
    """Also evaluate every simulated client's model on the examples of every client, at the end of the run
    (`matrix.json`)."""
    generate: GenerationSettings = GenerationSettings()
    """How a language model writes, in `fedfm predict` and for the metrics of written answers."""


class CheckpointSettings(Settings):
    """The recipe's ``checkpoint``."""

    every: Annotated[int, Field(ge=1)] = 1
    """Save after every so many rounds, and after the last."""
    keep: Annotated[int, Field(ge=1)] | Literal["all"] = 2
    """Checkpoints that are kept; older ones are removed. `all` keeps every one."""
