"""Synthetic folders of runs, with records in the format that a run writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fedfm.records import jsonl, ledger
from fedfm.records.environment import environment
from fedfm.records.folder import RunFolder

LABELS = ["internet", "files", "text", "concurrency", "numbers", "development", "language", "data types"]


def synthetic_recipe(name: str, *, clients: int, rounds: int, language_model: bool) -> dict[str, Any]:
    return {
        "name": name,
        "seed": 7,
        "output": "runs",
        "run_dir": None,
        "model": {"path": "builtin:small-llama" if language_model else "builtin:minilm", "revision": None},
        "task": {"kind": "causal-lm" if language_model else "text-classification"},
        "data": {"train": "builtin:pydoc", "text": ["text"], "label": "label", "client": "client"},
        "federation": {"clients": clients, "per_round": min(10, clients), "rounds": rounds, "holdout": 0.1},
        "tune": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "attention"},
        "algorithm": {"name": "fedavg"},
        "runtime": {"kind": "local"},
        "privacy": {"kind": "none"},
    }


def synthetic_clients(count: int, *, labelled: bool, generator: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    sizes = np.maximum(12, generator.lognormal(4.2, 0.6, count)).astype(int)
    for index, size in enumerate(sizes):
        mix = generator.multinomial(size, generator.dirichlet(np.full(len(LABELS), 0.35)))
        labels = {label: int(number) for label, number in zip(LABELS, mix, strict=True)} if labelled else None
        rows.append({"id": f"{index:04d}", "examples": int(size), "labels": labels, "holdout": int(size) // 10})
    return rows


def tensors(hidden: int, labels: int) -> dict[str, torch.Tensor]:
    layer = "base_model.model.bert.encoder.layer.{}.attention.self.{}.lora_{}.weight"
    shapes = {
        layer.format(index, module, side): (8, hidden) if side == "A" else (hidden, 8)
        for index in range(6)
        for module in ("query", "value")
        for side in "AB"
    }
    head = {"base_model.model.classifier.weight": (labels, hidden), "base_model.model.classifier.bias": (labels,)}
    return {name: torch.zeros(shape) for name, shape in (shapes | (head if labels else {})).items()}


def probe_line(number: int, stage: str, error: float, *, blocks: int = 4) -> dict[str, Any]:
    """A line of metrics.jsonl about a proxy whose gradient is wrong by ``error``."""
    layers = {
        f"encoder.layer.{index + 1}": {"gradient_error": error, "hidden_error": 0.2 * error * (1 + index)}
        for index in range(blocks)
    }
    figures = {
        "gradient_error": error,
        "gradient_cosine": 1 - error / 2,
        "gradient_norm_ratio": 1 - error / 5,
        "update_cosine": 1 - error,
    }
    figures |= {"agreement": 1 - error / 4, "divergence": error / 3, "hidden_error": 0.2 * error * (1 + blocks) / 2}
    line = {"round": number, "split": "proxy", "client": None, "stage": stage, **figures, "layers": layers}
    return line | {"seconds": 2.0 + 8.3 * number}


def write_proxy(folder: RunFolder, kind: str) -> None:
    """Adds what a run with a proxy writes beside the rest."""
    recipe = yaml.safe_load(folder.recipe.read_text(encoding="utf-8")) | {"proxy": {"kind": kind}}
    folder.write_text(folder.recipe, yaml.safe_dump(recipe, sort_keys=False))
    stages = [(0, "constructed", 0.93), (0, "closed-form", 0.52), (0, "distilled", 0.31)]
    if kind == "fedpft":
        for number in (10, 20):
            stages += [(number, "before-alignment", 0.42 + number / 500), (number, "aligned", 0.33)]
    for stage in stages if kind == "fedpft" else [stages[0], stages[2]]:
        folder.append(folder.metrics, probe_line(*stage))
    summary = jsonl.read(folder.summary)
    final = {**summary["final"], "accuracy": summary["final"].get("accuracy", 0.5) - 0.0123}
    summary["proxy"] = {
        "kind": kind,
        "title": {"fedpft": "FedPFT", "offsite": "offsite tuning"}[kind],
        "version": 3,
        "parameters": {"blocks": 7_101_696, "backbone_blocks": 10_646_784, "total": 19_100_000},
        "disclosed": 0.445,
        "initial": summary["initial"],
        "final": final,
        "plug_in_gap": 0.0123,
        "first_download": 76_400_000,
        "seconds": 41.2,
    }
    folder.write_json(folder.summary, summary)


def write_run(
    path: Path,
    *,
    clients: int = 100,
    rounds: int = 30,
    language_model: bool = False,
    per_client: bool = True,
    status: str = "completed",
    hidden: int = 4,
    faults: bool = True,
    proxy: str | None = None,
) -> RunFolder:
    """Writes every file that a report reads; all figures are drawn from a fixed generator."""
    generator = np.random.default_rng(0)
    folder = RunFolder.create(path)
    recipe = synthetic_recipe(path.name, clients=clients, rounds=rounds, language_model=language_model)
    folder.write_text(folder.recipe, yaml.safe_dump(recipe, sort_keys=False))
    folder.write_json(folder.environment, environment())
    federation = synthetic_clients(clients, labelled=not language_model, generator=generator)
    folder.write_json(folder.clients, federation)

    def scores(progress: float, offset: float = 0.0) -> dict[str, float]:
        wobble = float(generator.normal(0, 0.006))
        if language_model:
            loss = 6.9 - 3.1 * (1 - math.exp(-3 * progress)) + offset + wobble
            return {"loss": loss, "perplexity": math.exp(loss), "token_accuracy": 0.05 + 0.3 * progress + wobble}
        accuracy = 0.14 + 0.65 * (1 - math.exp(-4 * progress)) - offset + wobble
        return {
            "loss": 2.1 - 1.5 * accuracy,
            "accuracy": accuracy,
            "macro_f1": accuracy - 0.05,
            "matthews": accuracy - 0.1,
        }

    cohort, params = min(10, clients), tensors(hidden, 0 if language_model else len(LABELS))
    size = sum(tensor.numel() * 4 for tensor in params.values()) + 2600
    done = rounds if status == "completed" else rounds // 2
    initial = final = scores(0.0)
    for number in range(done + 1):
        elapsed = round(2.0 + 8.3 * number + 0.6 * math.sin(number), 3)
        if number:
            drawn = [federation[index]["id"] for index in sorted(generator.choice(clients, cohort, replace=False))]
            answered = drawn[:-1] if faults and number % 9 == 4 else drawn
            folder.append(folder.wire, ledger.message_record(number, "down", drawn, size, params))
            for client in answered:
                folder.append(folder.wire, ledger.message_record(number, "up", [client], size + 120, params))
            loss = scores(number / rounds)["loss"] * 0.95
            folder.append(
                folder.metrics,
                {
                    "round": number,
                    "split": "train",
                    "client": None,
                    "loss": loss,
                    "examples": 640,
                    "seconds": elapsed - 1,
                },
            )
            final = scores(number / rounds)
        for split, values in (("validation", scores(number / rounds, 0.01)), ("test", final)):
            row = {"round": number, "split": split, "client": None, **values, "examples": 1200, "seconds": elapsed}
            folder.append(folder.metrics, row)
        if faults and number % 9 == 4:
            refused = {"round": number, "kind": "refused", "client": drawn[-1], "reason": "not finite: 3 of 26 tensors"}
            folder.append(folder.events, refused)
    if faults:
        folder.append(folder.events, {"round": 6, "kind": "resume", "client": None, "reason": ""})
    metric = "perplexity" if language_model else "accuracy"
    spread = None
    if per_client and status == "completed":
        values = []
        for row in federation[:100]:
            score = scores(1.0, float(generator.normal(0.03, 0.25 / math.sqrt(row["holdout"] + 1))))
            score = {key: value if key in ("loss", "perplexity") else min(1.0, value) for key, value in score.items()}
            values.append(score[metric])
            line = {"round": done, "split": "client", "client": row["id"], **score, "examples": row["holdout"]}
            folder.append(folder.metrics, line)
        worst = sorted(values, reverse=language_model)[: math.ceil(len(values) / 10)]
        spread = {"metric": metric, "clients": len(values), "mean": float(np.mean(values))}
        spread |= {"worst_10_percent": float(np.mean(worst)), "deviation": float(np.std(values))}
    traffic = ledger.totals(folder.wire)
    folder.write_json(
        folder.summary,
        {
            "name": path.name,
            "status": status,
            "rounds": done,
            "metric": metric,
            "final": final,
            "initial": initial,
            "best": {"round": done, "split": "validation", "metrics": final},
            "baselines": {}
            if language_model
            else {"majority": 0.214, "local": {"mean": 0.412, "worst": 0.31, "best": 0.55}, "pooled": 0.803},
            "clients_spread": spread,
            "proxy": None,
            "parameters": {
                "backbone": 22_713_216,
                "client": 22_863_752,
                "trainable": sum(t.numel() for t in params.values()),
            },
            "bytes": {"down": traffic["down"], "up": traffic["up"], "first_download": 90_852_864},
            "seconds": {
                "total": 2.0 + 8.3 * done,
                "train": 6.6 * done,
                "evaluate": 1.4 * done,
                "aggregate": 0.1,
                "wire": 0.2,
            },
            "samples_per_second": 97.0,
            "privacy": None,
            "clients": {"total": clients, "failed": 0, "refused": len(range(4, done + 1, 9)) if faults else 0},
            "seed": 7,
            "versions": environment()["versions"],
        },
    )
    if proxy:
        write_proxy(folder, proxy)
    return folder
