"""A site that sends wrong answers: ``fedfm server`` as a user runs it, over Flower's apps in this process."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fedfm.cli.main import main
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.records.folder import RunFolder
from fedfm.runtimes.envelopes import Envelope, Refusal, Requests
from fedfm.runtimes.flower.apps import Handler, make_client_app, relay
from fedfm.runtimes.flower.in_process import InProcessGrid
from fedfm.runtimes.relay import RelayLine
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import read_site_data
from fedfm.tasks import TASKS
from fedfm.updates import decode_instruction
from tests.events import irregular
from tests.faults.spoilt import SPOILT, Change, spoilt
from tests.machines import SITES, adapter, fedfm, site_folder

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

ROUNDS, SPOILT_IN = 3, 2
REPLAY = "that of the round before"

REASONS = {
    "cut off": ("refused", "not a fedfm message"),
    "strides that overflow": ("refused", "what its header says of `more` is no tensor"),
    "not a number": ("refused", "non-finite values in 18 of 18 tensors"),
    "a tensor less": ("refused", "1 tensors are missing, first `base_model"),
    "of another shape": ("refused", "has shape [1], not [8, 16]"),
    "of another round": ("refused", "it answers round 0, not round 2"),
    "of another base": ("refused", "it was computed on another base (000000000000…, not"),
    "too large": ("failed", "its answer of 40,000,000 bytes is over the limit of"),
    REPLAY: ("refused", "it answers round 1, not round 2"),
}
"""What is wrong with an update → what it is then, and why."""


class Dishonest:
    """A site that changes what it answers in one round."""

    def __init__(self, site: Site, change: Change | None) -> None:
        """A site.

        Args:
            site: what it would be.
            change: what becomes of its update; None: it keeps that for itself.
        """
        self.site, self.change = site, change

    def handle(self, envelope: Envelope) -> Iterable[Envelope]:
        parts = self.site.handle(envelope)
        if not isinstance(envelope.head, Requests) or decode_instruction(envelope.blobs[0]).round != SPOILT_IN:
            return parts
        return [Envelope(Refusal(reason="not today"))] if self.change is None else spoilt(parts, self.change)


class Repeating(Dishonest):
    """A site that sends again what it sent the round before."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, lambda blob: self.before)
        self.before = b""

    def handle(self, envelope: Envelope) -> Iterable[Envelope]:
        for part in super().handle(envelope):
            self.before = part.blobs[0] if part.blobs else b""
            yield part


def dishonest(name: str) -> Callable[[Site], Dishonest]:
    return Repeating if name == REPLAY else lambda site: Dishonest(site, SPOILT[name])


