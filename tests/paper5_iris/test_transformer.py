"""The world model: attention, its cache, embeddings, heads, labels. Exercises 5.6 to 5.10."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paper5_iris import transformer
from paper5_iris.transformer import IGNORED, KVCache, Labels, Predicted, WorldModel
from tests.helpers import expect_close, golden, numbers

CODES, ACTIONS, PLACES, FRAMES = 7, 5, 4, 3  # of the small world model
ROOM = FRAMES * (PLACES + 1)
PAPER = (16, 20, 256, 10, 4, 0.1)  # places, frames, width, layers, heads, dropout


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_model(codes: int = CODES, actions: int = ACTIONS, dropout: float = 0.0, std: float = 0.5) -> WorldModel:
    """A small world model whose weights are so large that everything matters."""
    model = WorldModel(codes, actions, PLACES, FRAMES, 12, 2, 3, dropout)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval()


def make_ids(batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    """Tokens and actions, block by block."""
    tokens, action = torch.randint(CODES, (batch, frames, PLACES)), torch.randint(ACTIONS, (batch, frames, 1))
    return torch.cat([tokens, action], -1).flatten(1)


NAMES = {
    "transformer.blocks.": "blocks.",
    "transformer.ln_f.": "norm.",
    ".ln": ".norm",
    ".attn.query.": ".q.",
    ".attn.key.": ".k.",
    ".attn.value.": ".v.",
    ".attn.proj.": ".proj.",
    "pos_emb.": "position_table.",
    "embedder.embedding_tables.0.": "action_table.",
    "embedder.embedding_tables.1.": "token_table.",
    "head_observations.head_module.": "token_head.",
    "head_rewards.head_module.": "reward_head.",
    "head_ends.head_module.": "end_head.",
}


def official_model() -> tuple[WorldModel, dict[str, torch.Tensor]]:
    """The official weights, and their example: 7 codes, 3 actions, 3 frames of 4 tokens; in evaluation."""
    g, weights = official("iris_world_model_causal"), {}
    for key, value in g.items():
        if key.startswith("param."):
            name = key.removeprefix("param.")
            for theirs, ours in NAMES.items():
                name = name.replace(theirs, ours)
            weights[name] = value
    model = WorldModel(7, 3, 4, 3, 16, 2, 2, 0.1)
    model.load_state_dict(weights)
    return model.eval(), g


# ---- 5.6 attend ----


def attention_written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, wrong: str = "") -> torch.Tensor:
    """Exponentials and sums; `wrong` names a mistake to make."""
    size, new, total = q.shape[-1], q.shape[-2], k.shape[-2]
    scale = {"no scale": 1, "by size": size, "by all": total**0.5, "by the width": (size * q.shape[1]) ** 0.5}
    scores = torch.einsum("bhis,bhjs->bhij", q, k) / scale.get(wrong, size**0.5)
    at, seen = torch.arange(total - new, total)[:, None], torch.arange(total)
    mask = {"top left": seen <= at - (total - new), "ahead": seen <= at + 1, "not itself": seen < at.clamp(min=1)}
    mask = mask.get(wrong, seen <= at)
    if wrong == "all":
        mask = torch.ones_like(mask)
    weights = scores.exp()
    if wrong == "mask too late":
        weights = mask * weights / weights.sum(-1, keepdim=True)
    elif wrong == "zeros":
        weights = (scores * mask).exp()
        weights = weights / weights.sum(-1, keepdim=True)
    else:
        weights = weights * mask
        weights = weights / weights.sum(-2 if wrong == "axis" else -1, keepdim=True)
    return torch.einsum("bhij,bhjs->bhis", weights, v)


ATTENTION_MISTAKES = {
    "ahead": "a position sees the one behind it, too",
    "not itself": "a position sees itself, too",
    "axis": "the softmax is over the queries: it is over the positions seen",
    "by the width": "the scores are divided by sqrt(heads * size): a head divides by the root of its own size",
    "by all": "the scores are divided by the root of how many positions there are: it is that of `size`",
    "by size": "the scores are divided by size: it is its square root",
    "no scale": "the scores are not divided by sqrt(size)",
    "zeros": "a score of 0 hides nothing: exp(0) is 1",
    "mask too late": "what is hidden is taken away behind the softmax: the weights no longer sum to 1",
    "top left": "the queries are the LAST positions: query i sees up to position all - new + i",
    "all": "nothing is hidden: a position is not to see what comes behind it",
}


def attention_mistakes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> dict[tuple[float, ...], str]:
    """Those that make a difference here."""
    right = numbers(attention_written_out(q, k, v))
    wrong = {numbers(attention_written_out(q, k, v, wrong)): text for wrong, text in ATTENTION_MISTAKES.items()}
    return {value: text for value, text in wrong.items() if not np.allclose(value, right, 1e-3)}


def hand_made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores of 0, ln 3, ln 4 (twice that, divided by sqrt(4)), and values that show the weights."""
    k = torch.zeros(1, 1, 3, 4)
    k[0, 0, :, 0] = torch.tensor([1.0, 3.0, 4.0]).log()
    q = torch.zeros(1, 1, 3, 4)
    q[..., 0] = 2.0
    return q, k, torch.eye(3, 4).view(1, 1, 3, 4)


@pytest.mark.exercise(id="5.6")
@pytest.mark.parametrize("new", [1, 2, 3])
def test_attention_by_hand(new):
    """Of 1, 3 and 4, position 0 sees the first, position 1 weighs 1 : 3, position 2 weighs 1 : 3 : 4; the queries are
    the last of these."""
    q, k, v = hand_made()
    q = q[:, :, -new:]
    expected = torch.tensor([[[[1.0, 0, 0, 0], [0.25, 0.75, 0, 0], [0.125, 0.375, 0.5, 0]]]])[:, :, -new:]
    found = transformer.attend(q, k, v)
    expect_close(found, expected, mistakes=attention_mistakes(q, k, v), what=f"what {new} of 3 positions get")


@pytest.mark.exercise(id="5.6")
@pytest.mark.parametrize(("new", "total"), [(1, 1), (1, 7), (2, 7), (3, 5), (6, 7), (7, 7), (2, 2)])
def test_attention_agrees_with_the_equation(new, total):
    """Two sequences, three heads of four numbers; in float64; no tensor is changed; its gradients, too."""
    q, k, v = (torch.randn(2, 3, length, 4, dtype=torch.float64) for length in (new, total, total))
    before = [each.clone() for each in (q, k, v)]
    found, expected = transformer.attend(q, k, v), attention_written_out(q, k, v)
    expect_close(found, expected, rtol=1e-9, atol=1e-10, mistakes=attention_mistakes(q, k, v), what="what is seen")
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True)), "the caller's tensors are changed"
    weight = torch.randn_like(found)
    leaves = [each.requires_grad_() for each in (q, k, v)]
    found, expected = (
        torch.autograd.grad((each(q, k, v) * weight).sum(), leaves, allow_unused=True, materialize_grads=True)
        for each in (transformer.attend, attention_written_out)
    )
    for name, one, other in zip("qkv", found, expected, strict=True):
        mistakes = {0.0: "no gradient: nothing is detached here"} if other.abs().max() > 1e-6 else {}
        expect_close(one, other, rtol=1e-6, atol=1e-8, mistakes=mistakes, what=f"gradient in {name}")


