"""Rows are encoded once, batch by batch, and read back from disk after that."""

from __future__ import annotations

from datasets import Features, Value

from fedfm.data.encoding import Encode, encoded

FEATURES = Features({"twice": Value("int64")})


def test_rows_are_encoded_in_batches_and_only_once() -> None:
    batches: list[list[int]] = []

    def prepare() -> Encode:
        def encode(rows: list[int]) -> dict[str, list[int]]:
            batches.append(rows)
            return {"twice": [2 * row for row in rows for _ in range(row)]}  # row r gives r rows

        return encode

    tables = [encoded("a-key", 4, prepare, FEATURES, batch_size=3) for _ in range(2)]
    assert [table["twice"][:] for table in tables] == [[2, 4, 4, 6, 6, 6]] * 2
    assert batches == [[0, 1, 2], [3]]
