"""What an audit found, and the canaries of a run, as sentences for the terminal, the report and the card."""

from __future__ import annotations

from fedfm.records.jsonl import Record
from fedfm.records.reading import dig

TITLES = {
    "membership": "membership inference",
    "exposure": "exposure of canaries",
    "one_run": "lower bound of ε from one run",
    "inversion": "gradient inversion",
    "disclosure": "what clients hold of the backbone",
}
"""Name of an audit → what it measures, in words."""


def planted_warnings(canaries: int) -> list[str]:
    """A warning about a model that was made to be audited; none without canaries.

    Args:
        canaries: ``audit.canaries`` of the recipe.
    """
    if not canaries:
        return []
    return [
        f"{canaries} canaries (audit.canaries), about half of them planted in the training data: the run is for "
        "auditing; do not deliver its model"
    ]


def lines(audit: Record | None) -> list[str]:
    """A sentence for each figure that was measured; empty without an audit."""
    measured = dig(audit, "measured") or {}
    return [line for name, said in _LINES.items() if name in measured for line in said(measured[name])]


def for_others(audit: Record | None) -> list[str]:
    """As `lines`, without what names a client, and with a contradicted promise."""
    warning = refuted(audit)
    known = dig(audit, "measured") or {}
    if "membership" in known:
        known = known | {"membership": known["membership"] | {"clients": None}}
    return [*([warning] if warning else []), *lines({"measured": known})]


def refuted(audit: Record | None) -> str | None:
    """A warning where the audit contradicts what the run promises; None where it does not."""
    found = dig(audit, "measured.one_run") or {}
    if not found.get("refuted"):
        return None
    return (
        f"the audit contradicts the promise of ε = {found['promised']:.3g} per {found['unit']}: under it, guesses as "
        f"good as these have a probability of {found['p_value']:.2g}. Do not rely on it, and report this"
    )


def _membership(found: Record) -> list[str]:
    best = max((found["loss"], found["reference"]), key=lambda attack: attack["auc"])
    low, high = best["interval"]
    said = f"membership of an example is inferred with AUC {best['auc']:.3f} ({low:.3f} to {high:.3f}; 0.5: not at all)"
    worst = dig(found, "clients.worst")
    return [said + (f"; of client {worst['client']}, the worst: {worst['auc']:.3f}" if worst else "")]


def _exposure(found: Record) -> list[str]:
    return [
        f"planted canaries have a mean exposure of {found['mean']:.2f} bits ({found['by_chance']:.2f} by chance, "
        f"{found['most']:.2f} at most)"
    ]


def _one_run(found: Record) -> list[str]:
    said = f"ε is at least {found['epsilon_lower']:.3g} for one canary (confidence {100 * found['confidence']:.0f} %)"
    if found.get("promised") is None:
        return [f"{said}; nothing is promised"]
    promised = f"{found['promised']:.3g} per {found['unit']}"
    return [f"{said}; promised is {promised}, and a canary is {found['changes']} such changes"]


def _inversion(found: Record) -> list[str]:
    said = []
    for key, name in (
        ("sent", "an update of one step on one example"),
        ("released", "the same, clipped and with noise,"),
    ):
        view = found.get(key)
        if view:
            parts = [
                f"{100 * view[figure]:.0f} % of the {figure}"
                for figure in ("labels", "tokens")
                if view[figure] is not None
            ]
            said.append(f"{name} gives away {' and '.join(parts)}" if parts else f"{name} was not read")
    return said


def _disclosure(found: Record) -> list[str]:
    return [f"clients hold {100 * found['disclosed']:.0f} % of the backbone's blocks nearly unchanged"]


_LINES = {
    "membership": _membership,
    "exposure": _exposure,
    "one_run": _one_run,
    "inversion": _inversion,
    "disclosure": _disclosure,
}
"""Name of an audit → its sentences."""
