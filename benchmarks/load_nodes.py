"""What our layer costs over real nodes: as `load.py`, over SuperLink and SuperNodes in place of a grid in memory.

    python benchmarks/load_nodes.py [--nodes 20] [--rounds 6] [--repeats 2]

A client a node, which sends back at once the 300,000 parameters that it was sent. Flower's app is its FedAvg, in the
programs that Flower ships; ours is a whole run, whose nodes hand their work to a process that stays. SuperLink and
SuperNodes are started for each; ours have a secret and TLS on every line. Printed are seconds of rounds between the
first and the last, which evaluates in ours. Runs take turns. Linux; takes half a gigabyte a node.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from fedfm import Experiment, Simulation, build_experiment, load_recipe, run
from fedfm.params import save
from fedfm.runtimes import sockets
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_certificates, new_key, new_secret
from fedfm.runtimes.flower.loopback import LoopbackLine
from fedfm.runtimes.flower.superlink import environment, wait_for, within
from fedfm.runtimes.flower.supernode import free_ports
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.settings import Flower
from ledger import machine
from load import Rounds, answer, recipe

BARE, OURS = "FedAvg of Flower", "fedfm"

SCRIPTS = sysconfig.get_path("scripts")
APP = Path(__file__).with_name("bare_flower_app.py")
PROJECT = """\
[project]
name = "bare"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bare"

[tool.flwr.app.components]
serverapp = "bare_flower_app:server_app"
clientapp = "bare_flower_app:client_app"

[tool.flwr.app.config]
nodes = ""
rounds = ""
start = ""
output = ""
"""


IDLE = (str(Path(__file__)), "--serve")
"""Python's arguments for the worker of a node that trains nothing."""


def over_nodes(nodes: int, experiment: Experiment) -> LoopbackLine:
    """A line to nodes that train nothing."""
    return LoopbackLine(Flower(nodes=nodes), IDLE)


def serve(path: Path) -> None:
    """A node's worker."""
    with closing(sockets.listen(path)) as server:
        while True:
            caller, _ = server.accept()
            with caller:
                asked = sockets.receive(caller)
                if asked is not None:
                    for part in answer(asked[1]):
                        sockets.send(caller, part)


def ours(nodes: int, rounds: int) -> list[float]:
    """When the rounds of a run of fedfm were over."""
    with tempfile.TemporaryDirectory() as name:
        heard = Rounds()
        deployment = Simulation(line=partial(over_nodes, nodes))
        finished = run(recipe(Path(name), nodes, rounds), deployment=deployment, listeners=[heard])
        if finished.summary["clients"]["failed"] or finished.summary["clients"]["refused"]:
            raise RuntimeError("updates were lost")
        return [end for end, _ in heard.clock.ends]


def bare(nodes: int, rounds: int) -> list[float]:
    """The same of a Flower app, all of whose processes are Flower's own."""
    with tempfile.TemporaryDirectory() as name:
        folder, tls = Path(name), Path(name) / "tls"
        save(build_experiment(load_recipe(recipe(folder, nodes, rounds))).start, folder / "start.safetensors")
        new_certificates(tls, ["localhost", "127.0.0.1"])
        new_secret(folder / "none")  # which Flower's own control interface does not ask for
        settings = environment(folder) | {"PATH": os.pathsep.join([SCRIPTS, os.environ["PATH"]])}
        with closing(Supervisor(folder, settings)) as supervisor, within(settings):
            server, *ports = free_ports(1 + nodes)
            supervisor.start(
                "superlink", f"{SCRIPTS}/flower-superlink", "--host", "127.0.0.1", "--port", str(server),
                "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
                "--ssl-keyfile", str(tls / KEY), "--enable-supernode-auth",
            )  # fmt: skip
            wait_for(supervisor, f"127.0.0.1:{server}", tls / AUTHORITY)
            control = Control(f"127.0.0.1:{server}", tls / AUTHORITY, folder / "none")
            keys = {f"node-{number}": folder / f"node-{number}.key" for number in range(nodes)}
            for key in keys.values():
                new_key(key)
            control.admit({node: key.with_name(f"{key.name}.pub") for node, key in keys.items()})
            for (node, key), port in zip(keys.items(), ports, strict=True):
                supervisor.start(
                    node, f"{SCRIPTS}/flower-supernode", "--superlink", f"127.0.0.1:{server}",
                    "--root-certificates", str(tls / AUTHORITY), "--auth-supernode-private-key", str(key),
                    "--host", "127.0.0.1", "--port", str(port),
                )  # fmt: skip
            config = {
                "nodes": nodes,
                "rounds": rounds,
                "start": folder / "start.safetensors",
                "output": folder / "ends",
            }
            content, _ = build_fab_from_files({"pyproject.toml": PROJECT.encode(), APP.name: APP.read_bytes()})
            fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
            override = user_config_to_proto({key: str(value) for key, value in config.items()})
            with control._connected() as client:
                client.StartRun(StartRunRequest(fab=fab, override_config=override))
            while not (folder / "ends").exists() or not (folder / "ends").read_text():
                supervisor.check()
                time.sleep(0.5)
            ends: list[float] = json.loads((folder / "ends").read_text())
            return ends


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    found: dict[str, list[float]] = {BARE: [], OURS: []}
    for number in range(options.repeats):
        for name, measure in {BARE: bare, OURS: ours}.items():
            ends = measure(options.nodes, options.rounds)
            found[name] += [end - start for start, end in pairwise(ends[:-1])]
            sys.stderr.write(f"{name}, repeat {number}: {[round(b - a, 2) for a, b in pairwise(ends)]}\n")
    print(f"{options.nodes} SuperNodes over TLS, 300,000 parameters each way; {machine()}")
    for name, seconds in found.items():
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {name:16} {statistics.median(seconds):6.2f} s a round ({spread})")
    print(f"  fedfm takes {statistics.median(found[OURS]) / statistics.median(found[BARE]):.2f} times as long")


if __name__ == "__main__":
    main()
