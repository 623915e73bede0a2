"""FedPM against numbers worked out by hand and against counts of masks; whole runs, resumed, and their bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import fedfm
from fedfm import Listener
from fedfm.algorithms import Aggregate, ClientRound, FedPM, ServerState
from fedfm.clients import LocalResult
from fedfm.errors import InterruptedRunError
from fedfm.params import Params, digest, load
from tests.models.cases import load as load_backbone
from tests.small import small_recipe

S = "q.mask_scores"
RECIPE: dict[str, Any] = {
    "tune": {"kind": "mask"},
    "algorithm": {"name": "fedpm"},
    "updates": [{"kind": "bernoulli"}],
    "aggregate": {"rule": "mean", "weights": "uniform"},
    "federation": {"clients": 6, "per_round": 3, "rounds": 3},
    "local": {"batch_size": 5, "learning_rate": 0.2},
    "runtime": {"processes": 1},
    "evaluate": {"every": 3},
}


def played(algorithm: FedPM, masks: list[np.ndarray], clients: int) -> tuple[Params, ServerState]:
    """Rounds in which clients send masks ``[K, values]``; scores and state after them."""
    params = {S: torch.zeros(masks[0].shape[1])}
    state = algorithm.start(params)
    for number, sent in enumerate(masks, start=1):
        mean = {S: torch.from_numpy(sent.mean(0))}
        aggregate = Aggregate(mean, share=len(sent) / clients, clients=len(sent), round=number)
        params, state = algorithm.server_step(params, aggregate, state)
    return params, state


def probabilities(params: Params) -> list[float]:
    return [1 / (1 + math.exp(-score)) for score in params[S].double().tolist()]


def test_one_round_by_hand() -> None:
    # λ0 = 2, K = 4: α = 2 + (3, 1), β = 2 + (1, 3), θ = (α − 1)/(α + β − 2) = (4/6, 2/6)
    sent = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    params, state = played(FedPM(prior=2), [sent], clients=4)
    assert state["alpha"][S].tolist() == [5.0, 3.0]
    assert state["beta"][S].tolist() == [3.0, 5.0]
    assert probabilities(params) == pytest.approx([4 / 6, 2 / 6])


def test_with_a_uniform_prior_it_is_the_share_of_masks() -> None:
    sent = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    params, _ = played(FedPM(epsilon=0.001), [sent], clients=4)
    assert probabilities(params) == pytest.approx([0.75, 0.001, 0.25])


@pytest.mark.parametrize(("reset_every", "clients"), [(1, 40), (3, 40), (None, 8), (None, 4)])
def test_the_posterior_counts_masks_since_the_last_reset(reset_every: int | None, clients: int) -> None:
    rng = np.random.default_rng(0)
    masks = [(rng.random((4, 6)) < 0.6).astype(np.float64) for _ in range(8)]
    period = reset_every or clients // 4
    begun = (len(masks) - 1) // period * period
    counted = np.concatenate(masks[begun:])
    params, _ = played(FedPM(prior=1.5, reset_every=reset_every), masks, clients)
    expected = (counted.sum(0) + 0.5) / (len(counted) + 1)
    assert probabilities(params) == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_masks_that_agree_give_finite_scores(mask: float) -> None:
    params, _ = played(FedPM(epsilon=0.01), [np.full((3, 2), mask)] * 3, clients=3)
    assert probabilities(params) == pytest.approx([abs(mask - 0.01)] * 2)


def test_other_tensors_are_averaged() -> None:
    params = {S: torch.zeros(1), "head.weight": torch.tensor([1.0, 2.0])}
    update = {S: torch.ones(1, dtype=torch.float64), "head.weight": torch.tensor([0.5, -1.0], dtype=torch.float64)}
    after, _ = FedPM().server_step(params, Aggregate(update), FedPM().start(params))
    assert after["head.weight"].tolist() == [1.5, 1.0]


def test_a_client_sends_its_scores_and_changes_of_the_rest() -> None:
    received = {S: torch.tensor([2.0]), "head.weight": torch.tensor([4.0])}
    update = {S: torch.tensor([-0.5]), "head.weight": torch.tensor([0.25])}
    done = FedPM().client_finish(update, ClientRound(received, {}, {}, lr=0.1), LocalResult(1, 1, 1, 0.0))
    assert {name: tensor.item() for name, tensor in done.update.items()} == {S: 1.5, "head.weight": 0.25}


class Stops(Listener):
    def on_round(self, record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise KeyboardInterrupt


def test_a_run_and_a_resumed_one_write_the_same_masked_model(tmp_path: Path) -> None:
    """The posterior goes on where the run was stopped; a mask has one bit an entry; plain transformers loads it."""
    recipe = small_recipe(tmp_path, **RECIPE)
    whole = fedfm.run({**recipe, "name": "whole"})
    with pytest.raises(InterruptedRunError):
        fedfm.run({**recipe, "name": "stopped"}, listeners=[Stops()])
    resumed = fedfm.resume(tmp_path / "runs" / "stopped")
    weights = load(whole.path / "model" / "model.safetensors")
    assert digest(weights) == digest(load(resumed.path / "model" / "model.safetensors"))
    assert whole.summary["final"] == resumed.summary["final"]

    before, masked = load_backbone("tiny-bert", "text").model.state_dict(), 0
    for name, weight in weights.items():
        if "attention" in name and name.endswith(("query.weight", "key.weight", "value.weight", "dense.weight")):
            assert torch.equal(weight, before[name].where(weight != 0, 0))
            masked += int((weight == 0).sum())
    assert masked > 0
    AutoModelForSequenceClassification.from_pretrained(whole.path / "model", local_files_only=True)

    wire = [json.loads(line) for line in whole.folder.wire.read_text().splitlines()]
    for message in wire:
        if message["direction"] == "up":
            (bits,) = [tensor for tensor in message["tensors"] if tensor["name"].endswith(".bits")]
            assert bits["bytes"] == 2 * 4 * 16 * 16 // 8


def test_processes_draw_the_masks_of_one(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, **RECIPE, name="one")
    two = {**recipe, "name": "two", "runtime": {"processes": 2}}
    models = [load(fedfm.run(one).path / "model" / "model.safetensors") for one in (recipe, two)]
    assert digest(models[0]) == digest(models[1])
