"""Wrong answers for paper 5. Many are what public reimplementations of the paper got wrong."""

from tests.chaffs import WHOLE, Chaff

# lines of exercise 5.1
FIRST = "h = self.conv1(F.silu(self.norm1(x)))"
SECOND = "h = self.conv2(F.silu(self.norm2(h)))"
SUM = "self.skip(x) + h"

# lines of exercise 5.2
LOOK = "F.scaled_dot_product_attention(q, k, v)"
BACK = "transpose(1, 2).reshape(x.shape)"
ADDED = "x + self.proj(seen)"

# lines of exercise 5.3
DISTANCE = "flat.square().sum(1, keepdim=True) + codebook.square().sum(1) - 2 * flat @ codebook.T"
CODE = "code = codebook[tokens].view(vectors.shape).permute(0, 3, 1, 2)"
STRAIGHT = "straight = z + (code - z).detach()"

# lines of exercise 5.4
ERROR = "error = 2 * (image - reconstruction)"
RECON = "(error.square() if squared else error.abs()).mean()"
CODEBOOK = "(code - z.detach()).square().mean()"
COMMITMENT = "beta * (z - code.detach()).square().mean()"

# lines of exercise 5.5
SHARE = "tokens.flatten().bincount(minlength=codes) / tokens.numel()"
USED = "(share > 0).float().mean()"
PERPLEXITY = "torch.special.entr(share).sum().exp()"

