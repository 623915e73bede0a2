from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.models.tunables import Lora
from fedfm.proxies.fedpft.closed_form import refit_outputs
from fedfm.proxies.ffn import output_bias, vectors
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.trace import activations, hidden_states, run
from tests.models.cases import CASES
from tests.proxies.small_proxy import Small, blocks_of, changed, public_batches, small_proxy, values

RIDGE = 0.05


def activations_of(small: Small, pair: int, batches: list) -> np.ndarray:  # type: ignore[type-arg]
    """The backbone's activations at real positions, [n, m]."""
    block = small.pairs[pair][0]
    rows = []
    for batch in batches:
        with torch.no_grad(), activations([block]) as collected:
            run(small.backbone.model, batch)
        values = collected[block.path].reshape(-1, 32)
        mask = batch.get("attention_mask")
        rows.append(values if mask is None else values[mask.reshape(-1).bool()])
    return torch.cat(rows).double().numpy()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_against_augmented_least_squares(name: str, task: str) -> None:
    """The first compressed block, whose input is the backbone's: NumPy solves the same problem with rows added."""
    small = small_proxy(name, task)
    batches = public_batches(small.backbone, 4)
    teacher, student = small.pairs[0]
    full, kept = vectors(teacher)[-1].double().numpy(), small.kept[student.path].numpy()
    bias_name = output_bias(teacher)
    bias = np.zeros(16) if bias_name is None else teacher.module.get_parameter(bias_name).double().numpy()
    a = activations_of(small, 0, batches)
    target = a @ full + bias
    penalty = RIDGE * len(a) * (a[:, kept] ** 2).mean()
    design = np.hstack([a[:, kept], np.ones((len(a), 1))] if bias_name else [a[:, kept]])
    pull = np.sqrt(penalty) * np.eye(len(kept), design.shape[1])
    rows = np.vstack([design, pull]), np.vstack([target, np.sqrt(penalty) * full[kept]])
    solution = np.linalg.lstsq(*rows, rcond=None)[0]

    report = refit_outputs(small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, batches, RIDGE)[
        student.path
    ]
    np.testing.assert_allclose(vectors(student)[-1].numpy(), solution[: len(kept)], atol=2e-5)
    if bias_name:
        np.testing.assert_allclose(student.module.get_parameter(bias_name).numpy(), solution[-1], atol=2e-5)
    size = (target**2).sum()
    before = ((target - a[:, kept] @ full[kept] - bias) ** 2).sum() / size
    after = ((target - design @ solution) ** 2).sum() / size
    assert report.before == pytest.approx(before, rel=1e-4)
    assert report.after == pytest.approx(after, rel=1e-4)
    assert after < 0.9 * before


@pytest.mark.parametrize(("name", "task"), CASES)
def test_only_output_matrices_and_biases_change(name: str, task: str) -> None:
    small = small_proxy(name, task, whole=1)
    backbone, proxy = values(small.backbone.model), values(small.proxy.model)
    refit_outputs(
        small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, public_batches(small.backbone, 2), RIDGE
    )
    assert changed(small.backbone.model, backbone) == set()
    outputs = [f"{block.path}.{block.stack.ffn.output}." for _, block in small.pairs]
    assert changed(small.proxy.model, proxy) == {
        name for name, _ in small.proxy.model.named_parameters() if any(output in name for output in outputs)
    }


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-opt", "tiny-llama"])
def test_duplicate_neurons_are_made_up_for_exactly(name: str) -> None:
    """Where every cut neuron has a twin that stays, nothing is lost, in any layer."""
    kept = torch.tensor([0, 3, 5, 9, 20, 30])
    small = small_proxy(name, "text", kept=kept)
    twins = kept[torch.arange(32) % 6]
    twins[kept] = kept
    with torch.no_grad():
        for teacher, student in small.pairs:
            ffn = teacher.stack.ffn
            for path in ffn.inputs:  # the backbone becomes redundant; the proxy's neurons are already its own
                module = teacher.module.get_submodule(path)
                module.weight.copy_(module.weight[:, twins] if ffn.transposed else module.weight[twins])
                if module.bias is not None:
                    module.bias.copy_(module.bias[twins])
            assert torch.equal(vectors(teacher)[0][kept], vectors(student)[0])
    batches = public_batches(small.backbone, 30)
    before = layer_errors(small.backbone.model, small.proxy.model, small.pairs, batches)
    report = refit_outputs(small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, batches, 1e-9)
    after = layer_errors(small.backbone.model, small.proxy.model, small.pairs, batches)
    for path, refit in report.items():
        assert refit.before > 0.1
        assert refit.after < 1e-8
        assert before[path] > 1e-4
        assert after[path] < 1e-8


