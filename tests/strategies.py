"""Hypothesis strategies for our specs, and small specs by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from trainables.mixture import mixture_of
from trainables.spec import Component, Mixture, Ordering, Source

NAMES = ("clothes", "digits", "kana", "letters")


def component(name: str, num_train: int = 50, num_classes: int = 3) -> Component:
    """A component that exists on paper only: its content is its name."""
    return Component(
        source=Source(dataset=name),
        content=name,
        num_classes=num_classes,
        num_train=num_train,
        num_validation=5,
        num_test=5,
        image_shape=(1, 8, 8),
    )


def weights(min_size: int = 1) -> st.SearchStrategy[dict[str, float]]:
    """Relative weights, zeros among them, at least one positive and none negligible."""
    weight = st.one_of(st.just(0.0), st.floats(0.01, 10, allow_subnormal=False))
    drawn = st.dictionaries(st.sampled_from(NAMES), weight, min_size=min_size, max_size=len(NAMES))
    return drawn.filter(lambda w: any(w.values()))


@st.composite
def mixtures(draw: st.DrawFn, min_size: int = 1) -> Mixture:
    """Mixtures whose components have enough weight to be shown."""
    drawn = draw(weights(min_size))
    known = {name: component(name, draw(st.integers(1, 60))) for name in drawn}
    return mixture_of(
        drawn,
        known,
        num_examples=draw(st.integers(5000, 6000)),
        train_examples=None,
        label_space=draw(st.sampled_from(["joint", "shared"])),
    )


@st.composite
def orderings(draw: st.DrawFn, mixture: Mixture) -> Ordering:
    """Any ordering that the mixture allows, `curriculum` apart: that needs difficulties."""
    contents = tuple(share.component.content for share in mixture.shares)
    sequence = tuple(draw(st.permutations(contents)))
    relative = st.floats(0, 5, allow_subnormal=False)
    ends = st.lists(relative, min_size=len(contents), max_size=len(contents)).filter(any)
    begin = draw(st.floats(0, 0.6))
    return draw(
        st.sampled_from(
            [
                Ordering(),
                Ordering(kind="sequential", sequence=sequence),
                Ordering(kind="blocked", sequence=sequence, repeats=draw(st.integers(1, 6))),
                Ordering(
                    kind="annealed",
                    start=tuple(zip(contents, draw(ends), strict=True)),
                    end=tuple(zip(contents, draw(ends), strict=True)),
                ),
                Ordering(kind="withheld", component=contents[0], window=(begin, begin + 0.3)),
            ]
        )
    )
