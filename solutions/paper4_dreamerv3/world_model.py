"""The world model: layers, encoder, the recurrent state-space model, decoder and heads, and what it is trained on.

deter_t = core(deter_{t-1}, stoch_{t-1}, a_{t-1})       what is remembered, without noise
prior      p(stoch_t | deter_t)                         what may be the case now: imagination uses it
posterior  q(stoch_t | deter_t, o_t)                    what is the case, having seen o_t: acting uses it
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from solutions.paper4_dreamerv3.symlog import SymlogTwoHot, TwoHot, make_bins, symexp, symlog

# ---- layers ----


def initialize(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal distribution of std scale / sqrt(fan_in), cut off at twice its width (official nets.py)."""
    nn.init.trunc_normal_(weight, std=1.0, a=-2.0, b=2.0)
    with torch.no_grad():
        weight.mul_(1.1368 * scale / math.sqrt(fan_in))  # what is cut off is made up for


class Linear(nn.Linear):
    """A dense layer as the paper initialises it; `scale` multiplies the weights, biases begin at 0."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0):
        super().__init__(inputs, outputs)
        initialize(self.weight, inputs, scale)
        nn.init.zeros_(self.bias)


class Conv(nn.Conv2d):
    """A convolution of 5x5 that keeps the size, initialised like Linear."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, padding=2)
        initialize(self.weight, inputs * 25)
        nn.init.zeros_(self.bias)


class Down(Conv):
    """A convolution that halves the picture: followed by 2x2 max-pooling, or, `strided`, in steps of two."""

    def __init__(self, inputs: int, outputs: int, strided: bool):
        super().__init__(inputs, outputs)
        self.strided = strided

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs half_h half_w"]:
        if self.strided:  # padded so that the odd pixel is at the end, as TensorFlow and JAX do
            return F.conv2d(F.pad(x, (1, 2, 1, 2)), self.weight, self.bias, stride=2)
        return F.max_pool2d(super().forward(x), 2)


