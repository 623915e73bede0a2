from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.recipe.client_groups import Device, OtherModel, devices_of, models_of

CLIENTS = [f"{number:02d}" for number in range(10)]


def test_devices_are_dealt_in_their_shares() -> None:
    devices = [Device(name="phone", speed=1.0, share=0.25), Device(name="desk", speed=9.0, share=0.75)]
    dealt = devices_of(devices, CLIENTS, seed=0)
    assert set(dealt) == set(CLIENTS)
    assert Counter(device.name for device in dealt.values()) == {"phone": 2, "desk": 8}
    assert devices_of([], CLIENTS, seed=0) == {}


def test_the_seconds_of_a_device_by_hand() -> None:
    device = Device(name="phone", speed=4.0, up=100.0, down=1000.0)
    assert device.seconds(examples=20, down=500, up=50) == 0.5 + 5.0 + 0.5
    assert Device(name="desk", speed=4.0).seconds(examples=20, down=500, up=50) == 5.0


def test_models_go_to_patterns_first_then_to_counts_and_shares() -> None:
    models = [
        OtherModel(path="half", clients=0.5),
        OtherModel(path="named", clients="0[01]"),
        OtherModel(path="one", clients=1),
    ]
    dealt = models_of(models, CLIENTS, seed=0)
    assert Counter(model.path for model in dealt.values()) == {"half": 5, "named": 2, "one": 1}
    assert {dealt["00"].path, dealt["01"].path} == {"named"}
    with pytest.raises(ValueError, match="`all` is for 9 clients, but only 8 are left for it"):
        models_of([models[1], OtherModel(path="all", clients=9)], CLIENTS, seed=0)


@pytest.mark.parametrize(
    ("federation", "where", "message"),
    [
        ({"ranks": []}, "ranks", "at least one rank"),
        ({"ranks": {"a*": 0}}, "ranks", "must be ≥ 1"),
        ({"devices": [{"name": "x", "speed": 0}]}, "devices[0].speed", "must be > 0"),
        ({"devices": [{"name": "x", "sped": 1.0, "speed": 1.0}]}, "devices[0].sped", "did you mean `speed`"),
        ({"devices": [{"name": "x", "speed": 1.0, "share": 0.5}]}, "devices", "they must add up to 1"),
        ({"devices": [{"name": "x", "speed": 1.0, "share": 0.5}] * 2}, "devices", "`x` is given twice"),
        ({"devices": ["x"]}, "devices[0]", "must be a group of keys, such as"),
        ({"devices": {"name": "x"}}, "devices", "must be a list"),
        ({"models": [{"path": "m"}]}, "models[0].clients", "is required: Which clients have it"),
        ({"models": [{"path": "m", "clients": 1.5}]}, "models[0].clients", "must be a count"),
        ({"models": [{"path": "m", "clients": 0.6}] * 2}, "models", "add up to 1.2"),
        (
            {"models": [{"path": "m", "clients": 1, "tune": {"kind": "lorra"}}]},
            "models[0].tune.kind",
            "did you mean `lora`",
        ),
        (
            {"models": [{"path": "m", "clients": 1, "tune": {"kind": "lora", "r": 0}}]},
            "models[0].tune.r",
            "must be ≥ 1",
        ),
        (
            {"models": [{"path": "m", "clients": 1, "tune": {"kind": "head", "r": 1}}]},
            "models[0].tune.r",
            "it belongs to",
        ),
    ],
)
def test_faulty_groups_name_their_place_in_the_list(
    values: dict[str, Any], federation: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(values | {"federation": federation})
    (problem,) = caught.value.problems
    assert problem.where == f"federation.{where}"
    assert message in problem.message
