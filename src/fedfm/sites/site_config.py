"""A site's own data: what its ``data.yaml`` says, and what becomes of a server's recipe with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from fedfm.clients.settings import LocalSettings
from fedfm.data.labels import LabelMap
from fedfm.data.settings import CsvSettings, Reference, TextColumns
from fedfm.errors import Problem, RecipeError
from fedfm.hosts.client_split import Federation
from fedfm.hosts.training_data import TrainingData, recipe_source
from fedfm.models.processors import Processor
from fedfm.recipe import Recipe
from fedfm.recipe.problems import explain
from fedfm.settings import Settings
from fedfm.tasks import TASKS
from fedfm.yaml_text import YamlError, parse

_PUBLIC_MODEL = r"builtin:[\w-]+|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""References to models that mean the same everywhere: a server does not choose among a site's files."""

S = TypeVar("S", bound=Settings)


class OwnData(Settings):
    """A site's ``data.yaml``: where its data is, and what the recipe's features are called in it."""

    train: Reference
    """File, folder, pattern or list of these, as the recipe's `data.train`; relative paths start where the file is."""
    csv: CsvSettings = CsvSettings()
    """How CSV and TSV files are written."""
    text: TextColumns | None = None
    """Text column, or two for pairs; null: as the recipe names them."""
    label: str | None = None
    """Column of the class; null: as the recipe names it."""
    labels: dict[str, str] = {}
    """A value of that column → the recipe's class, where they are not called alike."""
    image: str | None = None
    """Column of the image; null: as the recipe names it."""
    model: str | None = None
    """Folder of the recipe's model, where it is not under the recipe's name."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """What to train on; `auto` takes a GPU when there is one."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Examples of a step, at most, where the machine has no memory for the recipe's; null: any."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of a round, at most, where it has no time for the recipe's; null: any."""


def read_settings(path: Path, kind: type[S]) -> S:
    """The settings in a YAML file.

    Raises:
        RecipeError: it cannot be read, or is not sound; lists every problem.
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
        raise RecipeError("holds no keys: it has `key: value` lines", source=str(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, kind, values), source=str(path)) from None


def read_own_data(path: Path) -> OwnData:
    """A site's ``data.yaml``, its paths made absolute.

    Raises:
        RecipeError: as `read_settings`.
    """
    own = read_settings(path, OwnData)
    train = _from(path, own.train) if isinstance(own.train, str) else [_from(path, name) for name in own.train]
    known = {"train": train, "model": own.model and _from(path, own.model)}
    return own.model_copy(update=known)


def at_site(recipe: Recipe, own: OwnData, *, allow_network: bool) -> Recipe:
    """A server's recipe as it holds at a site.

    Args:
        recipe: resolved at the server.
        own: the site's data.
        allow_network: whether the site lets models be fetched.

    Raises:
        RecipeError: the site's columns are not those of the recipe's task, or its classes not the recipe's.
    """
    problems = []
    if own.text is not None and len(own.text) != len(recipe.data.text):
        wanted = "a pair of texts" if len(recipe.data.text) == 2 else "one text"
        problems.append(Problem("data.text", f"the recipe learns from {wanted}: name as many columns as `text`"))
    classes = recipe.data.labels or []
    for value, name in own.labels.items():
        if name not in classes:
            problem = f"`labels` maps the value {value} to no class of the recipe: {', '.join(classes)}"
            problems.append(Problem("data.label", problem, name))
    if own.model is None and not recipe.proxy.is_sent:
        if not re.fullmatch(_PUBLIC_MODEL, recipe.model.path):
            problem = "the recipe's model is in a folder of the server's: name the folder here as `model`"
            problems.append(Problem("model.path", problem))
        elif Path(recipe.model.path).exists():  # by that name transformers would take it in place of the hub's
            problem = f"{recipe.model.path} is also a folder of the site's: name what is meant as `model`"
            problems.append(Problem("model.path", problem))
    if problems:
        raise RecipeError(problems, source="data.yaml")
    columns = {key: value for key in ("text", "label", "image") if (value := getattr(own, key)) is not None}
    known: dict[str, Any] = {
        "data": recipe.data.model_copy(update={"train": own.train, "csv": own.csv, **columns}),
        "allow_network": recipe.allow_network and allow_network,
        "runtime": recipe.runtime.model_copy(
            update={"device": own.device, "stack": "off" if recipe.runtime.stack == "off" else 1}
        ),
    }
    if own.model is not None:
        known["model"] = recipe.model.model_copy(update={"path": own.model, "revision": None})
    return recipe.model_copy(update=known)


def read_site(recipe: Recipe, own: OwnData, client: str, processor: Processor) -> TrainingData:
    """A site's data, all of it one client's.

    Args:
        recipe: as `at_site` gives it.
        own: the site's data.
        client: its name.
        processor: tokenizer or image processor of the model that is trained, the backbone or its proxy.

    Raises:
        RecipeError: recipe and data do not fit.
        DataError: a file cannot be read.
    """
    task = TASKS[recipe.task.kind]
    source = recipe_source(recipe, recipe.data.train, "train")
    labels = LabelMap(tuple(recipe.data.labels), own.labels) if task.labelled and recipe.data.labels else None
    train = task.encode(source, recipe.data, processor, labels)
    return TrainingData(
        recipe=recipe.model_copy(update={"local": _affordable(recipe.local, own, len(train))}),
        task=task,
        processor=processor,
        labels=labels,
        train=train,
        federation=Federation({client: np.arange(len(train))}, {}, ()),
        source=source,
        held_back={},
        digest=source.digest,
    )


def _affordable(local: LocalSettings, own: OwnData, examples: int) -> LocalSettings:
    """What the site's machine can do of the local training that is asked for; never more than that."""
    if own.batch_size is not None:
        local = local.model_copy(update={"batch_size": min(own.batch_size, local.batch_size)})
    if own.max_steps is not None and own.max_steps < local.steps(examples):
        local = local.model_copy(update={"max_steps": own.max_steps})
    return local


def _from(path: Path, reference: str) -> str:
    """A reference of a file in ``path``; what names no file stays as it is."""
    if reference.partition(":")[0] in ("builtin", "hf"):
        return reference
    return str(path.parent.absolute() / Path(reference).expanduser())
