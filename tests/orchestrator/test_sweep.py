"""What a sweep file may say, and that whatever else it says is refused in one line that names the place."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator import sweep as sweeps
from orchestrator.space import Vary
from orchestrator.sweep import Image, Sweep, SweepError, canonical, json_schema, locate, parse, read, resolved
from trainables import spec

MALFORMED = sorted((Path(__file__).parent.parent / "malformed").glob("*.yaml"))

SMALL = """\
name: small
question: Why?
components:
  a: {dataset: digits}
  b: {dataset: mnist}
"""

EVERYTHING = """\
name: fashion-vs-digits
question: Does a mixture of clothes and digits serve both?
components:
  clothes: {dataset: fashion_mnist, train_examples: 10000}
  digits:  {dataset: mnist, classes: [0, 1, 2, 3, 4], relabel: [0, 1, 0, 1, 0]}
  both:    {dataset: dominoes, options: {informative: both, noise_right: 1}}
  mine:    {dataset: "python:my.package:images", options: {size: 3, deep: true, name: no}, test_examples: all}
image: {size: 28, channels: 1}
label_space: joint
vary:
  mixture:
    - {clothes: 1, digits: 1}
    - simplex: {resolution: 4, min: {digits: 0.25}, max: {both: 0.5}, components: [digits, both]}
    - dirichlet: {alpha: {clothes: 0.5, both: 2}, samples: 20, seed: 1}
    - leave_one_out
    - proportional
    - temperature: 0.5
  ordering:
    - shuffled
    - sequential: [clothes, digits, both, mine]
    - blocked: {sequence: [clothes, digits, both, mine], repeats: 4}
    - annealed: {from: {clothes: 1}, to: {digits: 1}}
    - curriculum: hard_first
    - withheld: {component: digits, from: 0.0, until: 0.3}
  architecture: [cnn, resnet18, convnext_tiny]
  width: {range: [0.25, 1], log: true}
  depth: [default, 4]
  representation:
    - single
    - random_init
    - {cat: 4}
    - {time_cat: 4}
    - {complement: 2}
    - {snapshots: 5}
    - {wide: 2}
    - {distilled: 3}
    - {bonsai: 2}
    - {cat_pca: 4}
    - {cat_average: 4}
  steps: [1000, 2000]
  train_examples: [1000, all]
  training:
    - {}
    - {weight_decay: 0.0005, dropout: 0.5}
    - {schedule: trapezoid, decay_share: 0.3, cycles: 1}
    - {augment: [], deficit: {kind: blur, window: [0, 0.4]}}
seeds: [0, 7, 9]
pretrain:
  steps: 2000
  batch_size: 64
  optimizer: adamw
  learning_rate: 1e-3
  cycles: 2
  dropout: 0.1
  augment: [flip, crop]
  deficit: {kind: grey, window: [0.25, 0.5]}
transfer:
  protocols:
    - linear_probe
    - {ridge: {l2: [1e-3, 1]}}
    - {knn: {neighbours: [1, 20]}}
    - mlp_probe
    - {ntk_probe: {}}
    - head_repair
    - finetune
    - {finetune: {learning_rates: [0.01], steps: 100, batch_size: 32, dropout: 0.9}}
    - {lp_ft: {steps: 50}}
    - two_stage
  l2: [1e-5, 0.1]
  train_examples: 3000
  shots: [10, 100, all]
