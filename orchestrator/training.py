"""How is a network pretrained? The keys of `pretrain` in a sweep file, and what `vary.training` may change of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from orchestrator.model import (
    BelowOne,
    Count,
    Listed,
    Model,
    NotNegative,
    OneOf,
    Positive,
    Problem,
    Share,
    as_tuple,
    expect,
    show,
)
from trainables import spec

Augmentation = Annotated[Literal["flip", "crop"], OneOf()]


class Deficit(Model):
    """A critical period: for a part of the run, every image of the mixture is shown impaired."""

    kind: Annotated[Literal["blur", "grey", "noise", "flip"], OneOf()] = Field(
        description="blur (over 4 x 4 pixels), grey (no colour), noise (nothing but), flip (upside down)"
    )
    window: Annotated[tuple[Share, Share], as_tuple, expect("[from, until], two shares of the run from 0 to 1")] = (
        Field(description="from and until, as shares of the steps")
    )

    def problems(self) -> Iterator[Problem]:
        if self.window[0] >= self.window[1]:
            yield Problem(("window",), f"found {show(list(self.window))}; the first share is below the second")

    @property
    def label(self) -> str:
        return f"{self.kind} {self.window[0]:.12g}-{self.window[1]:.12g}"


class Pretrain(Model):
    """The optimisation of each pretraining run."""

    steps: Count = Field(2000, description="optimiser steps")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000), expect("a whole number from 1 to 1000000")] = Field(
        spec.Training.batch_size, description="examples in each step"
    )
    optimizer: Annotated[Literal["sgd", "adamw"], OneOf()] = Field(
        "sgd", description="sgd (with Nesterov momentum) or adamw"
    )
    learning_rate: Positive = Field(spec.Training.learning_rate, description="at its peak")
    momentum: BelowOne = Field(spec.Training.momentum, description="of sgd; the first beta of adamw")
    weight_decay: NotNegative = Field(spec.Training.weight_decay, description="weight decay")
    schedule: Annotated[Literal["constant", "cosine", "one_cycle", "trapezoid"], OneOf()] = Field(
        "cosine", description="the learning rate over time"
    )
    warmup_share: BelowOne = Field(
        spec.Training.warmup_share, description="of the steps, linear from zero; one_cycle has its own"
    )
    decay_share: Annotated[float, Field(gt=0, le=1), expect("a number above 0 and up to 1")] = Field(
        spec.Training.decay_share, description="trapezoid: of the steps, linear to zero at the end"
    )
    cycles: Count = Field(spec.Training.cycles, description="cosine: how often it starts again at its peak")
    label_smoothing: BelowOne = Field(spec.Training.label_smoothing, description="label smoothing")
    dropout: BelowOne = Field(spec.Training.dropout, description="dropout on the features that the head reads")
    precision: Annotated[Literal["auto", "float32", "bfloat16"], OneOf()] = Field(
        "auto",
        description="of the passes: float32, bfloat16 (mixed: weights stay float32), or auto: bfloat16 on a GPU alone",
    )
    augment: Annotated[tuple[Augmentation, ...], Listed(Augmentation, empty=True)] = Field(
        (), description="flip (left and right) and crop (pad by an eighth and crop), in order"
    )
    deficit: Deficit | None = Field(
        None, description="what all images of the mixture look like for a part of the run: a critical period"
    )

    def problems(self) -> Iterator[Problem]:
        if self.schedule == "one_cycle" and self.warmup_share:
            yield Problem(
                ("warmup_share",),
                f"found {self.warmup_share:g}; one_cycle has a warm-up of its own, so remove the key",
            )
        if self.cycles > 1 and self.schedule != "cosine":
            yield Problem(("cycles",), f"found {self.cycles}; {self.schedule} has one: remove the key, or use cosine")

    def training(self, steps: int, *, gpu: bool = False) -> spec.Training:
        """The optimisation of a run of so many steps, on a GPU or not."""
        values = {name: getattr(self, name) for name in Pretrain.model_fields if name != "deficit"}
        if self.precision == "auto":
            values["precision"] = "bfloat16" if gpu else "float32"
        if self.deficit:
            values |= {"deficit": self.deficit.kind, "deficit_window": self.deficit.window}
        return spec.Training(**{**values, "steps": steps})


class TrainingChange(Pretrain):
    """What one point of the design changes of `pretrain`: only the keys that are written count."""

    def problems(self) -> Iterator[Problem]:
        for name, instead in (("steps", "list them in vary.steps"), ("batch_size", "set pretrain.batch_size")):
            if name in self.model_fields_set:
                yield Problem((name,), f"found {name}, which is no change of the training; {instead}")

    @model_serializer(mode="wrap")
    def _written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not written is no change, so it is not written out either."""
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}

    def __repr__(self) -> str:  # by which a list is searched for what it holds twice
        return f"TrainingChange({self.changes!r})"

    @property
    def changes(self) -> dict[str, Any]:
        """The keys that are written, with their values, in the order of `Pretrain`."""
        return {name: getattr(self, name) for name in Pretrain.model_fields if name in self.model_fields_set}

    @cached_property
    def label(self) -> str:
        """For example `weight_decay 0.001, dropout 0.5`; empty without a change. No two changes share one."""
        return ", ".join(f"{name} {_value(value)}" for name, value in self.changes.items())

    def of(self, pretrain: Pretrain) -> Pretrain:
        """`pretrain` with the changes. Raises pydantic's ValidationError where they do not go together."""
        kept = {name: getattr(pretrain, name) for name in pretrain.model_fields_set}
        return Pretrain.model_validate({**kept, **self.changes})

    def problems_with(self, pretrain: Pretrain) -> Iterator[Problem]:
        """What is impossible about the changes in this sweep."""
        try:
            self.of(pretrain)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                yield Problem((), str(detail.get("ctx", {}).get("message") or detail["msg"]))


def _value(value: Any) -> str:
    if isinstance(value, Deficit):
        return value.label
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
