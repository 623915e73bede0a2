"""Costs of one example against a count of the model's matrix products, and what measuring must not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedfm.clients.example_cost import ExampleCost, measure_example_cost, training_bytes
from fedfm.clients.settings import LocalSettings, Recompute
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from tests.small import small_recipe

HIDDEN, LAYERS = 16, 2


def build(folder: Path, kind: str) -> Experiment:
    return build_experiment(load_recipe(small_recipe(folder, tune={"kind": kind})))


def cost_of(experiment: Experiment, recompute: Recompute = "none") -> ExampleCost:
    data, tunable = experiment.data, experiment.client_model.client_tunable
    assert data.training is not None
    local = LocalSettings(recompute=recompute)
    return measure_example_cost(tunable, data.task, data.processor, data.training.train, local, experiment.device)


def products(experiment: Experiment, length: int) -> tuple[float, float]:
    """Operations of one forward pass, of linear layers and of attention, by hooks on every layer."""
    model, total = experiment.client_model.client_tunable.model, 0

    def count(layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * layer.in_features * output.numel()

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Linear)]
    model(input_ids=torch.ones(1, length, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    return total, LAYERS * 4 * length**2 * HIDDEN


@pytest.mark.parametrize("length", [1, 9, 64])
@pytest.mark.parametrize("kind", ["lora", "full", "head"])
def test_a_forward_pass_is_its_matrix_products(tmp_path: Path, kind: str, length: int) -> None:
    experiment = build(tmp_path, kind)
    config = experiment.backbone.model.config
    assert (config.hidden_size, config.num_hidden_layers) == (HIDDEN, LAYERS)
    linear, attention = products(experiment, length)
    cost = cost_of(experiment)
    forward = cost.flops(np.asarray([length]), teacher=True) - cost.flops(np.asarray([length]))
    assert forward[0] == pytest.approx(linear + attention)


def test_a_backward_pass_through_trained_layers_is_twice_the_forward_pass(tmp_path: Path) -> None:
    experiment = build(tmp_path, "full")
    linear, attention = products(experiment, 20)
    cost = cost_of(experiment)
    step = cost.flops(np.asarray([20]))[0]
    assert step == pytest.approx(3 * linear + 3.5 * attention)  # torch's count: attention is computed once more


def test_a_head_needs_no_backward_pass_through_the_blocks(tmp_path: Path) -> None:
    experiment = build(tmp_path, "head")
    linear, attention = products(experiment, 20)
    assert cost_of(experiment).flops(np.asarray([20]))[0] < 1.1 * (linear + attention)


def test_recomputed_blocks_keep_less_and_compute_more(tmp_path: Path) -> None:
    experiment = build(tmp_path, "lora")
    plain, again = cost_of(experiment), cost_of(experiment, "blocks")
    assert again.activation_bytes(30) < 0.5 * plain.activation_bytes(30)
    assert again.flops(np.asarray([30]))[0] > 1.3 * plain.flops(np.asarray([30]))[0]


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    experiment = build(tmp_path, "lora")
    tunable = experiment.client_model.client_tunable
    before, state = tunable.read(), torch.random.get_rng_state()
    assert cost_of(experiment) == cost_of(experiment)
    assert all(parameter.grad is None for parameter in tunable.parameters.values())
    assert all(before[name].equal(value) for name, value in tunable.read().items())
    assert torch.random.get_rng_state().equal(state)


def test_memory_is_the_model_three_copies_of_what_is_trained_for_adamw_and_activations(tmp_path: Path) -> None:
    experiment = build(tmp_path, "lora")
    tunable = experiment.client_model.client_tunable
    whole = sum(tensor.nbytes for tensor in tunable.model.state_dict().values())
    trained = sum(tensor.nbytes for tensor in tunable.read().values())
    adamw = training_bytes(tunable, LocalSettings(), 1000.0)
    assert adamw - training_bytes(tunable, LocalSettings(optimizer="sgd"), 0.0) == 2 * trained + 1000
    assert adamw == pytest.approx(whole + 4 * trained + 1000, rel=0.05)  # and buffers that are not stored
