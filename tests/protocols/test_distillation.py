"""Distillation against hand-computed numbers, torch's divergence, and whole runs with two backbones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, BertForSequenceClassification

from fedfm import run
from fedfm.aggregation import Contribution
from fedfm.clients.distilling import LOGITS, PREDICTIONS, PUBLIC, TEACHER, Distilling, Learner, distillation_loss
from fedfm.data.packed_texts import pack, unpack
from fedfm.errors import RecipeError
from fedfm.models.builtin import write_random_model
from fedfm.params import digest
from fedfm.protocols import Ask, ClientUpdate, Distillation, State
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.runs.planning import describe
from fedfm.updates import Asked, Done, Payload, Request, decode_update
from fedfm.wire import stored_bytes
from tests.events import irregular
from tests.small import small_recipe

PROTOCOL = {"kind": "distillation", "examples": 8, "steps": 3, "batch_size": 4, "digest_steps": 2}
TWO_BACKBONES = {"clients": 4, "per_round": 3, "rounds": 3, "models": [{"path": "builtin:tiny-gpt2", "clients": 2}]}


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    values = small_recipe(folder, protocol=PROTOCOL, federation=TWO_BACKBONES)
    values |= {"public": {"data": str(folder / "train.jsonl"), "limit": 32}, "local": {"batch_size": 5, "max_steps": 1}}
    return {**values, "runtime": {"kind": "local", "processes": 1, "threads": 1}, "evaluate": {"every": 9}, **changes}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(load_recipe(recipe(tmp_path_factory.mktemp("distillation"))))


class Alone:
    """A server whose clients have answered with constant logits; see `fedfm.protocols.IO`."""

    def __init__(self, experiment: Experiment, answers: Mapping[str, float], copies: Mapping[str, int] = {}) -> None:
        self.public, self.student, self.backbones = experiment.public_texts, experiment.student, {"b": 0}
        self.seed, self.answers, self.copies = 0, answers, copies
        self.asks: Mapping[str, Ask] = {}

    def cohort(self, number: int) -> dict[str, int]:
        return {client: self.copies.get(client, 1) for client in self.answers}

    def learning_rate(self, number: int) -> float:
        return 0.1

    def ask(self, asks: Mapping[str, Ask], *, copies: Mapping[str, int]) -> Any:
        self.asks = asks
        for client in asks:
            logits = torch.tensor([[self.answers[client], 0.0]]).repeat(PROTOCOL["examples"], 1)
            facts = Done(client=client, examples=5)
            contribution = Contribution(client, 5, 1, copies[client], 0)
            yield ClientUpdate(client, {PREDICTIONS: {LOGITS: logits}}, facts, contribution, {})


def test_where_clients_teach_a_client_gets_what_they_said_with_the_texts_of_that_round(experiment: Experiment) -> None:
    protocol = Distillation(**PROTOCOL, digest_from="clients")
    server = Alone(experiment, {"a": 3.0, "b": 1.0})
    state = protocol.step(State(0, experiment.start), server)  # type: ignore[arg-type]
    said_on = server.asks["b"].groups[PUBLIC]
    state = protocol.step(state, empty := Alone(experiment, {}))  # type: ignore[arg-type]
    assert not empty.asks
    protocol.step(state, server)  # type: ignore[arg-type]
    lesson = server.asks["b"].groups[TEACHER]
    assert lesson[LOGITS][0].tolist() == [2.0, 0.0]
    assert unpack({name: lesson[name] for name in ("values", "ends")}) == unpack(said_on)
    assert unpack(server.asks["b"].groups[PUBLIC]) != unpack(said_on)  # texts of each round are drawn anew
    assert protocol.public_sent == 2 * PROTOCOL["examples"]


def test_a_teacher_at_the_server_is_mixed_with_the_clients(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[torch.Tensor] = []
    monkeypatch.setattr(Learner, "learn", lambda self, examples, teacher, settings, **key: taught.append(teacher) or 0)
    server = Alone(experiment, {"a": 4.0})
    server.server_model = experiment.student
    protocol = Distillation(**PROTOCOL, teacher={"path": "somewhere", "share": 0.25})
    experiment.tunable.write(experiment.start)
    protocol.step(State(0, experiment.start), server)  # type: ignore[arg-type]
    texts = unpack(server.asks["a"].groups[PUBLIC])
    says = experiment.student.logits(experiment.student.encode(texts))
    expected = 0.75 * torch.tensor([4.0, 0.0]) + 0.25 * says
    torch.testing.assert_close(taught[0], expected)


def test_a_teacher_without_a_trained_head_or_with_other_classes_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def refused(path: str) -> str:
        protocol = {**PROTOCOL, "teacher": {"path": path}}
        with pytest.raises(RecipeError) as caught:
            build_experiment(load_recipe(recipe(tmp_path, protocol=protocol)))
        (problem,) = caught.value.problems
        assert problem.where == "protocol.teacher.path"
        return problem.message

    assert "no trained head for the 2 classes" in refused("builtin:tiny-bert")
    assert "did you mean" in refused("builtin:tiny-brt")
    own = BertForSequenceClassification(AutoConfig.from_pretrained(minted(tmp_path), id2label={0: "yes", 1: "no"}))
    own.save_pretrained(tmp_path / "tiny-bert")
    assert "predicts the classes yes, no, but those of data.label are 0, 1" in refused(str(tmp_path / "tiny-bert"))


def minted(folder: Path) -> Path:
    """A tiny checkpoint with its tokenizer."""
    write_random_model("tiny-bert", folder / "tiny-bert")
    return folder / "tiny-bert"


def test_squares_of_probabilities_are_refused(tmp_path: Path) -> None:
    protocol = {**PROTOCOL, "loss": "mse", "combine": {"kind": "sharpened"}}
    with pytest.raises(RecipeError, match="`mse` compares logits"):
        load_recipe(recipe(tmp_path, protocol=protocol))


def test_the_squared_error_pulls_logits_to_the_teacher_s(experiment: Experiment) -> None:
    student = experiment.student
    experiment.tunable.write(experiment.start)
    examples = student.encode(experiment.public_texts.take(np.arange(8)))
    teacher = torch.tensor([[1.0, -1.0]]).repeat(8, 1)
    first = student.learn(examples, teacher, Distilling(1, 8, 1e-9, 1.0, "mse"), round=1)
    experiment.tunable.write(experiment.start)
    assert first == pytest.approx(((student.logits(examples) - teacher) ** 2).mean().item(), rel=1e-4)
    student.learn(examples, teacher, Distilling(60, 4, 0.02, 1.0, "mse"), round=1)
    assert ((student.logits(examples) - teacher) ** 2).mean() < 0.1 * first


def test_the_loss_is_torch_s_divergence() -> None:
    student, teacher = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(15.0).view(5, 3).sin(),
    )
    for temperature in (1.0, 3.0):
        log, probabilities = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
        expected = temperature**2 * torch.nn.functional.kl_div(log, probabilities, reduction="batchmean")
        torch.testing.assert_close(distillation_loss(student, teacher, temperature), expected)
    assert distillation_loss(teacher, teacher, 2.0).item() == pytest.approx(0.0, abs=1e-7)


def test_the_server_learns_from_the_mean_of_the_logits(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[torch.Tensor] = []

    def learn(self: Learner, examples: Any, teacher: torch.Tensor, settings: Distilling, **key: Any) -> float:
        taught.append(teacher)
        return 0.5

    monkeypatch.setattr(Learner, "learn", learn)
    server = Alone(experiment, {"a": 4.0, "b": 1.0, "c": -2.0}, copies={"c": 2})
    state = Distillation(**PROTOCOL).step(State(0, experiment.start), server)  # type: ignore[arg-type]
    assert taught[0][0].tolist() == pytest.approx([(4.0 + 1.0 - 2 * 2.0) / 4, 0.0])  # `c` was drawn twice
    assert (state.round, Distillation(**PROTOCOL).figures(state)) == (1, {"distillation_loss": 0.5})


def test_a_client_with_another_backbone_gets_texts_and_from_round_2_on_a_teacher(experiment: Experiment) -> None:
    server, protocol = Alone(experiment, {"a": 1.0, "b": 1.0}), Distillation(**PROTOCOL)
    state = protocol.step(State(0, experiment.start), server)  # type: ignore[arg-type]
    assert server.asks["a"].params.keys() == experiment.start.keys()
    assert (dict(server.asks["b"].params), set(server.asks["b"].groups)) == ({}, {PUBLIC})
    protocol.step(state, server)  # type: ignore[arg-type]
    assert set(server.asks["a"].groups) == {PUBLIC}
    assert set(server.asks["b"].groups) == {PUBLIC, TEACHER}
    experiment.tunable.write(state.params)
    texts = unpack(server.asks["b"].groups[PUBLIC])
    present = experiment.student.logits(experiment.student.encode(texts))
    torch.testing.assert_close(server.asks["b"].groups[TEACHER][LOGITS], present, rtol=0, atol=0)


def test_an_empty_cohort_changes_nothing(experiment: Experiment) -> None:
    before = State(3, experiment.start, facts={"distillation_loss": 0.1})
    after = Distillation(**PROTOCOL).step(before, Alone(experiment, {}))  # type: ignore[arg-type]
    assert (after.round, digest(after.params), after.facts) == (4, digest(before.params), before.facts)


def test_a_student_fits_its_teacher_and_the_same_key_gives_the_same_bits(experiment: Experiment) -> None:
    student, settings = experiment.student, Distilling(60, 4, 0.02, 1.0)
    examples = student.encode(experiment.public_texts.take(np.arange(8)))
    teacher = torch.tensor([[2.0, -2.0]]).repeat(8, 1)
    outcomes = []
    for _ in range(2):
        experiment.tunable.write(experiment.start)
        first = distillation_loss(student.logits(examples), teacher, 1.0)
        student.learn(examples, teacher, settings, round=1)
        assert distillation_loss(student.logits(examples), teacher, 1.0) < 0.02 * first
        outcomes.append(digest(experiment.tunable.read()))
    assert outcomes[0] == outcomes[1]


def test_a_learning_rate_that_is_too_large_is_named(experiment: Experiment) -> None:
    protocol = Distillation(**{**PROTOCOL, "learning_rate": 1e30})
    with pytest.raises(RecipeError, match=r"protocol.learning_rate: the loss of distillation is not finite at step 2"):
        protocol.step(State(0, experiment.start), Alone(experiment, {"a": 9.0}))  # type: ignore[arg-type]


def told(experiment: Experiment, client: str, groups: Mapping[str, Any], **facts: Any) -> Any:
    """What a client replies to a message of work ``predict``."""
    message = Payload(1, "b" * 64, Asked(learning_rate=0.01, **facts), groups, work="predict").encode()
    assert experiment.worker is not None
    ((reply),) = experiment.worker.answer([Request(client, message)])
    return reply


def test_what_no_client_can_read_is_that_client_s_failure(experiment: Experiment) -> None:
    alike = next(client for client in experiment.data.clients if client not in experiment.backbones)
    texts, start = pack([["good", "bad"]]), {"tunable": experiment.start}
    for groups, reason in (
        (start, "`values` and `ends`"),
        ({**start, PUBLIC: {**texts, "ends": texts["ends"] + 1}}, "do not end where"),
        ({**start, PUBLIC: {**texts, "values": texts["values"] + 120}}, "not UTF-8"),
        ({**start, PUBLIC: texts, TEACHER: {LOGITS: torch.zeros(2, 2)}}, "for clients with a backbone of their own"),
    ):
        assert reason in told(experiment, alike, groups).content.reason
    other = next(iter(experiment.backbones))
    assert (
        "logits of each of the 2"
        in told(experiment, other, {PUBLIC: texts, TEACHER: {LOGITS: torch.zeros(1, 2)}}).content.reason
    )


def test_a_lesson_may_have_texts_of_its_own(experiment: Experiment) -> None:
    other, texts, lesson = next(iter(experiment.backbones)), pack([["good", "bad"]]), pack([["great", "awful", "fine"]])
    without, fitting, short = (
        told(experiment, other, {PUBLIC: texts, **({} if logits is None else {TEACHER: {LOGITS: logits, **lesson}})})
        for logits in (None, torch.tensor([[9.0, -9.0]]).repeat(3, 1), torch.zeros(2, 2))
    )
    assert "logits of each of the 3 examples" in short.content.reason
    before, after = (decode_update(reply.content).groups[PREDICTIONS][LOGITS] for reply in (without, fitting))
    assert before.shape == after.shape == (2, 2)
    assert not torch.equal(before, after)  # it has learnt from the lesson before its own data


def test_a_client_with_another_backbone_sends_logits_and_keeps_its_tunable(experiment: Experiment) -> None:
    texts = pack([["good thing", "bad thing", "great"]])
    reply = told(experiment, next(iter(experiment.backbones)), {PUBLIC: texts})
    update = decode_update(reply.content)
    assert {
        group: {name: tuple(t.shape) for name, t in tensors.items()} for group, tensors in update.groups.items()
    } == {PREDICTIONS: {LOGITS: (3, 2)}}
    assert update.facts.steps == 1
    assert reply.state is not None


def test_texts_travel_unchanged() -> None:
    pairs = [["", "Größe", "日本"], ["a", "", "b\0c"]]
    assert unpack(pack(pairs)) == pairs


def test_three_architectures_in_one_run_send_predictions_and_no_weights(tmp_path: Path) -> None:
    names = ("tiny-bert", "tiny-gpt2", "tiny-distilbert")
    models = [{"path": f"builtin:{name}", "clients": 1, "tune": {"kind": "head"}} for name in names]
    models[0]["tune"] = {"kind": "lora", "r": 1}
    federation = {"clients": 3, "rounds": 3, "models": models}
    protocol = {**PROTOCOL, "digest_from": "clients", "combine": {"kind": "sharpened"}, "weights": "variance"}
    evaluate = {"every": 9, "baselines": ["local"]}
    whole = run(recipe(tmp_path, federation=federation, protocol=protocol, evaluate=evaluate))
    lines = list(jsonl.records(whole.folder.wire))
    crossed = {
        direction: {tensor["name"] for line in lines if line["direction"] == direction for tensor in line["tensors"]}
        for direction in ("up", "down")
    }
    assert crossed["up"] == {"predictions/logits"}  # of all rounds and clients, and nothing else
    assert crossed["down"] == {f"public/{n}" for n in ("values", "ends")} | {
        f"teacher/{n}" for n in ("logits", "values", "ends")
    }
    assert {line["direction"] for line in lines} == {"up", "down"}
    assert whole.summary["protocol"]["distillation_loss"] > 0
    assert irregular(whole.events) == []
    found = whole.summary["models"]
    assert [(of["model"], of["clients"], of["measured"]) for of in found] == [(f"builtin:{n}", 1, 1) for n in names]
    for of in found:
        assert of["final"]["loss"] != of["alone"]["loss"]  # the digest has changed what the client holds
    rows = [row for row in jsonl.records(whole.folder.metrics) if row["split"] in ("own model", "alone")]
    assert len(rows) == 6
    kept = sorted(path.parent.name for path in whole.folder.client_models.glob("*/*/config.json"))
    adapters = list(whole.folder.client_models.glob("*/adapter/adapter_config.json"))
    assert (len(kept), len(adapters)) == (2, 1)  # heads as whole models, LoRA as an adapter
    report = (whole.folder.path / "report.html").read_text()
    assert "in the federation" in report
    assert "builtin:tiny-distilbert" in report


@pytest.mark.parametrize(
    ("models", "where", "reason"),
    [
        ([{"path": "builtin:tiny-gpt3", "clients": 1}], "federation.models[0].path", "did you mean"),
        ([{"path": "builtin:tiny-gpt2", "clients": 9}], "federation.models", "only 4 are left"),
        ([{"path": "builtin:tiny-gpt2", "clients": "x-*"}], "federation.models[0].clients", "none of the 4 clients"),
        (
            [{"path": "builtin:tiny-gpt2", "clients": 1, "tune": {"kind": "lora", "target_modules": ["nothing"]}}],
            "federation.models[0].tune.target_modules",
            "nothing",
        ),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_before_round_1(
    tmp_path: Path, models: list[dict[str, Any]], where: str, reason: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        build_experiment(load_recipe(recipe(tmp_path, federation={**TWO_BACKBONES, "models": models})))
    (problem,) = caught.value.problems
    assert (problem.where, reason in problem.message) == (where, True)


def test_the_plan_counts_texts_and_logits(experiment: Experiment) -> None:
    planned, tunable = describe(experiment)["bytes"], stored_bytes(experiment.start)
    assert planned["per_client_up"] < 8 * 2 * 4 + 600  # logits and their header
    texts = sum(len(text.encode()) for text in experiment.public_texts.take(np.arange(32))[0]) / 32
    assert 8 * texts < planned["per_client_down"] - tunable < 8 * (texts + 8) + 700


def test_too_few_public_examples(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"protocol.examples: a round needs 900 public examples, but `public` has only"
    ):
        build_experiment(load_recipe(recipe(tmp_path, protocol={**PROTOCOL, "examples": 900})))


def test_one_other_backbone_is_in_memory_at_a_time(tmp_path: Path) -> None:
    models = [{"path": "builtin:tiny-gpt2", "clients": 1}, {"path": "builtin:tiny-distilbert", "clients": 1}]
    workers = build_experiment(load_recipe(recipe(tmp_path, federation={**TWO_BACKBONES, "models": models}))).worker
    assert list(workers._kept) == [1]  # type: ignore[union-attr]
