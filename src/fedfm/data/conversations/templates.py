"""Writes a conversation as the text that a decoder reads, and finds what of it is learnt.

The text is that of transformers' `apply_chat_template`, so a model answers in the format in which it was tuned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fedfm.data.conversations.turns import RESERVED, Turn
from fedfm.data.plain_text import renamed_controls
from fedfm.data.settings import DataSettings
from fedfm.errors import RecipeError

_START, _END, _OPEN, _CLOSE, _CONTROL = tuple(RESERVED)

_PLAIN = (
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}END{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nAssistant:\\n' }}{% endif %}"
)

_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Put before a template that writes today's date: examples must not depend on the day."""


def template_of(tokenizer: PreTrainedTokenizerBase, data: DataSettings) -> str:
    """The chat template that the settings choose, in Jinja.

    Raises:
        RecipeError: at ``data.template``: the tokenizer has no chat template, or several without a default; at
            ``data.end_token``: it has no end token for the plain template.
    """
    own = tokenizer.chat_template
    if data.template == "plain" or (data.template == "auto" and not own):
        return _plain(tokenizer, end_token=data.end_token)
    if not own:
        raise RecipeError("the tokenizer has no chat template; use `plain`", where="data.template")
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise RecipeError(
            f"the tokenizer has several chat templates and none is called default ({', '.join(own)}); use `plain`",
            where="data.template",
        ) from error


def _plain(tokenizer: PreTrainedTokenizerBase, *, end_token: bool) -> str:
    """The plain template, with the tokens that the tokenizer puts before every text."""
    if end_token and tokenizer.eos_token is None:
        raise RecipeError(
            "the tokenizer has no end token, so responses cannot end with one; set `data.end_token: false`",
            where="data.end_token",
        )
    around = tokenizer("a", return_special_tokens_mask=True)
    first = around["special_tokens_mask"].index(0)
    start = "".join(tokenizer.convert_ids_to_tokens(around["input_ids"][:first]))
    end = tokenizer.eos_token if end_token else ""
    return _literal(start) + _PLAIN.replace("END", _literal(str(end)))


def _literal(text: str) -> str:
    return f"{{{{ {json.dumps(text)} }}}}" if text else ""


@dataclass(frozen=True)
class Written:
    """A conversation as token ids, before it is truncated.

    Attributes:
        input_ids: the tokens.
        learned: 1 for a token that is learnt: those of learnt responses, and the control token that ends each; else 0.
    """

    input_ids: list[int]
    learned: list[int]


@dataclass(frozen=True)
class Writer:
    """Writes conversations for one tokenizer by one template.

    Attributes:
        tokenizer: a fast tokenizer.
        template: in Jinja.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str

    def check(self) -> None:
        """Refuses a template that loses responses.

        Raises:
            RecipeError: at ``data.template``.
        """
        try:
            self.rendered([Turn("user", "a question"), Turn("assistant", "a response", learned=True)])
        except ValueError as error:
            raise RecipeError(f"the tokenizer's chat template {error}; use `plain`", where="data.template") from error

    def rendered(self, turns: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """The text, with control tokens by their new names, and where in it the learnt parts are.

        Raises:
            ValueError: the template refuses the conversation, or does not write its responses as they are.
        """
        marked = [{"role": turn.role, "content": self._marked(turn)} for turn in turns]
        try:
            text = str(self.tokenizer.apply_chat_template(marked, chat_template=self._fixed, tokenize=False))
        except (TemplateError, TypeError, ValueError) as error:
            raise ValueError(f"refuses the conversation: {' '.join(str(error).split())}") from error
        text = self._pattern.sub(lambda found: self._names[found[0]], text)
        text = re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda found: self._controls[int(found[1])], text)
        parts = re.split(f"{_START}(.*?){_END}", text, flags=re.DOTALL)  # every second part is a learnt response
        plain = "".join(parts)
        if len(parts) // 2 != sum(turn.learned for turn in turns) or _START in plain or _END in plain:
            raise ValueError("does not write the assistant's turns as they are")
        spans, place = [], 0
        for number, part in enumerate(parts):
            if number % 2:
                end = re.match(rf"\s*{_CONTROL}\d+{_CONTROL}", parts[number + 1])  # the control token after it
                spans.append((place, place + len(part) + (end.end() if end else 0)))
            place += len(part)
        return plain, spans

    def write(self, conversations: Sequence[Sequence[Turn]]) -> list[Written]:
        """The tokens of conversations; raises ValueError as `rendered`."""
        rendered = [self.rendered(turns) for turns in conversations]
        texts = [text for text, _ in rendered]
        whole = self._reader(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, padding=False
        )
        return [
            Written(ids, [int(any(_is_in(place, span) for span in spans)) for place in offsets])
            for ids, offsets, (_, spans) in zip(whole["input_ids"], whole["offset_mapping"], rendered, strict=True)
        ]

    def _marked(self, turn: Turn) -> str:
        """A text whose control tokens are hidden from the template's, with marks around what is learnt.

        White space at its ends is outside the marks, since many templates trim it.
        """
        text = self._pattern.sub(lambda found: f"{_OPEN}{self._controls.index(found[0])}{_CLOSE}", turn.text)
        core = text.strip()
        return text.replace(core, f"{_START}{core}{_END}", 1) if turn.learned else text

    @cached_property
    def _fixed(self) -> str:
        return (_FIXED_DATE if "strftime_now" in self.template else "") + self.template

    @cached_property
    def _renamed(self) -> tuple[PreTrainedTokenizerFast, dict[str, str]]:
        return renamed_controls(self.tokenizer, split_special_tokens=False)

    @property
    def _reader(self) -> PreTrainedTokenizerFast:
        return self._renamed[0]

    @property
    def _names(self) -> dict[str, str]:
        return self._renamed[1]

    @cached_property
    def _controls(self) -> list[str]:
        """Control tokens, longest first, so that one in another is not found in its place."""
        return sorted(self._names, key=len, reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._controls)) or r"(?!)")


def _is_in(place: tuple[int, int], span: tuple[int, int]) -> bool:
    """Whether a token has a character of a span; of an empty token, whether it is inside."""
    start, end = place
    return span[0] <= start < span[1] if start == end else start < span[1] and end > span[0]
