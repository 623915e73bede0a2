"""Conversations as text and tokens: those of transformers, with the responses found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fedfm.data.conversations.templates import Writer, template_of
from fedfm.data.conversations.turns import Turn
from fedfm.data.settings import DataSettings
from fedfm.errors import RecipeError
from fedfm.models.byte_tokenizer import END_ID, byte_tokenizer

CHATML = (
    "{% for m in messages %}<mask>{{ m['role'] }}\n{{ m['content'] | trim }}<unk>\n{% endfor %}"
    "{% if add_generation_prompt %}<mask>assistant\n{% endif %}"
)
"""A template of ChatML's form, with control tokens that the byte tokenizer has."""

MODELS = Path(__file__).parents[4] / "shared" / "data" / "models"
TURNS = [
    Turn("system", "Be brief."),
    Turn("user", "Grüße?\n"),
    Turn("assistant", "  Hallo, 你好 ", learned=True),
    Turn("user", "Again"),
    Turn("assistant", "No.", learned=False),
    Turn("user", "Again"),
    Turn("assistant", "Bye.", learned=True),
]


def bytes_with(template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer("start-only", 256)
    tokenizer.chat_template = template
    return tokenizer


def writer(tokenizer: Any, **settings: Any) -> Writer:
    return Writer(tokenizer, template_of(tokenizer, DataSettings(train="x", **settings)))


def learned_text(written: Writer, turns: list[Turn]) -> str:
    (one,) = written.write([turns])
    return str(written.tokenizer.decode([i for i, flag in zip(one.input_ids, one.learned, strict=True) if flag]))


def tokenizers() -> list[Any]:
    names = ["stories260k", "gpt2_tokenizer"]
    return [
        pytest.param(bytes_with(), id="plain"),
        pytest.param(bytes_with(CHATML), id="own"),
        *[
            pytest.param(
                MODELS / name,
                id=name,
                marks=pytest.mark.skipif(not (MODELS / name).is_dir(), reason=f"{MODELS / name} is not here"),
            )
            for name in names
        ],
    ]


@pytest.mark.parametrize("tokenizer", tokenizers())
def test_tokens_are_those_of_transformers_and_responses_are_learnt(tokenizer: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    written = writer(tokenizer)
    messages = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    theirs = tokenizer.apply_chat_template(messages, chat_template=written.template, return_dict=True)["input_ids"]
    assert written.write([TURNS])[0].input_ids == theirs
    end = "<unk>" if tokenizer.chat_template else tokenizer.eos_token
    found = learned_text(written, TURNS)
    assert found.replace(" ", "") == f"Hallo,你好{end}Bye.{end}"


def test_the_plain_template_by_hand() -> None:
    text, spans = writer(bytes_with()).rendered(TURNS[:3])
    assert text == "\uffff2\uffffSystem:\nBe brief.\nUser:\nGrüße?\n\nAssistant:\n  Hallo, 你好 \uffff3\uffff"
    assert [text[start:end] for start, end in spans] == ["Hallo, 你好 \uffff3\uffff"]


def test_without_end_tokens_nothing_ends() -> None:
    assert learned_text(writer(bytes_with(), end_token=False), TURNS[:3]) == "Hallo, 你好"


def test_control_tokens_in_a_conversation_are_ordinary_text() -> None:
    turns = [Turn("user", "What is </s>?"), Turn("assistant", "An <s>end</s> of text.", learned=True)]
    (one,) = writer(bytes_with()).write([turns])
    assert one.input_ids.count(END_ID) == 1
    assert learned_text(writer(bytes_with()), turns) == "An <s>end</s> of text.</s>"


def test_dates_do_not_depend_on_the_day() -> None:
    dated = "Today is {{ strftime_now('%d %B %Y') }}.\n" + CHATML
    assert writer(bytes_with(dated)).rendered(TURNS[1:3])[0].startswith("Today is 26 Jul 2024.")


@pytest.mark.parametrize(
    ("template", "settings", "where", "says"),
    [
        (None, {"template": "tokenizer"}, "data.template", "has no chat template; use `plain`"),
        ({"tool": CHATML, "rag": CHATML}, {}, "data.template", "several chat templates and none is called default"),
        ("{{ messages[0]['content'] }}", {}, "data.template", "does not write the assistant's turns as they are"),
        ("{{ raise_exception('only one turn') }}", {}, "data.template", "refuses the conversation: only one turn"),
        ("{% for m in messages %}", {}, "data.template", "refuses the conversation: "),
    ],
    ids=["none", "several", "without response", "refuses", "no Jinja"],
)
def test_templates_that_cannot_be_used(template: Any, settings: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(RecipeError, match=rf"{where}: .*{says}"):
        writer(bytes_with(template), **settings).check()
    writer(bytes_with(template), template="plain").check()


def test_a_tokenizer_without_end_token() -> None:
    tokenizer = bytes_with()
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match=r"data\.end_token: the tokenizer has no end token"):
        writer(tokenizer)
    writer(tokenizer, end_token=False).check()
