"""M, the memory model: an LSTM whose output is a mixture density over the next latent (paper, section 2.2 and A.2)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from solutions.paper1_world_models.vae import initialise, reparameterize

LSTMState = tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]  # h, c

LOGSIG_MIN = -7.0  # departure: keeps a latent dimension that never changes from driving the density to infinity


class MDNOutput(NamedTuple):
    """What M says about step t + 1, for every t of the input."""

    logpi: Float[Tensor, "batch time latent mixtures"]  # log weights, normalised over the mixtures
    mu: Float[Tensor, "batch time latent mixtures"]
    logsig: Float[Tensor, "batch time latent mixtures"]  # log STANDARD DEVIATION
    reward: Float[Tensor, "batch time"] | None
    done_logit: Float[Tensor, "batch time"] | None
    state: LSTMState  # after the last step


class MDNRNN(nn.Module):
    """p(z_{t+1} | z_{<=t}, a_{<=t}): one LSTM layer and one linear output layer.

    - the LSTM's input is concat(z_t, a_t) (and is_first_t where `restart_input`, as the VizDoom model has it)
    - the linear layer's output holds a mixture for EACH latent dimension, drawn independently of the others
    - 423,392 parameters for CarRacing without the two heads (the paper's 422,368, and torch's second bias vector);
      1,680,833 for VizDoom
    """

    def __init__(
        self,
        latent_size: int = 32,
        action_size: int = 3,
        hidden_size: int = 256,
        mixtures: int = 5,
        predict_reward: bool = True,
        predict_done: bool = True,
        restart_input: bool = False,
    ):
        super().__init__()
        self.latent_size, self.hidden_size, self.mixtures = latent_size, hidden_size, mixtures
        self.predict_reward, self.predict_done, self.restart_input = predict_reward, predict_done, restart_input
        self.lstm = nn.LSTM(latent_size + action_size + restart_input, hidden_size, batch_first=True)
        self.out = nn.Linear(hidden_size, predict_done + predict_reward + 3 * latent_size * mixtures)
        self.apply(initialise)
        self.initialise_lstm()

    def initialise_lstm(self) -> None:
        """As TensorFlow's LSTM cell: one Glorot-uniform matrix for both inputs, and a forget gate that is open."""
        inputs, hidden = self.lstm.input_size, self.hidden_size
        limit = math.sqrt(6 / (inputs + hidden + 4 * hidden))
        for name, parameter in self.lstm.named_parameters():
            nn.init.uniform_(parameter, -limit, limit) if "weight" in name else nn.init.zeros_(parameter)
        with torch.no_grad():
            self.lstm.bias_ih_l0[hidden : 2 * hidden] = 1  # torch's order of gates: input, forget, cell, output

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros for h and c, on the model's device."""
        zeros = self.out.weight.new_zeros(batch_size, self.hidden_size)
        return zeros, zeros

    def forward(
        self,
        z: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time action"],
        state: LSTMState | None = None,
        is_first: Bool[Tensor, "batch time"] | None = None,
    ) -> MDNOutput:
        """Run M over a sequence from `state` (without one: zeros), and say for each t what comes at t + 1.

        - the LSTM's input is concat(z, action), in this order; `self.run_lstm` takes it from there, with `state` and
          `is_first`
        - `self.out` turns each hidden vector into all parameters, in this order along its last axis: the done logit
          (where `predict_done`), the reward (where `predict_reward`), then latent_size * 3 * mixtures numbers
        - of these, EACH latent dimension has 3 * mixtures in a row: its log weights, its means, its log standard
          deviations, each `mixtures` of them
        - the log weights are normalised over the mixtures; the log standard deviations are not let below LOGSIG_MIN
        """
        ### BEGIN SOLUTION 1.6: what M says about the next step
        hidden, state = self.run_lstm(torch.cat([z, action], -1), state, is_first)
        out = self.out(hidden)
        done_logit = reward = None
        if self.predict_done:
            done_logit, out = out[..., 0], out[..., 1:]
        if self.predict_reward:
            reward, out = out[..., 0], out[..., 1:]
        logweight, mu, logsig = out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)
        return MDNOutput(logweight.log_softmax(-1), mu, logsig.clamp(min=LOGSIG_MIN), reward, done_logit, state)
        ### END SOLUTION

    def run_lstm(
        self, x: Float[Tensor, "batch time in"], state: LSTMState | None, is_first: Bool[Tensor, "batch time"] | None
    ) -> tuple[Float[Tensor, "batch time hidden"], LSTMState]:
        """Hidden vectors of all steps, and the state after the last; where `is_first`, step t starts from zeros."""
        h, c = self.initial_state(len(x)) if state is None else state
        if self.restart_input:
            x = F.pad(x, (0, 1)) if is_first is None else torch.cat([x, is_first.unsqueeze(-1).to(x)], -1)
        if is_first is None:  # one call for the whole sequence; nn.LSTM wants its state with a leading layer axis
            hidden, (h, c) = self.lstm(x, (h[None], c[None]))
            return hidden, (h[0], c[0])
        hidden = []
        for t in range(x.shape[1]):
            keep = ~is_first[:, t, None]
            step, (h, c) = self.lstm(x[:, t : t + 1], ((h * keep)[None], (c * keep)[None]))
            h, c = h[0], c[0]
            hidden.append(step)
        return torch.cat(hidden, 1), (h, c)


def masked_mean(x: Float[Tensor, "batch time *rest"], mask: Bool[Tensor, "batch time"] | None) -> Float[Tensor, ""]:
    """Mean over the steps that `mask` keeps (all of them without one) and over everything behind the time axis."""
    return x.mean() if mask is None else x[mask].mean()


