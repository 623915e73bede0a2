"""Where examples come from and which columns hold what."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from fedfm.settings import Settings

SITES = "sites"
"""The word for training data that clients hold on machines of their own."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


def reference_to(given: Any, split: str) -> Any:
    """What a recipe says for examples: what was given, where a recipe can hold it, else where they are kept.

    Args:
        given: a recipe's value, or examples from Python: a pandas DataFrame or a `datasets.Dataset`.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        ValueError: as `fedfm.data.memory.keep`.
    """
    if given is None or type(given) in (str, bool, int, float, list, tuple, dict):
        return given
    from fedfm.data.memory import keep  # pandas and datasets, without which most recipes are read

    return keep(given, split)


def _kept(given: Any, info: ValidationInfo) -> Any:
    return reference_to(given, info.field_name if info.field_name in ("validation", "test") else "train")


Reference = Annotated[str, BeforeValidator(_kept)]
"""What names examples; in Python also a DataFrame or a `datasets.Dataset`."""


class DataSettings(Settings):
    """The recipe's ``data``."""

    train: Reference
    """File (jsonl[.gz], csv, tsv, parquet, npz), folder (images, a saved data set, tables), hub id (`hf:NAME/CONFIG`),
    or `builtin:NAME`; `sites`: clients hold their own, on machines of theirs (`fedfm server`). In Python also a pandas
    DataFrame or a `datasets.Dataset`."""
    validation: Reference | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold back; measured, and with `evaluate.patience` what
    stops early and chooses the round that is delivered."""
    test: Reference | Fraction | None = None
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
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens per example; classification truncates, language modelling cuts a document into pieces."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only this many training examples, the first after a seeded shuffle."""


class PublicSettings(Settings):
    """The recipe's ``public``: unlabelled data that the server may use."""

    data: Reference
    """Where it comes from: as `data.train`."""
    limit: Annotated[int, Field(ge=1)] | None = 2048
    """First N pieces of text, or images, after a seeded shuffle; null: all."""
    text: str = "text"
    """Text column."""
    image: str = "image"
    """Column of the image."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens a piece; documents are cut into pieces. null: `data.max_length`."""
