"""The documentation: what it tells people to type runs, the sweep files in it are valid, and the site is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click.testing
import pytest
import yaml
from command_line import bottleneck
from made_up_sweeps import PRETRAINED, PROBED, share_of

from orchestrator import cli
from orchestrator import sweep as sweeps
from orchestrator.journal import Journal
from orchestrator.orderings import ORDERINGS
from orchestrator.prepare import prepare
from trainables.store import Store

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import reference  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not (?P<left>run|compared): (?P<why>\S.*) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)```$",
    re.MULTILINE,
)
LANGUAGES = {"bash", "python", "yaml", "text", "ini"}  # the first three are run


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    left: str | None  # "run" or "compared": what is not done with it, for the reason that stands above it
    output: str | None = None  # of a block of commands: what the page shows below it, to be compared


def blocks(page: Path) -> list[Block]:
    """The blocks of a page as readers see it, what is generated included."""
    name, text = str(page.relative_to(ROOT)), reference.on_page_markdown(page.read_text())
    matches = list(BLOCK.finditer(text))
    found = []
    for number, match in enumerate(matches, start=1):
        following = matches[number] if number < len(matches) else None
        shown = following and following["language"] == "text" and not text[match.end() : following.start()].strip()
        output = following["text"] if following and shown and not following["left"] else None
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(name, line, match["language"], match["text"], match["left"], output))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def each(language: str) -> pytest.MarkDecorator:
    """A test for each block of a language that is run."""
    wanted = [block for block in BLOCKS if block.language == language and block.left != "run"]
    return pytest.mark.parametrize("block", wanted, ids=lambda block: f"{block.page}:{block.line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is_so_that_it_is_run_or_says_why_not(page):
    text = reference.on_page_markdown(page.read_text())
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), "a block is not closed, or its remark is misspelt"
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert [
        block for block in blocks(page) if block.left == "run" and block.language not in ("bash", "python", "yaml")
    ] == []
    remarks = re.findall(r"^<!-- not (?:run|compared).*$", text, re.MULTILINE)
    assert len(remarks) == sum(block.left is not None for block in blocks(page)), "a remark has no block below it"
    outside = BLOCK.sub("", text)
    assert re.findall(r"(?:^|\n\n)(    .*)", outside) == [], "a block without a language cannot be told from a program"


# Sweep files ----------------------------------------------------------------------------------------------------------

NAMES = ("clothes", "digits", "web", "code", "maths")  # of components in parts of sweep files
AROUND = {
    "name": "part",
    "question": "Is it valid?",
    "components": {name: {"dataset": "digits", "classes": [0, place + 1]} for place, name in enumerate(NAMES)},
    "vary": {"mixture": {"clothes": 1, "digits": 1}},
}


@each("yaml")
def test_every_sweep_file_or_part_of_one_is_valid(block):
    written = yaml.safe_load(block.text)
    assert sweeps.parse(yaml.safe_dump({**AROUND, **written}, sort_keys=False), f"{block.page}:{block.line}")


def test_the_reference_has_every_key_of_the_schema():
    schema = sweeps.json_schema()
    expected = {key for model in (schema, *schema["$defs"].values()) for key in model.get("properties", ())}
    page = reference.keys()
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) | set(
        re.findall(r"^\| `\{?(\w+)", page, re.MULTILINE)
    )
    assert expected - listed == set()
    assert "undefined" not in page
    anchors, links = set(re.findall(r"\{ #([\w-]+) \}", page)), set(re.findall(r"\(#([\w-]+)\)", page))
    assert links <= anchors


def test_the_reference_says_type_bounds_default_and_meaning_of_a_key():
    page = reference.keys()
    assert "| `momentum` | a number of at least 0 and below 1 | `0.9` | of sgd; the first beta of adamw |" in page
    assert "| `label_space` | `joint` or `shared` | `joint` | joint: each component has classes of its own" in page
    assert "| `pretrain` | a mapping with [these keys](#pretrain) |" in page
    assert "| `{temperature: …}`: a number from 0 to 10 | Between equal and proportional:" in page


def test_every_ordering_has_an_example_and_a_picture():
    assert list(reference.EXAMPLES) == list(ORDERINGS)
    for kind in ORDERINGS:
        assert f"images/ordering-{kind}.svg" in reference.orderings()


@pytest.mark.slow
def test_the_pictures_are_what_the_code_draws_now(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "images")
    import draw

    for name, figure in draw.pictures():
        assert (DOCS / "images" / f"{name}.svg").read_text() == draw.themed(figure), f"{name}: run docs/images/draw.py"


# Commands and programs ------------------------------------------------------------------------------------------------

# The sweeps that pages name. Quickstart as it ships; the others have fewer seeds, and its data and network.
FINISHED = {
    "quickstart": [],
    "s01-mixture-weight": ["seeds=2", "retention=false"],
    "s05-ordering": [
        "seeds=2",
        "retention=false",
        "vary.architecture=mlp",
        "components={vehicles: {dataset: dominoes}, animals: {dataset: dominoes, options: {informative: right}}}",
    ],
    "s07-scale-floor": ["seeds=2", "vary.width=1"],
    "s08-architecture": ["seeds=2", "vary.architecture=mlp"],
    "s12-trajectory-saturation": ["seeds=2", "retention=false", "trajectory=false"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose store has the sweeps that pages name as if they had been run there; their results are made up."""
    folder = tmp_path_factory.mktemp("reader")
    before = Path.cwd()
    os.chdir(folder)
    for name, changes in [*FINISHED.items(), ("quickstart", ["seeds=1", "name=old-idea"])]:
        finish(sweeps.read(sweeps.locate(name), changes))
    for other in ("here", "there"):
        Path(other).symlink_to("bottleneck-runs")
    (block,) = (block for block in BLOCKS if block.page == "README.md" and block.language == "yaml")
    Path("my.yaml").write_text(re.sub(r"\{dataset: \w+", r"\g<0>, train_examples: 900", block.text))
    Path("bin").mkdir()
    for called in ("uv", "bottleneck"):
        Path("bin", called).write_text(NOTES_ITS_WORDS)
        Path("bin", called).chmod(0o755)
    yield folder
    os.chdir(before)


