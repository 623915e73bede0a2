"""Local training of several clients in one pass: their batches together through the backbone, their tunables apart.

A step takes one batch of each client that still has one. A client computes what it would compute alone, up to
rounding: it has its own losses, clipping and optimiser, and reads no examples of other clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import Optimizer

from fedfm.clients.profile import phase
from fedfm.clients.rules import At, ClientRound, LocalResult, LocalRule
from fedfm.clients.settings import LocalSettings
from fedfm.clients.steps import Losses, make_optimizer
from fedfm.models.stacked import (
    FrozenPrefix,
    Layout,
    PackedBlocks,
    Packing,
    StackedTunable,
    packing_of,
    reading,
)
from fedfm.models.tunable import Tunable
from fedfm.params import Params, is_finite
from fedfm.tasks.base import Batch, Task


@dataclass(frozen=True)
class Stacking:
    """How clients share a pass.

    Attributes:
        clients: how many at most, K.
        blocks: the model that they train on, which can read batches without their padding.
        padding: input name → value that pads it.
        prefix: first blocks that are frozen, whose outputs are kept; None if there are no such blocks.
        uniform: whether clients are filled up to equal batches, so that few batched products serve all of them, as a
            GPU likes it; otherwise nothing is computed that is not needed.
    """

    clients: int
    blocks: PackedBlocks
    padding: Mapping[str, int]
    prefix: FrozenPrefix | None = None
    uniform: bool = False


@dataclass(frozen=True)
class StackMember:
    """One client of a stack.

    Attributes:
        at: what its round starts from.
        plan: numbers of the examples of each batch, at least one batch.
        batches: them, on the CPU.
        table: what the frozen prefix makes of its examples, by their numbers; needed where there is a prefix.
        trains: name → bool tensor, the coordinates that change; of tensors that are absent, and for None, all.
    """

    at: ClientRound
    plan: Sequence[np.ndarray]
    batches: Iterator[Batch]
    table: Mapping[int, Tensor] = field(default_factory=dict)
    trains: Mapping[str, Tensor] | None = None

    @property
    def steps(self) -> int:
        """How many batches it has."""
        return len(self.plan)


def why_alone(task: Task, rule: LocalRule) -> str | None:
    """Why clients train one by one because of what they minimise, as a part of a sentence; None: they need not."""
    if rule.extra_loss or rule.penalises:
        return "the algorithm adds a term to the loss"
    if task.across_examples:
        return "the task's loss compares the examples of a batch with each other"
    return None


def why_own_steps(local: LocalSettings) -> str | None:
    """Why clients train one by one because of how they step, as a part of a sentence; None: they need not."""
    if local.lr_scheduler_interval == "step":
        return "the learning rate follows each client's own steps"
    if local.keep_optimizer or local.optimizer == "muon":
        return "each client has an optimiser of its own"
    return None


def train_stacked(
    tunable: Tunable,
    stacking: Stacking,
    task: Task,
    members: Sequence[StackMember],
    local: LocalSettings,
    rule: LocalRule,
    *,
    device: torch.device,
) -> list[tuple[LocalResult, Params]]:
    """Trains clients side by side, each as `train_locally` would; the tunable's own values are not read or changed.

    Args:
        tunable: which parameters of the model are trained.
        stacking: how they share a pass.
        task: the loss; not one with `why_alone`.
        members: the clients; their learning rates are equal.
        local: how they train.
        rule: the algorithm's, elementwise; not one with `why_alone`.
        device: where the model is.

    Returns:
        What each did, and its tunable after it, in the order of ``members``.

    Raises:
        UnstackableError: the tunable cannot be stacked.
        FloatingPointError: a client's training diverges: alone, it harms no other.
    """
    order = sorted(range(len(members)), key=lambda index: -members[index].steps)  # those with steps left come first
    ordered = [members[index] for index in order]
    stack = StackedTunable(tunable, [member.at.begin or member.at.received for member in ordered])
    rows = _Rows.of(stack, ordered)
    losses = [Losses() for _ in members]
    trained: dict[int, Params] = {}
    optimizer = make_optimizer([stack.values], local, rows.lr)
    tunable.train(dropout=local.dropout)
    with stack.installed(), stacking.blocks.installed():
        for number in range(ordered[0].steps):
            active = [index for index in order if members[index].steps > number]
            with phase("data"):
                step = _next_step(tunable, stacking, [members[index] for index in active], number, device)
            stack.begin(step.layout)
            with phase("forward"):
                loss, predictions = _losses(tunable, stacking, task, step)
            with phase("backward"):
                gradient = stack.gradient((loss / predictions.clamp(min=1)).sum())
            if not (is_finite(loss) and is_finite(gradient)):  # shared products would pass it on
                raise FloatingPointError(f"step {number + 1} of a client is not finite")
            with phase("optimizer"):
                _optimize(optimizer, stack.values, gradient, rows, local, rule, rows.at(len(gradient), number))
            for row, taken in enumerate(zip(loss.tolist(), predictions.tolist(), step.counts, strict=True)):
                losses[row].add(*taken)
                if members[order[row]].steps == number + 1:
                    trained[order[row]] = stack.read(row)
    tunable.eval()
    results = {index: steps.result() for index, steps in zip(order, losses, strict=True)}
    return [(results[index], trained[index]) for index in range(len(members))]


@dataclass(frozen=True)
class _Rows:
    """What clients received, were sent and keep, as rows ``[K, P]``.

    Attributes:
        begin: the tunable from which local steps start.
        received: the tunable.
        sent: group → what the algorithm sent.
        own: group → what the clients keep.
        trains: bool, the coordinates that change; None: all of them.
        personal: bool, the coordinates on which the algorithm does not act; None: it acts on all.
        lr: learning rate.
    """

    begin: Tensor
    received: Tensor
    sent: Mapping[str, Tensor]
    own: Mapping[str, Tensor]
    trains: Tensor | None
    personal: Tensor | None
    lr: float

    @classmethod
    def of(cls, stack: StackedTunable, members: Sequence[StackMember]) -> _Rows:
        first = members[0].at
        shapes = {name: tensor.shape for name, tensor in first.received.items()}
        trains = personal = None
        if any(member.trains for member in members):
            ones = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
            trains = stack.rows([{**ones, **(member.trains or {})} for member in members]).bool()
        if any(member.at.personal for member in members):
            personal = stack.rows(
                [
                    {name: torch.full(shape, name in member.at.personal) for name, shape in shapes.items()}
                    for member in members
                ]
            ).bool()
        begin = stack.values.detach().clone()
        return cls(
            begin=begin,
            received=stack.rows([member.at.received for member in members]) if first.begin else begin,
            sent={group: stack.rows([member.at.sent[group] for member in members]) for group in first.sent},
            own={group: stack.rows([member.at.own[group] for member in members]) for group in first.own},
            trains=trains,
            personal=personal,
            lr=first.lr,
        )

    def at(self, clients: int, step: int) -> At:
        """Where the first clients take a step."""
        return At(
            received=self.received[:clients],
            sent={group: rows[:clients] for group, rows in self.sent.items()},
            own={group: rows[:clients] for group, rows in self.own.items()},
            step=step,
            lr=self.lr,
        )


@dataclass(frozen=True)
class _Step:
    """One batch of each client that still has one.

    Attributes:
        batch: all of them, one client after the other.
        table: what the frozen prefix makes of each example, where there is one.
        counts: examples of each client.
        layout: where they lie in the batch; more of them where clients are filled up.
        packing: how blocks read it.
    """

    batch: Batch
    table: list[Tensor]
    counts: list[int]
    layout: Layout
    packing: Packing | None


def _next_step(
    tunable: Tunable, stacking: Stacking, active: Sequence[StackMember], number: int, device: torch.device
) -> _Step:
    parts = [next(member.batches) for member in active]
    plans = [member.plan[number].tolist() for member in active]
    counts = [len(plan) for plan in plans]
    if stacking.uniform:
        parts = [filled(part, max(counts)) for part in parts]
        plans = [plan + plan[-1:] * (max(counts) - len(plan)) for plan in plans]
    rows = tuple(map(len, plans))
    batch = {name: tensor.to(device) for name, tensor in joined(parts, stacking.padding).items()}
    packs = stacking.blocks.can_be_packed and not stacking.uniform
    packing = packing_of(tunable, batch.get("attention_mask")) if packs else None
    layout = Layout(rows, None if packing is None else client_tokens(packing, rows))
    table = [member.table[n] for member, plan in zip(active, plans, strict=True) for n in plan if member.table]
    return _Step(batch, table, counts, layout, packing)


def _losses(tunable: Tunable, stacking: Stacking, task: Task, step: _Step) -> tuple[Tensor, Tensor]:
    """Each client's summed loss and number of predictions, ``[K]``."""
    with ExitStack() as forward:
        forward.enter_context(reading(step.packing))
        if stacking.prefix is not None:
            forward.enter_context(stacking.prefix.replaced_by(step.table, step.packing))
        totals, predictions = task.losses(task.outputs(tunable.model, step.batch), step.batch)
    parts = [part for rows, n in zip(step.layout.rows, step.counts, strict=True) for part in (n, rows - n)]
    lengths = torch.tensor(parts, device=totals.device)

    def sums(values: Tensor) -> Tensor:
        ends = torch.segment_reduce(values.to(totals.dtype), "sum", lengths=lengths)
        return ends[::2]  # the others are of what fills clients up

    return sums(totals), sums(predictions)


