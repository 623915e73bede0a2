"""The factors of low-rank updates in a tunable: which tensors belong together."""

from __future__ import annotations

from collections.abc import Iterable

_FACTORS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}


def pairs(names: Iterable[str]) -> dict[str, str]:
    """Name of each factor A → name of its factor B, as PEFT names them."""
    known = set(names)
    found = {}
    for name in known:
        for first, second in _FACTORS.items():
            partner = ".".join(second if part == first else part for part in name.split("."))
            if partner != name and partner in known:
                found[name] = partner
    return dict(sorted(found.items()))
