"""What does the probe read? The networks whose features it sees, and how each of them is pretrained.

Members are ordinary pretraining stages: a concatenation shares them with every trial that has them. `steps` are those
of the trial. Kinds whose members share the steps cost in pretraining what one network costs:

    single          one network
    cat:n           n networks side by side, each pretrained for all the steps
    time_cat:n      n networks side by side that share the steps
    complement:n    the same, each network after the first told to find what those before it do not have
    snapshots:n     n snapshots of one run, at the ends of the n cycles of its learning rate
    wide:n          one network n times as wide
    distilled:n     one network that learns to predict what the n networks of cat:n predict
    bonsai:n        n rounds of discovery, each on data that the rounds before do not explain, and one network that
                    learns to predict what they predict; all n + 1 share the steps
    random_init:n   n networks that were never trained
    cat_pca:n       the control of cat:n: as many principal components of its features as one network has
    cat_average:n   the control of cat:n: each member's own probe, probabilities averaged

Sources: CAT, DISTILL and wide are Zhang & Bottou (2023), arXiv:2212.07346; Time-CAT is Yang, Zhang & Bottou (2025),
arXiv:2506.18221; Bonsai is Zhang et al. (2022), arXiv:2203.15516; snapshots are Huang et al. (2017), arXiv:1704.00109.
`complement` is this program's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trainables import plugins
from trainables.spec import Architecture, Guide, Mixture, PretrainSpec, Training, derive_seed

Members = tuple[PretrainSpec, ...]


@dataclass(kw_only=True, slots=True)
class Pretraining:
    """How the networks of one replicate are pretrained, but for the number of their steps."""

    mixture: Callable[[int], Mixture]  # the mixture of a run of so many steps
    run: Callable[[Mixture, Architecture, Training, int], PretrainSpec]  # the last argument is the seed
    architecture: Architecture
    training: Callable[[int], Training]  # of so many steps
    steps: int
    seed: int

    def plain(self, steps: int, seed: int) -> PretrainSpec:
        """A run of so many steps without a guide."""
        return self.run(self.mixture(steps), self.architecture, self.training(steps), seed)

    def seeds(self, count: int) -> tuple[int, ...]:
        """The seeds of the members. The first is the replicate's own; the others belong to this replicate alone.

        So replicates share no network and stay independent, and the first member is shared with `single`.
        """
        if count == 1:
            return (self.seed,)
        return (self.seed, *(derive_seed(self.seed, "member", str(m)) for m in range(1, count)))


@functools.cache
def parse(representation: str) -> tuple[str, int]:
    """The kind and its number: `single` is one, `cat:4` and `time_cat:4` are four. Code of the user's has no number."""
    if plugins.is_code(representation):
        return representation, 1
    kind, _, count = representation.partition(":")
    return kind, int(count) if count else 1


def members(representation: str, pretraining: Pretraining) -> Members:
    """The networks whose features the probe reads."""
    kind, count = parse(representation)
    path = plugins.resolve("representation", kind, KINDS)
    return from_code(path, pretraining) if plugins.is_code(path) else KINDS[kind](pretraining, count)


def untrained(representation: str, pretraining: Pretraining) -> Members:
    """Networks at their random initialisation: as many, of the same architecture."""
    kind, count = parse(representation)
    if kind not in KINDS:
        return tuple(initialisation(member.architecture, member.seed) for member in members(kind, pretraining))
    architecture = _widened(pretraining.architecture, count) if kind == "wide" else pretraining.architecture
    seeds = pretraining.seeds(count if kind in SIDE_BY_SIDE else 1)
    return tuple(initialisation(architecture, seed) for seed in seeds)


def initialisation(architecture: Architecture, seed: int) -> PretrainSpec:
    """A network at its random initialisation: a pretraining of no steps."""
    return PretrainSpec(mixture=Mixture(shares=()), architecture=architecture, training=Training(steps=0), seed=seed)


def fewest_steps(representation: str) -> int:
    """Steps that a trial needs for each of its networks to have one."""
    kind, count = parse(representation)
    return {"time_cat": count, "complement": count, "snapshots": count, "bonsai": count + 1}.get(kind, 1)


# The kinds: each returns the networks that the probe reads ------------------------------------------------------------


def cat(p: Pretraining, count: int) -> Members:
    if count == 1:
        return (p.plain(p.steps, p.seed),)
    return tuple(p.plain(p.steps, seed) for seed in p.seeds(count))


