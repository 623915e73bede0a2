"""Whatever fails at a site, none of its data is in the bytes that leave it; the site's own log has the full reason."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedfm.clients import Worker
from fedfm.errors import DataError, RecipeError, StorageError
from fedfm.hosts import node as node_module
from fedfm.recipe import load_recipe
from fedfm.runtimes.envelopes import Envelope, Prepare, Ready, Refusal, Replies, Requests, job_digest
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import over_sites, without_folders
from fedfm.server.runs.serving import for_sites
from fedfm.sites import site as site_module
from fedfm.sites.causes import Cause
from fedfm.sites.disclosure import PublicReason, public_reason
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData
from tests.asked import instruction
from tests.small import small_recipe

CANARY = "Kanarienvogel"


class PanicException(BaseException):
    """As what a library in Rust raises when it panics: no Exception."""


class Watched:
    """A site whose folders, columns, labels and values all hold the canary, and every byte that it sends."""

    def __init__(self, folder: Path, own: dict[str, Any], policy: Policy | None = None) -> None:
        self.said: list[str] = []
        self.left = b""
        values = {"train": str(folder / f"{CANARY}.csv"), "text": [f"{CANARY} text"], "label": f"{CANARY} label"}
        labels = {f"{CANARY} no": "0", f"{CANARY} yes": "1"}
        data = SiteData.model_validate({**values, "labels": labels, **own})
        self.egress = Egress(policy or Policy(), folder / f"{CANARY} state", self.said.append)
        self.site = Site(data, self.egress, folder / f"{CANARY} state")

    def answers(self, envelope: Envelope) -> list[Envelope]:
        found = list(self.site.handle(envelope))
        for answer in found:
            self.left += answer.text.encode() + b"".join(answer.contents)
        return found

    def prepare(self, job: dict[str, Any]) -> Envelope:
        (answer,) = self.answers(Envelope(Prepare(job=job, client="clinic")))
        return answer

    def train(self, job: dict[str, Any], experiment: Experiment) -> Envelope:
        message = instruction(experiment.start)
        (answer,) = self.answers(Envelope(Requests(job=job_digest(job), clients=(("clinic", 0),)), (message,)))
        return answer

    def check(self) -> None:
        """Nothing of the site has left, and its log says what happened."""
        assert self.left
        assert CANARY.encode() not in self.left
        assert any(CANARY in line for line in self.said if "refused" in line or "failed" in line), self.said


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = for_sites(load_recipe(small_recipe(tmp_path_factory.mktemp("server"))), 3)
    return build_experiment(recipe, ["clinic", "ward", "lab"])


@pytest.fixture
def job(experiment: Experiment) -> dict[str, Any]:
    return dict(over_sites(experiment, None).job)  # type: ignore[arg-type]


def rows(folder: Path, *lines: str, header: str = f"{CANARY} text,{CANARY} label") -> None:
    (folder / f"{CANARY}.csv").write_text("\n".join([header, *lines]) + "\n")


GOOD = (f"{CANARY} is fine,{CANARY} yes", f"{CANARY} is bad,{CANARY} no")

WRONG: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "no file": ((), {"train": f"/nowhere/{CANARY}.csv"}, "data.train"),
    "an unknown ending": ((), {"train": f"/etc/{CANARY}.secret"}, "data.train"),
    "a column that is missing": (GOOD, {"text": [f"{CANARY} other"]}, "data.text"),
    "two columns": (GOOD, {"text": [f"{CANARY} a", f"{CANARY} b"]}, "data.text"),
    "a label column that is missing": (GOOD, {"label": f"{CANARY} other"}, "data.label"),
    "an unmapped label": ((*GOOD, f"so so,{CANARY} perhaps"), {}, "data.label"),
    "a mismatched label": (GOOD, {"labels": {f"{CANARY} no": f"{CANARY} negative"}}, "data.label"),
    "a blank text": ((*GOOD, f",{CANARY} yes"), {}, "data.text"),
    "no rows": ((), {}, "data.train"),
    "another model": (GOOD, {"model": f"/nowhere/{CANARY}"}, "model.path"),
    "another device": (GOOD, {"device": "cuda:99"}, "runtime.device"),
}


IN_THE_DATA = ("an unmapped label", "a blank text")
"""What is wrong in the rows of a file; the rest is named wrongly."""


@pytest.mark.parametrize("case", WRONG)
def test_data_that_does_not_fit(case: str, job: dict[str, Any], tmp_path: Path) -> None:
    lines, own, place = WRONG[case]
    rows(tmp_path, *lines)
    watched = Watched(tmp_path, own)
    answer = watched.prepare(job)
    cause = Cause.DATA if case in IN_THE_DATA else Cause.RECIPE
    assert answer == Envelope(Refusal(reason=f"{cause} ({place}); the site's own log has the details"))
    assert CANARY.encode() not in watched.left
    assert any("refused" in line and place in line for line in watched.said)


def test_files_that_cannot_be_read(job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / f"{CANARY}.parquet").write_text(CANARY)
    watched = Watched(tmp_path, {"train": str(tmp_path / f"{CANARY}.parquet")})
    assert watched.prepare(job) == Envelope(Refusal(reason=f"{Cause.DATA}; the site's own log has the details"))
    watched.check()


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    images = {"train": "builtin:digits", "test": "builtin:digits"}
    changes = {"data": images, "task": {"kind": "image-classification"}, "model": {"path": "builtin:tiny-vit"}}
    recipe = for_sites(load_recipe(small_recipe(tmp_path, **changes)), 3)
    job = dict(over_sites(build_experiment(recipe, ["clinic", "ward", "lab"]), None).job)  # type: ignore[arg-type]
    for name in ("0", "1"):
        folder = tmp_path / CANARY / name
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / f"{CANARY} 1.png")
    (tmp_path / CANARY / "1" / f"{CANARY} 2.png").write_text(CANARY)
    watched = Watched(tmp_path, {"train": str(tmp_path / CANARY), "text": None, "label": "label", "labels": {}})
    assert isinstance(watched.prepare(job).head, Refusal)
    watched.check()


def test_what_a_policy_says(job: dict[str, Any], tmp_path: Path) -> None:
    watched = Watched(tmp_path, {}, Policy(algorithms=[CANARY], tunables=[CANARY], max_rounds=1))
    (reason,) = [watched.prepare(job).head]
    assert isinstance(reason, Refusal)
    assert "(algorithms, tunables, max_rounds)" in reason.reason
    watched.check()


ERRORS: dict[str, Callable[[], BaseException]] = {
    "a value": lambda: ValueError(CANARY),
    "a type of error with a name from data": lambda: type(CANARY, (Exception,), {})(CANARY),
    "unforeseen places of a recipe": lambda: RecipeError(CANARY, where=f"data.label.{CANARY}", source=CANARY),
    "data": lambda: DataError(CANARY),
    "storage": lambda: StorageError(CANARY),
    "no memory": lambda: MemoryError(CANARY),
    "no memory of a GPU": lambda: torch.OutOfMemoryError(CANARY),
    "a full disk": lambda: OSError(errno.ENOSPC, CANARY, f"/home/{CANARY}"),
    "a panic": lambda: PanicException(CANARY),
}

PLACES = ("read_site", "load_backbone", "check_patterns", "choose_device", "make_workers", "decode", "plan", "append")


@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_raised_wherever(
    place: str, job: dict[str, Any], experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(tmp_path, *GOOD)
    watched = Watched(tmp_path, {})
    raised: list[BaseException] = []

    def fails(*given: object, **named: object) -> None:
        raise raised[-1]

    target: tuple[Any, str] = {
        "decode": (Worker, "prepare"),
        "plan": (Worker, "plan"),
        "append": (watched.egress, "pass_update"),
    }.get(place, (site_module if hasattr(site_module, place) else node_module, place))
    trains = place in ("decode", "plan", "append")
    if trains:
        assert isinstance(watched.prepare(job).head, Ready)
    monkeypatch.setattr(*target, fails)
    for make in ERRORS.values():
        raised.append(make())
        told = watched.train(job, experiment) if trains else watched.prepare(job)
        assert isinstance(told.head, Refusal | Replies)
        assert CANARY in watched.said[-1]
    watched.check()
    noted = [json.loads(line) for line in watched.egress.journal.events.read_text().splitlines()]
    assert len(noted) == len(ERRORS)
    monkeypatch.undo()
    assert isinstance(watched.prepare(job).head, Ready), "the site goes on"
    assert isinstance(watched.train(job, experiment).head, Replies)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_worker_that_is_told_to_end_ends(
    stop: type[BaseException], job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*given: object) -> None:
        raise stop

    monkeypatch.setattr(site_module, "read_site", ends)
    with pytest.raises(stop):
        Watched(tmp_path, {}).prepare(job)


def test_only_keys_of_the_schemas_can_be_named() -> None:
    with pytest.raises(ValueError, match="may only name keys"):
        PublicReason(Cause.RECIPE, (f"labels.{CANARY}",))
    assert public_reason(RecipeError("no", where="tune.target_modules.0")).keys == ("tune.target_modules",)
    assert public_reason(RecipeError("no", where=CANARY)).keys == ()


def test_the_state_of_a_client_is_neither_taken_nor_sent(job: dict[str, Any], tmp_path: Path) -> None:
    rows(tmp_path, *GOOD)
    watched = Watched(tmp_path, {})
    ready = watched.prepare(job).head
    assert isinstance(ready, Ready)
    assert ready.clients is not None
    (client,) = ready.clients
    work = Requests(job=job_digest(job), clients=((client, 0),), states=(client,))
    (answer,) = watched.site.handle(Envelope(work, (b"message", b"state")))
    assert isinstance(answer.head, Refusal)
    assert "which this site keeps itself" in watched.said[-1]


def test_where_the_server_keeps_its_data_is_not_said(tmp_path: Path) -> None:
    hidden = tmp_path / CANARY
    hidden.mkdir()
    text = '{"text": "a public sentence", "label": "no"}\n{"text": "another one", "label": "yes"}\n'
    for name in ("test.jsonl", "validation.jsonl", "public.jsonl", "like-the-task.jsonl"):
        (hidden / name).write_text(text * 4)
    files = {name: str(hidden / f"{name}.jsonl") for name in ("test", "validation")}
    plug_in = {"distill": {"steps": 1, "batch_size": 2}, "public": {"data": str(hidden / "like-the-task.jsonl")}}
    proxy = {"kind": "fedpft", "keep_layers": [], "distill": None, "interval": None, "probe": 0, "plug_in": plug_in}
    changes = {"public": {"data": str(hidden / "public.jsonl")}, "proxy": proxy}
    recipe = load_recipe(small_recipe(tmp_path, **changes))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=files)})
    job = over_sites(build_experiment(for_sites(recipe, 3), ["clinic", "ward", "lab"]), None).job  # type: ignore[arg-type]
    folder = recipe.proxy.model_copy(update={"path": str(hidden / "proxy")})
    told = without_folders(recipe.model_copy(update={"proxy": folder}))
    said = json.dumps([dict(job), told.model_dump(mode="json")])
    assert told.proxy.path == "proxy"
    assert CANARY not in said
    assert all(f"{name}.jsonl" in said for name in ("test", "validation", "public", "like-the-task"))
