"""Wrong answers for paper 4. Many are what public reimplementations of the paper got wrong."""

from tests.chaffs import WHOLE, Chaff

# lines of exercise 4.1
SYMLOG = "x.sign() * x.abs().log1p()"

# lines of exercise 4.2
HALF = "negative = symexp(torch.linspace(low, 0, (count + 1) // 2))"

# lines of exercise 4.3
SHARE = "((x - low) / (high - low)).nan_to_num(0.0)"
SCATTER = "weights.scatter(-1, above - 1, 1 - share).scatter(-1, above, share)"

# lines of exercise 4.4
TERMS = "terms = self.logits.softmax(-1) * self.bins"
PAIRS = "pairs.sum(-1) + middle"

SYMLOG_CHAFFS = [
    # ---- 4.1 ----
    Chaff("4.1", "the logarithm without the sign", "symlog.py", SYMLOG, "x.abs().log1p()"),
    Chaff("4.1", "log1p of the number itself", "symlog.py", SYMLOG, "x.log1p()"),
    Chaff("4.1", "log(1 + x) loses small numbers", "symlog.py", SYMLOG, "x.sign() * (1 + x.abs()).log()"),
    Chaff("4.1", "an epsilon", "symlog.py", SYMLOG, "x.sign() * (x.abs() + 1e-8).log1p()"),
    Chaff("4.1", "no 1 +", "symlog.py", SYMLOG, "x.sign() * x.abs().log()"),
    Chaff("4.1", "the logarithm to base 10", "symlog.py", SYMLOG, f"{SYMLOG} / 2.302585"),
    Chaff("4.1", "the logarithm to base 2", "symlog.py", SYMLOG, f"{SYMLOG} / 0.693147"),
    Chaff("4.1", "the other way round", "symlog.py", SYMLOG, "symexp(x)"),
    Chaff("4.1", "asinh, which is like it", "symlog.py", SYMLOG, "x.asinh()"),
    Chaff("4.1", "the square root of R2D2", "symlog.py", SYMLOG, "x.sign() * ((x.abs() + 1).sqrt() - 1)"),
    Chaff("4.1", "clipped at ten thousand", "symlog.py", SYMLOG, "x.sign() * x.abs().clamp(max=1e4).log1p()"),
    Chaff("4.1", "a soft sign", "symlog.py", SYMLOG, "x / (x.abs() + 1e-6) * x.abs().log1p()"),
    Chaff("4.1", "tanh for the sign", "symlog.py", SYMLOG, "(100 * x).tanh() * x.abs().log1p()"),
    Chaff("4.1", "no gradient", "symlog.py", SYMLOG, "x.sign() * x.detach().abs().log1p()"),
    Chaff("4.1", "float32, whatever comes in", "symlog.py", SYMLOG, "x.float().sign() * x.float().abs().log1p()"),
    Chaff(
        "4.1",
        "the caller's numbers are changed",
        "symlog.py",
        SYMLOG,
        "x.sign() * (x.abs_() if not x.requires_grad else x.abs()).log1p()",
    ),
    Chaff(
        "4.1",
        "0 is a division by 0",
        "symlog.py",
        SYMLOG,
        "x / x.abs() * x.abs().log1p()",
    ),
    # ---- 4.2 ----
    Chaff("4.2", "evenly spaced", "symlog.py", WHOLE, "return torch.linspace(low, -low, count)"),
    Chaff(
        "4.2",
        "evenly spaced between the right ends",
        "symlog.py",
        WHOLE,
        "end = symexp(torch.tensor(low)).item()\nreturn torch.linspace(end, -end, count)",
    ),
    Chaff(
        "4.2",
        "symexp(linspace): the middle is not 0",
        "symlog.py",
        WHOLE,
        "return symexp(torch.linspace(low, -low, count))",
    ),
    Chaff(
        "4.2",
        "symexp(linspace) with the middle set to 0: an even count has one zero, off the mirror",
        "symlog.py",
        WHOLE,
        "bins = symexp(torch.linspace(low, -low, count))\nbins[count // 2] = 0\nreturn bins",
    ),
    Chaff("4.2", "two zeros, whatever the count", "symlog.py", "positive[count % 2 :]", "positive"),
    Chaff("4.2", "one zero, whatever the count", "symlog.py", "positive[count % 2 :]", "positive[1:]"),
    Chaff("4.2", "a half is rounded down: two bins less", "symlog.py", "(count + 1) // 2", "count // 2"),
    Chaff("4.2", "256 for 255", "symlog.py", "(count + 1) // 2", "count // 2 + 1"),
    Chaff(
        "4.2",
        "falling",
        "symlog.py",
        "torch.cat([negative, positive[count % 2 :]])",
        "torch.cat([negative, positive[count % 2 :]]).flip(0)",
    ),
    Chaff("4.2", "not turned round: the upper half falls", "symlog.py", "-negative.flip(0)", "-negative"),
    Chaff("4.2", "`low` is not used", "symlog.py", "linspace(low, 0", "linspace(-20.0, 0"),
    Chaff(
        "4.2",
        "`low` is for the lower half alone",
        "symlog.py",
        "positive = -negative.flip(0)",
        "positive = symexp(torch.linspace(0, 20, (count + 1) // 2))",
    ),
    Chaff("4.2", "symlog", "symlog.py", "symexp(torch", "symlog(torch"),
    Chaff(
        "4.2",
        "exp without the - 1: nothing between -1 and 1",
        "symlog.py",
        HALF,
        "negative = -torch.linspace(-low, 0, (count + 1) // 2).exp()",
    ),
    Chaff("4.2", "float64", "symlog.py", "(count + 1) // 2)", "(count + 1) // 2, dtype=torch.float64)"),
    Chaff(
        "4.2",
        "an even count has no zero",
        "symlog.py",
        WHOLE,
        """
        half = symexp(torch.linspace(low, 0, count // 2 + 1))[:-1]
        return torch.cat([half, torch.zeros(count % 2), -half.flip(0)])
        """,
    ),
    Chaff(
        "4.2",
        "a 0 that is not one of the evenly spaced",
        "symlog.py",
        WHOLE,
        """
        half = symexp(torch.linspace(low, low / (count // 2 + 1), count // 2))
        return torch.cat([half, torch.zeros(count % 2), -half.flip(0)])
        """,
    ),
    # ---- 4.3 ----
    Chaff(
        "4.3",
        "the weights are swapped",
        "symlog.py",
        SCATTER,
        "weights.scatter(-1, above - 1, share).scatter(-1, above, 1 - share)",
    ),
    Chaff("4.3", "the nearest bin alone", "symlog.py", SHARE, f"{SHARE}.round()"),
    Chaff("4.3", "the bin below alone", "symlog.py", SHARE, f"{SHARE}.floor()"),
    Chaff("4.3", "half and half", "symlog.py", SHARE, "torch.full_like(x, 0.5)"),
    Chaff(
        "4.3",
        "distances in symlog space, as in 2023",
        "symlog.py",
        SHARE,
        "((symlog(x) - symlog(low)) / (symlog(high) - symlog(low))).nan_to_num(0.0)",
    ),
    Chaff("4.3", "beyond an end the weights are negative", "symlog.py", ".clamp(bins[0], bins[-1])", ""),
    Chaff(
        "4.3",
        "beyond an end there is no weight",
        "symlog.py",
        WHOLE,
        """
        inside = ((x >= bins[0]) & (x <= bins[-1]))[..., None]
        x = x.detach().clamp(bins[0], bins[-1]).unsqueeze(-1)
        above = torch.searchsorted(bins, x.contiguous(), right=True).clamp(1, len(bins) - 1)
        low, high = bins[above - 1], bins[above]
        share = (x - low) / (high - low)
        weights = torch.zeros(*x.shape[:-1], len(bins), device=x.device)
        return inside * weights.scatter(-1, above - 1, 1 - share).scatter(-1, above, share)
        """,
    ),
    Chaff("4.3", "the lower end is 0", "symlog.py", ".clamp(bins[0], bins[-1])", ".clamp(0 * bins[0], bins[-1])"),
    Chaff(
        "4.3",
        "the lower end mirrors the upper one",
        "symlog.py",
        ".clamp(bins[0], bins[-1])",
        ".clamp(-bins[-1], bins[-1])",
    ),
    Chaff("4.3", "the sign is lost", "symlog.py", "x.detach()", "x.detach().abs()"),
    Chaff("4.3", "the last bin is never reached", "symlog.py", "len(bins) - 1)", "len(bins) - 2)"),
    Chaff("4.3", "the bins above the right ones", "symlog.py", "right=True)", "right=True).add(1)"),
    Chaff("4.3", "rounded to half precision", "symlog.py", SHARE, f"{SHARE}.half().float()"),
    Chaff(
        "4.3",
        "the place is computed, as if all bins were even in symlog space",
        "symlog.py",
        "torch.searchsorted(bins, x.contiguous(), right=True)",
        "((symlog(x) - symlog(bins[0])) / (symlog(bins[1]) - symlog(bins[0]))).floor().long().add(1)",
    ),
    Chaff(
        "4.3",
        "the place is computed, as if all bins were even",
        "symlog.py",
        "torch.searchsorted(bins, x.contiguous(), right=True)",
        "((x - bins[0]) / (bins[1] - bins[0])).floor().long().add(1)",
    ),
    Chaff(
        "4.3",
        "0 / 0 where the bins on both sides are the same",
        "symlog.py",
        WHOLE,
        """
        last = len(bins) - 1
        below = ((bins <= x[..., None]).sum(-1) - 1).clamp(0, last)
        above = (last + 1 - (bins >= x[..., None]).sum(-1)).clamp(0, last)
        to_below, to_above = (bins[below] - x).abs(), (bins[above] - x).abs()
        one_hot = lambda index: torch.nn.functional.one_hot(index, len(bins)).float()
        total = to_below + to_above
        return one_hot(below) * (to_above / total)[..., None] + one_hot(above) * (to_below / total)[..., None]
        """,
    ),
    Chaff(
        "4.3",
        "0 / 0 beyond an end",
        "symlog.py",
        WHOLE,
        """
        x = x.detach().clamp(bins[0], bins[-1])
        below = (bins <= x[..., None]).sum(-1) - 1
        above = (below + 1).clamp(max=len(bins) - 1)
        share = ((x - bins[below]) / (bins[above] - bins[below]))[..., None]
        one_hot = lambda index: torch.nn.functional.one_hot(index, len(bins)).float()
        return one_hot(below) * (1 - share) + one_hot(above) * share
        """,
    ),
    Chaff(
        "4.3",
        "two bins that are the same both have all the weight",
        "symlog.py",
        SCATTER,
        "(1 - share) * (bins == low) + share * (bins == high)",
    ),
    Chaff("4.3", "the leading axes are one", "symlog.py", SCATTER, f"{SCATTER}.reshape(-1, len(bins))"),
    Chaff(
        "4.3",
        "the caller's numbers are changed",
        "symlog.py",
        ".clamp(bins[0], bins[-1])",
        ".clamp_(bins[0].item(), bins[-1].item())",
    ),
    Chaff("4.3", "weight on all bins, by distance", "symlog.py", SCATTER, "(-(x - bins).abs()).softmax(-1)"),
    # ---- 4.4 ----
    Chaff("4.4", "a plain sum", "symlog.py", PAIRS, "terms.sum(-1)"),
    Chaff(
        "4.4",
        "each side first, then the two",
        "symlog.py",
        PAIRS,
        "terms[..., :half].sum(-1) + terms.flip(-1)[..., :half].sum(-1) + middle",
    ),
    Chaff("4.4", "a plain sum, rounded", "symlog.py", PAIRS, "terms.sum(-1).round()"),
    Chaff(
        "4.4",
        "a plain sum in float64: small, but not 0",
        "symlog.py",
        WHOLE,
        "return (self.logits.double().softmax(-1) * self.bins).sum(-1).float()",
    ),
    Chaff(
        "4.4",
        "a bin and the one half the way along are a pair",
        "symlog.py",
        "terms.flip(-1)[..., :half]",
        "terms[..., -half:]",
    ),
    Chaff("4.4", "the mean of the terms", "symlog.py", TERMS, f"{TERMS} / len(self.bins)"),
    Chaff("4.4", "the likeliest bin", "symlog.py", PAIRS, "self.bins[self.logits.argmax(-1)]"),
    Chaff(
        "4.4",
        "a mean in symlog space, as in 2023",
        "symlog.py",
        WHOLE,
        """
        terms = self.logits.softmax(-1) * symlog(self.bins)
        return symexp((terms + terms.flip(-1)).sum(-1) / 2)
        """,
    ),
    Chaff("4.4", "its symlog", "symlog.py", PAIRS, "symlog(pairs.sum(-1) + middle)"),
    Chaff("4.4", "its symexp", "symlog.py", PAIRS, "symexp(pairs.sum(-1) + middle)"),
    Chaff("4.4", "the middle bin counts twice", "symlog.py", "else 0.0", "else 0.0\n        middle = 2 * middle"),
    Chaff("4.4", "the middle bin is left out", "symlog.py", PAIRS, "pairs.sum(-1)"),
    Chaff("4.4", "an even number has a middle, too", "symlog.py", " if terms.shape[-1] % 2 else 0.0", ""),
    Chaff("4.4", "each pair counts once too often", "symlog.py", PAIRS, "(terms + terms.flip(-1)).sum(-1)"),
    Chaff("4.4", "the softmax is over the batch", "symlog.py", "softmax(-1)", "softmax(0)"),
    Chaff("4.4", "no softmax: sigmoids", "symlog.py", "softmax(-1)", "sigmoid()"),
    Chaff("4.4", "the logits are the weights", "symlog.py", "self.logits.softmax(-1)", "self.logits"),
    Chaff(
        "4.4",
        "a softmax that overflows",
        "symlog.py",
        "self.logits.softmax(-1)",
        "self.logits.exp() / self.logits.exp().sum(-1, keepdim=True)",
    ),
    Chaff("4.4", "no gradient", "symlog.py", "self.logits.softmax(-1)", "self.logits.detach().softmax(-1)"),
    Chaff(
        "4.4",
        "probabilities of half precision",
        "symlog.py",
        "self.logits.softmax(-1)",
        "self.logits.bfloat16().softmax(-1).float()",
    ),
    Chaff(
        "4.4",
        "bins that mirror each other are taken for granted",
        "symlog.py",
        WHOLE,
        """
        probs, half = self.logits.softmax(-1), len(self.bins) // 2
        return ((probs.flip(-1) - probs)[..., :half] * -self.bins[:half]).sum(-1)
        """,
    ),
]

