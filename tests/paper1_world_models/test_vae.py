"""V, the vision model: exercises 1.1 to 1.5. Read a test beside the docstring of the function that it tests."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from paper1_world_models import vae
from tests.helpers import expect_close, golden, numbers


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


# ---- 1.1 preprocess ----


@pytest.mark.exercise(id="1.1")
def test_a_pixel_of_51_becomes_one_fifth():
    """Bytes 0..255 become numbers 0..1: divided by 255, once."""
    frame = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 3)
    mistakes = {
        numbers(torch.tensor([0, 51, 255]).repeat_interleave(8)): "the pixels are not scaled at all",
        numbers(torch.tensor([0, 51, 255]).repeat_interleave(8) / 256): "a byte's largest value is 255, not 256",
        numbers(torch.tensor([0, 51, 255]).repeat_interleave(8) / 255**2): "the pixels are divided by 255 twice",
        numbers(torch.tensor([0, 51, 255]).repeat_interleave(8) / 127.5 - 1): "the range is [0, 1], not [-1, 1]",
        numbers([0.0] * 16 + [1.0] * 8): "the division is one of whole numbers: make floats first",
    }
    expected = torch.tensor([0.0, 0.2, 1.0])[:, None, None].expand(3, 2, 4)
    expect_close(vae.preprocess(frame), expected, atol=1e-6, mistakes=mistakes, what="preprocess")


@pytest.mark.exercise(id="1.1")
def test_every_pixel_stays_where_it_is():
    """Channels move to the front, and nothing else moves: a mirrored or turned road teaches the wrong steering."""
    frame = torch.zeros(4, 6, 3, dtype=torch.uint8)
    frame[1, 4, 2] = 255  # second row, on the right, blue
    out = vae.preprocess(frame)
    assert out.shape == (3, 4, 6), "(height, width, channels) is to become (channels, height, width)"
    where = [tuple(place) for place in out.nonzero().tolist()]
    assert where != [(2, 1, 1)], "the picture is mirrored"
    assert where == [(2, 1, 4)], f"the blue pixel of row 1, column 4 came out at (channel, row, column) {where}"


@pytest.mark.exercise(id="1.1")
@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 5, 4, 3), (2, 3, 5, 4, 1), (3, 96, 96, 3)])
def test_any_leading_axes_and_sizes(shape):
    """One frame, a batch, a batch of sequences, grey or colour, 64 or 96 pixels: all of it comes through, uncropped."""
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.moveaxis(frames, -1, -3) / 255
    expect_close(vae.preprocess(torch.as_tensor(frames)), expected, atol=1e-6, what=f"preprocess of {shape}")


@pytest.mark.exercise(id="1.1")
@pytest.mark.parametrize("brightest", [0, 1, 2])
def test_dark_frames_are_scaled_like_all_others(brightest):
    """What a byte means must not depend on the frame that it is in."""
    frame = torch.full((2, 2, 3), brightest, dtype=torch.uint8)
    mistakes = {1.0: "this dark frame was taken for one that is scaled already: bytes always are divided by 255"}
    expect_close(vae.preprocess(frame), brightest / 255, atol=1e-7, mistakes=mistakes, what="a dark frame")


@pytest.mark.exercise(id="1.1")
def test_output_is_float32_and_the_frames_are_left_alone():
    """The replay's own frames are passed in: changing them in place would spoil the data."""
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    before = frames.clone()
    out = vae.preprocess(frames)
    assert out.dtype == torch.float32, "float32: the network's weights are"
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(frames, before)


# ---- how tests look into a network without knowing the names of its parts ----