@pytest.mark.exercise(id="5.6")
@pytest.mark.parametrize(("new", "total"), [(6, 6), (4, 6), (2, 6)])
def test_attention_never_looks_ahead(new, total):
    """Change the key and the value at one position, however much: those before it do not move, all others do."""
    q, k, v = (torch.randn(2, 3, length, 4) for length in (new, total, total))
    found = transformer.attend(q, k, v)
    for at in range(total):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, at] += 3.0
        other_v[:, :, at] += 100.0
        moved = (transformer.attend(q, other_k, other_v) - found).abs().amax((0, 1, 3)) > 1e-4
        expected = [total - new + i >= at for i in range(new)]
        who = (moved.nonzero().flatten() + total - new).tolist()
        assert moved.tolist() == expected, f"of {total} positions, asked by the last {new}, {at} is seen by {who}"


@pytest.mark.exercise(id="5.6")
def test_sequences_and_heads_do_not_mix():
    q, k, v = (torch.randn(2, 3, length, 4) for length in (2, 5, 5))
    found = transformer.attend(q, k, v)
    for row in range(2):
        for head in range(3):
            some = slice(row, row + 1), slice(head, head + 1)
            alone = transformer.attend(q[some], k[some], v[some])
            expect_close(found[some], alone, what=f"head {head} of sequence {row} alone")


@pytest.mark.exercise(id="5.6")
def test_a_sequence_is_the_same_in_pieces():
    """The last two of seven, as a query of two, are what they are among all seven."""
    q, k, v = (torch.randn(2, 3, 7, 4) for _ in range(3))
    whole = transformer.attend(q, k, v)
    for start in range(1, 7):
        found = transformer.attend(q[:, :, start:], k, v)
        expect_close(found, whole[:, :, start:], what=f"positions {start} to 6 on their own")
        found = transformer.attend(q[:, :, :start], k[:, :, :start], v[:, :, :start])
        expect_close(found, whole[:, :, :start], what=f"positions 0 to {start - 1} alone")


@pytest.mark.exercise(id="5.6")
@pytest.mark.parametrize("new", [64, 5, 1])
def test_dropout_drops_weights(new):
    """Three in ten of them; those left count for as much more. Every value has two numbers that are the same: they have
    one weight. Chance is allowed six standard deviations."""
    q, k, v = torch.zeros(4, 4, new, 128), torch.randn(4, 4, 64, 128), torch.eye(64).repeat(1, 2).expand(4, 4, 64, 128)
    plain = transformer.attend(q, k, v)
    found = transformer.attend(q, k, v, 0.3)
    assert torch.equal(found[..., :64], found[..., 64:]), "numbers of the result are dropped: it is weights"
    seen = plain[..., :64] > 0
    found = (found / plain.where(plain > 0, torch.ones(())))[..., :64]
    assert not found[~seen].any()
    share = (found[seen] == 0).double().mean().item()
    spread = 6 * (0.3 * 0.7 / int(seen.sum())) ** 0.5
    text = {True: "dropout is not used", False: "of the weights 30% are to be dropped"}[share == 0]
    assert abs(share - 0.3) < spread, f"{share:.1%} of the weights are dropped: {text}"
    kept = found[seen & (found != 0)]
    expect_close(
        kept, 1 / 0.7, mistakes={1.0: "the weights left are not made up for: 1 / (1 - dropout)"}, what="the rest"
    )


@pytest.mark.exercise(id="5.6")
def test_nothing_is_dropped_unless_it_is_asked_for():
    q, k, v = (torch.randn(2, 2, 6, 4) for _ in range(3))
    assert torch.equal(transformer.attend(q, k, v), transformer.attend(q, k, v, 0.0)), "dropout is 0 unless it is given"


@pytest.mark.exercise(id="5.6")
def test_attention_agrees_with_the_official_code():
    """Two heads of 8, with the layers around it; and its gradient in what they read."""
    g = official("iris_self_attention")
    x, heads = g["x"].requires_grad_(), int(g["heads"])
    layer = lambda name, x: F.linear(x, g[f"param.{name}.weight"], g[f"param.{name}.bias"])
    split = lambda name: layer(name, x).unflatten(-1, (heads, -1)).transpose(1, 2)
    q, k, v = split("query"), split("key"), split("value")
    y = layer("proj", transformer.attend(q, k, v).transpose(1, 2).flatten(2))
    mistakes = {
        numbers(layer("proj", attention_written_out(q, k, v, wrong).transpose(1, 2).flatten(2))): text
        for wrong, text in ATTENTION_MISTAKES.items()
        if wrong != "top left"
    }
    expect_close(y, g["y"], mistakes=mistakes, what="the layer's output")
    (found,) = torch.autograd.grad((y * g["upstream"]).sum(), x)
    expect_close(found, g["grad_x"], what="gradient in what the layer reads")


# ---- 5.7 KVCache.append ----

STALE = 99.0  # what is in a cache behind its size, from before


def make_cache(room: int = 7, filled: int = 0) -> KVCache:
    """Of two sequences and three heads of four numbers."""
    keys, values = torch.full((2, 3, room, 4), STALE), torch.full((2, 3, room, 4), STALE)
    keys[:, :, :filled], values[:, :, :filled] = torch.randn(2, 2, 3, filled, 4)
    return KVCache(keys, values, filled)


def some(new: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, new, 4), torch.randn(2, 3, new, 4)


