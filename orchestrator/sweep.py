"""What may a sweep file say? Its keys and defaults, and an error as one line: where, what, what instead.

A file is read in three steps: YAML becomes a tree that remembers lines, `--set` is applied to the tree, and
the tree is checked against the models. The tree is `document.py`. What the axes of `vary` hold, and which points
they make, is `space.py`. Whether the data is there and what the trials cost is for the planner.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from orchestrator import document
from orchestrator.document import SweepError as SweepError  # what `read` raises
from orchestrator.mixtures import MIXTURES, Simplex
from orchestrator.model import (
    MAX_POINTS,
    Count,
    Examples,
    Listed,
    Model,
    Name,
    NotNegative,
    OneOf,
    Positive,
    Problem,
    SeedNumber,
    as_tuple,
    expect,
    impossible,
    known,
    listing,
    mapping,
    nearest,
    show,
)
from orchestrator.objectives import Objective
from orchestrator.simplex import MAX_COUNTED
from orchestrator.space import Grid, Optuna, Search, Sobol, Vary
from orchestrator.stopping import FOLLOWED, EarlyStopping, HyperBand, Rule
from orchestrator.stopping import settings as stopping_rule
from orchestrator.training import Pretrain
from orchestrator.transfer import LINEAR, Transfer
from trainables import representation, spec

MAX_BYTES = 1_000_000  # of one sweep file
MAX_SEEDS = 10_000
MAX_LISTED = 10_000  # mixtures of one kind beside a simplex, or to choose among, in a search with coordinates


# Reading and writing --------------------------------------------------------------------------------------------------


def read(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a file, with `overrides` such as `pretrain.steps=100` applied. Raises SweepError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise SweepError(f"{path}: found no such file; {nearest(path.name, beside) or 'check the path'}") from None
    except OSError as error:
        raise SweepError(f"{path}: found nothing that can be read ({error.strerror})") from None
    if len(content) > MAX_BYTES:
        raise SweepError(f"{path}:1: found more than {MAX_BYTES} bytes; a sweep file is shorter")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SweepError(f"{path}:{line}: found byte 0x{content[error.start]:02x}; a sweep file is UTF-8") from None
    return parse(text, str(path), overrides)


def parse(text: str, where: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a text, which errors call `where`. Raises SweepError."""
    root = document.tree(text, where, overrides)
    try:
        sweep = Sweep.model_validate(root.plain())
    except ValidationError as error:
        raise SweepError(_first_problem(error, root)) from None
    sweep._origin = _Origin(text, where, tuple(overrides))
    return sweep


def resolved(sweep: Sweep) -> str:
    """The sweep as YAML with every default filled in. Reading it gives an equal sweep."""
    return document.dump(plain(sweep))


