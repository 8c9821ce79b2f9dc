"""Numbers of any size: exercises 4.1 to 4.4."""

import math

import numpy as np
import pytest
import torch

from paper4_dreamerv3 import symlog
from tests.helpers import expect_close, golden, numbers

RISING = torch.tensor([-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0])


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.tensor(value) for key, value in golden(name).items()}


# ---- 4.1 symlog ----


@pytest.mark.exercise(id="4.1")
def test_symlog_by_hand():
    """ln 1.5, -ln 4, ln 1,000,001, and 0 stays 0."""
    x = torch.tensor([0.5, -3.0, 1e6, 0.0, -0.5])
    before = x.clone()
    mistakes = {
        numbers((x.abs() + 1).log()): "the sign of x is lost",
        numbers((x + 1).log()): "the logarithm of a negative number: sign(x) ln(1 + |x|)",
        numbers(x.sign() * (x.abs() + 1).log10()): "the logarithm is the natural one",
        numbers(x.sign() * (x.abs() + 1).log2()): "the logarithm is the natural one",
        numbers(x.sign() * x.abs().log()): "there is no 1 in the logarithm: ln(1 + |x|)",
        numbers(x.sign() * x.abs().expm1()): "this is symexp",
        numbers(x.sign() * x.abs().sqrt()): "a root grows without end faster than a logarithm",
        numbers(x.clamp(-1, 1)): "x is clipped, not squashed",
    }
    found = symlog.symlog(x)
    expect_close(found, [0.405465, -1.386294, 13.815512, 0.0, -0.405465], mistakes=mistakes, what="symlog")
    assert torch.equal(x, before), "the caller's numbers are changed"


@pytest.mark.exercise(id="4.1")
def test_symlog_and_its_gradient_agree_with_the_official_code():
    """24 numbers from -1e6 to 1e6; at 0 itself the slope depends on how it is written."""
    g = official("dv3_symlog_symexp")
    x = g["x"].requires_grad_()
    found = symlog.symlog(x)
    expect_close(found, g["symlog"], rtol=1e-6, atol=0, what="symlog")
    (gradient,) = torch.autograd.grad(found.sum(), x)
    mistakes = {0.0: "no gradient flows"}
    some = x != 0
    expect_close(gradient[some], g["symlog_grad"][some], rtol=1e-5, mistakes=mistakes, what="the slope of symlog")


@pytest.mark.exercise(id="4.1")
def test_small_numbers_keep_their_digits():
    """1 + 1e-8 is 1 in float32: the code of 2023 made 0 of it."""
    small = torch.tensor([1e-8, -1e-8, 1e-7, 3e-5, -1e-20])
    mistakes = {numbers(small.sign() * (1 + small.abs()).log()): "1 + |x| rounds small numbers away: log1p"}
    expected = small.double().sign() * small.double().abs().log1p()
    expect_close(symlog.symlog(small), expected, rtol=1e-6, atol=0, mistakes=mistakes, what="symlog of small numbers")


@pytest.mark.exercise(id="4.1")
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5)])
def test_symlog_is_odd_exact_in_float64_and_undone_by_symexp(shape):
    x = torch.randn(shape, dtype=torch.float64) * 10 ** (8 * torch.rand(shape, dtype=torch.float64) - 2)
    found = symlog.symlog(x)
    assert found.shape == shape
    assert found.dtype == torch.float64
    expect_close(found, np.sign(x.numpy()) * np.log1p(np.abs(x.numpy())), rtol=1e-12, atol=0, what="symlog in float64")
    expect_close(symlog.symlog(-x), -found, rtol=1e-12, atol=0, what="symlog(-x), which is -symlog(x)")
    expect_close(symlog.symexp(found), x, rtol=1e-9, atol=0, what="symexp(symlog(x))")


