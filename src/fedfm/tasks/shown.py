"""Encoded examples for people: tokens as text, and which of them are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_CONTEXT = 8
"""Tokens before a token with which it is decoded: whether a word begins with a space depends on what precedes it."""


@dataclass(frozen=True)
class ShownToken:
    """One token.

    Attributes:
        id: in the vocabulary.
        text: what it adds to the text; empty for all but the last token of a letter.
        learned: whether it is predicted, and so learnt.
    """

    id: int
    text: str
    learned: bool


@dataclass(frozen=True)
class ShownExample:
    """One example.

    Attributes:
        tokens: that the model reads; empty for an image.
        targets: that the decoder of an encoder-decoder learns.
        label: the class that is learnt.
        image: shape ``[C, H, W]`` of an image.
    """

    tokens: list[ShownToken] = field(default_factory=list)
    targets: list[ShownToken] = field(default_factory=list)
    label: str | None = None
    image: list[int] | None = None


def shown_tokens(tokenizer: Any, ids: Sequence[int], learned: Sequence[bool]) -> list[ShownToken]:
    """Tokens with the text that each adds."""
    texts, waiting = [], 0  # the tokens of a letter that is not whole yet
    for place in range(len(ids)):
        start = max(0, place - waiting - _CONTEXT)
        before, now = (
            tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False) for end in (place - waiting, place + 1)
        )
        added = now[len(before) :] if now.startswith(before) else tokenizer.decode([ids[place]])
        whole = not added.endswith("\ufffd") or place + 1 == len(ids) or waiting == 3  # a letter has 4 bytes at most
        texts.append(added if whole else "")
        waiting = 0 if whole else waiting + 1
    return [ShownToken(*token) for token in zip(ids, texts, learned, strict=True)]
