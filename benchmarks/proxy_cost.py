"""CPU seconds of making a FedPFT proxy, of finding it in the cache, and of one alignment, beside their estimates.

    python benchmarks/proxy_cost.py [--model builtin:minilm] [--distill 500]

Public data is `builtin:pydoc`, 2,048 pieces of at most 64 tokens, read and encoded before the clock starts; one thread.
The proxy has `ffn_keep: 0.25` with whole ends. "Made" and "found" include choosing neurons and the comparisons with the
backbone (`probe`), but not loading the model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForSequenceClassification

from fedfm.data.settings import PublicSettings
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies.base import ClientModel, ModelVersion
from fedfm.proxies.fedpft.settings import Alignment, FedPFT
from fedfm.proxies.settings import DistillSettings
from fedfm.tasks.public import PublicData, read_public
from ledger import machine

LENGTH = 64
SCORES = ("concat-l2", "reconstruct")
ALIGNMENTS = {"in closed form": Alignment(closed_form=True), "by 50 steps of 32": Alignment()}


def attach(backbone: Backbone) -> Tunable:
    """LoRA r 8 on attention."""
    return Lora().attach(backbone, task_type="SEQ_CLS", seed=0)


def load(model: str) -> Backbone:
    """The backbone with a head of two classes."""
    auto = AutoModelForSequenceClassification
    return load_backbone(ModelSettings(path=model), auto, seed=0, labels=["a", "b"])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of all threads, and what the work returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def make(settings: FedPFT, backbone: Backbone, public: PublicData) -> tuple[ClientModel, ModelVersion]:
    """A proxy, cut and fitted, or taken from the cache."""
    model = settings.at_server(backbone, attach, public, seed=0)
    return model, model.prepare(model.start, lambda record: None)


def of_making(settings: FedPFT, model: str, public: PublicData) -> str:
    """The estimate of fitting, a proxy made with an empty cache, the same with its entries, and their size."""
    backbones = [load(model) for _ in range(3)]
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, FEDFM_CACHE=empty):
        made, _ = timed(partial(make, settings, backbones[0], public))
        found, _ = timed(partial(make, settings, backbones[1], public))
        size = sum(file.stat().st_size for file in Path(empty).iterdir())
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, FEDFM_CACHE=empty):
        about = settings.at_server(backbones[2], attach, public, seed=0).cpu_seconds()
    fitting = sum(about[stage] for stage in about if stage != "alignment")
    return f"{fitting:>14.1f} s{made:>8.1f} s{found:>8.1f} s{size / 1e6:>13.1f} MB"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--distill", type=int, default=0, help="steps of distillation; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    distill = DistillSettings(steps=options.distill) if options.distill else None
    with tempfile.TemporaryDirectory() as name:
        os.environ["FEDFM_CACHE"] = name
        processor, data = load(options.model).processor, PublicSettings(data="builtin:pydoc")
        public = read_public(data, processor, max_length=LENGTH, seed=0)
        make(FedPFT(score="concat-l2", distill=None, ridge=0.02), load(options.model), public)  # the first passes
        print(f"{'score':<14}{'fitting, about':>16}{'made':>10}{'found':>10}{'in the cache':>16}")
        for score in SCORES:
            print(f"{score:<14}{of_making(FedPFT(score=score, distill=distill), options.model, public)}")
        print(f"\n{'alignment':<20}{'about':>10}{'measured':>10}")
        for title, align in ALIGNMENTS.items():
            settings = FedPFT(score="concat-l2", distill=None, ridge=0.02, align=align)
            model, version = make(settings, load(options.model), public)
            about = model.cpu_seconds()["alignment"]
            seconds, _ = timed(partial(model.advance, version, model.start, 10, {}, lambda record: None))
            print(f"{title:<20}{about:>8.1f} s{seconds:>8.1f} s")
    print(f"\nCPU seconds; {len(public):,} public pieces of at most {LENGTH} tokens; {machine()}")


if __name__ == "__main__":
    main()
