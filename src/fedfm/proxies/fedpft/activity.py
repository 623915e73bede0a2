"""Counts of how much a proxy's neurons are used, taken while a model runs.

APoZ, the share of exact zeros among a neuron's activations: Hu et al., Network Trimming, arXiv:1607.03250. It separates
neurons only under ReLU: GELU is exactly zero only below about −5.5, SiLU almost never.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ReLUSquaredActivation

from fedfm.models.families import Block
from fedfm.params import Params
from fedfm.printable import quoted
from fedfm.progress import steps
from fedfm.proxies.fedpft.settings import UsageScore
from fedfm.proxies.ffn import neurons, output_layer, vectors
from fedfm.proxies.precision import wide
from fedfm.proxies.trace import Model, base_of, real_positions, run
from fedfm.tasks.base import Batch

NEAR_ZERO = 0.05
"""A value is near zero up to this share of the root mean square of the layer's activations in the batch."""
UNIT = 2.0**-20
"""The unit of `Activity.magnitude`."""

MOST_TOKENS, MOST_MAGNITUDE = 2**40, 2**53
"""Larger counts are refused; the sums of up to a thousand clients' counts fit into 64 bits."""

_COUNTS = ("zeros", "near_zeros", "magnitude")


@dataclass(frozen=True)
class Activity:
    """How the neurons of one FFN were used at some positions, without padding.

    All counts are integers, so that the sum over clients does not depend on their order. On the CPU.

    Attributes:
        tokens: positions counted, in this layer.
        zeros: values that are exactly zero, int64 [m].
        near_zeros: values near zero, int64 [m]; see `NEAR_ZERO`.
        magnitude: Σ|a| in `UNIT`, int64 [m].
    """

    tokens: int
    zeros: Tensor
    near_zeros: Tensor
    magnitude: Tensor

    @classmethod
    def none(cls, width: int) -> Activity:
        """Counts of ``width`` neurons at no position."""
        return cls(0, *(torch.zeros(width, dtype=torch.int64) for _ in range(3)))

    @classmethod
    @torch.no_grad()
    def of(cls, values: Tensor) -> Activity:
        """Counts of activations ``[n, m]``."""
        sizes = values.abs().float()
        near = NEAR_ZERO * sizes.square().mean().sqrt()
        magnitude = (wide(sizes).sum(0) / UNIT).round().to(torch.int64)
        return cls(len(values), (sizes == 0).sum(0).cpu(), (sizes <= near).sum(0).cpu(), magnitude.cpu())

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.tokens + other.tokens,
            self.zeros + other.zeros,
            self.near_zeros + other.near_zeros,
            self.magnitude + other.magnitude,
        )


def to_params(counted: Mapping[str, Activity]) -> Params:
    """Activities by block path as named tensors for a message: ``PATH.zeros``, ``PATH.tokens``, ….

    The sum of two such sets counts the positions of both.
    """
    parts = {
        path: {"tokens": torch.tensor(activity.tokens), **{name: getattr(activity, name) for name in _COUNTS}}
        for path, activity in counted.items()
    }
    return {f"{path}.{name}": tensor for path, named in parts.items() for name, tensor in named.items()}


def from_params(params: Mapping[str, Tensor]) -> dict[str, Activity]:
    """Undoes `to_params`."""
    paths = sorted(name.removesuffix(".tokens") for name in params if name.endswith(".tokens"))
    return {
        path: Activity(int(params[f"{path}.tokens"]), *(params[f"{path}.{name}"] for name in _COUNTS)) for path in paths
    }


def activity_problem(params: Mapping[str, Tensor], widths: Mapping[str, int]) -> str | None:
    """Why tensors that a client sent cannot be the activity of a proxy, or None when they can.

    Args:
        params: that it sent, as `to_params` names them.
        widths: how many neurons each compressed FFN has, m', by its block's path.
    """
    shapes = {f"{path}.{name}": (width,) for path, width in widths.items() for name in _COUNTS}
    expected: dict[str, tuple[int, ...]] = {**{f"{path}.tokens": () for path in widths}, **shapes}
    if missing := sorted(expected.keys() - params.keys()):
        return f"{len(missing)} counts of neurons' use are missing, first `{missing[0]}`"
    if extra := sorted(params.keys() - expected.keys()):
        return f"{len(extra)} counts were not asked for, first {quoted(extra[0])}"
    for name, shape in expected.items():
        if params[name].shape != shape:
            return f"count `{name}` has shape {list(params[name].shape)}, not {list(shape)}"
        if params[name].dtype != torch.int64:
            return f"count `{name}` is {params[name].dtype}, not torch.int64"
    problems = (_count_problem(path, activity) for path, activity in from_params(params).items())
    return next((problem for problem in problems if problem), None)


