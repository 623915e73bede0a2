"""What ``fedfm proxy`` does: a proxy sized up before anyone commits to a run, or built ahead of one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification
from transformers.models.bart.modeling_bart import shift_tokens_right

from fedfm.clients import use_threads
from fedfm.data.settings import PublicSettings
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.checkpoints import open_checkpoint
from fedfm.models.configs import max_tokens, read_config
from fedfm.models.families import blocks, family_of
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies import FedPFT, NoProxy, Offsite
from fedfm.proxies.folder import plain_tensors
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.model import ProxyModel, make
from fedfm.proxies.plugin import plug_in_map
from fedfm.proxies.probes import probe
from fedfm.proxies.settings import Score
from fedfm.proxies.sizes import bit_equal_share, block_parameters, forward_flops, training_memory
from fedfm.proxies.trace import hidden_states
from fedfm.recipe import Recipe
from fedfm.records.disk import replacing_folder, storage
from fedfm.server.experiment.build import build_experiment
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData, read_public
from fedfm.wire import stored_bytes

SEED, PROBE_BATCHES, PROBE_BATCH = 0, 2, 8
"""Of what `inspect_proxy` draws and probes."""


def inspect_proxy(
    model: str,
    *,
    ffn_keep: float,
    keep_layers: Sequence[int],
    score: Score,
    adapters: int,
    tokens: int,
    batch_size: int,
    public: str | None,
    allow_network: bool = False,
) -> dict[str, Any]:
    """What clients would hold: the backbone, its FedPFT proxy, or an offsite proxy of the same size. Trains nothing.

    Args:
        model: as the recipe's ``model.path``; of two towers, one of which sees, that one.
        ffn_keep: as ``proxy.ffn_keep``.
        keep_layers: as ``proxy.keep_layers``.
        score: as ``proxy.score``.
        adapters: as ``proxy.adapters`` of the offsite proxy.
        tokens: length of an example; images have their own.
        batch_size: examples a training step.
        public: public data to probe with, as ``public.data``; None: no probes.
        allow_network: whether model and public data may be fetched from the hub.

    Returns:
        What was asked, and by holder (``offsite`` is None where the model has too few layers for it): ``layers``,
        ``cut``, parameters of all ``blocks`` and in ``total``, ``flops`` of a forward pass of one example, bytes of
        ``training_memory`` and ``first_download``, share ``disclosed``, and a ``probe`` or None.

    Raises:
        RecipeError: the model cannot be loaded, takes fewer tokens, or has no such proxy.
        DataError: a file is damaged.
    """
    if public is None and score in ("activation", "gradient"):
        raise RecipeError(f"score {score} is computed on public data: name some, such as builtin:pydoc", where="public")
    backbone = _backbone(model, allow_network)
    batch = _example(backbone, batch_size, tokens)
    data = None
    if public is not None:
        sample = PublicSettings(data=public, limit=256)
        data = read_public(sample, backbone.processor, max_length=tokens, seed=SEED, allow_network=allow_network)
    settings = FedPFT(ffn_keep=ffn_keep, keep_layers=list(keep_layers), score=score)
    made: dict[str, ProxyModel | None] = {"proxy": make(settings, backbone, data, seed=SEED)}
    try:
        other = Offsite(adapters=adapters, ffn_keep=ffn_keep, keep_layers=list(keep_layers))
        made["offsite"] = make(other, backbone, data, seed=SEED)
    except RecipeError:
        made["offsite"] = None
    sizes = {name: _sizes(found, batch) for name, found in made.items()}
    held = _holder(backbone, batch, cut=0, disclosed=1.0)
    tunable = Lora().attach(backbone, task_type=None, seed=SEED)
    held["training_memory"] = training_memory(tunable, batch).total
    for name, found in made.items():
        if found is not None:
            sizes[name] = _with_proxy_tunable(sizes[name] or {}, found, tunable, batch, data)
    return {
        "model": model,
        "family": backbone.family.name,
        "tokens": _length(backbone, batch),
        "batch_size": batch_size,
        "settings": settings.model_dump(include={"ffn_keep", "keep_layers", "score"}),
        "public": public,
        "backbone": held,
        **sizes,
    }


def build_proxy(recipe: Recipe, folder: Path | str) -> dict[str, Any]:
    """Makes the proxy of a recipe, fits it on its public data, and writes it into a new folder.

    Returns:
        ``path``, ``kind``, ``parameters`` (``blocks``, ``backbone_blocks``, ``total``), ``disclosed``,
        ``first_download``, ``seconds``, and ``probes``: a record of each stage.

    Raises:
        RecipeError: the recipe has no proxy, does not fit, or the folder exists.
        DataError: a file cannot be read.
        StorageError: the folder cannot be written; found out before anything is fitted.
    """
    folder = Path(folder)
    if isinstance(recipe.proxy, NoProxy):
        raise RecipeError("the recipe has no proxy to build; set proxy.kind to fedpft or offsite", where="proxy.kind")
    if os.path.lexists(folder):
        raise RecipeError(f"{folder} exists already; name a new folder", source="proxy")
    with storage(folder, "write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}").cleanup()
    start = time.perf_counter()
    experiment = build_experiment(recipe)
    probes: list[dict[str, Any]] = []
    with use_threads(experiment.recipe.runtime.resolved_threads):
        version = experiment.client_model.prepare(experiment.start, probes.append)
    with replacing_folder(folder) as beside:
        experiment.client_model.save(beside, version)
    return {
        "path": str(folder),
        "kind": recipe.proxy.kind,
        **experiment.client_model.sizes(),
        "first_download": experiment.client_model.download_bytes,
        "seconds": round(time.perf_counter() - start, 3),
        "probes": probes,
    }


def _backbone(model: str, allow_network: bool) -> Backbone:
    """The model without a task's head; of CLIP what is tuned, its image tower, which comes with a head."""
    settings = ModelSettings(path=model)
    with open_checkpoint(settings, allow_network=allow_network) as checkpoint:
        family = family_of(read_config(checkpoint))
    auto_class = AutoModelForImageClassification if family.modality == "image-text" else AutoModel
    return load_backbone(settings, auto_class, seed=SEED, allow_network=allow_network)


