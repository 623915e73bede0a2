"""The audit of a finished run: ``audit.json``, and its lines in the report and on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedfm.audit import AUDITS, Audited, AuditedLosses, CanaryLosses, NotMeasuredError, Victim
from fedfm.clients import Evaluator
from fedfm.data.examples import Examples
from fedfm.data.settings import SITES
from fedfm.errors import RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.hosts.planted_data import canaries_of
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.report.page import write_report
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.runs.artifacts import Tuned, load_initial, tune, write_cards

MOST_EXAMPLES = 2000
"""Members, and other examples, that are measured at most."""
VICTIMS, VICTIM_TOKENS = 2, 4
"""Examples that are inverted, and their tokens: a search for more takes long."""


def audit(run: Path | str, *, examples: int = MOST_EXAMPLES) -> dict[str, Any]:
    """Measures what a finished run gives away, and writes it to ``audit.json``, the report and the card.

    Args:
        run: the run's folder; its data must be where it was.
        examples: of training examples, and of other examples, at most so many are measured; a keyed choice.

    Returns:
        ``measured`` (name of an audit → figures), ``not_measured`` (name → reason), ``promised`` (as ``privacy`` of
        ``summary.json``), and ``canaries``, how many the recipe has.

    Raises:
        RecipeError: the run has not ended, its data is at sites, or model or data have changed since.
        DataError: the data, or a file of the run, is damaged.
        StorageError: a file cannot be read or written.
    """
    folder = RunFolder.open(run)
    recipe = load_recipe(folder.recipe)
    if recipe.data.train == SITES:
        raise RecipeError(
            "the training examples of this run are at its sites, and an audit reads them: audit a simulation of its "
            "recipe",
            where="data.train",
        )
    tuned, state = load_initial(folder, recipe)
    summary: dict[str, Any] = dict(jsonl.read(folder.summary, shapes.SUMMARY))
    data = prepare_data(recipe)
    _refuse_other_data(folder, data)
    device = choose_device(recipe.runtime.device)
    tuned.model.tunable.to(device)
    evaluator = _evaluator(tuned, data, device)
    sets = _sets(folder, data, examples)
    start = recipe.aggregate.initial(tuned.model.start, recipe.seed)
    tuned.model.tunable.write(tuned.model.to_backbone(start))
    before = [evaluator.example_losses(one.examples, one.rows) for one in sets]
    tune(folder, recipe, tuned, state)
    after = [evaluator.example_losses(one.examples, one.rows) for one in sets]
    losses = [AuditedLosses(start, final, one.clients) for start, final, one in zip(before, after, sets, strict=True)]
    found = _measured(_audited(tuned, data, sets, losses, summary))
    found |= {"promised": summary.get("privacy"), "canaries": recipe.audit.canaries}
    folder.write_json(folder.audit, found)
    write_report(folder.path)
    write_cards(folder, tuned, recipe, summary)
    return found


@dataclass(frozen=True)
class _Set:
    """Examples to measure: some ``rows`` of ``examples``, and the client of each; the server's have the client ''."""

    role: str
    examples: Examples
    rows: np.ndarray
    clients: np.ndarray


def _sets(folder: RunFolder, data: FederatedData, most: int) -> list[_Set]:
    """Members, others and canaries; the losses of each are measured twice."""
    training, recipe = data.training, data.recipe
    if training is None:
        raise ValueError("the data of a simulation is at hand")
    split, found = training.federation, []
    if recipe.audit.canaries:
        canaries, placement = canaries_of(recipe, training.train, split.train, data.labels, data.processor)
        replaced = placement.rows[placement.planted].ravel()
        found.append(_of_server("canary", canaries, len(canaries), recipe.seed))
    else:
        replaced = np.empty(0, dtype=np.int64)
    took_part = {str(line["client"]) for line in jsonl.records(folder.costs, shapes.COSTS)} & split.train.keys()
    own = {client: np.setdiff1d(split.train[client], replaced) for client in sorted(took_part)}
    found.append(_of_clients("member", training.train, own, most, recipe.seed))
    found.append(_of_clients("other", training.train, split.holdout, most, recipe.seed))
    for examples in (data.test, data.validation):
        if examples is not None:
            found.append(_of_server("other", examples, most, recipe.seed))
    return [one for one in found if len(one.rows)]


def _of_clients(role: str, examples: Examples, rows: dict[str, np.ndarray], most: int, seed: int) -> _Set:
    """At most so many of the rows of all clients, with equal chances."""
    names = [client for client, own in rows.items() for _ in own]
    every = np.concatenate([np.empty(0, dtype=np.int64), *rows.values()])
    chosen = np.sort(numpy_generator(seed, f"audited {role}").permutation(len(every))[:most])
    return _Set(role, examples, every[chosen], np.array(names, dtype=object)[chosen])


