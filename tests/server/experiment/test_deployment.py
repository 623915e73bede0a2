"""A run with clients that hold their own data equals the simulation of these clients."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import fedfm
from fedfm.errors import InterruptedRunError, RecipeError, TooFewClientsError
from fedfm.params import digest, load
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.runtimes.envelopes import Envelope, Prepare, Replies
from fedfm.runtimes.line import Part
from fedfm.server.experiment.deployment import RealSites
from fedfm.server.runs.finished import Run
from fedfm.server.runs.serving import for_sites
from fedfm.sites.egress import Egress
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData
from fedfm.trackers.listeners import Listener
from tests.alike import RECIPES
from tests.events import irregular
from tests.predictable import without_chance
from tests.small import small_recipe

NAMES = tuple("abcde")


class Near:
    """A line to sites in this process."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self.sites = sites
        self.envelopes: list[Envelope] = []
        self.parts = deque[Iterator[Part]]()

    def nodes(self, *, wait: bool = True) -> list[str]:
        return sorted(self.sites)

    def push(self, node: str, envelope: Envelope, *, most: int | None, within: float | None = None) -> None:
        self.envelopes.append(envelope)
        self.parts.append(self._answer(node, envelope))

    def pull(self, timeout: float | None = None) -> Part | None:
        while self.parts:
            if (part := next(self.parts[0], None)) is not None:
                return part
            self.parts.popleft()
        return None

    def drop(self) -> None:
        self.parts.clear()

    def _answer(self, node: str, envelope: Envelope) -> Iterator[Part]:
        part = None
        for part in self.sites[node].handle(envelope):
            yield Part(node, part, last=not isinstance(part.head, Replies))
        if part is None or isinstance(part.head, Replies):
            yield Part.end(node)

    def attend(self, check: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


def split(folder: Path, **changes: str) -> dict[str, SiteData]:
    """Each site's rows of the training file in a file of its own, with other names of columns and classes."""
    own = {}
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for name in NAMES:
        path = folder / f"{name}.csv"
        lines = [f"{row['text']},{['no', 'yes'][row['label']]}" for row in rows if row["site"] == name]
        path.write_text("\n".join(["review,liked", *lines]) + "\n")
        values = {"train": str(path), "text": ["review"], "label": "liked", "labels": {"no": "0", "yes": "1"}}
        own[name] = SiteData.model_validate(values | changes)
    return own


def at_sites(
    folder: Path, own: Mapping[str, SiteData], policy: Policy | None = None
) -> tuple[RealSites, list[str], Near]:
    said: list[str] = []
    egress = {name: Egress(policy or Policy(), folder / f"site-{name}", said.append) for name in own}
    line = Near({name: Site(data, egress[name], folder / f"site-{name}") for name, data in own.items()})
    return RealSites(NAMES, lambda experiment: line, said.append), said, line


def adapter(run: Run) -> str:
    return digest(load(run.path / "adapter" / "adapter_model.safetensors"))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 2}, runtime={"kind": "flower"})
    return for_sites(load_recipe(values), len(NAMES))


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_run_that_a_simulation_was(name: str, tmp_path: Path) -> None:
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 4}, runtime={"stack": 1}, **RECIPES[name])
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, said, line = at_sites(tmp_path, split(tmp_path))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert adapter(real) == adapter(simulated)
    for file in ("wire.jsonl", "clients.json"):
        mine, theirs = ((run.path / file).read_text() for run in (real, simulated))
        assert mine == theirs if file == "wire.jsonl" else [row["examples"] for row in json.loads(mine)] == [12] * 5
    assert "12 examples of" in said[0]
    texts = [envelope.text + str(envelope.blobs) for envelope in line.envelopes]
    assert not any(str(tmp_path) in text for text in texts), "the server's folders are not sent"


PRIVATE = {
    "federation": {"per_round": 3, "rounds": 2, "sampling": "poisson"},
    "aggregate": {"rule": "ffa"},
    "privacy": {"kind": "central", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, "accountant": "rdp"},
}


