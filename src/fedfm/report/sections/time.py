"""Time by phase, of a run that was profiled."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.reading import RunFiles
from fedfm.report.sections.parts import Fact, Table


@dataclass(frozen=True)
class TimeSection:
    """Time of the run by phase, and time of local training by phase."""

    facts: list[Fact]
    run: Table
    training: Table


def time(run: RunFiles) -> TimeSection | None:
    """A summary of the profile; None for a run that was not profiled."""
    profile = run.profile
    if profile is None:
        return None
    seconds = {name: value for name, value in profile["seconds"].items() if name != "total"}
    processes, threads = profile["processes"], profile["threads"]
    busy, each = sum(profile["training"].values()), units.counted(threads, "thread", "threads")
    facts = [
        Fact("Trained by", units.counted(processes, "process", "processes"), f"{each} each"),
        Fact("Tokens trained on", units.number(profile["tokens"])),
    ]
    if profile["share"] is not None:
        facts += [
            Fact("Tokens a second", units.number(round(profile["tokens"] / busy)), "of one process during training"),
            Fact(
                "Share of the peak",
                units.share(profile["share"], 1),
                f"{profile['operations_a_second'] / 1e9:.0f} of {profile['gemm_peak'] / 1e9:.0f} billion operations a "
                "second that one process reaches in a matrix product",
            ),
        ]
    return TimeSection(facts, _table("the run", seconds), _table("local training, all processes", profile["training"]))


def _table(name: str, seconds: dict[str, float]) -> Table:
    """Phases, the longest first."""
    total = sum(seconds.values())
    rows = [
        (phase, units.duration(value), units.share(value, total) if total else units.DASH)
        for phase, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return Table((name, "time", "share"), rows)
