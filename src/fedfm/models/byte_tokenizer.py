"""A tokenizer without a download: one token per byte, for text in any language."""

from __future__ import annotations

from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END, MASK = SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
PAD_ID, UNKNOWN_ID, START_ID, END_ID, MASK_ID = range(len(SPECIALS))
VOCABULARY_SIZE = len(SPECIALS) + 256

Template = Literal["pair-types", "pair", "start-only"]
"""The special tokens around a text.

``pair-types``: ``<s> A </s> B </s>`` with token types 0 and 1 (BERT); ``pair``: ``<s> A </s></s> B </s>`` without
(RoBERTa, DistilBERT, CLIP); ``start-only``: ``<s> A B`` (decoders).
"""

_TEMPLATES: dict[Template, tuple[str, str]] = {
    "pair-types": (f"{START} $A {END}", f"{START} $A {END} $B:1 {END}:1"),
    "pair": (f"{START} $A {END}", f"{START} $A {END} {END} $B {END}"),
    "start-only": (f"{START} $A", f"{START} $A $B"),
}


def byte_tokenizer(template: Template, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 261 tokens: 5 special tokens (ids 0 to 4: pad, unknown, start, end, mask) and 256
    bytes.

    The start token is also ``cls`` and ``bos``, the end token also ``sep`` and ``eos``. Pads on the right.

    Args:
        template: the special tokens around a text.
        max_length: tokens that the model accepts, including special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIALS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    single, pair = _TEMPLATES[template]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(START, START_ID), (END, END_ID)]
    )
    types = ["token_type_ids"] if template == "pair-types" else []
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        cls_token=START,
        sep_token=END,
        mask_token=MASK,
        padding_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", *types, "attention_mask"],
    )
