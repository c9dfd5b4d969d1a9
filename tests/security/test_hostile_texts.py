"""Names and texts that attack a folder, a page or a terminal, on the whole way from a sweep file to its report."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator import report, results, tracking
from orchestrator import sweep as sweeps
from orchestrator.journal import Journal, UnknownSweep
from orchestrator.prepare import prepare
from orchestrator.terminal import printable
from trainables.store import Store, StoreError

MARKS = "\u202e\u2066\u200f\u00ad\ufeff"  # right to left, isolate, mark, soft hyphen, byte order
HOSTILE = (
    "<script>alert(1)</script> \"><img src=x onerror=alert(1)> ' onmouseover='alert(1) javascript:alert(1) "
    "{{ 7*7 }} </style></svg></title> &lt;b&gt; $x$ ../../etc/passwd " + MARKS + " é 🏃 𝔘 "
)
CONTROLS = "\x1b]0;owned\x07 \x1b[2J\x1b[31m \x9b31m \r \x08 \x7f \0 \ud800 "
BEYOND = ("../escaped", "/escaped", "..", "a/b", "a\\b", "a\0b", "", ".hidden/../..", "x" * 10_000, "a\u202eb", "a\nb")
SWEEP = """
name: hostile
question: QUESTION
components: {digits: {dataset: digits}}
vary: {mixture: {digits: 1}, architecture: mlp, width: 0.25}
seeds: 1
pretrain: {steps: 2, batch_size: 16}
"""


def bottleneck(*arguments):
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def obeyed(text: bytes) -> list[str]:
    """The characters in an output that a terminal obeys."""
    return sorted({c for c in text.decode() if printable(c) != c})


class Page(HTMLParser):
    """What a page has that could act: elements, attributes, and addresses in them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def planned():
    """A sweep whose question attacks, and its plan."""
    text = SWEEP.replace("QUESTION", json.dumps(HOSTILE, ensure_ascii=False))
    sweep = sweeps.parse(text, "hostile.yaml")
    return sweep, prepare(sweep, lambda line: None)[0]


@pytest.fixture(scope="module")
def stored(planned, tmp_path_factory):
    """A store in which that sweep has a trial that failed with an error and a log that attack."""
    sweep, plan = planned
    store = Store(tmp_path_factory.mktemp("hostile") / "runs")
    journal = Journal(store, sweep.name)
    journal.write_plan(sweep.text, plan.as_json())
    failure = {"status": "failed", "error": HOSTILE + CONTROLS + "x" * 10_000, "log": HOSTILE + CONTROLS}
    journal.start()
    journal.write("trial", trial=plan.trials[0].digest, **failure)
    return store


# Folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BEYOND, ids=lambda name: repr(name)[:20])
def test_no_name_in_a_sweep_file_is_a_path(name):
    quoted = json.dumps(name)
    good = SWEEP.replace("QUESTION", "What?")
    for text in (
        good.replace("name: hostile", f"name: {quoted}"),
        good.replace("digits: {", f"{quoted}: {{"),
        good.replace("dataset: digits", f"dataset: {quoted}"),
        good.replace("architecture: mlp", f"architecture: {quoted}").replace("mlp", "mlp") if not name else good + "\0",
    ):
        with pytest.raises(sweeps.SweepError) as error:
            sweeps.parse(text, "hostile.yaml")
        assert obeyed(str(error.value).encode()) == []
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", BEYOND, ids=lambda name: repr(name)[:20])
def test_no_name_on_the_command_line_leads_out_of_the_store(tmp_path, name):
    store = Store(tmp_path / "runs")
    (tmp_path / "escaped").mkdir()
    (tmp_path / "escaped" / "plan.json").write_text('{"sweep": "../../escaped"}')
    with pytest.raises(UnknownSweep, match="as the name of a sweep") as error:
        Journal(store, name)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("command", ["results", "report", "sync", "status", "analyse"])
def test_a_command_that_is_given_a_path_as_a_name_reads_and_writes_nothing_there(tmp_path, command):
    (tmp_path / "escaped").mkdir()
    (tmp_path / "escaped" / "plan.json").write_text('{"sweep": "../../escaped", "trials": []}')
    done = bottleneck(command, "../../escaped", "--storage", tmp_path / "runs")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["plan.json"]


def test_a_plan_of_a_stranger_leads_nowhere_out_of_the_store(planned, tmp_path):
    sweep, plan = planned
    store = Store(tmp_path / "runs")
    journal = Journal(store, sweep.name)
    journal.write_plan(sweep.text, {**plan.as_json(), "sweep": "../../escaped"})
    with pytest.raises(UnknownSweep, match=r"plan\.json is not the plan of 'hostile'"):
        journal.plan()
    for content in (b"[" * 100_000, b"[]", b"null", b"\xff", b'{"sweep": "other"}'):
        store.write("sweeps/hostile/plan.json", content)
        with pytest.raises(UnknownSweep):
            journal.plan()
    (tmp_path / "escaped").mkdir()
    for kind, digest in (("pretrain", "../../../../escaped"), ("../../escaped", "a"), ("pretrain", "")):
        with pytest.raises(StoreError, match="in place of a kind of stage and its digest"):
            store.get(kind, digest)
    assert (tmp_path / "escaped").exists()


