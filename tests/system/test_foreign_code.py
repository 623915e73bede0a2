"""No code that arrives over a line is run, at a server or at a site."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus

from fedfm import run
from fedfm.recipe import load_recipe
from fedfm.runtimes.flower import programs
from fedfm.runtimes.flower.control import PROJECT, Control
from fedfm.runtimes.flower.control_auth import SECRET_OPTION, TokenCheck, token
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_certificates, new_key, new_secret
from fedfm.runtimes.flower.superexec import InstalledExecutor
from fedfm.runtimes.flower.superlink import environment, wait_for, within
from fedfm.runtimes.flower.supernode import free_ports, start_supernode
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.trackers.listeners import Listener
from tests.events import irregular
from tests.machines import adapter, wait
from tests.small import small_recipe

NOBODY = 65534
"""The account of a stranger."""

HARMLESS = {"/health": 200, "/v1/control/get-login-details": 200, "/v1/control/get-auth-tokens": 501}
"""Calls that are answered without a secret, and how: the second says that there is no login."""

APPS = """\
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

(Path({folder!r}) / "imported").touch()
server_app, client_app = ServerApp(), ClientApp()


@client_app.train("work")
def work(message, context):
    (Path({folder!r}) / "ran").touch()
    return Message(RecordDict(), reply_to=message)


@server_app.main()
def main(grid, context):
    import time
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train.work") for node in nodes]
    (reply,) = grid.send_and_receive(asked, timeout=60)
    said = str(reply.error) if reply.has_error() else str(dict(reply.content.config_records))
    (Path({folder!r}) / "answer").write_text(said)
"""


def bundle(folder: Path) -> StartRunRequest:
    """Asks for a run whose code leaves files in a folder."""
    project = PROJECT.replace("fedfm:installed", "evil.apps:server_app", 1).replace(
        "fedfm:installed", "evil.apps:client_app"
    )
    files = {
        "pyproject.toml": project.replace("fedfm", "evil").encode(),
        "evil/__init__.py": b"",
        "evil/apps.py": APPS.format(folder=str(folder)).encode(),
    }
    content, _ = build_fab_from_files(files)
    return StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})))


def as_a_stranger(attack: Callable[[], Any]) -> Any:
    """What a function gives in another process: of another account where this one may choose it."""
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(said, json.dumps(attack()).encode())
        except BaseException as error:
            os.write(said, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(said)
    with os.fdopen(heard, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return json.loads(told)


def calls(port: int, request: StartRunRequest) -> dict[str, int]:
    """Every call that a port offers → the status of its answer to who has no secret, no key and no token."""
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False) as line:  # noqa: S501 - knows no authority
        paths: Mapping[str, Mapping[str, Any]] = line.get("/openapi.json").json()["paths"]
        found = {
            path: line.request(method, path, headers={"content-type": "application/protobuf"}).status_code
            for path, methods in paths.items()
            for method in methods
        }
        if "/v1/control/start-run" in paths:
            answer = line.post(
                "/v1/control/start-run",
                content=request.SerializeToString(),
                headers={"content-type": "application/protobuf", "authorization": "Bearer guessed"},
            )
            found["a bundle, with a secret that is guessed"] = answer.status_code
    return found


def processes(*words: str) -> list[list[str]]:
    """Command lines of what this process has started that have all these words."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            lines.append(process.cmdline())
    return [line for line in lines if "fedfm.runtimes.child_guard" not in line and set(words) <= set(line)]