def plain(sweep: Sweep) -> dict[str, Any]:
    """The sweep as mappings, lists and scalars, with every default filled in."""
    return sweep.model_dump(mode="json", by_alias=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a sweep file, for editors."""
    schema = Sweep.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Bottleneck sweep"}


def canonical() -> list[str]:
    """The names of the sweeps that come with the program."""
    return sorted(path.stem for path in _canonical_folder().glob("*.yaml"))


def locate(name_or_path: str) -> Path:
    """The file of a canonical sweep by its name, or the path itself where it is one. Raises SweepError."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or os.sep in name_or_path or path.is_file():
        return path
    names = canonical()
    if name_or_path not in names:
        possible = known(name_or_path, [*names, "the path of a file"])
        raise SweepError(f"found no sweep {show(name_or_path)}; {possible}")
    return _canonical_folder() / f"{name_or_path}.yaml"


def _canonical_folder() -> Path:
    """Inside the package where it is installed, beside it in a checkout."""
    package = Path(__file__).parent
    return package / "sweeps" if (package / "sweeps").is_dir() else package.parent / "sweeps"


# The keys of a sweep file ---------------------------------------------------------------------------------------------


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _first_seeds(value: Any) -> Any:
    """A number of seeds as the seeds from 0."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SEEDS:
        return list(range(value))
    raise impossible(value, f"a number of seeds from 1 to {MAX_SEEDS}, or a list of seeds, is possible")


Text = Annotated[str, Field(pattern=r"\S", max_length=5000)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Label = Annotated[int, Field(ge=0, le=1_000_000), expect("a whole number of at least 0")]
OptionValue = Annotated[
    bool | int | Annotated[float, Field(allow_inf_nan=False)] | str | None,
    expect("a number, a word, true or false"),
]


class Component(Model):
    """A component: a dataset, or some of its classes or examples."""

    dataset: Annotated[str, expect("the name of a dataset, or python:module:attribute")] = Field(
        description="a dataset of the catalogue, or python:module:attribute of an installed package"
    )
    options: Annotated[Mapping[str, OptionValue], mapping("of the dataset's options to values")] = Field(
        {}, description="the dataset's own options"
    )
    classes: Annotated[tuple[Label, ...], Listed(Label)] | None = Field(
        None, description="the classes that are kept, in the order of their new labels; by default all"
    )
    relabel: Annotated[tuple[Label, ...], Listed(Label, unique=False)] | None = Field(
        None, description="the new label of each of `classes`; by default its position"
    )
    train_examples: Examples = Field(None, description="at most so many training examples")
    validation_examples: Annotated[Count | None, expect("a whole number of at least 1")] = Field(
        None, description="validation examples, out of the training split; by default a tenth of it"
    )
    test_examples: Examples = Field(None, description="at most so many test examples")

    def problems(self) -> Iterator[Problem]:
        if self.relabel is not None and len(self.relabel) != len(self.classes or ()):
            yield Problem(
                ("relabel",),
                f"found {show(self.relabel)}; as many labels as there are `classes` "
                f"({len(self.classes) if self.classes else 'none listed'}) are possible",
            )
        yield from _dataset_problems(self)

    def source(self, image: Image) -> spec.Source:
        """How to read the component, with images of the sweep's shape where it has one."""
        return spec.Source(
            dataset=_import_path(self.dataset),
            options=json.dumps(dict(self.options), sort_keys=True, separators=(",", ":")),
            classes=self.classes,
            relabel=self.relabel,
            train_examples=self.train_examples,
            validation_examples=self.validation_examples,
            test_examples=self.test_examples,
            image_size=image.size,
            channels=image.channels,
        )


class Image(Model):
    """The shape that the images of every component are brought to."""

    size: Annotated[
        tuple[Pixels, Pixels] | None,
        as_tuple,
        BeforeValidator(_square, json_schema_input_type=Pixels | tuple[Pixels, Pixels] | None),
        expect("a number of pixels from 1 to 4096, or [height, width]"),
    ] = Field(None, description="pixels, or [height, width]; by default the largest of the components' own")
    channels: Annotated[Literal[1, 3] | None, expect("1 or 3")] = Field(
        None, description="1 or 3; by default the most of the components' own"
    )


class Direct(Model):
    """What a network trained on one component alone is given."""

    kind: Annotated[Literal["same_steps", "same_examples", "full"], OneOf()] = Field(
        "same_steps",
        description="same_steps: as many steps, on all examples of the component; same_examples: only the examples "
        "that the mixture showed; full: all examples and a number of steps of its own, chosen on validation",
    )
    steps: Annotated[tuple[Count, ...], Listed(Count)] | None = Field(
        None,
        description="optimiser steps of `full`, one of which is chosen on validation; by default those of the "
        "pretraining and twice those",
    )

    def problems(self) -> Iterator[Problem]:
        if self.steps is not None and self.kind != "full":
            yield Problem(
                ("steps",),
                f"found {show(self.steps)}; {self.kind} has the steps of the pretraining: remove the key, or use full",
            )

    def budgets(self, steps: int) -> tuple[int, ...]:
        """The numbers of steps that are tried, given those of the pretraining."""
        if self.kind != "full":
            return (steps,)
        return tuple(sorted(self.steps or (steps, 2 * steps)))


class Retention(Model):
    """How much of the direct features the mixture's features hold, and what they are like."""

    examples: Count = Field(spec.RetentionSpec.examples, description="of each split, at most")
    layers: Annotated[bool, expect("true or false")] = Field(
        spec.RetentionSpec.layers, description="probe every layer too"
    )


class Trajectory(Model):
    """What the features were worth while the pretraining went on."""

    points: Annotated[int, Field(ge=3, le=1000), expect("a whole number from 3 to 1000")] = Field(
        12, description="checkpoints, from the initialisation to the end, about geometric"
    )
    examples: Count = Field(spec.TrajectorySpec.examples, description="of each split, and of the mixture, at most")
    plasticity_steps: Annotated[int, Field(ge=0, le=1_000_000), expect("a whole number from 0 to 1000000")] = Field(
        0, description="steps of direct training from every checkpoint; 0: not measured"
    )


def _switched(value: Any) -> Any:
    """`true` as all the defaults, `false` as nothing."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class Resources(Model):
    """What one trial is given."""

    cpu: Positive = Field(1.0, description="CPU cores")
    gpu: NotNegative = Field(0.0, description="GPUs; below 1 a share of one")

    def problems(self) -> Iterator[Problem]:
        if self.gpu > 1 and self.gpu != int(self.gpu):
            yield Problem(("gpu",), f"found {self.gpu:g}; a share below 1 or a whole number is possible")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a sweep came from, which makes no difference to what it is."""

    text: str = field(default="", compare=False)
    where: str = field(default="", compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)


class Sweep(Model):
    """A question about mixtures, and the trials that answer it."""

    name: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"),
        expect("a name of up to 64 lower-case letters, digits, ., _ and - that begins with a letter or a digit"),
    ] = Field(description="names the experiment and the folder of its results")
    question: Annotated[Text, expect("a text of one or more sentences and up to 5000 characters")] = Field(
        description="what the sweep is to find out, in one or more sentences"
    )
    components: Annotated[Mapping[Name, Component], mapping("of names to components")] = Field(
        description="what mixtures are made of; each component is evaluated, whether it has weight or not"
    )
    image: Image = Field(Image(), description="the shape of all images")
    label_space: Annotated[Literal["joint", "shared"], OneOf()] = Field(
        "joint",
        description="joint: each component has classes of its own in one head; shared: all have the same",
    )
    vary: Vary = Field(Vary(), description="the axes of the design")
    seeds: Annotated[tuple[SeedNumber, ...], Listed(SeedNumber), BeforeValidator(_first_seeds)] = Field(
        (0, 1, 2, 3, 4), description="replicates of each point: a number of them, or a list of seeds"
    )
    pretrain: Pretrain = Field(Pretrain(), description="the optimisation of each pretraining run")
    transfer: Transfer = Field(Transfer(), description="how features are turned into a prediction")
    direct: Direct = Field(Direct(), description="the direct baseline of each component")
    retention: Annotated[
        Retention | None, BeforeValidator(_switched, json_schema_input_type=bool | Retention | None)
    ] = Field(None, description="measure retention: true, or its settings")
    trajectory: Annotated[
        Trajectory | None, BeforeValidator(_switched, json_schema_input_type=bool | Trajectory | None)
    ] = Field(None, description="measure trajectories: true, or their settings")
    search: Search = Field(
        Grid(),
        description="grid: every point of the design; random, sobol: a sample of it; optuna: what its sampler chooses",
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="end trials on their way that do worse than others did; by default none is"
    )
    resources: Resources = Field(Resources(), description="what one trial is given")

    _origin: _Origin = PrivateAttr(_Origin())

    @property
    def objective(self) -> Objective:
        """What trials are compared by on their way: what early stopping asks for, else what the search does."""
        rule: Rule | None = stopping_rule(self.early_stopping) if self.early_stopping else None
        if rule and rule.objective:
            return rule.objective
        sought = self.search.optuna.objective if isinstance(self.search, Optuna) else ()
        return next((objective for objective in sought if objective.label != "compute"), Objective("worst_gap"))

    @property
    def text(self) -> str:
        """The text that the sweep was read from, without overrides."""
        return self._origin.text

    @property
    def path(self) -> str:
        """The file that the sweep was read from, as it was named."""
        return self._origin.where

    @property
    def overrides(self) -> tuple[str, ...]:
        """The `key.path=value` that were applied to the text."""
        return self._origin.overrides

    def error(self, path: str, message: str) -> SweepError:
        """What only came to light later about the value at a path such as `components.digits`, with its place."""
        if not self.text:
            return SweepError(f"{path}: {message}")
        node, _ = document.at(document.tree(self.text, self.path, self.overrides), document.keys(path))
        return SweepError(f"{node.where}: {path}: {message}")

    def problems(self) -> Iterator[Problem]:
        names = list(_name_problems(self))
        yield from names
        if not names:  # what follows takes every name to be known
            yield from _mixture_problems(self)
            yield from _ordering_problems(self)
            yield from _axis_problems(self)
            yield from _early_stopping_problems(self)


