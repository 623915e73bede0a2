"""The network of clients: rates with units, and the time that messages take."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedfm.runtimes.link import Link, bits_a_second


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("10Mbit", 1e7),
        ("50 Mbit/s", 5e7),
        ("1.25MB", 1e7),
        ("300 kbit", 3e5),
        ("1Gbps", None),
        ("2Gbitps", 2e9),
        (8, 8.0),
    ],
)
def test_rates_have_units(text: Any, bits: float | None) -> None:
    if bits is None:
        with pytest.raises(ValidationError, match="must be a rate such as `10Mbit`"):
            Link(up=text, down=1.0)
        return
    link = Link(up=text, down=1.0)
    assert bits_a_second(link.up) == bits
    assert Link.model_validate(link.model_dump()) == link, "a resolved recipe is read again"


@pytest.mark.parametrize("bad", ["10", "Mbit", "10mbit", "-1Mbit", 0, float("inf")])
def test_what_is_no_rate_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        Link(up=bad, down=1.0)


def test_seconds_by_hand_and_the_first_pattern_counts() -> None:
    phone = {"up": "1Mbit", "down": "2Mbit", "latency": 0.1}
    link = Link.model_validate({"up": "8Mbit", "down": "80Mbit", "clients": {"phone-*": phone, "*": phone}})
    assert link.of("phone-1").seconds(down=1_000_000, up=500_000, messages=2) == pytest.approx(4 + 4 + 0.2)
    alone = Link.model_validate({"up": "8Mbit", "down": "80Mbit", "clients": {"phone-*": phone}})
    assert alone.of("server").seconds(down=1_000_000, up=500_000, messages=2) == pytest.approx(0.1 + 0.5)
