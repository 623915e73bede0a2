"""Real sites whose clients keep state, and asynchronous real sites: a server that ends is resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.errors import RecipeError
from fedfm.params import digest
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.runtimes.line import Part
from fedfm.server.experiment.deployment import RealSites
from fedfm.server.rounds import driver, intake
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.runs import start as runs
from fedfm.server.runs.baselines import Baselines
from fedfm.server.runs.finished import Run
from fedfm.server.runs.serving import for_sites
from fedfm.sites.site import Site
from tests.alike import METHODS
from tests.server.experiment.test_deployment import NAMES, Near, at_sites, split
from tests.small import small_recipe


class Killed(BaseException):
    """Stands for the end of the server's process."""


class Backwards(Near):
    """A line on which the site that was asked last answers first."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__(sites)

    def pull(self, timeout: float | None = None) -> Part | None:
        self.parts = deque(reversed(self.parts))
        try:
            return super().pull(timeout)
        finally:
            self.parts = deque(reversed(self.parts))


def recipe_of(folder: Path, known_as: str, **changes: Any) -> Recipe:
    method = {key: value for key, value in METHODS[known_as].items() if key != "federation"}
    federation = {"per_round": 3, "rounds": 3}
    values = small_recipe(folder, **{**method, "federation": federation, "runtime": {"stack": 1}, **changes})
    return for_sites(load_recipe(values), len(NAMES))


def tensors(run: Run | RunFolder) -> dict[str, str]:
    """Digests of what the server holds at the end."""
    saved = load_checkpoint(run.folder if isinstance(run, Run) else run)
    assert saved is not None
    return {name: digest(group) for name, group in {"w": saved.state.params, **saved.state.protocol.server}.items()}


def kill(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Ends the server in place of a call of a function, counted from 1."""
    whole, calls = getattr(owner, name), []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, dying)


@pytest.fixture(autouse=True)
def _only_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines are not what is tested here."""
    monkeypatch.setattr(runs, "baselines", lambda experiment, state: Baselines())


def deployed(folder: Path, line: type[Near] = Near) -> RealSites:
    deployment, _, near = at_sites(folder, split(folder))
    there = line(near.sites)
    deployment.line = lambda experiment: there
    return deployment


def kept(folder: Path) -> dict[str, int]:
    """Site → files of its client's state."""
    return {name: len(list((folder / f"site-{name}" / "client-state").rglob("*.safetensors"))) for name in NAMES}


def sent(run: Run) -> list[tuple[Any, ...]]:
    """Round, direction, client and tensors of each message; a message to a site also names versions of its state."""
    return sorted(
        (line["round"], line["direction"], client, [tensor["digest"] for tensor in line["tensors"]])
        for line in jsonl.records(run.folder.wire)
        for client in line["clients"]
    )


@pytest.mark.parametrize("name", ["scaffold", "top-k"])
def test_state_is_the_sites_and_a_killed_server_replays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, name)
    (tmp_path / "here").mkdir()
    simulated = fedfm.run(
        small_recipe(
            tmp_path / "here",
            **{**METHODS[name], "federation": {"per_round": 3, "rounds": 3}, "runtime": {"stack": 1}},
        ),
        ["data.client=site"],
    )
    deployment = deployed(tmp_path)
    with monkeypatch.context() as patch:
        kill(patch, driver.Driver, "_check_finite", 2)  # the answers of round 2 have come
        with pytest.raises(Killed):
            fedfm.run(recipe, deployment=deployment)
    assert sum(kept(tmp_path).values()) >= 3
    assert not recipe.folder.joinpath("client_state").exists(), "nothing of it is at the server"
    run = fedfm.resume(recipe.folder, deployment=deployed(tmp_path))
    assert tensors(run) == tensors(simulated)
    assert sent(run) == sent(simulated)
    assert set(kept(tmp_path).values()) == {0}, "a completed run leaves nothing at the sites"
    with pytest.raises(RecipeError, match="its sites have removed what their clients kept"):
        fedfm.resume(run.path, ["federation.rounds=4"], deployment=deployed(tmp_path))
    assert run.summary["status"] == "completed"


