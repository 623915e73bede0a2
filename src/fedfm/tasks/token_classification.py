"""Token classification: a tag for each word; cross-entropy, and precision, recall and F1 of spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from fedfm.capabilities import LABELS
from fedfm.data.examples import IGNORED, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.lists import list_column
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.words import encode_words
from fedfm.tasks.base import Batch, ClassScore, Collate, Measured, PerClass, Task
from fedfm.tasks.shown import ShownExample, shown_tokens
from fedfm.tasks.spans import Tags


class TokenClassification(Task):
    """Predicts a tag for each word of a text, at the word's first token."""

    takes = {LABELS: "its examples have a label for each word"}
    kind: Literal["token-classification"] = "token-classification"
    """A tag for each word of a text: names, parts of speech."""
    modality = "text"
    text_role = label_role = "list"
    auto_class = AutoModelForTokenClassification
    peft_type = "TOKEN_CLS"
    labelled = True
    metrics = MappingProxyType({"f1": True, "precision": True, "recall": True, "token_accuracy": True})

    def named(self, names: Sequence[str]) -> LabelMap:
        """The tags that a recipe names; whole numbers in the data are their places, unless tags are numbers."""
        if any(name.isdecimal() for name in names):
            return LabelMap(tuple(names))
        return LabelMap(tuple(names), {str(place): name for place, name in enumerate(names)})

    def label_map(self, source: Source, data: DataSettings) -> LabelMap:
        """The tags: as the recipe names them, else those of the column.

        Raises:
            RecipeError, DataError: as `LabelMap.from_lists`.
        """
        return self.named(data.labels) if data.labels else LabelMap.from_lists(source, data.label)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Token ids, truncated to ``data.max_length`` tokens, and the tags of words at their first tokens."""
        return encode_words(
            source,
            data.text[0],
            processor,
            data.max_length,
            label=data.label,
            label_map=labels,
            client=data.client,
        )

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads tokens and labels to the longest example of the batch."""
        pad = DataCollatorForTokenClassification(processor, label_pad_token_id=IGNORED)
        return lambda rows: pad([dict(row) for row in rows])

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Tokens, those at which tags are predicted, and the tags."""
        asked = [label != IGNORED for label in row["labels"]]
        tags = [label for label in row["labels"] if label != IGNORED]
        return ShownExample(
            tokens=shown_tokens(processor, list(row["input_ids"]), asked),
            label=None if names is None else " ".join(names[tag] for tag in tags),
        )

    def predictions(self, batch: Batch) -> Tensor:
        """The number of predicted words of each example."""
        return (batch["labels"] != IGNORED).sum(1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of the tokens, ``[B, T, tags]``; those of virtual tokens before the text are left out."""
        return super().outputs(model, batch)[:, -batch["input_ids"].shape[1] :]

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy and the number of predicted words of each example."""
        words = cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=IGNORED, reduction="none")
        return words.sum(1), self.predictions(batch)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """Predicted and true tags of words, and whether a word is the first that is predicted in its text."""
        labels = batch["labels"]
        asked = labels != IGNORED
        first = asked & (asked.cumsum(1) == 1)
        return {
            "predicted": logits.argmax(-1)[asked].cpu().numpy(),
            "label": labels[asked].cpu().numpy(),
            "first": first[asked].cpu().numpy(),
        }

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Precision, recall and F1 of spans of all types together, 0 where undefined; accuracy of words."""
        _, found, true, right = _counts(measured, names)
        precision, recall = _share(right.sum(), found.sum()), _share(right.sum(), true.sum())
        return {
            "f1": _f1(precision, recall) or 0.0,
            "precision": precision or 0.0,
            "recall": recall or 0.0,
            "token_accuracy": float(np.mean(measured["predicted"] == measured["label"])),
        }

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass:
        """Precision, recall and F1 of the spans of each type, without a confusion matrix."""
        types, *counts = _counts(measured, names)
        scores = []
        for name, found, true, right in zip(types, *counts, strict=True):
            precision, recall = _share(right, found), _share(right, true)
            f1 = _f1(precision, recall)
            scores.append(ClassScore(label=name, precision=precision, recall=recall, f1=f1, examples=int(true)))
        return PerClass(classes=scores, confusion=[])

    def answers(self, logits: Tensor, batch: Batch, names: Sequence[str]) -> list[dict[str, Any]]:
        """The tag of each word; None for a word that has no token. Labels are the words' numbers in their rows."""
        places = batch["labels"].cpu().numpy()
        tags = logits.argmax(-1).cpu().numpy()
        found = []
        for row, own in zip(places, tags, strict=True):
            words: list[str | None] = [None] * (int(row.max(initial=-1)) + 1)
            for place in np.flatnonzero(row != IGNORED):
                words[row[place]] = names[own[place]]
            found.append({"predicted": words})
        return found

    def records(self, answers: Sequence[dict[str, Any]], source: Source, data: DataSettings) -> list[dict[str, Any]]:
        """The words of each row, their tags where the source has them, and the predicted ones: None where cut off."""
        words = list_column(source, data.text[0], "data.text")
        known = data.label in source.table.column_names
        tags = list_column(source, data.label, "data.label") if known else [[] for _ in words]
        return [
            {
                "words": own,
                **({"label": true} if known else {}),
                "predicted": answer["predicted"] + [None] * (len(own) - len(answer["predicted"])),
            }
            for own, true, answer in zip(words, tags, answers, strict=True)
        ]


def _counts(measured: Measured, names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Types of spans, and by type the number of predicted spans, of true spans, and of those that are equal."""
    tags = Tags.of(names)
    found, true = (tags.spans(measured[key], measured["first"]) for key in ("predicted", "label"))
    right = [span[0] for span in set(map(tuple, found.tolist())) & set(map(tuple, true.tolist()))]
    types = len(tags.types)
    found_by_type, true_by_type, right_by_type = (
        np.bincount(np.asarray(kinds, dtype=np.int64), minlength=types) for kinds in (found[:, 0], true[:, 0], right)
    )
    return tags.types, found_by_type, true_by_type, right_by_type


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    """The harmonic mean; 0 where one of the two is undefined or 0, None where both are undefined."""
    if precision is None and recall is None:
        return None
    total = (precision or 0.0) + (recall or 0.0)
    return 2 * (precision or 0.0) * (recall or 0.0) / total if total else 0.0
