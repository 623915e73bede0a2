"""What proxies of a model would cost clients and disclose, side by side, before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification
from transformers.models.bart.modeling_bart import shift_tokens_right

from fedfm.data.settings import PublicSettings
from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.configs import max_tokens, read_config
from fedfm.models.families import blocks, family_of
from fedfm.models.settings import ModelSettings
from fedfm.models.towers import open_checkpoint
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies import PROXIES, ProxySettings
from fedfm.proxies.folder import plain_tensors
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.matrix_packing import packed_sizes
from fedfm.proxies.near_copies import disclosed, near_copies
from fedfm.proxies.pair import ProxyPair, make_pair
from fedfm.proxies.plugin import plug_in_map
from fedfm.proxies.probes import probe
from fedfm.proxies.settings import Bits
from fedfm.proxies.sizes import block_parameters, forward_flops, training_memory
from fedfm.proxies.trace import hidden_states
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData, read_public
from fedfm.wire import stored_bytes

SEED, PROBE_BATCHES, PROBE_BATCH = 0, 2, 8
"""The seed, and the number and size of batches of the probes."""

REFERENCE, KEY = "fedpft", "proxy"
"""The kind that the options of `inspect_proxy` describe, and the key of its figures."""

Record = dict[str, Any]


def inspect_proxy(
    model: str,
    *,
    ffn_keep: float,
    keep_layers: list[int],
    score: str | None,
    adapters: int,
    tokens: int,
    batch_size: int,
    public: str | None,
    bits: Bits | None = None,
    allow_network: bool = False,
) -> Record:
    """Compares what clients may hold: the backbone, its FedPFT proxy, other proxies of about that size. Trains nothing.

    Args:
        model: as the recipe's ``model.path``; of two towers, one of which sees, that one.
        ffn_keep: as ``proxy.ffn_keep``.
        keep_layers: as ``proxy.keep_layers``.
        score: as ``proxy.score``; None: as null there.
        adapters: as ``proxy.adapters`` of an offsite proxy.
        tokens: length of an example; images have their own.
        batch_size: examples a training step.
        public: public data to probe with, as ``public.data``; None: no probes.
        bits: as ``proxy.bits``.
        allow_network: whether model and public data may be fetched from the hub.

    Returns:
        What was asked; ``holders``, the keys of what follows: ``backbone``, ``proxy`` and the kind of each other proxy
        (None where the model has too few layers for it). Each has ``title``, ``layers``, ``cut``, parameters of all
        ``blocks`` and in ``total``, ``flops`` of a forward pass of one example, bytes of ``training_memory`` and
        ``first_download``, share ``disclosed``, and a ``probe`` or None.

    Raises:
        RecipeError: the model cannot be loaded, takes fewer tokens, or has no such proxy.
        DataError: a file is damaged.
    """
    backbone = _backbone(model, allow_network)
    batch = _example(backbone, batch_size, tokens)
    data = _public(public, backbone, tokens, allow_network)
    made: dict[str, ProxyPair | None] = {}
    for kind, proxy in PROXIES.items():
        if (settings := proxy.sized(ffn_keep, keep_layers, score, adapters)) is not None:
            if public is None and settings.public_use == "score":
                problem = f"score {score} is computed on public data: name some, such as builtin:pydoc"
                raise RecipeError(problem, where="public")
            settings = settings.model_copy(update={"bits": bits})
            made[KEY if kind == REFERENCE else kind] = _pair(settings, backbone, data, required=kind == REFERENCE)
    return {
        "model": model,
        "family": backbone.family.name,
        "tokens": _length(backbone, batch),
        "batch_size": batch_size,
        "settings": {"ffn_keep": ffn_keep, "keep_layers": keep_layers, "score": score},
        "bits": (bits or Bits()).model_dump(),
        "public": public,
        "holders": ["backbone", *made],
        **_figures(backbone, made, batch, data),
    }


def _backbone(model: str, allow_network: bool) -> Backbone:
    """The model without a task's head; of CLIP the image tower, which has a head."""
    settings = ModelSettings(path=model)
    with open_checkpoint(settings, allow_network=allow_network) as checkpoint:
        family = family_of(read_config(checkpoint))
    auto_class = AutoModelForImageClassification if family.modality == "image-text" else AutoModel
    return load_backbone(settings, auto_class, seed=SEED, allow_network=allow_network)


