"""Settings of the data: sources of examples, and the meaning of their columns."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from fedfm.settings import Settings

SITES = "sites"
"""Value of `data.train` for training data that clients hold on their own machines."""

BY_TASK = "tasks"
"""Value of `data.train`, `data.validation` or `data.test` where each of several tasks has its own source."""

FILE = "file"
"""Value of `data.client` for a federation in which each file of `data.train` is a client."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


def reference_to(given: Any, split: str) -> Any:
    """The value in a recipe for some examples: a recipe's value itself, or a reference to stored data from Python.

    Args:
        given: a recipe's value, or examples from Python: a pandas DataFrame or a `datasets.Dataset`.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        ValueError: as for `fedfm.data.memory.keep`.
    """
    if given is None or type(given) in (str, bool, int, float, list, tuple, dict):
        return given
    from fedfm.data.memory import keep  # imports pandas and datasets, which most recipes do not need

    return keep(given, split)


def _kept(given: Any, info: ValidationInfo) -> Any:
    return reference_to(given, info.field_name if info.field_name in ("validation", "test") else "train")


Reference = Annotated[str | Annotated[list[str], Field(min_length=1)], BeforeValidator(_kept)]
"""A file, folder, pattern, hub set or built-in; or a list of files, folders and patterns. In Python also a DataFrame or
a `datasets.Dataset`."""


def shown(reference: Reference) -> str:
    """A reference on one line; of a list, the first three entries."""
    if isinstance(reference, str):
        return reference
    return ", ".join(reference[:3]) + (f", … ({len(reference)} in all)" if len(reference) > 3 else "")


def _one_or_more(value: Any) -> Any:
    """Turns a single name into a list."""
    return [value] if isinstance(value, str) else value


TextColumns = Annotated[list[str], BeforeValidator(_one_or_more), Field(min_length=1, max_length=2)]
"""One text column, or two for pairs of texts."""


class CsvSettings(Settings):
    """The format of CSV and TSV files."""

    delimiter: str | None = None
    """Character between fields; null: a comma in `.csv`, a tab in `.tsv`, or the character that a first line such as
    `sep=;` sets."""
    quotechar: str | None = '"'
    """Character around fields that contain delimiters or line breaks, doubled inside them; null: quotation marks are
    ordinary text."""
    escapechar: str | None = None
    """Character that makes the next character ordinary text, such as a backslash in `\\"`; null: no such character."""
    encoding: str | None = None
    """Python's name of the encoding, such as cp1252; null: UTF-8, or UTF-16 or UTF-32 if the file has a byte order
    mark."""

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
            raise ValueError("is not a text encoding of Python; examples: utf-8, utf-16, cp1252, latin-1, gb18030")
        return value

    @model_validator(mode="after")
    def _different(self) -> Self:
        used = [value for value in (self.delimiter, self.quotechar, self.escapechar) if value is not None]
        if len(set(used)) < len(used):
            raise ValueError("delimiter, quotechar and escapechar must be different characters")
        return self


