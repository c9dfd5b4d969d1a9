import bz2
import json
import os
import pickle
import struct
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from trainables.catalogue import CATALOGUE, Dataset
from trainables.components import DataError, known, load, prepare
from trainables.draws import permutation
from trainables.reading import MUTED_COLOURS, RED_AND_GREEN, Examples, Raw, listed_classes
from trainables.spec import Source


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The folder of datasets."""
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def source(dataset, options=None, **fields):
    return Source(dataset=dataset, options=json.dumps(options or {}), **fields)


def images_by_label(split):
    return {label: image.numpy() for image, label in split}


def test_a_permutation_holds_every_number_once_and_never_changes():
    assert sorted(permutation(7, 100)) == list(range(100))
    assert permutation(0, 6).tolist() == [3, 2, 1, 0, 4, 5]
    assert len(permutation(0, 1)) == 1


# Files that torchvision knows ---------------------------------------------------------------------


def idx(array, code):
    """The bytes of an array in the format of MNIST: magic number, sizes and values, big-endian."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return struct.pack(">I", code * 256 + array.ndim) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


UINT8, INT32 = 8, 12


def write_mnist(folder, names, labels, dtype=np.uint8, code=UINT8):
    """Images and labels under four names; each image has its number in row 0 and column 1."""
    folder.mkdir(parents=True)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 1] = np.arange(len(labels)) % 256
    for kind, name in zip(("images", "labels") * 2, names, strict=True):
        (folder / name).write_bytes(idx(images, UINT8) if kind == "images" else idx(labels.astype(dtype), code))


MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def mnist(data):
    write_mnist(data / "MNIST" / "raw", MNIST, np.arange(16) % 10)
    return data / "MNIST" / "raw"


def test_files_like_those_of_mnist_are_read(mnist):
    images = load(prepare(Source(dataset="mnist"))).test
    assert images.images.shape == (16, 1, 28, 28)
    assert sorted((int(image[0, 0, 1]), label) for image, label in images) == [(i, i % 10) for i in range(16)]


@pytest.mark.parametrize("split", ["letters", "digits"])
def test_emnist_is_upright_and_its_letters_count_from_zero(data, split):
    names = [f"emnist-{split}-{name}" for name in (*MNIST[:2], "test-images-idx3-ubyte", "test-labels-idx1-ubyte")]
    labels = np.arange(16) % 4
    write_mnist(data / "EMNIST" / "raw", names, labels + (split == "letters"))
    images = load(prepare(source("emnist", {"split": split}))).test
    assert sorted((int(image[0, 1, 0]), label) for image, label in images) == [(i, i % 4) for i in range(16)]


def test_the_class_of_a_qmnist_digit_is_the_first_of_its_labels(data):
    names = [f"qmnist-{part}-{name}" for part in ("train", "test") for name in ("images-idx3-ubyte", "labels-idx2-int")]
    labels = np.stack([np.arange(16) % 10, *[np.arange(16) + 1000] * 7], axis=1)
    write_mnist(data / "QMNIST" / "raw", names, labels, np.int32, INT32)
    images = load(prepare(Source(dataset="qmnist"))).test
    assert sorted((int(image[0, 0, 1]), label) for image, label in images) == [(i, i % 10) for i in range(16)]


@pytest.mark.parametrize("file", MNIST)
@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "too long", "magic"])
def test_a_damaged_file_is_named(mnist, file, damage):
    path = mnist / file
    whole = path.read_bytes()
    ruins = {
        "empty": b"",
        "header": whole[:6],
        "truncated": whole[:-1],
        "too long": whole + b"x",
        "magic": b"\0\0\7\1" + whole[4:],
    }
    path.write_bytes(ruins[damage])
    with pytest.raises(DataError, match=rf"{path} cannot be read, so get it again: \w+"):
        prepare(Source(dataset="mnist"))


def test_images_and_labels_that_do_not_belong_together_are_an_error(mnist):
    (mnist / MNIST[1]).write_bytes(idx(np.zeros(15, np.uint8), UINT8))
    with pytest.raises(DataError, match="mnist: 16 images and 15 labels in the train split"):
        prepare(Source(dataset="mnist"))


def test_a_label_beyond_the_classes_is_an_error(mnist):
    (mnist / MNIST[3]).write_bytes(idx(np.full(16, 11, np.uint8), UINT8))
    with pytest.raises(DataError, match="mnist: label 11 in the test split; labels are 0 to 9"):
        prepare(Source(dataset="mnist"))


