"""The world model's loss (exercise 2.15), and the agent that puts all of it together."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from common.agent import Agent, dream
from common.metrics import METRICS
from common.replay_buffer import ReplayBuffer
from paper2_dreamerv1 import agent as agent_module
from paper2_dreamerv1 import rssm
from paper2_dreamerv1.agent import DreamerV1Agent, WorldModel, world_model_loss
from paper2_dreamerv1.config import PRESETS, Config
from paper2_dreamerv1.networks import preprocess
from tests.helpers import expect_close, golden, numbers

SMALL = {"deter": 6, "stoch": 3, "hidden": 5, "depth": 2, "units": 7, "batch": 3, "length": 5, "horizon": 4}
IMAGE = spaces.Dict(image=spaces.Box(0, 255, (64, 64, 3), np.uint8))
BOTH = spaces.Dict(image=IMAGE["image"], vector=spaces.Box(-np.inf, np.inf, (4,), np.float32))
BOX, CHOICE = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_agent(observations=IMAGE, actions=BOX, env="TinyReacher-v0", **options) -> DreamerV1Agent:
    return DreamerV1Agent(Config(env=env, **{**SMALL, "adam_eps": 1e-5, **options}), observations, actions)


def make_rows(batch: int = 3, time: int = 5, actions: int = 2, vector: bool = False, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    rows = {
        "image": rng.integers(0, 256, (batch, time, 64, 64, 3), np.uint8),
        "prev_action": rng.uniform(-1, 1, (batch, time, actions)).astype(np.float32),
        "reward": rng.standard_normal((batch, time)).astype(np.float32),
        "is_first": np.zeros((batch, time), bool),
        "is_terminal": np.zeros((batch, time), bool),
        "is_last": np.zeros((batch, time), bool),
    }
    rows["is_terminal"][0, -1] = rows["is_last"][0, -1] = True
    if vector:
        rows["vector"] = rng.standard_normal((batch, time, 4)).astype(np.float32)
    return rows


def make_batch(vector: bool = False) -> dict[str, torch.Tensor]:
    """Rows as the world model takes them."""
    batch = {key: torch.as_tensor(value) for key, value in make_rows(vector=vector).items()}
    return {**batch, "image": preprocess(batch["image"])}


class Fixed(nn.Module):
    """A head that gives the same tensor, whatever it sees, and keeps what it saw."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(torch.as_tensor(output, dtype=torch.float32))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x)
        return self.output


# ---- 2.15 world_model_loss ----


def official_model(use_continue: bool, free_nats: float) -> tuple[WorldModel, dict, dict[str, torch.Tensor]]:
    """A model whose networks give the official example's outputs; images of 4x4x1."""
    g = golden("dv1_losses")
    config = Config(env="TinyReacher-v0", **SMALL, use_continue=use_continue, free_nats=free_nats)
    model = WorldModel(config, IMAGE, 2)
    model.encoders["image"] = Fixed(torch.zeros(2, 4, 64))
    model.decoders["image"] = Fixed(np.moveaxis(g["image_mean"], -1, -3))
    model.reward = Fixed(g["reward_mean"])
    if use_continue:
        model.cont = Fixed(g["pcont_logit"])
    state = lambda name: rssm.State(
        torch.zeros(2, 4, 6), *(torch.tensor(g[f"{name}_{each}"]).requires_grad_() for each in ("mean", "mean", "std"))
    )
    post, prior = state("post"), state("prior")
    model.rssm.observe = lambda *args, **kwargs: (post, prior)
    batch = {
        "image": torch.tensor(np.moveaxis(g["image"], -1, -3)),
        "prev_action": torch.zeros(2, 4, 2),
        "reward": torch.tensor(g["reward"]),
        "is_terminal": torch.tensor(g["discount"] == 0),
        "is_last": torch.ones(2, 4, dtype=torch.bool),  # where an episode is cut off, it has not ended
    }
    return model, g, batch


