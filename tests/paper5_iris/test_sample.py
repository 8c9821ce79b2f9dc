"""A world in which everything is drawn token by token: exercise 5.14."""

import numpy as np
import pytest
import torch
from torch import nn

from common.video import write_video  # noqa: F401  imageio is slow to import: not within a test
from paper5_iris import sample as sample_module
from paper5_iris.actor_critic import CnnLstm
from paper5_iris.sample import ImaginedWorld, imagine, sample
from paper5_iris.transformer import KVCache, Predicted, WorldModel
from tests.helpers import expect_close, golden, numbers

CODES, ACTIONS = 11, 4
SURE = 1000.0  # a logit that leaves nothing to chance


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def share(found: torch.Tensor, classes: int) -> np.ndarray:
    return np.bincount(found.flatten().numpy(), minlength=classes) / found.numel()


# ---- sample: given ----


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.7311), (0.5, 0.8808), (2.0, 0.6225)])
def test_logits_are_divided_by_the_temperature(temperature, expected):
    """Of the logits (1, 0), in 40,000 draws: 6 standard deviations are 0.015 at most."""
    found = share(sample(torch.tensor([1.0, 0.0]).expand(40_000, 2), temperature), 2)
    mistakes = {0.6225: "multiplied", 1.0: "no sample: the likeliest"} if temperature == 0.5 else {}
    expect_close(found[0], expected, rtol=0, atol=0.015, mistakes=mistakes, what=f"share of class 0 at {temperature}")


def test_every_draw_is_one_of_its_own():
    p = torch.tensor([0.5, 0.2, 0.0, 0.3])
    found = sample(p.log().expand(200, 300, 4))
    assert found.shape == (200, 300)
    expect_close(share(found, 4), p, rtol=0, atol=0.0125, what="shares of four classes")
    assert len(set(map(tuple, found[:, :20].tolist()))) == 200


# ---- 5.14 ImaginedWorld.step ----


