"""Alignment in closed form: the regression is NumPy's, and the proxy's hidden states come nearer to the backbone's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies.fedpft.closed_form import realign_outputs, refit_outputs
from fedfm.proxies.ffn import output_layer, vectors
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.layerwise import LayerwisePass
from fedfm.proxies.plugin import plug_in_map
from fedfm.tasks.base import Batch
from tests.models.cases import CASES, CUT_KINDS, TASKS, Case
from tests.proxies.small_proxy import Small, blocks_of, changed, public_batches, small_proxy, values

RIDGE = 0.05


def tuned(case: Case) -> tuple[Small, Tunable, Tunable]:
    """Backbone and proxy, fitted, both with the same adapter, which has been trained since."""
    name, task = case
    small = small_proxy(name, task)
    refit_outputs(
        small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, public_batches(small.backbone, 6), RIDGE
    )
    lora = Lora(target_modules="attention")
    teacher, student = (
        lora.attach(model, task_type=TASKS[task].task_type, seed=0) for model in (small.backbone, small.proxy)
    )
    generator = torch.Generator().manual_seed(1)
    params = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in student.read().items()
    }
    teacher.write(params)
    student.write(params)
    return small, teacher, student


def realigned(small: Small, teacher: Tunable, student: Tunable, batches: list[Batch], ridge: float = RIDGE):
    return realign_outputs(
        LayerwisePass(teacher.model.eval(), blocks_of(small.backbone), batches),
        LayerwisePass(student.model.eval(), blocks_of(small.proxy), batches),
        small.pairs,
        ridge,
    )


@pytest.mark.parametrize("case", [*dict(CASES).items(), *CUT_KINDS], ids="-".join)  # what is fitted is in no head
def test_hidden_states_come_nearer_and_nothing_but_outputs_changes(case: Case) -> None:
    small, teacher, student = tuned(case)
    batches = public_batches(small.backbone, 12, seed=3)
    before = layer_errors(teacher.model, student.model, small.pairs, batches)
    backbone, proxy = values(teacher.model), values(student.model)
    report = realigned(small, teacher, student, batches)
    after = layer_errors(teacher.model, student.model, small.pairs, batches)
    assert sum(after.values()) < sum(before.values())
    assert all(refit.after <= refit.before for refit in report.values())
    assert changed(teacher.model, backbone) == set()
    outputs = [f"{block.path}.{block.stack.ffn.output}." for _, block in small.pairs]
    assert all(any(output in name for output in outputs) for name in changed(student.model, proxy))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
def test_what_a_tunable_adds_to_an_output_stays_the_tunables(name: str) -> None:
    """An adapter on the output matrix: its part of the FFN's output is not fitted into the matrix once more."""
    small = small_proxy(name, "text")
    teacher, student = (
        Lora(target_modules="all").attach(model, task_type="SEQ_CLS", seed=0) for model in (small.backbone, small.proxy)
    )
    plug_in = plug_in_map(student, teacher, small.proxy, small.backbone, small.kept)
    generator = torch.Generator().manual_seed(1)
    params = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in student.read().items()
    }
    teacher.write(plug_in.to_backbone(params))
    student.write(params)
    batches = public_batches(small.backbone, 12, seed=3)
    before = layer_errors(teacher.model, student.model, small.pairs, batches)
    report = realigned(small, teacher, student, batches)
    after = layer_errors(teacher.model, student.model, small.pairs, batches)
    assert sum(after.values()) < 0.9 * sum(before.values())
    again = realigned(small, teacher, student, batches)  # what was fitted is there when the proxy runs
    for path, refit in report.items():
        assert again[path].before <= 1.05 * refit.after + 1e-4


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2"])
def test_against_least_squares(name: str) -> None:
    """The last block: what it should add is the difference of the sums, plus what it adds now."""
    small, teacher, student = tuned((name, "text"))
    batches = public_batches(small.backbone, 5, seed=4)
    shown, block = small.pairs[-1]
    ours = LayerwisePass(student.model.eval(), blocks_of(small.proxy), batches)
    theirs = LayerwisePass(teacher.model.eval(), blocks_of(small.backbone), batches)
    weight = vectors(block)[-1].detach().clone()
    bias = output_layer(block).bias.detach().clone()
    realigned(small, teacher, student, batches, ridge=1e9)  # the earlier block is left as it is
    with torch.no_grad():
        flows = [
            (mine.run().real(), other.run().real())
            for mine, other in zip(ours.calls(block.path), theirs.calls(shown.path), strict=True)
        ]
    a = torch.cat([mine[0] for mine, _ in flows]).double().numpy()
    y = torch.cat([mine[1] + other[2] - mine[2] for mine, other in flows]).double().numpy()
    penalty = np.sqrt(RIDGE * len(a) * (a**2).mean())
    design = np.vstack([np.hstack([a, np.ones((len(a), 1))]), penalty * np.eye(a.shape[1], a.shape[1] + 1)])
    wanted = np.vstack([y, penalty * weight.double().numpy()])
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
    with torch.no_grad():
        vectors(block)[-1].copy_(weight)
        output_layer(block).bias.copy_(bias)
    realign_outputs(
        LayerwisePass(teacher.model, blocks_of(small.backbone), batches),
        LayerwisePass(student.model, blocks_of(small.proxy), batches),
        [(shown, block)],
        RIDGE,
    )
    np.testing.assert_allclose(vectors(block)[-1].detach().numpy(), solution[:-1], atol=3e-4)
    np.testing.assert_allclose(output_layer(block).bias.detach().numpy(), solution[-1], atol=3e-4)


def test_a_proxy_that_is_the_backbone_stays_as_it_is() -> None:
    everything = small_proxy(kept=torch.arange(32))
    lora = Lora(target_modules="attention")
    teacher, student = (
        lora.attach(model, task_type="SEQ_CLS", seed=0) for model in (everything.backbone, everything.proxy)
    )
    before = values(student.model)
    report = realigned(everything, teacher, student, public_batches(everything.backbone, 4))
    assert all(refit.before < 1e-10 for refit in report.values())
    for name, value in student.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