TOKENIZER_CHAFFS = [
    # ---- 5.1 ----
    Chaff("5.1", "ReLU", "tokenizer.py", FIRST, FIRST.replace("silu", "relu")),
    Chaff("5.1", "no norm1", "tokenizer.py", "self.norm1(x)", "x"),
    Chaff("5.1", "no norm2", "tokenizer.py", "self.norm2(h)", "h"),
    Chaff("5.1", "no SiLU behind norm2", "tokenizer.py", SECOND, "h = self.conv2(self.norm2(h))"),
    Chaff("5.1", "the SiLU in front of the norm", "tokenizer.py", "F.silu(self.norm1(x))", "self.norm1(F.silu(x))"),
    Chaff(
        "5.1",
        "norms behind the convolutions, as in the first ResNet",
        "tokenizer.py",
        WHOLE,
        """
        h = self.norm2(self.conv2(F.silu(self.norm2(self.conv1(x)))))
        return F.silu(self.skip(x) + h)
        """,
    ),
    Chaff("5.1", "x is not added", "tokenizer.py", SUM, "h"),
    Chaff("5.1", "an activation behind the sum", "tokenizer.py", SUM, f"F.silu({SUM})"),
    Chaff("5.1", "the norm of x is added", "tokenizer.py", SUM, "self.skip(self.norm1(x)) + h"),
    Chaff("5.1", "the sum is divided by the root of 2", "tokenizer.py", SUM, f"({SUM}) / 2**0.5"),
    Chaff("5.1", "the caller's x is changed", "tokenizer.py", SUM, "self.skip(x).add_(h)"),
    # ---- 5.2 ----
    Chaff("5.2", "no scale", "tokenizer.py", LOOK, "F.scaled_dot_product_attention(q, k, v, scale=1.0)"),
    Chaff(
        "5.2",
        "divided by the channels, not by their root",
        "tokenizer.py",
        LOOK,
        "F.scaled_dot_product_attention(q, k, v, scale=1 / x.shape[1])",
    ),
    Chaff(
        "5.2",
        "divided by the root of how many places there are",
        "tokenizer.py",
        LOOK,
        "F.scaled_dot_product_attention(q, k, v, scale=q.shape[1] ** -0.5)",
    ),
    Chaff("5.2", "causal", "tokenizer.py", LOOK, "F.scaled_dot_product_attention(q, k, v, is_causal=True)"),
    Chaff("5.2", "q and k are swapped", "tokenizer.py", LOOK, "F.scaled_dot_product_attention(k, q, v)"),
    Chaff(
        "5.2",
        "the softmax is over the places that look",
        "tokenizer.py",
        LOOK,
        "((q @ k.mT / x.shape[1] ** 0.5).softmax(1) @ v)",
    ),
    Chaff(
        "5.2",
        "channels look at channels",
        "tokenizer.py",
        WHOLE,
        """
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v, scale=x.shape[1] ** -0.5).reshape(x.shape)
        return x + self.proj(seen)
        """,
    ),
    Chaff(
        "5.2",
        "places look at those of all pictures of the batch",
        "tokenizer.py",
        LOOK,
        "F.scaled_dot_product_attention(*(each.flatten(0, 1)[None] for each in (q, k, v))).view(q.shape)",
    ),
    Chaff("5.2", "no norm", "tokenizer.py", "h = self.norm(x)", "h = x"),
    Chaff("5.2", "the channels are not moved back", "tokenizer.py", BACK, "reshape(x.shape)"),
    Chaff("5.2", "no proj", "tokenizer.py", ADDED, "x + seen"),
    Chaff("5.2", "x is not added", "tokenizer.py", ADDED, "self.proj(seen)"),
    Chaff("5.2", "the norm of x is added", "tokenizer.py", ADDED, "h + self.proj(seen)"),
    # ---- 5.3 ----
    Chaff("5.3", "the greatest product", "tokenizer.py", DISTANCE, "-flat @ codebook.T"),
    Chaff("5.3", "the product once, not twice", "tokenizer.py", "- 2 * flat", "- flat"),
    Chaff(
        "5.3",
        "the nearest by its angle",
        "tokenizer.py",
        DISTANCE,
        "-F.normalize(flat, dim=1) @ F.normalize(codebook, dim=1).T",
    ),
    Chaff("5.3", "the absolute differences", "tokenizer.py", DISTANCE, "torch.cdist(flat, codebook, p=1)"),
    Chaff(
        "5.3",
        "tokens column by column, the code in its place",
        "tokenizer.py",
        WHOLE,
        """
        vectors = z.permute(0, 3, 2, 1)
        tokens = torch.cdist(vectors.flatten(0, 2), codebook).argmin(1)
        code = codebook[tokens].view(vectors.shape).permute(0, 3, 2, 1)
        return Quantized(tokens.view(len(z), -1), code, z + (code - z).detach())
        """,
    ),
    Chaff(
        "5.3",
        "the channels are not moved behind height and width",
        "tokenizer.py",
        WHOLE,
        """
        tokens = torch.cdist(z.reshape(-1, z.shape[1]), codebook).argmin(1)
        code = codebook[tokens].view(z.shape)
        return Quantized(tokens.view(len(z), -1), code, z + (code - z).detach())
        """,
    ),
    Chaff("5.3", "no gradient passes the code", "tokenizer.py", STRAIGHT, "straight = code.detach()"),
    Chaff("5.3", "what is passed on is z", "tokenizer.py", STRAIGHT, "straight = z"),
    Chaff("5.3", "the gradient goes into the codebook alone", "tokenizer.py", STRAIGHT, "straight = z + (code - z)"),
    Chaff(
        "5.3",
        "the gradient goes into the codebook, too",
        "tokenizer.py",
        STRAIGHT,
        "straight = code + (z - z.detach())",
    ),
    Chaff("5.3", "the code has no gradient", "tokenizer.py", CODE, f"{CODE}.detach()"),
    Chaff("5.3", "the code is the straight-through one", "tokenizer.py", "code, straight)", "straight, straight)"),
    Chaff(
        "5.3",
        "the codes drift to what they stand for",
        "tokenizer.py",
        STRAIGHT,
        f"{STRAIGHT}\n    codebook.data[tokens] += 0.01 * (flat.detach() - codebook.data[tokens])",
    ),
    # ---- 5.4 ----
    Chaff("5.4", "the images stay in [0, 1]", "tokenizer.py", ERROR, "error = image - reconstruction"),
    Chaff(
        "5.4", "the image is taken to [-1, 1] alone", "tokenizer.py", ERROR, "error = (2 * image - 1) - reconstruction"
    ),
    Chaff("5.4", "always the squared error", "tokenizer.py", RECON, "error.square().mean()"),
    Chaff("5.4", "never the squared error", "tokenizer.py", RECON, "error.abs().mean()"),
    Chaff("5.4", "a sum over each picture", "tokenizer.py", RECON, f"{RECON[:-7]}.sum() / len(image)"),
    Chaff(
        "5.4",
        "the reconstruction is cut off at 0 and 1",
        "tokenizer.py",
        ERROR,
        "error = 2 * (image - reconstruction.clamp(0, 1))",
    ),
    Chaff(
        "5.4",
        "a sum over the numbers of a place",
        "tokenizer.py",
        CODEBOOK,
        "(code - z.detach()).square().sum(1).mean()",
    ),
    Chaff("5.4", "the distance is not squared", "tokenizer.py", COMMITMENT, "beta * (z - code.detach()).abs().mean()"),
    Chaff("5.4", "beta is the codebook's, too", "tokenizer.py", CODEBOOK, f"beta * {CODEBOOK}"),
    Chaff("5.4", "the usual quarter, whatever beta", "tokenizer.py", "beta *", "0.25 *"),
    Chaff(
        "5.4",
        "codebook and commitment are swapped",
        "tokenizer.py",
        WHOLE,
        """
        error = 2 * (image - reconstruction)
        return {
            "recon": (error.square() if squared else error.abs()).mean(),
            "codebook": (z - code.detach()).square().mean(),
            "commitment": beta * (code - z.detach()).square().mean(),
        }
        """,
    ),
    Chaff("5.4", "the codebook's loss moves z, too", "tokenizer.py", "code - z.detach()", "code - z"),
    Chaff("5.4", "the commitment moves the code, too", "tokenizer.py", "z - code.detach()", "z - code"),
    # ---- 5.5 ----
    Chaff("5.5", "in bits", "tokenizer.py", PERPLEXITY, "(torch.special.entr(share).sum() / 0.6931472).exp()"),
    Chaff("5.5", "2 to the entropy", "tokenizer.py", PERPLEXITY, "2 ** torch.special.entr(share).sum()"),
    Chaff("5.5", "the entropy", "tokenizer.py", PERPLEXITY, "torch.special.entr(share).sum()"),
    Chaff("5.5", "0 * ln 0 is no number", "tokenizer.py", PERPLEXITY, "(-(share * share.log()).sum()).exp()"),
    Chaff(
        "5.5",
        "an epsilon that shows",
        "tokenizer.py",
        PERPLEXITY,
        "(-(share * (share + 1e-3).log()).sum()).exp()",
    ),
    Chaff(
        "5.5",
        "of the codes up to the greatest token",
        "tokenizer.py",
        "bincount(minlength=codes)",
        "bincount()",
    ),
    Chaff("5.5", "how many codes are in use", "tokenizer.py", USED, "(share > 0).float().sum()"),
    Chaff("5.5", "codes that are used at least evenly", "tokenizer.py", "share > 0", "share >= 1 / codes"),
    Chaff(
        "5.5", "divided by the number of rows", "tokenizer.py", SHARE, SHARE.replace("tokens.numel()", "len(tokens)")
    ),
    Chaff(
        "5.5",
        "row by row, and the mean",
        "tokenizer.py",
        WHOLE,
        """
        rows = tokens.reshape(-1, tokens.shape[-1])
        share = (rows[..., None] == torch.arange(codes)).float().mean(1)
        return (share > 0).any(0).float().mean(), torch.special.entr(share).sum(-1).exp().mean()
        """,
    ),
]