# What is impossible together ------------------------------------------------------------------------------------------


_CODE = re.compile(r"python:[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _dataset_problems(component: Component) -> Iterator[Problem]:
    """What the catalogue of datasets says about a component."""
    from trainables import catalogue, plugins

    try:
        path = _import_path(component.dataset)
        if path not in catalogue.CATALOGUE and not _CODE.fullmatch(path):
            installed = plugins.installed("dataset", frozenset(catalogue.CATALOGUE))
            possible = known(component.dataset, [*catalogue.CATALOGUE, *installed, "python:module:attribute"])
            yield Problem(("dataset",), f"found {show(component.dataset)}; {possible}")
            return
        dataset = catalogue.find(path)
    except ValueError as error:
        yield Problem(("dataset",), f"found {show(component.dataset)}; {error}")
        return
    bad_options = [] if dataset.options is None else list(_option_problems(component, dataset.options))
    yield from bad_options
    for position, label in enumerate(component.classes or ()):
        if dataset.num_classes is not None and label >= dataset.num_classes:
            possible = f"{component.dataset} has the classes 0 to {dataset.num_classes - 1}"
            yield Problem(("classes", position), f"found {label}; {possible}")
    if not bad_options:
        try:
            catalogue.declared_shape(component.source(Image()))
        except ValueError as error:
            yield Problem(("options",), f"found {show(component.options)}; {error}")


def _import_path(dataset: str) -> str:
    """The dataset's name, or the import path that its name stands for. Raises PluginError."""
    from trainables import catalogue, plugins

    return plugins.resolve("dataset", dataset, catalogue.CATALOGUE)


def _option_problems(component: Component, options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in component.options.items():
        if name not in options:
            possible = known(name, [*options]) if options else f"{component.dataset} has no options"
            yield Problem(("options", name), f"found an unknown option {show(name)}; {possible}")
        elif problem := options[name].problem(value):
            yield Problem(("options", name), f"found {show(value)}; {problem}")


def _name_problems(sweep: Sweep) -> Iterator[Problem]:
    names = [*sweep.components]
    if not names:
        yield Problem(("components",), "found no component; at least one is needed")
    for name, earlier in itertools.combinations(reversed(names), 2):
        if sweep.components[earlier] == sweep.components[name]:
            message = f"found the same examples that {earlier!r} has; keep one of the two"
            yield Problem(("components", name), message)
    for name in names:
        if name in MIXTURES:
            yield Problem(("components", name), f"found a kind of mixture, {name}, as a name; use another name")
    for axis in ("mixture", "ordering"):
        for position, choice in enumerate(getattr(sweep.vary, axis)):
            for loc, name in choice.mentions():
                if name not in names:
                    # A misspelt kind of mixture reads like the weight of a component.
                    hint = nearest(name, [*names, *MIXTURES] if len(loc) == 1 else names)
                    message = f"found an unknown component {show(name)}; {known('', names)}"
                    yield Problem(("vary", axis, position, *loc), message + (f"; {hint}" if hint else ""))
    for loc, name in sweep.search.mentions() if isinstance(sweep.search, Optuna) else ():
        if name not in names:
            yield Problem(("search", "optuna", *loc), f"found an unknown component {show(name)}; {known(name, names)}")


def _mixture_problems(sweep: Sweep) -> Iterator[Problem]:
    names = [*sweep.components]
    for position, choice in enumerate(sweep.vary.mixture):
        for problem in choice.problems_among(names):
            yield Problem(("vary", "mixture", position, *problem.loc), problem.message)
    if isinstance(sweep.search, (Optuna, Sobol)):
        yield from _region_problems(sweep)
        return
    count = sum(choice.count(names) for choice in sweep.vary.mixture)
    if count > MAX_POINTS:
        yield Problem(("vary", "mixture"), f"found {count} mixtures; at most {MAX_POINTS} are possible")
    elif isinstance(sweep.search, Grid) and not sweep.vary.ranges:
        count *= sweep.vary.size
        if count > MAX_POINTS:
            message = f"found a grid of {count} points; at most {MAX_POINTS} are possible, or a random search"
            yield Problem(("vary",), message)


def _region_problems(sweep: Sweep) -> Iterator[Problem]:
    """What is impossible about the mixtures of a search with coordinates, which does not list those of a simplex."""
    regions = [position for position, choice in enumerate(sweep.vary.mixture) if isinstance(choice, Simplex)]
    for position in regions[1:]:
        message = "found a second simplex; a search with coordinates has one, and mixtures beside it to begin with"
        yield Problem(("vary", "mixture", position), message)
    for position, choice in enumerate(sweep.vary.mixture):
        count, most = choice.count([*sweep.components]), MAX_COUNTED if position in regions else MAX_LISTED
        if count > most:
            yield Problem(("vary", "mixture", position), f"found {count} mixtures; at most {most} are possible")


def _ordering_problems(sweep: Sweep) -> Iterator[Problem]:
    """Sequences that leave out a component that has weight."""
    names = [*sweep.components]
    support = set().union(*(choice.support(names) for choice in sweep.vary.mixture))
    for position, ordering in enumerate(sweep.vary.ordering):
        sequence = ordering.sequence
        missing = [name for name in names if name in support.difference(sequence)] if sequence else []
        if missing:
            yield Problem(
                ("vary", "ordering", position),
                f"found {show(ordering)} without {listing(missing)}; a sequence names every component that has "
                "weight in one of the mixtures",
            )


def _axis_problems(sweep: Sweep) -> Iterator[Problem]:
    if isinstance(sweep.search, Grid):
        for name, axis in sweep.vary.ranges.items():
            possible = "a list of values is possible under grid, a range only under random, sobol or optuna"
            yield Problem(("vary", name), f"found {show(axis)}; {possible}")
    fewest = sweep.vary.fewest_steps(sweep.pretrain.steps)
    for position, choice in enumerate(sweep.vary.representation):
        if representation.fewest_steps(choice.label) > fewest:
            yield Problem(
                ("vary", "representation", position),
                f"found {show(choice)}; its networks share the {fewest} steps of the shortest pretraining, "
                "and each needs at least one",
            )
    linear = any(asked.protocol in LINEAR for asked in sweep.transfer.specs())
    for position, choice in enumerate(sweep.vary.representation):
        if representation.parse(choice.label)[0] in representation.LINEAR and not linear:
            message = (
                f"found {show(choice)}, which is for {listing(LINEAR)} alone; list one of them in transfer.protocols"
            )
            yield Problem(("vary", "representation", position), message)
    for position, change in enumerate(sweep.vary.training):
        for problem in change.problems_with(sweep.pretrain):
            yield Problem(("vary", "training", position, *problem.loc), problem.message)


def _early_stopping_problems(sweep: Sweep) -> Iterator[Problem]:
    if sweep.early_stopping is None:
        return
    ((word, rule),) = list(sweep.early_stopping)
    fewest = sweep.vary.fewest_steps(sweep.pretrain.steps)
    if rule.grace_steps >= fewest:
        yield Problem(
            ("early_stopping", word, "grace_steps"),
            f"found {rule.grace_steps}; the shortest pretraining has {fewest} steps, and a rung lies before its end",
        )
    for position, choice in enumerate(sweep.vary.representation):
        if representation.parse(choice.label)[0] not in FOLLOWED:
            yield Problem(
                ("vary", "representation", position),
                f"found {show(choice)}; with early_stopping {listing(FOLLOWED, 'or')} is possible, whose networks are "
                "trained side by side",
            )
    objective = sweep.objective
    for _, name in objective.mentions():
        if name not in sweep.components:
            yield Problem(
                ("early_stopping", word, "objective"),
                f"found an unknown component {show(name)}; {known(name, [*sweep.components])}",
            )
    if sweep.direct.kind == "same_examples" and objective.compares:
        yield Problem(
            ("early_stopping",),
            f"found {objective.label} as its objective; with direct: {{kind: same_examples}} a component without "
            "weight has no baseline: an accuracy, or another kind of baseline, is possible",
        )
    if isinstance(sweep.early_stopping, HyperBand) and isinstance(sweep.search, Optuna):
        yield Problem(
            ("early_stopping",),
            "found hyperband, whose brackets wait for more trials than a search has under way; asha or median is "
            "possible",
        )


def _first_problem(error: ValidationError, root: document.Node) -> str:
    """The problem that stands first, where it stands."""
    problems = []
    for detail in error.errors(include_url=False):
        node, path = document.at(root, detail["loc"])
        message = detail.get("ctx", {}).get("message") or f"found {show(detail['input'])}; {detail['msg']}"
        problems.append((node.line, f"{node.where}: {path}{': ' if path else ''}{message}"))
    return min(problems, key=lambda problem: problem[0])[1]
