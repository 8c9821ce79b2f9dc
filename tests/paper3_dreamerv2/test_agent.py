"""The world model's loss (exercise 3.16), and the agent that puts all of it together."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from common.agent import Agent, dream
from common.metrics import METRICS
from common.replay_buffer import ReplayBuffer
from paper3_dreamerv2 import agent as agent_module
from paper3_dreamerv2 import rssm
from paper3_dreamerv2.agent import DreamerV2Agent, WorldModel, world_model_loss
from paper3_dreamerv2.config import PRESETS, Config
from paper3_dreamerv2.networks import preprocess
from tests.helpers import expect_close, golden, numbers

SMALL = {"deter": 6, "stoch": 3, "classes": 4, "hidden": 5, "depth": 2, "units": 7, "layers": 2}
SHORT = {"batch": 3, "length": 5, "horizon": 4}
IMAGE = spaces.Dict(image=spaces.Box(0, 255, (64, 64, 3), np.uint8))
GREY = spaces.Dict(image=spaces.Box(0, 255, (64, 64, 1), np.uint8))
BOTH = spaces.Dict(image=IMAGE["image"], vector=spaces.Box(-np.inf, np.inf, (4,), np.float32))
BOX, CHOICE = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_config(env: str = "TinyCatch-v0", **options) -> Config:
    return Config(env=env, **{**SMALL, **SHORT, **options})


def make_agent(observations=IMAGE, actions=CHOICE, **options) -> DreamerV2Agent:
    return DreamerV2Agent(make_config(**options), observations, actions)


def make_rows(batch: int = 3, time: int = 5, actions: int = 3, vector: bool = False, seed: int = 0) -> dict:
    """Rows of discrete actions; the first sequence has a true end in its last row, the second begins anew in row 2."""
    rng = np.random.default_rng(seed)
    rows = {
        "image": rng.integers(0, 256, (batch, time, 64, 64, 3), np.uint8),
        "prev_action": np.eye(actions, dtype=np.float32)[rng.integers(actions, size=(batch, time))],
        "reward": rng.standard_normal((batch, time)).astype(np.float32),
        "is_first": np.zeros((batch, time), bool),
        "is_terminal": np.zeros((batch, time), bool),
        "is_last": np.zeros((batch, time), bool),
    }
    rows["is_terminal"][0, -1] = rows["is_last"][0, -1] = True
    rows["is_first"][:, 0] = True
    if batch > 1 and time > 2:
        rows["is_first"][1, 2] = rows["is_last"][1, 1] = True
    rows["prev_action"][rows["is_first"]] = 0
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


# ---- 3.16 world_model_loss ----


def official_model(**options) -> tuple[WorldModel, dict, dict[str, torch.Tensor]]:
    """A model whose networks give the official example's outputs; images of 4x4x1."""
    g = golden("dv2_model_loss")
    model = WorldModel(make_config(discount=0.999, **options), IMAGE, 3)
    model.encoders["image"] = Fixed(torch.zeros(2, 4, 64))
    model.decoders["image"] = Fixed(np.moveaxis(g["image_mean"], -1, -3))
    model.reward = Fixed(g["reward_out"])
    if model.cont is not None:
        model.cont = Fixed(g["discount_logit"])
    state = lambda name: rssm.State(
        torch.zeros(2, 4, 6), torch.zeros(2, 4, 12), torch.tensor(g[name]).flatten(-2).requires_grad_()
    )
    post, prior = state("post"), state("prior")
    model.rssm.observe = lambda *args, **kwargs: (post, prior)
    batch = {
        "image": torch.tensor(np.moveaxis(g["image"], -1, -3)),
        "prev_action": torch.zeros(2, 4, 3),
        "reward": torch.tensor(g["reward"]),
        "is_first": torch.zeros(2, 4, dtype=torch.bool),
        "is_terminal": torch.tensor(g["discount"] == 0),
        "is_last": torch.ones(2, 4, dtype=torch.bool),  # where an episode is cut off, it has not ended
    }
    return model, g, batch


@pytest.mark.exercise(id="3.16")
@pytest.mark.parametrize("kind", ["none", "tanh", "symlog"])
def test_loss_agrees_with_the_official_code(kind):
    """Image + reward + 5 discount + 0.1 KL, whatever transform the rewards of the batch have behind them. The gradient
    of posteriors and priors, too, to which only the KL contributes here: 0.2 and 0.8 of it."""
    model, g, batch = official_model(reward_transform=kind)
    loss, parts, _ = world_model_loss(model, batch)
    names = {"image": "image", "reward": "reward", "cont": "discount", "kl": "kl"}
    assert parts.keys() == {*names, "raw_kl"}
    pixels = 0.5 * np.square(g["image_mean"] - g["image"]) + 0.5 * np.log(2 * np.pi)
    hard = nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(g["discount_logit"]), (~batch["is_terminal"]).float()
    )
    mistakes = {
        "image": {
            pixels.mean(): "the MEAN over the pixels is taken: the log density of an image is their sum",
            pixels.sum((2, 3, 4)).sum(): "the sum over batch and time is taken: it is their mean",
        },
        "reward": {
            float(8 * g["reward_loss"]): "the sum over batch and time is taken",
            float(0.5 * np.square(g["reward_out"] - np.tanh(g["reward"])).mean() + 0.5 * np.log(2 * np.pi)): (
                "the batch's rewards are transformed already: not once more"
            ),
        },
        "cont": {
            float(g["discount_loss"]): "continue_scale is not used",
            5 * hard.item(): "the label is soft: `discount_target`, not 1",
        },
        "kl": {
            float(g["kl_loss"]): "kl_scale is not used",
            float(g["kl_loss"]) / 30: "the mean over the variables is taken",
        },
    }
    for ours, theirs in names.items():
        expected = g[f"{theirs}_loss"] * {"cont": g["scale_discount"], "kl": g["scale_kl"]}.get(ours, 1.0)
        expect_close(parts[ours], expected, mistakes=mistakes[ours], what=f"part {ours!r}")
    expect_close(parts["raw_kl"], g["kl_loss"], what="raw_kl: not scaled")
    mistakes = {float(g["model_loss"] + g["kl_loss"]): "raw_kl is not part of the sum"}
    expect_close(loss, g["model_loss"], mistakes=mistakes, what="loss")

    post, prior = model.rssm.observe()
    plain = model.rssm.latent.kl(post.raw, prior.raw).mean()
    wanted = torch.autograd.grad(plain, [post.raw, prior.raw])
    found = torch.autograd.grad(loss, [post.raw, prior.raw], allow_unused=True, materialize_grads=True)
    for name, share, one, other in zip(("posterior", "prior"), (0.02, 0.08), found, wanted, strict=True):
        mistakes = {numbers(0.1 * other): "the KL is not balanced", numbers((0.1 - share) * other): "swapped shares"}
        expect_close(one, share * other, atol=1e-7, mistakes=mistakes, what=f"gradient in the {name}")