# lines of exercise 5.6
MASK = "seen = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)"
BY_HAND = """
new, total = q.shape[-2], k.shape[-2]
seen = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
scores = q @ k.mT / q.shape[-1] ** 0.5
weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
return F.dropout(weights, dropout) @ v
"""
HIDDEN = 'scores.masked_fill(~seen, float("-inf")).softmax(-1)'

# lines of exercise 5.7
CHECK = "if self.size + new > self.room:"
ERROR_OF_CACHE = 'ValueError(f"the cache has room for {self.room} positions, and {self.size} + {new} are too many")'
KEYS = "self.keys[:, :, self.size : self.size + new] = k"
VALUES = "self.values[:, :, self.size : self.size + new] = v"
ALL = "self.keys[:, :, : self.size], self.values[:, :, : self.size]"

# lines of exercise 5.8
INSIDE = "inside = (before + torch.arange(new)) % (places + 1)"
SPEAKS = 'speaks = inside != places - 1 if kind == "token" else inside == places'

# lines of exercise 5.9
IS_ACTION = "(position % (self.places + 1) == self.places)[None, :, None]"
EITHER = "torch.where(is_action, actions, tokens)"
PLACE = "self.position_table(position)"

# lines of exercise 5.10
TOKEN = "token = tokens.masked_fill(~real[..., None], IGNORED).flatten(1)[:, 1:]"
REWARD = "reward = (reward.sign().long() + 1).masked_fill(~real, IGNORED)"
END = "end.long().masked_fill(~real, IGNORED)"

