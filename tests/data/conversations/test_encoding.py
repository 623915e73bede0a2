"""Encoded conversations: what is cut and left out is counted; packing; responses of encoder-decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfm.data.conversations.encoding import LEARNED, RESPONSE, encode_conversations, encode_responses
from fedfm.data.conversations.packing import POSITIONS, bins
from fedfm.data.examples import Examples
from fedfm.data.settings import DataSettings
from fedfm.data.sources import read_source
from fedfm.errors import DataError
from fedfm.models.byte_tokenizer import byte_tokenizer
from fedfm.tasks import TASKS

HEAD = len("<User:\na\nAssistant:\n")
"""Tokens before the response to a question of one letter; the first is the start token."""


def encode(folder: Path, rows: list[dict[str, Any]], kind: str = "instruct", **settings: Any) -> Examples:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data, task = DataSettings(train=str(path), **settings), TASKS[kind]()
    source = read_source(str(path), "train", where="data.train", columns=task.columns(data))
    tokenizer = byte_tokenizer("start-only" if kind == "instruct" else "pair", 256)
    encoder = encode_conversations if kind == "instruct" else encode_responses
    return encoder(task.prepare(source, data), data, tokenizer)


def row(response: str | None, client: str = "x", question: str = "a") -> dict[str, Any]:
    return {"prompt": question, "response": response, "client": client}


def test_what_is_cut_and_left_out_is_counted(tmp_path: Path) -> None:
    rows = [row("ok"), row("long" * 5), row(" "), row("lost", question="a" * 50), row(None), row("fine")]
    found = encode(tmp_path, rows, max_length=HEAD + 6)
    assert [sum(example[LEARNED]) for example in found.table] == [3, 6, 5]  # with end tokens, except where it was cut
    assert found.cut is not None
    assert found.cut.tolist() == [0, 15, 0]
    assert found.lengths.tolist() == [HEAD + 3, HEAD + 6, HEAD + 5]
    cut, lost, blank = (note.split(": ", 1)[1] for note in found.notes)
    assert cut.startswith(f"1 of 6 examples are longer than {HEAD + 6} tokens (data.max_length): 15 tokens")
    assert (
        lost
        == f"1 of 6 examples have their whole response after {HEAD + 6} tokens (data.max_length) and are left "
        + ("out (first: row 4)")
    )
    assert blank == "2 of 6 examples have no response that is learnt and are left out (first: row 3)"


@pytest.mark.parametrize(("response", "where"), [("x", r"data\.max_length"), ("", r"data\.conversation")])
def test_data_without_any_response_is_refused(response: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{where}: .*1 of 1 examples have"):
        encode(tmp_path, [row(response, question="a" * (50 if response else 1))], max_length=HEAD + 1)


def test_clients_follow_their_conversations(tmp_path: Path) -> None:
    found = encode(tmp_path, [row("", "a"), row("x", "b"), row("y", "c")], client="client")
    assert found.clients is not None
    assert found.clients.tolist() == ["b", "c"]


def test_bins_are_filled_in_order_for_each_client() -> None:
    lengths, clients = np.array([3, 3, 4, 6, 2]), np.array(["a", "b", "a", "b", "a"], dtype=object)
    assert bins(lengths, clients, 7) == [[0, 2], [1], [3], [4]]
    assert bins(lengths, None, 7) == [[0, 1], [2], [3], [4]]


def test_packed_conversations_are_whole(tmp_path: Path) -> None:
    rows = [row("one", "a"), row("two", "b"), row("three", "a"), row("four", "a")]
    alone = encode(tmp_path, rows, client="client", max_length=64)
    shared = encode(tmp_path, rows, client="client", max_length=64, pack=True)
    assert shared.clients is not None
    assert shared.clients.tolist() == ["a", "b", "a"]
    assert shared.table[0]["input_ids"] == alone.table[0]["input_ids"] + alone.table[2]["input_ids"]
    assert shared.table[0][LEARNED] == alone.table[0][LEARNED] + alone.table[2][LEARNED]
    assert shared.table[0][POSITIONS] == [*range(alone.lengths[0]), *range(alone.lengths[2])]
    assert shared.notes[-1] == "4 conversations are packed into 3 examples (data.pack)"


def test_an_encoder_decoder_learns_each_response_after_what_precedes_it(tmp_path: Path) -> None:
    turns = [("user", "hi"), ("assistant", "Hello"), ("user", "bye"), ("assistant", "Bye" * 9), ("user", "a")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns], "client": "x"}
    found = encode(tmp_path, [talk, row("")], "seq2seq", max_length=24, client="client")
    tokenizer = byte_tokenizer("pair", 256)
    asked = [tokenizer.decode(ids) for ids in found.table["input_ids"]]
    given = [tokenizer.decode(ids) for ids in found.table[RESPONSE]]
    assert asked == ["<s>hi</s>", "<s>User:\nhi\nAssistant:\nHe</s>"]
    assert given == ["<s>Hello</s>", f"<s>{('Bye' * 9)[:22]}</s>"]
    assert found.cut is not None
    assert found.cut.tolist() == [0, len("llo\nUser:\nbye") + 5]
    assert found.clients is not None
    assert found.clients.tolist() == ["x", "x"]
    assert "1 of 3 examples have no response" in found.notes[-1]