def _of_server(role: str, examples: Examples, most: int, seed: int) -> _Set:
    """At most so many of all."""
    rows = np.sort(numpy_generator(seed, f"audited {role}").permutation(len(examples))[:most])
    return _Set(role, examples, rows, np.full(len(rows), "", dtype=object))


def _audited(
    tuned: Tuned, data: FederatedData, sets: Sequence[_Set], losses: Sequence[AuditedLosses], summary: dict[str, Any]
) -> Audited:
    """The losses by role, without examples in which nothing is predicted."""

    def of(role: str) -> AuditedLosses:
        parts = [part for part, one in zip(losses, sets, strict=True) if one.role == role]
        return AuditedLosses(
            np.concatenate([np.empty(0), *(part.start for part in parts)]),
            np.concatenate([np.empty(0), *(part.final for part in parts)]),
            np.concatenate([np.empty(0, dtype=object), *(part.clients for part in parts)]),
        )

    members, others = of("member"), of("other")
    return Audited(
        members=members.at(np.isfinite(members.fall)),
        others=others.at(np.isfinite(others.fall)),
        canaries=_canary_losses(data, of("canary")),
        promise=summary.get("privacy"),
        proxy=summary.get("proxy"),
        victim=_victim(tuned, data, sets, summary),
        seed=data.recipe.seed,
    )


def _canary_losses(data: FederatedData, losses: AuditedLosses) -> CanaryLosses | None:
    settings, training = data.recipe.audit, data.training
    if not settings.canaries or training is None:
        return None
    _, placement = canaries_of(data.recipe, training.train, training.federation.train, data.labels, data.processor)
    tossed, references = np.split(np.arange(len(losses)), [settings.canaries])
    return CanaryLosses(settings, placement.planted, losses.at(tossed), losses.at(references))


def _victim(tuned: Tuned, data: FederatedData, sets: Sequence[_Set], summary: dict[str, Any]) -> Victim | str:
    """Members that are inverted, or why none are."""
    recipe, labels = data.recipe, data.labels
    members = next((one for one in sets if one.role == "member"), None)
    if data.task.modality != "text" or labels is None:
        return f"only text classifiers are inverted, and this is {recipe.task.kind}"
    if recipe.proxy.is_sent:
        return "clients train on a proxy, whose updates are not inverted yet"
    if recipe.secure.sums_only:
        return "the server sees sums of updates only (secure.kind)"
    if members is None or members.examples.labels is None:
        return "no client took part"
    rows = [row for row in members.rows if members.examples.lengths[row] >= VICTIM_TOKENS][:VICTIMS]
    if not rows:
        return f"no training example has {VICTIM_TOKENS} tokens"
    promise, noise = summary.get("privacy"), None
    if promise is not None and "noise_multiplier" in promise:
        noise = promise["noise_multiplier"] * promise.get("sensitivity", 1.0)
    return Victim(
        tuned.model.tunable,
        data.task,
        torch.tensor([row["input_ids"][:VICTIM_TOKENS] for row in members.examples.take(rows)]),
        torch.from_numpy(members.examples.labels[rows]),
        len(labels.names),
        recipe.privacy.norm_bound,
        noise,
    )


def _measured(audited: Audited) -> dict[str, Any]:
    """The figures of each audit, or why it has none."""
    measured, reasons = {}, {}
    for name, method in AUDITS.items():
        try:
            measured[name] = method.measure(audited)
        except NotMeasuredError as error:
            reasons[name] = str(error)
    return {"measured": measured, "not_measured": reasons}


def _evaluator(tuned: Tuned, data: FederatedData, device: torch.device) -> Evaluator:
    return Evaluator(
        tunable=tuned.model.tunable,
        family=tuned.backbone.family,
        task=data.task,
        processor=data.processor,
        metrics=tuple(data.task.metrics),
        batch_size=data.recipe.evaluate.batch_size,
        seed=data.recipe.seed,
        device=device,
    )


def _refuse_other_data(folder: RunFolder, data: FederatedData) -> None:
    """Refuses data that are not those of the run: members would not be members."""
    saved = load_checkpoint(folder)
    before = {} if saved is None else saved.identity
    changed = [f"data.{split}" for split, digest in data.digests.items() if before.get(f"data.{split}") != digest]
    if changed:
        raise RecipeError(
            f"the content of {', '.join(changed)} has changed since the run; put it back to audit the run", source="run"
        )