class Up(Conv):
    """A convolution of the picture doubled, every pixel repeated."""

    # Of a kernel's five rows, those that meet the same repeated pixel: for the even and the odd rows of the output.
    FOLD = torch.tensor([[[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
                         [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]], dtype=torch.float32)  # fmt: skip

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.register_buffer("fold", self.FOLD, persistent=False)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs two_h two_w"]:
        # The same sums before doubling: four outputs for each pixel, of 9 products each where there would be 25.
        weight = torch.einsum("oiuv,apu,bqv->oabipq", self.weight, self.fold, self.fold).flatten(0, 2)
        return F.pixel_shuffle(F.conv2d(x, weight, self.bias.repeat_interleave(4), padding=1), 2)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-4) over the last axis, times a learned scale; no mean is taken off, nothing is added."""

    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        x32 = x.float()  # written out: the gradient of F.rms_norm takes twice as long on a CPU
        return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-4) * self.scale).to(x.dtype)


class ChannelNorm(RMSNorm):
    """RMSNorm over the channels of images (N, C, H, W)."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BlockLinear(nn.Module):
    """`blocks` dense layers beside each other: the k-th part of the input makes the k-th part of the output.

    With `shared` > 0 each of them sees so many further inputs, the same for all, behind its own part.
    Attributes: `weight` (blocks, inputs / blocks + shared, outputs / blocks) and `bias` (outputs). The weights begin as
    if each output saw the inputs of ALL blocks (official compute_fans): with std 1 / sqrt(inputs + blocks * shared).
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, shared: int = 0):
        super().__init__()
        self.blocks, self.own = blocks, inputs // blocks
        self.weight = nn.Parameter(torch.empty(blocks, self.own + shared, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialize(self.weight, inputs + blocks * shared)

    def forward(
        self, x: Float[Tensor, "batch inputs"], shared: Float[Tensor, "batch shared"] | None = None
    ) -> Float[Tensor, "batch outputs"]:
        """x (batch, inputs), of which `own` = inputs / blocks belong to each block, and what all blocks see besides."""
        ### BEGIN SOLUTION 4.5: a block-diagonal layer
        own_weight, shared_weight = self.weight.tensor_split([self.own], 1)
        parts = x.unflatten(-1, (self.blocks, self.own)).transpose(0, 1)
        y = torch.bmm(parts, own_weight)  # blocks, batch, outputs / blocks
        if shared is not None:
            y = y + torch.matmul(shared, shared_weight)  # nothing is copied for each block
        return y.transpose(0, 1).flatten(1) + self.bias
        ### END SOLUTION


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """The layer that everything is made of: linear, norm, SiLU."""
    return nn.Sequential(Linear(inputs, outputs), RMSNorm(outputs), nn.SiLU())


def mlp(inputs: int, units: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(dense(inputs if i == 0 else units, units) for i in range(layers)))


class Head(nn.Sequential):
    """`layers` dense layers of `units` and a linear output whose weights begin `scale` times as large."""

    def __init__(self, inputs: int, outputs: int, layers: int, units: int, scale: float = 1.0):
        super().__init__(mlp(inputs, units, layers), Linear(units, outputs, scale))


class ScalarHead(nn.Module):
    """A number of any size, as a two-hot prediction. The output layer begins at 0: so does the prediction."""

    def __init__(self, inputs: int, layers: int, units: int, bins: int = 255, space: str = "symexp"):
        super().__init__()
        self.layers = Head(inputs, bins, layers, units, scale=0.0)
        self.register_buffer("bins", make_bins(bins), persistent=False)
        self.kind = {"symexp": TwoHot, "symlog": SymlogTwoHot}[space]

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> TwoHot:
        return self.kind(self.layers(x), self.bins)


class SquaredErrorHead(Head):
    """A number as it is, for the ablation: the loss is half its squared error."""

    class Prediction(NamedTuple):
        value: Tensor

        def mean(self) -> Tensor:
            return self.value

        def loss(self, target: Tensor) -> Tensor:
            return 0.5 * (self.value - target.detach()).square()

    def __init__(self, inputs: int, layers: int, units: int):
        super().__init__(inputs, 1, layers, units, scale=0.0)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Prediction:
        return self.Prediction(super().forward(x).squeeze(-1))


# ---- encoder and decoder ----


def preprocess(image: UInt8[Tensor, "*batch height width channels"]) -> Float[Tensor, "*batch channels height width"]:
    """Bytes to [0, 1], channels first: the one place where pixels are scaled."""
    return image.movedim(-1, -3).float() / 255


def to_image(mean: Float[Tensor, "*batch channels height width"]) -> UInt8[Tensor, "*batch height width channels"]:
    """The other way round, for eyes."""
    return (mean.clamp(0, 1) * 255).round().byte().movedim(-3, -1)


class Encoder(nn.Module):
    """Image and vector to tokens (..., tokens): whatever of the two there is, one behind the other, vector first.

    Image: minus 0.5, then for each of `depths` (its channels) `Down`, norm over the channels, SiLU.
    Vector: symlog, then dense layers.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        depths: tuple[int, ...],
        units: int,
        layers: int = 3,
        strided: bool = False,
    ):
        super().__init__()
        self.tokens = 0
        if "vector" in observation_space.spaces:
            self.vector = mlp(observation_space["vector"].shape[0], units, layers)
            self.tokens += units
        if "image" in observation_space.spaces:
            height, width, channels = observation_space["image"].shape
            stages = [(Down(a, b, strided), ChannelNorm(b), nn.SiLU()) for a, b in pairwise([channels, *depths])]
            self.image = nn.Sequential(*(layer for stage in stages for layer in stage))
            self.tokens += depths[-1] * (height >> len(depths)) * (width >> len(depths))

    def forward(self, obs: dict[str, Tensor]) -> Float[Tensor, "*batch tokens"]:
        """obs: `image` (..., C, H, W) in [0, 1] and/or `vector` (..., D), raw."""
        tokens = []
        if hasattr(self, "vector"):
            tokens.append(self.vector(symlog(obs["vector"])))
        if hasattr(self, "image"):
            image = obs["image"]
            seen = self.image(image.flatten(0, -4) - 0.5).permute(0, 2, 3, 1)  # height, width, channels
            tokens.append(seen.reshape(*image.shape[:-3], -1))
        return torch.cat(tokens, -1)


