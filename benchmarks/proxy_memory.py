"""Peak memory of a client that has only its proxy's folder and its data, against one that has the full model.

    python benchmarks/proxy_memory.py [--repeats 2]

Each measurement is a process of its own, which loads a folder, attaches LoRA r 8 on attention and takes two steps
of AdamW on random tokens in the plain loop, with `local.recompute: attention` and without. Shapes: MiniLM (pretrained),
BERT-base (random weights). "Above imports" leaves out what the process needs before it loads anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from fedfm.models.backbones import load_backbone
from fedfm.models.builtin import minilm_folder
from fedfm.models.settings import ModelSettings
from fedfm.proxies.fedpft.settings import FedPFT
from fedfm.proxies.folder import save_proxy
from fedfm.proxies.pair import make_pair
from ledger import measured, measured_on

LABELS = ["a", "b"]
PROXIES = {"0.25, ends whole": FedPFT(), "0.1, none whole": FedPFT(ffn_keep=0.1, keep_layers=[])}
SHAPES = {"MiniLM": (64, 128), "BERT-base": (32, 128)}
"""Examples a step, tokens an example."""

RECOMPUTE = ("attention", "none")

CLIENT = """
import json, re, sys
from pathlib import Path
import torch
from transformers import AutoModelForSequenceClassification
from fedfm.algorithms import FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Lora
from fedfm.proxies.folder import load_proxy
from fedfm.tasks import TASKS

def peak():  # not getrusage: its peak begins with that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

kind, folder, examples, tokens, recompute = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
before = peak()
if kind == "proxy":
    backbone, _ = load_proxy(Path(folder), AutoModelForSequenceClassification)
else:
    backbone = load_backbone(ModelSettings(path=folder), AutoModelForSequenceClassification, seed=0, labels=["a", "b"])
tunable = Lora().attach(backbone, task_type="SEQ_CLS", seed=0)
torch.manual_seed(0)

def batches():
    for _ in range(2):
        ids = torch.randint(5, 1000, (examples, tokens))
        labels = torch.zeros(examples, dtype=torch.int64)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

local, at = LocalSettings(recompute=recompute), ClientRound(tunable.read(), {}, {}, lr=1e-3)
train_locally(tunable, TASKS["text-classification"](), batches(), local, FedAvg(), at)
print(json.dumps({"peak_mib": peak(), "imports_mib": before}))
"""


def client(kind: str, folder: Path, shape: tuple[int, int], recompute: str) -> dict[str, float]:
    """One client's peak, and what its imports take."""
    command = [sys.executable, "-c", CLIENT, kind, str(folder), *map(str, shape), recompute]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_models(folder: Path) -> dict[str, dict[str, tuple[str, Path]]]:
    """The folders of the full models and of their proxies, by shape and what a client holds."""
    bert = folder / "bert"
    BertModel(BertConfig()).save_pretrained(bert)
    for file in minilm_folder().glob("*token*"):
        (bert / file.name).write_bytes(file.read_bytes())
    (bert / "vocab.txt").write_bytes((minilm_folder() / "vocab.txt").read_bytes())
    written: dict[str, dict[str, tuple[str, Path]]] = {}
    for name, base in (("MiniLM", minilm_folder()), ("BERT-base", bert)):
        written[name] = {"full model": ("full", base)}
        for title, settings in PROXIES.items():
            auto = AutoModelForSequenceClassification
            backbone = load_backbone(ModelSettings(path=str(base)), auto, seed=0, labels=LABELS)
            model = make_pair(settings, backbone, None, seed=0)
            target = folder / f"{name}-{title}".replace(" ", "").replace(",", "-")
            target.mkdir()
            save_proxy(target, model.proxy, model.kept, settings)
            written[name][title] = "proxy", target
    return written


def main() -> None:
    """Measures what is not yet kept, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for shape, holders in write_models(Path(name)).items():
            for recompute in RECOMPUTE:
                for title, (kind, folder) in holders.items():
                    results[shape, recompute, title] = [
                        measured(
                            "proxy_memory",
                            f"{shape}, {SHAPES[shape]}, {title}, recompute {recompute}, repeat {repeat}",
                            partial(client, kind, folder, SHAPES[shape], recompute),
                        )
                        for repeat in range(options.repeats)
                    ]
    print(
        f"{'':<12}{'recompute':<12}{'a client holds':<18}{'peak':>10}{'of full':>9}{'above imports':>16}{'of full':>9}"
    )
    for (shape, recompute, title), repeats in results.items():
        peak, above = _medians(repeats)
        full, full_above = _medians(results[shape, recompute, "full model"])
        shares = f"{peak / full:>9.1%}{above:>12.0f} MiB{above / full_above:>9.1%}"
        print(f"{shape:<12}{recompute:<12}{title:<18}{peak:>6.0f} MiB{shares}")
    batches = f"batches of {SHAPES} (examples, tokens)"
    print(f"medians of {options.repeats}, {batches}; measured on {measured_on('proxy_memory')}")


def _medians(repeats: list[dict[str, Any]]) -> tuple[float, float]:
    """Peak, and peak above imports."""
    return (
        statistics.median(repeat["peak_mib"] for repeat in repeats),
        statistics.median(repeat["peak_mib"] - repeat["imports_mib"] for repeat in repeats),
    )


if __name__ == "__main__":
    main()