def test_lines_of_a_journal_that_are_no_events_are_left_out(tmp_path):
    journal = Journal(Store(tmp_path), "hostile")
    journal.write("sweep", state="started")
    lines = [
        b"[" * 100_000,
        b"[]",
        b"7",
        b"{}",
        b'{"time": "x", "event": 1}',
        b'{"time": [], "event": "sweep"}',
        b"\xff",
    ]
    (tmp_path / "sweeps/hostile/journal/stranger.jsonl").write_bytes(b"\n".join(lines))
    assert [event["event"] for event in journal.events()] == ["sweep"]


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_hostile_texts_and_does_nothing_that_they_say(planned, stored):
    sweep, plan = planned
    journal = Journal(stored, sweep.name)
    rows = results.rows(journal.plan(), results.store_lookup(stored), journal.trial_states())
    assert {row["status"] for row in rows} == {"failed"}
    provenance = {"command": HOSTILE, "storage": HOSTILE, "trials": HOSTILE}
    html = report.render(report.Evidence(results.table(rows)), plan.as_json(), sweep.text, provenance=provenance)
    page = Page(html)
    assert page.tags.isdisjoint({"iframe", "img", "object", "embed", "form", "base", "foreignobject"})
    own = (Path(report.__file__).parent / "page.js").read_text()
    assert re.findall(r"<script.*?</script>", html, flags=re.DOTALL) == [f"<script>{own}</script>"]
    names = {name for name, _ in page.attributes}
    assert [name for name in names if name.startswith("on") or name in ("src", "srcset", "action", "background")] == []
    links = {value for name, value in page.attributes if name in ("href", "xlink:href")}
    assert all(link.startswith(("#", "data:,")) for link in links), links
    assert re.findall(r"@import|url\((?!#|\"?#)", html) == []
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert obeyed(html.encode()) == []


def test_mlflow_is_given_texts_that_every_database_takes(planned, stored):
    sweep, _ = planned
    journal = Journal(stored, sweep.name)
    plan = journal.plan()
    lookup = results.store_lookup(stored)
    (trial,) = plan["trials"]
    rows = results.trial_rows(plan, trial, lookup, journal.trial_states())
    record = tracking.trial_record(plan, trial, rows, lookup)
    for text in (record.name, *record.params.values(), *record.tags.values(), *record.artifacts.values()):
        assert "\0" not in text
        assert text.encode()
    assert len(record.tags["bottleneck.error"]) <= tracking.MAX_TEXT


# The terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("plan", "FILE"), ("results", "hostile"), ("status", "hostile"), ("report", "hostile")]
)
def test_a_terminal_obeys_nothing_that_a_command_prints(planned, stored, tmp_path, arguments):
    path = tmp_path / "hostile.yaml"
    path.write_text(planned[0].text)
    columns = ("--columns", "trial,status,error") if arguments[0] == "results" else ()
    done = bottleneck(*(str(path) if a == "FILE" else a for a in arguments), *columns, "--storage", stored.location)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert obeyed(done.stdout + done.stderr) == []


@pytest.mark.parametrize("arguments", [("results", "hostile", "--format", "csv"), ("validate", "FILE", "--resolved")])
def test_data_is_left_as_it_is_for_a_program_and_written_out_for_a_terminal(planned, stored, tmp_path, arguments):
    path = tmp_path / "hostile.yaml"
    path.write_text(planned[0].text)
    arguments = [str(path) if a == "FILE" else a for a in arguments]
    if arguments[0] == "results":
        arguments += ["--storage", stored.location, "--columns", "error"]
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE) as process:
        os.close(slave)
        shown = io.BytesIO()
        try:
            while chunk := os.read(master, 65536):
                shown.write(chunk)
        except OSError:  # the terminal has been closed by its last user
            pass
        assert process.wait() == 0, process.stderr.read()
    os.close(master)
    assert obeyed(shown.getvalue().replace(b"\r\n", b"\n")) == []
    assert "\u202e" in bottleneck(*arguments).stdout.decode()


def test_a_question_of_ten_thousand_characters_is_refused_in_one_short_line(tmp_path):
    with pytest.raises(sweeps.SweepError, match="up to 5000 characters") as error:
        sweeps.parse(SWEEP.replace("QUESTION", "x" * 10_000), "hostile.yaml")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system [touch owned]",
        "name: !!python/object/new:os.system [touch owned]",
        "name: !!python/module:os",
        "name: !!binary aGVsbG8=",
        "? !!python/name:os.system\n: x",
        "%TAG ! tag:yaml.org,2002:python/\n---\nname: !object/apply:os.system [touch owned]",
        "name: {<<: !!python/name:os.system x}",
    ],
)
def test_yaml_that_asks_for_objects_is_refused_in_one_line(text):
    with pytest.raises(sweeps.SweepError, match=r"tag|plain word") as error:
        sweeps.parse(text, "hostile.yaml")
    assert len(str(error.value).splitlines()) == 1
    assert Path("owned").exists() is False
