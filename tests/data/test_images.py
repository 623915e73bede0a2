"""Images: framed as by the model's own processor, stored as bytes, scaled in batches."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from fedfm.data.image_files import ImageFile
from fedfm.data.images import PixelStatistics, encode_images
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

NOISE = np.random.default_rng(0).integers(0, 256, (21, 30, 3)).astype(np.uint8)
COLUMN = datasets.Features({"image": datasets.Image()})


def png(pixels: np.ndarray, mode: str | None = None) -> dict[str, bytes]:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}


def vit(**settings: object) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(**{"size": {"height": 8, "width": 12}, **settings})


PROCESSORS = {
    "vit": vit(),
    "bicubic": vit(resample=3, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]),
    "no statistics": vit(do_normalize=False),
    "no scale": vit(do_rescale=False),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 10, "width": 8}),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("pixels", [NOISE, NOISE.transpose(1, 0, 2)], ids=["wide", "tall"])
def test_pixels_equal_those_of_the_processor(make_source: Callable[..., Source], name: str, pixels: np.ndarray) -> None:
    processor = PROCESSORS[name]
    examples = encode_images(make_source(COLUMN, image=[png(pixels)]), "image", processor)
    (row,) = examples.take([0])
    assert row["pixel_values"].dtype == np.uint8
    ours = PixelStatistics.of(processor).pixels(torch.from_numpy(row["pixel_values"][np.newaxis]))
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=0)


def test_labels_clients_and_lengths(make_source: Callable[..., Source]) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.Value("int64"), "who": datasets.Value("string")}
    )
    source = make_source(features, image=[png(NOISE)] * 3, kind=[5, 7, 5], who=["a", "b", "a"])
    examples = encode_images(
        source, "image", vit(), label="kind", label_map=LabelMap.from_source(source, "kind"), client="who"
    )
    assert examples.lengths.tolist() == [1, 1, 1]
    assert examples.clients is not None
    assert examples.clients.tolist() == ["a", "b", "a"]
    assert [row["labels"] for row in examples.take([1, 0])] == [1, 0]
    assert [row["pixel_values"].shape for row in examples.take([1, 0])] == [(3, 8, 12)] * 2


def test_grey_becomes_three_equal_channels_or_stays_one(make_source: Callable[..., Source]) -> None:
    source = make_source(COLUMN, image=[png(np.full((8, 12), 77, np.uint8))])
    (colour,), (grey,) = (encode_images(source, "image", vit(), channels=channels).take([0]) for channels in (3, 1))
    assert colour["pixel_values"].shape == (3, 8, 12)
    assert grey["pixel_values"].shape == (1, 8, 12)
    assert set(colour["pixel_values"].ravel()) == set(grey["pixel_values"].ravel()) == {77}


def test_palettes_and_transparency_become_colour(make_source: Callable[..., Source]) -> None:
    red = np.zeros((8, 12, 3), np.uint8)
    red[..., 0] = 255
    for mode in ("P", "RGBA"):
        (row,) = encode_images(make_source(COLUMN, image=[png(red, mode)]), "image", vit()).take([0])
        np.testing.assert_array_equal(row["pixel_values"], red.transpose(2, 0, 1))


def test_sixteen_bits_are_refused_rather_than_clipped(make_source: Callable[..., Source]) -> None:
    """Pillow turns everything above 255 white when it converts such an image."""
    source = make_source(COLUMN, image=[png(NOISE), png(np.full((8, 8), 5000, np.uint16))])
    with pytest.raises(DataError, match=r"made\.jsonl, row 2: the image has more than 8 bits per channel"):
        encode_images(source, "image", vit())


@pytest.mark.parametrize("damage", [b"no image", png(NOISE)["bytes"][:200], png(NOISE)["bytes"][:60]])
def test_a_damaged_image_is_named_by_its_row(make_source: Callable[..., Source], damage: bytes) -> None:
    source = make_source(COLUMN, image=[png(NOISE), {"bytes": damage}])
    with pytest.raises(DataError, match=r"made\.jsonl, row 2: (the image )?is damaged"):
        encode_images(source, "image", vit())


def test_an_image_that_would_fill_the_memory_is_named_by_its_row(
    make_source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    source = make_source(COLUMN, image=[png(NOISE[:8, :8]), png(NOISE)])
    with pytest.raises(DataError, match=r"made\.jsonl, row 2: the image is too large: .*630 pixels"):
        encode_images(source, "image", vit())


def test_a_column_of_something_else(make_source: Callable[..., Source]) -> None:
    with pytest.raises(RecipeError, match=r"data\.image: column `image` of made\.jsonl contains int64, not images"):
        encode_images(make_source(image=[5]), "image", vit())
    with pytest.raises(RecipeError, match=r"data\.image: no column `image`"):
        encode_images(make_source(picture=["a.png"]), "image", vit())


def test_statistics_for_another_number_of_channels() -> None:
    with pytest.raises(RecipeError, match="means for 3 channels, but the model takes 1"):
        PixelStatistics.of(vit(), channels=1)


def test_a_processor_without_a_size(make_source: Callable[..., Source]) -> None:
    source = make_source(COLUMN, image=[png(NOISE)])
    with pytest.raises(RecipeError, match=r"model\.path: the image processor gives no fixed size .*longest_edge"):
        encode_images(source, "image", vit(size={"longest_edge": 8}))


def test_a_second_start_decodes_nothing(
    make_source: Callable[..., Source], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(COLUMN, image=[png(NOISE)])
    encode_images(source, "image", vit())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(ImageFile, "decode", refuse)
    assert len(encode_images(source, "image", vit())) == 1
    with pytest.raises(AssertionError):
        encode_images(source, "image", vit(resample=0))


def test_a_strip_that_would_grow_beyond_all_bounds_is_named(make_source: Callable[..., Source]) -> None:
    """A model that takes the shorter edge to 12 pixels would make 2 × 12 Mpixels of it, in a few bytes of PNG."""
    strip = make_source(COLUMN, image=[png(np.zeros((1, 500_000, 3), np.uint8))])
    with pytest.raises(DataError, match=r"made\.jsonl, row 1: the image, 500000 × 1 pixels, is too narrow"):
        encode_images(strip, "image", PROCESSORS["clip"])
    assert len(encode_images(strip, "image", vit())) == 1
