"""The contract between wire and training: views, extras, stages and state together, for one client over two rounds."""

from __future__ import annotations

import pytest
import torch

from fedfm.aggregation import FfaLora, RoLora, Rule
from fedfm.algorithms import FedAvg, Lwf, Scaffold
from fedfm.algorithms.base import Algorithm
from fedfm.clients import Contract, LocalResult
from fedfm.clients.state import State
from fedfm.params import Params, add, zeros_like
from fedfm.spec import problem, spec_of
from fedfm.updates import Asked, Instruction, MessageError, MessageKey, Payload, UpdatePath
from fedfm.updates.stages import Quantize, TopK
from fedfm.views import Ranks, Schedule, Share, Views, narrow
from fedfm.wire import TUNABLE

A, B, HEAD = "q.lora_A.weight", "q.lora_B.weight", "classifier.bias"
START: Params = {A: torch.arange(1.0, 13.0).view(4, 3), B: torch.ones(2, 4), HEAD: torch.tensor([5.0, 6.0])}
RESULT = LocalResult(2, 4, 4, 0.5)


def contract(rule: Algorithm, *, up: UpdatePath | None = None, down: UpdatePath | None = None) -> Contract:
    """Rank 2 of 4, and a personal head."""
    return Contract(
        spec=spec_of(START),
        rule=rule,
        views=Views((Share(("not head",)), Ranks((2,)))),
        up=up or UpdatePath(),
        down=down or UpdatePath(),
        start=START,
    )


def sent_to(agreed: Contract, client: str, number: int, **groups: Params) -> Instruction:
    gets = agreed.views.gets(agreed.spec, client, number)
    parts = {group: narrow(params, gets) for group, params in groups.items()}
    return Payload(number, "x", Asked(learning_rate=0.5), parts)


def test_a_client_starts_from_what_it_gets_its_own_and_zeros() -> None:
    agreed = contract(FedAvg())
    received = agreed.receive("a", sent_to(agreed, "a", 1, tunable=START), {})
    assert received.at.received[A].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0] * 3, [0.0] * 3]
    assert received.at.received[B].tolist() == [[1.0, 1.0, 0.0, 0.0]] * 2
    assert received.at.received[HEAD].tolist() == [5.0, 6.0]
    assert received.at.personal == {HEAD}
    assert received.trains is not None
    assert received.trains[A].tolist() == [[True] * 3, [True] * 3, [False] * 3, [False] * 3]
    assert received.trains.keys() == {A, B}, "a mask only where a part of a tensor is held"


def test_two_rounds_of_scaffold_with_top_k() -> None:
    agreed = contract(Scaffold(), up=UpdatePath((TopK(share=0.5),)))
    state: State = {}
    for number in (1, 2):
        message = sent_to(agreed, "a", number, tunable=START, control=zeros_like(START))
        received = agreed.receive("a", message, state)
        change = {name: torch.full(tensor.shape, -1.0) for name, tensor in START.items()}
        masks = received.trains or {}
        trained = add(received.at.received, {name: change[name] * masks.get(name, 1) for name in START})
        groups, state = agreed.finish("a", number, received, trained, RESULT, state)
        expected = agreed.returns("a", number)
        assert groups.keys() == expected.keys() == {TUNABLE, "control"}
        for group, spec in expected.items():
            assert problem(groups[group], spec) is None
        assert set(groups["control"]) == {A, B}
        # Δ = −1 over K·η = 2·0.5: c_i grows by 1 each round, where the client holds something
        assert state["algorithm/control"][A].tolist() == [[number] * 3, [number] * 3, [0.0] * 3, [0.0] * 3]
        assert groups["control"][B].tolist() == [[1.0, 1.0]] * 2
        assert state["view/tunable"][HEAD].tolist() == [5.0 - number, 6.0 - number]
        arrived = agreed.up.decode(groups, agreed.before_path("a", number), MessageKey(agreed.seed, number, "a"))[
            TUNABLE
        ]
        residual = state["stage-0/tunable"]
        assert not residual[A][2:].any()
        assert not residual[B][:, 2:].any()
    # 10 values of −1 in two rounds; 5 are sent in each: first the lower indices of A, then those that were left
    assert arrived[A].tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, -2.0]]
    assert arrived[B].tolist() == [[-2.0, -2.0], [-2.0, -2.0]]


def test_what_arrives_is_decoded_on_the_way_down_too() -> None:
    agreed = contract(FedAvg(), down=UpdatePath((Quantize(block=8),)))
    plain = sent_to(agreed, "a", 1, tunable=START)
    groups, _ = agreed.down.encode(plain.groups, {}, MessageKey(0, 1))
    received = agreed.receive("a", Payload(1, "x", plain.facts, groups), {})
    assert (received.at.received[A][:2] - START[A][:2]).abs().max() <= 6.1 / 127
    assert received.at.received[HEAD].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("groups", [{}, {"tunable": START}, {"control": START}])
