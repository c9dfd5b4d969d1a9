"""A first sweep file: from a folder of pictures, or by questions on a terminal."""

import os
import pty
import select
import signal
import subprocess
import time

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import bottleneck, command, heeds_ctrl_c
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator import cli, draft
from orchestrator.draft import Draft, DraftError, Part
from orchestrator.sweep import locate, parse, read
from trainables.catalogue import CATALOGUE
from trainables.reading import DataError


def pictures(folder, count=6, *, size=(20, 30), mode="L", brightness=0):
    """A folder of pictures, no two of which are the same."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng((brightness, number)).integers(0, 255, (size[1], size[0]), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def three(tmp_path):
    """Three components; two of them have the same classes."""
    for position, (name, classes) in enumerate({"birds": "ab", "dogs & cats": "ab", "1": "abc"}.items()):
        for number, each in enumerate(classes):
            pictures(tmp_path / "my Pictures" / name / each, brightness=10 * position + number)
    return tmp_path / "my Pictures"


def test_folders_of_classes_are_components_and_the_file_says_so_and_is_valid(three, tmp_path):
    file = tmp_path / "mine.yaml"
    done = CliRunner().invoke(cli.bottleneck, ["init", str(file), "--from", str(three)])
    assert done.exit_code == 0
    assert "found 3 components, 7 classes, 42 images, grey, read at 16 x 16 pixels" in done.stderr
    assert done.stdout.splitlines() == [
        f"bottleneck validate {file}",
        f"bottleneck plan {file}",
        f"bottleneck run {file}",
        "bottleneck findings my-pictures",
        "bottleneck report my-pictures",
    ]
    sweep = read(file)
    assert [*sweep.components] == ["c_1", "birds", "dogs_cats"]
    assert sweep.components["dogs_cats"].options == {"root": str(three / "dogs & cats")}
    assert (sweep.image.size, sweep.image.channels, sweep.label_space) == ((16, 16), 1, "joint")
    keys = [line for line in file.read_text().splitlines() if line[:1].isalpha()]
    assert {line.split(":")[0] for line in keys} >= {"name", "components", "vary", "seeds", "pretrain", "transfer"}
    checked = bottleneck("validate", file)
    assert checked.stdout == f"{file}: fine, 4 trials with 3 seeds each\n"


def test_components_with_the_same_classes_share_their_labels(tmp_path):
    for position, domain in enumerate(("photo", "sketch")):
        for number, name in enumerate("xyz"):
            pictures(tmp_path / domain / name, size=(70, 90), mode="RGB", brightness=9 * position + number)
    found = draft.of_folder(tmp_path)
    assert found.found == (
        "2 components, 3 classes that all of them share, 36 images, in colour, read at 64 x 64 pixels"
    )
    assert parse(draft.text(found), "x").label_space == "shared"
    assert (found.size, found.channels) == (64, 3)


def test_one_set_is_divided_by_its_classes_with_and_without_a_test_split(tmp_path):
    for number, name in enumerate("abcde"):
        pictures(tmp_path / "plain" / name, brightness=number)
        for split in ("train", "test"):
            pictures(tmp_path / "split" / split / name, brightness=number)
    for folder, count in (("plain", 30), ("split", 60)):
        found = draft.of_folder(tmp_path / folder)
        assert found.found.startswith(f"one set, 5 classes, {count} images")
        sweep = parse(draft.text(found), "x")
        assert {name: part.classes for name, part in sweep.components.items()} == {"first": (0, 1), "second": (2, 3, 4)}


def test_a_folder_below_the_data_root_is_named_so_that_other_machines_find_it(three, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_DATA", str(three.parent))
    assert draft.of_folder(three).components["birds"].root == "my Pictures/birds"


def make(folder, layout):
    for path, count in layout.items():
        pictures(folder / path, count)
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({}, "found nothing in it; FOLDER/CLASS"),
        ({".": 3}, "found pictures in it; FOLDER/CLASS"),
        ({"a/b/c/d": 5}, "found no folders of pictures in a; FOLDER/CLASS"),
        ({"a/x": 5, "a/y": 5, "b": 5}, "found pictures directly in b; FOLDER/CLASS"),
        ({"a/x": 5, "a/y": 5}, "found one component, a; name .*/a to divide it"),
        ({"a": 5, "b": 5, "c": 5}, "found 3 classes; one set is divided .* needs 4: name a second set"),
        ({"a/x": 5, "a/y": 4, "b/x": 5, "b/y": 5}, "class y has 4 pictures; each needs 5"),
        ({"a/x": 5, "b/x": 5}, "found 1 class; a component needs two"),
    ],
)
def test_what_cannot_be_read_says_which_layouts_can(tmp_path, layout, said):
    root = tmp_path / "root"
    if "." in layout:
        pictures(root, layout.pop("."))
    with pytest.raises(DraftError, match=said):
        draft.of_folder(make(root, layout))


def test_no_folder_and_no_picture_are_one_line(tmp_path, three):
    with pytest.raises(DraftError, match="found no such folder; FOLDER/CLASS"):
        draft.of_folder(tmp_path / "none")
    for path in (three / "birds" / "a").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"birds/a/0\.png cannot be read as a picture"):
        draft.of_folder(three)


def test_a_file_that_exists_stays_as_it_is(three, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    done = bottleneck("init", file, "--from", three, expect=2)
    assert done.stderr == f"{file} exists and stays as it is; name another file\n"
    with pytest.raises(DraftError, match="exists"):
        draft.write(draft.of_folder(three), file)
    assert file.read_text() == "mine"
    elsewhere = bottleneck("init", tmp_path / "no.txt", "--from", three, expect=2)
    assert len(elsewhere.stderr.splitlines()) == 1
    asks = bottleneck("init", tmp_path / "new.yaml", expect=2)
    assert asks.stderr == "init asks its questions on a terminal; name a folder of pictures with --from instead\n"


@given(st.lists(st.text(min_size=1, max_size=80), min_size=2, max_size=8), st.text(max_size=300))
def test_any_names_of_folders_and_any_question_make_a_file_that_reads_as_it_was_meant(folders, question):
    names = draft._names(folders)
    roots = {
        name: f"/data/{''.join(c for c in folder if c.isprintable())}"
        for name, folder in zip(names, folders, strict=True)
    }
    asked = "".join(c for c in question if c.isprintable())
    parts = {name: Part(dataset="image_folder", root=root) for name, root in roots.items()}
    made = Draft(name=draft._sweep_name(folders[0]), components=parts, found="x", question=asked)
    distinct = len(set(roots.values())) == len(roots)
    if distinct:
        sweep = parse(draft.text(made), "x")
        assert {name: part.options["root"] for name, part in sweep.components.items()} == roots
        assert sweep.question == (" ".join(asked.split()) or draft.usual_question(names))


@pytest.mark.parametrize("varied", [[], *([key] for key in draft.VARIED), [*draft.VARIED]])
def test_whatever_is_varied_is_in_the_file(varied):
    made = draft.of_datasets(["digits"], question="What?", varied=varied, seeds=2, steps=50)
    sweep = parse(draft.text(made), "x")
    assert sweep.name == "digits"
    assert [
        len(values) for values in (sweep.vary.ordering, sweep.vary.width, sweep.vary.architecture, sweep.vary.training)
    ] == [1 + (key in varied) for key in ("ordering", "width", "architecture", "weight_decay")]
    assert (sweep.seeds, sweep.pretrain.steps) == ((0, 1), 50)


def test_datasets_are_offered_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path))
    assert draft.available() == ["digits"]
    for name in CATALOGUE["mnist"].files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert draft.available() == ["digits", "mnist"]


# On a terminal --------------------------------------------------------------------------------------------------------


def on_a_terminal(arguments, answers, folder):
    """Run the command on a terminal of its own; returns its exit code and what the terminal showed."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "BOTTLENECK_DATA": str(folder)}, preexec_fn=heeds_ctrl_c,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    for question, answer in answers:
        deadline = time.monotonic() + 120
        while question not in shown.rpartition("\n")[2] and time.monotonic() < deadline:
            shown += os.read(ours, 4096).decode()
        if answer is None:
            child.send_signal(signal.SIGINT)
        else:
            os.write(ours, f"{answer}\n".encode())
            shown += "\n"
    try:
        while True:
            if answers[-1][1] is None and not select.select([ours], [], [], 5)[0]:
                child.send_signal(signal.SIGINT)  # pressed again: Python misses one just before it waits for a line
                continue
            if not (part := os.read(ours, 4096).decode()):
                break
            shown += part
    except OSError:  # the terminal has no other end any more
        pass
    os.close(ours)
    return child.wait(120), shown


def test_questions_have_defaults_and_a_wrong_answer_is_asked_again(tmp_path):
    file = tmp_path / "asked.yaml"
    answers = [
        ("Components", "nonsense"),
        ("Components", ""),
        ("Question", ""),
        ("vary", "width"),
        ("Repetitions", "0"),
        ("Repetitions", ""),
        ("Steps", "20"),
    ]
    code, shown = on_a_terminal(["init", file], answers, tmp_path)
    assert code == 0, shown
    assert "there is no 'nonsense'; possible are digits" in shown
    sweep = read(locate(str(file)))
    assert {name: part.classes for name, part in sweep.components.items()} == {
        "first": (0, 1, 2, 3, 4),
        "second": (5, 6, 7, 8, 9),
    }
    assert sweep.vary.width == (0.5, 1)
    assert (len(sweep.seeds), sweep.pretrain.steps) == (3, 20)


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    code, shown = on_a_terminal(["init", tmp_path / "never.yaml"], [("Components", ""), ("Question", None)], tmp_path)
    assert code == 130
    assert shown.splitlines()[-1] == "stopped"
    assert list(tmp_path.iterdir()) == []
