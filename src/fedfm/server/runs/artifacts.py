"""A run's artifacts: ``adapter/``, mostly in PEFT's format, ``model/`` in that of transformers, with their cards."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedfm.clients import Contract
from fedfm.errors import RecipeError
from fedfm.hosts.worker_factory import make_contract
from fedfm.models import builtin
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.heads import save_head
from fedfm.models.identity import PARTS
from fedfm.models.quiet import quiet
from fedfm.models.towers import open_checkpoint
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.base import ClientModel, JoinedAdapter, ModelVersion
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.reading import audit_of
from fedfm.report.card import ArtifactKind, Base, write_card
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.rounds.client_models import ClientModels, kept_here
from fedfm.server.rounds.state import RunState

MOST_NAME = 200
"""Characters of a folder's name."""


@dataclass(frozen=True)
class Tuned:
    """What a run has tuned, with its final values.

    Attributes:
        model: the server's side of what clients hold; its tunable holds the final parameters.
        backbone: the model on which they were tuned.
        version: of the clients' model.
    """

    model: ClientModel
    backbone: Backbone
    version: ModelVersion

    @property
    def needs_model(self) -> bool:
        """Whether the backbone's own weights have changed, so that the tunable's adapter alone is not the model."""
        return not self.model.is_sent and bool(self.version.own)


def write_outcome(folder: RunFolder, tuned: Tuned, recipe: Recipe, summary: dict[str, Any], *, merge: bool) -> Path:
    """Writes the tuned parameters, with a card.

    Of several tasks, it also writes ``heads/``.

    Where a rule has added to the frozen weights, it writes ``model/``, and beside it ``adapter/`` if one LoRA can hold
    the tunable with all that was added.

    Args:
        folder: the run's folder.
        tuned: holds the final parameters.
        recipe: the resolved recipe.
        summary: the content of ``summary.json``.
        merge: write ``model/`` even though the tunable could be an adapter.

    Returns:
        ``adapter/``, or ``model/`` for merged models and for tunables that change the model (head, bitfit, full).
    """
    if tuned.needs_model:
        added = tuned.model.joined(tuned.version, recipe.aggregate.adapter_rank)
        merge = True
        if added is None:
            shutil.rmtree(folder.adapter, ignore_errors=True)  # of an earlier round, when the rank was lower
        else:
            _write(folder, tuned, recipe, summary, added, merge=False)
        summary["needs_model"] = added is None
    elif tuned.model.tunable.is_adapter:
        _write_heads(folder, tuned, recipe, summary)
    return _write(folder, tuned, recipe, summary, None, merge=merge)


def _write(
    folder: RunFolder,
    tuned: Tuned,
    recipe: Recipe,
    summary: dict[str, Any],
    added: JoinedAdapter | None,
    *,
    merge: bool,
) -> Path:
    """One folder of `write_outcome`; with ``added`` in place of the tunable's own adapter."""
    tunable, backbone = tuned.model.tunable, tuned.backbone
    processor = recipe.task.delivered(backbone.processor, recipe.data)
    whole = merge or not tunable.is_adapter
    target = folder.model if whole else folder.adapter
    with folder.replacing(target) as beside:
        if added is not None:
            added.save(beside)
            processor.save_pretrained(beside)
        elif merge and tunable.is_adapter:
            with quiet():
                tunable.merged().save_pretrained(beside)
                processor.save_pretrained(beside)
        else:
            tunable.save(beside, processor)
        base = _base(recipe, backbone)
        if not whole and base.kind == "beside":
            with open_checkpoint(recipe.model) as checkpoint:
                shutil.copytree(checkpoint.folder, beside / "base")
        kind: ArtifactKind = "model" if whole else "adapter"
        write_card(beside, base=base, summary=summary, recipe=recipe.model_dump(), kind=kind, audit=audit_of(folder))
    return target


