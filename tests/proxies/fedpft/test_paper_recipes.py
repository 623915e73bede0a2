"""The recipes of the paper's tables: what it states is in them, and their proxies have its sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as hf

from fedfm.proxies.fedpft.construct import compressed_blocks, counts, make_proxy
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.sizes import block_parameters
from fedfm.recipe import load_recipe
from tests.models.cases import load

ROBERTA = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}
MODELS = {
    "paper-table1-bert": ("tiny-bert", hf.BertConfig(num_labels=2), 1_538),
    "paper-table1-roberta": ("tiny-roberta", hf.RobertaConfig(num_labels=2, **ROBERTA), 592_130),
}
"""Recipe → a small model of the same family, the config of the recipe's model, and parameters of its head."""

recipes = pytest.mark.parametrize("name", MODELS)


@recipes
def test_what_the_paper_states_is_in_its_recipe(name: str) -> None:
    """arXiv:2404.11536, Table 4 and its figures, and the command in the README of the released code."""
    recipe = load_recipe(name)
    federation, local, proxy = recipe.federation, recipe.local, recipe.proxy
    assert (federation.clients, federation.per_round, recipe.partition.kind) == (100, 10, "iid")
    assert (local.epochs, local.batch_size, local.learning_rate, local.lr_scheduler_type) == (1, 16, 8e-4, "linear")
    assert isinstance(proxy, FedPFT)
    assert proxy.distill is not None
    assert (proxy.interval, proxy.align.share, proxy.closed_form, proxy.score) == (10, 0.5, False, "concat-l2")
    assert (proxy.distill.learning_rate, proxy.distill.warmup_ratio, proxy.align.learning_rate) == (6e-4, 0.048, 6e-4)


@recipes
def test_its_proxy_and_its_tunable_have_the_papers_counts(name: str) -> None:
    """47 M of 81 M in units of 2²⁰; LoRA of rank 8 on four matrices of 12 layers, and the head."""
    recipe, (small, config, head) = load_recipe(name), MODELS[name]
    backbone = load(small, "text")
    with torch.device("meta"):
        model = hf.AutoModelForSequenceClassification.from_config(config)
        backbone = replace(backbone, model=model)
        assert isinstance(recipe.proxy, FedPFT)
        widths = counts(recipe.proxy, compressed_blocks(backbone, recipe.proxy.keep_layers))
        assert set(widths.values()) == {768}
        proxy = make_proxy(backbone, {block: torch.arange(width) for block, width in widths.items()})
        assert block_parameters(model, backbone.family) == 85_054_464
        assert block_parameters(proxy.model, backbone.family) == 49_641_984
        tunable = recipe.tune.attach(proxy, task_type="SEQ_CLS", seed=0)
    assert sum(parameter.numel() for parameter in tunable.parameters.values()) == 589_824 + head