def check_returned(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Exactly these, and told apart from the usual mistakes."""
    size = expected.shape[2]
    if found.shape[2] != size:
        raise AssertionError(f"{what} of {found.shape[2]} positions come back: those of all {size} in it are wanted")
    assert not (found == STALE).any(), f"{what} that were never written come back: the new ones go right behind the old"
    assert torch.equal(found, expected), f"the {what} that come back are not those written: the old ones, then the new"


@pytest.mark.exercise(id="5.7")
@pytest.mark.parametrize("pieces", [(7,), (1, 2, 3, 1), (4, 1, 1), (1,) * 7])
def test_cache_keeps_what_it_was_given(pieces):
    """Piece by piece; the last one may fill it. What is behind its size stays as it was."""
    cache = make_cache()
    keys, values = torch.zeros(2, 3, 0, 4), torch.zeros(2, 3, 0, 4)
    for new in pieces:
        k, v = some(new)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        before = k.clone(), v.clone()
        found = cache.append(k, v)
        assert len(found) == 2
        size = keys.shape[2]
        assert cache.size == size, f"{size} positions are in it, and `size` says {cache.size}"
        assert not torch.equal(found[0], values), "keys and values are swapped"
        check_returned(found[0], keys, "keys")
        check_returned(found[1], values, "values")
        assert torch.equal(k, before[0]), "the caller's keys are changed"
        assert torch.equal(v, before[1]), "the caller's values are changed"
        for name, expected in (("keys", keys), ("values", values)):
            kept = getattr(cache, name)
            assert kept.shape == (2, 3, 7, 4), f"`{name}` have room for 7 positions all the time"
            assert torch.equal(kept[:, :, :size], expected), f"`{name}` do not hold what was given"
            assert (kept[:, :, size:] == STALE).all(), f"`{name}` are written behind the size"
    assert cache.room == 7


@pytest.mark.exercise(id="5.7")
def test_cache_may_have_something_in_it_to_begin_with():
    cache = make_cache(room=6, filled=3)
    old, (k, v) = (cache.keys.clone(), cache.values.clone()), some(2)
    found = cache.append(k, v)
    assert cache.size == 5, f"there were 3 positions in it, and 2 are new: `size` says {cache.size}"
    check_returned(found[0], torch.cat([old[0][:, :, :3], k], 2), "keys")
    check_returned(found[1], torch.cat([old[1][:, :, :3], v], 2), "values")


@pytest.mark.exercise(id="5.7")
@pytest.mark.parametrize(("room", "filled", "new"), [(5, 3, 3), (5, 5, 1), (5, 0, 6), (5, 4, 5), (1, 1, 1)])
def test_cache_without_room_says_so(room, filled, new):
    """And is what it was: nothing in it is overwritten, its size stays, and what fits can still be appended."""
    cache = make_cache(room, filled)
    keys, values = cache.keys.clone(), cache.values.clone()
    with pytest.raises(ValueError):
        cache.append(*some(new))
    assert cache.size == filled, f"the size is {cache.size}, and was {filled}: nothing was appended"
    assert torch.equal(cache.keys, keys), "keys are overwritten: look whether there is room first"
    assert torch.equal(cache.values, values), "values are overwritten: look whether there is room first"
    if filled < room:
        k, v = some(room - filled)
        found = cache.append(k, v)
        check_returned(found[0], torch.cat([keys[:, :, :filled], k], 2), "keys")
        check_returned(found[1], torch.cat([values[:, :, :filled], v], 2), "values")


@pytest.mark.exercise(id="5.7")
def test_cache_has_its_own_copy():
    """What the caller does to the tensors afterwards is no matter; and two caches are two."""
    one, other, (k, v) = make_cache(), make_cache(), some(2)
    kept = k.clone(), v.clone()
    one.append(k, v)
    k.zero_(), v.zero_()
    found = one.append(*some(1))
    assert torch.equal(found[0][:, :, :2], kept[0]), "the cache holds the caller's tensor: it is to write into its own"
    assert torch.equal(found[1][:, :, :2], kept[1]), "the cache holds the caller's tensor: it is to write into its own"
    assert other.size == 0
    assert (other.keys == STALE).all()


@pytest.mark.exercise(id="5.7")
def test_cache_starts_anew_when_its_size_is_set_back():
    """As imagination does it: what was in it is not seen again."""
    cache = make_cache()
    cache.append(*some(6))
    cache = KVCache(cache.keys, cache.values)
    k, v = some(2)
    found = cache.append(k, v)
    check_returned(found[0], k, "keys")
    check_returned(found[1], v, "values")


# ---- 5.8 head_positions ----


@pytest.mark.exercise(id="5.8")
@pytest.mark.parametrize(
    ("new", "before", "kind", "expected", "mistakes"),
    [
        (
            5,
            0,
            "token",
            [0, 1, 2, 4],
            {(0, 1, 2, 3): "the last token is left out, not the action: what comes BEHIND it?"},
        ),
        (
            5,
            0,
            "outcome",
            [4],
            {3: "reward and end are told on the action, not on the last token", 0: "an action stands last"},
        ),
        (
            4,
            3,
            "token",
            [1, 2, 3],
            {
                (4, 5, 6): "they are indices into the new positions, from 0: these count all",
                (0, 1, 2): "what was read before is left out of account",
            },
        ),
        (4, 3, "outcome", [1], {4: "they are indices into the new positions, from 0: these count all"}),
        (6, 9, "token", [0, 1, 2, 3, 5], {(0, 1, 2, 4, 5): "what was read before is left out of account"}),
        (6, 9, "outcome", [0, 5], {(9, 14): "they are indices into the new positions, from 0: these count all"}),
    ],
)
def test_heads_speak_where_something_follows_by_hand(new, before, kind, expected, mistakes):
    """Frames of four tokens: positions 0 to 3, and 4, the action. On 3 no token is predicted: an action follows."""
    found = transformer.head_positions(new, before, PLACES, kind)
    expect_close(found, expected, mistakes=mistakes, what=f"where {kind} heads speak among {new} behind {before}")


@pytest.mark.exercise(id="5.8")
@pytest.mark.parametrize(
    ("before", "token", "outcome"),
    [(0, [0], []), (14, [0], []), (15, [], []), (16, [0], [0]), (17, [0], []), (32, [], []), (33, [0], [0])],
)
def test_one_position_at_a_time(before, token, outcome):
    """As one dreams: 16 tokens and an action. On the action of position 16 all heads speak, on the 16th token none."""
    for kind, expected in (("token", token), ("outcome", outcome)):
        found = transformer.head_positions(1, before, 16, kind)
        assert found.tolist() == expected, f"on position {before}, head of kind {kind!r}: {found.tolist()}"


@pytest.mark.exercise(id="5.8")
@pytest.mark.parametrize(("places", "steps"), [(4, 15), (16, 340)])
def test_every_token_but_the_first_is_predicted_once(places, steps):
    """In a sequence of whole frames; the last action predicts one more, which lies beyond."""
    found = transformer.head_positions(steps, 0, places, "token")
    frames = steps // (places + 1)
    assert len(found) == frames * places
    predicted = found + 1
    expected = [at for at in range(1, steps + 1) if at % (places + 1) != places]
    assert predicted.tolist() == expected
    assert transformer.head_positions(steps, 0, places, "outcome").tolist() == list(range(places, steps, places + 1))


@pytest.mark.exercise(id="5.8")
@pytest.mark.parametrize(("places", "some"), [(4, range(40)), (1, (0, 1, 2, 5, 39)), (16, (1, 2, 18, 39))])
def test_heads_speak_where_they_should_however_much_was_read(places, some):
    """Up to 39 positions behind up to 39 others, against position by position; a frame may be a single token."""
    block = ["token"] * places + ["action"]
    sequence = block * 80
    speaks = {
        "token": [behind == "token" for behind in sequence[1:80]],
        "outcome": [here == "action" for here in sequence[:79]],
    }
    for kind, speaking in speaks.items():
        for before in range(40):
            for new in some:
                found = transformer.head_positions(new, before, places, kind).tolist()
                expected = [i for i in range(new) if speaking[before + i]]
                what = f"{kind} heads, {new} new positions behind {before}, frames of {places} tokens"
                assert found == expected, f"{what}: {found}, not {expected}"


@pytest.mark.exercise(id="5.8")
def test_heads_speak_where_the_official_ones_do():
    """16 questions each, of blocks of 5 and of 4."""
    g = official("iris_slicer")
    for case, places in (("c0", 4), ("c1", 3)):
        for i, (new, before) in enumerate(g[f"{case}_queries"].tolist()):
            for theirs, kind in (("obs", "token"), ("act", "outcome")):
                found = transformer.head_positions(new, before, places, kind)
                what = f"{kind} heads, {new} positions behind {before}"
                expect_close(found, g[f"{case}_{theirs}_{i}"], atol=0, what=what)


# ---- 5.9 WorldModel.embed ----


def embedded(model: WorldModel, ids: torch.Tensor, before: int = 0, wrong: str = "") -> torch.Tensor:
    """Position by position; `wrong` names a mistake to make."""
    tables = [table.weight.detach().double() for table in (model.token_table, model.action_table, model.position_table)]
    rows = []
    for row in ids.tolist():
        columns = []
        for i, id in enumerate(row):
            at = i if wrong == "kinds anew" else before + i
            inside = at % (PLACES + 1)
            is_action = inside == (0 if wrong == "action first" else PLACES)
            table = tables[0] if wrong == "one table" or not is_action else tables[1]
            if wrong == "swapped":
                table = tables[0] if is_action else tables[1]
            place = {"positions anew": i, "inside": inside, "frame": at // (PLACES + 1)}.get(wrong, before + i)
            position = torch.zeros(()) if wrong == "no position" else tables[2][place]
            columns.append(table[min(id, len(table) - 1)] + position)
        rows.append(torch.stack(columns))
    return torch.stack(rows)


EMBED_MISTAKES = {
    "frame": "the position is that in the whole sequence, not the frame's number",
    "inside": "the position is that in the whole sequence, not that inside of a block",
    "no position": "the positions' embeddings are not added",
    "one table": "actions are looked up among the tokens: they have a table of their own",
    "swapped": "the tables are swapped",
    "action first": "an action stands LAST in its block",
    "kinds anew": "whether a position holds an action depends on `before`, too",
    "positions anew": "positions go on behind `before`: they begin at 0 again here",
}


def embed(model: WorldModel, ids: torch.Tensor, before: int = 0) -> torch.Tensor:
    try:
        return model.embed(ids, before)
    except IndexError as error:
        raise AssertionError("an id is looked up where there is none like it: in the OTHER table?") from error


@pytest.mark.exercise(id="5.9")
@pytest.mark.parametrize(("before", "new"), [(0, ROOM), (0, 1), (4, 1), (3, 1), (4, 3), (7, 8), (5, 6), (14, 1)])
def test_embedding_agrees_with_the_tables(before, new):
    """Row by row, position by position; nothing is changed."""
    model, ids = make_model(), make_ids()[:, before : before + new]
    kept = ids.clone()
    mistakes = {
        numbers(embedded(model, ids, before, wrong)): text
        for wrong, text in EMBED_MISTAKES.items()
        if numbers(embedded(model, ids, before, wrong)) != numbers(embedded(model, ids, before))
    }
    found = embed(model, ids, before)
    expect_close(found, embedded(model, ids, before), mistakes=mistakes, what=f"embeddings of {new} behind {before}")
    assert torch.equal(ids, kept), "the caller's ids are changed"
    if before == 0:
        assert torch.equal(model.embed(ids), found), "before is 0 unless it is given"


@pytest.mark.exercise(id="5.9")
@pytest.mark.parametrize(("codes", "actions"), [(9, 3), (3, 9), (1, 6), (6, 1)])
def test_there_may_be_more_codes_than_actions_and_more_actions_than_codes(codes, actions):
    """Every id is looked up in its own table only: in the other one there may be none like it."""
    model = make_model(codes, actions)
    ids = torch.full((2, ROOM), codes - 1)
    ids[:, PLACES :: PLACES + 1] = actions - 1
    expect_close(embed(model, ids), embedded(model, ids), what="embeddings")
    for before in range(ROOM):
        found = embed(model, ids[:, before : before + 1], before)
        expect_close(found, embedded(model, ids)[:, before : before + 1], what=f"embedding of position {before}")


@pytest.mark.exercise(id="5.9")
def test_the_same_number_is_a_token_here_and_an_action_there():
    """Where it stands tells which, and nothing else does: 2 in all places."""
    model = make_model()
    found = embed(model, torch.full((1, ROOM), 2)) - model.position_table.weight[None, :ROOM]
    token, action = model.token_table.weight[2], model.action_table.weight[2]
    for at in range(ROOM):
        mistakes = {
            numbers(action): "a token is looked up among the actions",
            numbers(token): "an action is looked up among the tokens",
        }
        right = action if at % (PLACES + 1) == PLACES else token
        expect_close(found[0, at], right, mistakes=mistakes, what=f"embedding of position {at}")


@pytest.mark.exercise(id="5.9")
def test_an_id_moves_its_own_position_only():
    model, ids = make_model(), make_ids()
    found = embed(model, ids)
    for at in range(ROOM):
        other = ids.clone()
        other[1, at] = (ids[1, at] + 1) % (ACTIONS if at % (PLACES + 1) == PLACES else CODES)
        moved = (embed(model, other) - found).abs().amax(-1) > 1e-6
        assert moved.nonzero().tolist() == [[1, at]], f"the id at {at} moves {moved.nonzero().tolist()} (row, position)"


@pytest.mark.exercise(id="5.9")
def test_tables_learn_from_the_ids_looked_up_in_them():
    """Rows that no id looked up, and positions that were not read, have no gradient."""
    model = make_model()
    ids = torch.tensor([[6, 1, 0, 0, 3], [1, 1, 5, 0, 4]])
    weight = torch.randn(2, 5, 12)
    tables = [model.token_table.weight, model.action_table.weight, model.position_table.weight]
    found = embed(model, ids, before=5)
    assert found.requires_grad, "no gradient flows into the tables"
    gradients = torch.autograd.grad((found * weight).sum(), tables, allow_unused=True, materialize_grads=True)
    expected = [np.zeros(table.shape) for table in tables]
    for row in range(2):
        for i in range(5):
            expected[1 if i == 4 else 0][ids[row, i]] += weight[row, i].numpy()
            expected[2][5 + i] += weight[row, i].numpy()
    for name, one, other in zip(("token_table", "action_table", "position_table"), gradients, expected, strict=True):
        expect_close(one, other, mistakes={0.0: "no gradient"}, what=f"gradient in {name}")


@pytest.mark.exercise(id="5.9")
def test_nothing_is_dropped_in_the_embedding():
    """`forward` does that, once."""
    model, ids = make_model(dropout=0.5).train(), make_ids()
    mistakes = {0.0: "this is dropped"}
    expect_close(embed(model, ids), embedded(model, ids), mistakes=mistakes, what="embeddings while training")


@pytest.mark.exercise(id="5.9")
def test_embedding_agrees_with_the_official_code():
    """All at once, and from every position on."""
    model, g = official_model()
    expect_close(embed(model, g["tokens"]), g["embeddings"], what="embeddings")
    for before in range(1, 15):
        found = embed(model, g["tokens"][:, before:], before)
        expect_close(found, g["embeddings"][:, before:], what=f"embeddings from position {before} on")


# ---- 5.10 world_model_labels ----


def make_episode(batch: int = 3, frames: int = 4, places: int = 5) -> tuple[torch.Tensor, ...]:
    """Tokens, rewards of all signs and sizes, ends, and what is real: padded behind, in all rows but the first."""
    tokens = torch.randint(CODES, (batch, frames, places))
    reward = torch.randn(batch, frames) * torch.randint(0, 3, (batch, frames)) * 4
    real = torch.arange(frames) < frames - torch.arange(batch)[:, None]
    return tokens, reward, torch.rand(batch, frames) < 0.4, real


def labels_written_out(tokens, reward, end, real) -> Labels:
    batch, frames, places = tokens.shape
    token = [
        [int(tokens[b, t, k]) if real[b, t] else IGNORED for t in range(frames) for k in range(places) if t + k > 0]
        for b in range(batch)
    ]
    sign = lambda r: 2 if r > 0 else 0 if r < 0 else 1
    each = lambda f: [[f(b, t) if real[b, t] else IGNORED for t in range(frames)] for b in range(batch)]
    rewards, ends = each(lambda b, t: sign(reward[b, t])), each(lambda b, t: int(end[b, t]))
    return Labels(torch.tensor(token), torch.tensor(rewards), torch.tensor(ends))


@pytest.mark.exercise(id="5.10")
def test_labels_are_the_tokens_one_further():
    """Tokens that are numbered: of three frames of 16 the labels are 1 to 47. The first one, 0, is never predicted; of
    the second sequence it is 48."""
    tokens = torch.arange(96).view(2, 3, 16)
    real = torch.ones(2, 3, dtype=torch.bool)
    found = transformer.world_model_labels(tokens, torch.zeros(2, 3), ~real, real)
    expected = np.stack([np.arange(1, 48), np.arange(49, 96)])
    flat = tokens.flatten(1)
    mistakes = {
        numbers(flat[:, :-1]): "the LAST token is left out: it is the first that nobody predicts",
        numbers(flat.flatten()[1:-1].view(2, 47)): "sequences run into each other: each loses its own first token",
    }
    expect_close(found.token, expected, atol=0, mistakes=mistakes, what="labels of the tokens")


@pytest.mark.exercise(id="5.10")
def test_labels_of_rewards_are_their_signs():
    """0, 1, 2 for less than nothing, nothing, more than nothing, however little or much."""
    reward = torch.tensor([[-7.0, -1.0, -0.01, 0.0], [0.01, 0.4, 1.0, 7.0], [-0.0, 1e-8, -1e9, 1e9]])
    real, end = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    found = transformer.world_model_labels(torch.zeros(3, 4, 2, dtype=torch.long), reward, end, real)
    expected = np.array([[0, 0, 0, 1], [2, 2, 2, 2], [1, 2, 0, 2]])
    mistakes = {
        numbers(expected - 1): "labels are 0, 1, 2: the sign and 1",
        numbers(2 - expected): "they are the other way round: 0 for a negative reward",
        numbers(reward.clamp(-1, 1).long() + 1): "a reward of 0.4 is positive, too: its sign counts",
        numbers(reward.clamp(-1, 1).round().long() + 1): "a reward of 0.4 is positive, too: its sign counts",
        numbers(reward.long() + 1): "the reward itself is no label: its sign counts",
        numbers(np.where(expected == 0, 1, expected)): "negative rewards have a label of their own",
        numbers(np.zeros((3, 4))): "these are the labels of the ends: rewards and ends are swapped",
    }
    expect_close(found.reward, expected, atol=0, mistakes=mistakes, what="labels of the rewards")


@pytest.mark.exercise(id="5.10")
def test_labels_of_ends_are_0_and_1():
    """The same frame's: what FOLLOWED its action."""
    end = torch.tensor([[False, False, True], [True, False, False]])
    real = torch.ones(2, 3, dtype=torch.bool)
    found = transformer.world_model_labels(torch.zeros(2, 3, 2, dtype=torch.long), torch.ones(2, 3), end, real)
    expected = [[0, 0, 1], [1, 0, 0]]
    mistakes = {
        numbers(1 - np.array(expected)): "1 is an end, 0 is going on",
        2.0: "these are the labels of the rewards: rewards and ends are swapped",
    }
    expect_close(found.end, expected, atol=0, mistakes=mistakes, what="labels of the ends")


@pytest.mark.exercise(id="5.10")
@pytest.mark.parametrize("padding", ["behind", "in front", "anywhere", "none"])
@pytest.mark.parametrize(("frames", "places"), [(4, 5), (5, 1), (1, 3)])
def test_labels_agree_with_what_is_written_out(frames, places, padding):
    """Three sequences; padded frames are ignored, wherever they are; nothing is changed."""
    tokens, reward, end, real = make_episode(3, frames, places)
    real = {
        "behind": real,
        "in front": real.flip(1),
        "anywhere": torch.rand(3, frames) < 0.5,
        "none": torch.ones_like(real),
    }[padding]
    inputs = (tokens, reward, end, real)
    before = [each.clone() for each in inputs]
    found = transformer.world_model_labels(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)), "the caller's tensors are changed"
    expected = labels_written_out(*inputs)
    everything = labels_written_out(tokens, reward, end, torch.ones_like(real))
    padded = labels_written_out(tokens, reward, end, ~real)
    for name in ("token", "reward", "end"):
        right = getattr(expected, name)
        mistakes = {
            numbers(getattr(everything, name)): "padded frames are not ignored",
            numbers(getattr(padded, name)): "it is the REAL frames that are ignored",
            numbers(right.where(right != IGNORED, torch.zeros(()))): "padded frames have 0: IGNORED is wanted",
        }
        mistakes.pop(numbers(right), None)
        expect_close(getattr(found, name), right, atol=0, mistakes=mistakes, what=f"labels: {name}")