def test_a_version_that_is_gone_is_a_failed_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, "scaffold", federation={"per_round": 5, "rounds": 2, "quorum": 0.8})
    with monkeypatch.context() as patch:
        kill(patch, driver.Driver, "_check_finite", 2)
        with pytest.raises(Killed):
            fedfm.run(recipe, deployment=deployed(tmp_path))
    versions = list((tmp_path / "site-a" / "client-state").rglob("*.safetensors"))
    assert len(versions) == 2
    for version in versions:
        version.unlink()
    run = fedfm.resume(recipe.folder, deployment=deployed(tmp_path))
    failed = [event for event in run.events if event["kind"] == "failed"]
    assert [event["client"] for event in failed] == ["a"]


def arrivals(folder: Path) -> list[tuple[str, bool]]:
    events = jsonl.records(folder / "events.jsonl")
    return [(event["client"], event["sound"]) for event in events if event["kind"] == "arrival"]


def fails(*arguments: object) -> None:
    raise ValueError


def ill(deployment: RealSites, name: str) -> RealSites:
    """A deployment with a site that cannot train."""
    deployment.line(None).sites[name]._train = fails  # type: ignore[arg-type, attr-defined]
    return deployment


def buffered(folder: Path, name: str, **changes: Any) -> Recipe:
    return recipe_of(folder, "buffered", name=name, protocol={"kind": "buffered", "size": 2}, **changes)


@pytest.mark.parametrize("failing", ["", "b"], ids=["all answer", "one fails"])
def test_arrivals_are_replayed(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On resumption sites answer in the opposite order, and the one that failed is well: neither may change the run."""

    def first(line: type[Near] = Near) -> RealSites:
        return ill(deployed(tmp_path, line), failing) if failing else deployed(tmp_path, line)

    straight = fedfm.run(buffered(tmp_path, "straight"), deployment=first())
    order = arrivals(straight.path)
    assert sum(sound for _, sound in order) == 2 * 3
    assert all(sound != (client == failing) for client, sound in order)
    assert (failing in dict(order)) == bool(failing)
    other = fedfm.run(buffered(tmp_path, "other"), deployment=first(Backwards))
    assert tensors(other)["w"] != tensors(straight)["w"], "the order matters"
    recipe = buffered(tmp_path, "killed", checkpoint={"every": 3})
    with monkeypatch.context() as patch:
        kill(patch, driver.Driver, "_check_finite", 3)
        with pytest.raises(Killed):
            fedfm.run(recipe, deployment=first())
    run = fedfm.resume(recipe.folder, deployment=deployed(tmp_path, Backwards))
    assert arrivals(run.path) == order
    assert tensors(run)["w"] == tensors(straight)["w"]


def test_a_run_that_is_killed_twice_continues_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = buffered(tmp_path, "killed", checkpoint={"every": 3})
    with monkeypatch.context() as patch:
        kill(patch, intake, "decode_update", 4)
        with pytest.raises(Killed):
            fedfm.run(recipe, deployment=deployed(tmp_path))
    before = arrivals(recipe.folder)
    assert len(before) == 3
    with monkeypatch.context() as patch:
        kill(patch, intake, "decode_update", 6)
        with pytest.raises(Killed):
            fedfm.resume(recipe.folder, deployment=deployed(tmp_path, Backwards))
    again = arrivals(recipe.folder)
    assert (again[:3], len(again)) == (before, 5)
    run = fedfm.resume(recipe.folder, deployment=deployed(tmp_path))
    assert (arrivals(run.path)[:5], len(arrivals(run.path))) == (again, 6)
    assert "arrival" not in (run.path / "report.html").read_text()