@pytest.mark.exercise(id="3.16")
def test_every_part_by_hand():
    """An image that is 0.5 off everywhere: 12,827.92. A reward that is 2 off: 2.9189. No continue head: no `cont`."""
    model = WorldModel(make_config("dmc_walker_walk"), IMAGE, 3)
    batch = {
        "image": torch.zeros(3, 5, 3, 64, 64),
        "prev_action": torch.zeros(3, 5, 3),
        "reward": torch.full((3, 5), 2.0),
        "is_first": torch.arange(5).expand(3, 5) == 0,
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
    assert parts.keys() == {"image", "reward", "kl", "raw_kl"}
    expect_close(loss, parts["image"] + parts["reward"] + parts["kl"], what="loss")
    assert batch.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in batch.items()), "the caller's batch is changed"


@pytest.mark.exercise(id="3.16")
@pytest.mark.parametrize(
    ("discount", "goes_on"),
    [
        (0.995, {0.0: 0.69315, 5.2933: 0.03148, 9.0: 0.04512}),
        (0.999, {0.0: 0.69315, 6.9068: 0.00791, 9.0: 0.00912}),
        (0.9, {0.0: 0.69315, 2.1972: 0.32508, 9.0: 0.90012}),
    ],
)
def test_soft_label_of_the_discount_head(discount, goes_on):
    """Logit 0 costs ln 2 whatever the label; the least, at logit ln(0.995 / 0.005) = 5.293, is 0.0315."""
    model = WorldModel(make_config(discount=discount, continue_scale=1.0), IMAGE, 3)
    batch = make_batch()
    batch["is_terminal"] = torch.zeros(3, 5, dtype=torch.bool)
    for logit, expected in goes_on.items():
        model.cont = Fixed(torch.full((3, 5), logit))
        _, parts, _ = world_model_loss(model, batch)
        softplus = float(np.log1p(np.exp(logit)))
        mistakes = {softplus - logit: "the label is 1: it is config.discount"}
        if discount != 0.995:
            mistakes[softplus - 0.995 * logit] = "config.discount is not used"
        if logit == 0:
            mistakes = {3.46574: "config.continue_scale is not used"}
        expect_close(parts["cont"], expected, rtol=1e-3, mistakes=mistakes, what=f"cont at logit {logit}")
    batch["is_terminal"][:] = True
    model.cont = Fixed(torch.full((3, 5), 2.0))
    _, parts, _ = world_model_loss(model, batch)
    mistakes = {0.12693: "is_terminal is used as the label itself", 2.12693 - 2 * discount: "is_terminal is not used"}
    expect_close(parts["cont"], 2.12693, mistakes=mistakes, what="cont of a true end")
    model.cont = Fixed(torch.full((3, 5), 30.0))
    _, parts, _ = world_model_loss(model, batch)
    mistakes = {100.0: "the sigmoid is rounded to 1: take the cross entropy of the logit itself"}
    expect_close(parts["cont"], 30.0, mistakes=mistakes, what="cont of a true end at logit 30")


@pytest.mark.exercise(id="3.16")
@pytest.mark.parametrize(
    ("options", "kl"),
    [
        ({}, 0.1 * 4.15888),
        ({"kl_scale": 1.0}, 4.15888),
        ({"free_nats": 50.0}, 5.0),
        ({"free_nats": 50.0, "kl_scale": 1.0}, 50.0),
        ({"free_nats": 1.0, "kl_balance": None}, 0.1 * 4.15888),
    ],
)
def test_config_decides_the_kl(options, kl):
    """Three sure variables of four classes before a prior that knows nothing: 3 ln 4 nats."""
    model = WorldModel(make_config(**options), IMAGE, 3)
    full = lambda raw: rssm.State(torch.zeros(3, 5, 6), torch.zeros(3, 5, 12), raw.repeat(3).expand(3, 5, 12))
    model.rssm.observe = lambda *args, **kwargs: (full(torch.tensor([60.0, 0, 0, 0])), full(torch.zeros(4)))
    _, parts, _ = world_model_loss(model, make_batch())
    swapped = max(options.get("free_nats", 0), 3 * (45 - np.log(4)))
    mistakes = {
        4.15888: "kl_scale or free_nats of the config is not used",
        0.415888: "free_nats or kl_scale of the config is not used",
        50.0: "the scale multiplies what is left of the max: kl_scale * max(free_nats, KL)",
        swapped * options.get("kl_scale", 0.1): "posterior and prior are swapped",
    }
    mistakes = {wrong: text for wrong, text in mistakes.items() if abs(wrong - kl) > 1e-3}
    expect_close(parts["kl"], kl, mistakes=mistakes, what="kl")
    expect_close(parts["raw_kl"], 4.15888, what="raw_kl: neither scaled nor clipped")


