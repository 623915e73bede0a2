"""Photographs and captions over clients: does a federation find them better than each client alone?

    python benchmarks/multimodal.py [--data FOLDER] [--image MODEL] [--text builtin:minilm] [--rounds 12] [--seeds 3]
        [--smoke]

FOLDER holds `flickr8k_1k`: 650 photographs with five captions each to train on, 150 to test on. MODEL is the folder of
a vision model, such as that of `benchmarks/pretrain_vit.py`. LoRA and the projections are tuned. Compared are:

- pooled: one client with all pairs;
- federated: ten clients with 65 pairs each;
- local: each of these clients alone, for as many steps as a client of the federation that takes part in every round;
- halved: five of the ten clients have pairs, the others take no part;
- one kind: these five with pairs, and the other five with images only or texts only, which learn by dropout.

Each of these five has three tries, the rates of `RATES`, on a seed of its own: trained on 520 of the 650 photographs,
measured on the other 130; of the clients alone, one is tried. The best rate is then run with the seeds. Every result is
kept in `results/multimodal.json`: stopped at any time, it goes on where it was. `--smoke` runs two rounds of two steps.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from fedfm import resume, run
from ledger import digest, mean_and_deviation, measured, measured_on

DATA = Path(__file__).parents[2] / "shared" / "data"
CLIENTS = 10
PAIRED = CLIENTS // 2
METRIC = "recall_at_10"
RATES = (1e-3, 2e-3, 4e-3)
TRIED = 100
"""Seed of the tries."""
HELD = 130
"""Photographs of the training set on which tries are measured."""
ARMS = ("federated", "pooled", "halved", "one-kind", "local")
KINDS = {f"c{number}": "image" if number % 2 else "text" for number in range(PAIRED, CLIENTS)}
"""Clients that have one kind where some do."""


def written(data: Path, output: Path, seed: int) -> Path:
    """The folder of this seed's tables: all pairs, with their clients; each client's; tests, a row for each caption.

    What the tries are measured on is taken from the training set.
    """
    folder = output / f"data-{seed}"
    if (folder / "ready").is_file():
        return folder
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        with np.load(data / "flickr8k_1k" / f"{split}.npz") as archive:
            jpeg, offset = archive["jpeg"], archive["offset"]
        with gzip.open(data / "flickr8k_1k" / f"{split}.captions.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for row in rows:
            name = f"images/{split}-{row['index']}.jpg"
            content = jpeg[offset[row["index"]] : offset[row["index"] + 1]].tobytes()
            (folder / name).write_bytes(content)
            row["image"] = name
        tables[split] = rows
    order = np.random.default_rng(seed).permutation(len(tables["train"]))
    if seed == TRIED:
        tables["test"] = [tables["train"][place] for place in order[:HELD]]
        tables["train"] = [tables["train"][place] for place in order[HELD:]]
        order = np.arange(len(tables["train"]))
    train = [
        {"image": row["image"], "captions": row["captions"], "client": f"c{place % CLIENTS}"}
        for row, place in zip(tables["train"], order.tolist(), strict=True)
    ]
    test = [{"image": row["image"], "captions": text} for row in tables["test"] for text in row["captions"]]
    _write(folder / "all.jsonl", train)
    _write(folder / "halved.jsonl", [row for row in train if row["client"] not in KINDS])
    for number in range(CLIENTS):
        _write(folder / f"c{number}.jsonl", [row for row in train if row["client"] == f"c{number}"])
    _write(folder / "test.jsonl", test)
    (folder / "ready").touch()
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe(folder: Path, options: argparse.Namespace, arm: str, seed: int, rate: float) -> dict[str, Any]:
    """The recipe of one arm: `pooled`, `federated`, `halved`, `one-kind`, or the name of a client alone."""
    table = {"pooled": "all", "federated": "all", "one-kind": "all"}.get(arm, arm)
    alone = arm == "pooled" or arm.startswith("c")
    clients = 1 if alone else PAIRED if arm == "halved" else CLIENTS
    steps = {"max_steps": 2} if options.smoke else {"epochs": 1}
    dropout = {"dropout": True} if arm == "one-kind" else {}
    return {
        "name": name(arm, seed, rate),
        "output": str(options.output),
        "seed": seed,
        "model": {"path": str(options.image), "text": options.text},
        "task": {"kind": "image-text"},
        "data": {
            "train": str(folder / f"{table}.jsonl"),
            "test": str(folder / "test.jsonl"),
            "text": "captions",
            "max_length": 40,
            **({} if alone else {"client": "client"}),
        },
        "federation": {
            "clients": clients,
            "per_round": clients,
            "rounds": 2 if options.smoke else options.rounds,
            **({"modalities": KINDS} if arm == "one-kind" else {}),
        },
        "local": {"batch_size": 32, "learning_rate": rate, **steps, **dropout},
        "tune": {"kind": "lora", "r": 8, "target_modules": "attention"},
        "evaluate": {"every": 2 if options.smoke else options.rounds, "batch_size": 64},
    }


def name(arm: str, seed: int, rate: float) -> str:
    """What a run is called."""
    return f"{arm}-{seed}-{rate:g}"


def measure(folder: Path, options: argparse.Namespace, arm: str, seed: int, rate: float) -> dict[str, float]:
    """The metrics of one run, which is continued if it was stopped; its folder is removed once they are known."""
    begun = options.output / name(arm, seed, rate)
    started = (begun / "recipe.yaml").is_file()
    finished = resume(begun) if started else run(recipe(folder, options, arm, seed, rate))
    found = {metric: float(value) for metric, value in finished.summary["final"].items()}
    shutil.rmtree(finished.path)
    return found


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that holds flickr8k_1k")
    parser.add_argument("--image", default="runs/vit", help="folder or name of the image tower")
    parser.add_argument("--text", default="builtin:minilm", help="folder or name of the text tower")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="two rounds of two steps, one seed, one client alone")
    parser.add_argument("--output", type=Path, default=Path("runs/multimodal-benchmark"))
    options = parser.parse_args()
    if not (options.data / "flickr8k_1k").is_dir():
        parser.error(f"{options.data} has no folder flickr8k_1k; name its parent with --data")
    if not options.image.startswith("builtin:") and not Path(options.image).is_dir():
        parser.error(f"{options.image} is no folder; make one with benchmarks/pretrain_vit.py, or name one by --image")
    shape = digest([str(options.image), options.text, options.rounds, options.smoke])

    def score(arm: str, seed: int, rate: float) -> float:
        folder = written(options.data, options.output, seed)
        key = f"{shape} {name(arm, seed, rate)}"
        found = measured("multimodal", key, lambda: measure(folder, options, arm, seed, rate))[METRIC]
        print(f"{name(arm, seed, rate)}: {100 * found:.1f} %", flush=True)
        return float(found)

    alone = [f"c{number}" for number in range(1 if options.smoke else CLIENTS)]
    chosen = {arm: max(RATES, key=lambda rate: score(alone[0] if arm == "local" else arm, TRIED, rate)) for arm in ARMS}
    found: dict[str, list[float]] = {}
    for seed in range(1 if options.smoke else options.seeds):
        for arm, rate in chosen.items():
            runs = [score(one, seed, rate) for one in (alone if arm == "local" else [arm])]
            found.setdefault(arm, []).append(statistics.mean(runs))
    print(f"\n{METRIC}, %, mean ± standard deviation over {len(found['local'])} seeds; local: of the clients' means")
    for arm, values in found.items():
        print(f"{arm:10} {mean_and_deviation(values, 100, 1)}  rate {chosen[arm]:g}")
    print(f"measured on {measured_on('multimodal')}")


if __name__ == "__main__":
    main()