# lines of exercise 4.5
PARTS = "x.unflatten(-1, (self.blocks, self.own)).transpose(0, 1)"
SHARED = "y = y + torch.matmul(shared, shared_weight)"
OUTPUT = "y.transpose(0, 1).flatten(1) + self.bias"

# lines of exercise 4.6
PROBS = "probs = log_probs(logits, unimix).exp()"
COUNTED = "(probs.detach().cumsum(-1) <= uniform[..., None]).sum(-1)"
CLAMP = ".clamp(max=logits.shape[-1] - 1)"
STRAIGHT = "F.one_hot(classes, logits.shape[-1]) + (probs - probs.detach())"

# lines of exercise 4.7
INPUTS = "[self.deter_in(deter), self.stoch_in(stoch), action]"
HIDDEN = "F.silu(self.core_norm(self.core_hidden(deter, x)))"
CUT = "reset, candidate, update = (gate.flatten(1) for gate in gates.unbind(2))"
CANDIDATE = "torch.tanh(torch.sigmoid(reset) * candidate)"
UPDATE = "torch.sigmoid(update - 1)"
MIX = "update * candidate + (1 - update) * deter"

# lines of exercise 4.8
KEEP = "keep = (~is_first).to(tokens)[..., None]"
ACTIONS = "actions = self.embed_action(prev_action * keep).unbind(1)"
CORE = "deter = self.core(deter * go_on, stoch * go_on, actions[t])"
POSTERIOR = "hidden = silu(norm(F.linear(deter, deter_weight) + seen[t]))"
SAMPLE = "stoch = sample_latent(logit, noise[:, t], self.unimix).flatten(-2)"
RESULT = "return State(torch.stack(deters, 1), torch.stack(stochs, 1)), torch.stack(logits, 1)"

# lines of exercise 4.9
KL = "(post.exp() * (post - prior)).sum((-2, -1))"
FREE = "kl.clamp(min=free_nats)"
MIXED = "log_probs(post, unimix), log_probs(prior, unimix)"
BOTH = "divergence(post.detach(), prior), divergence(post, prior.detach())"

# lines of exercise 4.10
ERROR = "(mean - target).square().flatten(2).sum(-1)"
TARGET = 'symlog(batch[key]) if key == "vector" else batch[key]'
REWARD = 'model.reward(for_reward.feat).loss(batch["reward"])'
LABEL = 'config.discount * (~batch["is_terminal"]).float()'
CONT = 'F.binary_cross_entropy_with_logits(model.cont_logit(post.feat), label, reduction="none")'

