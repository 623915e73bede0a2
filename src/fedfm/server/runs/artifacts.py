"""What a run leaves behind: ``adapter/`` as PEFT loads it, ``model/`` as transformers load it, each with its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm.errors import RecipeError
from fedfm.models import builtin
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.identity import PARTS
from fedfm.models.quiet import quiet
from fedfm.models.tunable import Tunable
from fedfm.proxies import NoProxy
from fedfm.proxies.model import make
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl, shapes
from fedfm.records.card import Base, Kind, write_card
from fedfm.records.folder import RunFolder
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.experiment.server_proxy import make_server_proxy
from fedfm.tasks import TASKS


def write_outcome(
    folder: RunFolder, tunable: Tunable, backbone: Backbone, recipe: Recipe, summary: dict[str, Any], *, merge: bool
) -> Path:
    """Writes what was tuned, with its card.

    Args:
        folder: the run's folder.
        tunable: holds the final parameters.
        backbone: what they were tuned on.
        recipe: the resolved recipe.
        summary: the content of ``summary.json``.
        merge: write ``model/`` even though the tunable could be an adapter.

    Returns:
        ``adapter/``, or ``model/`` for merged models and for tunables that are no PEFT method (head, bitfit, full).
    """
    whole = merge or not tunable.is_adapter
    target = folder.model if whole else folder.adapter
    with folder.replacing(target) as beside:
        if merge and tunable.is_adapter:
            with quiet():
                tunable.merged().save_pretrained(beside)
                backbone.processor.save_pretrained(beside)
        else:
            tunable.save(beside, backbone.processor)
        base = _base(recipe, backbone)
        if not whole and base.kind == "beside":
            builtin.write_random_model(base.name.removeprefix(builtin.PREFIX), beside / "base")
        kind: Kind = "model" if whole else "adapter"
        write_card(beside, base=base, summary=summary, recipe=recipe.model_dump(), kind=kind)
    return target


def _base(recipe: Recipe, backbone: Backbone) -> Base:
    return Base(
        backbone.name,
        revision=backbone.revision,
        package=builtin.MINILM_PACKAGE if recipe.model.path == f"{builtin.PREFIX}minilm" else None,
        new_head=bool(backbone.new_head),
        mask=getattr(backbone.processor, "mask_token", None),
    )


def export(path: Path | str, *, merge: bool = False) -> Path:
    """Writes the adapter, or the merged model, of a run once more from its last checkpoint; needs none of its data.

    Raises:
        RecipeError: not a run's folder, a run without a saved round, or a tunable that cannot be merged.
        StorageError: the disk is full, the folder read-only, or every checkpoint damaged.
    """
    folder = RunFolder.open(path)
    recipe = load_recipe(folder.recipe)
    tunable, backbone = load_tuned(folder, recipe)
    return write_outcome(folder, tunable, backbone, recipe, jsonl.read(folder.summary, shapes.SUMMARY), merge=merge)


def load_tuned(folder: RunFolder, recipe: Recipe) -> tuple[Tunable, Backbone]:
    """The backbone of a run with what was tuned plugged in, on the CPU.

    Raises:
        RecipeError: the run has no saved round, or its backbone cannot be loaded, or is not what it was.
    """
    saved = load_checkpoint(folder)
    if saved is None or not folder.summary.is_file():
        raise RecipeError(f"{folder.path} has nothing to load yet; continue it with `{folder.again}`", source="run")
    task = TASKS[recipe.task.kind]
    backbone = load_backbone(
        recipe.model,
        task.auto_class,
        seed=recipe.seed,
        labels=jsonl.read(folder.summary, shapes.SUMMARY)["labels"],
        allow_network=recipe.allow_network,
    )
    _refuse_another_model(saved.identity, backbone)
    params = saved.state.delivered().params
    if isinstance(recipe.proxy, NoProxy):
        tunable = recipe.tune.attach(backbone, task_type=task.peft_type, seed=recipe.seed)
    else:
        here = recipe.proxy.model_copy(update={"path": str(folder.proxy)})
        model = make(here, backbone, None, seed=recipe.seed)
        tunable = recipe.tune.attach(model.backbone, task_type=task.peft_type, seed=recipe.seed)
        params = make_server_proxy(recipe, model, tunable, task, None).plug_in.to_backbone(params)
    tunable.write(params)
    tunable.eval()
    return tunable, backbone


def _refuse_another_model(before: Mapping[str, str], backbone: Backbone) -> None:
    """What was tuned belongs to the model that the run began with."""
    now = backbone.identity.named
    if changed := [words for part, words in PARTS.items() if before.get(f"model.{part}") != now[f"model.{part}"]]:
        raise RecipeError(
            f"{backbone.name} is not the model that this run tuned: it has other {' and other '.join(changed)}. "
            "Put the model of the run back",
            where="model.path",
        )
