"""What `transfer` may say, and what each protocol is told and compared with."""

import pytest
from strategies import component

from orchestrator import transfer
from orchestrator.plan import plan, trial_json
from orchestrator.sweep import SweepError, parse, resolved
from trainables import spec

TEXT = """\
name: small
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: {a: 1, b: 1}, architecture: mlp}
seeds: 1
pretrain: {steps: 10, batch_size: 20}
"""
COMPONENTS = {"a": component("a", 100), "b": component("b", 40)}


def parsed(written, *others):
    return parse(TEXT, "small.yaml", [f"transfer={written}", *others])


def specs(written):
    return parsed(written).transfer.specs()


def cells(written, *others):
    """Those of component a, in the only trial."""
    (trial,) = plan(parsed(written, *others), COMPONENTS).trials
    return [cell for cell in trial.cells if cell.component == "a"]


def test_every_protocol_is_asked_with_every_number_of_shots():
    found = specs("{protocols: [ridge, knn], shots: [5, all]}")
    assert [(s.protocol, s.shots) for s in found] == [("ridge", 5), ("ridge", None), ("knn", 5), ("knn", None)]


def test_a_protocol_is_told_its_own_settings_and_the_common_ones():
    written = (
        "{l2: [0.5], train_examples: 30, protocols: [linear_probe, {ridge: {l2: [0.1, 1]}}, {knn: {neighbours: 3}}, "
        "{finetune: {learning_rates: 0.2, steps: 7, batch_size: 9, dropout: 0.9}}, {lp_ft: {dropout: 0}}]}"
    )
    common = {"l2": (0.5,), "train_examples": 30}
    assert specs(written) == (
        spec.Transfer(**common),
        spec.Transfer(protocol="ridge", l2=(0.1, 1), train_examples=30),
        spec.Transfer(protocol="knn", neighbours=(3,), **common),
        spec.Transfer(protocol="finetune", learning_rates=(0.2,), steps=7, batch_size=9, dropout=0.9, **common),
        spec.Transfer(protocol="lp_ft", **common),
    )


@pytest.mark.parametrize("protocol", transfer.PROTOCOLS)
def test_a_word_alone_is_a_protocol_without_settings(protocol):
    word, mapping = (specs(f"{{protocols: {written}}}") for written in (protocol, f"{{{protocol}: {{}}}}"))
    assert word == mapping == (spec.Transfer(protocol=protocol),)


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        (spec.Transfer(), "linear_probe"),
        (spec.Transfer(protocol="finetune"), "finetune"),
        (spec.Transfer(protocol="finetune", dropout=0.9), "finetune, dropout 0.9"),
    ],
)
def test_a_protocol_is_called_by_its_name_and_its_dropout(asked, label):
    assert transfer.label(asked) == label


def test_protocols_survive_being_written_and_read_the_short_ones_as_words():
    written = "{protocols: [knn, {ridge: {}}, {finetune: {dropout: 0.9}}, finetune], shots: [2, all]}"
    found = parsed(written)
    again = parse(resolved(found), "again.yaml")
    assert again == found
    assert again.transfer.specs() == found.transfer.specs()
    assert [choice.model_dump() for choice in again.transfer.protocols] == [
        "knn", "ridge", {"finetune": {"dropout": 0.9}}, "finetune",
    ]  # fmt: skip


# In a plan ------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_protocol_and_a_number_of_shots_and_the_first_is_primary():
    found = cells("{protocols: [knn, linear_probe], shots: [5, all]}")
    assert [(c.transfer.transfer.protocol, c.transfer.transfer.shots) for c in found] == [
        ("knn", 5), ("knn", None), ("linear_probe", 5), ("linear_probe", None),
    ]  # fmt: skip
    assert [cell.primary for cell in found] == [True, False, False, False]
    assert [cell.raw is not None for cell in found] == [True, False, False, False]
    assert len({cell.transfer.digest for cell in found}) == 4
    assert len({cell.transfer.members for cell in found}) == 1


