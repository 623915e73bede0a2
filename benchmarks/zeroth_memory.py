"""Peak memory of a client that takes a zeroth-order step, one of gradient descent, or only predicts.

    python benchmarks/zeroth_memory.py [--examples 16] [--tokens 128]

Each measurement is a process of its own: it loads MiniLM (pretrained), tunes all its parameters, and takes two steps on
random tokens. "Above the weights" leaves out what the process needs once the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

CLIENT = """
import json, re, sys
from pathlib import Path
import torch
from transformers import AutoModelForSequenceClassification
from fedfm.algorithms import FedAvg
from fedfm.clients import ClientRound, LocalSettings, train_locally
from fedfm.clients.finite_differences import SlopeProbe
from fedfm.models.backbones import load_backbone
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import Full
from fedfm.tasks import TASKS

def status(field):  # not getrusage: its peak begins with that of the process that started this one
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

kind, examples, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
settings = ModelSettings(path="builtin:minilm")
backbone = load_backbone(settings, AutoModelForSequenceClassification, seed=0, labels=["a", "b"])
tunable, task = Full().attach(backbone, task_type="SEQ_CLS", seed=0), TASKS["text-classification"]()
torch.manual_seed(0)
ids = torch.randint(5, 1000, (examples, tokens))
labels = torch.zeros(examples, dtype=torch.int64)
batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}] * 2
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
loaded = status("VmRSS")
if kind == "gradient":
    local = LocalSettings(optimizer="sgd", max_grad_norm=None)
    at = ClientRound({name: parameter.detach() for name, parameter in tunable.parameters.items()}, {}, {}, lr=1e-3)
    train_locally(tunable, task, batches, local, FedAvg(), at)
else:
    probe = SlopeProbe(tunable, task, 1e-3)
    tunable.eval()
    for number, batch in enumerate(batches):
        if kind == "inference":
            probe.loss(batch)
        else:
            probe.shift((0, number), 1e-3 - 1e-6 * probe.central(batch, (0, number)))
print(json.dumps([loaded, status("VmHWM") - loaded]))
"""

KINDS = ("inference", "zeroth-order", "gradient")


def main() -> None:
    """Prints a row for each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=16, help="examples a step")
    parser.add_argument("--tokens", type=int, default=128, help="tokens an example")
    options = parser.parse_args()
    print(f"{options.examples} examples of {options.tokens} tokens, MiB")
    print(f"{'step':14}{'with weights':>14}{'above the weights':>20}")
    for kind in KINDS:
        command = [sys.executable, "-c", CLIENT, kind, str(options.examples), str(options.tokens)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded, above = json.loads(found.stdout.splitlines()[-1])
        print(f"{kind:14}{loaded + above:>14.0f}{above:>20.0f}", flush=True)


if __name__ == "__main__":
    main()
