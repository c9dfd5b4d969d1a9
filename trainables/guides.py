"""What does a run learn from networks that were trained before it? The losses of guided pretraining.

A guided run is an ordinary pretraining whose loss looks at frozen teachers. What these make of an example is computed
once, in evaluation mode and without augmentation, for every distinct example of the run, and looked up by row from then
on: the guide costs `PretrainSpec.guided_examples` forward passes, however long the run. The rows of a run are those of
`Feed`.

A new guide is one function, entered in GUIDES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.architectures import Network
from trainables.components import ComponentData
from trainables.feed import to_float
from trainables.ordering import draw
from trainables.probe import extract
from trainables.spec import PretrainSpec, derive_seed

TEACHER_BATCH = 512  # examples; predictions are the same for every size up to rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """What a guide adds to a run."""

    modules: nn.Module  # trained along with the network, and no part of its result
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of features (B, D), logits (B, C), labels and rows (B,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What a guide is made from: the distinct examples of a run, and what its teachers make of them."""

    spec: PretrainSpec  # of the guided run
    num_features: int  # D, of the network to be trained
    teachers: Sequence[Network]
    images: Callable[[], Iterator[Tensor]]  # of the N examples, in batches on the device
    labels: Tensor  # (N,) of the head
    places: Tensor  # (number of rows,) where each row is among the N examples; -1 for one that is not shown
    strength: float

    def features(self) -> list[Tensor]:
        """(N, D) of each teacher."""
        return [extract(teacher.features, self.images()) for teacher in self.teachers]

    def logits(self) -> list[Tensor]:
        """(N, C) of each teacher, over the classes of the run.

        Raises:
            ValueError: a teacher has other classes.
        """
        num_classes = self.spec.mixture.num_classes
        found = [extract(teacher, self.images()) for teacher in self.teachers]
        if other := [logits.shape[1] for logits in found if logits.shape[1] != num_classes]:
            raise ValueError(
                f"a guide compares {num_classes} classes with a teacher's {other[0]}; "
                "teach with networks pretrained on the same mixture, or choose `distil`"
            )
        return found

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """(B,) the loss of each example in the run's own training."""
        smoothing = self.spec.training.label_smoothing
        return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=smoothing)