@pytest.mark.exercise(id="2.15")
@pytest.mark.parametrize("use_continue", [False, True])
@pytest.mark.parametrize("free_nats", [3.0, 0.5])
def test_loss_agrees_with_the_official_code(use_continue, free_nats):
    """The gradient in posteriors and priors, too, to which only the KL contributes here: it moves both."""
    model, g, batch = official_model(use_continue, free_nats)
    loss, parts, _ = world_model_loss(model, batch)
    case = f"{'' if use_continue else 'no'}pcont_free{free_nats}"
    expected = g[f"{case}_model_loss"]
    per_pixel = 0.5 * np.square(g["image_mean"] - g["image"]) + 0.5 * np.log(2 * np.pi)
    mistakes = {
        float(expected - per_pixel.sum((2, 3, 4)).mean() + per_pixel.mean()): "the MEAN over the pixels is taken",
    }
    if use_continue:
        cont = parts.get("cont", torch.zeros(())).item()
        mistakes[float(expected - 2 * cont)] = "the sign of the continue loss"
        mistakes[float(expected - 0.9 * cont)] = "continue_scale is not used"
        hard = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(g["pcont_logit"]), torch.tensor(g["discount"], dtype=torch.float32)
        )
        mistakes[float(expected) - cont + 10 * hard.item()] = "the label is soft: config.discount, not 1"
    expect_close(loss, expected, mistakes=mistakes, what="loss")
    expect_close(parts["raw_kl"], g["kl_mean"], what="raw_kl")
    names = {"image", "reward", "kl", "raw_kl"} | ({"cont"} if use_continue else set())
    assert parts.keys() == names
    total = sum(value for name, value in parts.items() if name != "raw_kl")
    expect_close(loss, total, what="the loss, as the sum of its parts")
    post, prior = model.rssm.observe()
    leaves = {"post_mean": post.mean, "post_std": post.std, "prior_mean": prior.mean, "prior_std": prior.std}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        mistakes = {0.0: "the KL has no gradient here: it moves posterior and prior"}
        expect_close(gradient, g[f"{case}_grad_{name}"], atol=1e-6, mistakes=mistakes, what=f"gradient in {name}")


@pytest.mark.exercise(id="2.15")
def test_every_part_by_hand():
    """An image that is 0.5 off everywhere: 12,827.92. A reward that is 2 off: 2.9189. KL 0: the free nats."""
    model = WorldModel(Config(env="dmc_walker_walk", **SMALL), IMAGE, 2)
    batch = {
        "image": torch.zeros(3, 5, 3, 64, 64),
        "prev_action": torch.zeros(3, 5, 2),
        "reward": torch.full((3, 5), 2.0),
        "is_terminal": torch.zeros(3, 5, dtype=torch.bool),
    }
    model.decoders["image"], model.reward = Fixed(torch.full((3, 5, 3, 64, 64), 0.5)), Fixed(torch.zeros(3, 5))
    assert model.cont is None, "dm_control has no continue head"
    before = {key: value.clone() for key, value in batch.items()}
    loss, parts, _ = world_model_loss(model, batch)
    mistakes = {1.04394: "the MEAN over the pixels is taken", 12827.92 * 15: "the sum over batch and time is taken"}
    expect_close(parts["image"], 12827.92, mistakes=mistakes, what="image")
    mistakes = {2.9189 * 15: "the sum over batch and time is taken", 4.9189: "the squared error is not halved"}
    expect_close(parts["reward"], 2.9189, mistakes=mistakes, what="reward")
    assert parts["kl"] >= 3
    assert "cont" not in parts
    expect_close(loss, parts["image"] + parts["reward"] + parts["kl"], what="loss")
    assert batch.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in batch.items()), "the caller's batch is changed"


@pytest.mark.exercise(id="2.15")
@pytest.mark.parametrize(
    ("discount", "goes_on"),
    [(0.99, {0.0: 0.6931, 4.595: 0.0560, 9.0: 0.0902}), (0.9, {0.0: 0.6931, 2.197: 0.3251, 9.0: 0.9001})],
)
def test_soft_label_of_the_continue_head(discount, goes_on):
    """Logit 0 costs ln 2 whatever the label; at logit ln(0.99 / 0.01) a row that goes on costs least, 0.0560."""
    model = WorldModel(Config(env="TinyReacher-v0", **SMALL, discount=discount, continue_scale=1.0), IMAGE, 2)
    batch = make_batch()
    batch["is_terminal"] = torch.zeros(3, 5, dtype=torch.bool)
    before = batch["is_terminal"].clone()
    for logit, expected in goes_on.items():
        model.cont = Fixed(torch.full((3, 5), logit))
        _, parts, _ = world_model_loss(model, batch)
        softplus = float(np.log1p(np.exp(logit)))
        mistakes = {softplus - logit: "the label is 1: it is config.discount"}
        if discount != 0.99:
            mistakes[softplus - 0.99 * logit] = "config.discount is not used"
        expect_close(parts["cont"], expected, rtol=2e-3, mistakes=mistakes, what=f"cont at logit {logit}")
        assert torch.equal(batch["is_terminal"], before), "the caller's batch is changed"
    batch["is_terminal"][:] = True
    model.cont = Fixed(torch.full((3, 5), 2.0))
    _, parts, _ = world_model_loss(model, batch)
    expect_close(parts["cont"], 2.1269, mistakes={0.1469: "is_terminal is used as the label itself"}, what="cont")


