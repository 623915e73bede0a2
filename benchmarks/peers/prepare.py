"""Writes what is fixed of a job: texts and recipe for fedfm; model, adapter, tokens and batches for everybody else.

The batches are those that fedfm draws. Of four steps, clients hold the examples of four, five or six, so that a mean
that forgets the weights is another adapter. Dropout is off.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BertConfig

from fedfm import Experiment, build_experiment, load_recipe
from fedfm.data.batches import batch_plan
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.builtin import minilm_folder
from fedfm.proxies.pair import make_pair
from fedfm.randomness import numpy_generator
from job import Data
from sizes import Size

PROXY = {
    "kind": "fedpft",
    "ffn_keep": 0.25,
    "keep_layers": [],
    "closed_form": False,
    "distill": None,
    "interval": None,
    "probe": 0,
}
"""Alike in all layers, so that it is an ordinary checkpoint for others."""

ROWS_A_TEXT = 4
"""News items that are joined, so that each text fills the longest length."""


def prepare(size: Size, folder: Path, shared: Path) -> None:
    """Writes a job's folder.

    Args:
        size: the job.
        folder: where it goes; emptied first.
        shared: folder of the data sets.

    Raises:
        ValueError: there are too few texts, or one does not fill the length.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_texts(size, folder, shared)
    (folder / "recipe.yaml").write_text(json.dumps(recipe(size, folder), indent=1))
    experiment = build_experiment(load_recipe(folder / "recipe.yaml"))
    backbone = pristine(experiment)
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(backbone.model.config, key):
            setattr(backbone.model.config, key, 0.0)
    backbone.model.save_pretrained(folder / "model")
    clients = experiment.worker.tunable
    clients.write(experiment.start)
    clients.save(folder / "adapter", backbone.processor)
    data = tokens(size, experiment)
    if not size.natural and bool((data.lengths != size.length).any()):
        raise ValueError(f"not all texts have {size.length} tokens: {data.lengths.unique().tolist()}")
    data.save(folder)


def pristine(experiment: Experiment) -> Backbone:
    """What clients train on, before anything was attached to it."""
    settings, data = experiment.recipe, experiment.data
    labels = None if data.labels is None else data.labels.names
    backbone = load_backbone(settings.model, data.task.auto_class, seed=settings.seed, labels=labels)
    if not settings.proxy.is_sent:
        return backbone
    proxy = make_pair(settings.proxy, backbone, None, seed=settings.seed).proxy
    proxy.model.config.intermediate_size = proxy.model.bert.encoder.layer[0].intermediate.dense.out_features
    return proxy


def tokens(size: Size, experiment: Experiment) -> Data:
    """All examples, and the batches that fedfm draws of them."""
    training = experiment.data.training
    if training is None:
        raise ValueError("a simulation holds its clients' data")
    examples, clients = training.train, training.federation.train
    input_ids = torch.zeros(len(examples), int(examples.lengths.max()), dtype=torch.long)
    for row, ids in zip(input_ids, examples.table["input_ids"], strict=True):
        row[: len(ids)] = torch.tensor(ids)

    def steps(number: int, client: str) -> torch.Tensor:
        generator = numpy_generator(experiment.recipe.seed, "batches", round=number, client=client)
        held = clients[client]
        plan = batch_plan(len(held), size.batch_size, epochs=1, max_steps=size.steps, generator=generator)
        return torch.stack([torch.from_numpy(held[step]) for step in plan])

    order = sorted(clients)
    return Data(
        input_ids=input_ids,
        lengths=torch.from_numpy(examples.lengths).long(),
        labels=None if examples.labels is None else torch.from_numpy(examples.labels),
        plan=torch.stack(
            [torch.stack([steps(number, client) for client in order]) for number in range(1, size.rounds + 1)]
        ),
        sizes=torch.tensor([len(clients[client]) for client in order]),
    )


def recipe(size: Size, folder: Path) -> dict[str, Any]:
    """The job as a recipe of fedfm."""
    causal = size.model == "tiny llama"
    return {
        "name": "peers",
        "model": {"path": model_path(size, folder)},
        "task": {"kind": "causal-lm" if causal else "text-classification"},
        "data": {
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "client": "client",
            "max_length": size.length,
        },
        "federation": {"per_round": size.clients, "rounds": size.rounds},
        "local": {
            "max_steps": size.steps,
            "batch_size": size.batch_size,
            "optimizer": size.optimizer,
            "learning_rate": size.learning_rate,
            "lr_scheduler_type": "constant",
        },
        "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
        "proxy": PROXY if size.proxy else {"kind": "none"},
        "evaluate": {"every": size.rounds, "clients": 0},
        "checkpoint": {"every": size.rounds},
    }


def model_path(size: Size, folder: Path) -> str:
    """The backbone by the name that fedfm knows it by; the tiny encoder is written first."""
    if size.model != "tiny encoder":
        return {"minilm": "builtin:minilm", "tiny llama": "builtin:small-llama"}[size.model]
    torch.manual_seed(0)
    config = BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    AutoModel.from_config(config).save_pretrained(folder / "backbone")
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder / "backbone")
    return str(folder / "backbone")


def write_texts(size: Size, folder: Path, shared: Path) -> None:
    """``train.jsonl``, each row with its client, and a small ``test.jsonl``."""
    clients = [
        f"{client:03}" for client in range(size.clients) for _ in range(size.batch_size * (size.steps + client % 3))
    ]
    texts = read_texts(size, shared)
    if len(texts) < len(clients):
        raise ValueError(f"{len(clients)} texts are needed, and there are {len(texts)}")
    train = [json.dumps({**row, "client": client}) + "\n" for row, client in zip(texts, clients, strict=False)]
    (folder / "train.jsonl").write_text("".join(train))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts[:8]))


def read_texts(size: Size, shared: Path) -> list[dict[str, Any]]:
    """Texts of the length wanted; for the llama, whose tokens are bytes, pieces of web pages."""
    if size.model == "tiny llama":
        whole = "".join(row["text"] for row in _read(shared, "c4_wiki_demo")).encode("ascii", "ignore").decode()
        room = size.length - 1  # a token says where a text begins
        return [{"text": whole[start : start + room]} for start in range(0, len(whole) - room, room)]
    if size.natural:
        return _read(shared, "sst2")
    rows = _read(shared, "ag_news")
    longer = zip(*(rows[shift:] for shift in range(ROWS_A_TEXT)), strict=False)
    return [{"text": " ".join(row["text"] for row in joined), "label": joined[0]["label"]} for joined in longer]


def _read(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / name / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
