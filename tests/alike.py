"""Recipes that must give the same result under every runtime."""

from __future__ import annotations

from typing import Any

PROXY = {"kind": "fedpft", "ffn_keep": 0.5, "keep_layers": [], "closed_form": False, "distill": None}
BITS = {"bits": {"attention": 4, "ffn": 8}}
ALIGN = {"interval": 2, "align": {"share": 0.5, "steps": 2, "batch_size": 4}}
RECIPES: dict[str, dict[str, Any]] = {
    "lora": {},
    "fedadam": {"algorithm": {"name": "fedadam"}},
    "fedpft": {"proxy": PROXY | ALIGN | BITS, "public": {"data": "builtin:pydoc", "limit": 32}},
}

SGD = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None}
TOP_K, INT8 = {"kind": "top-k", "share": 0.05}, {"kind": "quantize", "direction": "both"}
DEVICES = [{"name": "phone", "speed": 5.0, "up": 2e4, "share": 0.5}, {"name": "server", "speed": 40.0, "share": 0.5}]
METHODS: dict[str, dict[str, Any]] = {
    "scaffold": {"algorithm": {"name": "scaffold"}, "local": SGD},
    "feddyn": {"algorithm": {"name": "feddyn"}, "local": SGD},
    "diloco": {
        "algorithm": {"name": "diloco"},
        "local": {"batch_size": 5, "keep_optimizer": True, "lr_scheduler_interval": "step", "warmup_ratio": 0.25},
    },
    "top-k": {"updates": [TOP_K]},
    "int8": {"updates": [INT8]},
    "random-k": {"updates": [{"kind": "random-k", "share": 0.2}]},
    "top-k and int8": {"updates": [TOP_K, INT8]},
    "ranks": {"aggregate": {"rule": "hetlora"}, "federation": {"ranks": [2, 4, 8]}},
    "personal head": {"tune": {"kind": "lora", "share": "not head"}},
    "chosen layers": {"select": {"kind": "layers", "budget": [1, 2], "lam": 0.0, "every": 2}},
    "median": {"aggregate": {"rule": "median"}},
    "centred clipping under attack": {
        "aggregate": {"rule": "centered-clipping"},
        "federation": {"attackers": {"kind": "alie", "z": 1.0, "share": 0.34}},
    },
    "gossip": {
        "protocol": {"kind": "gossip", "graph": {"kind": "complete"}, "gamma": 0.3},
        "federation": {"per_round": None},
        "updates": [{"kind": "top-k", "share": 0.2, "error_feedback": False}],
    },
    "buffered": {"protocol": {"kind": "buffered", "size": 2}, "federation": {"devices": DEVICES}},
    "hierarchical": {"protocol": {"kind": "hierarchical", "edges": 2, "edge_rounds": 2}},
    "distillation": {
        "protocol": {"kind": "distillation", "examples": 8, "steps": 3, "batch_size": 4, "digest_steps": 2},
        "public": {"data": "builtin:pydoc", "limit": 32},
        "federation": {"models": [{"path": "builtin:tiny-gpt2", "clients": 3}]},
    },
    "fedkseed": {"protocol": {"kind": "fedkseed", "seeds": 16}, "local": SGD},
    "decomfl": {"protocol": {"kind": "decomfl", "steps": 2, "perturbations": 2}, "local": SGD},
    "sub-models": {"tune": {"kind": "full"}, "federation": {"budgets": [0.5, 1.0]}},
}
"""The first method of each kind: what a client keeps, what a message goes through, parts of a model, rules, protocols.
What is new in a method belongs to `small_recipe`; its federation is added to that of the test."""
