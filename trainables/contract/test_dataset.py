"""The contract of a dataset: the same examples every time, well formed, with a test split of its own."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from trainables import components
from trainables.catalogue import CATALOGUE, find, request_for
from trainables.contract.randomness import reseed, untouched
from trainables.plugins import resolve
from trainables.reading import Examples, Raw
from trainables.spec import Source


@pytest.fixture
def source(component: str, pytestconfig: pytest.Config) -> Source:
    path = resolve("dataset", component, CATALOGUE)
    return Source(dataset=path, options=pytestconfig.getoption("--component-options"))


@pytest.fixture
def raw(source: Source) -> Raw:
    """What it returns, once it has been checked as in a sweep."""
    return read(source)


def read(source: Source) -> Raw:
    return find(source.dataset).read(request_for(source, components._raw_of))


def splits(raw: Raw) -> dict[str, Examples]:
    named = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    return {name: split for name, split in named.items() if split is not None}


def test_images_are_bytes_of_one_shape_with_one_or_three_channels(raw: Raw) -> None:
    for name, split in splits(raw).items():
        images = np.asarray(split.images)
        assert images.dtype == np.uint8, name
        assert images.ndim == 4, f"{name}: images are (N, channels, height, width)"
        assert images.shape[1] in (1, 3), f"{name}: {images.shape[1]} channels"
        assert images.shape[1:] == np.asarray(raw.train.images).shape[1:], f"{name}: another shape than in train"
        assert len(images) == len(split.labels) > 0, name


def test_labels_are_classes_from_0_without_a_gap_and_each_is_in_every_split(raw: Raw) -> None:
    assert raw.num_classes >= 2, "with one class there is nothing to tell apart"
    for name, split in splits(raw).items():
        present = set(np.unique(split.labels).tolist())
        assert present == set(range(raw.num_classes)), f"{name}: classes {sorted(present)} of {raw.num_classes}"


def test_no_test_image_is_a_training_image(raw: Raw) -> None:
    trained = {digest(image) for image in np.asarray(raw.train.images)}
    both = [n for n, image in enumerate(np.asarray(raw.test.images)) if digest(image) in trained]
    assert not both, f"{len(both)} test images are training images too, the first is {both[0]}"


def digest(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def test_reading_it_again_gives_the_same_examples_whatever_the_global_seeds_are(source: Source, raw: Raw) -> None:
    reseed(12345)
    for name, split in splits(read(source)).items():
        before = splits(raw)[name]
        assert np.array_equal(np.asarray(split.images), np.asarray(before.images)), name
        assert np.array_equal(split.labels, before.labels), name


def test_reading_it_leaves_the_global_generators_alone(source: Source) -> None:
    with untouched():
        read(source)


def test_workers_are_sent_its_name_and_not_its_images(source: Source) -> None:
    data = components.load(components.prepare(source))
    sent = pickle.dumps(data.train)
    assert len(sent) < 10_000
    assert np.array_equal(pickle.loads(sent).labels.numpy(), data.train.labels.numpy())
