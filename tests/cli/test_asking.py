"""`fedfm ask` prints what clients returned, and refuses what is no question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedfm.cli.asking import show_answers
from fedfm.cli.main import main
from fedfm.server.runs.answers import Answered, Passage, PossibleAnswer

SENT = {"down": 1200.0, "up": 2400.0}
FOUND = Answered(
    question="how?",
    passages=[Passage("clinic", 0.75, 3, "by \x1b[31mhand\n and foot"), Passage("ward", 0.5, 1)],
    choices=[],
    clients=2,
    failed={"lab": "outside this site's policy (works)"},
    cut_short={"ward": "outside this site's policy (max_scores)"},
    complete=False,
    exchanges=2,
    bytes=SENT,
    snippets=1,
)
CHOSEN = Answered(
    "is it?", [], [PossibleAnswer("yes", 0.6, 2), PossibleAnswer("no", 0.4, 1)], 3, {}, {}, True, 1, SENT, 0
)


def test_it_prints_passages_choices_and_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([FOUND, CHOSEN], as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0.750", "clinic", "3", "by", "\\x1b[31mhand", "and", "foot"] in lines
    assert ["0.500", "ward", "1"] in lines
    assert ["0.600", "2", "yes"] in lines
    said = [" ".join(line) for line in lines]
    assert "2 clients answered in 2 exchanges; 1.20 kB down, 2.40 kB up, 1 piece of text left them" in said
    assert "lab did not answer: outside this site's policy (works)" in said
    assert "ward did not answer again: outside this site's policy (max_scores)" in said
    assert sum(line.startswith("The list may lack passages") for line in said) == 1


def test_it_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([FOUND], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["passages"][1] == {"client": "ward", "score": 0.5, "chunk": 1, "text": None}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), (b"\xff\xfe\xfa", "is not UTF-8 text"), (b"\n \n", "Give a question")],
)
def test_no_question_is_a_wrong_invocation(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(main, ["ask", str(tmp_path), "--questions", str(path)])
    assert done.exit_code == 2
    assert reason in " ".join(done.output.split())
