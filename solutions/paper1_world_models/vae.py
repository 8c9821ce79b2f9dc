"""V, the vision model: a convolutional VAE that turns a frame into a few dozen numbers (paper, section 2.1 and A.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def preprocess(image: UInt8[Tensor, "*batch height width channels"]) -> Float[Tensor, "*batch channels height width"]:
    """Turn stored frames into what the encoder sees.

    Input: uint8 frames as the environment and the replay hold them, channels last, any leading axes.
    Output: float32 in [0, 1], channels first. This is the one place where pixels are scaled.
    """
    ### BEGIN SOLUTION 1.1: scale the pixels and put the channels first
    return image.movedim(-1, -3).float() / 255
    ### END SOLUTION


def initialise(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, the defaults of the official TensorFlow code; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class ConvEncoder(nn.Module):
    """q(z | image): four strided convolutions, then two linear heads (paper A.1, figure 22).

    - four `nn.Conv2d`, kernel 4, stride 2, no padding, ReLU after each, with depth * (1, 2, 4, 8) channels:
      a 64x64 frame shrinks 64 -> 31 -> 14 -> 6 -> 2, a 96x96 frame 96 -> 47 -> 22 -> 10 -> 4
    - flatten (1024 values for 64x64 and depth 32), then one `nn.Linear` for the mean and one for the log variance, both
      without activation
    `forward` below uses `self.convs`, `self.mu` and `self.logvar`.
    """

    def __init__(self, latent_size: int = 32, image_size: int = 64, depth: int = 32, channels: int = 3):
        super().__init__()
        ### BEGIN SOLUTION 1.2: the encoder's layers
        self.convs = nn.Sequential(
            *(nn.Conv2d(channels, depth, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(depth, 2 * depth, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(2 * depth, 4 * depth, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(4 * depth, 8 * depth, 4, stride=2), nn.ReLU()),
        )
        side = {64: 2, 96: 4}[image_size]
        self.mu = nn.Linear(8 * depth * side * side, latent_size)
        self.logvar = nn.Linear(8 * depth * side * side, latent_size)
        ### END SOLUTION

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Return the mean and the log variance of q(z | image), both unbounded."""
        x = self.convs(image).flatten(1)
        return self.mu(x), self.logvar(x)


def reparameterize(
    mu: Float[Tensor, "*batch latent"],
    logvar: Float[Tensor, "*batch latent"],
    eps: Float[Tensor, "*batch latent"] | None = None,
) -> Float[Tensor, "*batch latent"]:
    """Draw z ~ N(mu, exp(logvar)) so that gradient reaches mu and logvar (Kingma & Welling 2013, section 2.4).

    `eps` is standard normal noise of mu's shape; without it, it is drawn here, independently for every entry.
    `logvar` is the log of the VARIANCE, so that the standard deviation is exp(logvar / 2).
    """
    ### BEGIN SOLUTION 1.3: a sample that gradient flows through
    if eps is None:
        eps = torch.randn_like(mu)
    return mu + torch.exp(logvar / 2) * eps
    ### END SOLUTION


class ConvDecoder(nn.Module):
    """p(image | z): a linear layer and four transposed convolutions (paper A.1, figure 22).

    - `nn.Linear` to 32 * depth channels on a 1x1 map (3x3 for 96x96 frames), with NO activation
    - four `nn.ConvTranspose2d`, stride 2, no padding, kernels 5, 5, 6, 6, with depth * (4, 2, 1) channels and
      then the image's: 1 -> 5 -> 13 -> 30 -> 64 (3 -> 9 -> 21 -> 46 -> 96); ReLU between, sigmoid at the end
    `forward` below uses `self.fc`, `self.side` (of the map that `self.fc` fills) and `self.deconvs`.
    """

    def __init__(self, latent_size: int = 32, image_size: int = 64, depth: int = 32, channels: int = 3):
        super().__init__()
        self.side = {64: 1, 96: 3}[image_size]
        ### BEGIN SOLUTION 1.4: the decoder's layers
        self.fc = nn.Linear(latent_size, 32 * depth * self.side * self.side)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(depth, channels, 6, stride=2), nn.Sigmoid()),
        )
        ### END SOLUTION

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Return the mean image, every pixel in (0, 1)."""
        x = self.fc(z).unflatten(1, (-1, self.side, self.side))
        return self.deconvs(x)


class VAE(nn.Module):
    """Encoder and decoder: 4,348,547 parameters for CarRacing (32 latents), 4,446,915 for VizDoom (64)."""

    def __init__(self, latent_size: int = 32, image_size: int = 64, depth: int = 32, channels: int = 3):
        super().__init__()
        self.encoder = ConvEncoder(latent_size, image_size, depth, channels)
        self.decoder = ConvDecoder(latent_size, image_size, depth, channels)
        self.apply(initialise)

    def forward(self, image: Float[Tensor, "batch channels height width"]):
        """Return (reconstruction, mu, logvar)."""
        mu, logvar = self.encoder(image)
        return self.decoder(reparameterize(mu, logvar)), mu, logvar


class VAELoss(NamedTuple):
    loss: Float[Tensor, ""]
    recon: Float[Tensor, ""]
    kl: Float[Tensor, ""]


def vae_loss(
    image: Float[Tensor, "batch channels height width"],
    recon_image: Float[Tensor, "batch channels height width"],
    mu: Float[Tensor, "batch latent"],
    logvar: Float[Tensor, "batch latent"],
    kl_tolerance: float = 0.5,  # nats per latent dimension; official vae.py
) -> VAELoss:
    """The VAE's loss with the official code's KL floor.

    - recon: squared error SUMMED over channels and pixels of a frame (no 1/2), averaged over the batch
    - kl: KL( N(mu, exp(logvar)) || N(0, 1) ) summed over a frame's latent dimensions, in nats; where a FRAME's sum is
      below `kl_tolerance` * latent_size it is replaced by that floor, so that its gradient is zero there;
      then averaged over the batch
    - loss = recon + kl
    """
    ### BEGIN SOLUTION 1.5: the VAE's loss
    recon = (image - recon_image).square().flatten(1).sum(1).mean()
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
    kl = kl.clamp(min=kl_tolerance * mu.shape[1]).mean()
    return VAELoss(recon + kl, recon, kl)
    ### END SOLUTION


def vae_train_step(
    vae: VAE, image: UInt8[Tensor, "batch height width channels"], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """One Adam step on a batch of frames; returns the loss and its parts, detached."""
    image = preprocess(image)
    recon_image, mu, logvar = vae(image)
    loss = vae_loss(image, recon_image, mu, logvar)
    optimizer.zero_grad(set_to_none=True)
    loss.loss.backward()
    optimizer.step()
    return {"vae": loss.loss.detach(), "recon": loss.recon.detach(), "kl": loss.kl.detach()}


def to_image(pixels: Float[Tensor, "*batch channels height width"]) -> UInt8[Tensor, "*batch height width channels"]:
    """Decoder output back to uint8 frames, channels last."""
    return (pixels.clamp(0, 1) * 255).round().byte().movedim(-3, -1)
