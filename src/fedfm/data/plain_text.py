"""A text is text: what looks like a control token in it is read letter by letter.

Texts that quote HTML or other models' output hold `</s>`, `[SEP]` or `<|endoftext|>`. As a control token it would end
the text for the model, mask a word, or pad.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """A tokenizer that gives texts the same ids, but never those of control tokens; it frames them as before.

    ``split_special_tokens`` alone is not enough: a Unigram model (T5, XLM-RoBERTa), or one whose words are split at
    spaces, finds the control tokens in its vocabulary. They are renamed there to what no text contains.

    Args:
        tokenizer: a fast tokenizer; not changed.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    named = set(tokenizer.all_special_ids)
    names = {}
    for token in content["added_tokens"]:
        if token["special"] or token["id"] in named:
            names[token["content"]] = f"\uffff{token['id']}"  # U+FFFF is no character
            token.update(content=names[token["content"]], special=True)
    content["model"] = _renamed(content["model"], names)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_input_names=tokenizer.model_input_names,
        truncation_side=tokenizer.truncation_side,
        split_special_tokens=True,
    )


def _renamed(model: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's model with other names for some tokens; merges that would make one are left out."""
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