@pytest.mark.exercise(id="3.16")
@pytest.mark.parametrize(("free_before_mean", "kl"), [(False, 2.0), (True, 2.86355)])
def test_config_decides_where_nats_are_free(free_before_mean, kl):
    """KL 4.1589, 4.1589, 0, 0, 0 along time: its mean is below 2; with the max first it is (8.3178 + 2 + 2 + 2) / 5."""
    model = WorldModel(make_config(kl_scale=1.0, free_nats=2.0, free_before_mean=free_before_mean), IMAGE, 3)
    prior = rssm.State(torch.zeros(3, 5, 6), torch.zeros(3, 5, 12), torch.zeros(3, 5, 12))
    raw = torch.zeros(3, 5, 12)
    raw[:, :2, [0, 4, 8]] = 60.0
    model.rssm.observe = lambda *args, **kwargs: (prior._replace(raw=raw), prior)
    _, parts, _ = world_model_loss(model, make_batch())
    mistakes = {2.0 if free_before_mean else 2.86355: "free_before_mean of the config is not used"}
    expect_close(parts["kl"], kl, mistakes=mistakes, what="kl")


@pytest.mark.exercise(id="3.16")
def test_balance_reaches_the_kl():
    """With kl_balance the value stays, and the prior gets its share of the gradient."""
    norms = {}
    for balance in (None, 0.8, 0.3):
        model = WorldModel(make_config("dmc_walker_walk", kl_balance=balance), IMAGE, 3)
        for i, parameter in enumerate(model.parameters()):
            torch.manual_seed(i)
            nn.init.normal_(parameter, std=0.1)
        loss, _, _ = world_model_loss(model, make_batch(), torch.zeros(3, 5, 12))
        (gradient,) = torch.autograd.grad(loss, model.rssm.img_dist.bias)  # only the KL knows the prior
        norms[balance] = gradient.norm()
    mistakes = {1.0: "kl_balance of the config is not used"}
    expect_close(norms[0.8] / norms[None], 0.8, rtol=1e-3, mistakes=mistakes, what="the prior's share")
    mistakes = {0.8: "kl_balance of the config is not used", 0.7: "the shares are swapped"}
    expect_close(norms[0.3] / norms[None], 0.3, rtol=1e-3, mistakes=mistakes, what="the prior's share")


@pytest.mark.exercise(id="3.16")
def test_heads_see_the_posteriors():
    """Not the priors, and with gradient: the heads teach the posterior what matters."""
    model = WorldModel(make_config(), IMAGE, 3)
    batch, noise = make_batch(), torch.randn(3, 5, 12)
    post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], batch["is_first"], noise)
    heads = {"image": Fixed(torch.zeros(3, 5, 3, 64, 64)), "reward": Fixed(torch.zeros(3, 5))}
    model.decoders["image"], model.reward, model.cont = heads["image"], heads["reward"], Fixed(torch.zeros(3, 5))
    _, _, returned = world_model_loss(model, batch, noise)
    for name, head in (*heads.items(), ("cont", model.cont)):
        assert head.seen, f"the {name} head is not used"
        mistakes = {
            numbers(prior.feat): "it sees the PRIOR's state",
            numbers(post._replace(stoch=post.raw).feat): "it sees the posterior's logits: it is the sample",
            numbers(torch.cat([post.stoch, post.deter], -1)): "it sees [stoch, deter]: feat is [deter, stoch]",
        }
        for seen in head.seen:
            expect_close(seen, post.feat, mistakes=mistakes, what=f"what the {name} head sees")
            assert seen.requires_grad, f"the {name} head's input is detached: it teaches the RSSM nothing"
    expect_close(returned.stoch, post.stoch, what="the posteriors that are returned")
    expect_close(returned.raw, post.raw, what="the posteriors that are returned")


@pytest.mark.exercise(id="3.16")
def test_rows_are_observed_as_they_are():
    """prev_action[t] goes with embed[t] and is_first[t]: nothing is shifted once more, and nothing left out."""
    model = WorldModel(make_config(), IMAGE, 3)
    batch = make_batch()
    seen, observe = [], model.rssm.observe

    def spy(embed, prev_action, is_first, noise=None):
        seen.append((embed, prev_action, is_first))
        return observe(embed, prev_action, is_first, noise)

    model.rssm.observe = spy
    world_model_loss(model, batch)
    (embed, prev_action, is_first) = seen[0]
    expect_close(embed, model.embed(batch), what="embed, as observe takes it in")
    expect_close(prev_action, batch["prev_action"], what="the actions, as observe takes them in")
    expect_close(is_first, batch["is_first"], what="is_first, as observe takes it in")