class Oracle(WorldModel):
    """A world model that leaves nothing to chance: what comes next is a number made of all that was read, and of where
    each of it stood. It takes down what it is asked, and how much the caches held before."""

    def __init__(self, places: int, room: int):
        nn.Module.__init__(self)
        self.places, self.room = places, room
        self.asked: list[list[list[int]]] = []
        self.held: list[int] = []

    def caches(self, batch):
        blank = lambda: torch.zeros(batch, 1, self.room, 1)
        return [KVCache(blank(), blank()) for _ in range(2)]

    def read(self, ids, caches):
        """Enter the ids into the caches, and return all that they hold."""
        new, held = ids.shape[1], caches[0].size
        assert held + new <= self.room, f"{held} positions are read, {new} more go beyond the room for {self.room}"
        for cache in caches:
            cache.keys[:, 0, held : held + new, 0] = ids.float()
            cache.size = held + new
        self.asked.append(ids.tolist())
        self.held.append(held)
        return caches[0].keys[:, 0, : held + new, 0]

    def forward(self, ids, caches=None):
        assert caches is not None, "the model is asked without the caches"
        read, held = self.read(ids, caches), caches[0].size - ids.shape[1]
        inside = (held + torch.arange(ids.shape[1])) % (self.places + 1)
        sums = (read * (1 + torch.arange(read.shape[1]) % 7)).cumsum(1)[:, held:].long()
        certain = lambda what, classes: SURE * nn.functional.one_hot(what % classes, classes).float()
        on_action = sums[:, inside == self.places]
        return Predicted(
            certain(sums[:, inside != self.places - 1], CODES), certain(on_action, 3), certain(on_action // 3, 2)
        )


def next_by_hand(read: list[int]) -> int:
    return sum(each * (1 + i % 7) for i, each in enumerate(read))


def step_by_hand(read: list[int], action: int, places: int) -> tuple[int, int, list[int]]:
    """(reward's class, end's class, tokens) of a step of `Oracle`; what is read goes into `read`."""
    read.append(action)
    told, tokens = next_by_hand(read), []
    for _ in range(places):
        tokens.append(next_by_hand(read) % CODES)
        read.append(tokens[-1])
    return told % 3, told // 3 % 2, tokens


def world_of(model: WorldModel, frame: torch.Tensor) -> ImaginedWorld:
    """One that has read a frame."""
    world = ImaginedWorld(model)
    world.reset(frame)
    return world


@pytest.mark.exercise(id="5.14")
@pytest.mark.parametrize("places", [1, 4, 16])
def test_a_step_reads_the_action_and_then_every_token(places):
    """1 + places calls of the model, each with one position: the last token is read, too."""
    model = Oracle(places, 20 * (places + 1))
    frame, action = torch.randint(CODES, (2, places)), torch.tensor([3, 1])
    world = world_of(model, frame)
    model.asked.clear()
    imagined = world.step(frame, action)
    shapes = [(len(ids), len(ids[0])) for ids in model.asked]
    assert all(shape == (2, 1) for shape in shapes), f"the model is asked with {shapes}: one position of each world"
    assert model.asked[0] == [[3], [1]], "first the model reads the action"
    why = "the last token is not read: the caches lack it" if len(shapes) == places else "they should be 1 + places"
    assert len(shapes) == 1 + places, f"{len(shapes)} calls of the model for {places} places; {why}"
    read = torch.tensor(model.asked[1:])[..., 0].T
    assert torch.equal(read, imagined.tokens), "the tokens that are read are not those that were drawn, in order"


@pytest.mark.exercise(id="5.14")
def test_what_the_model_is_sure_of_is_replayed():
    """Five steps of three worlds: each token depends on all that was read before it, and in every world on its own."""
    places, model = 5, Oracle(5, 40)
    frame, rng = torch.randint(CODES, (3, places)), np.random.default_rng(0)
    world, read = world_of(model, frame), [row.tolist() for row in frame]
    for k in range(5):
        action = torch.as_tensor(rng.integers(0, ACTIONS, 3))
        kept = frame.clone(), action.clone()
        imagined = world.step(frame, action)
        assert torch.equal(frame, kept[0]), "the caller's frame is changed"
        assert torch.equal(action, kept[1]), "the caller's action is changed"
        wanted = [step_by_hand(each, act, places) for each, act in zip(read, action.tolist(), strict=True)]
        reward, end, tokens = (np.array(each) for each in zip(*wanted, strict=True))
        mistakes = {numbers(reward): "the classes 0, 1, 2 stand for the rewards -1, 0, 1"}
        expect_close(imagined.reward, reward - 1.0, mistakes=mistakes, what=f"rewards of step {k}")
        mistakes = {numbers(1 - end): "class 1 is the end, class 0 going on"}
        expect_close(imagined.end, end, mistakes=mistakes, what=f"ends of step {k}")
        mistakes = {numbers(tokens[:, [0, *range(places - 1)]]): "the first token is drawn twice"}
        expect_close(imagined.tokens, tokens, mistakes=mistakes, what=f"tokens of step {k}")
        frame = imagined.tokens


@pytest.mark.exercise(id="5.14")
def test_rewards_are_numbers_and_ends_are_flags():
    model = Oracle(3, 400)
    frame, seen = torch.randint(CODES, (6, 3)), set()
    world = world_of(model, frame)
    for _ in range(10):
        imagined = world.step(frame, torch.randint(ACTIONS, (6,)))
        frame = imagined.tokens
        assert imagined.reward.is_floating_point(), f"rewards are of {imagined.reward.dtype}"
        assert imagined.end.dtype == torch.bool, f"ends are of {imagined.end.dtype}"
        assert imagined.tokens.dtype == torch.long, f"tokens are of {imagined.tokens.dtype}"
        assert (imagined.reward.shape, imagined.end.shape, imagined.tokens.shape) == ((6,), (6,), (6, 3))
        seen |= set(imagined.reward.tolist())
    assert seen == {-1.0, 0.0, 1.0}


@pytest.mark.exercise(id="5.14")
def test_without_a_next_frame_it_is_one_call():
    model, frame = Oracle(4, 50), torch.randint(CODES, (2, 4))
    whole = world_of(model, frame).step(frame, torch.tensor([3, 1]))
    world = world_of(model, frame)
    model.asked.clear()
    imagined = world.step(frame, torch.tensor([3, 1]), next_frame=False)
    assert model.asked == [[[3], [1]]], f"{len(model.asked)} calls of the model: reading the action is enough"
    assert world.caches[0].size == 5
    assert imagined.tokens is None
    expect_close(imagined.reward, whole.reward, what="rewards, without the next frame")
    expect_close(imagined.end, whole.end, what="ends, without the next frame")


@pytest.mark.exercise(id="5.14")
def test_twenty_steps_fill_the_papers_memory():
    """After k steps the caches hold 16 + 17 k positions, and with the action of the 20th step 340: exactly full."""
    model, frame = Oracle(16, 340), torch.randint(CODES, (2, 16))
    world, start = world_of(model, frame), frame
    for k in range(1, 20):
        frame = world.step(frame, torch.tensor([k % 4, 0])).tokens
        sizes = {cache.size for cache in world.caches}
        less = "the last token of a frame is not read" if sizes == {16 + 16 * k} else "there should be 16 + 17 k"
        assert sizes == {16 + 17 * k}, f"the caches hold {sizes} positions after {k} steps: {less}"
    world.step(frame, torch.tensor([1, 2]), next_frame=False)
    assert world.caches[0].size == 340, (
        f"the caches hold {world.caches[0].size} positions after the 20th action, which has room: 340"
    )
    assert model.asked.count(start.tolist()) == 1


@pytest.mark.exercise(id="5.14")
@pytest.mark.parametrize(("next_frame", "size"), [(True, 9), (False, 5)])
def test_full_caches_begin_anew_with_the_present_frame(next_frame, size):
    """Room for two frames with their actions, 10 positions: 4, 9, then there is no room for a third frame. All that was
    before is forgotten."""
    model, frame = Oracle(4, 10), torch.randint(CODES, (3, 4))
    world = world_of(model, frame)
    frame = world.step(frame, torch.tensor([1, 2, 0])).tokens
    if not next_frame:  # the tenth position is filled, too
        world.step(frame, torch.tensor([0, 0, 0]), next_frame=False)
    model.asked.clear()
    imagined = world.step(frame, torch.tensor([3, 1, 2]), next_frame=next_frame)
    assert model.asked[0] == frame.tolist(), "where there is no room, first the present frame is read anew"
    assert model.held[-len(model.asked)] == 0, "the caches are not emptied"
    assert model.asked[1] == [[3], [1], [2]], "then the action is read"
    assert {cache.size for cache in world.caches} == {size}
    wanted = [step_by_hand(row.tolist(), act, 4) for row, act in zip(frame, (3, 1, 2), strict=True)]
    expect_close(imagined.reward, [each[0] - 1.0 for each in wanted], what="rewards, after the memory is lost")
    if next_frame:
        expect_close(imagined.tokens, [each[2] for each in wanted], what="tokens, after the memory is lost")


@pytest.mark.exercise(id="5.14")
def test_caches_that_are_just_full_are_full_enough():
    """Room for 9: the frame, an action, the next frame. It fits."""
    model, frame = Oracle(4, 9), torch.randint(CODES, (1, 4))
    world = world_of(model, frame)
    world.step(frame, torch.tensor([1]))
    assert model.asked.count(frame.tolist()) == 1, "the caches begin anew though all has room"
    assert world.caches[0].size == 9


class Chance(Oracle):
    """A world model that says the same at every position: logits (1, 0, ..., impossible, ...) of each head."""

    def forward(self, ids, caches=None):
        self.read(ids, caches)
        ask = lambda *logits: torch.tensor(logits).expand(len(ids), ids.shape[1], len(logits))
        return Predicted(ask(0.0, -SURE, 1.0), ask(1.0, 0.0, -SURE), ask(0.0, 1.0))


@pytest.mark.exercise(id="5.14")
@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.7311), (0.5, 0.8808)])
def test_tokens_rewards_and_ends_are_drawn_with_the_temperature(temperature, expected):
    """The likelier of two, whose logits are 1 and 0, in 12,000 worlds: 6 standard deviations are 0.025."""
    frame = torch.zeros(12_000, 2, dtype=torch.long)
    world = world_of(Chance(2, 9), frame)
    options = {} if temperature == 1 else {"temperature": temperature}
    imagined = world.step(frame, torch.zeros(12_000, dtype=torch.long), **options)
    mistakes = {1.0: "the likeliest is taken: it should be drawn"}
    if temperature == 0.5:
        mistakes |= {0.7311: "the temperature is not used", 0.6225: "logits are DIVIDED by the temperature"}
    close = lambda found, what: expect_close(found, expected, rtol=0, atol=0.025, mistakes=mistakes, what=what)
    close((imagined.reward == -1).float().mean(), "share of the likelier reward")
    close(imagined.end.float().mean(), "share of the likelier end")
    for place in range(2):
        close((imagined.tokens[:, place] == 2).float().mean(), f"share of the likelier token in place {place}")
    both = (imagined.tokens == 2).all(1).float().mean()
    expect_close(both, expected**2, rtol=0, atol=0.03, what="how often both tokens are the likelier one")
    with_end = (imagined.end & (imagined.tokens[:, 0] == 2)).float().mean()
    expect_close(with_end, expected**2, rtol=0, atol=0.03, what="how often end and first token are the likelier one")


