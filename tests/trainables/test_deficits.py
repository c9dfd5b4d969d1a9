"""Each deficit takes away what its name says, from images of any size, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.deficits import DEFICITS, blur, flip, grey, noise


def batch(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.tuples(*[st.integers(1, 13)] * 4), st.sampled_from(sorted(DEFICITS)))
def test_a_deficit_keeps_the_shape_leaves_its_argument_alone_and_repeats_itself(shape, name):
    x = batch(shape)
    found = DEFICITS[name](x, generator())
    assert found.shape == x.shape
    assert found.isfinite().all()
    assert torch.equal(x, batch(shape))
    assert torch.equal(found, DEFICITS[name](x, generator()))


@given(st.tuples(*[st.integers(1, 13)] * 4), st.floats(-1, 1, width=32), st.sampled_from(sorted(DEFICITS)))
def test_constant_images_have_nothing_to_lose(shape, value, name):
    x = torch.full(shape, value)
    assert torch.allclose(DEFICITS[name](x, generator()), x, atol=1e-6)


def blurred(image):
    """One plane (height, width), averaged and interpolated pixel by pixel."""
    height, width = image.shape
    means = np.array([[image[i : i + 4, j : j + 4].mean() for j in range(0, width, 4)] for i in range(0, height, 4)])

    def neighbours(position, count):
        place = min(max((position + 0.5) / 4 - 0.5, 0), count - 1)  # between the centres of squares
        low = int(place)
        return [(low, 1 - place + low), (min(low + 1, count - 1), place - low)]

    rows, columns = means.shape
    return np.array(
        [
            [
                sum(a * b * means[i, j] for i, a in neighbours(y, rows) for j, b in neighbours(x, columns))
                for x in range(width)
            ]
            for y in range(height)
        ]
    )


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (28, 30), (5, 7), (3, 2), (1, 1)])
def test_blur_is_an_average_over_squares_and_an_interpolation_between_them(shape):
    x = batch((2, 3, *shape))
    found = blur(x, generator())
    for image, plane in ((0, 0), (1, 2)):
        assert np.allclose(found[image, plane], blurred(x[image, plane].double().numpy()), atol=1e-6)


def test_blur_worked_out_by_hand():
    # Squares of 0 and 8: 2.5 pixels before the border between them it is still 0.5/4 on the way.
    x = torch.cat([torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 8.0)], dim=3)
    assert blur(x, generator())[0, 0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


def test_grey_images_have_the_mean_of_the_channels_in_each():
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert grey(x, generator()).flatten().tolist() == [0.5, 0.5, 0.5]
    x = batch((4, 3, 6, 5))
    found = grey(x, generator())
    assert torch.allclose(found[:, 0], x.mean(1), atol=1e-6)
    assert torch.equal(found[:, 0], found[:, 2])


def test_one_channel_is_grey_already():
    x = batch((4, 1, 6, 5))
    assert torch.equal(grey(x, generator()), x)


def test_noise_keeps_mean_and_spread_of_an_image_and_nothing_else():
    # 3 x 64 x 64 pixels: the mean is within 5 / sqrt(12288) standard deviations, the spread within 5 / sqrt(2 * 12288).
    x = torch.stack([batch((3, 64, 64)), 0.1 * batch((3, 64, 64), seed=1) + 0.7])
    found = noise(x, generator(2))
    for before, after in zip(x, found, strict=True):
        assert (after.mean() - before.mean()).abs() < 0.046 * before.std()
        assert (after.std() / before.std()).item() == pytest.approx(1, abs=0.032)
        correlation = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
        assert correlation.abs() < 0.046
    z = (found[0] - found[0].mean()) / found[0].std()
    assert (z.abs() > 2).float().mean().item() == pytest.approx(0.0455, abs=0.01)


def test_noise_comes_from_the_generator_and_is_new_for_every_image():
    x = batch((1, 1, 8, 8)).repeat(2, 1, 1, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = noise(x, generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found, noise(x, generator(1)))


def test_flipped_images_stand_on_their_head():
    x = torch.arange(6.0).view(1, 1, 3, 2)
    assert flip(x, generator())[0, 0].tolist() == [[4, 5], [2, 3], [0, 1]]
