"""Which choices of a recipe go together: the axes of the matrix, and `docs/matrix.md`, written from the classes.

    python -m tools.matrix      # writes the page; `make schema` does it

A method that is added to its registry is in the matrix from then on; nothing here names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from fedfm.errors import Problem, RecipeError
from fedfm.recipe.federation import FederationSettings
from fedfm.recipe.fields import choice_of, is_list, selector, settings_classes
from fedfm.recipe.keys import RecipeKeys
from fedfm.recipe.planned import PLANNED
from fedfm.recipe.schema import Recipe
from fedfm.registry import name_of
from fedfm.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "matrix.md"

Values = dict[str, Any]

BASE: Values = {
    "name": "matrix",
    "model": {"path": "builtin:tiny-bert"},
    "task": {"kind": "text-classification"},
    "data": {"train": "train.jsonl", "test": "test.jsonl", "validation": "validation.jsonl"},
    "public": {"data": "public.jsonl"},
    "local": {"optimizer": "sgd", "max_grad_norm": None},
}
"""What every choice is tried with; what it does not need does no harm."""

COMPANIONS: dict[tuple[str, str], Values] = {
    ("federation.partition.kind", "column"): {"data": {"client": "site"}},
    ("federation.stream.kind", "labels"): {"federation": {"stream": {"tasks": 2}}},
    ("federation.stream.kind", "column"): {"federation": {"stream": {"column": "site"}}},
    ("evaluate.at", "clients"): {"federation": {"holdout": 0.5}},
    ("privacy.kind", "central"): {"privacy": {"noise_multiplier": 1.0, "delta": 0.01}},
    ("task.kind", "multi"): {"task": {"tasks": [{"kind": "text-classification", "name": "a"}]}},
    ("federation.budgets", "set"): {"tune": {"kind": "full"}},
}
"""Choices that no recipe can make without another key."""

PLAIN: dict[str, list[Any]] = {
    "data.train": ["train.jsonl", "sites"],
    "federation.sampling": list(get_args(FederationSettings.model_fields["sampling"].annotation)),
    "federation.ranks": [None, [2, 4]],
    "federation.budgets": [None, [0.5, 1.0]],
    "federation.models": [[], [{"path": "builtin:tiny-distilbert", "clients": 0.5}]],
    "tune.share": [None, "head"],
    "local.optimizer": ["sgd", "adamw"],
    "local.max_grad_norm": [None, 1.0],
    "local.recompute": ["none", "blocks"],
    "evaluate.at": ["server", "clients"],
}
"""Keys that are not methods and mean something for other choices → values to try, first the one that means nothing."""


@dataclass(frozen=True)
class Pick:
    """A choice to try.

    Attributes:
        where: its dotted key.
        name: how the page writes its value.
        values: the recipe's values that make it.
    """

    where: str
    name: str
    values: Values


def axes() -> dict[str, list[Pick]]:
    """Dotted key → the choices at it that this version has; keys with one choice are left out."""
    found = dict(_methods(RecipeKeys))
    for where, values in PLAIN.items():
        picks = [
            Pick(where, _name(value), merged(_nested(where, value), COMPANIONS.get((where, _name(value)), {})))
            for value in values
        ]
        found[where] = [pick for pick in picks if not _is_planned(pick)]
    return {where: picks for where, picks in found.items() if len(picks) > 1}


def _methods(settings: type[Settings], group: str = "") -> Iterator[tuple[str, list[Pick]]]:
    for key, field in settings.model_fields.items():
        classes, choice = settings_classes(field), choice_of(field)
        path = f"{group}.{key}".lstrip(".")
        chooser = choice.key if choice else selector(classes)
        if chooser is None:
            if len(classes) == 1 and not is_list(field):
                yield from _methods(classes[0], path)
            continue
        where = f"{path}.{chooser}"
        names = [str(name_of(kind, chooser)) for kind in classes]
        values = [[{chooser: name}] if is_list(field) else {chooser: name} for name in names]
        picks = [
            Pick(where, name, merged(_nested(path, value), COMPANIONS.get((where, name), {})))
            for name, value in zip(names, values, strict=True)
        ]
        yield where, ([Pick(where, "none", {}), *picks] if is_list(field) or field.default is None else picks)


def _name(value: Any) -> str:
    if isinstance(value, list):
        return "set" if value else "none"
    return "none" if value is None else str(value)


def _nested(where: str, value: Any) -> Values:
    for part in reversed(where.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _is_planned(pick: Pick) -> bool:
    return pick.name in PLANNED.get(pick.where, ())


def merged(*parts: Mapping[str, Any]) -> Values:
    """Values with later ones set over earlier ones, key by key."""
    result: Values = {}
    for part in parts:
        for key, value in part.items():
            is_group = isinstance(value, Mapping)
            result[key] = merged(result.get(key) or {}, value) if is_group else value
    return result


def problems(picks: Sequence[Pick]) -> list[Problem]:
    """Why choices do not go together; nothing where they do."""
    try:
        Recipe.model_validate(merged(BASE, *(pick.values for pick in picks)))
    except RecipeError as error:
        return error.problems
    return []


def refused_pairs(choices: Mapping[str, Sequence[Pick]]) -> Iterator[tuple[Pick, Pick, Problem]]:
    """Each pair of choices that is refused although each of the two is accepted alone, with the reason."""
    accepted = {where: [pick for pick in picks if not problems([pick])] for where, picks in choices.items()}
    for one, other in combinations(accepted, 2):
        for left in accepted[one]:
            for right in accepted[other]:
                for problem in problems([left, right])[:1]:
                    yield (
                        (left, right, problem)
                        if problem.where.startswith(one.split(".")[0])
                        else (right, left, problem)
                    )


def page() -> str:
    """The content of `docs/matrix.md`."""
    choices = axes()
    lines = [
        "# What goes with what",
        "",
        "Methods are independent choices. This page is written from their classes (`make schema`) and lists the pairs",
        "that a recipe cannot combine; every other pair is accepted when the recipe is read. A method that a model",
        "does not support is refused when the model is loaded.",
        "",
        "## Choices",
        "",
        "| key | values |",
        "|---|---|",
        *(f"| `{where}` | {', '.join(f'`{pick.name}`' for pick in picks)} |" for where, picks in choices.items()),
        "",
        "## Refused pairs",
        "",
        "| choice | not with | why |",
        "|---|---|---|",
    ]
    for left, right, problem in refused_pairs(choices):
        message = problem.message.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{left.where}: {left.name}` | `{right.where}: {right.name}` | {message} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
