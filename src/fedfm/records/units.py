"""Numbers in the form in which they are shown: bytes, durations, counts, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NAMES = {
    "rouge_l": "ROUGE-L",
    "token_f1": "F1 of tokens",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "text_recall_at_1": "recall@1 of captions",
    "text_recall_at_5": "recall@5 of captions",
    "text_recall_at_10": "recall@10 of captions",
    "image_recall_at_1": "recall@1 of images",
    "image_recall_at_5": "recall@5 of images",
    "image_recall_at_10": "recall@10 of images",
    "mrr": "MRR",
}
PERCENTAGES = frozenset(
    {
        "accuracy",
        "macro_f1",
        "micro_f1",
        "f1",
        "precision",
        "recall",
        "exact_match",
        "number_match",
        "preference_accuracy",
        "token_accuracy",
        "recall_at_1",
        "recall_at_10",
        *(f"{found}_recall_at_{most}" for found in ("text", "image") for most in (1, 5, 10)),
    }
)
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "rmse", "mae"})
"""Metrics that fall as a model improves; all other metrics rise."""
DASH = "–"


def is_share(metric: str) -> bool:
    """Whether a metric, of a task or of the run, is shown in percent."""
    return metric.partition(".")[0] in PERCENTAGES


def falls(metric: str) -> bool:
    """Whether a metric, of a task or of the run, falls as a model improves."""
    return metric.partition(".")[0] in LOWER_IS_BETTER


def size(size_bytes: float) -> str:
    """Bytes in decimal units: ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{_three(size_bytes)} {unit}" if unit != "B" else f"{size_bytes:.0f} B"
        size_bytes /= 1000
    return f"{_three(size_bytes)} TB"


def duration(seconds: float) -> str:
    """Seconds in at most two units: ``3 h 05 min``, ``4 min 12 s``, ``8.3 s``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return _two(whole, "min", "s")
    return _two(round(seconds / 60), "h", "min")


def counted(count: int, one: str, many: str) -> str:
    """A count with the name of what is counted: ``1 thread``, ``2 threads``."""
    return f"{number(count)} {one if count == 1 else many}"


def typeset(text: str) -> str:
    """A number with a minus sign in place of a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """A count: ``1,234``, and ``22.7 M`` from a million on."""
    if abs(value) >= 1e9:
        return f"{_three(value / 1e9)} B"
    if abs(value) >= 1e6:
        return f"{_three(value / 1e6)} M"
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """A part of a whole in percent: ``0.65 %``."""
    return f"{_three(100 * part / whole)} %" if whole else DASH


def listed(figures: Mapping[str, Any], *, but: frozenset[str] = frozenset({"kind"})) -> str:
    """Named figures in a line: ``mean staleness 1.3, refused 2``; those that are null are left out."""
    return ", ".join(
        f"{key.replace('_', ' ')} {number(value) if isinstance(value, int) else typeset(_three(value))}"
        for key, value in figures.items()
        if key not in but and value is not None
    )


def metric_name(metric: str) -> str:
    """The name of a metric, as it is written in a sentence."""
    kind, _, task = metric.partition(".")
    name = NAMES.get(kind, kind.replace("_", " "))
    return f"{name} of {task}" if task else name


def metric(name: str, value: float | None) -> str:
    """The value of a metric: ``87.1 %`` for shares, ``24.3`` for perplexity, else three decimals; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    if is_share(name):
        return f"{100 * value:.1f} %"
    return _three(value) if name == "perplexity" else typeset(f"{value:.3f}")


def metric_change(name: str, before: float | None, after: float | None) -> str:
    """The change of a metric: ``+36.9 points`` for shares, ``−95.1 %`` for perplexity, else a difference."""
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return DASH
    if is_share(name):
        return _signed(100 * (after - before), ".1f") + " points"
    if name == "perplexity":
        return _signed(100 * (after / before - 1), ".1f") + " %"
    return _signed(after - before, ".3f")


def _two(value: int, large: str, small: str) -> str:
    return f"{value // 60} {large}" + (f" {value % 60:02d} {small}" if value % 60 else "")


def _signed(value: float, form: str) -> str:
    return typeset(f"{value:+{form}}")


def _three(value: float) -> str:
    """Three significant digits, without an exponent below a million."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:.{min(max(0, 2 - exponent), 6)}f}"