def mdn_nll(
    logpi: Float[Tensor, "batch time latent mixtures"],
    mu: Float[Tensor, "batch time latent mixtures"],
    logsig: Float[Tensor, "batch time latent mixtures"],
    target: Float[Tensor, "batch time latent"],
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, ""]:
    """Negative log likelihood of the target under the mixture, in nats per latent dimension (Bishop 1994).

    For one number y: -log sum_k pi_k N(y; mu_k, exp(logsig_k)), all of it in log space (a mean 100 sigmas away is no
    infinity). Averaged over latent dimensions and over the steps where `mask` is True.
    A density may exceed 1, so a negative value is no mistake.
    """
    ### BEGIN SOLUTION 1.7: the likelihood of what came next
    standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig)
    log_density = -0.5 * standardised.square() - logsig - 0.5 * math.log(2 * math.pi)
    return masked_mean(-torch.logsumexp(logpi + log_density, -1), mask)
    ### END SOLUTION


def mdn_sample(
    logpi: Float[Tensor, "*batch latent mixtures"],
    mu: Float[Tensor, "*batch latent mixtures"],
    logsig: Float[Tensor, "*batch latent mixtures"],
    temperature: float = 1.0,
    uniform: Float[Tensor, "*batch latent"] | None = None,
    normal: Float[Tensor, "*batch latent"] | None = None,
) -> Float[Tensor, "*batch latent"]:
    """Draw z from the mixture at a temperature (official rnn.py, dream_env.py; paper, section 4.2).

    - each latent dimension picks its OWN component, with probabilities softmax(logpi / temperature)
    - the draw is that component's mean plus exp(logsig) * sqrt(temperature) * noise
    Noise: `uniform` in [0, 1) picks the first component whose cumulative probability is at least as large, `normal` is
    the Gaussian noise; either is drawn here when not given.
    """
    ### BEGIN SOLUTION 1.8: a draw from the mixture
    uniform = torch.rand_like(mu[..., 0]) if uniform is None else uniform
    normal = torch.randn_like(mu[..., 0]) if normal is None else normal
    cumulative = (logpi / temperature).softmax(-1).cumsum(-1)
    index = (cumulative < uniform.unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=mu.shape[-1] - 1)
    mean = mu.gather(-1, index).squeeze(-1)
    std = logsig.gather(-1, index).squeeze(-1).exp() * math.sqrt(temperature)
    return mean + std * normal
    ### END SOLUTION


class SequenceBatch(NamedTuple):
    """Transitions t = 0 .. T-2, read from windows of T rows."""

    z: Float[Tensor, "batch time latent"]  # z_t
    action: Float[Tensor, "batch time action"]  # a_t, taken in z_t
    next_z: Float[Tensor, "batch time latent"]  # z_{t+1}
    reward: Float[Tensor, "batch time"]  # received after a_t
    done: Bool[Tensor, "batch time"]  # a_t ended the episode
    is_first: Bool[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]  # False where the window runs past the episode's end


def sequence_batch(rows: dict[str, Tensor], eps: Float[Tensor, "batch rows latent"] | None = None) -> SequenceBatch:
    """Turn windows of T encoded rows into the T - 1 transitions that M is trained on.

    rows holds, each (batch, T, ...): mu and logvar of V's posterior; prev_action, the action that LED TO row t;
    reward, received on arriving at row t; is_first; is_terminal (a true end); mask, False on rows behind the end.
    z is drawn afresh from N(mu, exp(logvar)) at every call, once for each row (`eps`: the noise to use).
    A transition counts (mask) if both its rows do.
    """
    ### BEGIN SOLUTION 1.9: line up what M sees with what it predicts
    z = reparameterize(rows["mu"], rows["logvar"], eps)
    return SequenceBatch(
        z=z[:, :-1],
        action=rows["prev_action"][:, 1:],
        next_z=z[:, 1:],
        reward=rows["reward"][:, 1:],
        done=rows["is_terminal"][:, 1:],
        is_first=rows["is_first"][:, :-1],
        mask=rows["mask"][:, :-1] & rows["mask"][:, 1:],
    )
    ### END SOLUTION


DONE_WEIGHT = 10.0  # ends are rare: official doomrnn.py weights the positive targets by 10


def rnn_loss(model: MDNRNN, batch: SequenceBatch) -> dict[str, Tensor]:
    """M's loss: the mixture's NLL, plus the squared reward error and the weighted end loss where those heads exist.

    Returns "loss", their sum, and its parts "nll", "reward" and "done". M is told `is_first` only if it takes it in.
    """
    out = model(batch.z, batch.action, is_first=batch.is_first if model.restart_input else None)
    parts = {"nll": mdn_nll(out.logpi, out.mu, out.logsig, batch.next_z, batch.mask)}
    if out.reward is not None:
        parts["reward"] = masked_mean((out.reward - batch.reward).square(), batch.mask)
    if out.done_logit is not None:
        weight = torch.full_like(out.done_logit[0, 0], DONE_WEIGHT)
        cross_entropy = F.binary_cross_entropy_with_logits(
            out.done_logit, batch.done.float(), pos_weight=weight, reduction="none"
        )
        parts["done"] = masked_mean(cross_entropy, batch.mask)
    return {"loss": sum(parts.values()), **parts}


def rnn_train_step(
    model: MDNRNN, batch: SequenceBatch, optimizer: torch.optim.Optimizer, clip_value: float = 1.0
) -> dict[str, Tensor]:
    """One optimiser step on M's loss, from the zero state.

    Every entry of the gradient is clipped to [-clip_value, clip_value] on its own (by value, not by norm: official
    rnn.py). Returns what `rnn_loss` gave, detached.
    """
    ### BEGIN SOLUTION 1.10: one update of M
    losses = rnn_loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_value_(model.parameters(), clip_value)
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}
    ### END SOLUTION
