"""A site's ``data.yaml``, and a server's recipe adapted to it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from fedfm.clients.settings import LocalSettings
from fedfm.data.settings import ConversationSettings, CsvSettings, PreferenceSettings, Reference, TextColumns
from fedfm.errors import Problem, RecipeError
from fedfm.hosts.client_split import ClientSplit, hold_out
from fedfm.hosts.training_data import TrainingData, recipe_source
from fedfm.models.processors import Processor
from fedfm.recipe import Recipe
from fedfm.recipe.problems import explain
from fedfm.settings import Settings
from fedfm.yaml_text import YamlError, parse

_PUBLIC_MODEL = r"builtin:[\w-]+|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""References to models that mean the same on every machine. A server cannot choose among a site's files."""

S = TypeVar("S", bound=Settings)


class SiteData(Settings):
    """A site's ``data.yaml``: where its data is, and what the recipe's features are called in it."""

    train: Reference
    """File, folder, pattern or list of these, as the recipe's `data.train`; relative to the folder of data.yaml."""
    csv: CsvSettings = CsvSettings()
    """Format of CSV and TSV files."""
    text: TextColumns | None = None
    """Text column, or two for pairs; null: as the recipe names them."""
    label: str | None = None
    """Column of the class; null: as the recipe names it."""
    labels: dict[str, str] = {}
    """A value of that column → the recipe's class, where their names differ."""
    image: str | None = None
    """Column of the image; null: as the recipe names it."""
    conversation: ConversationSettings | None = None
    """Where conversations are; null: as the recipe says."""
    preference: PreferenceSettings | None = None
    """Where pairs of responses are; null: as the recipe says."""
    model: str | None = None
    """Folder of the recipe's model at this site; null: found by the recipe's name."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Device to train on; `auto` takes a GPU if the machine has one."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """The largest number of examples in one step, where memory is too small for the recipe's; null: any."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """The largest number of steps in one round, where the recipe's would take too long; null: any."""


def read_settings(path: Path, kind: type[S]) -> S:
    """The settings in a YAML file.

    Raises:
        RecipeError: it cannot be read, or is not valid; the error lists every problem.
    """
    try:
        values = parse(path.read_text(encoding="utf-8-sig")) or {}
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", source=str(path)) from error
    except YamlError as error:
        raise RecipeError(str(error), source=f"{path}:{error.line}" if error.line else str(path)) from error
    if not isinstance(values, dict):
        raise RecipeError("has no keys: write `key: value` lines", source=str(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, kind, values), source=str(path)) from None


def read_site_data(path: Path) -> SiteData:
    """A site's ``data.yaml``, with absolute paths.

    Raises:
        RecipeError: as `read_settings`.
    """
    site = read_settings(path, SiteData)
    train = _from(path, site.train) if isinstance(site.train, str) else [_from(path, name) for name in site.train]
    known = {"train": train, "model": site.model and _from(path, site.model)}
    return site.model_copy(update=known)


def at_site(recipe: Recipe, site: SiteData, *, allow_network: bool) -> Recipe:
    """A server's recipe, adapted to a site.

    Args:
        recipe: as the server resolved it.
        site: the site's data.
        allow_network: whether the site allows models to be fetched.

    Raises:
        RecipeError: the site's columns are not those of the recipe's task, or its classes not the recipe's.
    """
    problems = []
    if site.text is not None and len(site.text) != len(recipe.data.text):
        wanted = "a pair of texts" if len(recipe.data.text) == 2 else "one text"
        problems.append(Problem("data.text", f"the recipe reads {wanted}: give `text` the same number of columns"))
    classes = recipe.data.labels or []
    for value, name in site.labels.items():
        if name not in classes:
            problem = f"`labels` maps the value {value} to no class of the recipe: {', '.join(classes)}"
            problems.append(Problem("data.label", problem, name))
    if site.model is None and not recipe.proxy.is_sent:
        if not re.fullmatch(_PUBLIC_MODEL, recipe.model.path):
            problem = "the recipe's model is a folder at the server: set `model` to its folder at this site"
            problems.append(Problem("model.path", problem))
        elif Path(recipe.model.path).exists():  # by that name transformers would take it in place of the hub's
            problem = f"{recipe.model.path} is also a folder at this site: set `model` to the one that is meant"
            problems.append(Problem("model.path", problem))
    if problems:
        raise RecipeError(problems, source="data.yaml")
    named = ("text", "label", "image", "conversation", "preference")
    columns = {key: value for key in named if (value := getattr(site, key)) is not None}
    known: dict[str, Any] = {
        "data": recipe.data.model_copy(update={"train": site.train, "csv": site.csv, **columns}),
        "allow_network": recipe.allow_network and allow_network,
        "runtime": recipe.runtime.model_copy(
            update={"device": site.device, "stack": "off" if recipe.runtime.stack == "off" else 1}
        ),
    }
    if site.model is not None:
        known["model"] = recipe.model.model_copy(update={"path": site.model, "revision": None})
    return recipe.model_copy(update=known)


def read_site(recipe: Recipe, site: SiteData, client: str, processor: Processor) -> TrainingData:
    """Reads a site's data, all of which is one client's.

    Args:
        recipe: as `at_site` returns it.
        site: the site's data.
        client: the site's name in the federation.
        processor: tokenizer or image processor of the model that is trained (backbone or proxy).

    Raises:
        RecipeError: recipe and data do not fit.
        DataError: a file cannot be read.
    """
    task = recipe.task
    source = recipe_source(recipe, recipe.data.train, "train")
    labels = task.named(recipe.data.labels) if task.labelled and recipe.data.labels else None
    if labels is not None:
        labels = replace(labels, aliases={**labels.aliases, **site.labels})
    train = task.encode(source, recipe.data, processor, labels)
    kept, held = hold_out(np.arange(len(train)), recipe, client)
    return TrainingData(
        recipe=recipe.model_copy(update={"local": _affordable(recipe.local, site, len(kept))}),
        task=task,
        processor=processor,
        labels=labels,
        train=train,
        federation=ClientSplit({client: kept}, {client: held} if len(held) else {}, ()),
        source=source,
        held_back={},
        digest=source.digest,
    )


def _affordable(local: LocalSettings, site: SiteData, examples: int) -> LocalSettings:
    """The local training that the recipe asks for, lowered to what the site's machine can do."""
    if site.batch_size is not None:
        local = local.model_copy(update={"batch_size": min(site.batch_size, local.batch_size)})
    if site.max_steps is not None and site.max_steps < local.steps(examples):
        local = local.model_copy(update={"max_steps": site.max_steps})
    return local


def _from(path: Path, reference: str) -> str:
    """A reference from a file at ``path``, made absolute; references that name no file stay as they are."""
    if reference.partition(":")[0] in ("builtin", "hf"):
        return reference
    return str(path.parent.absolute() / Path(reference).expanduser())
