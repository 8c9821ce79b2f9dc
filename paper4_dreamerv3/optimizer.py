"""The optimiser of all networks: LaProp, behind adaptive gradient clipping (official embodied/jax/opt.py)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LaProp(torch.optim.Optimizer):
    """RMSProp whose normalised gradient has momentum (Ziyin et al. 2020; Adam normalises the momentum). Each gradient
    is first clipped by the norm of its parameter (adaptive gradient clipping, Brock et al. 2021).

    State of each parameter: `rms`, `momentum` (tensors of its shape); each group counts its `steps`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter | dict],
        lr: float = 4e-5,
        *,
        warmup: int = 1000,
        agc: float = 0.3,
        min_norm: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
    ):
        defaults = {"lr": lr, "warmup": warmup, "agc": agc, "min_norm": min_norm, "betas": betas, "eps": eps}
        super().__init__(parameters, {**defaults, "steps": 0})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            for each in parameters:
                if not self.state[each]:
                    self.state[each] = {"rms": torch.zeros_like(each), "momentum": torch.zeros_like(each)}
            rms = [self.state[each]["rms"] for each in parameters]
            momentum = [self.state[each]["momentum"] for each in parameters]
            group["steps"] += 1
            lr = group["lr"] * min(1.0, (group["steps"] - 1) / group["warmup"]) if group["warmup"] else group["lr"]
            directions = self.directions(parameters, [each.grad for each in parameters], rms, momentum, group)
            torch._foreach_add_(parameters, directions, alpha=-lr)

    def directions(
        self, parameters: list[Tensor], gradients: list[Tensor], rms: list[Tensor], momentum: list[Tensor], group: dict
    ) -> list[Tensor]:
        """What the learning rate is multiplied with, a new tensor for each parameter; rms and momentum are brought up
        to date in place, gradients stay. group["steps"] is n, the number of this step, from 1; group["betas"] is
        (b1, b2); "agc", "min_norm" and "eps" are there, too.

        1. AGC: a gradient of norm above agc * max(min_norm, norm of the parameter) is scaled down to that; each norm is
           that of a whole tensor
        2. rms = b2 * rms + (1 - b2) * gradient^2; divide the gradient by sqrt(rms / (1 - b2^n)) + eps
        3. momentum = b1 * momentum + (1 - b1) * what 2. gave; the direction is momentum / (1 - b1^n)
        """
        # TODO 4.17: LaProp with adaptive clipping
        raise NotImplementedError("exercise 4.17: LaProp with adaptive clipping")