class Attack(Listener):
    """Attacks a federation after its first round.

    Attributes:
        answers: of the calls at each port.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[dict[str, int]] = []

    def on_round(self, record: dict[str, Any]) -> None:
        """Calls everything at every port as a stranger; then starts a run with the federation's own secret."""
        if self.answers:
            return
        found = [
            connection
            for process in psutil.Process().children(recursive=True)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {connection.laddr.ip for connection in found} == {"127.0.0.1"}
        ports = {connection.laddr.port for connection in found}
        assert len(ports) == 2, "those of the SuperLink and of the SuperNode"
        request = bundle(self.folder)
        self.answers = [as_a_stranger(lambda port=port: calls(port, request)) for port in sorted(ports)]
        assert not [line for line in processes() if re.search(r"\b[0-9a-f]{64}\b", " ".join(line))], "a token or secret"
        self._start_with_the_secret(request)

    def _start_with_the_secret(self, request: StartRunRequest) -> None:
        (line,) = processes("flower-superlink")
        port, authority, secret = (
            line[line.index(name) + 1] for name in ("--port", "--ssl-ca-certfile", SECRET_OPTION)
        )
        assert stat.S_IMODE(Path(secret).stat().st_mode) == 0o600
        with (
            within({"FLWR_HOME": str(self.folder / "home")}),
            Control(f"127.0.0.1:{port}", Path(authority), Path(secret))._connected() as client,
        ):
            client.StartRun(request)
        wait(lambda: len(processes("flwr-serverapp", "--token-stdin")) == 2, "a relay for the run with the bundle")


@pytest.mark.slow
def test_no_account_of_the_machine_gets_a_federation_to_run_its_code_or_to_stop(tmp_path: Path) -> None:
    changes = {"federation": {"per_round": 2, "rounds": 2}, "runtime": {"stack": 1}}
    recipe = load_recipe(small_recipe(tmp_path, **changes), ["data.client=site"])
    alone = run(recipe, ["name=alone"])
    tmp_path.chmod(0o755)
    left = tmp_path / "left"
    left.mkdir()
    left.chmod(0o777)
    attack = Attack(left)
    over_flower = run(recipe, ["name=flower", "runtime={kind: flower, nodes: 1, stack: 1}"], listeners=[attack])
    for answers in attack.answers:
        refused = {call for call, status in answers.items() if status == 401}
        assert len(refused) >= 20
        assert {call: status for call, status in answers.items() if call not in refused} == {
            call: status for call, status in HARMLESS.items() if call in answers
        }
    assert "a bundle, with a secret that is guessed" in {call for answers in attack.answers for call in answers}
    assert adapter(over_flower.path) == adapter(alone.path)
    assert irregular(over_flower.events) == []
    assert [path.name for path in left.iterdir() if path.name != "home"] == [], "no bundle was imported"


@pytest.mark.slow
def test_a_site_runs_no_bundle_of_a_server_that_is_not_ours(tmp_path: Path) -> None:
    """The server is Flower's own, which imports the bundle and sends a message to the site's app in it."""
    port, own = free_ports(2)
    hub, site = (
        Supervisor(tmp_path, environment(tmp_path)),
        Supervisor(tmp_path / "site", environment(tmp_path / "site")),
    )
    site.folder.mkdir(mode=0o700)
    tls, key = tmp_path / "tls", tmp_path / "key"
    new_certificates(tls, ["localhost", "127.0.0.1"])
    public = new_key(key)
    new_secret(tmp_path / "secret")
    scripts = sysconfig.get_path("scripts")
    with closing(hub), closing(site), within(environment(tmp_path)):
        hub.start(
            "superlink", "env", f"PATH={scripts}:{os.environ['PATH']}", f"{scripts}/flower-superlink",
            "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth",
            "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
            "--ssl-keyfile", str(tls / KEY),
        )  # fmt: skip
        control = Control(f"127.0.0.1:{port}", tls / AUTHORITY, tmp_path / "secret")
        wait_for(hub, f"127.0.0.1:{port}", tls / AUTHORITY)
        control.admit({"site": public})
        start_supernode(
            site,
            "supernode",
            server=f"127.0.0.1:{port}",
            authority=tls / AUTHORITY,
            key=key,
            worker=tmp_path / "nobody.sock",
            port=own,
        )
        with control._connected() as client:
            client.StartRun(bundle(tmp_path))
        wait(lambda: (tmp_path / "answer").exists() or bool(hub.ended() or site.ended()), "the site's answer")
    assert (tmp_path / "imported").exists(), "the server has imported the bundle"
    assert not (tmp_path / "ran").exists()
    assert "could not read what it was sent" in (tmp_path / "answer").read_text()


@pytest.mark.parametrize("kind", sorted(set(TaskType) - {TaskType.SERVER_APP}))
def test_a_superexec_starts_one_kind_of_task(kind: TaskType) -> None:
    task = ExecutionSpec(
        task_type=kind,
        runtime_api_address="127.0.0.1:1",
        token="0" * 64,
        insecure=False,
        root_certificates_path="ca.crt",
        runtime_dependency_install=False,
        parent_pid=os.getpid(),
        suppress_output=False,
        task_id=1,
    )
    result = InstalledExecutor(TaskType.SERVER_APP, "relay.sock").launch(task)
    assert result.status == LaunchResultStatus.FAILED
    assert result.message == f"{kind} is not run here, only flwr-serverapp"


def test_the_control_interface_takes_its_token_alone(tmp_path: Path) -> None:
    for name in ("one", "other"):
        new_secret(tmp_path / name)
    side = TokenCheck(tmp_path / "one")
    right, wrong = token(tmp_path / "one"), token(tmp_path / "other")
    assert right not in (tmp_path / "one").read_text(), "Flower's own key is another"
    assert side.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, right)])[0]
    for metadata in (
        [],
        [(ACCESS_TOKEN_KEY, "")],
        [(ACCESS_TOKEN_KEY, wrong)],
        [("token", right)],
        [(ACCESS_TOKEN_KEY, "é")],
    ):
        assert side.validate_tokens_in_metadata(metadata) == (False, None)
    assert side.refresh_tokens([(ACCESS_TOKEN_KEY, right)]) == (None, None)


def test_a_part_that_this_version_of_flower_does_not_have_is_not_replaced() -> None:
    with pytest.raises(RuntimeError, match=r"has no json\.install_from_fab"):
        programs.replace(json, install_from_fab=None)
