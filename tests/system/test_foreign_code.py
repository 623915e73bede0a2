"""Flower's way to ship code to nodes is closed: what it would unpack and import at a site is never looked at."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from fedfm.runtimes.flower.control import PROJECT
from fedfm.runtimes.flower.keys import AUTHORITY, new_certificates, new_key
from fedfm.runtimes.flower.superlink import environment, start_superlink, within
from fedfm.runtimes.flower.supernode import free_ports, start_supernode
from fedfm.runtimes.flower.supervisor import Supervisor

pytestmark = pytest.mark.slow

EVIL = PROJECT.replace("fedfm.runtimes.flower.apps", "evil.apps").replace("fedfm", "evil").encode()

APPS = """\
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

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


@pytest.mark.parametrize("at_site", [True, False], ids=["as a site starts it", "as Flower has it"])
def test_a_bundle_of_code_is_never_run_at_a_site(at_site: bool, tmp_path: Path) -> None:
    server, node = Supervisor(tmp_path, environment(tmp_path)), tmp_path / "node"
    node.mkdir()
    site = Supervisor(node, environment(node), at_site=at_site)
    try:
        with within(environment(tmp_path)):
            new_certificates(tmp_path / "tls", ["localhost", "127.0.0.1"])
            port, own = free_ports(2)
            control = start_superlink(server, tmp_path, tmp_path / "tls", port)
            public = new_key(tmp_path / "key")
            control.admit({"site": public})
            start_supernode(
                site,
                "supernode",
                server=f"127.0.0.1:{port}",
                authority=tmp_path / "tls" / AUTHORITY,
                key=tmp_path / "key",
                worker=tmp_path / "nobody.sock",
                port=own,
            )
            code = APPS.format(folder=str(tmp_path)).encode()
            content, _ = build_fab_from_files({"pyproject.toml": EVIL, "evil/__init__.py": b"", "evil/apps.py": code})
            fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
            with control._connected() as client:
                client.StartRun(StartRunRequest(fab=fab, override_config=user_config_to_proto({})))
        end = time.monotonic() + 120
        while not (tmp_path / "answer").exists():
            server.check()
            site.check()
            assert time.monotonic() < end, server.last_words("superexec")
            time.sleep(0.1)
    finally:
        site.close()
        server.close()
    assert (tmp_path / "ran").exists() != at_site
    if at_site:
        assert "could not read what it was sent" in (tmp_path / "answer").read_text()
