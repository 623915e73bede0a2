"""The configurations of reverse proxies in ``deploy/`` forward nodes to a real SuperLink, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE, TIMESTAMP_HEADER
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from fedfm.errors import TooFewClientsError
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.keys import AUTHORITY, new_certificates, new_key
from fedfm.runtimes.flower.superlink import SECRET, environment, start_superlink
from fedfm.runtimes.flower.supernode import free_ports, start_supernode
from fedfm.runtimes.flower.supervisor import Supervisor

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAMS = {"nginx": "nginx.conf", "caddy": "Caddyfile"}
PATIENCE = 60.0


@dataclass(frozen=True)
class Federation:
    """A SuperLink on loopback, and the port of a reverse proxy before it."""

    folder: Path
    inside: int
    outside: int

    @property
    def tls(self) -> Path:
        return self.folder / "tls"

    def post(self, port: int, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """The status of the answer to a request for exactly this target: clients of HTTP would tidy it up first."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}"
            f"Content-Type: application/protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        trust = ssl.create_default_context(cafile=self.tls / AUTHORITY)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
            trust.wrap_socket(plain, server_hostname="localhost") as line,
        ):
            line.sendall(head.encode())
            with suppress(OSError):  # what is too long is refused before its end
                line.sendall(body)
            return int(line.makefile("rb").readline().split()[1])

    def answers(self, port: int) -> bool:
        try:
            return self.post(port, "/") == 404
        except OSError:
            return False

    def control(self) -> Control:
        return Control(f"127.0.0.1:{self.inside}", self.tls / AUTHORITY, self.folder / SECRET)

    def online(self) -> int:
        """How many nodes are online, as SuperLink says."""
        with self.control()._connected() as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return sum(node.status == "online" for node in nodes)


