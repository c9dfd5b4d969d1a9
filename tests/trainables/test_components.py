import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from trainables.catalogue import CATALOGUE, Dataset
from trainables.components import (
    DataError,
    cache_root,
    data_root,
    default_shape,
    divide,
    known,
    load,
    prepare,
)
from trainables.reading import Examples, Raw
from trainables.spec import Source

REPOSITORY = Path(__file__).parents[2]
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module with the given text and returns the dataset name of its attribute `data`."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def write(text):
        modules.append(f"plugin_{tmp_path.name}_{len(modules)}".replace("-", "_"))
        (tmp_path / f"{modules[-1]}.py").write_text(text)
        return f"python:{modules[-1]}:data"

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def start(code, **env):
    """Runs code in a fresh interpreter."""
    settings = os.environ | {"PYTHONPATH": str(REPOSITORY)} | env
    return subprocess.Popen(
        [sys.executable, "-c", code], env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(run):
    """What it prints."""
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    return out.strip()


def rows(split):
    return {image.tobytes() for image in split.images.numpy()}


FOUR_IMAGES = """
import numpy as np
def data(shift=0):
    images = np.arange(60, dtype=np.uint8).reshape(10, 2, 3) + np.uint8(shift)
    labels = np.arange(10) % 2
    return {"train": (images, labels), "test": (images[:4] + np.uint8(100), labels[:4])}
"""


# What one gets ------------------------------------------------------------------------------------


def test_the_digits_are_1200_training_and_597_test_images_with_a_tenth_of_the_first_for_validation():
    component = prepare(Source(dataset="digits"))
    assert (component.num_train, component.num_validation, component.num_test) == (1080, 120, 597)
    assert (component.num_classes, component.image_shape) == (10, (1, 8, 8))


def test_the_content_of_the_digits_is_the_same_on_every_machine():
    # Computed on x86-64 with numpy 2.4 and scikit-learn 1.9. Results in stores are named by it.
    content = prepare(Source(dataset="digits")).content
    assert content == "f0ccecb031d8c4c5188c791d45ff0f65ca003cc74815d36e45f43585378a5036"


def test_two_processes_with_caches_of_their_own_decode_the_same_content(tmp_path):
    code = (
        "from trainables.components import prepare; from trainables.spec import Source\n"
        "print(prepare(Source(dataset='dominoes', train_examples=50, validation_examples=10)).content)"
    )
    runs = [start(code, BOTTLENECK_CACHE=str(tmp_path / name), PYTHONHASHSEED=name) for name in "12"]
    first, second = (finished(run) for run in runs)
    assert first == second


def test_images_are_uint8_labels_int64_and_pixels_run_from_minus_one_to_one():
    import torch

    data = load(prepare(Source(dataset="digits")))
    assert data.value_range == (-1.0, 1.0)
    for split in (data.train, data.validation, data.test):
        assert split.resident
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert len(split) == len(split.images) == len(split.labels)


def test_gathered_examples_are_those_at_the_positions_in_their_order():
    import torch

    split = load(prepare(Source(dataset="digits"))).test
    for indices in ([5, 0, 5], np.array([5, 0, 5]), torch.tensor([5, 0, 5])):
        images, labels = split.gather(indices)
        assert torch.equal(images, split.images[[5, 0, 5]])
        assert torch.equal(labels, split.labels[[5, 0, 5]])
    image, label = split[5]
    assert torch.equal(image, images[0])
    assert label == int(labels[0])


def test_no_digit_is_in_two_splits():
    data = load(prepare(Source(dataset="digits")))
    train, validation, test = rows(data.train), rows(data.validation), rows(data.test)
    assert len(train) + len(validation) + len(test) == 1797
    assert len(train | validation | test) == 1797


def test_images_are_mapped_and_writing_to_them_does_not_reach_the_cache():
    component = prepare(Source(dataset="digits"))
    load(component).train.images[0] = 255
    assert load(component).train.images[0].min() == 0


def test_a_split_travels_to_another_process_as_the_name_of_its_files():
    split = load(prepare(Source(dataset="digits"))).train
    assert split.images.shape[0] == 1080  # opened before it is pickled
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    assert_array_equal(pickle.loads(pickled).images, split.images)


def test_iterating_over_a_split_ends():
    assert len(list(load(prepare(Source(dataset="digits", test_examples=7))).test)) == 7


# Selection ----------------------------------------------------------------------------------------


def examples(labels):
    """Images whose only pixels tell their number."""
    numbers = np.arange(len(labels))
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8)[:, None, None]
    return Examples(images, np.asarray(labels, np.int64))