def write_cifar100(folder, **changes):
    folder.mkdir(parents=True)
    pixels = np.zeros((200, 3072), np.uint8)
    pixels[:, 1024] = range(200)  # green, upper left
    labels = [i % 100 for i in range(200)]
    batch = {"data": pixels, "fine_labels": labels, "coarse_labels": [i // 5 for i in labels]} | changes
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("coarse", [False, True])
def test_files_like_those_of_cifar_are_read(data, coarse):
    write_cifar100(data / "cifar-100-subset" / "cifar-100-python")
    images = load(prepare(source("cifar100_subset", {"coarse": coarse}))).test
    assert images.images.shape == (200, 3, 32, 32)
    found = sorted((int(image[1, 0, 0]), label) for image, label in images)
    assert found == [(i, i % 100 // 5 if coarse else i % 100) for i in range(200)]


def test_cifar_files_that_are_not_the_published_ones_are_refused(data):
    write_cifar100(data / "cifar-100-python")
    path = data / "cifar-100-python" / "train"
    with pytest.raises(DataError, match=f"{path} cannot be read, .* its MD5 sum is not the published 16019d7e"):
        prepare(Source(dataset="cifar100"))


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_a_pickle_that_would_run_code_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cifar100(data / "cifar-100-python", data=Harm())
    with pytest.raises(DataError, match=r"it asks for \w+.mkdir, which has no place in it"):
        prepare(Source(dataset="cifar100_subset"))
    assert not (tmp_path / "harm-was-done").exists()


def test_a_truncated_pickle_is_named(data):
    write_cifar100(data / "cifar-100-python")
    path = data / "cifar-100-python" / "test"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{path} cannot be read, so get it again"):
        prepare(Source(dataset="cifar100_subset"))


def test_usps_is_read_from_its_lines_of_text(data):
    # Labels from 1, pixels from -1 to 1.
    lines = [f"{label} " + " ".join(f"{i + 1}:{-1 + 2 * (i == 17)}" for i in range(256)) for label in range(1, 11)]
    for name in ("usps.bz2", "usps.t.bz2"):
        (data / name).write_bytes(bz2.compress("\n".join(lines * 2).encode()))
    test = load(prepare(Source(dataset="usps"))).test
    assert sorted(test.labels.tolist()) == sorted(list(range(10)) * 2)
    assert test.images[0, 0, 1, 1] == 255
    assert test.images[0].sum() == 255
    (data / "usps.bz2").write_bytes(bz2.compress(b"1 1:0.5")[:-4])
    with pytest.raises(DataError, match=f"{data / 'usps.bz2'} cannot be read"):
        prepare(Source(dataset="usps"))


def test_a_damaged_semeion_is_named(data):
    (data / "semeion.data").write_text("1 2 3")
    with pytest.raises(DataError, match=f"{data / 'semeion.data'} cannot be read"):
        prepare(Source(dataset="semeion"))


def test_svhn_is_read_with_its_zeros_as_class_zero(data, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    unchecked = {split: [*entry[:2], None] for split, entry in SVHN.split_list.items()}
    monkeypatch.setattr(SVHN, "split_list", unchecked)
    pixels = np.zeros((32, 32, 3, 20), np.uint8)
    pixels[5, 6, 2] = range(20)  # row, column, blue
    for split in ("train", "test"):
        savemat(data / f"{split}_32x32.mat", {"X": pixels, "y": np.arange(20)[:, None] % 10 + 1})
    test = load(prepare(Source(dataset="svhn"))).test
    assert sorted((int(image[2, 5, 6]), label) for image, label in test) == [(i, (i + 1) % 10) for i in range(20)]


def test_stl10_is_read_without_its_unlabelled_images(data, monkeypatch):
    from torchvision.datasets import STL10

    for files in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, files, [[name, None] for name, _ in getattr(STL10, files)])
    (data / "stl10_binary").mkdir()
    images = np.zeros((20, 3, 96, 96), np.uint8)
    images[:, 1, 40, 7] = range(20)  # green, column 40, row 7
    for split in ("train", "test"):
        (data / "stl10_binary" / f"{split}_X.bin").write_bytes(images.tobytes())
        (data / "stl10_binary" / f"{split}_y.bin").write_bytes((np.arange(20) % 10 + 1).astype(np.uint8).tobytes())
    test = load(prepare(Source(dataset="stl10"))).test
    assert sorted((int(image[1, 7, 40]), label) for image, label in test) == [(i, i % 10) for i in range(20)]


# Folders of pictures ------------------------------------------------------------------------------


@pytest.fixture
def pictures(data):
    """Forty PNGs of two classes, three quarters of them for training; every pixel of one has its own grey level."""
    numbers = iter(range(40))
    for part, count in (("train", 15), ("test", 5)):
        for label in ("cat", "dog"):
            folder = data / "pets" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(next(numbers)).integers(0, 256, (6, 9, 3), np.uint8)
                Image.fromarray(noise).save(folder / f"{i:02}.png")
    return data / "pets"


def pets(resident="auto", **fields):
    return source("image_folder", {"root": "pets", "resident": resident}, **fields)


def test_a_folder_per_split_and_class_is_read(pictures):
    component = prepare(pets())
    assert (component.num_train, component.num_validation, component.num_test) == (27, 3, 10)
    assert (component.num_classes, component.image_shape) == (2, (3, 64, 64))


def test_pictures_of_the_wanted_size_are_kept_pixel_for_pixel(pictures):
    dogs = load(prepare(pets(image_size=(6, 9), classes=(1,)))).test
    stored = {np.asarray(Image.open(path)).tobytes() for path in (pictures / "test" / "dog").iterdir()}
    assert {image.permute(1, 2, 0).numpy().tobytes() for image, _ in dogs} == stored


def test_a_picture_is_cropped_at_its_centre_to_the_wanted_aspect(data):
    for label in "ab":
        (data / "wide" / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8)).save(data / "wide" / label / f"{i}.png")
    component = prepare(source("image_folder", {"root": "wide"}, image_size=(2, 2), channels=1))
    assert load(component).test.images[0, 0].tolist() == [[2, 3], [6, 7]]


def test_a_fifth_of_each_class_is_the_test_split_where_there_is_none(pictures):
    for part in ("train", "test"):
        component = prepare(source("image_folder", {"root": f"pets/{part}"}))
        assert Counter(load(component).test.labels.tolist()) == ({0: 3, 1: 3} if part == "train" else {0: 1, 1: 1})


def test_streamed_pictures_equal_resident_ones_pixel_for_pixel(pictures):
    kept, streamed = (load(prepare(pets(resident, image_size=(5, 5)))) for resident in (True, False))
    for name in ("train", "validation", "test"):
        a, b = getattr(kept, name), getattr(streamed, name)
        assert (a.resident, b.resident) == (True, False)
        assert len(a) == len(b) == len(b.images)
        everything = np.arange(len(a))
        for mine, others in zip(a.gather(everything), b.gather(everything), strict=True):
            assert_array_equal(mine, others)
    assert kept.component.content != streamed.component.content
    with pytest.raises(ValueError, match="set its option `resident` to true"):
        streamed.difficulty()


def test_pictures_are_streamed_if_they_take_too_much_room(pictures, monkeypatch):
    monkeypatch.setattr("trainables.reading.STREAMED_ABOVE", 40 * 3 * 64 * 64 - 1)
    assert not load(prepare(pets())).train.resident
    assert load(prepare(pets(image_size=(63, 64)))).train.resident


def test_the_content_of_streamed_pictures_follows_their_names_sizes_and_labels(pictures):
    before = prepare(pets(False)).content
    assert prepare(pets(False, image_size=(8, 8))).content != before
    Image.new("RGB", (2, 2)).save(pictures / "train" / "cat" / "00.png")
    assert prepare(pets(False)).content != before


@pytest.mark.parametrize("resident", [True, False])
def test_workers_of_a_data_loader_read_splits(pictures, resident):
    import torch
    from torch.utils.data import DataLoader

    split = load(prepare(pets(resident, image_size=(5, 5)))).train
    batches = list(DataLoader(split, batch_size=10, num_workers=2))
    images, labels = split.gather(range(len(split)))
    assert torch.equal(torch.cat([b[0] for b in batches]), images)
    assert torch.equal(torch.cat([b[1] for b in batches]), labels)


def damage(path, kind):
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no picture"}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_picture_that_cannot_be_decoded_is_named(pictures, kind):
    path = pictures / "train" / "dog" / "03.png"
    damage(path, kind)
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        prepare(pets(True))
    streamed = load(prepare(pets(False)))
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        [split.gather(range(len(split))) for split in (streamed.train, streamed.validation)]


def test_a_replaced_picture_is_noticed(pictures):
    before = prepare(pets())
    Image.new("RGB", (9, 6), "red").save(pictures / "train" / "cat" / "00.png")
    assert known(pets()) is None
    assert prepare(pets()).content != before.content


def test_classes_of_a_folder_are_listed_by_name(pictures):
    with pytest.raises(ValueError, match=r"no class 2; its classes are 0 \(cat\), 1 \(dog\)"):
        prepare(pets(classes=(2,)))


def test_folders_that_do_not_fit_together_are_errors(pictures):
    (pictures / "test" / "emu").mkdir()
    with pytest.raises(DataError, match="test/emu holds no pictures"):
        prepare(pets())
    Image.new("RGB", (9, 6)).save(pictures / "test" / "emu" / "0.png")
    with pytest.raises(DataError, match=r"test has a class 'emu' that .*train has not"):
        prepare(pets())
    (pictures / "test").rename(pictures / "tests")
    with pytest.raises(DataError, match="has a folder `train` and no `test` or `val`"):
        prepare(pets())
    (pictures / "train").rename(pictures / "training")
    with pytest.raises(DataError, match=r"tests holds no pictures|training holds no pictures"):
        prepare(pets())


def test_imagenet_is_a_folder_of_pictures_whose_test_split_is_val(pictures, data):
    (pictures / "test").rename(pictures / "val")
    pictures.rename(data / "imagenet")
    component = prepare(Source(dataset="imagenet", image_size=(8, 8)))
    assert (component.num_classes, component.num_test, component.image_shape) == (2, 10, (3, 8, 8))
    assert prepare(Source(dataset="imagenet")).image_shape == (3, 224, 224)


# Constructed data ---------------------------------------------------------------------------------


def dominoes(train=20000, **options):
    return source("dominoes", options, train_examples=train)


def shown(split, base):
    """(N, 2) the class that each view of a domino without noise shows; every view is an image of the base."""
    class_of = {image.numpy().tobytes(): label for image, label in base}
    images = split.images.numpy()
    return np.array([[class_of[view.tobytes()] for view in (image[..., :8], image[..., 8:])] for image in images])


@pytest.mark.parametrize("informative", ["both", "left", "right"])
def test_informative_views_show_the_label_and_others_are_independent_of_it(informative):
    clean = load(prepare(dominoes(informative=informative, noise_right=0)))
    digits = load(prepare(Source(dataset="digits")))
    assert clean.value_range == (-1.0, 1.0)
    for name in ("train", "validation", "test"):  # each is made of the digits of its own split
        labels = getattr(clean, name).labels.numpy()
        for side, view in zip(("left", "right"), shown(getattr(clean, name), getattr(digits, name)).T, strict=True):
            if informative in ("both", side):
                assert_array_equal(view, labels)
                continue
            # A table of independent classes: its chi-square has 81 degrees of freedom; above 160 once in a million.
            observed = np.zeros((10, 10))
            np.add.at(observed, (labels, view), 1)
            expected = observed.sum(1, keepdims=True) * observed.sum(0) / observed.sum()
            assert ((observed - expected) ** 2 / expected).sum() < 160


def test_dominoes_have_balanced_labels_and_the_sizes_asked_for():
    component = prepare(source("dominoes", train_examples=100, validation_examples=20, test_examples=30))
    assert (component.num_train, component.num_validation, component.num_test) == (100, 20, 30)
    assert set(Counter(load(component).train.labels.tolist()).values()) == {10}
    assert prepare(dominoes()).num_test == 5000


def test_classes_of_dominoes_are_those_that_are_drawn():
    data = load(prepare(source("dominoes", classes=(7, 3), train_examples=100)))
    assert Counter(data.train.labels.tolist()) == {0: 50, 1: 50}


def test_the_noise_of_dominoes_is_gaussian_where_it_is_asked_for():
    quiet, noisy = (load(prepare(dominoes(2000, noise_left=0.5, noise_right=sigma))) for sigma in (0.0, 0.6))
    assert quiet.value_range == noisy.value_range == (-3.0, 3.0)
    difference = (noisy.train.images.float() - quiet.train.images.float()) * 6 / 255
    assert difference[..., :8].abs().max() == 0  # the left views are the same
    noise = difference[..., 8:].numpy()
    # Of 128,000 draws; black and white pixels are cut off at three, 3.3 standard deviations away.
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(0.6, abs=0.01)
    assert (np.abs(noise) > 1.2).mean() == pytest.approx(0.0455, abs=0.005)


def test_dominoes_with_other_informative_views_are_drawn_independently():
    both, right = (load(prepare(dominoes(informative=i, noise_right=0))) for i in ("both", "right"))
    assert_array_equal(both.train.labels, right.train.labels)  # so that chance agreement is one image in a hundred
    same = (both.train.images[..., 8:] == right.train.images[..., 8:]).flatten(1).all(1)
    assert same.float().mean() < 0.03


def test_views_of_dominoes_come_to_the_size_of_the_larger(data):
    write_mnist(data / "MNIST" / "raw", MNIST, np.arange(300) % 10)
    component = prepare(source("dominoes", {"right": "mnist"}, train_examples=20))
    assert component.image_shape == (1, 28, 56)


@pytest.mark.parametrize(
    ("options", "classes", "content"),
    [
        ({}, None, "547bce18ad3c7c5c4aa7ba9ac43522e4e931494b24ccfcc01c702d9eb30420ec"),
        ({"informative": "right"}, None, "af03144f6960d83b22b6884f1c7f0d896fdf00deec589d9f0a6eaf53cd508eac"),
        ({"informative": "right"}, (7, 3), "f74bce7a72bd22a4c36b462a238c3e0b44567c5720a4122d1b7eee89ed1c1676"),
        ({"noise_right": 0}, (7, 3), "eb077fcb954b1ec3648fef9242664b906450fff295aae5347d1ff169ec0bde12"),
    ],
)
def test_the_content_of_dominoes_is_the_same_on_every_machine_and_in_every_version(options, classes, content):
    sizes = {"train_examples": 300, "validation_examples": 60, "test_examples": 70}
    assert prepare(source("dominoes", options, classes=classes, **sizes)).content == content
    said = {"correlation": 1, "left_classes": None, "right_classes": None, "stacked": False, "mark": None}
    assert prepare(source("dominoes", options | said, classes=classes, **sizes)).content == content


def test_views_of_any_two_datasets_are_brought_together(data, monkeypatch):
    write_mnist(data / "MNIST" / "raw", MNIST, np.arange(300) % 10)
    # Twelve classes of 9 x 40 pixels: the blue of all pixels of an image is ten times its class.
    labels = np.arange(240) % 12
    images = np.zeros((240, 3, 9, 40), np.uint8)
    images[:, 2] = 10 * labels[:, None, None]
    splits = dict.fromkeys(("train", "validation", "test"), Examples(images, labels))
    blues = Raw(**splits, num_classes=12)
    made_here = Dataset(title="blues", num_classes=12, shape=(3, 9, 40), read=lambda request: blues)
    monkeypatch.setitem(CATALOGUE, "blues", made_here)
    options = {"left": "mnist", "right": "blues", "right_classes": "11-2", "noise_right": 0}
    made = prepare(source("dominoes", options, train_examples=40, validation_examples=10, test_examples=30))
    assert (made.num_classes, made.image_shape) == (10, (3, 28, 80))
    for image, label in load(made).train:
        assert image[2, :, 40:].unique().tolist() == [10 * (11 - label)]
        assert (image[0, :, :40] == image[2, :, :40]).all()
        assert image[:2, :, 40:].max() == 0


def test_a_view_shows_the_classes_that_are_listed_for_it_in_their_order():
    made = load(prepare(dominoes(200, left_classes="3,9-8", right_classes="0-2", noise_right=0)))
    digits = load(prepare(Source(dataset="digits")))
    assert made.component.num_classes == 3
    left, right = shown(made.train, digits.train).T
    assert_array_equal(left, np.array([3, 9, 8])[made.train.labels])
    assert_array_equal(right, made.train.labels)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=5))
def test_a_list_of_classes_holds_every_class_from_end_to_end(ranges):
    classes = listed_classes(",".join(f"{first}-{last}" for first, last in ranges))
    assert len(classes) == sum(abs(first - last) + 1 for first, last in ranges)
    assert (classes[0], classes[-1]) == (ranges[0][0], ranges[-1][1])
    assert listed_classes(",".join(map(str, classes))) == classes


@pytest.mark.parametrize("correlation", [0, 0.5, 0.95])
def test_the_left_view_agrees_with_the_label_as_often_as_asked_for(correlation):
    made = load(prepare(dominoes(4000, correlation=correlation, noise_right=0)))
    digits = load(prepare(Source(dataset="digits")))
    labels = made.train.labels.numpy()
    left, right = shown(made.train, digits.train).T
    assert_array_equal(right, labels)
    assert_array_equal(left, made.train.attribute("left"))
    # Five standard deviations of 4000 draws: 5 sqrt(1/4 / 4000).
    assert (left == labels).mean() == pytest.approx(correlation, abs=0.04 * (correlation > 0))
    # The nine other classes, told by their distance from the label, are equally likely: chi-square, 8 degrees.
    distance = np.bincount((left - labels)[left != labels] % 10, minlength=10)[1:]
    assert ((distance - distance.mean()) ** 2 / distance.mean()).sum() < 43


def test_dominoes_of_other_correlations_classes_or_marks_are_drawn_independently():
    changes = ({}, {"correlation": 0.9}, {"correlation": 0.8}, {"left_classes": "0-9"}, {"mark": 1}, {"mark": -1})
    views = [
        load(prepare(dominoes(1000, noise_right=0, **change))).train.images[..., 8:].flatten(1) for change in changes
    ]
    for i, one in enumerate(views):
        for other in views[:i]:
            assert (one == other).all(1).float().mean() < 0.05  # by chance one in a hundred


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"informative": "right", "correlation": 0.5}, "correlation is 0.5 with informative 'right' and 10 classes"),
        ({"left_classes": "1", "right_classes": "7", "correlation": 0}, "informative 'both' and 1 classes; .* two"),
        ({"left_classes": "0-4"}, "'digits' has 5 and 'digits' has 10; choose some with `left_classes`"),
        ({"left_classes": "0-10"}, "dataset 'digits' has no class 10"),
        ({"left_classes": "0,0"}, "name one or more, each once"),
    ],
)
def test_views_and_correlations_that_cannot_be_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        prepare(dominoes(10, **options))


