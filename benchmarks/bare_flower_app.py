"""A Flower app whose clients send back at once what they were sent: what `load_nodes.py` holds ours against.

It travels to SuperLink and SuperNodes in Flower's own bundle and needs nothing but flwr and safetensors.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from safetensors.numpy import load_file

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Sends the arrays back."""
    metrics = MetricRecord({"num-examples": 1, "loss": 1.0})
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Plays the rounds, then writes down when each was over."""
    nodes, rounds = (int(context.run_config[name]) for name in ("nodes", "rounds"))
    ends: list[float] = []

    def evaluate(number: int, arrays: ArrayRecord) -> None:
        ends.append(time.time())

    start = ArrayRecord({name: Array(value) for name, value in load_file(str(context.run_config["start"])).items()})
    FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes).start(
        grid, start, rounds, evaluate_fn=evaluate
    )
    Path(str(context.run_config["output"])).write_text(json.dumps(ends[1:]))  # the first call is before round 1
