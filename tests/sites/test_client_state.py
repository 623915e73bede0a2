"""State of a site's client: private, kept over restarts and resumes, removed when its run is completed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm.hosts.job import RESUMABLE as JOB_RESUMABLE
from fedfm.hosts.job import Job
from fedfm.runtimes.envelopes import Ended, Envelope, Unprepared, job_digest
from fedfm.server.runs.refusals import RESUMABLE
from fedfm.sites.client_state import ClientStateFolders
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData


def job(**recipe: Any) -> Job:
    return Job(recipe={"name": "small", "federation": {"rounds": 4}, "report_to": [], **recipe}, data=None, model=None)


def digest(of: Job) -> str:
    return job_digest(of.model_dump(mode="json"))


def test_a_folder_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    folder = ClientStateFolders(tmp_path / "state").folder(job(), digest(job()))
    assert {path.stat().st_mode & 0o777 for path in (folder, tmp_path / "state")} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").glob("*.job")} == {0o600}


def test_it_is_kept_over_restarts_and_resumes(tmp_path: Path) -> None:
    folder = ClientStateFolders(tmp_path).folder(job(), digest(job()))
    (folder / "client").write_bytes(b"state")
    longer = job(federation={"rounds": 9}, report_to=["tensorboard"])
    assert digest(longer) != digest(job())
    assert ClientStateFolders(tmp_path).folder(longer, digest(longer)) == folder
    assert (folder / "client").read_bytes() == b"state"
    other = job(seed=1)
    assert ClientStateFolders(tmp_path).folder(other, digest(other)) != folder


def test_a_resumed_run_may_change_what_the_digest_leaves_out() -> None:
    assert JOB_RESUMABLE == RESUMABLE


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(SiteData(train="rows.csv"), Egress(Policy(), tmp_path, print), tmp_path)


@pytest.mark.parametrize(("status", "stays"), [("completed", False), ("interrupted", True), ("failed", True)])
def test_only_a_completed_run_leaves_nothing(status: Any, stays: bool, site: Site) -> None:
    longer = job(federation={"rounds": 9})
    (kept, other) = (site.state_folder(each, digest(each)) for each in (job(), job(seed=1)))
    assert site.state_folder(longer, digest(longer)) == kept
    assert kept is not None
    assert other is not None
    (kept / "client").write_bytes(b"state")
    ended = Ended(job=digest(longer), run="small", status=status, rounds=9)
    assert list(site.handle(Envelope(ended))) == [Envelope(Unprepared())]
    assert kept.exists() is stays
    assert other.exists()
    assert list(site.handle(Envelope(ended))) == [Envelope(Unprepared())]


@pytest.mark.parametrize("named", ["", "..", "../../outside", "/", "*", digest(job())[:12]])
def test_a_server_cannot_name_another_folder(named: str, site: Site, tmp_path: Path) -> None:
    folder = site.state_folder(job(), digest(job()))
    (tmp_path / "outside").mkdir()
    site.end(Ended(job=named, run="small", status="completed", rounds=1))
    assert folder is not None
    assert folder.exists()
    assert (tmp_path / "outside").exists()
