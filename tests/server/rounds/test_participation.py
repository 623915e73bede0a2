"""Contributions of clients are listed at the end of a run, first those that never contributed."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import fedfm
from fedfm.cli.display import describe_outcome
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.recipe import load_recipe
from fedfm.records import contributions as sentences
from fedfm.server.experiment.deployment import RealSites
from fedfm.server.rounds.participation import Participation, after_round, summary_of
from fedfm.server.runs.serving import for_sites
from fedfm.sites.causes import Cause
from fedfm.trackers.listeners import Listener
from tests.events import irregular
from tests.server.experiment.test_deployment import NAMES, at_sites, split
from tests.small import small_recipe


class Warned(Listener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_warning(self, text: str) -> None:
        self.heard.append(text)

    def on_end(self, summary: dict[str, Any]) -> None:
        self.heard.append("the end")


def one_does_not_fit(folder: Path, **federation: Any) -> tuple[dict[str, Any], RealSites]:
    """A recipe, and five sites, of which b has other columns than it says."""
    settings = {"per_round": 5, "rounds": 2, **federation}
    values = small_recipe(folder, federation=settings, runtime={"kind": "flower"})
    own = split(folder)
    own["b"] = own["b"].model_copy(update={"text": ["nothing"]})
    return values, at_sites(folder, own)[0]


def failed(client: str, reason: str = "out of memory") -> dict[str, Any]:
    return {"kind": "failed", "client": client, "reason": reason}


def test_failures_and_clients_are_counted_apart() -> None:
    found = after_round({}, ["ward"], [failed("clinic"), {"kind": "resume", "client": None, "reason": ""}])
    found = after_round(found, ["ward", "lab"], [failed("clinic", "a\nlate" + "r" * 1000)])
    found = after_round(found, ["ward"], [failed("lab"), {"kind": "late", "client": "desk", "reason": "faster"}])
    assert found["ward"] == Participation(rounds=3)
    assert (found["clinic"].failed, found["clinic"].reason[:6], len(found["clinic"].reason)) == (2, "a late", 300)
    summary = summary_of(found, ["ward", "clinic", "lab", "desk", "new"], all_by_name=False)
    assert (summary["contributed"], summary["never_contributed"]) == (2, ["clinic", "desk"])
    assert list(summary["by_client"]) == ["clinic", "lab"]
    everybody = summary_of(found, ["ward", "clinic", "new"], all_by_name=True)
    assert list(everybody["by_client"]) == ["clinic", "new", "ward"]


def test_a_site_that_never_contributed_is_what_is_said_first(tmp_path: Path) -> None:
    values, deployment = one_does_not_fit(tmp_path)
    warned = Warned()
    run = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment, listeners=[warned])
    clients = run.summary["clients"]
    assert (clients["total"], clients["contributed"], clients["failed"], clients["never_contributed"]) == (
        5,
        4,
        2,
        ["b"],
    )
    first = "b never contributed: the result comes from 4 of 5 clients"
    assert warned.heard == [first, "the end"]
    reason = Cause.RECIPE.sentence("data.text")
    lines = [f"b: 0 of 2 rounds, 2 failures: {reason}", *(f"{name}: 2 of 2 rounds" for name in "acde")]
    assert sentences.lines(run.summary) == lines
    terminal = Console(width=200, record=True, file=StringIO())
    terminal.print(describe_outcome(run.path, run.summary))
    card, report = (run.path / "adapter" / "README.md").read_text(), run.folder.report.read_text()
    page = report[report.index('id="outcome"') : report.index('id="learning"')].replace("&#39;", "'")
    shown = terminal.export_text()
    for text in (shown, card, page):
        assert all(line in text for line in lines)
    assert first in card
    assert page.index(first) < page.index('class="hero"')
    events = irregular(json.loads(line) for line in run.folder.events.read_text().splitlines())
    assert [event["client"] for event in events] == ["b", "b"]
    longer = fedfm.resume(run.path, ["federation.rounds=3"], deployment=deployment)
    assert longer.summary["clients"]["by_client"]["a"]["rounds"] == 3
    assert longer.summary["clients"]["by_client"]["b"]["failed"] == 3


def test_where_all_contributed_nothing_is_warned(tmp_path: Path) -> None:
    warned = Warned()
    run = fedfm.run(load_recipe(small_recipe(tmp_path)), ["federation.rounds=1"], listeners=[warned])
    assert warned.heard == ["the end"]
    found = run.summary["clients"]
    assert found == {
        "total": 6, "failed": 0, "refused": 0, "contributed": 3, "never_contributed": [], "by_client": {},
    }  # fmt: skip


def test_fewer_than_the_least_clients_end_a_run(tmp_path: Path) -> None:
    values, deployment = one_does_not_fit(tmp_path, min_clients=5)
    with pytest.raises(TooFewClientsError, match=r"only 4 of 5 .* federation\.min_clients \(5\) asks for") as caught:
        fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert caught.value.exit_code == 4


def test_more_than_a_round_has_is_refused(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, federation={"clients": 6, "per_round": 3, "rounds": 1, "min_clients": 4})
    with pytest.raises(RecipeError, match=r"federation\.min_clients: no round has 4 clients: 3 take part in one"):
        fedfm.run(load_recipe(values))
    drawn = load_recipe(values, ["federation.sampling=poisson"])
    assert drawn.federation.check_cohort(6) == 3