class Near:
    """Sites in this process, and the commands of a server that reaches them."""

    def __init__(self, folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As `site_folder` has laid them out.

        Args:
            folder: of the recipe, keys and data.
            state: where sites keep their records.
            monkeypatch: puts the grid in the place of what is started elsewhere.
        """
        self.folder, self.state = folder, state
        self.said: list[str] = []
        self.handlers: dict[str, Handler] = {}
        self.be(a=lambda site: site, b=lambda site: site)
        monkeypatch.setattr("fedfm.server.runs.serving._line", lambda hosting, heard, waits, experiment: self._line())

    def be(self, **sites: Callable[[Site], Site | Dishonest]) -> None:
        """What sites are from now on."""
        self.handlers |= {name: kind(self.site(name)).handle for name, kind in sites.items()}

    def site(self, name: str, **changes: Any) -> Site:
        own = read_site_data(self.folder / f"{name}.yaml").model_copy(update=changes)
        folder = self.state / name
        return Site(own, Egress(Policy(), folder, self.said.append), folder)

    @property
    def run(self) -> Path:
        return self.state / "run"

    def begin(self, *overrides: str) -> Result:
        return self._server(self.folder / "recipe.yaml", f"run_dir={self.run}", *overrides)

    def go_on(self) -> Result:
        return self._server(self.run)

    def _server(self, *words: object) -> Result:
        told = ("--tls", self.folder / "tls", "--allow", self.folder / "keys", "--state", self.state / "server")
        return CliRunner().invoke(main, ["server", *map(str, (*words, *told))])

    def _line(self) -> RelayLine:
        line = RelayLine(self.state / "relay.sock", nodes=len(SITES), patience=60, deadline=None)
        line.names = {str(number): name for number, name in enumerate(SITES, start=1)}
        app = make_client_app(lambda context: self.handlers[SITES[context.node_id - 1]])
        grid = InProcessGrid(app, [{}] * len(SITES))
        threading.Thread(target=relay, args=(grid, line.path), kwargs={"poll": 0.01}, daemon=True).start()
        return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sites")
    site_folder(made, rounds=ROUNDS)
    return made


@pytest.fixture
def near(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Near:
    return Near(folder, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def simulated(folder: Path) -> Path:
    return Path(fedfm(folder, "run", "recipe.yaml", "name=simulated", "data.client=site")["folder"])


@pytest.fixture(scope="module")
def without(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which site b keeps its update of round 2 for itself."""
    with pytest.MonkeyPatch.context() as patch:
        near = Near(folder, tmp_path_factory.mktemp("without"), patch)
        near.be(b=lambda site: Dishonest(site, None))
        done = near.begin("federation.quorum=0.5")
    assert done.exit_code == 0, done.output
    return near.run


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", REASONS)
def test_t09_t10_t13_t14_t17_it_is_not_taken_and_the_run_is_as_if_it_never_came(
    name: str, near: Near, without: Path
) -> None:
    near.be(b=dishonest(name))
    kind, reason = REASONS[name]
    done = near.begin("federation.quorum=0.5")
    assert done.exit_code == 0, done.output
    assert adapter(near.run) == adapter(without)
    (event,) = irregular(records(near.run / "events.jsonl"))
    assert (event["round"], event["client"], event["kind"]) == (SPOILT_IN, "b", kind)
    assert reason in event["reason"]
    came = [line["round"] for line in records(near.run / "wire.jsonl") if line["clients"] == ["b"]]
    assert came == ([1, 2, 3] if kind == "refused" else [1, 3])


@pytest.mark.parametrize("name", REASONS)
def test_where_it_was_needed_the_run_ends_and_goes_on_with_a_sound_one(name: str, near: Near, simulated: Path) -> None:
    near.be(b=dishonest(name))
    run, (kind, reason) = near.run, REASONS[name]
    done = near.begin()
    assert done.exit_code == 4, done.output
    assert "only 1 of 2 clients gave a sound update in round 2" in done.output
    assert re.search(f"client b {kind}: .*{re.escape(reason)}", done.output)
    assert f"fedfm server {run} --tls" in done.output
    saved = load_checkpoint(RunFolder(run))
    assert saved is not None
    assert (saved.state.round, saved.warnings) == (1, ())
    assert {line["round"] for line in records(run / "wire.jsonl")} == {1}
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"

    near.be(b=lambda site: site)
    done = near.go_on()
    assert done.exit_code == 0, done.output
    assert adapter(run) == adapter(simulated)
    assert records(run / "wire.jsonl") == records(simulated / "wire.jsonl")


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """The recipe's model, but for one weight."""
    found = load_backbone(ModelSettings(path="builtin:tiny-bert"), TASKS["text-classification"].auto_class, seed=0)
    with torch.no_grad():
        next(found.model.parameters()).view(-1)[0] += 1e-3
    found.model.save_pretrained(tmp_path / "model")
    found.processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_t14_a_site_with_another_model_trains_nothing(near: Near, other_model: Path, tmp_path: Path) -> None:
    near.be(b=lambda site: near.site("b", model=str(other_model)))
    done = near.begin("federation.quorum=0.5")
    assert done.exit_code == 0, done.output
    reason = "the site's data or its model cannot be used for the run; the site's own log has the details"
    assert f"b does not take part: {reason}" in " ".join(done.output.split())
    assert any(f"{other_model} has other weights" in text for text in near.said)
    found = [
        (event["round"], event["client"], event["reason"]) for event in irregular(records(near.run / "events.jsonl"))
    ]
    assert found == [(number, "b", reason) for number in (1, 2, 3)]
    assert not (tmp_path / "b" / "wire.jsonl").exists()
    rows = [row for row in records(near.folder / "train.jsonl") if row["site"] == "a"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = (
        "data.client=site",
        f"data.train={tmp_path / 'a.jsonl'}",
        "federation.per_round=1",
        f"run_dir={tmp_path / 'alone'}",
    )
    fedfm(near.folder, "run", "recipe.yaml", *alone)
    assert adapter(near.run) == adapter(tmp_path / "alone")


def test_where_it_was_needed_nothing_is_played_until_it_has_the_model(
    near: Near, other_model: Path, simulated: Path
) -> None:
    near.be(b=lambda site: near.site("b", model=str(other_model)))
    done = near.begin()
    assert done.exit_code == 4, done.output
    assert "only 1 of 2 clients gave a sound update in round 1" in done.output
    assert "client b failed: the site's data or its model cannot be used for the run" in " ".join(done.output.split())
    assert f"fedfm server {near.run} --tls" in done.output
    assert (near.run / "LATEST").read_text() == "round-0000\n"

    near.be(b=lambda site: site)
    done = near.go_on()
    assert done.exit_code == 0, done.output
    assert adapter(near.run) == adapter(simulated)