@pytest.mark.exercise(id="2.15")
@pytest.mark.parametrize(
    ("options", "kl"),
    [
        ({}, 26.219),
        ({"kl_scale": 0.1}, 2.6219),
        ({"free_nats": 50.0}, 50.0),
        ({"free_nats": 50.0, "kl_scale": 0.1}, 5.0),
    ],
)
def test_config_decides_the_kl(options, kl):
    model = WorldModel(Config(env="TinyReacher-v0", **{**SMALL, "stoch": 30}, **options), IMAGE, 2)
    full = lambda mean, std: rssm.State(
        torch.zeros(3, 5, 6), torch.zeros(3, 5, 30), torch.full((3, 5, 30), mean), torch.full((3, 5, 30), std)
    )
    model.rssm.observe = lambda *args, **kwargs: (full(0.5, 0.3), full(0.0, 1.0))
    _, parts, _ = world_model_loss(model, make_batch())
    mistakes = {157.214: "posterior and prior are swapped", 26.219: "kl_scale or free_nats of the config is not used"}
    mistakes.pop(kl, None)
    expect_close(parts["kl"], kl, mistakes=mistakes, what="kl")
    expect_close(parts["raw_kl"], 26.219, what="raw_kl: neither scaled nor clipped")


@pytest.mark.exercise(id="2.15")
@pytest.mark.parametrize(("free_before_mean", "kl"), [(False, 4.0), (True, 5.8)])
def test_config_decides_where_nats_are_free(free_before_mean, kl):
    """KL 10, 10, 0, 0, 0 along time: its mean is 4, above 3; with the max first it is (10 + 10 + 3 + 3 + 3) / 5."""
    model = WorldModel(Config(env="dmc_walker_walk", **SMALL, free_before_mean=free_before_mean), IMAGE, 2)
    prior = rssm.State(torch.zeros(3, 5, 6), torch.zeros(3, 5, 3), torch.zeros(3, 5, 3), torch.ones(3, 5, 3))
    mean = torch.tensor([10.0, 10, 0, 0, 0]).mul(2 / 3).sqrt()[None, :, None].expand(3, 5, 3)
    model.rssm.observe = lambda *args, **kwargs: (prior._replace(mean=mean), prior)
    _, parts, _ = world_model_loss(model, make_batch())
    mistakes = {4.0 if free_before_mean else 5.8: "free_before_mean of the config is not used"}
    expect_close(parts["kl"], kl, mistakes=mistakes, what="kl")


@pytest.mark.exercise(id="2.15")
def test_balance_reaches_the_kl():
    """With kl_balance the value stays, and the prior gets its share of the gradient."""
    norms = {}
    for balance in (None, 0.8):
        model = WorldModel(Config(env="dmc_walker_walk", **SMALL, free_nats=0.0, kl_balance=balance), IMAGE, 2)
        for i, parameter in enumerate(model.parameters()):
            torch.manual_seed(i)
            nn.init.normal_(parameter, std=0.1)
        loss, _, _ = world_model_loss(model, make_batch(), torch.zeros(3, 5, 3))
        (gradient,) = torch.autograd.grad(loss, model.rssm.img3.bias)  # only the KL knows the prior
        norms[balance] = gradient.norm()
    expect_close(norms[0.8] / norms[None], 0.8, rtol=1e-3, mistakes={1.0: "kl_balance of the config is not used"})


