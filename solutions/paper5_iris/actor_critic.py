"""The policy and its value, of two kinds: the paper's, which looks at pictures through a CNN and remembers with an
LSTM, and a Transformer, which reads the tokens of the last frames. Both learn in imagination (paper, section 2.3).

Both see a frame as its tokens, real frames and imagined ones alike: there is no other way in.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from solutions.paper5_iris.transformer import Block, initialize

State = dict[str, Tensor]  # (batch, ...): what a policy remembers


class CnnLstm(nn.Module):
    """Four convolutions and an LSTM on the tokenizer's picture of a frame (official actor_critic.py): 3,217,957
    parameters for 4 actions.

    picture: tokens (*batch, places) to images (*batch, 3, H, W) in [0, 1]. State: `h`, `c` (batch, hidden).
    """

    def __init__(
        self,
        actions: int,
        picture: Callable[[Tensor], Tensor],
        size: int = 64,
        channels: tuple[int, ...] = (32, 32, 64, 64),
        hidden: int = 512,
    ):
        super().__init__()
        self.picture = picture
        layers, inputs = [], 3
        for each in channels:
            layers += [nn.Conv2d(inputs, each, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
            inputs = each
        self.convs = nn.Sequential(*layers, nn.Flatten())
        self.lstm = nn.LSTMCell(channels[-1] * (size >> len(channels)) ** 2, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def initial(self, batch: int) -> State:
        zeros = self.actor.weight.new_zeros(batch, self.lstm.hidden_size)
        return {"h": zeros, "c": zeros}

    def look(self, tokens: Int[Tensor, "*batch places"]) -> Float[Tensor, "*batch size"]:
        """What it makes of frames, each by itself."""
        image = self.picture(tokens)
        return self.convs(2 * image.flatten(0, -4) - 1).unflatten(0, image.shape[:-3])

    def remember(self, seen: Float[Tensor, "batch size"], state: State) -> State:
        """The state after a frame, from what it made of it and the state before."""
        h, c = self.lstm(seen, (state["h"], state["c"]))
        return {"h": h, "c": c}

    def decide(self, state: State) -> tuple[Float[Tensor, "batch actions"], Float[Tensor, " batch"]]:
        """(logits of the actions, value) of a state."""
        return self.actor(state["h"]), self.critic(state["h"]).squeeze(-1)


class TransformerActor(nn.Module):
    """Attention over the tokens of the last `frames` frames; actions and value are read at the newest's last token.

    State: `tokens` (batch, frames, places), newest last; `seen` (batch), how many of these frames there have been.
    """

    def __init__(self, actions: int, codes: int, places: int, frames: int, width: int, layers: int, heads: int):
        super().__init__()
        self.frames, self.places = frames, places
        self.token_table = nn.Embedding(codes, width)
        self.position_table = nn.Embedding(frames * places, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=0.0) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.actor, self.critic = nn.Linear(width, actions), nn.Linear(width, 1)
        self.apply(initialize)

    def initial(self, batch: int) -> State:
        device = self.actor.weight.device
        tokens = torch.zeros(batch, self.frames, self.places, dtype=torch.long, device=device)
        return {"tokens": tokens, "seen": torch.zeros(batch, dtype=torch.long, device=device)}

    def look(self, tokens: Int[Tensor, "*batch places"]) -> Int[Tensor, "*batch places"]:
        return tokens

    def remember(self, seen: Int[Tensor, "batch places"], state: State) -> State:
        tokens = torch.cat([state["tokens"][:, 1:], seen[:, None]], 1)
        return {"tokens": tokens, "seen": (state["seen"] + 1).clamp(max=self.frames)}

    def decide(self, state: State) -> tuple[Float[Tensor, "batch actions"], Float[Tensor, " batch"]]:
        real = torch.arange(self.frames, device=state["seen"].device) >= self.frames - state["seen"][:, None]
        x = self.token_table(state["tokens"]).flatten(1, 2) + self.position_table.weight
        x = x * real.repeat_interleave(self.places, 1)[..., None]  # before the first frame there is nothing to read
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, -1])
        return self.actor(x), self.critic(x).squeeze(-1)


ActorCritic = CnnLstm | TransformerActor


@torch.no_grad()
def burn_in(
    policy: ActorCritic, tokens: Int[Tensor, "batch frames places"], real: Bool[Tensor, "batch frames"]
) -> State:
    """What a policy remembers after real frames: from `policy.initial`, frame after frame through `policy.remember`.

    Frames that are padding (not real) leave the memory of their sequence as it was; where there are none, all of it is
    the initial one. `policy.look` takes all frames at once: what depends on a frame alone belongs outside the loop. No
    gradient.
    """
    ### BEGIN SOLUTION 5.11: remember what really happened
    state, seen = policy.initial(len(tokens)), policy.look(tokens)
    for t in range(tokens.shape[1]):
        after = policy.remember(seen[:, t], state)
        keep = lambda new, old, t=t: torch.where(real[:, t].view(-1, *[1] * (new.ndim - 1)), new, old)
        state = {key: keep(after[key], state[key]) for key in state}
    return state
    ### END SOLUTION


def lambda_returns(
    reward: Float[Tensor, "batch steps"],
    value: Float[Tensor, "batch steps"],
    end: Bool[Tensor, "batch steps"],
    discount: float,
    lam: float,
) -> Float[Tensor, "batch steps"]:
    """What the action of each imagined step was worth (paper, section 2.3):

        G_t = r_t + discount * (not end_t) * ((1 - lam) * v_{t+1} + lam * G_{t+1}),     G of the last step := its value

    r_t and end_t are what FOLLOWED the action of step t, v_t the value of the state it was taken in. The last step's
    reward and end are not used.
    """
    ### BEGIN SOLUTION 5.12: the return of every imagined step
    goes_on = discount * (~end).to(reward)
    returns = [value[:, -1]]
    for t in reversed(range(reward.shape[1] - 1)):
        after = (1 - lam) * value[:, t + 1] + lam * returns[-1]
        returns.append(reward[:, t] + goes_on[:, t] * after)
    return torch.stack(returns[::-1], 1)
    ### END SOLUTION


def actor_critic_losses(
    logits: Float[Tensor, "batch steps actions"],
    value: Float[Tensor, "batch steps"],
    action: Int[Tensor, "batch steps"],
    returns: Float[Tensor, "batch steps"],
    entropy_scale: float,
) -> dict[str, Float[Tensor, ""]]:
    """REINFORCE with a baseline (paper, section 2.3), over all steps but the last; each is a mean over batch and steps.

    - "actor": minus log pi(action) * (return - value), gradient through log pi alone
    - "critic": the squared distance of the value from the return, gradient through the value alone (no half)
    - "entropy": minus entropy_scale * the policy's entropy
    """
    ### BEGIN SOLUTION 5.13: the losses of actor and critic
    log_probs = logits[:, :-1].log_softmax(-1)
    value, returns = value[:, :-1], returns[:, :-1].detach()
    chosen = log_probs.gather(-1, action[:, :-1, None]).squeeze(-1)
    return {
        "actor": -(chosen * (returns - value.detach())).mean(),
        "critic": (value - returns).square().mean(),
        "entropy": entropy_scale * (log_probs.exp() * log_probs).sum(-1).mean(),
    }
    ### END SOLUTION
