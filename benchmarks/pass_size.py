"""How many clients to train in one pass: seconds a round, tokens a second and memory by their number.

    python benchmarks/pass_size.py [--model minilm] [--stacks off 1 2 4 8 16 32] [--steps 1] [--repeats 1]

Models are MiniLM, or shapes with random weights: bert-base, vit-base, llama-1b. As many clients as the most of a pass
take steps of 8 texts of 32 tokens (or of 8 images) with LoRA r 8, in one process: on a GPU where there is one, else on
one thread of the CPU, as each of several processes has. Runs are processes of their own and take turns; printed are
medians of the rounds between the first and the last, and the share of the best matrix product's rate.

On a GPU: `--model bert-base --stacks off 1 4 16 64 256`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    PretrainedConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from fedfm import Listener, load_recipe, run
from fedfm.models.builtin import minilm_folder
from ledger import machine, measured

BATCH, LENGTH, ROUNDS = 8, 32, 5
SHAPES: dict[str, PretrainedConfig] = {
    "bert-base": BertConfig(),
    "vit-base": ViTConfig(),
    "llama-1b": LlamaConfig(
        vocab_size=30522,  # MiniLM's tokenizer reads for it
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
}
"""Models with random weights."""

CUDA = torch.cuda.is_available()
PLACE = torch.cuda.get_device_name() if CUDA else machine()


class Ends(Listener):
    """Notes when rounds are over."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_round(self, record: dict[str, Any]) -> None:
        """A round is over."""
        self.ends.append(time.perf_counter())


def recipe(model: str, stack: int | str, precision: str, clients: int, steps: int, folder: Path) -> dict[str, Any]:
    """The run."""
    path, sees = "builtin:minilm", model == "vit-base"
    if model in SHAPES:
        path = str(folder / "model")
        AutoModel.from_config(SHAPES[model]).save_pretrained(path)
        (ViTImageProcessorPil() if sees else AutoTokenizer.from_pretrained(minilm_folder())).save_pretrained(path)
    kind = "image-classification" if sees else "causal-lm" if model == "llama-1b" else "text-classification"
    count = (clients + 1) * BATCH  # the last are the test set
    data: dict[str, Any] = {"train": "builtin:digits", "limit": count, "test": BATCH / count}
    if not sees:
        rows = [{"text": "word " * (LENGTH - 2), "label": number % 2} for number in range(clients * BATCH)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"train": str(folder / "rows.jsonl"), "test": str(folder / "rows.jsonl"), "max_length": LENGTH}
    return {
        "name": "pass-size",
        "output": str(folder),
        "model": {"path": path},
        "task": {"kind": kind},
        "data": data,
        "federation": {"clients": clients, "per_round": clients, "rounds": ROUNDS},
        "local": {"batch_size": BATCH, "max_steps": steps},
        "tune": {"kind": "lora", "target_modules": "attention"},
        "runtime": {"stack": stack, "precision": precision} | ({} if CUDA else {"processes": 1}),
        "evaluate": {"every": ROUNDS, "clients": 0},
        "checkpoint": {"every": ROUNDS},
    }


def one(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round between the first and the last, tokens of a round, share and peak memory in MiB."""
    torch.set_num_threads(1)
    (stack,), clients = options.stacks, options.clients
    with tempfile.TemporaryDirectory() as name:
        heard = Ends()
        made = recipe(options.model, stack, options.precision, clients, options.steps, Path(name))
        finished = run(load_recipe(made), listeners=[heard], profile=True)
        profile = json.loads((finished.path / "profile.json").read_text())
    status = Path("/proc/self/status").read_text().split()
    peak = torch.cuda.max_memory_allocated() / 2**10 if CUDA else int(status[status.index("VmHWM:") + 1])
    seconds = [end - start for start, end in pairwise(heard.ends[:-1])]
    return {"seconds": seconds, "tokens": profile["tokens"] / ROUNDS, "share": profile["share"], "mib": peak / 2**10}


def in_a_process(options: argparse.Namespace, stack: int | str, precision: str, clients: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", "--model", options.model, "--stacks", str(stack)]
    command += ["--precision", precision, "--clients", str(clients), "--steps", str(options.steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def height(word: str) -> int | str:
    """Of a stack: a number, or ``off``."""
    return word if word == "off" else int(word)


def main() -> None:
    """Measures what is not yet kept, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["minilm", *SHAPES], default="minilm")
    parser.add_argument("--stacks", nargs="+", type=height, default=["off", 1, 2, 4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    for name, kind in (("--precision", str), ("--clients", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(one(options)) + "\n")
        return
    clients = max([stack for stack in options.stacks if isinstance(stack, int)], default=1)
    ways = [(stack, precision) for stack in options.stacks for precision in ("float32", "bfloat16")]
    ways = [way for way in ways if way != ("off", "bfloat16")]  # a plain loop has but float32
    found: dict[tuple[int | str, str], list[dict[str, Any]]] = {way: [] for way in ways}
    job = f"{options.model}, {clients} clients of {options.steps} steps, {PLACE}"
    for repeat in range(options.repeats):
        for way in ways:
            key = f"{job}, {way[0]} a pass, {way[1]}, repeat {repeat}"
            found[way].append(measured("pass_size", key, partial(in_a_process, options, *way, clients)))
    print(
        f"{job}\n{'a pass':>8}{'precision':>11}{'s a round':>11}{'(min-max)':>18}{'tokens/s':>10}{'share':>7}{'MiB':>8}"
    )
    for (stack, precision), runs in found.items():
        times = [second for result in runs for second in result["seconds"]]
        second = statistics.median(times)
        share = statistics.median(result["share"] for result in runs)
        print(
            f"{stack:>8}{precision:>11}{second:>11.3f}{f'({min(times):.3f}-{max(times):.3f})':>18}"
            f"{runs[0]['tokens'] / second:>10,.0f}{share:>7.0%}{max(result['mib'] for result in runs):>8,.0f}"
        )


if __name__ == "__main__":
    main()