@pytest.mark.exercise(id="2.15")
def test_heads_see_the_posteriors():
    """Not the priors, and with gradient: the heads teach the posterior what matters."""
    model = WorldModel(Config(env="TinyReacher-v0", **SMALL), IMAGE, 2)
    batch = make_batch()
    noise = torch.randn(3, 5, 3)
    post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], noise)
    heads = {"image": Fixed(torch.zeros(3, 5, 3, 64, 64)), "reward": Fixed(torch.zeros(3, 5))}
    model.decoders["image"], model.reward, model.cont = heads["image"], heads["reward"], Fixed(torch.zeros(3, 5))
    _, _, returned = world_model_loss(model, batch, noise)
    for name, head in (*heads.items(), ("cont", model.cont)):
        assert head.seen, f"the {name} head is not used"
        mistakes = {
            numbers(prior.feat): "it sees the PRIOR's state",
            numbers(post._replace(stoch=post.mean).feat): "it sees the posterior's mean: it is the sample",
        }
        for seen in head.seen:
            expect_close(seen, post.feat, mistakes=mistakes, what=f"what the {name} head sees")
            assert seen.requires_grad, f"the {name} head's input is detached: it teaches the RSSM nothing"
    expect_close(returned.stoch, post.stoch, what="the posteriors that are returned")
    assert returned.stoch.requires_grad


@pytest.mark.exercise(id="2.15")
def test_actions_lead_to_the_row_that_they_are_in():
    """prev_action[t] goes with embed[t]: both as the row holds them, nothing is shifted once more."""
    model = WorldModel(Config(env="TinyReacher-v0", **SMALL), IMAGE, 2)
    batch = make_batch()
    seen, observe = [], model.rssm.observe

    def spy(embed, prev_action, noise=None):
        seen.append((embed, prev_action))
        return observe(embed, prev_action, noise)

    model.rssm.observe = spy
    world_model_loss(model, batch)
    expect_close(seen[0][0], model.embed(batch), what="embed, as observe takes it in")
    expect_close(seen[0][1], batch["prev_action"], what="the actions, as observe takes them in")


@pytest.mark.exercise(id="2.15")
def test_vectors_are_predicted_beside_images():
    model = WorldModel(Config(env="TinyCraft-v0", **SMALL), BOTH, 2)
    batch = make_batch(vector=True)
    loss, parts, _ = world_model_loss(model, batch)
    assert parts.keys() == {"image", "vector", "reward", "cont", "kl", "raw_kl"}
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients), "a weight of the model has no gradient"
    model.decoders["vector"] = Fixed(batch["vector"] + 2)
    _, parts, _ = world_model_loss(model, batch)
    mistakes = {2.91894: "the mean over the vector's numbers is taken: it is their sum"}
    expect_close(parts["vector"], 4 * (2 + 0.91894), mistakes=mistakes, what="vector")


# ---- the agent as a whole ----


def test_agent_keeps_the_protocol():
    assert isinstance(make_agent(), Agent)


@pytest.mark.parametrize(
    ("actions", "model", "actor"), [(6, 5_296_820, 578_412), (2, 5_296_020, 575_204), (1, 5_295_820, 574_402)]
)
def test_paper_preset_has_the_papers_parameters(actions, model, actor):
    """Walker, reacher and cartpole; the totals are those that the official program prints."""
    agent = DreamerV1Agent(PRESETS["paper"], IMAGE, spaces.Box(-1, 1, (actions,), np.float32))
    count = lambda network: sum(p.numel() for p in network.parameters())
    assert (count(agent.model), count(agent.actor), count(agent.critic)) == (model, actor, 413_601)
    with_end = dataclasses.replace(PRESETS["paper"], use_continue=True)
    agent = DreamerV1Agent(with_end, IMAGE, spaces.Box(-1, 1, (actions,), np.float32))
    assert count(agent.model) == model + 413_601


def watched_bytes(agent: DreamerV1Agent, frame: np.ndarray) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    convs = next(m for m in agent.model.encoders["image"].modules() if isinstance(m, nn.Conv2d))
    handle = convs.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    row = {key: value[:, 0] for key, value in make_rows(1, 1).items()}
    agent.act({**row, "image": frame}, agent.initial_state(1), explore=False)
    handle.remove()
    return seen[0]