@st.composite
def labelled(draw):
    """A dataset of 2 to 5 classes, some of which are wanted, in some order."""
    num_classes = draw(st.integers(2, 5))
    one_each = list(range(num_classes))
    label = st.integers(0, num_classes - 1)
    train = one_each * 2 + draw(st.lists(label, max_size=40))
    test = one_each + draw(st.lists(label, max_size=20))
    classes = draw(st.permutations(one_each))[: draw(st.integers(1, num_classes))]
    return Raw(train=examples(train), test=examples(test), num_classes=num_classes), tuple(classes)


@given(labelled())
def test_training_and_validation_examples_are_the_training_split_each_once(case):
    raw, classes = case
    train, validation, test = divide(Source(dataset="any", classes=classes), raw)
    wanted = np.flatnonzero(np.isin(raw.train.labels, classes))
    assert sorted([*train[1], *validation[1]]) == list(wanted)
    assert sorted(test[1]) == list(np.flatnonzero(np.isin(raw.test.labels, classes)))
    assert len(validation[1]) == max(1, len(wanted) // 10)


@given(labelled())
def test_labels_are_positions_in_the_list_of_classes(case):
    raw, classes = case
    for part, own in zip(divide(Source(dataset="any", classes=classes), raw), ("train",) * 2 + ("test",), strict=True):
        _, chosen, labels = part
        assert [classes[label] for label in labels] == list(getattr(raw, own).labels[chosen])


@given(labelled(), st.data())
def test_fewer_examples_are_the_first_of_all_of_them(case, data):
    raw, classes = case
    whole = divide(Source(dataset="any", classes=classes), raw)
    train, test = (data.draw(st.integers(1, len(whole[i][1]))) for i in (0, 2))
    some = divide(Source(dataset="any", classes=classes, train_examples=train, test_examples=test), raw)
    assert_array_equal(some[0][1], whole[0][1][:train])
    assert_array_equal(some[1][1], whole[1][1])
    assert_array_equal(some[2][1], whole[2][1][:test])


@given(labelled())
def test_components_with_other_classes_of_a_dataset_keep_its_order(case):
    raw, classes = case
    everything = [*divide(Source(dataset="any"), raw)[0][1], *divide(Source(dataset="any"), raw)[1][1]]
    train, validation, _ = divide(Source(dataset="any", classes=classes), raw)
    kept = [i for i in everything if raw.train.labels[i] in classes]
    assert [*train[1], *validation[1]] == kept


def test_classes_can_be_given_new_labels():
    raw = Raw(train=examples([0, 1, 2, 3] * 5), test=examples([0, 1, 2, 3]), num_classes=4)
    source = Source(dataset="any", classes=(3, 0, 2), relabel=(1, 0, 1))
    _, chosen, labels = divide(source, raw)[2]
    assert dict(zip(chosen.tolist(), labels.tolist(), strict=True)) == {3: 1, 0: 0, 2: 1}


def test_the_number_of_classes_counts_labels_even_if_few_examples_are_taken():
    component = prepare(Source(dataset="digits", train_examples=1, test_examples=1))
    assert component.num_classes == 10
    assert prepare(Source(dataset="digits", relabel=(0, 1) * 5)).num_classes == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": (0, 10)}, "'digits' has no class 10; its classes are 0 to 9"),
        ({"classes": (1, 1)}, "name one or more, each once"),
        ({"classes": ()}, "name one or more, each once"),
        ({"classes": (0, 1), "relabel": (0, 2)}, "without a gap"),
        ({"classes": (0, 1), "relabel": (0,)}, r"relabel is \[0\] for 2 classes"),
        ({"train_examples": 1081}, "train_examples is 1081; .* 1080 train, 120 validation, 597 test"),
        ({"test_examples": 598}, "test_examples is 598; .* 597 test"),
        ({"validation_examples": 1200}, "1200 examples for validation; .* has 1200 of these classes"),
        ({"train_examples": 0}, "train_examples is 0; ask for one or more"),
        ({"channels": 2}, "channels is 2; it is 1 .* or 3"),
        ({"image_size": (0, 8)}, "height and width are positive"),
    ],
)
def test_an_impossible_selection_is_an_error_that_says_what_is_possible(fields, message):
    with pytest.raises(ValueError, match=message):
        prepare(Source(dataset="digits", **fields))


def test_a_class_without_examples_in_a_split_is_an_error(plugin):
    name = plugin(FOUR_IMAGES.replace("labels[:4])", "labels[:4] * 0)"))
    with pytest.raises(DataError, match="the test split has no example of class 1; leave the class out"):
        prepare(Source(dataset=name))
    assert prepare(Source(dataset=name, classes=(0,))).num_classes == 1


