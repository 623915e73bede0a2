"""Where examples come from and which columns hold what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedfm.settings import Settings

SITES = "sites"
"""The word for training data that clients hold on machines of their own."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


class DataSettings(Settings):
    """The recipe's ``data``."""

    train: str
    """File (jsonl[.gz], csv, tsv, parquet, npz), folder of images, hub id (`hf:NAME/CONFIG`), or `builtin:NAME`;
    `sites`: clients hold their own, on machines of theirs (`fedfm server`)."""
    validation: str | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold back; measured, and with `evaluate.patience` what
    stops early and chooses the round that is delivered."""
    test: str | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold back; the reported figures come from it."""
    text: Annotated[list[str], Field(min_length=1, max_length=2)] = ["text"]
    """Text column, or two for pairs."""
    label: str = "label"
    """Column of the class."""
    labels: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the classes, in their order; null: as the training data has them, or the test data where clients hold
    the former."""
    image: str = "image"
    """Column of the image."""
    client: str | None = None
    """Column that names the client: a natural federation. Sources of `validation` and `test` may lack it."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Tokens per example; classification truncates, language modelling cuts a document into pieces."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only this many training examples, the first after a seeded shuffle."""


class PublicSettings(Settings):
    """The recipe's ``public``: unlabelled data that the server may use."""

    data: str
    """Where it comes from: as `data.train`."""
    limit: Annotated[int, Field(ge=1)] | None = 2048
    """First N pieces of text, or images, after a seeded shuffle; null: all."""
    text: str = "text"
    """Text column."""
    image: str = "image"
    """Column of the image."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Tokens a piece; documents are cut into pieces. null: `data.max_length`."""
