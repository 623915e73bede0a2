"""The plug-in of what clients tuned on a proxy, as sentences for the terminal and the report."""

from __future__ import annotations

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import dig


def warning(summary: Record | None) -> str | None:
    """A warning about a backbone that is worse than the proxy that clients tuned; None where it is not."""
    gap = dig(summary, "proxy.plug_in_gap")
    if gap is None or gap >= 0:
        return None
    metric = dig(summary, "metric")
    backbone, own = (units.metric(metric, dig(summary, f"{part}.{metric}")) for part in ("final", "proxy.final"))
    remedy = "plug-in distillation did not close the gap"
    if dig(summary, "proxy.distilled") is None:
        remedy = "proxy.plug_in.distill lets the model learn from the proxy on public data"
    return f"plugged in, what clients tuned gives {metric} {backbone}, on the proxy itself {own}; {remedy}"


def difference(metric: str, gap: float) -> str:
    """The metric of the backbone minus that of the proxy, in points where the metric is a share."""
    text = f"{100 * gap:+.1f} points" if metric in units.PERCENTAGES else f"{gap:+.3f}"
    return text.replace("-", "\N{MINUS SIGN}")