def test_layers_are_fitted_on_the_proxys_own_input() -> None:
    """The second block's regression, by NumPy on what the proxy's refitted first block hands it."""
    small = small_proxy("tiny-gpt2", "causal")
    batches = public_batches(small.backbone, 4)
    (_, first), (teacher, student) = small.pairs
    refit_outputs(small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, batches, RIDGE)
    own, target = [], []
    for batch in batches:
        with torch.no_grad():
            hidden = hidden_states(small.proxy.model, [first], batch)[first.path]
            real = batch["attention_mask"].bool()
            seen = {}
            handle = teacher.module.mlp.c_proj.register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.setdefault("a", inputs[0])
            )
            mask = torch.full((10, 10), float("-inf")).triu(1)[None, None] + torch.where(
                real[:, None, None], 0.0, float("-inf")
            )
            teacher.module(hidden, attention_mask=mask.clamp(min=-1e9))
            handle.remove()
            own.append(seen["a"][real])
            target.append(teacher.module.mlp.c_proj(seen["a"])[real])
    a, y = torch.cat(own).double().numpy(), torch.cat(target).double().numpy()
    kept = small.kept[student.path].numpy()
    penalty = np.sqrt(RIDGE * len(a) * (a[:, kept] ** 2).mean())
    design = np.vstack([np.hstack([a[:, kept], np.ones((len(a), 1))]), penalty * np.eye(12, 13)])
    start = teacher.module.mlp.c_proj.weight.detach().double().numpy()[kept]
    solution = np.linalg.lstsq(design, np.vstack([y, penalty * start]), rcond=None)[0]
    np.testing.assert_allclose(student.module.mlp.c_proj.weight.detach().numpy(), solution[:12], atol=3e-5)
    np.testing.assert_allclose(student.module.mlp.c_proj.bias.detach().numpy(), solution[12], atol=3e-5)


def test_a_tunable_that_does_nothing_yet_does_not_matter() -> None:
    plain, tuned = small_proxy("tiny-gpt2"), small_proxy("tiny-gpt2")
    batches = public_batches(plain.backbone, 3)
    for backbone in (tuned.backbone, tuned.proxy):
        student = Lora(target_modules="all").attach(backbone, task_type="SEQ_CLS", seed=0)
    reports = [
        refit_outputs(model, blocks_of(small.proxy), small.pairs, small.kept, batches, RIDGE)
        for model, small in ((plain.proxy.model, plain), (student.model, tuned))
    ]
    assert reports[0] == reports[1]
    for (_, ours), (_, theirs) in zip(plain.pairs, tuned.pairs, strict=True):
        assert torch.equal(vectors(ours)[-1], vectors(theirs)[-1])


def test_more_ridge_stays_nearer_to_the_backbone() -> None:
    distances = []
    for ridge in (1e-6, 1e-2, 1e2):
        small = small_proxy()
        start = vectors(small.pairs[0][1])[-1].clone()
        batches = public_batches(small.backbone, 3)
        report = refit_outputs(small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, batches, ridge)
        distances.append((vectors(small.pairs[0][1])[-1] - start).norm().item())
        assert all(refit.after <= refit.before for refit in report.values())
    assert distances[0] > 1.5 * distances[1] > 15 * distances[2]


def test_neurons_that_never_fire_change_nothing() -> None:
    """Under ReLU a kept neuron may be dead on all of the public data."""
    small = small_proxy("tiny-opt", "text")
    with torch.no_grad():
        for pair in small.pairs:
            for block in pair:
                block.module.fc1.bias.fill_(-1e4)
    start = vectors(small.pairs[0][1])[-1].clone()
    refit_outputs(
        small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, public_batches(small.backbone, 2), RIDGE
    )
    assert torch.equal(vectors(small.pairs[0][1])[-1], start)
    assert not any(parameter.isnan().any() for parameter in small.proxy.model.parameters())


def test_the_order_and_cut_of_batches_do_not_matter() -> None:
    found = []
    for cut in (3, 6):
        small = small_proxy()
        whole = public_batches(small.backbone, 1, size=12)[0]
        batches = [
            dict(zip(whole, parts, strict=True))
            for parts in zip(*(value.split(cut) for value in whole.values()), strict=True)
        ]
        refit_outputs(
            small.proxy.model,
            blocks_of(small.proxy),
            small.pairs,
            small.kept,
            batches[::-1] if cut == 3 else batches,
            RIDGE,
        )
        found.append(vectors(small.pairs[1][1])[-1].clone())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_hidden_states_come_nearer() -> None:
    small = small_proxy("tiny-llama", "causal")
    fresh = public_batches(small.backbone, 3, seed=7)
    before = layer_errors(small.backbone.model, small.proxy.model, small.pairs, fresh)
    refit_outputs(
        small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, public_batches(small.backbone, 20), RIDGE
    )
    after = layer_errors(small.backbone.model, small.proxy.model, small.pairs, fresh)
    assert all(after[path] < before[path] for path in before)