# Image shapes -------------------------------------------------------------------------------------


def test_grey_images_become_colour_by_repetition_and_keep_their_content_otherwise():
    grey = load(prepare(Source(dataset="digits"))).test.images
    colour = load(prepare(Source(dataset="digits", channels=3))).test.images
    assert colour.shape == (597, 3, 8, 8)
    assert all((colour[:, c] == grey[:, 0]).all() for c in range(3))


def test_colour_becomes_luma(plugin):
    # Red, green, blue and white: 0.299, 0.587 and 0.114 of 255, rounded.
    name = plugin(
        "import numpy as np\n"
        "images = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)[:, :, None, None]\n"
        "data = {'train': (images, [0] * 4), 'test': (images, [0] * 4)}\n"
    )
    grey = load(prepare(Source(dataset=name, channels=1))).test.images
    assert sorted(grey.flatten().tolist()) == [29, 76, 150, 255]


def test_resized_images_have_the_shape_asked_for_and_a_constant_stays_constant(plugin):
    name = plugin(
        "import numpy as np\n"
        "images = np.full((4, 5, 7), 77, np.uint8)\n"
        "data = {'train': (images, [0] * 4), 'test': (images, [0] * 4)}\n"
    )
    source = Source(dataset=name, image_size=(9, 4))
    images = load(prepare(source)).train.images
    assert images.shape == (3, 1, 9, 4)
    assert images.unique().tolist() == [77]


def test_halving_an_image_averages_its_pixels(plugin):
    # A triangle of two pixels around each new one: weights 1/8 3/8 3/8 1/8 inside, 3/7 3/7 1/7 at the border.
    name = plugin(
        "import numpy as np\n"
        "images = np.tile(np.array([0, 0, 140, 140], np.uint8), (4, 4, 1))\n"
        "data = {'train': (images, [0] * 4), 'test': (images, [0] * 4)}\n"
    )
    images = load(prepare(Source(dataset=name, image_size=(2, 2)))).train.images
    assert images[0, 0].tolist() == [[20, 120], [20, 120]]


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (Source(dataset="mnist"), (1, 28, 28)),
        (Source(dataset="cifar10", channels=1, image_size=(8, 16)), (1, 8, 16)),
        (Source(dataset="dominoes", options='{"left": "cifar10"}'), (3, 32, 64)),
        (Source(dataset="dominoes", options='{"left": "cifar10", "stacked": true}'), (3, 64, 32)),
        (Source(dataset="colored"), (3, 28, 28)),
        (Source(dataset="colored", options='{"base": "usps"}'), (3, 16, 16)),
        (Source(dataset="image_folder", options='{"root": "/nowhere"}'), (3, 64, 64)),
        (Source(dataset="imagenet", image_size=(64, 64)), (3, 64, 64)),
    ],
)
def test_the_default_shape_is_known_without_the_data(source, shape):
    assert default_shape(source) == shape


def test_the_default_shape_of_a_users_data_is_found_by_preparing_it(plugin):
    assert default_shape(Source(dataset=plugin(FOUR_IMAGES))) == (1, 2, 3)


# The cache ----------------------------------------------------------------------------------------


def test_a_component_is_known_once_it_is_prepared():
    source = Source(dataset="digits")
    assert known(source) is None
    component = prepare(source)
    assert known(source) == component


def test_importing_and_knowing_need_no_torch_and_take_milliseconds():
    prepare(Source(dataset="digits"))
    run = start(
        "import sys, time\n"
        "from trainables.components import CATALOGUE, default_shape, known\n"
        "from trainables.spec import Source\n"
        "source = Source(dataset='digits')\n"
        "times = []\n"
        "for _ in range(5):\n"
        "    begin = time.perf_counter()\n"
        "    assert known(source).num_train == 1080\n"
        "    times.append(time.perf_counter() - begin)\n"
        "default_shape(source)\n"
        "assert min(times) < 0.02, times\n"
        "print(*({'torch', 'torchvision', 'sklearn', 'scipy', 'pandas', 'PIL'} & set(sys.modules)))"
    )
    assert finished(run) == ""


