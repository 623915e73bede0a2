"""What ``fedfm proxy build`` does: a proxy made ahead of a run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedfm.clients import use_threads
from fedfm.errors import RecipeError
from fedfm.proxies import PROXIES
from fedfm.recipe import Recipe
from fedfm.records.disk import replacing_folder, storage
from fedfm.server.experiment.build import build_experiment


def build_proxy(recipe: Recipe, folder: Path | str) -> dict[str, Any]:
    """Makes the proxy of a recipe, fits it on its public data, and writes it into a new folder.

    Returns:
        ``path``, ``kind``, ``parameters`` (``blocks``, ``backbone_blocks``, ``total``), ``disclosed``,
        ``disclosed_blocks``, ``first_download``, ``seconds``, and ``probes``: a record of each stage.

    Raises:
        RecipeError: the recipe has no proxy, does not fit, or the folder exists.
        DataError: a file cannot be read.
        StorageError: the folder cannot be written; checked before anything is fitted.
    """
    folder = Path(folder)
    if not recipe.proxy.is_sent:
        kinds = " or ".join(kind for kind, proxy in PROXIES.items() if proxy.is_sent)
        raise RecipeError(f"the recipe has no proxy to build; set proxy.kind to {kinds}", where="proxy.kind")
    if os.path.lexists(folder):
        raise RecipeError(f"{folder} exists already; name a new folder", source="proxy")
    with storage(folder, "write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}").cleanup()
    start = time.perf_counter()
    experiment = build_experiment(recipe)
    probes: list[dict[str, Any]] = []
    with use_threads(experiment.recipe.runtime.resolved_threads):
        version = experiment.client_model.prepare(experiment.start, probes.append)
    with replacing_folder(folder) as beside:
        experiment.client_model.save(beside, version)
    return {
        "path": str(folder),
        "kind": recipe.proxy.kind,
        **experiment.client_model.sizes(),
        "first_download": experiment.client_model.download_bytes,
        "seconds": round(time.perf_counter() - start, 3),
        "probes": probes,
    }
