"""No sum needs float64 on a device that has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedfm.proxies.fedpft import closed_form, regression
from fedfm.proxies.fedpft.scores import Scoring, gradient, norms, reconstruct, scores
from fedfm.proxies.fedpft.settings import NeuronScore
from fedfm.proxies.precision import wide
from tests.proxies.small_proxy import blocks_of, public_batches, small_proxy


class OnMps:
    """A tensor on a device that this machine need not have."""

    device = torch.device("mps")

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def detach(self) -> OnMps:
        return self

    def cpu(self) -> Tensor:
        return self.values

    def double(self) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


def test_wide_values_are_on_the_cpu_only_where_they_must_be() -> None:
    values = torch.tensor([0.5, 1e-30], requires_grad=True)
    assert wide(values).tolist() == values.tolist()
    assert wide(values).dtype == torch.float64
    assert not wide(values).requires_grad
    assert wide(torch.zeros(2, device="meta")).device.type == "meta"
    moved: Any = OnMps(values.detach())
    assert wide(moved).dtype == torch.float64


class NoFloat64(TorchDispatchMode):
    """Takes float32 for a device that has no float64, and float64 for the CPU: only `wide` leads from one to the other.

    What is on the CPU may become float32 and then move to the device; nothing takes both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.widening = False

    def wide(self, tensor: Tensor) -> Tensor:
        self.widening = True
        try:
            return wide(tensor)
        finally:
            self.widening = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not self.widening:
            given = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            made = {leaf.dtype for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
            assert not (torch.float32 in given and torch.float64 in given | made), func
        return found


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-gpt2", "tiny-llama"])
def test_the_closed_form_needs_no_float64_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_proxy(name, "text")
    batches = public_batches(small.backbone, 2)
    device = NoFloat64()
    monkeypatch.setattr(regression, "wide", device.wide)
    with device:
        found = closed_form.refit_outputs(
            small.proxy.model, blocks_of(small.proxy), small.pairs, small.kept, batches, 0.01
        )
    assert all(refit.after < refit.before for refit in found.values())


@pytest.mark.parametrize("score", ["concat-l2", "product", "gradient", "reconstruct"])
def test_scores_need_no_float64_on_the_device(score: NeuronScore, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_proxy()
    blocks, batches = blocks_of(small.backbone), public_batches(small.backbone, 2)
    device = NoFloat64()
    for module in (norms, gradient, reconstruct):
        monkeypatch.setattr(module, "wide", device.wide)
    counts = {block.path: 5 for block in blocks}
    with device:
        found = scores(score, Scoring(small.backbone, blocks, counts, batches, 0))
    assert {tensor.dtype for tensor in found.values()} == {torch.float64}