WORLD_CHAFFS = [
    # ---- 5.6 ----
    Chaff("5.6", "no scale", "transformer.py", WHOLE, BY_HAND.replace("/ q.shape[-1] ** 0.5", "")),
    Chaff("5.6", "divided by the size, not by its root", "transformer.py", WHOLE, BY_HAND.replace(" ** 0.5", "")),
    Chaff(
        "5.6",
        "divided by the root of the width of all heads",
        "transformer.py",
        WHOLE,
        BY_HAND.replace("q.shape[-1] **", "(q.shape[1] * q.shape[-1]) **"),
    ),
    Chaff(
        "5.6",
        "torch's is_causal, which counts from the first position",
        "transformer.py",
        WHOLE,
        "return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=q.shape[-2] > 1)",
    ),
    Chaff(
        "5.6",
        "where something was read before, nothing is hidden",
        "transformer.py",
        MASK,
        "seen = torch.ones(new, total, dtype=torch.bool, device=q.device)",
    ),
    Chaff("5.6", "a position sees the one behind it", "transformer.py", MASK, MASK.replace("- new)", "- new + 1)")),
    Chaff(
        "5.6",
        "a position does not see itself",
        "transformer.py",
        WHOLE,
        BY_HAND.replace("tril(total - new)", "tril(total - new - 1)\nseen[:, 0] = True"),
    ),
    Chaff(
        "5.6",
        "hidden behind the softmax",
        "transformer.py",
        WHOLE,
        BY_HAND.replace(HIDDEN, "scores.softmax(-1) * seen"),
    ),
    Chaff("5.6", "hidden with a 0", "transformer.py", WHOLE, BY_HAND.replace(HIDDEN, "(scores * seen).softmax(-1)")),
    Chaff(
        "5.6",
        "the softmax is over the queries",
        "transformer.py",
        WHOLE,
        BY_HAND.replace(HIDDEN, "scores.masked_fill(~seen, -1e9).softmax(-2)"),
    ),
    Chaff("5.6", "no dropout", "transformer.py", WHOLE, BY_HAND.replace("F.dropout(weights, dropout)", "weights")),
    Chaff(
        "5.6",
        "the result is dropped, not the weights",
        "transformer.py",
        WHOLE,
        BY_HAND.replace("F.dropout(weights, dropout) @ v", "F.dropout(weights @ v, dropout)"),
    ),
    Chaff(
        "5.6",
        "what is kept is not made greater",
        "transformer.py",
        WHOLE,
        BY_HAND.replace("F.dropout(weights, dropout)", "(1 - dropout) * F.dropout(weights, dropout)"),
    ),
    # ---- 5.7 ----
    Chaff("5.7", "no look whether there is room", "transformer.py", CHECK, "if False:"),
    Chaff("5.7", "the last position is never filled", "transformer.py", CHECK, CHECK.replace(">", ">=")),
    Chaff(
        "5.7",
        "what fits is written, then comes the error",
        "transformer.py",
        WHOLE,
        """
        start, stop = self.size, self.size + k.shape[2]
        self.keys[:, :, start:stop] = k[:, :, : self.room - start]
        self.values[:, :, start:stop] = v[:, :, : self.room - start]
        if stop > self.room:
            raise ValueError("no room")
        self.size = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]
        """,
    ),
    Chaff(
        "5.7",
        "the size has grown when the error comes",
        "transformer.py",
        WHOLE,
        """
        new = k.shape[2]
        self.size += new
        if self.size > self.room:
            raise ValueError("no room")
        self.keys[:, :, self.size - new : self.size] = k
        self.values[:, :, self.size - new : self.size] = v
        return self.keys[:, :, : self.size], self.values[:, :, : self.size]
        """,
    ),
    Chaff("5.7", "a full cache begins anew", "transformer.py", f"raise {ERROR_OF_CACHE}", "self.size = 0"),
    Chaff(
        "5.7",
        "a full cache drops its oldest",
        "transformer.py",
        f"raise {ERROR_OF_CACHE}",
        "old = self.size + new - self.room\n"
        "            self.keys, self.values = self.keys.roll(-old, 2), self.values.roll(-old, 2)\n"
        "            self.size -= old",
    ),
    Chaff("5.7", "written from the start, always", "transformer.py", KEYS, "self.keys[:, :, :new] = k"),
    Chaff("5.7", "the size grows by one, whatever comes", "transformer.py", "self.size += new", "self.size += 1"),
    Chaff("5.7", "only the new ones come back", "transformer.py", ALL, "k, v"),
    Chaff("5.7", "the empty room comes back, too", "transformer.py", ALL, "self.keys, self.values"),
    Chaff("5.7", "values and keys are swapped", "transformer.py", VALUES, VALUES.replace("= v", "= k")),
    Chaff(
        "5.7",
        "the caches grow, and their room is lost",
        "transformer.py",
        WHOLE,
        """
        if self.size + k.shape[2] > self.room:
            raise ValueError("no room")
        self.keys = torch.cat([self.keys[:, :, : self.size], k], 2)
        self.values = torch.cat([self.values[:, :, : self.size], v], 2)
        self.size = self.keys.shape[2]
        return self.keys, self.values
        """,
    ),
    # ---- 5.8 ----
    Chaff("5.8", "what was read before does not count", "transformer.py", INSIDE, INSIDE.replace("before + ", "")),
    Chaff(
        "5.8",
        "places in the whole sequence",
        "transformer.py",
        "speaks.nonzero().flatten()",
        "speaks.nonzero().flatten() + before",
    ),
    Chaff("5.8", "a block without its action", "transformer.py", INSIDE, INSIDE.replace("(places + 1)", "places")),
    Chaff("5.8", "one too late", "transformer.py", INSIDE, INSIDE.replace("before +", "before + 1 +")),
    Chaff(
        "5.8",
        "tokens are told on tokens, none on the action",
        "transformer.py",
        "inside != places - 1",
        "inside < places",
    ),
    Chaff(
        "5.8",
        "neither the last token nor the action tells a token",
        "transformer.py",
        "inside != places - 1",
        "inside < places - 1",
    ),
    Chaff(
        "5.8",
        "reward and end are told on the last token",
        "transformer.py",
        "inside == places",
        "inside == places - 1",
    ),
    Chaff("5.8", "the action comes first in its block", "transformer.py", "inside == places", "inside == 0"),
    Chaff("5.8", "the kinds are swapped", "transformer.py", 'kind == "token"', 'kind == "outcome"'),
    Chaff(
        "5.8",
        "the newest position never tells a token: nothing behind it is known",
        "transformer.py",
        SPEAKS,
        f'{SPEAKS}\n    speaks[-1:] &= kind != "token"',
    ),
    # ---- 5.9 ----
    Chaff("5.9", "positions begin anew", "transformer.py", PLACE, "self.position_table(position - before)"),
    Chaff(
        "5.9",
        "positions inside of the block",
        "transformer.py",
        PLACE,
        "self.position_table(position % (self.places + 1))",
    ),
    Chaff(
        "5.9",
        "a position for each frame",
        "transformer.py",
        PLACE,
        "self.position_table(position // (self.places + 1))",
    ),
    Chaff("5.9", "no positions", "transformer.py", f" + {PLACE}", ""),
    Chaff(
        "5.9",
        "where actions stand is counted without `before`",
        "transformer.py",
        IS_ACTION,
        IS_ACTION.replace("position %", "(position - before) %"),
    ),
    Chaff(
        "5.9",
        "the action comes first in its block",
        "transformer.py",
        IS_ACTION,
        IS_ACTION.replace("== self.places", "== 0"),
    ),
    Chaff(
        "5.9",
        "a block without its action",
        "transformer.py",
        IS_ACTION,
        "(position % self.places == self.places - 1)[None, :, None]",
    ),
    Chaff(
        "5.9",
        "small numbers are actions",
        "transformer.py",
        IS_ACTION,
        "(ids < self.action_table.num_embeddings)[..., None]",
    ),
    Chaff("5.9", "the tables are swapped", "transformer.py", EITHER, "torch.where(is_action, tokens, actions)"),
    Chaff("5.9", "actions are looked up among the tokens", "transformer.py", EITHER, "tokens"),
    Chaff(
        "5.9",
        "every id is looked up in both, though there may be none like it",
        "transformer.py",
        "ids.clamp(max=self.action_table.num_embeddings - 1)",
        "ids",
    ),
    Chaff(
        "5.9",
        "times the root of the width, as in the first Transformer",
        "transformer.py",
        EITHER,
        f"{EITHER} * self.token_table.embedding_dim ** 0.5",
    ),
    Chaff("5.9", "dropped here already", "transformer.py", f"{EITHER} + {PLACE}", f"self.drop({EITHER} + {PLACE})"),
    # ---- 5.10 ----
    Chaff("5.10", "the last token has no label, and not the first", "transformer.py", "[:, 1:]", "[:, :-1]"),
    Chaff("5.10", "the first token has a label", "transformer.py", "[:, 1:]", ""),
    Chaff(
        "5.10",
        "a frame's first token has no label",
        "transformer.py",
        TOKEN,
        "token = tokens.masked_fill(~real[..., None], IGNORED)[:, :, 1:].flatten(1)",
    ),
    Chaff("5.10", "tokens of padding count", "transformer.py", TOKEN, "token = tokens.flatten(1)[:, 1:]"),
    Chaff("5.10", "padding is token 0", "transformer.py", TOKEN, TOKEN.replace("IGNORED", "0")),
    Chaff(
        "5.10",
        "what is padding is told a token too late",
        "transformer.py",
        TOKEN,
        "late = real[..., None].expand(tokens.shape).flatten(1)[:, :-1]\n"
        "    token = tokens.flatten(1)[:, 1:].masked_fill(~late, IGNORED)",
    ),
    Chaff(
        "5.10",
        "rewards between -1 and 1 are none",
        "transformer.py",
        "reward.sign().long()",
        "reward.clamp(-1, 1).long()",
    ),
    Chaff("5.10", "-1, 0, 1", "transformer.py", "(reward.sign().long() + 1)", "reward.sign().long()"),
    Chaff("5.10", "positive or not", "transformer.py", "reward.sign().long() + 1", "(reward > 0).long() + 1"),
    Chaff("5.10", "rewards of padding count", "transformer.py", REWARD, "reward = reward.sign().long() + 1"),
    Chaff("5.10", "the reward that led to the frame", "transformer.py", REWARD, f"{REWARD}.roll(1, 1)"),
    Chaff("5.10", "1 for going on", "transformer.py", END, END.replace("end.", "(~end).")),
    Chaff(
        "5.10",
        "what comes behind an end is ignored",
        "transformer.py",
        TOKEN,
        f"real = real & (end.cumsum(1) == end)\n    {TOKEN}",
    ),
]