@pytest.mark.exercise(id="5.10")
def test_noise_in_padded_frames_changes_no_label():
    tokens, reward, end, real = make_episode()
    found = transformer.world_model_labels(tokens, reward, end, real)
    noise, _, other_end, _ = make_episode()
    other = transformer.world_model_labels(
        tokens.where(real[..., None], noise), reward.where(real, torch.tensor(3.0)), end.where(real, ~other_end), real
    )
    for name in ("token", "reward", "end"):
        assert torch.equal(getattr(found, name), getattr(other, name)), f"{name}: what is in padded frames counts"


@pytest.mark.exercise(id="5.10")
def test_losses_take_the_labels():
    """Logits that say nothing cost ln 512 + ln 3 + ln 2 = 8.0301, and a padded frame nothing."""
    tokens = torch.randint(512, (2, 3, 16))
    real = torch.tensor([[True, True, True], [True, True, False]])
    labels = transformer.world_model_labels(tokens, torch.randn(2, 3), torch.rand(2, 3) < 0.5, real)
    predicted = Predicted(torch.zeros(2, 48, 512), torch.zeros(2, 3, 3), torch.zeros(2, 3, 2))
    losses = transformer.world_model_losses(predicted, labels)
    expect_close(sum(losses.values()), 8.0301, what="the sum of the losses")
    predicted = Predicted(*(each.requires_grad_() for each in predicted))
    leaves = list(predicted)
    gradients = torch.autograd.grad(sum(transformer.world_model_losses(predicted, labels).values()), leaves)
    counted = [each.abs().amax(-1) > 0 for each in gradients]
    expected = real[..., None].expand(2, 3, 16).flatten(1)[:, 1:]
    assert torch.equal(counted[0][:, :-1], expected), "token logits count that are of padding, or real ones do not"
    assert not counted[0][:, -1].any(), "the last token logits predict what lies beyond the sequence"
    assert torch.equal(counted[1], real), "reward logits of padded frames count, or real ones do not"
    assert torch.equal(counted[2], real), "end logits of padded frames count, or real ones do not"


