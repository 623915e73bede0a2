"""Image and text: two towers learn to map an image near its caption.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), arXiv:2103.00020, §2.3 and
figure 3: with embeddings u_i of the images and v_i of the captions of a batch, all of length 1, s_ij = u_i·v_j / τ, and

    L = −Σ_i [ log exp(s_ii) / Σ_j exp(s_ij) + log exp(s_ii) / Σ_j exp(s_ji) ] / 2B

A client that has only images, or only texts (`federation.modalities`), minimises the same loss over two views of each
example, which needs one tower: for images two crops, as in SimCLR (Chen et al., arXiv:2002.05709) and, beside CLIP's
loss, in SLIP (Mu et al., arXiv:2112.12750); for texts the same text twice, under two draws of dropout
(`local.dropout`), as in unsupervised SimCSE (Gao et al., arXiv:2104.08821, eq. 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize
from transformers import AutoModel

from fedfm.capabilities import BACKBONE_WEIGHTS, LABELS, PEFT_PROMPTS, TEXT_INPUTS, TWO_TOWERS
from fedfm.data.examples import Examples
from fedfm.data.image_files import with_images
from fedfm.data.image_text import CAPTIONS, encode_image_text
from fedfm.data.images import PixelStatistics
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch, Collate, Measured, Task, client_columns
from fedfm.tasks.classification import channels
from fedfm.tasks.shown import ShownExample, shown_tokens
from fedfm.tasks.towers import image_embeddings, scale_of, text_embeddings

SIDES = ("first", "second")
"""In a batch, int64 [B] each: numbers of what each half of the embeddings was made of, equal for equal images or texts.
The first half is of the images, the second of the captions; or both are views of one kind."""
MODALITY = "modality"
"""Column of examples of clients that have one kind: 1 images, 2 texts, 0 both."""
ROWS = 1024
"""Embeddings that are compared with all others at once."""


class ImageText(Task):
    """Finds the caption of an image and the image of a caption; outputs are 2B embeddings of B pairs."""

    gives = frozenset({TWO_TOWERS})
    needs = {BACKBONE_WEIGHTS: "a proxy learns from public examples of one kind, and a pair has two"}
    takes = {
        LABELS: "its examples have none",
        PEFT_PROMPTS: "peft has no place for them in a model of two towers; use prompt or lora",
        TEXT_INPUTS: "its examples are pairs of an image and a text",
    }
    kind: Literal["image-text"] = "image-text"
    """The caption of an image and the image of a caption, by a tower for each."""
    temperature: Annotated[float, Field(gt=0, le=100)] | None = None
    """τ: similarities are divided by it before the softmax; null: the model's own, exp(−logit_scale)."""
    crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest share of the area of an image in a view of it, where a client has images only; half of the views are
    mirrored."""
    modality = "image-text"
    auto_class = AutoModel
    peft_type = None
    labelled = False
    draws_inputs = True
    across_examples = True
    zero_shot = True
    metrics = MappingProxyType(
        {"recall_at_10": True}
        | {f"{found}_recall_at_{most}": True for found in ("text", "image") for most in (1, 5, 10)}
    )

    def inputs(self, data: DataSettings) -> list[str]:
        """The image, and its caption."""
        return [data.image, *data.text]

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """An image, and a caption or a list of captions."""
        captions = [RequestedColumn(name, "any", "data.text") for name in data.text]
        return [RequestedColumn(data.image, "image", "data.image"), *captions, *client_columns(data)]

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source whose digest covers the images that it refers to.

        Raises:
            RecipeError, DataError: as `with_images`.
        """
        return with_images(source, data.image)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Pixels at the model's size, and ids of each caption, truncated to ``data.max_length`` tokens."""
        return encode_image_text(source, data, processor, channels(processor.image_processor))

    def collate(self, processor: Any, seed: int) -> Collate:
        """Images, and a caption of each, drawn where there are several; of one kind alone, two views of each."""
        pixels = PixelStatistics.of(processor.image_processor, channels(processor.image_processor))
        generator = numpy_generator(seed, "pairs")

        def images(rows: Sequence[Mapping[str, Any]]) -> Tensor:
            return torch.from_numpy(np.stack([row["pixel_values"] for row in rows]).astype(np.uint8))

        def texts(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
            return [np.asarray(row[CAPTIONS][generator.integers(len(row[CAPTIONS]))]).tolist() for row in rows]

        def padded(ids: Sequence[Sequence[int]]) -> Batch:
            return dict(processor.tokenizer.pad([{"input_ids": row} for row in ids], return_tensors="pt"))

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            kinds = {int(row.get(MODALITY, 0)) for row in rows}
            shown = [row["pixel_values"] for row in rows]
            if kinds == {1}:
                views = torch.cat([crops(images(rows), generator, self.crop) for _ in SIDES])
                return {"pixel_values": pixels.pixels(views), **dict.fromkeys(SIDES, _numbers(shown))}
            ids = texts(rows)
            if kinds == {2}:
                return {**padded([*ids, *ids]), **dict.fromkeys(SIDES, _numbers(ids))}
            numbers = dict(zip(SIDES, (_numbers(shown), _numbers(ids)), strict=True))
            return {"pixel_values": pixels.pixels(images(rows)), **padded(ids), **numbers}

        return collate

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Shape of the image, and the tokens of its first caption."""
        ids = [int(token) for token in row[CAPTIONS][0]]
        shown = shown_tokens(processor.tokenizer, ids, [False] * len(ids))
        return ShownExample(tokens=shown, image=list(np.shape(row["pixel_values"])))

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
        """Refuses a model whose towers do not give embeddings of images and texts in one space.

        Raises:
            RecipeError: at ``model.path``.
        """
        tunable.eval()
        device, side = tunable.base_model.device, processor.image_processor
        blank = np.zeros((32, 32, 3) if channels(side) == 3 else (32, 32), dtype=np.uint8)
        batch = dict(processor.tokenizer(["a text"], return_tensors="pt"))
        batch["pixel_values"] = side(images=[blank], return_tensors="pt")["pixel_values"]
        if hasattr(tunable.base_model, "logit_bias"):
            raise RecipeError(f"{name} was trained with a sigmoid loss over pairs, not with CLIP's", where="model.path")
        try:
            with torch.no_grad():
                self.outputs(tunable.model, {key: tensor.to(device) for key, tensor in batch.items()})
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(
                f"the towers of {name} give no embedding of an image or of a text: choose a CLIP model, or towers with "
                "a pooler, such as a ViT and a BERT",
                where="model.path",
            ) from error

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Embeddings of the images, then those of the texts, ``[2B, d]``, each of length √(1/τ).

        The product of two of them is then s_ij, a CLIP model's ``logits_per_image``.
        """
        parts = [image_embeddings(model, batch["pixel_values"])] if "pixel_values" in batch else []
        if "input_ids" in batch:
            parts.append(text_embeddings(model, batch))
        scale = scale_of(model) if self.temperature is None else torch.tensor(1 / self.temperature)
        return normalize(torch.cat(parts), dim=-1) * scale.to(parts[0]).sqrt()

    def predictions(self, batch: Batch) -> Tensor:
        """Two for each pair, one in each direction; none for a pair without another one to compare it with."""
        first = batch[SIDES[0]]
        return torch.full_like(first, 2 if len(first) > 1 else 0)

    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each pair in both directions, summed.

        Another pair of the batch with the same image or the same caption is no negative.
        """
        first, second = outputs.chunk(2)
        scores = first @ second.T
        alike = torch.zeros_like(scores, dtype=torch.bool)
        for side in SIDES:
            alike |= batch[side].unsqueeze(1) == batch[side].unsqueeze(0)
        own = torch.arange(len(scores), device=scores.device)
        scores = scores.masked_fill(alike & (own.unsqueeze(1) != own), -torch.inf)
        totals = cross_entropy(scores, own, reduction="none") + cross_entropy(scores.T, own, reduction="none")
        return totals, self.predictions(batch)

    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """Both embeddings of each pair, and the numbers by which equal images and captions are found."""
        halves = (part.float().cpu().numpy() for part in outputs.chunk(2))
        numbers = (batch[side].cpu().numpy() for side in SIDES)
        return dict(zip(("image", "text", "image_number", "text_number"), (*halves, *numbers), strict=True))

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Recall among all different images and captions that were measured; `recall_at_10` is the mean of both ways.

        ``text_recall_at_k``: the share of images with one of their captions among the k nearest; ``image_recall_at_k``:
        of captions with one of their images. A wrong one with the same score ranks before the right one.
        """
        _, first_image, image = np.unique(measured["image_number"], return_index=True, return_inverse=True)
        _, first_text, text = np.unique(measured["text_number"], return_index=True, return_inverse=True)
        images, texts = measured["image"][first_image], measured["text"][first_text]
        ranks = {
            "text": best_ranks(images, texts, np.stack([image, text], 1)),
            "image": best_ranks(texts, images, np.stack([text, image], 1)),
        }
        found = {
            f"{kind}_recall_at_{most}": float(np.mean(rank <= most))
            for kind, rank in ranks.items()
            for most in (1, 5, 10)
        }
        return {"recall_at_10": (found["text_recall_at_10"] + found["image_recall_at_10"]) / 2, **found}


def best_ranks(asked: np.ndarray, listed: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Rank of the best right answer to each of Q, int64 [Q] from 1; of equal scores, the right one comes last.

    Args:
        asked: embeddings [Q, d].
        listed: embeddings [P, d].
        pairs: index into ``asked`` and into ``listed`` of each right answer, [N, 2]; every one of Q has one.
    """
    ranks = []
    for start in range(0, len(asked), ROWS):
        scores = asked[start : start + ROWS] @ listed.T
        right = np.zeros(scores.shape, dtype=bool)
        here = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + ROWS)]
        right[here[:, 0] - start, here[:, 1]] = True
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
        ranks.append(1 + ((scores >= best) & ~right).sum(1))
    return np.concatenate(ranks)


def crops(pixels: Tensor, generator: np.random.Generator, smallest: float) -> Tensor:
    """A random crop of each image at its old size, half of them mirrored; uint8 [B, C, H, W], and returns the same.

    Args:
        pixels: the images.
        generator: of the choices.
        smallest: share of the area of the smallest crop; its sides keep the proportions of the image.
    """
    height, width = pixels.shape[-2:]
    found = []
    for image in pixels:
        share = generator.uniform(smallest, 1) ** 0.5
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
        part = image[:, top : top + rows, left : left + columns].float().unsqueeze(0)
        whole = interpolate(part, (height, width), mode="bilinear", align_corners=False)[0]
        found.append(whole.flip(-1) if generator.random() < 0.5 else whole)
    return torch.stack(found).round().to(torch.uint8)


def _numbers(values: Sequence[Any]) -> Tensor:
    """A number for each image or text, int64 [B], the same for equal ones."""
    digests = [hashlib.sha256(np.asarray(value, dtype=np.int32).tobytes()).digest() for value in values]
    return torch.tensor([int.from_bytes(digest[:8], "big", signed=True) for digest in digests])
