"""Memory of each process of a federation whose nodes send back updates of 500 MB: a BERT of 14 layers, all trained.

    python benchmarks/large_updates.py [--rounds 2] [--server]

A whole run over Flower (TLS, keys): two nodes, a client each, one step of SGD a round, random weights. Without
``--server`` on loopback, as `fedfm run` starts one, where the SuperLink keeps messages in memory; with it as `fedfm
server` and two `fedfm client`, where it keeps them in a database. The peak is that of resident memory (VmHWM), read
twice a second from every process, imports and all, over the size of an update. Linux only; takes some 12 GB in all.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from transformers import AutoTokenizer, BertConfig, BertModel

from fedfm.models.builtin import minilm_folder
from ledger import machine

MIB = 2**20
ROLES = {
    "flower-superlink": "SuperLink",
    "fedfm.cli.main client": "a site's fedfm client",
    "fedfm.cli.main": "the run itself",
    "flwr-serverapp": "relay (ServerApp)",
    "fedfm.hosts.resident": "a node's worker",
    "flwr-clientapp": "a node's ClientApp",
    "flower-supernode": "a SuperNode",
}
"""Words of a command line → what the process is; the first that is found."""

FEDFM = (sys.executable, "-m", "fedfm.cli.main")


def recipe(folder: Path, rounds: int) -> dict[str, Any]:
    """The run."""
    BertModel(BertConfig(num_hidden_layers=14)).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder / "model")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": "nothing", "label": number % 2}) + "\n" for number in range(4)))
    return {
        "name": "large",
        "output": str(folder),
        "model": {"path": str(folder / "model")},
        "task": {"kind": "text-classification"},
        "data": {"train": str(data), "test": str(data), "max_length": 8},
        "federation": {"clients": 2, "per_round": 2, "rounds": rounds},
        "local": {"optimizer": "sgd", "max_steps": 1, "batch_size": 2},
        "tune": {"kind": "full"},
        "runtime": {"kind": "flower", "nodes": 2},
        "evaluate": {"every": rounds},
        "checkpoint": {"every": rounds},
    }


def peaks(processes: list[subprocess.Popen[bytes]]) -> dict[str, int]:
    """The largest peak of each kind of process until the first of these ends, in bytes."""
    found: dict[str, int] = {}
    while processes[0].poll() is None:
        for one in chain.from_iterable(map(_family, processes)):
            try:
                words = " ".join(one.cmdline())
                status = Path(f"/proc/{one.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue  # it has just ended
            held = re.search(r"VmHWM:\s+(\d+) kB", status)
            role = next((name for word, name in ROLES.items() if word in words), None)
            if held and role:
                found[role] = max(found.get(role, 0), int(held[1]) * 1024)
        time.sleep(0.5)
    return found


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        whole = psutil.Process(process.pid)
        return [whole, *whole.children(recursive=True)]
    except psutil.Error:
        return []


def on_loopback(folder: Path, stack: ExitStack) -> list[subprocess.Popen[bytes]]:
    """Starts a federation for development."""
    return [subprocess.Popen([*FEDFM, "run", "recipe.yaml"], cwd=folder)]


def as_server_and_sites(folder: Path, stack: ExitStack) -> list[subprocess.Popen[bytes]]:
    """Starts a server, first of the list, and its sites; they end with the stack."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "keys").mkdir()
    for words in ("certs new tls localhost 127.0.0.1", "keys new keys/a", "keys new keys/b"):
        subprocess.run([*FEDFM, *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    own = {"train": "rows.jsonl", "model": "model"}
    (folder / "data.yaml").write_text(json.dumps(own))
    words = f"server recipe.yaml --tls tls --allow keys --port {port}"
    processes = [subprocess.Popen([*FEDFM, *words.split()], cwd=folder)]
    for name in ("a", "b"):
        words = f"client --server 127.0.0.1:{port} --ca tls/ca.crt --key keys/{name} --data data.yaml --state {name}"
        log = stack.enter_context((folder / f"{name}.log").open("wb"))
        processes.append(subprocess.Popen([*FEDFM, *words.split()], cwd=folder, stdout=log, stderr=log))
    for process in processes:
        stack.callback(process.wait)
        stack.callback(process.terminate)
    return processes


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--server", action="store_true", help="as fedfm server and fedfm client")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(json.dumps(recipe(folder, options.rounds)))
        start = as_server_and_sites if options.server else on_loopback
        processes = start(folder, stack)
        found = peaks(processes)
        if processes[0].returncode:
            raise SystemExit(f"the run failed with code {processes[0].returncode}")
        summary = json.loads((folder / "large" / "summary.json").read_text())
        size = summary["bytes"]["up"] / (2 * options.rounds)
        seconds = summary["seconds"]["total"] / options.rounds
    how = "fedfm server" if options.server else "loopback"
    print(f"updates of {size / MIB:,.0f} MiB from each of two nodes, {options.rounds} rounds, {how}; {machine()}")
    for role, held in sorted(found.items(), key=lambda item: -item[1]):
        print(f"  {role:22} {held / MIB:6,.0f} MiB, {held / size:4.1f} times an update")
    print(f"  a round takes {seconds:.0f} s")


if __name__ == "__main__":
    main()
