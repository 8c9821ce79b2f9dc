"""The RSSM with discrete latents: exercises 3.4 to 3.9."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paper3_dreamerv2 import rssm
from tests.helpers import expect_close, golden, numbers

ACTION, EMBED, DETER, VARIABLES, CLASSES, HIDDEN = 2, 6, 5, 3, 4, 7
STOCH = VARIABLES * CLASSES


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_rssm(latent: rssm.Latent | None = None) -> rssm.RSSM:
    """A small RSSM whose weights are large enough that every input matters."""
    model = rssm.RSSM(ACTION, EMBED, latent or rssm.DiscreteLatent(VARIABLES, CLASSES), DETER, HIDDEN)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def draw_noise(*lead: int) -> torch.Tensor:
    return rssm.DiscreteLatent(VARIABLES, CLASSES).noise(lead, torch.device("cpu"))


def make_state(*lead: int) -> rssm.State:
    """Any state; its stoch is one-hot, and is not the mode of its raw."""
    classes = torch.randint(CLASSES, (*lead, VARIABLES))
    return rssm.State(
        torch.rand(*lead, DETER) * 2 - 1, F.one_hot(classes, CLASSES).flatten(-2).float(), torch.randn(*lead, STOCH)
    )


def copy_of(state: rssm.State) -> rssm.State:
    return rssm.State(*(x.clone() for x in state))


def check_gradients(actual: torch.Tensor, expected: torch.Tensor, leaves: dict[str, torch.Tensor]) -> None:
    """Two numbers that should be the same have the same gradient in all leaves."""
    expect_close(actual, expected, what="the number whose gradient is taken")
    assert actual.requires_grad, "no gradient flows at all"
    found = torch.autograd.grad(actual, list(leaves.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(leaves.values()))
    for name, one, other in zip(leaves, found, wanted, strict=True):
        assert one is not None, f"no gradient reaches {name}: nothing is to be detached here"
        mistakes = {0.0: "no gradient: nothing is to be detached here"}
        expect_close(one, other, rtol=1e-3, atol=1e-4, mistakes=mistakes, what=f"gradient in {name}")


def official_rssm(kind: str) -> tuple[rssm.RSSM, dict[str, torch.Tensor]]:
    """The official model's weights (Keras has (in, out) kernels), and its example: `discrete` or `gaussian`."""
    g = {key: torch.tensor(value) for key, value in golden(f"dv2_rssm_{kind}").items()}
    latent = rssm.DiscreteLatent(3, 4) if kind == "discrete" else rssm.GaussianLatent(3)
    model = rssm.RSSM(2, 4, latent, deter=5, hidden=6)
    names = {"img_in": "img_in", "img_out": "img_out_0", "img_dist": "img_dist_0", "obs_out": "obs_out"}
    with torch.no_grad():
        for ours, theirs in {**names, "obs_dist": "obs_dist"}.items():
            getattr(model, ours).weight.copy_(g[f"param.{theirs}.kernel"].T)
            getattr(model, ours).bias.copy_(g[f"param.{theirs}.bias"])
        model.cell.layer.weight.copy_(g["param.gru.kernel"].T)
        model.cell.layer.bias.copy_(g["param.gru.bias"])
        model.cell.norm.weight.copy_(g["param.gru_norm.gamma"])
        model.cell.norm.bias.copy_(g["param.gru_norm.beta"])
    return model, g


def official_state(model: rssm.RSSM, g: dict[str, torch.Tensor], name: str) -> rssm.State:
    """One of the example's states. Of a Gaussian, raw holds the mean and what gives the std."""
    if isinstance(model.latent, rssm.DiscreteLatent):
        raw = g[f"{name}_logit"].flatten(-2)
    else:
        raw = torch.cat([g[f"{name}_mean"], 2 * torch.logit((g[f"{name}_std"] - 0.1) / 2)], -1)
    return rssm.State(g[f"{name}_deter"], g[f"{name}_stoch"].flatten(1), raw)


def check_official(model: rssm.RSSM, g: dict, name: str, state: rssm.State, mistakes: dict | None = None) -> None:
    """A state agrees with the example's: its deter, its distribution, and its mode as the sample."""
    expect_close(state.deter, g[f"{name}_deter"], mistakes=mistakes, what=f"deter of {name}")
    if isinstance(model.latent, rssm.DiscreteLatent):
        expect_close(model.latent.logits(state.raw), g[f"{name}_logit"], what=f"logits of {name}")
    else:
        mean, std = model.latent.mean_std(state.raw)
        expect_close(mean, g[f"{name}_mean"], what=f"mean of {name}")
        expect_close(std, g[f"{name}_std"], what=f"std of {name}")
    expect_close(state.stoch, g[f"{name}_stoch"].flatten(1), what=f"stoch of {name}, without noise")


# ---- 3.4 DiscreteLatent.kl ----


def categorical_kl(post: torch.Tensor, prior: torch.Tensor, classes: int) -> torch.Tensor:
    """Each variable's KL in float64, by torch."""
    distribution = lambda raw: torch.distributions.Categorical(logits=raw.double().unflatten(-1, (-1, classes)))
    return torch.distributions.kl_divergence(distribution(post), distribution(prior))


def logits_of(*probabilities: float) -> torch.Tensor:
    """Logits of a categorical; a constant added to all changes nothing."""
    return torch.tensor(probabilities).log() + 0.7


@pytest.mark.exercise(id="3.4")
def test_kl_by_hand():
    """q = (.9, .1), p = (.5, .5): .9 ln 1.8 + .1 ln .2 = 0.36806 nats; 32 such variables have 32 times as many."""
    one = rssm.DiscreteLatent(1, 2).kl(logits_of(0.9, 0.1), logits_of(0.5, 0.5))
    mistakes = {
        0.51083: "the two are swapped: it is KL(post || prior)",
        -0.36806: "the sign",
        0.18403: "the MEAN over the classes is taken: it is their sum",
        0.53100: "these are bits: the logarithm is the natural one",
        0.87889: "the logits are used as they are: first take the log_softmax",
    }
    expect_close(one, 0.36806, mistakes=mistakes, what="KL of one variable")
    many = rssm.DiscreteLatent(32, 2).kl(logits_of(0.9, 0.1).repeat(32), logits_of(0.5, 0.5).repeat(32))
    mistakes = {
        0.36806: "the MEAN over the variables is taken: the state's KL is their SUM",
        32 * 0.51083: "the two are swapped: it is KL(post || prior)",
    }
    expect_close(many, 11.7779, mistakes=mistakes, what="KL of 32 variables")


