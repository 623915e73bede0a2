"""A classifier's read-out, refitted as the backbone takes over what was tuned on its proxy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import Lora
from fedfm.proxies.readout import readout, refit_readout
from fedfm.tasks.base import Batch
from tests.models.cases import CASES, TASKS
from tests.proxies.small_proxy import Small, changed, public_batches, small_proxy, values

RIDGE = 0.05
CLASSIFIERS = [case for case in CASES if TASKS[case[1]].labels]


def tuned_alike(small: Small, task: str, tune: Lora) -> tuple[Tunable, Tunable]:
    """The same values on both, as if training had moved them."""
    kind = TASKS[task].task_type
    ours, theirs = (tune.attach(model, task_type=kind, seed=0) for model in (small.backbone, small.proxy))
    torch.manual_seed(0)
    moved = {name: tensor + 0.3 * torch.randn_like(tensor) for name, tensor in theirs.read().items()}
    ours.write(moved)
    theirs.write(moved)
    return ours, theirs


def some_batches(small: Small, count: int = 6) -> list[Batch]:
    """Public texts end as T5 wants them to, with its token for the end."""
    batches = public_batches(small.backbone, count)
    if small.backbone.model.config.is_encoder_decoder:
        for batch in batches:
            last = batch["attention_mask"].sum(1, keepdim=True) - 1
            batch["input_ids"].scatter_(1, last, small.backbone.model.config.eos_token_id)
    return batches


def passed(tunable: Tunable, layer: nn.Module, batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """What goes into a layer for the example's logits, and these logits as the model gives them."""
    features, logits = [], []
    tunable.eval()
    for batch in batches:
        seen: list[torch.Tensor] = []
        with torch.no_grad(), layer.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0])):
            logits.append(tunable.model(**batch).logits)
        (found,) = seen
        if found.dim() == 3:  # a decoder's: at the last word
            lengths = batch["attention_mask"].sum(1)
            found = torch.stack([row[length - 1] for row, length in zip(found, lengths, strict=True)])
        features.append(found)
    return torch.cat(features).double().numpy(), torch.cat(logits).double().numpy()


@pytest.mark.parametrize(("name", "task"), CLASSIFIERS)
def test_against_scikit_learn(name: str, task: str) -> None:
    small = small_proxy(name, task)
    ours, theirs = tuned_alike(small, task, Lora(r=2))
    batches = some_batches(small)
    layer = readout(ours)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias
    start = 0.0 if bias is None else bias.detach().double().numpy()
    features, before = passed(ours, layer, batches)
    _, wanted = passed(theirs, readout(theirs), batches)
    np.testing.assert_allclose(before, features @ weight.T + start, atol=1e-4)

    penalty = RIDGE * len(features) * np.mean(features**2)
    ridge = Ridge(alpha=penalty, fit_intercept=bias is not None).fit(features, wanted - features @ weight.T)
    frozen = values(ours.model)
    report = refit_readout(ours, theirs, batches, RIDGE)

    np.testing.assert_allclose(layer.weight.detach().numpy(), weight + ridge.coef_, atol=2e-4)
    if bias is not None:
        np.testing.assert_allclose(bias.detach().numpy(), ridge.intercept_, atol=2e-4)
    _, after = passed(ours, layer, batches)
    assert report.before == pytest.approx(((wanted - before) ** 2).sum() / (wanted**2).sum(), rel=1e-3)
    assert report.after == pytest.approx(((wanted - after) ** 2).sum() / (wanted**2).sum(), rel=1e-3)
    assert report.after < 0.9 * report.before
    parameters = dict(ours.model.named_parameters())
    assert all(parameters[name] is layer.weight or parameters[name] is bias for name in changed(ours.model, frozen))


def test_a_proxy_that_answers_alike_changes_nothing() -> None:
    small = small_proxy(whole=2)
    ours, theirs = tuned_alike(small, "text", Lora(r=2))
    before = ours.read()
    report = refit_readout(ours, theirs, some_batches(small), RIDGE)
    assert report.before < 1e-10
    assert all(torch.allclose(tensor, before[name], atol=1e-5) for name, tensor in ours.read().items())


def test_a_read_out_that_is_not_tuned_is_left_alone() -> None:
    small = small_proxy("tiny-vit", "image")
    ours, _ = tuned_alike(small, "image", Lora(r=2, head=True))
    assert readout(ours).out_features == 3
    backbone = small_proxy("tiny-vit", "image").backbone
    without = Tunable.of_model(backbone.model, ["vit.layernorm.weight"])
    with pytest.raises(RecipeError, match=r"proxy\.refit_readout=false"):
        readout(without)