def test_pixels_reach_the_network_scaled_once():
    for byte, expected in ((0, -0.5), (255, 0.5)):
        seen = watched_bytes(make_agent(), np.full((1, 64, 64, 3), byte, np.uint8))
        expect_close(seen, expected, what=f"a pixel of {byte} in front of the first convolution")


def test_acting_is_observing_step_by_step():
    """Four rows, one by one, with the first episode broken off by the second's first row: as `observe` would."""
    agent, rows = make_agent(), make_rows(2, 4)
    rows["is_first"][:, 0] = rows["is_first"][1, 2] = True
    rows["prev_action"][rows["is_first"]] = 0
    agent.model.rssm.obs_step = no_noise(agent.model.rssm.obs_step)
    state = agent.initial_state(2)
    for t in range(4):
        _, state = agent.act({key: value[:, t] for key, value in rows.items()}, state, explore=False)
    batch = agent.to_tensors(rows)
    observe = lambda i, first: agent.model.rssm.observe(
        agent.model.embed({"image": batch["image"][i : i + 1, first:]}),
        batch["prev_action"][i : i + 1, first:],
        torch.zeros(1, 4 - first, 3),
    )[0]
    expect_close(state["deter"][0], observe(0, 0).deter[0, -1], what="deter after four rows")
    expect_close(state["deter"][1], observe(1, 2).deter[0, -1], what="deter of an episode that began at row 2")
    expect_close(state["mean"][1], observe(1, 2).mean[0, -1], what="its posterior's mean")


def no_noise(step):
    return lambda prev, action, embed, noise=None: step(prev, action, embed, torch.zeros_like(prev.stoch))


def test_exploration_adds_noise_and_stays_in_bounds():
    agent = make_agent()
    action = torch.tensor([[0.0, 0.95]]).expand(4000, 2)
    noisy = agent.explore(action)
    assert noisy.abs().max() <= 1
    expect_close(noisy[:, 0].std(), 0.3, rtol=0.08, what="standard deviation of the noise")
    assert not torch.equal(noisy[0], noisy[1])


@pytest.mark.parametrize(("updates", "epsilon"), [(0, 0.4), (100_000, 0.25), (200_000, 0.1), (900_000, 0.1)])
def test_epsilon_falls_row_by_row(updates, epsilon):
    """Each environment decides by itself; a random choice hits the old action one time in three."""
    agent = make_agent(actions=CHOICE)
    agent.updates = updates
    action = torch.tensor([[0.0, 1.0, 0.0]]).expand(20_000, 3)
    explored = agent.explore(action)
    expect_close(explored.sum(-1), 1.0, what="one-hot actions")
    changed = (explored[:, 1] == 0).float().mean()
    expect_close(changed, epsilon * 2 / 3, rtol=0, atol=0.02, what="share of changed actions")


@pytest.mark.parametrize("actions", [BOX, CHOICE])
def test_act_gives_rows(actions):
    agent = make_agent(actions=actions)
    size = 2 if actions is BOX else 3
    rows = {key: value[:, 0] for key, value in make_rows(4, 1, size).items()}
    for explore in (False, True):
        action, state = agent.act(rows, agent.initial_state(4), explore=explore)
        assert action.shape == (4, size)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1 + 1e-6
        if actions is CHOICE:
            assert (action.sum(-1) == 1).all()
        assert state["deter"].shape == (4, 6)


def snapshot(agent: DreamerV1Agent) -> dict[str, dict[str, torch.Tensor]]:
    networks = {"model": agent.model, "actor": agent.actor, "critic": agent.critic}
    return {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in networks.items()}


@pytest.mark.parametrize("network", ["model", "actor", "critic"])
def test_each_optimiser_moves_its_own_network(network, monkeypatch):
    """With the other two optimisers held, nothing else changes; and all of its own weights do."""
    agent = make_agent(free_nats=0.0)  # below the free nats the prior would have no gradient
    before = snapshot(agent)
    for name, optimizer in agent.optimizers.items():
        if name != network:
            monkeypatch.setattr(optimizer, "step", lambda: None)
    agent.update(make_rows())
    after = snapshot(agent)
    for name in before:
        moved = [not torch.equal(before[name][key], after[name][key]) for key in before[name]]
        assert all(moved) if name == network else not any(moved), name