def _write_heads(folder: RunFolder, tuned: Tuned, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Writes ``heads/NAME/`` for each of several tasks: an adapter with the head of the task alone, and its card."""
    if not recipe.task.part_names:
        return
    parts = {name: recipe.task.part(name, recipe.data) for name in recipe.task.part_names}
    total = max(part.outputs.stop for part in parts.values())
    base = _base(recipe, tuned.backbone)
    with folder.replacing(folder.heads) as beside:
        for name, part in parts.items():
            target = beside / name
            save_head(tuned.model.tunable, target, part.outputs, total, tuned.backbone.processor)
            if base.kind == "beside":
                builtin.write_random_model(base.name.removeprefix(builtin.PREFIX), target / "base")
            write_card(
                target,
                base=base,
                summary={**summary, "labels": list(part.labels.names)},
                recipe=recipe.model_copy(update={"task": part.task, "data": part.data}).model_dump(),
                kind="adapter",
                audit=audit_of(folder),
                place=f"{folder.heads.name}/{name}",
            )


def write_cards(folder: RunFolder, tuned: Tuned, recipe: Recipe, summary: dict[str, Any]) -> None:
    """Writes the cards again beside the artifacts of a run, which stay as they are; arguments as `write_outcome`."""
    base, audit = _base(recipe, tuned.backbone), audit_of(folder)
    artifacts: tuple[tuple[Path, ArtifactKind], ...] = ((folder.adapter, "adapter"), (folder.model, "model"))
    for target, kind in artifacts:
        if target.is_dir():
            write_card(target, base=base, summary=summary, recipe=recipe.model_dump(), kind=kind, audit=audit)


def write_client_adapters(folder: RunFolder, experiment: Experiment, state: RunState) -> None:
    """Writes ``clients/ID/adapter/`` for at most ``evaluate.clients`` clients, where their models differ and are here.

    Args:
        folder: the run's folder.
        experiment: the run; its tunable is overwritten.
        state: after the run.

    Raises:
        StorageError: what a client keeps cannot be read, or an adapter cannot be written.
    """
    store = kept_here(folder, experiment.recipe)
    models = ClientModels.after(state, experiment.contract, experiment.recipe.protocol, store)
    if not models.differ or not experiment.tunable.is_adapter:
        return
    with folder.replacing(folder.client_models) as beside:
        for client in experiment.data.clients_with_adapters():
            experiment.plug_in(models.of(client, state.params))
            experiment.tunable.save(beside / folder_name(client) / "adapter", None)


def write_experts(folder: RunFolder, experiment: Experiment, state: RunState) -> None:
    """Writes ``experts/NAME/adapter/`` for each expert of a protocol that has several, and who is served by which.

    Args:
        folder: the run's folder.
        experiment: the run; its tunable is overwritten.
        state: after the run.

    Raises:
        StorageError: an adapter cannot be written.
    """
    protocol = experiment.recipe.protocol
    if not protocol.has_experts or not experiment.tunable.is_adapter:
        return
    with folder.replacing(folder.experts) as beside:
        for name, params in protocol.experts(state.protocol).items():
            experiment.plug_in(params)
            experiment.tunable.save(beside / name / "adapter", None)
        served = {client: protocol.expert_of(client, state.protocol) for client in experiment.data.clients}
        (beside / "clients.json").write_text(json.dumps(served, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def folder_name(client: str) -> str:
    """A client id as the name of a folder: percent-encoded; of a long one, hex digits of its sha256."""
    name = quote(client, safe="")
    name = name.replace(".", "%2E", 1) if name.startswith(".") else name
    return name if len(name) <= MOST_NAME else hashlib.sha256(client.encode()).hexdigest()


def _base(recipe: Recipe, backbone: Backbone) -> Base:
    return Base(
        backbone.name,
        revision=backbone.revision,
        package=builtin.MINILM_PACKAGE if recipe.model.path == f"{builtin.PREFIX}minilm" else None,
        new_head=bool(backbone.new_head),
        mask=getattr(backbone.processor, "mask_token", None),
    )


def export(path: Path | str, *, merge: bool = False) -> Path:
    """Writes the adapter or the merged model of a run again, from its last checkpoint; the data is not needed.

    Raises:
        RecipeError: the folder is not that of a run, the run has no saved round, or the tunable cannot be merged.
        StorageError: the disk is full, the folder read-only, or every checkpoint damaged.
    """
    folder = RunFolder.open(path)
    recipe = load_recipe(folder.recipe)
    tuned = load_tuned(folder, recipe)
    return write_outcome(folder, tuned, recipe, dict(jsonl.read(folder.summary, shapes.SUMMARY)), merge=merge)


def load_tuned(folder: RunFolder, recipe: Recipe) -> Tuned:
    """The backbone of a run with the tuned parameters, on the CPU; raises as `load_initial`."""
    tuned, state = load_initial(folder, recipe)
    tune(folder, recipe, tuned, state)
    return tuned


def load_initial(folder: RunFolder, recipe: Recipe) -> tuple[Tuned, RunState]:
    """The backbone of a run as it was before round 1, on the CPU, and the state of the run after its last round.

    Raises:
        RecipeError: the run has no saved round, or its backbone cannot be loaded or has changed.
    """
    saved = load_checkpoint(folder)
    if saved is None or not folder.summary.is_file():
        raise RecipeError(
            f"{folder.path} has no saved round to load; continue the run with `{folder.again}`", source="run"
        )
    task = recipe.task
    backbone = load_backbone(
        recipe.model,
        task.auto_class,
        seed=recipe.seed,
        labels=jsonl.read(folder.summary, shapes.SUMMARY)["labels"],
        problem_type=task.problem_type,
        modality=task.modality,
        allow_network=recipe.allow_network,
    )
    refuse_another_model(saved.identity, backbone)
    here = recipe.proxy.model_copy(update={"path": str(folder.proxy)}) if recipe.proxy.is_sent else recipe.proxy

    def attach(model: Backbone) -> Tunable:
        return recipe.tune.attach(model, task_type=task.peft_type, seed=recipe.seed)

    made = here.at_server(backbone, attach, None, seed=recipe.seed)
    made.tunable.eval()
    return Tuned(made, backbone, saved.state.proxy or ModelVersion()), saved.state


def tune(folder: RunFolder, recipe: Recipe, tuned: Tuned, state: RunState) -> None:
    """Writes what a run delivers into a model as `load_initial` returns it.

    Raises:
        StorageError: what clients keep cannot be read.
    """
    params = _with_personal_mean(folder, recipe, state)
    if not tuned.model.is_sent:
        tuned.model.load(tuned.version)
    refined = state.refined.params if state.refined else {}
    tuned.model.tunable.write(refined or tuned.model.to_backbone(params))


def delivered_params(folder: RunFolder, contract: Contract, recipe: Recipe, state: RunState) -> Params:
    """What a run delivers: in personal places, the mean over its clients where they are simulated.

    Args:
        folder: the run's folder.
        contract: of the run.
        recipe: as resolved.
        state: after some rounds.
    """
    params, clients = state.delivered().params, recipe.federation.clients
    store = kept_here(folder, recipe)
    if clients is None:
        raise ValueError("the recipe of a run says how many clients there are")
    return ClientModels.after(state, contract, recipe.protocol, store).delivered(params, clients)


def _with_personal_mean(folder: RunFolder, recipe: Recipe, state: RunState) -> Params:
    """`delivered_params` without an experiment; the server's tunable has the initial values in personal places."""
    return delivered_params(folder, make_contract(recipe, state.params), recipe, state)


def refuse_another_model(before: Mapping[str, str], backbone: Backbone) -> None:
    """Refuses a model that is not the one with which a run began.

    Args:
        before: the run's identity in its last checkpoint.
        backbone: the model as it is now.

    Raises:
        RecipeError: at ``model.path``.
    """
    now = backbone.identity.named
    if changed := [words for part, words in PARTS.items() if before.get(f"model.{part}") != now[f"model.{part}"]]:
        raise RecipeError(
            f"{backbone.name} is not the model that this run tuned: it has other "
            f"{' and other '.join(changed)}. Restore the model of the run",
            where="model.path",
        )