def test_t20_p7_a_private_run_with_sites_is_that_of_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohort, clipped sum, noise, ledger and ε; the site whose policy demands privacy takes part."""
    without_chance(monkeypatch)
    values = small_recipe(tmp_path, runtime={"stack": 1}, **PRIVATE)
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, said, _ = at_sites(tmp_path, split(tmp_path), Policy(privacy="central"))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert adapter(real) == adapter(simulated)
    for file in ("wire.jsonl", "privacy.jsonl"):
        assert (real.path / file).read_text() == (simulated.path / file).read_text()
    assert real.summary["privacy"] == simulated.summary["privacy"]
    assert real.summary["privacy"]["releases"] == 2
    assert any("privacy: central" in line for line in said)
    with pytest.raises(TooFewClientsError, match="privacy"):
        fedfm.run(
            for_sites(load_recipe(values, ["privacy={kind: none}", "name=open"]), len(NAMES)), deployment=deployment
        )


@pytest.mark.parametrize("rule", [{"rule": "ffa", "initial_a": "orthonormal"}, {"rule": "rolora"}, {"rule": "fedsvd"}])
def test_sites_train_the_factors_that_a_rule_names(rule: dict[str, str], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"federation": {"per_round": 3, "rounds": 2}, "aggregate": rule}
    values = small_recipe(tmp_path, runtime={"stack": 1}, tune={"kind": "lora", "r": 2}, **changes)
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, said, _ = at_sites(tmp_path, split(tmp_path))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert adapter(real) == adapter(simulated)
    assert (real.path / "wire.jsonl").read_text() == (simulated.path / "wire.jsonl").read_text()
    announced = {factor for line in said if " × " in line for factor in ("lora_A", "lora_B") if factor in line}
    assert announced == {"lora_A", "lora_B"} - ({"lora_A"} if rule["rule"] != "rolora" else set())


def test_sites_train_a_proxy_from_a_folder_of_the_servers(tmp_path: Path) -> None:
    cut = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [0], "closed_form": False, "interval": None}
    changes = {"federation": {"per_round": 3, "rounds": 2}, "runtime": {"stack": 1}}
    fedfm.build_proxy(load_recipe(small_recipe(tmp_path, proxy=cut, **changes)), tmp_path / "proxy")
    values = small_recipe(tmp_path, proxy={**cut, "path": str(tmp_path / "proxy")}, **changes)
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, _, line = at_sites(tmp_path, split(tmp_path))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert adapter(real) == adapter(simulated)
    assert not any(str(tmp_path) in envelope.text + str(envelope.blobs) for envelope in line.envelopes)


def test_sites_evaluate_as_simulated_clients_do_and_only_if_their_policy_names_it(tmp_path: Path) -> None:
    changes = {"federation": {"per_round": 3, "rounds": 2, "holdout": 0.25}, "evaluate": {"at": "clients"}}
    values = small_recipe(tmp_path, runtime={"stack": 1}, tune={"kind": "lora", "share": "not head"}, **changes)
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    with pytest.raises(TooFewClientsError, match="works"):
        fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=at_sites(tmp_path, split(tmp_path))[0])
    deployment, said, _ = at_sites(tmp_path, split(tmp_path), Policy(works=["train", "evaluate"]))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert {name: real.summary[name] for name in ("final", "final_by", "clients_spread")} == {
        name: simulated.summary[name] for name in ("final", "final_by", "clients_spread")
    }
    mine, theirs = (
        [without_time(row) for row in jsonl.records(run.path / "metrics.jsonl")] for run in (real, simulated)
    )
    assert mine == theirs
    # Messages down differ: they say from which version of its own state a site continues.
    mine, theirs = (
        [line for line in jsonl.records(run.path / "wire.jsonl") if line["direction"] == "up"]
        for run in (real, simulated)
    )
    assert mine == theirs
    assert not (real.path / "clients").exists(), "a site keeps its personal part"
    assert "with the initial values in the personal places" in (real.path / "adapter" / "README.md").read_text()
    assert [line for line in said if "for `evaluate`" in line]
    assert [line for line in said if "figures of 3 held-out examples" in line]


def without_time(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


def test_what_left_is_written_down_at_the_site(recipe: Recipe, tmp_path: Path) -> None:
    deployment, said, _ = at_sites(tmp_path, split(tmp_path))
    run = fedfm.run(recipe, deployment=deployment)
    up = [
        line
        for line in map(json.loads, (run.path / "wire.jsonl").read_text().splitlines())
        if line["direction"] == "up"
    ]
    there = []
    for name in NAMES:
        ledger = tmp_path / f"site-{name}" / "wire.jsonl"
        there += [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    assert sorted(json.dumps(line["tensors"]) for line in there) == sorted(json.dumps(line["tensors"]) for line in up)
    announced = [line for line in said if " × " in line]
    assert sum(int(line.split(" × ")[0]) for line in announced) == len(NAMES) * len(up[0]["tensors"])


def test_sites_hear_how_a_run_ended(recipe: Recipe, tmp_path: Path) -> None:
    deployment, said, _ = at_sites(tmp_path, split(tmp_path))
    run = fedfm.run(recipe, deployment=deployment)
    events = {name: list(jsonl.records(tmp_path / f"site-{name}" / "events.jsonl")) for name in NAMES}
    assert [event["kind"] for found in events.values() for event in found] == ["ended"] * len(NAMES)
    assert sum("run small: ended: completed after 2 rounds" in line for line in said) == len(NAMES)
    left = [line for line in said if "an update of" in line]
    assert len(left) == 2 * 3
    assert "run small, round 1 of 2: an update of 11.0 kB leaves, after" in left[0]

    class Stops(Listener):
        def on_round(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        fedfm.resume(run.path, ["federation.rounds=4"], deployment=deployment, listeners=[Stops()])
    assert said[-1].startswith("run small: ended: interrupted after 3 rounds")


def test_sites_hear_that_a_run_failed(recipe: Recipe, tmp_path: Path) -> None:
    deployment, said, line = at_sites(tmp_path, split(tmp_path))
    asked = 0

    def fails(*given: object) -> None:
        nonlocal asked
        asked += 1
        raise ValueError

    for site in line.sites.values():
        site._train = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(TooFewClientsError):
        fedfm.run(recipe, deployment=deployment)
    assert asked == 3
    assert sum("run small: ended: failed after 0 rounds; 0 updates have left" in text for text in said) == len(NAMES)


def test_a_run_outside_the_policy_does_not_begin(recipe: Recipe, tmp_path: Path) -> None:
    deployment, _, _ = at_sites(tmp_path, split(tmp_path), Policy(max_bytes=100, max_rounds=1))
    with pytest.raises(TooFewClientsError, match=r"(?s)node a: outside this site's policy \(max_rounds\)"):
        fedfm.run(recipe, deployment=deployment)
    assert not recipe.folder.exists()


def test_sites_that_do_not_fit_are_named_and_the_others_go_on(recipe: Recipe, tmp_path: Path) -> None:
    own = split(tmp_path)
    own["b"] = own["b"].model_copy(update={"text": ["nothing"]})
    deployment, said, _ = at_sites(tmp_path, own)
    run = fedfm.run(recipe, deployment=deployment)
    (warning,) = [line for line in said if "does not take part" in line]
    assert warning.startswith("b does not take part: the run does not fit what is at the site (data.text)")
    assert "nothing" not in warning
    assert any("no column `nothing`" in line for line in said)
    assert {event["client"] for event in irregular(run.events)} <= {"b"}


def test_sites_that_do_not_fit_are_named_before_a_proxy_is_made(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 2}, runtime={}, **RECIPES["fedpft"])
    own = split(tmp_path)
    own["b"] = own["b"].model_copy(update={"text": ["nothing"]})
    deployment, said, line = at_sites(tmp_path, own)
    recipe = for_sites(load_recipe(values), len(NAMES))
    experiment = deployment.build(recipe)
    with closing(deployment.reach(experiment)):
        (warning,) = [line for line in said if "does not take part" in line]
        assert warning.startswith("b does not take part: the run does not fit what is at the site (data.text)")
        assert deployment.informed(experiment).data.clients == dict.fromkeys("acde", 12) | {"b": 0}
    assert not any("model.safetensors" in envelope.text for envelope in line.envelopes)


def test_sites_tell_their_classes_under_randomised_response_once(recipe: Recipe, tmp_path: Path) -> None:
    tables = []
    for _ in range(2):
        deployment, said, line = at_sites(tmp_path, split(tmp_path), Policy(label_epsilon=1.0))
        del line.sites["e"]
        experiment = deployment.build(recipe)
        with closing(deployment.reach(experiment)):
            tables.append(deployment.informed(experiment).data.table())
        assert any("randomised response with ε = 1 for each example, leave" in text for text in said)
    assert tables[0] == tables[1]
    for row in tables[0][:4]:
        assert row["label_epsilon"] == 1.0
        estimates = row["labels"]
        assert isinstance(estimates, dict)
        assert set(estimates) == {"0", "1"}
    assert tables[0][4] == {"id": "e", "examples": 0, "labels": None, "holdout": 0}
    deployment, said, _ = at_sites(tmp_path, split(tmp_path), Policy(label_epsilon=2.0))
    with closing(deployment.reach(experiment)):
        told = deployment.informed(experiment).data.table()
        assert [row["labels"] is None for row in told] == [True] * 4 + [False]  # e had told nothing before
    assert any("remove label-counts.json to let these leave" in text for text in said)


def test_a_site_that_starts_again_still_has_its_proxy(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 1}, runtime={}, **RECIPES["fedpft"])
    sent = []
    for name in ("first", "again"):
        deployment, _, line = at_sites(tmp_path, split(tmp_path))
        fedfm.run(for_sites(load_recipe(values, [f"name={name}"]), len(NAMES)), deployment=deployment)
        heads = [envelope.head for envelope in line.envelopes if isinstance(envelope.head, Prepare)]
        sent.append([piece.file for head in heads for piece in head.pieces])
    assert sent[0].count("model.safetensors") == 3
    assert sent[1] == []


def test_spare_sites_are_asked_and_not_waited_for(tmp_path: Path) -> None:
    values = small_recipe(
        tmp_path, federation={"per_round": 3, "rounds": 2, "quorum": 1.0}, runtime={"kind": "flower", "spares": 0.5}
    )
    deployment, _, _ = at_sites(tmp_path, split(tmp_path))
    run = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert [(event["round"], event["kind"]) for event in irregular(run.events)] == [
        (1, "late"),
        (1, "late"),
        (2, "late"),
        (2, "late"),
    ]
    wire = [json.loads(line) for line in (run.path / "wire.jsonl").read_text().splitlines()]
    assert [len(line["clients"]) for line in wire if line["direction"] == "down"] == [5, 5]
    assert sum(line["direction"] == "up" for line in wire) == 2 * 3


def test_it_can_be_continued_only_with_them(recipe: Recipe, tmp_path: Path) -> None:
    deployment, _, _ = at_sites(tmp_path, split(tmp_path))
    run = fedfm.run(recipe, deployment=deployment)
    with pytest.raises(RecipeError, match="`fedfm server` runs it with them"):
        fedfm.resume(run.path, ["federation.rounds=3"])
    with pytest.raises(RecipeError, match="`fedfm server` runs it with them"):
        fedfm.run(recipe, ["name=other"])
    longer = fedfm.resume(run.path, ["federation.rounds=3"], deployment=deployment)
    assert longer.summary["rounds"] == 3


def test_sites_that_allow_it_send_predictions_as_a_simulation_does(tmp_path: Path) -> None:
    protocol = {"kind": "distillation", "examples": 8, "steps": 2, "batch_size": 4}
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 2}, protocol=protocol)
    values |= {"public": {"data": str(tmp_path / "train.jsonl"), "limit": 16}}
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, said, _ = at_sites(tmp_path, split(tmp_path), Policy(works=["predict"]))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert adapter(real) == adapter(simulated)
    assert (real.path / "wire.jsonl").read_text() == (simulated.path / "wire.jsonl").read_text()
    assert [line for line in said if " × " in line] == ["    1 × logits [8, 2] float32 (group predictions)"] * 5


def test_a_policy_that_does_not_name_it_refuses_to_predict(tmp_path: Path) -> None:
    protocol = {"kind": "distillation", "examples": 8}
    values = small_recipe(tmp_path, federation={"per_round": 3, "rounds": 2}, protocol=protocol)
    values |= {"public": {"data": str(tmp_path / "train.jsonl")}}
    deployment, said, _ = at_sites(tmp_path, split(tmp_path))
    with pytest.raises(TooFewClientsError, match="works"):
        fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert any("works: train, not predict" in line for line in said)
