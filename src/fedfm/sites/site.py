"""A site: a node that is one client of a federation, with data of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedfm.clients.retrieval.settings import ABSENT, QUESTION, SKIP
from fedfm.clients.store import ClientStore
from fedfm.clients.work import RETRIEVE, WORKS, extra_facts
from fedfm.clients.work.retrieve import question_texts, skipped
from fedfm.errors import DataError, RecipeError
from fedfm.hosts.job import Job
from fedfm.hosts.node import Node, PreparedRun
from fedfm.hosts.received import load_processor
from fedfm.hosts.training_data import TrainingData, processor_of
from fedfm.hosts.worker_factory import ClientSide
from fedfm.models.backbones import Backbone, leave_room
from fedfm.recipe import Recipe
from fedfm.runtimes.envelopes import NAME, Ended, Envelope, LabelAnswers, Prepare, Ready, Requests
from fedfm.sites.client_state import ClientStateFolders
from fedfm.sites.egress import Egress
from fedfm.sites.label_counts import label_answers
from fedfm.sites.limits import check_files, check_model
from fedfm.sites.patterns import check_patterns
from fedfm.sites.privacy_ledger import PrivacyLedger
from fedfm.sites.site_config import SiteData, at_site, read_site
from fedfm.spec import Spec, spec_of
from fedfm.updates import Failure, Instruction, Reply, Request, decode_instruction, decode_update
from fedfm.updates.path import GroupSpecs
from fedfm.updates.payload import ACTIVITY


class Site(Node):
    """A node with data of its own, which does what its policy allows and announces what will leave it."""

    def __init__(self, data: SiteData, egress: Egress, folder: Path) -> None:
        """A site.

        Args:
            data: its ``data.yaml``.
            egress: what may leave it.
            folder: of the proxies that it gets (``worker.proxies``) and of its client's state (``client-state``).
        """
        super().__init__(folder / "worker.proxies")
        self.site_data = data
        self.egress = egress
        self._folder = folder
        self._client_state = ClientStateFolders(folder / "client-state")
        self._privacy = PrivacyLedger(egress.ledger.parent)

    def seconds(self, envelope: Envelope) -> float:
        """Seconds that the answer to an envelope may take, by the policy."""
        policy = self.egress.policy
        return policy.max_round_seconds if isinstance(envelope.head, Requests) else policy.max_prepare_seconds

    def reason(self, error: BaseException, envelope: Envelope) -> str:
        """Why an envelope cannot be answered, for the server: nothing of what the site holds."""
        return str(self.egress.refuse(error, self._run_name(envelope)))

    def admit(self, job: Job, recipe: Recipe, client: str | None) -> None:
        """As `Node.admit`.

        Raises:
            PolicyError: the policy does not allow the run.
            RecipeError: the server simulates its clients.
        """
        _known(client)
        self.egress.admit(recipe)
        self.egress.admit_model(job.model.digest if job.model and not recipe.proxy.is_sent else None)

    def admit_download(self, size_bytes: int) -> None:
        """As `Node.admit_download`; raises PolicyError."""
        self.egress.admit_download(size_bytes)

    def admit_requests(self, run: PreparedRun, asked: Requests, messages: Sequence[bytes]) -> None:
        """As `Node.admit_requests`; what training will spend of the examples' privacy is recorded first.

        Raises:
            PolicyError: the policy does not allow it.
            DataError: the server sends what only the site keeps.
            RecipeError, StorageError: as `PrivacyLedger.charge`.
        """
        if asked.states:
            raise DataError("the server sends the state of a client, which this site keeps itself")
        instructions = [decode_instruction(message) for message in messages]
        for instruction in instructions:
            self.egress.admit_work(instruction.work)
            if instruction.work == RETRIEVE:
                self._admit_questions(run.data.recipe, instruction)
        self._charge(run, [instructions[place] for _, place in asked.clients])

    def _admit_questions(self, recipe: Recipe, instruction: Instruction) -> None:
        """Accepts questions up to the number of chunks that the policy allows, and records those that are texts.

        Raises:
            PolicyError: with those of the exchanges before, it would be more chunks.
            MessageError: the message is not what the recipe announces.
        """
        skip = skipped(instruction.groups.get(SKIP, {}), recipe.ask)
        self.egress.admit_answers(recipe, max(skip))
        if recipe.ask.question == "text":
            texts = question_texts(instruction.groups.get(QUESTION, {}))
            asked = [text for text, number in zip(texts, skip, strict=False) if number != ABSENT]
            self.egress.note_questions(recipe.name, asked)

    def _charge(self, run: PreparedRun, asked: Sequence[Instruction]) -> None:
        """Records what the site is about to spend of its examples' privacy, where the run promises any.

        Raises:
            RecipeError, StorageError: as `PrivacyLedger.charge`.
        """
        recipe, (held,) = run.data.recipe, run.data.federation.sizes.items()
        promise = recipe.privacy.examples(recipe.local, recipe.federation.rounds)
        if promise is None or run.state is None:
            return
        for instruction in asked:
            if instruction.work in WORKS and WORKS[instruction.work].trains:
                self._privacy.charge(
                    promise,
                    run.state.name,  # the run's digest
                    held[0],
                    instruction.round,
                    examples=held[1],
                    left=self.egress.rounds_left(run.job),
                )

    def read(self, job: Job, recipe: Recipe, client: str | None, folder: Path | None) -> TrainingData:
        """As `Node.read`: the site's own data, all of which is one client's.

        Raises:
            PolicyError: the model, or the training of so many examples, is above a limit of the policy.
            RecipeError, DataError: as `Node.read`.
        """
        policy, task = self.egress.policy, recipe.task
        here = at_site(recipe, self.site_data, allow_network=policy.allow_network)
        if folder is None:
            check_model(here.model, task.auto_class, policy, allow_network=here.allow_network)
            processor = processor_of(here)
        else:
            check_files(folder, policy)
            processor = leave_room(load_processor(folder, task.modality), recipe.tune.virtual_tokens)
        data = read_site(here, self.site_data, _known(client), processor)
        examples = sum(data.federation.sizes.values())
        self.egress.admit_training(data.recipe.local, examples)
        if promise := recipe.privacy.examples(recipe.local, recipe.federation.rounds):
            promise.check(examples)
        return data

    def check_model(self, recipe: Recipe, model: Backbone) -> None:
        """As `Node.check_model`: the recipe's patterns must return on the names of the model's modules."""
        check_patterns(recipe, (name for name, _ in model.model.named_modules()))

    def announce(self, data: TrainingData, side: ClientSide) -> None:
        """As `Node.announce`; raises PolicyError where it is more than the policy allows."""
        ((client, examples),) = data.federation.sizes.items()
        groups = side.contract.announced(client)
        if data.recipe.proxy.counts_at_clients:
            with side.copy.counting(side.tunable) as counts:
                groups[ACTIVITY] = spec_of(counts())
        protocol, classes = data.recipe.protocol, 0 if data.labels is None else len(data.labels.names)
        specs: dict[str, GroupSpecs] = {}
        for work in data.recipe.works:
            own: Mapping[str, Spec] | None = {}  # of measurements, figures leave
            if work in protocol.works:
                own = protocol.answers(work, classes, side.contract.spec)
            elif work == RETRIEVE:
                own = data.recipe.ask.returns()
            elif work in data.recipe.select.works:
                own = data.recipe.select.returns(side.layers)
            specs[work] = groups if own is None else own
        facts = {work: extra_facts(work, data.metrics) for work in specs}
        self.egress.announce(data.recipe, specs, facts, client=client, examples=examples)

    def ready(self, job: str, data: TrainingData) -> Ready:
        """As `Node.ready`: names the site's client, and says how many examples it has, of which classes if it may."""
        held = data.federation.sizes
        return Ready(job=job, clients=tuple(held), examples=sum(held.values()), labels=self._labels(data))

    def _labels(self, data: TrainingData) -> LabelAnswers | None:
        """The classes of the site's examples under randomised response, if its policy allows that; recorded first."""
        epsilon = self.egress.policy.label_epsilon
        ((_, counts),) = data.federation.label_counts(data.train, data.labels, data.task).items()
        if epsilon is None or counts is None or data.train.labels is None:  # ε is that of one class an example
            return None
        answers = label_answers(self._folder, counts, data.digest, epsilon)
        self.egress.note_labels(data.recipe.name, epsilon, leave=answers is not None)
        return None if answers is None else LabelAnswers(answers=tuple(answers), epsilon=epsilon)

    def release(self, answer: bytes | Failure, run: PreparedRun) -> bytes | Failure:
        """As `Node.release`; raises as `Egress.pass_answer`."""
        return self.egress.pass_answer(answer, run.data.recipe, run.job)

    def recall(self, request: Request, run: PreparedRun) -> Request:
        """As `Node.recall`: the version that the server's message names, from the site's disk."""
        facts, store = decode_instruction(request.message).facts, _store(run)
        store.forget_before(request.client, facts.forget_before)
        return replace(request, state=store.get(request.client, facts.continue_from))

    def keep(self, reply: Reply, run: PreparedRun) -> Reply:
        """As `Node.keep`: the state goes to the site's disk, under the round of the update."""
        if reply.state is None or isinstance(reply.content, Failure):
            return replace(reply, state=None)
        _store(run).put(reply.client, decode_update(reply.content).round, reply.state)
        return replace(reply, state=None)

    def state_folder(self, job: Job, digest: str) -> Path | None:
        """As `Node.state_folder`: a folder on the site's disk."""
        return self._client_state.folder(job, digest)

    def end(self, ended: Ended) -> None:
        """As `Node.end`: a completed run leaves no client state behind."""
        self.egress.note_end(ended)
        if ended.status == "completed":
            self._client_state.remove(ended.job)

    def _run_name(self, envelope: Envelope) -> str | None:
        """The name of the run that an envelope is about; None where it has no valid one."""
        if isinstance(envelope.head, Prepare):
            recipe = envelope.head.job.get("recipe")
            name = recipe.get("name") if isinstance(recipe, dict) else None
            return name if isinstance(name, str) and re.fullmatch(NAME, name) else None
        return self._run.data.recipe.name if self._run is not None else None


def _store(run: PreparedRun) -> ClientStore:
    """What the site's client keeps between the rounds of a run."""
    if run.state is None:
        raise ValueError("a site's run has a folder for what its client keeps")
    return ClientStore(run.state)


def _known(client: str | None) -> str:
    """The client that the server takes this site for."""
    if client is None:
        raise RecipeError("the server expects simulated clients, but this node holds its own data")
    return client
