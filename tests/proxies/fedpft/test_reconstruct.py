"""The greedy choice of neurons, against ridge regressions by NumPy on every candidate set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.proxies.fedpft.scores import Scoring, scores
from fedfm.proxies.fedpft.scores.reconstruct import RIDGE, greedy_order
from fedfm.proxies.ffn import neurons, vectors
from fedfm.proxies.trace import activations, real_positions, run
from tests.models.cases import CASES, Case, load
from tests.proxies.small_proxy import blocks_of, public_batches

COUNT = 6


def explained(a: np.ndarray, y: np.ndarray, chosen: list[int], penalty: float) -> float:
    """‖y‖² less the least of ‖y − a_S·w‖² + λ‖w‖²."""
    design = np.vstack([a[:, chosen], np.sqrt(penalty) * np.eye(len(chosen))])
    wanted = np.vstack([y, np.zeros((len(chosen), y.shape[1]))])
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float((y**2).sum() - ((wanted - design @ found) ** 2).sum())


def by_hand(a: np.ndarray, w: np.ndarray, count: int) -> list[int]:
    """Each step tries every neuron that is left."""
    a = a - a.mean(0)
    penalty = RIDGE * (a**2).sum(0).mean()
    chosen: list[int] = []
    for _ in range(count):
        left = [neuron for neuron in range(a.shape[1]) if neuron not in chosen]
        chosen.append(max(left, key=lambda neuron: explained(a, a @ w, [*chosen, neuron], penalty)))
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_each_step_takes_what_a_regression_gains_most_from(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 12)) + 0.3 * rng.standard_normal((60, 12))
    w = rng.standard_normal((12, 4))
    centred = torch.from_numpy(a - a.mean(0))
    order = greedy_order(centred.T @ centred, torch.from_numpy(w), COUNT)
    assert order.tolist() == by_hand(a, w, COUNT)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_reads_the_backbones_activations_at_real_positions(case: Case) -> None:
    backbone = load(*case)
    batches = public_batches(backbone, 3)
    blocks = blocks_of(backbone)
    found = scores("reconstruct", Scoring(backbone, blocks, {block.path: COUNT for block in blocks}, batches, 0))
    for block in blocks:
        rows = []
        for batch in batches:
            with torch.no_grad(), activations([block]) as collected:
                run(backbone.model, batch)
            decoding = backbone.model.config.is_encoder_decoder and batch.get("attention_mask")
            rows.append(
                real_positions(collected[block.path], None if decoding is None else batch.get("attention_mask"))
            )
        a = torch.cat(rows).double().numpy()
        expected = by_hand(a, vectors(block)[-1].detach().double().numpy(), COUNT)
        assert found[block.path].sort(descending=True).indices[:COUNT].tolist() == expected
        assert int((found[block.path] > 0).sum()) == COUNT


def test_of_twins_one_is_taken() -> None:
    a = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twice = torch.cat([a, a], dim=1)
    order = greedy_order(twice.T @ twice, torch.ones(8, 3, dtype=torch.float64), 4)
    assert sorted(order % 4) == [0, 1, 2, 3]


def test_dead_neurons_come_last() -> None:
    a = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a[:, [1, 4]] = 0
    order = greedy_order(a.T @ a, torch.ones(6, 3, dtype=torch.float64), 6)
    assert set(order[-2:].tolist()) == {1, 4}
    assert neurons(blocks_of(load("tiny-bert", "text"))[0]) == 32