def test_symexp_agrees_with_the_official_code():
    """Given. Up to symexp(20) = 4.85e8, down to 1e-6."""
    g = official("dv3_symlog_symexp")
    y = g["y"].requires_grad_()
    found = symlog.symexp(y)
    expect_close(found, g["symexp"], rtol=1e-6, atol=0, what="symexp")
    (gradient,) = torch.autograd.grad(found.sum(), y)
    some = y != 0
    expect_close(gradient[some], g["symexp_grad"][some], rtol=1e-5, what="the slope of symexp")
    expect_close(symlog.symexp(symlog.symlog(g["x"])), g["roundtrip"], rtol=1e-5, atol=0, what="symexp(symlog(x))")


# ---- 4.2 make_bins ----


@pytest.mark.exercise(id="4.2")
def test_bins_are_the_official_ones():
    """255 of them. 0.170558 is the first above 0, 4.85e8 the last."""
    bins, low = symlog.make_bins(), -4.8516518e8
    assert bins.shape == (255,)
    mistakes = {
        numbers(torch.linspace(-20, 20, 255)): "these are evenly spaced: their symexp is wanted",
        numbers(torch.linspace(low, -low, 255)): "the ends are right, but the spacing is to be even BEFORE symexp",
        numbers(golden("dv3_twohot_symexp_bins")["bins"][::-1]): "they are to rise",
    }
    expect_close(bins, golden("dv3_twohot_symexp_bins")["bins"], rtol=2e-6, atol=0, mistakes=mistakes, what="the bins")
    expect_close(bins[128:130], [0.170558, 0.370205], what="the first two bins above 0")
    assert [int((bins.abs() <= x).sum()) for x in (1, 10, 100)] == [9, 31, 59]


@pytest.mark.exercise(id="4.2")
@pytest.mark.parametrize("count", [255, 63, 41, 21, 3, 6, 8, 64, 256])
def test_bins_mirror_each_other_exactly(count):
    """bins[k] == -bins[-1 - k], bit for bit, or equal weights would not give 0. symexp(linspace(-20, 20)) is off."""
    bins = symlog.make_bins(count)
    assert bins.shape == (count,), f"{len(bins)} bins, {count} are wanted"
    assert bins.dtype == torch.float32
    rounded = symlog.symexp(torch.linspace(-20, 20, count))
    assert (bins == -bins.flip(0)).all(), "a bin is not the exact mirror image of its partner" + (
        ": the half below 0 has to be made first, and then mirrored" if torch.equal(bins, rounded) else ""
    )
    zeros, middle = int((bins == 0).sum()), count // 2
    assert zeros == (1 if count % 2 else 2), f"{zeros} of {count} bins are exactly 0"
    assert bins[middle] == 0
    rises = bins.diff() > 0
    if count % 2 == 0:
        assert not rises[middle - 1], "the two zeros of an even count are neighbours, in the middle"
        rises[middle - 1] = True
    assert rises.all(), "the bins do not rise"
    expect_close(bins[-1], 4.8516518e8, rtol=1e-6, what="the last bin")


@pytest.mark.exercise(id="4.2")
def test_an_even_number_of_bins_has_two_zeros():
    """As the official code has them: three below, three above."""
    expected = golden("dv3_twohot_symexp_bins_even")["bins"]
    mistakes = {numbers(symlog.symexp(torch.linspace(-20, 20, 6))): "a half goes from `low` to 0, both included"}
    expect_close(symlog.make_bins(6), expected, rtol=1e-6, atol=0, mistakes=mistakes, what="six bins")
    assert len(symlog.make_bins(256)) == 256


@pytest.mark.exercise(id="4.2")
@pytest.mark.parametrize("low", [-20.0, -5.0, -1.5])
def test_low_decides_the_ends(low):
    """Bins in symlog space are evenly spaced, low to -low."""
    bins = symlog.make_bins(9, low)
    even = bins.double().sign() * bins.double().abs().log1p()
    mistakes = {numbers(np.linspace(-20, 20, 9)): "`low` is not used"}
    expect_close(even, np.linspace(low, -low, 9), rtol=1e-5, mistakes=mistakes, what=f"symlog of the bins, low={low}")


# ---- 4.3 twohot ----