@pytest.mark.exercise(id="3.16")
@pytest.mark.parametrize("part", ["image", "reward", "cont", "kl"])
def test_every_part_teaches_the_encoder(part):
    """Alone, too: with all other heads fixed, and the KL scaled down to nothing."""
    model = WorldModel(make_config(kl_scale=0.1 if part == "kl" else 0.0), IMAGE, 3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    if part != "image":
        model.decoders["image"] = Fixed(torch.zeros(3, 5, 3, 64, 64))
    if part != "reward":
        model.reward = Fixed(torch.zeros(3, 5))
    if part != "cont":
        model.cont = Fixed(torch.zeros(3, 5))
    loss, _, _ = world_model_loss(model, make_batch())
    weights = list(model.encoders.parameters())
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    assert all(gradient.abs().sum() > 0 for gradient in found), f"no gradient flows from {part} into the encoder"


@pytest.mark.exercise(id="3.16")
def test_vectors_are_predicted_beside_images():
    model = WorldModel(make_config("TinyCraft-v0"), BOTH, 3)
    batch = make_batch(vector=True)
    loss, parts, _ = world_model_loss(model, batch)
    assert parts.keys() == {"image", "vector", "reward", "cont", "kl", "raw_kl"}
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients), "a weight of the model has no gradient"
    model.decoders["vector"] = Fixed(batch["vector"] + 2)
    loss, parts, _ = world_model_loss(model, batch)
    mistakes = {2.91894: "the mean over the vector's numbers is taken: it is their sum"}
    expect_close(parts["vector"], 4 * (2 + 0.91894), mistakes=mistakes, what="vector")
    total = sum(value for name, value in parts.items() if name != "raw_kl")
    expect_close(loss, total, what="the loss, as the sum of its parts")


@pytest.mark.exercise(id="3.16")
def test_gaussian_latents_have_the_same_loss():
    model = WorldModel(make_config(latent="gaussian", kl_scale=1.0), IMAGE, 3)
    batch, noise = make_batch(), torch.randn(3, 5, 3)
    _, parts, post = world_model_loss(model, batch, noise)
    assert post.stoch.shape == (3, 5, 3)
    wanted, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], batch["is_first"], noise)
    expect_close(parts["kl"], model.rssm.latent.kl(wanted.raw, prior.raw).mean(), what="kl")


# ---- the agent as a whole ----


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("latent", ["discrete", "gaussian"])
def test_agent_keeps_the_protocol(latent):
    agent = make_agent(latent=latent)
    assert isinstance(agent, Agent)
    assert np.isfinite(float(agent.update(make_rows())["world_model/loss"]))


@pytest.mark.parametrize(("actions", "rssm_size", "actor"), [(18, 5_664_848, 1_138_418), (6, 5_657_648, 1_133_606)])
def test_paper_preset_has_the_papers_parameters(actions, rssm_size, actor):
    """All 18 actions of Atari, and the 6 of Pong; 19,975,379 and 22,245,398 in all, of the paper's "20M" and "22M"."""
    agent = DreamerV2Agent(PRESETS["paper"], GREY, spaces.Discrete(actions))
    model = agent.model
    parts = (model.encoders["image"], model.rssm, model.decoders["image"], model.reward, model.cont)
    assert [count(part) for part in parts] == [1_549_776, rssm_size, 10_497_553, 1_131_601, 1_131_601]
    assert count(model) == 19_975_379 - (5_664_848 - rssm_size)
    assert (count(agent.actor), count(agent.critic), count(agent.slow.network)) == (actor, 1_131_601, 1_131_601)
    total = sum(count(each) for each in (model, agent.actor, agent.critic))
    assert total == 22_245_398 - (5_664_848 - rssm_size) - (1_138_418 - actor)
    assert agent.gradient == "reinforce"


def test_dmc_preset_has_the_codes_parameters():
    """Walker's six actions, in colour."""
    agent = DreamerV2Agent(PRESETS["repo_dmc"], IMAGE, spaces.Box(-1, 1, (6,), np.float32))
    assert count(agent.model.encoders["image"]) == 1_551_312
    assert count(agent.model.rssm) == 1_247_248
    assert count(agent.model.decoders["image"]) == 9_886_611
    assert (count(agent.model), count(agent.actor), count(agent.critic)) == (13_656_772, 976_012, 971_601)
    assert agent.model.cont is None
    assert agent.gradient == "dynamics"


