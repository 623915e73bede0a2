"""Conversations in every format, one or several in a file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedfm.data.conversations import FORMATS
from fedfm.data.conversations.reading import CONVERSATION, conversation_columns, with_conversations
from fedfm.data.conversations.turns import Turn, parsed
from fedfm.data.settings import ConversationSettings
from fedfm.data.sources import read_source
from fedfm.errors import DataError, FedfmError, RecipeError

ASKED, SAID = Turn("user", "Name a colour."), Turn("assistant", "Red.", learned=True)

ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        {"instruction": "Name a colour.", "context": None, "response": "Red."},
    ],
    "pairs": [
        {"prompt": "Name a colour.", "response": "Red."},
        {"prompt": "Name a colour.", "completion": "Red."},
        {"question": "Name a colour.", "answer": "Red."},
    ],
    "messages": [
        {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]},
        {"conversations": [{"role": "User", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Red."}]},
    ],
}
ALL = [row for rows in ROWS.values() for row in rows]


def read(path: Path, rows: Sequence[dict[str, Any]], **settings: Any) -> list[list[Turn]]:
    """The conversations in a file with these rows; its ending chooses the reader."""
    if path.suffix == ".parquet":
        pd.DataFrame(list(rows)).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows), indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = ConversationSettings(**settings)
    source = read_source(str(path), "train", where="data.train", columns=conversation_columns(chosen))
    return [parsed(text) for text in with_conversations(source, chosen).table[CONVERSATION]]


def test_every_format_has_rows_here() -> None:
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("row", ALL, ids=lambda row: "-".join(row))
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_a_format_is_recognised(row: dict[str, Any], ending: str, tmp_path: Path) -> None:
    assert read(tmp_path / f"rows.{ending}", [row]) == [[ASKED, SAID]]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_named(name: str, tmp_path: Path) -> None:
    assert read(tmp_path / "rows.jsonl", ROWS[name], format=name) == [[ASKED, SAID]] * len(ROWS[name])


def test_rows_of_a_file_may_have_several_formats(tmp_path: Path) -> None:
    usable = [row for row in ALL if "context" not in row]
    assert read(tmp_path / "rows.jsonl", usable) == [[ASKED, SAID]] * len(usable)


def test_columns_with_other_names(tmp_path: Path) -> None:
    rows = [{"frage": "Name a colour.", "antwort": "Red.", "prompt": "not read"}]
    assert read(tmp_path / "a.jsonl", rows, prompt="frage", response="antwort") == [[ASKED, SAID]]
    rows = [{"dialogue": ROWS["sharegpt"][0]["conversations"]}]
    assert read(tmp_path / "b.jsonl", rows, turns="dialogue") == [[ASKED, SAID]]


def test_inputs_and_systems_are_read_where_they_are(tmp_path: Path) -> None:
    rows = [{"instruction": "Translate.", "input": "rouge", "output": "red", "system": "Be brief."}]
    expected = [Turn("system", "Be brief."), Turn("user", "Translate.\nrouge"), Turn("assistant", "red", learned=True)]
    assert read(tmp_path / "rows.jsonl", rows) == [expected]


def test_turns_with_weight_zero_and_after_the_last_response_are_not_learnt(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "one", "weight": 0},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "two", "weight": 1},
        {"role": "user", "content": "thanks"},
    ]
    (conversation,) = read(tmp_path / "rows.jsonl", [{"messages": turns}])
    assert [turn.learned for turn in conversation] == [False, False, False, False, True]
    assert conversation[0].role == "system"


def talk(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


REFUSED: dict[str, tuple[list[dict[str, Any]], type[FedfmError], str]] = {
    "an unknown role": (
        [talk(("user", "a"), ("assistant", "b")), talk(("user", "a"), ("tool", "b"))],
        DataError,
        r"row 2 \(messages\) has turn 2 with the role 'tool'; known are system, developer, user",
    ),
    "no response": ([talk(("user", "a"))], DataError, "row 1 .* has no turn of the assistant"),
    "a response to nothing": ([talk(("assistant", "a"))], DataError, "row 1 .* begins with a turn of the assistant"),
    "a call of a tool": (
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [1]}]}],
        DataError,
        "has nothing in `content` of turn 2, not text; calls of tools are not available",
    ),
    "parts of a message": ([talk(("user", [{"type": "text"}]), ("assistant", "b"))], DataError, "has a list in"),
    "a number": ([talk(("user", 5), ("assistant", "b"))], DataError, "has a number in `content` of turn 1"),
    "a mark of ours": ([talk(("user", "a\ufdd0"), ("assistant", "b"))], DataError, r"has U\+FDD0 in turn 1"),
    "two formats in a row": ([{**ALL[0], **ROWS["messages"][0]}], DataError, "row 1 is alpaca and also messages; set"),
    "two names in a row": ([{"prompt": "a", "question": "b", "answer": "c"}], DataError, "has `prompt` and `question`"),
    "a row of no format": ([ALL[0], {"note": "x"}], DataError, "row 2 has no prompt and no turns"),
    "no turns": ([talk(("user", "a"), ("assistant", "b")), {"messages": []}], DataError, "row 2 has no prompt and no"),
    "turns that are no list": (
        [{"messages": {"role": "user"}}],
        DataError,
        "row 1, column `messages`: contains an obj",
    ),
    "half of a format": ([{"instruction": "a", "answer": "b"}], RecipeError, "has no conversations: its columns are"),
    "other columns": ([{"text": "a", "label": 1}], RecipeError, "no column of `instruction`, .* columns: text, label"),
    "a key twice": ([], DataError, "has the key `content` twice in an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_where_and_why(case: str, tmp_path: Path) -> None:
    rows, error, says = REFUSED[case]
    path = tmp_path / "rows.jsonl"
    if not rows:
        path.write_text('{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n')
        with pytest.raises(error, match=says):
            read_source(str(path), "train", where="d", columns=conversation_columns(ConversationSettings()))
        return
    with pytest.raises(error, match=says):
        read(path, rows)


@pytest.mark.parametrize(
    "settings",
    [{"prompt": "a"}, {"prompt": "a", "response": "b", "turns": "c"}, {"turns": "c", "format": "alpaca"}],
)
def test_names_that_do_not_belong_together(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="prompt"):
        ConversationSettings(**settings)
