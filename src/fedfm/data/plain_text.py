"""Reads control tokens that occur in a text as ordinary text.

Texts that quote HTML or the output of models contain `</s>`, `[SEP]` or `<|endoftext|>`. Read as control tokens, these
would end the text for the model, mask a word, or count as padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer that never gives a text the ids of control tokens; it still adds them around the text.

    ``split_special_tokens`` alone is not enough: a Unigram model (T5, XLM-RoBERTa), or a model that splits words at
    spaces, finds the control tokens in its vocabulary. Here they are renamed to strings that no text contains.

    Args:
        tokenizer: a fast tokenizer; not changed.
    """
    return renamed_controls(tokenizer, split_special_tokens=True)[0]


def renamed_controls(
    tokenizer: PreTrainedTokenizerBase, *, split_special_tokens: bool
) -> tuple[PreTrainedTokenizerFast, dict[str, str]]:
    """A copy of a tokenizer whose control tokens have names that no text contains, and old name → new name.

    Args:
        tokenizer: a fast tokenizer; not changed.
        split_special_tokens: whether even the new names are ordinary text.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    named = set(tokenizer.all_special_ids)
    names = {}
    for token in content["added_tokens"]:
        if token["special"] or token["id"] in named:
            names[token["content"]] = f"\uffff{token['id']}\uffff"  # U+FFFF is not a character
            token.update(content=names[token["content"]], special=True)
    content["model"] = _renamed(content["model"], names)
    reader = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_input_names=tokenizer.model_input_names,
        truncation_side=tokenizer.truncation_side,
        split_special_tokens=split_special_tokens,
    )
    return reader, names


def _renamed(model: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's model with other names for some tokens, without the merges that would create them."""
    renamed = dict(model)
    if isinstance(model["vocab"], dict):
        renamed["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        renamed["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        renamed["merges"] = [pair for pair in pairs if names.keys().isdisjoint((*pair, "".join(pair)))]
    if (unknown := model.get("unk_token")) is not None:
        renamed["unk_token"] = names.get(unknown, unknown)
    return renamed
