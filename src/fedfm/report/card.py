"""The card of an adapter or of a merged model: what it is, how to load it, how it was trained, its limits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCard, ModelCardData

from fedfm import __version__
from fedfm.models.adapter_files import HOOKED
from fedfm.printable import escaped
from fedfm.privacy.statement import statement
from fedfm.records import audits, contributions, disk, jsonl, names, units
from fedfm.records.jsonl import Record
from fedfm.records.reading import dig, metric_keys
from fedfm.report import markdown, templates

ArtifactKind = Literal["adapter", "model"]


@dataclass(frozen=True)
class Loading:
    """The classes of transformers that load a model of one kind of task, and the hub's names for that task."""

    model: str
    processor: str
    pipeline: str
    problem_type: str = "single_label_classification"


LOADING = {
    "text-classification": Loading("AutoModelForSequenceClassification", "AutoTokenizer", "text-classification"),
    "image-classification": Loading("AutoModelForImageClassification", "AutoImageProcessor", "image-classification"),
    "multi-label": Loading(
        "AutoModelForSequenceClassification", "AutoTokenizer", "text-classification", "multi_label_classification"
    ),
    "token-classification": Loading("AutoModelForTokenClassification", "AutoTokenizer", "token-classification"),
    "regression": Loading("AutoModelForSequenceClassification", "AutoTokenizer", "text-classification", "regression"),
    "masked-lm": Loading("AutoModelForMaskedLM", "AutoTokenizer", "fill-mask"),
    "causal-lm": Loading("AutoModelForCausalLM", "AutoTokenizer", "text-generation"),
    "instruct": Loading("AutoModelForCausalLM", "AutoTokenizer", "text-generation"),
    "preference": Loading("AutoModelForCausalLM", "AutoTokenizer", "text-generation"),
    "retrieval": Loading("AutoModel", "AutoTokenizer", "feature-extraction"),
    "multi": Loading("AutoModelForSequenceClassification", "AutoTokenizer", "text-classification", "regression"),
    "image-text": Loading("AutoModel", "AutoImageProcessor, AutoTokenizer", "zero-shot-image-classification"),
    "seq2seq": Loading("AutoModelForSeq2SeqLM", "AutoTokenizer", "text-generation"),
}

SOURCES = ("train", "validation", "test")

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Base:
    """The backbone that an adapter belongs to.

    Attributes:
        name: a hub id, a local folder, or ``builtin:NAME``.
        revision: commit of a hub id.
        package: the Python package that holds a copy of a hub id's files, for machines that are offline.
        new_head: whether the tuned head replaces a head of the checkpoint.
        mask: the tokenizer's mask token.
    """

    name: str
    revision: str | None = None
    package: str | None = None
    new_head: bool = False
    mask: str | None = None

    @property
    def kind(self) -> Literal["hub", "package", "beside", "folder"]:
        """Where code finds it; ``beside``: in the folder ``base`` inside the adapter's folder."""
        if self.package:
            return "package"
        if self.name.startswith(("builtin:", "towers:")):  # others cannot load it by its name
            return "beside"
        return "hub" if _on_the_hub(self.name) else "folder"


def write_card(
    folder: Path,
    *,
    base: Base,
    summary: Record,
    recipe: Record,
    kind: ArtifactKind,
    audit: Record | None = None,
    place: str | None = None,
) -> Path:
    """Writes README.md beside an adapter or a merged model.

    Args:
        folder: the folder that holds ``adapter_config.json`` or ``config.json``.
        base: the backbone.
        summary: the content of summary.json.
        recipe: the resolved recipe as plain data.
        kind: what ``folder`` holds.
        audit: the content of audit.json; None where the run was not audited.
        place: of the folder in that of the run; None: it has the name of its kind.

    Raises:
        StorageError: it cannot be written.
    """
    loading, form = LOADING[dig(recipe, "task.kind")], _form(folder)
    text = _yaml(json.loads(jsonl.dumps(_shareable(recipe))))
    private = summary.get("privacy") is not None  # a card that names clients would break the promise for them
    content = templates.render(
        "card.md.j2",
        autoescape=False,
        header=_header(base.name, loading, recipe, kind, form).to_yaml(),
        kind=kind,
        base_model=_model_name(base.name),
        code=_code(base, loading, summary, recipe, kind, place or kind, form),
        config=HOOKED if form else "adapter_config.json",
        local=base.kind == "folder",
        algorithm=names.written(str(dig(recipe, "algorithm.name"))),
        task=dig(recipe, "task.kind"),
        tune=dig(recipe, "tune.kind"),
        summary=summary,
        labels=summary.get("labels") or [],
        scores=_scores(summary),
        facts=_facts(summary, recipe),
        warning=None if private else contributions.warning(summary),
        contributions=[] if private else contributions.lines(summary),
        privacy=statement(summary.get("privacy")),
        planted=audits.planted_warnings(dig(recipe, "audit.canaries") or 0),
        audited=audits.for_others(audit),
        personal=summary.get("personal") or [],
        mean_of_clients=summary.get("mean_of_clients"),
        mean_of_experts=summary.get("mean_of_experts"),
        needs_model=summary.get("needs_model"),
        personal_values=summary.get("personal_values"),
        by_clients=summary.get("final_by") == "clients",
        repeats=[found for found in summary.get("repeats") or [] if found["split"] != found["other"]],
        recipe=text,
        fence=markdown.fence(text),
        version=__version__,
    )
    path = folder / "README.md"
    disk.replace_text(path, str(ModelCard(content)))
    return path


