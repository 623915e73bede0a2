"""Probes: they compare what clients compute on a proxy, the gradient of the tunable, with the same on the backbone.

With g the backbone's gradient and ĝ the proxy's, steps along ĝ descend while their cosine is positive, and while
‖ĝ − g‖ ≤ ρ‖g‖ with ρ < 1 they converge to where steps along g would (SGD with a biased gradient). Public data has no
labels, and the divergence from the backbone has no gradient at the backbone itself: the loss is a random read-out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.models.families import blocks, family_of
from fedfm.models.tunable import Tunable
from fedfm.params import Params, add
from fedfm.progress import steps
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import TARGETS, Batch

READOUTS = 2
"""Random vectors u by which the pooled output is read out; which examples are read changes a cosine more."""

_PRODUCTS = 7


@dataclass(frozen=True)
class Likeness:
    """The proxy's gradient ĝ compared with the backbone's g; NaN where the divisor is zero.

    Attributes:
        error: ‖ĝ − g‖ / ‖g‖, 0 where they agree.
        cosine: ⟨ĝ, g⟩ / (‖ĝ‖·‖g‖), −1 to 1.
        norm_ratio: ‖ĝ‖ / ‖g‖.
    """

    error: float
    cosine: float
    norm_ratio: float


@dataclass(frozen=True)
class Probe:
    """The result of one probe.

    Attributes:
        gradient: over all shared parameters.
        layers: over those of each block that has any, by the block's path in the backbone.
        agreement: share of predictions in which both models have the same first choice, 0 to 1; NaN without a head.
        divergence: mean Kullback–Leibler divergence of the proxy's predictions from the backbone's, nats; NaN without
            a head.
        update_cosine: the cosine of the first steps that Adam takes along each gradient; each coordinate of such a
            step is the sign of the gradient's coordinate.
        hidden_errors: relative squared error of blocks' outputs, by path; empty where it was not measured.
    """

    gradient: Likeness
    layers: dict[str, Likeness]
    agreement: float
    divergence: float
    update_cosine: float
    hidden_errors: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The probe as one flat record of metrics.jsonl, with ``layers`` by path; ``hidden_error`` is their mean."""
        errors = self.hidden_errors
        layers: dict[str, dict[str, float]] = {}
        for path, likeness in self.layers.items():
            layers.setdefault(path, {}).update(_named(likeness))
        for path, error in errors.items():
            layers.setdefault(path, {})["hidden_error"] = error
        return {
            **_named(self.gradient),
            "update_cosine": self.update_cosine,
            "agreement": self.agreement,
            "divergence": self.divergence,
            "hidden_error": math.fsum(errors.values()) / len(errors) if errors else math.nan,
            "layers": layers,
        }


def probe(
    backbone: Tunable,
    proxy: Tunable,
    batches: Iterable[Batch],
    *,
    seed: int,
    names: Mapping[str, str] | None = None,
    hidden_errors: Mapping[str, float] | None = None,
) -> Probe:
    """Compares a proxy with its backbone while both carry the same θ; dropout is off, nothing of either changes.

    The gradients are of ℓ_u = ⟨u, h⟩: h is the last block's output, its mean over a sequence's real positions, then
    over the batch; u ~ N(0, I). Those of all batches and read-outs count as one long vector. Compared are parameters
    that both have in the same shape. With LoRA's B = 0 the gradient of A is zero in both, and that of B decides.

    Args:
        backbone: the tunable on the backbone.
        proxy: the tunable on the proxy.
        batches: public examples; labels are ignored.
        seed: the recipe's seed; u depends on nothing else, so that probes of a run can be compared.
        names: name in the backbone by name in the proxy, of parameters whose names differ.
        hidden_errors: relative squared error of blocks' outputs by path, to go into the record.

    Raises:
        ValueError: no parameter is shared, θ differs, or there is no batch.
    """
    shared = _shared(backbone, proxy, names or {})
    layer_of = _layers(backbone, list(shared.values()))
    products = {name: torch.zeros(_PRODUCTS, dtype=torch.float64) for name in shared.values()}
    outputs, probed = torch.zeros(3, dtype=torch.float64), 0
    with _evaluating(backbone), _evaluating(proxy):
        for batch in steps(batches, "comparing the proxy with the backbone"):
            found, predicted = _compare(backbone, proxy, batch, shared, seed)
            products = add(products, found)
            outputs += predicted
            probed += 1
    count, agreed, divergence = outputs.tolist()
    if not probed:
        raise ValueError("a probe needs at least one batch")
    paths = dict.fromkeys(path for path in layer_of.values() if path)
    return Probe(
        gradient=_likeness(products.values()),
        layers={
            path: _likeness(product for name, product in products.items() if layer_of[name] == path) for path in paths
        },
        agreement=agreed / count if count else math.nan,
        divergence=divergence / count if count else math.nan,
        update_cosine=_update_cosine(products.values()),
        hidden_errors=dict(hidden_errors or {}),
    )


def _compare(
    backbone: Tunable, proxy: Tunable, batch: Batch, shared: Mapping[str, str], seed: int
) -> tuple[Params, Tensor]:
    """What one batch adds to the `_products` of each parameter and to the `_agreement` of predictions."""
    view, other = _look(backbone, batch), _look(proxy, batch)
    parameters = [backbone.parameters[name] for name in shared.values()]
    others = [proxy.parameters[name] for name in shared]
    readouts = numpy_generator(seed, "readouts").standard_normal((READOUTS, view.pooled.shape[-1]))
    found = {name: torch.zeros(_PRODUCTS, dtype=torch.float64) for name in shared.values()}
    for readout in torch.from_numpy(readouts):
        gradients = _gradient(view.pooled, parameters, readout), _gradient(other.pooled, others, readout)
        for name, g, h in zip(found, *gradients, strict=True):
            found[name] += _products(g, h)
    return found, _agreement(view.logits, other.logits)


