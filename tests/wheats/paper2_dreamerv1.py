"""Correct answers for paper 2, written differently."""

from tests.chaffs import WHOLE, Chaff

WHEATS = [
    Chaff(
        "2.1",
        "layer by layer",
        "networks.py",
        WHOLE,
        """
        self.convs = nn.Sequential()
        for i in range(4):
            before = channels if i == 0 else depth * 2 ** (i - 1)
            self.convs.append(nn.Conv2d(before, depth * 2**i, kernel_size=(4, 4), stride=(2, 2), padding="valid"))
            self.convs.append(nn.ReLU(inplace=True))
        """,
    ),
    Chaff(
        "2.1",
        "nested, and flattened early",
        "networks.py",
        WHOLE,
        """
        block = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 4, 2), nn.ReLU())
        self.convs = nn.Sequential(
            nn.Sequential(block(channels, depth), block(depth, 2 * depth)),
            nn.Sequential(block(2 * depth, 4 * depth), block(4 * depth, 8 * depth)),
            nn.Flatten(),
        )
        """,
    ),
    Chaff(
        "2.1",
        "a module of its own, with functional ReLU",
        "networks.py",
        WHOLE,
        """
        class Convs(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(
                    nn.Conv2d(*sizes, 4, stride=2)
                    for sizes in ((channels, depth), (depth, 2 * depth), (2 * depth, 4 * depth), (4 * depth, 8 * depth))
                )

            def forward(self, x):
                for layer in self.layers:
                    x = F.relu(layer(x))
                return x

        self.convs = Convs()
        """,
    ),
    Chaff(
        "2.2",
        "in a loop, and transposed convolutions alone",
        "networks.py",
        WHOLE,
        """
        layers, before = [], 32 * depth
        for after, kernel in ((4 * depth, 5), (2 * depth, 5), (depth, 6), (channels, 6)):
            layers += [nn.ConvTranspose2d(before, after, kernel, 2), nn.ReLU(inplace=True)]
            before = after
        self.deconvs = nn.Sequential(*layers[:-1])
        self.dense = nn.Linear(feat, 32 * depth)
        """,
    ),
    Chaff(
        "2.2",
        "a module of its own, with functional ReLU",
        "networks.py",
        WHOLE,
        """
        class Deconvs(nn.Module):
            def __init__(self):
                super().__init__()
                self.one = nn.ConvTranspose2d(32 * depth, 4 * depth, 5, 2)
                self.two = nn.ConvTranspose2d(4 * depth, 2 * depth, 5, 2, padding=0, output_padding=0)
                self.three = nn.ConvTranspose2d(2 * depth, depth, 6, 2)
                self.four = nn.ConvTranspose2d(depth, channels, 6, 2)

            def forward(self, x):
                return self.four(self.three(self.two(self.one(x).relu()).relu()).relu())

        self.dense, self.deconvs = nn.Linear(feat, 32 * depth), Deconvs()
        """,
    ),
    Chaff(
        "2.3",
        "torch.distributions",
        "networks.py",
        WHOLE,
        """
        normal = torch.distributions.Normal(mean, 1.0)
        return -torch.distributions.Independent(normal, event_dims).log_prob(target)
        """,
    ),
    Chaff(
        "2.3",
        "axis by axis",
        "networks.py",
        WHOLE,
        """
        nll = (F.mse_loss(mean, target, reduction="none") + math.log(2 * math.pi)) / 2
        for _ in range(event_dims):
            nll = nll.sum(-1)
        return nll
        """,
    ),
    Chaff(
        "2.3",
        "the constant times the number of elements",
        "networks.py",
        WHOLE,
        """
        batch, event = mean.shape[: mean.ndim - event_dims], mean.shape[mean.ndim - event_dims :]
        error = (mean - target).reshape(*batch, event.numel())
        return 0.5 * torch.einsum("...i,...i->...", error, error) + event.numel() * HALF_LOG_2PI
        """,
    ),
    Chaff(
        "2.4",
        "torch.distributions",
        "networks.py",
        WHOLE,
        """
        edge = torch.tensor(1.0).nextafter(torch.tensor(0.0)).to(action.device)
        u = action.clamp(-edge, edge).atanh()
        return (torch.distributions.Normal(self.mean, self.std).log_prob(u) - log_slope(u)).sum(-1)
        """,
    ),
    Chaff(
        "2.4",
        "a transformed distribution, in which the slope is the same",
        "networks.py",
        WHOLE,
        """
        D = torch.distributions
        policy = D.TransformedDistribution(D.Normal(self.mean, self.std), D.TanhTransform(), validate_args=False)
        return D.Independent(policy, 1, validate_args=False).log_prob(action.clamp(-0.99999994, 0.99999994))
        """,
    ),
    Chaff(
        "2.4",
        "logarithms for atanh, and term by term",
        "networks.py",
        WHOLE,
        """
        action = torch.minimum(torch.maximum(action, torch.tensor(-0.99999994)), torch.tensor(0.99999994))
        u = (torch.log1p(action) - torch.log1p(-action)) / 2
        log_prob = -((u - self.mean) ** 2) / (2 * self.std**2) - torch.log(self.std) - math.log(2 * math.pi) / 2
        return torch.sum(log_prob, dim=-1) - log_slope(u).sum(dim=-1)
        """,
    ),
    Chaff(
        "2.5",
        "chunk by chunk, the bound included",
        "buffer.py",
        WHOLE,
        """
        starts = []
        for _ in range(batch):
            episode = rng.choice(long_enough)
            last = episode["start"] + episode["length"] - length
            starts.append((episode["stream"], rng.integers(episode["start"], last, endpoint=True)))
        return np.array(starts)
        """,
    ),
    Chaff(
        "2.5",
        "fractions, rounded down",
        "buffer.py",
        WHOLE,
        """
        stream, start, rows = (long_enough[name].astype(np.int64) for name in ("stream", "start", "length"))
        episode = np.floor(rng.random(batch) * len(long_enough)).astype(np.int64)
        offset = np.floor(rng.random(batch) * (rows[episode] - length + 1)).astype(np.int64)
        return np.column_stack([stream[episode], start[episode] + offset])
        """,
    ),
    Chaff(
        "2.5",
        "all starts of every episode, laid out",
        "buffer.py",
        WHOLE,
        """
        choices = [
            [(e["stream"], t) for t in range(e["start"], e["start"] + e["length"] - length + 1)] for e in long_enough
        ]
        of_each = [choices[i] for i in rng.choice(len(choices), batch)]
        return np.array([starts[rng.choice(len(starts))] for starts in of_each])
        """,
    ),
    Chaff(
        "2.6",
        "torch.distributions' way: logaddexp, and addcmul",
        "rssm.py",
        WHOLE,
        """
        size = raw.shape[-1] // 2
        mean, std = raw[..., :size], torch.logaddexp(raw[..., size:], torch.zeros(())) + min_std
        return torch.addcmul(mean, std, noise), mean, std
        """,
    ),
    Chaff(
        "2.6",
        "split, and an affine transform",
        "rssm.py",
        WHOLE,
        """
        mean, raw_std = torch.split(raw, noise.shape[-1], dim=-1)
        std = min_std + nn.Softplus()(raw_std)
        return torch.distributions.AffineTransform(mean, std)(noise), mean, std
        """,
    ),
    Chaff(
        "2.7",
        "img1 in two shares, the state by name",
        "rssm.py",
        WHOLE,
        """
        weight = self.img1.weight
        x = prev.stoch @ weight[:, : self.stoch].T + prev_action @ weight[:, self.stoch :].T + self.img1.bias
        deter = self.cell(nn.ELU()(x), prev.deter)
        stoch, mean, std = gaussian(self.img3(F.elu(self.img2(deter))), noise)
        return State(std=std, mean=mean, stoch=stoch, deter=deter)
        """,
    ),
    Chaff(
        "2.7",
        "the GRU written out",
        "rssm.py",
        WHOLE,
        """
        x = F.elu(self.img1(torch.cat((prev.stoch, prev_action), dim=1)))
        new = F.linear(x, self.cell.weight_ih, self.cell.bias_ih).chunk(3, 1)
        old = F.linear(prev.deter, self.cell.weight_hh, self.cell.bias_hh).chunk(3, 1)
        reset, update = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        deter = torch.lerp(torch.tanh(new[2] + reset * old[2]), prev.deter, update)
        mean, raw = self.img3(F.elu(self.img2(deter))).split(self.stoch, 1)
        std = F.softplus(raw) + 0.1
        return State(deter, mean + noise * std, mean, std)
        """,
    ),
    Chaff(
        "2.8",
        "from deter alone, the rest of the prior replaced",
        "rssm.py",
        WHOLE,
        """
        prior = self.img_step(prev, prev_action, noise=noise)
        stoch, mean, std = gaussian(self.obs2(F.elu(self.obs1(torch.hstack([prior.deter, embed])))), noise)
        return prior._replace(stoch=stoch, mean=mean, std=std), prior
        """,
    ),
    Chaff(
        "2.8",
        "obs1 in two shares, the sample by hand",
        "rssm.py",
        WHOLE,
        """
        prior = self.img_step(prev, prev_action, noise)
        deter_weight, embed_weight = self.obs1.weight[:, : self.deter], self.obs1.weight[:, self.deter :]
        x = F.linear(prior.deter, deter_weight) + F.linear(embed, embed_weight, self.obs1.bias)
        mean, raw = self.obs2(F.elu(x)).chunk(2, dim=-1)
        std = F.softplus(raw) + 0.1
        return State(prior.deter, mean + std * noise, mean, std), prior
        """,
    ),
    Chaff(
        "2.9",
        "a loop over obs_step",
        "rssm.py",
        WHOLE,
        """
        state = self.initial(embed.shape[0])
        posts, priors = [], []
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        stack = lambda states: State(*(torch.stack(parts, dim=1) for parts in zip(*states, strict=True)))
        return stack(posts), stack(priors)
        """,
    ),
    Chaff(
        "2.9",
        "time first inside, and the priors of all steps at once",
        "rssm.py",
        WHOLE,
        """
        batch, time = embed.shape[:2]
        embed, action, eps = (x.transpose(0, 1) for x in (embed, prev_action, noise))
        deter, stoch = embed.new_zeros(batch, self.deter), embed.new_zeros(batch, self.stoch)
        deters, stochs, means, stds = [], [], [], []
        for t in range(time):
            deter = self.cell(F.elu(self.img1(torch.cat([stoch, action[t]], -1))), deter)
            stoch, mean, std = gaussian(self.obs2(F.elu(self.obs1(torch.cat([deter, embed[t]], -1)))), eps[t])
            for kept, value in zip((deters, stochs, means, stds), (deter, stoch, mean, std)):
                kept.append(value)
        post = State(*(torch.stack(kept).transpose(0, 1) for kept in (deters, stochs, means, stds)))
        stoch, mean, std = gaussian(self.img3(F.elu(self.img2(post.deter))), noise)
        return post, State(post.deter, stoch, mean, std)
        """,
    ),
    Chaff(
        "2.10",
        "torch.distributions",
        "rssm.py",
        WHOLE,
        """
        D = torch.distributions
        normal = lambda s: D.Independent(D.Normal(s.mean, s.std), 1)
        stop = lambda s: State(*[x.detach() for x in s])
        floor = lambda kl: kl.clamp(min=free_nats).mean() if free_before_mean else kl.mean().clamp(min=free_nats)
        kl = D.kl_divergence(normal(post), normal(prior))
        if balance is None:
            return floor(kl), kl.mean()
        of_prior = floor(D.kl_divergence(normal(stop(post)), normal(prior)))
        of_post = floor(D.kl_divergence(normal(post), normal(stop(prior))))
        return balance * of_prior + (1 - balance) * of_post, kl.mean()
        """,
    ),
    Chaff(
        "2.10",
        "variances, and the floor by where; both shares computed only where they count",
        "rssm.py",
        WHOLE,
        """
        def nats(post_mean, post_std, prior_mean, prior_std):
            post_var, prior_var = post_std**2, prior_std**2
            each = prior_var.log() - post_var.log() + (post_var + (post_mean - prior_mean) ** 2) / prior_var - 1
            return each.sum(dim=-1) / 2

        def floor(kl):
            kl = kl if free_before_mean else kl.mean()
            return torch.where(kl > free_nats, kl, torch.full_like(kl, free_nats)).mean()

        kl = nats(post.mean, post.std, prior.mean, prior.std)
        if balance is None:
            loss = floor(kl)
        else:
            loss = 0.0
            if balance > 0:
                loss = loss + balance * floor(nats(post.mean.detach(), post.std.detach(), prior.mean, prior.std))
            if balance < 1:
                loss = loss + (1 - balance) * floor(
                    nats(post.mean, post.std, prior.mean.detach(), prior.std.detach())
                )
        return loss, kl.mean().detach()
        """,
    ),
    Chaff(
        "2.10",
        "gradients mixed, values alike",
        "rssm.py",
        WHOLE,
        """
        part = lambda x, share: share * x + (1 - share) * x.detach()
        give, take = (1.0, 1.0) if balance is None else (1 - balance, balance)
        q_mean, q_std, p_mean, p_std = (
            *(part(post.mean, give), part(post.std, give)),
            *(part(prior.mean, take), part(prior.std, take)),
        )
        kl = (torch.log(p_std / q_std) + (q_std**2 + (q_mean - p_mean) ** 2) / (2 * p_std**2) - 0.5).sum(-1)
        floor = nn.Threshold(free_nats, free_nats)
        return (floor(kl).mean() if free_before_mean else floor(kl.mean())), kl.mean()
        """,
    ),
    Chaff(
        "2.10",
        "below the floor a mere number",
        "rssm.py",
        "torch.maximum(kl.mean(), free), kl.mean()",
        "kl.mean() if kl.mean() > free_nats else free, kl.mean()",
    ),
    Chaff(
        "2.11",
        "detached by hand, feats at the end",
        "actor_critic.py",
        WHOLE,
        """
        state = State(start.deter.detach(), start.stoch.detach(), start.mean.detach(), start.std.detach())
        states, actions = [], []
        while len(states) < horizon:
            seen = torch.cat([state.deter, state.stoch], dim=-1).detach()
            actions.append(actor(seen).rsample())
            state = rssm.img_step(state, actions[-1], torch.randn_like(state.stoch))
            states.append(state)
        feats = torch.cat([torch.stack([s.deter for s in states], 1), torch.stack([s.stoch for s in states], 1)], -1)
        return feats, torch.stack(actions, dim=1)
        """,
    ),
    Chaff(
        "2.11",
        "the actions that are returned without gradient: it is the states that carry it",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action.detach())",
    ),
    Chaff(
        "2.11",
        "recursively",
        "actor_critic.py",
        WHOLE,
        """
        def roll(state, steps):
            if not steps:
                return [], []
            with torch.no_grad():
                seen = state.feat.clone()
            action = actor(seen).rsample()
            after = rssm.img_step(state, action)
            feats, actions = roll(after, steps - 1)
            return [after.feat, *feats], [action, *actions]

        feats, actions = roll(State._make(x.detach() for x in start), horizon)
        return torch.stack(feats, 1), torch.stack(actions, 1)
        """,
    ),
    Chaff(
        "2.12",
        "the recursion as it is printed",
        "actor_critic.py",
        WHOLE,
        """
        v = torch.cat([value, bootstrap.unsqueeze(1)], dim=1)
        steps = reward.size(1)
        returns = [None] * steps + [bootstrap]
        for k in range(steps - 1, -1, -1):
            follows = (1 - lam) * v[:, k + 1] + lam * returns[k + 1]
            returns[k] = reward[:, k] + discount[:, k] * follows
        return torch.stack(returns[:steps], dim=-1)
        """,
    ),
    Chaff(
        "2.12",
        "temporal differences, added to the values",
        "actor_critic.py",
        WHOLE,
        """
        next_value = torch.cat([value, bootstrap[:, None]], 1)[:, 1:]
        delta = reward + discount * next_value - value
        advantage, advantages = torch.zeros_like(bootstrap), []
        for k in range(reward.shape[1])[::-1]:
            advantage = delta[:, k] + discount[:, k] * lam * advantage
            advantages.insert(0, advantage)
        return value + torch.stack(advantages, 1)
        """,
    ),
    Chaff(
        "2.12",
        "as a system of linear equations",
        "actor_critic.py",
        WHOLE,
        """
        steps = reward.shape[1]
        next_value = torch.cat([value[:, 1:], bootstrap[:, None]], 1)
        one_step = reward + discount * (1 - lam) * next_value
        last = torch.zeros_like(one_step)
        last = torch.cat([last[:, 1:], (discount[:, -1] * lam * bootstrap)[:, None]], 1)
        shift = torch.diag_embed(lam * discount[:, :-1], offset=1)
        return torch.linalg.solve(torch.eye(steps).to(reward) - shift, (one_step + last)[..., None])[..., 0]
        """,
    ),
    Chaff(
        "2.13",
        "in a loop",
        "actor_critic.py",
        WHOLE,
        """
        weight, weights = torch.ones_like(discount[:, 0]), []
        for k in range(discount.shape[1]):
            weights.append(weight)
            weight = weight * discount[:, k].detach()
        return torch.stack(weights, 1)
        """,
    ),
    Chaff(
        "2.13",
        "a sum of logarithms, without grad",
        "actor_critic.py",
        WHOLE,
        """
        with torch.no_grad():
            return nn.functional.pad(discount.log().cumsum(1), (1, -1)).exp()
        """,
    ),
    Chaff(
        "2.13",
        "rolled, and a fresh tensor written to",
        "actor_critic.py",
        WHOLE,
        """
        before = discount.detach().roll(1, dims=1)
        before[:, 0] = 1.0
        return torch.cumprod(before, dim=1)
        """,
    ),
    Chaff(
        "2.14",
        "the critic asked once, of detached states, and once more",
        "actor_critic.py",
        WHOLE,
        """
        predicted = critic(feat.detach())[:, :-1]
        *values, last = critic(feat).unbind(1)
        returns = lambda_returns(reward[:, :-1], torch.stack(values, 1), discount[:, :-1], last, lam)
        weights = discount_weights(discount)[:, :-1]
        actor_loss = torch.mean(-weights * returns)
        value_loss = torch.mean(weights * normal_nll(returns.detach(), predicted, event_dims=0))
        return BehaviourLosses(actor=actor_loss, value=value_loss, returns=returns)
        """,
    ),
    Chaff(
        "2.14",
        "the likelihood by torch.distributions, sums and counts, returns without gradient",
        "actor_critic.py",
        WHOLE,
        """
        value = critic(feat)
        returns = lambda_returns(reward[:, :-1], value[:, :-1], discount[:, :-1], value[:, -1], lam)
        weights = discount_weights(discount[:, :-1])
        target = returns.detach()
        normal = torch.distributions.Normal(critic(feat[:, :-1].detach()), 1.0)
        value_loss = -(weights * normal.log_prob(target)).sum() / target.numel()
        return BehaviourLosses(-torch.sum(weights * returns) / returns.numel(), value_loss, target)
        """,
    ),
    Chaff(
        "2.15",
        "one by one, parts without gradient",
        "agent.py",
        WHOLE,
        """
        embed = model.embed(batch)
        post, prior = model.rssm.observe(embed, batch["prev_action"], noise)
        kl, raw_kl = kl_loss(
            post, prior, free_nats=config.free_nats, balance=config.kl_balance, free_before_mean=config.free_before_mean
        )
        losses = {"kl": config.kl_scale * kl}
        if "image" in model.decoders:
            losses["image"] = normal_nll(model.decoders["image"](post.feat), batch["image"], 3).mean()
        if "vector" in model.decoders:
            losses["vector"] = normal_nll(model.decoders["vector"](post.feat), batch["vector"], 1).mean()
        losses["reward"] = normal_nll(model.reward(post.feat), batch["reward"], 0).mean()
        if model.cont is not None:
            logit = model.cont(post.feat)
            label = torch.where(batch["is_terminal"], 0.0, config.discount)
            cont = -(label * F.logsigmoid(logit) + (1 - label) * F.logsigmoid(-logit))
            losses["cont"] = config.continue_scale * cont.mean()
        loss = torch.stack(list(losses.values())).sum()
        return loss, {"raw_kl": raw_kl.detach()} | {name: value.detach() for name, value in losses.items()}, post
        """,
    ),
    Chaff(
        "2.15",
        "torch.distributions, batch and time as one axis",
        "agent.py",
        WHOLE,
        """
        D = torch.distributions
        posts, priors = model.rssm.observe(model.embed(batch), batch["prev_action"], noise)
        parts = {"reward": -D.Normal(model.reward(posts.feat), 1.0).log_prob(batch["reward"]).mean()}
        for key in model.decoders:
            mean, target = model.decoders[key](posts.feat).flatten(0, 1), batch[key].flatten(0, 1)
            parts[key] = -D.Normal(mean, 1.0).log_prob(target).flatten(1).sum(1).mean()
        if model.cont:
            label = config.discount * (1 - batch["is_terminal"].to(torch.float32))
            ends = D.Bernoulli(logits=model.cont(posts.feat), validate_args=False)
            parts["cont"] = -config.continue_scale * ends.log_prob(label).mean()
        options = {"free_nats": config.free_nats, "balance": config.kl_balance}
        kl, parts["raw_kl"] = kl_loss(posts, priors, **options, free_before_mean=config.free_before_mean)
        parts["kl"] = kl * config.kl_scale
        return sum(value for name, value in parts.items() if name != "raw_kl"), parts, posts
        """,
    ),
]
