"""Wrong answers for paper 2. Many are what public reimplementations of the paper got wrong."""

from tests.chaffs import WHOLE, Chaff

# lines of exercise 2.2
DECONV1 = "*(DeconvOfOnePixel(32 * depth, 4 * depth, 5, stride=2), nn.ReLU()),"
DECONV2 = "*(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),"
DECONV3 = "*(nn.ConvTranspose2d(2 * depth, depth, 6, stride=2), nn.ReLU()),"
DECONV4 = "nn.ConvTranspose2d(depth, channels, 6, stride=2),"

NETWORKS_CHAFFS = [
    # ---- 2.1 ----
    Chaff("2.1", "padding 1 in every layer", "networks.py", "stride=2", "stride=2, padding=1"),
    Chaff(
        "2.1",
        "padding in the first layer, which leaves the last map's size as it is",
        "networks.py",
        "stride=2",
        "stride=2, padding=int(a == channels)",
    ),
    Chaff(
        "2.1",
        "kernel 3 in the first layer, which gives the same sizes",
        "networks.py",
        "nn.Conv2d(a, b, 4,",
        "nn.Conv2d(a, b, 3 if a == channels else 4,",
    ),
    Chaff(
        "2.1", "no ReLU after the last convolution", "networks.py", "for layer in pair))", "for layer in pair))[:-1]"
    ),
    Chaff(
        "2.1",
        "ReLU before every convolution, not after it",
        "networks.py",
        "(nn.Conv2d(a, b, 4, stride=2), nn.ReLU())",
        "(nn.ReLU(), nn.Conv2d(a, b, 4, stride=2))",
    ),
    Chaff(
        "2.1",
        "no ReLU after the second convolution",
        "networks.py",
        "nn.ReLU())",
        "nn.Identity() if b == 2 * depth else nn.ReLU())",
    ),
    Chaff("2.1", "ELU, as in the dense heads", "networks.py", "nn.ReLU()", "nn.ELU()"),
    Chaff("2.1", "ReLU6", "networks.py", "nn.ReLU()", "nn.ReLU6()"),
    Chaff("2.1", "leaky ReLU", "networks.py", "nn.ReLU()", "nn.LeakyReLU(0.01)"),
    Chaff(
        "2.1",
        "tanh at the end",
        "networks.py",
        "nn.ReLU())",
        "nn.Tanh() if b == 8 * depth else nn.ReLU())",
    ),
    Chaff(
        "2.1",
        "batch norm",
        "networks.py",
        "(nn.Conv2d(a, b, 4, stride=2), nn.ReLU())",
        "(nn.Conv2d(a, b, 4, stride=2), nn.BatchNorm2d(b), nn.ReLU())",
    ),
    Chaff(
        "2.1",
        "batch norm without parameters, in one layer",
        "networks.py",
        "nn.ReLU())",
        "*[nn.BatchNorm2d(b, affine=False)] * (b == 4 * depth), nn.ReLU())",
    ),
    Chaff(
        "2.1",
        "instance norm",
        "networks.py",
        "(nn.Conv2d(a, b, 4, stride=2), nn.ReLU())",
        "(nn.Conv2d(a, b, 4, stride=2), nn.InstanceNorm2d(b), nn.ReLU())",
    ),
    Chaff(
        "2.1",
        "dropout at the end",
        "networks.py",
        "nn.Sequential(*(layer for pair in layers for layer in pair))",
        "nn.Sequential(*(layer for pair in layers for layer in pair), nn.Dropout(0.1))",
    ),
    Chaff(
        "2.1",
        "a dense layer at the end",
        "networks.py",
        "nn.Sequential(*(layer for pair in layers for layer in pair))",
        "nn.Sequential(\n            *(layer for pair in layers for layer in pair), nn.Flatten(), "
        "nn.Linear(self.size, self.size)\n        )",
    ),
    Chaff(
        "2.1",
        "pixels are scaled once more",
        "networks.py",
        WHOLE,
        """
        class Scale(nn.Module):
            def forward(self, image):
                return image / 255 - 0.5

        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        layers = [(nn.Conv2d(a, b, 4, stride=2), nn.ReLU()) for a, b in pairwise(widths)]
        self.convs = nn.Sequential(Scale(), *(layer for pair in layers for layer in pair))
        """,
    ),
    Chaff("2.1", "three channels, whatever is asked", "networks.py", "[channels, depth", "[3, depth"),
    Chaff(
        "2.1",
        "depth 32, whatever is asked",
        "networks.py",
        "[channels, depth, 2 * depth, 4 * depth, 8 * depth]",
        "[channels, 32, 64, 128, 256]",
    ),
    Chaff("2.1", "no biases", "networks.py", "stride=2", "stride=2, bias=False"),
    Chaff(
        "2.1",
        "stride 1 and max pooling, which gives the same sizes",
        "networks.py",
        "(nn.Conv2d(a, b, 4, stride=2), nn.ReLU())",
        "(nn.Conv2d(a, b, 4), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))",
    ),
    # ---- 2.2 ----
    Chaff(
        "2.2",
        "ReLU after the dense layer",
        "networks.py",
        "self.deconvs = nn.Sequential(",
        "self.deconvs = nn.Sequential(\n            nn.ReLU(),",
    ),
    Chaff(
        "2.2",
        "ELU after the dense layer",
        "networks.py",
        "self.deconvs = nn.Sequential(",
        "self.deconvs = nn.Sequential(\n            nn.ELU(),",
    ),
    Chaff("2.2", "sigmoid at the end", "networks.py", DECONV4, DECONV4 + " nn.Sigmoid(),"),
    Chaff("2.2", "tanh at the end", "networks.py", DECONV4, DECONV4 + " nn.Tanh(),"),
    Chaff("2.2", "ReLU at the end", "networks.py", DECONV4, DECONV4 + " nn.ReLU(),"),
    Chaff(
        "2.2",
        "the mean is cut off where pixels end",
        "networks.py",
        DECONV4,
        DECONV4 + " nn.Hardtanh(-0.5, 0.5),",
    ),
    Chaff("2.2", "no ReLU after the first layer", "networks.py", DECONV1, DECONV1.replace("nn.ReLU()", "")),
    Chaff("2.2", "no ReLU after the second layer", "networks.py", DECONV2, DECONV2.replace("nn.ReLU()", "")),
    Chaff("2.2", "leaky ReLU", "networks.py", DECONV3, DECONV3.replace("ReLU()", "LeakyReLU(0.01)")),
    Chaff("2.2", "ELU between", "networks.py", DECONV2, DECONV2.replace("ReLU", "ELU")),
    Chaff(
        "2.2",
        "batch norm without parameters",
        "networks.py",
        DECONV3,
        DECONV3.replace("nn.ReLU()", "nn.BatchNorm2d(depth, affine=False), nn.ReLU()"),
    ),
    Chaff(
        "2.2",
        "kernel 5 everywhere",
        "networks.py",
        WHOLE,
        """
        self.dense = nn.Linear(feat, 32 * depth)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * depth, depth, 5, stride=2), nn.ReLU()),
            nn.ConvTranspose2d(depth, channels, 5, stride=2),
        )
        """,
    ),
    Chaff(
        "2.2",
        "kernel 5 and output padding, which gives the same sizes",
        "networks.py",
        DECONV3,
        DECONV3.replace("6, stride=2", "5, stride=2, output_padding=1"),
    ),
    Chaff(
        "2.2",
        "channels 8, 4, 2 times depth",
        "networks.py",
        WHOLE,
        """
        self.dense = nn.Linear(feat, 32 * depth)
        self.deconvs = nn.Sequential(
            *(nn.ConvTranspose2d(32 * depth, 8 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(8 * depth, 4 * depth, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(4 * depth, 2 * depth, 6, stride=2), nn.ReLU()),
            nn.ConvTranspose2d(2 * depth, channels, 6, stride=2),
        )
        """,
    ),
    Chaff("2.2", "a feat of 230, whatever is asked", "networks.py", "nn.Linear(feat,", "nn.Linear(230,"),
    Chaff("2.2", "three channels, whatever is asked", "networks.py", "(depth, channels,", "(depth, 3,"),
    Chaff(
        "2.2",
        "depth 32, whatever is asked",
        "networks.py",
        WHOLE,
        """
        self.dense = nn.Linear(feat, 1024)
        self.deconvs = nn.Sequential(
            *(DeconvOfOnePixel(1024, 128, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(128, 64, 5, stride=2), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 6, stride=2), nn.ReLU()),
            nn.ConvTranspose2d(32, channels, 6, stride=2),
        )
        """,
    ),
    Chaff(
        "2.2",
        "no bias in the last layer",
        "networks.py",
        DECONV4,
        DECONV4.replace("stride=2", "stride=2, bias=False"),
    ),
    Chaff("2.2", "no bias in the dense layer", "networks.py", "32 * depth)\n", "32 * depth, bias=False)\n"),
    Chaff(
        "2.2",
        "dropout in front of the convolutions",
        "networks.py",
        "self.deconvs = nn.Sequential(",
        "self.deconvs = nn.Sequential(\n            nn.Dropout(0.1),",
    ),
    # ---- 2.3 ----
    Chaff("2.3", "mean over the pixels", "networks.py", ".sum(-1)", ".mean(-1)"),
    Chaff("2.3", "no constant", "networks.py", " + HALF_LOG_2PI", ""),
    Chaff("2.3", "the constant of the whole log(2 pi)", "networks.py", "HALF_LOG_2PI", "2 * HALF_LOG_2PI"),
    Chaff(
        "2.3",
        "the constant once for an image, not for each of its elements",
        "networks.py",
        WHOLE,
        """
        nll = 0.5 * (target - mean).square()
        return (nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll) + HALF_LOG_2PI
        """,
    ),
    Chaff("2.3", "the squared error is not halved", "networks.py", "0.5 * (target", "(target"),
    Chaff("2.3", "absolute error", "networks.py", ".square()", ".abs()"),
    Chaff(
        "2.3",
        "the log likelihood, not its negative",
        "networks.py",
        "0.5 * (target - mean).square() + HALF_LOG_2PI",
        "-0.5 * (target - mean).square() - HALF_LOG_2PI",
    ),
    Chaff(
        "2.3",
        "the constant's sign",
        "networks.py",
        "+ HALF_LOG_2PI",
        "- HALF_LOG_2PI",
    ),
    Chaff(
        "2.3",
        "a sum over no axes, which torch takes for all",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll",
        "nll.sum(tuple(range(-event_dims, 0)))",
    ),
    Chaff(
        "2.3",
        "flatten(-0) is flatten(0)",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll",
        "nll.flatten(-event_dims).sum(-1)",
    ),
    Chaff(
        "2.3",
        "the first axes are summed",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll",
        "nll.sum(tuple(range(event_dims))) if event_dims else nll",
    ),
    Chaff(
        "2.3",
        "all but the first axis are summed",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims)",
        "nll.flatten(1)",
    ),
    Chaff(
        "2.3",
        "all but the first two axes are summed",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims)",
        "nll.flatten(2)",
    ),
    Chaff("2.3", "three axes, whatever is asked", "networks.py", "nll.ndim - event_dims", "max(0, nll.ndim - 3)"),
    Chaff("2.3", "only images are summed", "networks.py", "if event_dims else", "if event_dims == 3 else"),
    Chaff(
        "2.3",
        "the mean over the batch",
        "networks.py",
        "nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll",
        "(nll.flatten(nll.ndim - event_dims).sum(-1) if event_dims else nll).mean()",
    ),
    Chaff("2.3", "the mean carries no gradient", "networks.py", "target - mean", "target - mean.detach()"),
    Chaff("2.3", "the caller's target is changed", "networks.py", "(target - mean)", "target.sub_(mean)"),
    Chaff(
        "2.3",
        "the error is bounded, as in a Huber loss",
        "networks.py",
        "- mean).square()",
        "- mean).clamp(-1, 1).square()",
    ),
    # ---- 2.4 ----
    Chaff("2.4", "no change of variables", "networks.py", "(normal - log_slope(u))", "normal"),
    Chaff("2.4", "the change of variables' sign", "networks.py", "normal - log_slope(u)", "normal + log_slope(u)"),
    Chaff("2.4", "the slope at the action, not at u", "networks.py", "log_slope(u)", "log_slope(action)"),
    Chaff(
        "2.4",
        "no atanh",
        "networks.py",
        "torch.atanh(action.clamp(-0.99999994, 0.99999994))",
        "action.clamp(-0.99999994, 0.99999994)",
    ),
    Chaff("2.4", "no clamp", "networks.py", ".clamp(-0.99999994, 0.99999994)", ""),
    Chaff(
        "2.4", "clamped above, but not below", "networks.py", "clamp(-0.99999994, 0.99999994)", "clamp(max=0.99999994)"
    ),
    Chaff(
        "2.4",
        "clamped to what is 1 in float32",
        "networks.py",
        "clamp(-0.99999994, 0.99999994)",
        "clamp(-0.99999999, 0.99999999)",
    ),
    Chaff("2.4", "clamped to 0.999", "networks.py", "clamp(-0.99999994, 0.99999994)", "clamp(-0.999, 0.999)"),
    Chaff("2.4", "clamped to 1 - 1e-6", "networks.py", "clamp(-0.99999994, 0.99999994)", "clamp(1e-6 - 1, 1 - 1e-6)"),
    Chaff(
        "2.4",
        "u is clamped",
        "networks.py",
        "torch.atanh(action.clamp(-0.99999994, 0.99999994))",
        "torch.atanh(action).clamp(-5, 5)",
    ),
    Chaff(
        "2.4",
        "log(1 - a^2 + 1e-6), as in implementations of SAC",
        "networks.py",
        "log_slope(u)",
        "(1 - action.square() + 1e-6).log()",
    ),
    Chaff(
        "2.4",
        "infinite densities are set to 0",
        "networks.py",
        WHOLE,
        """
        u = torch.atanh(action)
        normal = -0.5 * ((u - self.mean) / self.std).square() - self.std.log() - HALF_LOG_2PI
        return (normal - log_slope(u)).nan_to_num(0, 0, 0).sum(-1)
        """,
    ),
    Chaff("2.4", "mean over the actions", "networks.py", ".sum(-1)", ".mean(-1)"),
    Chaff("2.4", "not summed", "networks.py", ".sum(-1)", ""),
    Chaff("2.4", "summed over the samples", "networks.py", ".sum(-1)", ".sum(0)"),
    Chaff("2.4", "summed over the second axis", "networks.py", ".sum(-1)", ".sum(1)"),
    Chaff("2.4", "summed over everything", "networks.py", ".sum(-1)", ".sum()"),
    Chaff("2.4", "no log std", "networks.py", " - self.std.log()", ""),
    Chaff("2.4", "the log std's sign", "networks.py", "- self.std.log()", "+ self.std.log()"),
    Chaff("2.4", "no constant", "networks.py", " - HALF_LOG_2PI", ""),
    Chaff(
        "2.4",
        "the std for a variance",
        "networks.py",
        "((u - self.mean) / self.std).square()",
        "(u - self.mean).square() / self.std",
    ),
    Chaff("2.4", "the exponent is not halved", "networks.py", "-0.5 * ((u", "-((u"),
    Chaff("2.4", "the first std for all", "networks.py", "self.std.log()", "math.log(self.INIT_STD)"),
    Chaff("2.4", "no gradient for the mean", "networks.py", "u - self.mean", "u - self.mean.detach()"),
    Chaff("2.4", "the caller's action is changed", "networks.py", "action.clamp(", "action.clamp_("),
]

