"""The Recurrent State-Space Model: a state of two parts, predicted from the past alone or with the present in view.

deter_t = GRU([stoch_{t-1}, a_{t-1}], deter_{t-1})      what is remembered, without noise
prior      p(stoch_t | deter_t)                         what may be the case now: imagination uses it
posterior  q(stoch_t | deter_t, o_t)                    what is the case, having seen o_t: training and acting use it
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class State(NamedTuple):
    """A batch of states. `stoch` was drawn from N(mean, std)."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]
    mean: Float[Tensor, "*batch stoch"]
    std: Float[Tensor, "*batch stoch"]

    @property
    def feat(self) -> Float[Tensor, "*batch feat"]:
        """What heads, actor and critic see: [deter, stoch]."""
        return torch.cat([self.deter, self.stoch], -1)


def gaussian(
    raw: Float[Tensor, "*batch twice_stoch"], noise: Float[Tensor, "*batch stoch"], min_std: float = 0.1
) -> tuple[Float[Tensor, "*batch stoch"], Float[Tensor, "*batch stoch"], Float[Tensor, "*batch stoch"]]:
    """(stoch, mean, std) from a layer's output [mean | raw std] and standard normal noise of stoch's shape.

    std = softplus(raw std) + min_std, at least 0.1: a posterior that could become a point would make the KL infinite.
    stoch is the sample that this noise gives, and gradient flows through it into mean and std (reparameterisation).
    """
    ### BEGIN SOLUTION 2.6: a Gaussian and its sample
    mean, std = raw.chunk(2, -1)
    std = F.softplus(std) + min_std
    return mean + std * noise, mean, std
    ### END SOLUTION


