"""The padding token: sets one id for the tokenizer and the model.

Decoders classify at the last token that is not padding, which transformers finds by its id. If tokenizer and config
have different ids, the logits of a text depend on the padding of its batch.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedfm.errors import RecipeError
from fedfm.models.configs import counts_from_padding


def choose_padding(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, name: str) -> None:
    """Sets the padding token of a tokenizer, and makes it pad on the right.

    It is the tokenizer's own padding token; otherwise the config's, if that is a special token; otherwise the end
    token. Models that count positions from the padding id (RoBERTa) were trained with it: for these the config decides.

    Args:
        tokenizer: changed in place.
        config: of the model.
        name: of the model, for messages.

    Raises:
        RecipeError: at ``model.path``: there is no token for padding.
    """
    declared, special = config.get_text_config().pad_token_id, control_ids(tokenizer)
    tokenizer.padding_side = "right"
    if counts_from_padding(config):
        if declared not in special:
            raise RecipeError(
                f"the config of {name} counts positions from padding id {declared}, which is not a special token of "
                "its tokenizer: config and tokenizer do not belong together",
                where="model.path",
            )
        tokenizer.pad_token_id = declared
    if tokenizer.pad_token_id is None and declared in special:
        tokenizer.pad_token_id = declared
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise RecipeError(
            f"the tokenizer of {name} has neither a padding token nor an end token, and cannot pad", where="model.path"
        )


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that do not stand for text: padding, start, end, mask and similar tokens."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def adopt_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets a model's padding token to that of its tokenizer, in every config that is read or written.

    For an encoder-decoder, also sets the end token, at which it classifies and ends a response.

    Raises:
        RecipeError: at ``model.path``: the tokenizer of an encoder-decoder does not add an end token to a text.
    """
    if model.config.is_encoder_decoder:
        if tokenizer.eos_token_id not in tokenizer("a")["input_ids"]:
            raise RecipeError(
                f"{type(model).__name__} reads a text up to its end token, which its tokenizer does not add to a text; "
                "give the tokenizer a post-processor that adds it",
                where="model.path",
            )
        model.config.eos_token_id = tokenizer.eos_token_id
    configs = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    for config in configs:
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
    # Attention never reads padding. With a padding_idx, a real token with the same id would get no gradient.
    cast(nn.Embedding, model.get_input_embeddings()).padding_idx = None