def test_concurrent_processes_prepare_once(tmp_path):
    counted = f"""
import pathlib, time
with pathlib.Path({str(tmp_path / "calls")!r}).open("a") as file:
    file.write("x")
time.sleep(1)
"""
    (tmp_path / "slow_data.py").write_text(counted + FOUR_IMAGES)
    code = (
        "from trainables.components import prepare; from trainables.spec import Source\n"
        "print(prepare(Source(dataset='python:slow_data:data')).content)"
    )
    path = f"{REPOSITORY}{os.pathsep}{tmp_path}"
    runs = [start(code, PYTHONPATH=path) for _ in range(3)]
    assert len({finished(run) for run in runs}) == 1
    assert (tmp_path / "calls").read_text() == "x"


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_entry_is_made_again(cache, file, damage):
    source = Source(dataset="digits")
    component = prepare(source)
    (path,) = cache.glob(f"components/*/{file}")
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - 1)
    assert known(source) is None
    assert prepare(source) == component
    assert len(load(component).train.images) == 1080


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_unreadable_facts_are_no_facts(cache, text):
    component = prepare(Source(dataset="competing_features", train_examples=8))
    (path,) = cache.glob("components/*/facts.json")
    path.write_text(text)
    assert known(component.source) is None
    assert prepare(component.source) == component


def test_what_a_killed_process_left_is_cleared_away(cache):
    prepare(Source(dataset="digits"))
    (entry,) = (cache / "components").glob("[!.]*[!k]")
    (entry / "facts.json").unlink()
    leftover = entry.with_name(f".{entry.name}.12345678")
    leftover.mkdir()
    prepare(Source(dataset="digits"))
    assert not leftover.exists()
    assert (entry / "facts.json").exists()


def test_a_failed_preparation_leaves_nothing_behind(cache):
    with pytest.raises(ValueError, match="has no class"):
        prepare(Source(dataset="digits", classes=(12,)))
    assert [path for path in cache.glob("components/*") if path.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"the cache .*file cannot be written: .*set BOTTLENECK_CACHE"):
        prepare(Source(dataset="digits"))


def test_other_data_than_planned_is_refused():
    component = replace(prepare(Source(dataset="digits")), content="0" * 64)
    with pytest.raises(DataError, match=r"the data of 'digits' on this machine differs .* not 000000000000"):
        load(component)


def test_changed_files_are_read_again(plugin, tmp_path):
    name = plugin(FOUR_IMAGES)
    before = prepare(Source(dataset=name))
    module = name.split(":")[1]
    (tmp_path / f"{module}.py").write_text(FOUR_IMAGES.replace("shift=0", "shift=10"))
    del sys.modules[module]
    assert known(Source(dataset=name)) is None
    assert prepare(Source(dataset=name)).content != before.content


def test_the_cache_follows_the_settings_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("BOTTLENECK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "bottleneck"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "bottleneck"
    monkeypatch.delenv("BOTTLENECK_DATA", raising=False)
    assert data_root() is None
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path))
    assert data_root() == tmp_path


# Attributes ---------------------------------------------------------------------------------------


def with_attributes(num_train, num_test):
    """A dataset of three classes whose every image tells its number, which is also its attribute."""

    def part(count):
        plain = examples(np.arange(count) % 3)
        return Examples(plain.images, plain.labels, {"number": np.arange(count)})

    raw = Raw(train=part(num_train), test=part(num_test), num_classes=3, attributes={"number": num_train})
    return Dataset(title="made for a test", num_classes=3, shape=(1, 1, 2), read=lambda request: raw)


def test_attributes_stay_with_their_images_whatever_is_selected(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "numbered", with_attributes(90, 60))
    for fields in ({}, {"classes": (2, 0)}, {"classes": (1,), "train_examples": 7, "test_examples": 5}):
        data = load(prepare(Source(dataset="numbered", **fields)))
        assert data.attributes == {"number": 90}
        for split in (data.train, data.validation, data.test):
            assert_array_equal(split.attribute("number"), split.images[:, 0, 0, 0])
            assert str(split.attribute("number").dtype) == "torch.int64"


def test_an_attribute_that_a_component_lacks_is_an_error_that_lists_those_it_has(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "numbered", with_attributes(90, 60))
    with pytest.raises(ValueError, match="there is no attribute 'colour'; this component has number"):
        load(prepare(Source(dataset="numbered"))).test.attribute("colour")
    digits = load(prepare(Source(dataset="digits")))
    assert digits.attributes == {}
    with pytest.raises(ValueError, match="there is no attribute 'colour'; this component has none"):
        digits.train.attribute("colour")


def test_an_entry_without_its_attributes_is_made_again(cache):
    source = Source(dataset="competing_features", train_examples=8)
    component = prepare(source)
    (path,) = cache.glob("components/*/test_attribute_private.npy")
    path.unlink()
    assert known(source) is None
    assert prepare(source) == component
    assert len(load(component).test.attribute("private")) == component.num_test


# Difficulty ---------------------------------------------------------------------------------------


