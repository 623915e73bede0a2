"""A client of rank r trains the server's factors of rank R as it would train an adapter of rank r."""

from __future__ import annotations

import pytest
import torch

from fedfm.algorithms import FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.models.tunable import Tunable
from fedfm.params import Params, zeros_like
from fedfm.spec import spec_of
from fedfm.tasks import TASKS
from fedfm.views import Ranks, holds, narrow, widen
from tests.clients.stacks import attached, batches, moved, read

FULL, RANK = 6, 2
TASK = TASKS["text-classification"]()


def trained(tunable: Tunable, start: Params, local: LocalSettings, masks: Params | None = None) -> Params:
    tunable.write(start)
    at = ClientRound(start, {}, {}, local.learning_rate)
    train_locally(tunable, TASK, batches(TASK, "tiny-bert", [3, 2, 3], 0), local, FedAvg(), at, trains=masks)
    return read(tunable)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    "local",
    [
        LocalSettings(optimizer="sgd", learning_rate=0.5, max_grad_norm=0.01),
        LocalSettings(optimizer="adamw", learning_rate=0.01, weight_decay=0.1),
    ],
)
def test_zero_padded_factors_train_as_small_ones(kind: str, local: LocalSettings) -> None:
    alpha = 2  # scale α/r of the server: alone, α is smaller in the same ratio
    _, large = attached("tiny-bert", TASK, kind, r=FULL, lora_alpha=alpha * FULL)
    start = moved(large, 0)
    spec = spec_of(start)
    held = Ranks((RANK,)).held(spec, "a", 1)
    part = narrow(start, held)
    padded = widen(part, held, zeros_like(start))
    masks = {name: holds(held, name, tensor.shape) for name, tensor in spec.items()}
    found = trained(large, padded, local, masks)

    _, small = attached("tiny-bert", TASK, kind, r=RANK, lora_alpha=alpha * RANK)
    expected = trained(small, part, local)
    for name, tensor in narrow(found, held).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
        assert not torch.equal(tensor, part[name]), name
    for name, tensor in found.items():
        assert not tensor[~masks[name]].any(), name
