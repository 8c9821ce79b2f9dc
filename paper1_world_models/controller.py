"""C, the controller: a linear map from what V and M know to an action, found by CMA-ES (paper, section 2.3 and A.4)."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import cma
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

ControllerInput = Literal["z", "zh", "zch"]
Squash = Literal["car", "box", "discrete", "left_right"]


def squash(u: Float[Tensor, "*batch out"], kind: Squash) -> Float[Tensor, "*batch action"]:
    """Turn the controller's raw scores into a native action, the one that M is fed too.

    - "car" (CarRacing): steer = tanh(u0) in [-1, 1]; gas = (tanh(u1) + 1) / 2 in [0, 1]; brake = tanh(u2) clipped to
      [0, 1] (official model.py)
    - "box": tanh(u) in [-1, 1]
    - "discrete": one-hot of the largest score
    - "left_right" (VizDoom TakeCover): tanh(u) of one score, rounded to -1 (below -1/3), 0 or 1 (above 1/3)
    """
    # TODO 1.11: from scores to an action
    raise NotImplementedError("exercise 1.11: from scores to an action")


class Controller:
    """action = squash(W x + b), x = z, [z, h] or [z, c, h]: 99, 867 or 1,635 numbers for CarRacing.

    It has no gradient: CMA-ES sees it as one flat vector, the biases first, then W of shape (inputs, outputs)
    row-major. With `hidden` there is one tanh layer between (biases and weights of the first layer come first;
    official "z hidden": 1,443 numbers). VizDoom's has no bias (1,088 numbers).
    """

    def __init__(
        self,
        latent_size: int,
        hidden_size: int,
        outputs: int,
        *,
        inputs: ControllerInput = "zh",
        kind: Squash = "box",
        bias: bool = True,
        hidden: int = 0,
    ):
        self.inputs, self.kind, self.bias = inputs, kind, bias
        size = {"z": latent_size, "zh": latent_size + hidden_size, "zch": latent_size + 2 * hidden_size}[inputs]
        self.layers = [size, hidden, outputs] if hidden else [size, outputs]
        self.num_params = sum((fan_in + bias) * fan_out for fan_in, fan_out in pairwise(self.layers))
        self.set_params(np.zeros(self.num_params))

    def set_params(self, flat: Float[np.ndarray, "*population params"]) -> None:
        """Take a flat vector; or (N, params), a population: controller i then acts for row i of the batch."""
        if flat.shape[-1] != self.num_params:
            raise ValueError(f"this controller has {self.num_params} parameters, got {flat.shape[-1]}")
        self.flat = torch.as_tensor(flat, dtype=torch.float32)

    def get_params(self) -> Float32[np.ndarray, "*population params"]:
        """The flat vector that `set_params` took."""
        return self.flat.numpy().copy()

    def features(
        self, z: Float[Tensor, "batch latent"], h: Float[Tensor, "batch hidden"], c: Float[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch inputs"]:
        """What the controller sees: z, [z, h] or [z, c, h]."""
        return torch.cat({"z": [z], "zh": [z, h], "zch": [z, c, h]}[self.inputs], -1)

    def act(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch action"]:
        """Native actions for a batch of features."""
        flat = self.flat.to(x.device)
        for i, (fan_in, fan_out) in enumerate(pairwise(self.layers)):
            bias, flat = flat[..., : fan_out * self.bias], flat[..., fan_out * self.bias :]
            weight, flat = flat[..., : fan_in * fan_out].unflatten(-1, (fan_in, fan_out)), flat[..., fan_in * fan_out :]
            x = torch.einsum("...i,...io->...o", x, weight) + (bias if self.bias else 0)
            x = torch.tanh(x) if i < len(self.layers) - 2 else x
        return squash(x, self.kind)


class Generation(NamedTuple):
    """What one generation of the search leaves behind."""

    index: int  # from 0
    returns: Float64[np.ndarray, " popsize"]  # in the order of the candidates
    mean: Float64[np.ndarray, " params"]  # the distribution's mean AFTER the update: the controller to report
    sigma: float


Fitness = Callable[[Float64[np.ndarray, "popsize params"], int], Float64[np.ndarray, " popsize"]]


def evolve(
    fitness: Fitness,
    num_params: int,
    *,
    popsize: int,
    generations: int,
    sigma0: float = 0.1,  # official train.py
    seed: int = 0,
    diagonal: bool = False,
    history: list[Float64[np.ndarray, " popsize"]] = (),
) -> Iterator[Generation]:
    """Search for the controller with the highest return, with CMA-ES (`cma` package), starting from zeros.

    fitness(candidates, generation) gives every candidate's return; it decides itself how to spread the work. The
    generation's number is its source of fresh episode seeds. cma MINIMISES, so it is told the negative returns.
    `history` holds the returns of the generations that an interrupted search has finished: they are told again
    without being evaluated, which leads to the same state, and the search goes on behind them.
    Yields a Generation after each update, also for those of `history`, `generations` in all: the search never stops
    early. `diagonal` keeps the covariance diagonal. `search` below has `ask()`, `tell(candidates, costs)`, `mean` and
    `sigma`.
    """
    rng = np.random.default_rng(seed)
    options = {
        "popsize": popsize,
        "CMA_diagonal": diagonal,
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": float("nan"),  # cma is not to touch numpy's global generator
        "verbose": -9,
        "tolfun": 0, "tolfunhist": 0, "tolx": 0, "tolflatfitness": generations, "tolstagnation": generations,
    }  # fmt: skip
    search = cma.CMAEvolutionStrategy(np.zeros(num_params), sigma0, options)
    # TODO 1.12: search generation by generation
    raise NotImplementedError("exercise 1.12: search generation by generation")
