"""Reads Parquet files, with the types of their columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features

from fedfm.data.readers.request import ReadRequest
from fedfm.errors import DataError

_ROWS_PER_BATCH = 1000


def read_parquet(path: Path, scratch: Path, request: ReadRequest) -> Dataset:
    """Reads the requested columns; feature types that `datasets` has stored, such as class names, are kept.

    Raises:
        RecipeError: a required column is missing.
        DataError: the file is damaged or not Parquet, or two columns have the name of a requested column.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = [column.name for column in request.present(schema.names, path)]
            fields = [pa.field(name, _plain(schema.field(name).type)) for name in names]
            features = Features.from_arrow_schema(pa.schema(fields, metadata=schema.metadata))
            target = scratch / "rows.arrow"
            with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
                for batch in file.iter_batches(_ROWS_PER_BATCH, columns=names):
                    writer.write_table(pa.Table.from_batches([batch]).select(names).cast(features.arrow_schema))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read as Parquet: {reason}") from error
    return Dataset.from_file(str(target))


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without its encoding: the value type of categories, and plain types for views."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind
