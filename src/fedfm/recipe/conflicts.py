"""Conflicts between keys that no capability describes, each refused with its reason; and those that one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfm.capabilities import SAME_ROUND
from fedfm.data.partitions import client_ids
from fedfm.data.settings import SITES
from fedfm.errors import Problem
from fedfm.recipe.capabilities import incompatible
from fedfm.recipe.cohorts import too_few_summed, too_many_scored, unfit_presence, unfit_updates
from fedfm.recipe.federation import DEFAULT_CLIENTS
from fedfm.recipe.keys import RecipeKeys
from fedfm.recipe.problems import overlap
from fedfm.spelling import nearest
from fedfm.tasks import TASKS


@dataclass(frozen=True)
class Check:
    """A rule between keys; its reason names another of them.

    Attributes:
        keys: dotted keys that it reads, first the one at which it complains; it is skipped when one is faulty.
        reason: what is wrong, or None.
    """

    keys: tuple[str, ...]
    reason: Callable[[RecipeKeys], str | None]


def conflicts(recipe: RecipeKeys, faulty: Sequence[str] = ()) -> list[Problem]:
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
    return found + incompatible(recipe, faulty)


def _something_to_report(recipe: RecipeKeys) -> str | None:
    if recipe.data.test is None:
        return "name a file, or a fraction such as 0.2 to hold back from data.train: a run reports its metrics on it"
    return None


def _held_back(recipe: RecipeKeys) -> str | None:
    shares = [share for share in (recipe.data.validation, recipe.data.test) if isinstance(share, float)]
    if sum(shares) >= 1:
        return "nothing is left to train on: data.validation and data.test hold back all of data.train"
    return None


def _pairs(recipe: RecipeKeys) -> str | None:
    allowed, named = recipe.task.text_columns, len(recipe.data.text)
    if recipe.task.modality != "text" or named in allowed:
        return None
    if named == 1:
        return f"`task.kind: {recipe.task.kind}` reads pairs: name two columns, such as [question, passage]"
    readers = " and ".join(kind for kind, task in TASKS.items() if 2 in task.text_columns)
    return f"two columns make a pair, which only {readers} read; `task.kind: {recipe.task.kind}` takes one"


def _ask(recipe: RecipeKeys) -> str | None:
    if recipe.ask == type(recipe.ask)() or recipe.task.answers_questions:
        return None
    kinds = " or ".join(kind for kind, task in TASKS.items() if task.answers_questions)
    return f"a run of `task.kind: {recipe.task.kind}` cannot be asked questions; it is for {kinds}"


def _others_in_batch(group: str) -> Callable[[RecipeKeys], str | None]:
    """A rule that refuses batches of one example for a task that compares examples."""

    def reason(recipe: RecipeKeys) -> str | None:
        if recipe.task.across_examples and getattr(recipe, group).batch_size < 2:
            return f"`task.kind: {recipe.task.kind}` compares the examples of a batch with each other: give two or more"
        return None

    return reason


def _unread(key: str) -> Callable[[RecipeKeys], str | None]:
    """A rule that refuses a key of ``data`` which only some tasks read."""

    def reason(recipe: RecipeKeys) -> str | None:
        if key not in recipe.data.model_fields_set or key in recipe.task.own_keys:
            return None
        if getattr(recipe.data, key) == type(recipe.data).model_fields[key].default:
            return None
        readers = " or ".join(kind for kind, task in TASKS.items() if key in task.own_keys)
        return f"`task.kind: {recipe.task.kind}` does not read it; it is for {readers}"

    return reason


def _sources(split: str) -> Callable[[RecipeKeys], str | None]:
    """A rule that refuses a source which does not fit the task."""
    return lambda recipe: recipe.task.refuses(split, recipe.data)


def _named_by_task(key: str) -> Callable[[RecipeKeys], str | None]:
    """A rule that refuses a key of ``data`` which the task says itself."""

    def reason(recipe: RecipeKeys) -> str | None:
        default = type(recipe.data).model_fields[key].get_default(call_default_factory=True)
        if not recipe.task.names_columns or getattr(recipe.data, key) == default:
            return None
        return f"the tasks of `task.kind: {recipe.task.kind}` name their own: say it in task.tasks"

    return reason


def _references(recipe: RecipeKeys) -> str | None:
    if recipe.proxy.is_sent and recipe.task.compares:
        return (
            f"the loss of `task.kind: {recipe.task.kind}` compares the model with itself before round 1, but a proxy "
            "is another model than the one that is evaluated: use proxy.kind=none"
        )
    return None


def _canary_pairs(recipe: RecipeKeys) -> str | None:
    if recipe.audit.canaries and recipe.task.compares:
        return f"a canary is one random text, but `task.kind: {recipe.task.kind}` learns pairs: set it to 0"
    if recipe.audit.canaries and recipe.task.part_names:
        return f"a canary is of no task, but `task.kind: {recipe.task.kind}` learns several: set it to 0"
    return None


def _written(recipe: RecipeKeys) -> str | None:
    if not recipe.evaluate.generate.examples:
        return None
    if not recipe.task.generates:
        writers = " or ".join(kind for kind, task in TASKS.items() if task.generates)
        return f"a model of `task.kind: {recipe.task.kind}` writes no answers; set it to 0, or use {writers}"
    if recipe.evaluate.at == "clients":
        return "the server writes the answers, but `evaluate.at: clients` lets only clients measure: set it to 0"
    return None


def _cohort(recipe: RecipeKeys) -> str | None:
    federation = recipe.federation
    clients = federation.clients or (None if recipe.data.client else DEFAULT_CLIENTS)
    if clients and isinstance(federation.per_round, int) and federation.per_round > clients:
        return (
            f"{federation.per_round} clients a round are more than the {clients} of the federation (federation.clients)"
        )
    return None


def _fitting_updates(recipe: RecipeKeys) -> str | None:
    return unfit_updates(recipe, _clients(recipe))


def _enough_summed(recipe: RecipeKeys) -> str | None:
    return too_few_summed(recipe, _clients(recipe))


def _clients(recipe: RecipeKeys) -> int | None:
    """Clients of the federation; None: not known yet."""
    known = recipe.data.client is None and recipe.data.train != SITES
    return recipe.federation.clients or (DEFAULT_CLIENTS if known else None)


def _presence(recipe: RecipeKeys) -> str | None:
    clients = _clients(recipe)
    if clients is None or recipe.data.client is not None or recipe.data.train == SITES or recipe.federation.unseen:
        return None  # ids are known once the data are read
    return unfit_presence(recipe, client_ids(clients))


def _root_data(recipe: RecipeKeys) -> str | None:
    if recipe.aggregate.trains_root and recipe.data.root is None:
        return (
            f"`{recipe.aggregate.rule}` compares updates with one that the server trains: name a few labelled examples "
            "of its own (data.root)"
        )
    return None


def _own_steps(recipe: RecipeKeys) -> str | None:
    if recipe.protocol.trains_root and recipe.data.root is None:
        return "the server's own steps (protocol.server_steps) need examples, such as public texts: name them"
    return None


def _ranks(recipe: RecipeKeys) -> str | None:
    ranks, most = recipe.federation.ranks, getattr(recipe.tune, "r", None)
    if not ranks or most is None:
        return None
    largest = max(ranks.values() if isinstance(ranks, dict) else ranks)
    return f"rank {largest} exceeds `tune.r: {most}`" if largest > most else None


def _natural_column(recipe: RecipeKeys) -> str | None:
    if recipe.partition.kind == "column" and recipe.data.client is None:
        return "`column` needs the column that names the clients: set data.client"
    return None


def _natural_partition(recipe: RecipeKeys) -> str | None:
    if recipe.data.client is not None and recipe.partition.kind != "column":
        return (
            f"names the client of each example, but federation.partition splits by {recipe.partition.kind}: "
            "leave out one of the two"
        )
    return None


def _weights(recipe: RecipeKeys) -> str | None:
    if getattr(recipe.aggregate, "weights", None) == "examples" and recipe.federation.sampling == "weighted":
        return (
            "`federation.sampling: weighted` counts a client by its examples already, which would count twice; use "
            "auto or uniform"
        )
    return None


def _metrics(recipe: RecipeKeys) -> str | None:
    known = list(recipe.task.metrics)
    for name in recipe.evaluate.metrics if isinstance(recipe.evaluate.metrics, list) else []:
        if name not in known:
            close = nearest(name, known)
            hint = f" — did you mean `{close}`?" if close else ""
            return f"`task.kind: {recipe.task.kind}` does not have the metric `{name}`; it has {', '.join(known)}{hint}"
    return None


def _patience(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.patience is not None and recipe.data.validation is None:
        return "stopping early needs data.validation: stopping by the test set would make the test figures too good"
    return None


def _replay(recipe: RecipeKeys) -> str | None:
    if recipe.local.replay is not None and recipe.federation.stream is None:
        return "there are no earlier tasks to replay: set federation.stream, or local.replay=null"
    return None


def _whole_stream(recipe: RecipeKeys) -> str | None:
    if recipe.federation.stream is not None and recipe.evaluate.patience is not None:
        return "a run that stops early would not reach the last tasks of federation.stream: set it to null"
    return None


def _measured_tasks(recipe: RecipeKeys) -> str | None:
    if recipe.federation.stream is not None and recipe.evaluate.at == "clients":
        return "the server measures the tasks of federation.stream: use server or both"
    return None


def _held_out_examples(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.at != "server" and not recipe.federation.holdout:
        return "clients evaluate on the examples that they hold out: set federation.holdout, such as 0.2"
    return None


def _matrix_examples(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.matrix and not recipe.federation.holdout:
        return "every model is evaluated on what every client holds out: set federation.holdout, such as 0.2"
    return None


def _some_clients(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.at != "server" and not recipe.evaluate.clients:
        return "with 0, no client evaluates: use at least 1, or evaluate.at=server"
    return None


def _evaluated_unseen(recipe: RecipeKeys) -> str | None:
    if recipe.federation.unseen and not recipe.evaluate.clients:
        return "with 0, the clients of federation.unseen are not evaluated: use at least 1"
    return None


def _labels_of_unseen(recipe: RecipeKeys) -> str | None:
    if recipe.federation.unseen and recipe.federation.label_groups > 1:
        return "clients that never train are in no group of federation.label_groups: set 0"
    return None


def _own_validation(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.patience is not None and recipe.evaluate.at == "clients":
        return "stopping early needs the server's validation set: use evaluate.at=both, or evaluate.patience=null"
    return None


def _pairs_at_clients(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.at != "server" and recipe.federation.modalities is not None:
        return (
            "clients evaluate on pairs, which clients of one kind (federation.modalities) do not have: use "
            "evaluate.at=server"
        )
    return None


def _free_sites(recipe: RecipeKeys) -> str | None:
    if recipe.evaluate.at != "server" and recipe.data.train == SITES and SAME_ROUND in recipe.protocol.takes:
        return (
            f"clients evaluate between rounds, but with `protocol.kind: {recipe.protocol.kind}` sites train at any "
            "time: use evaluate.at=server"
        )
    return None


def _between_sites(recipe: RecipeKeys) -> str | None:
    if recipe.updates and recipe.protocol.peer_stages and recipe.data.train == SITES:
        return (
            f"with `protocol.kind: {recipe.protocol.kind}` they act on what clients send each other, but between sites "
            "stands the server, which gets whole changes: leave updates out"
        )
    return None


def _public_data(recipe: RecipeKeys) -> str | None:
    key = recipe.proxy.public_use
    if key is None or recipe.public is not None:
        return None
    off = {"closed_form": "false", "score": "concat-l2"}.get(key, "null")
    return (
        f"`proxy.{key}` compares proxy and backbone on unlabelled public data: set public.data (builtin:pydoc is a "
        f"text that comes with Python), or proxy.{key}={off}"
    )


def _public_examples(recipe: RecipeKeys) -> str | None:
    if recipe.protocol.public_examples and recipe.public is None:
        return (
            f"`protocol.kind: {recipe.protocol.kind}` uses public examples: set public.data (builtin:pydoc is a text "
            "that comes with Python)"
        )
    return None


def _one_text(recipe: RecipeKeys) -> str | None:
    if recipe.protocol.writes_texts and len(recipe.data.text) > 1:
        return f"`protocol.kind: {recipe.protocol.kind}` writes examples of one text, not pairs: name one column"
    return None


def _judged_on(recipe: RecipeKeys) -> str | None:
    """Why there is nothing on which the server could evaluate models in a round."""
    for key, method in (("protocol", recipe.protocol), ("contribution", recipe.contribution)):
        if method.judges and recipe.data.validation is None:
            return (
                f"`{key}.kind: {method.kind}` evaluates models on the server's validation set: name a file, or a "
                "fraction such as 0.1 to hold back from data.train"
            )
    return None


def _few_enough_scored(recipe: RecipeKeys) -> str | None:
    return too_many_scored(recipe, _clients(recipe))


def _spares(recipe: RecipeKeys) -> str | None:
    if recipe.runtime.spares and recipe.federation.sampling != "uniform":
        return (
            f"with runtime.spares, the clients that answer first count, which is not a {recipe.federation.sampling} "
            "draw: use uniform, or runtime.spares=0"
        )
    return None


def _threads(recipe: RecipeKeys) -> str | None:
    runtime = recipe.runtime
    if runtime.resolved_threads > 1 and runtime.processes not in ("auto", 1):
        return (
            f"each of {runtime.processes} processes computes with one thread: use runtime.processes=1, or "
            "runtime.threads=1"
        )
    return None


def _stage_order(recipe: RecipeKeys) -> str | None:
    for place, stage in enumerate(recipe.updates):
        ways = stage.ways if stage.reads_names else stage.ways & {"up"} if stage.stateful else frozenset[str]()
        for number, earlier in enumerate(recipe.updates[:place]):
            if stage.comes_first and earlier.ways & stage.ways:
                return (
                    f"`updates[{place}].kind: {stage.kind}` needs what `updates[{number}].kind: {earlier.kind}` "
                    f"changes: put {stage.kind} before {earlier.kind}"
                )
            if earlier.flattens and earlier.ways & ways:
                return (
                    f"`updates[{place}].kind: {stage.kind}` reads tensors by their names, which "
                    f"`updates[{number}].kind: {earlier.kind}` does not keep: put {stage.kind} before {earlier.kind}"
                )
    return None


def _promise(recipe: RecipeKeys) -> str | None:
    federation, clients = recipe.federation, _clients(recipe)
    if clients is None:  # known once the data are read
        return None
    return recipe.privacy.refuses(federation.attendance(clients))


def _plug_in(recipe: RecipeKeys) -> str | None:
    reason = recipe.proxy.refuses(recipe.tune)
    return f"{reason} (proxy.kind: {recipe.proxy.kind})" if reason else None


CHECKS = (
    Check(("data.test",), _something_to_report),
    Check(("data.validation", "data.test"), _held_back),
    Check(("data.text", "task.kind"), _pairs),
    *(Check((f"data.{split}", "task"), _sources(split)) for split in ("train", "validation", "test", "root")),
    *(Check((f"data.{key}", "task"), _named_by_task(key)) for key in ("text", "label", "labels")),
    Check(("data.text", "protocol.kind"), _one_text),
    Check(("data.conversation", "task.kind"), _unread("conversation")),
    Check(("data.template", "task.kind"), _unread("template")),
    Check(("data.pack", "task.kind"), _unread("pack")),
    Check(("data.preference", "task.kind"), _unread("preference")),
    Check(("evaluate.generate.examples", "task.kind", "evaluate.at"), _written),
    Check(("audit.canaries", "task.kind"), _canary_pairs),
    Check(("proxy.kind", "task.kind"), _references),
    Check(("local.batch_size", "task.kind"), _others_in_batch("local")),
    Check(("evaluate.batch_size", "task.kind"), _others_in_batch("evaluate")),
    Check(("federation.per_round", "federation.clients", "data.client"), _cohort),
    Check(("federation.presence", "federation", "aggregate", "data.client", "data.train"), _presence),
    Check(("aggregate.rule", "federation", "protocol", "data.client", "data.train"), _fitting_updates),
    Check(("aggregate.rule", "data.root"), _root_data),
    Check(("data.root", "protocol"), _own_steps),
    Check(("secure.min_clients", "federation", "protocol", "data.client", "data.train"), _enough_summed),
    Check(("federation.ranks", "tune.r"), _ranks),
    Check(("federation.partition", "data.client"), _natural_column),
    Check(("data.client", "federation.partition"), _natural_partition),
    Check(("aggregate.weights", "federation.sampling"), _weights),
    Check(("evaluate.metrics", "task.kind"), _metrics),
    Check(("evaluate.patience", "data.validation"), _patience),
    Check(("evaluate.patience", "evaluate.at"), _own_validation),
    Check(("evaluate.patience", "federation.stream"), _whole_stream),
    Check(("evaluate.at", "federation.stream"), _measured_tasks),
    Check(("local.replay", "federation.stream"), _replay),
    Check(("evaluate.at", "federation.holdout"), _held_out_examples),
    Check(("evaluate.matrix", "federation.holdout"), _matrix_examples),
    Check(("evaluate.clients", "evaluate.at"), _some_clients),
    Check(("evaluate.clients", "federation.unseen"), _evaluated_unseen),
    Check(("federation.unseen", "federation.label_groups"), _labels_of_unseen),
    Check(("evaluate.at", "protocol", "data.train"), _free_sites),
    Check(("evaluate.at", "federation.modalities"), _pairs_at_clients),
    Check(("federation.sampling", "runtime.spares"), _spares),
    Check(("runtime.threads", "runtime.processes"), _threads),
    Check(("public", "proxy"), _public_data),
    Check(("public", "protocol"), _public_examples),
    Check(("data.validation", "protocol", "contribution"), _judged_on),
    Check(("contribution.kind", "federation", "protocol", "data.client", "data.train"), _few_enough_scored),
    Check(("ask", "task.kind"), _ask),
    Check(("updates",), _stage_order),
    Check(("updates", "protocol.kind", "data.train"), _between_sites),
    Check(("privacy.kind", "federation", "data.client", "data.train"), _promise),
    Check(("tune.kind", "tune.target_modules", "proxy.kind", "proxy.interval"), _plug_in),
)
"""All rules, in the order of the recipe."""
