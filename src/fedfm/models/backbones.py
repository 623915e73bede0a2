"""Loads a backbone: the frozen pretrained model with a head for the task, and its tokenizer or image processor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderProcessor,
)

from fedfm.errors import DataError, RecipeError
from fedfm.models.checkpoints import PretrainedCheckpoint
from fedfm.models.configs import ProblemType, read_config, set_labels
from fedfm.models.families import Family, blocks, family_of
from fedfm.models.families.two_towers import TEXT
from fedfm.models.identity import ModelIdentity, identify
from fedfm.models.padding import adopt_padding
from fedfm.models.processors import Modality, Processor, read_processor
from fedfm.models.quiet import quiet
from fedfm.models.settings import ModelSettings
from fedfm.models.towers import open_checkpoint
from fedfm.models.weights import read_weights, weight_files
from fedfm.randomness import torch_seed

COMPARED = 1024
"""Values of each tensor that are compared with the checkpoint's."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained model before a tunable is attached.

    Attributes:
        model: on the CPU, in eval mode, without gradients; a tunable is attached to it in place.
        processor: its tokenizer or image processor.
        family: describes where its parts are.
        name: the name by which others can load the same backbone: a hub id, a folder, or ``builtin:NAME``.
        revision: commit of a hub id.
        head: modules that ``head: true`` trains in full: the task's head, and new parts of a language head or pooler.
        new_head: parameters that the checkpoint lacks; they are newly initialised and all belong to the head.
        identity: digests of everything that decides its outputs; for a proxy, the digests of its backbone.
        other_labels: the classes that the checkpoint's head was trained for, if they differ from the task's.
        unused: weights of blocks that the checkpoint has but the model does not use; the config may be wrong.
        loaded: how many of its tensors came from the checkpoint.
        ignored: tensors of the checkpoint that the model does not use, such as the head of another task.
        drawn: whether all weights were drawn at random (`model.init: random`).
        tunable_blocks: paths, from the base model, of the blocks that a tunable may change; None: all blocks.
    """

    model: PreTrainedModel
    processor: Processor
    family: Family
    name: str
    revision: str | None
    head: tuple[str, ...]
    new_head: tuple[str, ...]
    identity: ModelIdentity
    other_labels: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    tunable_blocks: tuple[str, ...] | None = None
    loaded: int = 0
    ignored: tuple[str, ...] = ()
    drawn: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about this model that a user should read before a run, one sentence each."""
        found = []
        if self.drawn:
            found.append(
                f"the model is not pretrained: all weights were drawn at random (model.init), and of {self.name} only "
                "config and tokenizer are used"
            )
        if not self.family.is_described:
            found.append(
                f"fedfm has no description of `{self.family.name}` models: `target_modules` are found by the names of "
                "layers, clients train one at a time, and proxies are not available"
            )
        if self.unused:
            found.append(
                f"the checkpoint of {self.name} has weights in its blocks that the model in its config.json does not "
                f"use: {_some(self.unused)}"
            )
        return tuple(found)


def load_processor(
    settings: ModelSettings,
    modality: Modality,
    *,
    causal: bool = False,
    virtual_tokens: int = 0,
    allow_network: bool = False,
) -> Processor:
    """The tokenizer or image processor of a backbone, without its weights; see `read_processor`.

    Args:
        settings: the recipe's ``model``.
        modality: the type of the task's inputs.
        causal: whether the task needs a model in which a position does not read later tokens.
        virtual_tokens: how many of the tokens that the model accepts belong to the tunable, not to the text.
        allow_network: whether files may be downloaded from the hub.

    Raises:
        RecipeError: at ``model.path``: the backbone does not exist or has no processor; at ``task.kind``: it is an
            encoder, but the task needs a decoder.
    """
    with open_checkpoint(settings, allow_network=allow_network) as checkpoint:
        config = read_config(checkpoint)
        family = family_of(config)
        other = "seq2seq` for an encoder-decoder" if config.is_encoder_decoder else "masked-lm` for an encoder"
        if causal and family.is_described and not (family.causal or getattr(config, "is_decoder", False)):
            raise RecipeError(
                f"{checkpoint.name} ({family.name}) reads all tokens of a text at once, including those that it must "
                f"predict; choose a decoder as `model.path`, or `task.kind: {other}",
                where="task.kind",
            )
        processor = read_processor(checkpoint, config, modality)
    return leave_room(processor, virtual_tokens)


