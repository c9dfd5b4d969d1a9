"""What SQL may ask of a results table, what it gets, and what it never reaches: files, network, this program."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner
from gap_tables import row, three_components, two_views
from hypothesis import given
from hypothesis import strategies as st
from made_up_sweeps import made_up

from orchestrator import results
from orchestrator.cli import bottleneck
from orchestrator.results import ResultsError
from orchestrator.sql import ask
from trainables.store import Store

TABLE = results.table([*two_views(), *three_components(), row(gap=None), row(status="failed", error="no\nroom")])

# What answers come to ---------------------------------------------------------------------------------------------


def test_a_mean_by_hand():
    table = results.table([row(seed=1, gap=0.25), row(seed=2, gap=0.5), row(seed=3, gap=None)])
    found = ask("select component, avg(gap) as gap, count(gap) as n, count(*) as rows from results group by all", table)
    assert found.to_dict("records") == [{"component": "hard", "gap": 0.375, "n": 2, "rows": 3}]


def test_everything_that_is_asked_for_comes_back_as_it_was():
    pd.testing.assert_frame_equal(ask("select * from results", TABLE), TABLE)


@given(bound=st.floats(-0.1, 0.5), component=st.sampled_from(["hard", "both", "clothes", "none"]))
def test_sql_and_a_pandas_query_keep_the_same_rows(bound, component):
    columns = ["trial", "seed", "gap"]
    theirs = ask(f"select trial, seed, gap from results where gap > {bound!r} and component = '{component}'", TABLE)
    ours = results.select(TABLE, f"gap > {bound!r} and component == '{component}'", columns)
    pd.testing.assert_frame_equal(theirs, ours.reset_index(drop=True))


def test_sweeps_are_joined():
    first = [row(sweep="a", seed=seed, gap=0.25) for seed in (1, 2)]
    second = [row(sweep="b", seed=seed, gap=0.5) for seed in (2, 3)]
    query = """
        select a.seed, b.gap - a.gap as more from results a join results b using (seed, component)
        where a.sweep = 'a' and b.sweep = 'b'
    """
    assert ask(query, results.table([*first, *second])).to_dict("records") == [{"seed": 2, "more": 0.25}]


@pytest.mark.parametrize(
    ("expression", "dtype", "value"),
    [
        ("sum(seed)", "Int64", 6),  # DuckDB has it as a decimal of 38 digits
        ("sum(seed)::hugeint * 10::hugeint ** 30", "Float64", pytest.approx(6e30)),
        ("1.25::decimal(4, 2)", "Float64", 1.25),
        ("count(*) > 2", "boolean", True),
        ("min(component)", "string", "hard"),
        ("date '2026-02-11'", "string", "2026-02-11"),
        ("list(seed order by seed)", "string", "[1, 2, 3]"),
        ("'\\xFF'::blob", "string", r"b'\xff'"),
        ("null", "string", pd.NA),
    ],
)
def test_an_answer_has_the_types_of_the_results_table_and_is_text_else(expression, dtype, value):
    table = results.table([row(seed=seed) for seed in (1, 2, 3)])
    found = ask(f"select {expression} as x from results", table)["x"]
    assert str(found.dtype) == dtype
    assert found[0] is value if value is pd.NA else found[0] == value


def test_columns_of_one_name_are_numbered():
    found = ask("select seed as a, 1 as a_1, gap as a, 2 as a from results", results.table([row()]))
    assert list(found.columns) == ["a", "a_1", "a_2", "a_3"]


# What it never reaches --------------------------------------------------------------------------------------------

FORBIDDEN = [
    "select * from 'secret.csv'",
    "select * from read_csv('secret.csv')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('secret.csv')",
    "select * from sniff_csv('secret.csv')",
    "select * from glob('*')",
    "select * from 'https://example.org/x.parquet'",
    "copy results to 'out.csv'",
    "copy results to '/dev/stdout'",
    "copy results from 'secret.csv'",
    "select 1; copy results to 'out.csv'",
    "export database 'out'",
    "import database 'out'",
    "attach 'out.db'",
    "attach 'https://example.org/x.db'",
    "install httpfs",
    "force install spatial from community",
    "load httpfs",
    "load './evil.duckdb_extension'",
    "create persistent secret s (type s3, key_id 'a', secret 'b')",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "reset lock_configuration",
    "set temp_directory = 'out'",
    "set home_directory = '.'",
    "set autoinstall_known_extensions = true",
    "set custom_extension_repository = 'https://example.org'",
    "set log_query_path = 'out'",
    "set profiling_output = 'out'",
    "pragma profiling_output = 'out'",
    "call enable_logging(storage = 'file', storage_path = 'out')",
    "select * from TABLE",  # variables of this module
    "select * from query",  # and of that which asks
    "select getenv('HOME')",
]


@pytest.mark.parametrize("query", FORBIDDEN)
def test_a_query_reaches_no_file_no_network_no_extension_and_no_variable(tmp_path, monkeypatch, query):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ResultsError) as error:
        ask(query, TABLE)
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["secret.csv"]


def test_a_query_has_no_folder_for_what_outgrows_the_memory():
    assert ask("select current_setting('temp_directory') as folder", TABLE)["folder"][0] == ""


@pytest.mark.parametrize("query", ["", "  ", "-- nothing", "selec", "select gpa from results", "select * from result"])
def test_a_query_that_cannot_be_answered_is_one_line(query):
    with pytest.raises(ResultsError, match="sql: ") as error:
        ask(query, TABLE)
    assert len(str(error.value).splitlines()) == 1


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("sql") / "runs")
    for name in ("first", "second"):
        made_up(name, trials=1).put(store)
    return store.location


def call(storage, *arguments):
    return CliRunner().invoke(bottleneck, ["results", "--storage", storage, *arguments])


COUNTS = "select sweep, count(*) as n from results group by all order by all"


def test_the_command_answers_in_every_format(storage, tmp_path):
    assert call(storage, "--sql", COUNTS).stdout.splitlines()[2:] == ["first   6", "second  6"]
    assert call(storage, "--sql", COUNTS, "--format", "csv").stdout.splitlines() == ["sweep,n", "first,6", "second,6"]
    found = json.loads(call(storage, "second", "--sql", COUNTS, "--format", "json").stdout)
    assert found == [{"sweep": "second", "n": 6}]
    assert call(storage, "--sql", COUNTS, "--format", "parquet", "--output", tmp_path / "x.parquet").exit_code == 0
    assert pd.read_parquet(tmp_path / "x.parquet")["n"].tolist() == [6, 6]


def test_where_and_columns_say_what_sql_is_asked_of(storage):
    kept = call(storage, "--where", "weight == 0 and sweep == 'first'", "--sql", COUNTS, "--format", "csv")
    assert kept.stdout.splitlines() == ["sweep,n", "first,2"]
    names = call(storage, "--columns", "seed,gap", "--sql", "select column_name from (describe results)")
    assert names.stdout.splitlines()[2:] == ["seed", "gap"]


def refused(*arguments):
    """What the command says in a process of its own, where it has to end with exit code 2 and one line."""
    command = [sys.executable, "-m", "orchestrator.cli", "results", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_what_the_command_cannot_answer_is_one_line_that_a_terminal_does_not_obey(storage):
    line = refused("--storage", storage, "--sql", "select '\x1b[31m' from \x1b[31m\n\n\nnone")
    assert line.startswith("sql: ")
    assert "\x1b" not in line
    assert "Permission Error" in refused("--storage", storage, "--sql", "copy results to '/tmp/never'")


WITHOUT = """
import sys
sys.modules["duckdb"] = None
from orchestrator import cli
sys.argv = ["bottleneck", "results", "first", "--storage", "nowhere", "--sql", "select 1"]
cli.main()
"""


def test_without_duckdb_one_line_says_how_to_install_it():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "SQL needs DuckDB, which is not installed: `pip install duckdb`, or the extra `sql`\n"


def test_nothing_is_imported_before_it_is_asked_for():
    heavy = "import sys, orchestrator.cli, orchestrator.sql; print({'duckdb', 'pandas', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
