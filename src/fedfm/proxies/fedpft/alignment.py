"""Realigning a proxy while clients tune it: the neurons they use least are refitted to the tuned backbone.

Both models carry the aggregated tunable; the loss is that of distillation, on public data.
Peng et al., FedPFT: Federated Proxy Fine-Tuning of Foundation Models, arXiv:2404.11536, neuron-level alignment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedfm.models.families import Block
from fedfm.models.tunable import Tunable
from fedfm.proxies.distillation import distill
from fedfm.proxies.fedpft.activity import Activity, tie_share, usage_scores
from fedfm.proxies.fedpft.settings import Alignment
from fedfm.proxies.ffn import neuron_tensors, neurons
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.settings import DistillSettings
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch


@dataclass(frozen=True)
class Aligned:
    """The result of an alignment, by the path of the proxy's block.

    Attributes:
        chosen: the neurons refitted, bool [m'].
        ties: share of neurons whose score another neuron has too; a high share means that chance chose.
        losses: of each step.
    """

    chosen: dict[str, Tensor]
    ties: dict[str, float]
    losses: list[float]


def choose_neurons(scores: Tensor, share: float, *, seed: int, round: int, path: str) -> Tensor:  # noqa: A002
    """The ⌈share·m'⌉ neurons used least, bool [m']; a keyed shuffle decides between equal ones.

    Args:
        scores: [m'], the highest is used least.
        share: in (0, 1].
        seed: the recipe's seed.
        round: of the alignment.
        path: of the block.
    """
    count = math.ceil(share * len(scores) - 1e-9)  # 0.07 · 100 is a little more than 7
    shuffled = torch.from_numpy(numpy_generator(seed, f"alignment of {path}", round=round).permutation(len(scores)))
    order = shuffled[scores.cpu()[shuffled].argsort(descending=True, stable=True)]
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def align(
    teacher: Tunable,
    student: Tunable,
    pairs: Pairs,
    own: Mapping[str, nn.Parameter],
    activity: Mapping[str, Activity],
    batches: Iterable[Batch],
    settings: Alignment,
    *,
    seed: int,
    round: int,  # noqa: A002
) -> Aligned:
    """Refits the least used neurons of the proxy, its FFNs' output biases and the norms after them, in place.

    Args:
        teacher: the backbone with the aggregated tunable.
        student: the proxy with the same tunable.
        pairs: compressed blocks, the backbone's and the proxy's.
        own: parameters of the proxy that may change, as `fedfm.proxies.fedpft.construct.own_parameters` names it.
        activity: of the neurons of the proxy's blocks, by path; not needed when all are refitted.
        batches: public ones, one a step.
        settings: share, score and optimiser.
        seed: the recipe's seed.
        round: the present one.

    Raises:
        RecipeError: at ``proxy.align`` when the loss stops being a finite number.
        ValueError: when the two carry different tunables.
    """
    require_same_tunable(teacher, student)
    compressed = [block for _, block in pairs]
    scores = {
        block.path: usage_scores(settings.score, activity[block.path], block)
        if settings.share < 1
        else torch.zeros(neurons(block))
        for block in compressed
    }
    chosen = {
        path: choose_neurons(score, settings.share, seed=seed, round=round, path=path) for path, score in scores.items()
    }
    losses = distill(
        teacher.model,
        student.model,
        pairs,
        list(own.values()),
        batches,
        DistillSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=0,  # as in the paper's code
            predictions=settings.predictions,
        ),
        masks=_masks(compressed, chosen),
        where="proxy.align",
    )
    return Aligned(
        chosen=chosen,
        ties={path: tie_share(score) for path, score in scores.items()} if settings.share < 1 else {},
        losses=losses,
    )


def overlap(previous: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> float:
    """Share of the neurons chosen by an alignment, over all blocks, that the previous one had chosen too, 0 to 1.

    A random choice gives about ``share``.

    Args:
        previous: bool [m'] by block path, the `Aligned.chosen` of the earlier alignment.
        chosen: those of the later alignment, for the same blocks.
    """
    both = sum(int((previous[path] & now).sum()) for path, now in chosen.items())
    return both / sum(int(now.sum()) for now in chosen.values())


def require_same_tunable(teacher: Tunable, student: Tunable) -> None:
    """Refuses models with different values of the tunable: the proxy would learn to correct the difference.

    Tensors of FFN adapters are not compared, because their shapes differ between backbone and proxy.

    Raises:
        ValueError: lists the tensors that differ.
    """
    ours, theirs = student.read(), teacher.read()
    differing = sorted(ours.keys() ^ theirs.keys())
    differing += [
        name
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].shape == theirs[name].shape and not torch.equal(ours[name], theirs[name])
    ]
    if differing:
        raise ValueError(
            "backbone and proxy carry different tunables; load the aggregate into both before aligning: "
            + ", ".join(differing)
        )


def _masks(compressed: Sequence[Block], chosen: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Which values of each neuron tensor may change."""
    masks: dict[nn.Parameter, Tensor] = {}
    for block in compressed:
        for tensor in neuron_tensors(block):
            parameter = block.module.get_parameter(tensor.name)
            masks[parameter] = tensor.mask(parameter, chosen[block.path])
    return masks
