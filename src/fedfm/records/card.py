"""The card of an adapter or a merged model: what it is, how to load it, how it came about, what is not promised."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCard, ModelCardData

from fedfm import __version__
from fedfm.errors import StorageError
from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import dig

Kind = Literal["adapter", "model"]

AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
}

PIPELINES = {
    "text-classification": "text-classification",
    "image-classification": "image-classification",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
}

ALGORITHMS = {
    "fedavg": "FedAvg",
    "fedavgm": "FedAvgM",
    "fedprox": "FedProx",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
}


def write_card(folder: Path, *, base_model: str, summary: Record, recipe: Record, kind: Kind) -> Path:
    """Writes README.md beside an adapter or a merged model.

    Args:
        folder: where ``adapter_config.json`` or ``config.json`` lies.
        base_model: the backbone's hub id, or another name for it.
        summary: the content of summary.json.
        recipe: the resolved recipe as plain data.
        kind: what lies in ``folder``.

    Raises:
        StorageError: it cannot be written.
    """
    task = str(dig(recipe, "task.kind"))
    card = ModelCard.from_template(
        card_data=_header(base_model, task, recipe, kind),
        template_path=str(Path(__file__).with_name("card.md.j2")),
        name=summary["name"],
        kind=kind,
        base_model=base_model,
        task=task,
        auto_class=AUTO_CLASSES[task],
        labels=summary.get("labels"),
        algorithm=ALGORITHMS.get(str(dig(recipe, "algorithm.name")), dig(recipe, "algorithm.name")),
        tune=dig(recipe, "tune.kind"),
        summary=summary,
        scores=_scores(summary),
        facts=_facts(summary, recipe),
        privacy=summary.get("privacy"),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        version=__version__,
    )
    path = folder / "README.md"
    try:
        path.write_text(str(card), encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _header(base_model: str, task: str, recipe: Record, kind: Kind) -> ModelCardData:
    """The YAML at the top. The licence is left out: it is the backbone's and the data's, which fedfm cannot know."""
    tags = ["federated-learning", "fedfm", str(dig(recipe, "algorithm.name")), str(dig(recipe, "tune.kind"))]
    extra: dict[str, Any] = {} if ":" in base_model else {"base_model": base_model}  # builtin:NAME is on no hub
    if kind == "adapter" and extra:
        extra["base_model_relation"] = "adapter"
    library = "peft" if kind == "adapter" else "transformers"
    return ModelCardData(library_name=library, pipeline_tag=PIPELINES[task], tags=tags, **extra)


def _scores(summary: Record) -> list[tuple[str, str, str]]:
    """Metric, before round 1, after the last round; on the test set."""
    initial, final = summary.get("initial") or {}, summary.get("final") or {}
    names = {name: units.metric_name(name) for name in final}
    return [(names[key], units.metric(key, initial.get(key)), units.metric(key, final[key])) for key in final]


def _facts(summary: Record, recipe: Record) -> list[tuple[str, str]]:
    """The federation in figures."""
    clients, traffic = summary.get("clients") or {}, summary.get("bytes") or {}
    facts = [("rounds", units.number(summary["rounds"]))]
    if clients.get("total"):
        facts.insert(0, ("clients", units.number(clients["total"])))
    if dig(recipe, "federation.per_round") is not None:
        facts.append(("clients a round", f"{dig(recipe, 'federation.per_round')}"))
    facts.append(("updates refused, clients failed", f"{clients.get('refused', 0)}, {clients.get('failed', 0)}"))
    if traffic:
        facts.append(("sent to clients, from clients", f"{units.size(traffic['down'])}, {units.size(traffic['up'])}"))
    counts = summary.get("parameters")
    if counts:
        share = units.share(counts["trainable"], counts["backbone"])
        facts.append(("trained parameters", f"{units.number(counts['trainable'])} ({share} of the backbone’s)"))
    return facts
