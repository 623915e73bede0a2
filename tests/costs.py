"""Costs of each suite: CPU and wall seconds of its tests and of the processes that they started."""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil
import pytest


def _cpu_s() -> float:
    """CPU seconds of this process, of its children, and of those of their children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    total = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    for pids in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for pid in pids.read_text().split():
                with suppress(psutil.Error):
                    total += sum(psutil.Process(int(pid)).cpu_times()[:4])
    return total


class Costs:
    """Adds the CPU seconds of a test to its last report, and sums up what all reports say."""

    def __init__(self, each: str) -> None:
        """A plug-in of pytest.

        Args:
            each: what the table has a row for: ``suite`` or ``file``.
        """
        self.each = each
        self.start = 0.0
        self.rows: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])

    def pytest_runtest_logstart(self) -> None:
        self.start = _cpu_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        report.cpu_s = _cpu_s() - self.start if call.when == "teardown" else 0.0
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.split("::")[0]
        row = self.rows[file if self.each == "file" else "/".join(PurePosixPath(file).parent.parts[:2])]
        row[0] += report.when == "teardown"
        row[1] += report.cpu_s
        row[2] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_sep("=", f"cost of each {self.each}")
        terminalreporter.write_line(f"{self.each:50} {'tests':>6} {'CPU s':>8} {'wall s':>8}")
        for name, (tests, cpu_s, wall_s) in sorted(self.rows.items(), key=lambda entry: -entry[1][1]):
            terminalreporter.write_line(f"{name:50} {tests:6.0f} {cpu_s:8.1f} {wall_s:8.1f}")
