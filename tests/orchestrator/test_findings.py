"""What may be said of a table, and how often is it wrong? Tables with planted effects, and tables of noise."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from claim_tables import Planted, noise, row
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator import results
from orchestrator.analysis import Finding, Findings, find
from orchestrator.analysis.findings import ALONE, CONTROL, ITSELF, answer, evidence
from orchestrator.analysis.statistics import smallest_detectable
from orchestrator.cli import bottleneck

ORDERINGS = ("shuffled", "sequential:digits,clothes")
COST = {"training_flops": 2e9, "direct_steps": 2000, "members": 1}


RARE = ((-0.03, 0.0, 0.02), (0.02, -0.03, 0.0), (-0.02, 0.025, 0.0), (0.0, 0.02, -0.025))  # by design and seed


def planted(*, rare: bool = True) -> pd.DataFrame:
    """Two widths x two orderings.

    `digits` loses 5.6 points at width 0.25 and 1.4 at 0.5, whatever the ordering; `clothes` loses 3 points in the
    sequence alone; `kana` nothing; `rare` has three seeds, far apart.
    """
    sure, few = Planted(noise=0.0005), []
    designs = [(width, ordering) for width in (0.25, 0.5) for ordering in ORDERINGS]
    for (width, ordering), scattered in zip(designs, RARE, strict=True):
        gaps = {"digits": 0.056 if width == 0.25 else 0.014, "clothes": 0.0 if ordering == "shuffled" else 0.03}
        design = {"width": width, "ordering": ordering, "weight": 0.25, "mixture": "all", **COST}
        for component, gap in {**gaps, "kana": 0.0}.items():
            sure.add(transfer=0.9 - gap, component=component, **design)
        few += [row(transfer=0.9 - gap, component="rare", seed=s, **design) for s, gap in enumerate(scattered, 1)]
    return results.table([*sure.rows, *(few if rare else [])])


def of(found: Findings, kind: str, component: str | None = None) -> list[Finding]:
    return [one for one in found if one.kind == kind and component in (None, one.components[0])]


def only(found: Findings, kind: str, component: str | None = None) -> Finding:
    (one,) = of(found, kind, component)
    return one


def without_noise(one: Finding) -> str:
    """A sentence with the numbers that come of noise left out."""
    return re.sub(r"\[[^]]*\]", "[]", re.sub(r"p [<=] [\d.e-]+", "p", one.sentence))


# Planted effects


def test_nothing_is_said_of_planted_effects_but_what_is_so():
    found = find(planted())
    assert Counter((one.kind, one.components[0], one.verdict) for one in found) == {
        ("RECOMMENDATION", "digits", "train directly"): 1,
        ("RECOMMENDATION", "clothes", "serve from the mixture"): 1,
        ("RECOMMENDATION", "kana", "serve from the mixture"): 1,
        ("RECOMMENDATION", "rare", "cannot tell"): 1,
        ("LOSS", "digits", "loss"): 4,
        ("LOSS", "clothes", "loss"): 2,
        ("EQUIVALENCE", "clothes", "no loss"): 2,
        ("EQUIVALENCE", "kana", "no loss"): 4,
        ("CANNOT_TELL", "rare", "cannot tell"): 4,
        ("RECOVERY", "digits", "recovers"): 2,
        ("COST", "clothes", "costs"): 2,
        ("INTERACTION", "digits", "for some"): 1,  # of the width; `rare` cannot be told
        ("INTERACTION", "clothes", "for some"): 1,  # of the ordering
    } or "\n".join(one.sentence for one in found)
    for one in found:
        assert one.low <= one.effect <= one.high
        assert one.n == (3 if one.components[0] == "rare" else 5)
        assert f"n = {one.n}, adjusted p " in one.sentence
        assert f"[{100 * one.low + 0.0:.1f}, {100 * one.high + 0.0:.1f}]".replace("-0.0", "0.0") in one.sentence or (
            one.kind in ("COST", "GAIN") and f"[{-100 * one.high:.1f}, {-100 * one.low:.1f}]" in one.sentence
        )


def test_the_size_of_every_planted_effect_is_in_its_sentence():
    found = find(planted())
    said = {without_noise(one) for one in of(found, "LOSS", "digits")}
    place = "With the ordering `shuffled`, at width"
    assert f"{place} 0.25, the mixture loses 5.6 points [] of `digits` (n = 5, adjusted p)." in said
    assert f"{place} 0.5, the mixture loses 1.4 points [] of `digits` (n = 5, adjusted p)." in said
    for one in of(found, "RECOVERY"):
        assert one.effect == pytest.approx(0.042, abs=0.001)
        doubling = "doubling the width (0.25 to 0.5) recovers 4.2 points [] of the 5.6 that are lost of `digits` (n = 5"
        assert doubling in without_noise(one)
    for one in of(found, "COST"):
        assert one.effect == pytest.approx(-0.03, abs=0.001)
        assert f"ordering `{ORDERINGS[1]}` in place of `shuffled` costs `clothes`" in one.sentence
    for one in of(found, "EQUIVALENCE"):
        assert "there is no loss of `" in one.sentence
        assert "larger than 0.5 points: the gap is " in one.sentence
        assert abs(one.effect) < 0.001
    for one in of(found, "CANNOT_TELL"):
        deviation = (one.high - one.low) / 2 / stats.t.ppf(0.975, 2) * 3**0.5
        assert f"3 seeds detect {100 * smallest_detectable(deviation, 3):.1f} points" in one.sentence


def test_a_factor_matters_only_for_a_component_where_the_others_are_ruled_out():
    of_width, of_ordering = sorted(of(find(planted(rare=False)), "INTERACTION"), key=lambda one: one.effect)[::-1]
    assert without_noise(of_ordering).startswith(
        f"The ordering matters only for `clothes`: between `{ORDERINGS[1]}` and `shuffled` the gap of `clothes` "
    )
    assert "for `digits` and `kana` no two levels differ by 0.5 points" in of_ordering.sentence.replace(
        "`kana` and `digits`", "`digits` and `kana`"
    )
    assert (of_ordering.verdict, of_width.verdict) == ("only for some", "only for some")
    assert of_width.sentence.startswith("The width matters only for `digits`: between 0.25 and 0.5 ")
    unsure = next(one for one in of(find(planted()), "INTERACTION", "clothes"))
    assert "for `rare` it cannot be told" in unsure.sentence


def test_recommendations_name_the_design_and_its_cost():
    found = find(planted())
    price = "It costs 2.0e9 training FLOPs and 1 network for all components together, direct training 2.0e9 training "
    for component in ("digits", "clothes", "kana", "rare"):
        assert (
            f"{price}FLOPs and 1 network for `{component}` alone." in only(found, "RECOMMENDATION", component).sentence
        )
    assert "in the best of 4 ways to serve it" in only(found, "RECOMMENDATION", "digits").sentence
    assert "from the mixture with the ordering `shuffled`" in only(found, "RECOMMENDATION", "clothes").sentence


def test_a_rich_representation_is_recommended_where_the_single_network_loses():
    rows = Planted(noise=0.0005)
    for kind, gap, members in (("single", 0.05, 1), ("cat:2", 0.02, 2), ("cat:4", 0.0, 4), ("cat:8", 0.0, 8)):
        rows.add(
            transfer=0.9 - gap, representation=kind, **COST | {"members": members, "training_flops": 2e9 * members}
        )
    found = find(rows.table())
    one = only(found, "RECOMMENDATION")
    assert one.verdict == "serve from cat:4"
    assert one.sentence.startswith("Serve `hard` from `cat:4`: the gap to direct training is ")
    assert "8.0e9 training FLOPs and 4 networks for all components together, direct training 2.0e9" in one.sentence
    assert {without_noise(one).partition(" of the")[0] for one in of(found, "RECOVERY")} == {
        "`cat:2` in place of `single` recovers 3.0 points []",
        "`cat:4` in place of `single` recovers 5.0 points []",
        "`cat:8` in place of `single` recovers 5.0 points []",
    }


def test_serving_is_compared_with_the_best_direct_training_of_the_sweep():
    rows = Planted(noise=0.0005)
    for width, direct in ((1.0, 0.8), (2.0, 0.9)):
        rows.add(transfer=0.8, direct=direct, width=width)
    one = only(find(rows.table()), "RECOMMENDATION")
    assert one.verdict == "train directly"
    assert one.effect == pytest.approx(0.1, abs=0.002)


def test_a_gap_that_shrinks_because_direct_training_gets_worse_is_no_recovery():
    rows = Planted(noise=0.0005)
    for width, direct in ((1.0, 0.9), (2.0, 0.8)):
        rows.add(transfer=0.75, direct=direct, width=width)
    assert not of(find(rows.table()), "RECOVERY")


# What goes in, and what is counted


def test_a_table_filtered_by_a_statement_has_exactly_its_rows():
    table = planted()
    found = find(table)
    for one in found:
        rows = evidence(table, one)
        assert len(rows) == len(one.rows)
        assert set(rows["component"]) == set(one.components)
    loss = next(one for one in of(found, "LOSS", "digits") if "0.25" in one.sentence)
    rows = evidence(table, loss)
    assert (len(rows), set(rows["width"]), rows["ordering"].nunique()) == (5, {0.25}, 1)
    assert rows["gap"].mean() == pytest.approx(loss.effect)
    recovery = of(found, "RECOVERY")[0]
    by_width = evidence(table, recovery).groupby("width")["gap"].mean()
    assert by_width[0.25] - by_width[0.5] == pytest.approx(recovery.effect)


def test_rows_that_are_not_valid_and_ok_enter_nothing_and_are_counted():
    table = planted(rare=False)
    bad = [
        row(transfer=0.1, component="kana", width=0.25, weight=0.25, mixture="all", seed=seed) for seed in range(6, 12)
    ]
    for found, status in zip(bad, ("failed", "diverged", "pending", "ok", "ok", "ok"), strict=True):
        found["status"] = status
    bad[3] |= {"gap": None, "invalid": "the direct network is dead"}
    bad[4] |= {"pretrain_digest": "abc", "direct_digest": "abc"}
    bad[5] |= {"representation": "random_init"}
    found = find(pd.concat([table, results.table(bad)], ignore_index=True))
    clean = {one.sentence.partition(" (n = ")[0]: one.effect for one in find(table)}
    assert {one.sentence.partition(" (n = ")[0]: one.effect for one in found} == clean
    assert found.left_out == {"failed": 1, "diverged": 1, "pending": 1, "invalid": 1, ITSELF: 1, CONTROL: 1}
    assert found.rows == len(table) + 6
    (told,) = (one for one in of(found, "EQUIVALENCE", "kana") if one.left_out)
    assert (
        "left out: 1 direct training compared with itself, 1 diverged, 1 failed, 1 invalid, 1 pending" in told.sentence
    )


def test_one_seed_says_nothing_and_two_are_not_tested():
    one = find(Planted([1]).add(transfer=0.8).table())
    assert (len(one), one.left_out) == (0, {ALONE: 1})
    two = find(Planted([1, 2]).add(transfer=0.8).table())
    assert {(told.verdict, told.p) for told in two} == {("cannot tell", None)}
    assert "3 seeds are the least that are tested" in only(two, "CANNOT_TELL").sentence
    assert len(find(results.table([]))) == 0


def test_equal_accuracies_on_a_small_test_set_are_not_certain():
    rows = [row(transfer=0.89, seed=seed, num_test=100) for seed in (1, 2, 3)]
    assert not of(find(results.table(rows)), "LOSS")
    assert of(find(results.table([found | {"num_test": 10_000} for found in rows])), "LOSS")


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": float("nan")}, {"alpha": 0.0}, {"alpha": 0.5}])
def test_an_impossible_margin_or_rate_is_refused(wrong):
    with pytest.raises(ValueError, match="so "):
        find(planted(), **wrong)


# The order


def test_what_is_certain_is_ranked_by_the_end_of_the_interval_that_is_nearer_to_0():
    ranked = list(find(planted()))
    kinds = ["RECOMMENDATION", "certain", "EQUIVALENCE", "CANNOT_TELL"]
    order = [kinds.index(one.kind) if one.kind in kinds else 1 for one in ranked]
    assert order == sorted(order)
    sizes = [one.size for one, place in zip(ranked, order, strict=True) if place == 1]
    assert sizes == sorted(sizes, reverse=True)
    narrow = Planted(noise=0.0).add(transfer=0.86, component="narrow").rows
    wide = [row(transfer=0.9 - gap, component="wide", seed=s) for s, gap in enumerate((0.02, 0.16, 0.05, 0.2, 0.12))]
    losses = of(find(results.table([*narrow, *wide])), "LOSS")
    assert [one.components[0] for one in losses] == ["narrow", "wide"]
    assert losses[1].effect > 2 * losses[0].effect


# Laws


def shuffled(table: pd.DataFrame, start: int) -> pd.DataFrame:
    return table.sample(frac=1, random_state=start).reset_index(drop=True)


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_the_order_of_rows_changes_nothing(start):
    assert find(shuffled(noise(start % 7), start)) == find(noise(start % 7))
    assert find(shuffled(planted(), start)) == find(planted())


@settings(max_examples=5)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.5, 2.0]))
def test_another_unit_scales_every_effect_and_decides_nothing_else(start, unit):
    for table in (planted(), noise(start)):
        columns = ["gap", "transfer_accuracy", "direct_probe_accuracy"]
        scaled = table.assign(**{name: table[name] * unit for name in columns})
        one, other = (
            {(f.kind, f.verdict, f.rows): (f.effect, f.low, f.high, f.p) for f in found}
            for found in (find(table), find(scaled, margin=0.005 * unit))
        )
        assert one.keys() == other.keys()
        for key, (effect, low, high, p) in one.items():
            assert other[key] == pytest.approx((effect * unit, low * unit, high * unit, p), rel=1e-6, abs=1e-9)


@settings(max_examples=8)
@given(st.permutations(["digits", "clothes", "kana", "rare"]))
def test_other_names_of_components_change_the_names_in_sentences_alone(names):
    table = planted().assign(ordering=lambda t: t["ordering"].replace(ORDERINGS[1], "one then two"))
    other = dict(zip(("digits", "clothes", "kana", "rare"), names, strict=True))
    renamed = find(table.assign(component=table["component"].map(other).astype("string")))
    expected = [
        re.sub("|".join(f"`{name}`" for name in other), lambda m: f"`{other[m[0][1:-1]]}`", one.sentence)
        for one in find(table)
    ]
    assert sorted(one.sentence for one in renamed) == sorted(expected)


def test_rows_of_another_sweep_change_nothing_in_this_one():
    mine, other = planted(), noise(3).assign(sweep="other")
    together = find(shuffled(pd.concat([mine, other], ignore_index=True), 1))
    assert [one for one in together if one.sweep == "planted"] == list(find(mine))
    assert [one for one in together if one.sweep == "other"] == list(find(other))


# Noise


def test_the_answer_is_what_is_lost_what_changes_that_and_what_to_do_about_it():
    found = find(planted())
    lost, changes, advice = answer(found)
    assert lost == of(found, "LOSS")[0]
    assert "at width 0.25, the mixture loses 5.6 points" in without_noise(lost)
    assert lost.components == advice.components == ("digits",)
    assert changes.kind in ("RECOVERY", "COST", "INTERACTION")
    assert advice.kind == "RECOMMENDATION"


def test_where_nothing_is_lost_the_answer_says_so_and_from_one_seed_there_is_none():
    table = noise(0)
    lost, *rest = answer(find(table, margin=0.2))
    assert lost.kind == "EQUIVALENCE"
    assert [one.verdict for one in rest][-1].startswith("serve")
    assert answer(find(table[table["seed"] == 1])) == ()


def draws(number: int, start: int, gap: float = 0.0) -> pd.DataFrame:
    """As many sweeps of noise, of 8 designs x 2 components x 5 seeds, each component with the same gap everywhere.

    As in a real sweep, the designs share a direct baseline for each component and seed.
    """
    one = noise(0)
    table = pd.concat([one.assign(sweep=f"{draw}") for draw in range(number)], ignore_index=True)
    rng = np.random.default_rng(start)
    baseline = table.groupby(["sweep", "component", "seed"]).ngroup().to_numpy()
    direct = 0.9 + rng.normal(0, 0.01, size=baseline.max() + 1)[baseline]
    transfer = 0.9 - gap + rng.normal(0, 0.01, size=len(table))
    return table.assign(transfer_accuracy=transfer, direct_probe_accuracy=direct, gap=direct - transfer)


def most_of(number: int, rate: float) -> int:
    """How many of as many draws a rate produces at most, but for once in a thousand."""
    return int(stats.binom.ppf(0.999, number, rate))


WRONG = ("LOSS", "GAIN", "RECOVERY", "COST")


def is_wrong(one: Finding) -> bool:
    """Whether it claims a loss, a gain or a change, of which noise has none."""
    return one.kind in WRONG or one.verdict in ("train directly", "for some", "only for some", "for all")


def test_tables_of_noise_get_a_false_statement_as_rarely_as_declared():
    found = find(draws(200, 1), alpha=0.05)
    assert len({one.sweep for one in found}) == 200
    wrong = {one.sweep for one in found if is_wrong(one)}
    assert len(wrong) <= most_of(200, 0.05)


def test_where_every_loss_is_as_large_as_the_margin_it_is_ruled_out_as_rarely_as_declared():
    found = find(draws(100, 2, gap=0.02), margin=0.02)
    wrong = {one.sweep for one in found if one.kind == "EQUIVALENCE" or one.verdict.startswith("serve")}
    assert len(wrong) <= most_of(100, 0.05)


def test_of_many_statements_the_share_of_wrong_ones_is_as_small_as_declared():
    """Half of the losses are planted; the wrong ones are those of the other component, and every change."""
    table = draws(100, 3)
    lost = np.where(table["component"] == "one", 0.05, 0.0)
    table = table.assign(transfer_accuracy=table["transfer_accuracy"] - lost, gap=table["gap"] + lost)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for one in find(table):
        if one.kind in WRONG or one.kind == "INTERACTION":
            counted = right if one.kind == "LOSS" and one.components == ("one",) else wrong
            counted[one.sweep] += 1
    shares = [wrong[f"{draw}"] / max(1, wrong[f"{draw}"] + right[f"{draw}"]) for draw in range(100)]
    assert right.total() > 500
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / 100**0.5


# Words


HOSTILE = ["a\nb", "\x1b[2Jc", "d`e", "f\u2028g\r", "\u202eh", "i\tj, k and l", "<b>m</b>", "n" * 80]


def test_hostile_names_leave_every_sentence_on_one_line():
    rows = Planted(noise=0.0005)
    for number, name in enumerate(HOSTILE):
        for ordering in ("shuffled", f"sequential:{name}"):
            gap = 0.02 * (number % 3) * (ordering != "shuffled")
            rows.add(transfer=0.9 - gap, component=name, ordering=ordering, mixture=f"{name} 100 %", weight=0.5)
    found = find(rows.table())
    assert {one.kind for one in found} >= {"LOSS", "EQUIVALENCE", "COST", "RECOMMENDATION"}
    for one in found:
        assert len(one.sentence.splitlines()) == 1
        assert one.sentence.isprintable()
        assert one.sentence.count("`") % 2 == 0
    assert {name for one in found for name in one.components} == set(HOSTILE)


# The command


def test_the_command_prints_statements_wrapped_and_as_json(monkeypatch):
    tables = {"planted": planted(), "other": noise(3).assign(sweep="other")}
    monkeypatch.setattr("orchestrator.results.load", lambda names, storage: pd.concat(tables[n] for n in names))
    monkeypatch.setenv("COLUMNS", "90")
    shown = CliRunner().invoke(bottleneck, ["findings", "planted"])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 90
    assert lines[0].startswith("recommendation  Train `digits` directly: ")
    assert lines[1].startswith(" " * 16)
    assert not any(line.endswith(("n =", "n", "p =", "p <")) for line in lines)
    assert "at most are expected to be wrong" in shown.stderr
    assert "other " in CliRunner().invoke(bottleneck, ["findings", "planted", "other"]).stdout

    printed = json.loads(CliRunner().invoke(bottleneck, ["findings", "planted", "--json", "--margin", "2"]).stdout)
    assert printed["margin"] == 0.02
    found = find(tables["planted"], margin=0.02)
    assert [one["sentence"] for one in printed["statements"]] == [one.sentence for one in found]
    assert printed["statements"][0]["rows"][0] == found.statements[0].rows[0]._asdict()
    assert CliRunner().invoke(bottleneck, ["findings", "planted", "--alpha", "0.7"]).exit_code == 2


# In a notebook


def test_a_notebook_shows_a_row_for_each_statement_with_its_numbers():
    found = find(planted())
    shown = found._repr_html_()
    assert shown.count("<tr>") == 1 + len(found)
    one = next(iter(found))
    cells = [f"{100 * one.effect:.1f}", f"[{100 * one.low:.1f}, {100 * one.high:.1f}]", str(one.n)]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in shown
    assert find(planted().iloc[:0])._repr_html_().count("<tr>") == 1


def test_a_notebook_runs_nothing_that_a_name_says():
    found = find(planted())
    (first, *_) = found
    hostile = replace(found, statements=(replace(first, sentence="<script>alert(1)</script> & `x`", p=None),))
    shown = hostile._repr_html_()
    assert "<script>" not in shown
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt; &amp; `x`</td>" in shown
    assert shown.endswith("<td></td></tr></tbody></table>")
