"""Documents for language modelling as token ids: each document is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Value
from transformers import PreTrainedTokenizerBase

from fedfm.data.columns import clients_of, text_column
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.sources import Source
from fedfm.data.tokens import TEXTS_PER_BATCH, token_counts, token_features, token_key, tokenized
from fedfm.errors import RecipeError


def encode_documents(
    source: Source,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    end_token: bool = False,
    client: str | None = None,
    where: str = "data.text",
) -> Examples:
    """Documents, each cut into pieces of at most ``max_length`` tokens; no text is dropped.

    Every piece gets the special tokens that the tokenizer puts around a text, and belongs to its document's client.
    Pieces without anything to predict (only one token, or only special tokens) are left out.

    Args:
        source: the documents.
        column: their text column.
        tokenizer: a fast tokenizer.
        max_length: tokens per piece, including special tokens.
        end_token: whether the last piece of a document, and no other piece, ends with the tokenizer's end token.
        client: column that names the client, or None.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: as for `fedfm.data.text.encode_text`; no piece remains; at ``data.end_token`` if the tokenizer has
            no end token.
    """
    end = tokenizer.eos_token_id if end_token else None
    if end_token and end is None:
        raise RecipeError(
            "the tokenizer has no end token, so documents cannot end with one; set `data.end_token: false`",
            where="data.end_token",
        )
    key = token_key("documents", source, [column], tokenizer, max_length, end=end)
    names = list(token_features(tokenizer))

    def prepare() -> Encode:
        texts, reader = text_column(source, column, where), plain_tokenizer(tokenizer)
        return lambda rows: _encoded(reader, texts, rows, names, max_length, end)

    clients = clients_of(source, client)
    features = token_features(tokenizer, document=Value("int64"))
    table = encoded(key, len(source), prepare, features, batch_size=TEXTS_PER_BATCH)
    if not len(table):
        raise RecipeError(f"column `{column}` of {source.name} has no text of two or more tokens", where=where)
    if clients is not None:
        clients = clients[np.asarray(table["document"])]
    table = table.remove_columns("document")
    return Examples(table, token_counts(table), clients=clients)


def _encoded(
    reader: PreTrainedTokenizerBase,
    texts: Sequence[str],
    rows: list[int],
    names: Sequence[str],
    max_length: int,
    end: int | None,
) -> dict[str, list[Any]]:
    """The pieces of some documents as columns, with the row of each piece's document."""
    whole = tokenized(reader, [[texts[row] for row in rows]], None, return_special_tokens_mask=True)
    columns: dict[str, list[Any]] = {name: [] for name in (*names, "document")}
    for place, row in enumerate(rows):
        document = {name: whole[name][place] for name in names}
        for piece in _pieces(document, whole["special_tokens_mask"][place], max_length, end):
            columns["document"].append(row)
            for name in names:
                columns[name].append(piece[name])
    return columns


def _pieces(
    document: dict[str, list[int]], specials: list[int], max_length: int, end: int | None
) -> Iterator[dict[str, list[int]]]:
    """The pieces of one document, each with the special tokens around it.

    Args:
        document: its tokens by input name, including the special tokens.
        specials: 1 for a special token, 0 for a token of the text.
        max_length: tokens per piece, including special tokens.
        end: token that ends the document; None adds no token after it.
    """
    if 0 not in specials:
        return
    start, stop = specials.index(0), len(specials) - specials[::-1].index(0)
    head, tail = list(range(start)), list(range(stop, len(specials)))  # positions of the special tokens
    body = list(range(start, stop))
    if end is not None:
        tail = [place for place in tail if document["input_ids"][place] != end]
        body.append(len(specials))
        document = {name: [*values, end if name == "input_ids" else values[-1]] for name, values in document.items()}
    room = max_length - len(head) - len(tail)
    cuts = [*range(0, len(body), room), len(body)]
    if end is not None and room > 1 and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1  # the end token must be predicted from the document's last token
    for first, last in pairwise(cuts):
        places = [*head, *body[first:last], *tail]
        if len(places) >= max(2, len(head) + len(tail) + 1):
            yield {name: [values[place] for place in places] for name, values in document.items()}
