from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedfm.cli.display import Display, PlainDisplay, RichDisplay, describe_outcome, describe_plan, describe_round

PLAN: dict[str, Any] = {
    "name": "demo",
    "model": {"path": "builtin:minilm", "name": "minilm", "family": "bert", "parameters": 22_713_216},
    "proxy": None,
    "tunable": {"kind": "lora", "parameters": 151_307},
    "data": {
        "train": 4012,
        "validation": None,
        "test": 1003,
        "labels": ["a", "b"],
        "cut": {"train": 1100, "test": 0},
        "client_examples": {"min": 20, "median": 31.0, "max": 312},
    },
    "warnings": ["4 of 9 test examples also stand in the training data"],
    "federation": {"clients": 64, "per_round": 3, "rounds": 2, "partition": "column", "left_out": 5},
    "algorithm": "fedavg",
    "bytes": {
        "per_client_down": 1000,
        "per_client_up": 1000,
        "per_round": 6000,
        "total": 12000,
        "first_download": 5,
        "alignment": 0,
    },
    "privacy": None,
    "secure": None,
    "training": "3 clients at a time",
    "device": "cpu",
}


def record(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "round": number,
        "rounds": 2,
        "loss": 0.6931,
        "metrics": {"test": {"loss": 1.0, "accuracy": 0.5}},
        "clients": {"ok": 3, "failed": 0, "refused": 0},
        "bytes": {"up": 3000, "down": 1500},
        "seconds": 2.5,
        "eta_seconds": 75.0,
        **changes,
    }


def play(display: Display) -> None:
    with display:
        display.on_start(PLAN)
        for number in (1, 2):
            for done in (1, 2, 3):
                display.on_client(number, done, 3, "email", 0.1)
            display.on_round(record(number))
        display.on_warning("round 2: [bold]refused[/bold] update of client a")


def test_a_round_in_one_line() -> None:
    assert describe_round(record()) == (
        "round 1/2   loss 0.693   accuracy 50.0 %   clients 3/3   1.50 kB down, 3.00 kB up   2.5 s   1 min 15 s left"
    )


@pytest.mark.parametrize(
    ("changes", "told", "untold"),
    [
        ({"clients": {"ok": 1, "failed": 1, "refused": 2}}, "clients 1/4   1 failed   2 refused", "x"),
        ({"loss": None, "metrics": {}}, "round 1/2   clients 3/3", "loss"),
        ({"metrics": {"validation": {"accuracy": 0.25}, "test": {"accuracy": 0.5}}}, "accuracy 25.0 %", "50.0 %"),
        ({"metrics": {"test": {"loss": 2.0, "perplexity": 7.389}}}, "perplexity 7.39", "2.0"),
        ({"round": 2}, "round 2/2", "left"),
        ({"rounds": 100}, "round   1/100", "x"),
    ],
)
def test_what_a_round_tells(changes: dict[str, Any], told: str, untold: str) -> None:
    line = describe_round(record(**changes))
    assert told in line
    assert untold not in line


def test_plain_lines_have_no_control_characters() -> None:
    stream = io.StringIO()
    play(PlainDisplay(Console(file=stream, width=160, markup=False, highlight=False)))
    text = stream.getvalue()
    assert text.replace("\n", "").isprintable()
    assert text.startswith("fedfm ")
    assert "64 by column, 5 too small left out" in text
    assert "4\N{NARROW NO-BREAK SPACE}012 train" in text or "4,012 train" in text
    assert "privacy  ε = ∞ (no differential privacy)" in text
    assert text.count("round 1/2") == text.count("round 2/2") == 1
    assert "warning: round 2: [bold]refused[/bold] update of client a" in text, "data is no markup"


PROXY: dict[str, Any] = {
    "kind": "fedpft",
    "parameters": {"blocks": 1, "backbone_blocks": 2, "total": 3},
    "disclosed": 0.5,
    "making": {"neurons": "found", "closed-form": "missing", "distilled": "missing"},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"making": {}}, None),
        ({"making": {"distilled": "missing"}}, None),
        ({}, "found in the cache: neurons"),
        ({"making": {"neurons": "found", "distilled": "found"}}, "found in the cache"),
        (
            {"cpu_seconds": {"closed-form": 8.0, "distilled": 400.0, "alignment": 9.0}},
            "found in the cache: neurons; about 6 min 48 s of CPU time (closed-form 8.0 s, distilled 6 min 40 s); "
            "an alignment about 9.0 s of CPU time",
        ),
    ],
)
def test_a_plan_says_what_making_the_proxy_takes(changes: dict[str, Any], said: str | None) -> None:
    stream = io.StringIO()
    Console(file=stream, width=250).print(describe_plan(PLAN | {"proxy": PROXY | changes}))
    lines = [line.removeprefix("making it").strip() for line in stream.getvalue().splitlines() if "making it" in line]
    assert lines == ([] if said is None else [said])


