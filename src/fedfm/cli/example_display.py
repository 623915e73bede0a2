"""Encoded examples for the terminal: what is learnt in colour, the rest dim."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group
from rich.text import Text

from fedfm.records import units
from fedfm.records.jsonl import Record

MOST = 200
"""Tokens of a side of an example that are shown."""

LEARNED = "bold green"


def render_examples(overview: Record, *, coloured: bool) -> Group:
    """The examples of `fedfm.server.data_overview`, each under a line of facts.

    Args:
        overview: with ``examples`` and ``split``.
        coloured: whether the terminal has colours; without, « and » stand around what is learnt.
    """
    parts: list[Text] = []
    for number, example in enumerate(overview["examples"], start=1):
        parts += [Text(""), Text(_facts(number, overview["split"], example), style="dim")]
        for arrow, side in (("", example["tokens"]), ("→ ", example["targets"])):
            if side:
                parts.append(Text(arrow).append_text(_tokens(side, example["cut"], coloured=coloured)))
        if example["label"] is not None:
            parts.append(Text("→ ").append_text(_run(example["label"], learned=True, coloured=coloured)))
    return Group(*parts)


def _facts(number: int, split: str, example: Record) -> str:
    tokens = [token for side in (example["tokens"], example["targets"]) for token in side]
    learned = sum(token["learned"] for token in tokens)
    size = f"{units.number(len(tokens))} tokens, {units.number(learned)} of them learnt" if tokens else "an image"
    if example["image"] is not None:
        size = " × ".join(map(str, example["image"])) + " values"
    client = f", client {example['client']}" if example["client"] is not None else ""
    cut = f", {units.number(example['cut'])} tokens cut off" if example["cut"] else ""
    return f"{split} example {number}: {size}{cut}{client}"


def _tokens(side: Sequence[Record], cut: int, *, coloured: bool) -> Text:
    """A text in runs of tokens that are learnt or not; a scissors mark where it was cut."""
    text = Text()
    for learned, run in groupby(side[:MOST], key=lambda token: bool(token["learned"])):
        text.append_text(_run("".join(token["text"] for token in run), learned=learned, coloured=coloured))
    if len(side) > MOST:
        text.append(f" … {units.number(len(side) - MOST)} more tokens", style="dim")
    return text.append(" ✂", style="red") if cut else text


def _run(text: str, *, learned: bool, coloured: bool) -> Text:
    if coloured:
        return Text(text, style=LEARNED if learned else "dim")
    return Text(f"«{text}»" if learned else text)