@pytest.mark.exercise(id="3.4")
def test_kl_agrees_with_the_official_code():
    g = golden("dv2_kl_balance")
    raw = {name: torch.tensor(g[name]).flatten(-2) for name in ("post", "prior")}
    transposed = [each.unflatten(-1, (5, 4)).mT.flatten(-2) for each in raw.values()]
    mistakes = {
        numbers(g["value_forward"]): "the two are swapped: it is KL(post || prior)",
        numbers(g["value_default"] / 4): "the MEAN over the variables is taken: it is their SUM",
        numbers(categorical_kl(*transposed, 5).sum(-1)): "variables and classes are swapped",
    }
    found = rssm.DiscreteLatent(4, 5).kl(raw["post"], raw["prior"])
    expect_close(found, g["value_default"], mistakes=mistakes, what="KL of 2 x 3 states")


@pytest.mark.exercise(id="3.4")
@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
def test_kl_and_its_gradient_are_exact_in_float64(lead):
    """Of states with any leading axes; gradient flows to both sides."""
    post, prior = (torch.randn(*lead, 15, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, expected = rssm.DiscreteLatent(3, 5).kl(post, prior), categorical_kl(post, prior, 5).sum(-1)
    assert found.shape == lead
    expect_close(found, expected, rtol=1e-9, atol=1e-12, what="KL")
    assert found.requires_grad, "no gradient flows through the KL"
    gradients = torch.autograd.grad(found.sum(), [post, prior], allow_unused=True)
    wanted = torch.autograd.grad(expected.sum(), [post, prior])
    for name, gradient, other in zip(("posterior", "prior"), gradients, wanted, strict=True):
        assert gradient is not None, f"no gradient reaches the {name}: kl_loss stops gradients, not this"
        expect_close(gradient, other, rtol=1e-9, atol=1e-12, what=f"gradient in the {name}")


@pytest.mark.exercise(id="3.4")
def test_extremes_of_the_kl():
    """Equal distributions: 0, whatever is added to the logits. One-hot to uniform: 32 ln 32 = 110.90 nats."""
    latent, raw = rssm.DiscreteLatent(32, 32), torch.randn(4, 1024)
    shift = torch.randn(4, 32, 1).expand(4, 32, 32).flatten(1)
    expect_close(latent.kl(raw + shift, raw), 0.0, atol=1e-4, what="KL of a distribution to itself")
    sure = latent.sample(torch.zeros(4, 1024), latent.noise((4,), torch.device("cpu"))) * 1000
    expect_close(latent.kl(sure, torch.zeros(4, 1024)), 110.90355, what="KL of a one-hot posterior to a uniform prior")


@pytest.mark.exercise(id="3.4")
def test_large_logits_stay_finite():
    """softmax of (1000, 0) is exactly (1, 0), whose logarithm is -inf: log_softmax is -1000."""
    post = torch.tensor([[1000.0, 0.0], [1000.0, 0.0], [-500.0, 500.0]], requires_grad=True)
    prior = torch.tensor([[0.0, 1000.0], [1000.0, 0.0], [0.0, 0.0]], requires_grad=True)
    found = rssm.DiscreteLatent(1, 2).kl(post, prior)
    assert torch.isfinite(found).all(), f"the KL of large logits is {found.tolist()}: take log_softmax"
    epsilons = {numbers([-math.log(eps), 0.0, math.log(2)]): f"{eps} is added before the log" for eps in (1e-8, 1e-6)}
    expect_close(found, [1000.0, 0.0, math.log(2)], mistakes=epsilons, what="KL of large logits")
    gradients = torch.autograd.grad(found.sum(), [post, prior])
    assert all(torch.isfinite(gradient).all() for gradient in gradients), "the gradient of large logits is nan"


# ---- 3.5 LayerNormGRUCell ----


def fixture_cell(update_bias: float = -1.0) -> rssm.LayerNormGRUCell:
    cell = rssm.LayerNormGRUCell(1, 2, update_bias)
    with torch.no_grad():
        cell.layer.weight.copy_(torch.arange(18.0).reshape(6, 3) / 10)
        cell.layer.bias.copy_(torch.tensor([0.1, -0.1, 0.2, -0.2, 0.3, -0.3]))
        cell.norm.weight.fill_(1), cell.norm.bias.zero_()
    return cell


@pytest.mark.exercise(id="3.5")
def test_cell_by_hand():
    """x = 1, h = (.5, -.5), weights 0 to 1.7."""
    found = fixture_cell()(torch.tensor([[1.0]]), torch.tensor([[0.5, -0.5]]))
    mistakes = {
        (0.20182, -0.27418): "the norm's eps is 1e-5: `self.norm` has 1e-3",
        (0.10876, -0.16231): "the -1 is missing: update = sigmoid(update - 1)",
        (0.31926, -0.25058): "update weighs the candidate, 1 - update the old state: torch's GRUCell has it the other "
        "way round",
    }
    expect_close(found, [[0.20216, -0.27439]], mistakes=mistakes, what="the new state")


@pytest.mark.exercise(id="3.5")
@pytest.mark.parametrize(("update_bias", "expected"), [(0.0, (0.10876, -0.16231)), (-1.0, (0.20216, -0.27439))])
def test_update_bias_is_the_cells_own(update_bias, expected):
    found = fixture_cell(update_bias)(torch.tensor([[1.0]]), torch.tensor([[0.5, -0.5]]))
    expect_close(found, [expected], what=f"the new state, update_bias={update_bias}")


@pytest.mark.exercise(id="3.5")
def test_cell_without_weights_forgets_slowly():
    """update = sigmoid(-1) = 0.2689 and candidate 0: of h = 1 there is 0.7311 left."""
    cell = rssm.LayerNormGRUCell(3, 4)
    for parameter in cell.layer.parameters():
        nn.init.zeros_(parameter)
    mistakes = {0.5: "the -1 is missing (torch's GRUCell gives this)", 0.26894: "update weighs the new, not the old"}
    expect_close(cell(torch.randn(2, 3), torch.ones(2, 4)), 0.7310586, mistakes=mistakes, what="the new state")


@pytest.mark.exercise(id="3.5")
def test_cell_agrees_with_the_official_code():
    """With a norm whose scale and shift are not 1 and 0."""
    g = {key: torch.tensor(value).float() for key, value in golden("dv2_gru_cell").items()}
    cell = rssm.LayerNormGRUCell(4, 5)
    with torch.no_grad():
        cell.layer.weight.copy_(g["norm_kernel"].T), cell.layer.bias.copy_(g["norm_bias"])
        cell.norm.weight.copy_(g["norm_gamma"]), cell.norm.bias.copy_(g["norm_beta"])

    def step(order: str = "xh", gates: tuple[int, int, int] = (0, 1, 2), norm: str = "all") -> torch.Tensor:
        x, h = g["norm_x"], g["norm_h"]
        z = cell.layer(torch.cat([x, h] if order == "xh" else [h, x], -1))
        if norm == "all":
            z = F.layer_norm(z, (15,), cell.norm.weight, cell.norm.bias, eps=1e-3)
        elif norm == "plain":
            z = F.layer_norm(z, (15,), eps=1e-3)
        parts = z.chunk(3, -1)
        if norm == "each":
            scales = zip(cell.norm.weight.chunk(3), cell.norm.bias.chunk(3), strict=True)
            parts = [F.layer_norm(part, (5,), *ab, eps=1e-3) for part, ab in zip(parts, scales, strict=True)]
        reset, candidate, update = (parts[i] for i in gates)
        update = (update - 1).sigmoid()
        return update * (reset.sigmoid() * candidate).tanh() + (1 - update) * h

    assert torch.allclose(step(), g["norm_out"], atol=1e-5)
    mistakes = {
        numbers(step("hx")): "the input is [x, h], not [h, x]",
        numbers(step(gates=(1, 0, 2))): "the order is reset, candidate, update",
        numbers(step(gates=(0, 2, 1))): "the order is reset, candidate, update",
        numbers(step(gates=(2, 1, 0))): "the order is reset, candidate, update",
        numbers(step(norm="none")): "there is no layer norm",
        numbers(step(norm="each")): "each gate is normalised by itself: all 3 * deter numbers are, together",
        numbers(step(norm="plain")): "the norm's scale and shift are not used",
    }
    found = cell(g["norm_x"], g["norm_h"])
    expect_close(found, g["norm_out"], mistakes=mistakes, what="the new state")


@pytest.mark.exercise(id="3.5")
def test_reset_scales_the_whole_candidate():
    """With reset at 0 the candidate is tanh(0) = 0, whatever x is; torch's GRUCell would reset the share of h alone."""
    cell = rssm.LayerNormGRUCell(3, 4)
    with torch.no_grad():
        cell.norm.weight.fill_(1), cell.norm.bias.copy_(torch.cat([torch.full((4,), -60.0), torch.zeros(8)]))
    x, h = torch.randn(5, 3), torch.randn(5, 4)
    update = torch.sigmoid(cell.norm(cell.layer(torch.cat([x, h], -1)))[:, 8:] - 1)
    candidate = cell.norm(cell.layer(torch.cat([x, h], -1)))[:, 4:8].tanh()
    mistakes = {
        numbers((1 - update) * h + update * candidate): "reset does not scale the candidate",
        numbers((1 - update) * h + update * 0.5): "reset is applied behind the tanh",
    }
    expect_close(cell(x, h), (1 - update) * h, mistakes=mistakes, what="the new state, reset at 0")


@pytest.mark.exercise(id="3.5")
def test_gradient_of_the_cell():
    """Into x, h and every weight; the rows of a batch do not mix, and the caller's state stays."""
    cell = rssm.LayerNormGRUCell(3, 4).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter)
    x, h = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    before = h.clone()
    alone = torch.cat([cell(x[i : i + 1], h[i : i + 1]) for i in range(5)])
    expect_close(cell(x, h), alone, rtol=1e-9, atol=1e-12, what="rows one by one")
    assert torch.equal(h, before), "the caller's state is changed"
    x.requires_grad_(), h.requires_grad_()
    z = cell.layer(torch.cat([x, h], -1))
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    reset, candidate, update = (z * cell.norm.weight + cell.norm.bias).split(4, -1)
    update = (update - 1).sigmoid()
    expected = update * (reset.sigmoid() * candidate).tanh() + (1 - update) * h
    weight = torch.randn(5, 4, dtype=torch.float64)
    leaves = {"x": x, "h": h, **dict(cell.named_parameters())}
    check_gradients((cell(x, h) * weight).sum(), (expected * weight).sum(), leaves)


def test_cell_has_the_papers_size():
    """One dense layer of 1200 -> 1800 with bias, and the norm's 2 x 1800."""
    assert sum(p.numel() for p in rssm.LayerNormGRUCell(600, 600).parameters()) == 2_165_400


# ---- 3.6 img_step ----


@pytest.mark.exercise(id="3.6")
@pytest.mark.parametrize("kind", ["discrete", "gaussian"])
def test_prior_agrees_with_the_official_code(kind):
    """Of either latent; without noise the sample is the mode."""
    model, g = official_rssm(kind)
    prior = model.img_step(official_state(model, g, "prev"), g["action"], torch.zeros(3, model.latent.stoch))
    check_official(model, g, "img", prior)


@pytest.mark.exercise(id="3.6")
def test_prior_agrees_with_the_equations():
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), draw_noise(4)
    before = copy_of(prev)
    prior = model.img_step(prev, action, noise)
    assert all(torch.equal(a, b) for a, b in zip(prev, before, strict=True)), "the caller's state is changed"

    def deter(stoch: torch.Tensor, action: torch.Tensor, activation=F.elu) -> torch.Tensor:
        return model.cell(activation(model.img_in(torch.cat([stoch, action], -1))), prev.deter)

    expected = deter(prev.stoch, action)
    probs = prev.raw.unflatten(-1, (VARIABLES, CLASSES)).softmax(-1).flatten(-2)
    mistakes = {
        numbers(deter(prev.stoch, 0 * action)): "the action is left out",
        numbers(deter(prev.raw, action)): "the GRU is fed the logits: it is the sample, stoch",
        numbers(deter(probs, action)): "the GRU is fed the probabilities: it is the sample, stoch",
        numbers(deter(prev.stoch, action, lambda x: x)): "there is no ELU behind img_in",
        numbers(deter(prev.stoch, action, F.relu)): "the activation is ELU, not ReLU",
        numbers(prev.deter): "deter is the cell's, not the one before",
    }
    expect_close(prior.deter, expected, mistakes=mistakes, what="deter")
    raw = model.img_dist(F.elu(model.img_out(expected)))
    normalised = model.latent.logits(raw).log_softmax(-1).flatten(-2)
    mistakes = {
        numbers(model.img_dist(model.img_out(expected))): "there is no ELU behind img_out",
        numbers(model.img_dist(F.relu(model.img_out(expected)))): "the activation is ELU, not ReLU",
        numbers(model.img_dist(F.elu(model.img_out(prev.deter)))): "the prior is that of the NEW deter",
        numbers(model.obs_dist(F.elu(model.img_out(expected)))): "this is the posterior's layer, obs_dist",
        numbers(normalised): "raw is the layer's output as it is",
    }
    expect_close(prior.raw, raw, mistakes=mistakes, what="raw")
    sample = model.latent.sample(raw, noise)
    mistakes = {
        numbers(model.latent.sample(raw, 0 * noise)): "the noise is not used: this is the mode",
        numbers(prev.stoch): "this is the sample of the state before",
    }
    expect_close(prior.stoch, sample, mistakes=mistakes, what="stoch, with this noise")