@pytest.mark.exercise(id="5.10")
def test_labels_and_losses_agree_with_the_official_code():
    """From its logits; of six frames one is padded."""
    g = official("iris_world_model_causal")
    labels = transformer.world_model_labels(g["obs_tokens"], g["rewards"], g["ends"].bool(), g["mask_padding"])
    for name, theirs in (("token", "observations"), ("reward", "rewards"), ("end", "ends")):
        expect_close(getattr(labels, name).flatten(), g[f"labels_{theirs}"], atol=0, what=f"labels: {name}")
    predicted = Predicted(g["logits_observations"], g["logits_rewards"], g["logits_ends"])
    losses = transformer.world_model_losses(predicted, labels)
    for name, theirs in (("token", "obs"), ("reward", "rewards"), ("end", "ends")):
        expect_close(losses[name], g[f"loss_{theirs}"], what=f"loss: {name}")
    expect_close(sum(losses.values()), g["loss_total"], what="the sum of the losses")


# ---- given: WorldModel ----


@pytest.mark.parametrize(("actions", "parameters"), [(4, 8_447_493), (6, 8_448_005), (18, 8_451_077)])
def test_world_model_is_the_papers(actions, parameters):
    """Two tables of their own, 340 positions (a frame is 17), ten blocks, three heads: no reward is ever a token."""
    model = WorldModel(512, actions, *PAPER)
    assert count(model) == parameters
    assert model.token_table.weight.shape == (512, 256)
    assert model.action_table.weight.shape == (actions, 256)
    rows = len(model.position_table.weight)
    assert rows == 340, f"{rows} positions: 20 frames of 16 tokens AND an action are 340"
    assert [count(block) for block in model.blocks] == [789_760] * 10
    assert count(model.norm) == 512
    assert [count(head) for head in (model.token_head, model.reward_head, model.end_head)] == [197_376, 66_563, 66_306]
    assert [head[-1].out_features for head in (model.token_head, model.reward_head, model.end_head)] == [512, 3, 2]