def small_model(dropout: float = 0.0, frames: int = 3, std: float = 0.5) -> WorldModel:
    """With weights that make all that was read matter."""
    model = WorldModel(6, 3, 4, frames, width=16, layers=2, heads=2, dropout=dropout)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
    return model.eval()


OFFICIAL_NAMES = {
    "transformer.blocks": "blocks",
    "attn.key": "k",
    "attn.query": "q",
    "attn.value": "v",
    "attn.proj": "proj",
    "transformer.ln_f": "norm",
    ".ln": ".norm",
    "pos_emb": "position_table",
    "embedder.embedding_tables.0": "action_table",
    "embedder.embedding_tables.1": "token_table",
    "head_observations.head_module": "token_head",
    "head_rewards.head_module": "reward_head",
    "head_ends.head_module": "end_head",
}


def official_model(g: dict[str, np.ndarray]) -> WorldModel:
    model, weights = WorldModel(6, 3, 4, 3, width=16, layers=2, heads=2, dropout=0.1), {}
    for key, value in g.items():
        if key.startswith("param."):
            name = key.removeprefix("param.")
            for theirs, ours in OFFICIAL_NAMES.items():
                name = name.replace(theirs, ours)
            weights[name] = torch.tensor(value)
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.exercise(id="5.14")
def test_imagination_agrees_with_the_official_code(monkeypatch):
    """Five steps, what is drawn given: the logits are told apart by how many there are. In the third the memory of
    three frames is full, and lost."""
    g = golden("iris_imagination")
    model, drawn = official_model(g), []
    forced: dict[int, list[torch.Tensor]] = {}

    def draw(logits, temperature=1.0):
        drawn.append(logits)
        return forced[logits.shape[-1]].pop(0).view(logits.shape[:-1])

    monkeypatch.setattr(sample_module, "sample", draw)
    world = ImaginedWorld(model)
    frame = torch.tensor(g["tokens0"])
    world.reset(frame)
    assert world.caches[0].size == g["kv_size"][0]
    for k in range(5):
        tokens = list(torch.tensor(g["obs_tokens"][:, k]).T) if k < 4 else []
        forced.update({6: tokens, 3: [torch.tensor(g["rewards"][:, k]).long() + 1]})
        forced[2] = [torch.tensor(g["dones"][:, k]).long()]
        drawn.clear()
        imagined = world.step(frame, torch.tensor(g["actions"][:, k]), next_frame=k < 4)
        assert world.caches[0].size == g["kv_size"][k + 1], f"{world.caches[0].size} positions after step {k + 1}"
        logits_of = lambda classes: [each.reshape(2, classes) for each in drawn if each.shape[-1] == classes]
        assert (len(logits_of(3)), len(logits_of(2))) == (1, 1), "reward and end are drawn by `sample`, once each"
        expect_close(logits_of(3)[0], g["reward_logits"][:, k], what=f"reward logits of step {k}")
        expect_close(logits_of(2)[0], g["end_logits"][:, k], what=f"end logits of step {k}")
        expect_close(imagined.reward, g["rewards"][:, k], what=f"rewards of step {k}")
        expect_close(imagined.end, g["dones"][:, k], what=f"ends of step {k}")
        if k < 4:
            assert len(logits_of(6)) == 4, f"{len(logits_of(6))} tokens are drawn by `sample`, of a frame of 4"
            found = torch.stack(logits_of(6), 1)
            expect_close(found, g["obs_logits"][:, k], what=f"token logits of step {k}")
            expect_close(imagined.tokens, g["obs_tokens"][:, k], what=f"tokens of step {k}")
            frame = imagined.tokens


