"""What clients measure of the layers, against gradients computed in another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fedfm.clients.work.probe import Gradients
from fedfm.params import digest
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.updates import Asked, Payload, decode_update
from fedfm.views.selection import GRADIENT, PROBE, SNR
from fedfm.wire import TUNABLE
from tests.asked import trained
from tests.small import small_recipe

BATCH = 4


def experiment_of(folder: Path, **select: Any) -> Experiment:
    recipe = small_recipe(
        folder,
        federation={"clients": 6, "per_round": 2, "rounds": 2},
        local={"batch_size": BATCH, "learning_rate": 0.01},
        select={"kind": "layers", "budget": 1, **select},
    )
    return build_experiment(load_recipe(recipe))


def probed(experiment: Experiment, client: str) -> Any:
    """A client's answer to the work ``probe`` at a tunable that is not the initial one."""
    assert experiment.worker is not None
    params = {name: tensor + 0.05 for name, tensor in experiment.start.items()}
    message = Payload(1, digest(params), Asked(), {TUNABLE: params}, work=PROBE).encode()
    return decode_update(trained(experiment.worker.own, {client: message})[client])  # type: ignore[arg-type]


def gradients(experiment: Experiment, client: str, batches: int) -> list[dict[str, torch.Tensor]]:
    """The gradient of each batch, example by example without padding."""
    worker = experiment.worker.own  # type: ignore[union-attr]
    indices, found = worker.clients[client], []
    for places in worker.plan(len(indices), client, 1, batches):
        worker.tunable.model.zero_grad()
        for row in worker.examples.take(indices[places]):
            batch = worker.processor.pad([row], return_tensors="pt")  # type: ignore[attr-defined]
            logits = worker.tunable.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
            (cross_entropy(logits, batch["labels"]) / len(places)).backward()
        found.append({name: p.grad.clone() for name, p in worker.tunable.parameters.items() if p.grad is not None})
    worker.tunable.model.zero_grad()
    return found


def test_squared_norms_of_each_layer(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, batches=2)
    client = next(iter(experiment.data.clients))
    update = probed(experiment, client)
    expected = gradients(experiment, client, 2)
    layers = experiment.layers
    assert update.groups.keys() == {PROBE}
    assert update.groups[PROBE].keys() == {GRADIENT}
    for place, tensors in enumerate(layers.tensors):
        mean = [(expected[0][name] + expected[1][name]) / 2 for name in tensors]
        norm = sum(float(tensor.double().square().sum()) for tensor in mean)
        assert norm > 0
        assert update.groups[PROBE][GRADIENT][place].item() == pytest.approx(norm, rel=1e-4)
    assert (update.facts.steps, update.facts.examples) == (0, experiment.data.clients[client])


def test_the_ratio_of_signal_to_noise(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, strategy="snr", batches=3)
    client = next(iter(experiment.data.clients))
    experiment.worker.own.tunable.model.double()  # type: ignore[union-attr]
    update = probed(experiment, client)
    expected = gradients(experiment, client, 3)
    for place, tensors in enumerate(experiment.layers.tensors):
        g = np.stack([np.concatenate([each[name].double().flatten() for name in tensors]) for each in expected])
        ratio = (g.mean(0) ** 2 / (g.var(0, ddof=1) + 1e-20)).mean()
        assert update.groups[PROBE][SNR][place].item() == pytest.approx(ratio, rel=1e-4)


def test_norms_by_hand_of_batches_of_unequal_size() -> None:
    found = Gradients(["w", "v"], snr=True)
    found.add([torch.tensor([1.0, 0.0]), None], 3)
    found.add([torch.tensor([5.0, 4.0]), None], 1)
    assert found.norm(["w"]) == pytest.approx(2.0**2 + 1.0**2)
    assert found.norm(["v"]) == 0
    assert found.ratio(["w"]) == pytest.approx((9 / 8 + 4 / 8) / 2)
    assert found.ratio(["v"]) == 0


def test_one_batch_has_no_noise_to_compare_with() -> None:
    found = Gradients(["w"], snr=True)
    found.add([torch.ones(1)], 1)
    with pytest.raises(ValueError, match="two batches"):
        found.ratio(["w"])


def test_clients_of_other_recipes_do_not_measure(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path, strategy="top")
    assert experiment.worker is not None
    message = Payload(1, digest(experiment.start), Asked(), {TUNABLE: experiment.start}, work=PROBE).encode()
    failure: Any = trained(experiment.worker.own, {"0": message})["0"]
    assert "does not ask for measurements" in failure.reason
