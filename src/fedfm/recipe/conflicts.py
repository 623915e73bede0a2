"""Choices that exclude each other, each refused with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedfm.data.settings import SITES
from fedfm.errors import Problem
from fedfm.recipe.federation import DEFAULT_CLIENTS
from fedfm.recipe.problems import overlap
from fedfm.runtimes.settings import Local
from fedfm.spelling import nearest
from fedfm.tasks import TASKS

if TYPE_CHECKING:
    from fedfm.recipe.schema import Recipe


@dataclass(frozen=True)
class Check:
    """A rule between keys.

    Attributes:
        keys: dotted keys that it reads, first the one at which it complains; it is skipped when one is faulty.
        reason: what is wrong, or None.
    """

    keys: tuple[str, ...]
    reason: Callable[[Recipe], str | None]


def conflicts(recipe: Recipe, *, faulty: Sequence[str] = ()) -> list[Problem]:
    """All conflicts of a recipe.

    Args:
        recipe: sound key by key.
        faulty: dotted keys that were left out of it because they are wrong in themselves.
    """
    found = []
    for check in CHECKS:
        if any(overlap(key, fault) for key in check.keys for fault in faulty):
            continue
        reason = check.reason(recipe)
        if reason:
            found.append(Problem(check.keys[0], reason))
    return found


def _something_to_report(recipe: Recipe) -> str | None:
    if recipe.data.test is None:
        return "name a file, or a fraction such as 0.2 to hold back from train: a run reports what it reaches there"
    return None


def _held_back(recipe: Recipe) -> str | None:
    shares = [share for share in (recipe.data.validation, recipe.data.test) if isinstance(share, float)]
    if sum(shares) >= 1:
        return "nothing is left to train on: validation and test hold back all of train"
    return None


def _pairs(recipe: Recipe) -> str | None:
    if len(recipe.data.text) > 1 and recipe.task.kind != "text-classification":
        return f"two columns make a pair, which only text-classification reads; {recipe.task.kind} takes one"
    return None


def _cohort(recipe: Recipe) -> str | None:
    federation = recipe.federation
    clients = federation.clients or (None if recipe.data.client else DEFAULT_CLIENTS)
    if clients and isinstance(federation.per_round, int) and federation.per_round > clients:
        return f"{federation.per_round} clients a round, but there are {clients} (federation.clients)"
    return None


def _natural_column(recipe: Recipe) -> str | None:
    if recipe.partition.kind == "column" and recipe.data.client is None:
        return "a federation by column needs the column: set data.client"
    return None


def _natural_partition(recipe: Recipe) -> str | None:
    if recipe.data.client is not None and recipe.partition.kind != "column":
        return (
            f"names each example's client, but federation.partition splits by {recipe.partition.kind}: "
            "leave out one of the two"
        )
    return None


def _labelled_partition(recipe: Recipe) -> str | None:
    if recipe.partition.kind in ("dirichlet", "shards") and not TASKS[recipe.task.kind].labelled:
        return f"{recipe.partition.kind} splits by label, and {recipe.task.kind} has none: use iid, quantity or column"
    return None


def _weights(recipe: Recipe) -> str | None:
    if recipe.aggregate.weights == "examples" and recipe.federation.sampling == "weighted":
        return "a client's size would count twice: sampling is weighted by examples already; use auto or uniform"
    return None


def _prompts(recipe: Recipe) -> str | None:
    if recipe.tune.kind not in ("prompt", "prefix"):
        return None
    if TASKS[recipe.task.kind].modality == "image":
        return f"{recipe.tune.kind} tuning puts virtual tokens before a text; {recipe.task.kind} has none: use lora"
    if TASKS[recipe.task.kind].peft_type is None:
        return f"peft has no virtual tokens for {recipe.task.kind}: use lora"
    return None


def _metrics(recipe: Recipe) -> str | None:
    known = list(TASKS[recipe.task.kind].metrics)
    for name in recipe.evaluate.metrics if isinstance(recipe.evaluate.metrics, list) else []:
        if name not in known:
            close = nearest(name, known)
            hint = f" — did you mean `{close}`?" if close else ""
            return f"`{name}` is no metric of {recipe.task.kind}; it has {', '.join(known)}{hint}"
    return None


def _patience(recipe: Recipe) -> str | None:
    if recipe.evaluate.patience is not None and recipe.data.validation is None:
        return "stopping early needs data.validation: stopping by the test set would make its figures too good"
    return None


def _public_data(recipe: Recipe) -> str | None:
    key = recipe.proxy.public_use
    if key is None or recipe.public is not None:
        return None
    off = {"closed_form": "false", "score": "concat-l2"}.get(key, "null")
    return (
        f"`proxy.{key}` compares proxy and backbone on unlabelled public data, but the recipe names none: set "
        f"public.data (builtin:pydoc is always installed), or proxy.{key}={off}"
    )


def _spares(recipe: Recipe) -> str | None:
    if recipe.runtime.spares and recipe.federation.sampling != "uniform":
        return f"who answers first is no {recipe.federation.sampling} draw: use uniform, or runtime.spares=0"
    return None


def _threads(recipe: Recipe) -> str | None:
    runtime = recipe.runtime
    if runtime.resolved_threads > 1 and isinstance(runtime, Local) and runtime.processes not in ("auto", 1):
        return f"each of {runtime.processes} processes computes with one thread: use runtime.processes=1, or threads=1"
    return None


def _recompute(recipe: Recipe) -> str | None:
    if recipe.local.recompute != "none" and recipe.tune.kind == "prefix":
        return "a prefix lies in the cache of keys and values, which is not computed twice: use prompt or lora, or none"
    return None


def _plug_in(recipe: Recipe) -> str | None:
    return recipe.proxy.refuses(recipe.tune)


def _at_sites(is_set: Callable[[Recipe], bool], reason: str) -> Callable[[Recipe], str | None]:
    """What cannot be where clients hold their own data."""
    return lambda recipe: reason if recipe.data.train == SITES and is_set(recipe) else None


_NOTHING_TO_HOLD_BACK = "clients hold the training data, so there is nothing to hold back from: name a file"

CHECKS = (
    Check(("data.test",), _something_to_report),
    Check(("data.validation", "data.test"), _held_back),
    Check(
        ("data.test", "data.train"),
        _at_sites(lambda recipe: isinstance(recipe.data.test, float), _NOTHING_TO_HOLD_BACK),
    ),
    Check(
        ("data.validation", "data.train"),
        _at_sites(lambda recipe: isinstance(recipe.data.validation, float), _NOTHING_TO_HOLD_BACK),
    ),
    Check(
        ("data.train", "data.client", "data.limit", "federation.partition"),
        _at_sites(
            lambda recipe: any((recipe.data.client, recipe.data.limit, recipe.federation.partition)),
            "clients hold their own data, so there is nothing to split: leave out data.client, data.limit and "
            "federation.partition",
        ),
    ),
    Check(
        ("federation.holdout", "data.train"),
        _at_sites(lambda recipe: recipe.federation.holdout > 0, "clients hold their own data: none of it is held out"),
    ),
    Check(
        ("federation.sampling", "data.train"),
        _at_sites(
            lambda recipe: recipe.federation.sampling == "weighted",
            "how many examples clients hold is not known before they come: use uniform or poisson",
        ),
    ),
    Check(
        ("evaluate.baselines", "data.train"),
        _at_sites(lambda recipe: bool(recipe.evaluate.baselines), "clients' data is not here to train them on"),
    ),
    Check(("data.text", "task.kind"), _pairs),
    Check(("federation.per_round", "federation.clients", "data.client"), _cohort),
    Check(("federation.partition", "data.client"), _natural_column),
    Check(("data.client", "federation.partition"), _natural_partition),
    Check(("federation.partition", "task.kind"), _labelled_partition),
    Check(("aggregate.weights", "federation.sampling"), _weights),
    Check(("tune.kind", "task.kind"), _prompts),
    Check(("evaluate.metrics", "task.kind"), _metrics),
    Check(("evaluate.patience", "data.validation"), _patience),
    Check(("federation.sampling", "runtime.spares"), _spares),
    Check(("runtime.threads", "runtime.processes"), _threads),
    Check(("local.recompute", "tune.kind"), _recompute),
    Check(("public", "proxy"), _public_data),
    Check(("tune.kind", "tune.target_modules", "proxy.kind", "proxy.interval"), _plug_in),
)
"""All rules, in the order of the recipe."""