direct: {kind: full, steps: [500, 1000]}
retention: {examples: 500, layers: true}
trajectory: {points: 8, examples: 300, plasticity_steps: 20}
search: {random: {samples: 20, seed: 3}}
resources: {cpu: 2, gpu: 0.5}
"""


def error(text: str, *overrides: str) -> str:
    """The message that refuses a text, called x.yaml."""
    with pytest.raises(SweepError) as caught:
        parse(text, "x.yaml", overrides)
    return str(caught.value)


def outcome(text: str, *overrides: str) -> Sweep | str:
    """The sweep, or the message that refuses it. Nothing but a SweepError is a refusal."""
    try:
        return parse(text, "x.yaml", overrides)
    except SweepError as refused:
        return str(refused)


# What is possible -----------------------------------------------------------------------------------------------------


def test_a_sweep_has_the_values_of_its_file():
    found = parse(EVERYTHING, "x.yaml")
    assert found.name == "fashion-vs-digits"
    assert list(found.components) == ["clothes", "digits", "both", "mine"]
    assert found.components["digits"].classes == (0, 1, 2, 3, 4)
    assert found.components["mine"].options == {"size": 3, "deep": True, "name": "no"}
    assert found.image.size == (28, 28)
    assert [kind.label for kind in found.vary.representation] == [
        "single", "random_init", "cat:4", "time_cat:4", "complement:2", "snapshots:5", "wide:2", "distilled:3",
        "bonsai:2", "cat_pca:4", "cat_average:4",
    ]  # fmt: skip
    assert found.vary.depth == (None, 4)
    assert found.vary.train_examples == (1000, None)
    assert found.seeds == (0, 7, 9)
    assert found.pretrain.learning_rate == 0.001
    assert [len(change.changes) for change in found.vary.training] == [0, 2, 3, 2]
    assert found.pretrain.deficit.label == "grey 0.25-0.5"
    assert found.transfer.l2 == (1e-5, 0.1)
    assert found.transfer.shots == (10, 100, None)
    assert found.direct.steps == (500, 1000)
    assert (found.retention.examples, found.retention.layers) == (500, True)
    assert (found.trajectory.points, found.trajectory.plasticity_steps) == (8, 20)
    assert found.resources.gpu == 0.5


def test_three_keys_are_a_sweep_and_the_rest_has_defaults():
    found = parse(SMALL, "x.yaml")
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.pretrain.training(found.pretrain.steps) == spec.Training(steps=2000)
    assert found.transfer.specs() == (spec.Transfer(),)
    assert found.direct.kind == "same_steps"
    assert (found.retention, found.trajectory) == (None, None)
    assert [change.label for change in found.vary.training] == [""]


def test_one_value_is_an_axis_of_one_value():
    one, listed = (
        parse(f"{SMALL}vary: {{width: {w}, ordering: {o}}}", "x.yaml")
        for w, o in (("2", "shuffled"), ("[2]", "[shuffled]"))
    )
    assert one == listed


@pytest.mark.parametrize("key", ["retention", "trajectory"])
def test_a_measurement_is_switched_on_with_its_defaults_and_off_again(key):
    on, spelled, off, absent = (
        parse(f"{SMALL}{written}", "x.yaml") for written in (f"{key}: true", f"{key}: {{}}", f"{key}: false", "")
    )
    assert on == spelled != off == absent


def test_a_number_of_seeds_is_that_many_from_zero():
    assert parse(f"{SMALL}seeds: 3", "x.yaml").seeds == (0, 1, 2)


def test_a_sweep_keeps_its_text_which_makes_no_difference():
    found = parse(SMALL, "small.yaml", ["seeds=5"])
    assert (found.text, found.path, found.overrides) == (SMALL, "small.yaml", ("seeds=5",))
    assert found == parse(f"# the same\n{SMALL}", "other.yaml")


def test_a_component_is_read_by_its_source():
    found = parse(EVERYTHING, "x.yaml")
    assert found.components["both"].source(found.image) == spec.Source(
        dataset="dominoes",
        options='{"informative":"both","noise_right":1}',
        image_size=(28, 28),
        channels=1,
    )
    assert found.components["clothes"].source(Image()) == spec.Source(dataset="fashion_mnist", train_examples=10000)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+2", 2),
        ("10_000", 10000),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("~", None),
        ("", None),
    ],
)
def test_a_word_is_read_as_yaml_1_2_has_it(written, value):
    text = f"{SMALL}  c: {{dataset: 'python:m:a', options: {{x: {written}}}}}"
    found = parse(text, "x.yaml").components["c"].options["x"]
    assert found == value
    assert type(found) is type(value)


def test_an_alias_stands_for_what_its_anchor_marks():
    text = f"{SMALL}vary: {{mixture: [{{a: &half 0.5, b: *half}}], width: &w [1, 2], depth: *w}}"
    assert parse(text, "x.yaml").vary.depth == (1, 2)


def test_a_file_may_begin_with_a_byte_order_mark_and_have_the_line_ends_of_windows(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read(path) == parse(SMALL, "x.yaml")


@given(st.floats(0, 1e300), st.floats(1e-300, 1e300))
def test_a_float_survives_being_written_and_read(weight, other):
    found = parse(f"{SMALL}vary: {{mixture: {{a: {weight!r}, b: {other!r}}}}}", "x.yaml")
    assert found.vary.mixture[0].root == {"a": weight, "b": other}


# Round trips ----------------------------------------------------------------------------------------------------------


def test_resolved_fills_every_default_in():
    filled = yaml.safe_load(resolved(parse(SMALL, "x.yaml")))
    assert list(filled) == list(Sweep.model_fields)
    assert filled["pretrain"]["learning_rate"] == 0.1
    assert filled["vary"]["train_examples"] == ["all"]


@pytest.mark.parametrize("text", [SMALL, EVERYTHING])
def test_reading_what_resolved_writes_gives_the_same_sweep(text):
    found = parse(text, "x.yaml")
    assert parse(resolved(found), "y.yaml") == found


WORDS = st.one_of(
    st.sampled_from(["no", "1e-3", "~", "null", "12:30", "0o17", "- a", "a: b", "#", "*a", " ", "", "<<", "=", "!x"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
SHARES = st.floats(0, 1)


@st.composite
def written_sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """Sweeps as they would stand in a file, with odd words and numbers in them."""
    options = draw(
        st.dictionaries(WORDS, st.one_of(WORDS, st.integers(), st.booleans(), st.none(), SHARES), max_size=3)
    )
    weight = st.floats(0, 1e6)
    return {
        "name": draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)),
        "question": draw(WORDS.filter(lambda w: re.search(r"\S", w))),
        "components": {
            "a": {"dataset": "python:m:a", "options": options},
            "b": {"dataset": "mnist", "train_examples": draw(st.none() | st.integers(1, 10**9))},
        },
        "vary": {
            "mixture": [
                {"a": draw(weight), "b": draw(weight.filter(bool))},
                draw(st.sampled_from(["proportional", "leave_one_out"])),
            ],
            "ordering": draw(
                st.sampled_from(
                    ["shuffled", {"sequential": ["b", "a"]}, {"annealed": {"from": {"a": 3}, "to": {"b": 1e-9}}}]
                )
            ),
            "width": draw(st.lists(st.floats(1e-9, 1000), min_size=1, max_size=4, unique=True)),
            "depth": draw(
                st.just({"range": [1, 9]}) | st.lists(st.none() | st.integers(1, 99), min_size=1, unique=True)
            ),
            "steps": draw(st.none() | st.lists(st.integers(1, 10**9), min_size=1, max_size=4, unique=True)),
        },
        "seeds": draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True)),
        "pretrain": {"learning_rate": draw(st.floats(1e-30, 1e30)), "weight_decay": draw(st.floats(0, 1e30))},
        "search": {"random": {"samples": draw(st.integers(1, 10**6))}},
    }


@given(written_sweeps())
def test_every_sweep_can_be_written_down_and_read_again(written):
    found = Sweep.model_validate(written)
    assert parse(resolved(found), "x.yaml") == found


# --set ----------------------------------------------------------------------------------------------------------------


def test_set_replaces_values_and_adds_keys():
    found = parse(
        SMALL,
        "x.yaml",
        [
            "pretrain.steps=100",
            "vary.width=[0.5, 1]",
            "vary.mixture=[{a: 1}, {b: 1}]",
            "vary.mixture[1].a=1e-1",
            "components.b.train_examples=500",
            "components.c.dataset=kmnist",
            "question=What if a=b?",
        ],
    )
    assert found.pretrain.steps == 100
    assert found.vary.width == (0.5, 1)
    assert found.vary.mixture[1].root == {"b": 1, "a": 0.1}
    assert found.components["b"].train_examples == 500
    assert list(found.components) == ["a", "b", "c"]
    assert found.question == "What if a=b?"


def test_a_later_set_wins_over_an_earlier_one():
    assert parse(SMALL, "x.yaml", ["pretrain.steps=1", "pretrain.steps=2"]).pretrain.steps == 2


def test_set_changes_one_of_two_places_that_share_an_anchor():
    text = f"{SMALL}vary: {{width: &w [1, 2], depth: *w}}"
    assert parse(text, "x.yaml", ["vary.depth[0]=3"]).vary.width == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "pretrain.steps=x",
            "--set pretrain.steps=x: pretrain.steps: found 'x'; a whole number from 1 to 1000000000 is possible",
        ),
        ("vary.width=[1, wide]", "--set vary.width=[1, wide]: vary.width[1]: found 'wide'; a number above 0"),
        ("pretrian.steps=3", "--set pretrian.steps=3: pretrian: found an unknown key 'pretrian'; "),
        ("pretrain.step=3", "--set pretrain.step=3: pretrain.step: found an unknown key 'step'; "),
        ("vary.width=", "--set vary.width=: vary.width: found nothing; at least one value is needed"),
        ("name.x=3", "--set name.x=3: found 'small' where 'x' is to be set; it has no such key"),
        ("vary.width=[1", "--set vary.width=[1: found text that is not YAML: "),
        ("vary.width=!!python/name:os.system", "found the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("vary.width", "--set vary.width: found no key.path=value; pretrain.steps=100 is an example"),
        ("=3", "--set =3: found no key.path=value"),
        ("a..b=3", "--set a..b=3: found no key.path=value"),
        ("seeds=1\n2", r"--set seeds=1\n2: seeds: found '1 2'"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_setting_as_the_place(override, message):
    found = error(SMALL, override)
    assert message in found
    assert "\n" not in found


# What is refused ------------------------------------------------------------------------------------------------------


def test_there_are_many_malformed_files():
    assert len(MALFORMED) > 45


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: path.stem)
def test_a_malformed_file_is_refused_in_one_line_with_file_line_and_remedy(path):
    expected = path.read_bytes().splitlines()[0].decode().removeprefix("# expect: ")
    with pytest.raises(SweepError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()  # so it has no line breaks, and nothing that a terminal obeys
    assert re.match(rf"{re.escape(str(path))}:\d+: ", message)
    assert re.search(expected, message)


def test_a_value_is_reported_on_its_own_line_and_a_key_on_that_of_the_key():
    text = f"{SMALL}vary:\n  width:\n    - 1\n    - wide\n  depth:\n    []\n"
    assert error(text).startswith("x.yaml:9: vary.width[1]: ")
    assert error(text, "vary.width=1").startswith("x.yaml:10: vary.depth: ")


def test_an_aliased_value_is_reported_where_it_is_used():
    assert error(f"{SMALL}image: {{size: &w 0.5}}\nvary:\n  width: 1\n  steps: *w\n", "image.size=8").startswith(
        "x.yaml:9: "
    )


def test_the_first_of_several_problems_is_reported():
    assert error(f"{SMALL}seeds: 0\nvary: {{width: 0}}\nimage: {{channels: 9}}").startswith("x.yaml:6: seeds: ")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("components.b", "x.yaml:5: components.b: gone"),
        ("components.b.dataset", "x.yaml:5: components.b.dataset: gone"),
        ("vary.mixture[1].b", "x.yaml:8: vary.mixture[1].b: gone"),
        ("vary.mixture[9]", "x.yaml:7: vary.mixture[9]: gone"),
        ("vary.architecture", "x.yaml:6: vary.architecture: gone"),  # a default: where it would stand
        ("seeds", "--set seeds=2: seeds: gone"),
    ],
)
def test_what_comes_to_light_later_is_reported_at_its_place_too(path, place):
    found = parse(f"{SMALL}vary:\n  mixture: [{{a: 1}},\n    {{b: 1}}]\n", "x.yaml", ["seeds=2"])
    assert str(found.error(path, "gone")) == place


def test_a_value_is_shortened_in_a_message():
    assert len(error(f"{SMALL}seeds: {'x' * 1000}")) < 200


def test_a_message_holds_nothing_that_a_terminal_obeys():
    message = error(f'{SMALL}"\\e[2J\\n": 1')
    assert message.isprintable()
    assert r"\x1b[2J" in message


def test_a_bomb_of_aliases_is_refused_at_once():
    (bomb,) = (path for path in MALFORMED if path.stem == "anchor_bomb")
    begin = time.process_time()
    with pytest.raises(SweepError):
        read(bomb)
    assert time.process_time() - begin < 0.5


def test_a_list_of_too_many_values_is_refused():
    assert "found more than 100000 values" in error(f"{SMALL}seeds: [{'0,' * 100_001}]")


def test_deep_nesting_is_refused_before_it_reaches_a_limit_of_the_interpreter():
    assert "found more than 32 lists and mappings" in error("[" * 500_000)


def test_a_file_that_is_not_there_names_the_nearest_one(tmp_path):
    (tmp_path / "ordering.yaml").write_text(SMALL)
    with pytest.raises(SweepError, match=r"/odering.yaml: found no such file; did you mean 'ordering.yaml'\?"):
        read(tmp_path / "odering.yaml")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(SweepError, match=r"found nothing that can be read \(Is a directory\)"):
        read(tmp_path)


def test_a_file_of_a_megabyte_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(SMALL + "#" * 1_000_000)
    with pytest.raises(SweepError, match=r"large\.yaml:1: found more than 1000000 bytes"):
        read(path)


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["a", "b", "range", "simplex", "cat", "finetune", "random_init"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "simplex", "sequential", "cat", "range", "knn", "deficit", "dropout"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(value: Any, path: str = "") -> list[str]:
    """The path of everything in a sweep file, as `--set` has it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [place for key, v in inner for place in places(v, f"{path}.{key}" if path else str(key))]
    return [*([path] if path else []), *below]