def _count_problem(path: str, activity: Activity) -> str | None:
    """Why one FFN's counts contradict each other."""
    if not 1 <= activity.tokens <= MOST_TOKENS:
        return f"`{path}.tokens` is {activity.tokens}, but neurons' use is counted at 1 to {MOST_TOKENS} positions"
    for name, counts in (("zeros", activity.zeros), ("near_zeros", activity.near_zeros)):
        if counts.min() < 0 or counts.max() > activity.tokens:
            return f"`{path}.{name}` has counts below 0 or above the {activity.tokens} positions counted"
    if activity.magnitude.min() < 0 or activity.magnitude.max() > MOST_MAGNITUDE:
        return f"`{path}.magnitude` has sums below 0 or above {MOST_MAGNITUDE}"
    return None


@contextmanager
def counting(model: Model, blocks: Sequence[Block]) -> Iterator[dict[str, Activity]]:
    """Counts the use of neurons, by block path, in every pass of a model inside the context.

    A pass raises ValueError when the attention mask has other positions than the FFN, as with a prefix.
    """
    counted = {block.path: Activity.none(neurons(block)) for block in blocks}
    base = base_of(model)
    signature = inspect.signature(base.forward)
    mask: Tensor | None = None

    def note_mask(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal mask
        mask = signature.bind(*arguments, **named).arguments.get("attention_mask")

    def count(block: Block, values: Tensor) -> None:
        counted[block.path] += Activity.of(real_positions(values.detach(), mask))

    with ExitStack() as hooks:
        hooks.enter_context(base.register_forward_pre_hook(note_mask, with_kwargs=True))
        for block in blocks:
            hook = output_layer(block).register_forward_pre_hook(lambda _, args, block=block: count(block, args[0]))
            hooks.enter_context(hook)
        yield counted


@torch.no_grad()
def measure_activity(model: Model, blocks: Sequence[Block], batches: Iterable[Batch]) -> dict[str, Activity]:
    """The use of the neurons of some blocks on batches, by block path."""
    model.eval()
    with counting(model, blocks) as counted:
        for batch in steps(batches, "measuring the use of neurons"):
            run(model, batch)
    return counted


def usage_scores(kind: UsageScore, activity: Activity, block: Block) -> Tensor:
    """How little each neuron is used, float64 [m]; the highest is used least.

    Args:
        kind: ``apoz``: the share of values that are zero; ``soft-apoz``: near zero; ``contribution``: −E|a|·‖w₂‖ with
            the neuron's present output vector w₂; ``auto``: apoz where the FFN has ReLU, else contribution.
        activity: of this block.
        block: of the proxy.

    Raises:
        ValueError: when nothing was counted.
    """
    if activity.tokens == 0:
        raise ValueError(f"the activations of {block.path} were not counted at any position")
    if kind == "auto":
        kind = "apoz" if has_relu(block) else "contribution"
    if kind == "contribution":
        lengths: Tensor = torch.linalg.vector_norm(wide(vectors(block)[-1]), dim=1).cpu()
        return -(activity.magnitude * UNIT / activity.tokens) * lengths
    counts = activity.zeros if kind == "apoz" else activity.near_zeros
    return counts.double() / activity.tokens


def has_relu(block: Block) -> bool:
    """Whether the FFN's activation function is zero for all negative inputs: ReLU, ReLU6 or squared ReLU."""
    return any(isinstance(module, nn.ReLU | nn.ReLU6 | ReLUSquaredActivation) for module in block.module.modules())


def tie_share(scores: Tensor) -> float:
    """Share of the scores that occur more than once."""
    counts = Counter(scores.tolist())
    return sum(count for count in counts.values() if count > 1) / len(scores)
