"""P1 to P4, P6: what one example changes of a private step, for every tunable in every family; opacus as an oracle."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fedfm.algorithms import Algorithm, FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.clients.objective import Objective
from fedfm.clients.private_gradient import PrivateGradient, add_clipped
from fedfm.clients.work.train import PrivateTraining
from fedfm.errors import RecipeError
from fedfm.models.stacked import ExampleStack, UnstackableError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import TUNABLES
from fedfm.params import Params
from fedfm.privacy import PrivateSteps
from fedfm.privacy.private_steps import Spending
from fedfm.tasks import TASKS, Task
from fedfm.tasks.base import Batch
from tests.clients.stacks import CASES, SINGLE, SINGLE_MODELS, TINY, attached, batches, moved, tasks_of

CLIP, COUNT = 0.01, 4
"""C is below the gradients of all cases but a few; each is judged by its own norm."""
STEPS = PrivateSteps(examples=COUNT, steps=1, rate=1.0, noise_multiplier=0.0, clip=CLIP)
"""Without noise, so that what is left can be computed by hand."""
LONGEST = {name: tasks[-1] for name in TINY if (tasks := tasks_of(name))}
"""One task a model: where it has several, a language model's, whose examples predict unlike numbers of tokens."""
FLAT = {("tiny-opt", kind) for kind in ("ia3", "bitfit", "norms", "layers")}
"""OPT's FFNs read the tokens of all examples in one row."""
STACKED = [case for case in CASES if case[0] in TINY and case[1] == LONGEST[case[0]] and (case[0], case[2]) not in FLAT]
ALONE = [("tiny-bert", "full"), ("tiny-gpt2", "full"), ("tiny-deberta", "lora"), *sorted(FLAT)]
"""What is trained by one pass for each example."""


class NoNoise:
    """A source of zeros."""

    def __call__(self, shape: Iterable[int]) -> Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)


def objective(tunable: Tunable, task: Task, rule: Algorithm | None = None) -> Objective:
    return Objective.of(tunable, task, rule or FedAvg(), {}, {}, dropout=False)


def step(tunable: Tunable, task: Task, batch: Batch, *, together: bool, steps: PrivateSteps = STEPS) -> Params:
    """The gradient of one step without noise."""
    for parameter in tunable.parameters.values():
        parameter.grad = None
    PrivateGradient(objective(tunable, task), steps, {}, together=together, noise=NoNoise)(batch)
    return {
        name: parameter.grad.clone() for name, parameter in tunable.parameters.items() if parameter.grad is not None
    }


def without(batch: Batch, number: int) -> Batch:
    """A neighbouring batch: without one of its examples."""
    return {name: torch.cat([tensor[:number], tensor[number + 1 :]]) for name, tensor in batch.items()}


def norm(params: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in params.values()))


def by_hand(tunable: Tunable, task: Task, batch: Batch) -> Params:
    """DP-SGD with plain backward passes: each example's own mean loss, its gradient clipped, over COUNT."""
    total: Params = {name: torch.zeros_like(parameter) for name, parameter in tunable.parameters.items()}
    for number in range(len(next(iter(batch.values())))):
        example = {name: tensor[number : number + 1] for name, tensor in batch.items()}
        loss, predictions = task.losses(task.outputs(tunable.model, example), example)
        tunable.model.zero_grad()
        (loss.sum() / predictions.sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]
        gradient = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in tunable.parameters.items()}
        factor = min(1.0, CLIP / max(norm(gradient), 1e-300))
        total = {name: tensor + factor * gradient[name] for name, tensor in total.items()}
    tunable.model.zero_grad()
    return {name: tensor / COUNT for name, tensor in total.items()}


def prepared(name: str, task: Task, kind: str) -> tuple[Tunable, Batch]:
    try:
        _, tunable = attached(name, task, kind)
    except RecipeError as error:
        pytest.skip(f"no such tunable: {error.problems[0].message}")
    tunable.write(moved(tunable, 1))
    tunable.train(dropout=False)
    return tunable, next(batches(task, name, [COUNT], 3))


def check_neighbours(tunable: Tunable, task: Task, batch: Batch, *, together: bool, tolerance: float) -> None:
    """P1 and P3."""
    whole, expected = step(tunable, task, batch, together=together), by_hand(tunable, task, batch)
    for name, tensor in expected.items():
        torch.testing.assert_close(whole[name], tensor, rtol=tolerance, atol=tolerance * CLIP)
    for number in range(COUNT):
        fewer = step(tunable, task, without(batch, number), together=together)
        change = norm({name: tensor - fewer[name] for name, tensor in whole.items()})
        assert change <= CLIP / COUNT * (1 + tolerance)