def _example(backbone: Backbone, batch_size: int, tokens: int) -> Batch:
    """A batch of blank inputs.

    Raises:
        RecipeError: the model does not take so many tokens.
    """
    config = backbone.model.config
    if backbone.model.main_input_name == "pixel_values":
        seen = getattr(config, "vision_config", config)
        size = (seen.image_size, seen.image_size) if isinstance(seen.image_size, int) else seen.image_size
        return {"pixel_values": torch.zeros(batch_size, seen.num_channels, *size)}
    limit = max_tokens(config)
    if limit is not None and tokens > limit:
        raise RecipeError(f"{backbone.name} takes {limit} tokens at most, not {tokens}", where="tokens")
    blank = torch.ones(batch_size, tokens, dtype=torch.int64)
    return _with_decoder(backbone, {"input_ids": blank, "attention_mask": blank})


def _with_decoder(backbone: Backbone, batch: Batch) -> Batch:
    """A batch with what a decoder that reads an encoder's output reads: the same text, as T5's classifier does it."""
    config = backbone.model.config
    if not config.is_encoder_decoder:
        return batch
    shifted = shift_tokens_right(batch["input_ids"], config.pad_token_id, config.decoder_start_token_id)
    return {**batch, "decoder_input_ids": shifted}


@torch.no_grad()
def _length(backbone: Backbone, batch: Batch) -> int:
    """Positions of an example: tokens, or patches and what stands before them."""
    first = blocks(backbone.model, backbone.family)[:1]
    one = {name: tensor[:1] for name, tensor in batch.items()}
    return hidden_states(backbone.model, first, one)[first[0].path].shape[1]


def _holder(backbone: Backbone, batch: Batch, *, cut: int, disclosed: float) -> dict[str, Any]:
    weights = dict(plain_tensors(backbone.model))
    return {
        "layers": len(blocks(backbone.model, backbone.family)),
        "cut": cut,
        "blocks": block_parameters(backbone.model, backbone.family),
        "total": sum(tensor.numel() for tensor in weights.values() if isinstance(tensor, nn.Parameter)),
        "flops": forward_flops(backbone.model, backbone.family, _length(backbone, batch)),
        "first_download": stored_bytes(weights),
        "disclosed": disclosed,
        "probe": None,
    }


def _sizes(model: ProxyModel | None, batch: Batch) -> dict[str, Any] | None:
    if model is None:
        return None
    share = bit_equal_share(model.backbone, model.proxy, model.kept, model.origins)
    return _holder(model.proxy, batch, cut=len(model.kept), disclosed=share)


def _with_proxy_tunable(
    sizes: Mapping[str, Any], model: ProxyModel, backbone: Tunable, batch: Batch, public: PublicData | None
) -> dict[str, Any]:
    """The figures that need an adapter on the proxy: memory of a training step, and probes."""
    proxy = Lora().attach(model.proxy, task_type=None, seed=SEED)
    found = {**sizes, "training_memory": training_memory(proxy, batch).total}
    if public is None or model.layers is not None:
        return found
    plug_in = plug_in_map(proxy, backbone, model.proxy, model.backbone, model.kept)
    proxy.write(plug_in.to_proxy(backbone.read()))
    examples = public.fixed(PROBE_BATCH, PROBE_BATCHES, seed=SEED, purpose="probes")
    batches = [_with_decoder(model.backbone, batch) for batch in examples]
    errors = layer_errors(backbone.model, proxy.model, model.pairs, batches)
    return {**found, "probe": probe(backbone, proxy, batches, seed=SEED, hidden_errors=errors).record()}
