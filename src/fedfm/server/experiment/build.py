"""A recipe made real: data read and split, backbone loaded, tunable attached. The run's folder is not touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedfm.algorithms import Algorithm
from fedfm.clients import ClientRound, Contract, Evaluator, Worker, Workers, use_threads
from fedfm.clients.attackers import attackers_of
from fedfm.clients.distilling import Learner, learner_of
from fedfm.clients.memory import give_back_at_once, give_back_now, keep_for_reuse
from fedfm.clients.references import with_references
from fedfm.clients.work import WORKS
from fedfm.data.examples import Examples
from fedfm.errors import DataError
from fedfm.hosts.devices import choose_device
from fedfm.hosts.model_groups import ModelWorkers, backbone_places
from fedfm.hosts.worker_factory import ClientSide, make_contract, make_workers
from fedfm.models.backbones import Backbone, load_backbone
from fedfm.models.tunable import Tunable
from fedfm.models.tunable_layers import layers_of
from fedfm.params import Params, digest, subtract
from fedfm.privacy import ExamplePromise, Promise
from fedfm.progress import stage
from fedfm.proxies.base import ClientModel
from fedfm.recipe import Recipe
from fedfm.recipe.client_groups import Device, devices_of
from fedfm.records.audits import planted_warnings
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from fedfm.server.experiment.secure_costs import secure_bytes
from fedfm.server.experiment.server_model import LoadedServerModel, load_server_model
from fedfm.tasks.public import PublicTexts
from fedfm.tasks.public_pairs import PublicPairs
from fedfm.views import choice_of
from fedfm.views.selection import TunableLayers
from fedfm.wire import on_disk


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start.

    Attributes:
        data: the data and its split.
        backbone: the pretrained model and where it came from.
        client_model: the server's side of what clients hold: the backbone, or a proxy.
        contract: what server and clients both know of what crosses.
        worker: plays clients; None where they have machines of their own.
        evaluator: evaluates the tunable on the backbone.
        device: where it all happens.
        backbone_parameters: parameters of the backbone with its head, before the tunable added its own.
        training: in words, how many clients are trained at a time.
        processes: how many processes train clients.
        other_models: digests that identify the backbones of `federation.models`.
        server_model: the protocol's further model; None where it has none.
    """

    data: FederatedData
    backbone: Backbone
    client_model: ClientModel
    contract: Contract
    worker: Workers | None
    evaluator: Evaluator
    device: torch.device
    backbone_parameters: int
    training: str
    processes: int = 1
    other_models: Mapping[str, str] = field(default_factory=dict)
    server_model: LoadedServerModel | None = None

    @property
    def tunable(self) -> Tunable:
        """The parameters that are trained, on the backbone."""
        return self.client_model.tunable

    @property
    def start(self) -> Params:
        """What travels as initialised, before round 1."""
        return dict(self.contract.start)

    def plug_in(self, params: Params) -> None:
        """Writes what travels into the backbone."""
        self.tunable.write(self.client_model.to_backbone(params))

    def judge(self, params: Params) -> tuple[float, ...]:
        """Figures of the backbone with some values of its tunable, on the validation set; the highest is best.

        Raises:
            ValueError: the recipe has no validation set.
        """
        if self.data.validation is None:
            raise ValueError("there is no validation set")
        self.tunable.write(params)
        scores = self.evaluator(self.data.validation)
        metric = self.evaluator.metrics[0]
        sign = 1 if self.data.task.metrics[metric] else -1
        return sign * scores[metric], -scores["loss"]

    def evaluate(self, params: Params) -> Iterator[tuple[str, int, dict[str, float]]]:
        """Split, examples, and loss and metrics of the backbone with ``params`` plugged in, split by split.

        Nothing where only clients evaluate.
        """
        if self.recipe.evaluate.at == "clients":
            return
        self.plug_in(params)
        yield from self.evaluate_backbone()

    def evaluate_backbone(self) -> Iterator[tuple[str, int, dict[str, float]]]:
        """As `evaluate`, with the values that the backbone's tunable has now."""
        if self.recipe.evaluate.at == "clients":
            return
        keep_for_reuse()
        for split, part in (("validation", self.data.validation), ("test", self.data.test)):
            if part is not None:
                yield split, len(part), self.evaluator(part)

    def root_update(self, params: Params, number: int, learning_rate: float, steps: int | None = None) -> Params:
        """What the server learns from `data.root` in a round, as a client would, without the algorithm's hooks.

        Args:
            params: the tunable that it starts from.
            number: the round.
            learning_rate: of the round.
            steps: in place of the recipe's ``local`` budget.

        Raises:
            ValueError: the recipe has no such data.
        """
        data, recipe, model = self.data, self.recipe, self.client_model
        if data.root is None:
            raise ValueError("there is no root data")
        worker = Worker(
            tunable=model.server_tunable,
            task=data.task,
            processor=data.processor,
            examples=data.root,
            clients={},
            local=recipe.local,
            contract=replace(self.contract, rule=Algorithm()),
            seed=recipe.seed,
            rounds=recipe.federation.rounds,
            device=self.device,
            copy=model.client,
        )
        worker.tunable.write(params)
        start = ClientRound(params, {}, {}, learning_rate)
        worker.fit(np.arange(len(data.root)), start, client="root", round=number, max_steps=steps)
        return subtract(worker.tunable.folded(worker.tunable.read()), params)

    def evaluate_client_model(self, params: Params) -> dict[str, float] | None:
        """Loss and metrics on the test set of a proxy itself with ``params``; None where clients hold the backbone."""
        tunable = self.client_model.server_tunable
        if tunable is self.tunable:
            return None
        tunable.write(params)
        return replace(self.evaluator, tunable=tunable)(self.data.test)

    @cached_property
    def backbones(self) -> Mapping[str, int]:
        """Client id → place of its backbone in `federation.models`; clients with the recipe's are not in it."""
        return backbone_places(self.recipe, list(self.data.clients))

    def message_bytes(self, client: str, number: int) -> tuple[int, int]:
        """Bytes of the tensors of one message to a client, and of its answer, with their headers; of texts, about."""
        protocol, labels = self.recipe.protocol, self.data.labels
        down, up = self.contract.message_bytes(client, number, self.planned_choice(client))
        sent = [protocol.sends(work) for work in protocol.works]
        down = sum(down if groups is None else self.contract.request_bytes(number, groups) for groups in sent)
        if protocol.public_sent:
            down += (self.data.public_pairs or self.public_texts).size_bytes(protocol.public_sent)
        if self.contract.masking is not None:
            clients = list(self.data.clients)
            cohort = clients[: self.recipe.federation.cohort_size(len(clients))]
            more, up = secure_bytes(self.contract, self.contract.masking, cohort, number)
            return down + more, up
        classes = 0 if labels is None else len(labels.names)
        answers = [protocol.answers(work, classes, self.contract.spec) for work in protocol.works]
        sizes = [up if groups is None else self.contract.answer_bytes(client, number, groups) for groups in answers]
        return down, sum(sizes)

    def choosing_bytes(self, client: str, number: int) -> tuple[int, int]:
        """Bytes of the messages that ask a client for measurements, and of its answers; as `message_bytes`."""
        if not self.recipe.select.works:
            return 0, 0
        down, _ = self.contract.evaluation_bytes(client, number, ())
        return down, self.contract.answer_bytes(client, number, self.recipe.select.returns(self.layers))

    def keeps_state(self, client: str, work: str) -> bool:
        """Whether a client keeps tensors for its next round after a kind of work."""
        kind = WORKS[work]
        return kind.keeps or (kind.trains and (client in self.backbones or self.contract.stateful))

    @cached_property
    def layers(self) -> TunableLayers:
        """The layers of the model that clients hold, without personal parts, and what a client's batch needs."""
        local, model = self.recipe.local, self.client_model
        return layers_of(
            model.client_tunable,
            model.client.model.family,
            without=self.contract.personal,
            tokens=local.batch_size * self.recipe.data.max_length,
            moments=local.moments,
        )

    def planned_choice(self, client: str) -> Mapping[str, Tensor] | None:
        """A choice as large as the server makes for a client; None where it makes none."""
        select = self.recipe.select
        names = select.planned(self.layers, client, self.recipe.seed) if select.chooses else None
        return None if names is None else choice_of(names, self.contract.spec)

    def with_references(self) -> Experiment:
        """The same, with what a task that compares models compares all examples with; before round 1."""
        if not self.data.task.compares:
            return self
        start, data, training = self.client_model.to_backbone(self.start), self.data, self.data.training

        def referenced(part: Examples) -> Examples:
            return with_references(self.evaluator, part, start)

        if training is not None:  # the server may evaluate on examples that nobody trains on
            split = training.federation
            kept = [*split.holdout.values(), *split.unseen.values()]
            held = with_references(self.evaluator, training.train, start, kept)
            training = replace(training, train=held)
        compared = replace(
            data,
            training=training,
            validation=None if data.validation is None else referenced(data.validation),
            test=referenced(data.test),
            root=None if data.root is None else referenced(data.root),
        )
        return replace(self, data=compared, worker=None if self.worker is None else self.worker.with_references())

    @property
    def public_texts(self) -> PublicTexts:
        """Public data as texts.

        Raises:
            ValueError: the protocol does not use any.
        """
        if self.data.public_texts is None:
            raise ValueError("the protocol uses no public texts")
        return self.data.public_texts

    @property
    def public_pairs(self) -> PublicPairs:
        """Public data as pairs of an image and a text.

        Raises:
            ValueError: the protocol does not use any.
        """
        if self.data.public_pairs is None:
            raise ValueError("the protocol uses no public pairs")
        return self.data.public_pairs

    @cached_property
    def student(self) -> Learner:
        """The server's model, which learns from predictions."""
        threads = self.recipe.runtime.resolved_threads
        return learner_of(self.evaluator, text_length=self.recipe.public_length, threads=threads)

    def release(self) -> None:
        """Returns memory that only evaluation needs to the system, before updates of remote clients arrive.

        Once after an evaluation: memory that is taken again in each round would have to be cleared each time.
        """
        if self.tunable.has_values:
            self.tunable.let_go()
            give_back_at_once()
            give_back_now()

    @cached_property
    def devices(self) -> Mapping[str, Device]:
        """Client id → its device on the virtual clock; empty where the recipe names none."""
        return devices_of(self.recipe.federation.devices, list(self.data.clients), self.recipe.seed)

    def duration(self, client: str, number: int) -> float:
        """Virtual seconds of a client's work in a round: receive, train, send; 0 without a device."""
        device = self.devices.get(client)
        if device is None:
            return 0.0
        local, (down, up) = self.recipe.local, self.message_bytes(client, number)
        examples = local.steps(self.data.clients[client]) * local.batch_size
        return device.seconds(examples=examples, down=down, up=up)

    @property
    def recipe(self) -> Recipe:
        """The recipe with what the data and the backbone decide filled in."""
        return self.data.recipe

    @property
    def judged_by(self) -> Literal["server", "clients"]:
        """Who measures the figures by which the run is judged.

        Clients do where only they measure; and where both do, if there is no single model.
        """
        recipe, protocol, contract = self.recipe, self.recipe.protocol, self.contract
        several = bool(contract.personal) or contract.has_copies or protocol.own_tunable is not None
        several = several or protocol.has_experts
        by_clients = recipe.evaluate.at == "clients" or (
            recipe.evaluate.at == "both" and several and not recipe.proxy.is_sent
        )
        return "clients" if by_clients else "server"

    @property
    def judged_split(self) -> Literal["test", "clients"]:
        """The split of these figures."""
        return "clients" if self.judged_by == "clients" else "test"

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the data and the model before round 1, each one sentence."""
        return [
            *self.data.warnings,
            *self.backbone.warnings,
            *self._personal_warnings(),
            *self._attack_warnings(),
            *planted_warnings(self.recipe.audit.canaries),
        ]

    @cached_property
    def attackers(self) -> frozenset[str]:
        """Ids of the simulated clients that attack."""
        return attackers_of(self.recipe.federation.attackers, self.data.clients, self.recipe.seed)

    def _attack_warnings(self) -> list[str]:
        attack = self.recipe.federation.attackers
        if attack is None:
            return []
        return [
            f"{len(self.attackers)} of {len(self.data.clients)} clients attack (federation.attackers: {attack.kind})"
        ]

    def _personal_warnings(self) -> list[str]:
        if self.judged_by == "clients":
            return []
        if self.contract.has_copies:
            return [
                "the server measures the shared model, not the clients' own (algorithm.name); evaluate.at=clients with "
                "federation.holdout measures each client with its own"
            ]
        if not self.contract.personal:
            return []
        values = "the mean of the clients' personal parts" if self.data.training else "the initial personal parts"
        return [
            f"the server measures the shared part with {values} (tune.share); evaluate.at=clients with "
            "federation.holdout measures each client with its own"
        ]

    @cached_property
    def promise(self) -> Promise | None:
        """What the recipe promises about privacy, for its number of rounds; None for nothing.

        Raises:
            RecipeError: the settings do not fit the federation.
        """
        return self.recipe.privacy.promise(self.recipe.federation.attendance(len(self.data.clients)))

    @cached_property
    def example_promise(self) -> ExamplePromise | None:
        """What clients promise about each of their examples; None for nothing."""
        return self.recipe.privacy.examples(self.recipe.local, self.recipe.federation.rounds)

    @property
    def identity(self) -> dict[str, str]:
        """Digests that identify the run; those of a resumed run must be equal."""
        data = {f"data.{split}": digest for split, digest in self.data.digests.items()}
        return {
            "recipe": recipe_digest(self.recipe),
            **data,
            **self.backbone.identity.named,
            **self.other_models,
            **({} if self.server_model is None else self.server_model.identity),
            "tunable": digest(self.start),
        }


def recipe_digest(recipe: Recipe) -> str:
    """The sha256 (hex) of all of a recipe that a resumed run may not change."""
    lasting = recipe.model_dump(exclude={"report_to": True, "federation": {"rounds"}})
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def build_experiment(recipe: Recipe, sites: Sequence[str] = ()) -> Experiment:
    """Everything a run needs, ready to start.

    Args:
        recipe: of the run.
        sites: names of the clients, where they hold their own data.

    Raises:
        RecipeError: something in the recipe does not fit; the message says what to change.
        DataError: a file cannot be read, or there is nothing to predict in what is evaluated.
    """
    device = choose_device(recipe.runtime.device)
    resolved = recipe.model_copy(update={"runtime": recipe.runtime.with_threads()})
    available = torch.get_num_threads()
    with use_threads(resolved.runtime.resolved_threads):
        return _build(resolved, sites, device, available)


def _build(recipe: Recipe, sites: Sequence[str], device: torch.device, available: int) -> Experiment:
    """As `build_experiment`, with the threads that the recipe says; ``available`` are there for evaluation."""
    with stage("reading data"):
        data = prepare_data(recipe, sites)
    data.recipe.protocol.check(list(data.clients))
    with stage("loading the model"):
        backbone = _load(data)
    data = replace(data, recipe=_with_commit(data.recipe, backbone))
    parameters = sum(weight.numel() for weight in backbone.model.parameters())
    model = _client_model(data, backbone)
    for tunable in (model.tunable, model.server_tunable, model.client_tunable):
        tunable.to(device)
        data.task.check_model(tunable, backbone.processor, backbone.name, data.recipe.data)
    start = on_disk(data.recipe.aggregate.initial(model.start, data.recipe.seed))
    contract = make_contract(data.recipe, start, model=model.client.model)
    workers, processes, others = None, 1, dict[str, str]()
    training = f"at {len(data.clients)} sites, each on its own data"
    if data.training is not None:
        here = replace(data.training, recipe=data.recipe)
        workers, sharing = make_workers(here, ClientSide(model.client, model.client_tunable, contract), device)
        processes, training = sharing.processes, sharing.words
        if isinstance(workers, ModelWorkers):
            with stage("loading the clients' models"):
                others = workers.identities()
        data = replace(data, recipe=data.recipe.model_copy(update={"runtime": sharing.runtime}))
    evaluator = _evaluator(data, backbone, model.tunable, device, available)
    _refuse_unmeasurable(data, evaluator)
    further = load_server_model(data, evaluator)
    experiment = Experiment(
        data=data,
        backbone=backbone,
        client_model=model,
        contract=contract,
        worker=workers,
        evaluator=evaluator,
        device=device,
        backbone_parameters=parameters,
        training=training,
        processes=processes,
        other_models=others,
        server_model=further,
    )
    experiment.promise  # noqa: B018 - refuses settings that do not fit the federation
    if experiment.example_promise is not None:
        experiment.example_promise.check(max(data.clients.values()))
    if recipe.select.chooses:
        recipe.select.check(experiment.layers, list(data.clients), recipe.seed)
    return experiment


def _load(data: FederatedData) -> Backbone:
    recipe = data.recipe
    return load_backbone(
        recipe.model,
        data.task.auto_class,
        seed=recipe.seed,
        labels=None if data.labels is None else data.labels.names,
        problem_type=data.task.problem_type,
        modality=data.task.modality,
        allow_network=recipe.allow_network,
    )


def _with_commit(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with the commit that a model of the hub was loaded from, in place of a branch."""
    if backbone.revision is None or recipe.model.path.startswith("builtin:"):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": backbone.revision})})


