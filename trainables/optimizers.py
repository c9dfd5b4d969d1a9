"""How do weights follow their gradients? SGD and AdamW: torch's arithmetic without its classes.

`torch.optim.SGD` and `AdamW` import torch's compiler when they are made, some 2 s of processor time in every worker,
and half of what a step of a small network takes them is bookkeeping. Here are the functions behind these classes, which
do all of the arithmetic, so weights are the same to the last bit. What is here of the interface is as in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from trainables.spec import Training

State = dict[str, Tensor]  # what is remembered of a parameter


class Optimizer:
    """Moves parameters by the gradients they have; one without a gradient stays as it is."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self._state: dict[int, State] = {}  # by the place of the parameter

    def zero_grad(self) -> None:
        """Take the gradients away."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        group = self.param_groups[0]
        moved = [(i, p) for i, p in enumerate(group["params"]) if p.grad is not None]
        for i, parameter in moved:
            if i not in self._state:
                self._state[i] = self._fresh(parameter)
        self._move([p for _, p in moved], [p.grad for _, p in moved], [self._state[i] for i, _ in moved], group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """As of torch: what the optimizer remembers of every parameter, by its place, and its settings."""
        state = {i: dict(remembered) for i, remembered in sorted(self._state.items()) if remembered}
        return {"state": state, "param_groups": [{"lr": self.param_groups[0]["lr"]}]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, which may lie on another device or in another layout."""
        self._state = {i: self._fresh(self.param_groups[0]["params"][i]) for i in state_dict["state"]}
        for i, remembered in self._state.items():
            for name, value in remembered.items():
                value.copy_(state_dict["state"][i][name])
        self.param_groups[0]["lr"] = state_dict["param_groups"][0]["lr"]

    def _fresh(self, parameter: Tensor) -> State:
        """What is remembered of a parameter before its first step."""
        raise NotImplementedError

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], state: list[State], lr: float) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """As `torch.optim.SGD`; with momentum, it is Nesterov's."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0, weight_decay: float = 0) -> None:
        super().__init__(parameters, lr)
        self._momentum, self._weight_decay = momentum, weight_decay

    def _fresh(self, parameter: Tensor) -> State:
        # The first buffer is the gradient itself, and -0.0 is what leaves every number as it is when added to it.
        return {"momentum_buffer": torch.full_like(parameter, -0.0)} if self._momentum else {}

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], state: list[State], lr: float) -> None:
        sgd(
            parameters,
            gradients,
            [remembered.get("momentum_buffer") for remembered in state],
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=lr,
            dampening=0,
            nesterov=self._momentum > 0,
            maximize=False,
            fused=True,
        )


class AdamW(Optimizer):
    """As `torch.optim.AdamW`."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr)
        self._betas, self._weight_decay = betas, weight_decay

    def _fresh(self, parameter: Tensor) -> State:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], state: list[State], lr: float) -> None:
        adamw(
            parameters,
            gradients,
            [remembered["exp_avg"] for remembered in state],
            [remembered["exp_avg_sq"] for remembered in state],
            [],
            [remembered["step"] for remembered in state],
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=lr,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
            fused=True,
        )


def _sgd(network: nn.Module, training: Training) -> Optimizer:
    return SGD(network.parameters(), training.learning_rate, training.momentum, training.weight_decay)


def _adamw(network: nn.Module, training: Training) -> Optimizer:
    return AdamW(network.parameters(), training.learning_rate, (training.momentum, 0.999), training.weight_decay)


OPTIMIZERS: Mapping[str, Callable[[nn.Module, Training], Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
