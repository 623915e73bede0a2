"""A run with clients on machines of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedfm.data.settings import SITES
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.listeners import Listener
from fedfm.runtimes.nodes import Line
from fedfm.runtimes.relay import Wait
from fedfm.runtimes.settings import Flower
from fedfm.server.experiment.runtime_factory import require_extra
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.finished import Run
from fedfm.server.runs.start import continue_run, start_run
from fedfm.server.experiment.deployment import RealSites


@dataclass(frozen=True)
class Hosting:
    """What a server needs to be found by its sites, and to know them.

    Attributes:
        keys: name of a site, which is its client id → its public key.
        tls: folder with ``ca.crt``, ``server.pem`` and ``server.key``.
        port: of 127.0.0.1 that sites, or the reverse proxy before them, connect to.
        folder: of what Flower keeps; kept, so that sites find a server again that was killed.
        patience: seconds to wait for all sites before the first round, and for a quorum before others.
    """

    keys: Mapping[str, Path]
    tls: Path
    port: int
    folder: Path
    patience: float


def serve(
    source: str | Path,
    overrides: Sequence[str],
    hosting: Hosting,
    *,
    listeners: Sequence[Listener] = (),
    heard: Callable[[Sequence[str]], None] = lambda names: None,
    waits: Callable[[Wait], None] = lambda wait: None,
) -> Run:
    """Runs a recipe with clients on machines of their own, or continues such a run.

    Args:
        source: a recipe as for `fedfm.run`, or the folder of a run.
        overrides: ``dotted.key=value`` settings; of a run, as for `fedfm.resume`.
        hosting: how sites find the server.
        listeners: hear of every step, and of sites that do not take part.
        heard: is told of the sites that are there whenever they have changed.
        waits: gets the sites that are waited for, and for how long.

    Raises:
        RecipeError: something in the recipe does not fit, or the run is not of these sites.
        TooFewClientsError: no site came, or a round had fewer sound updates than the quorum.
        DataError, StorageError, InterruptedRunError: as `fedfm.run`.
    """
    require_extra(Flower())

    def warn(text: str) -> None:
        for listener in listeners:
            listener.on_warning(text)

    deployment = RealSites(sorted(hosting.keys), partial(_line, hosting, heard, waits), warn)
    if (Path(source) / "recipe.yaml").is_file():
        opened = RunFolder.open(source)
        _refuse_other_sites(opened, hosting.keys)
        return continue_run(opened, overrides, deployment, listeners)
    return start_run(for_sites(load_recipe(source, overrides), len(hosting.keys)), deployment, listeners)


def for_sites(recipe: Recipe, clients: int) -> Recipe:
    """A recipe, perhaps of a simulation, as it is with clients that hold their own data.

    What decides how data is split goes; the rest stays as it is.

    Args:
        recipe: the simulation's.
        clients: how many there are.

    Raises:
        RecipeError: it needs the clients' data at the server; lists every problem.
    """
    values: dict[str, Any] = recipe.model_dump()
    values["data"] |= {"train": SITES, "client": None, "limit": None}
    values["federation"] |= {"clients": clients, "partition": None}
    shared = {key: value for key, value in values["runtime"].items() if key in Flower.model_fields}
    values["runtime"] = shared | {"kind": "flower", "nodes": clients}
    return load_recipe(values)


def _line(
    hosting: Hosting,
    heard: Callable[[Sequence[str]], None],
    waits: Callable[[Wait], None],
    experiment: Experiment,
) -> Line:
    from fedfm.runtimes.flower.host import HostLine

    federation, runtime = experiment.recipe.federation, experiment.recipe.runtime
    cohort = federation.expected_cohort(len(hosting.keys))
    return HostLine(
        hosting.folder,
        tls=hosting.tls,
        port=hosting.port,
        keys=hosting.keys,
        least=max(1, math.ceil(federation.quorum * cohort), federation.min_clients or 0),
        patience=hosting.patience,
        deadline=runtime.deadline if isinstance(runtime, Flower) else None,
        heard=heard,
        waits=waits,
    )


def _refuse_other_sites(folder: RunFolder, names: Mapping[str, Path]) -> None:
    """A continued run must have the clients that it began with; killed before they were written down, it has none."""
    rows = jsonl.read(folder.clients, shapes.CLIENTS) if folder.clients.is_file() else None
    before = set(names) if rows is None else {row["id"] for row in rows}
    if before != set(names):
        raise RecipeError(
            f"this run began with the sites {', '.join(sorted(before))}, not {', '.join(sorted(names))}: "
            "allow the same keys, under the same names",
            source="run",
        )