@torch.no_grad()
def _optimize(
    optimizer: Optimizer,
    values: nn.Parameter,
    gradient: Tensor,
    rows: _Rows,
    local: LocalSettings,
    rule: LocalRule,
    at: At,
) -> None:
    """The algorithm's rule, clipping and the optimiser's step, of the first rows; what the others do is not read."""
    active = len(gradient)
    ruled = rule.gradient(gradient, values[:active], at)
    gradient = ruled if rows.personal is None else gradient.where(rows.personal[:active], ruled)
    if rows.trains is not None:
        gradient = gradient * rows.trains[:active]
    if local.max_grad_norm is not None:
        norms = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (local.max_grad_norm / (norms + 1e-6)).clamp(max=1)
    values.grad = gradient if active == len(values) else pad(gradient, (0, 0, 0, len(values) - active))
    optimizer.step()
    if rows.trains is not None:  # weight decay has moved what is not trained as well
        values.copy_(values.where(rows.trains, rows.begin))


def filled(batch: Batch, rows: int) -> Batch:
    """A batch with its last example repeated until it has so many."""
    missing = rows - len(batch["labels"])
    return {name: torch.cat([tensor, *[tensor[-1:]] * missing]) for name, tensor in batch.items()}


def joined(parts: Sequence[Batch], padding: Mapping[str, int]) -> Batch:
    """Batches one after the other, padded on the right to the longest."""
    whole: Batch = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if tensors[0].ndim == 2:
            longest = max(tensor.shape[1] for tensor in tensors)
            value = padding.get(name, 0)
            tensors = [pad(tensor, (0, longest - tensor.shape[1]), value=value) for tensor in tensors]
        whole[name] = torch.cat(tensors)
    return whole


def client_tokens(packing: Packing, rows: Sequence[int]) -> tuple[int, ...]:
    """Real tokens of each client."""
    ends = [*packing.first.tolist(), len(packing.places)]
    bounds = [0, *accumulate(rows)]
    return tuple(ends[end] - ends[start] for start, end in pairwise(bounds))
