"""Embeddings of public images and texts: what a model says of them, and learning from what others say.

With the embeddings u [N, d] of a client's images or texts, of length 1, and G [N, d] those of the server's other tower,

    align:    L = −1/B · Σ_n log( exp(u_n·G_n / τ) / Σ_m exp(u_n·G_m / τ) )

draws each towards the partner that the client may not have, and away from the partners of the others: the inter-modal
contrast of CreamFL (Yu et al., arXiv:2302.08888), over all N public pairs. With the embeddings u, v of images and
texts, and ū, v̄ what the clients say of them,

    distil:   L = loss of the task on the pairs + λ/B · Σ_n ( ‖u_n − ū_n‖² + ‖v_n − v̄_n‖² ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fedfm.clients.distilling import Distilling, descend
from fedfm.clients.evaluation import Evaluator
from fedfm.clients.threads import use_threads
from fedfm.data.images import PixelStatistics
from fedfm.data.packed_pairs import unpack_images, unpack_tokens
from fedfm.tasks.base import Batch
from fedfm.tasks.classification import channels
from fedfm.tasks.towers import image_embeddings, text_embeddings

Side = Literal["image", "text"]
OTHER: Mapping[Side, Side] = {"image": "text", "text": "image"}
"""The sides of a pair, each with the other one."""
REPRESENTATIONS = "representations"
"""Group of a message: embeddings by side, float32 [N, d], each of length 1."""


@dataclass(frozen=True)
class PairReader:
    """A model of two towers that embeds public images and texts, and learns from embeddings.

    Attributes:
        evaluator: of its tunable.
    """

    evaluator: Evaluator

    def represent(self, packed: Mapping[str, Tensor]) -> dict[Side, Tensor]:
        """The embeddings of packed images or texts, or both, with the present value of the tunable.

        Raises:
            ValueError: they cannot be unpacked.
        """
        here, found = self.evaluator, dict[Side, Tensor]()
        here.tunable.eval()
        threads = nullcontext() if here.threads is None else use_threads(here.threads)
        with torch.no_grad(), threads:
            for side, (count, batch_of) in self._sides(packed).items():
                pieces = np.array_split(np.arange(count), -(-count // here.batch_size))
                rows = [self._embed(side, batch_of(piece)).float().cpu() for piece in pieces]
                found[side] = torch.cat(rows)
        return found

    def align(
        self,
        packed: Mapping[str, Tensor],
        anchors: Mapping[str, Tensor],
        settings: Distilling,
        *,
        round: int,  # noqa: A002 - the field's word
        client: str,
    ) -> None:
        """Draws the embeddings of packed images or texts to those of their partners, in place, without dropout.

        Args:
            packed: of N public pairs, or of one side of them.
            anchors: side → embeddings [N, d]; of each packed side, the other one.
            settings: steps, optimiser and temperature.
            round: key of the batches.
            client: key of the batches.

        Raises:
            FloatingPointError: the loss is not a finite number.
            ValueError: the pairs cannot be unpacked, or an anchor is missing or of another number.
        """
        sides = self._sides(packed)
        for side, (count, _) in sides.items():
            anchor = anchors.get(OTHER[side])
            if anchor is None or anchor.ndim != 2 or len(anchor) != count:
                raise ValueError(f"there must be an embedding of the {OTHER[side]} of each of the {count} pairs")

        def loss(chosen: np.ndarray) -> Tensor:
            own = torch.from_numpy(chosen).to(self.evaluator.device)
            found = []
            for side, (_, batch_of) in sides.items():
                scores = self._embed(side, batch_of(chosen)) @ anchors[OTHER[side]].to(self.evaluator.device).T
                found.append(cross_entropy(scores / settings.temperature, own))
            return torch.stack(found).mean()

        if sides:
            descend(self.evaluator, loss, next(iter(sides.values()))[0], settings, round=round, client=client)

    def distil(
        self,
        rows: Sequence[Mapping[str, Any]],
        said: Mapping[Side, Tensor],
        settings: Distilling,
        weight: float,
        *,
        round: int,  # noqa: A002 - the field's word
    ) -> float:
        """Fits the tunable to pairs and to what clients say of them, in place; the mean loss of the steps.

        Args:
            rows: N public pairs.
            said: side → embeddings [N, d]; a side of which nobody says anything is absent.
            settings: steps and optimiser.
            weight: λ.
            round: key of the batches.

        Raises:
            FloatingPointError: the loss is not a finite number.
        """
        here = self.evaluator
        collate = here.task.collate(here.processor, 0)

        def loss(chosen: np.ndarray) -> Tensor:
            batch = self._here(collate([rows[place] for place in chosen]))
            outputs = here.task.outputs(here.tunable.model, batch)
            totals, counts = here.task.losses(outputs, batch)
            found = totals.sum() / counts.sum().clamp(min=1)
            for side, embeddings in zip(OTHER, normalize(outputs, dim=-1).chunk(2), strict=True):
                if side in said:
                    wanted = said[side][torch.from_numpy(chosen)].to(here.device)
                    found = found + weight * (embeddings - wanted).square().sum(-1).mean()
            return found

        return descend(here, loss, len(rows), settings, round=round)

    def _sides(self, packed: Mapping[str, Tensor]) -> dict[Side, tuple[int, Callable[[np.ndarray], Batch]]]:
        """How many there are of each packed side, and the batch of some of them."""
        processor: Any = self.evaluator.processor
        pixels, texts = unpack_images(packed), unpack_tokens(packed)
        found: dict[Side, tuple[int, Callable[[np.ndarray], Batch]]] = {}
        if pixels is not None:
            found["image"] = len(pixels), partial(_images, pixels, processor.image_processor)
        if texts is not None:
            found["text"] = len(texts), partial(_texts, texts, processor.tokenizer)
        return found

    def _embed(self, side: Side, batch: Batch) -> Tensor:
        """Embeddings of a batch of one side, ``[B, d]``, of length 1."""
        model, here = self.evaluator.tunable.model, self._here(batch)
        found = image_embeddings(model, here["pixel_values"]) if side == "image" else text_embeddings(model, here)
        return normalize(found, dim=-1)

    def _here(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.evaluator.device) for name, tensor in batch.items()}


def _images(pixels: Tensor, processor: Any, chosen: np.ndarray) -> Batch:
    """A batch of some images."""
    statistics = PixelStatistics.of(processor, channels(processor))
    return {"pixel_values": statistics.pixels(pixels[torch.from_numpy(chosen)])}


def _texts(texts: Sequence[Sequence[int]], tokenizer: Any, chosen: np.ndarray) -> Batch:
    """A batch of some texts."""
    return dict(tokenizer.pad([{"input_ids": texts[place]} for place in chosen], return_tensors="pt"))