def test_a_message_without_what_the_recipe_says_is_refused(groups: dict[str, Params]) -> None:
    agreed = contract(Scaffold())
    with pytest.raises(MessageError, match=r"group `(tunable|control)` of the instruction"):
        agreed.receive("a", sent_to(agreed, "a", 1, **groups), {})


def test_more_than_the_client_holds_is_refused() -> None:
    with pytest.raises(MessageError, match=r"not asked for, first `classifier\.bias`"):
        contract(FedAvg()).receive("a", Payload(1, "x", Asked(learning_rate=0.5), {TUNABLE: START}), {})


@pytest.mark.parametrize("what", ["personal", "control"])
def test_a_state_that_is_not_finite_is_not_kept(what: str) -> None:
    agreed = contract(FedAvg() if what == "personal" else Scaffold())
    message = sent_to(agreed, "a", 1, tunable=START, **({} if what == "personal" else {"control": zeros_like(START)}))
    received = agreed.receive("a", message, {})
    trained = {name: tensor.clone() for name, tensor in received.at.received.items()}
    trained[HEAD][0] = torch.inf  # only what the client keeps: its update is finite
    with pytest.raises(FloatingPointError, match=r"`classifier\.bias` of what it keeps"):
        agreed.finish("a", 1, received, trained, RESULT, {})


def scheduled(rule: Rule, algorithm: Algorithm | None = None, up: UpdatePath | None = None) -> Contract:
    return Contract(spec_of(START), algorithm or FedAvg(), Views((Schedule(rule),)), up=up or UpdatePath(), start=START)


def test_a_fixed_factor_is_not_sent_and_a_client_has_it_as_initialised() -> None:
    agreed = scheduled(FfaLora())
    moved = {name: tensor + 1 for name, tensor in START.items()}
    message = sent_to(agreed, "a", 3, tunable=moved)
    assert message.groups[TUNABLE].keys() == {B, HEAD}
    received = agreed.receive("a", message, {})
    assert torch.equal(received.at.received[A], START[A])
    assert torch.equal(received.at.received[B], START[B] + 1)
    assert received.trains is not None
    assert received.trains.keys() == {A}
    assert not received.trains[A].any()
    at_client = agreed.at_client("a", 3, moved, {})
    assert all(torch.equal(at_client[name], tensor) for name, tensor in received.at.received.items())
    sent, _ = agreed.finish("a", 3, received, received.at.received, RESULT, {})
    assert sent[TUNABLE].keys() == {B, HEAD}


def test_a_teacher_has_the_fixed_factor_too_once_there_is_one() -> None:
    agreed = scheduled(FfaLora(), Lwf())
    for teacher, factor in ((zeros_like(START), torch.zeros_like(START[A])), (START, START[A])):
        received = agreed.receive("a", sent_to(agreed, "a", 1, tunable=START, teacher=teacher), {})
        assert torch.equal(received.at.sent["teacher"][A], factor)
        assert torch.equal(received.at.sent["teacher"][B], teacher[B])


def test_d17_the_second_client_starts_from_the_servers_factors_not_from_the_first_clients() -> None:
    agreed = scheduled(RoLora())
    for number, trained in ((1, B), (2, A)):
        message = sent_to(agreed, "a", number, tunable=START)
        first = agreed.receive("a", message, {})
        after = {**first.at.received, trained: first.at.received[trained] + 1}
        sent, _ = agreed.finish("a", number, first, after, RESULT, {})
        assert sent[TUNABLE].keys() == {trained, HEAD}
        second = agreed.receive("b", message, {})
        assert all(torch.equal(second.at.received[name], tensor) for name, tensor in START.items())


def test_a_site_announces_the_tensors_of_all_rounds() -> None:
    assert scheduled(RoLora()).announced("a")[TUNABLE].keys() == {A, B, HEAD}
    assert scheduled(FfaLora()).announced("a")[TUNABLE].keys() == {B, HEAD}
    flat = scheduled(RoLora(), up=UpdatePath((TopK(share=0.5),)))
    expected = {name for number in (1, 2) for name in flat.returns("a", number)[TUNABLE]}
    assert flat.announced("a")[TUNABLE].keys() == expected


def test_what_a_client_keeps_does_not_change_where_it_does_not_train() -> None:
    agreed = scheduled(RoLora(), Scaffold())
    control = {name: torch.full_like(tensor, 2.0) for name, tensor in START.items()}
    state: State = {"algorithm/control": {name: torch.full_like(tensor, 7.0) for name, tensor in START.items()}}
    received = agreed.receive("a", sent_to(agreed, "a", 1, tunable=START, control=control), state)
    sent, kept = agreed.finish("a", 1, received, received.at.received, RESULT, state)
    assert sent["control"].keys() == {B, HEAD}
    assert kept["algorithm/control"][A].unique().tolist() == [7.0], "its gradient is not known"
    assert kept["algorithm/control"][B].unique().tolist() == [5.0]  # c_i − c, since the client did not move