@pytest.mark.exercise(id="3.6")
def test_prior_knows_the_past_through_deter_alone():
    """stoch and action reach the prior's logits only by way of the GRU: with the same deter they are the same."""
    model, action, noise = make_rssm(), torch.randn(4, ACTION), draw_noise(4)
    with torch.no_grad():
        model.cell.layer.weight[:, :HIDDEN] = 0  # what the GRU takes in changes nothing any more
    prev = make_state(4)
    other = prev._replace(stoch=prev.stoch.roll(1, -1), raw=prev.raw + 1)
    one, two = model.img_step(prev, action, noise), model.img_step(other, action + 1, noise)
    expect_close(one.raw, two.raw, what="the prior's logits for the same deter")


@pytest.mark.exercise(id="3.6")
def test_gradient_flows_through_a_step():
    """From the prior's sample and from deter into all that went in: that is how a policy learns from a dream."""
    model, prev, noise = make_rssm(), make_state(4), draw_noise(4)
    deter, stoch, action = prev.deter, prev.stoch, torch.randn(4, ACTION)
    leaves = {"the previous deter": deter, "the previous stoch": stoch, "the action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    prior = model.img_step(prev, action, noise)
    new = model.cell(F.elu(model.img_in(torch.cat([stoch, action], -1))), deter)
    raw = model.img_dist(F.elu(model.img_out(new)))
    names = ("img_in.weight", "cell.layer.weight", "cell.norm.weight", "img_out.weight", "img_dist.weight")
    leaves |= {name: parameter for name, parameter in model.named_parameters() if name in names}
    weight = torch.randn(4, DETER), torch.randn(4, STOCH), torch.randn(4, STOCH)

    def objective(deter: torch.Tensor, stoch: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        return (weight[0] * deter).sum() + (weight[1] * stoch).sum() + (weight[2] * raw).sum()

    check_gradients(objective(*prior), objective(new, model.latent.sample(raw, noise), raw), leaves)


@pytest.mark.exercise(id="3.6")
def test_every_row_draws_for_itself():
    """Where no noise is given: each row, each variable, each call."""
    model, prev = make_rssm(), make_state(1)
    with torch.no_grad():
        model.img_dist.weight.zero_(), model.img_dist.bias.zero_()  # every class is as likely
    prev = rssm.State(*(x.expand(600, -1) for x in prev))
    drawn = model.img_step(prev, torch.zeros(600, ACTION)).stoch.detach()
    classes = model.latent.logits(drawn).argmax(-1)
    shares = model.latent.logits(drawn).mean(0)
    expect_close(shares, 0.25, rtol=0, atol=0.11, mistakes={}, what="how often each class is drawn over the batch")
    same = (classes[:, 0] == classes[:, 1]).float().mean()
    expect_close(same, 0.25, rtol=0, atol=0.11, mistakes={1.0: "all variables share their noise"}, what="pairs")
    again = model.img_step(prev, torch.zeros(600, ACTION)).stoch
    assert not torch.equal(again, drawn), "each call draws its own noise"


def test_rssm_has_the_papers_size():
    """18 actions, 6, and dm_control's sizes with 6."""
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert count(rssm.RSSM(18, 1536, rssm.DiscreteLatent())) == 5_664_848
    assert count(rssm.RSSM(6, 1536, rssm.DiscreteLatent())) == 5_657_648
    assert count(rssm.RSSM(6, 1536, rssm.DiscreteLatent(), 200, 200)) == 1_247_248


def test_feat_is_what_is_remembered_and_what_is_drawn():
    state = make_state(2, 3)
    expect_close(state.feat, torch.cat([state.deter, state.stoch], -1), what="feat")
    initial = make_rssm().initial(4)
    assert [tuple(x.shape) for x in initial] == [(4, DETER), (4, STOCH), (4, STOCH)]
    assert all((x == 0).all() for x in initial)


# ---- 3.7 obs_step ----


@pytest.mark.exercise(id="3.7")
@pytest.mark.parametrize("kind", ["discrete", "gaussian"])
def test_posterior_agrees_with_the_official_code(kind):
    """Of either latent; an episode begins in one of the rows."""
    model, g = official_rssm(kind)
    prev, is_first = official_state(model, g, "prev"), g["is_first"].bool()
    assert is_first.any()
    assert not is_first.all()
    post, prior = model.obs_step(prev, g["action"], g["embed"], is_first, torch.zeros(3, model.latent.stoch))
    mistakes = {numbers(g["img_deter"]): "is_first is not used: where an episode begins, nothing of prev may be left"}
    check_official(model, g, "post", post, mistakes)
    check_official(model, g, "prior", prior, mistakes)


@pytest.mark.exercise(id="3.7")
def test_observation_changes_the_posterior_alone():
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), draw_noise(4)
    embed, no = torch.randn(4, EMBED), torch.zeros(4, dtype=torch.bool)
    post, prior = model.obs_step(prev, action, embed, no, noise)
    post2, prior2 = model.obs_step(prev, action, embed + 1, no, noise)
    expect_close(post.deter, prior.deter, what="the posterior's deter, which is the prior's")
    for name in ("deter", "raw", "stoch"):
        expect_close(getattr(prior, name), getattr(prior2, name), what=f"the prior's {name}, another observation")
    expect_close(post.deter, post2.deter, what="deter, another observation")
    assert (post.raw - post2.raw).abs().max() > 1e-3, "the posterior does not see the observation"
    post3, prior3 = model.obs_step(prev, action + 1, embed, no, noise)
    assert (prior.raw - prior3.raw).abs().max() > 1e-3, "the action does not reach the prior"
    assert (post.raw - post3.raw).abs().max() > 1e-3, "the posterior does not see deter: embed alone is not enough"


@pytest.mark.exercise(id="3.7")
def test_one_step_agrees_with_its_parts():
    """Without an episode's beginning the prior is img_step's; the same noise makes both samples."""
    model, prev, action, noise = make_rssm(), make_state(4), torch.randn(4, ACTION), draw_noise(4)
    embed, no = torch.randn(4, EMBED), torch.zeros(4, dtype=torch.bool)
    post, prior = model.obs_step(prev, action, embed, no, noise)
    for name, a, b in zip(rssm.State._fields, prior, model.img_step(prev, action, noise), strict=True):
        expect_close(a, b, what=f"the prior's {name}")
    hidden = lambda deter: model.obs_out(torch.cat([deter, embed], -1))
    raw = model.obs_dist(F.elu(hidden(prior.deter)))
    mistakes = {
        numbers(prior.raw): "prior and posterior are swapped: the posterior comes first",
        numbers(model.obs_dist(hidden(prior.deter))): "there is no ELU behind obs_out",
        numbers(model.obs_dist(F.relu(hidden(prior.deter)))): "the activation is ELU, not ReLU",
        numbers(model.obs_dist(F.elu(hidden(prev.deter)))): "the posterior sees the NEW deter",
        numbers(model.img_dist(F.elu(hidden(prior.deter)))): "this is the prior's layer, img_dist",
    }
    expect_close(post.raw, raw, mistakes=mistakes, what="the posterior's raw")
    mistakes = {
        numbers(prior.stoch): "this is the prior's sample",
        numbers(model.latent.sample(raw, 0 * noise)): "the noise is not used: this is the mode",
    }
    expect_close(post.stoch, model.latent.sample(raw, noise), mistakes=mistakes, what="the posterior's sample")


@pytest.mark.exercise(id="3.7")
def test_posterior_does_not_see_the_priors_sample():
    """With the noise changed, the logits of both stay."""
    model, prev, action, embed = make_rssm(), make_state(4), torch.randn(4, ACTION), torch.randn(4, EMBED)
    no = torch.zeros(4, dtype=torch.bool)
    post, _ = model.obs_step(prev, action, embed, no, draw_noise(4))
    other, _ = model.obs_step(prev, action, embed, no, 10 * draw_noise(4))
    expect_close(other.raw, post.raw, what="the posterior's logits under another noise")


@pytest.mark.exercise(id="3.7")
def test_nothing_is_left_where_an_episode_begins():
    """Rows 1 and 3 begin one: state and action before them change nothing there. In rows 0 and 2 they do."""
    model, noise, embed = make_rssm(), draw_noise(4), torch.randn(4, EMBED)
    prev, action = make_state(4), torch.randn(4, ACTION)
    is_first = torch.tensor([False, True, False, True])
    before = copy_of(prev), action.clone(), is_first.clone()
    found = model.obs_step(prev, action, embed, is_first, noise)
    after = (prev, action, is_first)
    assert all(torch.equal(a, b) for a, b in zip(prev, before[0], strict=True)), "the caller's state is changed"
    assert torch.equal(action, before[1]), "the caller's action is changed"
    assert torch.equal(after[2], before[2]), "the caller's is_first is changed"

    no = torch.zeros(4, dtype=torch.bool)
    fresh = model.obs_step(model.initial(4), torch.zeros(4, ACTION), embed, no, noise)
    going = model.obs_step(prev, action, embed, no, noise)
    for kind, state, begun, goes_on in zip(("posterior", "prior"), found, fresh, going, strict=True):
        for name, x, zero, old in zip(rssm.State._fields, state, begun, goes_on, strict=True):
            expect_close(x[is_first], zero[is_first], what=f"the {kind}'s {name} where an episode begins")
            expect_close(x[~is_first], old[~is_first], what=f"the {kind}'s {name} where none begins")

    kept = {
        "the action is": (model.initial(4), action + 1),
        "deter is": (model.initial(4)._replace(deter=prev.deter + 1), torch.zeros(4, ACTION)),
        "stoch is": (model.initial(4)._replace(stoch=1 - prev.stoch), torch.zeros(4, ACTION)),
    }
    for what, (state, done) in kept.items():
        post, _ = model.obs_step(state, done, embed, torch.ones(4, dtype=torch.bool), noise)
        message = f"{what} not forgotten"
        wrong, _ = model.obs_step(state, done, embed, no, noise)
        expect_close(post.deter, fresh[0].deter, mistakes={numbers(wrong.deter): message}, what=f"deter, if {message}")


@pytest.mark.exercise(id="3.7")
def test_gradient_flows_into_what_is_seen_and_what_is_remembered():
    """From both samples: into embed, and through it the encoder learns; by way of deter into the state before."""
    model, prev, noise = make_rssm(), make_state(4), draw_noise(4)
    action, embed, no = torch.randn(4, ACTION), torch.randn(4, EMBED), torch.zeros(4, dtype=torch.bool)
    leaves = {"embed": embed, "the previous deter": prev.deter, "the previous stoch": prev.stoch, "the action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    post, prior = model.obs_step(prev, action, embed, no, noise)
    alone = model.img_step(prev, action, noise)
    raw = model.obs_dist(F.elu(model.obs_out(torch.cat([alone.deter, embed], -1))))
    names = ("img_in.weight", "cell.layer.weight", "img_dist.weight", "obs_out.weight", "obs_dist.weight")
    leaves |= {name: parameter for name, parameter in model.named_parameters() if name in names}
    weight = torch.randn(2, 4, STOCH)
    objective = lambda post, prior: (weight[0] * post).sum() + (weight[1] * prior).sum()
    expected = objective(model.latent.sample(raw, noise), alone.stoch)
    check_gradients(objective(post.stoch, prior.stoch), expected, leaves)


@pytest.mark.exercise(id="3.7")
def test_no_gradient_crosses_an_episodes_beginning():
    model, prev = make_rssm(), make_state(4)
    action, embed = torch.randn(4, ACTION), torch.randn(4, EMBED)
    leaves = {"deter": prev.deter, "stoch": prev.stoch, "action": action}
    for leaf in leaves.values():
        leaf.requires_grad_()
    is_first = torch.tensor([False, True, False, True])
    post, _ = model.obs_step(prev, action, embed, is_first, draw_noise(4))
    gradients = torch.autograd.grad((post.raw * torch.randn(4, STOCH)).sum(), list(leaves.values()))
    for name, gradient in zip(leaves, gradients, strict=True):
        assert (gradient[is_first] == 0).all(), f"gradient flows into the {name} before an episode's beginning"
        assert gradient[~is_first].abs().sum(-1).all(), f"no gradient flows into the {name} where an episode goes on"


# ---- 3.8 observe ----


def sequence(batch: int = 3, time: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(embed, prev_action, is_first, noise): the second sequence begins an episode in row 3, the third in 0 and 5."""
    is_first = torch.zeros(batch, time, dtype=torch.bool)
    is_first[1, 3] = is_first[2, 0] = is_first[2, 5] = True
    return torch.randn(batch, time, EMBED), torch.randn(batch, time, ACTION), is_first, draw_noise(batch, time)


def looped(model: rssm.RSSM, embed, action, is_first, noise) -> tuple[rssm.State, rssm.State]:
    """What observe should give: obs_step after obs_step."""
    state, steps = model.initial(len(embed)), []
    for t in range(embed.shape[1]):
        state, prior = model.obs_step(state, action[:, t], embed[:, t], is_first[:, t], noise[:, t])
        steps.append((state, prior))
    posts, priors = zip(*steps, strict=True)
    stack = lambda states: rssm.State(*(torch.stack(x, 1) for x in zip(*states, strict=True)))
    return stack(posts), stack(priors)


@pytest.mark.exercise(id="3.8")
@pytest.mark.parametrize("kind", ["discrete", "gaussian"])
def test_observe_is_a_loop_of_obs_step(kind):
    """From zeros, with the posterior carried on; the prior's sample goes nowhere. Of either latent."""
    model, (embed, action, is_first, noise) = make_rssm(), sequence()
    if kind == "gaussian":
        model, noise = make_rssm(rssm.GaussianLatent(4)), torch.randn(3, 7, 4)
    wanted = looped(model, embed, action, is_first, noise)
    carried, wrong = model.initial(3), []
    for t in range(7):
        _, carried = model.obs_step(carried, action[:, t], embed[:, t], is_first[:, t], noise[:, t])
        wrong.append(carried.deter)
    never = looped(model, embed, action, torch.zeros_like(is_first), noise)[0].deter
    mistakes = {
        numbers(torch.stack(wrong, 1)): "the PRIOR's sample is carried from step to step: it is the posterior's",
        numbers(never): "is_first is not used: an episode may begin with any row",
        numbers(looped(model, embed, action * ~is_first[..., None], torch.zeros_like(is_first), noise)[0].deter): (
            "where an episode begins, the action is forgotten but not the state"
        ),
    }
    before = [x.clone() for x in (embed, action, is_first, noise)]
    found = model.observe(embed, action, is_first, noise)
    after = (embed, action, is_first, noise)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), "the caller's arrays are changed"
    for each, states, expected in zip(("posterior", "prior"), found, wanted, strict=True):
        for name, value, other in zip(rssm.State._fields, states, expected, strict=True):
            assert value.shape == other.shape, f"{each}.{name} is {tuple(value.shape)}: one state for each row"
            expect_close(value, other, mistakes=mistakes if name == "deter" else {}, what=f"the {each}'s {name}")


@pytest.mark.exercise(id="3.8")
@pytest.mark.parametrize(("batch", "time"), [(1, 1), (4, 1), (1, 4)])
def test_observe_takes_the_shortest_sequences(batch, time):
    model, (embed, action, is_first, noise) = make_rssm(), sequence(4, 7)
    cut = [x[-batch:, -time:] for x in (embed, action, is_first, noise)]
    for found, wanted in zip(model.observe(*cut), looped(model, *cut), strict=True):
        for name, value, other in zip(rssm.State._fields, found, wanted, strict=True):
            expect_close(value, other, what=name)


@pytest.mark.exercise(id="3.8")
def test_beginning_in_the_middle_cuts_the_sequence_in_two():
    """What came before row 3 of the second sequence changes nothing from there on; in the others it does."""
    model, (embed, action, is_first, noise) = make_rssm(), sequence()
    post, prior = model.observe(embed, action, is_first, noise)
    embed2, action2 = embed.clone(), action.clone()
    embed2[:, :3] += 1
    action2[:, :4] += 1  # of row 3 too: the action that led to an episode's first row is none
    post2, prior2 = model.observe(embed2, action2, is_first, noise)
    for kind, a, b in (("posterior", post, post2), ("prior", prior, prior2)):
        for name in ("deter", "raw", "stoch"):
            expect_close(getattr(b, name)[1, 3:], getattr(a, name)[1, 3:], what=f"the {kind}'s {name} after row 3")
    assert (post.deter[0, 3:] - post2.deter[0, 3:]).abs().amax(-1).min() > 1e-5
    expect_close(post2.deter[2, 5:], post.deter[2, 5:], what="deter of the third sequence, from row 5 on")
    alone, _ = model.observe(embed[1:2, 3:], action[1:2, 3:], is_first[1:2, 3:], noise[1:2, 3:])
    expect_close(alone.raw, post.raw[1:2, 3:], what="the rows from the beginning on, observed alone")


@pytest.mark.exercise(id="3.8")
@pytest.mark.parametrize("changed", ["embed", "action"])
def test_no_state_knows_the_future(changed):
    """What is seen or done at row 4 changes nothing before row 4, and the posterior of row 4."""
    model, (embed, action, is_first, noise) = make_rssm(), sequence()
    post, prior = model.observe(embed, action, is_first, noise)
    other = {"embed": embed.clone(), "action": action.clone()}
    other[changed][:, 4] += 1
    post2, prior2 = model.observe(other["embed"], other["action"], is_first, noise)
    for name in ("deter", "raw", "stoch"):
        for kind, a, b in (("posterior", post, post2), ("prior", prior, prior2)):
            expect_close(
                getattr(b, name)[:, :4], getattr(a, name)[:, :4], what=f"the {kind}'s {name} before the change"
            )
    assert (post.raw[:, 4] - post2.raw[:, 4]).abs().max() > 1e-3, "the posterior of the row itself does not notice"
    prior_moves = (prior.raw[:, 4] - prior2.raw[:, 4]).abs().max() > 1e-3
    assert prior_moves == (changed == "action"), "the prior of row 4 knows the action that led there, not what is seen"


@pytest.mark.exercise(id="3.8")
def test_sequences_do_not_mix_and_calls_do_not_either():
    model, (embed, action, is_first, noise) = make_rssm(), sequence()
    post, _ = model.observe(embed, action, is_first, noise)
    again, _ = model.observe(embed, action, is_first, noise)
    expect_close(again.raw, post.raw, what="a second call: it begins from zeros, too")
    alone, _ = model.observe(embed[1:2], action[1:2], is_first[1:2], noise[1:2])
    expect_close(alone.raw, post.raw[1:2], what="the second sequence alone")


@pytest.mark.exercise(id="3.8")
def test_gradient_flows_back_through_time():
    """From every state to all that was seen and done before it: through the samples, and through the GRU."""
    model, inputs = make_rssm(), sequence()
    embed, action, _, _ = inputs
    embed.requires_grad_(), action.requires_grad_()
    found = model.observe(*inputs)
    weights = [torch.randn_like(x) for states in found for x in states]

    def objective(post: rssm.State, prior: rssm.State) -> torch.Tensor:
        return sum((weight * x).mean() for weight, x in zip(weights, (*post, *prior), strict=True))

    leaves = {"the observations": embed, "the actions": action, **dict(model.named_parameters())}
    check_gradients(objective(*found), objective(*looped(model, *inputs)), leaves)


@pytest.mark.exercise(id="3.8")
def test_noise_is_drawn_for_every_row_and_step():
    model = make_rssm()
    with torch.no_grad():
        for layer in (model.img_dist, model.obs_dist):
            layer.weight.zero_(), layer.bias.zero_()  # every class is as likely
    post, _ = model.observe(torch.zeros(60, 30, EMBED), torch.zeros(60, 30, ACTION), torch.zeros(60, 30).bool())
    drawn = model.latent.logits(post.stoch.detach())
    expect_close(drawn.mean((0, 1)), 0.25, rtol=0, atol=0.065, what="how often each class is drawn")
    assert drawn.mean(0).std() < 0.15, "all sequences share their noise"
    assert drawn.mean(1).std() < 0.2, "all steps share their noise"


# ---- 3.9 kl_loss ----


def states(raw: torch.Tensor, requires_grad: bool = False) -> rssm.State:
    """States with these logits; deter and stoch play no part."""
    raw = raw.detach().clone().requires_grad_(requires_grad)
    return rssm.State(torch.zeros(*raw.shape[:-1], 1), torch.zeros_like(raw), raw)


def per_state(nats: list[list[float]]) -> tuple[rssm.Latent, rssm.State, rssm.State]:
    """(latent, posteriors, priors) of one variable whose KL is as given: one-hot, and e^-nats for that class."""
    nats = torch.tensor(nats, dtype=torch.float64)
    prior = torch.stack([-nats, torch.log(-torch.expm1(-nats))], -1).float()
    post = torch.tensor([1000.0, 0.0]).expand_as(prior)
    return rssm.DiscreteLatent(1, 2), states(post), states(prior)


@pytest.mark.exercise(id="3.9")
@pytest.mark.parametrize("balance", [0.8, None])
def test_loss_is_the_mean_kl(balance):
    """q = (.9, .1), p = (.5, .5) in each of three variables: 3 x 0.36806 nats; balance does not change the value."""
    latent = rssm.DiscreteLatent(3, 2)
    post, prior = (states(logits.repeat(3).expand(2, 4, 6)) for logits in (logits_of(0.9, 0.1), logits_of(0.5, 0.5)))
    loss, kl = rssm.kl_loss(latent, post, prior, balance=balance)
    mistakes = {
        3 * 0.51083: "the two are swapped: it is KL(post || prior)",
        0.8 * 3 * 0.36806 + 0.2 * 3 * 0.51083: "the second half has the two swapped: both are KL(post || prior)",
        0.2 * 3 * 0.36806 + 0.8 * 3 * 0.51083: "the first half has the two swapped: both are KL(post || prior)",
        8 * 3 * 0.36806: "the sum over batch and time is taken: it is their mean",
        4 * 3 * 0.36806: "the sum over time is taken: it is the mean over batch and time",
        2 * 3 * 0.36806: "the two halves are added in full: their shares add up to 1",
    }
    expect_close(kl, 1.10419, mistakes=mistakes, what="KL")
    expect_close(loss, 1.10419, mistakes=mistakes, what="loss")


OFFICIAL = {
    "default": {},
    "free_big_avg": {"free_nats": 100.0},
    "free3_elem": {"free_nats": 3.0, "free_before_mean": True},
}


@pytest.mark.exercise(id="3.9")
@pytest.mark.parametrize("case", OFFICIAL)
def test_loss_and_gradients_agree_with_the_official_code(case):
    g = golden("dv2_kl_balance")
    post, prior = (states(torch.tensor(g[name]).flatten(-2), True) for name in ("post", "prior"))
    loss, kl = rssm.kl_loss(rssm.DiscreteLatent(4, 5), post, prior, **OFFICIAL[case])
    expect_close(kl, g[f"value_{case}"].mean(), what="KL")
    expect_close(loss, g[f"loss_{case}"], what="loss")
    gradients = [torch.zeros(())] * 2  # below the floor the loss may be a mere number
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, [post.raw, prior.raw], allow_unused=True, materialize_grads=True)
    for name, gradient in zip(("post", "prior"), gradients, strict=True):
        expected = g[f"grad_{name}_{case}"]
        gradient = gradient.expand(2, 3, 20).unflatten(-1, (4, 5))
        share, other = (0.2, 0.8) if name == "post" else (0.8, 0.2)
        mistakes = {
            numbers(expected / share): "the gradient is not divided: it is plain KL's",
            numbers(expected / share * other): "the shares are swapped: 0.8 is the prior's",
            0.0: "no gradient",
        }
        expect_close(
            gradient,
            expected,
            atol=1e-6,
            mistakes=mistakes if expected.any() else {},
            what=f"gradient in the {name}'s logits",
        )


class MeanStd(rssm.GaussianLatent):
    """Gaussians whose raw is [mean | std] itself."""

    def mean_std(self, raw):
        return raw.chunk(2, -1)


@pytest.mark.exercise(id="3.9")
def test_gaussian_latents_are_balanced_too():
    """As the official code balances them: value and gradients in mean and std."""
    g = golden("dv2_kl_balance")
    post, prior = (
        states(torch.tensor(np.concatenate([g[f"gauss_{name}_mean"], g[f"gauss_{name}_std"]], -1)), True)
        for name in ("post", "prior")
    )
    loss, kl = rssm.kl_loss(MeanStd(4), post, prior)
    expect_close(kl, g["gauss_value"].mean(), what="KL")
    expect_close(loss, g["gauss_loss"], what="loss")
    assert loss.requires_grad, "no gradient flows"
    for name, gradient in zip(
        ("post", "prior"), torch.autograd.grad(loss, [post.raw, prior.raw], allow_unused=True), strict=True
    ):
        expected = np.concatenate([g[f"gauss_grad_{name}_mean"], g[f"gauss_grad_{name}_std"]], -1)
        assert gradient is not None, f"no gradient reaches the {name}"
        expect_close(gradient, expected, what=f"gradient in the {name}")


@pytest.mark.exercise(id="3.9")
@pytest.mark.parametrize("balance", [0.8, 0.5, 0.3, 0.0, 1.0])
def test_balance_divides_the_gradient(balance):
    """The loss's value stays; of plain KL's gradient the prior gets `balance`, the posterior the rest, to 1e-6. At 0
    the prior gets nothing: None is plain KL, 0 is not. (The official code takes 0.5 for plain KL: here it is not.)"""
    latent = rssm.DiscreteLatent(3, 4)
    raw = torch.randn(2, 2, 5, 12, dtype=torch.float64)

    def gradients_of(balance: float | None) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        post, prior = states(raw[0], True), states(raw[1], True)
        loss, kl = rssm.kl_loss(latent, post, prior, balance=balance)
        expect_close(kl, latent.kl(raw[0], raw[1]).mean(), rtol=1e-9, what="KL")
        assert loss.requires_grad, "no gradient flows"
        leaves = [post.raw, prior.raw]
        return loss, torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    (plain, full), (loss, parts) = gradients_of(None), gradients_of(balance)
    expect_close(loss, plain, rtol=1e-9, mistakes={2 * plain.item(): "the shares are to add up to 1"}, what="loss")
    for name, part, whole, share in zip(("posterior", "prior"), parts, full, (1 - balance, balance), strict=True):
        mistakes = {
            numbers((1 - share) * whole): "the shares are swapped: `balance` is the prior's",
            numbers(whole): "the gradient is not divided: each half stops one side's",
        }
        mistakes = {wrong: text for wrong, text in mistakes.items() if balance != 0.5 or "swapped" not in text}
        expect_close(part, share * whole, rtol=1e-6, atol=1e-9, mistakes=mistakes, what=f"gradient of the {name}")
    if balance == 0.8:
        ratios = [(part.norm() / whole.norm()).item() for part, whole in zip(parts, full, strict=True)]
        expect_close(ratios, [0.2, 0.8], rtol=1e-6, atol=0, what="norms beside plain KL's: posterior, prior")


@pytest.mark.exercise(id="3.9")
@pytest.mark.parametrize("balance", [0.8, None])
def test_free_nats_apply_after_the_mean_or_before(balance):
    """KL 0.5, 0.5, 2 and 1, 10, 10: the mean is 4, above 3; with the max first it is (3 + 3 + 3 + 3 + 10 + 10) / 6."""
    parts = per_state([[0.5, 0.5, 2.0], [1.0, 10.0, 10.0]])
    wrong = {
        5.0: "the free nats are applied to each sequence's mean",
        4.75: "the free nats are applied to each step's mean over the batch",
    }
    loss, kl = rssm.kl_loss(*parts, balance=balance, free_nats=3.0)
    mistakes = wrong | {
        5.3333: "the free nats are applied to each state: by default they are to the mean",
        1.0: "max(0, KL - free_nats): it is max(free_nats, KL)",
        6.2: "the free nats are applied to the weighted halves: first the max, then the share",
        7.0: "the free nats are added: it is max(free_nats, KL)",
    }
    expect_close(loss, 4.0, mistakes=mistakes, what="loss")
    expect_close(kl, 4.0, what="KL")
    loss, kl = rssm.kl_loss(*parts, balance=balance, free_nats=3.0, free_before_mean=True)
    mistakes = wrong | {4.0: "free_before_mean is not used"}
    expect_close(loss, 5.3333, mistakes=mistakes, what="loss, free_before_mean")
    expect_close(kl, 4.0, mistakes={5.3333: "the KL that is returned is the raw one"}, what="KL")


@pytest.mark.exercise(id="3.9")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("balance", [0.8, None])
def test_below_the_floor_nothing_moves(balance, before):
    """KL 0.0016, 1 nat free: the loss is exactly 1, and its gradient exactly 0."""
    latent = rssm.DiscreteLatent(2, 2)
    q = torch.tensor([0.02, 0.0, 0.02, 0.0]) * 2**0.5
    post, prior = states(q.expand(2, 3, 4), True), states(torch.zeros(2, 3, 4), True)
    raw = latent.kl(post.raw, prior.raw).mean().item()
    assert 0 < raw < 0.01
    loss, kl = rssm.kl_loss(latent, post, prior, balance=balance, free_nats=1.0, free_before_mean=before)
    mistakes = {0.0: "below the floor the loss is free_nats, not 0", raw: "no free nats", 1 + raw: "they are added"}
    expect_close(loss, 1.0, rtol=1e-6, atol=0, mistakes=mistakes, what="loss")
    expect_close(kl, raw, mistakes={1.0: "the KL that is returned is the raw one"}, what="KL")
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, [post.raw, prior.raw], allow_unused=True)
        assert all(g is None or (g == 0).all() for g in gradients), "below the floor there is no gradient at all"