class RSSM(nn.Module):
    """Gaussian RSSM (paper, section 4 and appendix A; official models.py). Layers use ELU, nothing is normalised.

    Layers: img1 [stoch, action] -> hidden; cell, a GRU hidden -> deter; img2 deter -> hidden; img3 hidden -> prior's
    [mean | raw std]; obs1 [deter, embed] -> hidden; obs2 hidden -> posterior's [mean | raw std].
    557,920 parameters at the paper's sizes with 6 actions.
    """

    def __init__(self, action_size: int, embed: int, deter: int = 200, stoch: int = 30, hidden: int = 200):
        super().__init__()
        self.deter, self.stoch = deter, stoch
        self.img1 = nn.Linear(stoch + action_size, hidden)
        self.cell = nn.GRUCell(hidden, deter)
        self.img2 = nn.Linear(deter, hidden)
        self.img3 = nn.Linear(hidden, 2 * stoch)
        self.obs1 = nn.Linear(deter + embed, hidden)
        self.obs2 = nn.Linear(hidden, 2 * stoch)

    def initial(self, batch_size: int) -> State:
        """Zeros, std too: the state before a sequence's first row, which nothing is drawn from."""
        zeros = lambda size: self.img1.weight.new_zeros(batch_size, size)
        return State(zeros(self.deter), *(zeros(self.stoch) for _ in range(3)))

    def img_step(
        self,
        prev: State,
        prev_action: Float[Tensor, "batch action"],
        noise: Float[Tensor, "batch stoch"] | None = None,
    ) -> State:
        """One step without looking: the prior (batch, ...) after prev_action was taken in prev.

        The GRU takes in img1's output and the previous deter; the prior's Gaussian depends on the new deter alone.
        `noise` is standard normal, drawn here where it is not given, a fresh number for every element of the batch.
        Nothing is detached, here and in all that follows: the model learns through time.
        """
        noise = torch.randn_like(prev.stoch) if noise is None else noise
        ### BEGIN SOLUTION 2.7: the prior
        x = F.elu(self.img1(torch.cat([prev.stoch, prev_action], -1)))
        deter = self.cell(x, prev.deter)
        return State(deter, *gaussian(self.img3(F.elu(self.img2(deter))), noise))
        ### END SOLUTION

    def obs_step(
        self,
        prev: State,
        prev_action: Float[Tensor, "batch action"],
        embed: Float[Tensor, "batch embed"],
        noise: Float[Tensor, "batch stoch"] | None = None,
    ) -> tuple[State, State]:
        """One step with the observation in view: (posterior, prior).

        Both have the same deter, that of img_step; the posterior's Gaussian depends on it and on embed, but not on the
        prior's sample. The same noise gives both samples: the prior's is not used any further.
        """
        noise = torch.randn_like(prev.stoch) if noise is None else noise
        ### BEGIN SOLUTION 2.8: the posterior
        prior = self.img_step(prev, prev_action, noise)
        raw = self.obs2(F.elu(self.obs1(torch.cat([prior.deter, embed], -1))))
        return State(prior.deter, *gaussian(raw, noise)), prior
        ### END SOLUTION

    def observe(
        self,
        embed: Float[Tensor, "batch time embed"],
        prev_action: Float[Tensor, "batch time action"],
        noise: Float[Tensor, "batch time stoch"] | None = None,
    ) -> tuple[State, State]:
        """(posteriors, priors) of whole sequences, each (batch, time, ...), from the initial state on.

        Row t has embed_t and the action that led to it, which may be zero and resets nothing. What is carried from step
        to step is the POSTERIOR.
        It must give what a loop over `obs_step` gives, and that loop is a right answer. But only deter and the
        posterior's sample depend on the step before: the rest (obs1's share of the embedding, img1's share of the
        action, all priors) can be computed for all steps at once, outside of the loop.
        """
        noise = torch.randn(*embed.shape[:2], self.stoch, device=embed.device) if noise is None else noise
        ### BEGIN SOLUTION 2.9: over a whole sequence
        state = self.initial(len(embed))
        stoch_weight, action_weight = self.img1.weight.split([self.stoch, prev_action.shape[-1]], -1)
        deter_weight, embed_weight = self.obs1.weight.split([self.deter, embed.shape[-1]], -1)
        action_part = F.linear(prev_action, action_weight, self.img1.bias).unbind(1)
        embed_part = F.linear(embed, embed_weight, self.obs1.bias).unbind(1)
        deters, posts = [], []
        deter, stoch = state.deter, state.stoch
        for action, seen, eps in zip(action_part, embed_part, noise.unbind(1), strict=True):
            deter = self.cell(F.elu(F.linear(stoch, stoch_weight) + action), deter)
            stoch, mean, std = gaussian(self.obs2(F.elu(F.linear(deter, deter_weight) + seen)), eps)
            deters.append(deter)
            posts.append((stoch, mean, std))
        deter = torch.stack(deters, 1)
        post = State(deter, *(torch.stack(parts, 1) for parts in zip(*posts, strict=True)))
        return post, State(deter, *gaussian(self.img3(F.elu(self.img2(deter))), noise))
        ### END SOLUTION

    def imagine(self, start: State, action: Float[Tensor, "batch horizon action"]) -> State:
        """The priors (batch, horizon, ...) that follow a state, open loop, when these actions are taken one by one."""
        states, state = [], start
        for each in action.unbind(1):
            state = self.img_step(state, each)
            states.append(state)
        return State(*(torch.stack(parts, 1) for parts in zip(*states, strict=True)))


def kl_loss(
    post: State,
    prior: State,
    *,
    free_nats: float = 3.0,
    balance: float | None = None,
    free_before_mean: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(loss, KL): the divergence of the posterior from the prior, KL(post || prior), in nats.

    The KL of one state is the SUM over the dimensions of stoch; KL is the mean of these over batch and time.
    - loss = max(free_nats, KL): below 3 nats there is nothing to gain, and no gradient
    - free_before_mean: the max is taken for each state, then the mean (the paper's own program and PlaNet)
    - balance a (not in this paper: DreamerV2): the loss is a * L(sg(post), prior) + (1 - a) * L(post, sg(prior)),
      each L with its own max, also before the mean; sg stops the gradient. None (not 0): gradient to both in full
    """
    ### BEGIN SOLUTION 2.10: the divergence, and what of it is free
    free = torch.full((), free_nats, device=post.mean.device)

    def divergence(post: State, prior: State) -> tuple[Tensor, Tensor]:
        ratio, distance = post.std / prior.std, (post.mean - prior.mean) / prior.std
        kl = (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)
        return torch.maximum(kl, free).mean() if free_before_mean else torch.maximum(kl.mean(), free), kl.mean()

    loss, kl = divergence(post, prior)
    if balance is not None:
        stopped = [State(*(x.detach() for x in state)) for state in (post, prior)]
        loss = balance * divergence(stopped[0], prior)[0] + (1 - balance) * divergence(post, stopped[1])[0]
    return loss, kl
    ### END SOLUTION
