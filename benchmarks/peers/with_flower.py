"""The job with Flower's simulation engine (flwr 1.41, Ray): one actor with one thread a core.

`model kept`, the most favourable way: each actor keeps model and data between messages. `model loaded`, the way of
Flower's examples: each message loads the model anew; the data stay.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import load_file

from clock import Clock
from job import Job, data_of, load_model, read, resident, train, trained, write

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train_client(message: Message, context: Context) -> Message:
    """A client's round."""
    config = message.content["config"]
    text = str(config["job"])
    job = Job.load(text)
    torch.set_num_threads(1)
    if "model loaded" in job.settings:
        model = load_model(job)
        parameters = trained(model)
    else:
        model, parameters = resident(text)
    data, client = data_of(job.folder), int(context.node_config["partition-id"])
    write(parameters, message.content["arrays"].to_torch_state_dict())
    train(job, model, parameters, data.batches(int(config["server-round"]) - 1, client))
    content = {
        "arrays": ArrayRecord(read(parameters)),
        "metrics": MetricRecord({"num-examples": int(data.sizes[client])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class AllOrNone(FedAvg):
    """FedAvg that does not go on without some of the clients: a failure, or a first round of those that are there."""

    def __init__(self, clients: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The weighted mean."""
        replies = list(replies)
        if failed := [reply.error.reason for reply in replies if reply.has_error()]:
            raise RuntimeError(f"{len(failed)} clients failed in round {server_round}: {failed[0]}")
        return super().aggregate_train(server_round, replies)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """All rounds."""
    job = Job.load(sys.argv[1])
    clock = Clock(job)

    def lap(number: int, arrays: ArrayRecord) -> None:
        if number:
            clock.lap()

    data = data_of(job.folder)
    result = AllOrNone(data.clients).start(
        grid,
        ArrayRecord(load_file(job.adapter / "adapter_model.safetensors")),
        num_rounds=data.rounds,
        train_config=ConfigRecord({"job": sys.argv[1]}),
        evaluate_fn=lap,
    )
    clock.report(result.arrays.to_torch_state_dict())


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    run_simulation(
        server_app,
        client_app,
        num_supernodes=data_of(job.folder).clients,
        backend_config={
            "init_args": {"num_cpus": job.threads},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
