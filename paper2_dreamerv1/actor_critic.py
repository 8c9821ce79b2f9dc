"""Learning behaviour in imagination (paper, section 3): act in the model, sum what it promises, climb its gradient."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from paper2_dreamerv1.networks import Actor, normal_nll
from paper2_dreamerv1.rssm import RSSM, State


def imagine(
    rssm: RSSM, actor: Actor, start: State, horizon: int
) -> tuple[Float[Tensor, "starts horizon feat"], Float[Tensor, "starts horizon action"]]:
    """(feats, actions) of `horizon` imagined steps from each of the start states (starts, ...).

    Step k: the actor chooses on the feat of the present state, and a draw from the RSSM's prior, a fresh one for every
    start, is the next; feats[:, k] is the state AFTER actions[:, k]: the start itself is not among them.
    What gradient may do: it flows from every state back through the actions and states before it (that is how
    the actor learns), but not into the start, and not through what the actor SEES: its input is detached, so that
    an action's gradient goes to the actor's weights alone.
    """
    # TODO 2.11: act in the model
    raise NotImplementedError("exercise 2.11: act in the model")


def lambda_returns(
    reward: Float[Tensor, "starts steps"],
    value: Float[Tensor, "starts steps"],
    discount: Float[Tensor, "starts steps"],
    bootstrap: Float[Tensor, " starts"],
    lam: float,
) -> Float[Tensor, "starts steps"]:
    """What each imagined state is worth (paper, equation 6, written as a recursion):

        R_k = r_k + c_k * ((1 - lam) * v_{k+1} + lam * R_{k+1}),     v_K = R_K = bootstrap

    r_k is the reward of state k itself, c_k the discount of what follows it. lam = 0 trusts the value of the next
    state, lam = 1 sums rewards to the end and trusts the bootstrap alone.
    """
    # TODO 2.12: the return of every imagined state
    raise NotImplementedError("exercise 2.12: the return of every imagined state")


def discount_weights(discount: Float[Tensor, "starts steps"]) -> Float[Tensor, "starts steps"]:
    """How much imagined state k counts: the product of the discounts BEFORE it, 1 for the first; no gradient.

    A state behind an imagined end is one that will not be reached.
    """
    # TODO 2.13: the weight of every imagined state
    raise NotImplementedError("exercise 2.13: the weight of every imagined state")


class BehaviourLosses(NamedTuple):
    actor: Float[Tensor, ""]
    value: Float[Tensor, ""]
    returns: Float[Tensor, "starts steps"]  # of the horizon - 1 states before the last


def behaviour_losses(
    feat: Float[Tensor, "starts horizon feat"],
    reward: Float[Tensor, "starts horizon"],
    discount: Float[Tensor, "starts horizon"],
    critic: nn.Module,
    lam: float,
) -> BehaviourLosses:
    """The losses of actor and critic on imagined states (paper, equations 7 and 8; official dreamer.py).

    critic(feat) gives values (starts, horizon). The last state's value is the bootstrap, so returns, weights and
    losses are about the horizon - 1 states before it, and its reward and discount are not used. Both losses are means
    over starts and steps.
    - actor: minus the weighted returns. Gradient flows through rewards, values and discounts into the
      states, through them into the actions, and so into the actor
    - value: the weighted `normal_nll` of the returns under the critic's prediction. Neither the returns nor the states
      that the critic sees here carry gradient: it is the critic that has to move
    """
    # TODO 2.14: the losses of actor and critic
    raise NotImplementedError("exercise 2.14: the losses of actor and critic")
