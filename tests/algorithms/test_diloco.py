"""DiLoCo against torch's SGD with Nesterov momentum, and against its limit."""

import torch
from torch.optim import SGD

from fedfm.algorithms import Aggregate
from fedfm.algorithms.diloco import DiLoCo


def test_steps_are_those_of_torch() -> None:
    algorithm, generator = DiLoCo(server_lr=0.7, momentum=0.9), torch.Generator().manual_seed(0)
    shapes = {"a": (3, 2), "b": (5,)}
    params = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    optimizer = SGD(theirs.values(), lr=0.7, momentum=0.9, nesterov=True)
    state = algorithm.start(params)
    for _ in range(6):
        update = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        params, state = algorithm.server_step(params, Aggregate(update), state)
        for name, parameter in theirs.items():
            parameter.grad = -update[name]
        optimizer.step()
        for name, parameter in theirs.items():
            torch.testing.assert_close(params[name], parameter.detach())


def test_without_momentum_and_with_rate_1_it_is_fedavg() -> None:
    algorithm = DiLoCo(server_lr=1.0, momentum=0.0)
    params, update = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.5, -0.25])}
    state = algorithm.start(params)
    for _ in range(2):
        params, state = algorithm.server_step(params, Aggregate(update), state)
    torch.testing.assert_close(params["w"], torch.tensor([2.0, 1.5]))
