"""Language models write: prompts in a task's form, continued by transformers' `generate`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from fedfm.data.conversations.questions import Question
from fedfm.data.settings import DataSettings
from fedfm.errors import DataError
from fedfm.models.quiet import quiet
from fedfm.models.tunable import Tunable
from fedfm.progress import steps
from fedfm.randomness import torch_seed
from fedfm.tasks.base import Task
from fedfm.tasks.generation_settings import GenerationSettings

Heard = Callable[[int, str], None]
"""Gets the number of a question and a piece of its answer, as soon as it is written."""


class _Stream(TextStreamer):
    """Passes on the text of an answer as it is written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None], *, skip_prompt: bool) -> None:
        super().__init__(tokenizer, skip_prompt=skip_prompt, skip_special_tokens=True)
        self._tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Passes a piece on."""
        if text:
            self._tell(text)


@dataclass(frozen=True)
class Generator:
    """Answers questions with a tunable's present values.

    Attributes:
        tunable: of the model.
        task: one that `generates`.
        tokenizer: of the model.
        data: says how questions are written.
        settings: how answers are chosen.
        seed: of what is drawn.
        batch_size: questions at once, where nothing is drawn.
        device: where the model is.
    """

    tunable: Tunable
    task: Task
    tokenizer: PreTrainedTokenizerBase
    data: DataSettings
    settings: GenerationSettings
    seed: int
    batch_size: int
    device: torch.device

    def answers(self, questions: Sequence[Question], heard: Heard | None = None) -> list[str]:
        """The answers, in the order of the questions, without control tokens.

        What is drawn for a question depends on the seed and the question's place only.

        Args:
            questions: to answer.
            heard: gets each answer as it is written; questions are then answered one by one.

        Raises:
            DataError: a prompt and its answer are longer than what the model reads.
        """
        prompts = [self.task.prompt(question, self.tokenizer, self.data) for question in questions]
        self._refuse_long(prompts)
        together = 1 if heard is not None or self.settings.temperature else self.batch_size
        answers: list[str] = []
        self.tunable.eval()
        starts = range(0, len(prompts), together)
        for start in steps(starts, "writing", len(starts)):
            chosen = prompts[start : start + together]
            written = self._continued(chosen, start, heard)
            answers += self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return answers

    def _continued(self, prompts: Sequence[list[int]], start: int, heard: Heard | None) -> list[list[int]]:
        """The tokens of some answers; the first is of question ``start``."""
        model, decodes = cast(Any, self.tunable.model), self.tunable.base_model.config.is_encoder_decoder
        streamer = None
        if heard is not None:
            streamer = _Stream(self.tokenizer, lambda text: heard(start, text), skip_prompt=not decodes)
        ids, mask = self._padded(prompts, left=not decodes)
        with torch.inference_mode(), quiet(), torch_seed(self.seed, "generation", client=str(start)):
            found: Tensor = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=self._config, streamer=streamer
            )
        new: list[list[int]] = found[:, 0 if decodes else ids.shape[1] :].tolist()
        return new

    @property
    def _config(self) -> GenerationConfig:
        """The model's own settings, with what the recipe says and the tokens that end an answer."""
        given = self.settings
        config = copy.deepcopy(self.tunable.base_model.generation_config)
        if config is None:
            raise TypeError(f"{type(self.tunable.base_model).__name__} does not generate")
        ends = config.eos_token_id
        known = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        own = (self.tokenizer.eos_token_id, self.task.end(self.tokenizer, self.data))
        config.eos_token_id = sorted(known | {token for token in own if token is not None}) or None
        config.pad_token_id = self.tokenizer.pad_token_id
        config.max_new_tokens, config.max_length, config.min_length = given.max_new_tokens, None, 0
        config.num_beams, config.do_sample = 1, given.temperature > 0
        config.temperature = given.temperature if config.do_sample else None
        config.top_p = given.top_p if config.do_sample else None
        config.top_k = (given.top_k or 0) if config.do_sample else None
        return config

    def _padded(self, prompts: Sequence[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask ``[B, T]``."""
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), cast(int, self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            own = slice(longest - len(prompt), None) if left else slice(len(prompt))
            ids[row, own], mask[row, own] = torch.tensor(prompt), 1
        return ids.to(self.device), mask.to(self.device)

    def _refuse_long(self, prompts: Sequence[list[int]]) -> None:
        """Refuses prompts that leave no room for an answer."""
        decodes, limit = self.tunable.base_model.config.is_encoder_decoder, self.tokenizer.model_max_length
        needed = 0 if decodes else self.settings.max_new_tokens
        for number, prompt in enumerate(prompts, start=1):
            if len(prompt) + needed > limit:
                answer = "" if decodes else f" and an answer of {needed} (evaluate.generate.max_new_tokens)"
                raise DataError(f"question {number}: a prompt of {len(prompt)} tokens{answer} are more than {limit}")