@example("name", {"\xa0": None})  # a space that does not break is not printable
@settings(max_examples=300)
@given(st.sampled_from(places(yaml.safe_load(EVERYTHING))), JUNK)
def test_junk_anywhere_in_a_sweep_is_a_sweep_or_one_line(place, junk):
    written = yaml.safe_dump(junk, default_flow_style=True, allow_unicode=False).removesuffix("...\n")
    found = outcome(EVERYTHING, f"{place}={written}")
    if isinstance(found, Sweep):
        assert parse(resolved(found), "y.yaml") == found
    else:
        assert found.isprintable()


@example(0, 0, "\xa0")  # a key that begins with a space that does not break
@settings(max_examples=300)
@given(
    st.integers(0, len(EVERYTHING)),
    st.integers(0, 20),
    st.text(max_size=10) | st.sampled_from(list("[]{}:,-#&*!|>'\"%@`\t\n")),
)
def test_a_damaged_text_is_a_sweep_or_one_line(position, length, inserted):
    found = outcome(EVERYTHING[:position] + inserted + EVERYTHING[position + length :])
    if isinstance(found, str):
        assert found.isprintable()
        assert re.match(r"x\.yaml:\d+: ", found)


# Where sweeps lie -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _two_canonical_sweeps(tmp_path, monkeypatch):
    for name in ("ordering", "saturation"):
        (tmp_path / f"{name}.yaml").write_text(SMALL)
    monkeypatch.setattr(sweeps, "_canonical_folder", lambda: tmp_path)