def test_weights_begin_as_the_papers():
    """Linear layers and tables from N(0, .02), biases 0, norms 1 and 0; a fresh model knows as good as nothing."""
    model = WorldModel(512, 4, 16, 4, 128, 2, 4, 0.1).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            spread = 6 * 0.02 / (2 * module.weight.numel()) ** 0.5
            expect_close(module.weight.std(), 0.02, rtol=0, atol=spread, what=f"std of {name}")
        if isinstance(module, nn.Linear):
            assert (module.bias == 0).all(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    tokens, real = torch.randint(512, (3, 4, 16)), torch.ones(3, 4, dtype=torch.bool)
    action = torch.randint(4, (3, 4, 1))
    predicted = model(torch.cat([tokens, action], -1).flatten(1))
    losses = transformer.world_model_losses(
        predicted, transformer.world_model_labels(tokens, torch.randn(3, 4), ~real, real)
    )
    for name, classes in (("token", 512), ("reward", 3), ("end", 2)):
        expect_close(losses[name], math.log(classes), rtol=0.03, what=f"loss of a fresh model: {name}")


def test_world_model_agrees_with_the_official_code():
    """Embeddings, first block, all blocks, logits of the three heads, with all weights its own."""
    model, g = official_model()
    seen = {}
    model.blocks[0].register_forward_hook(lambda _, inputs, output: seen.update({"block0_out": output}))
    model.norm.register_forward_hook(lambda _, inputs, output: seen.update({"output": output}))
    predicted = model(g["tokens"])
    wrong = official("iris_world_model_block_causal")
    for name, found in seen.items():
        mistakes = {numbers(wrong[name]): "tokens of one frame see each other: every position sees what is before it"}
        expect_close(found, g[name], mistakes=mistakes, what=name)
    for name, theirs in (("token", "observations"), ("reward", "rewards"), ("end", "ends")):
        expect_close(getattr(predicted, name), g[f"logits_{theirs}"], what=f"logits: {name}")


def test_gradients_agree_with_the_official_code():
    """Of the whole loss, in the positions, in the actions, and in the first block's keys."""
    model, g = official_model()
    labels = transformer.world_model_labels(g["obs_tokens"], g["rewards"], g["ends"].bool(), g["mask_padding"])
    losses = transformer.world_model_losses(model(g["tokens"]), labels)
    expect_close(sum(losses.values()), g["loss_total"], what="the sum of the losses")
    sum(losses.values()).backward()
    for name, theirs in (
        ("position_table.weight", "pos_emb"),
        ("blocks.0.k.weight", "key0"),
        ("action_table.weight", "act_emb"),
    ):
        found = model.get_parameter(name).grad
        expect_close(found, g[f"grad_{theirs}"], atol=1e-6, what=f"gradient in {name}")


@torch.no_grad()
def test_cached_steps_agree_with_the_official_code():
    """A position at a time, and the first frame at once; what is in the first layer's cache, too."""
    model, g = official_model()
    for first in (1, 4):
        caches, outputs, logits = model.caches(2), [], []
        handle = model.norm.register_forward_hook(lambda _, inputs, output, to=outputs: to.append(output))
        for start, stop in [(0, first), *((at, at + 1) for at in range(first, 15))]:
            logits.append(model(g["tokens"][:, start:stop], caches))
        handle.remove()
        expect_close(torch.cat(outputs, 1), g["cache1_output" if first == 1 else "cacheK_output"], what="output")
        for i, theirs in enumerate(("observations", "rewards", "ends")):
            found = torch.cat([each[i] for each in logits], 1)
            expect_close(found, g[f"cache1_logits_{theirs}"], what=f"logits of the {theirs}")
        expect_close(caches[0].keys, g["cache_k0"], what="keys of the first layer")
        expect_close(caches[0].values, g["cache_v0"], what="values of the first layer")


def in_pieces(model: WorldModel, ids: torch.Tensor, cuts: list[int]) -> Predicted:
    """The logits of a sequence that is read piece by piece, through caches."""
    caches = model.caches(len(ids))
    pieces = [model(ids[:, start:stop], caches) for start, stop in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True)]
    assert all(cache.size == ids.shape[1] for cache in caches)
    return Predicted(*(torch.cat(each, 1) for each in zip(*pieces, strict=True)))