@pytest.mark.exercise(id="5.14")
def test_a_dream_draws_the_same_with_the_same_seed():
    """In a model that drops half of everything while it learns: here it does not, and no gradient is kept."""
    model, found = small_model(dropout=0.5), []
    for _ in range(2):
        torch.manual_seed(3)
        frame = torch.zeros(4, 4, dtype=torch.long)
        world = world_of(model, frame)
        for _ in range(4):
            imagined = world.step(frame, torch.tensor([0, 1, 2, 0]))
            frame = imagined.tokens
            found.append(imagined)
        assert not model.training, "the model is left in the mode in which it learns"
        assert not world.caches[0].keys.requires_grad
    for one, two in zip(found[:4], found[4:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)), "more is drawn than by the seed"


@pytest.mark.exercise(id="5.14")
def test_nothing_is_dropped_in_a_dream(monkeypatch):
    """The model drops half of everything while it learns. Here the same tokens give the same logits, and those of the
    whole sequence read at once."""
    model, drawn = small_model(dropout=0.5), []
    monkeypatch.setattr(
        sample_module, "sample", lambda logits, temperature=1.0: drawn.append(logits) or logits.argmax(-1)
    )
    frame, action = torch.tensor([[1, 2, 3, 4], [5, 0, 0, 2]]), torch.tensor([2, 0])
    results = []
    for _ in range(2):
        drawn.clear()
        imagined = world_of(model, frame).step(frame, action)
        results.append(torch.cat([each.reshape(2, -1) for each in drawn if each.shape[-1] == 6], 1))
    assert torch.equal(*results), "the same tokens have other logits the second time: dropout is on"
    whole = model(torch.cat([frame, action[:, None], imagined.tokens], 1)).token[:, 3:]
    expect_close(results[0].view(2, 4, 6), whole, what="the logits of the four tokens, against all read at once")


