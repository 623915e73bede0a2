"""Memory of each process of a federation whose nodes send back updates of 500 MB: a BERT of 14 layers, all trained.

    python benchmarks/large_updates.py [--rounds 2]

A whole run over Flower on loopback (TLS, keys): two nodes, a client each, one step of SGD a round, random weights. The
peak is that of resident memory (VmHWM), read twice a second from every process, imports and all, over the size of an
update. Linux only; takes some 12 GB in all.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from transformers import AutoTokenizer, BertConfig, BertModel

from fedfm.models.builtin import minilm_folder
from ledger import machine

MIB = 2**20
ROLES = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "relay (ServerApp)",
    "fedfm.sites.resident": "a node's worker",
    "flwr-clientapp": "a node's ClientApp",
    "flower-supernode": "a SuperNode",
    "large_updates": "the run itself",
}
"""Word of a command line → what the process is; the first that is found."""


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


def peaks(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """The largest peak of each kind of process until this one ends, in bytes."""
    found: dict[str, int] = {}
    whole = psutil.Process(process.pid)
    while process.poll() is None:
        for one in (whole, *whole.children(recursive=True)):
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


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "large_updates.yaml"
        path.write_text(json.dumps(recipe(Path(name), options.rounds)))
        process = subprocess.Popen([sys.executable, "-m", "fedfm.cli.main", "run", str(path)])
        found = peaks(process)
        if process.returncode:
            raise SystemExit(f"the run failed with code {process.returncode}")
        summary = json.loads((Path(name) / "large" / "summary.json").read_text())
        size = summary["bytes"]["up"] / (2 * options.rounds)
    print(f"updates of {size / MIB:,.0f} MiB from each of two nodes, {options.rounds} rounds; {machine()}")
    for role, held in sorted(found.items(), key=lambda item: -item[1]):
        print(f"  {role:20} {held / MIB:6,.0f} MiB, {held / size:4.1f} times an update")


if __name__ == "__main__":
    main()
