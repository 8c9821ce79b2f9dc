"""Wrong answers for paper 1. Many are what public reimplementations of the paper got wrong."""

from tests.chaffs import WHOLE, Chaff

VAE_CHAFFS = [
    # ---- 1.1 ----
    Chaff("1.1", "divided by 255 twice", "vae.py", "/ 255", "/ 255 / 255"),
    Chaff("1.1", "not scaled", "vae.py", " / 255", ""),
    Chaff("1.1", "divided by 256", "vae.py", "/ 255", "/ 256"),
    Chaff("1.1", "scaled to [-1, 1]", "vae.py", "/ 255", "/ 127.5 - 1"),
    Chaff("1.1", "whole-number division", "vae.py", WHOLE, "return (image.movedim(-1, -3) // 255).float()"),
    Chaff("1.1", "channels stay last", "vae.py", "image.movedim(-1, -3)", "image"),
    Chaff("1.1", "height and width swapped", "vae.py", "image.movedim(-1, -3)", "image.transpose(-1, -3)"),
    Chaff("1.1", "mirrored, as a port's augmentation does", "vae.py", "image.movedim", "image.flip(-2).movedim"),
    Chaff("1.1", "upside down", "vae.py", "image.movedim", "image.flip(-3).movedim"),
    Chaff("1.1", "blue for red", "vae.py", "image.movedim", "image.flip(-1).movedim"),
    Chaff(
        "1.1",
        "reshaped instead of permuted",
        "vae.py",
        "image.movedim(-1, -3)",
        "image.reshape(*image.shape[:-3], image.shape[-1], *image.shape[-3:-1])",
    ),
    Chaff("1.1", "only for four axes", "vae.py", "image.movedim(-1, -3)", "image.permute(0, 3, 1, 2)"),
    Chaff("1.1", "the status bar is cropped once more", "vae.py", "image.movedim", "image[..., :84, :, :].movedim"),
    Chaff("1.1", "float64", "vae.py", ".float()", ".double()"),
    Chaff("1.1", "float16", "vae.py", ".float() / 255", ".half() / 255"),
    Chaff(
        "1.1",
        "scaled only where the frame looks unscaled (blind trial)",
        "vae.py",
        WHOLE,
        """
        x = image.movedim(-1, -3).float()
        if x.max() > 1:  # not scaled yet
            x = x / 255.0
        return x
        """,
    ),
    # ---- 1.2 ----
    Chaff(
        "1.2",
        "padding in the first layer, which leaves the last map's size as it is",
        "vae.py",
        "nn.Conv2d(channels, depth, 4, stride=2)",
        "nn.Conv2d(channels, depth, 4, stride=2, padding=1)",
    ),
    Chaff(
        "1.2",
        "padding=1 in every layer",
        "vae.py",
        WHOLE,
        """
        layers, width = [], channels
        for i in range(4):
            layers += [nn.Conv2d(width, depth * 2**i, 4, stride=2, padding=1), nn.ReLU()]
            width = depth * 2**i
        self.convs = nn.Sequential(*layers)
        side = image_size // 16
        self.mu = nn.Linear(width * side * side, latent_size)
        self.logvar = nn.Linear(width * side * side, latent_size)
        """,
    ),
    Chaff(
        "1.2",
        "kernel 3 in the first layer",
        "vae.py",
        "nn.Conv2d(channels, depth, 4, stride=2)",
        "nn.Conv2d(channels, depth, 3, stride=2)",
    ),
    Chaff(
        "1.2",
        "no ReLU after the last convolution",
        "vae.py",
        "*(nn.Conv2d(4 * depth, 8 * depth, 4, stride=2), nn.ReLU()),",
        "nn.Conv2d(4 * depth, 8 * depth, 4, stride=2),",
    ),
    Chaff(
        "1.2",
        "leaky ReLU",
        "vae.py",
        "nn.Conv2d(channels, depth, 4, stride=2), nn.ReLU()",
        "nn.Conv2d(channels, depth, 4, stride=2), nn.LeakyReLU(0.01)",
    ),
    Chaff(
        "1.2",
        "batch norm",
        "vae.py",
        "nn.Conv2d(channels, depth, 4, stride=2), nn.ReLU()",
        "nn.Conv2d(channels, depth, 4, stride=2), nn.BatchNorm2d(depth), nn.ReLU()",
    ),
    Chaff(
        "1.2",
        "batch norm without parameters",
        "vae.py",
        "nn.Conv2d(2 * depth, 4 * depth, 4, stride=2), nn.ReLU()",
        "nn.Conv2d(2 * depth, 4 * depth, 4, stride=2), nn.BatchNorm2d(4 * depth, affine=False), nn.ReLU()",
    ),
    Chaff(
        "1.2",
        "one head for both",
        "vae.py",
        "self.logvar = nn.Linear(8 * depth * side * side, latent_size)",
        "self.logvar = self.mu",
    ),
    Chaff(
        "1.2",
        "ReLU on the log variance",
        "vae.py",
        "self.logvar = nn.Linear(8 * depth * side * side, latent_size)",
        "self.logvar = nn.Sequential(nn.Linear(8 * depth * side * side, latent_size), nn.ReLU())",
    ),
    Chaff(
        "1.2",
        "softplus on the log variance",
        "vae.py",
        "self.logvar = nn.Linear(8 * depth * side * side, latent_size)",
        "self.logvar = nn.Sequential(nn.Linear(8 * depth * side * side, latent_size), nn.Softplus())",
    ),
    Chaff(
        "1.2",
        "tanh on the mean",
        "vae.py",
        "self.mu = nn.Linear(8 * depth * side * side, latent_size)",
        "self.mu = nn.Sequential(nn.Linear(8 * depth * side * side, latent_size), nn.Tanh())",
    ),
    Chaff(
        "1.2",
        "a hidden layer before the mean",
        "vae.py",
        "self.mu = nn.Linear(8 * depth * side * side, latent_size)",
        "self.mu = nn.Sequential(nn.Linear(8 * depth * side * side, 128), nn.ReLU(), nn.Linear(128, latent_size))",
    ),
    Chaff(
        "1.2",
        "dropout before the mean",
        "vae.py",
        "self.mu = nn.Linear(8 * depth * side * side, latent_size)",
        "self.mu = nn.Sequential(nn.Dropout(0.1), nn.Linear(8 * depth * side * side, latent_size))",
    ),
    Chaff("1.2", "only for 64 pixels", "vae.py", "{64: 2, 96: 4}[image_size]", "2"),
    Chaff("1.2", "three channels, whatever is asked", "vae.py", "nn.Conv2d(channels,", "nn.Conv2d(3,"),
    Chaff(
        "1.2",
        "depth 32, whatever is asked",
        "vae.py",
        WHOLE,
        """
        self.convs = nn.Sequential(
            *(nn.Conv2d(channels, 32, 4, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 128, 4, stride=2), nn.ReLU(), nn.Conv2d(128, 256, 4, stride=2), nn.ReLU()),
        )
        side = {64: 2, 96: 4}[image_size]
        self.mu = nn.Linear(256 * side * side, latent_size)
        self.logvar = nn.Linear(256 * side * side, latent_size)
        """,
    ),
    Chaff(
        "1.2",
        "a layer without bias",
        "vae.py",
        "nn.Conv2d(depth, 2 * depth, 4, stride=2)",
        "nn.Conv2d(depth, 2 * depth, 4, stride=2, bias=False)",
    ),
    Chaff(
        "1.2",
        "stride 1 and max pooling, which gives the same sizes",
        "vae.py",
        "nn.Conv2d(channels, depth, 4, stride=2), nn.ReLU()",
        "nn.Conv2d(channels, depth, 4), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)",
    ),
    # ---- 1.3 ----
    Chaff("1.3", "exp of the log variance, not of half of it", "vae.py", "exp(logvar / 2)", "exp(logvar)"),
    Chaff("1.3", "exp of twice the log variance", "vae.py", "exp(logvar / 2)", "exp(2 * logvar)"),
    Chaff("1.3", "the wrong sign in exp", "vae.py", "exp(logvar / 2)", "exp(-logvar / 2)"),
    Chaff("1.3", "no exp", "vae.py", "torch.exp(logvar / 2)", "logvar / 2"),
    Chaff(
        "1.3",
        "the mean is scaled too",
        "vae.py",
        WHOLE,
        "eps = torch.randn_like(mu) if eps is None else eps\nreturn (mu + eps) * torch.exp(logvar / 2)",
    ),
    Chaff("1.3", "no noise", "vae.py", "torch.randn_like(mu)", "torch.zeros_like(mu)"),
    Chaff("1.3", "noise of ones", "vae.py", "torch.randn_like(mu)", "torch.ones_like(mu)"),
    Chaff("1.3", "one noise for the whole batch", "vae.py", "randn_like(mu)", "randn_like(mu[:1])"),
    Chaff("1.3", "one noise for all latents of a row", "vae.py", "randn_like(mu)", "randn_like(mu[..., :1])"),
    Chaff("1.3", "one number as noise", "vae.py", "torch.randn_like(mu)", "torch.randn(())"),
    Chaff("1.3", "uniform noise", "vae.py", "torch.randn_like(mu)", "torch.rand_like(mu)"),
    Chaff(
        "1.3",
        "uniform noise of the right mean and deviation",
        "vae.py",
        "torch.randn_like(mu)",
        "(2 * torch.rand_like(mu) - 1) * 3**0.5",
    ),
    Chaff(
        "1.3",
        "the same noise at every call",
        "vae.py",
        "torch.randn_like(mu)",
        "torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))",
    ),
    Chaff("1.3", "eps is ignored", "vae.py", "if eps is None:", "if True:"),
    Chaff(
        "1.3",
        "detached",
        "vae.py",
        "return mu + torch.exp(logvar / 2) * eps",
        "return (mu + torch.exp(logvar / 2) * eps).detach()",
    ),
    Chaff("1.3", "no gradient for the log variance", "vae.py", "exp(logvar / 2)", "exp(logvar.detach() / 2)"),
    Chaff(
        "1.3",
        "sample() instead of rsample()",
        "vae.py",
        WHOLE,
        """
        if eps is None:
            return torch.distributions.Normal(mu, torch.exp(logvar / 2)).sample()
        return mu + torch.exp(logvar / 2) * eps
        """,
    ),
    # ---- 1.4 ----
    Chaff(
        "1.4",
        "ReLU after the linear layer, as in a port",
        "vae.py",
        "nn.Linear(latent_size, 32 * depth * self.side * self.side)",
        "nn.Sequential(nn.Linear(latent_size, 32 * depth * self.side * self.side), nn.ReLU())",
    ),
    Chaff(
        "1.4",
        "kernel 4 everywhere",
        "vae.py",
        WHOLE,
        """
        self.fc = nn.Linear(latent_size, 32 * depth * self.side * self.side)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 4 * depth, 4, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 4, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 4, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(depth, channels, 4, stride=2), nn.Sigmoid()),
        )
        """,
    ),
    Chaff(
        "1.4",
        "kernel 5 and output padding, which gives the same sizes",
        "vae.py",
        "nn.ConvTranspose2d(2 * depth, depth, 6, stride=2)",
        "nn.ConvTranspose2d(2 * depth, depth, 5, stride=2, output_padding=1)",
    ),
    Chaff(
        "1.4",
        "the last kernel is 4",
        "vae.py",
        "nn.ConvTranspose2d(depth, channels, 6, stride=2)",
        "nn.ConvTranspose2d(depth, channels, 4, stride=2)",
    ),
    Chaff("1.4", "tanh at the end", "vae.py", "nn.Sigmoid()", "nn.Tanh()"),
    Chaff("1.4", "ReLU at the end", "vae.py", "nn.Sigmoid()", "nn.ReLU()"),
    Chaff("1.4", "nothing at the end", "vae.py", "nn.Sigmoid()", "nn.Identity()"),
    Chaff("1.4", "ReLU, then sigmoid", "vae.py", "nn.Sigmoid()", "nn.ReLU(), nn.Sigmoid()"),
    Chaff("1.4", "a hard sigmoid", "vae.py", "nn.Sigmoid()", "nn.Hardsigmoid()"),
    Chaff(
        "1.4",
        "tanh, scaled to (0, 1)",
        "vae.py",
        WHOLE,
        """
        class Half(nn.Module):
            def forward(self, x):
                return (x.tanh() + 1) / 2

        self.fc = nn.Linear(latent_size, 32 * depth * self.side * self.side)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(depth, channels, 6, stride=2), Half()),
        )
        """,
    ),
    Chaff(
        "1.4",
        "no ReLU after the second layer",
        "vae.py",
        "*(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),",
        "nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2),",
    ),
    Chaff(
        "1.4",
        "leaky ReLU",
        "vae.py",
        "nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()",
        "nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.LeakyReLU(0.01)",
    ),
    Chaff(
        "1.4",
        "batch norm without parameters",
        "vae.py",
        "nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ReLU()",
        "nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.BatchNorm2d(depth, affine=False), nn.ReLU()",
    ),
    Chaff("1.4", "only for 64 pixels", "vae.py", " * self.side * self.side", ""),
    Chaff("1.4", "three channels, whatever is asked", "vae.py", "(depth, channels, 6", "(depth, 3, 6"),
    Chaff(
        "1.4",
        "no bias in the last layer",
        "vae.py",
        "nn.ConvTranspose2d(depth, channels, 6, stride=2)",
        "nn.ConvTranspose2d(depth, channels, 6, stride=2, bias=False)",
    ),
    Chaff(
        "1.4",
        "wider maps",
        "vae.py",
        WHOLE,
        """
        self.fc = nn.Linear(latent_size, 32 * depth * self.side * self.side)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 8 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(8 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 6, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, channels, 6, stride=2), nn.Sigmoid()),
        )
        """,
    ),
    # ---- 1.5 ----
    Chaff("1.5", "mean over the pixels", "vae.py", ".flatten(1).sum(1).mean()", ".mean()"),
    Chaff("1.5", "sum over the batch", "vae.py", ".flatten(1).sum(1).mean()", ".sum()"),
    Chaff("1.5", "half the squared error", "vae.py", "(image - recon_image)", "0.5 * (image - recon_image)"),
    Chaff("1.5", "absolute error", "vae.py", "(image - recon_image).square()", "(image - recon_image).abs()"),
    Chaff("1.5", "root of a frame's error", "vae.py", ".flatten(1).sum(1).mean()", ".flatten(1).sum(1).sqrt().mean()"),
    Chaff(
        "1.5",
        "cross entropy for the pixels",
        "vae.py",
        "(image - recon_image).square().flatten(1).sum(1).mean()",
        'nn.functional.binary_cross_entropy(recon_image, image, reduction="sum") / len(image)',
    ),
    Chaff("1.5", "no gradient for the picture", "vae.py", "image - recon_image", "image - recon_image.detach()"),
    Chaff(
        "1.5",
        "floor on every dimension",
        "vae.py",
        WHOLE,
        """
        recon = (image - recon_image).square().flatten(1).sum(1).mean()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
        kl = kl.clamp(min=kl_tolerance).sum(1).mean()
        return VAELoss(recon + kl, recon, kl)
        """,
    ),
    Chaff(
        "1.5",
        "floor on the batch mean",
        "vae.py",
        "kl.clamp(min=kl_tolerance * mu.shape[1]).mean()",
        "kl.mean().clamp(min=kl_tolerance * mu.shape[1])",
    ),
    Chaff(
        "1.5",
        "floor on every dimension's batch mean, as in DreamerV3's free bits gone wrong",
        "vae.py",
        WHOLE,
        """
        recon = (image - recon_image).square().flatten(1).sum(1).mean()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
        kl = kl.mean(0).clamp(min=kl_tolerance).sum()
        return VAELoss(recon + kl, recon, kl)
        """,
    ),
    Chaff("1.5", "no floor", "vae.py", "kl.clamp(min=kl_tolerance * mu.shape[1]).mean()", "kl.mean()"),
    Chaff("1.5", "a ceiling for a floor", "vae.py", "clamp(min=", "clamp(max="),
    Chaff("1.5", "floor not times the latent size", "vae.py", "kl_tolerance * mu.shape[1]", "kl_tolerance"),
    Chaff("1.5", "floor for 32 latents", "vae.py", "kl_tolerance * mu.shape[1]", "kl_tolerance * 32"),
    Chaff("1.5", "floor times the batch size", "vae.py", "mu.shape[1]", "mu.shape[0]"),
    Chaff("1.5", "kl_tolerance is ignored", "vae.py", "kl_tolerance * mu.shape[1]", "0.5 * mu.shape[1]"),
    Chaff(
        "1.5",
        "the floor lets gradient through",
        "vae.py",
        "kl.clamp(min=kl_tolerance * mu.shape[1])",
        "(kl + (kl_tolerance * mu.shape[1] - kl).clamp(min=0).detach())",
    ),
    Chaff(
        "1.5",
        "only the excess over the floor",
        "vae.py",
        "kl.clamp(min=kl_tolerance * mu.shape[1])",
        "(kl - kl_tolerance * mu.shape[1]).clamp(min=0)",
    ),
    Chaff(
        "1.5",
        "the floor is in the loss, but not in the kl that is returned",
        "vae.py",
        WHOLE,
        """
        recon = (image - recon_image).square().flatten(1).sum(1).mean()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
        floored = kl.clamp(min=kl_tolerance * mu.shape[1]).mean()
        return VAELoss(recon + floored, recon, kl.mean())
        """,
    ),
    Chaff("1.5", "the KL's sign", "vae.py", "0.5 * (mu", "-0.5 * (mu"),
    Chaff("1.5", "the KL without its half", "vae.py", "0.5 * (mu", "(mu"),
    Chaff("1.5", "the KL is averaged over dimensions", "vae.py", "logvar).sum(1)", "logvar).mean(1)"),
    Chaff("1.5", "the KL is summed over the batch", "vae.py", "mu.shape[1]).mean()", "mu.shape[1]).sum()"),
    Chaff(
        "1.5",
        "log deviation for log variance",
        "vae.py",
        "logvar.exp() - 1 - logvar",
        "(2 * logvar).exp() - 1 - 2 * logvar",
    ),
    Chaff(
        "1.5",
        "the KL's arguments are swapped",
        "vae.py",
        "mu.square() + logvar.exp() - 1 - logvar",
        "(mu.square() + 1) * (-logvar).exp() - 1 + logvar",
    ),
    Chaff("1.5", "the KL without the mean", "vae.py", "mu.square() + logvar", "logvar"),
    Chaff("1.5", "kl and recon are returned in the other order", "vae.py", ", recon, kl)", ", kl, recon)"),
    Chaff("1.5", "the loss is the reconstruction alone", "vae.py", "VAELoss(recon + kl,", "VAELoss(recon,"),
    Chaff("1.5", "the KL weighs half", "vae.py", "VAELoss(recon + kl,", "VAELoss(recon + 0.5 * kl,"),
]