@pytest.mark.parametrize("byte", [0, 255])
def test_pixels_reach_the_network_scaled_once(byte):
    agent, seen = make_agent(), []
    conv = next(m for m in agent.model.encoders["image"].modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    row = {key: value[:, 0] for key, value in make_rows(1, 1).items()}
    agent.act({**row, "image": np.full((1, 64, 64, 3), byte, np.uint8)}, agent.initial_state(1), explore=False)
    expect_close(seen[0], byte / 255 - 0.5, what=f"a pixel of {byte} in front of the first convolution")


def test_acting_is_observing_step_by_step():
    """Five rows, one by one; the second sequence begins an episode in the middle: as `observe` would."""
    agent, rows = make_agent(), make_rows()
    noise = torch.zeros(3, 5, 12)
    step = agent.model.rssm.obs_step
    agent.model.rssm.obs_step = lambda *args: step(*args, torch.zeros(3, 12))
    state = agent.initial_state(3)
    for t in range(5):
        _, state = agent.act({key: value[:, t] for key, value in rows.items()}, state, explore=False)
    batch = agent.to_tensors(rows)
    post, _ = agent.model.rssm.observe(agent.model.embed(batch), batch["prev_action"], batch["is_first"], noise)
    for name in rssm.State._fields:
        expect_close(state[name], getattr(post, name)[:, -1], what=f"{name} after five rows")
    alone, _ = agent.model.rssm.observe(
        agent.model.embed({"image": batch["image"][1:2, 2:]}),
        batch["prev_action"][1:2, 2:],
        batch["is_first"][1:2, 2:],
        noise[1:2, 2:],
    )
    expect_close(state["deter"][1], alone.deter[0, -1], what="deter of the episode that began at row 2")


@pytest.mark.parametrize("actions", [BOX, CHOICE])
def test_act_gives_rows(actions):
    """While exploring a sample, else the mode; discrete ones exactly one-hot, so that the largest entry is the
    choice."""
    agent = make_agent(actions=actions)
    size = 2 if actions is BOX else 3
    rows = {key: value[:, :1].repeat(300, 0)[:, 0] for key, value in make_rows(1, 1, size).items()}
    actions_of = {}
    for explore in (False, True):
        action, state = agent.act(rows, agent.initial_state(300), explore=explore)
        assert action.shape == (300, size)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
        if actions is CHOICE:
            assert set(np.unique(action)) == {0.0, 1.0}
            assert (action.sum(-1) == 1).all()
        assert state["deter"].shape == (300, 6)
        actions_of[explore] = action
        feat = agent.feat(state)
        if not explore:
            expect_close(action, agent.actor(feat).mode(), what="the action without exploration")
    assert len(np.unique(actions_of[True], axis=0)) > 1, "exploring takes one action only"


def snapshot(agent: DreamerV2Agent) -> dict[str, dict[str, torch.Tensor]]:
    networks = {"model": agent.model, "actor": agent.actor, "critic": agent.critic, "slow": agent.slow.network}
    return {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in networks.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("actions", [CHOICE, BOX])
@pytest.mark.parametrize("network", ["model", "actor", "critic"])
def test_each_optimiser_moves_its_own_network(network, actions, monkeypatch):
    """With the other two optimisers held, nothing else changes; and all of its own weights do."""
    agent = make_agent(actions=actions, weight_decay=0.0)
    agent.slow.updates = 1  # the next copy of the critic is far away
    before = snapshot(agent)
    for name, optimizer in agent.optimizers.items():
        if name != network:
            monkeypatch.setattr(optimizer, "step", lambda: None)
    agent.update(make_rows(actions=2 if actions is BOX else 3))
    after = snapshot(agent)
    for name in before:
        moved = [not torch.equal(before[name][key], after[name][key]) for key in before[name]]
        assert all(moved) if name == network else not any(moved), name


def test_every_network_has_an_adam_of_its_own():
    """With torch's epsilon, which is not quite that of TensorFlow, and no decay but that of `optimizer_step`."""
    agent = make_agent(model_lr=1e-2, actor_lr=2e-2, value_lr=3e-2, adam_eps=1e-4)
    for name, lr in (("model", 1e-2), ("actor", 2e-2), ("critic", 3e-2)):
        optimizer = agent.optimizers[name]
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], group["eps"], group["betas"], group["weight_decay"]) == (lr, 1e-4, (0.9, 0.999), 0), name
        own = {id(parameter) for parameter in getattr(agent, name).parameters()}
        assert {id(parameter) for parameter in group["params"]} == own, name


def test_weights_decay_whatever_the_learning_rate(monkeypatch):
    agent = make_agent(weight_decay=0.5)
    before = snapshot(agent)
    for optimizer in agent.optimizers.values():
        monkeypatch.setattr(optimizer, "step", lambda: None)
    agent.update(make_rows())
    for name in ("model", "actor", "critic"):
        for key, value in snapshot(agent)[name].items():
            expect_close(value, 0.5 * before[name][key], what=f"{name}.{key} after a decay of a half")


def test_dreams_run_in_the_model_after_its_step(monkeypatch):
    """From the posteriors that the loss was made of: DreamerV1 took all losses before any step."""
    agent, rows, order, seen = make_agent(), make_rows(), [], {}
    before = snapshot(agent)["model"]
    for name, optimizer in agent.optimizers.items():
        original = optimizer.step
        monkeypatch.setattr(
            optimizer, "step", lambda name=name, original=original: order.append(f"step {name}") or original()
        )
    loss, update = agent_module.world_model_loss, agent.slow.update

    def spy_on_loss(*args):
        result = loss(*args)
        seen["post"] = result[2]
        return result

    original = agent_module.imagine

    def spy_on_dream(model, actor, start, horizon):
        order.append("dream")
        seen.update(start=start, horizon=horizon, unchanged=same(agent.model.state_dict(), before))
        assert model is agent.model.rssm
        return original(model, actor, start, horizon)

    monkeypatch.setattr(agent_module, "world_model_loss", spy_on_loss)
    monkeypatch.setattr(agent_module, "imagine", spy_on_dream)
    monkeypatch.setattr(agent.slow, "update", lambda: order.append("slow critic") or update())
    agent.update(rows)
    assert order == ["step model", "dream", "step actor", "step critic", "slow critic"]
    assert not seen["unchanged"], "the dream runs in the model as it was before its step"
    assert seen["horizon"] == 4
    for name, start, post in zip(rssm.State._fields, seen["start"], seen["post"], strict=True):
        expect_close(start, post.flatten(0, 1), what=f"{name} of the starts: every posterior, ends too")
        assert not start.requires_grad


def spied(monkeypatch, name: str) -> list[tuple[tuple, dict]]:
    """The arguments of every call of one of the agent's functions."""
    calls, original = [], getattr(agent_module, name)

    def spy(*args, **kwargs):
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(agent_module, name, spy)
    return calls


def test_dream_from_a_true_end_counts_its_start_alone(monkeypatch):
    """Row 4 of the first sequence is terminal: its discount is 0, its weights are 1, 0, 0, 0, 0."""
    agent = make_agent(discount=0.9)
    discounts, losses = spied(monkeypatch, "dream_discounts"), spied(monkeypatch, "actor_loss")
    agent.update(make_rows())
    (_, is_terminal, discount), _ = discounts[0]
    assert is_terminal.nonzero().tolist() == [[4]]
    assert discount == 0.9
    weight = losses[0][0][5]
    assert weight.shape == (15, 5)
    expect_close(weight[4], [1, 0, 0, 0, 0], what="weights of a dream that starts at an end")
    expect_close(weight[:, 1], [0.9] * 4 + [0.0] + [0.9] * 10, what="the weights of the first imagined states")