def test_losses_are_taken_with_the_weights_before_the_update(monkeypatch):
    """As in the official code; DreamerV2 updates the world model first. Only visible where all step at once."""
    agent, rows = make_agent(), make_rows()
    order = []
    for name, optimizer in agent.optimizers.items():
        monkeypatch.setattr(optimizer, "step", lambda name=name: order.append(f"step {name}"))
    original = agent_module.behaviour_losses
    monkeypatch.setattr(agent_module, "behaviour_losses", lambda *args: order.append("losses") or original(*args))
    agent.update(rows)
    assert order == ["losses", "step model", "step actor", "step critic"]


@pytest.mark.parametrize(("use_continue", "starts"), [(False, 15), (True, 12)])
def test_dreams_start_everywhere_but_behind_the_last_row(use_continue, starts, monkeypatch):
    """All 3 x 5 posteriors, detached; with a continue head without the last row, which may be terminal."""
    agent, seen = make_agent(use_continue=use_continue), []
    original = agent_module.imagine

    def spy(rssm, actor, start, horizon):
        seen.append((start, horizon))
        return original(rssm, actor, start, horizon)

    monkeypatch.setattr(agent_module, "imagine", spy)
    agent.update(make_rows())
    (start, horizon) = seen[0]
    assert (len(start.deter), horizon) == (starts, 4)


def test_gradients_are_clipped_one_network_at_a_time():
    agent = make_agent(clip=0.01)
    metrics = agent.update(make_rows())
    for name, network in (("world_model/grad_norm", agent.model), ("policy/grad_norm", agent.actor)):
        norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
        assert norm <= 0.0101
        assert metrics[name] >= norm, "the norm that is logged is the one before clipping"


def test_discount_is_in_the_continue_head_and_not_applied_again():
    """A head that has learned its soft label gives 0.99, and the dream's probability of going on is then 1."""
    agent = make_agent(use_continue=True)
    agent.model.cont = Fixed(torch.full((4,), float(np.log(0.99 / 0.01))))
    feat = torch.randn(4, 9)
    expect_close(agent.model.discount(feat), 0.99, mistakes={0.9801: "the discount is applied twice"})
    expect_close(agent.cont_probability(feat), 1.0, what="probability of going on")
    constant = make_agent(use_continue=False)
    expect_close(constant.model.discount(feat), 0.99, what="without a head")


def test_actor_waits_for_the_world_model():
    agent = make_agent(actor_delay=2)
    before = snapshot(agent)
    agent.update(make_rows())
    agent.update(make_rows())
    assert all(torch.equal(v, before["actor"][k]) for k, v in agent.actor.state_dict().items())
    metrics = agent.update(make_rows())
    assert "policy/actor_loss" in metrics
    assert any(not torch.equal(v, before["actor"][k]) for k, v in agent.actor.state_dict().items())


@pytest.fixture
def replay() -> ReplayBuffer:
    """Two environments, episodes of 8 rows."""
    replay = ReplayBuffer(1000)
    for t in range(64):
        rows = {key: value[:, 0] for key, value in make_rows(2, 1, seed=t).items()}
        rows["is_first"][:], rows["is_last"][:], rows["is_terminal"][:] = t % 8 == 0, t % 8 == 7, t % 16 == 7
        replay.add(rows)
    return replay


def test_updates_follow_the_frames(replay):
    """100 updates before the first block, then 100 every 1000 frames (here 4 and 2 every 10)."""
    agent = make_agent(prefill=50, pretrain=4, train_every=10, train_steps=2)
    counts = []
    for frame in (50, 55, 60, 61, 90):
        agent.learn(replay, frame)
        counts.append(agent.updates)
    assert counts == [4, 4, 6, 6, 12]
    assert agent.learn(replay, 90) == {}