RNN_CHAFFS = [
    # ---- 1.6 ----
    Chaff("1.6", "action before z", "rnn.py", "[z, action]", "[action, z]"),
    Chaff("1.6", "every call starts from zeros", "rnn.py", "-1), state, is_first", "-1), None, is_first"),
    Chaff("1.6", "is_first is not handed on", "rnn.py", "state, is_first)", "state, None)"),
    Chaff("1.6", "softmax over the latents", "rnn.py", "log_softmax(-1)", "log_softmax(-2)"),
    Chaff("1.6", "weights not normalised", "rnn.py", "logweight.log_softmax(-1)", "logweight"),
    Chaff("1.6", "weights, not their logs", "rnn.py", ".log_softmax(-1)", ".softmax(-1)"),
    Chaff("1.6", "sigma, not its log", "rnn.py", "logsig.clamp(min=LOGSIG_MIN)", "logsig.clamp(min=LOGSIG_MIN).exp()"),
    Chaff("1.6", "no floor for log sigma", "rnn.py", "logsig.clamp(min=LOGSIG_MIN)", "logsig"),
    Chaff("1.6", "a ceiling for log sigma too", "rnn.py", "clamp(min=LOGSIG_MIN)", "clamp(min=LOGSIG_MIN, max=2)"),
    Chaff(
        "1.6",
        "the floor is on the means",
        "rnn.py",
        "mu, logsig.clamp(min=LOGSIG_MIN)",
        "mu.clamp(min=LOGSIG_MIN), logsig",
    ),
    Chaff("1.6", "means through tanh", "rnn.py", " mu, logsig.clamp", " mu.tanh(), logsig.clamp"),
    Chaff(
        "1.6",
        "all weights, then all means, then all deviations",
        "rnn.py",
        "out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)",
        "(part.unflatten(-1, (self.latent_size, self.mixtures)) for part in out.chunk(3, -1))",
    ),
    Chaff(
        "1.6",
        "weight, mean and deviation of a component side by side",
        "rnn.py",
        "out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)",
        "out.unflatten(-1, (self.latent_size, self.mixtures, 3)).unbind(-1)",
    ),
    Chaff(
        "1.6",
        "mixtures before latents",
        "rnn.py",
        "out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)",
        "out.unflatten(-1, (3 * self.mixtures, self.latent_size)).transpose(-1, -2).chunk(3, -1)",
    ),
    Chaff(
        "1.6",
        "means, deviations, weights, as in a port",
        "rnn.py",
        "logweight, mu, logsig =",
        "mu, logsig, logweight =",
    ),
    Chaff("1.6", "deviations before means", "rnn.py", "logweight, mu, logsig =", "logweight, logsig, mu ="),
    Chaff("1.6", "reward and done are swapped", "rnn.py", "reward, done_logit, state)", "done_logit, reward, state)"),
    Chaff(
        "1.6",
        "the reward comes first",
        "rnn.py",
        WHOLE,
        """
        hidden, state = self.run_lstm(torch.cat([z, action], -1), state, is_first)
        out = self.out(hidden)
        done_logit = reward = None
        if self.predict_reward:
            reward, out = out[..., 0], out[..., 1:]
        if self.predict_done:
            done_logit, out = out[..., 0], out[..., 1:]
        logweight, mu, logsig = out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)
        return MDNOutput(logweight.log_softmax(-1), mu, logsig.clamp(min=LOGSIG_MIN), reward, done_logit, state)
        """,
    ),
    Chaff(
        "1.6",
        "the heads come last",
        "rnn.py",
        WHOLE,
        """
        hidden, state = self.run_lstm(torch.cat([z, action], -1), state, is_first)
        out = self.out(hidden)
        done_logit = reward = None
        if self.predict_done:
            done_logit, out = out[..., -1], out[..., :-1]
        if self.predict_reward:
            reward, out = out[..., -1], out[..., :-1]
        logweight, mu, logsig = out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)
        return MDNOutput(logweight.log_softmax(-1), mu, logsig.clamp(min=LOGSIG_MIN), reward, done_logit, state)
        """,
    ),
    Chaff(
        "1.6",
        "time is taken for the batch",
        "rnn.py",
        WHOLE,
        """
        x = torch.cat([z, action], -1).transpose(0, 1)
        hidden, state = self.run_lstm(x, state if len(x) == 1 else None, None if is_first is None else is_first.T)
        out = self.out(hidden.transpose(0, 1))
        state = tuple(part[:1].expand(len(z), -1) for part in state)
        done_logit = reward = None
        if self.predict_done:
            done_logit, out = out[..., 0], out[..., 1:]
        if self.predict_reward:
            reward, out = out[..., 0], out[..., 1:]
        logweight, mu, logsig = out.unflatten(-1, (self.latent_size, 3 * self.mixtures)).chunk(3, -1)
        return MDNOutput(logweight.log_softmax(-1), mu, logsig.clamp(min=LOGSIG_MIN), reward, done_logit, state)
        """,
    ),
    Chaff(
        "1.6",
        "a probability for the logit",
        "rnn.py",
        "done_logit, out = out[..., 0],",
        "done_logit, out = out[..., 0].sigmoid(),",
    ),
    Chaff("1.6", "ReLU on the hidden vectors", "rnn.py", "self.out(hidden)", "self.out(hidden.relu())"),
    Chaff("1.6", "dropout on the hidden vectors", "rnn.py", "self.out(hidden)", "self.out(F.dropout(hidden, 0.1))"),
    Chaff("1.6", "outputs of the step before", "rnn.py", "self.out(hidden)", "self.out(hidden.roll(1, 1))"),
    Chaff("1.6", "z is detached", "rnn.py", "[z, action]", "[z.detach(), action]"),
    Chaff("1.6", "h and c are swapped in the state", "rnn.py", "done_logit, state)", "done_logit, state[::-1])"),
    Chaff(
        "1.6",
        "the state of the first step is returned",
        "rnn.py",
        "out = self.out(hidden)",
        "state = hidden[:, 0], state[1]\n        out = self.out(hidden)",
    ),
    # ---- 1.7 ----
    Chaff(
        "1.7",
        "sum of the components' logs",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "(logpi + log_density).sum(-1)",
    ),
    Chaff(
        "1.7",
        "weighted mean of the logs",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "(logpi.exp() * log_density).sum(-1)",
    ),
    Chaff(
        "1.7",
        "the likeliest component alone",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "(logpi + log_density).amax(-1)",
    ),
    Chaff("1.7", "no log sqrt(2 pi)", "rnn.py", " - 0.5 * math.log(2 * math.pi)", ""),
    Chaff("1.7", "log(2 pi), not half of it", "rnn.py", "- 0.5 * math.log", "- math.log"),
    Chaff("1.7", "no - logsig", "rnn.py", ".square() - logsig -", ".square() -"),
    Chaff("1.7", "multiplied by sigma", "rnn.py", "torch.exp(-logsig)", "torch.exp(logsig)"),
    Chaff("1.7", "no half in front of the square", "rnn.py", "-0.5 * standardised", "-standardised"),
    Chaff("1.7", "the error is not squared", "rnn.py", "standardised.square()", "standardised.abs()"),
    Chaff(
        "1.7",
        "log sigma taken for the log variance",
        "rnn.py",
        WHOLE,
        """
        standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig / 2)
        log_density = -0.5 * standardised.square() - 0.5 * logsig - 0.5 * math.log(2 * math.pi)
        return masked_mean(-torch.logsumexp(logpi + log_density, -1), mask)
        """,
    ),
    Chaff(
        "1.7",
        "one component for all dimensions",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "torch.logsumexp(logpi.mean(2) + log_density.sum(2), -1)",
    ),
    Chaff(
        "1.7",
        "one component for all dimensions, per dimension",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "torch.logsumexp(logpi.mean(2) + log_density.sum(2), -1) / mu.shape[2]",
    ),
    Chaff(
        "1.7",
        "exp, then log",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "(logpi + log_density).exp().sum(-1).log()",
    ),
    Chaff(
        "1.7",
        "exp, then log of it and a little",
        "rnn.py",
        "torch.logsumexp(logpi + log_density, -1)",
        "((logpi + log_density).exp().sum(-1) + 1e-8).log()",
    ),
    Chaff("1.7", "no weights", "rnn.py", "logpi + log_density", "log_density"),
    Chaff("1.7", "weights in place of their logs", "rnn.py", "logpi + log_density", "logpi.exp() + log_density"),
    Chaff("1.7", "over the latents, not the mixtures", "rnn.py", "log_density, -1)", "log_density, -2)"),
    Chaff("1.7", "the sign", "rnn.py", "-torch.logsumexp", "torch.logsumexp"),
    Chaff("1.7", "summed over the latents", "rnn.py", "log_density, -1), mask)", "log_density, -1).sum(-1), mask)"),
    Chaff("1.7", "the mask is ignored", "rnn.py", "-1), mask)", "-1), None)"),
    Chaff(
        "1.7",
        "divided by all steps, also where the mask leaves some out",
        "rnn.py",
        WHOLE,
        """
        standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig)
        log_density = -0.5 * standardised.square() - logsig - 0.5 * math.log(2 * math.pi)
        nll = -torch.logsumexp(logpi + log_density, -1)
        return nll.mean() if mask is None else (nll * mask.unsqueeze(-1)).mean()
        """,
    ),
    Chaff(
        "1.7",
        "rows are averaged first",
        "rnn.py",
        WHOLE,
        """
        standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig)
        log_density = -0.5 * standardised.square() - logsig - 0.5 * math.log(2 * math.pi)
        nll = -torch.logsumexp(logpi + log_density, -1).mean(-1)
        mask = torch.ones_like(nll) if mask is None else mask.float()
        return ((nll * mask).sum(1) / mask.sum(1)).mean()
        """,
    ),
    Chaff(
        "1.7",
        "a negative likelihood is clamped",
        "rnn.py",
        WHOLE,
        """
        standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig)
        log_density = -0.5 * standardised.square() - logsig - 0.5 * math.log(2 * math.pi)
        return masked_mean(-torch.logsumexp(logpi + log_density, -1), mask).clamp(min=0)
        """,
    ),
    Chaff(
        "1.7",
        "squeeze() with no dim, as in a port",
        "rnn.py",
        WHOLE,
        """
        standardised = (target.unsqueeze(-1) - mu) * torch.exp(-logsig)
        log_density = -0.5 * standardised.square() - logsig - 0.5 * math.log(2 * math.pi)
        most = (logpi + log_density).max(-1, keepdim=True).values
        log_likelihood = most.squeeze() + (logpi + log_density - most).exp().sum(-1).log()
        return masked_mean(-log_likelihood, mask)
        """,
    ),
    # ---- 1.8 ----
    Chaff("1.8", "deviation times temperature", "rnn.py", "math.sqrt(temperature)", "temperature"),
    Chaff("1.8", "the temperature does not reach the noise", "rnn.py", " * math.sqrt(temperature)", ""),
    Chaff("1.8", "the temperature does not reach the weights", "rnn.py", "(logpi / temperature)", "logpi"),
    Chaff("1.8", "log weights times temperature", "rnn.py", "logpi / temperature", "logpi * temperature"),
    Chaff("1.8", "log weights by the root", "rnn.py", "logpi / temperature", "logpi / math.sqrt(temperature)"),
    Chaff("1.8", "the temperature divides weights, not their logs", "rnn.py", "logpi / temp", "logpi.exp() / temp"),
    Chaff("1.8", "one draw for all dimensions", "rnn.py", "rand_like(mu[..., 0]", "rand_like(mu[..., :1, 0]"),
    Chaff("1.8", "one draw for the whole batch", "rnn.py", "rand_like(mu[..., 0]", "rand_like(mu[:1, ..., 0]"),
    Chaff("1.8", "one noise for all dimensions", "rnn.py", "randn_like(mu[..., 0]", "randn_like(mu[..., :1, 0]"),
    Chaff("1.8", "uniform noise", "rnn.py", "torch.randn_like(mu[..., 0])", "torch.rand_like(mu[..., 0])"),
    Chaff(
        "1.8",
        "the heaviest component",
        "rnn.py",
        "(cumulative < uniform.unsqueeze(-1)).sum(-1, keepdim=True).clamp(max=mu.shape[-1] - 1)",
        "logpi.argmax(-1, keepdim=True)",
    ),
    Chaff(
        "1.8",
        "every component as likely",
        "rnn.py",
        "(cumulative < uniform.unsqueeze(-1)).sum(-1, keepdim=True)",
        "(uniform * mu.shape[-1]).long().unsqueeze(-1)",
    ),
    Chaff("1.8", "counted from the other end", "rnn.py", "(cumulative < uniform", "(cumulative > uniform"),
    Chaff(
        "1.8",
        "the component before",
        "rnn.py",
        ".clamp(max=mu.shape[-1] - 1)",
        ".sub(1).clamp(min=0)",
    ),
    Chaff("1.8", "the mixture's mean", "rnn.py", "mu.gather(-1, index).squeeze(-1)", "(logpi.exp() * mu).sum(-1)"),
    Chaff(
        "1.8",
        "mean and deviation of different components",
        "rnn.py",
        "logsig.gather(-1, index).squeeze(-1)",
        "logsig[..., 0]",
    ),
    Chaff("1.8", "no noise", "rnn.py", "return mean + std * normal", "return mean"),
    Chaff("1.8", "the noise is subtracted", "rnn.py", "mean + std", "mean - std"),
    Chaff("1.8", "log sigma taken for the log variance", "rnn.py", "squeeze(-1).exp()", "squeeze(-1).div(2).exp()"),
    Chaff("1.8", "no exp", "rnn.py", "squeeze(-1).exp()", "squeeze(-1)"),
    Chaff("1.8", "log weights taken for weights", "rnn.py", ".softmax(-1).cumsum", ".cumsum"),
    Chaff("1.8", "softmax over the latents", "rnn.py", ".softmax(-1).cumsum", ".softmax(-2).cumsum"),
    Chaff(
        "1.8",
        "the given uniform noise is ignored",
        "rnn.py",
        "torch.rand_like(mu[..., 0]) if uniform is None else uniform",
        "torch.rand_like(mu[..., 0])",
    ),
    Chaff(
        "1.8",
        "the given normal noise is ignored",
        "rnn.py",
        "torch.randn_like(mu[..., 0]) if normal is None else normal",
        "torch.randn_like(mu[..., 0])",
    ),
    Chaff(
        "1.8",
        "noise that is given alone is drawn anew (blind trial)",
        "rnn.py",
        "uniform = torch.rand_like(mu[..., 0]) if uniform is None else uniform",
        "if normal is None or uniform is None:\n"
        "        uniform, normal = torch.rand_like(mu[..., 0]), torch.randn_like(mu[..., 0])",
    ),
    # ---- 1.9 ----
    Chaff("1.9", "the action before", "rnn.py", 'rows["prev_action"][:, 1:]', 'rows["prev_action"][:, :-1]'),
    Chaff(
        "1.9",
        "the action after",
        "rnn.py",
        'rows["prev_action"][:, 1:]',
        'rows["prev_action"].roll(-2, 1)[:, :-1]',
    ),
    Chaff("1.9", "the target is z_t itself", "rnn.py", "next_z=z[:, 1:]", "next_z=z[:, :-1]"),
    Chaff("1.9", "z is shifted", "rnn.py", "z=z[:, :-1]", "z=z[:, 1:]"),
    Chaff("1.9", "the mean for a sample", "rnn.py", 'reparameterize(rows["mu"], rows["logvar"], eps)', 'rows["mu"]'),
    Chaff("1.9", "the mean as the target", "rnn.py", "next_z=z[:, 1:]", 'next_z=rows["mu"][:, 1:]'),
    Chaff("1.9", "the mean as the input", "rnn.py", " z=z[:, :-1]", ' z=rows["mu"][:, :-1]'),
    Chaff(
        "1.9",
        "input and target are drawn apart",
        "rnn.py",
        "next_z=z[:, 1:]",
        'next_z=reparameterize(rows["mu"], rows["logvar"], eps)[:, 1:]',
    ),
    Chaff(
        "1.9",
        "the same noise at every call",
        "rnn.py",
        "z = reparameterize(",
        'if eps is None:\n        eps = torch.randn(rows["mu"].shape, generator=torch.Generator().manual_seed(0))\n'
        "    z = reparameterize(",
    ),
    Chaff(
        "1.9",
        "all steps share their noise",
        "rnn.py",
        "z = reparameterize(",
        'if eps is None:\n        eps = torch.randn_like(rows["mu"][:, :1]).expand_as(rows["mu"])\n'
        "    z = reparameterize(",
    ),
    Chaff(
        "1.9",
        "the variance for the deviation",
        "rnn.py",
        'reparameterize(rows["mu"], rows["logvar"], eps)',
        'reparameterize(rows["mu"], 2 * rows["logvar"], eps)',
    ),
    Chaff("1.9", "eps is ignored", "rnn.py", '["logvar"], eps)', '["logvar"])'),
    Chaff("1.9", "the reward before a_t", "rnn.py", 'rows["reward"][:, 1:]', 'rows["reward"][:, :-1]'),
    Chaff("1.9", "the end before a_t", "rnn.py", 'rows["is_terminal"][:, 1:]', 'rows["is_terminal"][:, :-1]'),
    Chaff(
        "1.9",
        "the next episode's first row as the end",
        "rnn.py",
        'rows["is_terminal"][:, 1:]',
        'rows["is_first"][:, 1:]',
    ),
    Chaff(
        "1.9",
        "where the window ends, the episode does",
        "rnn.py",
        'rows["is_terminal"][:, 1:]',
        'rows["is_terminal"][:, 1:] | (torch.arange(2, z.shape[1] + 1) == z.shape[1])',
    ),
    Chaff("1.9", "is_first of the next row", "rnn.py", 'rows["is_first"][:, :-1]', 'rows["is_first"][:, 1:]'),
    Chaff(
        "1.9",
        "the mask of the first row of the two",
        "rnn.py",
        'rows["mask"][:, :-1] & rows["mask"][:, 1:]',
        'rows["mask"][:, :-1]',
    ),
    Chaff(
        "1.9",
        "the mask of the second row of the two",
        "rnn.py",
        'rows["mask"][:, :-1] & rows["mask"][:, 1:]',
        'rows["mask"][:, 1:]',
    ),
    Chaff("1.9", "either row is enough for the mask", "rnn.py", "[:, :-1] & rows", "[:, :-1] | rows"),
    Chaff(
        "1.9",
        "everything counts",
        "rnn.py",
        'rows["mask"][:, :-1] & rows["mask"][:, 1:]',
        'torch.ones_like(rows["mask"][:, 1:])',
    ),
    # ---- 1.10 ----
    Chaff("1.10", "clipped by norm", "rnn.py", "clip_grad_value_(", "clip_grad_norm_("),
    Chaff("1.10", "not clipped", "rnn.py", "nn.utils.clip_grad_value_(model.parameters(), clip_value)", "pass"),
    Chaff("1.10", "clip_value is ignored", "rnn.py", "parameters(), clip_value)", "parameters(), 1.0)"),
    Chaff("1.10", "only the LSTM is clipped", "rnn.py", "model.parameters()", "model.lstm.parameters()"),
    Chaff("1.10", "only the output layer is clipped", "rnn.py", "model.parameters()", "model.out.parameters()"),
    Chaff("1.10", "no zero_grad", "rnn.py", "optimizer.zero_grad(set_to_none=True)", "pass"),
    Chaff("1.10", "no step", "rnn.py", "optimizer.step()", "pass"),
    Chaff("1.10", "two steps", "rnn.py", "optimizer.step()", "optimizer.step()\n    optimizer.step()"),
    Chaff("1.10", "uphill", "rnn.py", 'losses["loss"].backward()', '(-losses["loss"]).backward()'),
    Chaff("1.10", "only the mixture learns", "rnn.py", 'losses["loss"].backward()', 'losses["nll"].backward()'),
    Chaff(
        "1.10",
        "the sum over the batch is what learns",
        "rnn.py",
        'losses["loss"].backward()',
        '(len(batch.z) * losses["loss"]).backward()',
    ),
    Chaff("1.10", "the graph is kept", "rnn.py", "value.detach()", "value"),
    Chaff(
        "1.10",
        "losses after the step",
        "rnn.py",
        "for name, value in losses.items()",
        "for name, value in rnn_loss(model, batch).items()",
    ),
    Chaff("1.10", "only the loss is returned", "rnn.py", "in losses.items()}", 'in losses.items() if name == "loss"}'),
    Chaff(
        "1.10",
        "clipped before there is a gradient",
        "rnn.py",
        WHOLE,
        """
        losses = rnn_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        nn.utils.clip_grad_value_(model.parameters(), clip_value)
        losses["loss"].backward()
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
        """,
    ),
    Chaff(
        "1.10",
        "clipped after the step",
        "rnn.py",
        WHOLE,
        """
        losses = rnn_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        nn.utils.clip_grad_value_(model.parameters(), clip_value)
        return {name: value.detach() for name, value in losses.items()}
        """,
    ),
    Chaff(
        "1.10",
        "the gradient is zeroed after backward",
        "rnn.py",
        WHOLE,
        """
        losses = rnn_loss(model, batch)
        losses["loss"].backward()
        optimizer.zero_grad()
        nn.utils.clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
        """,
    ),
    Chaff(
        "1.10",
        "the loss is clipped, not its gradient",
        "rnn.py",
        WHOLE,
        """
        losses = rnn_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].clamp(-clip_value, clip_value).backward()
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
        """,
    ),
    Chaff(
        "1.10",
        "clips with hooks that stay (blind trial)",
        "rnn.py",
        WHOLE,
        """
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: grad.clamp(-clip_value, clip_value))
        losses = rnn_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
        """,
    ),
]