def finish(sweep):
    """Let the store have a sweep as a run leaves it."""
    plan, _ = prepare(sweep, lambda _: None)
    store = Store("bottleneck-runs")
    for stage in {stage.digest: stage for trial in plan.trials for stage in trial.stages()}.values():
        if not store.get(stage.kind, stage.digest):
            store.put(stage, result_of(stage))
    journal = Journal(store, sweep.name)
    journal.write_plan(sweep.text, json.loads(json.dumps(plan.as_json())))
    journal.start()


def result_of(stage):
    if stage.kind == "pretrain":
        return PRETRAINED
    trained = stage.members[0].num_examples > 0
    return PROBED | {"test_accuracy": (0.8 if trained else 0.2) + 0.1 * share_of(stage.digest)}


NOTES_ITS_WORDS = '#!/bin/sh\n{ printf "%s\\0" "${0##*/}" "$@"; printf "\\0"; } >>words\n'


def commands(text: str, folder: Path) -> list[tuple[str, ...]]:
    """The arguments of each `bottleneck` that a shell calls in a block. Another program is not found, and an error."""
    Path("words").write_text("")
    shell = ["/bin/bash", "-euc", text]
    done = subprocess.run(
        shell, cwd=folder, env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    called = [tuple(words.split("\0")) for words in Path("words").read_text().split("\0\0")[:-1]]
    return [words[words.index("bottleneck") + 1 :] for words in called]


printed: dict[tuple[str, ...], str] = {}  # by commands that ran: pages share some


@each("bash")
def test_every_command_runs_and_prints_what_the_page_shows(block, folder, request):
    called = commands(block.text, folder)
    assert called, "a block without a command of ours is not run, and has to say why"
    if any("my.yaml" in words for words in called):
        request.getfixturevalue("real_data")
    for words in called:
        if words not in printed:
            printed[words] = output(words)
    if block.output:
        lines = "".join(printed[words] for words in called).splitlines()
        for line in block.output.splitlines():
            if line != "...":
                assert line in lines
                lines = lines[lines.index(line) + 1 :]


def output(words: tuple[str, ...]) -> str:
    """What a command prints; `run` in a process of its own, since it imports MLflow. Its sweep has nothing to train."""
    if words[0] == "run":
        done = bottleneck(*words)
        assert "0 stages computed" in done.stderr
        return done.stdout
    told = click.testing.CliRunner().invoke(cli.bottleneck, words, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return told.stdout


@each("python")
def test_every_program_runs(block, folder):
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": "page"})


# The site -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # no network while it is built
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_page(site):
    """Strict: a link or an anchor that leads nowhere, a page without a place in the contents, an unknown name."""
    for page in PAGES[1:]:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    assert "informative" in (site / "sweep-file.html").read_text()
    assert "pandas query over the columns" in (site / "api" / "results.html").read_text()
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
def test_the_site_loads_nothing_from_a_network(site):
    loads = re.compile(
        r"""<(?:script|img|iframe|link(?![^>]*rel="?canonical))[^>]*(?:src|href)="?((?:https?:)?//[^">\s]+)"""
    )
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text()) == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet


def test_every_decision_is_in_their_list():
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions" / "index.md").read_text())
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))
