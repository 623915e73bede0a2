"""The job with pfl-research's simulation (pfl 0.6): FederatedAveraging on a SimulatedBackend.

In one process with all threads, or under `torchrun` in several, among which pfl deals the users. Batches are made
before pfl asks for them, the optimiser gets the adapter alone, and metrics cost nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDatasetBase
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import get_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from clock import Clock
from job import Data, Job, data_of, load_model, make_optimizer, read, trained


class Module(nn.Module):
    """The model as pfl wants it."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = load_model(job)

    def loss(self, **batch: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.model(**batch).loss

    def metrics(self, **batch: Tensor) -> dict[str, Weighted]:
        """Of each user in the first round, whether one wants them or not."""
        return {"examples": Weighted(0.0, len(batch["labels"]))}


class User(Dataset):
    """A client in the present round; it counts as many examples as it holds, however many its steps take."""

    def __init__(self, data: Data, number: int, client: int) -> None:
        super().__init__((), user_id=str(client))
        self._batches = data.batches(number, client)
        self._size = int(data.sizes[client])

    def __len__(self) -> int:
        return self._size

    def iter(self, batch_size: int | None) -> Iterator[dict[str, Tensor]]:
        """The round's batches."""
        yield from self._batches


class Rounds(TrainingProcessCallback):
    """Counts rounds, and takes the time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.number = 0

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round is over."""
        self.number += 1
        self.clock.lap()
        return False, Metrics()


class Users(FederatedDatasetBase):
    """All clients in each round, dealt to the processes in turn.

    pfl's own samplers get out of step where processes do not divide the cohort.
    """

    def __init__(self, data: Data, rounds: Rounds) -> None:
        super().__init__()
        self.data = data
        self.rounds = rounds

    def __next__(self) -> tuple[User, int]:
        raise NotImplementedError("clients come by cohorts")

    def get_cohort(self, cohort_size: int) -> Iterator[tuple[User, int]]:
        """This process's clients of the present round, each with a seed, which nothing uses."""
        distributed = get_ops().distributed
        for client in range(distributed.global_rank, cohort_size, distributed.world_size):
            yield User(self.data, self.rounds.number, client), client


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    processes, rank = get_ops().distributed.world_size, get_ops().distributed.global_rank
    torch.set_num_threads(max(1, job.threads // processes))
    data, module = data_of(job.folder), Module(job)
    parameters = trained(module.model)
    rounds = Rounds(Clock(job, os.getppid() if processes > 1 else None))
    model = PyTorchModel(
        module,
        local_optimizer_create=lambda _, lr: make_optimizer(job, parameters.values(), lr),
        central_optimizer=torch.optim.SGD(parameters.values(), lr=1.0),
        amp_dtype=torch.bfloat16 if job.precision == "bfloat16" else None,
    )
    users = Users(data, rounds)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=data.rounds,
            evaluation_frequency=data.rounds,
            train_cohort_size=data.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=job.batch_size,
            local_num_epochs=1,
            local_learning_rate=job.learning_rate,
            local_max_grad_norm=1.0,
        ),
        callbacks=[rounds],
        send_metrics_to_platform=False,
    )
    if rank == 0:
        rounds.clock.report(read(parameters))


if __name__ == "__main__":
    main()
