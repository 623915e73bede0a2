"""P1, P4, P6, T20, T21 of client-level privacy: what one client can change, and what noise is added."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.privacy.clipped_sum import CLIP, Adaptation, Bound, ClippedSum
from fedfm.privacy.ledger import Charge
from fedfm.privacy.noise import SystemNoise, drawn
from fedfm.spec import Spec, TensorSpec

SPEC: Spec = {"a": TensorSpec((3, 2)), "b": TensorSpec((5,))}
GROUPS = {"tunable": SPEC, "control": SPEC}
EXPECTED = 4.0


class NoNoise:
    def __call__(self, shape: Iterable[int]) -> Tensor:
        return torch.zeros(tuple(shape), dtype=torch.float64)

    def state(self) -> Params:
        return {}


def update(seed: int, size: float = 1.0) -> dict[str, Params]:
    rng = np.random.default_rng(seed)
    return {
        group: {name: torch.from_numpy(size * rng.normal(size=t.shape)).float() for name, t in spec.items()}
        for group, spec in GROUPS.items()
    }


def summed(
    updates: Iterable[dict[str, Params]], clip: float = 0.7, z: float = 0.0, **more: object
) -> dict[str, Params]:
    """The mean of a round without noise, unless z is given."""
    return release(updates, Bound(clip, z, z), **more)[0]


def release(
    updates: Iterable[dict[str, Params]], bound: Bound, charged: list[Charge] | None = None, noise: object = None
) -> tuple[dict[str, Params], Params]:
    charges = [] if charged is None else charged
    made = NoNoise if noise is None else noise
    of_round = ClippedSum(GROUPS, bound, expected=EXPECTED, round=3, charged=charges.append, noise=made)  # type: ignore[arg-type]
    for one in updates:
        of_round.add(one)
    return of_round.result()


def flat(groups: dict[str, Params]) -> Tensor:
    return torch.cat([tensor.double().flatten() for params in groups.values() for tensor in params.values()])


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 1e6, 1e30])
def test_p1_one_client_moves_the_mean_by_its_bound_at_most(size: float) -> None:
    clip, cohort = 0.7, [update(seed, size) for seed in range(5)]
    whole = flat(summed(cohort, clip))
    for left_out in range(5):
        others = [one for place, one in enumerate(cohort) if place != left_out]
        moved = (whole - flat(summed(others, clip))).norm().item()
        assert moved <= clip / EXPECTED * (1 + 1e-6)
        length = min(clip, flat(cohort[left_out]).norm().item())  # over all groups together
        assert moved == pytest.approx(length / EXPECTED, rel=1e-4)


def test_t20_the_denominator_is_fixed_whoever_answers() -> None:
    small = update(1, 1e-3)
    for copies in (1, 3, 9):
        assert torch.allclose(flat(summed([small] * copies)), flat(small) * copies / EXPECTED)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_p6_an_update_that_is_not_finite_counts_as_zero(bad: float) -> None:
    broken = update(2)
    broken["control"]["a"][0, 0] = bad
    assert torch.equal(flat(summed([update(1), broken])), flat(summed([update(1)])))


def test_p6_a_zero_update_stays_zero() -> None:
    assert flat(summed([update(1, 0.0)])).abs().max() == 0


def test_t21_a_round_without_clients_releases_noise_and_is_charged() -> None:
    charges: list[Charge] = []
    found, _ = release([], Bound(0.5, 2.0, 2.0), charges, SystemNoise)
    assert (flat(found) != 0).all()
    assert charges == [Charge(3, 2.0, 0.5)]


def test_t22_nothing_is_drawn_before_the_charge_is_written() -> None:
    def refuse(charge: Charge) -> None:
        raise OSError("disk full")

    def unreachable() -> SystemNoise:
        raise AssertionError("noise was drawn")

    of_round = ClippedSum(GROUPS, Bound(1, 1, 1), expected=1, round=1, charged=refuse, noise=unreachable)
    with pytest.raises(OSError, match="disk full"):
        of_round.result()


def test_p4_noise_has_the_deviation_and_the_shape_of_a_gaussian() -> None:
    spec = {"tunable": {"w": TensorSpec((200_000,))}}
    z, clip = 1.3, 0.25
    drawn_twice = []
    for _ in range(2):
        of_round = ClippedSum(spec, Bound(clip, z, z), expected=8.0, round=1, charged=lambda _: None)
        drawn_twice.append(of_round.result()[0]["tunable"]["w"].double())
    for noise in drawn_twice:
        unit = noise / (z * clip / 8)
        assert unit.mean().item() == pytest.approx(0, abs=5 / math.sqrt(2e5))
        assert unit.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * 2e5))
        assert (unit**4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / 2e5))
        assert (unit[1:] * unit[:-1]).mean().item() == pytest.approx(0, abs=5 / math.sqrt(2e5))
    assert torch.corrcoef(torch.stack(drawn_twice))[0, 1].item() == pytest.approx(0, abs=5 / math.sqrt(2e5))


def test_noise_is_not_that_of_a_seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    first = SystemNoise()((4,))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert not torch.equal(first, SystemNoise()((4,)))


def test_one_number_can_have_noise() -> None:
    assert SystemNoise()(()).shape == ()
    assert SystemNoise()(()).dtype == torch.float64


def test_a_poisson_sample_has_its_rate_and_keeps_the_order() -> None:
    names = [f"{number:05}" for number in range(20_000)]
    chosen = drawn(names, 0.3)
    assert len(chosen) == pytest.approx(6000, abs=5 * math.sqrt(20_000 * 0.21))
    assert chosen == sorted(chosen)
    assert chosen != drawn(names, 0.3)


@pytest.mark.parametrize(
    ("sizes", "share"), [((0.1, 0.1, 0.1, 0.1), 1.0), ((9, 9, 9, 9), 0.0), ((0.1, 9, 0.1, 9), 0.5)]
)
def test_an_adaptive_bound_follows_the_share_below_it(sizes: tuple[float, ...], share: float) -> None:
    """C ← C·exp(−η·(b̃ − γ)), arXiv:1905.03871, section 2.2, with updates of known norms and no noise."""
    unit = update(0)
    scale = flat(unit).norm().item()
    cohort = [{g: {n: t * size / scale for n, t in p.items()} for g, p in unit.items()} for size in sizes]
    _, state = release(cohort, Bound(1.0, 1.0, 1.005, Adaptation(count_noise=5, quantile=0.7, rate=0.2)))
    assert state[CLIP].item() == pytest.approx(math.exp(-0.2 * (share - 0.7)))


def test_one_client_changes_the_count_by_a_half() -> None:
    def share(cohort: list[dict[str, Params]]) -> float:
        _, state = release(cohort, Bound(1.0, 1.0, 1.005, Adaptation(5, 0.5, 1.0)))
        return -math.log(state[CLIP].item())

    for size in (1e-6, 1e6):
        assert abs(share([update(0), update(1, size)]) - share([update(0)])) == pytest.approx(0.5 / EXPECTED)
