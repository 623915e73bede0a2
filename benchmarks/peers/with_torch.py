"""The job in plain torch and peft: one model, the adapter written in and read out, a loop over clients."""

from __future__ import annotations

import sys

import torch

from clock import Clock
from job import Job, Mean, data_of, load_model, read, train, trained, write


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    torch.set_num_threads(job.threads)
    data, model, clock = data_of(job.folder), load_model(job), Clock(job)
    parameters = trained(model)
    params = read(parameters)
    for number in range(data.rounds):
        mean = Mean()
        for client in range(data.clients):
            write(parameters, params)
            train(job, model, parameters, data.batches(number, client))
            mean.add(read(parameters), int(data.sizes[client]))
        params = mean.result()
        clock.lap()
    clock.report(params)


if __name__ == "__main__":
    main()