WORLD_CHAFFS = [
    # ---- 4.5 ----
    Chaff("4.5", "no bias", "world_model.py", " + self.bias", ""),
    Chaff(
        "4.5",
        "a block takes every so many-th input",
        "world_model.py",
        PARTS,
        "x.unflatten(-1, (self.own, self.blocks)).permute(2, 0, 1)",
    ),
    Chaff("4.5", "the blocks' outputs are interleaved", "world_model.py", "y.transpose(0, 1)", "y.permute(1, 2, 0)"),
    Chaff("4.5", "what all blocks see is left out", "world_model.py", "shared is not None", "False"),
    Chaff(
        "4.5",
        "what all blocks see comes first in their weights",
        "world_model.py",
        "own_weight, shared_weight = self.weight.tensor_split([self.own], 1)",
        "shared_weight, own_weight = self.weight.tensor_split([self.weight.shape[1] - self.own], 1)",
    ),
    Chaff(
        "4.5",
        "the first block's weights for all",
        "world_model.py",
        "torch.bmm(parts, own_weight)",
        "torch.matmul(parts, own_weight[0])",
    ),
    Chaff("4.5", "the first block's weights for what all see", "world_model.py", "shared_weight)", "shared_weight[0])"),
    Chaff(
        "4.5",
        "the first block alone sees what all see",
        "world_model.py",
        SHARED,
        "y = torch.cat([y[:1] + torch.matmul(shared, shared_weight[:1]), y[1:]])",
    ),
    Chaff(
        "4.5",
        "what all see is shared out among the blocks",
        "world_model.py",
        "torch.matmul(shared, shared_weight)",
        "torch.matmul(shared, shared_weight) / self.blocks",
    ),
    Chaff(
        "4.5",
        "the weights are transposed",
        "world_model.py",
        "torch.bmm(parts, own_weight)",
        "torch.bmm(parts, own_weight.mT.reshape(own_weight.shape))",
    ),
    Chaff("4.5", "the blocks in reverse order", "world_model.py", PARTS, f"{PARTS}.flip(0)"),
    Chaff(
        "4.5",
        "the bias as if the outputs were interleaved",
        "world_model.py",
        "self.bias",
        "self.bias.unflatten(0, (-1, self.blocks)).mT.flatten()",
    ),
    Chaff(
        "4.5",
        "the outputs are right for a batch of one",
        "world_model.py",
        "y.transpose(0, 1).flatten(1)",
        "y.reshape(len(x), -1)",
    ),
    Chaff(
        "4.5",
        "the inputs are right for a batch of one",
        "world_model.py",
        PARTS,
        "x.reshape(self.blocks, len(x), self.own)",
    ),
    Chaff(
        "4.5",
        "the mean over the blocks' inputs",
        "world_model.py",
        "torch.bmm(parts, own_weight)",
        "torch.bmm(parts, own_weight) / self.own",
    ),
    Chaff("4.5", "an activation", "world_model.py", OUTPUT, f"F.silu({OUTPUT})"),
    Chaff("4.5", "no gradient in the input", "world_model.py", PARTS, f"{PARTS}.detach()"),
    Chaff("4.5", "no gradient in what all see", "world_model.py", "matmul(shared,", "matmul(shared.detach(),"),
    Chaff(
        "4.5", "the first row's shared inputs for all rows", "world_model.py", "matmul(shared,", "matmul(shared[:1],"
    ),
    Chaff(
        "4.5",
        "float32, whatever comes in",
        "world_model.py",
        "torch.bmm(parts, own_weight)",
        "torch.bmm(parts.float(), own_weight.float()).to(x)",
    ),
    # ---- 4.6 ----
    Chaff(
        "4.6",
        "the sample has no gradient",
        "world_model.py",
        STRAIGHT,
        "F.one_hot(classes, logits.shape[-1]).to(probs)",
    ),
    Chaff(
        "4.6",
        "the sum in the order that rounds: rows that are not quite one-hot",
        "world_model.py",
        STRAIGHT,
        "(F.one_hot(classes, logits.shape[-1]) + probs) - probs.detach()",
    ),
    Chaff("4.6", "the probabilities", "world_model.py", STRAIGHT, "probs"),
    Chaff("4.6", "the mode", "world_model.py", f"{COUNTED}{CLAMP}", "probs.argmax(-1)"),
    Chaff("4.6", "chance of its own", "world_model.py", "uniform[..., None]", "torch.rand_like(uniform)[..., None]"),
    Chaff(
        "4.6",
        "no unimix in what is drawn from",
        "world_model.py",
        "probs.detach().cumsum(-1)",
        "logits.detach().softmax(-1).cumsum(-1)",
    ),
    Chaff(
        "4.6",
        "no unimix in the gradient",
        "world_model.py",
        "(probs - probs.detach())",
        "(logits.softmax(-1) - logits.softmax(-1).detach())",
    ),
    Chaff("4.6", "one per cent of chance, whatever is asked", "world_model.py", "(logits, unimix)", "(logits)"),
    Chaff("4.6", "no chance in it at all", "world_model.py", "(logits, unimix)", "(logits, 0.0)"),
    Chaff(
        "4.6",
        "unimix is not shared out among the classes",
        "world_model.py",
        PROBS,
        "probs = (1 - unimix) * logits.softmax(-1) + unimix",
    ),
    Chaff(
        "4.6",
        "the softmax is over the variables",
        "world_model.py",
        PROBS,
        "probs = (1 - unimix) * logits.softmax(0) + unimix / logits.shape[-1]",
    ),
    Chaff("4.6", "rounding can leave no class", "world_model.py", CLAMP, ""),
    Chaff("4.6", "the last class is never drawn", "world_model.py", "shape[-1] - 1)", "shape[-1] - 2)"),
    Chaff("4.6", "a sum that IS the number counts as above", "world_model.py", "<=", "<"),
    Chaff("4.6", "the classes from the last on", "world_model.py", "<= uniform", "> uniform"),
    Chaff(
        "4.6",
        "the class before the one that is drawn",
        "world_model.py",
        f"{COUNTED}{CLAMP}",
        f"({COUNTED} - 1).clamp(min=0)",
    ),
    Chaff(
        "4.6", "the first variable's number for all", "world_model.py", "uniform[..., None]", "uniform[..., :1, None]"
    ),
    Chaff(
        "4.6",
        "the first state's numbers for all",
        "world_model.py",
        "uniform[..., None]",
        "uniform.reshape(-1, uniform.shape[-1])[0][:, None]",
    ),
    Chaff(
        "4.6", "the gradient of the logits", "world_model.py", "(probs - probs.detach())", "(logits - logits.detach())"
    ),
    Chaff(
        "4.6",
        "the gradient of the log probabilities",
        "world_model.py",
        "(probs - probs.detach())",
        "(probs.log() - probs.log().detach())",
    ),
    Chaff(
        "4.6",
        "gradient for the drawn class alone",
        "world_model.py",
        STRAIGHT,
        "F.one_hot(classes, logits.shape[-1]) * (1 + probs - probs.detach())",
    ),
    Chaff("4.6", "the gradient's sign", "world_model.py", "(probs - probs.detach())", "(probs.detach() - probs)"),
    Chaff(
        "4.6",
        "a softmax that overflows",
        "world_model.py",
        PROBS,
        "probs = logits.exp() / logits.exp().sum(-1, keepdim=True)\n"
        "    probs = (1 - unimix) * probs + unimix / logits.shape[-1]",
    ),
    Chaff(
        "4.6",
        "the caller's numbers are changed",
        "world_model.py",
        "uniform[..., None]",
        "uniform.mul_(0.999999)[..., None]",
    ),
    # ---- 4.7 ----
    Chaff(
        "4.7", "stoch before deter", "world_model.py", INPUTS, "[self.stoch_in(stoch), self.deter_in(deter), action]"
    ),
    Chaff("4.7", "the action first", "world_model.py", INPUTS, "[action, self.deter_in(deter), self.stoch_in(stoch)]"),
    Chaff("4.7", "x is left out", "world_model.py", "self.core_hidden(deter, x)", "self.core_hidden(deter)"),
    Chaff("4.7", "stoch is not seen", "world_model.py", "self.stoch_in(stoch)", "self.stoch_in(0 * stoch)"),
    Chaff("4.7", "deter is not seen by all", "world_model.py", "self.deter_in(deter)", "self.deter_in(0 * deter)"),
    Chaff("4.7", "the embedded action is cut off at 1", "world_model.py", ", action]", ", action.clamp(-1, 1)]"),
    Chaff("4.7", "no norm", "world_model.py", HIDDEN, "F.silu(self.core_hidden(deter, x))"),
    Chaff("4.7", "no activation", "world_model.py", HIDDEN, "self.core_norm(self.core_hidden(deter, x))"),
    Chaff("4.7", "ELU", "world_model.py", "F.silu", "F.elu"),
    Chaff(
        "4.7",
        "the norm behind the activation",
        "world_model.py",
        HIDDEN,
        "self.core_norm(F.silu(self.core_hidden(deter, x)))",
    ),
    Chaff(
        "4.7",
        "a norm for each block",
        "world_model.py",
        HIDDEN,
        HIDDEN.replace(
            "self.core_norm(self.core_hidden(deter, x))",
            "F.rms_norm(self.core_hidden(deter, x).unflatten(1, (self.blocks, -1)), (deter.shape[1] // self.blocks,), "
            "eps=1e-4).flatten(1) * self.core_norm.scale",
        ),
    ),
    Chaff(
        "4.7",
        "LayerNorm",
        "world_model.py",
        "self.core_norm(self.core_hidden(deter, x))",
        "F.layer_norm(self.core_hidden(deter, x), deter.shape[1:], self.core_norm.scale, eps=1e-4)",
    ),
    Chaff(
        "4.7",
        "the gates lie behind each other for all blocks together",
        "world_model.py",
        "gates.unbind(2))",
        "gates.flatten(1).unflatten(1, (3, self.blocks, -1)).unbind(1))",
    ),
    Chaff(
        "4.7",
        "the gates of a block are interleaved",
        "world_model.py",
        "(self.blocks, 3, -1))",
        "(self.blocks, -1, 3)).mT",
    ),
    Chaff(
        "4.7",
        "reset, update, candidate, as in torch's GRU",
        "world_model.py",
        CUT,
        CUT.replace("reset, candidate, update", "reset, update, candidate"),
    ),
    Chaff(
        "4.7",
        "update first",
        "world_model.py",
        CUT,
        CUT.replace("reset, candidate, update", "update, candidate, reset"),
    ),
    Chaff("4.7", "no reset", "world_model.py", "torch.sigmoid(reset) * candidate", "candidate"),
    Chaff("4.7", "the reset without a sigmoid", "world_model.py", "torch.sigmoid(reset)", "reset"),
    Chaff(
        "4.7",
        "the reset outside of the tanh",
        "world_model.py",
        CANDIDATE,
        "torch.sigmoid(reset) * torch.tanh(candidate)",
    ),
    Chaff(
        "4.7",
        "the reset is of deter, as in the first GRU",
        "world_model.py",
        CANDIDATE,
        "torch.tanh(candidate + torch.sigmoid(reset) * deter)",
    ),
    Chaff("4.7", "no tanh", "world_model.py", CANDIDATE, "torch.sigmoid(reset) * candidate"),
    Chaff("4.7", "no -1", "world_model.py", UPDATE, "torch.sigmoid(update)"),
    Chaff("4.7", "+1", "world_model.py", UPDATE, "torch.sigmoid(update + 1)"),
    Chaff("4.7", "the -1 outside of the sigmoid", "world_model.py", UPDATE, "torch.sigmoid(update) - 1"),
    Chaff(
        "4.7",
        "update weighs the old, as in torch's GRU",
        "world_model.py",
        MIX,
        "(1 - update) * candidate + update * deter",
    ),
    Chaff("4.7", "the old is not carried on", "world_model.py", MIX, "update * candidate"),
    Chaff("4.7", "the old in full", "world_model.py", MIX, "update * candidate + deter"),
    Chaff(
        "4.7",
        "no gradient through what is carried on",
        "world_model.py",
        "(1 - update) * deter",
        "(1 - update) * deter.detach()",
    ),
    Chaff(
        "4.7", "no gradient through stoch", "world_model.py", "self.stoch_in(stoch)", "self.stoch_in(stoch.detach())"
    ),
    Chaff(
        "4.7", "the caller's deter is changed", "world_model.py", MIX, "deter.mul_(1 - update).add_(update * candidate)"
    ),
    # ---- 4.8 ----
    Chaff("4.8", "is_first is not used", "world_model.py", KEEP, "keep = torch.ones_like(tokens[..., :1])"),
    Chaff(
        "4.8",
        "a row begins anew where ALL do",
        "world_model.py",
        "(~is_first)",
        "(~is_first.all(0, keepdim=True).expand_as(is_first))",
    ),
    Chaff(
        "4.8",
        "a row begins anew where ANY does",
        "world_model.py",
        "(~is_first)",
        "(~is_first.any(0, keepdim=True).expand_as(is_first))",
    ),
    Chaff("4.8", "is_first the other way round", "world_model.py", "(~is_first)", "is_first"),
    Chaff("4.8", "a row late", "world_model.py", "enumerate(keep.unbind(1))", "enumerate(keep.roll(1, 1).unbind(1))"),
    Chaff("4.8", "deter is kept where an episode begins", "world_model.py", "deter * go_on", "deter"),
    Chaff("4.8", "stoch is kept where an episode begins", "world_model.py", "stoch * go_on", "stoch"),
    Chaff("4.8", "the action is kept where an episode begins", "world_model.py", "prev_action * keep", "prev_action"),
    Chaff(
        "4.8",
        "the embedded action is 0, not that of no action",
        "world_model.py",
        ACTIONS,
        "actions = (self.embed_action(prev_action) * keep).unbind(1)",
    ),
    Chaff("4.8", "actions beyond 1 are not cut off", "world_model.py", "self.embed_action(", "self.action_in("),
    Chaff(
        "4.8",
        "the new deter is 0, too, where an episode begins",
        "world_model.py",
        CORE,
        CORE.replace("actions[t])", "actions[t]) * go_on"),
    ),
    Chaff(
        "4.8",
        "the start counts for nothing",
        "world_model.py",
        "= start, [], [], []",
        "= self.initial(len(tokens)), [], [], []",
    ),
    Chaff(
        "4.8",
        "the first row always begins an episode",
        "world_model.py",
        KEEP,
        f"{KEEP}\n        keep = torch.cat([torch.zeros_like(keep[:, :1]), keep[:, 1:]], 1)",
    ),
    Chaff(
        "4.8",
        "the action that is taken in a row, not the one that led to it",
        "world_model.py",
        "actions[t])",
        "actions[min(t + 1, len(actions) - 1)])",
    ),
    Chaff("4.8", "the tokens of the row before", "world_model.py", "seen[t]", "seen[max(t - 1, 0)]"),
    Chaff("4.8", "the first row's chance for all", "world_model.py", "noise[:, t]", "noise[:, 0]"),
    Chaff(
        "4.8",
        "tokens first",
        "world_model.py",
        "deter_weight, tokens_weight = linear.weight.split([self.deter, tokens.shape[-1]], -1)",
        "tokens_weight, deter_weight = linear.weight.split([tokens.shape[-1], self.deter], -1)",
    ),
    Chaff(
        "4.8",
        "the bias twice",
        "world_model.py",
        "F.linear(deter, deter_weight)",
        "F.linear(deter, deter_weight, linear.bias)",
    ),
    Chaff("4.8", "no bias", "world_model.py", "tokens_weight, linear.bias)", "tokens_weight)"),
    Chaff(
        "4.8",
        "no activation",
        "world_model.py",
        "silu(norm(F.linear(deter, deter_weight) + seen[t]))",
        "norm(F.linear(deter, deter_weight) + seen[t])",
    ),
    Chaff(
        "4.8",
        "a norm for each share",
        "world_model.py",
        "norm(F.linear(deter, deter_weight) + seen[t])",
        "norm(F.linear(deter, deter_weight)) + norm(seen[t])",
    ),
    Chaff(
        "4.8",
        "the posterior of the deter before",
        "world_model.py",
        f"{CORE}\n            {POSTERIOR}",
        f"{POSTERIOR}\n            {CORE}",
    ),
    Chaff("4.8", "the prior's sample", "world_model.py", "sample_latent(logit,", "sample_latent(self.prior(deter),"),
    Chaff("4.8", "the prior's logits", "world_model.py", "logits.append(logit)", "logits.append(self.prior(deter))"),
    Chaff(
        "4.8",
        "the mode",
        "world_model.py",
        SAMPLE,
        "stoch = F.one_hot(logit.argmax(-1), self.classes).to(logit).flatten(-2)",
    ),
    Chaff("4.8", "one per cent of chance, whatever the RSSM's share is", "world_model.py", ", self.unimix)", ")"),
    Chaff(
        "4.8",
        "the logits with unimix",
        "world_model.py",
        "logits.append(logit)",
        "logits.append(log_probs(logit, self.unimix))",
    ),
    Chaff(
        "4.8",
        "the state before each row",
        "world_model.py",
        RESULT,
        "deters, stochs = [start.deter, *deters[:-1]], [start.stoch, *stochs[:-1]]\n        " + RESULT,
    ),
    Chaff(
        "4.8",
        "no gradient from step to step through stoch",
        "world_model.py",
        "stoch * go_on",
        "stoch.detach() * go_on",
    ),
    Chaff(
        "4.8",
        "no gradient from step to step through deter",
        "world_model.py",
        "deter * go_on",
        "deter.detach() * go_on",
    ),
    Chaff("4.8", "no gradient into the tokens", "world_model.py", "F.linear(tokens,", "F.linear(tokens.detach(),"),
    Chaff(
        "4.8",
        "the caller's actions are changed",
        "world_model.py",
        "prev_action * keep",
        "(prev_action * keep if prev_action.requires_grad else prev_action.mul_(keep))",
    ),
    Chaff(
        "4.8",
        "a new episode begins in the state before the first row",
        "world_model.py",
        CORE,
        "deter, stoch = (go_on * x + (1 - go_on) * first for x, first in zip((deter, stoch), start))\n"
        "            deter = self.core(deter, stoch, actions[t])",
    ),
    Chaff(
        "4.8",
        "of the start deter alone",
        "world_model.py",
        "= start, [], [], []",
        "= (start.deter, 0 * start.stoch), [], [], []",
    ),
    # ---- 4.9 ----
    Chaff("4.9", "the mean over the variables", "world_model.py", KL, "(post.exp() * (post - prior)).sum(-1).mean(-1)"),
    Chaff("4.9", "the mean over variables and classes", "world_model.py", "sum((-2, -1))", "mean((-2, -1))"),
    Chaff(
        "4.9",
        "a free nat for each variable",
        "world_model.py",
        WHOLE,
        """
        def divergence(post, prior):
            return (post.exp() * (post - prior)).sum(-1).clamp(min=free_nats).sum(-1)

        post, prior = log_probs(post, unimix), log_probs(prior, unimix)
        return divergence(post.detach(), prior), divergence(post, prior.detach())
        """,
    ),
    Chaff(
        "4.9", "the maximum of the batch's mean", "world_model.py", FREE, "kl.mean().clamp(min=free_nats).expand_as(kl)"
    ),
    Chaff("4.9", "nothing is free", "world_model.py", FREE, "kl"),
    Chaff("4.9", "one nat is free, whatever is asked", "world_model.py", "min=free_nats", "min=1.0"),
    Chaff("4.9", "the smaller of both", "world_model.py", "min=free_nats", "max=free_nats"),
    Chaff("4.9", "the free nats are subtracted", "world_model.py", FREE, "(kl - free_nats).clamp(min=0)"),
    Chaff(
        "4.9",
        "below the free nats there is gradient",
        "world_model.py",
        FREE,
        "kl + (kl.clamp(min=free_nats) - kl).detach()",
    ),
    Chaff(
        "4.9",
        "the free nats are for the dynamics loss alone",
        "world_model.py",
        WHOLE,
        """
        post, prior = log_probs(post, unimix), log_probs(prior, unimix)
        dyn = (post.detach().exp() * (post.detach() - prior)).sum((-2, -1))
        rep = (post.exp() * (post - prior.detach())).sum((-2, -1))
        return dyn.clamp(min=free_nats), rep
        """,
    ),
    Chaff("4.9", "KL(prior || post)", "world_model.py", KL, "(prior.exp() * (prior - post)).sum((-2, -1))"),
    Chaff(
        "4.9",
        "both directions",
        "world_model.py",
        KL,
        "((post.exp() - prior.exp()) * (post - prior)).sum((-2, -1)) / 2",
    ),
    Chaff("4.9", "the cross entropy", "world_model.py", "(post - prior)", "-prior"),
    Chaff("4.9", "bits", "world_model.py", "sum((-2, -1))", "sum((-2, -1)) / math.log(2)"),
    Chaff("4.9", "no unimix", "world_model.py", MIXED, "post.log_softmax(-1), prior.log_softmax(-1)"),
    Chaff("4.9", "unimix in the prior alone", "world_model.py", "log_probs(post, unimix)", "post.log_softmax(-1)"),
    Chaff(
        "4.9", "unimix in the posterior alone", "world_model.py", "log_probs(prior, unimix)", "prior.log_softmax(-1)"
    ),
    Chaff(
        "4.9",
        "unimix twice",
        "world_model.py",
        "log_probs(prior, unimix)",
        "log_probs(log_probs(prior, unimix), unimix)",
    ),
    Chaff(
        "4.9", "one per cent of chance, whatever is asked", "world_model.py", MIXED, "log_probs(post), log_probs(prior)"
    ),
    Chaff("4.9", "the logits are taken for log probabilities", "world_model.py", MIXED, "post, prior"),
    Chaff(
        "4.9",
        "the wrong sides are detached",
        "world_model.py",
        BOTH,
        "divergence(post, prior.detach()), divergence(post.detach(), prior)",
    ),
    Chaff("4.9", "nothing is detached", "world_model.py", BOTH, "divergence(post, prior), divergence(post, prior)"),
    Chaff(
        "4.9", "both sides are detached", "world_model.py", "post.detach(), prior)", "post.detach(), prior.detach())"
    ),
    Chaff(
        "4.9",
        "the representation loss moves the prior, too",
        "world_model.py",
        "divergence(post, prior.detach())",
        "divergence(post, prior)",
    ),
    Chaff(
        "4.9",
        "the dynamics loss moves the posterior, too",
        "world_model.py",
        "divergence(post.detach(), prior)",
        "divergence(post, prior)",
    ),
    Chaff(
        "4.9",
        "the representation loss is scaled, which the caller does",
        "world_model.py",
        "divergence(post, prior.detach())",
        "0.1 * divergence(post, prior.detach())",
    ),
    Chaff(
        "4.9",
        "the halves of 2023",
        "world_model.py",
        "divergence(post.detach(), prior)",
        "0.5 * divergence(post.detach(), prior)",
    ),
    Chaff(
        "4.9",
        "the mean over time",
        "world_model.py",
        FREE,
        "kl.clamp(min=free_nats).mean(1, keepdim=True).expand_as(kl)",
    ),
    # ---- 4.10 ----
    Chaff("4.10", "the mean over pixels", "world_model.py", ERROR, "(mean - target).square().flatten(2).mean(-1)"),
    Chaff("4.10", "half of the squared error", "world_model.py", ERROR, f"0.5 * {ERROR}"),
    Chaff("4.10", "the absolute error", "world_model.py", ".square()", ".abs()"),
    Chaff("4.10", "the root of the squared error", "world_model.py", ERROR, f"{ERROR}.sqrt()"),
    Chaff("4.10", "the mean over the batch", "world_model.py", ERROR, f"{ERROR}.mean().expand(post.deter.shape[:2])"),
    Chaff(
        "4.10",
        "small errors do not count, as in 2023",
        "world_model.py",
        ERROR,
        "(mean - target).square().flatten(2).sum(-1) * (mean - target).abs().flatten(2).amax(-1).gt(0.2)",
    ),
    Chaff("4.10", "symlog of images, too", "world_model.py", ' if key == "vector" else batch[key]', ""),
    Chaff("4.10", "the vector as it is", "world_model.py", TARGET, "batch[key]"),
    Chaff(
        "4.10",
        "the vectors are compared out of symlog space",
        "world_model.py",
        TARGET,
        'batch[key]\n        mean = symexp(mean) if key == "vector" else mean',
    ),
    Chaff(
        "4.10",
        "where there is a vector, the image has no loss",
        "world_model.py",
        "losses[key] = ",
        "losses = {}\n        losses[key] = ",
    ),
    Chaff(
        "4.10",
        "the batch's vector is changed",
        "world_model.py",
        "target = ",
        'batch["vector"] = symlog(batch["vector"])\n        target = ',
    ),
    Chaff("4.10", "symlog of the reward", "world_model.py", 'loss(batch["reward"])', 'loss(symlog(batch["reward"]))'),
    Chaff("4.10", "tanh of the reward", "world_model.py", 'loss(batch["reward"])', 'loss(batch["reward"].tanh())'),
    Chaff(
        "4.10",
        "the reward of the row before",
        "world_model.py",
        'loss(batch["reward"])',
        'loss(batch["reward"].roll(1, 1))',
    ),
    Chaff(
        "4.10",
        "the reward of the row behind",
        "world_model.py",
        'loss(batch["reward"])',
        'loss(batch["reward"].roll(-1, 1))',
    ),
    Chaff(
        "4.10",
        "the reward's squared error, whatever its head",
        "world_model.py",
        REWARD,
        '0.5 * (model.reward(for_reward.feat).mean() - batch["reward"]).square()',
    ),
    Chaff(
        "4.10",
        "the heads see [stoch, deter]",
        "world_model.py",
        "for_reward.feat",
        "torch.cat([for_reward.stoch, for_reward.deter], -1)",
    ),
    Chaff(
        "4.10",
        "the reward never shapes the posterior",
        "world_model.py",
        "post if config.reward_grad else stopped",
        "stopped",
    ),
    Chaff(
        "4.10",
        "the reward always shapes the posterior",
        "world_model.py",
        "post if config.reward_grad else stopped",
        "post",
    ),
    Chaff(
        "4.10",
        "the decoder never shapes the posterior",
        "world_model.py",
        "post if config.recon_grad else stopped",
        "stopped",
    ),
    Chaff(
        "4.10",
        "the decoder always shapes the posterior",
        "world_model.py",
        "post if config.recon_grad else stopped",
        "post",
    ),
    Chaff(
        "4.10",
        "the decoder shapes deter alone",
        "world_model.py",
        "model.decoder(for_decoder.deter, for_decoder.stoch)",
        "model.decoder(for_decoder.deter, for_decoder.stoch.detach())",
    ),
    Chaff(
        "4.10",
        "recon_grad False turns the loss off",
        "world_model.py",
        'losses["reward"] = ',
        "losses = losses if config.recon_grad else {key: 0 * loss for key, loss in losses.items()}\n"
        '    losses["reward"] = ',
    ),
    Chaff(
        "4.10",
        "the switches are swapped",
        "world_model.py",
        "config.recon_grad else stopped\n    for_reward = post if config.reward_grad",
        "config.reward_grad else stopped\n    for_reward = post if config.recon_grad",
    ),
    Chaff(
        "4.10",
        "the continue head never shapes the posterior",
        "world_model.py",
        "model.cont_logit(post.feat)",
        "model.cont_logit(stopped.feat)",
    ),
    Chaff(
        "4.10",
        "reward_grad is the continue head's, too",
        "world_model.py",
        "model.cont_logit(post.feat)",
        "model.cont_logit(for_reward.feat)",
    ),
    Chaff("4.10", "a hard label", "world_model.py", LABEL, '(~batch["is_terminal"]).float()'),
    Chaff("4.10", "the paper's discount, whatever the config's", "world_model.py", "config.discount", "(1 - 1 / 333)"),
    Chaff("4.10", "a time limit is an end", "world_model.py", 'batch["is_terminal"]', 'batch["is_last"]'),
    Chaff(
        "4.10",
        "the label of an end, not of going on",
        "world_model.py",
        '~batch["is_terminal"]',
        'batch["is_terminal"]',
    ),
    Chaff(
        "4.10",
        "at an end the label is 1 - discount",
        "world_model.py",
        LABEL,
        'torch.where(batch["is_terminal"], 1 - config.discount, config.discount)',
    ),
    Chaff(
        "4.10",
        "the squared error of going on",
        "world_model.py",
        CONT,
        "(model.cont_logit(post.feat).sigmoid() - label).square()",
    ),
    Chaff("4.10", "the mean over the rows", "world_model.py", 'label, reduction="none")', "label).expand(label.shape)"),
    Chaff(
        "4.10",
        "a cross entropy that overflows",
        "world_model.py",
        CONT,
        "-label * model.cont_logit(post.feat).sigmoid().log()"
        " - (1 - label) * (1 - model.cont_logit(post.feat).sigmoid()).log()",
    ),
    Chaff(
        "4.10",
        "dyn and rep are swapped",
        "world_model.py",
        'losses["dyn"], losses["rep"]',
        'losses["rep"], losses["dyn"]',
    ),
    Chaff("4.10", "posterior and prior are swapped", "world_model.py", "post_logits, prior,", "prior, post_logits,"),
    Chaff("4.10", "dyn does not move deter", "world_model.py", "prior(post.deter)", "prior(stopped.deter)"),
    Chaff("4.10", "the prior of the row before", "world_model.py", "prior(post.deter)", "prior(post.deter.roll(1, 1))"),
    Chaff("4.10", "one free nat, whatever the config's", "world_model.py", "config.free_nats", "1.0"),
    Chaff("4.10", "one per cent of chance, whatever the config's", "world_model.py", "config.unimix", "0.01"),
    Chaff(
        "4.10",
        "rep does not move the posterior",
        "world_model.py",
        "kl_losses(post_logits,",
        "kl_losses(post_logits.detach(),",
    ),
    Chaff("4.10", "dyn does not move the prior", "world_model.py", "prior(post.deter)", "prior(post.deter).detach()"),
    Chaff(
        "4.10",
        "rep is scaled, which the caller does",
        "world_model.py",
        "return losses",
        'losses["rep"] = config.rep_scale * losses["rep"]\n    return losses',
    ),
    Chaff("4.10", "ends teach no reward", "world_model.py", REWARD, f'{REWARD} * (~batch["is_terminal"])'),
]
# lines of exercise 4.11
START = "state = State(*(x.detach() for x in start))"
STEP = "state = rssm.img_step(state, actions[-1], latent_noise[:, k - 1])"
ACT = "actor(feats[-1].detach()).sample(action_noise[:, k])"
DREAM = "return torch.stack(feats, 1), torch.stack(actions, 1)"