# a line of exercise 2.5, and the wrong ways to draw an offset
OFFSET = 'offset = rng.integers(chosen["length"] - length + 1)'
CHOSEN = "chosen = long_enough[rng.integers(len(long_enough), size=batch)]"

BUFFER_CHAFFS = [
    # ---- 2.5 ----
    Chaff(
        "2.5",
        "the upper bound is exclusive, as in the official code",
        "buffer.py",
        OFFSET,
        'offset = rng.integers(np.maximum(1, chosen["length"] - length))',
    ),
    Chaff("2.5", "chunks may begin one row too late", "buffer.py", "- length + 1", "- length + 2"),
    Chaff("2.5", "chunks may begin at any row", "buffer.py", OFFSET, 'offset = rng.integers(chosen["length"])'),
    Chaff("2.5", "always the episode's first rows", "buffer.py", OFFSET, "offset = 0"),
    Chaff("2.5", "always the episode's last rows", "buffer.py", OFFSET, 'offset = chosen["length"] - length'),
    Chaff(
        "2.5",
        "one start for the whole batch",
        "buffer.py",
        OFFSET,
        'offset = rng.integers(chosen["length"].min() - length + 1)',
    ),
    Chaff(
        "2.5",
        "starts as far as the shortest episode goes",
        "buffer.py",
        OFFSET,
        'offset = rng.integers(chosen["length"].min() - length + 1, size=batch)',
    ),
    Chaff(
        "2.5",
        "one fraction of the episode for the whole batch",
        "buffer.py",
        OFFSET,
        'offset = (rng.random() * (chosen["length"] - length + 1)).astype(int)',
    ),
    Chaff(
        "2.5",
        "rounded to the nearest, so that first and last are half as likely",
        "buffer.py",
        OFFSET,
        'offset = np.round(rng.random(batch) * (chosen["length"] - length)).astype(int)',
    ),
    Chaff(
        "2.5",
        "chunks side by side",
        "buffer.py",
        OFFSET,
        'offset = length * rng.integers(chosen["length"] // length)',
    ),
    Chaff(
        "2.5",
        "one random number for both draws",
        "buffer.py",
        WHOLE,
        """
        random = rng.random(batch)
        chosen = long_enough[(random * len(long_enough)).astype(int)]
        offset = (random * (chosen["length"] - length + 1)).astype(int)
        return np.stack([chosen["stream"], chosen["start"] + offset], 1)
        """,
    ),
    Chaff(
        "2.5",
        "uniform over all chunks: long episodes more often",
        "buffer.py",
        CHOSEN,
        'windows = long_enough["length"] - length + 1\n'
        "    chosen = long_enough[rng.choice(len(long_enough), size=batch, p=windows / windows.sum())]",
    ),
    Chaff(
        "2.5",
        "in proportion to the episodes' length",
        "buffer.py",
        CHOSEN,
        'weight = long_enough["length"] / long_enough["length"].sum()\n'
        "    chosen = long_enough[rng.choice(len(long_enough), size=batch, p=weight)]",
    ),
    Chaff("2.5", "one episode for the whole batch", "buffer.py", "size=batch)", "size=1).repeat(batch)"),
    Chaff("2.5", "the newest episode alone", "buffer.py", CHOSEN, "chosen = long_enough[[-1] * batch]"),
    Chaff(
        "2.5",
        "in turn, not by chance",
        "buffer.py",
        CHOSEN,
        "chosen = long_enough[np.arange(batch) % len(long_enough)]",
    ),
    Chaff(
        "2.5",
        "a shuffled pack of episodes: none twice before all were there",
        "buffer.py",
        CHOSEN,
        "chosen = long_enough[np.resize(rng.permutation(len(long_enough)), batch)]",
    ),
    Chaff(
        "2.5",
        "episodes of just this length are left out",
        "buffer.py",
        "chosen = long_enough[",
        'long_enough = long_enough[long_enough["length"] > length]\n    chosen = long_enough[',
    ),
    Chaff(
        "2.5",
        "episodes that still run are left out",
        "buffer.py",
        "chosen = long_enough[",
        'long_enough = long_enough[long_enough["finished"]]\n    chosen = long_enough[',
    ),
    Chaff(
        "2.5",
        "short episodes are not left out",
        "buffer.py",
        WHOLE,
        """
        chosen = episodes[rng.integers(len(episodes), size=batch)]
        offset = rng.integers(np.maximum(1, chosen["length"] - length + 1))
        return np.stack([chosen["stream"], chosen["start"] + offset], 1)
        """,
    ),
    Chaff("2.5", "the episode's own start is not added", "buffer.py", 'chosen["start"] + offset', "offset"),
    Chaff(
        "2.5",
        "the episode's number for its stream",
        "buffer.py",
        WHOLE,
        """
        index = rng.integers(len(long_enough), size=batch)
        chosen = long_enough[index]
        offset = rng.integers(chosen["length"] - length + 1)
        return np.stack([index, chosen["start"] + offset], 1)
        """,
    ),
    Chaff(
        "2.5",
        "stream and t are swapped",
        "buffer.py",
        '[chosen["stream"], chosen["start"] + offset]',
        '[chosen["start"] + offset, chosen["stream"]]',
    ),
    Chaff("2.5", "chunks along the second axis", "buffer.py", "offset], 1)", "offset], 0)"),
    Chaff(
        "2.5",
        "numpy's global generator",
        "buffer.py",
        OFFSET,
        'offset = np.random.randint(chosen["length"] - length + 1)',
    ),
]

