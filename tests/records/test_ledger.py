"""The wire ledger: the content of a line, and the sums over lines."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from fedfm.errors import DataError
from fedfm.records import jsonl, ledger


def test_a_line_names_every_tensor_with_its_size_and_digest() -> None:
    params = {"b": torch.zeros(2, 3, dtype=torch.float16), "a": torch.tensor([1.0])}
    record = ledger.message_record(3, "up", ["c7"], 160, params)
    a, b = record["tensors"]
    assert {key: record[key] for key in ("round", "direction", "clients", "bytes")} == {
        "round": 3,
        "direction": "up",
        "clients": ["c7"],
        "bytes": 160,
    }
    assert (b["name"], b["dtype"], b["shape"], b["bytes"]) == ("b", "float16", [2, 3], 12)
    # by hand: dtype and shape as JSON, then the little-endian bytes of 1.0
    assert a["digest"] == hashlib.sha256(b'["float32", [1]]' + bytes([0, 0, 0x80, 0x3F])).hexdigest()
    assert jsonl.dumps(record)


def test_a_message_to_many_counts_for_each(tmp_path: Path) -> None:
    path = tmp_path / "wire.jsonl"
    messages = [(1, "down", ["a", "b", "c"], 100), (1, "up", ["a"], 10), (1, "up", ["c"], 20), (2, "down", ["b"], 7)]
    path.write_bytes(b"".join(jsonl.line(ledger.message_record(*message, {})) for message in messages))
    assert ledger.totals(path) == {
        "down": 307,
        "up": 30,
        "peer": 0,
        "by_round": {1: {"down": 300, "up": 30}, 2: {"down": 7, "up": 0}},
    }


def test_no_ledger_adds_up_to_nothing(tmp_path: Path) -> None:
    assert ledger.totals(tmp_path / "wire.jsonl") == {"down": 0, "up": 0, "peer": 0, "by_round": {}}


def test_tensors_that_differ_only_in_their_layer_are_one_group(tmp_path: Path) -> None:
    path = tmp_path / "wire.jsonl"
    params = {f"encoder.layer.{index}.lora_A.weight": torch.zeros(8, 4) for index in (0, 11)} | {"head": torch.zeros(3)}
    messages = [("down", ["a", "b"]), ("up", ["a"]), ("up", ["b"])]
    path.write_bytes(b"".join(jsonl.line(ledger.message_record(1, *message, 300, params)) for message in messages))
    groups = {(group.direction, group.name): group for group in ledger.tensor_groups(path)}
    assert len(groups) == 4
    layers = groups["down", "encoder.layer.*.lora_A.weight"]
    assert (layers.tensors, layers.shape, layers.dtype, layers.sent) == (2, (8, 4), "float32", 2 * 2 * 8 * 4 * 4)
    assert groups["up", "head"].sent == 2 * 3 * 4


def test_a_message_between_clients_counts_once_a_receiver_as_bytes_that_left_a_client(tmp_path: Path) -> None:
    path = tmp_path / "wire.jsonl"
    params = {"w": torch.zeros(2)}
    messages = [("peer", ["a", "b"]), ("peer", ["b", "a", "c"]), ("up", ["a"])]
    path.write_bytes(b"".join(jsonl.line(ledger.message_record(1, *message, 100, params)) for message in messages))
    expected = {"down": 0, "up": 100 + 200 + 100, "peer": 300, "by_round": {1: {"down": 0, "up": 400}}}
    assert ledger.totals(path) == expected
    assert {group.direction: group.sent for group in ledger.tensor_groups(path)} == {"peer": 3 * 8, "up": 8}


def test_a_message_between_clients_without_a_receiver_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "wire.jsonl"
    path.write_bytes(jsonl.line(ledger.message_record(1, "peer", ["a"], 100, {})))
    with pytest.raises(DataError, match=r"wire\.jsonl:1: .*at least one receiver"):
        ledger.totals(path)


def test_an_encoded_tensor_stands_for_the_named_tensors_of_its_group(tmp_path: Path) -> None:
    path = tmp_path / "wire.jsonl"
    named = ["bert.0.lora_A", "bert.1.lora_A", "head", "control/bert.0.lora_A"]
    params = {"values": torch.zeros(9, dtype=torch.int8), "head": torch.zeros(3), "control/values": torch.zeros(4)}
    record = ledger.message_record(1, "up", ["a"], 100, params, names=named)
    assert record["names"] == named
    assert "names" not in ledger.message_record(1, "up", ["a"], 100, params)
    path.write_bytes(jsonl.line(record))
    found = {group.name: group.stands_for for group in ledger.tensor_groups(path)}
    assert found == {"values": ("bert.*.lora_A",), "head": (), "control/values": ("control/bert.*.lora_A",)}
