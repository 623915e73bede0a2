"""JSON without NaN, and files of one record a line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm.errors import DataError, StorageError
from fedfm.records import jsonl


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_is_written_is_strict_json(value: object) -> None:
    json.loads(jsonl.dumps(value), parse_constant=reject)


def test_nan_and_infinities_become_null() -> None:
    assert (
        jsonl.dumps({"loss": math.nan, "deep": [math.inf, (-math.inf, 1.5)]})
        == '{"loss": null, "deep": [null, [null, 1.5]]}'
    )


def test_numpy_scalars_become_numbers_and_truth_values_stay() -> None:
    values = {"a": np.int64(3), "b": np.float32(0.5), "c": np.float64("nan"), "d": True}
    assert jsonl.dumps(values) == '{"a": 3, "b": 0.5, "c": null, "d": true}'


def test_what_is_not_json_is_an_error() -> None:
    with pytest.raises(TypeError):
        jsonl.dumps({"path": Path("x")})


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text())))
def test_records_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "r.jsonl"
    path.write_bytes(b"".join(map(jsonl.line, records)))
    assert list(jsonl.records(path)) == records


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    text = "a\nb\u2028c\ud800"  # a newline, a Unicode line separator, half a character
    encoded = jsonl.line({"text": text})
    assert encoded.count(b"\n") == 1
    assert json.loads(encoded)["text"] == text


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert list(jsonl.records(tmp_path / "absent.jsonl")) == []


def test_the_line_that_a_killed_process_was_writing_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"round": 1}\n{"rou')
    assert list(jsonl.records(path)) == [{"round": 1}]


@pytest.mark.parametrize(("line", "reason"), [('{"round": ', "not JSON"), ("[1]", "found list"), ("", "not JSON")])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"round": 1}}\n{line}\n{{"round": 3}}\n')
    with pytest.raises(DataError, match=f"r.jsonl:2: .*{reason}"):
        list(jsonl.records(path))


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        list(jsonl.records(tmp_path))


def test_a_json_file_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with pytest.raises(StorageError, match=r"cannot read .*summary\.json: No such file"):
        jsonl.read(path)
    path.write_text('{"rounds": 3}')
    assert jsonl.read(path) == {"rounds": 3}
    for damaged in (b'{"rounds": ', b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"summary\.json: not JSON"):
            jsonl.read(path)