class ConversationSettings(Settings):
    """The format of conversations, and the columns in which they are."""

    format: Literal["auto", "alpaca", "pairs", "messages", "sharegpt"] = "auto"
    """Format of every row: `alpaca` (`instruction`, `input`, `output`), `pairs` (`prompt`, `response`), `messages` (a
    list of `role` and `content`), `sharegpt` (a list of `from` and `value`); `auto`: recognised row by row."""
    prompt: str | None = None
    """Column of the question, if it has another name than usual; `response` is then also needed."""
    response: str | None = None
    """Column of the response, if it has another name than usual; `prompt` is then also needed."""
    turns: str | None = None
    """Column of the list of turns, if it has another name than `messages` or `conversations`."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.prompt is None) != (self.response is None):
            raise ValueError("prompt and response must be named together")
        if self.prompt is not None and self.turns is not None:
            raise ValueError("name prompt and response, or turns, not both")
        if self.prompt is not None and self.format not in ("auto", "alpaca", "pairs"):
            raise ValueError(f"{self.format} has turns in one column: name it with turns")
        if self.turns is not None and self.format in ("alpaca", "pairs"):
            raise ValueError(f"{self.format} has no column of turns: name prompt and response")
        return self


class PreferenceSettings(Settings):
    """The columns of pairs of responses."""

    prompt: str | None = None
    """Column of the question, or of the turns before the responses; null: `prompt`, `question`, `instruction` or
    `query`, or none where `chosen` and `rejected` are whole conversations."""
    chosen: str = "chosen"
    """Column of the response that is preferred."""
    rejected: str = "rejected"
    """Column of the other response."""


class DataSettings(Settings):
    """The recipe's ``data``."""

    train: Reference
    """File (jsonl[.gz], csv, tsv, parquet, conll, npz), folder (tables, images, a saved data set), pattern
    (`data/*.csv`) or list of these, hub id (`hf:NAME/CONFIG`, with another split as in `hf:NAME:validation`), or
    `builtin:NAME`; `sites`: clients have their data on their own machines (`fedfm server`); `tasks`: each task of
    `task.kind: multi` names its own. In Python also a pandas DataFrame or a `datasets.Dataset`."""
    validation: Reference | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold out; evaluated during the run. With
    `evaluate.patience`, it decides when to stop early and which round is the result."""
    test: Reference | Fraction | None = None
    """As `train`, or a fraction of the training examples to hold out; the final figures are measured on it."""
    root: Reference | None = None
    """As `train`: examples of the server's own, such as public texts, on which it trains: for a rule that compares
    updates with the server's (`fltrust`), and for `protocol.server_steps`."""
    csv: CsvSettings = CsvSettings()
    """Format of CSV and TSV files."""
    text: TextColumns = ["text"]
    """Text column, or two columns for pairs of texts; for `token-classification` a column of lists of words."""
    label: str = "label"
    """Column of what is to be predicted: a class; a list of labels (`multi-label`), or of a tag for each word
    (`token-classification`); a number or a list of numbers (`regression`). In CSV, a list is written as JSON."""
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the classes, labels, tags or numbers, in their order; null: those of the training data, or of the test
    data if clients hold the training data."""
    image: str = "image"
    """Column of the image."""
    client: str | None = None
    """Column that names the client, for a natural federation; the data of `validation` and `test` may lack it. `file`:
    each file of `train` is a client with the name of the file."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Tokens per example; of `preference`, tokens of each response with its prompt. Language modelling cuts a document
    into pieces, all other tasks truncate."""
    end_token: bool = True
    """End each document of `causal-lm`, and in the plain template each response of `instruct` and `preference`, with
    the tokenizer's end token, so that the model learns where to stop."""
    conversation: ConversationSettings = ConversationSettings()
    """Where the conversations of `instruct` and `seq2seq` are in the data."""
    preference: PreferenceSettings = PreferenceSettings()
    """Where the pairs of `preference` are in the data."""
    template: Literal["auto", "tokenizer", "plain"] = "auto"
    """How `instruct` and `preference` write a conversation: by the tokenizer's chat template, or plainly (`User:`,
    `Assistant:`); `auto`: by the tokenizer's if it has one."""
    pack: bool = False
    """Put several conversations of a client into one example of `instruct`, up to `max_length` tokens; they do not
    attend to each other."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Number of training examples to use, the first after a seeded shuffle; null: all."""


class PublicSettings(Settings):
    """The recipe's ``public``: unlabelled data that the server can read."""

    data: Reference
    """Source of the data, as `data.train`."""
    csv: CsvSettings = CsvSettings()
    """Format of CSV and TSV files."""
    limit: Annotated[int, Field(ge=1)] | None = 2048
    """Number of pieces of text, or images, to use, the first after a seeded shuffle; null: all. Regressions and scores
    of neurons read some of them, each once (docs/proxies.md); gradient steps read all again and again."""
    text: str = "text"
    """Text column."""
    image: str = "image"
    """Column of the image."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    """Tokens per piece; documents are cut into pieces. null: `data.max_length`."""
