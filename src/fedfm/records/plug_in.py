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
    outcome = f"plugged in, what clients tuned gives {metric} {backbone}, on the proxy itself {own}"
    return f"{outcome}; {_distilled(summary, metric, gap)}"


def _distilled(summary: Record | None, metric: str, gap: float) -> str:
    """What plug-in distillation did about a gap below 0, or that it may help."""
    if dig(summary, f"proxy.distilled.{metric}") is None:
        return "proxy.plug_in.distill lets the model learn from the proxy on public data"
    final, own, plugged = (dig(summary, f"{part}.{metric}") for part in ("final", "proxy.final", "proxy.plugged"))
    if (plugged - final) * (own - final) <= 0:  # on the other side of it than the proxy's, which is better
        return "plug-in distillation did not close the gap"
    before = units.metric(metric, plugged)
    return f"plug-in distillation made it worse ({before} before); with data.validation it is kept only if better there"


def difference(metric: str, gap: float) -> str:
    """The metric of the backbone minus that of the proxy, in points where the metric is a share."""
    text = f"{100 * gap:+.1f} points" if units.is_share(metric) else f"{gap:+.3f}"
    return text.replace("-", "\N{MINUS SIGN}")