class Decoder(nn.Module):
    """From a state to the observations' means: image in [0, 1], vector in symlog space.

    Image: deter by a block-linear layer (each block its own channels) and stoch by two dense ones become a picture as
    small as the encoder's last (4x4 of 64x64), their sum is normed; then `Up` as often as the encoder halved, the last
    time to the image's channels, followed by a sigmoid (without `squash` by + 0.5). Vector: dense layers, then linear.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        deter: int,
        stoch: int,
        depths: tuple[int, ...],
        units: int,
        hidden: int,
        blocks: int,
        layers: int = 3,
        squash: bool = True,
    ):
        super().__init__()
        self.squash = squash
        if "vector" in observation_space.spaces:
            self.vector = Head(deter + stoch, observation_space["vector"].shape[0], layers, units)
        if "image" in observation_space.spaces:
            height, width, channels = observation_space["image"].shape
            self.blocks, self.channels = blocks, depths[-1]
            self.height, self.width = height >> len(depths), width >> len(depths)
            size = self.height * self.width * self.channels
            self.from_deter = BlockLinear(deter, size, blocks)
            self.from_stoch = nn.Sequential(dense(stoch, 2 * hidden), Linear(2 * hidden, size))
            self.start = nn.Sequential(ChannelNorm(self.channels), nn.SiLU())
            widths = depths[::-1]
            stages = [(Up(a, b), ChannelNorm(b), nn.SiLU()) for a, b in pairwise(widths)]
            layers = [layer for stage in stages for layer in stage]
            self.image = nn.Sequential(*layers, Up(widths[-1], channels))

    def forward(
        self, deter: Float[Tensor, "*batch deter"], stoch: Float[Tensor, "*batch stoch"]
    ) -> dict[str, Float[Tensor, "..."]]:
        lead, means = deter.shape[:-1], {}
        if hasattr(self, "vector"):
            means["vector"] = self.vector(torch.cat([deter, stoch], -1))
        if hasattr(self, "image"):
            shape = (-1, self.blocks, self.height, self.width, self.channels // self.blocks)
            remembered = self.from_deter(deter.flatten(0, -2)).reshape(shape).permute(0, 1, 4, 2, 3).flatten(1, 2)
            drawn = self.from_stoch(stoch).reshape(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2)
            mean = self.image(self.start(remembered + drawn))
            mean = mean.sigmoid() if self.squash else mean + 0.5
            means["image"] = mean.reshape(*lead, *mean.shape[1:])
        return means


# ---- the recurrent state-space model ----


class State(NamedTuple):
    """A batch of states: `stoch` holds the one-hot samples of all variables, one behind the other."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch"]

    @property
    def feat(self) -> Float[Tensor, "*batch feat"]:
        """What heads, actor and critic see: [deter, stoch]."""
        return torch.cat([self.deter, self.stoch], -1)


def log_probs(logits: Float[Tensor, "*batch classes"], unimix: float = 0.01) -> Float[Tensor, "*batch classes"]:
    """Log of (1 - unimix) softmax(logits) + unimix / classes: no class is ever impossible, and no KL infinite."""
    probs = logits.float().softmax(-1)
    return ((1 - unimix) * probs + unimix / logits.shape[-1]).log()