# two lines of exercise 1.12
TELL = "search.tell(list(candidates), list(-returns))\n        "
YIELD = "yield Generation(index, returns, np.array(search.mean), float(search.sigma))"

CONTROLLER_CHAFFS = [
    # ---- 1.11 ----
    Chaff(
        "1.11",
        "gas is sigmoid(u)",
        "controller.py",
        WHOLE,
        """
        if kind == "discrete":
            return torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u)
        if kind == "car":
            return torch.stack([u[..., 0].tanh(), u[..., 1].sigmoid(), u[..., 2].tanh().clamp(0, 1)], -1)
        u = torch.tanh(u)
        if kind == "left_right":
            return (u > 1 / 3).to(u) - (u < -1 / 3).to(u)
        return u
        """,
    ),
    Chaff("1.11", "gas is tanh", "controller.py", "(u[..., 1] + 1) / 2", "u[..., 1]"),
    Chaff("1.11", "gas is cut off at 0", "controller.py", "(u[..., 1] + 1) / 2", "u[..., 1].clamp(0, 1)"),
    Chaff("1.11", "brake may be negative", "controller.py", "u[..., 2].clamp(0, 1)", "u[..., 2]"),
    Chaff("1.11", "brake as gas", "controller.py", "u[..., 2].clamp(0, 1)", "(u[..., 2] + 1) / 2"),
    Chaff("1.11", "the brake's absolute value", "controller.py", "u[..., 2].clamp(0, 1)", "u[..., 2].abs()"),
    Chaff(
        "1.11",
        "gas before steer",
        "controller.py",
        "[u[..., 0], (u[..., 1] + 1) / 2,",
        "[(u[..., 0] + 1) / 2, u[..., 1],",
    ),
    Chaff("1.11", "clipped, no tanh, as in a port", "controller.py", "torch.tanh(u)", "u.clamp(-1, 1)"),
    Chaff("1.11", "tanh twice", "controller.py", "torch.tanh(u)", "torch.tanh(torch.tanh(u))"),
    Chaff("1.11", "the caller's scores are changed", "controller.py", "torch.tanh(u)", "u.tanh_()"),
    Chaff(
        "1.11",
        "one leading axis and no other",
        "controller.py",
        "[u[..., 0], (u[..., 1] + 1) / 2, u[..., 2].clamp(0, 1)], -1",
        "[u[:, 0], (u[:, 1] + 1) / 2, u[:, 2].clamp(0, 1)], -1",
    ),
    Chaff(
        "1.11",
        "softmax for the choice",
        "controller.py",
        "torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u)",
        "u.softmax(-1)",
    ),
    Chaff(
        "1.11",
        "the choice is sampled",
        "controller.py",
        "u.argmax(-1)",
        "torch.distributions.Categorical(logits=u).sample()",
    ),
    Chaff("1.11", "the smallest score wins", "controller.py", "u.argmax(-1)", "u.argmin(-1)"),
    Chaff("1.11", "a one-hot of whole numbers", "controller.py", "u.shape[-1]).to(u)", "u.shape[-1])"),
    Chaff(
        "1.11",
        "the number of the choice",
        "controller.py",
        "torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u)",
        "u.argmax(-1, keepdim=True).to(u)",
    ),
    Chaff("1.11", "thresholds at 1/2", "controller.py", "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)", "u.round()"),
    Chaff(
        "1.11",
        "1.5 tanh(u) rounded, which is 2 where tanh saturates",
        "controller.py",
        "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)",
        "(1.5 * u).round()",
    ),
    Chaff("1.11", "no dead zone", "controller.py", "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)", "u.sign()"),
    Chaff("1.11", "not rounded", "controller.py", "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)", "u"),
    Chaff(
        "1.11",
        "left and right are swapped",
        "controller.py",
        "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)",
        "(u < -1 / 3).to(u) - (u > 1 / 3).to(u)",
    ),
    Chaff(
        "1.11",
        "thresholds at 0.33",
        "controller.py",
        "(u > 1 / 3).to(u) - (u < -1 / 3).to(u)",
        "(u > 0.33).to(u) - (u < -0.33).to(u)",
    ),
    Chaff(
        "1.11",
        "thresholds on u, not on tanh(u)",
        "controller.py",
        WHOLE,
        """
        if kind == "discrete":
            return torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u)
        if kind == "left_right":
            return (u > 1 / 3).to(u) - (u < -1 / 3).to(u)
        u = torch.tanh(u)
        if kind == "car":
            return torch.stack([u[..., 0], (u[..., 1] + 1) / 2, u[..., 2].clamp(0, 1)], -1)
        return u
        """,
    ),
    Chaff(
        "1.11",
        "all scores that share the maximum win (blind trial)",
        "controller.py",
        "torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u)",
        "(u == u.max(-1, keepdim=True).values).to(u)",
    ),
    # ---- 1.12 ----
    Chaff("1.12", "cma is told the returns", "controller.py", "list(-returns)", "list(returns)"),
    Chaff("1.12", "costs are out of order", "controller.py", "list(-returns)", "sorted(-returns)"),
    Chaff("1.12", "candidates are out of order", "controller.py", "list(candidates)", "list(candidates[::-1])"),
    Chaff(
        "1.12",
        "the best sample for the mean",
        "controller.py",
        "np.array(search.mean)",
        "candidates[returns.argmax()]",
    ),
    Chaff("1.12", "the candidates' plain mean", "controller.py", "np.array(search.mean)", "candidates.mean(0)"),
    Chaff(
        "1.12",
        "the mean before the update",
        "controller.py",
        TELL + YIELD,
        "mean = np.array(search.mean)\n        " + TELL + YIELD.replace("np.array(search.mean)", "mean"),
    ),
    Chaff(
        "1.12",
        "the generation is told after it is yielded",
        "controller.py",
        TELL + YIELD,
        YIELD + "\n        " + TELL.strip(),
    ),
    Chaff("1.12", "sigma0 for sigma", "controller.py", "float(search.sigma)", "float(sigma0)"),
    Chaff("1.12", "costs are reported", "controller.py", "Generation(index, returns", "Generation(index, -returns"),
    Chaff(
        "1.12",
        "the returns are standardised",
        "controller.py",
        "Generation(index, returns",
        "Generation(index, (returns - returns.mean())",
    ),
    Chaff(
        "1.12",
        "every generation plays the same episodes",
        "controller.py",
        "fitness(candidates, index)",
        "fitness(candidates, 0)",
    ),
    Chaff(
        "1.12",
        "after an interruption the numbers start again",
        "controller.py",
        "fitness(candidates, index)",
        "fitness(candidates, index - len(history))",
    ),
    Chaff(
        "1.12",
        "the history is played again",
        "controller.py",
        "history[index] if index < len(history) else fitness(candidates, index)",
        "fitness(candidates, index)",
    ),
    Chaff(
        "1.12", "the history is forgotten", "controller.py", "range(generations)", "range(len(history), generations)"
    ),
    Chaff(
        "1.12",
        "the history is told, but not yielded",
        "controller.py",
        "yield Generation",
        "if index >= len(history):\n            yield Generation",
    ),
    Chaff(
        "1.12",
        "as many generations again as the history has",
        "controller.py",
        "range(generations)",
        "range(len(history) + generations)",
    ),
    Chaff(
        "1.12",
        "the history is yielded, but not told",
        "controller.py",
        "search.tell(",
        "if index >= len(history):\n            search.tell(",
    ),
    Chaff("1.12", "counted from 1", "controller.py", "range(generations)", "range(1, generations + 1)"),
    Chaff("1.12", "one generation too few", "controller.py", "range(generations)", "range(generations - 1)"),
    Chaff(
        "1.12",
        "one candidate at a time",
        "controller.py",
        "fitness(candidates, index)",
        "np.concatenate([fitness(candidate[None], index) for candidate in candidates])",
    ),
    Chaff(
        "1.12",
        "everything is played before anything is yielded",
        "controller.py",
        WHOLE,
        """
        done = []
        for index in range(generations):
            candidates = np.array(search.ask())
            returns = np.asarray(history[index] if index < len(history) else fitness(candidates, index), float)
            search.tell(list(candidates), list(-returns))
            done.append(Generation(index, returns, np.array(search.mean), float(search.sigma)))
        yield from done
        """,
    ),
    Chaff(
        "1.12",
        "stops where cma would",
        "controller.py",
        YIELD,
        YIELD + "\n        if search.stop():\n            break",
    ),
    Chaff(
        "1.12",
        "stops once all returns are equal",
        "controller.py",
        YIELD,
        YIELD + "\n        if np.ptp(returns) == 0:\n            break",
    ),
]

