"""The world model: a Transformer that reads tokens and actions, and says what comes next (paper, section 2.2).

A frame is `places` tokens and the action taken on it: a block. The sequence is blocks one behind the other.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


def attend(
    q: Float[Tensor, "batch heads new size"],
    k: Float[Tensor, "batch heads all size"],
    v: Float[Tensor, "batch heads all size"],
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads new size"]:
    """Causal attention: the queries are the LAST `new` of `all` positions, and each sees itself and what is before it.

    Weights softmax(q . k / sqrt(size)) over the positions seen; `dropout` is the share of the weights that is
    dropped, the others growing to make up for it, as in nn.Dropout.
    """
    ### BEGIN SOLUTION 5.6: look back, never ahead
    new, total = q.shape[-2], k.shape[-2]
    if new in (1, total):  # the newest sees all; a whole sequence is what torch has a quick way for
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=new > 1)
    seen = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    ### END SOLUTION


class KVCache:
    """Keys and values of the positions read so far, so that they are computed once: one layer's.

    Attributes: `keys`, `values` (batch, heads, room, size), of which the first `size` positions are filled; `room`.
    """

    def __init__(
        self,
        keys: Float[Tensor, "batch heads room size"],
        values: Float[Tensor, "batch heads room size"],
        filled: int = 0,
    ):
        self.keys, self.values, self.room, self.size = keys, values, keys.shape[2], filled

    def append(
        self, k: Float[Tensor, "batch heads new size"], v: Float[Tensor, "batch heads new size"]
    ) -> tuple[Float[Tensor, "batch heads all size"], Float[Tensor, "batch heads all size"]]:
        """Write new positions behind those in it, and count them; returns keys and values of all, the new ones last.

        Raises ValueError where there is no room for them: nothing is overwritten.
        """
        ### BEGIN SOLUTION 5.7: what was read is kept
        new = k.shape[2]
        if self.size + new > self.room:
            raise ValueError(f"the cache has room for {self.room} positions, and {self.size} + {new} are too many")
        self.keys[:, :, self.size : self.size + new] = k
        self.values[:, :, self.size : self.size + new] = v
        self.size += new
        return self.keys[:, :, : self.size], self.values[:, :, : self.size]
        ### END SOLUTION


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): 789,760 parameters at width 256."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch new width"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch new width"]:
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if cache is not None:
            k, v = cache.append(k, v)
        seen = attend(q, k, v, self.dropout if self.training else 0.0).transpose(1, 2).flatten(2)
        x = x + self.drop(self.proj(seen))
        return x + self.mlp(self.norm2(x))


@functools.cache
def head_positions(new: int, before: int, places: int, kind: str) -> Int[Tensor, " n"]:
    """At which of `new` positions, read after `before` others, a head speaks: indices into the new ones, from 0.

    A block has places + 1 positions; its last is the action's. The head of kind "token" speaks where the next position
    holds a token: everywhere but on a frame's LAST token, behind which comes an action, which nobody predicts. Reward
    and end (kind "outcome") are told on the action.
    """
    ### BEGIN SOLUTION 5.8: who speaks where
    inside = (before + torch.arange(new)) % (places + 1)
    speaks = inside != places - 1 if kind == "token" else inside == places
    return speaks.nonzero().flatten()
    ### END SOLUTION


class Predicted(NamedTuple):
    """Logits, at the positions where each head speaks."""

    token: Float[Tensor, "batch tokens codes"]
    reward: Float[Tensor, "batch actions 3"]  # of -1, 0, 1
    end: Float[Tensor, "batch actions 2"]  # of going on, of ending


class WorldModel(nn.Module):
    """Two tables of embeddings, learned positions, `layers` blocks, three heads: 8,447,493 parameters for 4 actions.

    Attributes: token_table, action_table (nn.Embedding; not the tokenizer's codebook), position_table, drop, blocks,
    norm, token_head, reward_head, end_head.
    """

    def __init__(
        self, codes: int, actions: int, places: int, frames: int, width: int, layers: int, heads: int, dropout: float
    ):
        super().__init__()
        self.places, self.room, self.heads = places, frames * (places + 1), heads
        self.token_table, self.action_table = nn.Embedding(codes, width), nn.Embedding(actions, width)
        self.position_table = nn.Embedding(self.room, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        head = lambda outputs: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
        self.token_head, self.reward_head, self.end_head = head(codes), head(3), head(2)
        self.apply(initialize)

    def caches(self, batch: int) -> list[KVCache]:
        """Empty ones, for all layers."""
        blank = self.position_table.weight.new_empty
        shape = batch, self.heads, self.room, self.position_table.embedding_dim // self.heads
        return [KVCache(blank(shape), blank(shape)) for _ in self.blocks]

    def embed(self, ids: Int[Tensor, "batch new"], before: int = 0) -> Float[Tensor, "batch new width"]:
        """What the blocks read of the sequence's positions before, before + 1, ...: an embedding and its position's.

        Which table an id is looked up in is told by where it stands, and by nothing else: the last position of every
        block holds an action, all others a frame's token.
        """
        ### BEGIN SOLUTION 5.9: two tables
        position = before + torch.arange(ids.shape[1], device=ids.device)
        is_action = (position % (self.places + 1) == self.places)[None, :, None]
        tokens = self.token_table(ids.clamp(max=self.token_table.num_embeddings - 1))
        actions = self.action_table(ids.clamp(max=self.action_table.num_embeddings - 1))
        return torch.where(is_action, actions, tokens) + self.position_table(position)
        ### END SOLUTION

    def forward(self, ids: Int[Tensor, "batch new"], caches: list[KVCache] | None = None) -> Predicted:
        """ids: tokens and actions, in the order of the sequence; with caches, those behind what the caches hold."""
        before = caches[0].size if caches else 0
        x = self.drop(self.embed(ids, before))
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None)
        x = self.norm(x)
        speaks = lambda kind: x[:, head_positions(ids.shape[1], before, self.places, kind).to(x.device)]
        outcome = speaks("outcome")
        return Predicted(self.token_head(speaks("token")), self.reward_head(outcome), self.end_head(outcome))


def initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


IGNORED = -100  # the label of what is not counted, as torch's cross_entropy has it


class Labels(NamedTuple):
    token: Int[Tensor, "batch labels"]
    reward: Int[Tensor, "batch frames"]
    end: Int[Tensor, "batch frames"]


def world_model_labels(
    tokens: Int[Tensor, "batch frames places"],
    reward: Float[Tensor, "batch frames"],
    end: Bool[Tensor, "batch frames"],
    real: Bool[Tensor, "batch frames"],
) -> Labels:
    """What the heads should say of a sequence of frames, given the reward and end that FOLLOWED each frame's action.

    - token: every token but the very first, in order: frames * places - 1 labels. The logits, frames * places of them,
      are the same but for the last, whose label lies beyond the sequence
    - reward: 0, 1, 2 for a negative, no, or positive reward; end: 0 or 1
    - frames that are padding (not real) have IGNORED everywhere
    """
    ### BEGIN SOLUTION 5.10: what comes next
    token = tokens.masked_fill(~real[..., None], IGNORED).flatten(1)[:, 1:]
    reward = (reward.sign().long() + 1).masked_fill(~real, IGNORED)
    return Labels(token, reward, end.long().masked_fill(~real, IGNORED))
    ### END SOLUTION


def world_model_losses(predicted: Predicted, labels: Labels) -> dict[str, Float[Tensor, ""]]:
    """{"token", "reward", "end"}: the cross entropies, each the mean over what is counted."""
    entropy = lambda logits, label: F.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=IGNORED)
    return {
        "token": entropy(predicted.token[:, :-1], labels.token),
        "reward": entropy(predicted.reward, labels.reward),
        "end": entropy(predicted.end, labels.end),
    }
