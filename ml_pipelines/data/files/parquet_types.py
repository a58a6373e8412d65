"""The types of Parquet columns: those that every engine reads alike, and the plain types that replace the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_pipelines.errors import BadData
from ml_pipelines.text import shown

if TYPE_CHECKING:
    import pyarrow as pa

ENGINE_DECIMAL = 38  # the largest precision of Spark's decimal


def column_type(name: str, kinds: Mapping[pa.DataType, Path]) -> pa.DataType:
    """Return the plain type that holds a column's values in all files.

    Args:
        name: the name of the column.
        kinds: each type of the column -> the first file that has this type.

    Raises:
        BadData: no plain type holds the values.
    """
    import pyarrow as pa

    targets = {}
    for kind, file in kinds.items():
        if (target := plain_type(kind)) is None:
            advice = "Write it as a number, or add it" if pa.types.is_duration(kind) else "Add it"
            problem = f"has type {shown(kind)}, which can't be a feature"
            raise BadData(f"Column {shown(name)} of {file} {problem}. {advice} to data.drop.")
        targets[target] = file
    try:
        schemas = [pa.schema([(name, target)]) for target in targets if target != pa.null()]
        wanted = plain_type(pa.unify_schemas(schemas, promote_options="permissive").field(0).type) if schemas else None
    except pa.ArrowException:
        wanted = None
    if schemas and wanted is None:
        (one, first), (other, second), *_ = kinds.items()
        raise BadData(
            f"Column {shown(name)} has type {shown(one)} in {first}, but {shown(other)} in {second}. "
            "Write all files with one type, or add the column to data.drop."
        )
    return wanted or pa.string()


def is_plain(kind: pa.DataType) -> bool:
    """Return whether every engine reads the type in the same way, even if it gets no schema."""
    import pyarrow as pa

    strings = pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return strings or bool(engine_type(kind) == kind)


def engine_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that every engine can read from a column of type `kind` if it gets a schema, or None."""
    import pyarrow as pa

    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}
    if kind in wider:
        return wider[kind]
    is_ = pa.types
    if is_.is_large_string(kind) or is_.is_string_view(kind):
        return pa.string()
    if is_.is_large_binary(kind) or is_.is_binary_view(kind) or is_.is_fixed_size_binary(kind):
        return pa.binary()
    if is_.is_timestamp(kind) and kind.unit != "ns":
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_struct(kind):
        return kind if all(engine_type(field.type) == field.type for field in kind) else None
    if is_.is_map(kind):
        return kind if all(engine_type(inner) == inner for inner in (kind.key_type, kind.item_type)) else None
    if is_.is_list(kind):
        return kind if engine_type(kind.value_type) == kind.value_type else None
    plain = (is_.is_signed_integer, is_.is_boolean, is_.is_float32, is_.is_float64, is_.is_string, is_.is_binary)
    if any(test(kind) for test in (*plain, is_.is_date32)) or is_.is_decimal128(kind):
        return kind
    return None


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the plain type that holds the values of this type, or None if no plain type does.

    A time of day becomes text. Nanoseconds become microseconds, because Spark has no finer time.
    """
    import pyarrow as pa

    is_ = pa.types
    if kind == pa.null() or engine_type(kind) is not None:
        return engine_type(kind) or kind
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if is_.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_.is_list(kind) or is_.is_large_list(kind):
        return pa.list_(inner) if (inner := plain_type(kind.value_type)) else None
    if is_.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_float16(kind):
        return pa.float32()
    if is_.is_date64(kind):
        return pa.date32()
    if is_.is_time(kind):
        return pa.string()
    if is_.is_decimal(kind) and kind.precision <= ENGINE_DECIMAL:
        return pa.decimal128(kind.precision, kind.scale)
    return None


def spark_schema(columns: Mapping[str, pa.DataType]) -> Any:
    """Return Spark's StructType of these columns."""
    import pyarrow as pa
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(pa.schema(list(columns.items())))