AGENT_CHAFFS = [
    # ---- 1.13 ----
    Chaff(
        "1.13",
        "C sees h after this step",
        "agent.py",
        WHOLE,
        """
        is_first = torch.as_tensor(obs["is_first"], device=self.device)
        keep = ~is_first[:, None]
        h, c = state["h"] * keep, state["c"] * keep
        image = torch.as_tensor(obs["image"], device=self.device)
        z = reparameterize(*self.vae.encoder(preprocess(image)))
        native = self.controller.act(self.controller.features(z, h, c))
        h, c = self.rnn(z[:, None], native[:, None], (h, c), is_first[:, None]).state
        native = self.controller.act(self.controller.features(z, h, c))
        return self.codec.to_row(native).cpu().numpy(), {"h": h, "c": c}
        """,
    ),
    Chaff(
        "1.13",
        "M takes in the row's action",
        "agent.py",
        "self.rnn(z[:, None], native[:, None],",
        "self.rnn(z[:, None], self.codec.to_row(native)[:, None],",
    ),
    Chaff("1.13", "the native action is returned", "agent.py", "self.codec.to_row(native).cpu()", "native.cpu()"),
    Chaff("1.13", "is_first is ignored", "agent.py", "keep = ~is_first[:, None]", "keep = 1.0"),
    Chaff("1.13", "one new episode resets all", "agent.py", "keep = ~is_first[:, None]", "keep = ~is_first.any()"),
    Chaff(
        "1.13", "reset where it is NOT the first", "agent.py", "keep = ~is_first[:, None]", "keep = is_first[:, None]"
    ),
    Chaff("1.13", "h is not reset", "agent.py", 'state["h"] * keep', 'state["h"]'),
    Chaff("1.13", "c is not reset", "agent.py", 'state["c"] * keep', 'state["c"]'),
    Chaff("1.13", "M is not told of the restart", "agent.py", "(h, c), is_first[:, None])", "(h, c))"),
    Chaff(
        "1.13",
        "the mean for a sample",
        "agent.py",
        "reparameterize(*self.vae.encoder(preprocess(image)))",
        "self.vae.encoder(preprocess(image))[0]",
    ),
    Chaff(
        "1.13",
        "a sample only to explore",
        "agent.py",
        "z = reparameterize(*self.vae.encoder(preprocess(image)))",
        "mu, logvar = self.vae.encoder(preprocess(image))\n        z = reparameterize(mu, logvar) if explore else mu",
    ),
    Chaff(
        "1.13",
        "noise on the action to explore",
        "agent.py",
        "native = self.controller.act(self.controller.features(z, h, c))",
        "native = self.controller.act(self.controller.features(z, h, c))\n"
        "        native = native + 0.3 * explore * torch.randn_like(native)",
    ),
    Chaff("1.13", "pixels up to 255", "agent.py", "preprocess(image)", "255 * preprocess(image)"),
    Chaff(
        "1.13",
        "C and M each draw a z",
        "agent.py",
        "self.controller.features(z, h, c)",
        "self.controller.features(reparameterize(*self.vae.encoder(preprocess(image))), h, c)",
    ),
    Chaff(
        "1.13",
        "C sees the mean, M the sample",
        "agent.py",
        "self.controller.features(z, h, c)",
        "self.controller.features(self.vae.encoder(preprocess(image))[0], h, c)",
    ),
    Chaff("1.13", "h and c are swapped for C", "agent.py", "features(z, h, c)", "features(z, c, h)"),
    Chaff("1.13", "h and c are swapped for M", "agent.py", "(h, c), is_first", "(c, h), is_first"),
    Chaff("1.13", "M starts from zeros", "agent.py", "(h, c), is_first", "None, is_first"),
    Chaff("1.13", "the state does not move", "agent.py", '{"h": h, "c": c}', "state"),
    Chaff("1.13", "h and c are swapped in the new state", "agent.py", '{"h": h, "c": c}', '{"h": c, "c": h}'),
    Chaff("1.13", "c does not move", "agent.py", '{"h": h, "c": c}', '{"h": h, "c": state["c"]}'),
    Chaff("1.13", "M is told of no action", "agent.py", "native[:, None], (h", "0 * native[:, None], (h"),
    Chaff("1.13", "a tensor for an array", "agent.py", ".cpu().numpy()", ".cpu()"),
    # ---- 1.14 ----
    Chaff(
        "1.14",
        "M takes in the row's action",
        "agent.py",
        "self.codec.to_native(action.to(self.device))",
        "action.to(self.device)",
    ),
    Chaff("1.14", "M is told of no action", "agent.py", "native[:, None],", "0 * native[:, None],"),
    Chaff("1.14", "M starts from zeros", "agent.py", '(state["h"], state["c"])', "None"),
    Chaff("1.14", "h and c are swapped", "agent.py", '(state["h"], state["c"])', '(state["c"], state["h"])'),
    Chaff("1.14", "M is not told of the restart", "agent.py", ", is_first[:, None])", ")"),
    Chaff("1.14", "every step is a first one", "agent.py", "torch.zeros_like(is_first)", "is_first"),
    Chaff(
        "1.14", "every next step is a first one", "agent.py", "torch.zeros_like(is_first)", "torch.ones_like(is_first)"
    ),
    Chaff(
        "1.14",
        "the mixture's mean",
        "agent.py",
        "mdn_sample(out.logpi[:, 0], out.mu[:, 0], out.logsig[:, 0], temperature)",
        "(out.logpi[:, 0].exp() * out.mu[:, 0]).sum(-1)",
    ),
    Chaff(
        "1.14",
        "the heaviest component's mean",
        "agent.py",
        "mdn_sample(out.logpi[:, 0], out.mu[:, 0], out.logsig[:, 0], temperature)",
        "out.mu[:, 0].gather(-1, out.logpi[:, 0].argmax(-1, keepdim=True)).squeeze(-1)",
    ),
    Chaff(
        "1.14", "the temperature is not handed on", "agent.py", "out.logsig[:, 0], temperature)", "out.logsig[:, 0])"
    ),
    Chaff(
        "1.14",
        "the temperature's root",
        "agent.py",
        "out.logsig[:, 0], temperature)",
        "out.logsig[:, 0], temperature**0.5)",
    ),
    Chaff(
        "1.14",
        "the temperature reaches the end",
        "agent.py",
        "(-out.done_logit[:, 0])",
        "(-out.done_logit[:, 0] / temperature)",
    ),
    Chaff(
        "1.14",
        "the temperature reaches the reward",
        "agent.py",
        "else out.reward[:, 0]",
        "else out.reward[:, 0] * temperature",
    ),
    Chaff("1.14", "the probability of the end", "agent.py", "(-out.done_logit[:, 0])", "out.done_logit[:, 0]"),
    Chaff(
        "1.14",
        "the end is rounded",
        "agent.py",
        "(-out.done_logit[:, 0]).sigmoid()",
        "(out.done_logit[:, 0] < 0).float()",
    ),
    Chaff(
        "1.14", "a logit for the probability", "agent.py", "(-out.done_logit[:, 0]).sigmoid()", "-out.done_logit[:, 0]"
    ),
    Chaff("1.14", "without a done head it is over", "agent.py", "cont = torch.ones(", "cont = torch.zeros("),
    Chaff("1.14", "without a reward head there is none", "agent.py", "reward = torch.ones(", "reward = torch.zeros("),
    Chaff(
        "1.14",
        "no reward for the step that ends it",
        "agent.py",
        "image = to_image",
        "reward = reward * cont\n        image = to_image",
    ),
    Chaff("1.14", "the picture of the old z", "agent.py", "self.vae.decoder(z)", 'self.vae.decoder(state["z"])'),
    Chaff(
        "1.14",
        "the picture of another draw",
        "agent.py",
        "self.vae.decoder(z)",
        "self.vae.decoder(mdn_sample(out.logpi[:, 0], out.mu[:, 0], out.logsig[:, 0], temperature))",
    ),
    Chaff("1.14", "the picture is in floats", "agent.py", "to_image(self.vae.decoder(z))", "self.vae.decoder(z)"),
    Chaff("1.14", "always a picture", "agent.py", " if decode else None", ""),
    Chaff("1.14", "z does not move", "agent.py", '{"z": z,', '{"z": state["z"],'),
    Chaff("1.14", "h does not move", "agent.py", '"h": h,', '"h": state["h"],'),
    Chaff("1.14", "c does not move", "agent.py", '"c": c,', '"c": state["c"],'),
    Chaff("1.14", "reward and cont are swapped", "agent.py", "image, reward, cont)", "image, cont, reward)"),
    Chaff(
        "1.14",
        "the picture goes through V again and becomes the next z",
        "agent.py",
        "h, c = out.state",
        "h, c = out.state\n"
        "        if image is not None:\n            z = reparameterize(*self.vae.encoder(preprocess(image)))",
    ),
    Chaff(
        "1.14",
        "told of the beginning only where all dreams begin (blind trial)",
        "agent.py",
        "is_first[:, None])",
        "is_first[:, None] if is_first.all() else None)",
    ),
]

CHAFFS = VAE_CHAFFS + RNN_CHAFFS + CONTROLLER_CHAFFS + AGENT_CHAFFS
