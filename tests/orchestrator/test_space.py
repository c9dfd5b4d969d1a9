"""Points and orderings of a sweep, against laws and against answers worked out by hand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import component

from orchestrator.orderings import ORDERINGS
from orchestrator.simplex import Region
from orchestrator.space import Point, Space, key, ordering_of, points
from orchestrator.sweep import Sweep, SweepError, parse
from orchestrator.training import TrainingChange
from trainables import ordering as streams
from trainables.mixture import mixture_of
from trainables.spec import SHUFFLED, Ordering

SIZES = {"a": 100, "b": 300, "c": 600}
CONTENTS = {"a": "content a", "b": "content b", "c": "content c"}
DATASETS = ("digits", "mnist", "kmnist", "usps")


def sweep(vary: str = "{}", names: str = "abc", **keys: str) -> Sweep:
    """A sweep over components a, b, c with these axes and other keys, as YAML."""
    components = ", ".join(f"{name}: {{dataset: {dataset}}}" for name, dataset in zip(names, DATASETS, strict=False))
    rest = "".join(f"{key}: {value}\n" for key, value in keys.items())
    return parse(f"name: x\nquestion: Why?\ncomponents: {{{components}}}\nvary: {vary}\n{rest}", "x.yaml")


def mixtures(choice: str, names: str = "abc") -> list[tuple[float, ...]]:
    """The (K,) shares of every mixture of a sweep."""
    found = points(sweep(f"{{mixture: {choice}}}", names), SIZES)
    return [tuple(share for _, share in point.weights) for point in found]


def ordering(choice: str, *present: str) -> Ordering:
    """An ordering of the components that are present."""
    kind = sweep(f"{{mixture: [leave_one_out], ordering: [{choice}]}}").vary.ordering[0]
    return ordering_of(kind, {name: CONTENTS[name] for name in present})


# Mixtures -------------------------------------------------------------------------------------------------------------


def test_a_component_without_weight_is_part_of_every_point():
    assert [p.weights for p in points(sweep("{mixture: {b: 3, a: 1}}"), {})] == [(("a", 0.25), ("b", 0.75), ("c", 0.0))]


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=3), st.integers(1, 1000))
def test_multiplying_every_weight_gives_the_same_point(weights, factor):
    written = [f"{{a: {w[0]}, b: {w[1]}, c: {w[2]}}}" for w in (weights, [factor * w for w in weights])]
    assert mixtures(written[0]) == mixtures(written[1])


def test_a_tenth_is_a_tenth_however_it_is_written():
    assert len(set(mixtures("[{a: 0.1, b: 0.2}, {a: 1, b: 2}, {a: 3, b: 6}, {a: 1e-3, b: 2.0e-3}]"))) == 1


def test_equal_mixtures_are_one_point_where_the_first_of_them_stands():
    assert mixtures("[{a: 1, b: 1}, leave_one_out, {simplex: {resolution: 2}}]") == [
        (0.5, 0.5, 0.0),
        (0.0, 0.5, 0.5),
        (0.5, 0.0, 0.5),
        (0.0, 0.0, 1.0),
        (0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0),
    ]


def test_the_quarters_of_two_components_are_five_mixtures_with_both_corners():
    assert mixtures("{simplex: {resolution: 4}}", "ab") == [
        (0.0, 1.0),
        (0.25, 0.75),
        (0.5, 0.5),
        (0.75, 0.25),
        (1.0, 0.0),
    ]


@given(st.integers(1, 12), st.integers(1, 4))
def test_a_simplex_without_bounds_has_as_many_points_as_stars_and_bars_say(resolution, num_components):
    found = mixtures(f"{{simplex: {{resolution: {resolution}}}}}", "abcd"[:num_components])
    assert len(set(found)) == len(found) == math.comb(resolution + num_components - 1, num_components - 1)
    assert all(sum(shares) == pytest.approx(1) for shares in found)
    assert {tuple(float(i == j) for j in range(num_components)) for i in range(num_components)} <= set(found)


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted), min_size=3, max_size=3),
)
def test_a_simplex_with_bounds_has_exactly_the_points_within_them(resolution, percents):
    bounds = ", ".join(
        f"{key}: {{{', '.join(f'{name}: {p[i] / 100}' for name, p in zip('abc', percents, strict=True))}}}"
        for i, key in enumerate(("min", "max"))
    )
    whole = set(Region(resolution, dict.fromkeys("abc", (0, resolution))))
    within = {
        multiples
        for multiples in whole
        if all(
            low * resolution <= 100 * multiple <= high * resolution
            for multiple, (low, high) in zip(multiples, percents, strict=True)
        )
    }
    if within:
        found = mixtures(f"{{simplex: {{resolution: {resolution}, {bounds}}}}}")
        assert sorted(found) == sorted(tuple(x / resolution for x in k) for k in within)
    else:
        with pytest.raises(SweepError, match="no mixture of multiples"):
            mixtures(f"{{simplex: {{resolution: {resolution}, {bounds}}}}}")


def test_bounds_are_the_decimals_that_were_written():
    """As floats, 0.7 times 10 is above 7 and 0.29 times 100 is below 29."""
    assert mixtures("{simplex: {resolution: 10, min: {a: 0.7}, max: {a: 0.7}}}", "ab") == [(0.7, 0.3)]
    assert mixtures("{simplex: {resolution: 100, min: {a: 0.29}, max: {a: 0.29}}}", "ab") == [(0.29, 0.71)]


def test_a_simplex_of_some_components_gives_the_others_no_weight():
    assert mixtures("{simplex: {resolution: 1, components: [c, a]}}") == [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]


@given(st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_dirichlet_draws_are_mixtures_and_those_of_more_samples_begin_alike(alpha, seed):
    few = mixtures(f"{{dirichlet: {{alpha: {alpha}, samples: 3, seed: {seed}}}}}")
    many = mixtures(f"{{dirichlet: {{alpha: {alpha}, samples: 6, seed: {seed}}}}}")
    assert many[: len(few)] == few
    assert all(sum(shares) == pytest.approx(1) and min(shares) >= 0 for shares in many)


def test_a_dirichlet_draw_is_the_same_in_every_process_and_release():
    assert mixtures("{dirichlet: {samples: 2, seed: 7}}") == [
        (0.243457, 0.101733, 0.65481),
        (57929 / 999999, 591372 / 999999, 350698 / 999999),  # in millionths, and rounding lost one
    ]


def test_dirichlet_draws_average_to_their_concentrations():
    drawn = np.array(mixtures("{dirichlet: {alpha: {a: 1, c: 3}, samples: 2000}}"))
    assert np.all(drawn[:, 1] == 0)
    assert drawn.mean(0) == pytest.approx([0.25, 0, 0.75], abs=0.02)


def test_leaving_one_out_weighs_the_others_alike():
    assert mixtures("leave_one_out") == [(0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]


def test_proportional_weighs_by_number_of_examples():
    assert mixtures("proportional") == [(0.1, 0.3, 0.6)]


def test_temperature_runs_from_equal_to_proportional():
    equal, root, proportional = mixtures("[{temperature: 0}, {temperature: 0.5}, {temperature: 1}]")
    assert equal == (1 / 3, 1 / 3, 1 / 3)
    assert root == pytest.approx(
        [10 / (10 + 300**0.5 + 600**0.5)] + [n**0.5 / (10 + 300**0.5 + 600**0.5) for n in (300, 600)]
    )
    assert proportional == mixtures("proportional")[0]


# Points ---------------------------------------------------------------------------------------------------------------


def test_a_sweep_that_varies_nothing_has_the_point_of_the_defaults():
    (point,) = points(sweep(), SIZES)
    assert point == Point(
        weights=(("a", 0.1), ("b", 0.3), ("c", 0.6)),
        ordering=sweep().vary.ordering[0],
        architecture="cnn",
        width=1.0,
        depth=None,
        representation="single",
        steps=2000,
        train_examples=None,
        training=TrainingChange(),
    )


def test_a_grid_is_the_product_of_its_axes_with_the_mixture_slowest():
    found = list(
        points(
            sweep(
                "{mixture: [{a: 1}, {b: 1}], architecture: [mlp, cnn], width: [0.5, 1], depth: [default, 3], "
                "representation: [single, {cat: 2}, {time_cat: 4}], steps: [10, 20], train_examples: [all, 50]}"
            ),
            {},
        )
    )
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 * 3 * 2 * 2
    assert {p.weights[0][1] for p in found[: len(found) // 2]} == {1.0}
    assert {p.representation for p in found} == {"single", "cat:2", "time_cat:4"}
    assert {p.depth for p in found} == {None, 3}
    assert [p.train_examples for p in found[:2]] == [None, 50]


RANGES = "{width: {range: [0.1, 2], log: true}, depth: {range: [1, 3]}, steps: {range: [10, 1000], log: true}}"


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 30))
def test_random_points_are_distinct_lie_in_their_ranges_and_begin_those_of_more_samples(seed, samples, more):
    few, many = (
        list(points(sweep(RANGES, search=f"{{random: {{samples: {n}, seed: {seed}}}}}"), SIZES))
        for n in (samples, samples + more)
    )
    assert many[:samples] == few
    assert len(set(many)) == samples + more
    assert all(0.1 <= p.width <= 2 and p.depth in (1, 2, 3) and 10 <= p.steps <= 1000 for p in many)


def test_a_random_search_finds_every_point_of_a_small_space_once():
    axes = "{mixture: [{a: 1}, {b: 1}], depth: {range: [1, 3]}, width: [0.5, 1]}"
    found = list(points(sweep(axes, search="{random: {samples: 100}}"), {}))
    assert len(found) == len(set(found)) == 2 * 3 * 2


def test_a_logarithmic_range_is_uniform_over_the_logarithm():
    found = points(sweep("{width: {range: [0.01, 100], log: true}}", search="{random: {samples: 1000}}"), SIZES)
    assert sum(point.width < 1 for point in found) == pytest.approx(500, abs=60)  # four standard deviations


def test_a_hundred_thousand_points_take_about_a_second():
    axes = "{mixture: {simplex: {resolution: 40}}, ordering: [shuffled, {sequential: [a, b, c]}], "
    axes += "width: [0.5, 1, 2, 4], depth: [1, 2, 3], steps: [10, 20, 30, 40, 50]}"
    design = sweep(axes)
    begin = time.process_time()
    assert sum(1 for _ in points(design, SIZES)) == 861 * 2 * 4 * 3 * 5
    assert time.process_time() - begin < 1.5


# Sums -----------------------------------------------------------------------------------------------------------------


def test_a_lattice_obeys_the_bounds_of_a_sum():
    found = mixtures("{simplex: {resolution: 10, sums: [{components: [a, b], min: 0.3, max: 0.5}]}}")
    whole = mixtures("{simplex: {resolution: 10}}")
    assert found == [shares for shares in whole if 3 <= round(10 * (shares[0] + shares[1])) <= 5]


# Conditions -----------------------------------------------------------------------------------------------------------

WHEN = (
    "{architecture: [mlp, vit_tiny], depth: [1, 2, 3], width: [0.5, 1], "
    "when: {depth: {architecture: [vit_tiny]}, width: {depth: [default, 3]}}}"
)
ANY_SEARCH = ("grid", "{random: {samples: 50}}", "{sobol: {samples: 50}}", "{optuna: {samples: 50}}")


@pytest.mark.parametrize("search", ANY_SEARCH)
def test_an_axis_has_its_values_where_its_condition_holds_and_its_default_elsewhere(search):
    """By hand: mlp has no depth of its own, so both widths; vit_tiny has three depths, and widths at the third."""
    found = [(p.architecture, p.depth, p.width) for p in points(sweep(WHEN, search=search), SIZES)]
    assert len(found) == len(set(found))
    assert set(found) == {
        ("mlp", None, 0.5),
        ("mlp", None, 1.0),
        ("vit_tiny", 1, 1.0),
        ("vit_tiny", 2, 1.0),
        ("vit_tiny", 3, 0.5),
        ("vit_tiny", 3, 1.0),
    }


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_condition_leaves_the_draws_of_random_search_as_they_were(seed):
    """What it does not switch off is what was drawn without it, but for points that became equal to earlier ones."""
    free, bound = (
        [(p.architecture, p.width, p.depth) for p in points(sweep(vary, search=search(seed)), SIZES)]
        for vary, search in (
            ("{architecture: [mlp, vit_tiny], width: {range: [0.5, 2]}, depth: {range: [2, 9]}}", _random),
            (
                "{architecture: [mlp, vit_tiny], width: {range: [0.5, 2]}, depth: {range: [2, 9]}, "
                "when: {depth: {architecture: [vit_tiny]}}}",
                _random,
            ),
        )
    )
    assert bound == [(name, width, depth if name == "vit_tiny" else None) for name, width, depth in free]


def _random(seed: int) -> str:
    return f"{{random: {{samples: 10, seed: {seed}}}}}"


def test_a_condition_on_steps_has_those_of_the_pretraining_elsewhere():
    design = sweep("{architecture: [mlp, cnn], steps: [10, 20], when: {steps: {architecture: [mlp]}}}")
    assert {(p.architecture, p.steps) for p in points(design, SIZES)} == {("mlp", 10), ("mlp", 20), ("cnn", 2000)}


# Searches with coordinates --------------------------------------------------------------------------------------------

EVERY_AXIS = (
    "{mixture: [proportional, {simplex: {resolution: 12, min: {c: 0.25}, sums: [{components: [a, c], max: 0.75}]}}], "
    "ordering: [shuffled, {curriculum: easy_first}], architecture: [mlp, vit_tiny], "
    "width: {range: [0.25, 2], log: true}, depth: {range: [1, 6]}, "
    "representation: [single, {cat: 2}], steps: {range: [10, 1000], log: true}, "
    "train_examples: [50, all], training: [{}, {dropout: 0.5}], "
    "when: {depth: {architecture: [vit_tiny]}, train_examples: {ordering: [{curriculum: easy_first}]}}}"
)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_sobol_design_of_more_samples_begins_with_that_of_fewer(seed):
    few, many = (
        list(points(sweep(EVERY_AXIS, search=f"{{sobol: {{samples: {n}, seed: {seed}}}}}"), SIZES)) for n in (7, 16)
    )
    assert many[:7] == few
    assert len({key(point) for point in many}) == 16


@settings(max_examples=30)
@given(st.data())
def test_the_params_of_a_point_lead_back_to_it(data):
    space = Space(sweep(EVERY_AXIS, search="{optuna: {samples: 9}}"), SIZES)
    params = space.at([data.draw(st.floats(0, 1, exclude_max=True)) for _ in space.coordinates])
    point = space.point(json.loads(json.dumps(params)))
    assert space.point(space.params(point)) == point
    weights = dict(point.weights)
    assert all(round(12 * share) / 12 == share for share in weights.values())
    assert sum(round(12 * share) for share in weights.values()) == 12
    assert weights["c"] >= 0.25
    assert round(12 * (weights["a"] + weights["c"])) <= 9
    assert (point.depth is None) == (point.architecture == "mlp")
    assert point.train_examples is None or point.ordering.label == "curriculum:easy_first"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": (("a", 1.0), ("b", 0.0), ("c", 0.0))},
        {"weights": (("a", 0.25), ("d", 0.75))},
        {"width": 3.0},
        {"depth": 3},  # an mlp has no depth of its own here
        {"representation": "cat:3"},
        {"steps": 5},
        {"train_examples": 51},
    ],
)
def test_a_point_of_another_space_has_no_params(change):
    space = Space(sweep(EVERY_AXIS, search="{optuna: {samples: 9}}"), SIZES)
    (inside, *_) = space.start()
    assert inside.architecture == "mlp"
    assert space.params(inside) is not None
    assert space.params(replace(inside, **change)) is None


def test_a_search_begins_with_the_mixtures_beside_the_simplex_its_centroid_and_its_corners():
    choice = "[proportional, {a: 1, b: 1}, {simplex: {resolution: 10}}]"
    assert mixtures_of_search(choice, 6) == [
        (0.1, 0.3, 0.6),
        (0.5, 0.5, 0.0),
        (0.4, 0.3, 0.3),
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    ]
    bounded = "{simplex: {resolution: 10, max: {a: 0.5}, corners: true}}"
    assert set(mixtures_of_search(bounded, 5)[1:]) == {
        (0.5, 0.5, 0.0),
        (0.5, 0.0, 0.5),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    }
    assert (1.0, 0.0, 0.0) not in mixtures_of_search("{simplex: {resolution: 10, corners: false}}", 3)


def mixtures_of_search(choice: str, samples: int) -> list[tuple[float, ...]]:
    design = sweep(f"{{mixture: {choice}}}", search=f"{{optuna: {{samples: {samples}}}}}")
    return [tuple(share for _, share in point.weights) for point in points(design, SIZES)]


def test_a_mixture_to_begin_with_that_lies_outside_of_the_region_is_refused():
    design = sweep(
        "{mixture: [proportional, {simplex: {resolution: 10, max: {c: 0.5}}}]}", search="{sobol: {samples: 4}}"
    )
    with pytest.raises(SweepError, match=r"vary\.mixture: found \{a: 0\.1, b: 0\.3, c: 0\.6\} to begin with"):
        list(points(design, SIZES))


@pytest.mark.parametrize("search", ["{sobol: {samples: 100}}", "{optuna: {samples: 100}}"])
def test_a_search_of_a_small_space_has_each_of_its_points_once(search):
    found = list(points(sweep("{mixture: {simplex: {resolution: 3}}, architecture: [mlp, cnn]}", search=search), SIZES))
    assert len(found) == len({key(point) for point in found}) == 20


# Orderings ------------------------------------------------------------------------------------------------------------


def test_every_ordering_of_the_trials_can_be_asked_for_and_no_other():
    assert list(ORDERINGS) == list(streams.ORDERINGS)


EVERY_ORDERING = (
    "shuffled",
    "{sequential: [c, a, b]}",
    "{blocked: {sequence: [a, b, c], repeats: 3}}",
    "{annealed: {from: {a: 1, b: 1}, to: {c: 1}}}",
    "{curriculum: easy_first}",
    "{withheld: {component: a, from: 0.2, until: 0.5}}",
)


@pytest.mark.parametrize("choice", EVERY_ORDERING)
@pytest.mark.parametrize("present", ["a", "bc", "abc"])
def test_every_ordering_makes_a_stream_of_the_components_that_have_weight(choice, present):
    known = {name: component(CONTENTS[name], 50) for name in present}
    mixture = mixture_of(dict.fromkeys(present, 1.0), known, num_examples=90, train_examples=None, label_space="joint")
    difficulties = [np.arange(50.0)] * len(present)
    stream = streams.index_stream(mixture, ordering(choice, *present), seed=0, difficulties=difficulties)
    assert len(stream) == 90


def test_a_point_names_the_components_of_its_ordering():
    design = sweep("{mixture: {a: 1, c: 2}, ordering: {sequential: [c, b, a]}}")
    (point,) = points(design, {})
    assert ordering_of(point, CONTENTS) == Ordering(kind="sequential", sequence=("content c", "content a"))


@pytest.mark.parametrize("choice", [choice for choice in EVERY_ORDERING if "curriculum" not in choice])
def test_one_component_alone_is_shuffled_so_that_it_is_its_own_direct_baseline(choice):
    assert ordering(choice, "b") == SHUFFLED


def test_withholding_a_component_that_is_not_there_changes_nothing():
    assert ordering("{withheld: {component: a, until: 0.5}}", "b", "c") == SHUFFLED


def test_one_block_of_each_component_is_sequential():
    assert ordering("{blocked: {sequence: [a, b, c], repeats: 1}}", "a", "c") == ordering(
        "{sequential: [a, b, c]}", "a", "c"
    )


def test_annealing_depends_on_relative_weights_of_the_components_that_are_there():
    doubled = ordering("{annealed: {from: {a: 2, b: 2}, to: {c: 8}}}", "a", "b", "c")
    assert doubled == ordering("{annealed: {from: {b: 1, a: 1, c: 0}, to: {c: 1}}}", "a", "b", "c")
    assert doubled.start == (("content a", 0.5), ("content b", 0.5))
    assert ordering("{annealed: {from: {a: 1, b: 1}, to: {c: 1}}}", "b", "c").start == (("content b", 1.0),)


def test_annealing_from_a_mixture_to_itself_is_shuffled():
    assert ordering("{annealed: {from: {a: 1, b: 2}, to: {a: 2, b: 4}}}", "a", "b", "c") == SHUFFLED


def test_a_curriculum_and_a_window_keep_their_settings():
    assert ordering("{curriculum: hard_first}", "a") == Ordering(kind="curriculum", easy_first=False)
    assert ordering("{withheld: {component: a, from: 0.25, until: 0.5}}", "a", "b") == Ordering(
        kind="withheld", component="content a", window=(0.25, 0.5)
    )


@pytest.mark.parametrize(
    ("choice", "label"),
    [
        ("shuffled", "shuffled"),
        ("{sequential: [c, a, b]}", "sequential:c,a,b"),
        ("{blocked: {sequence: [a, b, c], repeats: 3}}", "blocked:a,b,c:3"),
        ("{annealed: {from: {a: 1}, to: {b: 0.5, c: 2}}}", "annealed:a=1:b=0.5,c=2"),
        ("{curriculum: easy_first}", "curriculum:easy_first"),
        ("{withheld: {component: a, until: 0.5}}", "withheld:a:0-0.5"),
    ],
)
def test_an_ordering_has_a_label_for_the_results_table(choice, label):
    assert sweep(f"{{ordering: [{choice}]}}").vary.ordering[0].label == label


def test_points_do_not_depend_on_the_hash_seed_of_a_process():
    program = (
        "import sys; from orchestrator import space, sweep\n"
        "print(*space.points(sweep.parse(sys.argv[1], 'x.yaml'), {}), sep='\\n')"
    )
    design = sweep(
        "{mixture: [leave_one_out, {dirichlet: {samples: 5}}], width: {range: [1, 2]}}",
        search="{random: {samples: 20}}",
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, design.text],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.splitlines()) == 20