@pytest.mark.exercise(id="4.3")
@pytest.mark.parametrize(
    ("x", "below", "weights"),
    [(1.0, 131, (0.61733, 0.38267)), (5.0, 138, (0.64071, 0.35929)), (100.0, 156, (0.71053, 0.28947))],
)
def test_twohot_by_hand(x, below, weights):
    """Between 131 and 132 of the 255 bins, 0.9041 and 1.2284, the number 1 is nearer to the lower one."""
    bins = torch.tensor(golden("dv3_twohot_symexp_bins")["bins"])
    found = symlog.twohot(torch.tensor([x]), bins)
    assert found.shape == (1, 255), "one weight for each bin, along the last axis"
    even = symlog.symlog(bins.double())
    share = ((np.log1p(x) - even[below]) / (even[below + 1] - even[below])).item()
    mistakes = {
        weights[::-1]: "the weights are swapped: the nearer bin gets the greater one",
        (1.0, 0.0): "the nearest bin alone: two bins share the number",
        (0.5, 0.5): "the two bins share by distance, not half and half",
        (1 - share, share): "the distances are to be those of the bins, not of their symlog (that is 2023)",
    }
    expect_close(found[0, below : below + 2], weights, mistakes=mistakes, what=f"weights of {x}")
    expect_close(found.sum(), 1.0, atol=1e-6, what="the sum of all weights")


@pytest.mark.exercise(id="4.3")
@pytest.mark.parametrize("name", ["dv3_twohot_symexp_bins", "dv3_twohot_symexp_bins_even"])
def test_twohot_agrees_with_the_official_code(name):
    """16 numbers: on bins, between, on both ends and beyond. Of two bins that are 0 either may have the weight."""
    g = official(name)
    found, expected = symlog.twohot(g["target"], g["bins"]), g["twohot_target"]
    if len(g["bins"]) % 2 == 0:
        together = lambda code: torch.cat([code[:, :2], code[:, 2:4].sum(-1, keepdim=True), code[:, 4:]], -1)
        found, expected = together(found), together(expected)
    expect_close(found, expected, atol=1e-6, what="two-hot codes")


@pytest.mark.exercise(id="4.3")
@pytest.mark.parametrize("name", ["dv3_twohot_symexp_bins", "dv3_twohot_symexp_bins_even"])
def test_loss_of_a_twohot_target_agrees_with_the_official_code(name):
    """`TwoHot.loss` is given; its gradient is softmax - code."""
    g = official(name)
    logits = g["logits"].requires_grad_()
    loss = symlog.TwoHot(logits, g["bins"]).loss(g["target"])
    if len(g["bins"]) % 2:  # of an even number the official code takes the other zero, or both
        expect_close(loss, g["loss"], what="loss")
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        expect_close(gradient, g["grad_logits"], what="gradient in the logits")
    else:
        some = g["target"].abs() > 1e-9
        expect_close(loss[some], g["loss"][some], what="loss")


@pytest.mark.exercise(id="4.3")
def test_no_information_costs_ln_255():
    """5.541 nats for every target: the two weights sum to 1."""
    bins = torch.tensor(golden("dv3_twohot_symexp_bins")["bins"])
    target = torch.tensor([0.0, 1.0, -1234.5, 1e6, 1e12, -1e12])
    expect_close(symlog.TwoHot(torch.zeros(6, 255), bins).loss(target), 5.541264, rtol=1e-6, what="loss of no logits")


@pytest.mark.exercise(id="4.3")
def test_a_number_on_a_bin_is_one_hot():
    """Each bin's own number: 1 there, 0 elsewhere, nowhere 0 / 0."""
    bins = torch.tensor(golden("dv3_twohot_symexp_bins")["bins"])
    for some in (bins, RISING):
        found = symlog.twohot(some, some)
        assert not found.isnan().any(), "0 / 0: a number on a bin has no distance to it"
        expect_close(found, np.eye(len(some)), rtol=0, atol=1e-7, what="codes of the bins themselves")


