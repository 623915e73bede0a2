"""Stages that fit a proxy to its backbone before round 1, and what decides their outcome.

Cutting and fitting take from seconds to minutes, and depend on neither clients nor rounds. So the outcome of each stage
is kept in the cache, under a digest of all that decides its bits, and a run with the same digest takes it from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import transformers
from peft import PeftModel

from fedfm.data.tensor_cache import tensor_key
from fedfm.models.backbones import Backbone
from fedfm.proxies.costs import Passes
from fedfm.proxies.trace import Model
from fedfm.tasks.public import PublicData


@dataclass(frozen=True)
class FitStage:
    """One stage of fitting.

    Attributes:
        name: of the stage in records.
        settings: that decide its outcome, beside what stood before it; JSON.
        fit: fits the proxy in place; returns figures of what it did.
        passes: what it computes.
    """

    name: str
    settings: Mapping[str, object]
    fit: Callable[[], dict[str, float]]
    passes: Passes


def making_key(backbone: Backbone, public: PublicData, seed: int, **settings: object) -> str:
    """A key of the cache for what is made of a backbone on public data.

    It has no part of the tunable: fitting sees the models as they are without it.

    Args:
        backbone: without its head; a stage that reads the head has the head's digest among its settings.
        public: what is read.
        seed: the recipe's seed, which decides the order of public data.
        settings: that decide the outcome; JSON.
    """
    device = backbone.model.device
    return tensor_key(
        backbone=backbone.identity.digest,
        public=public.fingerprint,
        seed=seed,
        settings=settings,
        code=_code_digest(),
        transformers=transformers.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processor=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        matmul=torch.get_float32_matmul_precision(),
    )


def adapter_settings(model: Model) -> str:
    """What an adapter computes with its values; of a model without an adapter, its class."""
    if not isinstance(model, PeftModel):
        return type(model).__name__
    settings = {**model.active_peft_config.to_dict(), "base_model_name_or_path": None}
    return json.dumps(
        settings, sort_keys=True, default=lambda value: sorted(value) if type(value) is set else str(value)
    )


@cache
def _code_digest() -> str:
    """sha256 (hex) of this room's source: between two releases it changes, and the version does not."""
    whole = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()
