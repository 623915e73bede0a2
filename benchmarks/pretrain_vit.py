"""Pretrains a small ViT (2.7 M parameters, 32 × 32) on cifar100 and tiny_imagenet: a vision backbone for benchmarks.

    python benchmarks/pretrain_vit.py [--epochs 100] [--width 192] [--patch 4] [--output runs/vit] [--data FOLDER]
        [--budget-minutes N]

The sets are joined into one classification of 300 classes, 10,200 images; crops and flips, AdamW, cosine after a
warm-up. Every epoch is kept: stopped at any time it goes on where it was, and the outcome is the same, for every
random choice is keyed by its epoch. A CPU core trains on some 60 images a second, on some 500 at `--width 128
--patch 8`; a GPU is taken where there is one. The output is an ordinary folder, for a recipe's `model.path`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from fedfm.data.images import PixelStatistics, encode_images
from fedfm.data.sources import Split, read_source
from fedfm.params import Params, load, save
from fedfm.randomness import numpy_generator, torch_seed
from fedfm.records.disk import replacing_folder

SETS = ("cifar100", "tiny_imagenet")
SIDE, MARGIN = 32, 4
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Training:
    """What decides the outcome, beside the data.

    Attributes:
        width: of the model; a multiple of 64, which is a head.
        patch: side of a patch in pixels.
    """

    epochs: int
    width: int = 192
    patch: int = 4
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    label_smoothing: float = 0.1
    seed: int = 0

    def learning_rate_at(self, epoch: float) -> float:
        """Linear over the warm-up, then a cosine to zero; ``epoch`` counts from 0 and may be a fraction."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2


def processor() -> ViTImageProcessorPil:
    """Images at 32 × 32, pixels from −1 to 1."""
    side = {"height": SIDE, "width": SIDE}
    return ViTImageProcessorPil(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True)


def new_model(classes: int, training: Training) -> ViTForImageClassification:
    """Six layers."""
    config = ViTConfig(
        hidden_size=training.width,
        num_hidden_layers=6,
        num_attention_heads=training.width // 64,
        intermediate_size=4 * training.width,
        image_size=SIDE,
        patch_size=training.patch,
    )
    config.num_labels = classes
    with torch_seed(training.seed, "vit"):
        return ViTForImageClassification(config)


def read(data: Path, split: Split) -> list[tuple[Tensor, Tensor]]:
    """Pixels, uint8 [N, 3, 32, 32], and labels, int64 [N], of each set; the labels of all sets are distinct."""
    parts, offset = [], 0
    for name in SETS:
        source = read_source(str(data / name / f"{split}.npz"), split, where="data")
        table = encode_images(source, "image", processor()).table
        labels = torch.tensor(source.table["label"][:])
        parts.append((torch.from_numpy(table["pixel_values"][:]), labels + offset))
        offset += int(labels.max()) + 1
    return parts


def crops(pixels: Tensor, generator: np.random.Generator) -> Tensor:
    """Each image shifted by up to four pixels, half of them mirrored; uint8 [B, 3, 32, 32]."""
    wide = pad(pixels.float(), [MARGIN] * 4, mode="reflect").to(torch.uint8)
    count, window = len(pixels), np.arange(SIDE)
    rows, columns = (generator.integers(0, 2 * MARGIN + 1, count)[:, None] + window for _ in range(2))
    mirrored = generator.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    places = [torch.from_numpy(index).to(pixels.device) for index in (np.arange(count), rows, columns)]
    found: Tensor = wide[places[0][:, None, None], :, places[1][:, :, None], places[2][:, None, :]]
    return found.permute(0, 3, 1, 2)  # [B, 32, 32, 3] → [B, 3, 32, 32]