@pytest.mark.exercise(id="4.3")
@pytest.mark.parametrize("x", [100.0001, 101.0, 1e12])
def test_a_number_beyond_an_end_is_the_end(x):
    given = torch.tensor([x, -x, 100.0, -100.0])
    before = given.clone()
    found = symlog.twohot(given, RISING)
    assert torch.equal(given, before), "the caller's numbers are changed"
    assert not found.isnan().any()
    expect_close(found.sum(-1), 1.0, what="the sum of the weights")
    expected = np.eye(7)[[6, 0, 6, 0]]
    expect_close(found, expected, mistakes={0.0: "a number out of reach has no code"}, what=f"codes of +-{x}, +-100")


@pytest.mark.exercise(id="4.3")
def test_the_ends_need_not_be_mirror_images():
    found = symlog.twohot(torch.tensor([-1.0, 0.25, 5.0]), torch.tensor([0.0, 1.0, 3.0]))
    expect_close(found, [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 1]], what="codes on bins from 0 to 3")


@pytest.mark.exercise(id="4.3")
def test_bins_that_are_the_same_share_a_number_between_them():
    """Two zeros in the middle: whichever has the weight, it is 1 in all; beside them the nearer one counts."""
    bins = torch.tensor([-4.0, -2.0, 0.0, 0.0, 2.0, 4.0])
    found = symlog.twohot(torch.tensor([0.0, 0.5, -0.5, 3.0]), bins)
    assert not found.isnan().any(), "0 / 0 between two bins that are the same"
    expect_close(found[:, 2:4].sum(-1), [1.0, 0.75, 0.75, 0.0], what="weight of the two zeros")
    expect_close(found[:, [0, 1, 4, 5]], [[0, 0, 0, 0], [0, 0, 0.25, 0], [0, 0.25, 0, 0], [0, 0, 0.5, 0.5]])


@pytest.mark.exercise(id="4.3")
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_weighted_mean_of_the_bins_is_the_number(lead):
    """Two neighbours at most have weight, and no weight is negative."""
    bins = torch.tensor([-7.0, -3.5, -1.0, 0.25, 4.0, 5.0, 11.0])
    x = torch.rand(lead) * 18 - 7
    before = x.clone()
    found = symlog.twohot(x, bins)
    assert found.shape == (*lead, 7)
    assert torch.equal(x, before), "the caller's numbers are changed"
    codes = found.double().reshape(-1, 7)
    expect_close((codes * bins).sum(-1), x.reshape(-1), rtol=1e-5, what="the weighted mean")
    assert (codes >= 0).all(), "a weight is negative"
    expect_close(codes.sum(-1), 1.0, atol=1e-6, what="the sum of the weights")
    used = (codes > 0).nonzero()
    for row in range(len(codes)):
        some = used[used[:, 0] == row, 1]
        assert len(some) <= 2, f"{len(some)} bins have weight"
        assert int(some.max() - some.min()) <= 1, "the two bins are not neighbours"


@pytest.mark.exercise(id="4.3")
def test_numbers_of_any_size_come_back():
    """From 1e-6 to 1e8, on both sides, to five digits."""
    bins = torch.tensor(golden("dv3_twohot_symexp_bins")["bins"])
    x = torch.randn(500).sign() * 10 ** (14 * torch.rand(500) - 6)
    found = (symlog.twohot(x, bins).double() * bins).sum(-1)
    error = (found - x).abs() / (x.abs() + 0.1)  # around 0 a bin is 0.17 wide
    assert error.max() < 1e-5, f"{x[error.argmax()]} comes back as {found[error.argmax()]}"


# ---- 4.4 TwoHot.mean ----


