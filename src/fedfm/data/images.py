"""Encodes images as pixels at the model's size; batches are scaled to floats when they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL
import torch
from datasets import Array3D, Features
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from fedfm.data.cache import cache_key
from fedfm.data.columns import clients_of
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.image_files import ROWS_PER_BATCH, ImageFile, faults_of, images_of, with_images
from fedfm.data.labels import LabelMap, labels_of
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

MOST_PIXELS = 2**26
"""Maximum number of pixels of an image at the model's scale, before it is cropped."""


@dataclass(frozen=True)
class Framing:
    """How an image is fitted to ``height`` × ``width``: resized, or scaled by its shorter edge and cropped at the
    centre.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
        edge: length of the shorter edge before cropping; None: the image is resized to height and width.
        resample: Pillow's resampling filter.
    """

    height: int
    width: int
    edge: int | None
    resample: int

    @classmethod
    def of(cls, processor: BaseImageProcessor) -> Framing:
        """The framing that an image processor describes.

        Raises:
            RecipeError: the processor keeps images at their own sizes, which cannot form batches.
        """
        settings = processor.to_dict()
        size, resample = settings.get("size") or {}, int(settings.get("resample", Image.Resampling.BILINEAR))
        if {"height", "width"} <= size.keys():
            return cls(size["height"], size["width"], None, resample)
        if "shortest_edge" not in size:
            raise RecipeError(f"the image processor gives no fixed size (size: {size})", where="model.path")
        edge = size["shortest_edge"]
        crop = settings.get("crop_size") or {}
        return cls(crop.get("height", edge), crop.get("width", edge), edge, resample)

    def scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of an image of ``size`` before it is cropped."""
        if self.edge is None:
            return self.width, self.height
        width, height = size
        return width * self.edge // min(size), height * self.edge // min(size)

    def apply(self, image: Image.Image) -> Image.Image:
        """The image at the model's size."""
        resample = Image.Resampling(self.resample)
        if self.edge is None:
            return image.resize((self.width, self.height), resample)
        scaled = image.resize(self.scaled(image.size), resample)
        left, top = (scaled.width - self.width) // 2, (scaled.height - self.height) // 2
        return scaled.crop((left, top, left + self.width, top + self.height))


@dataclass(frozen=True, eq=False)
class PixelStatistics:
    """Turns stored pixels into a model's input: (x · scale − mean) / std, per channel.

    Attributes:
        scale: usually 1/255.
        mean: float32 [C, 1, 1].
        std: float32 [C, 1, 1].
    """

    scale: float
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, processor: BaseImageProcessor, channels: int = 3) -> PixelStatistics:
        """The statistics of an image processor.

        Raises:
            RecipeError: the processor has statistics for another number of channels.
        """
        settings = processor.to_dict()
        scale = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
        means, stds = [0.0] * channels, [1.0] * channels
        if settings.get("do_normalize"):
            means, stds = list(settings["image_mean"]), list(settings["image_std"])
        if len(means) != channels:
            raise RecipeError(
                f"the image processor has means for {len(means)} channels, but the model takes {channels}",
                where="model.path",
            )
        return cls(scale, torch.tensor(means).view(-1, 1, 1), torch.tensor(stds).view(-1, 1, 1))

    def pixels(self, rows: Tensor) -> Tensor:
        """Model input, float32 [B, C, H, W], from stored pixels, uint8 [B, C, H, W], on the same device."""
        return (rows.float() * self.scale - self.mean.to(rows.device)) / self.std.to(rows.device)


def encode_images(
    source: Source,
    column: str,
    processor: BaseImageProcessor,
    *,
    channels: int = 3,
    label: str | None = None,
    label_map: LabelMap | None = None,
    client: str | None = None,
    where: str = "data.image",
) -> Examples:
    """One example per row: ``pixel_values``, uint8 [C, H, W], with the processor's `Framing`; see `PixelStatistics`.

    Args:
        source: the rows.
        column: the image column; see `fedfm.data.image_files.with_images`.
        processor: gives size, crop and resampling.
        channels: 3 for colour (the channel of a grey image is repeated), 1 for grey.
        label: column of the class, encoded by ``label_map``; None for unlabelled examples.
        label_map: the classes; required with ``label``.
        client: column that names the client, or None; validation and test data may lack it.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: a column is missing or has the wrong type.
        DataError: an image is damaged, too large to be decoded safely, or has more than 8 bits per channel.
    """
    framing = Framing.of(processor)
    mode = {1: "L", 3: "RGB"}[channels]
    source = with_images(source, column, where)
    key = cache_key(
        kind="images",
        source=source.digest,
        column=column,
        framing=[framing.height, framing.width, framing.edge, framing.resample],
        mode=mode,
        pillow=PIL.__version__,
        version=2,
    )

    def pixels(file: ImageFile) -> np.ndarray:
        return _pixels(file, mode, framing)

    def encode(rows: list[int]) -> dict[str, list[np.ndarray]]:
        try:
            return {"pixel_values": [pixels(file) for file in images_of(source, column, rows)]}
        except DataError as error:  # the images before these rows were valid
            raise faults_of(source, column, range(rows[0], len(source)), pixels) from error

    def prepare() -> Encode:
        return encode

    labels, clients = labels_of(source, label, label_map), clients_of(source, client)
    features = Features({"pixel_values": Array3D((channels, framing.height, framing.width), "uint8")})
    table = encoded(key, len(source), prepare, features, batch_size=ROWS_PER_BATCH)
    stored = table.with_format("numpy", dtype=np.uint8)
    return Examples(stored, np.ones(len(stored), dtype=np.int32), labels, clients)


def _pixels(file: ImageFile, mode: str, framing: Framing) -> np.ndarray:
    """uint8 [C, H, W] of one image."""
    image = file.decode()
    width, height = framing.scaled(image.size)
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{file.name}: the image, {image.width} × {image.height} pixels, is too narrow: scaled to a shorter edge "
            f"of {framing.edge} it would be {width} × {height}; crop it"
        )
    pixels = np.asarray(framing.apply(image.convert(mode)))
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