def _client_model(data: FederatedData, backbone: Backbone) -> ClientModel:
    """What clients hold, with what is tuned attached to it and to the backbone."""
    recipe, task = data.recipe, data.task

    def attach(model: Backbone) -> Tunable:
        return recipe.tune.attach(model, task_type=task.peft_type, seed=recipe.seed)

    return recipe.proxy.at_server(backbone, attach, data.public, seed=recipe.seed)


def _refuse_unmeasurable(data: FederatedData, evaluator: Evaluator) -> None:
    """Refuses data to evaluate on in which nothing is predicted."""
    for split, examples in (("validation", data.validation), ("test", data.test)):
        if examples is not None and not evaluator.predicts(examples):
            raise DataError(
                f"data.{split}: nothing is predicted in its {len(examples)} examples: {data.recipe.task.kind} masked "
                "none of their few tokens; give more texts, or longer ones"
            )


def _evaluator(
    data: FederatedData, backbone: Backbone, tunable: Tunable, device: torch.device, available: int
) -> Evaluator:
    evaluate, task = data.recipe.evaluate, data.task
    decides = evaluate.patience is not None or data.recipe.judges
    return Evaluator(
        tunable=tunable,
        family=backbone.family,
        task=task,
        processor=data.processor,
        metrics=tuple(task.metrics) if evaluate.metrics == "auto" else tuple(evaluate.metrics),
        batch_size=evaluate.batch_size,
        seed=data.recipe.seed,
        device=device,
        threads=data.recipe.runtime.resolved_threads if decides else available,
        labels=() if data.labels is None else data.labels.names,
    )
