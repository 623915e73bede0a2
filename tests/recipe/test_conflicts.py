from __future__ import annotations

from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.capabilities import PLAIN_KEYS
from fedfm.recipe.conflicts import CHECKS
from fedfm.recipe.fields import all_keys

LM = "task.kind=causal-lm"
IMAGES = "task.kind=image-classification"

TWO_TASKS = "task={kind: multi, tasks: [{name: a, kind: text-classification}, {name: b, kind: text-classification}]}"
AT_SITES = ["data.train=sites", "data.test=test.jsonl"]

DISTILLED = ["protocol.kind=distillation", "public={data: builtin:pydoc}"]
SLOPES = ["local.optimizer=sgd", "local.max_grad_norm=null", "protocol.kind=fedkseed"]
MASKS = ["tune.kind=mask", "algorithm.name=fedpm"]
POSTERIOR = [*MASKS, "updates=[{kind: bernoulli}]"]
OTHERS = "federation.models=[{path: builtin:tiny-gpt2, clients: 2}]"

SECURE = ["secure.kind=secagg", "federation.per_round=5"]

REFUSED = {
    "questions to a classifier": (["ask.chunk_tokens=32"], "ask", "cannot be asked questions; it is for retrieval"),
    "synthetic pairs": (
        ["protocol.kind=evolution", "tune.kind=head", "data.text=[premise, hypothesis]"],
        "data.text",
        "writes examples of one text, not pairs: name one column",
    ),
    "a matrix of nothing": (["evaluate.matrix=true"], "evaluate.matrix", "set federation.holdout"),
    "a round without clients": (
        ["federation.presence={'*': [2, null]}"],
        "federation.presence",
        "nobody is there in round 1: let more of the 10 clients (federation.clients) be there",
    ),
    "a round between those who leave and those who come": (
        ["federation.presence={'[0-4]': [1, 6], '*': [8, null]}"],
        "federation.presence",
        "nobody is there in round 7",
    ),
    "fewer clients there than a round needs": (
        ["federation.presence={'[0-7]': [1, 6]}", "federation.min_clients=3"],
        "federation.presence",
        "only 2 clients are there, and a round needs 3, in round 7",
    ),
    "presence of nobody": (["federation.presence={'ward-*': [1, 5]}"], "federation.presence", "matches 'ward-*'"),
    "presence of sites": (
        [*AT_SITES, "federation.presence={'*': [1, 5]}"],
        "federation.presence",
        "real sites come and go by themselves",
    ),
    "presence and clients' privacy": (
        ["federation.presence={'0': [1, 5]}", "privacy={kind: central, noise_multiplier: 1.0}"],
        "privacy.kind",
        "its accountant draws from all clients in every round",
    ),
    "replay without a stream": (["local.replay={examples: 10}"], "local.replay", "there are no earlier tasks"),
    "compressed differences between sites": (
        [*AT_SITES, "protocol.kind=gossip", "updates=[{kind: quantize}]"],
        "updates",
        "between sites stands the server, which gets whole changes: leave updates out",
    ),
    "classes renamed at sites": (
        [*AT_SITES, "federation.label_groups=2"],
        "federation.label_groups",
        "needs simulated clients: the labels of the clients' data are changed; set 1",
    ),
    "sources of several tasks for one": (["data.train=tasks"], "data.train", "stands for the sources of several tasks"),
    "a label beside those of tasks": ([TWO_TASKS, "data.label=mood"], "data.label", "say it in task.tasks"),
    "classes beside those of tasks": ([TWO_TASKS, "data.labels=[good, bad]"], "data.labels", "say it in task.tasks"),
    "clients that never train in groups": (
        ["federation.unseen=2", "federation.label_groups=2"],
        "federation.unseen",
        "are in no group of federation.label_groups",
    ),
    "clients that never train, not evaluated": (
        ["federation.unseen=2", "evaluate.clients=0"],
        "evaluate.clients",
        "the clients of federation.unseen are not evaluated",
    ),
    "pairs compared with nobody": (
        ["task.kind=retrieval", "data.text=[question, passage]", "local.batch_size=1"],
        "local.batch_size",
        "compares the examples of a batch with each other",
    ),
    "pairs measured alone": (
        ["task.kind=retrieval", "data.text=[question, passage]", "evaluate.batch_size=1"],
        "evaluate.batch_size",
        "compares the examples of a batch with each other",
    ),
    "clients of one kind without towers": (
        ["federation.modalities=[image, text]"],
        "federation.modalities",
        "trains the tower of the other kind",
    ),
    "attention on features without images and texts": (
        ["tune.kind=attention-adapter"],
        "tune.kind",
        "`attention-adapter` needs two towers: it weighs the features",
    ),
    "a prefix in two towers": (
        ["task.kind=image-text", "tune.kind=prefix"],
        "tune.kind",
        "peft has no place for them in a model of two towers; use prompt or lora",
    ),
    "clients of one kind with a part of one tower": (
        ["task.kind=image-text", "federation.modalities=[both, text]", "tune.kind=attention-adapter"],
        "federation.modalities",
        "it has nothing of the text tower",
    ),
    "clients of one kind with a prompt": (
        ["task.kind=image-text", "federation.modalities=[both, image]", "tune.kind=prompt"],
        "federation.modalities",
        "a client with only images has none",
    ),
    "a second model that reads nothing": (
        ["model.text=builtin:tiny-bert"],
        "model.text",
        "only such a task reads texts by a second model",
    ),
    "pairs measured by clients of one kind": (
        ["task.kind=image-text", "federation.modalities=[both, text]", "evaluate.at=both", "federation.holdout=0.2"],
        "evaluate.at",
        "clients of one kind (federation.modalities) do not have",
    ),
    "canaries among images": (
        ["audit.canaries=3", "task.kind=image-classification"],
        "audit.canaries",
        "needs text inputs: a canary is random tokens; set 0",
    ),
    "conversations of a task that reads documents": (
        [LM, "data.conversation.format=alpaca"],
        "data.conversation",
        "does not read it; it is for instruct or seq2seq",
    ),
    "a template without turns": (["task.kind=seq2seq", "data.template=plain"], "data.template", "it is for instruct"),
    "pairs without a task of pairs": (["data.preference.chosen=good"], "data.preference", "it is for preference"),
    "answers of a classifier": (["evaluate.generate.examples=5"], "evaluate.generate.examples", "writes no answers"),
    "canaries among pairs": (["task.kind=preference", "audit.canaries=10"], "audit.canaries", "learns pairs"),
    "pairs with a proxy": (
        ["task.kind=preference", "proxy.kind=offsite", "public.data=builtin:pydoc"],
        "proxy.kind",
        "a proxy is another model",
    ),
    "packed classes": (["data.pack=true"], "data.pack", "it is for instruct"),
    "a private run with a fixed cohort": (
        [
            "privacy={kind: central, noise_multiplier: 1.0, delta: 0.001}",
            "federation.clients=20",
            "federation.per_round=5",
        ],
        "privacy.kind",
        "set federation.sampling=poisson",
    ),
    "secure sums of few clients": (
        ["secure.kind=secagg", "federation.per_round=4"],
        "secure.min_clients",
        "the sum of 5 clients' updates needs as many, and a round has 4 (federation.per_round)",
    ),
    "a rule that is no mean under masks": (
        [*SECURE, "aggregate.rule=fedsvd"],
        "secure.kind",
        "`aggregate.rule` gives that with mean or ffa or rolora",
    ),
    "masks and a buffer": ([*SECURE, "protocol.kind=buffered"], "secure.kind", "`protocol.kind` gives that with star"),
    "masks and gossip": (
        ["secure.kind=secagg", "protocol.kind=gossip"],
        "secure.kind",
        "`protocol.kind` gives that with star",
    ),
    "masks and personal parts": (
        [*SECURE, "tune.share=head"],
        "secure.kind",
        "each client keeps a part of the tunable",
    ),
    "masks and ranks": ([*SECURE, "federation.ranks=[2, 4]"], "secure.kind", "a client holds the leading ranks only"),
    "masks and chosen layers": ([*SECURE, "select.kind=layers"], "secure.kind", "all clients of a round mask the same"),
    "masks and quantisation": (
        [*SECURE, "updates=[{kind: quantize}]"],
        "secure.kind",
        "the sum of encoded updates does not decode to their sum",
    ),
    "masks and norms of updates": (
        [*SECURE, "algorithm.name=fedexp"],
        "algorithm.name",
        "measures each client's update",
    ),
    "masks and state at clients": (
        [*SECURE, "algorithm.name=scaffold", "local.optimizer=sgd", "local.max_grad_norm=null"],
        "algorithm.name",
        "would change what clients keep twice",
    ),
    "masks and figures of clients": (
        [*SECURE, "evaluate.at=both", "federation.holdout=0.2"],
        "evaluate.at",
        "each client sends its metrics; use server. `secure.kind: secagg` excludes that",
    ),
    "masks and counts of neurons": (
        [*SECURE, "proxy={kind: fedpft, interval: 2, align: {data: clients}}", "public={data: builtin:pydoc}"],
        "proxy.kind",
        "each client sends counts of how much its neurons are used",
    ),
    "masks and Poisson cohorts": ([*SECURE, "federation.sampling=poisson"], "secure.kind", "how finely values are"),
    "masks and spares": (
        [*SECURE, "runtime={kind: ray, spares: 0.5}"],
        "runtime.spares",
        "a client that answers late is left out; set 0",
    ),
    "masks and real sites": ([*SECURE, *AT_SITES], "secure.kind", "keys must not be used twice"),
    "threads and processes": (
        ["runtime.threads=2", "runtime.processes=2"],
        "runtime.threads",
        "each of 2 processes computes with one thread",
    ),
    "an adjustment by classes that a task does not have": (
        ["local.logit_adjustment=1", "task.kind=masked-lm"],
        "local.logit_adjustment",
        "`task.kind: masked-lm`",
    ),
    "no clients to evaluate": (
        ["evaluate.at=clients", "federation.holdout=0.2", "evaluate.clients=0"],
        "evaluate.clients",
        "or evaluate.at=server",
    ),
    "spares and an asynchronous protocol": (
        ["runtime={kind: ray, spares: 0.5}", "protocol.kind=buffered"],
        "runtime.spares",
        "`protocol.kind: buffered` excludes that",
    ),
    "a stage behind one that flattens": (
        ["updates=[{kind: quantize}, {kind: top-k}]"],
        "updates",
        "put top-k before quantize",
    ),
    "a stage that draws from what another has changed": (
        [*MASKS, "updates=[{kind: clip}, {kind: bernoulli}]"],
        "updates",
        "`updates[1].kind: bernoulli` needs what `updates[0].kind: clip` changes: put bernoulli before clip",
    ),
    "masks that nobody counts": (
        ["tune.kind=mask", "updates=[{kind: bernoulli}]"],
        "updates[0].kind",
        "`bernoulli` needs scores in updates: it draws from scores, not from their changes. `algorithm.name` gives "
        "that with fedpm",
    ),
    "a posterior without masks": (
        MASKS,
        "algorithm.name",
        "`fedpm` needs masks in updates: the server counts masks. `updates.kind` gives that with bernoulli",
    ),
    "a posterior of LoRA": (
        [*POSTERIOR, "tune.kind=lora"],
        "algorithm.name",
        "`fedpm` needs scores of a mask: it estimates the probability of each entry of a mask. `tune.kind` gives that "
        "with mask",
    ),
    "masks that come late": (
        [*POSTERIOR, "protocol.kind=buffered"],
        "algorithm.name",
        "`protocol.kind: buffered` excludes that",
    ),
    "masks of personal parts": (
        [*POSTERIOR, "tune.share=not head"],
        "algorithm.name",
        "`tune.share: not head` excludes",
    ),
    "masks compared by losses": (
        [*SLOPES, "tune.kind=mask"],
        "tune.kind",
        "losses are equal wherever no score crosses ½",
    ),
    "distillation without public data": (["protocol.kind=distillation"], "public", "`protocol.kind: distillation`"),
    "distillation of a generator": ([LM, *DISTILLED], "protocol.kind", "`task.kind: causal-lm` excludes that"),
    "distillation on images": ([IMAGES, *DISTILLED], "protocol.kind", "excludes that: its examples are images"),
    "distillation of a proxy": (
        [*DISTILLED, "proxy={kind: fedpft}"],
        "protocol.kind",
        "the student is the backbone itself. `proxy.kind: fedpft` excludes that",
    ),
    "distillation and a server's step": (
        [*DISTILLED, "algorithm.name=fedadam"],
        "algorithm.name",
        "`protocol.kind: distillation` excludes that: the server's step is distillation",
    ),
    "distillation and stages": (
        [*DISTILLED, "updates=[{kind: clip, norm: 1.0}]"],
        "updates[0].kind",
        "`protocol.kind: distillation` excludes that: clients send predictions",
    ),
    "distillation and robust rules": (
        [*DISTILLED, "aggregate.rule=median"],
        "aggregate.rule",
        "`protocol.kind: distillation` excludes that",
    ),
    "distillation and a personal head": (
        [*DISTILLED, "tune.share=not head"],
        "tune.share",
        "`protocol.kind: distillation` excludes that",
    ),
    "distillation and ranks": (
        [*DISTILLED, "federation.ranks=[2]"],
        "federation.ranks",
        "`protocol.kind: distillation` excludes that",
    ),
    "other backbones in a star": (
        [OTHERS],
        "protocol.kind",
        "`star` needs one backbone: the server adds up updates of one tunable. `federation.models` excludes that",
    ),
    "other backbones and a buffer": (
        [OTHERS, "protocol.kind=buffered"],
        "protocol.kind",
        "`federation.models` excludes",
    ),
    "other backbones that gossip": (
        [OTHERS, "protocol.kind=gossip"],
        "protocol.kind",
        "needs one backbone: neighbours average their tunables. `federation.models` excludes",
    ),
    "other backbones, evaluated by clients": (
        [*DISTILLED, OTHERS, "evaluate.at=both", "federation.holdout=0.2"],
        "evaluate.at",
        "`federation.models` excludes that",
    ),
    "other backbones at sites": ([*AT_SITES, *DISTILLED, OTHERS], "federation.models", "`data.train: sites` excludes"),
    "slopes and moments of gradients": (
        [*SLOPES, "local.optimizer=adamw"],
        "local.optimizer",
        "set local.optimizer=sgd. `protocol.kind: fedkseed` excludes that: clients only compare losses",
    ),
    "slopes and clipped gradients": (
        [*SLOPES, "local.max_grad_norm=1.0"],
        "local.max_grad_norm",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "LoRA on random weights": (["model.init=random"], "model.init", "drawn at random must all be trained"),
    "the server's steps without data": (
        ["protocol.server_steps=2", "tune.kind=full"],
        "data.root",
        "need examples, such as public texts",
    ),
    "moments of new factors": (
        ["aggregate.rule=fedsvd", "local.keep_optimizer=true"],
        "local.keep_optimizer",
        "clients keep the optimiser's moments between rounds; set false",
    ),
    "slopes and a rate for each step": (
        [*SLOPES, "local.lr_scheduler_interval=step"],
        "local.lr_scheduler_interval",
        "it is of gradient steps; set round",
    ),
    "slopes and momentum": (
        [*SLOPES, "local.momentum=0.9"],
        "local.momentum",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and weight decay": (
        [*SLOPES, "local.weight_decay=0.1"],
        "local.weight_decay",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and dropout": (
        [*SLOPES, "local.dropout=true"],
        "local.dropout",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and LoRA's dropout": (
        [*SLOPES, "tune.lora_dropout=0.1"],
        "tune.kind",
        "(tune.lora_dropout). `protocol.kind: fedkseed` excludes that",
    ),
    "slopes and changed gradients": (
        [*SLOPES, "algorithm.name=fedprox"],
        "algorithm.name",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and a server step": (
        [*SLOPES, "algorithm.name=fedadam"],
        "algorithm.name",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and factors": (
        [*SLOPES, "aggregate.rule=hetlora"],
        "aggregate.rule",
        "`protocol.kind: fedkseed` excludes that",
    ),
    "slopes and stages": (
        [*SLOPES, "protocol.kind=decomfl", "updates=[{kind: clip, norm: 1.0}]"],
        "updates[0].kind",
        "`protocol.kind: decomfl` excludes that: clients send slopes",
    ),
    "budgets of an adapter": (["federation.budgets=[0.5]"], "federation.budgets", "`tune.kind` gives that with full"),
    "budgets and gossip": (
        ["federation.budgets=[0.5]", "tune.kind=full", "protocol.kind=gossip"],
        "protocol.kind",
        "`federation.budgets` excludes that",
    ),
    "a prefix computed twice": (
        ["tune.kind=prefix", "local.recompute=blocks"],
        "local.recompute",
        "`tune.kind: prefix` excludes that",
    ),
    "no test set": (["data.test=null"], "data.test", "a fraction such as 0.2 to hold back from data.train"),
    "nothing to test on": ([*AT_SITES, "data.test=0.2"], "data.test", "`data.train: sites` excludes that"),
    "nothing to choose by": ([*AT_SITES, "data.validation=0.2"], "data.validation", "name a file. `data.train: sites`"),
    "nothing to split": ([*AT_SITES, "data.limit=9"], "data.limit", "`data.train: sites` excludes that"),
    "no site to leave out": (
        [*AT_SITES, "federation.without=[a]"],
        "federation.without",
        "--allow. `data.train: sites` excludes that",
    ),
    "nothing to split by client": ([*AT_SITES, "data.client=c"], "data.client", "leave it out. `data.train: sites`"),
    "nothing to split by kind": (
        [*AT_SITES, "federation.partition.kind=iid"],
        "federation.partition.kind",
        "`data.train: sites`",
    ),
    "ranks without factors": (
        ["tune.kind=head", "federation.ranks=[2]"],
        "federation.ranks",
        "`tune.kind` gives that with lora or dora",
    ),
    "devices that are real": (
        [*AT_SITES, "federation.devices=[{name: x, speed: 1.0}]"],
        "federation.devices",
        "`data.train: sites`",
    ),
    "nothing to hold out": ([*AT_SITES, "federation.holdout=0.1"], "federation.holdout", "`data.train: sites`"),
    "unknown sizes": (
        [*AT_SITES, "federation.sampling=weighted"],
        "federation.sampling",
        "use uniform or poisson. `data.train: sites`",
    ),
    "nothing to pool": ([*AT_SITES, "evaluate.baselines=[pooled]"], "evaluate.baselines", "`data.train: sites`"),
    "nothing left": (
        ["data.test=0.5", "data.validation=0.5"],
        "data.validation",
        "data.test hold back all of data.train",
    ),
    "pairs": ([LM, "data.text=[a, b]"], "data.text", "`task.kind: causal-lm` takes one"),
    "large cohort": (
        ["federation.clients=5", "federation.per_round=6"],
        "federation.per_round",
        "the 5 of the federation (federation.clients)",
    ),
    "large cohort by default": (["federation.per_round=11"], "federation.per_round", "the 10 of the federation"),
    "no column": (["federation.partition.kind=column"], "federation.partition", "set data.client"),
    "two splits": (["data.client=c", "federation.partition.kind=iid"], "data.client", "leave out one of the two"),
    "no labels": (
        [LM, "federation.partition.kind=dirichlet"],
        "federation.partition.kind",
        "`dirichlet` needs labels: it splits by label; use iid, quantity or column. `task.kind: causal-lm`",
    ),
    "no labels to sort": (
        [LM, "federation.partition.kind=shards"],
        "federation.partition.kind",
        "its examples have none",
    ),
    "twice weighted": (
        ["aggregate.weights=examples", "federation.sampling=weighted"],
        "aggregate.weights",
        "`federation.sampling: weighted`",
    ),
    "a draw, and who is fast": (
        ["runtime={kind: ray, spares: 0.5}", "federation.sampling=poisson"],
        "federation.sampling",
        "use uniform, or runtime.spares=0",
    ),
    "prompts on images": ([IMAGES, "tune.kind=prompt"], "tune.kind", "`task.kind: image-classification` excludes that"),
    "prefixes on images": (
        [IMAGES, "tune.kind=prefix"],
        "tune.kind",
        "`task.kind: image-classification` excludes that",
    ),
    "prompts on masked text": (
        ["task.kind=masked-lm", "tune.kind=prompt"],
        "tune.kind",
        "`task.kind: masked-lm` excludes that",
    ),
    "prefixes on masked text": (
        ["task.kind=masked-lm", "tune.kind=prefix"],
        "tune.kind",
        "`task.kind: masked-lm` excludes that",
    ),
    "metric": (["evaluate.metrics=[perplexity]"], "evaluate.metrics", "`task.kind: text-classification` does not have"),
    "patience": (["evaluate.patience=3"], "evaluate.patience", "needs data.validation"),
    "coalitions without validation data": (
        ["contribution.kind=leave-one-out"],
        "data.validation",
        "`contribution.kind: leave-one-out` evaluates models on the server's validation set",
    ),
    "too many clients for the exact value": (
        ["contribution.kind=shapley", "data.validation=0.1", "federation.clients=30", "federation.per_round=0.5"],
        "contribution.kind",
        "scores 10 clients a round at most, and a round can have 15 (federation.per_round)",
    ),
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
        "(proxy.kind: fedpft)",
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
    "ten clients for the exact value": [
        "contribution.kind=shapley",
        "data.validation=0.1",
        "federation.clients=30",
        "federation.per_round=10",
    ],
    "cosines without validation data": ["contribution.kind=cosine", "federation.clients=100"],
    "a proxy as it is cut": ["proxy={kind: fedpft, closed_form: false, distill: null, interval: null}"],
    "a proxy that is there": ["proxy={kind: fedpft, path: p, interval: null}"],
    "adapters of a cut FFN": ["proxy={kind: fedpft}", "public={data: builtin:pydoc}", "tune.target_modules=all"],
    "public data for nobody": ["public={data: builtin:pydoc}"],
    "a prompt computed twice": ["tune.kind=prompt", "local.recompute=blocks"],
    "threads of one process": ["runtime.threads=2", "runtime.processes=1"],
    "distillation": DISTILLED,
    "distillation at sites": [*AT_SITES, *DISTILLED],
    "distillation with other backbones": [*DISTILLED, OTHERS],
    "distillation and a proximal term": [*DISTILLED, "algorithm.name=fedprox"],
    "slopes": SLOPES,
    "slopes and a robust rule": [*SLOPES, "aggregate.rule=median"],
    "budgets": ["federation.budgets={phone-*: 0.5}", "tune.kind=full"],
    "masks": POSTERIOR,
    "masks and other stages": [*MASKS, "updates=[{kind: quantize, direction: down}, {kind: bernoulli}, {kind: clip}]"],
    "masks at edges": [*POSTERIOR, "protocol={kind: hierarchical, edges: 2, edge_rounds: 1}"],
    "averaged scores": ["tune.kind=mask", "algorithm.name=fedadam"],
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
    needing = {key.where for key in PLAIN_KEYS if key.needs}
    assert {check.keys[0] for check in CHECKS} | needing <= {where for _, where, _ in REFUSED.values()}


STAGES_IN_ORDER = ("a stage behind one that flattens", "a stage that draws from what another has changed")
"""Conflicts within one key."""


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ("no test set", *STAGES_IN_ORDER)])
def test_the_reason_names_another_key(values: dict[str, Any], case: str) -> None:
    """A conflict is between two keys: the one where it is reported, and one in the message."""
    overrides, where, _ = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        load_recipe(values, overrides)
    (problem,) = caught.value.problems
    named = {key.where for key in all_keys(Recipe) if key.where in problem.message} - {where, "name", "data", "output"}
    assert named


def test_the_nearest_metric(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="did you mean `accuracy`"):
        load_recipe(values, ["evaluate.metrics=[acuracy]"])
