"""What our layer costs a server: 200 clients that train nothing, beside a bare Flower app that does the same.

    python benchmarks/load.py [--clients 200] [--rounds 7] [--repeats 3]

Both run over the same in-process Grid of Flower's own interface, so neither pays for Flower's sockets or processes;
clients send back at once what they were sent, about 300,000 parameters (LoRA r 8 on MiniLM's attention, the pooler and
a head). Flower's app is its FedAvg, once with clients that hand back the very arrays, by reference, once with clients
that make tensors of them and arrays of those, as one that trains has to and ours do. Ours is a whole run: envelopes
through the socket of the relay, a process of its own as in a real federation (with the grid and its clients here),
every update checked for shape and finite values and folded in float64, a digest of every tensor in the ledger, a
checkpoint a round. Runs take turns, each in new processes. Printed are seconds of rounds between the first and the last
(which evaluates), of the clock and of all cores, and by how much memory of the process that plays rounds grew from
before them to its peak in them (Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedfm import Experiment, Listener, Simulation, build_experiment, load_recipe, run
from fedfm.params import Params
from fedfm.runtimes.envelopes import Envelope, Prepare, Ready, Refusal, Replies, Requests, job_digest
from fedfm.runtimes.flower.apps import make_client_app, relay
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.relay import RelayLine
from fedfm.updates import Done, Payload, decode_instruction
from fedfm.wire import TUNABLE
from ledger import machine

MIB = 2**20


def recipe(folder: Path, clients: int, rounds: int) -> dict[str, Any]:
    """The run: what is trained is as large as it should be, and hardly evaluated."""
    data = folder / "rows.jsonl"
    rows = [{"text": "nothing", "label": number % 2} for number in range(clients)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "name": "load",
        "output": str(folder),
        "model": {"path": "builtin:minilm"},
        "task": {"kind": "text-classification"},
        "data": {"train": str(data), "test": str(data), "max_length": 8},
        "federation": {"clients": clients, "per_round": clients, "rounds": rounds},
        "tune": {"kind": "lora", "r": 8, "target_modules": "attention"},
        "runtime": {"kind": "flower", "stack": 1},
        "evaluate": {"every": rounds},
    }


def answer(envelope: Envelope) -> Iterable[Envelope]:
    """A node that trains nothing: every client sends back what it was sent."""
    match envelope.head:
        case Prepare(job=job):
            yield Envelope(Ready(job=job_digest(job), clients=None))
        case Requests(clients=clients):
            blobs = []
            for client, place in clients:
                asked = decode_instruction(envelope.blobs[place])
                facts = Done(client=client, examples=1, steps=1, samples=1, predictions=1, loss=1.0)
                blobs.append(Payload(asked.round, asked.base, facts, {TUNABLE: asked.groups[TUNABLE]}).encode())
            yield Envelope(Replies(clients=tuple((client, None) for client, _ in clients)), tuple(blobs))
        case _:
            yield Envelope(Refusal(reason="?"))


def over_grid(socket: Path, nodes: int, experiment: Experiment) -> RelayLine:
    """A line to an in-process Grid with a node for each client."""
    line = RelayLine(socket, nodes=nodes, patience=60, deadline=None)
    command = [sys.executable, __file__, "--clients", str(nodes), "--relay", str(socket)]
    subprocess.Popen(command)  # it ends when the line does
    return line


def carry(path: Path, clients: int) -> None:
    """The relay, with a grid and its clients."""
    relay(InProcessGrid(make_client_app(lambda context: answer), [{}] * clients), path, poll=0.01)


class Clock:
    """Notes when rounds are over, by the clock and by the work of all cores."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def note(self) -> None:
        """Now one is."""
        every = (psutil.Process(), *psutil.Process().children())
        used = sum(sum(process.cpu_times()[:2]) for process in every)
        self.ends.append((time.perf_counter(), used))


class Rounds(Listener):
    """Notes when rounds are over, and the memory before the first."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.before = self.peak = 0

    def on_start(self, plan: dict[str, Any]) -> None:
        """As `Listener.on_start`."""
        self.before = start_peak()

    def on_round(self, record: dict[str, Any]) -> None:
        """As `Listener.on_round`."""
        self.clock.note()
        if record["round"] < record["rounds"]:  # the last one evaluates
            self.peak = peak()


def ours(clients: int, rounds: int) -> dict[str, Any]:
    """Seconds of rounds and growth of memory of a run of fedfm."""
    with tempfile.TemporaryDirectory() as name:
        heard = Rounds()
        deployment = Simulation(line=partial(over_grid, Path(name) / "socket" / "relay", clients))
        finished = run(recipe(Path(name), clients, rounds), deployment=deployment, listeners=[heard])
        if finished.summary["clients"]["failed"] or finished.summary["clients"]["refused"]:
            raise RuntimeError("updates were lost")
        return _figures(heard.clock, heard.peak - heard.before)


def bare(clients: int, rounds: int, *, tensors: bool) -> dict[str, Any]:
    """The same of a Flower app, whose clients make tensors of what they get, or hand back the arrays."""
    with tempfile.TemporaryDirectory() as name:
        params = build_experiment(load_recipe(recipe(Path(name), clients, rounds))).start
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        if tensors:
            arrays = ArrayRecord(arrays.to_torch_state_dict())
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1, "loss": 1.0})})
        return Message(content, reply_to=message)

    clock = Clock()

    def evaluate(number: int, arrays: ArrayRecord) -> None:
        if number:
            clock.note()

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    before = start_peak()
    strategy.start(
        InProcessGrid(app, [{}] * clients), _arrays(params), rounds, train_config=ConfigRecord(), evaluate_fn=evaluate
    )
    return _figures(clock, peak() - before)


def _arrays(params: Params) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in params.items()})


def _figures(clock: Clock, grown: int) -> dict[str, Any]:
    spent = [(end - start, later - before) for (start, before), (end, later) in pairwise(clock.ends[:-1])]
    return {"seconds": [wall for wall, _ in spent], "cores": [cores for _, cores in spent], "grown": grown}


def start_peak() -> int:
    """Lets this process's peak of memory begin now; the memory that it has, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak() -> int:
    """The most memory that this process has had since, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


MEASURES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "FedAvg, arrays by reference": partial(bare, tensors=False),
    "FedAvg, arrays to tensors and back": partial(bare, tensors=True),
    "fedfm": ours,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--relay", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        carry(options.relay, options.clients)
        return
    if options.one:
        sys.stdout.write(json.dumps(MEASURES[options.one](options.clients, options.rounds)) + "\n")
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in MEASURES}
    for _ in range(options.repeats):
        for name in MEASURES:
            command = [sys.executable, __file__, "--clients", str(options.clients), "--rounds", str(options.rounds)]
            done = subprocess.run([*command, "--one", name], capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{options.clients} clients a round that send back 300,000 parameters each, in-process Grid; {machine()}")
    medians = {}
    for name, runs in found.items():
        seconds = [second for run in runs for second in run["seconds"]]
        medians[name] = statistics.median(seconds)
        grown = statistics.median(run["grown"] for run in runs)
        cores = statistics.median(second for run in runs for second in run["cores"])
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(
            f"  {name:34} {medians[name]:6.3f} s a round ({spread}), {cores:.2f} s of cores, + {grown / MIB:,.0f} MiB"
        )
    *others, mine = medians.values()
    print(f"  fedfm takes {' and '.join(f'{mine / other:.2f}' for other in others)} times as long")


if __name__ == "__main__":
    main()