@pytest.mark.parametrize(("name", "task", "kind"), STACKED)
def test_p1_p2_p3_an_example_changes_a_step_by_at_most_the_bound(name: str, task: str, kind: str) -> None:
    """One pass for all examples equals DP-SGD by hand, and has a row of gradients for each of them."""
    tunable, batch = prepared(name, TASKS[task](), kind)
    single = kind in SINGLE or kind in SINGLE_MODELS.get(name, ())
    check_neighbours(tunable, TASKS[task](), batch, together=True, tolerance=1e-4 if single else 1e-9)
    stack = ExampleStack(tunable)
    stack.begin(COUNT)
    with stack.installed():
        rows = stack.of_examples(objective(tunable, TASKS[task]())(batch).loss.sum())
    assert {name: row.shape for name, row in rows.items()} == {
        name: (COUNT, *parameter.shape) for name, parameter in tunable.parameters.items()
    }


@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_p1_p3_also_by_one_pass_for_each_example(name: str, kind: str) -> None:
    task = TASKS[LONGEST[name]]()
    tunable, batch = prepared(name, task, kind)
    check_neighbours(tunable, task, batch, together=False, tolerance=1e-9)


def test_p1_of_masks_that_are_drawn_for_each_example() -> None:
    task = TASKS["text-classification"]()
    tunable, batch = prepared("tiny-bert", task, "mask")
    for number in range(COUNT):
        example = {name: tensor[number : number + 1] for name, tensor in batch.items()}
        assert 0 < norm(step(tunable, task, example, together=False)) <= CLIP / COUNT * (1 + 1e-9)


def test_positions_that_examples_share_have_no_rows() -> None:
    _, tunable = attached("tiny-gpt2", TASKS["text-classification"](), "full")
    with pytest.raises(UnstackableError, match="no stacked form"):
        ExampleStack(tunable)


@pytest.mark.parametrize(("name", "kind"), [("tiny-deberta", "lora"), *sorted(FLAT)])
def test_p2_a_tensor_that_is_not_divided_by_examples_is_refused(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """DeBERTa's projections also read relative positions: 16 of them could be taken for 4 rows of each of 4 examples.

    The step is then exact by one pass for each example, and the log says why.
    """
    task = TASKS[LONGEST[name]]()
    tunable, batch = prepared(name, task, kind)
    found = step(tunable, task, batch, together=True)
    assert "examples are trained one by one: a trained layer reads a tensor of shape" in caplog.text
    for key, tensor in by_hand(tunable, task, batch).items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-9, atol=1e-12)


def test_trap_of_the_token_mean() -> None:
    """Trap 3 of four: with the mean over all tokens of a batch, one example changes the step by more than the bound.

    A long and a short text, of which the short one weighs least: without the long one, its weight rises.
    """
    task = TASKS["causal-lm"]()
    tunable, _ = prepared("tiny-gpt2", task, "lora")
    ids = torch.arange(20, 36).view(2, 8)
    there = torch.tensor([[1] * 8, [1] * 2 + [0] * 6])
    batch = {"input_ids": ids, "attention_mask": there, "labels": ids.where(there.bool(), -100)}
    found = objective(tunable, task)(batch)
    assert found.predictions.tolist() == [7, 1]  # what a mean over tokens would weigh them by
    each = [step(tunable, task, without(batch, number), together=True) for number in (1, 0)]
    whole = step(tunable, task, batch, together=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, each[0][name] + each[1][name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", ["prompt", "p-tuning"])
def test_trap_of_the_shared_prompt(kind: str) -> None:
    """Trap 2 of four: peft looks a prompt up once for the whole batch, so that hooks see one row. Here all have one."""
    task = TASKS["causal-lm"]()
    tunable, batch = prepared("tiny-gpt2", task, kind)
    stack = ExampleStack(tunable)
    stack.begin(COUNT)
    with stack.installed():
        rows = stack.of_examples(objective(tunable, task)(batch).loss.sum())
    assert all(len(row) == COUNT and row.flatten(1).norm(dim=1).gt(0).all() for row in rows.values())


def test_trap_of_the_ghost_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 4 of four: opacus' ghost mode does not clip a loss that the model computed. No step uses opacus."""
    monkeypatch.setitem(sys.modules, "opacus", None)  # an import would fail
    task = TASKS["text-classification"]()
    tunable, batch = prepared("tiny-bert", task, "lora")
    assert norm(step(tunable, task, batch, together=True)) <= CLIP * (1 + 1e-9)


def test_p6_gradients_that_are_zero_huge_or_not_finite() -> None:
    sums = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}
    rows = torch.tensor([[0.0, 0.0], [3e38, 0.0], [math.nan, 0.0], [0.0, math.inf], [3.0, 0.0]])
    add_clipped(sums, {"a": rows, "b": torch.tensor([0.0, 0.0, 1.0, 1.0, 4.0])}, clip=1.0)
    assert sums["a"].tolist() == pytest.approx([1.0 + 0.6, 0.0])
    assert sums["b"].item() == pytest.approx(0.8)


def test_an_empty_sample_is_noise_alone() -> None:
    """P4: the noise of a step has standard deviation z·C/(q·n), and each step draws its own."""
    task = TASKS["text-classification"]()
    tunable, _ = prepared("tiny-bert", task, "head")
    steps = PrivateSteps(examples=100, steps=1, rate=0.05, noise_multiplier=3.0, clip=2.0)
    gradient = PrivateGradient(objective(tunable, task), steps, {}, together=True)
    drawn = []
    for _ in range(300):
        totals = gradient({})
        assert totals == (0.0, 0, 5)
        drawn.append(torch.cat([p.grad.flatten() for p in tunable.parameters.values() if p.grad is not None]))
    values = torch.cat(drawn).numpy()
    assert values.std() == pytest.approx(3.0 * 2.0 / 5, rel=0.05)
    assert abs(stats.kurtosis(values)) < 0.2
    assert stats.kstest(values / (3.0 * 2.0 / 5), "norm").pvalue > 1e-6
    assert not torch.equal(drawn[0], drawn[1])


def test_what_does_not_change_is_not_clipped_and_gets_no_noise() -> None:
    """Coordinates that a view fixes count in no norm: the others keep more of their gradients."""
    task = TASKS["text-classification"]()
    tunable, batch = prepared("tiny-bert", task, "lora")
    fixed = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in tunable.parameters.items() if "lora_A" in name}
    start = {name: parameter.detach().clone() for name, parameter in tunable.parameters.items()}
    local = LocalSettings(optimizer="sgd", learning_rate=1.0, max_grad_norm=None)
    noisy = dataclasses.replace(STEPS, noise_multiplier=1.0)
    result = train_locally(
        tunable,
        task,
        [batch, {}],
        local,
        FedAvg(),
        ClientRound(start, {}, {}, 1.0),
        trains=fixed,
        private=PrivateTraining(noisy),
    )
    assert (result.steps, result.samples, result.predictions) == (2, 2 * COUNT, 0)
    assert math.isnan(result.loss)
    for name, parameter in tunable.parameters.items():
        assert torch.equal(parameter, start[name]) == (name in fixed)


