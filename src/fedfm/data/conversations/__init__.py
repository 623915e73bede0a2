"""Conversations: their formats in data, how they are written for a model, and what of them is learnt."""

from __future__ import annotations

from fedfm.data.conversations.formats import Columns, Format, TurnList

FORMATS: dict[str, Format] = {
    "alpaca": Columns(prompts=("instruction",), inputs=("input", "context"), responses=("output", "response")),
    "pairs": Columns(prompts=("prompt", "question", "query"), responses=("response", "completion", "answer")),
    "messages": TurnList(role="role", text="content"),
    "sharegpt": TurnList(role="from", text="value"),
}
"""Name → how a row of that format is read."""

__all__ = ["FORMATS", "Columns", "Format", "TurnList"]