def record(module: nn.Module, kind: type[nn.Module], x: torch.Tensor) -> tuple[list[tuple], object]:
    """Run module(x): [(input, output)] of every layer of that kind, in the order of their calls, and the result."""
    calls = []
    keep = lambda layer, inputs, output: calls.append((inputs[0].detach().clone(), output.detach().clone()))
    handles = [layer.register_forward_hook(keep) for layer in module.modules() if isinstance(layer, kind)]
    with torch.no_grad():
        result = module(x)
    for handle in handles:
        handle.remove()
    return calls, result


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def without_gradient(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def in_order(x: torch.Tensor) -> torch.Tensor:
    """Each row's values, sorted: the same for every order in which a feature map may be flattened."""
    return x.flatten(1).sort(1).values


# ---- 1.2 ConvEncoder ----


@pytest.mark.exercise(id="1.2")
def test_encoder_has_the_papers_size():
    """755,744 parameters: four convolutions and two heads. A wrong kernel, width or layer changes the count."""
    mistakes = {
        755_744 - 32_800: "mean and log variance need a head each",
        755_744 + 2 * (4096 - 1024) * 32: "with padding=1 the last map is 4x4 and the heads grow",
        755_744 + 2 * (32 + 64 + 128 + 256): "there is no batch normalisation in this network",
    }
    expect_close(size(vae.ConvEncoder()), 755_744, rtol=0, atol=0.5, mistakes=mistakes, what="encoder size")


@pytest.mark.exercise(id="1.2")
@pytest.mark.parametrize(("image_size", "side"), [(64, 2), (96, 4)])
def test_encoder_size_follows_its_arguments(image_size, side):
    """Latents, channels and depth are arguments: the tiny preset and the 96-pixel option use the same class."""
    depth, channels, latent = 8, 4, 7
    widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
    convs = sum(fan_in * fan_out * 16 + fan_out for fan_in, fan_out in pairwise(widths))
    heads = 2 * (8 * depth * side**2 * latent + latent)
    assert size(vae.ConvEncoder(latent, image_size, depth, channels)) == convs + heads


@pytest.mark.exercise(id="1.2")
@pytest.mark.parametrize(("image_size", "sides"), [(64, [31, 14, 6, 2]), (96, [47, 22, 10, 4])])
def test_maps_shrink_as_in_the_paper(image_size, sides):
    """Kernel 4, stride 2, no padding: 64 -> 31 -> 14 -> 6 -> 2. With padding the sizes are 32, 16, 8, 4."""
    depth, image = 4, torch.rand(3, 3, image_size, image_size)
    calls, (mu, logvar) = record(vae.ConvEncoder(5, image_size, depth), nn.Conv2d, image)
    maps = [tuple(output.shape[1:]) for _, output in calls]
    assert maps == [(depth * 2**i, side, side) for i, side in enumerate(sides)]
    assert mu.shape == logvar.shape == (3, 5)


@pytest.mark.exercise(id="1.2")
def test_relu_follows_every_convolution_and_nothing_follows_the_heads():
    """What a layer takes in is the ReLU of what the convolution before it gave; mu and logvar are the heads' output."""
    calls, (mu, logvar) = record(vae.ConvEncoder(depth=8), (nn.Conv2d, nn.Linear), torch.rand(3, 3, 64, 64) * 8 - 4)
    convs, heads = calls[:4], calls[4:]
    for i, (_, output) in enumerate(convs):
        expect_close(in_order(calls[i + 1][0]), in_order(output.relu()), what=f"what follows convolution {i + 1}")
    for seen, _ in heads:
        expect_close(in_order(seen), in_order(convs[-1][1].relu()), what="what a head sees")
    expect_close(
        in_order(torch.cat([mu, logvar], 1)),
        in_order(torch.cat([output for _, output in heads], 1)),
        what="(mu, logvar) against what the linear layers gave",
    )


@pytest.mark.exercise(id="1.2")
def test_mean_and_log_variance_are_unbounded_and_different():
    """Without biases the network is linear in the brightness: 1000 times the input is 1000 times the output."""
    encoder = vae.ConvEncoder(depth=8)
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
    image = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        small, large = encoder(image), encoder(1000 * image)
    for name, output, scaled in zip(("mu", "logvar"), small, large, strict=True):
        expect_close(scaled / 1000, output, rtol=1e-3, what=f"{name} of a 1000 times brighter image, / 1000")
        assert (output > 0).any(), f"{name} is never positive"
        assert (output < 0).any(), f"{name} is never negative: no ReLU on the heads"
    assert not torch.allclose(*small), "mean and log variance come out of one head"


@pytest.mark.exercise(id="1.2")
def test_frames_of_a_batch_do_not_see_each_other():
    """A frame's latent is its own: batch normalisation, or a flatten over the batch, would mix the frames."""
    encoder = vae.ConvEncoder(depth=4)
    image = torch.rand(3, 3, 64, 64)
    alone = [encoder(frame[None]) for frame in image]
    for together, singles in zip(encoder(image), zip(*alone, strict=True), strict=True):
        expect_close(together, torch.cat(singles), what="encoding a batch against its frames one by one")
    assert not torch.allclose(alone[0][0], alone[1][0]), "all frames get the same latent"


@pytest.mark.exercise(id="1.2")
def test_every_encoder_weight_learns():
    """A layer that is built but not used, or cut off by a detach, gets no gradient."""
    encoder = vae.ConvEncoder(depth=4)
    mu, logvar = encoder(torch.rand(2, 3, 64, 64))
    (mu.sum() + 2 * logvar.sum()).backward()
    assert without_gradient(encoder) == []


# ---- 1.3 reparameterize ----


@pytest.mark.exercise(id="1.3")
def test_log_variance_of_log_four_is_a_deviation_of_two():
    """logvar is the log of the VARIANCE: with mean 0, variance 4 and noise 1 the sample is 2."""
    mistakes = {
        4.0: "exp(logvar) is the variance; the deviation is its root, exp(logvar / 2)",
        math.log(4): "logvar is a log: take its exponential",
        16.0: "exp(2 logvar) is the variance squared; the deviation is exp(logvar / 2)",
        math.log(2): "logvar / 2 is the log of the deviation: take its exponential",
        0.5: "the sign in exp(logvar / 2) is a plus",
    }
    z = vae.reparameterize(torch.zeros(1, 1), torch.full((1, 1), math.log(4)), torch.ones(1, 1))
    expect_close(z, 2.0, mistakes=mistakes, what="z for mu 0, logvar ln 4, eps 1")


@pytest.mark.exercise(id="1.3")
def test_reparameterize_agrees_with_the_official_code():
    """z = mu + exp(logvar / 2) eps, and its gradients: 1 for mu, eps sigma / 2 for logvar."""
    g = golden("wm_reparameterisation")
    mu, logvar = (torch.tensor(g[key], requires_grad=True) for key in ("mu", "logvar"))
    z = vae.reparameterize(mu, logvar, torch.tensor(g["epsilon"]))
    assert z.requires_grad, "z is cut off from mu and logvar: no detach, no no_grad"
    mistakes = {
        numbers(g["mu"] + np.exp(g["logvar"]) * g["epsilon"]): "exp(logvar) is the variance, not the deviation",
        numbers(g["sigma"] * g["epsilon"]): "the mean is missing",
        numbers(g["mu"] + g["sigma"]): "the noise is missing",
        numbers(g["mu"]): "this is the mean, not a sample",
    }
    expect_close(z, g["z"], mistakes=mistakes, what="z")
    z.sum().backward()
    expect_close(mu.grad, g["grad_mu"], what="d z / d mu")
    expect_close(logvar.grad, g["grad_logvar"], what="d z / d logvar")


@pytest.mark.exercise(id="1.3")
def test_gradient_passes_through_noise_drawn_inside():
    """The trick is why V can learn: z moves with mu and with logvar, also when the noise is drawn inside."""
    mu, logvar = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    z = vae.reparameterize(mu, logvar)
    assert z.requires_grad, "z is cut off from mu and logvar (detach, no_grad, or a sample() without gradient)"
    z.sum().backward()
    expect_close(mu.grad, 1.0, what="d z / d mu")
    expect_close(
        logvar.grad, (z - mu).detach() / 2, mistakes={0.0: "no gradient reaches logvar"}, what="d z / d logvar"
    )


@pytest.mark.exercise(id="1.3")
def test_every_entry_has_its_own_noise():
    """Frames, steps and dimensions are drawn independently, and anew at every call."""
    mu = torch.zeros(3, 4, 5)
    z = vae.reparameterize(mu, mu)
    assert z.shape == mu.shape
    for axis, name in enumerate(("batch", "time", "latent")):
        first, second = z.select(axis, 0), z.select(axis, 1)
        assert not torch.allclose(first, second), f"the noise is shared along the {name} axis"
    assert not torch.allclose(z, vae.reparameterize(mu, mu)), "two calls give the same noise"


@pytest.mark.exercise(id="1.3")
def test_samples_have_the_right_mean_deviation_and_shape():
    """200,000 draws of N(3, variance 4): mean 3, deviation 2, and 68.27 % of them within one deviation."""
    n = 200_000
    z = vae.reparameterize(torch.full((n // 4, 4), 3.0), torch.full((n // 4, 4), math.log(4))).double()
    expect_close(z.mean(), 3.0, rtol=0, atol=6 * 2 / math.sqrt(n), what="mean of the draws")
    mistakes = {4.0: "the deviation is the root of the variance", 2 / math.sqrt(12): "torch.rand is uniform: use randn"}
    expect_close(z.std(), 2.0, rtol=0, atol=6 * 2 / math.sqrt(2 * n), mistakes=mistakes, what="deviation of the draws")
    inside = ((z - 3).abs() < 2).double().mean()
    expect_close(inside, 0.6827, rtol=0, atol=6 * math.sqrt(0.217 / n), what="share within one deviation")


# ---- 1.4 ConvDecoder ----


@pytest.mark.exercise(id="1.4")
def test_decoder_has_the_papers_size():
    """3,592,803 parameters; with the encoder 4,348,547, and 4,446,915 for VizDoom: the numbers of the paper's table."""
    expect_close(size(vae.ConvDecoder()), 3_592_803, rtol=0, atol=0.5, what="decoder size")
    counts = golden("wm_param_counts")
    assert size(vae.VAE(32)) == counts["car_vae"] == 4_348_547
    assert size(vae.VAE(64)) == counts["doom_vae"] == 4_446_915
    assert size(vae.VAE(32, image_size=96)) == 4_815_491


@pytest.mark.exercise(id="1.4")
@pytest.mark.parametrize(("image_size", "sides"), [(64, [1, 5, 13, 30, 64]), (96, [3, 9, 21, 46, 96])])
def test_maps_grow_as_in_the_paper(image_size, sides):
    """Kernels 5, 5, 6, 6, stride 2: 1 -> 5 -> 13 -> 30 -> 64. With kernel 4 everywhere the picture is 46 wide."""
    depth, channels = 4, 2
    decoder = vae.ConvDecoder(7, image_size, depth, channels)
    calls, image = record(decoder, nn.ConvTranspose2d, torch.randn(3, 7))
    maps = [tuple(calls[0][0].shape[1:])] + [tuple(output.shape[1:]) for _, output in calls]
    widths = [32 * depth, 4 * depth, 2 * depth, depth, channels]
    assert maps == [(width, side, side) for width, side in zip(widths, sides, strict=True)]
    assert image.shape == (3, channels, image_size, image_size)


@pytest.mark.exercise(id="1.4")
@pytest.mark.parametrize("image_size", [64, 96])
def test_linear_layer_is_bare_then_relu_between_then_sigmoid(image_size):
    """The linear layer has no activation (a known port adds a ReLU); ReLU between the others, sigmoid at the end."""
    decoder = vae.ConvDecoder(image_size=image_size, depth=4)
    calls, image = record(decoder, (nn.Linear, nn.ConvTranspose2d), 3 * torch.randn(2, 32))
    (_, dense), *deconvs = calls
    assert deconvs[0][0].min() < 0, "the linear layer's output is cut at zero: it has no ReLU"
    expect_close(in_order(deconvs[0][0]), in_order(dense), what="what the first transposed convolution sees")
    for (_, output), (following, _) in pairwise(deconvs):
        expect_close(following, output.relu(), what="what follows a transposed convolution")
    mistakes = {
        numbers(deconvs[-1][1]): "the sigmoid at the end is missing",
        numbers(deconvs[-1][1].relu()): "the last activation is a sigmoid, not a ReLU",
        numbers(deconvs[-1][1].tanh()): "the last activation is a sigmoid, not a tanh",
    }
    expect_close(image, deconvs[-1][1].sigmoid(), mistakes=mistakes, what="the picture")


@pytest.mark.exercise(id="1.4")
def test_pixels_stay_between_zero_and_one_and_depend_on_z():
    """The picture is compared to frames in [0, 1]; one latent's picture has nothing to do with its neighbours'."""
    decoder = vae.VAE(latent_size=6, depth=4).decoder
    z = torch.randn(3, 6)
    with torch.no_grad():
        image, alone = decoder(z), torch.cat([decoder(row[None]) for row in z])
    assert image.min() > 0
    assert image.max() < 1
    expect_close(image, alone, what="decoding a batch against its rows one by one")
    assert not torch.allclose(image[0], image[1]), "all latents give the same picture"


@pytest.mark.exercise(id="1.4")
def test_every_decoder_weight_learns():
    """A layer that is built but not used, or cut off by a detach, gets no gradient; z gets one too."""
    decoder = vae.ConvDecoder(6, depth=4)
    z = torch.randn(2, 6, requires_grad=True)
    (decoder(z) ** 2).sum().backward()
    assert without_gradient(decoder) == []
    assert z.grad.abs().sum() > 0, "no gradient reaches z"


# ---- 1.5 vae_loss ----


def latents(*rows: list[float], size: int = 32) -> torch.Tensor:
    """Rows filled up with zeros."""
    return torch.tensor([row + [0.0] * (size - len(row)) for row in rows])


def kl_only(mu: torch.Tensor, logvar: torch.Tensor, **options) -> torch.Tensor:
    image = torch.zeros(len(mu), 1, 2, 2)
    return vae.vae_loss(image, image, mu, logvar, **options).kl


@pytest.mark.exercise(id="1.5")
def test_pixels_are_summed_and_frames_averaged():
    """0.6 for 0.5 everywhere: 12,288 errors of 0.01 are 122.88. With a mean over pixels the KL crushes the latent."""
    image = torch.full((2, 3, 64, 64), 0.5)
    loss = vae.vae_loss(image, image + 0.1, torch.zeros(2, 32), torch.zeros(2, 32))
    mistakes = {
        0.01: "the squared errors are averaged over the pixels: sum them",
        61.44: "there is no factor 1/2",
        245.76: "the frames of a batch are averaged, not summed",
        1228.8: "the errors are to be squared",
    }
    expect_close(loss.recon, 122.88, mistakes=mistakes, what="recon")
    expect_close(loss.kl, 16.0, mistakes={0.0: "the floor of 0.5 a dimension is missing"}, what="kl at the floor")
    expect_close(loss.loss, 138.88, what="loss = recon + kl")


@pytest.mark.exercise(id="1.5")
@pytest.mark.parametrize(
    ("mu", "logvar", "kl", "mistakes"),
    [
        (0.0, 0.0, 0.0, {16.0: "kl_tolerance = 0 switches the floor off"}),
        (1.0, 0.0, 16.0, {-16.0: "the sign", 0.5: "sum over the latent dimensions", 32.0: "the factor 1/2 is missing"}),
        (
            0.0,
            1.0,
            11.49251,
            {
                70.22490: "logvar is the log of the VARIANCE; this takes it for the log deviation",
                -11.49251: "the sign: KL = 1/2 sum(mu^2 + exp(logvar) - 1 - logvar)",
                0.359141: "sum over the latent dimensions, do not average",
                5.88607: "the KL's arguments are swapped: it is KL(posterior || prior)",
            },
        ),
        (0.0, -2.0, 18.16537, {}),
    ],
)
def test_kl_of_32_dimensions_by_hand(mu, logvar, kl, mistakes):
    """KL of a Gaussian to N(0, 1): 1/2 (mu^2 + var - 1 - log var) a dimension, 32 times, with the floor off."""
    mu, logvar = torch.full((3, 32), mu), torch.full((3, 32), logvar)
    expect_close(kl_only(mu, logvar, kl_tolerance=0.0), kl, mistakes=mistakes, what="kl")


@pytest.mark.exercise(id="1.5")
def test_floor_is_on_a_frames_sum():
    """A frame's KL of 8 lies under the floor of 16 and counts as 16, though one dimension alone is above 0.5."""
    mu = latents([4.0], [])
    mistakes = {
        19.75: "the floor is on each dimension: it belongs on a frame's sum",
        4.0: "there is no floor",
        2.0: "the smaller of KL and floor is taken, not the larger",
        20.0: "the floor is added, it should replace a smaller KL",
        0.5: "the floor is kl_tolerance TIMES the number of latent dimensions",
    }
    expect_close(kl_only(mu, torch.zeros(2, 32)), 16.0, mistakes=mistakes, what="kl of frames with 8 and 0 nats")


@pytest.mark.exercise(id="1.5")
def test_floor_comes_before_the_mean_over_the_batch():
    """Frames of 64 and 0 nats: (64 + 16) / 2 = 40. One rich frame does not pay for a poor one."""
    mu = latents([2.0] * 32, [])
    mistakes = {
        32.0: "the floor is put on the batch mean: put it on every frame, then average",
        80.0: "the frames are averaged, not summed",
        24.0: "the floor is subtracted from what is above it: max(KL, floor) keeps all of it",
        16.0: "the smaller of KL and floor is taken, not the larger",
    }
    expect_close(kl_only(mu, torch.zeros(2, 32)), 40.0, mistakes=mistakes, what="kl of frames with 64 and 0 nats")


@pytest.mark.exercise(id="1.5")
def test_below_the_floor_the_kl_has_no_gradient():
    """That is what the floor is for: V stops paying for information once it is cheap enough."""
    mu = latents([2.0] * 32, [4.0]).requires_grad_()
    logvar = torch.full((2, 32), 0.01).requires_grad_()
    kl_only(mu, logvar).backward()
    expect_close(mu.grad[0], 1.0, what="d kl / d mu of the frame with 64 nats, in a batch of 2")
    mistakes = {numbers(mu[1] / 2): "the floor lets the gradient through"}
    expect_close(mu.grad[1], 0.0, mistakes=mistakes, what="d kl / d mu of the frame with 8 nats")
    expect_close(logvar.grad[0], (math.exp(0.01) - 1) / 4, what="d kl / d logvar above the floor")
    expect_close(logvar.grad[1], 0.0, what="d kl / d logvar below the floor")


@pytest.mark.exercise(id="1.5")
def test_floor_grows_with_the_latent_and_the_tolerance():
    """VizDoom's 64 dimensions have a floor of 32 nats; kl_tolerance is nats per dimension."""
    expect_close(kl_only(torch.zeros(3, 64), torch.zeros(3, 64)), 32.0, mistakes={16.0: "the floor is fixed at 16"})
    expect_close(kl_only(torch.zeros(3, 5), torch.zeros(3, 5), kl_tolerance=0.2), 1.0, what="5 dimensions at 0.2 nats")


@pytest.mark.exercise(id="1.5")
def test_vae_loss_agrees_with_the_official_code():
    """Values and gradients of the official TensorFlow graph on three frames, one of them under the floor."""
    g = golden("wm_vae_loss")
    channels_first = lambda x: torch.tensor(x).movedim(-1, -3)
    mu, logvar = (torch.tensor(g[key], requires_grad=True) for key in ("mu", "logvar"))
    y = channels_first(g["y"]).requires_grad_()
    loss = vae.vae_loss(channels_first(g["x"]), y, mu, logvar, float(g["kl_tolerance"]))
    mistakes = {
        float(g["kl_per_sample"].mean()): "the floor is missing",
        max(float(g["kl_per_sample"].mean()), 2.0): "the floor is put on the batch mean",
        float(np.maximum(g["kl_per_sample"], 2).sum()): "the frames are averaged, not summed",
    }
    expect_close(loss.recon, g["r_loss"], what="recon")
    expect_close(loss.kl, g["kl_loss"], mistakes=mistakes, what="kl")
    expect_close(loss.loss, g["loss"], what="loss")
    loss.loss.backward()
    expect_close(mu.grad, g["grad_mu"], what="d loss / d mu")
    expect_close(logvar.grad, g["grad_logvar"], what="d loss / d logvar")
    assert y.grad is not None, "no gradient reaches the reconstruction"
    expect_close(y.grad[..., :2, :2].movedim(1, -1), g["grad_y_corner"], what="d loss / d picture, top left")
    expect_close(y.grad.double().sum(), g["grad_y_sum"], rtol=1e-3, what="d loss / d picture, summed")


@pytest.mark.exercise(id="1.5")
def test_port_without_floor_is_told_apart():
    """A well-known PyTorch port sums over the batch, has no floor, and learns log SIGMA: none of it is the paper's."""
    g = golden("wm_vae_loss_ctallec")
    x, recon, mu, logsigma = (torch.tensor(g[key]) for key in ("x", "recon", "mu", "logsigma"))
    errors = float(np.square(g["x"] - g["recon"], dtype=np.float64).sum())
    mistakes = {
        float(g["loss"]): "the frames are summed and the floor is missing",
        float(g["loss"]) / 3: "the floor is missing",
        errors: "the frames are averaged, not summed",
    }
    kl = 0.5 * (g["mu"] ** 2 + np.exp(2 * g["logsigma"]) - 1 - 2 * g["logsigma"]).sum(1, dtype=np.float64)
    expected = errors / 3 + np.maximum(kl, 2).mean()
    expect_close(vae.vae_loss(x, recon, mu, 2 * logsigma).loss, expected, mistakes=mistakes, what="loss")


@pytest.mark.exercise(id="1.5")
def test_vae_loss_against_float64_on_odd_shapes():
    """The formula once more, in numpy, where no two axes have the same length."""
    rng = np.random.default_rng(1)
    image, recon = rng.random((5, 2, 4, 3)), rng.random((5, 2, 4, 3))
    mu, logvar = 1.5 * rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    errors = ((image - recon) ** 2).reshape(5, -1).sum(1).mean()
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(1)
    assert 0 < (kl < 1.2 * 7).sum() < 5  # some frames are under the floor, some above
    kl = np.maximum(kl, 1.2 * 7).mean()
    tensors = [torch.tensor(array, dtype=torch.float32) for array in (image, recon, mu, logvar)]
    loss = vae.vae_loss(*tensors, kl_tolerance=1.2)
    expect_close(torch.stack([loss.loss, loss.recon, loss.kl]), [errors + kl, errors, kl], what="(loss, recon, kl)")
