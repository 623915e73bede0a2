"""Every kind of model that people use: loaded as transformers loads it, tuned, saved, and loaded by plain peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from fedfm import Listener, run
from fedfm.errors import RecipeError
from fedfm.models.backbones import load_processor
from fedfm.models.families import FAMILIES
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import IA3, TUNABLES, BitFit, Lora, Prefix, Prompt
from fedfm.proxies import PROXIES, ProxySettings
from fedfm.proxies.pair import make_pair
from fedfm.recipe import load_recipe
from fedfm.server import plan
from tests.models.cases import TASKS, batch, load, logits
from tests.models.kinds import KINDS, UNDESCRIBED, folder_of
from tests.small import small_recipe

ALL = KINDS | UNDESCRIBED
CASES = [(name, task) for name, kind in ALL.items() for task in kind.tasks]


def step(model: Any, parameters: Any, inputs: dict[str, torch.Tensor]) -> None:
    model(**inputs).logits.square().mean().backward()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad.sign()


@pytest.mark.parametrize(("name", "task"), CASES)
def test_it_is_loaded_as_transformers_loads_it(name: str, task: str) -> None:
    backbone = load(name, task)
    folder = Path(backbone.name)
    plain, report = TASKS[task].auto_class.from_pretrained(
        folder, config=backbone.model.config, local_files_only=True, output_loading_info=True
    )
    assert {*report["missing_keys"]} == {*backbone.new_head}
    theirs = plain.state_dict()
    for parameter, value in backbone.model.state_dict().items():
        if parameter not in backbone.new_head:
            assert torch.equal(theirs[parameter], value), parameter
    plain.load_state_dict(backbone.model.state_dict())
    inputs = batch(backbone)
    assert torch.equal(logits(plain, inputs), logits(backbone.model, inputs))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_tuned_and_saved_it_loads_with_plain_peft(name: str, task: str, tmp_path: Path) -> None:
    backbone = load(name, task)
    tunable = Lora(r=2).attach(backbone, task_type=TASKS[task].task_type, seed=0)
    inputs = batch(backbone)
    before = logits(tunable.model, inputs)
    step(tunable.model, tunable.parameters.values(), inputs)
    after = logits(tunable.model, inputs)
    assert not torch.allclose(after, before, atol=1e-4)
    tunable.save(tmp_path, backbone.processor)
    again = PeftModel.from_pretrained(load(name, task, seed=99).model, str(tmp_path))
    assert torch.equal(logits(again, inputs), after)
    torch.testing.assert_close(logits(tunable.merged(), inputs), after, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, kind in ALL.items() if "image" not in kind.tasks])
def test_the_longest_text_that_the_tokenizer_gives_fits(name: str) -> None:
    backbone = load(name, ALL[name].tasks[0])
    if backbone.processor.model_max_length > 10_000:
        return  # of any length
    inputs = backbone.processor("x" * 999, truncation=True, return_tensors="pt")
    assert logits(backbone.model, dict(inputs)).isfinite().all()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.tasks[0] == "text"])
def test_padding_changes_nothing(name: str) -> None:
    backbone = load(name, "text")
    together = batch(backbone)
    alone = {key: tensor[:1, : together["attention_mask"][0].sum()] for key, tensor in together.items()}
    torch.testing.assert_close(
        logits(backbone.model, together)[:1], logits(backbone.model, alone), atol=1e-5, rtol=1e-4
    )


# what is not described


@pytest.mark.parametrize("name", UNDESCRIBED)
def test_a_model_that_is_not_described_is_said_to_be_so(name: str) -> None:
    (said,) = load(name, UNDESCRIBED[name].tasks[0]).warnings
    assert said.startswith(f"fedfm has no description of `{UNDESCRIBED[name].config.model_type}` models")


def test_a_model_that_is_described_comes_without_a_warning() -> None:
    assert load("olmo2", "causal").warnings == ()


@pytest.mark.parametrize("name", UNDESCRIBED)
def test_attention_and_the_rest_are_told_apart_by_name(name: str) -> None:
    task = UNDESCRIBED[name].tasks[-1]
    chosen = {}
    for part in ("attention", "ffn", "all"):
        backbone = load(name, task)
        tunable = Lora(r=1, target_modules=part).attach(backbone, task_type=TASKS[task].task_type, seed=0)
        chosen[part] = {parameter for parameter in tunable.parameters if "lora_A" in parameter}
    assert chosen["attention"] | chosen["ffn"] == chosen["all"]
    assert not chosen["attention"] & chosen["ffn"]
    assert all("att" in parameter.lower() for parameter in chosen["attention"])
    assert chosen["ffn"]


@pytest.mark.parametrize("kind", [IA3, Prompt, Prefix, BitFit])
def test_a_tunable_that_must_know_the_parts_is_refused(kind: type[IA3 | Prompt | Prefix | BitFit]) -> None:
    with pytest.raises(RecipeError, match=r"tune\.kind: fedfm has no description of `cohere` models; use lora"):
        kind().attach(load("cohere", "causal"), task_type="CAUSAL_LM", seed=0)


@pytest.mark.parametrize("proxy", [made for made in PROXIES.values() if made.is_sent])
@pytest.mark.parametrize(
    ("name", "task", "missing"),
    [
        ("cohere", "causal", "fedfm has no description of the blocks and FFNs of `cohere` models"),
        ("albert", "text", "the layers of albert share their weights"),
        ("mixtral", "causal", "the FFNs of mixtral are experts"),
    ],
)
def test_a_proxy_of_it_is_refused_by_what_is_missing(
    name: str, task: str, missing: str, proxy: type[ProxySettings]
) -> None:
    with pytest.raises(RecipeError, match=rf"proxy\.kind: .* has no proxy: {missing}.*; use `none`"):
        make_pair(proxy(), load(name, task), None, seed=0)


@pytest.mark.parametrize("part", ["ffn", "all"])
def test_experts_are_not_linear_layers(part: str) -> None:
    with pytest.raises(RecipeError, match=r"tune\.target_modules: the FFNs of qwen3_moe are experts"):
        Lora(target_modules=part).attach(load("qwen3-moe", "causal"), task_type="CAUSAL_LM", seed=0)
    with pytest.raises(RecipeError, match=r"tune\.kind: the FFNs of qwen3_moe are experts"):
        TUNABLES["ia3"]().attach(load("qwen3-moe", "causal"), task_type="CAUSAL_LM", seed=0)


def test_positions_are_counted_as_the_model_counts_them() -> None:
    lengths = {
        name: load_processor(ModelSettings(path=str(folder_of(name))), "text").model_max_length
        for name in ("xlm-roberta", "mpnet", "camembert")
    }
    positions = KINDS["mpnet"].make().max_position_embeddings
    assert lengths == {"xlm-roberta": positions - 1, "camembert": positions - 1, "mpnet": positions - 2}


def test_a_run_says_that_its_model_is_not_described_and_leaves_an_adapter(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model={"path": str(folder_of("roformer"))})
    heard: list[str] = []
    listener = Listener()
    listener.on_start = lambda plan: heard.extend(plan["warnings"])  # type: ignore[method-assign]
    settings = load_recipe(recipe, ["federation.rounds=1", "evaluate.baselines=[]"])
    finished = run(settings, listeners=[listener], profile=True)
    (said,) = plan(settings)["warnings"]
    assert heard == [said]
    assert finished.folder.adapter.is_dir()
    assert finished.recipe.runtime.stack == "off"


def test_blocks_that_are_not_described_are_not_recomputed(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model={"path": str(folder_of("roformer"))})
    with pytest.raises(RecipeError, match=r"local\.recompute: the blocks of `roformer` models are not described"):
        plan(load_recipe(recipe, ["local.recompute=blocks"]))


def test_the_documentation_names_every_type() -> None:
    table = Path("docs/models.md").read_text(encoding="utf-8")
    types = {model_type for family in FAMILIES.values() for model_type in family.model_types}
    assert {name for name in types if f"`{name}`" not in table} == set()