def _public(name: str | None, backbone: Backbone, tokens: int, allow_network: bool) -> PublicData | None:
    if name is None:
        return None
    sample = PublicSettings(data=name, limit=256)
    return read_public(sample, backbone.processor, max_length=tokens, seed=SEED, allow_network=allow_network)


def _pair(
    settings: ProxySettings, backbone: Backbone, public: PublicData | None, *, required: bool
) -> ProxyPair | None:
    """The proxy of one kind; None where the model cannot have one of that size, unless it is ``required``."""
    try:
        return make_pair(settings, backbone, public, seed=SEED)
    except RecipeError:
        if required:
            raise
        return None


def _figures(
    backbone: Backbone, made: Mapping[str, ProxyPair | None], batch: Batch, public: PublicData | None
) -> Record:
    """The figures of each holder. Adapters are attached last, because the models share their modules."""
    held = _holder("backbone", backbone, batch, cut=0, share=1.0)
    sizes = {key: None if pair is None else _sizes(pair, batch) for key, pair in made.items()}
    tunable = Lora().attach(backbone, task_type=None, seed=SEED)
    held["training_memory"] = training_memory(tunable, batch).total
    for key, pair in made.items():
        if pair is not None:
            sizes[key] = {**(sizes[key] or {}), **_tuned(pair, tunable, batch, public)}
    return {"backbone": held, **sizes}


def _sizes(pair: ProxyPair, batch: Batch) -> Record:
    share = disclosed(pair.backbone, near_copies(pair.backbone, pair.proxy, pair.kept, pair.origins))
    found = _holder(pair.made_by.title, pair.proxy, batch, cut=len(pair.kept), share=share)
    packed = packed_sizes(dict(plain_tensors(pair.proxy.model)), pair.packed)
    return {**found, "first_download": stored_bytes(packed)}


def _holder(title: str, held: Backbone, batch: Batch, *, cut: int, share: float) -> Record:
    weights = dict(plain_tensors(held.model))
    return {
        "title": title,
        "layers": len(blocks(held.model, held.family)),
        "cut": cut,
        "blocks": block_parameters(held.model, held.family),
        "total": sum(tensor.numel() for tensor in weights.values() if isinstance(tensor, nn.Parameter)),
        "flops": forward_flops(held.model, held.family, _length(held, batch)),
        "first_download": stored_bytes(weights),
        "disclosed": share,
        "probe": None,
    }


def _tuned(pair: ProxyPair, backbone: Tunable, batch: Batch, public: PublicData | None) -> Record:
    """What needs an adapter on the proxy: memory of a training step, and a probe where both tune the same layers."""
    proxy = Lora().attach(pair.proxy, task_type=None, seed=SEED)
    memory = training_memory(proxy, batch).total
    if public is None or pair.backbone.tunable_blocks is not None:
        return {"training_memory": memory}
    plug_in = plug_in_map(proxy, backbone, pair.proxy, pair.backbone, pair.kept)
    proxy.write(plug_in.to_proxy(backbone.read()))
    examples = public.fixed(PROBE_BATCH, PROBE_BATCHES, seed=SEED, purpose="probes")
    batches = [_with_decoder(pair.backbone, example) for example in examples]
    errors = layer_errors(backbone.model, proxy.model, pair.compared, batches)
    found = probe(backbone, proxy, batches, seed=SEED, hidden_errors=errors)
    return {"training_memory": memory, "probe": found.record()}


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
