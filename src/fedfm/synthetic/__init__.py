"""Synthetic texts: generators that propose them, and scores of what came of them. Adding a generator: a file, a row."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.synthetic.base import TextGenerator, TextWriter
from fedfm.synthetic.causal_lm import PromptedModel
from fedfm.synthetic.templates import Templates

GENERATORS: dict[str, type[TextGenerator]] = {
    "templates": Templates,
    "causal-lm": PromptedModel,
}

AnyGenerator = Annotated[TextGenerator, Choice(GENERATORS, "kind", "fedfm.generators")]

__all__ = ["GENERATORS", "AnyGenerator", "PromptedModel", "Templates", "TextGenerator", "TextWriter"]