def _form(folder: Path) -> str | None:
    """What an adapter is that plain torch loads; None of others."""
    path = folder / HOOKED
    return str(jsonl.read(path)["form"]) if path.is_file() else None


def _code(
    base: Base, loading: Loading, summary: Record, recipe: Record, kind: ArtifactKind, place: str, form: str | None
) -> str:
    """Python code that loads the model from the folder and prepares inputs as in the evaluation."""
    return templates.render(
        "card_code.py.j2",
        autoescape=False,
        adapter=kind == "adapter",
        form=form,
        task=dig(recipe, "task.kind"),
        loading=loading,
        path=_where(recipe, place),
        labels=summary.get("labels") or [],
        base=base,
        columns=len(dig(recipe, "data.text") or ()),
        settings=recipe["task"],
        max_length=dig(recipe, "data.max_length"),
        end_token=dig(recipe, "data.end_token"),
    )


def _where(recipe: Record, place: str) -> str:
    """The folder, relative to where the run was started; ``.`` for an absolute path, which is private."""
    run = Path(recipe.get("run_dir") or Path(recipe.get("output") or "/") / recipe["name"])
    return "." if run.is_absolute() else str(run / place)


def _yaml(recipe: Record) -> str:
    """The recipe, runnable; where a character is unsafe to show, all characters but ASCII are escaped."""
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return text if escaped(text) == text else yaml.safe_dump(recipe, sort_keys=False, allow_unicode=False)


def _header(base_model: str, loading: Loading, recipe: Record, kind: ArtifactKind, form: str | None) -> ModelCardData:
    """The YAML header. It names no licence: that depends on the backbone and the data, which fedfm cannot know."""
    tags = ["federated-learning", "fedfm", str(dig(recipe, "algorithm.name")), str(dig(recipe, "tune.kind"))]
    base: dict[str, Any] = {}
    if _on_the_hub(base_model):
        base = {"base_model": base_model, "base_model_relation": "adapter" if kind == "adapter" else "finetune"}
    library = "peft" if kind == "adapter" and form is None else "transformers"
    return ModelCardData(library_name=library, pipeline_tag=loading.pipeline, tags=tags, **base)


def _on_the_hub(base_model: str) -> bool:
    """Whether a name can be a hub id. A local path would be useless to others."""
    return HUB_ID.fullmatch(base_model) is not None and not Path(base_model).exists()


def _model_name(base_model: str) -> str:
    """The name of a backbone for others: of a folder, only its last part."""
    return Path(base_model).name if Base(base_model).kind == "folder" else base_model


def _shareable(recipe: Record) -> Record:
    """The recipe for others: local files and folders are reduced to their names, the place of runs is left out."""
    kept = {key: value for key, value in recipe.items() if key not in ("output", "run_dir")}
    data = {
        key: Path(value).name if key in SOURCES and _is_path(value) else value for key, value in recipe["data"].items()
    }
    model = {key: _model_name(recipe["model"][key]) for key in ("path", "text") if recipe["model"].get(key)}
    return kept | {"data": data, "model": recipe["model"] | model}


def _is_path(reference: object) -> bool:
    """Whether a source is a file or a folder, and not a fraction, a built-in or a data set of the hub."""
    return isinstance(reference, str) and not reference.startswith(("builtin:", "hf:"))


def _scores(summary: Record) -> list[tuple[str, str, str]]:
    """Metric, its value before round 1, its value after the last round."""
    initial, final = summary.get("initial") or {}, summary.get("final") or {}
    return [
        (units.metric_name(key), units.metric(key, initial.get(key)), units.metric(key, final[key]))
        for key in metric_keys([final])
    ]


def _protocol(protocol: Record) -> str:
    """The kind of a protocol, with its figures in brackets."""
    figures = units.listed(protocol)
    return f"{protocol['kind']} ({figures})" if figures else str(protocol["kind"])


def _facts(summary: Record, recipe: Record) -> list[tuple[str, str]]:
    """Figures of the federation, as far as they are known."""
    clients, counts = summary.get("clients") or {}, summary.get("parameters")
    protocol = summary.get("protocol")
    facts = [("clients", clients.get("total")), ("clients a round", dig(recipe, "federation.per_round"))]
    if dig(recipe, "model.init") == "random":
        facts.insert(0, ("start", "weights drawn at random (model.init: random); not pretrained"))
    facts += [("protocol", _protocol(protocol))] if protocol else []
    facts += [("rounds", summary["rounds"])]
    if summary.get("privacy") is None:
        facts += [("clients that contributed", clients.get("contributed"))]
        facts += [("failures", clients.get("failed")), ("updates refused", clients.get("refused"))]
    if counts:
        part = units.share(counts["trainable"], counts["backbone"])
        facts.append(("tuned parameters", f"{units.number(counts['trainable'])}, {part} of the backbone’s"))
    for way, name in (("down", "sent to clients"), ("up", "sent by clients")):
        if summary.get("privacy") is None and dig(summary, f"bytes.{way}") is not None:
            facts.append((name, units.size(summary["bytes"][way])))
    return [(name, str(value)) for name, value in facts if value is not None]
