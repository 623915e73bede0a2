"""The padding token: one id for the tokenizer, the model, and all that is made of them.

Decoders classify at the last token that is not padding, which transformers finds by its id. Where tokenizer and config
name different ids, the logits of a text depend on how far its batch is padded.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedfm.errors import RecipeError
from fedfm.models.configs import counts_from_padding


def choose_padding(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, name: str) -> None:
    """Gives a tokenizer the padding token of its model, and sets it to pad on the right.

    It is the tokenizer's own where it has one, else the config's where that is a special token, else the end token.
    Models that count positions from the padding id (RoBERTa) have learnt with it: there the config decides.

    Args:
        tokenizer: changed in place.
        config: of the model.
        name: of the model, for messages.

    Raises:
        RecipeError: at ``model.path`` when there is nothing to pad with.
    """
    declared, special = config.get_text_config().pad_token_id, control_ids(tokenizer)
    tokenizer.padding_side = "right"
    if counts_from_padding(config):
        if declared not in special:
            raise RecipeError(
                f"the config of {name} counts positions from padding id {declared}, which is no special token of its "
                "tokenizer: they do not belong together",
                where="model.path",
            )
        tokenizer.pad_token_id = declared
    if tokenizer.pad_token_id is None and declared in special:
        tokenizer.pad_token_id = declared
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise RecipeError(
            f"the tokenizer of {name} has nothing to pad with: neither a padding nor an end token", where="model.path"
        )


def control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that stand for no text: padding, start, end, mask and the like."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def adopt_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives a model the padding token of its tokenizer, in every config that is read or written.

    An encoder-decoder also gets the end token, at which it classifies.

    Raises:
        RecipeError: at ``model.path`` when the tokenizer puts no end token behind a text for an encoder-decoder.
    """
    if model.config.is_encoder_decoder:
        if tokenizer.eos_token_id not in tokenizer("a")["input_ids"]:
            raise RecipeError(
                f"{type(model).__name__} classifies at the end token, which its tokenizer does not put behind a text; "
                "give the tokenizer a post-processor that does",
                where="model.path",
            )
        model.config.eos_token_id = tokenizer.eos_token_id
    configs = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    for config in configs:
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
    # Padding is never attended to. With an index here, a real token that pads as well would get no gradient.
    cast(nn.Embedding, model.get_input_embeddings()).padding_idx = None