# lines of exercise 4.12
ONE_STEP = "one_step = reward[:, 1:] + cont[:, 1:] * (1 - lam) * value[:, 1:]"
RETURN = "ret = one_step[:, k] + cont[:, k + 1] * lam * ret"
TURNED = "torch.stack(returns[::-1], 1)"

# lines of exercise 4.13
GOES_ON = "goes_on = discount * (~is_terminal).to(reward)"
LAM = "lam = lam * (~is_last).to(reward)"
FUTURE = "future = (1 - lam[:, t]) * bootstrap[:, t] + lam[:, t] * ret"
REPLAYED = "ret = reward[:, t] + goes_on[:, t] * future"

# lines of exercise 4.14
QUANTILES = "torch.quantile(returns.float().flatten(), torch.tensor([0.05, 0.95], device=returns.device))"
SCALE = "(self.high - self.low).clamp(min=self.limit)"

# lines of exercise 4.15
MERIT = "policy.log_prob(action.detach()) * advantage.detach()"
ACTOR = "-weight.detach() * (merit + entropy_scale * policy.entropy())"

# lines of exercise 4.16
OF_RETURNS = "predicted.loss(returns.detach())"
OF_SLOW = "predicted.loss(slow.mean().detach())"
WEIGHTED = "weight.detach() * target"

