"""The feed: the stream's examples, batch by batch, as the floats that their bytes stand for."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from trainables import components, feed
from trainables.feed import Feed, on_device, to_float
from trainables.mixture import mixture_of
from trainables.ordering import index_stream
from trainables.spec import SHUFFLED, Source

CPU = torch.device("cpu")
BATCH = 16


@pytest.fixture(scope="module")
def mixture():
    """Two components, of ten and of five classes, on a joint head."""
    parts = {
        "digits": components.prepare(Source(dataset="digits")),
        "odd": components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9))),
    }
    weights = {"digits": 2, "odd": 1}
    return mixture_of(weights, parts, num_examples=7 * BATCH, train_examples=None, label_space="joint")


@pytest.fixture
def data(mixture):
    """They say that their bytes stand for other floats, each for its own."""
    ranges = [(-1.0, 1.0), (0.0, 3.0)]
    loaded = [components.load(share.component) for share in mixture.shares]
    return [replace(each, value_range=its) for each, its in zip(loaded, ranges, strict=True)]


def batches(mixture, data, first=0, until=None):
    return list(Feed(index_stream(mixture, SHUFFLED, 0), mixture, data, BATCH, CPU).batches(first, until))


def same(found, expected):
    return len(found) == len(expected) and all(
        torch.equal(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_a_batch_holds_its_part_of_the_stream_component_after_component(mixture, data):
    stream, found = index_stream(mixture, SHUFFLED, 0), batches(mixture, data)
    assert len(found) == 7
    for number, (x, y, rows) in enumerate(found):
        shown = slice(number * BATCH, (number + 1) * BATCH)
        expected = []
        for k, each in enumerate(data):
            for index in stream.example[shown][stream.component[shown] == k].tolist():
                image, label = each.train[index]
                row = index + sum(len(other.train) for other in data[:k])
                expected.append((to_float(image, each.value_range), label + mixture.label_offsets[k], row))
        images, labels, places = zip(*expected, strict=True)
        assert torch.equal(x, torch.stack(images))
        assert y.tolist() == list(labels)
        assert rows.tolist() == list(places)


def test_a_feed_taken_up_later_and_one_prepared_in_parts_give_the_same_batches(mixture, data, monkeypatch):
    whole = batches(mixture, data)
    assert same(batches(mixture, data, 2, 6), whole[2:6])
    monkeypatch.setattr(feed, "BLOCK", 3)
    assert same(batches(mixture, data), whole)
    assert same(batches(mixture, data, 2, 6), whole[2:6])


def test_components_of_one_range_give_what_each_gives_alone(mixture, data):
    alike = [replace(each, value_range=(0.0, 3.0)) for each in data]
    for (x, _, _), (other, y, _) in zip(batches(mixture, alike), batches(mixture, data), strict=True):
        second = y >= mixture.label_offsets[1]
        assert torch.equal(x[second], other[second])
        torch.testing.assert_close(x[~second], (other[~second] + 1) * 1.5)


def test_what_lies_on_a_device_is_there_once_and_goes_with_its_source():
    device, source = torch.device("meta"), torch.zeros(3)
    uploaded = on_device(source, device)
    assert uploaded.device == device
    assert on_device(source, device) is uploaded
    assert on_device(torch.zeros(3), device) is not uploaded
    assert on_device(source, CPU) is source
    gone = weakref.ref(uploaded)
    del uploaded, source
    gc.collect()
    assert gone() is None