@pytest.mark.usefixtures("_two_canonical_sweeps")
def test_a_canonical_sweep_is_found_by_its_name(tmp_path):
    assert canonical() == ["ordering", "saturation"]
    assert locate("ordering") == tmp_path / "ordering.yaml"


@pytest.mark.usefixtures("_two_canonical_sweeps")
def test_an_unknown_name_lists_the_canonical_sweeps_and_the_nearest():
    with pytest.raises(
        SweepError, match=r"found no sweep 'odering'; ordering, saturation and .* did you mean 'ordering'\?"
    ):
        locate("odering")


@pytest.mark.parametrize("name", canonical())
def test_a_sweep_that_comes_with_the_program_can_be_read(name):
    assert read(locate(name)).name


@pytest.mark.parametrize("path", ["mine.yaml", "mine.yml", "folder/mine", "./mine"])
def test_a_path_is_left_as_it_is(path):
    assert locate(path) == Path(path)


# The schema -----------------------------------------------------------------------------------------------------------


def schema_objects(schema: Any) -> list[dict[str, Any]]:
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return [
        *([schema] if isinstance(schema, dict) else []),
        *(found for value in inner for found in schema_objects(value)),
    ]


def test_every_key_has_a_description_in_the_schema():
    bare = [
        key
        for found in schema_objects(json_schema())
        for key, about in found.get("properties", {}).items()
        if not about.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("text", [SMALL, EVERYTHING])
def test_the_schema_accepts_what_the_program_accepts(text):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(validator.schema)
    for written in (text.replace("1e-", "1.0e-"), resolved(parse(text, "x.yaml"))):
        assert [
            e.message for e in validator.iter_errors(yaml.safe_load(written.replace("name: no", "name: 'no'")))
        ] == []


@pytest.mark.parametrize("name", canonical())
def test_the_schema_accepts_every_sweep_that_ships(name):
    jsonschema = pytest.importorskip("jsonschema")
    written = yaml.safe_load(
        re.sub(r"(?<![\d.])(\d+)(e-\d)", r"\1.0\2", locate(name).read_text())
    )  # as YAML 1.1 writes
    errors = jsonschema.Draft202012Validator(json_schema()).iter_errors(written)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_every_key_that_may_be_left_out_shows_its_default_in_the_schema():
    bare = [
        key
        for found in schema_objects(json_schema())
        for key, about in found.get("properties", {}).items()
        if "default" not in about and key not in found.get("required", ())
    ]
    assert bare == []


@pytest.mark.parametrize(
    "stem",
    [
        "unknown_axis",
        "unknown_optimizer",
        "negative_weight",
        "empty_axis",
        "missing_dataset",
        "cat_of_one",
        "shots_zero",
        "trajectory_of_one_point",
        "unknown_deficit",
        "unknown_protocol_setting",
        "retention_is_a_number",
    ],
)
def test_the_schema_refuses_what_an_editor_can_know(stem):
    jsonschema = pytest.importorskip("jsonschema")
    (path,) = (path for path in MALFORMED if path.stem == stem)
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(path.read_text()))