BEHAVIOUR_CHAFFS = [
    # ---- 4.11 ----
    Chaff("4.11", "a step too few", "actor_critic.py", "action_noise.shape[1]", "latent_noise.shape[1]"),
    Chaff(
        "4.11",
        "the states after the steps, without the start",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        feats, actions = [], []
        for k in range(action_noise.shape[1]):
            actions.append(actor(state.feat.detach()).sample(action_noise[:, k]))
            state = rssm.img_step(state, actions[-1], latent_noise[:, min(k, latent_noise.shape[1] - 1)])
            feats.append(state.feat)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "4.11",
        "a step behind the last action",
        "actor_critic.py",
        "    return torch.stack(feats",
        "    rssm.img_step(state, actions[-1], latent_noise[:, -1])\n    return torch.stack(feats",
    ),
    Chaff(
        "4.11",
        "the action that led to the state",
        "actor_critic.py",
        DREAM,
        "return torch.stack(feats, 1), torch.stack([0 * actions[0], *actions[:-1]], 1)",
    ),
    Chaff(
        "4.11",
        "the last state has no action",
        "actor_critic.py",
        DREAM,
        "return torch.stack(feats, 1), torch.stack([*actions[:-1], 0 * actions[-1]], 1)",
    ),
    Chaff("4.11", "the actor sees feats with gradient", "actor_critic.py", "feats[-1].detach()", "feats[-1]"),
    Chaff("4.11", "gradient flows into the start", "actor_critic.py", START, "state = start"),
    Chaff(
        "4.11",
        "gradient flows into the start's stoch",
        "actor_critic.py",
        START,
        "state = State(start.deter.detach(), start.stoch)",
    ),
    Chaff(
        "4.11",
        "no noise in the actions",
        "actor_critic.py",
        "sample(action_noise[:, k])",
        "sample(0 * action_noise[:, k])",
    ),
    Chaff(
        "4.11",
        "noise of its own",
        "actor_critic.py",
        "sample(action_noise[:, k])",
        "sample(torch.randn_like(action_noise[:, k]))",
    ),
    Chaff("4.11", "the first noise for all actions", "actor_critic.py", "action_noise[:, k]", "action_noise[:, 0]"),
    Chaff("4.11", "the first noise for all steps", "actor_critic.py", "latent_noise[:, k - 1]", "latent_noise[:, 0]"),
    Chaff(
        "4.11",
        "a step's noise is that of the next",
        "actor_critic.py",
        "latent_noise[:, k - 1]",
        "latent_noise[:, k % latent_noise.shape[1]]",
    ),
    Chaff("4.11", "the noise from the last on", "actor_critic.py", "latent_noise[:, k - 1]", "latent_noise[:, -k]"),
    Chaff("4.11", "the first policy throughout", "actor_critic.py", "feats[-1].detach()", "feats[0].detach()"),
    Chaff(
        "4.11",
        "the first action throughout",
        "actor_critic.py",
        "img_step(state, actions[-1]",
        "img_step(state, actions[0]",
    ),
    Chaff("4.11", "the action before the last", "actor_critic.py", "actions[-1]", "actions[max(k - 2, 0)]"),
    Chaff("4.11", "every step begins at the start", "actor_critic.py", "img_step(state", "img_step(start"),
    Chaff("4.11", "[stoch, deter]", "actor_critic.py", "state.feat)", "torch.cat([state.stoch, state.deter], -1))"),
    Chaff(
        "4.11",
        "deter alone is carried on",
        "actor_critic.py",
        STEP,
        STEP.replace("img_step(state,", "img_step(State(state.deter, start.stoch),"),
    ),
    Chaff("4.11", "actions are cut off at 1", "actor_critic.py", ACT, f"{ACT}.clamp(-1, 1)"),
    Chaff(
        "4.11",
        "the step takes actions that are cut off at 1",
        "actor_critic.py",
        "img_step(state, actions[-1]",
        "img_step(state, actions[-1].clamp(-1, 1)",
    ),
    # ---- 4.12 ----
    Chaff("4.12", "the value of the state itself", "actor_critic.py", "value[:, 1:]", "value[:, :-1]"),
    Chaff("4.12", "the reward of the state itself", "actor_critic.py", "reward[:, 1:]", "reward[:, :-1]"),
    Chaff(
        "4.12",
        "the discount of the state itself",
        "actor_critic.py",
        WHOLE,
        """
        one_step = reward[:, 1:] + cont[:, :-1] * (1 - lam) * value[:, 1:]
        ret, returns = value[:, -1], []
        for k in reversed(range(one_step.shape[1])):
            ret = one_step[:, k] + cont[:, k] * lam * ret
            returns.append(ret)
        return torch.stack(returns[::-1], 1)
        """,
    ),
    Chaff(
        "4.12",
        "reward and discount of the state itself",
        "actor_critic.py",
        WHOLE,
        """
        one_step = reward[:, :-1] + cont[:, :-1] * (1 - lam) * value[:, 1:]
        ret, returns = value[:, -1], []
        for k in reversed(range(one_step.shape[1])):
            ret = one_step[:, k] + cont[:, k] * lam * ret
            returns.append(ret)
        return torch.stack(returns[::-1], 1)
        """,
    ),
    Chaff(
        "4.12",
        "lam and 1 - lam are swapped",
        "actor_critic.py",
        WHOLE,
        """
        one_step = reward[:, 1:] + cont[:, 1:] * lam * value[:, 1:]
        ret, returns = value[:, -1], []
        for k in reversed(range(one_step.shape[1])):
            ret = one_step[:, k] + cont[:, k + 1] * (1 - lam) * ret
            returns.append(ret)
        return torch.stack(returns[::-1], 1)
        """,
    ),
    Chaff("4.12", "from the last to the first", "actor_critic.py", "returns[::-1]", "returns"),
    Chaff(
        "4.12",
        "nothing behind the last entry",
        "actor_critic.py",
        "ret, returns = value[:, -1]",
        "ret, returns = 0 * value[:, -1]",
    ),
    Chaff(
        "4.12",
        "behind the last entry the last but one's value",
        "actor_critic.py",
        "ret, returns = value[:, -1]",
        "ret, returns = value[:, -2]",
    ),
    Chaff(
        "4.12",
        "the last value is discounted once too often",
        "actor_critic.py",
        "ret, returns = value[:, -1]",
        "ret, returns = cont[:, -1] * value[:, -1]",
    ),
    Chaff(
        "4.12", "the discount once more", "actor_critic.py", ONE_STEP, f"cont = cont * (1 - 1 / 333)\n    {ONE_STEP}"
    ),
    Chaff(
        "4.12",
        "the discount of .99 besides",
        "actor_critic.py",
        RETURN,
        RETURN.replace("lam * ret", "0.99 * lam * ret"),
    ),
    Chaff("4.12", "no discount on the value", "actor_critic.py", "cont[:, 1:] * (1 - lam)", "(1 - lam)"),
    Chaff("4.12", "no discount on the return", "actor_critic.py", "cont[:, k + 1] * lam", "lam"),
    Chaff("4.12", "cont is 0 or 1", "actor_critic.py", ONE_STEP, f"cont = cont.round()\n    {ONE_STEP}"),
    Chaff("4.12", ".95, whatever is asked", "actor_critic.py", ONE_STEP, f"lam = 0.95\n    {ONE_STEP}"),
    Chaff("4.12", "one step", "actor_critic.py", RETURN, "ret = reward[:, k + 1] + cont[:, k + 1] * value[:, k + 1]"),
    Chaff("4.12", "Monte Carlo", "actor_critic.py", RETURN, "ret = reward[:, k + 1] + cont[:, k + 1] * ret"),
    Chaff(
        "4.12",
        "lam is on the reward, too (GAE's sum)",
        "actor_critic.py",
        RETURN,
        "ret = lam * one_step[:, k] + cont[:, k + 1] * lam * ret",
    ),
    Chaff("4.12", "advantages", "actor_critic.py", TURNED, f"{TURNED} - value[:, :-1]"),
    Chaff("4.12", "weighted by what came before", "actor_critic.py", TURNED, f"{TURNED} * cont.cumprod(1)[:, :-1]"),
    Chaff(
        "4.12",
        "the first dream's last value for all",
        "actor_critic.py",
        "ret, returns = value[:, -1]",
        "ret, returns = value[:1, -1]",
    ),
    Chaff("4.12", "float32, whatever comes in", "actor_critic.py", TURNED, f"{TURNED}.float().to(value)"),
    Chaff(
        "4.12",
        "the caller's rewards are changed",
        "actor_critic.py",
        "reward[:, 1:] +",
        "reward[:, 1:].clamp_(-1, 1) +",
    ),
    Chaff(
        "4.12",
        "the caller's rewards become the returns",
        "actor_critic.py",
        ONE_STEP,
        "one_step = reward[:, 1:].add_(cont[:, 1:] * (1 - lam) * value[:, 1:])",
    ),
    # ---- 4.13 ----
    Chaff("4.13", "is_last is not used", "actor_critic.py", LAM, "lam = lam * torch.ones_like(reward)"),
    Chaff(
        "4.13", "is_terminal is not used", "actor_critic.py", GOES_ON, "goes_on = discount * torch.ones_like(reward)"
    ),
    Chaff("4.13", "a time limit is an end", "actor_critic.py", "~is_terminal", "~is_last"),
    Chaff("4.13", "lam is cut at true ends alone", "actor_critic.py", "~is_last", "~is_terminal"),
    Chaff("4.13", "is_terminal of the row itself", "actor_critic.py", "goes_on[:, t]", "goes_on[:, t - 1]"),
    Chaff(
        "4.13",
        "is_last of the row itself",
        "actor_critic.py",
        FUTURE,
        "future = (1 - lam[:, t - 1]) * bootstrap[:, t] + lam[:, t - 1] * ret",
    ),
    Chaff("4.13", "the reward of the row itself", "actor_critic.py", "reward[:, t] +", "reward[:, t - 1] +"),
    Chaff(
        "4.13", "the bootstrap of the row itself", "actor_critic.py", "* bootstrap[:, t] +", "* bootstrap[:, t - 1] +"
    ),
    Chaff("4.13", "no discount", "actor_critic.py", "discount * (~is_terminal)", "(~is_terminal)"),
    Chaff("4.13", "the paper's discount, whatever is asked", "actor_critic.py", "discount * (", "(1 - 1 / 333) * ("),
    Chaff("4.13", "the discount twice", "actor_critic.py", "discount * (", "discount**2 * ("),
    Chaff("4.13", ".95, whatever is asked", "actor_critic.py", "lam = lam *", "lam = 0.95 *"),
    Chaff("4.13", "lam and 1 - lam are swapped", "actor_critic.py", "lam = lam *", "lam = (1 - lam) *"),
    Chaff(
        "4.13",
        "at a time limit a twentieth of the bootstrap",
        "actor_critic.py",
        WHOLE,
        """
        goes_on = discount * (~is_terminal).to(reward)
        same = (~is_last).to(reward)
        ret, returns = bootstrap[:, -1], []
        for t in reversed(range(1, reward.shape[1])):
            ret = reward[:, t] + goes_on[:, t] * ((1 - lam) * bootstrap[:, t] + lam * same[:, t] * ret)
            returns.append(ret)
        return torch.stack(returns[::-1], 1)
        """,
    ),
    Chaff(
        "4.13",
        "an end cuts its own reward off",
        "actor_critic.py",
        REPLAYED,
        "ret = (~is_terminal[:, t]).to(reward) * (reward[:, t] + discount * future)",
    ),
    Chaff(
        "4.13",
        "nothing behind the last row",
        "actor_critic.py",
        "ret, returns = bootstrap[:, -1]",
        "ret, returns = 0 * bootstrap[:, -1]",
    ),
    Chaff(
        "4.13",
        "the first bootstrap behind the last row",
        "actor_critic.py",
        "ret, returns = bootstrap[:, -1]",
        "ret, returns = bootstrap[:, 0]",
    ),
    Chaff("4.13", "from the last to the first", "actor_critic.py", "returns[::-1]", "returns"),
    Chaff(
        "4.13",
        "the imagined return alone",
        "actor_critic.py",
        REPLAYED,
        "ret = reward[:, t] + goes_on[:, t] * bootstrap[:, t]",
    ),
    Chaff(
        "4.13",
        "no bootstrap but the last",
        "actor_critic.py",
        REPLAYED,
        "ret = reward[:, t] + goes_on[:, t] * torch.where(is_last[:, t], bootstrap[:, t], ret)",
    ),
    Chaff(
        "4.13",
        "an end of any sequence is one of all",
        "actor_critic.py",
        "(~is_last)",
        "(~is_last.any(0, keepdim=True).expand_as(is_last))",
    ),
    Chaff("4.13", "the caller's flags are changed", "actor_critic.py", "(~is_terminal)", "is_terminal.logical_not_()"),
    # ---- 4.14 ----
    Chaff("4.14", "the smallest and the largest", "actor_critic.py", "[0.05, 0.95]", "[0.0, 1.0]"),
    Chaff("4.14", "percentiles 10 and 90", "actor_critic.py", "[0.05, 0.95]", "[0.1, 0.9]"),
    Chaff("4.14", "quartiles", "actor_critic.py", "[0.05, 0.95]", "[0.25, 0.75]"),
    Chaff("4.14", "low and high are swapped", "actor_critic.py", "[0.05, 0.95]", "[0.95, 0.05]"),
    Chaff(
        "4.14",
        "the nearest return, nothing interpolated",
        "actor_critic.py",
        ", device=returns.device))",
        ', device=returns.device), interpolation="nearest")',
    ),
    Chaff(
        "4.14",
        "percentiles row by row, and their mean",
        "actor_critic.py",
        QUANTILES,
        "torch.quantile(returns.float(), torch.tensor([0.05, 0.95]), dim=-1).reshape(2, -1).mean(-1)",
    ),
    Chaff(
        "4.14",
        "the standard deviation",
        "actor_critic.py",
        WHOLE,
        """
        low, high = returns.mean() - returns.std(), returns.mean() + returns.std()
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        return (self.high - self.low).clamp(min=self.limit)
        """,
    ),
    Chaff("4.14", "sizes, without their sign", "actor_critic.py", "returns.float()", "returns.float().abs()"),
    Chaff(
        "4.14",
        "the weights of old and new are swapped",
        "actor_critic.py",
        WHOLE,
        """
        low, high = torch.quantile(returns.float().flatten(), torch.tensor([0.05, 0.95]))
        self.low.lerp_(low, 1 - self.rate)
        self.high.lerp_(high, 1 - self.rate)
        return (self.high - self.low).clamp(min=self.limit)
        """,
    ),
    Chaff(
        "4.14",
        "one per cent, whatever the rate",
        "actor_critic.py",
        "self.high.lerp_(high, self.rate)",
        "self.high.lerp_(high, 0.01)",
    ),
    Chaff("4.14", "low does not move", "actor_critic.py", "self.low.lerp_(low, self.rate)", "pass"),
    Chaff(
        "4.14",
        "the scale before this batch",
        "actor_critic.py",
        WHOLE,
        """
        scale = (self.high - self.low).clamp(min=self.limit)
        low, high = torch.quantile(returns.float().flatten(), torch.tensor([0.05, 0.95]))
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        return scale
        """,
    ),
    Chaff("4.14", "the scale of this batch", "actor_critic.py", "(self.high - self.low)", "(high - low)"),
    Chaff(
        "4.14",
        "the first batch is taken in full",
        "actor_critic.py",
        "self.low.lerp_(low, self.rate)",
        "if self.low == self.high:\n            self.low.copy_(low), self.high.copy_(high)\n"
        "        self.low.lerp_(low, self.rate)",
    ),
    Chaff(
        "4.14",
        "debiased",
        "actor_critic.py",
        WHOLE,
        """
        low, high = torch.quantile(returns.float().flatten(), torch.tensor([0.05, 0.95]))
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        self.left = getattr(self, "left", 1.0) * (1 - self.rate)
        return ((self.high - self.low) / (1 - self.left)).clamp(min=self.limit)
        """,
    ),
    Chaff("4.14", "no least scale", "actor_critic.py", ".clamp(min=self.limit)", ""),
    Chaff("4.14", "at least 1, whatever the limit", "actor_critic.py", "min=self.limit", "min=1.0"),
    Chaff("4.14", "the limit is added", "actor_critic.py", ".clamp(min=self.limit)", " + self.limit"),
    Chaff("4.14", "at most the limit", "actor_critic.py", "min=self.limit", "max=self.limit"),
    Chaff(
        "4.14",
        "how large, not how far spread",
        "actor_critic.py",
        "(self.high - self.low)",
        "self.high.maximum(-self.low)",
    ),
    Chaff("4.14", "the upper end alone", "actor_critic.py", "(self.high - self.low)", "self.high"),
    Chaff(
        "4.14",
        "each batch's spread is at least the limit",
        "actor_critic.py",
        "self.low.lerp_(low, self.rate)",
        "high = high.maximum(low + self.limit)\n        self.low.lerp_(low, self.rate)",
    ),
    Chaff("4.14", "the inverse", "actor_critic.py", SCALE, f"1 / {SCALE}"),
    Chaff("4.14", "right in float32 alone", "actor_critic.py", "returns.float()", "returns"),
    Chaff(
        "4.14",
        "low and high are no longer in checkpoints",
        "actor_critic.py",
        WHOLE,
        """
        low, high = torch.quantile(returns.float().flatten(), torch.tensor([0.05, 0.95])).tolist()
        kept = self.__dict__.setdefault("kept", [0.0, 0.0])
        kept[:] = [old + self.rate * (new - old) for old, new in zip(kept, (low, high))]
        return torch.tensor(max(kept[1] - kept[0], self.limit))
        """,
    ),
    # ---- 4.15 ----
    Chaff("4.15", "the merit itself", "actor_critic.py", ACTOR, ACTOR[1:]),
    Chaff("4.15", "the entropy's sign", "actor_critic.py", "merit + entropy", "merit - entropy"),
    Chaff("4.15", "the merit's sign", "actor_critic.py", "merit + entropy", "-merit + entropy"),
    Chaff("4.15", "no entropy", "actor_critic.py", ACTOR, "-weight.detach() * merit"),
    Chaff(
        "4.15",
        "the entropy is not weighted",
        "actor_critic.py",
        ACTOR,
        "-weight.detach() * merit - entropy_scale * policy.entropy()",
    ),
    Chaff(
        "4.15",
        "the entropy alone is weighted",
        "actor_critic.py",
        ACTOR,
        "-merit - weight.detach() * entropy_scale * policy.entropy()",
    ),
    Chaff(
        "4.15",
        "the entropy is part of the advantage",
        "actor_critic.py",
        WHOLE,
        """
        log_prob, entropy = policy.log_prob(action.detach()), policy.entropy()
        return -weight.detach() * log_prob * (advantage + entropy_scale * entropy).detach()
        """,
    ),
    Chaff("4.15", "3e-4, whatever is asked", "actor_critic.py", "entropy_scale", "3e-4"),
    Chaff("4.15", "no weight", "actor_critic.py", "-weight.detach() * (", "-1.0 * ("),
    Chaff(
        "4.15",
        "the weight is the discount of each step",
        "actor_critic.py",
        "weight.detach()",
        "weight.detach().cumprod(1)",
    ),
    Chaff(
        "4.15",
        "the probability, not its logarithm",
        "actor_critic.py",
        "policy.log_prob(action.detach())",
        "policy.log_prob(action.detach()).exp()",
    ),
    Chaff(
        "4.15",
        "a ratio, as PPO has",
        "actor_critic.py",
        MERIT,
        "(policy.log_prob(action.detach()) - policy.log_prob(action).detach()).exp() * advantage.detach()",
    ),
    Chaff("4.15", "good actions alone", "actor_critic.py", "advantage.detach()", "advantage.detach().clamp(min=0)"),
    Chaff(
        "4.15",
        "advantages are standardised",
        "actor_critic.py",
        "advantage.detach()",
        "((advantage - advantage.mean()) / (advantage.std() + 1e-8)).detach()",
    ),
    Chaff(
        "4.15",
        "advantages are centred",
        "actor_critic.py",
        "advantage.detach()",
        "(advantage - advantage.mean()).detach()",
    ),
    Chaff("4.15", "gradient in the advantage", "actor_critic.py", "advantage.detach()", "advantage"),
    Chaff("4.15", "gradient in the weight", "actor_critic.py", "weight.detach()", "weight"),
    Chaff("4.15", "gradient in the action", "actor_critic.py", "action.detach()", "action"),
    Chaff(
        "4.15",
        "no gradient in log_prob",
        "actor_critic.py",
        "policy.log_prob(action.detach())",
        "policy.log_prob(action.detach()).detach()",
    ),
    Chaff("4.15", "no gradient in the entropy", "actor_critic.py", "policy.entropy()", "policy.entropy().detach()"),
    Chaff(
        "4.15",
        "the log_prob of the action cut off at 1",
        "actor_critic.py",
        "action.detach()",
        "action.detach().clamp(-1, 1)",
    ),
    Chaff(
        "4.15",
        "the advantage of the action before",
        "actor_critic.py",
        "advantage.detach()",
        "advantage.detach().roll(1, 1)",
    ),
    Chaff("4.15", "the mean of all", "actor_critic.py", ACTOR, f"({ACTOR}).mean().expand_as(weight)"),
    Chaff(
        "4.15", "the sum over each dream", "actor_critic.py", ACTOR, f"({ACTOR}).sum(1, keepdim=True).expand_as(weight)"
    ),
    Chaff(
        "4.15",
        "divided by the sum of weights",
        "actor_critic.py",
        ACTOR,
        f"{ACTOR} / weight.detach().mean().clamp(min=1e-8)",
    ),
    Chaff(
        "4.15",
        "the caller's advantage is changed",
        "actor_critic.py",
        WHOLE,
        """
        merit = advantage.detach().mul_(policy.log_prob(action.detach()))
        return -weight.detach() * (merit + entropy_scale * policy.entropy())
        """,
    ),
    Chaff(
        "4.15",
        "right for discrete actions alone",
        "actor_critic.py",
        "policy.log_prob(action.detach())",
        "(policy.logits * action.detach()).sum(-1)",
    ),
    Chaff(
        "4.15",
        "right for continuous actions alone",
        "actor_critic.py",
        "policy.log_prob(action.detach())",
        "torch.distributions.Normal(policy.mean, policy.std).log_prob(action.detach()).sum(-1)",
    ),
    # ---- 4.16 ----
    Chaff(
        "4.16",
        "right for bins of any size alone, not for the code of 2023",
        "actor_critic.py",
        WHOLE,
        """
        from paper4_dreamerv3.symlog import twohot

        code = twohot(returns, predicted.bins) + slow_scale * twohot(slow.mean(), predicted.bins)
        return -weight.detach() * (code * predicted.logits.log_softmax(-1)).sum(-1)
        """,
    ),
    Chaff("4.16", "no slow critic", "actor_critic.py", f" + slow_scale * {OF_SLOW}", ""),
    Chaff(
        "4.16",
        "the slow critic's distribution, not its mean",
        "actor_critic.py",
        OF_SLOW,
        "-(slow.logits.softmax(-1).detach() * predicted.logits.log_softmax(-1)).sum(-1)",
    ),
    Chaff(
        "4.16",
        "the divergence of both critics",
        "actor_critic.py",
        OF_SLOW,
        "(slow.logits.softmax(-1) * (slow.logits.log_softmax(-1) - predicted.logits.log_softmax(-1))).sum(-1)",
    ),
    Chaff(
        "4.16", "the slow critic's likeliest bin", "actor_critic.py", "slow.mean()", "slow.bins[slow.logits.argmax(-1)]"
    ),
    Chaff("4.16", "the slow critic learns", "actor_critic.py", OF_SLOW, "slow.loss(predicted.mean().detach())"),
    Chaff("4.16", "its own mean", "actor_critic.py", "slow.mean()", "predicted.mean()"),
    Chaff(
        "4.16",
        "one target between both",
        "actor_critic.py",
        WHOLE,
        """
        target = (returns + slow_scale * slow.mean()) / (1 + slow_scale)
        return weight.detach() * (1 + slow_scale) * predicted.loss(target.detach())
        """,
    ),
    Chaff("4.16", "the slow critic's mean for returns", "actor_critic.py", "returns.detach()", "slow.mean().detach()"),
    Chaff("4.16", "slow_scale is not used", "actor_critic.py", "slow_scale * ", ""),
    Chaff(
        "4.16",
        "slow_scale on the returns",
        "actor_critic.py",
        f"{OF_RETURNS} + slow_scale * {OF_SLOW}",
        f"slow_scale * {OF_RETURNS} + {OF_SLOW}",
    ),
    Chaff(
        "4.16",
        "slow_scale on both",
        "actor_critic.py",
        f"{OF_RETURNS} + slow_scale * {OF_SLOW}",
        f"slow_scale * ({OF_RETURNS} + {OF_SLOW})",
    ),
    Chaff("4.16", "a mean of both, not their sum", "actor_critic.py", WEIGHTED, f"{WEIGHTED} / (1 + slow_scale)"),
    Chaff("4.16", "no weight", "actor_critic.py", WEIGHTED, "target"),
    Chaff(
        "4.16",
        "the slow critic's share is not weighted",
        "actor_critic.py",
        WHOLE,
        "return weight.detach() * predicted.loss(returns) + slow_scale * predicted.loss(slow.mean())",
    ),
    Chaff(
        "4.16",
        "the returns' share is not weighted",
        "actor_critic.py",
        WHOLE,
        "return predicted.loss(returns) + weight.detach() * slow_scale * predicted.loss(slow.mean())",
    ),
    Chaff("4.16", "gradient in the weight", "actor_critic.py", "weight.detach()", "weight"),
    Chaff("4.16", "the prediction has no gradient", "actor_critic.py", WEIGHTED, f"{WEIGHTED}.detach()"),
    Chaff("4.16", "no gradient by way of the slow critic's share", "actor_critic.py", OF_SLOW, f"{OF_SLOW}.detach()"),
    Chaff(
        "4.16", "squared errors", "actor_critic.py", OF_RETURNS, "0.5 * (predicted.mean() - returns.detach()).square()"
    ),
    Chaff(
        "4.16",
        "a squared error to the slow critic",
        "actor_critic.py",
        OF_SLOW,
        "0.5 * (predicted.mean() - slow.mean().detach()).square()",
    ),
    Chaff("4.16", "the likelihood, not minus it", "actor_critic.py", WEIGHTED, f"-{WEIGHTED}"),
    Chaff(
        "4.16",
        "symlog of the returns: the bins are symexp's",
        "actor_critic.py",
        "returns.detach()",
        "returns.detach().sign() * returns.detach().abs().log1p()",
    ),
    Chaff("4.16", "the mean of all", "actor_critic.py", WEIGHTED, f"({WEIGHTED}).mean().expand_as(weight)"),
    Chaff(
        "4.16", "weights are products over time", "actor_critic.py", "weight.detach()", "weight.detach().cumprod(-1)"
    ),
    Chaff("4.16", "weights of mean 1", "actor_critic.py", WEIGHTED, f"{WEIGHTED} / weight.mean().detach()"),
]

