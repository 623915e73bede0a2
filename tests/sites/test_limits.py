"""A server that asks for more than a limit is refused before anything is built, and the site takes the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers

from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.recipe import load_recipe
from fedfm.runtimes.envelopes import Envelope, File, Prepare, Ready, Refusal
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.runtime_factory import over_sites
from fedfm.server.runs.serving import for_sites
from fedfm.sites import patterns
from fedfm.sites.causes import Cause
from fedfm.sites.disclosure import PolicyError
from fedfm.sites.egress import Egress
from fedfm.sites.limits import check_files
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import SiteData
from fedfm.tasks import TASKS
from tests.small import small_recipe

NEVER = "(.*a)*(.*b)*(.*c)*(.*d)*(.*e)*x"
"""A regular expression that does not return on names of modules."""

LONG = "*?" * 300_000
"""A pattern of names that takes seconds to read."""

HUGE = 10**12

ASKED: dict[str, tuple[str, Any, str]] = {  # as much as a recipe may say
    "epochs": ("local", {"epochs": 100_000, "batch_size": 1}, "max_steps"),
    "steps": ("local", {"max_steps": 10_000_000}, "max_steps"),
    "a long text": ("data", {"max_length": 1_000_000}, "max_length"),
    "a rank": ("tune", {"kind": "lora", "r": 100_000}, "max_rank"),
    "virtual tokens": ("tune", {"kind": "prompt", "num_virtual_tokens": 100_000}, "max_virtual_tokens"),
}

NO_RECIPE: dict[str, tuple[str, Any, str]] = {  # more than that
    "epochs": ("local", {"epochs": HUGE}, "local.epochs"),
    "more digits than a float holds": ("local", {"epochs": 10**400}, "local.epochs"),
    "a long text": ("data", {"max_length": HUGE}, "data.max_length"),
    "a rank": ("tune", {"kind": "lora", "r": HUGE}, "tune.r"),
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    recipe = for_sites(load_recipe(small_recipe(tmp_path_factory.mktemp("server"))), 3)
    return build_experiment(recipe, ["clinic", "ward", "lab"])


@pytest.fixture
def job(experiment: Experiment) -> dict[str, Any]:
    return json.loads(json.dumps(over_sites(experiment, None).job))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    def make(policy: Policy | None = None, **own: Any) -> Site:
        (tmp_path / "rows.csv").write_text(f"text,label\n{'a' * 40}b,1\nbad,0\n")
        data = SiteData(train=str(tmp_path / "rows.csv"), **own)
        return Site(data, Egress(policy or Policy(), tmp_path / "state", print), tmp_path / "state")

    return make


def asked(site: Site, job: dict[str, Any], **more: Any) -> Envelope:
    (answer,) = site.handle(Envelope(Prepare(job=job, client="clinic", **more)))
    return answer


def changed(job: dict[str, Any], group: str, changes: dict[str, Any]) -> dict[str, Any]:
    whole = changes if group == "tune" else job["recipe"][group] | changes
    return job | {"recipe": job["recipe"] | {group: whole}}


@pytest.mark.parametrize("case", ASKED)
def test_what_a_recipe_asks(case: str, job: dict[str, Any], site: Callable[..., Site]) -> None:
    group, changes, key = ASKED[case]
    here = site()
    assert asked(here, changed(job, group, changes)) == Envelope(Refusal(reason=Cause.POLICY.sentence(key)))
    assert isinstance(asked(here, job).head, Ready)


@pytest.mark.parametrize("case", NO_RECIPE)
def test_what_no_recipe_may_ask(case: str, job: dict[str, Any], site: Callable[..., Site]) -> None:
    group, changes, key = NO_RECIPE[case]
    here = site()
    assert asked(here, changed(job, group, changes)) == Envelope(Refusal(reason=Cause.RECIPE.sentence(key)))
    assert isinstance(asked(here, job).head, Ready)


def test_what_is_no_job(job: dict[str, Any], site: Callable[..., Site]) -> None:
    here = site()
    for value in (None, [], {}, {"name": 3}, {"name": {}}, "text", 10**5000, float("nan")):
        for part in ("recipe", "model", "version", "other"):
            assert isinstance(asked(here, job | {part: value}).head, Refusal)
    assert isinstance(asked(here, job).head, Ready)


def test_a_batch_has_no_more_examples_than_the_site(job: dict[str, Any], site: Callable[..., Site]) -> None:
    large = changed(job, "local", {"batch_size": 1_000_000})
    assert isinstance(asked(site(), large).head, Ready)
    refused = asked(site(Policy(max_batch_size=1)), large)
    assert refused == Envelope(Refusal(reason=Cause.POLICY.sentence("max_batch_size")))
    assert isinstance(asked(site(Policy(max_batch_size=1), batch_size=1), large).head, Ready), "data.yaml lowers it"


ENDLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "tune.target_modules": ("tune", {"kind": "ia3", "target_modules": NEVER}),
    "tune.feedforward_modules": ("tune", {"kind": "ia3", "target_modules": ".*query", "feedforward_modules": NEVER}),
    "tune.share": ("tune", {"kind": "lora", "share": ["*lora_A*", LONG]}),
    "federation.ranks": ("federation", {"ranks": {LONG: 2}}),
}


@pytest.mark.parametrize("key", ENDLESS)
def test_a_pattern_that_does_not_return(
    key: str, job: dict[str, Any], site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    here = site()
    assert asked(here, changed(job, *ENDLESS[key])) == Envelope(Refusal(reason=Cause.RECIPE.sentence(key)))
    assert isinstance(asked(here, job).head, Ready)


def test_patterns_that_return_pass(job: dict[str, Any]) -> None:
    names = ["bert.encoder.layer.0.attention.self.query"]
    for chosen in ("attention", r".*\.query", ["query"]):
        tune = {"kind": "lora", "target_modules": chosen, "share": ["*lora_A*", "not head"]}
        asks = changed(changed(job, "tune", tune), "federation", {"ranks": {"hospital-*": 2}})
        patterns.check_patterns(load_recipe(asks["recipe"]), names)


@pytest.mark.parametrize("chosen", ["(", "a{99999999999999999999}", "(" * 10**5 + ")" * 10**5])
def test_what_is_no_pattern(chosen: str, job: dict[str, Any], site: Callable[..., Site]) -> None:
    wrong = changed(job, "tune", {"kind": "lora", "target_modules": chosen})
    assert asked(site(), wrong) == Envelope(Refusal(reason=Cause.RECIPE.sentence("tune.target_modules")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    found = load_backbone(ModelSettings(path="builtin:tiny-bert"), TASKS["text-classification"].auto_class, seed=0)
    found.model.save_pretrained(folder)
    found.processor.save_pretrained(folder)
    return folder


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"num_hidden_layers": 10**7}, "max_layers"),
    "layers as text of a number that no list holds": ({"num_hidden_layers": HUGE}, "max_layers"),
    "layers inside": ({"text_config": {"n_layer": 10**7}}, "max_layers"),
    "experts": ({"num_local_experts": 10**7}, "max_layers"),
    "a vocabulary": ({"vocab_size": HUGE}, "max_parameters"),
    "a width": ({"intermediate_size": HUGE}, "max_parameters"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_a_model_says_of_itself(
    case: str, job: dict[str, Any], site: Callable[..., Site], model: Path, tmp_path: Path
) -> None:
    changes, key = CONFIGS[case]
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    assert asked(site(model=str(folder)), job) == Envelope(Refusal(reason=Cause.POLICY.sentence(key)))


def test_a_lower_limit_is_kept(job: dict[str, Any], site: Callable[..., Site]) -> None:
    for limit in ({"max_layers": 1}, {"max_parameters": 1000}, {"max_bytes": 100}):
        (key,) = limit
        assert asked(site(Policy(**limit)), job) == Envelope(Refusal(reason=Cause.POLICY.sentence(key)))


def test_an_image_processor_that_makes_large_images(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 1000000, "width": NaN}, "do_resize": true}')
    with pytest.raises(PolicyError) as caught:
        check_files(tmp_path, Policy())
    assert caught.value.keys == ("max_image_size", "max_image_size")
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"height": 224, "width": 224}}')
    check_files(tmp_path, Policy())


def test_a_proxy_that_is_too_large_is_not_downloaded(job: dict[str, Any], site: Callable[..., Site]) -> None:
    proxied = changed(job, "proxy", {"kind": "fedpft"})
    proxied["model"] = None
    proxied["recipe"]["public"] = {"data": "builtin:pydoc"}
    file = File(name="model.safetensors", size=HUGE, sha256="0" * 64)
    answer = asked(site(), proxied, files=(file,))
    assert answer == Envelope(Refusal(reason=Cause.POLICY.sentence("max_download_bytes")))


def test_a_tokenizer_that_panics(job: dict[str, Any], site: Callable[..., Site], model: Path, tmp_path: Path) -> None:
    """Its regular expression reaches the limit of retries in native code, which raises no Exception."""
    found = load_backbone(ModelSettings(path=str(model)), TASKS["text-classification"].auto_class, seed=0)
    found.model.save_pretrained(tmp_path / "panics")
    found.processor.save_pretrained(tmp_path / "panics")
    file = tmp_path / "panics" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"] = json.loads(normalizers.Replace(Regex("(a|aa)+$"), "c").__getstate__())
    file.write_text(json.dumps(content))
    here = site(model=str(tmp_path / "panics"))
    assert asked(here, job) == Envelope(Refusal(reason=Cause.DATA.sentence()))
    here.site_data = site().site_data
    assert isinstance(asked(here, job).head, Ready), "the site goes on"
