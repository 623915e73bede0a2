"""What a site's policy refuses, and what its egress announces and records."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch

from fedfm.clients import Contract
from fedfm.clients.work import WORKS, Work, extra_facts
from fedfm.clients.work.evaluate import evaluate
from fedfm.clients.work.train import train
from fedfm.errors import StorageError
from fedfm.protocols import Protocol
from fedfm.protocols.gossip import Gossip
from fedfm.protocols.star import Star
from fedfm.recipe import Recipe, load_recipe
from fedfm.sites.disclosure import PolicyError, UnannouncedError
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData, read_settings
from fedfm.spec import TensorSpec
from fedfm.updates import Done, Failure, Payload, Update
from fedfm.updates.payload import ACTIVITY
from fedfm.updates.stages import Stage
from fedfm.updates.stages.clip import Clip
from fedfm.updates.stages.top_k import TopK
from fedfm.wire import TUNABLE
from tests.small import small_recipe

SAID: list[str] = []

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "algorithm": ({"algorithms": ["fedprox"]}, "algorithms: fedprox, not fedavg"),
    "tunable": ({"tunables": ["head", "bitfit"]}, "tunables: head, bitfit, not lora"),
    "privacy": ({"privacy": "central"}, "privacy: central at least, not none"),
    "rounds": ({"max_rounds": 3}, "max_rounds: 3, not 4"),
    "clients": ({"min_clients": 4}, "min_clients: 4 of a round at least, not 3"),
    "length": ({"max_length": 31}, "max_length: 31, not 32"),
    "rank": ({"max_rank": 7}, "max_rank: 7, not 8"),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(small_recipe(tmp_path))


def egress(folder: Path, **policy: Any) -> Egress:
    guard = Egress(Policy(**policy), folder / "site", SAID.append)
    guard.announced = {"train": {"tunable": {"w": TensorSpec((3,))}}}
    return guard


def update(number: int, *, fill: float = 1.0) -> bytes:
    return sent(number, {TUNABLE: {"w": torch.full((3,), fill)}}).encode()


def sent(number: int, groups: Mapping[str, Mapping[str, torch.Tensor]], *, work: str = "train", **facts: Any) -> Update:
    done = Done(client="clinic", examples=5, steps=1, samples=5, predictions=5, loss=0.5, **facts)
    return Payload(number, "base", done, groups, work)


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_outside_the_policy(case: str, recipe: Recipe, tmp_path: Path) -> None:
    policy, reason = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        egress(tmp_path, **policy).admit(recipe)
    assert reason in str(caught.value)


def test_everything_outside_it_is_named_at_once(recipe: Recipe, tmp_path: Path) -> None:
    policy = {key: value for changes, _ in REFUSED.values() for key, value in changes.items()}
    with pytest.raises(PolicyError) as caught:
        egress(tmp_path, **policy).admit(recipe)
    assert all(reason in str(caught.value) for _, reason in REFUSED.values())


def test_what_it_does_not_mention_is_allowed(recipe: Recipe, tmp_path: Path) -> None:
    open_to_all = egress(tmp_path)
    open_to_all.admit(recipe)
    open_to_all.admit_model("0" * 64)
    egress(tmp_path, algorithms=["fedavg"], tunables=["lora"], max_rounds=4).admit(recipe)


def test_only_known_models(tmp_path: Path) -> None:
    known = egress(tmp_path, models=["ab" * 6, "cd" * 32])
    known.admit_model("ab" * 32)
    known.admit_model("cd" * 32)
    with pytest.raises(PolicyError, match="none of them is 010101010101"):
        known.admit_model("01" * 32)
    with pytest.raises(PolicyError, match="a proxy is none of them"):
        known.admit_model(None)


def test_an_update_that_is_too_large_does_not_leave(recipe: Recipe, tmp_path: Path) -> None:
    guard, blob = egress(tmp_path, max_bytes=len(update(1)) - 1), update(1)
    with pytest.raises(PolicyError, match=f"max_bytes: {len(blob) - 1}, not {len(blob)}"):
        guard.pass_update(blob, recipe, "job")
    assert not guard.ledger.exists()


def test_updates_are_counted_over_restarts_and_a_torn_line_is_cut(recipe: Recipe, tmp_path: Path) -> None:
    guard = egress(tmp_path)
    for number in (1, 2, 3):
        guard.pass_update(update(number), recipe, "job")
    with guard.ledger.open("ab") as ledger:
        ledger.write(b'{"run": "sma')
    again = egress(tmp_path)
    again.pass_update(update(3, fill=2.0), recipe, "job")
    lines = [json.loads(line) for line in again.ledger.read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 3]
    assert {(line["run"], line["direction"], *line["clients"]) for line in lines} == {("small", "up", "clinic")}
    with pytest.raises(UnannouncedError, match="2 different updates left for group `tunable` in round 3"):
        egress(tmp_path).pass_update(update(3, fill=3.0), recipe, "job")
    egress(tmp_path).pass_update(update(3, fill=3.0), recipe, "another job")


def test_what_cannot_be_written_down_does_not_leave(recipe: Recipe, tmp_path: Path) -> None:
    """Nor does a part of its line stay, when there is room again."""
    guard = egress(tmp_path)
    guard.pass_update(update(1), recipe, "job")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (guard.ledger.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(StorageError, match=r"wire\.jsonl"):
            guard.pass_update(update(2), recipe, "job")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    guard.pass_update(update(3), recipe, "job")
    assert [json.loads(line)["round"] for line in guard.ledger.read_text().splitlines()] == [1, 3]


UNANNOUNCED = {
    "another tensor": (
        {TUNABLE: {"w": torch.ones(3), "rows": torch.ones(9)}},
        r"1 tensors of group `tunable` that were not announced, first `rows` \[9\] float32",
    ),
    "a larger tensor": ({TUNABLE: {"w": torch.ones(300)}}, r"of group `tunable` .*, first `w` \[300\]"),
    "a wider type": ({TUNABLE: {"w": torch.ones(3, dtype=torch.float64)}}, r"first `w` \[3\] float64"),
    "another group": ({ACTIVITY: {"w": torch.ones(3)}}, "of group `activity` that were not announced, first `w`"),
    "no round": ({"round": 0}, "round 0 of 4"),
    "a later round": ({"round": 5}, "round 5 of 4"),
}


@pytest.mark.parametrize("case", UNANNOUNCED)
def test_more_than_was_announced_does_not_leave(case: str, recipe: Recipe, tmp_path: Path) -> None:
    changes, reason = UNANNOUNCED[case]
    usual: dict[str, Any] = {"round": 1, TUNABLE: {"w": torch.ones(3)}} | changes
    update = sent(usual.pop("round"), usual)
    guard = egress(tmp_path)
    with pytest.raises(UnannouncedError, match=reason):
        guard.pass_answer(update.encode(), recipe, "job")
    assert not guard.ledger.exists()


def departure(work: str = "train", **groups: dict[str, torch.Tensor]) -> Update:
    return sent(1, groups, work=work)


def test_every_group_is_held_to_its_own_announcement(recipe: Recipe, tmp_path: Path) -> None:
    """A name that was announced in one group, or for one kind of work, is not announced in another."""
    guard = egress(tmp_path, works=["train", "predict"])
    spec = TensorSpec((2,))
    guard.announced = {"train": {"tunable": {"a": spec, "b": spec}, "control": {"c": spec}}, "predict": {}}
    two = torch.ones(2)
    guard.check(departure(tunable={"a": two, "b": two}, control={"c": two}), recipe, "job", "0")
    guard.check(departure(tunable={"a": two}), recipe, "job", "1")  # less than was announced
    guard.check(departure("predict"), recipe, "job", "2")
    for found in (
        departure(tunable={"c": two}),
        departure(control={"c": two, "a": two}),
        departure(predictions={"a": two}),
        departure("predict", tunable={"a": two}),
    ):
        with pytest.raises(UnannouncedError, match="1 tensors of group"):
            guard.check(found, recipe, "job", "3")
    with pytest.raises(UnannouncedError, match="work `evaluate`, which was not announced"):
        egress(tmp_path, works=["evaluate"]).check(departure("evaluate"), recipe, "job", "4")


def test_only_figures_that_were_announced_leave(recipe: Recipe, tmp_path: Path) -> None:
    guard = egress(tmp_path, works=["train", "evaluate"])
    works = ("train", "evaluate")
    facts = {work: extra_facts(work, ["macro_f1", "accuracy"]) for work in works}
    guard.announce(recipe, {work: {} for work in works}, facts, client="clinic", examples=5)
    assert SAID[-1] == "  figures of `evaluate`: accuracy, macro_f1"
    guard.pass_update(sent(1, {}, work="evaluate", extra={"macro_f1": 0.5}).encode(), recipe, "job")
    for work, name in (("evaluate", "mean_age"), ("train", "macro_f1")):
        found = sent(1, {}, work=work, extra={name: 0.5})
        with pytest.raises(UnannouncedError, match=f"1 figures that were not announced, first `{name}`"):
            guard.pass_update(found.encode(), recipe, "job")


def test_a_kind_of_work_is_what_it_declares_whatever_its_name(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WORKS, "probe", Work(evaluate, measures=True))
    monkeypatch.setitem(WORKS, "private-train", Work(train, trains=True, sends_update=True))
    assert extra_facts("probe", ["accuracy"]) == {"accuracy"}
    assert [Star().returns(work, 2) for work in ("private-train", "probe")] == [None, {}]
    guard = egress(tmp_path, works=["private-train", "probe"])
    guard.announce(recipe, {"private-train": {}, "probe": {}}, {}, client="clinic", examples=5)
    counts = [line for line in SAID if line.startswith("    number of ")][-2:]
    assert ["mean training loss" in line for line in counts] == [True, False]
    assert ["held-out examples" in line for line in counts] == [False, True]
    guard.pass_update(sent(0, {}, work="probe").encode(), recipe, "job")  # before round 1
    assert "figures of 5 held-out examples" in SAID[-1]
    with pytest.raises(UnannouncedError, match="round 0 of 4"):
        guard.pass_update(sent(0, {}, work="private-train").encode(), recipe, "job")


def test_a_measurement_is_announced_without_the_groups_of_the_protocol(tmp_path: Path) -> None:
    held_out = {"clients": 6, "per_round": 3, "rounds": 1, "holdout": 0.2}
    changes = {"protocol": {"kind": "distillation"}, "public": {"data": "builtin:pydoc"}, "evaluate": {"at": "clients"}}
    recipe = load_recipe(small_recipe(tmp_path, federation=held_out, **changes))
    guard = egress(tmp_path, works=["predict", "evaluate"])
    data = SimpleNamespace(
        recipe=recipe,
        federation=SimpleNamespace(sizes={"clinic": 5}),
        labels=SimpleNamespace(names=("a", "b")),
        metrics=("accuracy",),
    )
    side = SimpleNamespace(contract=Contract({"w": TensorSpec((3,))}, recipe.algorithm))
    Site(SiteData(train="rows.csv"), guard, tmp_path).announce(cast(Any, data), cast(Any, side))
    assert {work: list(groups) for work, groups in guard.announced.items()} == {
        "predict": ["predictions"],
        "evaluate": [],
    }


OTHER_WORKS = ("evaluate", "predict", "features", "vote", "probe", "retrieve", "Train", "train ", "")


@pytest.mark.parametrize("work", OTHER_WORKS)
def test_a_policy_of_the_version_before_allows_no_work_but_training(work: str, recipe: Recipe, tmp_path: Path) -> None:
    old = tmp_path / "policy.yaml"
    old.write_text("algorithms: [fedavg, fedprox]\ntunables: [lora, head]\nmax_rounds: 50\nmax_bytes: 2000000\n")
    guard = Egress(read_settings(old, Policy), tmp_path / "site", SAID.append)
    guard.announced = {"train": {}, work: {}}
    guard.admit(recipe)
    guard.admit_work("train")
    guard.check(departure("train"), recipe, "job", "0")
    for ask in (
        lambda: guard.admit_work(work),
        lambda: guard.announce(recipe, {work: {}}, {}, client="clinic", examples=5),
        lambda: guard.check(departure(work), recipe, "job", "1"),
    ):
        with pytest.raises(PolicyError, match="works: train, not") as caught:
            ask()
        assert caught.value.keys == ("works",)


def test_only_work_that_the_policy_names(tmp_path: Path) -> None:
    egress(tmp_path, works=["evaluate"]).admit_work("evaluate")
    with pytest.raises(PolicyError, match="works: evaluate, not train"):
        egress(tmp_path, works=["evaluate"]).admit_work("train")
    with pytest.raises(PolicyError, match="works: none, not train"):
        egress(tmp_path, works=[]).admit_work("train")


class Predicting(Star):
    """A protocol that asks for more work than training."""

    works: ClassVar[Sequence[str]] = ("train", "predict")


class Twice(Star):
    """A protocol in which a client answers twice in a round."""

    exchanges: ClassVar[int] = 2


def with_demands(recipe: Recipe, protocol: Protocol, *stages: Stage) -> Recipe:
    return recipe.model_copy(update={"updates": list(stages), "protocol": protocol})


def test_protocols_and_stages(recipe: Recipe, tmp_path: Path) -> None:
    asked = with_demands(recipe, Gossip(), Clip(norm=1.0), TopK(share=0.1), Clip(norm=1.0))
    egress(tmp_path).admit(asked)
    egress(tmp_path, protocols=["star", "gossip"], stages=["clip", "top-k"]).admit(asked)
    egress(tmp_path, protocols=["star"], stages=[]).admit(recipe)
    with pytest.raises(PolicyError) as caught:
        egress(tmp_path, protocols=["star"], stages=["clip"]).admit(asked)
    assert caught.value.keys == ("protocols", "stages")
    assert "protocols: star, not gossip; stages: clip, not top-k" in str(caught.value)


def test_a_protocol_that_asks_for_other_work_is_refused_before_it_begins(recipe: Recipe, tmp_path: Path) -> None:
    asked = with_demands(recipe, Predicting())
    with pytest.raises(PolicyError, match="works: train, not predict"):
        egress(tmp_path).admit(asked)
    egress(tmp_path, works=["train", "predict"]).admit(asked)


def test_a_round_that_is_asked_for_again_and_again_ends(recipe: Recipe, tmp_path: Path) -> None:
    """What has left may leave again, as a server that was killed asks for it. Other updates leave twice a round."""
    guard = egress(tmp_path)
    for fill in (1.0, 1.0, 1.0, 2.0, 2.0, 1.0):
        guard.pass_update(update(1, fill=fill), recipe, "job")
    with pytest.raises(UnannouncedError, match="2 different updates left for group `tunable` in round 1"):
        guard.pass_update(update(1, fill=3.0), recipe, "job")
    guard.pass_update(update(2, fill=3.0), recipe, "job")


def test_a_protocol_of_several_exchanges_has_as_many_updates_in_a_round(recipe: Recipe, tmp_path: Path) -> None:
    guard, asked = egress(tmp_path), with_demands(recipe, Twice())
    for fill in (1.0, 2.0, 3.0, 4.0):
        guard.pass_update(update(1, fill=fill), asked, "job")
    with pytest.raises(UnannouncedError, match="4 different updates left"):
        guard.pass_update(update(1, fill=5.0), asked, "job")


def test_a_refusal_is_told_and_written_down_at_the_site(recipe: Recipe, tmp_path: Path) -> None:
    guard = egress(tmp_path, max_rounds=3)
    with pytest.raises(PolicyError) as caught:
        guard.admit(recipe)
    told = str(guard.refuse(caught.value, "small"))
    assert told == "outside this site's policy (max_rounds); the site's own log has the details"
    assert SAID[-1] == "run small: refused: outside this site's policy (max_rounds: 3, not 4)"
    failed = guard.pass_answer(Failure("clinic", "ValueError: Jane Doe", "Traceback: Jane Doe"), recipe, "job")
    assert failed == Failure("clinic", "the client could not be trained; the site's own log has the details")
    assert "Jane Doe" in SAID[-1]
    noted = [json.loads(line) for line in guard.journal.events.read_text().splitlines()]
    assert [(event["kind"], event["run"], event["reason"]) for event in noted] == [
        ("refused", "small", "outside this site's policy (max_rounds: 3, not 4)"),
        ("failed", "small", "ValueError: Jane Doe"),
    ]