# lines of exercise 4.17
CLIP = "gradients = torch._foreach_div(gradients, excess)"
ROOT = "scale = torch._foreach_sqrt(torch._foreach_div(rms, 1 - b2**n))"
MOMENTUM = "torch._foreach_lerp_(momentum, gradients, 1 - b1)"
DIRECTION = "list(torch._foreach_div(momentum, 1 - b1**n))"
LOOP = """
(b1, b2), n = group["betas"], group["steps"]
found = []
for parameter, gradient, square, mean in zip(parameters, gradients, rms, momentum):
    {clip}
    square.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    scale = (square / (1 - b2**n)).sqrt() + group["eps"]
    {rest}
return found
"""
LIMIT = 'group["agc"] * parameter.norm().clamp(min=group["min_norm"])'
CLIP_ONE = f"gradient = gradient / (gradient.norm() / ({LIMIT})).clamp(min=1)"
ADAM = "mean.lerp_(gradient, 1 - b1)\n    found.append(mean / (1 - b1**n) / scale)"
LAPROP = "mean.lerp_(gradient / scale, 1 - b1)\n    found.append(mean / (1 - b1**n))"

OPTIMIZER_CHAFFS = [
    # ---- 4.17 ----
    Chaff(
        "4.17",
        "Adam: the momentum is divided, not the gradient",
        "optimizer.py",
        WHOLE,
        LOOP.format(clip=CLIP_ONE, rest=ADAM),
    ),
    Chaff(
        "4.17",
        "clipped behind the division",
        "optimizer.py",
        WHOLE,
        LOOP.format(
            clip="pass",
            rest=(
                CLIP_ONE.replace("gradient = ", "gradient = gradient / scale\n    gradient = ", 1)
                + "\n    mean.lerp_(gradient, 1 - b1)\n    found.append(mean / (1 - b1**n))"
            ),
        ),
    ),
    Chaff(
        "4.17",
        "rms is that of the gradient before clipping",
        "optimizer.py",
        WHOLE,
        LOOP.format(clip="raw = gradient\n    " + CLIP_ONE, rest=LAPROP).replace(
            "addcmul_(gradient, gradient", "addcmul_(raw, raw"
        ),
    ),
    Chaff("4.17", "no clipping", "optimizer.py", CLIP, "gradients = [each.clone() for each in gradients]"),
    Chaff(
        "4.17",
        "clipped by the norm of all gradients and all parameters",
        "optimizer.py",
        "excess = torch._foreach_div(torch._foreach_norm(gradients), limits)",
        "whole = nn.utils.get_total_norm(gradients) / torch.stack(limits).norm()\n"
        "        excess = [whole.clone() for _ in gradients]",
    ),
    Chaff(
        "4.17",
        "clipped to a norm of `agc` of all",
        "optimizer.py",
        "excess = torch._foreach_div(torch._foreach_norm(gradients), limits)",
        'excess = [nn.utils.get_total_norm(gradients) / group["agc"] for _ in gradients]',
    ),
    Chaff(
        "4.17",
        "clipped to a norm of `agc`, whatever the parameter",
        "optimizer.py",
        WHOLE,
        LOOP.format(clip=CLIP_ONE.replace(' * parameter.norm().clamp(min=group["min_norm"])', ""), rest=LAPROP),
    ),
    Chaff(
        "4.17",
        "clipped row by row",
        "optimizer.py",
        WHOLE,
        LOOP.format(
            clip=CLIP_ONE.replace(
                "gradient.norm()", "(gradient.norm(dim=-1, keepdim=True) if gradient.ndim else gradient.abs())"
            ).replace(
                "parameter.norm()", "(parameter.norm(dim=-1, keepdim=True) if parameter.ndim else parameter.abs())"
            ),
            rest=LAPROP,
        ),
    ),
    Chaff(
        "4.17",
        "each number is clipped",
        "optimizer.py",
        WHOLE,
        LOOP.format(clip=CLIP_ONE.replace("gradient.norm()", "gradient.abs()"), rest=LAPROP),
    ),
    Chaff(
        "4.17",
        "vectors are not clipped",
        "optimizer.py",
        CLIP,
        "gradients = [g / x if g.ndim > 1 else g.clone() for g, x in zip(gradients, excess)]",
    ),
    Chaff(
        "4.17",
        "the sum of absolute values for a norm",
        "optimizer.py",
        "torch._foreach_norm(gradients)",
        "torch._foreach_norm(gradients, 1)",
    ),
    Chaff(
        "4.17",
        "every gradient is scaled to its limit",
        "optimizer.py",
        "torch._foreach_clamp_min_(excess, 1.0)",
        "torch._foreach_clamp_min_(excess, 1e-30)",
    ),
    Chaff(
        "4.17",
        "min_norm is not used",
        "optimizer.py",
        'torch._foreach_clamp_min_(limits, group["min_norm"])',
        "torch._foreach_clamp_min_(limits, 1e-30)",
    ),
    Chaff("4.17", "1e-3, whatever min_norm is", "optimizer.py", 'group["min_norm"]', "1e-3"),
    Chaff(
        "4.17",
        "min_norm is the least limit, agc included",
        "optimizer.py",
        'torch._foreach_clamp_min_(limits, group["min_norm"])\n        torch._foreach_mul_(limits, group["agc"])',
        'torch._foreach_mul_(limits, group["agc"])\n        torch._foreach_clamp_min_(limits, group["min_norm"])',
    ),
    Chaff("4.17", "min_norm is added", "optimizer.py", "_clamp_min_(limits", "_add_(limits"),
    Chaff("4.17", ".3, whatever agc is", "optimizer.py", 'group["agc"]', "0.3"),
    Chaff("4.17", "rms is not debiased", "optimizer.py", ROOT, "scale = torch._foreach_sqrt(rms)"),
    Chaff("4.17", "momentum is not debiased", "optimizer.py", DIRECTION, "[each.clone() for each in momentum]"),
    Chaff("4.17", "the steps from 0", "optimizer.py", ROOT, ROOT.replace("b2**n", "b2**max(n - 1, 1)")),
    Chaff("4.17", "a step ahead", "optimizer.py", "1 - b1**n", "1 - b1 ** (n + 1)"),
    Chaff("4.17", "the betas are swapped", "optimizer.py", "(b1, b2)", "(b2, b1)"),
    Chaff("4.17", "the paper's betas, whatever the group's", "optimizer.py", 'group["betas"]', "(0.9, 0.999)"),
    Chaff(
        "4.17",
        "no root",
        "optimizer.py",
        "torch._foreach_sqrt(torch._foreach_div(rms, 1 - b2**n))",
        "torch._foreach_div(rms, 1 - b2**n)",
    ),
    Chaff(
        "4.17",
        "eps within the root",
        "optimizer.py",
        WHOLE,
        LOOP.format(clip=CLIP_ONE, rest=LAPROP).replace(
            '(square / (1 - b2**n)).sqrt() + group["eps"]', '(square / (1 - b2**n) + group["eps"]).sqrt()'
        ),
    ),
    Chaff("4.17", "Adam's eps", "optimizer.py", 'group["eps"]', "1e-8"),
    Chaff("4.17", "no eps", "optimizer.py", 'torch._foreach_add_(scale, group["eps"])', "pass"),
    Chaff(
        "4.17", "no momentum", "optimizer.py", WHOLE, LOOP.format(clip=CLIP_ONE, rest="found.append(gradient / scale)")
    ),
    Chaff("4.17", "the weights of old and new are swapped", "optimizer.py", "gradients, 1 - b1)", "gradients, b1)"),
    Chaff(
        "4.17",
        "a momentum that sums",
        "optimizer.py",
        MOMENTUM,
        "torch._foreach_mul_(momentum, b1)\n        torch._foreach_add_(momentum, gradients)",
    ),
    Chaff(
        "4.17",
        "Nesterov's momentum",
        "optimizer.py",
        DIRECTION,
        "list(torch._foreach_lerp(gradients, torch._foreach_div(momentum, 1 - b1**n), b1))",
    ),
    Chaff("4.17", "the sign", "optimizer.py", DIRECTION, "[-each for each in torch._foreach_div(momentum, 1 - b1**n)]"),
    Chaff(
        "4.17",
        "the learning rate is in it",
        "optimizer.py",
        DIRECTION,
        'list(torch._foreach_mul(torch._foreach_div(momentum, 1 - b1**n), group["lr"]))',
    ),
    Chaff(
        "4.17",
        "momentum itself, divided in place",
        "optimizer.py",
        DIRECTION,
        "torch._foreach_div_(momentum, 1 - b1**n) or momentum",
    ),
    Chaff(
        "4.17",
        "rms is debiased in place",
        "optimizer.py",
        ROOT,
        "torch._foreach_div_(rms, 1 - b2**n)\n        scale = torch._foreach_sqrt(rms)",
    ),
    Chaff(
        "4.17", "rms is not kept", "optimizer.py", "torch._foreach_mul_(rms, b2)", "rms = torch._foreach_mul(rms, b2)"
    ),
    Chaff(
        "4.17",
        "momentum is not kept",
        "optimizer.py",
        MOMENTUM,
        "momentum = torch._foreach_lerp(momentum, gradients, 1 - b1)",
    ),
    Chaff(
        "4.17",
        "the caller's gradients are changed",
        "optimizer.py",
        CLIP,
        "torch._foreach_div_(gradients, excess)\n        gradients = [each.clone() for each in gradients]",
    ),
    Chaff(
        "4.17",
        "the parameters are changed: `step` does that",
        "optimizer.py",
        f"return {DIRECTION}",
        f"found = {DIRECTION}\n        torch._foreach_sub_(parameters, found, alpha=1e-2)\n        return found",
    ),
    Chaff(
        "4.17",
        "the weights decay",
        "optimizer.py",
        DIRECTION,
        "list(torch._foreach_add(torch._foreach_div(momentum, 1 - b1**n), parameters, alpha=1e-2))",
    ),
]

CHAFFS = [*SYMLOG_CHAFFS, *WORLD_CHAFFS, *BEHAVIOUR_CHAFFS, *OPTIMIZER_CHAFFS]
