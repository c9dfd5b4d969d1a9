"""How is a representation turned into a prediction? The keys of `transfer` in a sweep file, and its protocols.

What each protocol computes is `trainables.protocols`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from orchestrator.model import BelowOne, Choose, Count, Examples, Listed, Model, Positive, Problem, expect, show
from trainables import spec

L2 = Annotated[tuple[Positive, ...], Listed(Positive)]


class Settings(Model):
    """What a protocol may be told; what is not written is the default of `trainables.spec.Transfer`."""


class Penalties(Settings):
    """Of a protocol with an L2 penalty."""

    l2: L2 | None = Field(None, description="penalties, one of which is chosen on validation; by default transfer.l2")


class Neighbours(Settings):
    """Of nearest neighbours."""

    neighbours: Annotated[tuple[Count, ...], Listed(Count)] | None = Field(
        None, description="numbers of neighbours, one of which is chosen on validation"
    )


class FineTuning(Settings):
    """Of a protocol that moves all weights."""

    learning_rates: Annotated[tuple[Positive, ...], Listed(Positive)] | None = Field(
        None, description="at the peak; one is chosen on validation"
    )
    steps: Annotated[Count | None, expect("a whole number of at least 1")] = Field(None, description="optimiser steps")
    batch_size: Annotated[Count | None, expect("a whole number of at least 1")] = Field(
        None, description="examples in each step"
    )
    dropout: Annotated[BelowOne | None, expect("a number of at least 0 and below 1")] = Field(
        None, description="on the features that the head reads; 0.9 is the very large one of arXiv:2403.00946"
    )


class ProtocolKind(Model):
    """A protocol and its settings; the name of the only key says which."""

    @model_serializer(mode="wrap")
    def _written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any] | str:
        """Without settings the word alone."""
        ((name, settings),) = serialize(self).items()
        written = {key: value for key, value in settings.items() if value is not None}
        return {name: written} if written else str(name)

    def of(self, transfer: spec.Transfer) -> spec.Transfer:
        """`transfer` by this protocol."""
        (name,) = type(self).model_fields
        settings: Settings = getattr(self, name)
        changes: dict[str, Any] = {k: v for k in settings.model_fields_set if (v := getattr(settings, k)) is not None}
        return replace(transfer, protocol=name, **changes)


class LinearProbe(ProtocolKind):
    """Multinomial logistic regression on frozen features."""

    linear_probe: Penalties = Field(description="multinomial logistic regression on frozen features")


class Ridge(ProtocolKind):
    """Ridge regression on one-hot labels, in closed form."""

    ridge: Penalties = Field(description="ridge regression on one-hot labels, in closed form")


class Knn(ProtocolKind):
    """Nearest neighbours by cosine."""

    knn: Neighbours = Field(description="nearest neighbours by cosine")


class MlpProbe(ProtocolKind):
    """One hidden layer on frozen features."""

    mlp_probe: Settings = Field(description="one hidden layer on frozen features")


class NtkProbe(ProtocolKind):
    """A linear probe of tangent features: what small moves of the weights can reach."""

    ntk_probe: Penalties = Field(
        description="a linear probe of tangent features: what small moves of the weights can reach"
    )


class HeadRepair(ProtocolKind):
    """The head trained again on balanced held-out data."""

    head_repair: Penalties = Field(description="the head trained again on balanced held-out data")


class Finetune(ProtocolKind):
    """All weights move, from the pretrained ones and a new head."""

    finetune: FineTuning = Field(description="all weights move, from the pretrained ones and a new head")


class LpFt(ProtocolKind):
    """All weights move, from the pretrained ones and the linear probe."""

    lp_ft: FineTuning = Field(description="all weights move, from the pretrained ones and the linear probe")


class TwoStage(ProtocolKind):
    """Each network is fine-tuned alone, then one head on all of them."""

    two_stage: FineTuning = Field(description="each network is fine-tuned alone, then one head on all of them")


PROTOCOLS: Mapping[str, type[BaseModel]] = {
    "linear_probe": LinearProbe,
    "ridge": Ridge,
    "knn": Knn,
    "mlp_probe": MlpProbe,
    "ntk_probe": NtkProbe,
    "head_repair": HeadRepair,
    "finetune": Finetune,
    "lp_ft": LpFt,
    "two_stage": TwoStage,
}
LINEAR = ("linear_probe", "ridge")  # these alone average members and read fewer dimensions
FINE_TUNING = ("finetune", "lp_ft", "two_stage")  # their baselines are probes of direct features

ProtocolChoice: TypeAlias = Annotated[
    LinearProbe | Ridge | Knn | MlpProbe | NtkProbe | HeadRepair | Finetune | LpFt | TwoStage,
    Choose(PROTOCOLS, bare=True),
]


class Transfer(Model):
    """How features are turned into a prediction for each component."""

    protocols: Annotated[tuple[ProtocolChoice, ...], Listed(ProtocolChoice)] = Field(
        (LinearProbe(linear_probe=Penalties()),),
        description="how the networks are read out; the first is the one that answers the question",
    )
    l2: L2 = Field(spec.Transfer.l2, description="penalties on the mean loss, one of which is chosen on validation")
    train_examples: Examples = Field(None, description="at most so many training examples of the component")
    shots: Annotated[tuple[Examples, ...], Listed(Examples)] = Field(
        (None,), description="of these, at most so many of each class: the size of the target"
    )

    def problems(self) -> Iterator[Problem]:
        first: dict[str, int] = {}
        for position, protocol in enumerate(self.protocols):
            name = label(protocol.of(spec.Transfer()))
            if first.setdefault(name, position) != position:
                message = f"found {show(protocol)}, which the results table could not tell from another one: {name}"
                yield Problem(("protocols", position), f"{message}; protocols that differ in more than l2 are possible")

    def specs(self) -> tuple[spec.Transfer, ...]:
        """One for each protocol and number of shots; the first answers the question."""
        base = spec.Transfer(l2=self.l2, train_examples=self.train_examples)
        return tuple(protocol.of(replace(base, shots=shots)) for protocol in self.protocols for shots in self.shots)


def label(transfer: spec.Transfer) -> str:
    """The protocol and what it was told, as the results table has it: for example `finetune, dropout 0.9`."""
    told = [
        f"{name} {_value(getattr(transfer, name))}"
        for name in ("neighbours", "learning_rates", "steps", "batch_size", "dropout")
        if getattr(transfer, name) != getattr(spec.Transfer, name)
    ]
    return ", ".join([transfer.protocol, *told])


def _value(value: Any) -> str:
    return " ".join(f"{each:g}" for each in (value if isinstance(value, tuple) else (value,)))