@torch.no_grad()
def test_what_is_cached_is_what_would_be_computed():
    """To 1e-5, wherever a sequence is cut: in two, in three, and position by position."""
    model, ids = make_model(), make_ids(batch=3)
    whole = model(ids)
    assert whole.token.shape == (3, FRAMES * PLACES, CODES)
    cuts = [[at] for at in range(1, ROOM)] + [[2, 9], [4, 5], [5, 10], [6, 7], list(range(1, ROOM))]
    for cut in cuts:
        for name, one, other in zip(Predicted._fields, in_pieces(model, ids, cut), whole, strict=True):
            expect_close(one, other, rtol=0, atol=1e-5, what=f"{name} logits, cut at {cut}")


@torch.no_grad()
def test_twenty_frames_fill_the_cache():
    """A dream of the paper's length: 16 tokens, then 17 positions for each step, and the last action: 340 exactly. For
    one more there is no room."""
    model = WorldModel(30, 4, 16, 20, 8, 2, 2, 0.1).eval()
    caches, ids = model.caches(2), torch.randint(4, (2, 340))
    model(ids[:, :16], caches)
    for step in range(1, 20):
        assert [cache.size for cache in caches] == [17 * step - 1] * 2
        model(ids[:, 17 * step - 1 : 17 * step], caches)
        model(ids[:, 17 * step : 17 * step + 16], caches)
    last = model(ids[:, 339:], caches)
    assert [cache.size for cache in caches] == [340, 340]
    whole = model(ids)
    assert [each.shape for each in whole] == [(2, 320, 30), (2, 20, 3), (2, 20, 2)]
    for name, one, other in zip(Predicted._fields, last, whole, strict=True):
        expect_close(one[:, 0], other[:, -1], rtol=0, atol=1e-5, what=f"{name} logits at the last position")
    with pytest.raises(ValueError):
        caches[0].append(torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 1, 4))


@torch.no_grad()
def test_heads_of_one_cached_position():
    """On an action all speak, on the first token the token head, on the last one none."""
    model = WorldModel(30, 4, 16, 3, 8, 1, 2, 0.0).eval()
    ids, caches = torch.randint(4, (2, 51)), model.caches(2)
    for at in range(51):
        found = [each.shape[1] for each in model(ids[:, at : at + 1], caches)]
        inside = at % 17
        expected = [1, 1, 1] if inside == 16 else [0, 0, 0] if inside == 15 else [1, 0, 0]
        assert found == expected, f"logits of tokens, rewards and ends on position {at}: {found}"


def test_caches_are_empty_and_each_layers_own():
    model = make_model().double()
    caches = model.caches(5)
    assert len(caches) == 2
    assert [(cache.size, cache.room) for cache in caches] == [(0, ROOM)] * 2
    assert {cache.keys.shape for cache in caches} | {cache.values.shape for cache in caches} == {(5, 3, ROOM, 4)}
    assert {cache.keys.dtype for cache in caches} == {torch.float64}
    assert len({each.data_ptr() for cache in caches for each in (cache.keys, cache.values)}) == 4


@torch.no_grad()
def test_nothing_is_seen_ahead():
    """Change an id: logits of the positions before it do not move, some at it and behind it do."""
    model, ids = make_model(), make_ids()
    spoken = {
        "token": transformer.head_positions(ROOM, 0, PLACES, "token"),
        "reward": transformer.head_positions(ROOM, 0, PLACES, "outcome"),
        "end": transformer.head_positions(ROOM, 0, PLACES, "outcome"),
    }
    found = model(ids)
    for at in range(ROOM):
        other = ids.clone()
        other[:, at] = (ids[:, at] + 1) % ACTIONS
        changed = model(other)
        for name, positions in spoken.items():
            moved = (getattr(changed, name) - getattr(found, name)).abs().amax((0, 2)) > 1e-5
            ahead = positions[moved & (positions < at)].tolist()
            assert not ahead, f"the id at {at} moves {name} logits on {ahead}"
            still = positions[~moved & (positions >= at)].tolist()
            assert not still, f"the id at {at} does not move {name} logits on {still}"


