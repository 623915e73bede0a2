"""A text gives the ids of its tokenizer, and never those of control tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedfm.data.documents import encode_documents
from fedfm.data.labels import LabelMap
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.samples import encode_samples
from fedfm.data.sources import Source
from fedfm.data.text import encode_text
from fedfm.models.byte_tokenizer import byte_tokenizer

LETTERS = "abcdefgs<>/[]|_ "


def unigram() -> PreTrainedTokenizerFast:
    """As of T5: control tokens are pieces of the vocabulary with the best score of all."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("ab", -2.5)]
    pieces += [(letter, -3.0 - place / 10) for place, letter in enumerate(LETTERS.strip())]
    backend = Tokenizer(models.Unigram(pieces, 2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def words() -> PreTrainedTokenizerFast:
    """Words split at spaces only, control tokens among them."""
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    backend = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return framed(backend)


def word_pieces() -> PreTrainedTokenizerFast:
    """As of BERT."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS.strip(), *(f"##{letter}" for letter in "abcdefgs")]
    backend = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return framed(backend)


def framed(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="[MASK]", eos_token="[SEP]", model_max_length=64, **names
    )


def merges() -> PreTrainedTokenizerFast:
    """As of GPT-2, with merges that would make its control token, which is named for all roles."""
    token, alphabet = "<|end|>", sorted(pre_tokenizers.ByteLevel.alphabet())
    parts = [token[:length] for length in range(2, len(token) + 1)]
    vocabulary = {piece: place for place, piece in enumerate([*alphabet, *parts])}
    backend = Tokenizer(models.BPE(vocabulary, [(part[:-1], part[-1]) for part in parts]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=token, eos_token=token, unk_token=token, model_max_length=64
    )


def hand_made() -> PreTrainedTokenizerFast:
    """Added tokens, of which one is ordinary, and one is the end token without being marked as special."""
    made = byte_tokenizer("start-only", 64)
    made.add_tokens([AddedToken("<tool>", special=False), AddedToken("<over>", special=False)])
    made.eos_token = "<over>"
    return made


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "unigram": unigram,
    "words": words,
    "word pieces": word_pieces,
    "merges": merges,
    "hand made": hand_made,
    "bytes, pairs": lambda: byte_tokenizer("pair-types", 64),
    "bytes, start only": lambda: byte_tokenizer("start-only", 64),
}
TOKENIZERS = {name: (make(), plain_tokenizer(make())) for name, make in MAKERS.items()}


def control(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | {tokenizer.eos_token_id}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_control_token_in_a_text_is_read_as_text(name: str) -> None:
    tokenizer, plain = TOKENIZERS[name]
    for token in set(tokenizer.all_special_tokens):
        for text in (token, f"a{token}b", f"a {token} b"):
            found = plain(text, return_special_tokens_mask=True)
            read = [
                i for i, special in zip(found["input_ids"], found["special_tokens_mask"], strict=True) if not special
            ]
            assert control(tokenizer).isdisjoint(read), (token, text)
            assert read
        pair = plain("a", token, return_special_tokens_mask=True)
        expected = tokenizer("a", "b", return_special_tokens_mask=True)
        assert sum(pair["special_tokens_mask"]) == sum(expected["special_tokens_mask"])


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(text=st.text(st.sampled_from(LETTERS), min_size=1, max_size=20) | st.text(min_size=1, max_size=10))
def test_any_other_text_has_the_ids_that_it_had(name: str, text: str) -> None:
    tokenizer, plain = TOKENIZERS[name]
    if any(token in text.upper() or token in text for token in tokenizer.get_added_vocab()):
        return
    assert dict(plain(text)) == dict(tokenizer(text))
    assert dict(plain(text, "a b", truncation=True, max_length=7)) == dict(
        tokenizer(text, "a b", truncation=True, max_length=7)
    )


def test_an_added_token_that_controls_nothing_stays_a_token() -> None:
    tokenizer, plain = TOKENIZERS["hand made"]
    assert plain("a<tool>b")["input_ids"] == tokenizer("a<tool>b")["input_ids"]
    assert len(plain("a<over>b")["input_ids"]) > len(tokenizer("a<over>b")["input_ids"])


def test_the_tokenizer_itself_is_left_as_it_was() -> None:
    tokenizer = unigram()
    before = tokenizer.backend_tokenizer.to_str()
    plain_tokenizer(tokenizer)("a</s>")
    assert tokenizer.backend_tokenizer.to_str() == before


def test_every_kind_of_examples_is_read_so(make_source: Callable[..., Source]) -> None:
    tokenizer = unigram()
    texts = ["ab </s> ab</s>", "</s>", "a <pad> b <pad>"]
    source = make_source(text=texts, other=texts, kind=[0, 1, 0])
    labels = LabelMap(("0", "1"))
    single = encode_text(source, ["text"], tokenizer, 64, label="kind", label_map=labels)
    assert [row["input_ids"].count(1) for row in single.take(range(3))] == [1, 1, 1]
    pairs = encode_text(source, ["text", "other"], tokenizer, 64, label="kind", label_map=labels)
    assert [row["input_ids"].count(1) for row in pairs.take(range(3))] == [2, 2, 2]
    documents = encode_documents(source, "text", tokenizer, 64)
    samples = encode_samples(source, "text", tokenizer, 64, pairs=False, where="public.text")
    for examples in (single, pairs, documents, samples):
        for row in examples.take(range(len(examples))):
            assert tokenizer.pad_token_id not in row["input_ids"]
    assert all(row["input_ids"].count(1) == 1 for row in samples.take(range(len(samples))))