# Defaults and cost ----------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_specs():
    """They are written once more only where a Literal needs it."""
    defaults = spec.Training(steps=1)
    assert sweeps.Pretrain(steps=1).training(1) == defaults


def test_reading_a_sweep_imports_nothing_heavy():
    program = (
        "import sys; from orchestrator import space, sweep\n"
        "assert list(space.points(sweep.parse(sys.argv[1], 'x.yaml'), {'a': 1, 'b': 1}))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, SMALL], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "mlflow", "pandas", "scipy", "sklearn", "matplotlib"} & set(done.stdout.split())


def test_importing_the_models_needs_no_numpy():
    program = "import sys, orchestrator.sweep, orchestrator.space; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_kind_that_no_sweep_has_named_is_not_built():
    """To build a model is to make its validator; most sweeps name few of the kinds."""
    program = (
        "import sys; from orchestrator import mixtures, orderings, sweep, transfer\n"
        "sweep.parse(sys.argv[1], 'x.yaml')\n"
        "kinds = [*mixtures.MIXTURES.values(), *orderings.ORDERINGS.values(), *transfer.PROTOCOLS.values()]\n"
        "print(*(kind.__name__ for kind in kinds if kind.__pydantic_complete__))"
    )
    text = SMALL + "vary: {mixture: [{simplex: {resolution: 2}}, proportional]}\n"
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"Simplex", "Proportional", "Shuffled", "LinearProbe"}


def test_a_model_of_another_axis_is_no_value_of_this_one():
    mixture = parse(SMALL, "small.yaml").vary.mixture
    with pytest.raises(ValidationError, match=r"shuffled, .* is possible"):
        Vary(ordering=mixture)


def test_reading_a_sweep_takes_less_than_fifty_milliseconds(tmp_path):
    path = tmp_path / "everything.yaml"
    path.write_text(EVERYTHING)
    read(path)  # builds the validators

    def seconds() -> float:
        begin = time.process_time()
        read(path)
        return time.process_time() - begin

    assert min(seconds() for _ in range(5)) < 0.05