def test_stacked_dominoes_are_the_same_views_one_above_the_other():
    beside, stacked = (load(prepare(dominoes(50, noise_left=0.1, stacked=stacked))) for stacked in (False, True))
    assert stacked.component.image_shape == (1, 16, 8)
    assert_array_equal(stacked.train.images[:, :, :8], beside.train.images[..., :8])
    assert_array_equal(stacked.train.images[:, :, 8:], beside.train.images[..., 8:])


@pytest.mark.parametrize(("noise", "mark", "byte"), [(0, 1, 255), (0, -1, 0), (0.6, 1, 170), (0.6, -1.0, 85)])
def test_a_mark_fills_the_upper_left_corner_of_every_image(noise, mark, byte):
    # With noise, bytes 0 to 255 are -3 to 3, so that 1 is two thirds of the way.
    made = load(prepare(dominoes(100, noise_left=noise, noise_right=noise, mark=mark)))
    for split in (made.train, made.validation, made.test):
        assert split.images[:, 0, :2, :2].unique().tolist() == [byte]
        assert len(split.images[:, 0, 2, :2].unique()) > 1
        assert len(split.images[:, 0, :2, 2].unique()) > 1


def test_dominoes_know_what_each_view_shows():
    made = load(prepare(dominoes(300, informative="right", noise_right=0)))
    digits = load(prepare(Source(dataset="digits")))
    assert made.attributes == {"left": 10, "right": 10}
    for name in ("train", "validation", "test"):
        split = getattr(made, name)
        for side, view in zip(("left", "right"), shown(split, getattr(digits, name)).T, strict=True):
            assert_array_equal(split.attribute(side), view)
        assert_array_equal(split.attribute("right"), split.labels)