def test_targets_and_baseline_are_the_slow_critics(monkeypatch):
    """The online critic is trained on them, and asked nowhere else."""
    agent = make_agent()
    for parameter in agent.slow.network.parameters():
        nn.init.zeros_(parameter)
    list(agent.slow.network.parameters())[-1].data.fill_(7.0)  # its value everywhere
    returns, losses = spied(monkeypatch, "lambda_returns"), spied(monkeypatch, "actor_loss")
    trained = spied(monkeypatch, "critic_loss")
    agent.update(make_rows())
    expect_close(returns[0][0][1], 7.0, what="the values that the returns are made of")
    expect_close(losses[0][0][4], 7.0, what="the baseline")
    assert trained[0][0][0] is agent.critic
    expect_close(trained[0][0][2], losses[0][0][3], what="the critic's targets, which are the actor's returns")


def test_slow_critic_follows_after_updates_1_and_101():
    """Its first copy is that of the critic after its first step."""
    agent, rows = make_agent(), make_rows()
    pattern = []
    for _ in range(3):
        agent.update(rows)
        pattern.append(same(agent.slow.network.state_dict(), agent.critic.state_dict()))
    assert pattern == [True, False, False]
    agent.slow.updates = 99
    for _ in range(2):
        agent.update(rows)
        pattern.append(same(agent.slow.network.state_dict(), agent.critic.state_dict()))
    assert pattern[3:] == [False, True]
    assert agent.slow.updates == 101


@pytest.mark.parametrize(("actions", "gradient"), [(CHOICE, "reinforce"), (BOX, "dynamics")])
def test_kind_of_actions_decides_the_actors_gradient(actions, gradient, monkeypatch):
    rows = make_rows(actions=2 if actions is BOX else 3)
    losses = spied(monkeypatch, "actor_loss")
    make_agent(actions=actions).update(rows)
    assert losses[-1][1]["gradient"] == gradient
    for chosen in ("both", "dynamics", "reinforce"):
        agent = make_agent(actions=actions, actor_gradient=chosen)
        before = snapshot(agent)["actor"]
        agent.update(rows)
        assert losses[-1][1]["gradient"] == chosen
        assert not same(before, agent.actor.state_dict())


def test_entropy_and_mix_follow_their_schedules(monkeypatch):
    """Agent steps are told by updates: after 100 of them at one every 4, 400 of 1000 are over."""
    schedule = {"entropy_scale": 3e-3, "entropy_scale_end": 3e-4, "actor_mix_end": 0.0, "schedule_steps": 1000}
    agent = make_agent(actor_gradient="both", train_every=4, **schedule)
    losses = spied(monkeypatch, "actor_loss")
    for updates, entropy, mix in ((0, 3e-3, 0.1), (100, 1.92e-3, 0.06), (250, 3e-4, 0.0), (900, 3e-4, 0.0)):
        agent.updates = updates
        agent.update(make_rows())
        expect_close(losses[-1][1]["entropy_scale"], entropy, what=f"entropy_scale after {updates} updates")
        expect_close(losses[-1][1]["mix"], mix, what=f"mix after {updates} updates")
    constant = make_agent(entropy_scale=0.5, advantage="same")
    constant.updates = 900
    constant.update(make_rows())
    assert (losses[-1][1]["entropy_scale"], losses[-1][1]["advantage"]) == (0.5, "same")


def test_gradients_are_clipped_one_network_at_a_time():
    agent = make_agent(clip=0.01)
    metrics = agent.update(make_rows())
    names = {"world_model/grad_norm": "model", "policy/grad_norm": "actor", "policy/value_grad_norm": "critic"}
    for name, network in names.items():
        norm = torch.cat([p.grad.flatten() for p in getattr(agent, network).parameters()]).norm()
        assert norm <= 0.0101, network
        assert metrics[name] >= norm * 0.999, "the norm that is logged is the one before clipping"


def test_discount_is_in_the_continue_head_and_not_applied_again(monkeypatch):
    """A head that has learned its soft label gives 0.99, and the dream's probability of going on is then 1."""
    agent = make_agent(discount=0.99)
    feat = torch.randn(4, 18)
    agent.model.cont = Fixed(torch.full((4,), float(np.log(0.99 / 0.01))))
    expect_close(agent.model.discount(feat), 0.99, mistakes={0.9801: "the discount is applied twice"})
    expect_close(agent.cont_probability(feat), 1.0, what="probability of going on")
    constant = make_agent(discount=0.99, use_continue=False)
    expect_close(constant.model.discount(feat), 0.99, what="without a head")


def test_actor_waits_for_the_world_model():
    agent = make_agent(actor_delay=2)
    before = snapshot(agent)
    agent.update(make_rows())
    agent.update(make_rows())
    after = snapshot(agent)
    assert all(same(before[name], after[name]) for name in ("actor", "critic", "slow"))
    assert not same(before["model"], after["model"])
    metrics = agent.update(make_rows())
    assert "policy/actor_loss" in metrics
    assert not same(before["actor"], agent.actor.state_dict())


@pytest.fixture
def replay() -> ReplayBuffer:
    """Two environments, episodes of 8 rows."""
    replay = ReplayBuffer(1000)
    for t in range(64):
        rows = {key: value[:, 0] for key, value in make_rows(2, 1, seed=t).items()}
        rows["is_first"][:], rows["is_last"][:], rows["is_terminal"][:] = t % 8 == 0, t % 8 == 7, t % 16 == 7
        replay.add(rows)
    return replay