# lines of exercise 5.11
LOOKED = "policy.look(tokens)"
AFTER = "after = policy.remember(seen[:, t], state)"
KEEP = "torch.where(real[:, t].view(-1, *[1] * (new.ndim - 1)), new, old)"
KEPT = "state = {key: keep(after[key], state[key]) for key in state}"

# lines of exercise 5.12
GOES_ON = "discount * (~end).to(reward)"
LAST = "returns = [value[:, -1]]"
MIX = "(1 - lam) * value[:, t + 1] + lam * returns[-1]"
RETURN = "reward[:, t] + goes_on[:, t] * after"

# lines of exercise 5.13
LOG_PROBS = "logits[:, :-1].log_softmax(-1)"
CUT = "value, returns = value[:, :-1], returns[:, :-1].detach()"
CHOSEN = "log_probs.gather(-1, action[:, :-1, None]).squeeze(-1)"
ACTOR = "-(chosen * (returns - value.detach())).mean()"
CRITIC = "(value - returns).square().mean()"
ENTROPY = "entropy_scale * (log_probs.exp() * log_probs).sum(-1).mean()"

BEHAVIOUR_CHAFFS = [
    # ---- 5.11 ----
    Chaff("5.11", "padding is remembered like a frame", "actor_critic.py", KEPT, "state = after"),
    Chaff(
        "5.11",
        "padding is a frame of zeros",
        "actor_critic.py",
        WHOLE,
        """
        state, seen = policy.initial(len(tokens)), policy.look(tokens * real[..., None])
        for t in range(tokens.shape[1]):
            state = policy.remember(seen[:, t], state)
        return state
        """,
    ),
    Chaff(
        "5.11",
        "padding forgets all",
        "actor_critic.py",
        KEPT,
        "state = {key: keep(after[key], old) for key, old in policy.initial(len(tokens)).items()}",
    ),
    Chaff("5.11", "the mask the other way round", "actor_critic.py", "new, old)\n", "old, new)\n"),
    Chaff(
        "5.11",
        "a frame counts for all where it is real in any sequence",
        "actor_critic.py",
        KEEP,
        "new if real[:, t].any() else old",
    ),
    Chaff("5.11", "the mask lies along the last axis", "actor_critic.py", KEEP, "torch.where(real[:, t], new, old)"),
    Chaff(
        "5.11",
        "the mask is a factor: whole numbers are none any more",
        "actor_critic.py",
        KEEP,
        "old + real[:, t].view(-1, *[1] * (new.ndim - 1)).float() * (new - old)",
    ),
    Chaff(
        "5.11",
        "from the last frame to the first",
        "actor_critic.py",
        "range(tokens.shape[1])",
        "reversed(range(tokens.shape[1]))",
    ),
    Chaff(
        "5.11",
        "every frame is remembered by itself",
        "actor_critic.py",
        AFTER,
        AFTER.replace("state)", "policy.initial(len(tokens)))"),
    ),
    Chaff(
        "5.11",
        "frames are looked at one by one",
        "actor_critic.py",
        LOOKED,
        "torch.stack([policy.look(each) for each in tokens.unbind(1)], 1)",
    ),
    Chaff(
        "5.11",
        "gradient flows into what happened",
        "actor_critic.py",
        WHOLE,
        """
        with torch.enable_grad():
            state, seen = policy.initial(len(tokens)), policy.look(tokens)
            for t in range(tokens.shape[1]):
                after = policy.remember(seen[:, t], state)
                for key, old in state.items():
                    state[key] = torch.where(real[:, t].view(-1, *[1] * (old.ndim - 1)), after[key], old)
            return state
        """,
    ),
    # ---- 5.12 ----
    Chaff("5.12", "the value of the state itself", "actor_critic.py", "value[:, t + 1]", "value[:, t]"),
    Chaff(
        "5.12", "lam and 1 - lam are swapped", "actor_critic.py", MIX, "lam * value[:, t + 1] + (1 - lam) * returns[-1]"
    ),
    Chaff("5.12", "the next step's reward", "actor_critic.py", "reward[:, t] +", "reward[:, t + 1] +"),
    Chaff("5.12", "the next step's end", "actor_critic.py", "goes_on[:, t]", "goes_on[:, t + 1]"),
    Chaff("5.12", "ends do not count", "actor_critic.py", GOES_ON, "discount * torch.ones_like(reward)"),
    Chaff(
        "5.12",
        "an end cuts off its own reward",
        "actor_critic.py",
        RETURN,
        "(~end[:, t]) * (reward[:, t] + discount * after)",
    ),
    Chaff(
        "5.12",
        "an end cuts off the next value, not the next return",
        "actor_critic.py",
        WHOLE,
        """
        goes_on, returns = discount * (~end).to(reward), [value[:, -1]]
        for t in reversed(range(reward.shape[1] - 1)):
            one_step = reward[:, t] + goes_on[:, t] * (1 - lam) * value[:, t + 1]
            returns.append(one_step + discount * lam * returns[-1])
        return torch.stack(returns[::-1], 1)
        """,
    ),
    Chaff("5.12", "no discount", "actor_critic.py", GOES_ON, "(~end).to(reward)"),
    Chaff("5.12", "one step", "actor_critic.py", MIX, "value[:, t + 1]"),
    Chaff("5.12", "all steps (Monte Carlo)", "actor_critic.py", MIX, "returns[-1]"),
    Chaff("5.12", "0 behind the last step", "actor_critic.py", LAST, "returns = [0 * value[:, -1]]"),
    Chaff("5.12", "the last step's reward for its value", "actor_critic.py", LAST, "returns = [reward[:, -1]]"),
    Chaff(
        "5.12",
        "the last step's reward and end count, too",
        "actor_critic.py",
        LAST,
        "returns = [reward[:, -1] + goes_on[:, -1] * value[:, -1]]",
    ),
    Chaff("5.12", "from the last to the first", "actor_critic.py", "returns[::-1]", "returns"),
    # ---- 5.13 ----
    Chaff("5.13", "the advantage moves the value", "actor_critic.py", "value.detach()", "value"),
    Chaff("5.13", "the returns are moved", "actor_critic.py", "returns[:, :-1].detach()", "returns[:, :-1]"),
    Chaff("5.13", "what is good becomes unlikely", "actor_critic.py", ACTOR, ACTOR[1:]),
    Chaff("5.13", "no baseline", "actor_critic.py", "(returns - value.detach())", "returns"),
    Chaff(
        "5.13",
        "advantages of mean 0 and variance 1",
        "actor_critic.py",
        CUT,
        f"{CUT}\n    returns = value.detach() + nn.functional.layer_norm((returns - value).detach(), returns.shape)",
    ),
    Chaff("5.13", "the probability, not its logarithm", "actor_critic.py", CHOSEN, f"{CHOSEN}.exp()"),
    Chaff(
        "5.13",
        "a softmax whose logarithm overflows",
        "actor_critic.py",
        LOG_PROBS,
        "logits[:, :-1].softmax(-1).log()",
    ),
    Chaff("5.13", "half of the square", "actor_critic.py", CRITIC, f"0.5 * {CRITIC}"),
    Chaff("5.13", "a sum over the steps", "actor_critic.py", ACTOR, ACTOR.replace("mean()", "sum(1).mean()")),
    Chaff("5.13", "more entropy is a higher loss", "actor_critic.py", ENTROPY, f"-{ENTROPY}"),
    Chaff("5.13", "entropy_scale is not used", "actor_critic.py", "entropy_scale * ", ""),
    Chaff("5.13", "the entropy's mean over the actions", "actor_critic.py", "sum(-1).mean()", "mean()"),
    Chaff(
        "5.13",
        "the entropy of the action that was taken",
        "actor_critic.py",
        ENTROPY,
        "entropy_scale * chosen.mean()",
    ),
    Chaff(
        "5.13",
        "no gradient through the entropy's probabilities",
        "actor_critic.py",
        "log_probs.exp() *",
        "log_probs.exp().detach() *",
    ),
    Chaff(
        "5.13",
        "the last step counts, too",
        "actor_critic.py",
        WHOLE,
        """
        log_probs, returns = logits.log_softmax(-1), returns.detach()
        chosen = log_probs.gather(-1, action[..., None]).squeeze(-1)
        return {
            "actor": -(chosen * (returns - value.detach())).mean(),
            "critic": (value - returns).square().mean(),
            "entropy": entropy_scale * (log_probs.exp() * log_probs).sum(-1).mean(),
        }
        """,
    ),
    Chaff(
        "5.13",
        "the first step is left out, not the last",
        "actor_critic.py",
        WHOLE,
        """
        log_probs, value, returns = logits[:, 1:].log_softmax(-1), value[:, 1:], returns[:, 1:].detach()
        chosen = log_probs.gather(-1, action[:, 1:, None]).squeeze(-1)
        return {
            "actor": -(chosen * (returns - value.detach())).mean(),
            "critic": (value - returns).square().mean(),
            "entropy": entropy_scale * (log_probs.exp() * log_probs).sum(-1).mean(),
        }
        """,
    ),
]

