"""The same recipe gives the same result locally and over Flower's grid with its real apps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

import httpx
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st

import fedfm
from fedfm.hosts.node import Node
from fedfm.params import digest, load
from fedfm.runtimes.envelopes import Envelope, Lost, Nodes, Ready, Refusal, Replies, Requests, Unprepared
from fedfm.runtimes.flower.apps import make_client_app, relay
from fedfm.runtimes.flower.grid import GridNodes
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.line import Line
from fedfm.runtimes.relay import RelayLine
from fedfm.server.experiment.runtime_factory import RUNTIMES, over_nodes
from tests.alike import RECIPES
from tests.predictable import without_chance
from tests.small import small_recipe


def carried(grid: Grid, path: Path) -> Line:
    """A line by way of a relay in a thread."""
    line = RelayLine(path, nodes=2, patience=10, deadline=60)
    threading.Thread(target=relay, args=(grid, path), kwargs={"poll": 0.0}, daemon=True).start()
    return line


@pytest.fixture
def grid() -> InProcessGrid:
    sites = {1: Node(), 2: Node()}
    return InProcessGrid(make_client_app(lambda context: sites[context.node_id].handle), [{}, {}])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket" / "relay"


@pytest.mark.parametrize("name", RECIPES)
def test_the_adapter_is_that_of_a_local_run(
    name: str, grid: InProcessGrid, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "flower", lambda experiment, _: over_nodes(experiment, carried(grid, path)))
    recipe = small_recipe(tmp_path, **RECIPES[name])
    local = fedfm.run(fedfm.load_recipe(recipe | {"name": "local"}), ["runtime.stack=2"])
    flower = fedfm.run(fedfm.load_recipe(recipe | {"name": "flower"}), ["runtime={kind: flower, stack: 2}"])
    assert _adapter(flower) == _adapter(local)
    assert flower.summary["clients"] == {"failed": 0, "refused": 0} | flower.summary["clients"]
    assert flower.summary["bytes"] == local.summary["bytes"]


def test_t20_p7_a_private_run_over_the_grid_is_that_of_a_local_run(
    grid: InProcessGrid, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_chance(monkeypatch)
    monkeypatch.setitem(RUNTIMES, "flower", lambda experiment, _: over_nodes(experiment, carried(grid, path)))
    recipe = small_recipe(
        tmp_path,
        federation={"clients": 5, "per_round": 3, "rounds": 2, "sampling": "poisson"},
        aggregate={"rule": "ffa"},
        privacy={
            "kind": "central",
            "noise_multiplier": 1.0,
            "delta": 1e-2,
            "clip": "adaptive",
            "clip_count_noise": 2.0,
        },
    )
    local = fedfm.run(fedfm.load_recipe(recipe | {"name": "local"}), ["runtime.stack=2"])
    flower = fedfm.run(fedfm.load_recipe(recipe | {"name": "flower"}), ["runtime={kind: flower, stack: 2}"])
    assert _adapter(flower) == _adapter(local)
    for file in ("privacy.jsonl", "wire.jsonl"):
        assert (flower.path / file).read_text() == (local.path / file).read_text()
    assert flower.summary["privacy"] == local.summary["privacy"]


def _adapter(run: fedfm.Run) -> str:
    return digest(load(run.path / "adapter" / "adapter_model.safetensors"))


def test_the_apps_that_flower_starts_for_every_message_load_no_torch() -> None:
    code = "import sys, fedfm.runtimes.flower.apps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class BusyGrid(InProcessGrid):
    """Replies some calls as a SuperLink does whose database is locked."""

    def __init__(self, busy: dict[str, str], *, status: int = 500) -> None:
        """A grid of one node that has forgotten everything.

        Args:
            busy: method → path of the call that fails in it, once.
            status: of the answer.
        """
        super().__init__(make_client_app(lambda context: lambda envelope: [Envelope(Unprepared())]), [{}])
        self.busy, self.status = busy, status

    def _fail(self, method: str) -> None:
        if path := self.busy.pop(method, None):
            request = httpx.Request("POST", f"https://127.0.0.1/v1/runtime/{path}")
            raise httpx.HTTPStatusError("busy", request=request, response=httpx.Response(self.status))

    def get_node_ids(self) -> Iterable[int]:
        self._fail("get_node_ids")
        return super().get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._fail("push_messages")
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._fail("pull_messages")
        return super().pull_messages(message_ids)


def asked(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Envelope]]:
    """What comes of asking all nodes for work, in two looks."""
    monkeypatch.setattr("fedfm.runtimes.flower.grid.PAUSE", 0.0)
    line = GridNodes(grid)
    for node in line.nodes():
        assert line.push(node, Envelope(Requests(job="", clients=())))
    return [*line.pull(), *line.pull()]


def test_calls_are_made_again_while_the_superlink_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"get_node_ids": "get-nodes", "push_messages": "push-messages", "pull_messages": "pull-messages"}
    ((_, answer),) = asked(BusyGrid(busy), monkeypatch)
    assert answer.head == Unprepared()
    assert not busy


def test_an_answer_that_a_busy_superlink_takes_as_handed_out_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, answer),) = asked(BusyGrid({"pull_messages": "confirm-message-received"}), monkeypatch)
    assert answer.head == Lost(reason="Flower could not deliver its answer")


@pytest.mark.parametrize("method", ["get_node_ids", "push_messages", "pull_messages"])
def test_what_is_no_lock_is_not_waited_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        asked(BusyGrid({method: "any"}, status=413), monkeypatch)


HUGE = Ready.model_construct(kind="ready", job="j", clients=None, examples=10**400)


@pytest.mark.parametrize(
    "head", [HUGE, Ready.model_construct(kind="ready", job="j", clients=None, examples=-1), Nodes(nodes=("9",))]
)
def test_a_head_that_is_none_or_not_a_nodes_is_that_nodes_answer(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = InProcessGrid(make_client_app(lambda context: lambda envelope: [Envelope(head)]), [{}])
    ((node, answer),) = asked(grid, monkeypatch)
    assert node == "1"
    assert answer.head == head if isinstance(head, Nodes) else isinstance(answer.head, Refusal)


class ForgedGrid(InProcessGrid):
    """Makes its one node's answer of bytes, as Flower does, in which a site has put a piece in place of another."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        super().__init__(make_client_app(lambda context: lambda envelope: [ANSWER]), [{}])
        self.change = change

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        def forged(message: Message) -> Message:
            parts = {number: each.deflate() for number, each in get_all_nested_objects(message).items()}
            changed = self.change(b"".join(parts.values()))
            for number, part in parts.items():
                parts[number], changed = changed[: len(part)], changed[len(part) :]
            return inflate_object_from_contents(message.object_id, parts)  # type: ignore[return-value]

        return list(map(forged, super().pull_messages(message_ids)))


ANSWER = Envelope(Replies(clients=(("a", None),)), (b"an update",))


def test_an_answer_comes_back_from_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(ForgedGrid(lambda whole: whole), monkeypatch) == [("1", ANSWER)]


@settings(max_examples=300)
@given(
    st.integers(0, 3_000), st.one_of(st.binary(min_size=1, max_size=4), st.text(min_size=1, max_size=4).map(str.encode))
)
def test_whatever_bytes_a_node_answers_it_is_that_node_which_is_refused(place: int, piece: bytes) -> None:
    def change(whole: bytes) -> bytes:
        start = place % len(whole)
        return whole[:start] + piece + whole[start + len(piece) :]

    with pytest.MonkeyPatch.context() as patch:
        ((node, answer),) = asked(ForgedGrid(change), patch)
    assert node == "1"
    assert answer.text