@pytest.mark.parametrize(
    ("env", "options", "frames", "counts"),
    [
        ("TinyCatch-v0", {"pretrain": 3, "train_every": 10}, (50, 59, 60, 61, 95), [3, 3, 4, 4, 7]),
        ("atari_pong", {"pretrain": 1, "train_every": 4}, (50, 62, 66, 82, 178), [1, 1, 2, 3, 9]),  # 16 frames each
        ("atari_pong", {"train_every": 4, "action_repeat": 2}, (50, 57, 58, 74), [0, 0, 1, 3]),
        ("dmc_walker_walk", {"train_every": 5}, (50, 59, 60, 70), [0, 0, 1, 2]),
    ],
)
def test_updates_follow_the_agents_steps(env, options, frames, counts, replay):
    """One every `train_every` choices of an action, each of which holds for `repeat` frames."""
    agent = make_agent(env=env, prefill=50, **options)
    found = []
    for frame in frames:
        agent.learn(replay, frame)
        found.append(agent.updates)
    assert found == counts
    assert agent.learn(replay, frames[-1]) == {}


def test_chunks_begin_an_episode_and_may_prefer_ends(replay, monkeypatch):
    """What the config says of a batch reaches `sample_batch`; every chunk's first row is an episode's first."""
    agent, seen = make_agent(prefill=0, pretrain=1, prioritize_ends=True), []
    calls, update = spied(monkeypatch, "sample_batch"), agent.update
    monkeypatch.setattr(agent, "update", lambda rows: seen.append(rows) or update(rows))
    agent.learn(replay, 0)
    assert calls[0][0][1:4] == (3, 5, True)
    assert seen[0]["is_first"].shape == (3, 5)
    assert seen[0]["is_first"][:, 0].all()


def test_what_is_learned_is_logged_under_known_names(replay):
    agent = make_agent(prefill=0, pretrain=2)
    metrics = agent.learn(replay, 0)
    assert metrics.keys() <= METRICS.keys()
    wanted = "loss recon_loss recon_error kl kl_loss reward_loss reward_error cont_loss cont_accuracy latent_use"
    assert {f"world_model/{name}" for name in [*wanted.split(), "latent_perplexity", "grad_norm"]} <= metrics.keys()
    assert {"policy/actor_loss", "policy/value_loss", "policy/entropy", "policy/value_error"} <= metrics.keys()
    assert "efficiency/seconds_per_update" in metrics
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_two_agents_with_one_seed_learn_the_same_and_a_resumed_one_too(replay):
    """The slow critic's place in its hundred updates is kept, too."""
    one, two = (make_agent(prefill=0, pretrain=6, slow_every=3) for _ in range(2))
    one.learn(replay, 0)
    two.config.pretrain = 3
    two.learn(replay, 0)
    saved = copy.deepcopy(two.state_dict())
    three = make_agent(prefill=0, pretrain=6, slow_every=3)
    three.load_state_dict(saved)
    assert (three.updates, three.slow.updates) == (3, 3)
    assert same(snapshot(two)["slow"], three.slow.network.state_dict())
    three.learn(replay, 0)
    found, wanted = snapshot(three), snapshot(one)
    for name, weights in wanted.items():
        for key, value in weights.items():
            assert torch.equal(value, found[name][key]), f"{name}.{key}"


def test_slow_critic_is_saved_as_it_is_between_its_copies(replay):
    agent = make_agent(prefill=0, pretrain=3)
    agent.learn(replay, 0)
    assert not same(agent.slow.network.state_dict(), agent.critic.state_dict())
    other = make_agent(seed=1)
    other.load_state_dict(agent.state_dict())
    for name, weights in snapshot(agent).items():
        assert same(weights, snapshot(other)[name]), name
    assert other.slow.critic is other.critic, "the copies are to be those of the agent's own critic"
    nn.init.ones_(other.critic[0].weight)
    assert not (other.slow.network[0].weight == 1).any()


def test_weights_alone_are_enough_to_play_and_to_dream():
    agent, rows = make_agent(), make_rows()
    agent.update(rows)
    other = make_agent(seed=1)
    other.load_state_dict(agent.weights())
    assert agent.weights().keys() == {"model", "actor", "critic"}
    found = []
    for each in (agent, other):
        torch.manual_seed(3)
        found.append(dream(each, rows, 3))
    for name, one, two in zip(found[0]._fields, *found, strict=True):
        assert np.array_equal(one, two), name


def test_overfitting_one_batch_takes_the_same_batch(replay, monkeypatch):
    agent, seen = make_agent(prefill=0, pretrain=3, overfit_batch=True), []
    original = agent.update
    monkeypatch.setattr(agent, "update", lambda rows: seen.append(rows["reward"].copy()) or original(rows))
    agent.learn(replay, 0)
    assert len(seen) == 3
    assert all(np.array_equal(seen[0], each) for each in seen)


@pytest.mark.parametrize("latent", ["discrete", "gaussian"])
@pytest.mark.parametrize("observations", [IMAGE, BOTH])
def test_dreams_have_the_shapes_of_the_protocol(observations, latent):
    agent = make_agent(observations, latent=latent)
    rows = make_rows(2, 3, vector=observations is BOTH)
    imagined = dream(agent, rows, 4)
    assert imagined.images.shape == (2, 4, 64, 64, 3)
    assert imagined.rewards.shape == imagined.conts.shape == (2, 4)
    assert imagined.actions.shape == (2, 4, 3)
    assert ((imagined.conts >= 0) & (imagined.conts <= 1)).all()
    assert agent.reconstruct(rows).shape == (2, 3, 64, 64, 3)
    assert agent.feat(agent.begin_dream(rows)).shape == (2, 18 if latent == "discrete" else 9)


