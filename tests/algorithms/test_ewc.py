"""EWC against numbers worked out by hand, and clients' Fisher information against gradients taken in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from fedfm.algorithms import At
from fedfm.algorithms.ewc import Ewc
from fedfm.clients.work.fisher import sampled
from fedfm.errors import RecipeError
from fedfm.params import digest
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.updates import Asked, Payload, decode_update
from fedfm.updates.payload import FISHER
from fedfm.wire import TUNABLE
from tests.asked import trained
from tests.small import small_recipe


def test_the_gradient_of_the_penalty() -> None:
    at = At(torch.tensor([9.0]), sent={FISHER: torch.tensor([0.5]), "anchor": torch.tensor([1.0])})
    assert Ewc(strength=4.0).gradient(torch.tensor([3.0]), torch.tensor([2.0]), at).item() == 3.0 + 4.0 * 0.5 * 1.0


def test_before_the_second_task_it_is_fedavg() -> None:
    algorithm, w = Ewc(), {"w": torch.randn(3)}
    sent = {group: params["w"] for group, params in algorithm.sends(algorithm.start(w)).items()}
    assert algorithm.gradient(torch.ones(3), w["w"], At(w["w"], sent=sent)).tolist() == [1.0, 1.0, 1.0]


def test_one_anchor_stands_for_the_penalties_of_all_tasks() -> None:
    torch.manual_seed(0)
    algorithm = Ewc(strength=2.0)
    tasks = [(torch.rand(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)) for _ in range(3)]
    for fisher, _ in tasks:
        fisher[0] = 0.0  # a parameter that no task needs
    state = algorithm.start({"w": torch.zeros(4, dtype=torch.float64)})
    for fisher, after in tasks:
        state |= algorithm.end_task({"w": after}, {"w": fisher}, state)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    penalty = sum((fisher * (w - after) ** 2).sum() for fisher, after in tasks)  # λ/2 = 1
    expected = torch.autograd.grad(penalty, w)[0]
    sent = {group: params["w"] for group, params in algorithm.sends(state).items()}
    found = algorithm.gradient(torch.zeros(4, dtype=torch.float64), w.detach(), At(w.detach(), sent=sent))
    torch.testing.assert_close(found, expected)


def test_labels_are_drawn_from_the_softmax() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(20_000, 3)
    labels = torch.zeros(20_000, dtype=torch.int64)
    labels[:10] = -100
    found = sampled(logits, labels, np.random.default_rng(0))
    assert (found[:10] == -100).all()
    shares = torch.bincount(found[10:], minlength=3) / len(found[10:])
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.5, 0.3]), atol=0.02, rtol=0.0)


def test_the_fisher_information_of_a_client(tmp_path: Path) -> None:
    stream = {"kind": "column", "column": "site", "rounds": 1}
    recipe = small_recipe(
        tmp_path,
        federation={"clients": 2, "rounds": 5, "stream": stream},
        algorithm={"name": "ewc", "samples": 3},
        tune={"kind": "lora", "r": 2},
    )
    experiment = build_experiment(load_recipe(recipe))
    assert experiment.worker is not None
    worker, params = experiment.worker.own, {name: tensor + 0.05 for name, tensor in experiment.start.items()}
    message = Payload(2, digest(params), Asked(extra={"samples": 3.0}), {TUNABLE: params}, work=FISHER).encode()
    answer = decode_update(trained(worker, {"0": message})["0"])  # type: ignore[arg-type]

    held = worker.trained("0", 2)
    generator = numpy_generator(0, FISHER, round=2, client="0")
    chosen = generator.permutation(held)[:3]
    assert answer.facts.examples == len(held) < len(worker.clients["0"])
    sums = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    worker.tunable.write(params)
    for row in worker.examples.take(chosen):
        batch = worker.processor.pad([row], return_tensors="pt")  # type: ignore[attr-defined]
        logits = worker.tunable.model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0]
        probabilities = logits.detach().double().softmax(-1).numpy()
        label = int(np.searchsorted(np.cumsum(probabilities), generator.random()))
        named = worker.tunable.parameters
        found = torch.autograd.grad(log_softmax(logits, -1)[label], list(named.values()))
        for name, gradient in zip(named, found, strict=True):
            sums[name] += gradient**2 / 3
    for name, expected in sums.items():
        torch.testing.assert_close(answer.groups[FISHER][name], expected, rtol=1e-4, atol=1e-9)


def test_without_a_stream_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tasks that come one after the other(.|\n)*federation.stream.kind"):
        load_recipe(small_recipe(tmp_path, algorithm={"name": "ewc"}))
