"""Three hosts with their own addresses: what crosses the wire between them, and which connections are refused.

Hosts are network namespaces; the wire is read where it comes in, before anything on the server sees it.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.machines import Process, adapter, fedfm, wait
from tests.system.test_reverse_proxy import configuration

pytest.importorskip("flwr", reason="needs the extra `flower`")

SST2 = Path(__file__).parents[3] / "shared" / "data" / "sst2"
MISSING = [
    *([] if os.geteuid() == 0 else ["root"]),
    *(program for program in ("ip", "nginx") if shutil.which(program) is None),
    *([] if SST2.is_dir() else [str(SST2)]),
]
pytestmark = [
    pytest.mark.faults,
    pytest.mark.demo,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
]

SITES = {"clinic": "10.77.1", "ward": "10.77.2"}
"""Site → network that it shares with the server: the server is 1 there, the site 2."""

WRONG = {"stranger": "stranger", "double": "keys/clinic"}
"""Who may not come → the key with which it tries."""

LONGER = ("federation.rounds=6", "federation.quorum=1.0")

INSIDE, OUTSIDE = 8443, 443
EXAMPLES, PLAIN = 64, "said-in-plain-text"

CAPTURE = """
import socket, sys
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
line.bind((sys.argv[1], 0))
with open(sys.argv[2], "wb", buffering=0) as file:
    while True:
        file.write(line.recv(65535))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, tuple[str, ...]]]:
    """Host → the words before a command that runs on it."""
    names = {name: f"fedfm-{os.getpid()}-{name}" for name in ("server", *SITES)}
    with ExitStack() as stack:
        for name, space in names.items():
            ip("netns", "add", space)
            stack.callback(ip, "netns", "del", space)
            ip("-n", space, "link", "set", "lo", "up")
            if name in SITES:
                ip("-n", names["server"], "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
                for host, device, number in ((names["server"], name, 1), (space, "eth0", 2)):
                    ip("-n", host, "address", "add", f"{SITES[name]}.{number}/24", "dev", device)
                    ip("-n", host, "link", "set", device, "up")
        yield {name: ("ip", "netns", "exec", space) for name, space in names.items()}


def examples(split: str, start: int, count: int) -> list[dict[str, object]]:
    with gzip.open(SST2 / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(start + count), file, strict=False)]
    return rows[start:]


def lay_out(folder: Path) -> None:
    """Recipe, keys, certificates, data."""
    sites = {name: examples("train", EXAMPLES * place, EXAMPLES) for place, name in enumerate(SITES)}
    for name, rows in {**sites, "test": examples("test", 0, 100)}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{**row, "site": name} for name, held in sites.items() for row in held]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "hosts",
        "model": {"path": "builtin:minilm"},
        "task": {"kind": "text-classification"},
        "data": {"train": "train.jsonl", "test": "test.jsonl", "max_length": 32},
        "federation": {"per_round": 2, "rounds": 2},
        "local": {"batch_size": 8, "learning_rate": 0.003},
        "runtime": {"stack": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "keys").mkdir()
    for name in SITES:
        fedfm(folder, "keys", "new", f"keys/{name}")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"train": f"{name}.jsonl"}))
    fedfm(folder, "keys", "new", "stranger")
    fedfm(folder, "certs", "new", "tls", *(f"{network}.1" for network in SITES.values()), "localhost", "127.0.0.1")
    text = configuration("nginx", folder, folder / "tls", INSIDE, OUTSIDE)
    listen = f"listen 127.0.0.1:{OUTSIDE} ssl;"
    assert listen in text
    (folder / "nginx.conf").write_text(text.replace(listen, f"listen {OUTSIDE} ssl;"))