@dataclass(frozen=True)
class _View:
    """A model at a batch: its last block's output, pooled ``[B, d]``, and the logits of its predictions ``[N, C]``."""

    pooled: Tensor
    logits: Tensor


def _named(likeness: Likeness) -> dict[str, float]:
    return {f"gradient_{name}": value for name, value in asdict(likeness).items()}


def _shared(backbone: Tunable, proxy: Tunable, names: Mapping[str, str]) -> dict[str, str]:
    """Names in the backbone by names in the proxy, of the parameters that both have in the same shape."""
    shared = {
        name: names.get(name, name)
        for name, parameter in proxy.parameters.items()
        if names.get(name, name) in backbone.parameters
        and backbone.parameters[names.get(name, name)].shape == parameter.shape
    }
    if not shared:
        raise ValueError("the tunables of backbone and proxy have no parameter in common")
    differing = [
        other
        for name, other in shared.items()
        if not torch.equal(proxy.parameters[name].detach().cpu(), backbone.parameters[other].detach().cpu())
    ]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ValueError(
            f"backbone and proxy carry different values of {differing[0]}{more}: a probe compares them at the same "
            "point; write the same parameters into both first"
        )
    return shared


def _layers(backbone: Tunable, names: list[str]) -> dict[str, str]:
    """The path of the block that each parameter is in, empty for those outside blocks; in the order of the blocks."""
    model = backbone.base_model
    paths = [block.path for block in blocks(model, family_of(model.config))]
    found = {name: next((path for path in paths if f".{path}." in f".{name}"), "") for name in names}
    rank = {path: number for number, path in enumerate(["", *paths])}
    return dict(sorted(found.items(), key=lambda item: rank[item[1]]))


@contextmanager
def _evaluating(tunable: Tunable) -> Iterator[None]:
    """Evaluation mode, then every module's mode as it was."""
    modes = [(module, module.training) for module in tunable.model.modules()]
    tunable.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _look(tunable: Tunable, batch: Batch) -> _View:
    """Runs a model on a batch and pools the output of its last block over real positions."""
    model = tunable.base_model
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name not in TARGETS}
    seen: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks(model, family_of(model.config))[-1].module.register_forward_hook(note)
    try:
        outputs = tunable.model(**inputs)
    finally:
        handle.remove()
    (hidden,) = seen
    logits: Tensor = outputs.get("logits", hidden.new_zeros(0, 1))  # a model without a head predicts nothing
    mask = inputs.get("attention_mask")
    predicted = predictions(logits, mask)
    if mask is None:
        return _View(hidden.mean(dim=1), predicted)
    length = mask.shape[1]  # a prompt's virtual tokens stand before the text
    weights = mask.to(hidden.dtype)[..., None]
    pooled = (hidden[:, -length:] * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return _View(pooled, predicted)


def predictions(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits of single predictions ``[N, C]``: one an example, or one at each real position.

    Args:
        logits: ``[B, C]`` or ``[B, T, C]``; virtual tokens may stand before the text.
        mask: ``[B, T]``, 1 = real; None: all positions are.
    """
    if mask is None or logits.dim() == 2:
        return logits.flatten(0, -2)
    return logits[:, -mask.shape[1] :][mask.bool()]


def _gradient(pooled: Tensor, parameters: list[nn.Parameter], readout: Tensor) -> tuple[Tensor, ...]:
    """∂⟨u, mean pooled output⟩/∂θ; zeros where θ is not on the way, as a head is not."""
    if not pooled.requires_grad:
        return tuple(torch.zeros_like(parameter) for parameter in parameters)
    read = pooled.mean(dim=0) @ readout.to(pooled)
    return torch.autograd.grad(read, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)


def _products(gradient: Tensor, other: Tensor) -> Tensor:
    """‖g‖², ‖ĝ‖², ⟨g, ĝ⟩ and ‖ĝ − g‖², then the first three of the signs, float64 ``[7]``."""
    g, h = (tensor.detach().to("cpu", torch.float64).flatten() for tensor in (gradient, other))
    s, t = g.sign(), h.sign()
    sums = [(g * g), (h * h), (g * h), (h - g) ** 2, s * s, t * t, s * t]
    return torch.stack([values.sum() for values in sums])


def _likeness(products: Iterable[Tensor]) -> Likeness:
    """The figures of several parameters together."""
    own, other, mixed, error = torch.stack(list(products)).sum(dim=0).tolist()[:4]
    if not own:
        return Likeness(math.nan, math.nan, math.nan)
    cosine = mixed / math.sqrt(own * other) if other else math.nan
    return Likeness(math.sqrt(error / own), cosine, math.sqrt(other / own))


def _update_cosine(products: Iterable[Tensor]) -> float:
    own, other, mixed = torch.stack(list(products)).sum(dim=0).tolist()[4:]
    return mixed / math.sqrt(own * other) if own and other else math.nan


def _agreement(logits: Tensor, other: Tensor) -> Tensor:
    """Number of predictions, of those with the same first choice, and summed divergence in nats, float64 ``[3]``."""
    p, q = (part.detach().float().log_softmax(dim=-1).cpu() for part in (logits, other))
    divergence = nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1).double().sum()
    agreed = (p.argmax(dim=-1) == q.argmax(dim=-1)).sum()
    return torch.stack([torch.tensor(float(len(p)), dtype=torch.float64), agreed.double(), divergence])