def sample_latent(
    logits: Float[Tensor, "*batch variables classes"],
    uniform: Float[Tensor, "*batch variables"],
    unimix: float = 0.01,
) -> Float[Tensor, "*batch variables classes"]:
    """A sample of each categorical, exactly one-hot, with the gradient of the probabilities (straight-through).

    probs = (1 - unimix) softmax(logits) + unimix / classes. The class is read off their cumulative sums: the first
    whose sum is above `uniform`, a number in [0, 1) for each variable (the last class where rounding leaves none).
    Value one-hot, gradient that of probs; in float32 they have to cancel exactly before the one-hot vector is added.
    """
    ### BEGIN SOLUTION 4.6: a discrete sample that gradient flows through
    probs = log_probs(logits, unimix).exp()
    classes = (probs.detach().cumsum(-1) <= uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return F.one_hot(classes, logits.shape[-1]) + (probs - probs.detach())
    ### END SOLUTION


class RSSM(nn.Module):
    """A block-diagonal GRU and `stoch` categorical variables of `classes` each (paper, appendix; official rssm.py).

    Layers: deter_in, stoch_in, action_in (each linear, norm, SiLU to `hidden`); core_hidden, core_norm, core_gates for
    the recurrence; prior_net deter -> logits; post_in [deter, tokens] -> hidden, post_out hidden -> logits.
    """

    def __init__(
        self,
        actions: int,
        tokens: int,
        deter: int,
        hidden: int,
        stoch: int,
        classes: int,
        blocks: int,
        unimix: float,
        post_scale: float = 1.0,
    ):
        super().__init__()
        self.deter, self.stoch, self.classes, self.blocks, self.unimix = deter, stoch, classes, blocks, unimix
        self.deter_in, self.stoch_in = dense(deter, hidden), dense(stoch * classes, hidden)
        self.action_in = dense(actions, hidden)
        self.core_hidden = BlockLinear(deter, deter, blocks, shared=3 * hidden)
        self.core_norm = RMSNorm(deter)
        self.core_gates = BlockLinear(deter, 3 * deter, blocks)
        self.prior_net = nn.Sequential(mlp(deter, hidden, 2), Linear(hidden, stoch * classes))
        self.post_in = dense(deter + tokens, hidden)
        self.post_out = Linear(hidden, stoch * classes, post_scale)

    def initial(self, batch_size: int) -> State:
        """Zeros: the state before a sequence's first row."""
        zeros = lambda size: self.post_out.weight.new_zeros(batch_size, size)
        return State(zeros(self.deter), zeros(self.stoch * self.classes))

    def embed_action(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch hidden"]:
        """What the recurrence sees of an action: numbers beyond 1 count as 1, as the environment cuts them off."""
        return self.action_in(action / action.detach().abs().clamp(min=1))

    def core(
        self,
        deter: Float[Tensor, "batch deter"],
        stoch: Float[Tensor, "batch stoch"],
        action: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "batch deter"]:
        """One step of the recurrence: the new deter. `action` is what `embed_action` made of it.

        - x = [deter_in(deter), stoch_in(stoch), action]
        - core_hidden takes deter, block by block, and x as what all blocks see; then core_norm over all units, and SiLU
        - core_gates gives every block 3 deter / blocks numbers: its reset, candidate and update, one behind the other
            reset = sigmoid(reset);  candidate = tanh(reset * candidate);  update = sigmoid(update - 1)
            deter' = update * candidate + (1 - update) * deter
        """
        ### BEGIN SOLUTION 4.7: a GRU in blocks
        x = torch.cat([self.deter_in(deter), self.stoch_in(stoch), action], -1)
        hidden = F.silu(self.core_norm(self.core_hidden(deter, x)))
        gates = self.core_gates(hidden).unflatten(-1, (self.blocks, 3, -1))
        reset, candidate, update = (gate.flatten(1) for gate in gates.unbind(2))
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * deter
        ### END SOLUTION

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch variables classes"]:
        """Logits of what may be the case, given what is remembered."""
        return self.prior_net(deter).unflatten(-1, (self.stoch, self.classes))

    def noise(self, *lead: int) -> Float[Tensor, "*lead variables"]:
        """What `sample_latent` takes."""
        return torch.rand(*lead, self.stoch, device=self.post_out.weight.device)

    def img_step(
        self, prev: State, prev_action: Float[Tensor, "batch action"], noise: Float[Tensor, "batch variables"]
    ) -> State:
        """One step without looking: a draw from the prior after prev_action was taken in prev."""
        deter = self.core(prev.deter, prev.stoch, self.embed_action(prev_action))
        return State(deter, sample_latent(self.prior(deter), noise, self.unimix).flatten(-2))

    def observe(
        self,
        start: State,
        tokens: Float[Tensor, "batch time tokens"],
        prev_action: Float[Tensor, "batch time action"],
        is_first: Bool[Tensor, "batch time"],
        noise: Float[Tensor, "batch time variables"],
    ) -> tuple[State, Float[Tensor, "batch time variables classes"]]:
        """(posteriors, their logits) of whole sequences, each (batch, time, ...); `start` (batch, ...) is the state
        before the first row.

        Row t has tokens_t, the action that led to it, and whether an episode begins with it: then nothing of the state
        before may be left, and nothing of the action. The step: deter = core(...) of the state before; logits from
        post_in([deter, tokens]) and post_out, seen as (variables, classes); stoch by `sample_latent`, with self.unimix.
        What is carried from step to step is the posterior's sample, with its gradient.
        A loop over this is a right answer; faster is to take out of it what does not depend on the step before: the
        embedded actions, and post_in's share of the tokens.
        """
        ### BEGIN SOLUTION 4.8: over a whole sequence
        keep = (~is_first).to(tokens)[..., None]
        actions = self.embed_action(prev_action * keep).unbind(1)
        linear, norm, silu = self.post_in
        deter_weight, tokens_weight = linear.weight.split([self.deter, tokens.shape[-1]], -1)
        seen = F.linear(tokens, tokens_weight, linear.bias).unbind(1)
        (deter, stoch), deters, stochs, logits = start, [], [], []
        for t, go_on in enumerate(keep.unbind(1)):
            deter = self.core(deter * go_on, stoch * go_on, actions[t])
            hidden = silu(norm(F.linear(deter, deter_weight) + seen[t]))
            logit = self.post_out(hidden).unflatten(-1, (self.stoch, self.classes))
            stoch = sample_latent(logit, noise[:, t], self.unimix).flatten(-2)
            deters.append(deter)
            stochs.append(stoch)
            logits.append(logit)
        return State(torch.stack(deters, 1), torch.stack(stochs, 1)), torch.stack(logits, 1)
        ### END SOLUTION


def kl_losses(
    post: Float[Tensor, "batch time variables classes"],
    prior: Float[Tensor, "batch time variables classes"],
    free_nats: float = 1.0,
    unimix: float = 0.01,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """(dynamics loss, representation loss) of every state (paper, equation 3), from logits.

    Both are KL(post || prior) of the distributions with `unimix` (`log_probs`), SUMMED over the variables, and
    max(free_nats, KL) state by state: below a nat there is nothing to gain, and no gradient. The dynamics loss moves
    the prior alone, the representation loss the posterior alone; their values are the same.
    """

    ### BEGIN SOLUTION 4.9: two losses of one divergence
    def divergence(post: Tensor, prior: Tensor) -> Tensor:
        kl = (post.exp() * (post - prior)).sum((-2, -1))
        return kl.clamp(min=free_nats)

    post, prior = log_probs(post, unimix), log_probs(prior, unimix)
    return divergence(post.detach(), prior), divergence(post, prior.detach())
    ### END SOLUTION


# ---- the whole ----


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, and the heads that say what a state earns and whether it is the end."""

    def __init__(self, config, observation_space: spaces.Dict, actions: int):
        super().__init__()
        self.config = config
        stoch = config.stoch * config.classes
        depths = tuple(config.depth * each for each in config.mults)
        self.encoder = Encoder(observation_space, depths, config.units, strided=config.strided)
        self.rssm = RSSM(
            actions,
            self.encoder.tokens,
            config.deter,
            config.hidden,
            config.stoch,
            config.classes,
            config.blocks,
            config.unimix,
            config.post_scale,
        )
        self.decoder = Decoder(
            observation_space,
            config.deter,
            stoch,
            depths,
            config.units,
            config.hidden,
            config.blocks,
            squash=config.squash_image,
        )
        self.feat = config.deter + stoch
        if config.reward_head == "twohot":
            self.reward = ScalarHead(self.feat, 1, config.units, config.bins, config.bin_space)
        else:
            self.reward = SquaredErrorHead(self.feat, 1, config.units)
        self.cont = Head(self.feat, 1, 1, config.units)

    def cont_logit(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        return self.cont(feat).squeeze(-1)


def world_model_losses(
    model: WorldModel, batch: dict[str, Tensor], post: State, post_logits: Tensor
) -> dict[str, Float[Tensor, "batch time"]]:
    """{part: its loss for every row} (paper, equations 2 and 3), given the posteriors of the rows.

    batch: rows as tensors (batch, time, ...): `image` in [0, 1] and/or `vector`, raw, whichever the decoder gives a
    mean of; `reward`, `is_terminal`.
    - "image": the squared error of `model.decoder(deter, stoch)["image"]`, SUMMED over pixels and channels, no half
    - "vector": the squared error between the decoder's mean and `symlog` of the vector, summed
    - "reward": `model.reward(feat).loss(reward)`
    - "cont": the cross entropy of `model.cont_logit(feat)` with a soft label: config.discount where the episode goes
      on, 0 where it ended (is_terminal; a time limit is no end)
    - "dyn", "rep": `kl_losses` against `model.rssm.prior(deter)`, with the config's free_nats and unimix
    Gradient flows into the posteriors from all of these, but for dyn, which leaves post_logits alone (their deter it
    does move). config.recon_grad False keeps that of image and vector from the posteriors, reward_grad False that of
    the reward: ablations.
    """
    config = model.config
    ### BEGIN SOLUTION 4.10: the losses of the world model
    stopped = State(*(x.detach() for x in post))
    for_decoder = post if config.recon_grad else stopped
    for_reward = post if config.reward_grad else stopped
    losses = {}
    for key, mean in model.decoder(for_decoder.deter, for_decoder.stoch).items():
        target = symlog(batch[key]) if key == "vector" else batch[key]
        losses[key] = (mean - target).square().flatten(2).sum(-1)
    losses["reward"] = model.reward(for_reward.feat).loss(batch["reward"])
    label = config.discount * (~batch["is_terminal"]).float()
    losses["cont"] = F.binary_cross_entropy_with_logits(model.cont_logit(post.feat), label, reduction="none")
    prior = model.rssm.prior(post.deter)
    losses["dyn"], losses["rep"] = kl_losses(post_logits, prior, config.free_nats, config.unimix)
    return losses
    ### END SOLUTION


def decoded(means: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's means as observations: the vector out of symlog space."""
    return {key: symexp(mean) if key == "vector" else mean for key, mean in means.items()}
