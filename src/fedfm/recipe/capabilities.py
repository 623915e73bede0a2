"""What choices of a recipe need from each other: each need that is not met is refused, with both keys and the reason.

Methods say what they need, give and take in their classes (`Settings.needs`, `gives`, `takes`); `PLAIN_KEYS` says it
for keys that are not methods. So a new method never names the methods that it goes with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_origin

from fedfm.capabilities import (
    BACKBONE_WEIGHTS,
    BARRIER,
    BOTH_TOWERS_TUNED,
    EXAMPLE_COUNTS,
    FIXED_COHORT,
    GRADIENTS,
    INDIVIDUAL_FIGURES,
    LABELS,
    LASTING_COORDINATES,
    LOW_RANK_FACTORS,
    MODEL_CHANGES,
    ONE_BACKBONE,
    ONE_MODEL,
    PARTIAL_PARTICIPATION,
    RECOMPUTATION,
    SGD,
    SHARED_CODE,
    SHARED_TUNABLE,
    SIMULATED_CLIENTS,
    SINGLE_EXAMPLES,
    STATEFUL_CLIENTS,
    STEADY_CLIENTS,
    TEXT_INPUTS,
    TUNABLE_UPDATES,
    TWO_TOWERS,
    UNLESS_TAKEN,
    WEIGHT_MATRICES,
    WHOLE_VIEWS,
)
from fedfm.data.settings import SITES
from fedfm.errors import Problem
from fedfm.recipe.fields import choice_of, selector, settings_classes
from fedfm.recipe.keys import RecipeKeys
from fedfm.recipe.problems import overlap
from fedfm.registry import name_of
from fedfm.settings import Capabilities, Settings


@dataclass(frozen=True)
class Chosen:
    """A choice that a recipe makes.

    Attributes:
        where: its dotted key.
        value: what it is set to.
        capabilities: what that means for the other choices.
    """

    where: str
    value: Any
    capabilities: Capabilities

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return f"`{self.where}: {self.value}`"
        return (
            f"`{self.where}: {json.dumps(self.value)}`"
            if isinstance(self.value, bool | int | float)
            else f"`{self.where}`"
        )


@dataclass(frozen=True)
class PlainKey:
    """A key that is not a method, and what it means for other choices where it is set in a certain way.

    Attributes:
        where: the dotted key.
        is_set: whether it is set so.
        needs: as `Settings.needs`.
        takes: as `Settings.takes`.
    """

    where: str
    is_set: Callable[[RecipeKeys], bool]
    needs: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)


def incompatible(recipe: RecipeKeys, faulty: Sequence[str] = ()) -> list[Problem]:
    """One problem for each need of a choice that the other choices of a recipe do not meet.

    Args:
        recipe: sound key by key.
        faulty: dotted keys that were left out of it; choices at these keys are not judged.
    """
    made = [
        choice
        for choice in (*_methods(recipe), *_plain(recipe))
        if not any(overlap(choice.where, fault) or overlap(_group(choice.where), fault) for fault in faulty)
    ]
    problems = []
    for choice in made:
        for capability, why in choice.capabilities.needs.items():
            takers = [other for other in made if other is not choice and capability in other.capabilities.takes]
            reasons = [f"{taker} excludes that: {taker.capabilities.takes[capability]}" for taker in takers]
            if not takers and capability not in UNLESS_TAKEN:
                if any(capability in other.capabilities.gives for other in made if other is not choice):
                    continue
                givers = _givers(recipe, capability)
                if any(overlap(where, fault) for where in givers for fault in faulty):
                    continue
                reasons = [_lacking(recipe, givers)]
            if reasons:
                subject = f"`{choice.value}` needs" if isinstance(choice.value, str) else "needs"
                problems.append(Problem(choice.where, f"{subject} {capability}: {why}. {'; '.join(reasons)}"))
    return problems


def _group(where: str) -> str:
    """The group of a key that chooses a kind: where the kind is faulty, the group was left out."""
    return where.rpartition(".")[0] or where


def _methods(settings: Settings, where: str = "") -> Iterator[Chosen]:
    """The methods that a recipe chooses, in its order."""
    for key, info in type(settings).model_fields.items():
        value = getattr(settings, key)
        path = f"{where}.{key}".lstrip(".")
        several = isinstance(value, list)
        for number, part in enumerate(value if several else [value]):
            if not isinstance(part, Settings):
                continue
            place = f"{path}[{number}]" if several else path
            choice = choice_of(info)
            chooser = choice.key if choice else selector(settings_classes(info))
            if chooser is not None:
                said = part.capabilities()
                if choice is not None and choice.is_here_only(part):
                    said = Capabilities({**said.needs, SHARED_CODE: _GIVEN_AS_OBJECT}, said.gives, said.takes)
                yield Chosen(f"{place}.{chooser}", getattr(part, chooser), said)
            yield from _methods(part, place)


def _plain(recipe: RecipeKeys) -> Iterator[Chosen]:
    for key in PLAIN_KEYS:
        if key.is_set(recipe):
            value: Any = recipe
            for part in key.where.split("."):
                value = getattr(value, part)
            yield Chosen(key.where, value, Capabilities(key.needs, frozenset(), key.takes))


def _givers(recipe: RecipeKeys, capability: str) -> dict[str, list[str]]:
    """Key that chooses a kind → the kinds that give a capability."""
    found: dict[str, list[str]] = {}
    for where, classes in _choices(type(recipe)):
        chooser = selector(classes)
        names = [str(name_of(group, chooser)) for group in classes if chooser and capability in group.gives]
        if names:
            found[f"{where}.{chooser}"] = names
    return found


def _choices(model: type[Settings], where: str = "") -> Iterator[tuple[str, tuple[type[Settings], ...]]]:
    """Dotted keys of choices, and what each may be; also those in a group that has no kinds; not in lists of groups."""
    for key, info in model.model_fields.items():
        classes, path = settings_classes(info), f"{where}.{key}".lstrip(".")
        yield path, classes
        if len(classes) == 1 and selector(classes) is None and get_origin(info.annotation) is not list:
            yield from _choices(classes[0], path)


def _lacking(recipe: RecipeKeys, givers: Mapping[str, list[str]]) -> str:
    """Which keys would give a capability that no choice gives."""
    if not givers:
        return "No method that is installed gives that"
    return "; ".join(f"`{where}` gives that with {' or '.join(names)}" for where, names in givers.items())


_GIVEN_AS_OBJECT = (
    "its class was given to this process as an object; install its package with an entry point to use it elsewhere"
)

PLAIN_KEYS = (
    PlainKey(
        "model.init",
        lambda recipe: recipe.model.init == "random",
        needs={
            WEIGHT_MATRICES: "weights that were drawn at random must all be trained",
            BACKBONE_WEIGHTS: "a model without training has nothing that a proxy could stand in for; set pretrained",
            ONE_BACKBONE: "the other backbones are pretrained; leave out federation.models",
        },
    ),
    PlainKey(
        "federation.sampling",
        lambda recipe: recipe.federation.sampling == "poisson",
        takes={FIXED_COHORT: "the number of clients of a round is drawn"},
    ),
    PlainKey(
        "federation.sampling",
        lambda recipe: recipe.federation.sampling == "weighted",
        takes={FIXED_COHORT: "a client can be drawn several times"},
    ),
    PlainKey(
        "federation.without",
        lambda recipe: bool(recipe.federation.without),
        needs={SIMULATED_CLIENTS: "a site is left out by the server's --allow"},
        takes={FIXED_COHORT: "a round in which a client was drawn that is left out has fewer clients"},
    ),
    PlainKey(
        "federation.presence",
        lambda recipe: bool(recipe.federation.presence),
        needs={
            SIMULATED_CLIENTS: "real sites come and go by themselves, and a round draws from those that are connected",
            BARRIER: "clients come and go between rounds",
            PARTIAL_PARTICIPATION: "a round draws only from the clients that are there",
        },
        takes={
            FIXED_COHORT: "a round may have fewer clients, where few are there",
            STEADY_CLIENTS: "a client is drawn more often while others are away",
        },
    ),
    PlainKey(
        "federation.per_round",
        lambda recipe: recipe.federation.per_round not in (None, recipe.federation.clients),
        needs={PARTIAL_PARTICIPATION: "it names fewer clients than there are; leave it out"},
    ),
    PlainKey(
        "runtime.spares",
        lambda recipe: bool(recipe.runtime.spares),
        needs={
            BARRIER: "a round ends when enough of its clients have answered",
            INDIVIDUAL_FIGURES: "a client that answers late is left out; set 0",
        },
    ),
    PlainKey(
        "data.train",
        lambda recipe: recipe.data.train == SITES,
        takes={SIMULATED_CLIENTS: "clients hold their own data"},
    ),
    PlainKey(
        "data.validation",
        lambda recipe: isinstance(recipe.data.validation, float),
        needs={SIMULATED_CLIENTS: "a fraction is held back from the training data; name a file"},
    ),
    PlainKey(
        "data.test",
        lambda recipe: isinstance(recipe.data.test, float),
        needs={SIMULATED_CLIENTS: "a fraction is held back from the training data; name a file"},
    ),
    PlainKey(
        "data.client",
        lambda recipe: recipe.data.client is not None,
        needs={SIMULATED_CLIENTS: "it splits the server's training data; leave it out"},
    ),
    PlainKey(
        "data.limit",
        lambda recipe: recipe.data.limit is not None,
        needs={SIMULATED_CLIENTS: "it cuts the server's training data; leave it out"},
    ),
    PlainKey(
        "federation.partition.kind",
        lambda recipe: recipe.federation.partition is not None,
        needs={SIMULATED_CLIENTS: "it splits the server's training data; leave it out"},
    ),
    PlainKey(
        "federation.sampling",
        lambda recipe: recipe.federation.sampling == "weighted",
        needs={
            SIMULATED_CLIENTS: "the number of a client's examples decides; use uniform or poisson",
            EXAMPLE_COUNTS: "a client is drawn in proportion to them; use poisson",
        },
    ),
    PlainKey(
        "local.logit_adjustment",
        lambda recipe: recipe.local.logit_adjustment > 0,
        needs={LABELS: "it is by a client's shares of the classes"},
    ),
    PlainKey(
        "federation.label_groups",
        lambda recipe: recipe.federation.label_groups > 1,
        needs={
            SIMULATED_CLIENTS: "the labels of the clients' data are changed; set 1",
            LABELS: "it renames classes; set 1",
        },
    ),
    PlainKey(
        "federation.holdout",
        lambda recipe: recipe.federation.holdout > 0 and recipe.evaluate.at == "server",
        needs={SIMULATED_CLIENTS: "the server evaluates on what is held out; set 0, or evaluate.at=clients"},
    ),
    PlainKey(
        "federation.unseen",
        lambda recipe: recipe.federation.unseen > 0,
        needs={SIMULATED_CLIENTS: "the server evaluates on their examples; set 0"},
    ),
    PlainKey(
        "federation.devices",
        lambda recipe: bool(recipe.federation.devices),
        needs={SIMULATED_CLIENTS: "profiles replace the speed of real machines; leave them out"},
    ),
    PlainKey(
        "audit.canaries",
        lambda recipe: recipe.audit.canaries > 0,
        needs={
            SIMULATED_CLIENTS: "they are planted in the clients' data; set 0",
            TEXT_INPUTS: "a canary is random tokens; set 0",
            ONE_BACKBONE: "their tokens are drawn for one tokenizer; set 0",
        },
    ),
    PlainKey(
        "federation.ranks",
        lambda recipe: recipe.federation.ranks is not None,
        needs={
            LOW_RANK_FACTORS: "a client gets the leading rows and columns of a pair of factors",
            TUNABLE_UPDATES: "the server folds what a client returns into its part of the factors",
        },
        takes={WHOLE_VIEWS: "a client holds the leading ranks only"},
    ),
    PlainKey(
        "federation.budgets",
        lambda recipe: recipe.federation.budgets is not None,
        needs={
            WEIGHT_MATRICES: "a client gets some of a model's neurons and heads",
            TUNABLE_UPDATES: "the server folds what a client returns into its part of the model",
            BACKBONE_WEIGHTS: "a proxy has neurons of its own",
        },
        takes={WHOLE_VIEWS: "a client holds some neurons and heads only"},
    ),
    PlainKey(
        "federation.modalities",
        lambda recipe: recipe.federation.modalities is not None,
        needs={
            TWO_TOWERS: "a client without images or texts trains the tower of the other kind",
            BOTH_TOWERS_TUNED: "a client with one kind trains the tower of that kind",
            SIMULATED_CLIENTS: "they leave out a kind of the pairs that they have; sites need pairs",
        },
        takes={WHOLE_VIEWS: "a client with one kind holds one tower only"},
    ),
    PlainKey(
        "federation.modalities",
        lambda recipe: recipe.federation.modalities is not None and not recipe.protocol.serves_kinds,
        needs={TUNABLE_UPDATES: "the server folds what a client returns into its tower"},
    ),
    PlainKey(
        "model.text",
        lambda recipe: recipe.model.text is not None,
        needs={TWO_TOWERS: "only such a task reads texts by a second model"},
    ),
    PlainKey(
        "federation.models",
        lambda recipe: bool(recipe.federation.models),
        needs={SIMULATED_CLIENTS: "a site trains the model that the run names"},
        takes={
            ONE_BACKBONE: "clients have different backbones",
            ONE_MODEL: "clients have different backbones",
            SHARED_TUNABLE: "clients have different backbones",
        },
    ),
    PlainKey(
        "tune.share",
        lambda recipe: recipe.tune.share is not None,
        needs={TUNABLE_UPDATES: "only a part of the tunable travels"},
        takes={
            ONE_MODEL: "each client keeps a part of the tunable for itself",
            SHARED_TUNABLE: "each client keeps a part of the tunable for itself",
            WHOLE_VIEWS: "each client keeps a part of the tunable for itself",
        },
    ),
    PlainKey(
        "evaluate.at",
        lambda recipe: recipe.evaluate.at == "clients",
        needs={BACKBONE_WEIGHTS: "a run is judged by the backbone, which the clients do not hold; use server or both"},
    ),
    PlainKey(
        "evaluate.at",
        lambda recipe: recipe.evaluate.at != "server",
        needs={
            ONE_BACKBONE: "clients evaluate the tunable of the server; use server",
            INDIVIDUAL_FIGURES: "each client sends its metrics; use server",
        },
    ),
    PlainKey(
        "evaluate.patience",
        lambda recipe: recipe.evaluate.patience is not None,
        needs={ONE_MODEL: "an earlier round is delivered, and of what is a client's own only the latest is kept"},
        takes={MODEL_CHANGES: "an earlier round is delivered, and of the frozen weights only the latest are kept"},
    ),
    PlainKey(
        "evaluate.baselines",
        lambda recipe: bool(recipe.evaluate.baselines),
        needs={SIMULATED_CLIENTS: "the server trains on the clients' data; leave them out"},
    ),
    PlainKey(
        "evaluate.matrix",
        lambda recipe: recipe.evaluate.matrix,
        needs={
            SIMULATED_CLIENTS: "models would have to leave the sites; set false",
            ONE_BACKBONE: "every client's model is evaluated on the server's backbone; set false",
            BACKBONE_WEIGHTS: "every client's model is evaluated on the backbone, which the clients do not hold",
        },
    ),
    PlainKey(
        "local.optimizer",
        lambda recipe: recipe.local.optimizer != "sgd",
        needs={GRADIENTS: "it keeps moments of them; set local.optimizer=sgd"},
        takes={SGD: "its steps are not multiples of the gradient; set local.optimizer=sgd"},
    ),
    PlainKey(
        "local.momentum",
        lambda recipe: recipe.local.momentum > 0,
        needs={GRADIENTS: "it is of them; set 0"},
        takes={SGD: "its steps are not multiples of the gradient; set local.momentum=0"},
    ),
    PlainKey(
        "local.optimizer",
        lambda recipe: recipe.local.optimizer == "muon",
        needs={
            WEIGHT_MATRICES: "it orthogonalises steps of the model's own matrices",
            WHOLE_VIEWS: "a part of a matrix has other singular vectors",
        },
    ),
    PlainKey(
        "local.keep_optimizer",
        lambda recipe: recipe.local.keep_optimizer,
        needs={
            STATEFUL_CLIENTS: "clients keep the optimiser's moments between rounds; set false",
            LASTING_COORDINATES: "clients keep the optimiser's moments between rounds; set false",
            TUNABLE_UPDATES: "it is kept where clients train and send the tunable; set false",
            GRADIENTS: "the moments are of gradients; set false",
        },
    ),
    PlainKey(
        "local.lr_scheduler_interval",
        lambda recipe: recipe.local.lr_scheduler_interval == "step",
        needs={GRADIENTS: "it is of gradient steps; set round"},
        takes={SGD: "the learning rate changes within a round; set local.lr_scheduler_interval=round"},
    ),
    PlainKey(
        "local.max_grad_norm",
        lambda recipe: recipe.local.max_grad_norm is not None,
        needs={GRADIENTS: "it clips them; set local.max_grad_norm=null"},
        takes={SGD: "a clipped gradient is scaled; set local.max_grad_norm=null"},
    ),
    PlainKey(
        "local.recompute",
        lambda recipe: recipe.local.recompute != "none",
        needs={
            RECOMPUTATION: "it computes parts of the blocks twice; set none",
            GRADIENTS: "it saves memory of the backward pass; set none",
        },
    ),
    PlainKey(
        "local.weight_decay",
        lambda recipe: recipe.local.weight_decay > 0,
        needs={GRADIENTS: "it is part of the optimiser's step; set 0"},
    ),
    PlainKey(
        "local.logit_adjustment",
        lambda recipe: recipe.local.logit_adjustment > 0,
        takes={SINGLE_EXAMPLES: "it adjusts each example's loss by the classes of all of them; set 0"},
    ),
    PlainKey(
        "local.dropout",
        lambda recipe: recipe.local.dropout,
        needs={GRADIENTS: "losses are compared without dropout; set false"},
    ),
    PlainKey(
        "tune.kind",
        lambda recipe: recipe.tune.dropout > 0,
        needs={GRADIENTS: "losses are compared without dropout; set its dropout to 0 (tune.lora_dropout)"},
    ),
    PlainKey(
        "runtime.kind",
        lambda recipe: recipe.runtime.kind != "local",
        takes={
            SHARED_CODE: "its clients run in other programs",
            MODEL_CHANGES: "its nodes load the model once and do not change its frozen weights yet; use local",
        },
    ),
)
"""Keys that are not methods, in the order of the recipe."""