def guide(
    spec: PretrainSpec,
    teachers: Sequence[Network],
    network: Network,
    data: Sequence[ComponentData],
    device: torch.device,
) -> Guidance:
    """The guidance of `spec.guide` for the training of `network`.

    Args:
        spec: of the guided run.
        teachers: the networks of `spec.guide`, in its order. They are moved to the device and stay as they are.
        network: to be trained.
        data: the components of the mixture, in its order.
        device: of the run.

    Raises:
        ValueError: the guide is unknown, its strength is not a finite number of at least 0, or its teachers have other
            classes than the run, which `distil` alone allows.
    """
    assert spec.guide, "a guided run has a guide"
    assert len(teachers) == len(spec.guide.teachers) > 0, "a guide has its teachers"
    kind, strength = spec.guide.kind, spec.guide.strength
    if kind not in GUIDES:
        raise ValueError(f"unknown guide {kind!r}; known are {', '.join(GUIDES)}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"guide {kind!r} has strength {strength:g}; it is finite and at least 0")

    shares, pool_seed = spec.mixture.shares, spec.seed if spec.pool_seed is None else spec.pool_seed
    shown = [torch.from_numpy(np.unique(draw(share, spec.seed, pool_seed))) for share in shares]

    def images() -> Iterator[Tensor]:
        for component, examples in zip(data, shown, strict=True):
            for chosen in torch.split(examples, TEACHER_BATCH):
                yield to_float(component.train.gather(chosen)[0].to(device), component.value_range)

    offsets = spec.mixture.label_offsets
    labels = torch.cat([d.train.labels[e] + offset for d, e, offset in zip(data, shown, offsets, strict=True)])
    first_rows = np.cumsum([0, *(len(d.train) for d in data)]).tolist()  # (K + 1,)
    rows = torch.cat([examples + first for examples, first in zip(shown, first_rows[:-1], strict=True)])
    places = torch.full((first_rows[-1],), -1)
    places[rows] = torch.arange(len(rows))
    lesson = Lesson(
        spec=spec,
        num_features=network.num_features,
        teachers=[teacher.to(device) for teacher in teachers],
        images=images,
        labels=labels.to(device),
        places=places.to(device),
        strength=strength,
    )
    return GUIDES[kind](lesson)


# The guides -------------------------------------------------------------------------------------------------------


def distil(lesson: Lesson) -> Guidance:
    """The run's own loss, plus the strength times the mean squared error of predicting the teachers' features.

    Each teacher has a linear head of its own on the run's features, so these must hold what all teachers know. It
    predicts the teacher's features standardised over the examples: a head that has learnt nothing has an error of 1.

    Features and not predictions, after 800 steps with four teachers of 800 (mlp, two seeds, strength 1): a probe on
    unseen classes of MNIST is right for .82 of the examples, on the right view of dominoes at weight .02 for .75, where
    a single network has .78 and .74, and the teachers side by side .88 and .81. Imitating predictions by their
    Kullback-Leibler divergence gave .73 and .74; at temperature 2, less.

    Sources: DISTILL in Zhang & Bottou (2023), arXiv:2212.07346, and the synthesis of Bonsai in Zhang et al. (2022),
    arXiv:2203.15516, here one computation, in our reading: both imitate predictions.
    """
    targets = [_standardised(features) for features in lesson.features()]
    heads = nn.ModuleList()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(lesson.spec.seed, "init", "distil"))
        heads.extend(nn.Linear(lesson.num_features, target.shape[1]) for target in targets)

    def loss(features: Tensor, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        place = lesson.places[rows]
        errors = [F.mse_loss(head(features).float(), t[place]) for head, t in zip(heads, targets, strict=True)]
        return lesson.cross_entropy(logits, y).mean() + lesson.strength * torch.stack(errors).mean()

    return Guidance(modules=heads, loss=loss)


def reweight(lesson: Lesson) -> Guidance:
    """The mean over groups of the mean loss in a group: what a teacher relies on no longer pays.

    Every teacher splits the examples into two groups, those it gets right and those it gets wrong, and all groups count
    the same. So an example's weight is the mean over teachers of N / (2 x examples of its group), at most MAX_WEIGHT,
    after which weights are scaled to a mean of 1. The limit bounds what a handful of mistakes can do: a group of less
    than N / (2 MAX_WEIGHT) examples counts for less than its half, and a teacher without a mistake changes nothing.
    Weights to the power of the strength, so that at strength 0 the loss is the run's own.

    Source: a discovery round of Bonsai, Zhang et al. (2022), arXiv:2203.15516, in our reading, with a mean over groups
    where they take the worst one.
    """
    weights = torch.stack([_balance(logits.argmax(1) == lesson.labels) for logits in lesson.logits()]).mean(0)
    weights = weights**lesson.strength
    weights /= weights.mean()

    def loss(features: Tensor, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return (weights[lesson.places[rows]] * lesson.cross_entropy(logits, y)).mean()

    return Guidance(modules=nn.ModuleList(), loss=loss)


def complement(lesson: Lesson) -> Guidance:
    """The loss of the run's logits added to those of all teachers, which count SHARE x strength.

    What the teachers predict with confidence is no longer to be learnt, so the gradient comes from the examples that
    they leave in doubt, and the features from what these need. At strength 0 the loss is the run's own. The network's
    own head predicts what the teachers lack: features are its product.

    It is this program's own: boosting, as additive logistic regression (Friedman et al. 2000) or a product of experts
    (Clark et al. 2019, arXiv:1909.03683) with frozen networks, whose features are put side by side in the end.

    Found, accuracy of a probe on what may be lost, four members at the compute of one network, mean of the 3 seeds that
    SHARE was chosen on: .807 against .747 of time_cat on the right view of dominoes at weight 0, .820 against .801 at
    weight .02, .886 against .850 from MNIST 0-4 to 5-9 (mlp); but .546 against .555 from the even to the odd classes of
    CIFAR-10 (cnn of half width, 800 steps), which are not learnt by then. The gain may be no more than milder training:
    time_cat at its better learning rate, a tenth or three tenths of the above, has .823, .829 and .879.

    Tried and worse on dominoes at weight 0: penalties on features or logits that covary with the teachers' within a
    class (.53 to .74). Features that are constant within every class satisfy these whatever cue they come from.
    """
    # Logits are defined up to a constant per example; centred, they are sums of the same size whatever it is.
    known = torch.stack([logits - logits.mean(1, keepdim=True) for logits in lesson.logits()]).sum(0)
    known *= SHARE * lesson.strength

    def loss(features: Tensor, logits: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return lesson.cross_entropy(logits.float() + known[lesson.places[rows]], y).mean()

    return Guidance(modules=nn.ModuleList(), loss=loss)


GUIDES: Mapping[str, Callable[[Lesson], Guidance]] = {
    "distil": distil,
    "reweight": reweight,
    "complement": complement,
}
MAX_WEIGHT = 10.0
SHARE = 0.3


def _standardised(features: Tensor) -> Tensor:
    """(N, D) with mean 0 and standard deviation 1; 0 where a feature is constant."""
    std, mean = torch.std_mean(features, 0, correction=0)
    return (features - mean) / torch.where(std > 1e-6 * mean.abs(), std, torch.inf)


def _balance(right: Tensor) -> Tensor:
    """(N,) weights that make the right and the wrong examples count the same, at most MAX_WEIGHT, their mean 1."""
    counts = torch.where(right, right.sum(), (~right).sum())
    weights = (len(right) / (2 * counts.double())).clamp(max=MAX_WEIGHT)
    return (weights / weights.mean()).float()
