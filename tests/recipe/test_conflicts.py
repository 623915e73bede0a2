from __future__ import annotations

from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.recipe.conflicts import CHECKS

LM = "task.kind=causal-lm"
IMAGES = "task.kind=image-classification"

AT_SITES = ["data.train=sites", "data.test=test.jsonl"]

REFUSED = {
    "threads and processes": (
        ["runtime.threads=2", "runtime.processes=2"],
        "runtime.threads",
        "each of 2 processes computes with one thread",
    ),
    "a prefix computed twice": (
        ["tune.kind=prefix", "local.recompute=blocks"],
        "local.recompute",
        "use prompt or lora",
    ),
    "no test set": (["data.test=null"], "data.test", "a fraction such as 0.2 to hold back from train"),
    "nothing to test on": ([*AT_SITES, "data.test=0.2"], "data.test", "nothing to hold back"),
    "nothing to choose by": ([*AT_SITES, "data.validation=0.2"], "data.validation", "nothing to hold back"),
    "nothing to split": ([*AT_SITES, "data.limit=9"], "data.train", "leave out data.client, data.limit"),
    "nothing to hold out": ([*AT_SITES, "federation.holdout=0.1"], "federation.holdout", "none of it"),
    "unknown sizes": ([*AT_SITES, "federation.sampling=weighted"], "federation.sampling", "not known before"),
    "nothing to pool": ([*AT_SITES, "evaluate.baselines=[pooled]"], "evaluate.baselines", "not here"),
    "nothing left": (["data.test=0.5", "data.validation=0.5"], "data.validation", "hold back all of train"),
    "pairs": ([LM, "data.text=[a, b]"], "data.text", "causal-lm takes one"),
    "large cohort": (["federation.clients=5", "federation.per_round=6"], "federation.per_round", "there are 5"),
    "large cohort by default": (["federation.per_round=11"], "federation.per_round", "there are 10"),
    "no column": (["federation.partition.kind=column"], "federation.partition", "set data.client"),
    "two splits": (["data.client=c", "federation.partition.kind=iid"], "data.client", "leave out one of the two"),
    "no labels": ([LM, "federation.partition.kind=dirichlet"], "federation.partition", "causal-lm has none"),
    "no labels to sort": ([LM, "federation.partition.kind=shards"], "federation.partition", "causal-lm has none"),
    "twice weighted": (
        ["aggregate.weights=examples", "federation.sampling=weighted"],
        "aggregate.weights",
        "would count twice",
    ),
    "a draw, and who is fast": (
        ["runtime={kind: ray, spares: 0.5}", "federation.sampling=poisson"],
        "federation.sampling",
        "use uniform, or runtime.spares=0",
    ),
    "prompts on images": ([IMAGES, "tune.kind=prompt"], "tune.kind", "virtual tokens"),
    "prefixes on images": ([IMAGES, "tune.kind=prefix"], "tune.kind", "virtual tokens"),
    "prompts on masked text": (["task.kind=masked-lm", "tune.kind=prompt"], "tune.kind", "no virtual tokens"),
    "prefixes on masked text": (["task.kind=masked-lm", "tune.kind=prefix"], "tune.kind", "no virtual tokens"),
    "metric": (["evaluate.metrics=[perplexity]"], "evaluate.metrics", "no metric of text-classification"),
    "patience": (["evaluate.patience=3"], "evaluate.patience", "needs data.validation"),
    "a proxy without public data": (["proxy={kind: fedpft}"], "public", "set public.data"),
    "alignment without public data": (["proxy={kind: fedpft, path: p}"], "public", "proxy.interval=null"),
    "cut neurons": (
        ["proxy={kind: fedpft}", "public={data: builtin:pydoc}", "tune.kind=full"],
        "tune.kind",
        "neurons that the proxy cuts",
    ),
    "cut neurons of an FFN": (
        ["proxy={kind: fedpft}", "public={data: builtin:pydoc}", "tune={kind: dora, target_modules: all}"],
        "tune.kind",
        "neurons",
    ),
}

ALLOWED = {
    "clients with their own data": [*AT_SITES, "data.labels=[no, yes]"],
    "fractions": ["data.test=0.2", "data.validation=0.2"],
    "pairs": ["data.text=[premise, hypothesis]"],
    "whole cohort": ["federation.clients=5", "federation.per_round=5"],
    "fraction of few": ["federation.clients=5", "federation.per_round=0.9"],
    "natural clients are counted later": ["data.client=c", "federation.per_round=500"],
    "column": ["data.client=c", "federation.partition.kind=column"],
    "quantity without labels": [LM, "federation.partition.kind=quantity"],
    "weights": ["federation.sampling=weighted"],
    "uniform weights": ["federation.sampling=weighted", "aggregate.weights=uniform"],
    "prompts": ["tune.kind=prompt"],
    "prompts of generators": [LM, "tune.kind=prompt"],
    "metric": ["evaluate.metrics=[macro_f1, accuracy]"],
    "metric of language": [LM, "evaluate.metrics=[perplexity]"],
    "patience": ["evaluate.patience=3", "data.validation=0.1"],
    "a proxy as it is cut": ["proxy={kind: fedpft, closed_form: false, distill: null, interval: null}"],
    "a proxy that is there": ["proxy={kind: fedpft, path: p, interval: null}"],
    "adapters of a cut FFN": ["proxy={kind: fedpft}", "public={data: builtin:pydoc}", "tune.target_modules=all"],
    "public data for nobody": ["public={data: builtin:pydoc}"],
    "a prompt computed twice": ["tune.kind=prompt", "local.recompute=blocks"],
    "threads of one process": ["runtime.threads=2", "runtime.processes=1"],
    "steps and epochs": ["local.max_steps=3", "local.epochs=2"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_choices_that_exclude_each_other(values: dict[str, Any], case: str) -> None:
    overrides, where, reason = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        load_recipe(values, overrides)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert reason in problem.message


@pytest.mark.parametrize("case", ALLOWED)
def test_choices_that_go_together(values: dict[str, Any], case: str) -> None:
    load_recipe(values, ALLOWED[case])


def test_every_check_is_tried_above() -> None:
    assert {check.keys[0] for check in CHECKS} == {where for _, where, _ in REFUSED.values()}


def test_the_nearest_metric(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="did you mean `accuracy`"):
        load_recipe(values, ["evaluate.metrics=[acuracy]"])
