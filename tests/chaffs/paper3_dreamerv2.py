"""Wrong answers for paper 3. Many are what public reimplementations of the paper got wrong."""

from tests.chaffs import WHOLE, Chaff

# lines of exercise 3.1
SAMPLE = "sample = F.one_hot((logits + gumbel).argmax(-1), logits.shape[-1])"
PROBS = "probs = logits.softmax(-1)"
STRAIGHT = "sample + (probs - probs.detach())"

# lines of exercise 3.2
SYMLOG = "reward.sign() * reward.abs().log1p()"
NO_SYMLOG = f'return {SYMLOG} if kind == "symlog" else reward'

# lines of exercise 3.3
PARAMETERS = 'parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]'
CLIP = "norm = nn.utils.clip_grad_norm_(parameters, clip)"
DECAY = "torch._foreach_mul_(parameters, 1 - weight_decay)"

UTILS_CHAFFS = [
    # ---- 3.1 ----
    Chaff("3.1", "the sample has no gradient", "utils.py", STRAIGHT, "sample.to(logits)"),
    Chaff(
        "3.1",
        "the sum in the order that rounds: rows that are not quite one-hot",
        "utils.py",
        STRAIGHT,
        "(sample + probs) - probs.detach()",
    ),
    Chaff("3.1", "a soft sample (Gumbel-softmax)", "utils.py", WHOLE, "return (logits + gumbel).softmax(-1)"),
    Chaff("3.1", "the mode", "utils.py", "(logits + gumbel).argmax(-1)", "logits.argmax(-1)"),
    Chaff(
        "3.1",
        "noise of its own",
        "utils.py",
        SAMPLE,
        SAMPLE.replace("+ gumbel", "+ gumbel_noise(logits.shape, logits.device)"),
    ),
    Chaff("3.1", "the noise's sign", "utils.py", "logits + gumbel", "logits - gumbel"),
    Chaff(
        "3.1",
        "the first categorical's noise for all",
        "utils.py",
        "logits + gumbel",
        "logits + gumbel.reshape(-1, gumbel.shape[-1])[:1]",
    ),
    Chaff("3.1", "noise on the probabilities", "utils.py", "(logits + gumbel)", "(logits.softmax(-1) + gumbel)"),
    Chaff(
        "3.1",
        "one variable of each class, instead of one class of each variable",
        "utils.py",
        SAMPLE,
        "sample = F.one_hot((logits + gumbel).argmax(-2), logits.shape[-2]).transpose(-1, -2)",
    ),
    Chaff("3.1", "the gradient of a softmax over the variables", "utils.py", "softmax(-1)", "softmax(-2)"),
    Chaff("3.1", "the gradient of the logits", "utils.py", PROBS, "probs = logits"),
    Chaff("3.1", "the gradient of the log probabilities", "utils.py", PROBS, "probs = logits.log_softmax(-1)"),
    Chaff(
        "3.1",
        "the gradient of the Gumbel-softmax: the noise is in it",
        "utils.py",
        PROBS,
        "probs = (logits + gumbel).softmax(-1)",
    ),
    Chaff(
        "3.1",
        "gradient for the drawn class alone",
        "utils.py",
        STRAIGHT,
        "sample * (1 + probs - probs.detach())",
    ),
    Chaff("3.1", "the gradient's sign", "utils.py", "(probs - probs.detach())", "(probs.detach() - probs)"),
    Chaff(
        "3.1",
        "one per cent of uniform probabilities, as in DreamerV3",
        "utils.py",
        PROBS,
        "probs = 0.99 * logits.softmax(-1) + 0.01 / logits.shape[-1]",
    ),
    Chaff(
        "3.1",
        "equality with the largest: two ones where two are equal",
        "utils.py",
        SAMPLE,
        "perturbed = logits + gumbel\n    sample = (perturbed == perturbed.amax(-1, keepdim=True)).long()",
    ),
    Chaff(
        "3.1",
        "the caller's noise is changed, of which another sample is made",
        "utils.py",
        "(logits + gumbel)",
        "gumbel.add_(logits.detach())",
    ),
    Chaff(
        "3.1",
        "a softmax that overflows",
        "utils.py",
        PROBS,
        "probs = logits.exp() / logits.exp().sum(-1, keepdim=True)",
    ),
    # ---- 3.2 ----
    Chaff("3.2", "the logarithm without the sign", "utils.py", SYMLOG, "reward.abs().log1p()"),
    Chaff("3.2", "log1p of the reward itself", "utils.py", SYMLOG, "reward.log1p()"),
    Chaff("3.2", "log(1 + x) loses small rewards", "utils.py", SYMLOG, "reward.sign() * (1 + reward.abs()).log()"),
    Chaff("3.2", "an epsilon", "utils.py", SYMLOG, "reward.sign() * (reward.abs() + 1e-8).log1p()"),
    Chaff("3.2", "no 1 +", "utils.py", SYMLOG, "reward.sign() * reward.abs().log()"),
    Chaff("3.2", "the logarithm to base 10", "utils.py", SYMLOG, f"{SYMLOG} / math.log(10)"),
    Chaff("3.2", "the other way round", "utils.py", SYMLOG, "symexp(reward)"),
    Chaff("3.2", "asinh, which is like it", "utils.py", SYMLOG, "reward.asinh()"),
    Chaff(
        "3.2",
        "the square root of R2D2",
        "utils.py",
        SYMLOG,
        "reward.sign() * ((reward.abs() + 1).sqrt() - 1)",
    ),
    Chaff("3.2", "symlog is not known", "utils.py", NO_SYMLOG, "return reward"),
    Chaff("3.2", "symlog for all that is not tanh", "utils.py", ' if kind == "symlog" else reward', ""),
    Chaff("3.2", "tanh, whatever is asked", "utils.py", 'if kind == "tanh":', 'if kind != "symlog":'),
    Chaff("3.2", "clipped, as in DQN", "utils.py", "reward.tanh()", "reward.clamp(-1, 1)"),
    Chaff("3.2", "the sign alone", "utils.py", "reward.tanh()", "reward.sign()"),
    Chaff("3.2", "a sigmoid from -1 to 1: half as steep", "utils.py", "reward.tanh()", "2 * reward.sigmoid() - 1"),
    Chaff("3.2", "the caller's rewards are changed", "utils.py", "reward.tanh()", "reward.tanh_()"),
    Chaff(
        "3.2",
        "a tanh that overflows",
        "utils.py",
        "reward.tanh()",
        "((2 * reward).exp() - 1) / ((2 * reward).exp() + 1)",
    ),
    # ---- 3.3 ----
    Chaff(
        "3.3",
        "the decay is multiplied by the learning rate, as AdamW does",
        "utils.py",
        "1 - weight_decay",
        '1 - optimizer.param_groups[0]["lr"] * weight_decay',
    ),
    Chaff(
        "3.3",
        "a decay in the gradient, as Adam's weight_decay is",
        "utils.py",
        WHOLE,
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient + weight_decay * parameter.detach()
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        return norm
        """,
    ),
    Chaff(
        "3.3",
        "the gradients decay, not the weights",
        "utils.py",
        DECAY,
        "torch._foreach_mul_([parameter.grad for parameter in parameters], 1 - weight_decay)",
    ),
    Chaff("3.3", "no decay", "utils.py", "if weight_decay:", "if False:"),
    Chaff(
        "3.3",
        "no decay of biases",
        "utils.py",
        DECAY,
        "torch._foreach_mul_([parameter for parameter in parameters if parameter.ndim > 1], 1 - weight_decay)",
    ),
    Chaff(
        "3.3",
        "no decay where there is no gradient",
        "utils.py",
        DECAY,
        "for parameter in parameters:\n                parameter.mul_(1 - weight_decay if parameter.grad.any() else 1)",
    ),
    Chaff(
        "3.3",
        "the first group alone decays",
        "utils.py",
        "torch._foreach_mul_(parameters,",
        'torch._foreach_mul_(optimizer.param_groups[0]["params"],',
    ),
    Chaff("3.3", "the weights grow", "utils.py", "1 - weight_decay", "1 + weight_decay"),
    Chaff("3.3", "a constant decay of 1e-6", "utils.py", "1 - weight_decay", "1 - 1e-6"),
    Chaff(
        "3.3",
        "the decay after the step",
        "utils.py",
        WHOLE,
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(1 - weight_decay)
        return norm
        """,
    ),
    Chaff(
        "3.3",
        "clipped after the step",
        "utils.py",
        WHOLE,
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
            parameter.data.mul_(1 - weight_decay)
        optimizer.step()
        return nn.utils.clip_grad_norm_(parameters, clip)
        """,
    ),
    Chaff(
        "3.3",
        "every tensor is clipped for itself",
        "utils.py",
        CLIP,
        "norm = torch.stack([nn.utils.clip_grad_norm_([parameter], clip) for parameter in parameters]).norm()",
    ),
    Chaff(
        "3.3",
        "every group is clipped for itself",
        "utils.py",
        CLIP,
        'norms = [nn.utils.clip_grad_norm_(group["params"], clip) for group in optimizer.param_groups]\n'
        "    norm = torch.stack(norms).norm()",
    ),
    Chaff(
        "3.3",
        "every number is clipped for itself",
        "utils.py",
        CLIP,
        "norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])\n"
        "    nn.utils.clip_grad_value_(parameters, clip)",
    ),
    Chaff("3.3", "clipped to 100, whatever is asked", "utils.py", "(parameters, clip)", "(parameters, 100.0)"),
    Chaff(
        "3.3",
        "the gradient is always scaled to `clip`",
        "utils.py",
        CLIP,
        "norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])\n"
        "    for parameter in parameters:\n        parameter.grad = parameter.grad * clip / (norm + 1e-12)",
    ),
    Chaff("3.3", "the sum of absolute values for a norm", "utils.py", "parameters, clip)", "parameters, clip, 1.0)"),
    Chaff(
        "3.3",
        "the norm after clipping",
        "utils.py",
        CLIP,
        "nn.utils.clip_grad_norm_(parameters, clip)\n"
        "    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])",
    ),
    Chaff(
        "3.3",
        "gradients are added to those of the last step",
        "utils.py",
        "parameter.grad = gradient",
        "parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient",
    ),
    Chaff(
        "3.3",
        "the first group alone learns",
        "utils.py",
        WHOLE,
        """
        parameters = optimizer.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        with torch.no_grad():
            torch._foreach_mul_(parameters, 1 - weight_decay)
        optimizer.step()
        return norm
        """,
    ),
    Chaff("3.3", "the optimiser makes no step", "utils.py", "optimizer.step()", "optimizer.zero_grad()"),
]

# lines of exercise 3.4
LOGS = "post, prior = (self.logits(raw).log_softmax(-1) for raw in (post, prior))"
KL = "(post.exp() * (post - prior)).sum((-2, -1))"

# lines of exercise 3.5
GATES = "reset, candidate, update = self.norm(self.layer(torch.cat([x, h], -1))).chunk(3, -1)"
CANDIDATE = "candidate = torch.tanh(torch.sigmoid(reset) * candidate)"
UPDATE = "update = torch.sigmoid(update + self.update_bias)"
NEW = "update * candidate + (1 - update) * h"

# lines of exercises 3.6 and 3.7
IMG_IN = "F.elu(self.img_in(torch.cat([prev.stoch, prev_action], -1)))"
IMG_OUT = "self.img_dist(F.elu(self.img_out(deter)))"
CELL = "self.cell(x, prev.deter)"
IMG_SAMPLE = "self.latent.sample(raw, noise)"
KEEP = "keep = (~is_first).to(embed)[:, None]"
MASKED = "prev = State(*(x * keep for x in prev))"
IMG_STEP = "prior = self.img_step(prev, prev_action * keep, noise)"
OBS_OUT = "self.obs_dist(F.elu(self.obs_out(torch.cat([prior.deter, embed], -1))))"
POSTERIOR = "State(prior.deter, self.latent.sample(raw, noise), raw), prior"

# lines of exercise 3.8
INITIAL = "state = self.initial(len(embed))"
KEEPS = "keep = (~is_first).to(embed)[..., None]"
SEQUENCE_STEP = "x = F.elu(F.linear(stoch * go_on, stoch_weight) + action)"
PRIOR_RAW = "prior_raw = self.img_dist(F.elu(self.img_out(deter)))"
PRIORS = "prior = State(deter, self.latent.sample(prior_raw, noise), prior_raw)"

# lines of exercise 3.9
FLOOR = "kl.clamp(min=free_nats).mean() if free_before_mean else kl.mean().clamp(min=free_nats)"
VALUE = "latent.kl(post.raw, prior.raw).mean().detach()"
HALVES = "to_prior, to_post = divergence(post.raw.detach(), prior.raw), divergence(post.raw, prior.raw.detach())"
BALANCED = "balance * to_prior + (1 - balance) * to_post"

RSSM_CHAFFS = [
    # ---- 3.4 ----
    Chaff("3.4", "KL(prior || posterior)", "rssm.py", "for raw in (post, prior))", "for raw in (prior, post))"),
    Chaff("3.4", "the mean over the variables", "rssm.py", ".sum((-2, -1))", ".sum(-1).mean(-1)"),
    Chaff("3.4", "the mean over the classes", "rssm.py", ".sum((-2, -1))", ".mean(-1).sum(-1)"),
    Chaff("3.4", "the sum over the classes alone", "rssm.py", ".sum((-2, -1))", ".sum(-1)"),
    Chaff("3.4", "the sum over everything", "rssm.py", ".sum((-2, -1))", ".sum()"),
    Chaff("3.4", "probabilities over the variables", "rssm.py", "log_softmax(-1)", "log_softmax(-2)"),
    Chaff(
        "3.4",
        "one categorical of all the numbers",
        "rssm.py",
        WHOLE,
        """
        post, prior = post.log_softmax(-1), prior.log_softmax(-1)
        return (post.exp() * (post - prior)).sum(-1)
        """,
    ),
    Chaff(
        "3.4",
        "classes first in raw",
        "rssm.py",
        "self.logits(raw).log_softmax(-1)",
        "raw.unflatten(-1, (self.classes, self.variables)).log_softmax(-2)",
    ),
    Chaff("3.4", "the log of a softmax: not finite", "rssm.py", "log_softmax(-1)", "softmax(-1).log()"),
    Chaff("3.4", "the log of a softmax + 1e-8", "rssm.py", "log_softmax(-1)", "softmax(-1).add(1e-8).log()"),
    Chaff(
        "3.4",
        "torch's kl_divergence, infinite where a probability underflows",
        "rssm.py",
        WHOLE,
        """
        post, prior = (torch.distributions.Categorical(logits=self.logits(raw)) for raw in (post, prior))
        return torch.distributions.kl_divergence(post, prior).sum(-1)
        """,
    ),
    Chaff("3.4", "logits that are not normalised", "rssm.py", ".log_softmax(-1)", ""),
    Chaff("3.4", "the cross entropy: the posterior's own entropy is not in it", "rssm.py", "(post - prior)", "-prior"),
    Chaff("3.4", "the prior's probabilities weigh", "rssm.py", "post.exp()", "prior.exp()"),
    Chaff(
        "3.4",
        "the most likely class alone",
        "rssm.py",
        "post.exp()",
        "F.one_hot(post.argmax(-1), self.classes)",
    ),
    Chaff("3.4", "absolute differences", "rssm.py", "(post - prior)", "(post - prior).abs()"),
    Chaff("3.4", "bits", "rssm.py", "(post - prior)).sum((-2, -1))", "(post - prior)).sum((-2, -1)) / 0.6931472"),
    Chaff("3.4", "the posterior's probabilities without gradient", "rssm.py", "post.exp()", "post.detach().exp()"),
    Chaff("3.4", "no gradient for the prior", "rssm.py", "(post - prior)", "(post - prior.detach())"),
    # ---- 3.5 ----
    Chaff("3.5", "the old state in front of the input", "rssm.py", "[x, h]", "[h, x]"),
    Chaff(
        "3.5",
        "the order reset, update, candidate",
        "rssm.py",
        "reset, candidate, update =",
        "reset, update, candidate =",
    ),
    Chaff(
        "3.5",
        "the order update, candidate, reset",
        "rssm.py",
        "reset, candidate, update =",
        "update, candidate, reset =",
    ),
    Chaff(
        "3.5",
        "no layer norm",
        "rssm.py",
        "self.norm(self.layer(torch.cat([x, h], -1)))",
        "self.layer(torch.cat([x, h], -1))",
    ),
    Chaff(
        "3.5",
        "torch's epsilon of 1e-5",
        "rssm.py",
        "self.norm(self.layer(torch.cat([x, h], -1)))",
        "F.layer_norm(\n            self.layer(torch.cat([x, h], -1)), self.norm.normalized_shape, self.norm.weight, "
        "self.norm.bias\n        )",
    ),
    Chaff(
        "3.5",
        "layer norm without its scale and shift",
        "rssm.py",
        "self.norm(self.layer(torch.cat([x, h], -1)))",
        "F.layer_norm(self.layer(torch.cat([x, h], -1)), self.norm.normalized_shape, eps=1e-3)",
    ),
    Chaff(
        "3.5",
        "each gate is normalised for itself",
        "rssm.py",
        GATES,
        "gates = self.layer(torch.cat([x, h], -1)).unflatten(-1, (3, -1))\n"
        "        gates = F.layer_norm(gates, gates.shape[-1:], eps=1e-3).flatten(-2)\n"
        "        reset, candidate, update = (gates * self.norm.weight + self.norm.bias).chunk(3, -1)",
    ),
    Chaff(
        "3.5",
        "normalised over the batch",
        "rssm.py",
        GATES,
        "gates = self.layer(torch.cat([x, h], -1))\n"
        "        gates = (gates - gates.mean(0)) / (gates.var(0, unbiased=False) + 1e-3).sqrt()\n"
        "        reset, candidate, update = (gates * self.norm.weight + self.norm.bias).chunk(3, -1)",
    ),
    Chaff(
        "3.5",
        "update weighs the old state, as in torch's GRUCell",
        "rssm.py",
        NEW,
        "(1 - update) * candidate + update * h",
    ),
    Chaff("3.5", "the old state is not forgotten", "rssm.py", NEW, "update * candidate + h"),
    Chaff("3.5", "no bias of the update", "rssm.py", "update + self.update_bias", "update"),
    Chaff("3.5", "a bias of -1, whatever is asked", "rssm.py", "update + self.update_bias", "update - 1"),
    Chaff(
        "3.5", "a bias of the reset, too", "rssm.py", "torch.sigmoid(reset)", "torch.sigmoid(reset + self.update_bias)"
    ),
    Chaff(
        "3.5",
        "the bias before the layer norm",
        "rssm.py",
        WHOLE,
        """
        z = self.layer(torch.cat([x, h], -1))
        z = torch.cat([z[:, : 2 * h.shape[-1]], z[:, 2 * h.shape[-1] :] + self.update_bias], -1)
        reset, candidate, update = self.norm(z).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update)
        return update * candidate + (1 - update) * h
        """,
    ),
    Chaff("3.5", "no reset", "rssm.py", "torch.tanh(torch.sigmoid(reset) * candidate)", "torch.tanh(candidate)"),
    Chaff(
        "3.5",
        "the reset outside of the tanh",
        "rssm.py",
        CANDIDATE,
        "candidate = torch.sigmoid(reset) * torch.tanh(candidate)",
    ),
    Chaff(
        "3.5",
        "the reset touches the share of h alone, as in torch's GRUCell",
        "rssm.py",
        WHOLE,
        """
        reset, _, update = self.norm(self.layer(torch.cat([x, h], -1))).chunk(3, -1)
        reset = torch.sigmoid(reset)
        _, candidate, _ = self.norm(self.layer(torch.cat([x, reset * h], -1))).chunk(3, -1)
        update = torch.sigmoid(update + self.update_bias)
        return update * torch.tanh(candidate) + (1 - update) * h
        """,
    ),
    Chaff("3.5", "ELU for tanh", "rssm.py", "torch.tanh(", "F.elu("),
    Chaff("3.5", "no gradient through the old state", "rssm.py", "(1 - update) * h", "(1 - update) * h.detach()"),
    Chaff("3.5", "no gradient through the gates' view of the old state", "rssm.py", "[x, h]", "[x, h.detach()]"),
    Chaff("3.5", "the caller's state is changed", "rssm.py", NEW, "h.lerp_(candidate, update)"),
    # ---- 3.6 ----
    Chaff(
        "3.6", "the action in front of the sample", "rssm.py", "[prev.stoch, prev_action]", "[prev_action, prev.stoch]"
    ),
    Chaff("3.6", "no action", "rssm.py", "[prev.stoch, prev_action]", "[prev.stoch, torch.zeros_like(prev_action)]"),
    Chaff(
        "3.6",
        "the logits in place of the sample",
        "rssm.py",
        "[prev.stoch, prev_action]",
        "[prev.raw[:, : self.latent.stoch], prev_action]",
    ),
    Chaff("3.6", "no ELU after img_in", "rssm.py", IMG_IN, IMG_IN.replace("F.elu", "")),
    Chaff("3.6", "ReLU after img_in", "rssm.py", IMG_IN, IMG_IN.replace("F.elu", "F.relu")),
    Chaff("3.6", "no ELU after img_out", "rssm.py", IMG_OUT, "self.img_dist(self.img_out(deter))"),
    Chaff("3.6", "ReLU after img_out", "rssm.py", IMG_OUT, IMG_OUT.replace("F.elu", "F.relu")),
    Chaff("3.6", "the posterior's last layer", "rssm.py", "self.img_dist(", "self.obs_dist("),
    Chaff("3.6", "the prior sees the old deter", "rssm.py", "self.img_out(deter)", "self.img_out(prev.deter)"),
    Chaff("3.6", "the old deter is returned", "rssm.py", "State(deter,", "State(prev.deter,"),
    Chaff("3.6", "the GRU begins from zeros", "rssm.py", CELL, "self.cell(x, torch.zeros_like(prev.deter))"),
    Chaff(
        "3.6",
        "the noise is ignored",
        "rssm.py",
        IMG_SAMPLE,
        "self.latent.sample(raw, self.latent.noise(raw.shape[:1], raw.device))",
    ),
    Chaff("3.6", "no noise: the mode", "rssm.py", IMG_SAMPLE, "self.latent.sample(raw, torch.zeros_like(noise))"),
    Chaff(
        "3.6",
        "the first row's noise for all",
        "rssm.py",
        IMG_SAMPLE,
        "self.latent.sample(raw, noise[:1].expand_as(noise))",
    ),
    Chaff("3.6", "the sample has no gradient", "rssm.py", IMG_SAMPLE, "self.latent.sample(raw, noise).detach()"),
    Chaff(
        "3.6",
        "the probabilities for the sample",
        "rssm.py",
        IMG_SAMPLE,
        "self.latent.logits(raw).softmax(-1).flatten(-2)",
    ),
    Chaff(
        "3.6",
        "the sample and its logits are swapped",
        "rssm.py",
        "self.latent.sample(raw, noise), raw",
        "raw, self.latent.sample(raw, noise)",
    ),
    Chaff("3.6", "no gradient through the old deter", "rssm.py", CELL, "self.cell(x, prev.deter.detach())"),
    Chaff("3.6", "no gradient through the old sample", "rssm.py", "[prev.stoch,", "[prev.stoch.detach(),"),
    Chaff("3.6", "no gradient through the action", "rssm.py", "prev_action]", "prev_action.detach()]"),
    Chaff("3.6", "the prior teaches the GRU nothing", "rssm.py", "self.img_out(deter)", "self.img_out(deter.detach())"),
    Chaff(
        "3.6",
        "a discrete sample, whatever the latent",
        "rssm.py",
        IMG_SAMPLE,
        "one_hot_sample(self.latent.logits(raw), self.latent.logits(noise)).flatten(-2)",
    ),
    # ---- 3.7 ----
    Chaff("3.7", "is_first is ignored", "rssm.py", KEEP, "keep = torch.ones_like(embed[:, :1])"),
    Chaff("3.7", "the action is not masked", "rssm.py", "prev_action * keep", "prev_action"),
    Chaff("3.7", "the action alone is masked", "rssm.py", MASKED, "pass"),
    Chaff("3.7", "deter is not masked", "rssm.py", MASKED, "prev = prev._replace(stoch=prev.stoch * keep)"),
    Chaff("3.7", "stoch is not masked", "rssm.py", MASKED, "prev = prev._replace(deter=prev.deter * keep)"),
    Chaff("3.7", "what goes on is masked", "rssm.py", "(~is_first)", "is_first"),
    Chaff(
        "3.7",
        "one beginning resets the whole batch",
        "rssm.py",
        KEEP,
        "keep = (~is_first.any()).to(embed)[None, None]",
    ),
    Chaff(
        "3.7", "the mask along the wrong axis: right for a batch of 1", "rssm.py", KEEP, "keep = (~is_first).to(embed)"
    ),
    Chaff(
        "3.7",
        "the mask behind the GRU",
        "rssm.py",
        WHOLE,
        """
        keep = (~is_first).to(embed)[:, None]
        prior = self.img_step(prev, prev_action, noise)
        prior = State(*(x * keep for x in prior))
        raw = self.obs_dist(F.elu(self.obs_out(torch.cat([prior.deter, embed], -1))))
        return State(prior.deter, self.latent.sample(raw, noise), raw), prior
        """,
    ),
    Chaff("3.7", "the caller's state is changed", "rssm.py", MASKED, "prev = State(*(x.mul_(keep) for x in prev))"),
    Chaff("3.7", "the caller's actions are changed", "rssm.py", "prev_action * keep", "prev_action.mul_(keep)"),
    Chaff("3.7", "the observation is masked, too", "rssm.py", "prior.deter, embed]", "prior.deter, embed * keep]"),
    Chaff("3.7", "the embedding in front of deter", "rssm.py", "[prior.deter, embed]", "[embed, prior.deter]"),
    Chaff("3.7", "the posterior sees the old deter", "rssm.py", "[prior.deter, embed]", "[prev.deter, embed]"),
    Chaff(
        "3.7", "the posterior does not look", "rssm.py", "prior.deter, embed]", "prior.deter, torch.zeros_like(embed)]"
    ),
    Chaff("3.7", "no ELU", "rssm.py", OBS_OUT, OBS_OUT.replace("F.elu", "")),
    Chaff("3.7", "ReLU", "rssm.py", OBS_OUT, OBS_OUT.replace("F.elu", "F.relu")),
    Chaff("3.7", "the prior's last layer", "rssm.py", "self.obs_dist(", "self.img_dist("),
    Chaff("3.7", "the posterior's logits are added to the prior's", "rssm.py", OBS_OUT, OBS_OUT + " + prior.raw"),
    Chaff(
        "3.7",
        "noise of its own for the posterior",
        "rssm.py",
        "self.latent.sample(raw, noise)",
        "self.latent.sample(raw, self.latent.noise(noise.shape[:1], noise.device))",
    ),
    Chaff(
        "3.7",
        "noise of its own for the prior",
        "rssm.py",
        "prev_action * keep, noise)",
        "prev_action * keep)",
    ),
    Chaff("3.7", "the prior's sample", "rssm.py", POSTERIOR, "State(prior.deter, prior.stoch, raw), prior"),
    Chaff(
        "3.7",
        "prior and posterior are swapped",
        "rssm.py",
        POSTERIOR,
        "prior, State(prior.deter, self.latent.sample(raw, noise), raw)",
    ),
    Chaff(
        "3.7",
        "the posterior teaches the GRU nothing",
        "rssm.py",
        "[prior.deter, embed]",
        "[prior.deter.detach(), embed]",
    ),
    Chaff("3.7", "the encoder learns nothing", "rssm.py", "prior.deter, embed]", "prior.deter, embed.detach()]"),
    Chaff(
        "3.7",
        "a discrete sample, whatever the latent",
        "rssm.py",
        "self.latent.sample(raw, noise)",
        "one_hot_sample(self.latent.logits(raw), self.latent.logits(noise)).flatten(-2)",
    ),
    Chaff(
        "3.7",
        "the prior does not know that an episode begins",
        "rssm.py",
        WHOLE,
        """
        keep = (~is_first).to(embed)[:, None]
        fresh = self.img_step(State(*(x * keep for x in prev)), prev_action * keep, noise)
        prior = self.img_step(prev, prev_action, noise)
        raw = self.obs_dist(F.elu(self.obs_out(torch.cat([fresh.deter, embed], -1))))
        return State(fresh.deter, self.latent.sample(raw, noise), raw), prior
        """,
    ),
    # ---- 3.8 ----
    Chaff("3.8", "is_first is ignored", "rssm.py", KEEPS, "keep = torch.ones_like(embed[..., :1])"),
    Chaff(
        "3.8",
        "episodes begin in the first row alone",
        "rssm.py",
        KEEPS,
        KEEPS + "\n        keep = torch.cat([keep[:, :1], torch.ones_like(keep[:, 1:])], 1)",
    ),
    Chaff("3.8", "after a beginning all is reset for ever", "rssm.py", KEEPS, KEEPS + ".cumprod(1)"),
    Chaff(
        "3.8",
        "reset one row late: is_first taken for the episode's end",
        "rssm.py",
        KEEPS,
        KEEPS + "\n        keep = torch.cat([torch.ones_like(keep[:, :1]), keep[:, :-1]], 1)",
    ),
    Chaff(
        "3.8",
        "one beginning resets the whole batch",
        "rssm.py",
        KEEPS,
        "keep = (~is_first.any(0, keepdim=True)).to(embed)[..., None].expand(len(embed), -1, -1)",
    ),
    Chaff("3.8", "the action is not masked", "rssm.py", "prev_action * keep", "prev_action"),
    Chaff("3.8", "stoch is not masked", "rssm.py", "stoch * go_on", "stoch"),
    Chaff("3.8", "deter is not masked", "rssm.py", "deter * go_on", "deter"),
    Chaff("3.8", "the caller's actions are changed", "rssm.py", "prev_action * keep", "prev_action.mul_(keep)"),
    Chaff(
        "3.8",
        "the prior is carried on",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            post, state = self.obs_step(state, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            posts.append(post)
            priors.append(state)
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "3.8",
        "the probabilities are carried on",
        "rssm.py",
        "stochs.append(stoch)",
        "stochs.append(stoch)\n            stoch = self.latent.logits(raw).softmax(-1).flatten(-2)",
    ),
    Chaff(
        "3.8",
        "every step begins from the initial state",
        "rssm.py",
        "stochs.append(stoch)",
        "stochs.append(stoch)\n            deter, stoch = state.deter, state.stoch",
    ),
    Chaff(
        "3.8",
        "time first in what is returned",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        return tuple(State(*(torch.stack(x) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "3.8",
        "goes on where the last call ended",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = getattr(self, "last", None), [], []
        if state is None or len(state.deter) != len(embed):
            state = self.initial(len(embed))
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        self.last = State(*(x.detach() for x in state))
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "3.8",
        "the action that follows the row",
        "rssm.py",
        INITIAL,
        INITIAL + "\n        prev_action = F.pad(prev_action[:, 1:], (0, 0, 0, 1))",
    ),
    Chaff(
        "3.8",
        "the first row's action is set to zero, although no episode begins there",
        "rssm.py",
        INITIAL,
        INITIAL + "\n        prev_action = F.pad(prev_action[:, 1:], (0, 0, 1, 0))",
    ),
    Chaff(
        "3.8",
        "no gradient through the carried sample",
        "rssm.py",
        "stochs.append(stoch)",
        "stochs.append(stoch)\n            stoch = stoch.detach()",
    ),
    Chaff(
        "3.8",
        "no gradient through the carried deter",
        "rssm.py",
        "deters.append(deter)",
        "deters.append(deter)\n            deter = deter.detach()",
    ),
    Chaff("3.8", "the priors teach the GRU nothing", "rssm.py", "self.img_out(deter)", "self.img_out(deter.detach())"),
    Chaff(
        "3.8",
        "the encoder learns nothing",
        "rssm.py",
        "F.linear(embed, embed_weight",
        "F.linear(embed.detach(), embed_weight",
    ),
    Chaff(
        "3.8",
        "the noise is ignored",
        "rssm.py",
        "noise.unbind(1)",
        "self.latent.noise(embed.shape[:2], embed.device).unbind(1)",
    ),
    Chaff(
        "3.8",
        "the same noise at every step",
        "rssm.py",
        INITIAL,
        INITIAL + "\n        noise = noise[:, :1].expand_as(noise)",
    ),
    Chaff(
        "3.8",
        "the same noise for every sequence",
        "rssm.py",
        INITIAL,
        INITIAL + "\n        noise = noise[:1].expand_as(noise)",
    ),
    Chaff(
        "3.8",
        "the priors' samples are drawn anew",
        "rssm.py",
        "sample(prior_raw, noise)",
        "sample(prior_raw, self.latent.noise(embed.shape[:2], embed.device))",
    ),
    Chaff(
        "3.8",
        "img_in's bias is masked, too",
        "rssm.py",
        "F.linear(prev_action * keep, action_weight, self.img_in.bias)",
        "(keep * F.linear(prev_action, action_weight, self.img_in.bias))",
    ),
    Chaff(
        "3.8",
        "ELU on img_in's two shares, not on their sum",
        "rssm.py",
        SEQUENCE_STEP,
        "x = F.elu(F.linear(stoch * go_on, stoch_weight)) + F.elu(action)",
    ),
    Chaff(
        "3.8",
        "no ELU after obs_out",
        "rssm.py",
        "F.elu(F.linear(deter, deter_weight) + seen)",
        "F.linear(deter, deter_weight) + seen",
    ),
    Chaff(
        "3.8",
        "priors and posteriors are swapped",
        "rssm.py",
        "return State(deter, torch.stack(stochs, 1), torch.stack(raws, 1)), prior",
        "return prior, State(deter, torch.stack(stochs, 1), torch.stack(raws, 1))",
    ),
    # ---- 3.9 ----
    Chaff(
        "3.9", "balance is the posterior's share", "rssm.py", BALANCED, "(1 - balance) * to_prior + balance * to_post"
    ),
    Chaff(
        "3.9",
        "no stop of the gradient: the plain KL",
        "rssm.py",
        HALVES,
        "to_prior = to_post = divergence(post.raw, prior.raw)",
    ),
    Chaff(
        "3.9",
        "gradient stopped in the first half alone",
        "rssm.py",
        "divergence(post.raw, prior.raw.detach())",
        "divergence(post.raw, prior.raw)",
    ),
    Chaff(
        "3.9",
        "gradient stopped in the second half alone",
        "rssm.py",
        "divergence(post.raw.detach(), prior.raw)",
        "divergence(post.raw, prior.raw)",
    ),
    Chaff("3.9", "the halves do not add up to 1", "rssm.py", BALANCED, "balance * to_prior + to_post"),
    Chaff("3.9", "0.8, whatever is asked", "rssm.py", BALANCED, "0.8 * to_prior + 0.2 * to_post"),
    Chaff("3.9", "a balance of 0 is taken for none", "rssm.py", "if balance is None:", "if not balance:"),
    Chaff(
        "3.9",
        "a balance of 0.5 is taken for none, as in the official code",
        "rssm.py",
        "if balance is None:",
        "if balance in (None, 0.5):",
    ),
    Chaff(
        "3.9",
        "none is taken for 0.5: half the gradient",
        "rssm.py",
        WHOLE,
        """
        def divergence(post: Tensor, prior: Tensor) -> Tensor:
            kl = latent.kl(post, prior)
            return kl.clamp(min=free_nats).mean() if free_before_mean else kl.mean().clamp(min=free_nats)

        value = latent.kl(post.raw, prior.raw).mean().detach()
        balance = 0.5 if balance is None else balance
        to_prior, to_post = divergence(post.raw.detach(), prior.raw), divergence(post.raw, prior.raw.detach())
        return balance * to_prior + (1 - balance) * to_post, value
        """,
    ),
    Chaff(
        "3.9",
        "with none, the prior alone learns",
        "rssm.py",
        "return divergence(post.raw, prior.raw), value",
        "return divergence(post.raw.detach(), prior.raw), value",
    ),
    Chaff("3.9", "KL(prior || posterior)", "rssm.py", "kl = latent.kl(post, prior)", "kl = latent.kl(prior, post)"),
    Chaff(
        "3.9",
        "one half is the KL the other way round",
        "rssm.py",
        "divergence(post.raw, prior.raw.detach())",
        "divergence(prior.raw.detach(), post.raw)",
    ),
    Chaff(
        "3.9",
        "the KL that is returned is KL(prior || posterior)",
        "rssm.py",
        VALUE,
        "latent.kl(prior.raw, post.raw).mean().detach()",
    ),
    Chaff("3.9", "the max is always after the mean", "rssm.py", FLOOR, "kl.mean().clamp(min=free_nats)"),
    Chaff("3.9", "the max is always before the mean", "rssm.py", FLOOR, "kl.clamp(min=free_nats).mean()"),
    Chaff("3.9", "free_before_mean the wrong way round", "rssm.py", "if free_before_mean", "if not free_before_mean"),
    Chaff(
        "3.9",
        "with a balance, the max is always after the mean",
        "rssm.py",
        "    to_prior, to_post =",
        "    free_before_mean = False\n    to_prior, to_post =",
    ),
    Chaff(
        "3.9",
        "with a balance, no free nats",
        "rssm.py",
        "    to_prior, to_post =",
        "    free_nats = 0.0\n    to_prior, to_post =",
    ),
    Chaff(
        "3.9",
        "free nats are subtracted",
        "rssm.py",
        "kl.mean().clamp(min=free_nats)",
        "(kl.mean() - free_nats).clamp(min=0)",
    ),
    Chaff(
        "3.9", "a ceiling for a floor", "rssm.py", "kl.mean().clamp(min=free_nats)", "kl.mean().clamp(max=free_nats)"
    ),
    Chaff(
        "3.9",
        "the floor lets gradient through",
        "rssm.py",
        "kl.mean().clamp(min=free_nats)",
        "kl.mean() + (free_nats - kl.mean()).clamp(min=0).detach()",
    ),
    Chaff(
        "3.9",
        "free nats for each variable",
        "rssm.py",
        "    value =",
        '    free_nats = free_nats * getattr(latent, "variables", latent.stoch)\n    value =',
    ),
    Chaff(
        "3.9",
        "the floor on every sequence's mean",
        "rssm.py",
        "kl.mean().clamp(min=free_nats)",
        "kl.mean(-1).clamp(min=free_nats).mean()",
    ),
    Chaff("3.9", "the sum over batch and time", "rssm.py", "kl.mean().clamp", "kl.sum().clamp"),
    Chaff(
        "3.9",
        "the KL that is returned is clipped",
        "rssm.py",
        VALUE,
        VALUE.replace(".mean()", ".mean().clamp(min=free_nats)"),
    ),
    Chaff("3.9", "the KL that is returned is not averaged", "rssm.py", VALUE, VALUE.replace(".mean()", "")),
    Chaff(
        "3.9",
        "the floor on each weighted half",
        "rssm.py",
        WHOLE,
        """
        kl = latent.kl(post.raw, prior.raw)
        to_prior, to_post = latent.kl(post.raw.detach(), prior.raw), latent.kl(post.raw, prior.raw.detach())
        halves = [kl] if balance is None else [balance * to_prior, (1 - balance) * to_post]
        if free_before_mean:
            loss = sum(half.clamp(min=free_nats).mean() for half in halves)
        else:
            loss = sum(half.mean().clamp(min=free_nats) for half in halves)
        return loss, kl.mean()
        """,
    ),
    Chaff(
        "3.9",
        "the divergence of categoricals, whatever the latent",
        "rssm.py",
        "kl = latent.kl(post, prior)",
        "kl = kl_categorical(latent.logits(post), latent.logits(prior)).sum(-1)",
    ),
]

# lines of exercise 3.10
START = "state = State(*(x.detach() for x in start))"
FIRST_ACTION = "actions[0] = torch.zeros_like(actions[1])"

# lines of exercise 3.11
KNOWN = "known = discount * (~is_terminal).to(predicted)"
DISCOUNTS = "discounts = torch.cat([known[:, None], predicted[:, 1:]], 1)"
BEFORE = "before = torch.cat([torch.ones_like(known)[:, None], discounts[:, :-1]], 1)"

# lines of exercise 3.12
ONE_STEP = "one_step = reward[:, :-1] + discount[:, :-1] * (1 - lam) * value[:, 1:]"
RECURSION = "ret = one_step[:, k] + discount[:, k] * lam * ret"

# lines of exercise 3.13
POLICY = "policy = actor(feat[:, :-2].detach())"
MERIT = 'merit = returns[:, 1:] if advantage == "next" else returns[:, :-1]'
BETTER = "better = (merit - baseline[:, :-2]).detach()"
MIXED = "objective = mix * returns[:, 1:] + (1 - mix) * reinforce()"
OBJECTIVE = "(objective + entropy_scale * entropy)"
LOSS = "loss = -(weight[:, :-2] * (objective + entropy_scale * entropy)).mean()"

# a line of exercise 3.14
CRITIC_LOSS = "return (weight[:, :-1] * normal_nll(value, returns.detach(), 0)).mean()"

# lines of exercise 3.15
DUE = "if self.updates % self.every == 0:"
COPY = "self.network.load_state_dict(self.critic.state_dict())"

ACTOR_CRITIC_CHAFFS = [
    # ---- 3.10 ----
    Chaff(
        "3.10",
        "the start is not among the entries",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        feats, actions = [], []
        for _ in range(horizon):
            action = actor(state.feat.detach()).rsample()
            state = rssm.img_step(state, action)
            feats.append(state.feat)
            actions.append(action)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff("3.10", "horizon entries, the start among them", "actor_critic.py", "range(horizon)", "range(horizon - 1)"),
    Chaff(
        "3.10",
        "every action beside the state that it was chosen in",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        feats, actions = [state.feat], []
        for _ in range(horizon):
            action = actor(feats[-1].detach()).rsample()
            state = rssm.img_step(state, action)
            feats.append(state.feat)
            actions.append(action)
        actions.append(torch.zeros_like(actions[0]))
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "3.10", "the start's action is the first one chosen", "actor_critic.py", FIRST_ACTION, "actions[0] = actions[1]"
    ),
    Chaff(
        "3.10",
        "the start's action is a choice of the actor",
        "actor_critic.py",
        FIRST_ACTION,
        "actions[0] = actor(feats[0].detach()).rsample()",
    ),
    Chaff(
        "3.10",
        "the entries hold an action chosen once more",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(actor(feats[-2].detach()).rsample())",
    ),
    Chaff("3.10", "gradient through what the actor sees", "actor_critic.py", "feats[-1].detach()", "feats[-1]"),
    Chaff("3.10", "gradient into the start", "actor_critic.py", START, "state = start"),
    Chaff(
        "3.10",
        "gradient into the start's stoch",
        "actor_critic.py",
        START,
        "state = start._replace(deter=start.deter.detach())",
    ),
    Chaff(
        "3.10",
        "gradient into the start's deter",
        "actor_critic.py",
        START,
        "state = start._replace(stoch=start.stoch.detach())",
    ),
    Chaff(
        "3.10",
        "gradient into the start's own feat",
        "actor_critic.py",
        "feats, actions = [state.feat]",
        "feats, actions = [start.feat]",
    ),
    Chaff("3.10", "a sample without gradient", "actor_critic.py", ".rsample()", ".rsample().detach()"),
    Chaff("3.10", "the mode", "actor_critic.py", ".rsample()", ".mode()"),
    Chaff(
        "3.10",
        "no_grad around the model",
        "actor_critic.py",
        "state = rssm.img_step(state, action)",
        "with torch.no_grad():\n            state = rssm.img_step(state, action)",
    ),
    Chaff(
        "3.10",
        "the model does not see the action's gradient",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action.detach())",
    ),
    Chaff(
        "3.10",
        "every state is detached",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action)\n        state = State(*(x.detach() for x in state))",
    ),
    Chaff(
        "3.10",
        "gradient through deter alone",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action)\n        state = state._replace(stoch=state.stoch.detach())",
    ),
    Chaff(
        "3.10",
        "gradient through stoch alone",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action)\n        state = state._replace(deter=state.deter.detach())",
    ),
    Chaff(
        "3.10",
        "the feats are detached",
        "actor_critic.py",
        "feats.append(state.feat)",
        "feats.append(state.feat.detach())",
    ),
    Chaff(
        "3.10",
        "time first",
        "actor_critic.py",
        "torch.stack(feats, 1), torch.stack(actions, 1)",
        "torch.stack(feats), torch.stack(actions)",
    ),
    Chaff("3.10", "15 steps, whatever is asked", "actor_critic.py", "range(horizon)", "range(15)"),
    Chaff(
        "3.10",
        "exploration noise in the dream",
        "actor_critic.py",
        ".rsample()",
        ".rsample()\n        action = action + 0.3 * torch.randn_like(action)",
    ),
    Chaff(
        "3.10",
        "no noise: the prior's mode",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action, torch.zeros_like(state.stoch))",
    ),
    Chaff(
        "3.10",
        "Gaussian noise, whatever the latent",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action, torch.randn_like(state.stoch))",
    ),
    Chaff(
        "3.10",
        "the same noise at every step",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        noise = rssm.latent.noise(state.deter.shape[:1], state.deter.device)
        feats, actions = [state.feat], [None]
        for _ in range(horizon):
            action = actor(feats[-1].detach()).rsample()
            state = rssm.img_step(state, action, noise)
            feats.append(state.feat)
            actions.append(action)
        actions[0] = torch.zeros_like(actions[1])
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "3.10",
        "the same noise for all starts",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action, rssm.latent.noise((1,), state.deter.device).expand_as(state.stoch))",
    ),
    # ---- 3.11 ----
    Chaff("3.11", "what is known of the start is not used", "actor_critic.py", DISCOUNTS, "discounts = predicted"),
    Chaff(
        "3.11",
        "the start's discount is 1 where it is no end",
        "actor_critic.py",
        "discount * (~is_terminal)",
        "(~is_terminal)",
    ),
    Chaff("3.11", "an end of a start goes on, and nothing else", "actor_critic.py", "(~is_terminal)", "is_terminal"),
    Chaff(
        "3.11",
        "only an end replaces the head's word",
        "actor_critic.py",
        KNOWN,
        "known = predicted[:, 0] * (~is_terminal).to(predicted)",
    ),
    Chaff("3.11", "0.99, whatever is asked", "actor_critic.py", "discount * (~is_terminal)", "0.99 * (~is_terminal)"),
    Chaff(
        "3.11",
        "one start's end is all starts' end",
        "actor_critic.py",
        "(~is_terminal)",
        "(~is_terminal.any()).expand_as(is_terminal)",
    ),
    Chaff(
        "3.11",
        "gamma twice: the head has learned it",
        "actor_critic.py",
        "predicted[:, 1:]]",
        "discount * predicted[:, 1:]]",
    ),
    Chaff(
        "3.11",
        "the head's word is made hard",
        "actor_critic.py",
        "predicted[:, 1:]]",
        "discount * (predicted[:, 1:] > 0.5).to(predicted)]",
    ),
    Chaff(
        "3.11",
        "one discount for all steps, as in DreamerV1",
        "actor_critic.py",
        "predicted[:, 1:]]",
        "torch.full_like(predicted[:, 1:], discount)]",
    ),
    Chaff(
        "3.11", "the start is known in the weights alone", "actor_critic.py", "return discounts,", "return predicted,"
    ),
    Chaff(
        "3.11",
        "the start is known in the discounts alone",
        "actor_critic.py",
        "discounts[:, :-1]], 1)",
        "predicted[:, :-1]], 1)",
    ),
    Chaff("3.11", "the weights are not shifted", "actor_critic.py", BEFORE, "before = discounts"),
    Chaff(
        "3.11",
        "the weights are shifted the other way",
        "actor_critic.py",
        BEFORE,
        "before = torch.cat([discounts[:, 1:], torch.ones_like(known)[:, None]], 1)",
    ),
    Chaff("3.11", "no product", "actor_critic.py", "before.cumprod(1)", "before"),
    Chaff("3.11", "along the starts", "actor_critic.py", "cumprod(1)", "cumprod(0)"),
    Chaff(
        "3.11",
        "an end itself counts nothing",
        "actor_critic.py",
        "torch.ones_like(known)[:, None], disc",
        "(~is_terminal).to(predicted)[:, None], disc",
    ),
    Chaff("3.11", "the weights carry gradient", "actor_critic.py", "before.cumprod(1).detach()", "before.cumprod(1)"),
    Chaff(
        "3.11", "the discounts carry no gradient", "actor_critic.py", "return discounts,", "return discounts.detach(),"
    ),
    Chaff(
        "3.11",
        "divided by the own discount, which may be 0",
        "actor_critic.py",
        "before.cumprod(1)",
        "(discounts.cumprod(1) / discounts)",
    ),
    Chaff(
        "3.11",
        "the weights are divided by their mean",
        "actor_critic.py",
        "return discounts, before.cumprod(1).detach()",
        "weights = before.cumprod(1).detach()\n    return discounts, weights / weights.mean()",
    ),
    Chaff(
        "3.11",
        "the caller's predictions are changed",
        "actor_critic.py",
        DISCOUNTS,
        "discounts = predicted.data\n    discounts[:, 0] = known\n    discounts = predicted * 1",
    ),
    # ---- 3.12 ----
    Chaff("3.12", "the values are not shifted", "actor_critic.py", "value[:, 1:]", "value[:, :-1]"),
    Chaff(
        "3.12",
        "the next entry's reward",
        "actor_critic.py",
        "one_step = reward[:, :-1]",
        "one_step = reward[:, 1:]",
    ),
    Chaff(
        "3.12",
        "the next entry's discount",
        "actor_critic.py",
        ONE_STEP,
        "discount = torch.cat([discount[:, 1:], discount[:, -1:]], 1)\n    " + ONE_STEP,
    ),
    Chaff(
        "3.12",
        "discount 0.995, whatever is asked",
        "actor_critic.py",
        ONE_STEP,
        "discount = torch.full_like(discount, 0.995)\n    " + ONE_STEP,
    ),
    Chaff(
        "3.12",
        "the recursion begins with 0",
        "actor_critic.py",
        "ret, returns = value[:, -1], []",
        "ret, returns = torch.zeros_like(value[:, -1]), []",
    ),
    Chaff(
        "3.12",
        "the last entry's reward is earned, too",
        "actor_critic.py",
        "ret, returns = value[:, -1], []",
        "ret, returns = reward[:, -1] + discount[:, -1] * value[:, -1], []",
    ),
    Chaff("3.12", "no (1 - lam)", "actor_critic.py", "* (1 - lam) *", "*"),
    Chaff("3.12", "lam the wrong way round", "actor_critic.py", ONE_STEP, "lam = 1 - lam\n    " + ONE_STEP),
    Chaff("3.12", "lam 0.95, whatever is asked", "actor_critic.py", ONE_STEP, "lam = 0.95\n    " + ONE_STEP),
    Chaff("3.12", "no lam in the recursion", "actor_critic.py", "discount[:, k] * lam * ret", "discount[:, k] * ret"),
    Chaff("3.12", "no discount in the recursion", "actor_critic.py", "discount[:, k] * lam * ret", "lam * ret"),
    Chaff("3.12", "no discount of the next value", "actor_critic.py", "discount[:, :-1] * (1 - lam)", "(1 - lam)"),
    Chaff(
        "3.12",
        "the reward is discounted, too",
        "actor_critic.py",
        ONE_STEP,
        "one_step = discount[:, :-1] * (reward[:, :-1] + (1 - lam) * value[:, 1:])",
    ),
    Chaff(
        "3.12",
        "from the first entry to the last",
        "actor_critic.py",
        "reversed(range(one_step.shape[1]))",
        "range(one_step.shape[1])",
    ),
    Chaff("3.12", "not turned round again", "actor_critic.py", "returns[::-1]", "returns"),
    Chaff("3.12", "time first", "actor_critic.py", "returns[::-1], 1)", "returns[::-1], 0)"),
    Chaff(
        "3.12",
        "the last entry's value is returned as well",
        "actor_critic.py",
        "torch.stack(returns[::-1], 1)",
        "torch.stack([*returns[::-1], value[:, -1]], 1)",
    ),
    Chaff(
        "3.12",
        "advantages for returns",
        "actor_critic.py",
        "torch.stack(returns[::-1], 1)",
        "torch.stack(returns[::-1], 1) - value[:, :-1]",
    ),
    Chaff(
        "3.12",
        "the first start's bootstrap for all",
        "actor_critic.py",
        "ret, returns = value[:, -1], []",
        "ret, returns = value[:1, -1].expand(len(value)), []",
    ),
    Chaff("3.12", "no gradient for the values", "actor_critic.py", "value[:, 1:]", "value[:, 1:].detach()"),
    Chaff(
        "3.12",
        "no gradient for the bootstrap",
        "actor_critic.py",
        "ret, returns = value[:, -1], []",
        "ret, returns = value[:, -1].detach(), []",
    ),
    Chaff("3.12", "no gradient from return to return", "actor_critic.py", "lam * ret", "lam * ret.detach()"),
    Chaff(
        "3.12",
        "no gradient for the discounts of the recursion",
        "actor_critic.py",
        "discount[:, k] *",
        "discount[:, k].detach() *",
    ),
    # ---- 3.13 ----
    Chaff(
        "3.13", "the policy sees the states with gradient", "actor_critic.py", "feat[:, :-2].detach()", "feat[:, :-2]"
    ),
    Chaff(
        "3.13",
        "action[k] of feat[k]: an action is paired with its own outcome",
        "actor_critic.py",
        "action[:, 1:-1]",
        "action[:, :-2]",
    ),
    Chaff("3.13", "the action and the state that it led to", "actor_critic.py", "feat[:, :-2]", "feat[:, 1:-1]"),
    Chaff(
        "3.13",
        "always returns[k], as the paper's equation is written",
        "actor_critic.py",
        MERIT,
        "merit = returns[:, :-1]",
    ),
    Chaff("3.13", "`advantage` is ignored", "actor_critic.py", MERIT, "merit = returns[:, 1:]"),
    Chaff("3.13", "`advantage` the wrong way round", "actor_critic.py", 'advantage == "next"', 'advantage == "same"'),
    Chaff(
        "3.13",
        "`advantage` moves the baseline, too",
        "actor_critic.py",
        BETTER,
        'shift = int(advantage == "next")\n    better = (merit - baseline[:, shift : shift + merit.shape[1]]).detach()',
    ),
    Chaff("3.13", "the next entry's baseline", "actor_critic.py", "baseline[:, :-2]", "baseline[:, 1:-1]"),
    Chaff("3.13", "no baseline", "actor_critic.py", "(merit - baseline[:, :-2])", "merit"),
    Chaff(
        "3.13",
        "REINFORCE with gradient through the returns",
        "actor_critic.py",
        BETTER,
        "better = merit - baseline[:, :-2].detach()",
    ),
    Chaff(
        "3.13",
        "REINFORCE with gradient through the baseline",
        "actor_critic.py",
        BETTER,
        "better = merit.detach() - baseline[:, :-2]",
    ),
    Chaff(
        "3.13",
        "REINFORCE with gradient through the actions",
        "actor_critic.py",
        "action[:, 1:-1].detach()",
        "action[:, 1:-1]",
    ),
    Chaff(
        "3.13",
        "the log probability has no gradient",
        "actor_critic.py",
        "policy.log_prob(action[:, 1:-1].detach())",
        "policy.log_prob(action[:, 1:-1].detach()).detach()",
    ),
    Chaff(
        "3.13",
        "advantages are normalised, as in PPO",
        "actor_critic.py",
        BETTER,
        BETTER + "\n    better = (better - better.mean()) / (better.std() + 1e-8)",
    ),
    Chaff(
        "3.13",
        "returns[0] is an action's merit, too",
        "actor_critic.py",
        WHOLE,
        """
        policy = actor(feat[:, :-1].detach())
        merit = returns
        better = (merit - baseline[:, :-1]).detach()
        reinforce = lambda: policy.log_prob(action[:, 1:].detach()) * better
        if gradient == "reinforce":
            objective = reinforce()
        elif gradient == "dynamics":
            objective = returns
        else:
            objective = mix * returns + (1 - mix) * reinforce()
        entropy = policy.entropy()
        loss = -(weight[:, :-1] * (objective + entropy_scale * entropy)).mean()
        return loss, entropy.mean()
        """,
    ),
    Chaff("3.13", "always REINFORCE", "actor_critic.py", 'if gradient == "reinforce":', "if True:"),
    Chaff(
        "3.13",
        "dynamics without gradient",
        "actor_critic.py",
        "        objective = returns[:, 1:]\n",
        "        objective = returns[:, 1:].detach()\n",
    ),
    Chaff(
        "3.13",
        "dynamics less a baseline",
        "actor_critic.py",
        "        objective = returns[:, 1:]\n",
        "        objective = returns[:, 1:] - baseline[:, :-2]\n",
    ),
    Chaff(
        "3.13",
        "`advantage` moves the dynamics, too",
        "actor_critic.py",
        "        objective = returns[:, 1:]\n",
        "        objective = merit\n",
    ),
    Chaff(
        "3.13",
        "`advantage` moves the dynamics in the mixture",
        "actor_critic.py",
        "mix * returns[:, 1:]",
        "mix * merit",
    ),
    Chaff(
        "3.13",
        "the mixture the wrong way round",
        "actor_critic.py",
        MIXED,
        "objective = (1 - mix) * returns[:, 1:] + mix * reinforce()",
    ),
    Chaff(
        "3.13",
        "a mixture of 0.1, whatever is asked",
        "actor_critic.py",
        MIXED,
        "objective = 0.1 * returns[:, 1:] + 0.9 * reinforce()",
    ),
    Chaff("3.13", "a sum for a mixture", "actor_critic.py", MIXED, "objective = returns[:, 1:] + reinforce()"),
    Chaff(
        "3.13",
        "no dynamics in the mixture's gradient",
        "actor_critic.py",
        "mix * returns[:, 1:]",
        "mix * returns[:, 1:].detach()",
    ),
    Chaff("3.13", "the entropy's sign", "actor_critic.py", "objective + entropy_scale", "objective - entropy_scale"),
    Chaff("3.13", "entropy_scale is ignored", "actor_critic.py", "entropy_scale * entropy", "1e-3 * entropy"),
    Chaff(
        "3.13",
        "the entropy has no gradient",
        "actor_critic.py",
        "entropy_scale * entropy",
        "entropy_scale * entropy.detach()",
    ),
    Chaff(
        "3.13",
        "no entropy with the dynamics",
        "actor_critic.py",
        OBJECTIVE,
        '(objective + entropy_scale * entropy * (gradient != "dynamics"))',
    ),
    Chaff(
        "3.13",
        "the entropy is not weighted",
        "actor_critic.py",
        LOSS,
        "loss = -(weight[:, :-2] * objective).mean() - entropy_scale * entropy.mean()",
    ),
    Chaff(
        "3.13",
        "the negative log probability of what was done for the entropy",
        "actor_critic.py",
        "entropy = policy.entropy()",
        "entropy = -policy.log_prob(action[:, 1:-1].detach())",
    ),
    Chaff("3.13", "no weights", "actor_critic.py", "weight[:, :-2] * ", ""),
    Chaff("3.13", "the next entry's weight", "actor_critic.py", "weight[:, :-2]", "weight[:, 1:-1]"),
    Chaff(
        "3.13",
        "divided by the sum of the weights",
        "actor_critic.py",
        LOSS,
        "loss = -(weight[:, :-2] * (objective + entropy_scale * entropy)).sum() / weight[:, :-2].sum()",
    ),
    Chaff("3.13", "the sum over the entries", "actor_critic.py", LOSS, LOSS.replace(".mean()", ".sum(1).mean()")),
    Chaff("3.13", "the sign: the actor gets worse", "actor_critic.py", "loss = -(", "loss = ("),
    Chaff(
        "3.13",
        "the entropy that is returned is weighted",
        "actor_critic.py",
        "return loss, entropy.mean()",
        "return loss, (weight[:, :-2] * entropy).mean()",
    ),
    Chaff(
        "3.13",
        "the entropy that is returned is scaled",
        "actor_critic.py",
        "return loss, entropy.mean()",
        "return loss, entropy_scale * entropy.mean()",
    ),
    Chaff(
        "3.13",
        "in the mixture, gradient through the actions",
        "actor_critic.py",
        "action[:, 1:-1].detach()",
        'action[:, 1:-1].detach() if gradient == "reinforce" else action[:, 1:-1]',
    ),
    Chaff(
        "3.13",
        "in the mixture, gradient through the advantage",
        "actor_critic.py",
        MIXED,
        "better = merit - baseline[:, :-2]\n        " + MIXED,
    ),
    Chaff(
        "3.13",
        "in the mixture, less entropy",
        "actor_critic.py",
        OBJECTIVE,
        '(objective + entropy_scale * entropy * (1 - mix if gradient == "both" else 1))',
    ),
    Chaff(
        "3.13",
        "the entropy of the next entries' policy",
        "actor_critic.py",
        "entropy = policy.entropy()",
        "entropy = actor(feat[:, 1:-1].detach()).entropy()",
    ),
    Chaff(
        "3.13",
        "`advantage` is ignored in the mixture",
        "actor_critic.py",
        'advantage == "next"',
        'advantage == "next" or gradient == "both"',
    ),
    # ---- 3.14 ----
    Chaff("3.14", "gradient into the states", "actor_critic.py", "feat[:, :-1].detach()", "feat[:, :-1]"),
    Chaff("3.14", "gradient into the returns", "actor_critic.py", "returns.detach()", "returns"),
    Chaff(
        "3.14",
        "the critic's own values have no gradient",
        "actor_critic.py",
        "critic(feat[:, :-1].detach())",
        "critic(feat[:, :-1].detach()).detach()",
    ),
    Chaff("3.14", "not weighted", "actor_critic.py", "weight[:, :-1] * ", ""),
    Chaff("3.14", "the next entry's weight", "actor_critic.py", "weight[:, :-1]", "weight[:, 1:]"),
    Chaff("3.14", "the critic at the next entry", "actor_critic.py", "feat[:, :-1]", "feat[:, 1:]"),
    Chaff(
        "3.14",
        "the last but one is left out as well, as for the actor",
        "actor_critic.py",
        WHOLE,
        """
        value = critic(feat[:, :-2].detach())
        return (weight[:, :-2] * normal_nll(value, returns[:, :-1].detach(), 0)).mean()
        """,
    ),
    Chaff(
        "3.14",
        "the returns of the next entry, as for the actor",
        "actor_critic.py",
        WHOLE,
        """
        value = critic(feat[:, :-2].detach())
        return (weight[:, :-2] * normal_nll(value, returns[:, 1:].detach(), 0)).mean()
        """,
    ),
    Chaff(
        "3.14",
        "the sum over the entries",
        "actor_critic.py",
        "returns.detach(), 0)).mean()",
        "returns.detach(), 0)).sum(1).mean()",
    ),
    Chaff(
        "3.14",
        "the entries as one event: summed before they are weighted",
        "actor_critic.py",
        CRITIC_LOSS,
        "return (weight[:, :-1].mean(1) * normal_nll(value, returns.detach(), 1)).mean()",
    ),
    Chaff(
        "3.14",
        "the means of weights and errors are multiplied",
        "actor_critic.py",
        CRITIC_LOSS,
        "return weight[:, :-1].mean() * normal_nll(value, returns.detach(), 0).mean()",
    ),
    Chaff(
        "3.14",
        "divided by the sum of the weights",
        "actor_critic.py",
        CRITIC_LOSS,
        "return (weight[:, :-1] * normal_nll(value, returns.detach(), 0)).sum() / weight[:, :-1].sum()",
    ),
    Chaff(
        "3.14",
        "the squared error",
        "actor_critic.py",
        "normal_nll(value, returns.detach(), 0)",
        "(value - returns.detach()).square()",
    ),
    Chaff(
        "3.14",
        "half the squared error: no constant",
        "actor_critic.py",
        "normal_nll(value, returns.detach(), 0)",
        "0.5 * (value - returns.detach()).square()",
    ),
    Chaff(
        "3.14",
        "a Huber loss",
        "actor_critic.py",
        "normal_nll(value, returns.detach(), 0)",
        "(nn.functional.smooth_l1_loss(value, returns.detach(), reduction='none') + 0.9189385)",
    ),
    Chaff("3.14", "the sign", "actor_critic.py", "return (weight", "return -(weight"),
    # ---- 3.15 ----
    Chaff(
        "3.15",
        "counted first: the 100th call copies",
        "actor_critic.py",
        WHOLE,
        """
        self.updates += 1
        if self.updates % self.every == 0:
            self.network.load_state_dict(self.critic.state_dict())
        """,
    ),
    Chaff(
        "3.15",
        "the first call does not copy",
        "actor_critic.py",
        DUE,
        "if self.updates and self.updates % self.every == 0:",
    ),
    Chaff("3.15", "only the first call copies", "actor_critic.py", DUE, "if self.updates == 0:"),
    Chaff("3.15", "every call copies", "actor_critic.py", DUE, "if True:"),
    Chaff("3.15", "one call late", "actor_critic.py", "% self.every == 0", "% self.every == 1"),
    Chaff(
        "3.15", "one call too many between copies", "actor_critic.py", "% self.every == 0", "% (self.every + 1) == 0"
    ),
    Chaff("3.15", "100, whatever is asked", "actor_critic.py", "% self.every == 0", "% 100 == 0"),
    Chaff("3.15", "calls are not counted", "actor_critic.py", "self.updates += 1", "pass"),
    Chaff(
        "3.15",
        "only copies are counted",
        "actor_critic.py",
        "    self.network",
        "    self.updates += 1\n            self.network",
    ),
    Chaff(
        "3.15",
        "the count begins anew with every copy",
        "actor_critic.py",
        WHOLE,
        """
        if self.updates == 0:
            self.network.load_state_dict(self.critic.state_dict())
        self.updates = (self.updates + 1) % self.every
        """,
    ),
    Chaff(
        "3.15",
        "a moving average in every call",
        "actor_critic.py",
        WHOLE,
        """
        with torch.no_grad():
            for slow, fast in zip(self.network.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, 1.0 if self.updates == 0 else 1 / self.every)
        self.updates += 1
        """,
    ),
    Chaff("3.15", "the network is the critic itself", "actor_critic.py", COPY, "self.network = self.critic"),
    Chaff(
        "3.15",
        "the weights are shared, not copied",
        "actor_critic.py",
        COPY,
        "self.network.load_state_dict(self.critic.state_dict(), assign=True)",
    ),
    Chaff(
        "3.15",
        "the weights' memory is shared",
        "actor_critic.py",
        COPY,
        "for slow, fast in zip(self.network.parameters(), self.critic.parameters(), strict=True):\n"
        "                slow.data = fast.data",
    ),
    Chaff(
        "3.15", "a copy that can have gradients", "actor_critic.py", COPY, "self.network = copy.deepcopy(self.critic)"
    ),
    Chaff(
        "3.15",
        "the critic is set back to the copy",
        "actor_critic.py",
        COPY,
        "self.critic.load_state_dict(self.network.state_dict())",
    ),
    Chaff(
        "3.15",
        "no biases are copied",
        "actor_critic.py",
        COPY,
        "for slow, fast in zip(self.network.parameters(), self.critic.parameters(), strict=True):\n"
        "                slow.data.copy_(fast.data if fast.ndim > 1 else slow.data)",
    ),
]

# lines of exercise 3.16
OBSERVE = 'post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], batch["is_first"], noise)'
IMAGE = "normal_nll(decoder(feat), batch[key], event_dims=batch[key].ndim - 2).mean()"
REWARD = 'normal_nll(model.reward(feat), batch["reward"], event_dims=0).mean()'
TARGET = 'target = discount_target(batch["is_terminal"], config.discount)'
CROSS_ENTROPY = "F.binary_cross_entropy_with_logits(model.cont(feat), target)"
PAIR = "        post,\n        prior,\n"
TOTAL = "sum(parts.values())"

AGENT_CHAFFS = [
    # ---- 3.16 ----
    Chaff("3.16", "the heads see the priors", "agent.py", "feat = post.feat", "feat = prior.feat"),
    Chaff(
        "3.16",
        "the heads see the logits, not the sample",
        "agent.py",
        "feat = post.feat",
        "feat = post._replace(stoch=post.raw[..., : post.stoch.shape[-1]]).feat",
    ),
    Chaff("3.16", "the heads' input is detached", "agent.py", "feat = post.feat", "feat = post.feat.detach()"),
    Chaff(
        "3.16", "the rewards do not shape the states", "agent.py", "model.reward(feat)", "model.reward(feat.detach())"
    ),
    Chaff("3.16", "the ends do not shape the states", "agent.py", "model.cont(feat)", "model.cont(feat.detach())"),
    Chaff("3.16", "the encoder learns nothing", "agent.py", "model.embed(batch)", "model.embed(batch).detach()"),
    Chaff("3.16", "the noise is not handed on", "agent.py", 'batch["is_first"], noise)', 'batch["is_first"])'),
    Chaff(
        "3.16",
        "is_first is not handed on",
        "agent.py",
        'batch["is_first"], noise',
        'torch.zeros_like(batch["is_first"]), noise',
    ),
    Chaff(
        "3.16",
        "the action that follows the row",
        "agent.py",
        'batch["prev_action"]',
        'F.pad(batch["prev_action"][:, 1:], (0, 0, 0, 1))',
    ),
    Chaff("3.16", "the next row's reward", "agent.py", 'batch["reward"], event', 'batch["reward"].roll(-1, 1), event'),
    Chaff(
        "3.16",
        "the reward is transformed once more",
        "agent.py",
        'batch["reward"], event',
        'transform_reward(batch["reward"], config.reward_target), event',
    ),
    Chaff(
        "3.16",
        "the reward is transformed back",
        "agent.py",
        'batch["reward"], event',
        'untransform_reward(batch["reward"], config.reward_target), event',
    ),
    Chaff("3.16", "every observation has three axes", "agent.py", "event_dims=batch[key].ndim - 2", "event_dims=3"),
    Chaff("3.16", "the mean over pixels", "agent.py", "event_dims=batch[key].ndim - 2", "event_dims=0"),
    Chaff(
        "3.16", "the image alone", "agent.py", "in model.decoders.items():", 'in [("image", model.decoders["image"])]:'
    ),
    Chaff(
        "3.16",
        "the sum over batch and time",
        "agent.py",
        "event_dims=batch[key].ndim - 2).mean()",
        "event_dims=batch[key].ndim - 2).sum()",
    ),
    Chaff("3.16", "kl_scale is ignored", "agent.py", "config.kl_scale * kl", "kl"),
    Chaff("3.16", "a KL scale of 0.1, whatever is asked", "agent.py", "config.kl_scale * kl", "0.1 * kl"),
    Chaff(
        "3.16",
        "the KL in nats, without balance and floor",
        "agent.py",
        "config.kl_scale * kl",
        "config.kl_scale * raw_kl",
    ),
    Chaff(
        "3.16",
        "the scale inside of the floor",
        "agent.py",
        "free_nats=config.free_nats,",
        "free_nats=config.free_nats / config.kl_scale,",
    ),
    Chaff("3.16", "free_nats are ignored", "agent.py", "free_nats=config.free_nats", "free_nats=0.0"),
    Chaff("3.16", "kl_balance is ignored", "agent.py", "balance=config.kl_balance", "balance=0.8"),
    Chaff(
        "3.16",
        "free_before_mean is ignored",
        "agent.py",
        "free_before_mean=config.free_before_mean",
        "free_before_mean=False",
    ),
    Chaff("3.16", "prior and posterior are swapped in the KL", "agent.py", PAIR, "        prior,\n        post,\n"),
    Chaff(
        "3.16",
        "the KL does not move the posterior",
        "agent.py",
        PAIR,
        "        rssm.State(*(x.detach() for x in post)),\n        prior,\n",
    ),
    Chaff(
        "3.16",
        "the KL is scaled in the sum alone",
        "agent.py",
        'parts["kl"] = config.kl_scale * kl\n    return sum(parts.values())',
        'parts["kl"] = kl\n    return sum(parts.values()) + (config.kl_scale - 1) * kl',
    ),
    Chaff("3.16", "the raw KL is in the sum", "agent.py", TOTAL, TOTAL + " + raw_kl"),
    Chaff("3.16", "the raw KL is scaled", "agent.py", '"raw_kl": raw_kl', '"raw_kl": config.kl_scale * raw_kl'),
    Chaff(
        "3.16",
        "a hard label: the discount is lost",
        "agent.py",
        TARGET,
        'target = discount_target(batch["is_terminal"], 1.0)',
    ),
    Chaff(
        "3.16",
        "a discount of 0.99, whatever is asked",
        "agent.py",
        TARGET,
        'target = discount_target(batch["is_terminal"], 0.99)',
    ),
    Chaff(
        "3.16",
        "a time limit is an end: is_last for is_terminal",
        "agent.py",
        TARGET,
        'target = discount_target(batch["is_last"], config.discount)',
    ),
    Chaff(
        "3.16",
        "the logit is taken for a probability",
        "agent.py",
        CROSS_ENTROPY,
        "F.binary_cross_entropy_with_logits(model.cont(feat).sigmoid(), target)",
    ),
    Chaff("3.16", "continue_scale is ignored", "agent.py", "config.continue_scale * ", ""),
    Chaff("3.16", "a continue scale of 5, whatever is asked", "agent.py", "config.continue_scale * ", "5.0 * "),
    Chaff("3.16", "the ends are always predicted", "agent.py", "if model.cont is not None:", "if True:"),
    Chaff("3.16", "the ends are never predicted", "agent.py", "if model.cont is not None:", "if False:"),
    Chaff("3.16", "the priors are returned", "agent.py", '"raw_kl": raw_kl}, post', '"raw_kl": raw_kl}, prior'),
    Chaff(
        "3.16",
        "the batch is changed",
        "agent.py",
        TARGET,
        'target = config.discount * batch["is_terminal"].logical_not_().float()',
    ),
    Chaff(
        "3.16",
        "the cross entropy of a rounded probability",
        "agent.py",
        CROSS_ENTROPY,
        "F.binary_cross_entropy(model.cont(feat).sigmoid(), target)",
    ),
    Chaff(
        "3.16",
        "the rewards of first rows do not count",
        "agent.py",
        REWARD,
        '(normal_nll(model.reward(feat), batch["reward"], event_dims=0) * ~batch["is_first"]).mean()',
    ),
]

CHAFFS = UTILS_CHAFFS + RSSM_CHAFFS + ACTOR_CRITIC_CHAFFS + AGENT_CHAFFS
