"""Digests: what is the same work, and what is not."""

import subprocess
import sys
from dataclasses import replace

import pytest
from strategies import component

from trainables.mixture import mixture_of
from trainables.spec import (
    Architecture,
    Mixture,
    Ordering,
    PretrainSpec,
    ProbeSpec,
    Share,
    Training,
    Transfer,
    derive_seed,
)

A, B = component("a"), component("b")


def pretraining(**changes):
    weights = changes.pop("weights", {"a": 1, "b": 1})
    label_space = changes.pop("label_space", "joint")
    mixture = mixture_of(weights, {"a": A, "b": B}, num_examples=200, train_examples=None, label_space=label_space)
    spec = {
        "mixture": mixture,
        "architecture": Architecture(name="mlp", image_shape=(1, 8, 8)),
        "training": Training(steps=2, batch_size=100),
        "seed": 0,
    }
    return PretrainSpec(**(spec | changes))


def test_equal_specs_have_equal_digests_and_any_difference_shows():
    base = pretraining()
    assert pretraining().digest == base.digest
    others = [
        pretraining(weights={"a": 1, "b": 2}),
        pretraining(seed=1),
        pretraining(training=Training(steps=3, batch_size=100)),
        pretraining(architecture=Architecture(name="mlp", width=2.0, image_shape=(1, 8, 8))),
        pretraining(ordering=Ordering(kind="sequential", sequence=("a", "b"))),
        pretraining(label_space="shared"),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_baseline_is_the_same_stage_in_every_label_space():
    joint = pretraining(weights={"a": 1})
    assert joint.digest == pretraining(weights={"a": 1, "b": 0}, label_space="shared").digest


def test_how_data_was_named_or_found_does_not_matter_only_what_is_in_it():
    renamed = replace(A, source=replace(A.source, dataset="something_else"))
    one = ProbeSpec(members=(pretraining(),), component=A)
    assert one.digest == ProbeSpec(members=(pretraining(),), component=renamed).digest
    assert one.digest != ProbeSpec(members=(pretraining(),), component=replace(A, content="other")).digest
    assert one.digest != replace(one, transfer=Transfer(l2=(1.0,))).digest


def test_a_digest_is_the_same_in_another_process():
    code = (
        f"import sys; sys.path[:0] = {[*sys.path, __file__.rsplit('/', 1)[0]]!r}\n"
        "from test_spec import pretraining; print(pretraining().digest)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == pretraining().digest


def test_seeds_are_named_so_that_a_new_purpose_leaves_the_others_alone():
    assert derive_seed(0, "init") == derive_seed(0, "init") != derive_seed(0, "arrival")
    assert derive_seed(0, "init") != derive_seed(1, "init")
    assert 0 <= derive_seed(7, "x") < 2**32


def test_a_pool_larger_than_the_component_is_not_a_share():
    with pytest.raises(ValueError, match="pool of 51 examples"):
        Share(component=A, shown=100, pool=51, distinct=51)


def test_planning_parts_of_trainables_import_no_torch():
    code = (
        "import sys; import trainables.spec, trainables.mixture, trainables.ordering, trainables.facts,"
        " trainables.representation, trainables.store\n"
        "print([m for m in ('torch', 'torchvision', 'ray', 'mlflow', 'sklearn') if m in sys.modules])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "[]"


def test_trainables_never_import_ray_mlflow_or_the_orchestrator():
    code = (
        "import sys; import trainables.trial, trainables.facts\n"
        "print([m for m in ('ray', 'mlflow', 'orchestrator') if m in sys.modules])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "[]"


def test_an_initialisation_is_a_pretraining_of_nothing():
    spec = pretraining(mixture=Mixture(shares=()), training=Training(steps=0))
    assert spec.mixture.num_classes == 0
    assert spec.requires == ()