def test_samples_are_poisson_and_never_repeat() -> None:
    steps = PrivateSteps(examples=200, steps=400, rate=0.1, noise_multiplier=1.0, clip=1.0)
    plans = [steps.plan() for _ in range(2)]
    sizes = np.array([len(step) for step in plans[0]])
    assert len(plans[0]) == 400
    assert sizes.mean() == pytest.approx(20, rel=0.1)
    assert sizes.var() == pytest.approx(18, rel=0.4)  # of a binomial distribution; a fixed size would have none
    assert all((np.diff(step) > 0).all() for step in plans[0])
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(*plans, strict=True))
    assert steps.spending == Spending(1.0, 0.1, 400)
    everyone = dataclasses.replace(steps, rate=1.0).plan()
    assert all(len(step) == 200 for step in everyone)


class PullToZero(Algorithm):
    """An algorithm with an extra term for each example."""

    name: str = "pull"

    def loss(self, outputs: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """½‖outputs‖²."""
        return outputs.flatten(1).square().sum(1) / 2


def test_an_extra_term_of_the_loss_is_clipped_with_the_rest() -> None:
    task = TASKS["text-classification"]()
    tunable, batch = prepared("tiny-bert", task, "lora")

    def gradient(part: Batch) -> Params:
        PrivateGradient(objective(tunable, task, PullToZero()), STEPS, {}, together=False, noise=NoNoise)(part)
        return {name: p.grad.clone() for name, p in tunable.parameters.items() if p.grad is not None}

    whole = gradient(batch)
    for number in range(COUNT):
        fewer = gradient(without(batch, number))
        assert norm({name: tensor - fewer[name] for name, tensor in whole.items()}) <= CLIP / COUNT * (1 + 1e-9)


def test_p3_opacus_computes_the_same() -> None:
    """The oracle: its hooks, its clipping and its denominator, for LoRA on GPT-2 and on BERT; without noise."""
    opacus = pytest.importorskip("opacus")
    for name in ("tiny-gpt2", "tiny-bert"):
        task = TASKS[LONGEST[name]]()
        tunable, batch = prepared(name, task, "lora")
        ours = step(tunable, task, batch, together=True)
        for module in tunable.model.modules():  # its hooks look at the flag; dropout stays off
            module.training = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        hooked = opacus.GradSampleModule(tunable.model, batch_first=True, loss_reduction="sum", strict=False)
        optimizer = opacus.optimizers.DPOptimizer(
            torch.optim.SGD(list(tunable.parameters.values()), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=CLIP,
            expected_batch_size=COUNT,
            loss_reduction="mean",
        )
        losses, predictions = task.losses(task.outputs(hooked, batch), batch)
        optimizer.zero_grad()
        (losses / predictions).sum().backward()
        optimizer.pre_step()
        for key, parameter in tunable.parameters.items():
            assert parameter.grad is not None
            torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-3, atol=1e-6 * CLIP)
        hooked.remove_hooks()


def test_every_tunable_is_met() -> None:
    """P1 would miss a new kind that no case has."""
    met = {kind for _, _, kind in STACKED} | {kind for _, kind in ALONE} | {"mask", "attention-adapter"}
    assert met == set(TUNABLES)