def train_epoch(
    model: ViTForImageClassification,
    optimizer: torch.optim.Optimizer,
    examples: tuple[Tensor, Tensor],
    training: Training,
    epoch: int,
) -> float:
    """One pass; the mean loss."""
    statistics, (pixels, labels) = PixelStatistics.of(processor()), examples
    generator = numpy_generator(training.seed, "vit batches", round=epoch)
    batches = torch.from_numpy(generator.permutation(len(labels))).to(labels.device).split(training.batch_size)
    total = torch.zeros((), device=labels.device)
    model.train()
    for number, batch in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(epoch + number / len(batches))
        logits = model(pixel_values=statistics.pixels(crops(pixels[batch], generator))).logits
        loss = cross_entropy(logits, labels[batch], label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.detach() * len(batch)
    return float(total) / len(labels)


@torch.inference_mode()
def accuracy(model: ViTForImageClassification, examples: tuple[Tensor, Tensor]) -> float:
    """Share of right answers, among the classes of all sets."""
    statistics, right = PixelStatistics.of(processor()), 0
    model.eval()
    for pixels, labels in zip(*(part.split(256) for part in examples), strict=True):
        right += int((model(pixel_values=statistics.pixels(pixels)).logits.argmax(-1) == labels).sum())
    return right / len(examples[1])


def keep(folder: Path, model: ViTForImageClassification, optimizer: torch.optim.Optimizer, progress: object) -> None:
    """Writes what it takes to go on."""
    tensors: Params = {}
    for name, parameter in model.named_parameters():
        tensors[f"value/{name}"] = parameter
        tensors |= {f"{moment}/{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    with replacing_folder(folder) as beside:
        save(tensors, beside / "state.safetensors")
        (beside / "progress.json").write_text(json.dumps(progress))


@torch.no_grad()
def restore(folder: Path, model: ViTForImageClassification, optimizer: torch.optim.Optimizer) -> None:
    """Puts model and optimiser back to where they were."""
    tensors = load(folder / "state.safetensors")
    for name, parameter in model.named_parameters():
        parameter.copy_(tensors[f"value/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS}
        optimizer.state[parameter] = {
            moment: value if moment == "step" else value.to(parameter.device) for moment, value in moments.items()
        }


def pretrain(data: Path, output: Path, training: Training, end: float) -> Iterator[str]:
    """Trains until done or until ``end`` of the monotonic clock; says how it goes, a line an epoch.

    Raises:
        ValueError: what was kept was trained in another way.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits: tuple[Split, Split] = ("train", "test")
    train, test = ([(x.to(device), y.to(device)) for x, y in read(data, split)] for split in splits)
    together = (torch.cat([x for x, _ in train]), torch.cat([y for _, y in train]))
    model = new_model(int(together[1].max()) + 1, training).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=training.weight_decay)
    kept, first = output.with_name(f"{output.name}.training"), 0
    if kept.exists():
        progress = json.loads((kept / "progress.json").read_text())
        if progress["training"] != asdict(training):
            raise ValueError(f"{kept} was trained in another way ({progress['training']}); remove it to begin anew")
        restore(kept, model, optimizer)
        first = progress["epochs"]
    for epoch in range(first, training.epochs):
        if time.monotonic() >= end:
            return
        start = time.monotonic()
        loss = train_epoch(model, optimizer, together, training, epoch)
        speed = len(together[1]) / (time.monotonic() - start)
        keep(kept, model, optimizer, {"epochs": epoch + 1, "training": asdict(training)})
        scores = ", ".join(f"{name} {100 * accuracy(model, part):.1f} %" for name, part in zip(SETS, test, strict=True))
        yield f"epoch {epoch + 1} of {training.epochs}: loss {loss:.3f}, test {scores}, {speed:.0f} images/s"
    with replacing_folder(output) as beside:
        model.cpu().eval().save_pretrained(beside)
        processor().save_pretrained(beside)
    shutil.rmtree(kept, ignore_errors=True)
    yield f"written to {output}"


def main() -> None:
    """Pretrains as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--output", type=Path, default=Path("runs/vit"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--width", type=int, default=192, help="of the model, a multiple of 64")
    parser.add_argument("--patch", type=int, default=4, help="side of a patch in pixels, a divisor of 32")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="begin no epoch after so long")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is not there; name the folder of the data sets (--data)")
    if options.output.exists():
        parser.error(f"{options.output} exists; remove it, or name another --output")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.budget_minutes
    try:
        training = Training(options.epochs, options.width, options.patch)
        for line in pretrain(options.data.absolute(), options.output, training, end):
            print(line, flush=True)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
