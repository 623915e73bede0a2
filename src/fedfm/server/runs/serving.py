"""A run with real sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedfm.data.settings import SITES
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.cohorts import least_clients
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.runtimes.line import Line
from fedfm.runtimes.relay import Wait
from fedfm.runtimes.settings import Flower
from fedfm.server.experiment.build import Experiment
from fedfm.server.experiment.deployment import RealSites
from fedfm.server.experiment.runtime_factory import require_extra
from fedfm.server.runs.answers import Answered
from fedfm.server.runs.api import resume, run
from fedfm.server.runs.asking import ask
from fedfm.server.runs.finished import Run
from fedfm.trackers.listeners import Listener


@dataclass(frozen=True)
class Hosting:
    """What a server needs so that its sites can connect, and so that it can identify them.

    Attributes:
        keys: name of a site (its client id) → its public key.
        tls: folder with ``ca.crt``, ``server.pem`` and ``server.key``.
        port: of 127.0.0.1 that sites, or the reverse proxy in front of the server, connect to.
        folder: of Flower's files; it is kept, so that sites can connect again to a server that was killed.
        patience: seconds to wait for all sites before the first round, and for a quorum before later ones.
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
    """Runs a recipe with real sites, or continues such a run.

    Args:
        source: a recipe as for `fedfm.run`, or the folder of a run.
        overrides: ``dotted.key=value`` settings; of a run, as for `fedfm.resume`.
        hosting: how sites find the server.
        listeners: get every step, and a warning for each site that does not take part.
        heard: gets the names of the connected sites whenever they change.
        waits: gets the sites that the server waits for, and how long it will wait.

    Raises:
        RecipeError: something in the recipe does not fit, or the run began with other sites.
        TooFewClientsError: no site connected, or a round had fewer valid updates than the quorum.
        DataError, StorageError, InterruptedRunError: as `fedfm.run`.
    """
    require_extra("flower")

    def warn(text: str) -> None:
        for listener in listeners:
            listener.on_warning(text)

    deployment = RealSites(sorted(hosting.keys), partial(_line, hosting, heard, waits), warn)
    if (Path(source) / "recipe.yaml").is_file():
        _refuse_other_sites(RunFolder.open(source), hosting.keys)
        return resume(source, overrides, listeners=listeners, deployment=deployment)
    recipe = for_sites(load_recipe(source, overrides), len(hosting.keys))
    return run(recipe, listeners=listeners, deployment=deployment)


def ask_sites(
    source: Path,
    questions: Sequence[str],
    overrides: Sequence[str],
    hosting: Hosting,
    *,
    most: int,
    warn: Callable[[str], None],
    waits: Callable[[Wait], None] = lambda wait: None,
) -> list[Answered]:
    """Puts questions to the sites of a finished run, as `fedfm.server.runs.asking.ask`.

    Args:
        source: the run's folder.
        questions: at least one.
        overrides: as for `ask`.
        hosting: how sites find the server.
        most: passages of all sites together for each question.
        warn: gets a sentence for each site that does not take part.
        waits: gets the sites that the server waits for, and how long it will wait.

    Raises:
        RecipeError, DataError, TooFewClientsError: as `ask`; the run began with other sites.
    """
    require_extra("flower")
    _refuse_other_sites(RunFolder.open(source), hosting.keys)
    line = partial(_line, hosting, lambda names: None, waits)
    deployment = RealSites(sorted(hosting.keys), line, warn)
    return ask(source, questions, overrides, most=most, deployment=deployment)


def for_sites(recipe: Recipe, clients: int) -> Recipe:
    """A recipe, which may be a simulation's, for real sites: keys that split the data are reset, the others stay.

    Args:
        recipe: of the run.
        clients: number of sites.

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

    return HostLine(
        hosting.folder,
        tls=hosting.tls,
        port=hosting.port,
        keys=hosting.keys,
        least=least_clients(experiment.recipe, len(hosting.keys)),
        patience=hosting.patience,
        deadline=experiment.recipe.runtime.deadline,
        heard=heard,
        waits=waits,
    )


def _refuse_other_sites(folder: RunFolder, names: Mapping[str, Path]) -> None:
    """Refuses to continue a run with other sites; a run that was killed before it recorded its sites takes any."""
    rows = jsonl.read(folder.clients, shapes.CLIENTS) if folder.clients.is_file() else None
    before = set(names) if rows is None else {row["id"] for row in rows}
    if before != set(names):
        raise RecipeError(
            f"this run began with the sites {', '.join(sorted(before))}, not {', '.join(sorted(names))}: "
            "give `--allow` the same keys, under the same names",
            source="run",
        )