def configuration(program: str, folder: Path, tls: Path, inside: int, outside: int) -> str:
    """The shipped configuration with this test's ports and paths in the lines that are marked."""
    changes = {
        "nginx": {
            "pid /run/nginx.pid;": f"pid {folder}/nginx.pid;",
            "error_log /var/log/nginx/error.log warn;": "error_log stderr warn;",
            "http {": "http {"
            + "".join(
                f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            "access_log /var/log/nginx/access.log;": "access_log off;",
            "server 127.0.0.1:8443;": f"server 127.0.0.1:{inside};",
            "listen 443 ssl;": f"listen 127.0.0.1:{outside} ssl;",
            "listen [::]:443 ssl;": "",
        },
        "caddy": {
            "https://:443 {": f"https://:{outside} {{\n\tbind 127.0.0.1",
            "reverse_proxy https://127.0.0.1:8443 {": f"reverse_proxy https://127.0.0.1:{inside} {{",
        },
    }[program]
    text = (DEPLOY / PROGRAMS[program]).read_text(encoding="utf-8")
    for old, new in {**changes, "/etc/fedfm/tls/": f"{tls}/"}.items():
        assert old in text, f"{PROGRAMS[program]} has no {old!r} any more"
        text = text.replace(old, new)
    return text


def supervisor(folder: Path) -> Supervisor:
    homes = dict.fromkeys(["XDG_DATA_HOME", "XDG_CONFIG_HOME"], str(folder / "home"))  # Caddy writes there
    return Supervisor(folder, environment(folder) | homes)


def wait_for(there: Callable[[], bool], check: Callable[[], None]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        check()
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink as `fedfm` starts it, with nothing before it yet."""
    folder, (port,) = tmp_path_factory.mktemp("superlink"), free_ports(1)
    alone = Federation(folder, inside=port, outside=0)
    new_certificates(alone.tls, ["localhost", "127.0.0.1"])
    with closing(supervisor(folder)) as processes:
        start_superlink(processes, folder, alone.tls, port)
        yield alone


@pytest.fixture(scope="module", params=PROGRAMS)
def federation(
    request: pytest.FixtureRequest, superlink: Federation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    program = request.param
    executable = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if executable is None:
        pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp(program)
    whole = Federation(superlink.folder, superlink.inside, *free_ports(1))
    file = folder / PROGRAMS[program]
    file.write_text(configuration(program, folder, whole.tls, whole.inside, whole.outside))
    options = {
        "nginx": ["-c", str(file), "-g", "daemon off;"],
        "caddy": ["run", "--config", str(file), "--adapter", "caddyfile"],
    }[program]
    with closing(supervisor(folder)) as processes:
        processes.start(program, executable, *options)
        wait_for(lambda: whole.answers(whole.outside), processes.check)
        yield whole


def test_inside_runs_are_for_who_knows_the_secret(superlink: Federation) -> None:
    assert superlink.post(superlink.inside, "/v1/control/list-runs") == 401
    assert superlink.post(superlink.inside, "/%76%31/control/list-runs") == 401


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/list-runs",
        "/v1/control/list-nodes",
        "/v1/control/register-node",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/health",
        "/docs",
        "/",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/fleet/pull-messages%2f..%2f..%2fcontrol/list-runs",
        "/v1/fleet%2F..%2Fcontrol%2Flist-runs",
        "/v1/fleet/..;/control/list-runs",
        "/v1/fleet\\..\\control\\list-runs",
        "//v1/control/list-runs",
        "/v1//control/list-runs",
        "/v1/control%2flist-runs",
        "/%76%31/control/list-runs",
        "/V1/CONTROL/list-runs",
        "/V1/FLEET/pull-messages",
        "/v1/control/list-runs?/v1/fleet/pull-messages",
        "/v1/control/list-runs#/v1/fleet/pull-messages",
        "/v1/fleet/pull-messages%00",
        "https://localhost/v1/control/list-runs",
    ],
)
def test_outside_there_is_nothing_but_what_nodes_need(federation: Federation, target: str) -> None:
    assert federation.post(federation.outside, target) in {400, 404}


@pytest.mark.parametrize(
    "target", ["/v1/fleet/pull-messages", "//v1/fleet/pull-messages", "/v1/control/list-runs/../../fleet/pull-messages"]
)
def test_what_nodes_need_is_there_for_nodes_alone(federation: Federation, target: str) -> None:
    assert federation.post(federation.outside, target) == 401


def signed(key: Path, *, age: float = 0.0) -> dict[str, str]:
    """What a node shows of itself: its key, and a time that it has signed."""
    private = load_ssh_private_key(key.read_bytes(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    time_ = (now() - timedelta(seconds=age)).isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(private.public_key())).decode(),
        TIMESTAMP_HEADER: time_,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(private, time_.encode())).decode(),
    }


def test_t15_a_node_gets_nothing_that_is_anothers(federation: Federation, tmp_path: Path) -> None:
    """Nor does who shows, after minutes, what a node once signed."""
    names = federation.control().admit({name: new_key(tmp_path / name) for name in ("a", "b")})
    numbers = {name: int(number) for number, name in names.items()}

    def pull(number: str, key: str, *, age: float = 0.0) -> int:
        body = PullMessagesRequest(node=Node(node_id=numbers[number])).SerializeToString()
        shown = signed(tmp_path / key, age=age)
        return federation.post(federation.outside, "/v1/fleet/pull-messages", body, shown)

    assert pull("a", "a") == 200
    assert pull("b", "a") == 401
    assert pull("a", "a", age=400) == 401
    run = GetRunRequest(node=Node(node_id=numbers["b"]), run_id=1).SerializeToString()
    assert federation.post(federation.outside, "/v1/fleet/get-run", run, signed(tmp_path / "a")) == 401


def test_chunks_of_updates_fit_and_floods_do_not(federation: Federation) -> None:
    chunk = PushObjectRequest(object_content=bytes(FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)).SerializeToString()
    assert federation.post(federation.outside, "/v1/fleet/push-object", chunk) == 401
    assert federation.post(federation.outside, "/v1/fleet/push-object", 2 * chunk) == 413


def test_t15_nodes_come_online_through_it_if_their_key_is_known(federation: Federation, tmp_path: Path) -> None:
    new_key(tmp_path / "stranger")
    federation.control().admit({"known": new_key(tmp_path / "known")})
    assert federation.online() == 0
    with closing(supervisor(tmp_path)) as nodes:
        for name, port in zip(["known", "stranger"], free_ports(2), strict=True):
            start_supernode(
                nodes,
                name,
                server=f"127.0.0.1:{federation.outside}",
                authority=federation.tls / AUTHORITY,
                key=tmp_path / name,
                worker=tmp_path / "nobody.sock",
                port=port,
            )
        with pytest.raises(TooFewClientsError, match="the stranger ended"):
            wait_for(lambda: False, nodes.check)
        assert "Failed to activate SuperNode" in (tmp_path / "stranger.log").read_text()
        wait_for(lambda: federation.online() == 1, lambda: None)
    assert federation.online() == 0  # it took its leave by the same way
