"""What does a question in SQL find in a results table? DuckDB answers it, in memory and with nothing but the table.

A query reads and writes no file, reaches no network, loads no extension and sees no variable of this program: the
settings say so, and are locked before the query is read.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from orchestrator.results import ResultsError

if TYPE_CHECKING:
    import pandas as pd

TABLE = "results"
SETTINGS = {
    "enable_external_access": "false",  # files, network, other databases
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",  # else a name in the query may be a variable of ours
    "temp_directory": "",  # a query that outgrows the memory fails, and leaves no file
    "lock_configuration": "true",
}


def require_duckdb() -> None:
    """Raises ResultsError where DuckDB is not installed."""
    if find_spec("duckdb") is None:
        raise ResultsError("SQL needs DuckDB, which is not installed: `pip install duckdb`, or the extra `sql`")


def ask(query: str, results: pd.DataFrame) -> pd.DataFrame:
    """The answer to a query about a results table, which it calls `results`.

    Args:
        query: SQL as DuckDB has it. Of several statements the last is answered.
        results: what `results.load` gives.

    Returns:
        The columns that the query names, with the types of the results table: string, Float64, Int64 and boolean. What
        is none of these, such as a date or a list, is text. Of columns of one name the later ones are numbered.

    Raises:
        ResultsError: DuckDB is not installed, or does not answer the query; the message is one line.
    """
    require_duckdb()
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(":memory:", config=SETTINGS)
    try:
        connection.register(TABLE, pa.Table.from_pandas(results, preserve_index=False))
        answer = connection.sql(query)
        if answer is None:
            raise ResultsError("sql: the query has no answer; `select component, gap from results` is an example")
        return _as_frame(answer.to_arrow_table())
    except duckdb.Error as error:
        raise ResultsError(f"sql: {_one_line(error)}") from error
    finally:
        connection.close()


def _as_frame(answer: Any) -> pd.DataFrame:
    """A table of Arrow as one of pandas with the types of the results table."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(),
        pa.string(): pd.StringDtype(),
    }  # fmt: skip
    plain = pa.table([_plain(column) for column in answer.columns], names=_distinct(answer.column_names))
    frame: pd.DataFrame = plain.to_pandas(types_mapper=types.get)
    return frame


def _plain(column: Any) -> Any:
    """A column as truths, int64, float64 or text."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_boolean(kind):
        return column
    if types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0):  # a sum of whole numbers is the latter
        with contextlib.suppress(pa.ArrowInvalid):  # beyond 64 bits
            return column.cast(pa.int64())
    if types.is_integer(kind) or types.is_decimal(kind) or types.is_floating(kind):
        return column.cast(pa.float64(), safe=False)
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that came before numbered: a, a_1, a_2."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        found.append(name if name not in found else next(other for other in numbered if other not in (*names, *found)))
    return found


def _one_line(error: Exception) -> str:
    """What DuckDB says, without the picture of where it says it."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())
