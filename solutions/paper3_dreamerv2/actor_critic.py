"""Learning behaviour in imagination (paper, section 2.2). New since DreamerV1: dreams begin with their start and know
whether it was an end, a slow copy of the critic, REINFORCE beside the gradient of the dynamics, an entropy bonus."""

import copy
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from solutions.paper3_dreamerv2.networks import Actor, normal_nll
from solutions.paper3_dreamerv2.rssm import RSSM, State

ActorGradient = Literal["reinforce", "dynamics", "both"]
Advantage = Literal["next", "same"]


def imagine(
    rssm: RSSM, actor: Actor, start: State, horizon: int
) -> tuple[Float[Tensor, "starts steps feat"], Float[Tensor, "starts steps action"]]:
    """(feats, actions) of dreams from the start states (starts, ...), each of horizon + 1 entries.

    Entry 0 is the start itself, its action zeros; entry k the state after k imagined steps and the action that LED TO
    it: the actor's `rsample()` on the feat of entry k - 1. The states are draws from the RSSM's prior, fresh ones for
    every start and step. Gradient flows from every state back through the actions and states before it (the gradient
    "dynamics" needs that), but not into the start, and not through what the actor sees: its input is detached.
    """
    ### BEGIN SOLUTION 3.10: dreams that begin with their start
    state = State(*(x.detach() for x in start))
    feats, actions = [state.feat], [None]
    for _ in range(horizon):
        action = actor(feats[-1].detach()).rsample()
        state = rssm.img_step(state, action)
        feats.append(state.feat)
        actions.append(action)
    actions[0] = torch.zeros_like(actions[1])
    return torch.stack(feats, 1), torch.stack(actions, 1)
    ### END SOLUTION


def dream_discounts(
    predicted: Float[Tensor, "starts steps"], is_terminal: Bool[Tensor, " starts"], discount: float
) -> tuple[Float[Tensor, "starts steps"], Float[Tensor, "starts steps"]]:
    """(discounts, weights) of dreams.

    The discount head has `predicted` that of every entry, gamma and all; of the start one knows more than the head:
    whether it was really an end (is_terminal). Its discount is 0 there, and `discount` where it was none; the others
    are the head's, with their gradient. The weight of entry k is the product of the discounts before it, 1 for the
    start: what follows an end counts nothing. Weights carry no gradient.
    """
    ### BEGIN SOLUTION 3.11: how much an imagined step counts
    known = discount * (~is_terminal).to(predicted)
    discounts = torch.cat([known[:, None], predicted[:, 1:]], 1)
    before = torch.cat([torch.ones_like(known)[:, None], discounts[:, :-1]], 1)
    return discounts, before.cumprod(1).detach()
    ### END SOLUTION


def lambda_returns(
    reward: Float[Tensor, "starts steps"],
    value: Float[Tensor, "starts steps"],
    discount: Float[Tensor, "starts steps"],
    lam: float,
) -> Float[Tensor, "starts steps_1"]:
    """What each entry of a dream but the last is worth (paper, equation 4, as a recursion):

        R_k = r_k + d_k * ((1 - lam) * v_{k+1} + lam * R_{k+1}),     R of the last entry := its value

    r_k and d_k belong to entry k itself; the last entry's are not used. value is the SLOW critic's, of every entry.
    Gradient flows into rewards, values and discounts alike.
    """
    ### BEGIN SOLUTION 3.12: the return of every entry
    one_step = reward[:, :-1] + discount[:, :-1] * (1 - lam) * value[:, 1:]
    ret, returns = value[:, -1], []
    for k in reversed(range(one_step.shape[1])):
        ret = one_step[:, k] + discount[:, k] * lam * ret
        returns.append(ret)
    return torch.stack(returns[::-1], 1)
    ### END SOLUTION


def actor_loss(
    actor: Actor,
    feat: Float[Tensor, "starts steps feat"],
    action: Float[Tensor, "starts steps action"],
    returns: Float[Tensor, "starts steps_1"],
    baseline: Float[Tensor, "starts steps"],
    weight: Float[Tensor, "starts steps"],
    *,
    gradient: ActorGradient,
    entropy_scale: float,
    mix: float = 0.1,
    advantage: Advantage = "next",
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(loss, mean entropy of the policy over the entries judged) of the actor (paper, equation 6; official agent.py).

    The dream's arrays have H + 1 entries, returns H. The actor is judged at the entries k = 0 .. H - 2, where it chose
    action[k + 1], which is worth returns[k + 1]: returns[0] is no action's merit, and what follows the last action is
    the bootstrap alone.
    - "reinforce": log pi(action[k+1] | feat[k]) * (returns[k+1] - baseline[k]), gradient through log pi alone: actions,
      returns and baseline carry none. With advantage "same", as the paper's equation is written, returns[k] takes the
      place of returns[k+1]
    - "dynamics": returns[k+1], whatever `advantage` is, with its gradient through the dream
    - "both": mix * dynamics + (1 - mix) * reinforce
    To each, entropy_scale * the policy's entropy at feat[k] is added; the loss is minus the mean, over starts and
    entries, of weight[k] times all this (weight carries no gradient). The policy sees feat without gradient;
    `actor(feat)` is a distribution with `log_prob(action)` and `entropy()`.
    """
    ### BEGIN SOLUTION 3.13: the loss of the actor
    policy = actor(feat[:, :-2].detach())
    merit = returns[:, 1:] if advantage == "next" else returns[:, :-1]
    better = (merit - baseline[:, :-2]).detach()
    reinforce = lambda: policy.log_prob(action[:, 1:-1].detach()) * better
    if gradient == "reinforce":
        objective = reinforce()
    elif gradient == "dynamics":
        objective = returns[:, 1:]
    else:
        objective = mix * returns[:, 1:] + (1 - mix) * reinforce()
    entropy = policy.entropy()
    loss = -(weight[:, :-2] * (objective + entropy_scale * entropy)).mean()
    return loss, entropy.mean()
    ### END SOLUTION


def critic_loss(
    critic: nn.Module,
    feat: Float[Tensor, "starts steps feat"],
    returns: Float[Tensor, "starts steps_1"],
    weight: Float[Tensor, "starts steps"],
) -> Float[Tensor, ""]:
    """How badly the critic predicts the returns: `normal_nll` of returns[k] under critic(feat[k]), times weight[k].

    The mean over starts and all H entries but the last, whose value was the bootstrap. The critic alone has to move:
    neither the returns nor the states that it sees carry gradient (weight has none).
    """
    ### BEGIN SOLUTION 3.14: the loss of the critic
    value = critic(feat[:, :-1].detach())
    return (weight[:, :-1] * normal_nll(value, returns.detach(), 0)).mean()
    ### END SOLUTION


class SlowCritic:
    """A copy of the critic that stands still for `every` updates: its values are the targets.

    `network` is the copy: no weight of it ever has a gradient. `updates` counts the calls of `update`.
    """

    def __init__(self, critic: nn.Module, every: int = 100):
        self.critic, self.every, self.updates = critic, every, 0
        self.network = copy.deepcopy(critic).requires_grad_(False)

    def update(self) -> None:
        """Called after each update of the critic: the 1st, the 101st, the 201st ... call (with every = 100) gives
        `network` the critic's weights as they are then, all other calls leave it alone."""
        ### BEGIN SOLUTION 3.15: a copy now and then
        if self.updates % self.every == 0:
            self.network.load_state_dict(self.critic.state_dict())
        self.updates += 1
        ### END SOLUTION