def test_prediction_takes_the_actions_that_it_is_given():
    agent, rows = make_agent(), make_rows(2, 3)
    choose = lambda i: np.broadcast_to(np.eye(3, dtype=np.float32)[i], (2, 3, 3)).copy()
    found = []
    for i in (0, 1):
        torch.manual_seed(1)
        found.append(dream(agent, rows, 3, choose(i)))
    one, two = found
    assert (one.images != two.images).any() or (one.rewards != two.rewards).any()
    assert (one.actions == choose(0)).all()


@pytest.mark.parametrize("latent", ["discrete", "gaussian"])
def test_temperature_decides_how_much_chance_is_in_a_dream(latent):
    """Cold, the likeliest class or the mean; hot, anything."""
    agent = make_agent(latent=latent)
    state = agent.begin_dream(make_rows(2, 3))
    step = lambda temperature: agent.dream_step(state, torch.eye(3)[:2], temperature=temperature).state
    cold = [step(1e-6) for _ in range(3)]
    if latent == "discrete":
        logits = agent.model.rssm.latent.logits(cold[0]["raw"])
        mode = nn.functional.one_hot(logits.argmax(-1), 4).flatten(1)
        expect_close(cold[0]["stoch"], mode, what="the coldest sample: the mode")
    else:
        expect_close(cold[0]["stoch"], cold[0]["raw"][:, :3], atol=1e-4, what="the coldest sample: the mean")
    expect_close(cold[1]["stoch"], cold[2]["stoch"], atol=1e-4, what="two steps without chance")
    hot = [step(100.0)["stoch"] for _ in range(5)]
    assert any(not torch.allclose(hot[0], other) for other in hot[1:])


def test_rewards_are_transformed_where_asked_for():
    """The reports stay raw: only what the networks learn is squashed."""
    rows = make_rows()
    before = rows["reward"].copy()
    expect_close(make_agent(reward_transform="tanh").to_tensors(rows)["reward"], np.tanh(rows["reward"]))
    expect_close(make_agent().to_tensors(rows)["reward"], rows["reward"], what="rewards of TinyCatch")
    expect_close(make_agent(env="atari_pong").to_tensors(rows)["reward"], np.tanh(before), what="rewards of Atari")
    assert np.array_equal(rows["reward"], before)


@pytest.mark.parametrize(("kind", "learned", "earned"), [("tanh", 1, 1), ("symlog", 2.3979, 10), ("none", 10, 10)])
def test_dreams_undo_symlog_but_not_tanh(kind, learned, earned, monkeypatch):
    """A head that has learned a reward of 10: of tanh 1 is what imagination earns, of symlog 10 (2.398 is a bug)."""
    agent, rows = make_agent(reward_transform=kind), make_rows()
    for parameter in agent.model.reward.parameters():
        nn.init.zeros_(parameter)
    list(agent.model.reward.parameters())[-1].data.fill_(learned)
    expect_close(dream(agent, rows, 2).rewards, earned, rtol=1e-3, what="the rewards of a dream that is looked at")
    monkeypatch.setattr(agent.optimizers["model"], "step", lambda: None)
    returns = spied(monkeypatch, "lambda_returns")
    agent.update(rows)
    mistakes = {2.3979: "symlog is not undone", float(np.arctanh(0.9999999)): "tanh is undone"}
    expect_close(returns[0][0][0], earned, rtol=1e-3, mistakes=mistakes, what="the rewards that the actor learns from")


def test_latent_of_the_config_is_the_latent_of_the_model():
    model = make_agent(latent="gaussian").model
    assert isinstance(model.rssm.latent, rssm.GaussianLatent)
    assert (model.rssm.latent.stoch, model.feat) == (3, 9)
    model = make_agent().model
    assert isinstance(model.rssm.latent, rssm.DiscreteLatent)
    assert (model.rssm.latent.stoch, model.feat) == (12, 18)


@pytest.mark.training
def test_world_model_learns_what_an_action_does():
    """Bright or dark is what the last action said: after 100 updates on it the prior knows, one step ahead.

    Baseline: the mean frame, 0.25 of squared error a pixel.
    """
    agent = make_agent(deter=16, hidden=16, units=16, model_lr=1e-2, actor_delay=999)
    rng, errors = np.random.default_rng(0), []
    action = np.eye(3, dtype=np.float32)[[[0], [1]] * 3]
    for update in range(1, 121):
        rows, bright = make_rows(6, 5), rng.integers(2, size=(6, 5))
        rows["prev_action"] = np.eye(3, dtype=np.float32)[bright]
        rows["is_first"][:] = False
        rows["image"][:] = 255 * bright[..., None, None, None]
        agent.update(rows)
        if update >= 100 and update % 10 == 0:
            predicted = dream(agent, rows, 1, action).images[:, 0] / 255.0
            errors.append(np.square(predicted - action[:, 0, 1, None, None, None]).mean())
    assert np.mean(errors) < 0.1


@pytest.mark.parametrize(("latent", "shape"), [("discrete", (3, 4)), ("gaussian", (3,))])
def test_latent_use_is_what_the_figure_draws(latent, shape):
    """Counts of classes, which add up to the rows, or nats of each dimension, none negative."""
    agent = make_agent(latent=latent, stoch=3, classes=4)
    used = agent.latent_use(make_rows(2, 5))
    assert used.shape == shape
    assert (used >= 0).all()
    if latent == "discrete":
        assert (used.sum(1) == 10).all()