# lines of exercise 5.14
FULL = "self.caches[0].size + 1 + (places if next_frame else 0) > self.model.room"
ANEW = "self.reset(frame)"
READ_ACTION = "predicted = self.model(action[:, None], self.caches)"
REWARDED = "sample(predicted.reward[:, 0], temperature)"
ENDED = "sample(predicted.end[:, 0], temperature).bool()"
DRAW = "sample(predicted.token[:, 0], temperature)"
READ_TOKEN = "predicted = self.model(tokens[-1][:, None], self.caches)"
DREAMED = "return Imagined(torch.stack(tokens, 1), reward, end)"

DREAM_CHAFFS = [
    # ---- 5.14 ----
    Chaff("5.14", "the likeliest tokens", "sample.py", DRAW, "predicted.token[:, 0].argmax(-1)"),
    Chaff("5.14", "an end where it is likelier than not", "sample.py", ENDED, "predicted.end[:, 0].argmax(-1).bool()"),
    Chaff("5.14", "tokens without the temperature", "sample.py", DRAW, DRAW.replace(", temperature", "")),
    Chaff("5.14", "reward without the temperature", "sample.py", REWARDED, REWARDED.replace(", temperature", "")),
    Chaff("5.14", "times the temperature", "sample.py", DRAW, DRAW.replace("temperature", "1 / temperature")),
    Chaff("5.14", "rewards 0, 1, 2", "sample.py", f"{REWARDED}.float() - 1", f"{REWARDED}.float()"),
    Chaff(
        "5.14",
        "the last token is not read",
        "sample.py",
        f"            {READ_TOKEN}",
        f"            if len(tokens) < places:\n                {READ_TOKEN}",
    ),
    Chaff(
        "5.14",
        "all tokens are drawn at once, where the action was read",
        "sample.py",
        READ_TOKEN,
        READ_TOKEN.removeprefix("predicted = "),
    ),
    Chaff(
        "5.14",
        "the present frame is read once more",
        "sample.py",
        READ_ACTION,
        "predicted = self.model(torch.cat([frame, action[:, None]], 1), self.caches)",
    ),
    Chaff("5.14", "the next frame, asked for or not", "sample.py", "not next_frame", "False"),
    Chaff("5.14", "never anew", "sample.py", f"if {FULL}", "if False"),
    Chaff("5.14", "anew where the room is just enough", "sample.py", FULL, FULL.replace(">", ">=")),
    Chaff("5.14", "the action needs no room", "sample.py", FULL, FULL.replace("size + 1 +", "size +")),
    Chaff(
        "5.14",
        "a frame that is not asked for needs room",
        "sample.py",
        FULL,
        FULL.replace("(places if next_frame else 0)", "places"),
    ),
    Chaff("5.14", "anew with nothing", "sample.py", ANEW, "self.caches = self.model.caches(len(frame))"),
    Chaff(
        "5.14",
        "the oldest frame is forgotten, not all",
        "sample.py",
        ANEW,
        "block = places + 1\n"
        "            for cache in self.caches:\n"
        "                cache.keys, cache.values = cache.keys.roll(-block, 2), cache.values.roll(-block, 2)\n"
        "                cache.size -= block",
    ),
    Chaff(
        "5.14",
        "anew behind the step, with the next frame",
        "sample.py",
        WHOLE,
        """
        places = self.model.places
        predicted = self.model(action[:, None], self.caches)
        reward = sample(predicted.reward[:, 0], temperature).float() - 1
        end = sample(predicted.end[:, 0], temperature).bool()
        if not next_frame:
            return Imagined(None, reward, end)
        tokens = []
        for _ in range(places):
            tokens.append(sample(predicted.token[:, 0], temperature))
            predicted = self.model(tokens[-1][:, None], self.caches)
        if self.caches[0].size + 1 + places > self.model.room:
            self.reset(torch.stack(tokens, 1))
        return Imagined(torch.stack(tokens, 1), reward, end)
        """,
    ),
    Chaff(
        "5.14",
        "an end begins all worlds anew",
        "sample.py",
        DREAMED,
        f"if end.any():\n            self.reset(torch.stack(tokens, 1))\n        {DREAMED}",
    ),
]