# ---- given: the two latents ----


def test_discrete_samples_are_one_hot_vectors_one_behind_the_other():
    """Three variables of four classes: twelve numbers, the first four of them the first variable's."""
    latent = rssm.DiscreteLatent(VARIABLES, CLASSES)
    raw = torch.zeros(2, 12)
    raw[0, [1, 4 + 2, 8 + 3]] = 50
    raw[1, [0, 4 + 3, 8 + 0]] = 50
    sample = latent.sample(raw, latent.noise((2,), torch.device("cpu")))
    assert sample.nonzero().tolist() == [[0, 1], [0, 6], [0, 11], [1, 0], [1, 7], [1, 8]]
    assert (latent.stoch, latent.raw) == (12, 12)


def test_gaussian_latents_are_the_official_ones():
    """std = 2 sigmoid(raw / 2) + 0.1: between 0.1 and 2.1, and 1.1 at 0."""
    latent = rssm.GaussianLatent(3)
    assert (latent.stoch, latent.raw) == (3, 6)
    mean, std = latent.mean_std(torch.tensor([1.0, 2.0, 3.0, 0.0, 100.0, -100.0]))
    expect_close(mean, [1.0, 2.0, 3.0], what="mean")
    expect_close(std, [1.1, 2.1, 0.1], what="std")
    raw = torch.randn(5, 6)
    noise = latent.noise((5,), torch.device("cpu"))
    expect_close(latent.sample(raw, noise), raw[:, :3] + latent.mean_std(raw)[1] * noise, what="a sample")
    g = golden("dv2_kl_balance")
    found = MeanStd(4).kl(
        *(torch.tensor(np.concatenate([g[f"gauss_{n}_mean"], g[f"gauss_{n}_std"]], -1)) for n in ("post", "prior"))
    )
    expect_close(found, g["gauss_value"], what="KL")


def test_use_of_the_latent_is_counted():
    """A latent that is always the same class uses one of four, and says nothing that the prior did not know."""
    latent = rssm.DiscreteLatent(VARIABLES, CLASSES)
    always = torch.zeros(6, 5, 12)
    always[..., [0, 4, 8]] = 20
    use = latent.use_metrics(always, always)
    assert use.keys() == {"latent_use", "latent_perplexity"}
    expect_close(use["latent_use"], 0.0, what="latent_use")
    expect_close(use["latent_perplexity"], 1.0, what="latent_perplexity")
    free = latent.sample(torch.zeros(600, 12), latent.noise((600,), torch.device("cpu"))) * 20
    use = latent.use_metrics(free, torch.zeros(600, 12))
    expect_close(use["latent_use"], 1.0, what="latent_use, every class as often")
    expect_close(use["latent_perplexity"], 4.0, rtol=0.05, what="latent_perplexity")
    assert rssm.GaussianLatent(3).use_metrics(torch.randn(4, 6), torch.randn(4, 6)).keys() == {"latent_use"}
