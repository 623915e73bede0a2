"""Recipes that every runtime must give alike."""

from __future__ import annotations

from typing import Any

PROXY = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [], "closed_form": False, "distill": None}
ALIGN = {"interval": 2, "align": {"share": 0.5, "steps": 2, "batch_size": 4}}
RECIPES: dict[str, dict[str, Any]] = {
    "lora": {},
    "fedadam": {"algorithm": {"name": "fedadam"}},
    "fedpft": {"proxy": PROXY | ALIGN, "public": {"data": "builtin:pydoc", "limit": 32}},
}