@pytest.mark.exercise(id="4.4")
@pytest.mark.parametrize("count", [255, 63, 41, 6, 64, 3])
@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_equal_weights_mean_exactly_zero(count, constant):
    """The terms reach 1.9e6 in float32, where two neighbours are 0.125 apart: a plain sum of 255 gives -0.3."""
    half = symlog.symexp(torch.linspace(-20, 0, (count + 1) // 2))
    bins = torch.cat([half, -half.flip(0)[count % 2 :]])
    found = symlog.TwoHot(torch.full((2, count), constant), bins).mean()
    plain = (torch.full((count,), 1 / count) * bins).sum()
    assert (found == 0).all(), f"equal weights give {found[0]}, not exactly 0" + (
        ": add the pairs bin k and bin -1 - k first" if abs(found[0] - plain) < 0.2 else ""
    )


@pytest.mark.exercise(id="4.4")
def test_a_small_mean_does_not_drown_in_the_millions():
    """Equal weights but for one bin near 0: the pairs of all others cancel exactly. Each side's sum first, and then the
    two, is exact where all are equal, and off by the rounding of 1.9e6 here."""
    bins = torch.tensor(golden("dv3_twohot_symexp_bins")["bins"])
    logits = torch.zeros(255)
    logits[131] = 2.0
    share = logits.double().softmax(-1)
    expected = (share[131] - share[0]) * bins[131]
    expect_close(symlog.TwoHot(logits, bins).mean(), expected, rtol=1e-4, what="mean of nearly equal weights")


@pytest.mark.exercise(id="4.4")
@pytest.mark.parametrize("name", ["dv3_twohot_symexp_bins", "dv3_twohot_symexp_bins_even"])
def test_mean_agrees_with_the_official_code(name):
    """16 predictions, in float64; the error is judged by what the terms come to without their signs."""
    g = official(name)
    found = symlog.TwoHot(g["logits"], g["bins"]).mean()
    assert found.shape == (16,)
    scale = g["pred_abs_scale"]
    inside = (g["logits"].double().softmax(-1) * symlog.symlog(g["bins"].double())).sum(-1)
    mistakes = {
        numbers(g["bins"][g["logits"].argmax(-1)] / scale): "the likeliest bin: it is the mean of all",
        numbers(symlog.symexp(inside) / scale): "the mean is taken in symlog space (that is 2023)",
        numbers(symlog.symlog(g["pred_f64"]) / scale): "it is to be the number itself, not its symlog",
    }
    expect_close(
        found / scale, g["pred_f64"] / scale, rtol=0, atol=3e-6, mistakes=mistakes, what="mean, relative to the terms"
    )


@pytest.mark.exercise(id="4.4")
def test_mean_of_a_doubtful_prediction():
    """Half on 0 and half on 100: 50. A mean in symlog space would be 9.05: too low wherever there is doubt."""
    logits = torch.full((3, 7), -60.0)
    logits[0, [3, 6]] = 0.0
    logits[1, [3, 4]] = torch.tensor([0.9, 0.1]).log()
    logits[2, [0, 2, 5]] = 5.0
    mistakes = {
        (9.04988, 0.07177, -4.76): "the mean is taken in symlog space: symexp comes too late",
        (0.0, 0.0, -100.0): "the likeliest bin: it is the mean of all",
        numbers([50 / 7, 0.1 / 7, -91 / 21]): "the MEAN of the terms is taken: it is their sum",
    }
    found = symlog.TwoHot(logits, RISING).mean()
    expect_close(found, [50.0, 0.1, -91 / 3], mistakes=mistakes, what="mean")


@pytest.mark.exercise(id="4.4")
def test_large_logits_do_not_overflow():
    """exp(200) is infinite in float32; the softmax is not. Half on 1 and half on 100, and all on 10."""
    logits = torch.full((2, 7), -200.0)
    logits[0, [4, 6]] = 200.0
    logits[1, 5] = 1000.0
    expect_close(symlog.TwoHot(logits, RISING).mean(), [50.5, 10.0], what="mean of large logits")


@pytest.mark.exercise(id="4.4")
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("count", [9, 8])
def test_mean_and_its_gradient_against_float64(lead, count):
    """Of bins that are no mirror images; d mean / d logit_k = p_k (bin_k - mean). The middle one counts once."""
    bins = torch.linspace(-3, 9, count)
    logits = torch.randn(*lead, count, requires_grad=True)
    found = symlog.TwoHot(logits, bins).mean()
    assert found.shape == lead
    probs = logits.detach().double().softmax(-1)
    expected = (probs * bins).sum(-1)
    assert found.requires_grad, "no gradient flows through the mean"
    mistakes = {}
    if count % 2:
        middle = probs[..., count // 2] * bins[count // 2]
        mistakes = {
            numbers(expected + middle): "the middle bin is counted twice",
            numbers(expected - middle): "the middle bin is left out",
        }
    expect_close(found, expected, mistakes=mistakes, what="mean")
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    expect_close(gradient, probs * (bins - expected[..., None]), what="gradient of the mean in the logits")


@pytest.mark.exercise(id="4.4")
def test_mean_is_taken_in_float32_whatever_comes_in():
    """Logits of a network in half precision; bfloat16 would be off by 3.5e-3."""
    logits = torch.tensor([[0.0, 0.3, -1.0, 0.5, 2.0, 1.0, -0.5]])
    expected = (logits.bfloat16().double().softmax(-1) * RISING).sum(-1)
    for dtype in (torch.bfloat16, torch.float32):
        found = symlog.TwoHot(logits.to(dtype), RISING).mean()
        assert found.dtype == torch.float32
        wanted = expected if dtype == torch.bfloat16 else (logits.double().softmax(-1) * RISING).sum(-1)
        expect_close(found, wanted, rtol=1e-5, what=f"mean of {dtype} logits")


@pytest.mark.exercise(id="4.4")
def test_mean_in_symlog_space_agrees_with_the_code_of_2023():
    """`SymlogTwoHot` is given: symexp of your mean of the bins' symlog. Half on 0 and half on 100 is 9.05."""
    g = official("dv3v1_twohot_symlog_bins")
    found = symlog.SymlogTwoHot(g["logits"], symlog.symexp(g["bins"])).mean()
    expect_close(found, symlog.symexp(g["inner_mean"]), rtol=1e-4, what="mean of the code of 2023")
    logits = torch.full((1, 7), -60.0)
    logits[0, [3, 6]] = 0.0
    expect_close(symlog.SymlogTwoHot(logits, RISING).mean(), math.sqrt(101) - 1, what="half on 0, half on 100")


def test_loss_in_symlog_space_agrees_with_the_code_of_2023():
    """Given. A target on a bin can fall on either side of it by rounding."""
    g = official("dv3v1_twohot_symlog_bins")
    logits = g["logits"].requires_grad_()
    loss = symlog.SymlogTwoHot(logits, symlog.make_bins()).loss(g["target"])
    expect_close(-loss, g["log_prob"], rtol=1e-4, atol=1e-4, what="log_prob")
    (gradient,) = torch.autograd.grad(-loss.sum(), logits)
    expect_close(gradient, g["grad_logits"], atol=5e-5, what="gradient in the logits")


def test_gradient_of_the_loss_is_the_error():
    """Given. softmax - code in the logits, nothing in the target."""
    bins = symlog.make_bins(21)
    logits = torch.randn(4, 21, requires_grad=True)
    target = torch.tensor([1.0, -30.0, 0.0, 4e5], requires_grad=True)
    loss = symlog.TwoHot(logits, bins).loss(target)
    found = torch.autograd.grad(loss.sum(), [logits, target], allow_unused=True)
    expect_close(found[0], logits.softmax(-1) - symlog.twohot(target, bins), what="gradient in the logits")
    assert found[1] is None, "gradient flows into the target"


@pytest.mark.exercise(id="4.4")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_are_float32_whatever_the_target_is(dtype):
    bins, target = symlog.make_bins(9), torch.tensor([0.5, -3.0])
    predicted = symlog.TwoHot(torch.randn(2, 9), bins)
    loss = predicted.loss(target.to(dtype))
    assert loss.dtype == torch.float32
    expect_close(loss, predicted.loss(target), what="the loss of the same target in float32")