def leave_room(processor: Processor, virtual_tokens: int) -> Processor:
    """Reduces the maximum length of a tokenizer by a tunable's virtual tokens, and returns the processor."""
    tokenizer = processor.tokenizer if isinstance(processor, VisionTextDualEncoderProcessor) else processor
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer.model_max_length -= virtual_tokens
    return processor


def load_backbone(
    settings: ModelSettings,
    auto_class: Any,
    *,
    seed: int,
    labels: Sequence[str] | None = None,
    problem_type: ProblemType = "single_label_classification",
    modality: Modality | None = None,
    allow_network: bool = False,
) -> Backbone:
    """A frozen pretrained model with the head of a task.

    Args:
        settings: the recipe's ``model``.
        auto_class: the task's class, e.g. ``transformers.AutoModelForSequenceClassification``.
        seed: the recipe's seed; parameters that the checkpoint lacks are drawn from it, and all with `init: random`.
        labels: class names in the order of their ids; None for tasks without labels. A checkpoint's head for another
            number of classes is replaced by a new head.
        problem_type: transformers' name of what a model with labels predicts.
        modality: the type of the task's inputs; None: as the model's main input.
        allow_network: whether files may be downloaded from the hub.

    Raises:
        RecipeError: the model does not exist, is not supported, does not fit the task, or lacks weights outside its
            head; or there are fewer than two labels.
        DataError: files of the model are damaged.
    """
    if labels is not None and len(labels) < 2 and problem_type != "regression":  # transformers would treat it as one
        raise RecipeError(
            f"the data has only one class ({', '.join(labels)}): classification needs two", where="data.label"
        )
    with open_checkpoint(settings, allow_network=allow_network) as checkpoint:
        config = read_config(checkpoint)
        family = family_of(config)
        other_labels = set_labels(config, labels, problem_type) if labels is not None else ()
        if type(config) not in auto_class._model_mapping:
            raise RecipeError(
                f"models of type `{config.model_type}` have no {auto_class.__name__.removeprefix('AutoModel')}; "
                "choose another model or another `task.kind`",
                where="model.path",
            )
        model, missing, unexpected = _read_model(checkpoint, auto_class, config, seed)
        reads: Modality = "image" if model.main_input_name == "pixel_values" else "text"
        processor = read_processor(checkpoint, config, modality or reads)
    if not family.is_described:
        family = _with_heads(family, model, labelled=labels is not None)
    _refuse_missing(model, family, missing, checkpoint)
    if isinstance(processor, PreTrainedTokenizerBase):
        agree_on_tokens(model, processor, checkpoint.name)
    elif isinstance(processor, VisionTextDualEncoderProcessor):
        agree_on_tokens(cast(PreTrainedModel, model.get_submodule(TEXT)), processor.tokenizer, checkpoint.name)
    model.name_or_path = model.config.name_or_path = checkpoint.name
    model.eval().requires_grad_(False)
    return Backbone(
        model=model,
        processor=processor,
        family=family,
        name=checkpoint.name,
        revision=checkpoint.revision,
        head=_head(model, family, missing),
        new_head=tuple(missing),
        identity=identify(model, processor, family, missing),
        other_labels=other_labels,
        unused=_in_blocks(unexpected, model, family),
        loaded=len(model.state_dict()) - len(missing) if checkpoint.pretrained else 0,
        ignored=tuple(unexpected),
        drawn=not checkpoint.pretrained,
    )