def test_a_class_that_a_view_cannot_show_is_an_error(mnist):
    with pytest.raises(DataError, match=r"the \w+ split of 'mnist' has no image of class \d"):
        prepare(source("dominoes", {"right": "mnist"}))


def test_views_must_have_the_same_number_of_classes():
    with pytest.raises(ValueError, match="'digits' has 10 and 'competing_features' has 2"):
        prepare(source("dominoes", {"right": "competing_features"}))


def test_views_are_ordinary_images():
    with pytest.raises(ValueError, match="right is 'dominoes'; it must be an ordinary set of images"):
        prepare(source("dominoes", {"right": "dominoes"}))


def colored(train=4000, **options):
    return source("colored", {"base": "digits"} | options, train_examples=train)


@pytest.mark.parametrize(("classes", "palette"), [("binary", RED_AND_GREEN), ("all", MUTED_COLOURS)])
def test_colored_images_are_grey_ones_of_their_split_in_the_colour_they_know(classes, palette):
    made, digits = load(prepare(colored(500, classes=classes))), load(prepare(Source(dataset="digits")))
    assert made.value_range == (-1.0, 1.0)
    assert made.component.image_shape == (3, 8, 8)
    values = 2 if classes == "binary" else 10
    assert made.attributes == {"colour": values, "shape": values}
    for name in ("train", "validation", "test"):
        split, own = getattr(made, name), getattr(digits, name)
        for colour in range(values):
            # Each of the split's grey images in this colour, by hand in floating point, and the class it is of.
            tint = np.array(palette[colour]).reshape(3, 1, 1)
            class_of = {np.rint(image.numpy() * tint / 255).astype(np.uint8).tobytes(): c for image, c in own}
            of_colour = split.attribute("colour").numpy() == colour
            found = np.array([class_of[image.tobytes()] for image in split.images.numpy()[of_colour]])
            assert_array_equal(found // 5 if classes == "binary" else found, split.attribute("shape")[of_colour])


@pytest.mark.parametrize(
    ("classes", "noise", "correlation"), [("binary", 0.25, 0.9), ("binary", 0, 0.1), ("all", 0.25, 0.5), ("all", 0, 1)]
)
def test_shape_and_colour_tell_the_label_as_often_as_asked_for(classes, noise, correlation):
    train = load(prepare(colored(classes=classes, label_noise=noise, correlation=correlation))).train
    labels = train.labels.numpy()
    shape, colour = (train.attribute(name).numpy() == labels for name in ("shape", "colour"))
    assert len(set(Counter(labels.tolist()).values())) == 1
    # Five standard deviations of 4000 draws, as above.
    assert shape.mean() == pytest.approx(1 - noise, abs=0.04 * (noise > 0))
    assert colour.mean() == pytest.approx(correlation, abs=0.04 * (correlation < 1))
    assert (shape & colour).mean() == pytest.approx((1 - noise) * correlation, abs=0.04)  # independent given the label


def test_colored_images_of_other_chances_are_drawn_independently():
    one, other = (load(prepare(colored(1000, correlation=c))).train.images.amax(1).flatten(1) for c in (0.9, 0.8))
    assert (one == other).all(1).float().mean() < 0.02


def test_the_content_of_colored_images_is_the_same_on_every_machine():
    made = prepare(source("colored", {"base": "digits"}, train_examples=300, validation_examples=60, test_examples=70))
    assert made.content == "cf761056c1b828543b1094fc4f6b0065e0e88a7bd83fc432011923faec456e67"


def test_colored_images_take_an_ordinary_dataset_of_as_many_classes_as_there_are_colours(data):
    write_cifar100(data / "cifar-100-python")
    with pytest.raises(ValueError, match="'cifar100_subset' has 100 classes; there are 10 colours"):
        prepare(source("colored", {"base": "cifar100_subset", "classes": "all"}))
    halves = {"base": "cifar100_subset"}
    assert prepare(source("colored", halves, train_examples=9, test_examples=9)).image_shape == (3, 32, 32)
    with pytest.raises(ValueError, match="colored: base is 'dominoes'; it must be an ordinary set of images"):
        prepare(source("colored", {"base": "dominoes"}))


def test_a_shape_that_a_split_lacks_is_an_error(mnist):
    with pytest.raises(DataError, match=r"colored: the \w+ split of 'mnist' has no image of class \d"):
        prepare(source("colored", {"classes": "all"}))


def test_competing_features_are_the_population_itself():
    # 20,000 examples: half of each label; s agrees with y in 9 of 10, and then r in 99 of 100.
    train = load(prepare(source("competing_features"))).train
    found = Counter((*image.flatten().tolist(), label) for image, label in train)
    assert found == {
        (255, 255, 1): 8910,
        (0, 0, 0): 8910,
        (0, 255, 1): 990,
        (255, 0, 0): 990,
        (255, 0, 1): 90,
        (0, 255, 0): 90,
        (0, 0, 1): 10,
        (255, 255, 0): 10,
    }


def test_without_its_private_feature_the_right_pixel_is_a_fair_coin():
    data = load(prepare(source("competing_features", {"private": False, "q": 1.0}, train_examples=400)))
    found = Counter((*image.flatten().tolist(), label) for image, label in data.train)
    assert set(found.values()) == {100}
    assert set(found) == {(255, 0, 1), (255, 255, 1), (0, 0, 0), (0, 255, 0)}


def test_competing_features_know_which_pixels_are_on():
    data = load(prepare(source("competing_features", train_examples=100, validation_examples=50, test_examples=70)))
    assert data.attributes == {"shared": 2, "private": 2}
    for split in (data.train, data.validation, data.test):
        on = split.images[:, 0, 0] == 255
        assert_array_equal(split.attribute("shared"), on[:, 0])
        assert_array_equal(split.attribute("private"), on[:, 1])


def test_the_content_of_competing_features_is_the_same_on_every_machine():
    assert (
        prepare(Source(dataset="competing_features")).content
        == "30be30bfefac1c32df167a3ac897580748dd7dc49d21839bdda20a708f4b8e91"
    )


# Code of the user ---------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module whose `data` returns an expression, and returns its name in a sweep."""
    monkeypatch.syspath_prepend(tmp_path)
    module = f"reading_{tmp_path.name}".replace("-", "_")

    def write(expression, arguments=""):
        sys.modules.pop(module, None)
        (tmp_path / f"{module}.py").write_text(
            "import types\nimport numpy as np\n"
            "images, labels = np.arange(48, dtype=np.uint8).reshape(12, 2, 2), np.arange(12) % 3\n"
            f"def data({arguments}):\n    return {expression}\n"
        )
        return f"python:{module}:data"

    yield write
    sys.modules.pop(module, None)


@pytest.mark.parametrize(
    "expression",
    [
        "{'train': (images, labels), 'test': (images, labels)}",
        "{'train': [images[:, None], labels.tolist()], 'test': (images, labels.astype(np.uint8))}",
        "types.SimpleNamespace(train=(images, labels), test=(images, labels))",
    ],
)
def test_code_returns_training_and_test_images(plugin, expression):
    data = load(prepare(Source(dataset=plugin(expression))))
    assert data.component.num_classes == 3
    assert data.value_range == (-1.0, 1.0)
    assert data.test.images.shape == (12, 1, 2, 2)


def test_code_may_return_tensors(plugin):
    expression = "__import__('torch').from_numpy(images), __import__('torch').from_numpy(labels)"
    component = prepare(Source(dataset=plugin(f"{{'train': ({expression}), 'test': ({expression})}}")))
    assert component.num_test == 12


def test_code_gets_the_options_and_may_have_a_validation_split_and_a_value_range(plugin):
    name = plugin(
        "{'train': (images[:n], labels[:n]), 'validation': (images[:6], labels[:6]), "
        "'test': (images, labels), 'value_range': (0, 2)}",
        arguments="n",
    )
    data = load(prepare(source(name, {"n": 9})))
    assert (len(data.train), len(data.validation)) == (9, 6)
    assert data.value_range == (0.0, 2.0)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("3", 'returned a int; expected a mapping with "train" and "test"'),
        ("{'train': (images, labels)}", "returned a dict with the keys train; expected"),
        ("{'train': images, 'test': images}", "train is a ndarray; expected"),
        ("{'train': (images / 1, labels), 'test': 0}", r"train is images float64 \(12, 2, 2\) and labels int64"),
        ("{'train': (images, labels[1:]), 'test': 0}", r"labels int64 \(11,\)"),
        ("{'train': (images, labels - 1), 'test': 0}", r"labels int64 \(12,\) from -1"),
        ("{'train': (images, labels / 1), 'test': 0}", "labels float64"),
        ("{'train': (images[:0], labels[:0]), 'test': 0}", r"images uint8 \(0, 2, 2\)"),
        ("dict(train=(images, labels), test=(images, labels), value_range=(1, 0))", r"value_range is \(1, 0\)"),
        ("dict(train=(images, labels), test=(images, labels), value_range=7)", "value_range is 7"),
        ("labels[99]", r"IndexError: .* \(.*reading_.*py:5\)"),
    ],
)
def test_anything_else_that_code_returns_is_described(plugin, expression, message):
    with pytest.raises(DataError, match=message):
        prepare(Source(dataset=plugin(expression)))


def test_code_that_cannot_be_found_or_imported_is_an_error(plugin, tmp_path):
    with pytest.raises(DataError, match=r"there is no module 'nowhere.at_all'; install it or add it to PYTHONPATH"):
        known(Source(dataset="python:nowhere.at_all:data"))
    name = plugin("1")
    with pytest.raises(DataError, match=r"AttributeError: .* has no attribute 'date'"):
        prepare(Source(dataset=name.replace(":data", ":date")))
    (tmp_path / f"{name.split(':')[1]}.py").write_text("import does_not_exist")
    sys.modules.pop(name.split(":")[1])
    with pytest.raises(DataError, match="ModuleNotFoundError: No module named 'does_not_exist'"):
        prepare(Source(dataset=name))


def test_a_wrong_option_of_code_is_an_error(plugin):
    with pytest.raises(DataError, match=r"TypeError: .*unexpected keyword argument 'n'"):
        prepare(source(plugin("1"), {"n": 9}))