# ---- imagine: given ----


def gray(tokens: torch.Tensor) -> torch.Tensor:
    return (tokens.float().mean(-1) / 6)[..., None, None, None].expand(*tokens.shape[:-1], 3, 8, 8)


def small_policy() -> CnnLstm:
    return CnnLstm(3, gray, size=8, channels=(4, 4), hidden=5)


def test_a_dream_is_made_of_policy_and_world_by_turns():
    """Each entry: what was seen, what was done, what followed. The last frame leads to no other."""
    model, policy = Oracle(4, 100), small_policy()
    start = torch.randint(CODES, (3, 4))
    state = {"h": torch.randn(3, 5), "c": torch.randn(3, 5)}
    dreamed = imagine(model, policy, state, start, 6)
    assert dreamed.tokens.shape == (3, 6, 4)
    assert dreamed.logits.shape == (3, 6, 3)
    for each in (dreamed.action, dreamed.value, dreamed.reward, dreamed.end):
        assert each.shape == (3, 6)
    assert len(model.asked) == 1 + 5 * 5 + 1, "the start, five whole steps, and the action of the last"
    assert torch.equal(dreamed.tokens[:, 0], start)
    read = [row.tolist() for row in start]
    for k in range(6):
        state = policy.remember(policy.look(dreamed.tokens[:, k]), state)
        logits, value = policy.decide(state)
        expect_close(dreamed.logits[:, k], logits, what=f"logits of step {k}")
        expect_close(dreamed.value[:, k], value, what=f"values of step {k}")
        actions = dreamed.action[:, k].tolist()
        wanted = [step_by_hand(each, act, 4) for each, act in zip(read, actions, strict=True)]
        expect_close(dreamed.reward[:, k], [each[0] - 1.0 for each in wanted], what=f"rewards of step {k}")
        expect_close(dreamed.end[:, k], [each[1] for each in wanted], what=f"ends of step {k}")
        if k < 5:
            expect_close(dreamed.tokens[:, k + 1], [each[2] for each in wanted], what=f"the frame after step {k}")


def test_twenty_steps_of_a_dream_forget_nothing():
    """17 x 19 + 1 calls after the first frame, in the paper's memory of 340."""
    model = Oracle(16, 340)
    imagine(model, small_policy(), small_policy().initial(1), torch.zeros(1, 16, dtype=torch.long), 20)
    assert len(model.asked) == 1 + 324
    assert model.held.count(0) == 1, "the caches began anew in the middle"


def test_gradient_reaches_the_policy_alone_and_flows_through_its_memory():
    model, policy = small_model(), small_policy()
    state = {key: torch.randn(3, 5).requires_grad_() for key in ("h", "c")}
    dreamed = imagine(model, policy, state, torch.randint(6, (3, 4)), 5)
    assert not dreamed.reward.requires_grad
    (dreamed.logits[:, -1].sum() + dreamed.value[:, -1].sum()).backward()
    assert all(parameter.grad is None for parameter in model.parameters()), "gradient in the world model"
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in policy.parameters())
    for key, value in state.items():
        assert value.grad.any(), f"no gradient through the memory, back to the first {key}"


def test_actions_of_a_dream_are_drawn_by_the_policy_whatever_the_temperature_of_the_world():
    """Logits (1, 0, impossible): 0.7311 in 6,000 dreams, in a world that has half the temperature."""
    policy = small_policy()
    nn.init.zeros_(policy.actor.weight)
    policy.actor.bias.data = torch.tensor([1.0, 0.0, -SURE])
    start = torch.zeros(6_000, 2, dtype=torch.long)
    dreamed = imagine(Chance(2, 9), policy, policy.initial(6_000), start, 2, temperature=0.5)
    shares = [(dreamed.action == 0).float().mean(), (dreamed.tokens[:, 1, 0] == 2).float().mean()]
    expect_close(shares, [0.7311, 0.8808], rtol=0, atol=0.035, what="shares of the likelier action and token")
