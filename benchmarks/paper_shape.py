"""The recipes `paper-table1-bert` and `paper-table1-roberta` on models of their shape with random weights.

    python benchmarks/paper_shape.py [--model roberta]

Plays two rounds of two of four clients on 80 short texts, with a few steps of distillation before round 1 and of an
alignment after it, and prints sizes and bytes. It shows that a run of the recipe works on a model of this shape, and
what its messages weigh; with random weights, its accuracy says nothing. Takes 2 GB of memory and about a minute of
one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, PretrainedConfig, RobertaConfig

import fedfm
from fedfm.models.builtin import minilm_folder

CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(),
    "roberta": RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=0),
}
"""Both read MiniLM's tokens, whose padding is 0."""

SMALL = {
    "data.max_length": 16,
    "public.data": "builtin:pydoc",
    "public.limit": 32,
    "public.max_length": 32,
    "federation.clients": 4,
    "federation.per_round": 2,
    "federation.rounds": 2,
    "proxy.interval": 1,
    "proxy.distill.steps": 2,
    "proxy.distill.batch_size": 4,
    "proxy.align.steps": 2,
    "proxy.align.batch_size": 4,
    "proxy.probe": 2,
}
"""What is changed of the recipes besides their model and data."""


def main() -> None:
    """Plays the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="bert")
    name = parser.parse_args().model
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_model(CONFIGS[name], folder / "model")
        places = {
            "run_dir": str(folder / "run"),
            "model.path": str(folder / "model"),
            "data.train": _write_texts(folder / "train.jsonl", 80),
            "data.test": _write_texts(folder / "test.jsonl", 20),
        }
        changes = [f"{key}={value}" for key, value in (SMALL | places).items()]
        recipe = fedfm.load_recipe(f"paper-table1-{name}", changes)
        size = fedfm.plan(recipe)["bytes"]
        summary = fedfm.run(recipe).summary
    proxy = summary["proxy"]
    for title, figure in {
        "parameters of the backbone's blocks": proxy["parameters"]["backbone_blocks"],
        "of the proxy's blocks": proxy["parameters"]["blocks"],
        "of all that a client holds, without what is tuned": proxy["parameters"]["total"],
        "of what is tuned": summary["parameters"]["trainable"],
        "bytes of the first download": proxy["first_download"],
        "down, a client and round": size["per_client_down"],
        "up": size["per_client_up"],
        "down, a client and alignment": size["alignment"],
    }.items():
        print(f"{figure:>13,}  {title}")
    print(f"version {proxy['version']} of the proxy after {summary['rounds']} rounds")


def _write_model(config: PretrainedConfig, folder: Path) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)


def _write_texts(path: Path, count: int) -> str:
    rows = [{"sentence": f"text {row} is {'good' if row % 2 else 'bad'}", "label": row % 2} for row in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