RSSM_CHAFFS = [
    # ---- 2.6 ----
    Chaff("2.6", "exp for softplus", "rssm.py", "F.softplus(std)", "std.exp()"),
    Chaff("2.6", "ReLU for softplus", "rssm.py", "F.softplus(std)", "F.relu(std)"),
    Chaff("2.6", "DreamerV2's 2 sigmoid(raw / 2)", "rssm.py", "F.softplus(std)", "2 * torch.sigmoid(std / 2)"),
    Chaff("2.6", "min_std inside of softplus", "rssm.py", "F.softplus(std) + min_std", "F.softplus(std + min_std)"),
    Chaff("2.6", "no min_std", "rssm.py", " + min_std", ""),
    Chaff("2.6", "min_std is ignored", "rssm.py", "+ min_std", "+ 0.1"),
    Chaff(
        "2.6",
        "min_std is a floor, not added",
        "rssm.py",
        "F.softplus(std) + min_std",
        "F.softplus(std).clamp(min=min_std)",
    ),
    Chaff("2.6", "the halves are swapped", "rssm.py", "mean, std = raw", "std, mean = raw"),
    Chaff("2.6", "mean and std alternate", "rssm.py", "raw.chunk(2, -1)", "raw[..., ::2], raw[..., 1::2]"),
    Chaff("2.6", "along the second axis", "rssm.py", "chunk(2, -1)", "chunk(2, 1)"),
    Chaff("2.6", "along the first axis", "rssm.py", "chunk(2, -1)", "chunk(2, 0)"),
    Chaff("2.6", "30 dimensions, whatever there are", "rssm.py", "raw.chunk(2, -1)", "raw[..., :30], raw[..., 30:]"),
    Chaff(
        "2.6", "a variance for the std", "rssm.py", "F.softplus(std) + min_std", "(F.softplus(std) + min_std).sqrt()"
    ),
    Chaff("2.6", "the noise times the variance", "rssm.py", "std * noise", "std.square() * noise"),
    Chaff("2.6", "the noise is not scaled", "rssm.py", "std * noise", "noise"),
    Chaff("2.6", "no noise", "rssm.py", "mean + std * noise, mean", "mean, mean"),
    Chaff("2.6", "noise of its own", "rssm.py", "std * noise", "std * torch.randn_like(mean)"),
    Chaff("2.6", "the first row's noise for all", "rssm.py", "std * noise", "std * noise[:1]"),
    Chaff(
        "2.6",
        "sample() instead of rsample()",
        "rssm.py",
        "return mean + std * noise, mean",
        "return (mean + std * noise).detach(), mean",
    ),
    Chaff("2.6", "no gradient for the std", "rssm.py", "std * noise", "std.detach() * noise"),
    Chaff("2.6", "no gradient for the mean", "rssm.py", "mean + std * noise", "mean.detach() + std * noise"),
    Chaff("2.6", "the sample last", "rssm.py", "mean + std * noise, mean, std", "mean, std, mean + std * noise"),
    Chaff("2.6", "tanh on the mean", "rssm.py", "mean + std * noise, mean", "mean.tanh() + std * noise, mean.tanh()"),
    Chaff("2.6", "the sample in the mean's place in memory", "rssm.py", "mean + std * noise", "mean.add_(std * noise)"),
    Chaff("2.6", "the caller's noise is changed", "rssm.py", "mean + std * noise", "mean + noise.mul_(std)"),
    # ---- 2.7 ----
    Chaff("2.7", "the action is left out", "rssm.py", "prev_action]", "0 * prev_action]"),
    Chaff("2.7", "the action first", "rssm.py", "[prev.stoch, prev_action]", "[prev_action, prev.stoch]"),
    Chaff("2.7", "the mean for the sample", "rssm.py", "prev.stoch", "prev.mean"),
    Chaff("2.7", "no stoch", "rssm.py", "prev.stoch", "0 * prev.stoch"),
    Chaff(
        "2.7",
        "no ELU after img1",
        "rssm.py",
        "F.elu(self.img1(torch.cat([prev.stoch, prev_action], -1)))",
        "self.img1(torch.cat([prev.stoch, prev_action], -1))",
    ),
    Chaff("2.7", "no ELU after img2", "rssm.py", "F.elu(self.img2(deter))", "self.img2(deter)"),
    Chaff(
        "2.7",
        "ELU after img3",
        "rssm.py",
        "self.img3(F.elu(self.img2(deter)))",
        "F.elu(self.img3(F.elu(self.img2(deter))))",
    ),
    Chaff("2.7", "ReLU after img1", "rssm.py", "F.elu(self.img1", "F.relu(self.img1"),
    Chaff("2.7", "tanh after img2", "rssm.py", "F.elu(self.img2", "torch.tanh(self.img2"),
    Chaff(
        "2.7",
        "the GRU's input and state are swapped",
        "rssm.py",
        "self.cell(x, prev.deter)",
        "self.cell(prev.deter, x)",
    ),
    Chaff("2.7", "the GRU begins from zeros", "rssm.py", "self.cell(x, prev.deter)", "self.cell(x)"),
    Chaff(
        "2.7",
        "a residual around the GRU",
        "rssm.py",
        "self.cell(x, prev.deter)",
        "prev.deter + self.cell(x, prev.deter)",
    ),
    Chaff("2.7", "the GRU runs twice", "rssm.py", "self.cell(x, prev.deter)", "self.cell(x, self.cell(x, prev.deter))"),
    Chaff("2.7", "the prior of the previous deter", "rssm.py", "self.img2(deter)", "self.img2(prev.deter)"),
    Chaff("2.7", "deter does not move", "rssm.py", "State(deter,", "State(prev.deter,"),
    Chaff("2.7", "the posterior's output layer", "rssm.py", "self.img3(", "self.obs2("),
    Chaff("2.7", "the noise is ignored", "rssm.py", ", noise))", ", torch.randn_like(noise)))"),
    Chaff("2.7", "no noise", "rssm.py", ", noise))", ", torch.zeros_like(noise)))"),
    Chaff(
        "2.7",
        "one noise vector for the whole batch, as in the official code",
        "rssm.py",
        ", noise))",
        ", noise[:1].expand_as(noise)))",
    ),
    Chaff(
        "2.7",
        "one number as noise for all of a row's stoch",
        "rssm.py",
        ", noise))",
        ", noise[:, :1].expand_as(noise)))",
    ),
    Chaff("2.7", "another min_std", "rssm.py", ", noise))", ", noise, 1e-4))"),
    Chaff("2.7", "no gradient for the action", "rssm.py", "prev_action]", "prev_action.detach()]"),
    Chaff("2.7", "no gradient for the previous stoch", "rssm.py", "[prev.stoch,", "[prev.stoch.detach(),"),
    Chaff(
        "2.7",
        "no gradient for the previous deter",
        "rssm.py",
        "self.cell(x, prev.deter)",
        "self.cell(x, prev.deter.detach())",
    ),
    Chaff("2.7", "the prior teaches the GRU nothing", "rssm.py", "self.img2(deter)", "self.img2(deter.detach())"),
    # ---- 2.8 ----
    Chaff(
        "2.8",
        "prior and posterior are swapped",
        "rssm.py",
        "return State(prior.deter, *gaussian(raw, noise)), prior",
        "return prior, State(prior.deter, *gaussian(raw, noise))",
    ),
    Chaff(
        "2.8",
        "twice the posterior",
        "rssm.py",
        "return State(prior.deter, *gaussian(raw, noise)), prior",
        "return (State(prior.deter, *gaussian(raw, noise)),) * 2",
    ),
    Chaff("2.8", "the posterior of embed alone", "rssm.py", "[prior.deter, embed]", "[0 * prior.deter, embed]"),
    Chaff("2.8", "the posterior does not see embed", "rssm.py", "embed]", "0 * embed]"),
    Chaff("2.8", "embed first", "rssm.py", "[prior.deter, embed]", "[embed, prior.deter]"),
    Chaff("2.8", "the posterior of the previous deter", "rssm.py", "[prior.deter, embed]", "[prev.deter, embed]"),
    Chaff("2.8", "the previous deter in the posterior", "rssm.py", "State(prior.deter,", "State(prev.deter,"),
    Chaff(
        "2.8",
        "the posterior has a GRU step of its own, from the prior's sample on",
        "rssm.py",
        WHOLE,
        """
        prior = self.img_step(prev, prev_action, noise)
        deter = self.cell(F.elu(self.img1(torch.cat([prior.stoch, prev_action], -1))), prior.deter)
        raw = self.obs2(F.elu(self.obs1(torch.cat([deter, embed], -1))))
        return State(deter, *gaussian(raw, noise)), prior
        """,
    ),
    Chaff(
        "2.8",
        "the posterior is added to the prior's mean",
        "rssm.py",
        WHOLE,
        """
        prior = self.img_step(prev, prev_action, noise)
        raw = self.obs2(F.elu(self.obs1(torch.cat([prior.deter, embed], -1))))
        _, mean, std = gaussian(raw, noise)
        mean = mean + prior.mean
        return State(prior.deter, mean + std * noise, mean, std), prior
        """,
    ),
    Chaff(
        "2.8",
        "the posterior begins from the prior's sample",
        "rssm.py",
        WHOLE,
        """
        prior = self.img_step(prev, prev_action, noise)
        raw = self.obs2(F.elu(self.obs1(torch.cat([prior.deter, embed], -1))))
        stoch, mean, std = gaussian(raw, noise)
        return State(prior.deter, prior.stoch + std * noise, mean, std), prior
        """,
    ),
    Chaff(
        "2.8",
        "the prior's sample in the posterior",
        "rssm.py",
        "*gaussian(raw, noise)",
        "prior.stoch, *gaussian(raw, noise)[1:]",
    ),
    Chaff(
        "2.8",
        "the posterior's mean for its sample",
        "rssm.py",
        "*gaussian(raw, noise)",
        "*(gaussian(raw, noise)[i] for i in (1, 1, 2))",
    ),
    Chaff(
        "2.8",
        "no ELU after obs1",
        "rssm.py",
        "F.elu(self.obs1(torch.cat([prior.deter, embed], -1)))",
        "self.obs1(torch.cat([prior.deter, embed], -1))",
    ),
    Chaff("2.8", "ReLU after obs1", "rssm.py", "F.elu", "F.relu"),
    Chaff("2.8", "the prior's output layer", "rssm.py", "self.obs2", "self.img3"),
    Chaff(
        "2.8",
        "the posterior draws noise of its own",
        "rssm.py",
        "gaussian(raw, noise)",
        "gaussian(raw, torch.randn_like(noise))",
    ),
    Chaff(
        "2.8",
        "the prior draws noise of its own",
        "rssm.py",
        "self.img_step(prev, prev_action, noise)",
        "self.img_step(prev, prev_action)",
    ),
    Chaff(
        "2.8",
        "one noise vector for the whole batch",
        "rssm.py",
        "gaussian(raw, noise)",
        "gaussian(raw, noise[:1].expand_as(noise))",
    ),
    Chaff("2.8", "another min_std", "rssm.py", "gaussian(raw, noise)", "gaussian(raw, noise, 1e-4)"),
    Chaff(
        "2.8",
        "the action is not handed on",
        "rssm.py",
        "self.img_step(prev, prev_action, noise)",
        "self.img_step(prev, 0 * prev_action, noise)",
    ),
    Chaff("2.8", "no gradient for embed: the encoder learns nothing", "rssm.py", "embed]", "embed.detach()]"),
    Chaff(
        "2.8",
        "the posterior teaches the GRU nothing",
        "rssm.py",
        "[prior.deter, embed]",
        "[prior.deter.detach(), embed]",
    ),
    Chaff(
        "2.8",
        "no gradient through the prior",
        "rssm.py",
        "prior = self.img_step(prev, prev_action, noise)",
        "with torch.no_grad():\n            prior = self.img_step(prev, prev_action, noise)",
    ),
    # ---- 2.9 ----
    Chaff(
        "2.9",
        "the prior is carried on",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            post, state = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            posts.append(post)
            priors.append(state)
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "the posterior's mean is carried on",
        "rssm.py",
        "posts.append((stoch, mean, std))",
        "posts.append((stoch, mean, std))\n            stoch = mean",
    ),
    Chaff(
        "2.9",
        "every step begins from the initial state",
        "rssm.py",
        "posts.append((stoch, mean, std))",
        "posts.append((stoch, mean, std))\n            deter, stoch = state.deter, state.stoch",
    ),
    Chaff(
        "2.9",
        "without looking: the prior's sample in the loop",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            state = self.img_step(state, prev_action[:, t], noise[:, t])
            raw = self.obs2(F.elu(self.obs1(torch.cat([state.deter, embed[:, t]], -1))))
            posts.append(State(state.deter, *gaussian(raw, noise[:, t])))
            priors.append(state)
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "time first in what is returned",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        return tuple(State(*(torch.stack(x) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "along the batch",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(embed.shape[1]), [], []
        for t in range(len(embed)):
            state, prior = self.obs_step(state, prev_action[t], embed[t], noise[t])
            posts.append(state)
            priors.append(prior)
        return tuple(State(*(torch.stack(x) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "goes on where the last call ended",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = getattr(self, "last", None) or self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        self.last = State(*(x.detach() for x in state))
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "the states before the rows",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            posts.append(state)
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            priors.append(prior)
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "one step too few",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n"
        "        embed, prev_action, noise = (x[:, 1:] for x in (embed, prev_action, noise))",
    ),
    Chaff(
        "2.9",
        "the action that follows the row",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        prev_action = F.pad(prev_action[:, 1:], (0, 0, 0, 1))",
    ),
    Chaff(
        "2.9",
        "actions one row late",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        prev_action = F.pad(prev_action[:, :-1], (0, 0, 1, 0))",
    ),
    Chaff(
        "2.9",
        "the first row's action is set to zero",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        prev_action = F.pad(prev_action[:, 1:], (0, 0, 1, 0))",
    ),
    Chaff(
        "2.9",
        "the caller's actions are changed",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        prev_action[:, 0] = 0",
    ),
    Chaff(
        "2.9",
        "no gradient through the carried sample",
        "rssm.py",
        "posts.append((stoch, mean, std))",
        "posts.append((stoch, mean, std))\n            stoch = stoch.detach()",
    ),
    Chaff(
        "2.9",
        "no gradient through the carried deter",
        "rssm.py",
        "deters.append(deter)",
        "deters.append(deter)\n            deter = deter.detach()",
    ),
    Chaff("2.9", "the priors teach the GRU nothing", "rssm.py", "self.img2(deter)", "self.img2(deter.detach())"),
    Chaff("2.9", "the noise is ignored", "rssm.py", "noise.unbind(1)", "torch.randn_like(noise).unbind(1)"),
    Chaff(
        "2.9",
        "the same noise at every step",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        noise = noise[:, :1].expand_as(noise)",
    ),
    Chaff(
        "2.9",
        "the same noise for every sequence",
        "rssm.py",
        "state = self.initial(len(embed))",
        "state = self.initial(len(embed))\n        noise = noise[:1].expand_as(noise)",
    ),
    Chaff(
        "2.9",
        "the priors' samples are drawn anew",
        "rssm.py",
        "(deter))), noise))",
        "(deter))), torch.randn_like(noise)))",
    ),
    Chaff(
        "2.9",
        "no ELU after img1",
        "rssm.py",
        "F.elu(F.linear(stoch, stoch_weight) + action)",
        "F.linear(stoch, stoch_weight) + action",
    ),
    Chaff(
        "2.9",
        "ELU on img1's two shares, not on their sum",
        "rssm.py",
        "F.elu(F.linear(stoch, stoch_weight) + action)",
        "F.elu(F.linear(stoch, stoch_weight)) + F.elu(action)",
    ),
    Chaff(
        "2.9",
        "img1's bias twice",
        "rssm.py",
        "F.linear(stoch, stoch_weight)",
        "F.linear(stoch, stoch_weight, self.img1.bias)",
    ),
    Chaff(
        "2.9",
        "a new episode begins where the action is zero",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(len(embed)), [], []
        for t in range(embed.shape[1]):
            keep = (prev_action[:, t] != 0).any(-1, keepdim=True)
            state = State(*(x * keep for x in state))
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        return tuple(State(*(torch.stack(x, 1) for x in zip(*states))) for states in (posts, priors))
        """,
    ),
    Chaff(
        "2.9",
        "priors and posteriors are swapped",
        "rssm.py",
        "return post, State(deter, *gaussian(self.img3(F.elu(self.img2(deter))), noise))",
        "return State(deter, *gaussian(self.img3(F.elu(self.img2(deter))), noise)), post",
    ),
    # ---- 2.10 ----
    Chaff(
        "2.10",
        "KL(prior || posterior)",
        "rssm.py",
        "loss, kl = divergence(post, prior)",
        "post, prior = prior, post\n    loss, kl = divergence(post, prior)",
    ),
    Chaff("2.10", "mean over the dimensions", "rssm.py", ".sum(-1)", ".mean(-1)"),
    Chaff(
        "2.10",
        "sum over batch and time",
        "rssm.py",
        "torch.maximum(kl.mean(), free), kl.mean()",
        "torch.maximum(kl.sum(), free), kl.sum()",
    ),
    Chaff(
        "2.10",
        "the floor on every sequence's mean",
        "rssm.py",
        "torch.maximum(kl.mean(), free)",
        "torch.maximum(kl.mean(1), free).mean()",
    ),
    Chaff("2.10", "always the max first", "rssm.py", "if free_before_mean else", "if True else"),
    Chaff("2.10", "free_before_mean is ignored", "rssm.py", "if free_before_mean else", "if False else"),
    Chaff(
        "2.10",
        "free_before_mean after the mean over the batch",
        "rssm.py",
        "torch.maximum(kl, free).mean()",
        "torch.maximum(kl.mean(0), free).mean()",
    ),
    Chaff(
        "2.10",
        "the floor on every dimension",
        "rssm.py",
        WHOLE,
        """
        free = torch.full((), free_nats, device=post.mean.device)

        def divergence(post: State, prior: State) -> tuple[Tensor, Tensor]:
            ratio, distance = post.std / prior.std, (post.mean - prior.mean) / prior.std
            kl = 0.5 * (ratio.square() + distance.square() - 1) - ratio.log()
            least = torch.maximum(kl, free / kl.shape[-1]) if free_before_mean else torch.maximum(kl.mean((0, 1)), free)
            return least.sum(-1).mean(), kl.sum(-1).mean()

        loss, kl = divergence(post, prior)
        if balance is not None:
            stopped = [State(*(x.detach() for x in state)) for state in (post, prior)]
            loss = balance * divergence(stopped[0], prior)[0] + (1 - balance) * divergence(post, stopped[1])[0]
        return loss, kl
        """,
    ),
    Chaff("2.10", "3 free nats, whatever is asked", "rssm.py", "torch.full((), free_nats,", "torch.full((), 3.0,"),
    Chaff(
        "2.10",
        "free nats for each dimension",
        "rssm.py",
        "torch.full((), free_nats,",
        "torch.full((), free_nats * post.mean.shape[-1],",
    ),
    Chaff(
        "2.10", "a ceiling for a floor", "rssm.py", "torch.maximum(kl.mean(), free)", "torch.minimum(kl.mean(), free)"
    ),
    Chaff("2.10", "max(0, KL - free)", "rssm.py", "torch.maximum(kl.mean(), free)", "(kl.mean() - free).clamp(min=0)"),
    Chaff(
        "2.10",
        "the floor lets gradient through",
        "rssm.py",
        "torch.maximum(kl.mean(), free)",
        "kl.mean() + (free - kl.mean()).clamp(min=0).detach()",
    ),
    Chaff(
        "2.10",
        "a max of numbers, which cuts the gradient",
        "rssm.py",
        "torch.maximum(kl.mean(), free)",
        "torch.tensor(max(kl.mean().item(), free_nats))",
    ),
    Chaff(
        "2.10",
        "the KL that is returned is clipped",
        "rssm.py",
        "torch.maximum(kl.mean(), free), kl.mean()",
        "torch.maximum(kl.mean(), free), torch.maximum(kl.mean(), free)",
    ),
    Chaff(
        "2.10",
        "the stds for variances",
        "rssm.py",
        "ratio, distance = post.std / prior.std, (post.mean - prior.mean) / prior.std",
        "ratio, distance = (post.std / prior.std).sqrt(), (post.mean - prior.mean) / prior.std.sqrt()",
    ),
    Chaff("2.10", "no log", "rssm.py", " - ratio.log()", ""),
    Chaff(
        "2.10",
        "one sample's log ratio for the KL",
        "rssm.py",
        "kl = (0.5 * (ratio.square() + distance.square() - 1) - ratio.log()).sum(-1)",
        "normal = lambda state: torch.distributions.Normal(state.mean, state.std)\n"
        "        kl = (normal(post).log_prob(post.stoch) - normal(prior).log_prob(post.stoch)).sum(-1)",
    ),
    Chaff(
        "2.10",
        "no gradient for the prior",
        "rssm.py",
        "loss, kl = divergence(post, prior)",
        "loss, kl = divergence(post, State(*(x.detach() for x in prior)))",
    ),
    Chaff(
        "2.10",
        "no gradient for the posterior",
        "rssm.py",
        "loss, kl = divergence(post, prior)",
        "loss, kl = divergence(State(*(x.detach() for x in post)), prior)",
    ),
    Chaff("2.10", "balance is ignored", "rssm.py", "if balance is not None:", "if False:"),
    Chaff("2.10", "a balance of 0 is taken for none", "rssm.py", "if balance is not None:", "if balance:"),
    Chaff(
        "2.10",
        "balance is the posterior's share",
        "rssm.py",
        "balance * divergence(stopped[0], prior)[0] + (1 - balance) * divergence(post, stopped[1])[0]",
        "(1 - balance) * divergence(stopped[0], prior)[0] + balance * divergence(post, stopped[1])[0]",
    ),
    Chaff("2.10", "the shares do not add up to 1", "rssm.py", "(1 - balance) * divergence", "divergence"),
    Chaff(
        "2.10",
        "with balance, the max is always after the mean",
        "rssm.py",
        "stopped = [",
        "free_before_mean = False\n        stopped = [",
    ),
]

# a line of exercise 2.11
START = "state = State(*(x.detach() for x in start))"

ACTOR_CRITIC_CHAFFS = [
    # ---- 2.11 ----
    Chaff(
        "2.11",
        "the start is among the feats",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        feats, actions = [], []
        for _ in range(horizon):
            action = actor(state.feat.detach()).rsample()
            feats.append(state.feat)
            actions.append(action)
            state = rssm.img_step(state, action)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "2.11",
        "the start in front of all the others",
        "actor_critic.py",
        "feats, actions = [], []",
        "feats, actions = [state.feat], []",
    ),
    Chaff("2.11", "gradient through what the actor sees", "actor_critic.py", "state.feat.detach()", "state.feat"),
    Chaff("2.11", "gradient into the start", "actor_critic.py", START, "state = start"),
    Chaff(
        "2.11",
        "gradient into the start's stoch",
        "actor_critic.py",
        START,
        "state = start._replace(deter=start.deter.detach())",
    ),
    Chaff(
        "2.11",
        "gradient into the start's deter",
        "actor_critic.py",
        START,
        "state = start._replace(stoch=start.stoch.detach())",
    ),
    Chaff("2.11", "sample() instead of rsample()", "actor_critic.py", ".rsample()", ".rsample().detach()"),
    Chaff("2.11", "the mode", "actor_critic.py", ".rsample()", ".mode()"),
    Chaff(
        "2.11",
        "no_grad around the model",
        "actor_critic.py",
        "state = rssm.img_step(state, action)",
        "with torch.no_grad():\n            state = rssm.img_step(state, action)",
    ),
    Chaff(
        "2.11",
        "the model does not see the action's gradient, as with REINFORCE",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action.detach())",
    ),
    Chaff(
        "2.11",
        "every state is detached",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action)\n        state = State(*(x.detach() for x in state))",
    ),
    Chaff(
        "2.11",
        "gradient through deter alone",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action)\n        state = state._replace(stoch=state.stoch.detach())",
    ),
    Chaff(
        "2.11",
        "the feats are detached",
        "actor_critic.py",
        "feats.append(state.feat)",
        "feats.append(state.feat.detach())",
    ),
    Chaff(
        "2.11",
        "time first",
        "actor_critic.py",
        "torch.stack(feats, 1), torch.stack(actions, 1)",
        "torch.stack(feats), torch.stack(actions)",
    ),
    Chaff("2.11", "15 steps, whatever is asked", "actor_critic.py", "range(horizon)", "range(15)"),
    Chaff("2.11", "one step too few", "actor_critic.py", "range(horizon)", "range(horizon - 1)"),
    Chaff(
        "2.11",
        "the start's action at every step",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        action = actor(state.feat.detach()).rsample()
        feats, actions = [], []
        for _ in range(horizon):
            state = rssm.img_step(state, action)
            feats.append(state.feat)
            actions.append(action)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "2.11",
        "the actor always sees the start",
        "actor_critic.py",
        "actor(state.feat.detach())",
        "actor(start.feat.detach())",
    ),
    Chaff(
        "2.11",
        "every step from the start",
        "actor_critic.py",
        "rssm.img_step(state, action)",
        "rssm.img_step(start, action)",
    ),
    Chaff(
        "2.11",
        "the action chosen in the state that it is paired with",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(actor(state.feat.detach()).rsample())",
    ),
    Chaff(
        "2.11",
        "exploration noise in the dream",
        "actor_critic.py",
        ".rsample()",
        ".rsample()\n        action = (action + 0.3 * torch.randn_like(action)).clamp(-1, 1)",
    ),
    Chaff(
        "2.11",
        "the prior's mean: a dream without chance",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action, torch.zeros_like(state.stoch))",
    ),
    Chaff(
        "2.11",
        "the prior's mean in feat",
        "actor_critic.py",
        "feats.append(state.feat)",
        "feats.append(torch.cat([state.deter, state.mean], -1))",
    ),
    Chaff(
        "2.11",
        "the same noise at every step",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*(x.detach() for x in start))
        noise = torch.randn_like(state.stoch)
        feats, actions = [], []
        for _ in range(horizon):
            action = actor(state.feat.detach()).rsample()
            state = rssm.img_step(state, action, noise)
            feats.append(state.feat)
            actions.append(action)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "2.11",
        "the same noise for all starts",
        "actor_critic.py",
        "img_step(state, action)",
        "img_step(state, action, torch.randn_like(state.stoch[:1]).expand_as(state.stoch))",
    ),
    # ---- 2.12 ----
    Chaff(
        "2.12",
        "the values are not shifted",
        "actor_critic.py",
        "torch.cat([value[:, 1:], bootstrap[:, None]], 1)",
        "value",
    ),
    Chaff(
        "2.12",
        "two steps ahead",
        "actor_critic.py",
        "torch.cat([value[:, 1:], bootstrap[:, None]], 1)",
        "torch.cat([value[:, 2:], bootstrap[:, None], bootstrap[:, None]], 1)[:, : value.shape[1]]",
    ),
    Chaff(
        "2.12",
        "the last step has no one-step part",
        "actor_critic.py",
        "bootstrap[:, None]], 1)",
        "torch.zeros_like(bootstrap[:, None])], 1)",
    ),
    Chaff(
        "2.12",
        "the recursion begins with 0",
        "actor_critic.py",
        "ret, returns = bootstrap, []",
        "ret, returns = torch.zeros_like(bootstrap), []",
    ),
    Chaff(
        "2.12",
        "the recursion begins with the last value",
        "actor_critic.py",
        "ret, returns = bootstrap, []",
        "ret, returns = value[:, -1], []",
    ),
    Chaff("2.12", "no (1 - lam)", "actor_critic.py", "discount * (1 - lam) * next_value", "discount * next_value"),
    Chaff(
        "2.12",
        "lam the wrong way round",
        "actor_critic.py",
        "next_value = torch",
        "lam = 1 - lam\n    next_value = torch",
    ),
    Chaff("2.12", "no lam in the recursion", "actor_critic.py", "discount[:, k] * lam * ret", "discount[:, k] * ret"),
    Chaff("2.12", "no discount in the recursion", "actor_critic.py", "discount[:, k] * lam * ret", "lam * ret"),
    Chaff("2.12", "no discount of the next value", "actor_critic.py", "discount * (1 - lam)", "(1 - lam)"),
    Chaff(
        "2.12",
        "the reward is discounted, too",
        "actor_critic.py",
        "reward + discount * (1 - lam) * next_value",
        "discount * (reward + (1 - lam) * next_value)",
    ),
    Chaff("2.12", "the next reward", "actor_critic.py", "one_step = reward", "one_step = reward.roll(-1, 1)"),
    Chaff(
        "2.12",
        "the next discount",
        "actor_critic.py",
        "next_value = torch",
        "discount = torch.cat([discount[:, 1:], discount[:, -1:]], 1)\n    next_value = torch",
    ),
    Chaff(
        "2.12",
        "the first discount for all",
        "actor_critic.py",
        "next_value = torch",
        "discount = discount[:, :1].expand_as(discount)\n    next_value = torch",
    ),
    Chaff(
        "2.12",
        "lam 0.95, whatever is asked",
        "actor_critic.py",
        "next_value = torch",
        "lam = 0.95\n    next_value = torch",
    ),
    Chaff(
        "2.12",
        "discount 0.99, whatever is asked",
        "actor_critic.py",
        "next_value = torch",
        "discount = torch.full_like(discount, 0.99)\n    next_value = torch",
    ),
    Chaff(
        "2.12",
        "from the first step to the last",
        "actor_critic.py",
        "reversed(range(reward.shape[1]))",
        "range(reward.shape[1])",
    ),
    Chaff("2.12", "not turned round again", "actor_critic.py", "returns[::-1]", "returns"),
    Chaff("2.12", "time first", "actor_critic.py", "returns[::-1], 1)", "returns[::-1], 0)"),
    Chaff(
        "2.12",
        "advantages for returns",
        "actor_critic.py",
        "torch.stack(returns[::-1], 1)",
        "torch.stack(returns[::-1], 1) - value",
    ),
    Chaff(
        "2.12",
        "the first start's bootstrap for all",
        "actor_critic.py",
        "ret, returns = bootstrap, []",
        "ret, returns = bootstrap[:1].expand_as(bootstrap), []",
    ),
    Chaff(
        "2.12",
        "no gradient",
        "actor_critic.py",
        "torch.stack(returns[::-1], 1)",
        "torch.stack(returns[::-1], 1).detach()",
    ),
    Chaff("2.12", "no gradient for the values", "actor_critic.py", "* next_value", "* next_value.detach()"),
    Chaff("2.12", "no gradient from return to return", "actor_critic.py", "lam * ret", "lam * ret.detach()"),
    Chaff(
        "2.12",
        "no gradient for the discounts of the recursion",
        "actor_critic.py",
        "discount[:, k] *",
        "discount[:, k].detach() *",
    ),
    # ---- 2.13 ----
    Chaff(
        "2.13",
        "not shifted",
        "actor_critic.py",
        "torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1)",
        "discount",
    ),
    Chaff(
        "2.13",
        "shifted the other way",
        "actor_critic.py",
        "torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1)",
        "torch.cat([discount[:, 1:], torch.ones_like(discount[:, :1])], 1)",
    ),
    Chaff("2.13", "one weight too many", "actor_critic.py", "discount[:, :-1]], 1)", "discount], 1)"),
    Chaff("2.13", "one weight too few", "actor_critic.py", "discount[:, :-1]], 1)", "discount[:, :-2]], 1)"),
    Chaff("2.13", "carries gradient", "actor_critic.py", ".detach()", ""),
    Chaff("2.13", "no product", "actor_critic.py", "before.cumprod(1)", "before"),
    Chaff("2.13", "a sum", "actor_critic.py", "cumprod", "cumsum"),
    Chaff("2.13", "the smallest discount before", "actor_critic.py", "before.cumprod(1)", "before.cummin(1).values"),
    Chaff("2.13", "along the starts", "actor_critic.py", "cumprod(1)", "cumprod(0)"),
    Chaff("2.13", "from the end", "actor_critic.py", "before.cumprod(1)", "before.flip(1).cumprod(1).flip(1)"),
    Chaff(
        "2.13",
        "the first weight is 0",
        "actor_critic.py",
        "torch.ones_like(discount[:, :1])",
        "torch.zeros_like(discount[:, :1])",
    ),
    Chaff(
        "2.13",
        "powers of the first discount",
        "actor_critic.py",
        "before.cumprod(1)",
        "discount[:, :1] ** torch.arange(discount.shape[1])",
    ),
    Chaff(
        "2.13",
        "powers of 0.99",
        "actor_critic.py",
        "before.cumprod(1)",
        "torch.ones_like(before) * 0.99 ** torch.arange(discount.shape[1])",
    ),
    Chaff(
        "2.13",
        "divided by the own discount, which may be 0",
        "actor_critic.py",
        WHOLE,
        "return (discount.cumprod(1) / discount).detach()",
    ),
    Chaff("2.13", "all count the same", "actor_critic.py", "before.cumprod(1)", "torch.ones_like(before)"),
    Chaff(
        "2.13",
        "divided by their mean",
        "actor_critic.py",
        WHOLE,
        """
        before = torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1)
        weights = before.cumprod(1).detach()
        return weights / weights.mean()
        """,
    ),
    Chaff(
        "2.13",
        "one start's weights for all",
        "actor_critic.py",
        "before.cumprod(1)",
        "before[:1].cumprod(1).expand_as(before)",
    ),
    Chaff(
        "2.13",
        "the caller's discounts are changed: detach shares memory",
        "actor_critic.py",
        WHOLE,
        """
        weights = discount.detach()
        weights[:, 1:] = weights[:, :-1].clone()
        weights[:, 0] = 1
        return weights.cumprod(1)
        """,
    ),
    # ---- 2.14 ----
    Chaff(
        "2.14",
        "the actor's returns are not weighted",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "-returns.mean()",
    ),
    Chaff(
        "2.14",
        "the critic's errors are not weighted",
        "actor_critic.py",
        "(weights * normal_nll(predicted, returns.detach(), 0))",
        "normal_nll(predicted, returns.detach(), 0)",
    ),
    Chaff(
        "2.14",
        "the actor lowers the returns",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "(weights * returns).mean()",
    ),
    Chaff("2.14", "the critic's sign", "actor_critic.py", "value_loss = (", "value_loss = -("),
    Chaff(
        "2.14",
        "sum over the steps",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "-(weights * returns).sum(1).mean()",
    ),
    Chaff(
        "2.14",
        "the critic's sum over the steps",
        "actor_critic.py",
        "(weights * normal_nll(predicted, returns.detach(), 0)).mean()",
        "(weights * normal_nll(predicted, returns.detach(), 0)).sum(1).mean()",
    ),
    Chaff(
        "2.14",
        "divided by the sum of the weights",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "-(weights * returns).sum() / weights.sum()",
    ),
    Chaff(
        "2.14",
        "only the first step's return",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "-(weights * returns)[:, 0].mean()",
    ),
    Chaff(
        "2.14",
        "a baseline, as with REINFORCE",
        "actor_critic.py",
        "-(weights * returns).mean()",
        "-(weights * (returns - value[:, :-1])).mean()",
    ),
    Chaff(
        "2.14",
        "the returns that are returned are weighted",
        "actor_critic.py",
        "value_loss, returns)",
        "value_loss, weights * returns)",
    ),
    Chaff(
        "2.14",
        "the squared error for the likelihood",
        "actor_critic.py",
        "normal_nll(predicted, returns.detach(), 0)",
        "(predicted - returns.detach()).square()",
    ),
    Chaff(
        "2.14",
        "half the squared error for the likelihood",
        "actor_critic.py",
        "normal_nll(predicted, returns.detach(), 0)",
        "0.5 * (predicted - returns.detach()).square()",
    ),
    Chaff("2.14", "gradient into the targets", "actor_critic.py", "returns.detach()", "returns"),
    Chaff(
        "2.14", "gradient into the critic's states", "actor_critic.py", "critic(feat[:, :-1].detach())", "value[:, :-1]"
    ),
    Chaff(
        "2.14",
        "the critic's prediction is detached",
        "actor_critic.py",
        "critic(feat[:, :-1].detach())",
        "value[:, :-1].detach()",
    ),
    Chaff(
        "2.14",
        "the critic learns the next state's return",
        "actor_critic.py",
        "critic(feat[:, :-1].detach())",
        "critic(feat[:, 1:].detach())",
    ),
    Chaff(
        "2.14", "no gradient for the actor", "actor_critic.py", "-(weights * returns)", "-(weights * returns.detach())"
    ),
    Chaff(
        "2.14",
        "values without gradient",
        "actor_critic.py",
        "value = critic(feat)",
        "with torch.no_grad():\n        value = critic(feat)",
    ),
    Chaff("2.14", "a bootstrap without gradient", "actor_critic.py", "value[:, -1], lam", "value[:, -1].detach(), lam"),
    Chaff(
        "2.14",
        "rewards without gradient",
        "actor_critic.py",
        "lambda_returns(reward[:, :-1],",
        "lambda_returns(reward[:, :-1].detach(),",
    ),
    Chaff(
        "2.14",
        "discounts without gradient",
        "actor_critic.py",
        "value[:, :-1], discount[:, :-1], value",
        "value[:, :-1], discount[:, :-1].detach(), value",
    ),
    Chaff(
        "2.14",
        "the next state's reward",
        "actor_critic.py",
        "lambda_returns(reward[:, :-1],",
        "lambda_returns(reward[:, 1:],",
    ),
    Chaff(
        "2.14",
        "the values are shifted once more",
        "actor_critic.py",
        "lambda_returns(reward[:, :-1], value[:, :-1],",
        "lambda_returns(reward[:, :-1], value[:, 1:],",
    ),
    Chaff(
        "2.14",
        "the weights of the next state's discounts",
        "actor_critic.py",
        "discount_weights(discount[:, :-1])",
        "discount_weights(discount[:, 1:])",
    ),
    Chaff("2.14", "lam 0.95, whatever is asked", "actor_critic.py", "value[:, -1], lam)", "value[:, -1], 0.95)"),
]

# lines of exercise 2.15
OBSERVE = 'post, prior = model.rssm.observe(model.embed(batch), batch["prev_action"], noise)'
LABEL = 'label = config.discount * (~batch["is_terminal"]).float()'
CROSS_ENTROPY = "F.binary_cross_entropy_with_logits(model.cont(feat), label)"
TOTAL = "sum(parts.values())"

AGENT_CHAFFS = [
    # ---- 2.15 ----
    Chaff("2.15", "the heads see the priors", "agent.py", "feat = post.feat", "feat = prior.feat"),
    Chaff(
        "2.15",
        "the heads see the posteriors' means",
        "agent.py",
        "feat = post.feat",
        "feat = post._replace(stoch=post.mean).feat",
    ),
    Chaff("2.15", "the heads' input is detached", "agent.py", "feat = post.feat", "feat = post.feat.detach()"),
    Chaff("2.15", "the encoder learns nothing", "agent.py", "model.embed(batch)", "model.embed(batch).detach()"),
    Chaff("2.15", "the noise is not handed on", "agent.py", 'batch["prev_action"], noise)', 'batch["prev_action"])'),
    Chaff(
        "2.15",
        "the action that follows the row",
        "agent.py",
        'batch["prev_action"]',
        'F.pad(batch["prev_action"][:, 1:], (0, 0, 0, 1))',
    ),
    Chaff(
        "2.15",
        "the first row's action is set to zero",
        "agent.py",
        'batch["prev_action"]',
        'F.pad(batch["prev_action"][:, 1:], (0, 0, 1, 0))',
    ),
    Chaff("2.15", "the next row's reward", "agent.py", 'batch["reward"], event', 'batch["reward"].roll(-1, 1), event'),
    Chaff("2.15", "every observation has three axes", "agent.py", "event_dims=batch[key].ndim - 2", "event_dims=3"),
    Chaff("2.15", "the mean over pixels", "agent.py", "event_dims=batch[key].ndim - 2", "event_dims=0"),
    Chaff(
        "2.15", "the image alone", "agent.py", "in model.decoders.items():", 'in [("image", model.decoders["image"])]:'
    ),
    Chaff(
        "2.15",
        "the sum over batch and time",
        "agent.py",
        "event_dims=batch[key].ndim - 2).mean()",
        "event_dims=batch[key].ndim - 2).sum()",
    ),
    Chaff("2.15", "kl_scale is ignored", "agent.py", "config.kl_scale * kl", "kl"),
    Chaff("2.15", "free_nats are ignored", "agent.py", "free_nats=config.free_nats", "free_nats=3.0"),
    Chaff("2.15", "kl_balance is ignored", "agent.py", "balance=config.kl_balance", "balance=None"),
    Chaff(
        "2.15",
        "free_before_mean is ignored",
        "agent.py",
        "free_before_mean=config.free_before_mean",
        "free_before_mean=False",
    ),
    Chaff(
        "2.15",
        "prior and posterior are swapped in the KL",
        "agent.py",
        "        post,\n        prior,\n",
        "        prior,\n        post,\n",
    ),
    Chaff(
        "2.15",
        "the KL does not move the posterior",
        "agent.py",
        "        post,\n        prior,\n",
        "        rssm.State(*(x.detach() for x in post)),\n        prior,\n",
    ),
    Chaff("2.15", "the raw KL is in the sum", "agent.py", TOTAL, TOTAL + " + raw_kl"),
    Chaff("2.15", "a hard label: the discount is lost", "agent.py", LABEL, 'label = (~batch["is_terminal"]).float()'),
    Chaff("2.15", "a discount of 0.99, whatever is asked", "agent.py", "label = config.discount", "label = 0.99"),
    Chaff("2.15", "is_last for is_terminal", "agent.py", '~batch["is_terminal"]', '~batch["is_last"]'),
    Chaff("2.15", "continue_scale is ignored", "agent.py", "config.continue_scale * ", ""),
    Chaff("2.15", "the continue loss's sign", "agent.py", "config.continue_scale * ", "-config.continue_scale * "),
    Chaff(
        "2.15",
        "the batch is changed",
        "agent.py",
        LABEL,
        'label = config.discount * batch["is_terminal"].logical_not_().float()',
    ),
]

CHAFFS = NETWORKS_CHAFFS + BUFFER_CHAFFS + RSSM_CHAFFS + ACTOR_CRITIC_CHAFFS + AGENT_CHAFFS