def time_cat(p: Pretraining, count: int) -> Members:
    return tuple(p.plain(p.steps // count, seed) for seed in p.seeds(count))


def complement(p: Pretraining, count: int) -> Members:
    """Each member looks once at what every earlier one predicts: that is counted, and the steps are fewer for it."""
    steps = _affordable(p, runs=count, looks=count * (count - 1) // 2)
    found: Members = ()
    for seed in p.seeds(count):
        member = p.plain(steps, seed)
        found += (replace(member, guide=Guide(kind="complement", teachers=found)) if found else member,)
    return found


def snapshots(p: Pretraining, count: int) -> Members:
    training = replace(p.training(p.steps), schedule="cosine", cycles=count)
    run = p.run(p.mixture(p.steps), p.architecture, training, p.seed)
    return (*(replace(run, until=p.steps * k // count) for k in range(1, count)), run)


def wide(p: Pretraining, count: int) -> Members:
    return (p.run(p.mixture(p.steps), _widened(p.architecture, count), p.training(p.steps), p.seed),)


def distilled(p: Pretraining, count: int) -> Members:
    return (_student(p, p.steps, cat(p, count)),)


def bonsai(p: Pretraining, count: int) -> Members:
    steps = _affordable(p, runs=count + 1, looks=count * (count - 1) // 2 + count)
    rounds: Members = ()
    for seed in p.seeds(count):
        discovery = p.plain(steps, seed)
        rounds += (replace(discovery, guide=Guide(kind="reweight", teachers=rounds)) if rounds else discovery,)
    return (_student(p, steps, rounds),)


def random_init(p: Pretraining, count: int) -> Members:
    return tuple(initialisation(p.architecture, seed) for seed in p.seeds(count))


def from_code(path: str, p: Pretraining) -> Members:
    """What code of the user's returns. Raises PluginError if it raises, or returns something else."""
    function = plugins.load("representation", path)
    try:
        found = function(p)
    except Exception as error:  # the code is not ours and may raise anything
        raise plugins.PluginError(f"{path}: {plugins.said(error)}") from error
    if not (isinstance(found, tuple) and found and all(isinstance(member, PretrainSpec) for member in found)):
        raise plugins.PluginError(
            f"{path} returned {str(found)[:60]}; expected a tuple of one PretrainSpec or more, as "
            "`pretraining.plain(steps, seed)` makes them"
        )
    if len({member.digest for member in found}) < len(found):
        raise plugins.PluginError(
            f"{path} returned one network twice; give each a seed of its own: pretraining.seeds(n)"
        )
    return found


KINDS: Mapping[str, Callable[[Pretraining, int], Members]] = {
    "single": cat,
    "cat": cat,
    "time_cat": time_cat,
    "complement": complement,
    "snapshots": snapshots,
    "wide": wide,
    "distilled": distilled,
    "bonsai": bonsai,
    "random_init": random_init,
    "cat_pca": cat,
    "cat_average": cat,
}
LINEAR = ("cat_pca", "cat_average")  # controls that linear protocols alone can read
SIDE_BY_SIDE = ("cat", "time_cat", "complement", "snapshots", "random_init", "cat_pca", "cat_average")


def _student(p: Pretraining, steps: int, teachers: Members) -> PretrainSpec:
    student = p.plain(steps, derive_seed(p.seed, "student"))
    return replace(student, guide=Guide(kind="distil", teachers=teachers))


def _widened(architecture: Architecture, count: int) -> Architecture:
    return replace(architecture, width=architecture.width * count)


def _affordable(p: Pretraining, runs: int, looks: int) -> int:
    """The steps of each of several runs that cost no more than one run of all the steps; at least 1.

    A step costs three forward passes of each of its examples, a look one of every distinct example of a run.
    """
    budget, steps = 3 * p.steps * p.training(1).batch_size, p.steps // runs
    while steps > 1:
        mixture = p.mixture(steps)
        distinct = sum(share.distinct for share in mixture.shares)
        cost = 3 * runs * mixture.num_examples + looks * distinct
        if cost <= budget:
            break
        # Fewer by what is too much, as if the runs still saw as many distinct examples: never too few.
        steps -= max(1, (cost - budget) // (3 * runs * p.training(1).batch_size + looks * p.training(1).batch_size))
    return max(1, steps)