@dataclass
class Network:
    """Commands on the hosts; what runs when the stack is closed is ended.

    Attributes:
        hosts: host → the words before a command that runs on it.
    """

    folder: Path
    hosts: dict[str, tuple[str, ...]]
    stack: ExitStack

    def start(self, log: str, host: str, *command: object) -> Process:
        process = Process(self.folder, log, *command, before=self.hosts[host])
        self.stack.callback(process.end)
        return process

    def server(self, *overrides: str) -> Process:
        """The server, behind nginx."""
        self.run("server", "nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-g", "daemon off;")
        told = ("recipe.yaml", "name=real", *overrides, "--tls", "tls", "--allow", "keys")
        return self.start("server", "server", "server", *told)

    def client(self, log: str, host: str, key: str) -> Process:
        told = ("--ca", "tls/ca.crt", "--key", key, "--data", f"{host}.yaml", "--state", log)
        return self.start(log, host, "client", "--server", f"{SITES[host]}.1:{OUTSIDE}", *told)

    def run(self, host: str, *command: str) -> None:
        process = subprocess.Popen([*self.hosts[host], *command], cwd=self.folder, stderr=subprocess.DEVNULL)
        self.stack.callback(process.wait, 60)
        self.stack.callback(process.terminate)


@pytest.fixture
def network(tmp_path: Path, hosts: dict[str, tuple[str, ...]]) -> Iterator[Network]:
    lay_out(tmp_path)
    with ExitStack() as stack:
        yield Network(tmp_path, hosts, stack)


def test_a_run_over_three_hosts(tmp_path: Path, network: Network) -> None:
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site")
    for name in SITES:
        network.run("server", sys.executable, "-c", CAPTURE, name, f"{name}.capture")
    server = network.server()
    network.client("state-clinic", "clinic", "keys/clinic").says("connected")  # the run waits for the other
    stranger, double = (network.client(f"{name}-state", "ward", key) for name, key in WRONG.items())
    for process in (stranger, double):
        process.says("the server does not take this site's key")
    plain = [*network.hosts["ward"], "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    address = f"{SITES['ward']}.1:{OUTSIDE}"
    spoken = subprocess.run([*plain, f"http://{address}/{PLAIN}"], capture_output=True, text=True)
    assert spoken.stdout == "400", "who does not encrypt is not heard"
    told = subprocess.run(
        [*plain, "-X", "POST", "--cacert", "tls/ca.crt", f"https://{address}/v1/control/list-runs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "404"
    network.client("state-ward", "ward", "keys/ward")
    server.says("accuracy on the test set")
    assert server.process.wait(60) == 0, server.words
    network.stack.close()
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])
    for name in SITES:
        wire = (tmp_path / f"{name}.capture").read_bytes()
        ledger = [json.loads(line) for line in (tmp_path / f"state-{name}" / "wire.jsonl").read_text().splitlines()]
        assert len(wire) > sum(line["bytes"] for line in ledger), "everything that left went by here"
        assert (PLAIN.encode() in wire) == (name == "ward"), "what is not encrypted would be seen"
        for secret in (b"lora_A", b"classifier", b"text-classification", b"federation", b"/v1/fleet"):
            assert secret not in wire
        texts = [str(row["text"]).encode() for row in examples("train", 0, 2 * EXAMPLES)]
        assert not any(text in wire for text in texts if len(text) > 20)
    for name in WRONG:
        assert not (tmp_path / f"{name}-state" / "wire.jsonl").exists()


@pytest.mark.soak
def test_a_connection_that_is_cut_for_30_seconds(tmp_path: Path, network: Network) -> None:
    """The cable of one site is out while it works; its update arrives none the less.

    It is out when the site has its message: one that Flower is just handing over when the cable goes is sent again, but
    only after minutes (`tests/runtimes/test_lost_messages.py`).
    """
    simulated = fedfm(tmp_path, "run", "recipe.yaml", "name=simulated", "data.client=site", *LONGER)
    server = network.server(*LONGER)
    for name in SITES:
        network.client(f"state-{name}", name, f"keys/{name}")
    server.says("round 2/6")
    node = tmp_path / "state-ward" / "supernode.log"
    wait(
        lambda: node.read_text().count("Received successfully") >= 4, "the message of round 3"
    )  # the first prepares it
    space = network.hosts["server"][-1]
    ip("-n", space, "link", "set", "ward", "down")
    time.sleep(30)
    assert "round 4/6" not in server.words, "nothing was played without it"
    ip("-n", space, "link", "set", "ward", "up")
    server.says("accuracy on the test set")
    assert server.process.wait(60) == 0, server.words
    assert adapter(tmp_path / "runs" / "real") == adapter(tmp_path / simulated["folder"])
