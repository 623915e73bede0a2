"""Where examples come from and which columns hold what."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from fedfm.settings import Settings

SITES = "sites"
"""The word for training data that clients hold on machines of their own."""

FILE = "file"
"""The word for a federation in which each file of `data.train` is a client."""

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


Reference = Annotated[str | Annotated[list[str], Field(min_length=1)], BeforeValidator(_kept)]
"""A file, folder, pattern, hub set or built-in; or a list of files, folders and patterns. In Python also a DataFrame or
a `datasets.Dataset`."""


def shown(reference: Reference) -> str:
    """A reference on one line; the first three of a list."""
    if isinstance(reference, str):
        return reference
    return ", ".join(reference[:3]) + (f", … ({len(reference)} in all)" if len(reference) > 3 else "")


def _one_or_more(value: Any) -> Any:
    """One name is as good as a list of one."""
    return [value] if isinstance(value, str) else value


TextColumns = Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1, max_length=2)]
"""One text column, or two for pairs."""


class CsvSettings(Settings):
    """How fields are written in CSV and TSV files."""

    delimiter: str | None = None
    """Character between fields; null: a comma in `.csv`, a tab in `.tsv`, or what a first line `sep=;` says."""
    quotechar: str | None = '"'
    """Character around fields that contain delimiters or line breaks, written twice inside them; null: quotation marks
    are text like any other."""
    escapechar: str | None = None
    """Character that takes the meaning from the next one, such as a backslash in `\\"`; null: no such character."""
    encoding: str | None = None
    """Encoding as Python names it, such as cp1252; null: UTF-8, or UTF-16 or UTF-32 where a byte order mark says so."""

    @field_validator("delimiter", mode="before")
    @classmethod
    def _tab(cls, value: Any) -> Any:
        return "\t" if value == r"\t" else value  # as it is typed in a shell

    @field_validator("delimiter", "quotechar", "escapechar")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in "\r\n\0"):
            raise ValueError("must be one character, not a line break")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            known = value is None or "a".encode(value).decode(value) == "a"
        except (LookupError, UnicodeError, ValueError):
            known = False
        if not known:
            raise ValueError("is no text encoding that Python knows; examples: utf-8, utf-16, cp1252, latin-1, gb18030")
        return value

    @model_validator(mode="after")
    def _different(self) -> Self:
        used = [value for value in (self.delimiter, self.quotechar, self.escapechar) if value is not None]
        if len(set(used)) < len(used):
            raise ValueError("delimiter, quotechar and escapechar must be different characters")
        return self


class DataSettings(Settings):
    """The recipe's ``data``."""

    train: Reference
    """File (jsonl[.gz], csv, tsv, parquet, npz), folder (tables, images, a saved data set), pattern (`data/*.csv`) or
    list of these, hub id (`hf:NAME/CONFIG`), or `builtin:NAME`; `sites`: clients hold their own, on machines of theirs
    (`fedfm server`). In Python also a pandas DataFrame or a `datasets.Dataset`."""
    validation: Reference | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold back; measured, and with `evaluate.patience` what
    stops early and chooses the round that is delivered."""
    test: Reference | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold back; the reported figures come from it."""
    csv: CsvSettings = CsvSettings()
    """How CSV and TSV files are written."""
    text: TextColumns = ["text"]
    """Text column, or two for pairs."""
    label: str = "label"
    """Column of the class."""
    labels: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the classes, in their order; null: as the training data has them, or the test data where clients hold
    the former."""
    image: str = "image"
    """Column of the image."""
    client: str | None = None
    """Column that names the client: a natural federation; sources of `validation` and `test` may lack it. `file`: each
    file of `train` is a client, named as the file."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Tokens per example; classification truncates, language modelling cuts a document into pieces."""
    end_token: bool = True
    """End each document of `causal-lm` with the tokenizer's end token, so that a model learns where to stop."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only this many training examples, the first after a seeded shuffle."""


class PublicSettings(Settings):
    """The recipe's ``public``: unlabelled data that the server may use."""

    data: Reference
    """Where it comes from: as `data.train`."""
    csv: CsvSettings = CsvSettings()
    """How CSV and TSV files are written."""
    limit: Annotated[int, Field(ge=1)] | None = 2048
    """First N pieces of text, or images, after a seeded shuffle; null: all."""
    text: str = "text"
    """Text column."""
    image: str = "image"
    """Column of the image."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Tokens a piece; documents are cut into pieces. null: `data.max_length`."""