def test_sizes_that_nobody_knows_yet_are_not_told() -> None:
    stream = io.StringIO()
    unknown = PLAN["data"] | {"train": None, "client_examples": None}
    Console(file=stream, width=160).print(describe_plan(PLAN | {"data": unknown}))
    told = {line.split()[0]: line.split(None, 1)[1].rstrip() for line in stream.getvalue().splitlines()[1:]}
    assert told["clients"] == "64 by column, 5 too small left out"
    assert re.fullmatch(r"1.003 test examples, 2 labels; 1.100 are longer than data.max_length, and cut", told["data"])


def test_a_terminal_gets_one_live_bar_that_vanishes() -> None:
    stream = io.StringIO()
    display = RichDisplay(Console(file=stream, width=120, force_terminal=True, markup=False, highlight=False))
    play(display)
    (job,) = display.bar.tasks
    assert (job.completed, job.total) == (2, 2)
    assert not display.bar.live.is_started
    text = stream.getvalue()
    assert text.count("loss 0.693") == 2
    assert text.endswith("\x1b[2K"), "the bar's line is cleared at the end"


def test_the_bar_moves_with_every_client() -> None:
    display = RichDisplay(Console(file=io.StringIO(), force_terminal=True))
    display.on_start(PLAN)
    display.on_client(2, 1, 4, "email", 0.1)
    (job,) = display.bar.tasks
    assert job.completed == 1.25
    assert job.description == "round 2/2  client 1/4"


def test_the_terminal_is_left_as_it_was_when_a_run_fails() -> None:
    stream = io.StringIO()
    display = RichDisplay(Console(file=stream, force_terminal=True))

    def fail() -> None:
        with display:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not display.bar.live.is_started
    assert "\x1b[?25h" in stream.getvalue(), "the cursor is shown again"


def test_the_outcome(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "report.html").touch()
    summary = {
        "metric": "accuracy",
        "initial": {"accuracy": 0.1},
        "final": {"accuracy": 0.71},
        "baselines": {"majority": 0.28, "local": {"mean": 0.4, "worst": 0.1, "best": 0.5}, "pooled": 0.72},
        "reloaded": {"with": "peft", "difference": 2.4e-7, "agrees": True, "reason": None},
    }
    stream = io.StringIO()
    Console(file=stream, width=200, highlight=False).print(describe_outcome(tmp_path, summary))
    assert stream.getvalue().split("\n") == [
        "",
        "accuracy on the test set: 10.0 % → 71.0 %   "
        "(most frequent class 28.0 %, each client alone 40.0 %, all data in one place 72.0 %)",
        f"in {tmp_path}/: adapter/  report.html",
        "adapter/ loaded again with plain peft: same logits as measured (difference 2e-07)",
        f"code to load it: {tmp_path}/adapter/README.md",
        "",
    ]


def test_an_outcome_that_clients_measured_and_the_figures_of_a_protocol(tmp_path: Path) -> None:
    reloaded = {"with": "peft", "difference": None, "agrees": None, "reason": "no memory"}
    summary = {"metric": "accuracy", "initial": {}, "final": {"accuracy": 0.5}, "baselines": {}, "reloaded": reloaded}
    summary |= {"final_by": "clients", "protocol": {"kind": "buffered", "mean_staleness": 1.5}}
    stream = io.StringIO()
    Console(file=stream, width=200, highlight=False).print(describe_outcome(tmp_path, summary))
    assert "accuracy as the mean over clients: – → 50.0 %" in stream.getvalue()
    assert "protocol buffered: mean staleness 1.50" in stream.getvalue()


def terminal_of(width: int, *, is_terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None, highlight=False)


def test_a_narrow_terminal_breaks_between_words() -> None:
    terminal = terminal_of(80)
    play(Display(terminal))
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    words = set(describe_round(record()).split()) | {"warning:", "update", "of", "client"}
    assert words <= set(printed.split()), "no word is broken"


def test_without_a_terminal_no_silence_is_long() -> None:
    terminal = terminal_of(160, is_terminal=False)
    with PlainDisplay(terminal, silence=0.05) as display:
        display.on_progress("making the proxy", 0, None)
        for expected in ("making the proxy (running for", "distilling the proxy  12 % (", "round 3: client 2/5 ("):
            for _ in range(400):
                if f"… {expected}" in terminal.file.getvalue():  # type: ignore[attr-defined]
                    break
                time.sleep(0.01)
            assert f"… {expected}" in terminal.file.getvalue()  # type: ignore[attr-defined]
            if expected.startswith("making"):
                display.on_progress("distilling the proxy", 24, 200)
            else:
                display.on_client(3, 2, 5, "a", 0.1)
    length = len(terminal.file.getvalue())  # type: ignore[attr-defined]
    time.sleep(0.12)
    assert len(terminal.file.getvalue()) == length, "it falls silent at the end"  # type: ignore[attr-defined]


def test_the_bar_tells_of_work_beside_the_rounds() -> None:
    display = RichDisplay(terminal_of(80))
    with display:
        display.on_progress("evaluating", 3, 12)
        assert display.bar.tasks[0].description == "evaluating  3/12"
