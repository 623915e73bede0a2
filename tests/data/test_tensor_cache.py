"""Tensors are built once, come back bit for bit, and are built again when their entry is damaged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fedfm.data.tensor_cache import CachedTensors, cached_tensors, has_tensors, tensor_key

BUILT = {"b": torch.tensor([-0.0, torch.nan, 1e-42]), "a": torch.arange(6).reshape(2, 3), "c": torch.tensor(1.5)}
FACTS = {"loss": 0.1 + 0.2, "steps": 3, "names": ["x"]}


class Builder:
    """Counts how often it builds."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self) -> CachedTensors:
        self.builds += 1
        return CachedTensors(BUILT, FACTS)


def same(found: CachedTensors) -> bool:
    """Whether all bits are those that were built."""
    bits = {name: tensor.view(-1).view(torch.uint8).tolist() for name, tensor in found.tensors.items()}
    return dict(found.facts) == FACTS and bits == {
        name: tensor.view(-1).view(torch.uint8).tolist() for name, tensor in BUILT.items()
    }


def test_tensors_and_facts_are_built_once_and_come_back_bit_for_bit(own_cache: Path) -> None:
    builder = Builder()
    assert not has_tensors("k")
    assert same(cached_tensors("k", builder))
    assert same(cached_tensors("k", builder))
    assert has_tensors("k")
    assert not has_tensors("l")
    assert builder.builds == 1
    assert [(path.name, path.stat().st_mode & 0o777) for path in own_cache.iterdir()] == [("k.tensors", 0o600)]
    assert own_cache.stat().st_mode & 0o777 == 0o700


def test_a_damaged_entry_is_built_again(own_cache: Path) -> None:
    builder = Builder()
    cached_tensors("k", builder)
    entry = own_cache / "k.tensors"
    content = entry.read_bytes()
    middle = len(content) // 2
    damages = [b"", content[:middle], content[:-1], content[:middle] + b"?" + content[middle + 1 :], b"other" * 20]
    for number, damage in enumerate(damages, start=2):
        entry.write_bytes(damage)
        assert not has_tensors("k")
        assert same(cached_tensors("k", builder))
        assert builder.builds == number
        assert entry.read_bytes() == content


def test_what_fails_while_it_is_built_leaves_nothing(own_cache: Path) -> None:
    def fail() -> CachedTensors:
        raise KeyError("diverged")

    with pytest.raises(KeyError, match="diverged"):
        cached_tensors("k", fail)
    assert list(own_cache.iterdir()) == []


def test_several_may_build_the_same_entry_at_once(own_cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert all(same(found) for found in pool.map(lambda _: cached_tensors("k", Builder()), range(8)))
    assert [path.name for path in own_cache.iterdir()] == ["k.tensors"]


def test_a_key_depends_on_its_parts_and_on_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    key = tensor_key(a=1, b=[2])
    assert key == tensor_key(b=[2], a=1)
    assert key != tensor_key(a=1, b=[3])
    monkeypatch.setattr("fedfm.__version__", "99")
    assert key != tensor_key(a=1, b=[2])
