"""The sets of the FedPFT benchmarks, from a folder or from the Hugging Face hub, each in three fixed parts.

A set's training rows are put into one fixed order. The first become the training part, later ones the validation part:
no row is in both, and every seed and method gets the same rows. Choices are made on the validation part. The test part
comes from the set's own test split and is read only by runs whose settings are final.

Folder (``--data FOLDER``)::

    NAME/train.jsonl.gz, NAME/test.jsonl.gz    text sets: one JSON object a line, with the columns below and `label`
    NAME/train.npz, NAME/test.npz              image sets: `image` [N, H, W, 3] or `jpeg` with `offset`, and `label` [N]
    c4_wiki_demo/train.jsonl.gz, wikitext2/train.jsonl.gz    public text: `text`
    tiny_imagenet/train.npz                    public images

Hub (``--data hf``): the data sets that `SETS` and `PUBLIC` name, through the cache of `datasets`. Figures of the two
sources are not comparable, since rows differ; their results have different keys.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from filelock import FileLock

from fedfm.data.readers.hub import read_hub
from fedfm.data.sources import Split, read_source
from ledger import RESULTS

HUB = Path("hf")
"""In place of a folder: the sets come from the hub."""


@dataclass(frozen=True)
class Hub:
    """Where a set is on the hub.

    Attributes:
        name: as in a recipe, after ``hf:``.
        columns: names there of columns that have another name here.
        test: the split that has labels to test on.
    """

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)
    test: str = "test"


@dataclass(frozen=True)
class Examples:
    """A classification set.

    Attributes:
        columns: the text column, two text columns, or ``image``.
        hub: None where no data set of the hub is known to be the same.
        max_length: tokens of an example.
        public_length: tokens of a sample of public text; a pair where examples are pairs.
    """

    columns: tuple[str, ...] = ("text",)
    hub: Hub | None = None
    max_length: int = 64
    public_length: int = 32

    @property
    def is_images(self) -> bool:
        """Whether examples are images."""
        return self.columns == ("image",)


_PAIR = {"text_a": "question", "text_b": "sentence"}
TEXT_SETS = {
    "sst2": Examples(hub=Hub("SetFit/sst2")),
    "qnli": Examples(("text_a", "text_b"), Hub("nyu-mll/glue/qnli", _PAIR, test="validation"), public_length=48),
    "trec6": Examples(hub=Hub("SetFit/TREC-QC", {"label": "label_coarse"}), max_length=32),
    "ag_news": Examples(hub=Hub("fancyzhx/ag_news"), max_length=32),
    "newsgroups20": Examples(hub=Hub("SetFit/20_newsgroups"), max_length=40),
}
IMAGE_SETS = {
    "cifar10": Examples(("image",), Hub("uoft-cs/cifar10", {"image": "img"})),
    "cifar100": Examples(("image",), Hub("uoft-cs/cifar100", {"image": "img", "label": "fine_label"})),
    "flowers17": Examples(("image",)),
}
SETS = TEXT_SETS | IMAGE_SETS

PUBLIC = {
    "text": {"c4_wiki_demo": Hub("NeelNanda/c4-10k"), "wikitext2": Hub("Salesforce/wikitext/wikitext-2-raw-v1")},
    "image": {"tiny_imagenet": Hub("zh-plus/tiny-imagenet")},
}
"""Public data: web pages and encyclopaedia articles; images of 200 classes."""

PRETRAINING_SETS = {
    "cifar100": (Hub("uoft-cs/cifar100", {"image": "img", "label": "fine_label"}), 7000),
    "tiny_imagenet": (Hub("zh-plus/tiny-imagenet", test="valid"), 3200),
}
"""Of the ViT, on the hub, and how many training rows are used."""

PUBLIC_ROWS, SHORTEST_TEXT = 4000, 200
"""Of a public set on the hub at most so many rows are taken, and only texts of so many characters."""


@dataclass(frozen=True)
class Sizes:
    """How many rows of a set are used, at most.

    Attributes:
        train: at most nine tenths of the training rows in any case, so that some remain for validation.
    """

    train: int
    validation: int = 800
    test: int = 800


@dataclass(frozen=True)
class Files:
    """The parts of a set as files of fedfm."""

    train: Path
    validation: Path
    test: Path


def split_rows(count: int, sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to validate on; both ascend.

    Args:
        count: of the set's training rows.
        sizes: of the parts.
    """
    order = np.random.default_rng(0).permutation(count)
    trained = min(sizes.train, count * 9 // 10)
    return np.sort(order[:trained]), np.sort(order[trained : trained + sizes.validation])


def prepare(data: Path, name: str, sizes: Sizes) -> Files:
    """Writes the parts of a set below ``results/``, where they are not yet.

    Raises:
        ValueError: the hub has no such set.
        fedfm.FedfmError: the folder lacks a file, or the hub cannot be reached.
    """
    chosen = SETS[name]
    if data == HUB and chosen.hub is None:
        raise ValueError(
            f"{name} is not on the hub under a name that is known here; name a folder that has it (--data)"
        )
    folder = _folder(data) / f"{name}-{sizes.train}-{sizes.validation}-{sizes.test}"
    ending = "npz" if chosen.is_images else "jsonl"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            beside = folder.with_suffix(".partial")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            rows, test = _read(data, name, "train", chosen), _read(data, name, "test", chosen)
            trained, validated = split_rows(len(rows), sizes)
            _write(rows.select(trained), beside / f"train.{ending}", chosen)
            _write(rows.select(validated), beside / f"validation.{ending}", chosen)
            tested = np.random.default_rng(0).permutation(len(test))[: sizes.test]
            _write(test.select(np.sort(tested)), beside / f"test.{ending}", chosen)
            beside.rename(folder)
    return Files(*(folder / f"{part}.{ending}" for part in ("train", "validation", "test")))


def public_file(data: Path, kind: str) -> Path:
    """The public data of a kind, ``text`` or ``image``, in one file below ``results/``."""
    path = _folder(data) / f"public.{'jsonl' if kind == 'text' else 'npz'}"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            wanted = Examples((kind,))
            parts = [_public_rows(data, name, wanted, hub) for name, hub in PUBLIC[kind].items()]
            beside = path.with_name(f"partial-{path.name}")
            _write(concatenate_datasets(parts), beside, wanted)
            beside.rename(path)
    return path


def pretraining_folder(data: Path) -> Path:
    """A folder with the sets that `pretrain_vit.py` reads; those of the hub are written below ``results/``."""
    if data != HUB:
        return data
    folder = _folder(data) / "pretraining"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            beside = folder.with_suffix(".partial")
            shutil.rmtree(beside, ignore_errors=True)
            for name, (hub, most) in PRETRAINING_SETS.items():
                (beside / name).mkdir(parents=True)
                for split in ("train", "test"):
                    rows = _renamed(_from_hub(hub, hub.test if split == "test" else "train"), hub)
                    chosen = np.random.default_rng(0).permutation(len(rows))[: most if split == "train" else most // 5]
                    _write(rows.select(np.sort(chosen)), beside / name / f"{split}.npz", Examples(("image",)))
            beside.rename(folder)
    return folder


def _folder(data: Path) -> Path:
    folder = RESULTS / "data" / ("hub" if data == HUB else "folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read(data: Path, name: str, split: Split, chosen: Examples) -> Dataset:
    """Rows with the set's columns and ``label``."""
    if data == HUB:
        assert chosen.hub is not None  # noqa: S101 - prepare has refused it
        place = chosen.hub.test if split == "test" else split
        return _renamed(_from_hub(chosen.hub, place), chosen.hub).select_columns([*chosen.columns, "label"])
    path = data / name / f"{split}.{'npz' if chosen.is_images else 'jsonl.gz'}"
    return read_source(str(path), split, where=f"data.{split}").table.select_columns([*chosen.columns, "label"])


def _public_rows(data: Path, name: str, wanted: Examples, hub: Hub) -> Dataset:
    if data != HUB:
        path = data / name / f"train.{'npz' if wanted.is_images else 'jsonl.gz'}"
        return read_source(str(path), "train", where="public.data").table.select_columns(list(wanted.columns))
    rows = _renamed(_from_hub(hub, "train"), hub).select_columns(list(wanted.columns))
    if not wanted.is_images:
        rows = rows.filter(lambda text: len(text) >= SHORTEST_TEXT, input_columns="text")
    return rows.select(range(min(PUBLIC_ROWS, len(rows))))


def _from_hub(hub: Hub, split: str) -> Dataset:
    return read_hub(hub.name, split, where="data", allow_network=True)


def _renamed(rows: Dataset, hub: Hub) -> Dataset:
    rows = rows.remove_columns([name for name in hub.columns if name in rows.column_names])
    return rows.rename_columns({there: here for here, there in hub.columns.items()})


def _write(rows: Dataset, path: Path, chosen: Examples) -> None:
    if not chosen.is_images:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    columns = {"label": np.asarray(rows["label"])} if "label" in rows.column_names else {}
    np.savez(path, image=np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]]), **columns)