def test_the_plan_names_the_primary_protocol():
    found = plan(parsed("{protocols: [{finetune: {dropout: 0.9}}, knn]}"), COMPONENTS)
    assert found.as_json()["protocol"] == "finetune, dropout 0.9"
    rows = trial_json(found.trials[0])["cells"]
    assert [(row["protocol"], row["primary"], row["tunes"]) for row in rows[:2]] == [
        ("finetune, dropout 0.9", True, True), ("knn", False, False),
    ]  # fmt: skip


def test_the_plan_names_the_primary_protocol_though_its_first_trial_cannot_be_read_by_it():
    sweep = parsed("{protocols: [knn, ridge]}", "vary.representation=[{cat_pca: 2}, single]")
    assert plan(sweep, COMPONENTS).as_json()["protocol"] == "knn"


@pytest.mark.parametrize("protocol", ["ridge", "knn", "mlp_probe", "ntk_probe", "head_repair"])
def test_the_direct_features_are_read_by_the_same_protocol(protocol):
    (cell,) = cells(f"{{protocols: {protocol}, shots: 5}}")
    assert cell.direct.transfer == cell.transfer.transfer == cell.random_init.transfer


@pytest.mark.parametrize("protocol", transfer.FINE_TUNING)
def test_fine_tuning_is_compared_with_a_linear_probe_of_the_direct_features_with_the_same_shots(protocol):
    written = f"{{protocols: [{{{protocol}: {{steps: 7}}}}], shots: 5, l2: 0.5, train_examples: 30}}"
    (cell,) = cells(written, "direct.kind=full")
    asked = spec.Transfer(l2=(0.5,), train_examples=30, shots=5)
    assert [probe.transfer for probe in (cell.direct, *cell.budgets)] == [asked, asked]
    assert cell.random_init.transfer == cell.transfer.transfer


def test_fine_tuning_shares_its_reference_with_the_linear_probe():
    probe, tuned = cells("{protocols: [linear_probe, finetune]}")
    assert probe.direct == tuned.direct


@pytest.mark.parametrize("control", ["cat_pca", "cat_average"])
def test_a_control_of_a_concatenation_has_rows_of_linear_protocols_only(control):
    written = f"{{protocols: [{', '.join(transfer.PROTOCOLS)}]}}"
    found = cells(written, f"vary.representation=[{{{control}: 3}}]")
    assert [cell.transfer.transfer.protocol for cell in found] == list(transfer.LINEAR)
    plain = cells(written, "vary.representation=[{cat: 3}]")
    assert len(plain) == len(transfer.PROTOCOLS)
    for cell, whole in zip(found, plain, strict=False):
        assert cell.transfer.members == whole.transfer.members
        assert cell.transfer != whole.transfer
        assert cell.direct == whole.direct


def test_a_control_averages_its_members_or_reads_as_many_dimensions_as_one_has():
    (average,) = cells("{protocols: ridge}", "vary.representation={cat_average: 3}")
    (pca,) = cells("{protocols: ridge}", "vary.representation={cat_pca: 3}")
    asked, direct = average.transfer.transfer, average.direct.transfer
    assert (asked.combine, asked.compression, direct.combine) == ("average", 1, "concatenate")
    asked, direct = pca.transfer.transfer, pca.direct.transfer
    assert (asked.combine, asked.compression, direct.compression) == ("concatenate", 3, 1)


def test_a_control_still_has_a_row_when_the_first_protocol_is_none_that_reads_it():
    (cell,) = cells("{protocols: [finetune, linear_probe]}", "vary.representation={cat_pca: 2}")
    assert (cell.transfer.transfer.protocol, cell.primary) == ("linear_probe", False)


def test_a_sweep_of_controls_alone_that_no_protocol_reads_is_refused():
    with pytest.raises(SweepError, match="cat_pca"):
        cells("{protocols: [knn]}", "vary.representation={cat_pca: 2}")