@torch.no_grad()
def test_reward_and_end_are_told_on_the_action():
    """Another action in frame 1: its own reward moves, that of frame 0 does not. Other tokens in frame 2: the reward of
    frame 1 does not move."""
    model, ids = make_model(), make_ids()
    found, other = model(ids), ids.clone()
    other[:, 9] = (ids[:, 9] + 1) % ACTIONS
    changed = model(other)
    for name in ("reward", "end"):
        moved = (getattr(changed, name) - getattr(found, name)).abs().amax((0, 2)) > 1e-5
        assert moved.tolist() == [False, True, True], f"the action of frame 1 moves the {name} logits of frames {moved}"
    other = ids.clone()
    other[:, 10:14] = (ids[:, 10:14] + 1) % CODES
    changed = model(other)
    for name in ("reward", "end"):
        moved = (getattr(changed, name) - getattr(found, name)).abs().amax((0, 2)) > 1e-5
        assert moved.tolist() == [False, False, True], f"tokens of frame 2 move the {name} logits of frames {moved}"


@torch.no_grad()
def test_sequences_do_not_mix():
    """Neither at once nor in the cache."""
    model, ids = make_model(), make_ids(batch=3)
    whole, stepped = model(ids), in_pieces(model, ids, [4, 5, 9])
    for row in range(3):
        alone, alone_stepped = model(ids[row : row + 1]), in_pieces(model, ids[row : row + 1], [4, 5, 9])
        for i, name in enumerate(Predicted._fields):
            expect_close(whole[i][row], alone[i][0], what=f"{name} logits of sequence {row}")
            expect_close(stepped[i][row], alone_stepped[i][0], what=f"{name} logits of sequence {row}, cached")


def test_dropout_is_that_of_training(monkeypatch):
    """0.1 of the embedding, of attention's weights, of what it adds, of what the mlp adds; in evaluation none."""
    model, given = WorldModel(CODES, ACTIONS, PLACES, FRAMES, 12, 2, 3, 0.1), []
    attend = transformer.attend
    monkeypatch.setattr(
        transformer, "attend", lambda q, k, v, dropout=0.0: given.append(dropout) or attend(q, k, v, dropout)
    )
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.1] * 5
    used = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: used.append(module))
    ids = make_ids()
    model.train()(ids)
    assert given == [0.1, 0.1]
    assert set(used) == set(layers)
    assert not torch.equal(model(ids).token, model(ids).token), "nothing is dropped in training"
    given.clear()
    model.eval()
    assert torch.equal(model(ids).token, model(ids).token), "something is dropped in evaluation"
    assert given == [0.0] * 4


@torch.no_grad()
def test_dreams_of_the_same_tokens_are_the_same():
    """In evaluation two caches that read the same say the same."""
    model, ids = make_model(dropout=0.5), make_ids()
    one, other = (in_pieces(model, ids, list(range(1, ROOM))) for _ in range(2))
    for name, a, b in zip(Predicted._fields, one, other, strict=True):
        assert torch.equal(a, b), f"{name} logits differ: dropout is left on"


def test_block_normalizes_first():
    """x + attention(norm1(x)), then x + mlp(norm2(x)); GELU is the exact one. With proj and the mlp's last layer at 0 x
    goes through."""
    block = transformer.Block(8, 2, 0.0).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    h = block.norm1(x)
    q, k, v = (layer(h).view(2, 5, 2, 4).transpose(1, 2) for layer in (block.q, block.k, block.v))
    middle = x + block.proj(attention_written_out(q, k, v).transpose(1, 2).reshape(2, 5, 8))
    hidden = block.mlp[0](block.norm2(middle))
    hidden = hidden * 0.5 * (1 + (hidden / 2**0.5).erf())
    expect_close(block(x), middle + block.mlp[2](hidden), rtol=1e-8, atol=1e-9, what="what comes out of the block")
    with torch.no_grad():
        for layer in (block.proj, block.mlp[2]):
            layer.weight.zero_(), layer.bias.zero_()
    assert torch.equal(block(x), x)


# ---- given: losses ----


def test_losses_are_means_over_what_counts():
    """Each over its own: of 3 x 4 frames, 9 are real."""
    tokens, reward, end, real = make_episode(places=PLACES)
    labels = transformer.world_model_labels(tokens, reward, end, real)
    predicted = Predicted(torch.randn(3, 16, CODES), torch.randn(3, 4, 3), torch.randn(3, 4, 2))
    losses = transformer.world_model_losses(predicted, labels)
    for name, logits in zip(Predicted._fields, predicted, strict=True):
        terms = []
        for row, each in enumerate(getattr(labels, name).tolist()):
            for i, label in enumerate(each):
                if label != IGNORED:
                    terms.append(-logits[row, i].double().log_softmax(-1)[label].item())
        assert len(terms) == {"token": 9 * PLACES - 3, "reward": 9, "end": 9}[name]
        expected = sum(terms) / len(terms)
        total = 3 * (15 if name == "token" else 4)
        mistakes = {sum(terms): "it is the sum", sum(terms) / total: "the mean is over padded frames, too"}
        expect_close(losses[name], expected, mistakes=mistakes, what=f"loss: {name}")


def test_noise_in_padded_frames_changes_no_loss_and_no_gradient():
    """Through the whole model: other tokens, actions, rewards and ends behind the end of a sequence."""
    model, found = make_model(), []
    tokens, reward, end, real = make_episode(3, FRAMES, PLACES)
    action = torch.randint(ACTIONS, (3, FRAMES, 1))
    for noisy in (False, True):
        if noisy:
            noise, other_reward, other_end, _ = make_episode(3, FRAMES, PLACES)
            tokens, action = tokens.where(real[..., None], noise), action.where(real[..., None], 0 * action)
            reward, end = reward.where(real, other_reward - 1), end.where(real, ~other_end)
        labels = transformer.world_model_labels(tokens, reward, end, real)
        losses = transformer.world_model_losses(model(torch.cat([tokens, action], -1).flatten(1)), labels)
        gradients = torch.autograd.grad(sum(losses.values()), list(model.parameters()))
        found.append((losses, gradients))
    (losses, gradients), (other_losses, other_gradients) = found
    for name in losses:
        expect_close(other_losses[name], losses[name], rtol=1e-6, what=f"loss {name!r}, with noise in the padding")
    for (name, _), one, other in zip(model.named_parameters(), other_gradients, gradients, strict=True):
        expect_close(one, other, atol=1e-6, what=f"gradient in {name}, with noise in the padding")


def test_labels_are_of_the_positions_where_heads_speak():
    """The k-th label of a sequence is the id behind the position where the head speaks for the k-th time."""
    tokens, reward, end, real = make_episode(2, FRAMES, PLACES)
    ids = torch.cat([tokens, torch.full((2, FRAMES, 1), 77)], -1).flatten(1)
    labels = transformer.world_model_labels(tokens, reward, end, torch.ones_like(real))
    positions = transformer.head_positions(ROOM, 0, PLACES, "token")
    assert torch.equal(labels.token, ids[:, positions[:-1] + 1])
    assert positions[-1] + 1 == ROOM