# lines of exercise 5.15
STOP = "int(rng.integers(1, frames + 1))"
START = "int(rng.integers(frames))"
FROM = "max(0, stop - length), stop"
UP_TO = "start, min(frames, start + length)"

# lines of exercise 5.17
LINEAR = "[layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]"
OTHERS = "[each for each in model.parameters() if id(each) not in decayed]"
GROUPS = '[{"params": linear, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]'

TRAINING_CHAFFS = [
    # ---- 5.15 ----
    Chaff("5.15", "left and right are swapped", "segments.py", "if left", "if not left"),
    Chaff("5.15", "the last frame is never the first", "segments.py", START, "int(rng.integers(max(1, frames - 1)))"),
    Chaff(
        "5.15",
        "to the right as long as can be, always",
        "segments.py",
        START,
        "int(rng.integers(max(1, frames - length + 1)))",
    ),
    Chaff(
        "5.15",
        "to the left as long as can be, always",
        "segments.py",
        STOP,
        "int(rng.integers(min(length, frames), frames + 1))",
    ),
    Chaff("5.15", "a piece may be empty", "segments.py", STOP, "int(rng.integers(frames + 1))"),
    Chaff("5.15", "the last frame is never the last", "segments.py", STOP, "int(rng.integers(1, max(frames, 2)))"),
    Chaff("5.15", "the start is before the episode", "segments.py", FROM, "stop - length, stop"),
    Chaff("5.15", "the stop is behind the episode", "segments.py", UP_TO, "start, start + length"),
    Chaff("5.15", "the stop is the last frame", "segments.py", UP_TO, "start, min(frames, start + length) - 1"),
    Chaff(
        "5.15",
        "to the left, too, the start is uniform",
        "segments.py",
        WHOLE,
        "start = int(rng.integers(frames))\nreturn start, min(frames, start + length)",
    ),
    Chaff(
        "5.15",
        "both sides draw, one is taken",
        "segments.py",
        WHOLE,
        """
        start, stop = int(rng.integers(frames)), int(rng.integers(1, frames + 1))
        return (max(0, stop - length), stop) if left else (start, min(frames, start + length))
        """,
    ),
    Chaff("5.15", "numpy's own chance", "segments.py", START, "np.random.randint(frames)"),
    # ---- 5.16 ----
    Chaff("5.16", "an epoch too early", "schedule.py", "epoch > epochs", "epoch >= epochs"),
    Chaff("5.16", "an epoch too late", "schedule.py", "epoch > epochs", "epoch > epochs + 1"),
    Chaff(
        "5.16",
        "so many epochs after the one before it",
        "schedule.py",
        WHOLE,
        """
        due, after = [], 0
        for name, epochs in start_after.items():
            after += epochs
            if epoch > after:
                due.append(name)
        return due
        """,
    ),
    Chaff(
        "5.16",
        "the newest alone",
        "schedule.py",
        WHOLE,
        "return [name for name, epochs in start_after.items() if epoch > epochs][-1:]",
    ),
    Chaff(
        "5.16",
        "where one does not learn yet, none behind it does",
        "schedule.py",
        WHOLE,
        """
        due = []
        for name, epochs in start_after.items():
            if epoch <= epochs:
                break
            due.append(name)
        return due
        """,
    ),
    Chaff(
        "5.16",
        "in the order of their beginnings",
        "schedule.py",
        "start_after.items()",
        "sorted(start_after.items(), key=lambda each: each[1])",
    ),
    Chaff("5.16", "0 is never", "schedule.py", "epoch > epochs", "0 < epochs < epoch"),
    # ---- 5.17 ----
    Chaff(
        "5.17", "all matrices decay", "schedule.py", LINEAR, "[each for each in model.parameters() if each.ndim > 1]"
    ),
    Chaff(
        "5.17",
        "all that is called weight decays",
        "schedule.py",
        LINEAR,
        '[each for name, each in model.named_parameters() if name.endswith("weight")]',
    ),
    Chaff(
        "5.17",
        "biases of linear layers decay, too",
        "schedule.py",
        LINEAR,
        "[each for layer in model.modules() if isinstance(layer, nn.Linear) for each in layer.parameters()]",
    ),
    Chaff("5.17", "tables decay, too", "schedule.py", "nn.Linear)", "nn.Linear | nn.Embedding)"),
    Chaff("5.17", "convolutions decay, too", "schedule.py", "nn.Linear)", "nn.Linear | nn.Conv2d)"),
    Chaff("5.17", "only layers that lie at the top", "schedule.py", "model.modules()", "model.children()"),
    Chaff(
        "5.17",
        "the decayed ones are among the others, too",
        "schedule.py",
        OTHERS,
        "list(model.parameters())",
    ),
    Chaff(
        "5.17",
        "of the others, those of known layers alone",
        "schedule.py",
        OTHERS,
        "[each for layer in model.modules() if isinstance(layer, nn.LayerNorm | nn.Embedding | nn.Linear | nn.Conv2d)"
        " for each in layer.parameters(recurse=False) if id(each) not in decayed]",
    ),
    Chaff(
        "5.17",
        "the groups are swapped",
        "schedule.py",
        GROUPS,
        '[{"params": others, "weight_decay": weight_decay}, {"params": linear, "weight_decay": 0.0}]',
    ),
    Chaff(
        "5.17",
        "the others by AdamW's own decay",
        "schedule.py",
        GROUPS,
        '[{"params": linear, "weight_decay": weight_decay}, {"params": others}]',
    ),
    Chaff(
        "5.17",
        "copies of the weights",
        "schedule.py",
        '"params": linear',
        '"params": [each.detach().clone() for each in linear]',
    ),
]

CHAFFS = [*TOKENIZER_CHAFFS, *WORLD_CHAFFS, *BEHAVIOUR_CHAFFS, *DREAM_CHAFFS, *TRAINING_CHAFFS]