def test_what_is_learned_is_logged_under_known_names(replay):
    agent = make_agent(prefill=0, pretrain=2)
    metrics = agent.learn(replay, 0)
    assert metrics.keys() <= METRICS.keys()
    wanted = "recon_loss recon_error kl reward_loss reward_error cont_loss latent_use grad_norm"
    assert {f"world_model/{name}" for name in wanted.split()} <= metrics.keys()
    assert {"policy/actor_loss", "policy/value_loss", "policy/entropy", "policy/value_error"} <= metrics.keys()
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_two_agents_with_one_seed_learn_the_same_and_a_resumed_one_too(replay):
    one, two = (make_agent(prefill=0, pretrain=6) for _ in range(2))
    one.learn(replay, 0)
    two.config.pretrain = 3
    two.learn(replay, 0)
    three = make_agent(prefill=0, pretrain=6)
    three.load_state_dict(two.state_dict())
    three.learn(replay, 0)
    for name, weights in snapshot(one).items():
        for key, value in weights.items():
            assert torch.equal(value, getattr(three, name).state_dict()[key]), f"{name}.{key}"


def test_overfitting_one_batch_takes_the_same_batch(replay, monkeypatch):
    agent, seen = make_agent(prefill=0, pretrain=3, overfit_batch=True), []
    original = agent.update
    monkeypatch.setattr(agent, "update", lambda rows: seen.append(rows["reward"].copy()) or original(rows))
    agent.learn(replay, 0)
    assert len(seen) == 3
    assert all(np.array_equal(seen[0], each) for each in seen)


@pytest.mark.parametrize("observations", [IMAGE, BOTH])
def test_dreams_have_the_shapes_of_the_protocol(observations):
    agent = make_agent(observations)
    rows = make_rows(2, 3, vector=observations is BOTH)
    imagined = dream(agent, rows, 4)
    assert imagined.images.shape == (2, 4, 64, 64, 3)
    assert imagined.rewards.shape == imagined.conts.shape == (2, 4)
    assert imagined.actions.shape == (2, 4, 2)
    assert ((imagined.conts >= 0) & (imagined.conts <= 1)).all()
    assert agent.reconstruct(rows).shape == (2, 3, 64, 64, 3)
    assert agent.feat(agent.begin_dream(rows)).shape == (2, 9)


def test_prediction_takes_the_actions_that_it_is_given():
    agent, rows = make_agent(), make_rows(2, 3)
    push = lambda value: np.full((2, 3, 2), value, np.float32)
    torch.manual_seed(1)
    one = dream(agent, rows, 3, push(1.0))
    torch.manual_seed(1)
    two = dream(agent, rows, 3, push(-1.0))
    assert (one.images != two.images).any() or (one.rewards != two.rewards).any()
    assert (one.actions == 1).all()


def test_temperature_scales_the_noise_of_a_dream():
    agent = make_agent()
    state = agent.begin_dream(make_rows(2, 3))
    cold = [agent.dream_step(state, torch.zeros(2, 2), temperature=1e-6).state["stoch"] for _ in range(2)]
    expect_close(*cold, what="two steps without noise")
    hot = [agent.dream_step(state, torch.zeros(2, 2)).state["stoch"] for _ in range(2)]
    assert not torch.allclose(*hot)


def test_rewards_are_squashed_where_asked_for():
    rows = make_rows()
    expect_close(make_agent(reward_transform="tanh").to_tensors(rows)["reward"], np.tanh(rows["reward"]))
    expect_close(make_agent().to_tensors(rows)["reward"], rows["reward"])


@pytest.mark.training
def test_world_model_learns_what_an_action_does():
    """Bright or dark is what the last action said: after 120 updates on it the prior knows, one step ahead.

    Baseline: the mean frame, 0.25 of squared error a pixel.
    """
    agent = make_agent(batch=8, length=6, deter=16, hidden=16, units=16, model_lr=3e-3, free_nats=0.0, actor_delay=999)
    rng = np.random.default_rng(0)
    for _ in range(120):
        rows = make_rows(8, 6)
        rows["prev_action"][..., 0] = rng.choice([-1.0, 1.0], (8, 6))
        rows["image"][:] = np.where(rows["prev_action"][..., 0] > 0, 255, 0)[..., None, None, None]
        agent.update(rows)
    action = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]] * 4, np.float32)
    predicted = dream(agent, rows, 1, action).images[:, 0] / 255.0
    truth = (action[:, 0, 0] > 0).astype(float)[:, None, None, None]
    assert np.square(predicted - truth).mean() < 0.05


def test_the_encoder_may_have_a_dense_layer():
    agent = make_agent(latent_dim=11)
    assert agent.model.rssm.obs1.in_features == SMALL["deter"] + 11
    assert np.isfinite(float(agent.update(make_rows())["world_model/loss"]))
