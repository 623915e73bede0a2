"""What an audit measured beside what the run promises."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records import audits
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report.sections.parts import Table


@dataclass(frozen=True)
class AuditSection:
    """Sentences with figures, the table of membership attacks, and what was not measured, with the reason."""

    warning: str | None
    lines: list[str]
    attacks: Table
    left_out: list[tuple[str, str]]


def audit(run: RunFiles) -> AuditSection | None:
    """The content of audit.json; None for a run that was not audited."""
    if run.audit is None:
        return None
    membership: Record = dig(run.audit, "measured.membership") or {}
    rows = [_row(name, membership[name]) for name in ("loss", "reference") if name in membership]
    left_out = [(audits.TITLES.get(name, name), reason) for name, reason in run.audit["not_measured"].items()]
    columns = ["attack", "AUC", "true positives at 1 % false", "at 0.1 % false"]
    return AuditSection(audits.refuted(run.audit), audits.lines(run.audit), Table(columns, rows), left_out)


def _row(name: str, attack: Record) -> list[str]:
    rates = attack["true_positives"]
    return [
        name,
        _with_interval(attack["auc"], attack["interval"], 3),
        *(_rate(rates.get(at)) for at in ("1%", "0.1%")),
    ]


def _rate(found: Record | None) -> str:
    return "too few examples" if found is None else _with_interval(found["rate"], found["interval"], 4)


def _with_interval(value: float, interval: list[float], digits: int) -> str:
    low, high = interval
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