def test_difficulty_is_the_distance_to_the_own_mean_over_that_to_the_nearest_other(plugin):
    # One pixel. Means: class 0 at (0 + 2) / 2 = 1, class 1 at (10 + 14) / 2 = 12, class 2 at 100.
    name = plugin(
        "import numpy as np\n"
        "pixels, labels = np.array([0, 2, 10, 14, 100], np.uint8)[:, None, None], np.array([0, 0, 1, 1, 2])\n"
        "data = dict.fromkeys(('train', 'validation', 'test'), (pixels, labels))\n"
    )
    data = load(prepare(Source(dataset=name)))
    by_pixel = dict(zip(data.train.images.flatten().tolist(), data.difficulty().tolist(), strict=True))
    assert by_pixel == pytest.approx({0: 1 / 12, 2: 1 / 10, 10: 2 / 9, 14: 2 / 13, 100: 0.0})


def test_equal_images_are_equally_difficult():
    data = load(prepare(Source(dataset="competing_features")))
    seen = {(*image.flatten().tolist(), label) for image, label in data.train}
    difficulty = data.difficulty()
    assert len(set(difficulty.tolist())) <= len(seen) == 8


def test_difficulty_with_one_class_is_the_distance_to_its_mean():
    data = load(prepare(Source(dataset="digits", classes=(3,))))
    pixels = data.train.images.numpy().reshape(len(data.train), -1).astype(float)
    expected = np.linalg.norm(pixels - pixels.mean(0), axis=1)
    assert data.difficulty() == pytest.approx(expected)


def test_difficulty_does_not_depend_on_the_size_of_the_chunks(monkeypatch):
    data = load(prepare(Source(dataset="digits")))
    whole = data.difficulty()
    monkeypatch.setattr("trainables.components.CHUNK_BYTES", 8 * 64 * 7)  # seven images
    assert data.difficulty() == pytest.approx(whole, abs=2e-9)


# Real data ----------------------------------------------------------------------------------------

ON_DISK = {  # examples of the three splits, classes
    "mnist": (54000, 6000, 10000, 10),
    "fashion_mnist": (54000, 6000, 10000, 10),
    "kmnist": (54000, 6000, 10000, 10),
    "usps": (6562, 729, 2007, 10),
    "semeion": (1076, 119, 398, 10),
    "cifar10": (45000, 5000, 10000, 10),
    "cifar100_subset": (13500, 1500, 5000, 100),
}


@pytest.fixture
def on_disk(real_data, _cache_of_this_session, monkeypatch):
    """Prepares a component from the folder of real datasets, or skips where that lacks it."""
    monkeypatch.setenv("BOTTLENECK_CACHE", str(_cache_of_this_session))

    def prepared(name, **fields):
        try:
            known(Source(dataset=name, **fields))
        except DataError as error:
            pytest.skip(str(error))
        return prepare(Source(dataset=name, **fields))

    return prepared


@pytest.mark.parametrize("name", ON_DISK)
def test_a_real_dataset_has_its_published_size_and_splits_that_share_no_image(name, on_disk):
    component = on_disk(name)
    sizes = (component.num_train, component.num_validation, component.num_test, component.num_classes)
    assert sizes == ON_DISK[name]
    assert component.image_shape == default_shape(component.source)
    data = load(component)
    train, validation, test = (rows(getattr(data, split)) for split in SPLITS)
    if name != "cifar100_subset":  # one of its test images is also a training image
        assert not train & test
        assert not validation & test
    assert not train & validation
    begin = time.perf_counter()
    assert known(component.source) == component
    assert time.perf_counter() - begin < 0.1


def test_real_classes_are_kept_in_the_order_given(on_disk, real_data):
    raw = real_data / "FashionMNIST" / "raw"
    clothes = load(on_disk("fashion_mnist", classes=(9, 0), train_examples=100, test_examples=50))
    # The files' headers are 16 and 8 bytes long.
    images = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(-1, 28 * 28)
    labels = (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]
    class_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = {(class_of[image.numpy().tobytes()], label) for image, label in clothes.test}
    assert found == {(9, 0), (0, 1)}


def test_the_coarse_labels_of_cifar100_are_20_superclasses(on_disk):
    fine, coarse = on_disk("cifar100_subset"), on_disk("cifar100_subset", options=json.dumps({"coarse": True}))
    assert (coarse.num_classes, coarse.num_train) == (20, fine.num_train)
    data = load(fine), load(coarse)
    assert_array_equal(data[0].train.images[:100], data[1].train.images[:100])
    superclass = dict(zip(data[0].train.labels.tolist(), data[1].train.labels.tolist(), strict=True))
    assert sorted(superclass.values()) == sorted(list(range(20)) * 5)
