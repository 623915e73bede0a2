"""Work ``retrieve``: which of a client's own texts answer the server's questions.

The message has the tuned parameters, the questions as embeddings or as texts (group ``question``), and how many chunks
each question skips (group ``skip``). The client cuts its texts into chunks, embeds them with the model, and answers
with the scores of the best chunks after these, their numbers and their texts, as far as the recipe's ``ask`` says
(group ``answers``). Embeddings of its texts never leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.evaluation import Evaluator
from fedfm.clients.retrieval.index import embed, index_of
from fedfm.clients.retrieval.library import Library
from fedfm.clients.retrieval.settings import ABSENT, ANSWERS, CHUNKS, EMBEDDING, QUESTION, SKIP, AskSettings
from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.data.packed_texts import unpack
from fedfm.params import digest
from fedfm.updates import Done, MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

RETRIEVE = "retrieve"
"""The name of this kind of work, for those that ask for it."""


def retrieve(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Answers for clients one by one."""
    return one_by_one(worker, tasks, _retrieve)


def _retrieve(worker: Worker, task: ClientTask) -> Answer:
    library, evaluator, client = worker.library, worker.evaluator, task.client
    if library is None or evaluator is None:
        raise MessageError("the recipe's `ask` does not ask for passages")
    received = worker.receive(task)
    worker.tunable.write(received.at.received)
    questions = _questions(task.instruction.groups.get(QUESTION, {}), library, evaluator)
    skip = np.asarray(skipped(task.instruction.groups.get(SKIP, {}), library.settings), dtype=np.int64)
    rows = np.sort(np.concatenate([worker.clients[client], worker.holdout.get(client, np.empty(0, dtype=np.int64))]))
    model = {
        "backbone": dict(worker.copy.model.identity.named),
        "tunable": digest(received.at.received),
        "task": repr(worker.task),
    }
    index = index_of(library.documents(rows), evaluator, library.settings, model)
    if index.embeddings.shape[1] != questions.shape[1]:
        raise MessageError(f"embeddings of questions must have {index.embeddings.shape[1]} dimensions")
    facts = Done(client=client, examples=len(worker.clients[client]), proxy_version=worker.version)
    groups = {ANSWERS: index.answer(questions, library.settings, skip)}
    return Answer(task.client, Payload(task.instruction.round, task.instruction.base, facts, groups, work=RETRIEVE))


def _questions(group: Mapping[str, Tensor], library: Library, evaluator: Evaluator) -> np.ndarray:
    """Embeddings of the questions in a message, float32 [Q, d].

    Raises:
        MessageError: they are not what the recipe announces.
    """
    settings = library.settings
    if settings.question == "text":
        texts = question_texts(group)
        if len(texts) != settings.questions:
            raise MessageError(f"group `{QUESTION}` must have the {settings.questions} questions that `ask` announces")
        return embed(evaluator, texts, library.max_length)
    found = group.get(EMBEDDING)
    if found is None or found.dtype != torch.float32 or found.ndim != 2 or len(found) != settings.questions:
        raise MessageError(f"group `{QUESTION}` must have float32 embeddings of {settings.questions} questions")
    if not bool(torch.isfinite(found).all()):
        raise MessageError(f"group `{QUESTION}` has values that are not finite")
    return found.numpy()


def skipped(group: Mapping[str, Tensor], settings: AskSettings) -> list[int]:
    """How many of its best chunks the client leaves out of the answer to each question; `ABSENT`: all of them.

    Raises:
        MessageError: it is not what the recipe's exchanges can ask for.
    """
    found = group.get(CHUNKS)
    if found is None or found.dtype != torch.int64 or found.shape != (settings.questions,):
        raise MessageError(f"group `{SKIP}` must have a whole number for each of {settings.questions} questions")
    skip: list[int] = found.tolist()
    most = (settings.exchanges - 1) * settings.chunks
    if any(not (number == ABSENT or 0 <= number <= most) for number in skip):
        raise MessageError(f"group `{SKIP}` must have numbers of chunks up to {most}, or {ABSENT}")
    return skip


def question_texts(group: Mapping[str, Tensor]) -> list[str]:
    """The questions of a message that has them as texts.

    Raises:
        MessageError: they are not texts.
    """
    try:
        (texts,) = unpack(group)
    except ValueError as error:
        raise MessageError(f"group `{QUESTION}` of the instruction: {error}") from error
    return texts