def _read_model(
    checkpoint: PretrainedCheckpoint, auto_class: Any, config: PretrainedConfig, seed: int
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """The model, the parameters that its checkpoint lacks or has in another shape, and those that it does not use."""
    folder, name = checkpoint.folder, checkpoint.name
    if not checkpoint.pretrained:
        with quiet(), torch_seed(seed, "weights"):
            drawn = auto_class.from_config(copy.deepcopy(config), trust_remote_code=False, dtype=torch.float32)
        return drawn, [], []
    weights = read_weights(weight_files(folder, name), name)
    with quiet():
        with torch.device("meta"):
            kind = type(auto_class.from_config(copy.deepcopy(config), trust_remote_code=False))
        with torch_seed(seed, "head"):
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        if model.can_generate() and (folder / "generation_config.json").is_file():  # is exported with the model
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    mismatched = {parameter for parameter, *_ in report["mismatched_keys"]}
    refuse_lost_values(model, {key: weights[key] for key in weights.keys() - mismatched}, name)
    return model, sorted({*report["missing_keys"], *mismatched}), sorted(report["unexpected_keys"])


@torch.no_grad()
def refuse_lost_values(model: PreTrainedModel, weights: Mapping[str, Tensor], name: str) -> None:
    """Compares the first values of each tensor of a checkpoint with those of the model that was loaded from it.

    Tensors that the model has under another name or in another shape are not compared.

    Args:
        model: as loaded.
        weights: of the checkpoint.
        name: of the checkpoint.

    Raises:
        DataError: values of the checkpoint did not arrive in the model.
    """
    state, prefix = model.state_dict(), f"{model.base_model_prefix}."
    lost = []
    for key, stored in weights.items():
        here = next((k for k in (key, prefix + key, key.removeprefix(prefix)) if k in state), None)
        if here is None or state[here].shape != stored.shape or not stored.is_floating_point():
            continue
        if not state[here].flatten()[:COMPARED].equal(stored.flatten()[:COMPARED].to(state[here].dtype)):
            lost.append(here)
    if lost:
        raise DataError(
            f"weights of {name} did not arrive in the model that was loaded from it: {_some(sorted(lost))}. "
            "Use a version of transformers that can read this checkpoint"
        )


def embeddings(model: PreTrainedModel) -> nn.Embedding:
    """The token embeddings of a model that reads text."""
    return cast(nn.Embedding, model.get_input_embeddings())


def agree_on_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Sets a model's padding token to that of its tokenizer; see `fedfm.models.padding`.

    Raises:
        RecipeError: at ``model.path``: the tokenizer has more tokens than the model, or the model does not read texts
            alone.
    """
    try:
        rows = embeddings(model).num_embeddings
    except NotImplementedError as error:  # it has several parts, such as CLIP with its two towers
        reason = f"{name} is no model of texts alone: choose an encoder or a decoder"
        raise RecipeError(reason, where="model.path") from error
    if len(tokenizer) > rows:
        raise RecipeError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, but its model has only {rows} embeddings",
            where="model.path",
        )
    adopt_padding(model, tokenizer)


def _with_heads(family: Family, model: PreTrainedModel, *, labelled: bool) -> Family:
    """A family without a description, with the heads that the model has beside its base model."""
    beside = [name for name, child in model.named_children() if child is not model.base_model]
    if model.base_model is model:  # the head is one of the base model's own modules
        beside = [name for name in beside if name in ("classifier", "score", "lm_head")]
    return replace(family, heads=tuple(beside) if labelled else (), language_heads=() if labelled else tuple(beside))


def _is_in(parameter: str, module: str) -> bool:
    return parameter.startswith(f"{module}.")


def _pooler(model: PreTrainedModel, family: Family) -> tuple[str, ...]:
    """The path of the pooler from the whole model, if the head reads it."""
    return (f"{model.base_model_prefix}.{family.pooler}",) if family.pooler else ()


def _refuse_missing(
    model: PreTrainedModel, family: Family, missing: Sequence[str], checkpoint: PretrainedCheckpoint
) -> None:
    """Refuses a checkpoint that lacks parameters outside the head: they would be random and would not be trained."""
    base, prefix = (model, "") if model.base_model is model else (model.base_model, f"{model.base_model_prefix}.")
    inside = {f"{prefix}{name}" for name in base.state_dict()}
    heads = (*family.heads, *family.language_heads, *_pooler(model, family))
    lost = [name for name in missing if name in inside and not any(_is_in(name, head) for head in heads)]
    if lost:
        raise RecipeError(
            f"the checkpoint of {checkpoint.name} lacks weights of the model: {_some(lost)}", where="model.path"
        )


def _in_blocks(names: Sequence[str], model: PreTrainedModel, family: Family) -> tuple[str, ...]:
    """The parameters whose names belong to a stack of the model (CLIP's image classifier has no text stack)."""
    paths = {block.stack.path for block in blocks(model, family)}
    return tuple(name for name in names if any(f"{path}." in name for path in paths))


def _some(names: Sequence[str]) -> str:
    """The first of many names, for messages."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _head(model: PreTrainedModel, family: Family, missing: Sequence[str]) -> tuple[str, ...]:
    """The modules that `head: true` trains: classification heads, and new parts of language heads and the pooler."""
    modules = dict(model.named_modules())
    renewable = (*family.language_heads, *_pooler(model, family))
    return tuple(
        head
        for head in (*family.heads, *renewable)
        if head in modules and (head in family.heads or any(_is_in(name, head) for name in missing))
    )
