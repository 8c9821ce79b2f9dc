"""Correct answers for paper 1, written differently."""

from tests.chaffs import WHOLE, Chaff

WHEATS = [
    Chaff("1.1", "in another order", "vae.py", WHOLE, "return image.to(torch.float32).div(255).movedim(-1, -3)"),
    Chaff(
        "1.1", "einsum, and times 1/255", "vae.py", WHOLE, 'return torch.einsum("...hwc->...chw", image * (1 / 255))'
    ),
    Chaff("1.1", "two swaps", "vae.py", "movedim(-1, -3)", "transpose(-1, -2).transpose(-2, -3).contiguous()"),
    Chaff(
        "1.2",
        "in a loop, the heads' size measured",
        "vae.py",
        WHOLE,
        """
        layers, width = [], channels
        for i in range(4):
            layers.append(nn.Conv2d(width, depth * 2**i, kernel_size=4, stride=2))
            layers.append(nn.ReLU(inplace=True))
            width = depth * 2**i
        self.convs = nn.Sequential(*layers)
        with torch.no_grad():
            features = self.convs(torch.zeros(1, channels, image_size, image_size)).numel()
        self.logvar = nn.Linear(features, latent_size)
        self.mu = nn.Linear(features, latent_size)
        """,
    ),
    Chaff(
        "1.2",
        "nested, and flattened early",
        "vae.py",
        WHOLE,
        """
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 4, 2), nn.ReLU())
        self.convs = nn.Sequential(
            nn.Sequential(block(channels, depth), block(depth, 2 * depth)),
            nn.Sequential(block(2 * depth, 4 * depth), block(4 * depth, 8 * depth)),
            nn.Flatten(),
        )
        side = image_size
        for _ in range(4):
            side = (side - 4) // 2 + 1
        self.mu, self.logvar = (nn.Linear(8 * depth * side**2, latent_size) for _ in range(2))
        """,
    ),
    Chaff(
        "1.3",
        "addcmul",
        "vae.py",
        WHOLE,
        "return torch.addcmul(mu, logvar.mul(0.5).exp(), torch.randn(mu.shape).to(mu) if eps is None else eps)",
    ),
    Chaff("1.3", "the root of the variance", "vae.py", "torch.exp(logvar / 2)", "logvar.exp().sqrt()"),
    Chaff(
        "1.3",
        "rsample",
        "vae.py",
        WHOLE,
        """
        std = (0.5 * logvar).exp()
        if eps is None:
            return torch.distributions.Normal(mu, std).rsample()
        return eps * std + mu
        """,
    ),
    Chaff(
        "1.4",
        "in a loop, and the picture's sigmoid at its end",
        "vae.py",
        WHOLE,
        """
        widths = [32 * depth, 4 * depth, 2 * depth, depth, channels]
        layers = []
        for i, kernel in enumerate((5, 5, 6, 6)):
            layers.append(nn.ConvTranspose2d(widths[i], widths[i + 1], kernel, 2))
            layers.append(nn.ReLU(inplace=True) if i < 3 else nn.Sigmoid())
        self.fc = nn.Linear(latent_size, widths[0] * self.side**2)
        self.deconvs = nn.Sequential(*layers)
        """,
    ),
    Chaff(
        "1.4",
        "no padding, said so",
        "vae.py",
        "channels, 6, stride=2",
        "channels, 6, stride=2, padding=0, output_padding=0",
    ),
    Chaff(
        "1.5",
        "textbook form",
        "vae.py",
        WHOLE,
        """
        recon = nn.functional.mse_loss(recon_image, image, reduction="sum") / image.shape[0]
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar), dim=-1)
        kl = torch.maximum(kl, torch.full_like(kl, kl_tolerance * mu.shape[-1])).mean()
        return VAELoss(loss=kl + recon, kl=kl, recon=recon)
        """,
    ),
    Chaff(
        "1.5",
        "torch.distributions",
        "vae.py",
        WHOLE,
        """
        Normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)).sum(-1)
        floor = kl_tolerance * mu.size(-1)
        kl = torch.where(kl > floor, kl, torch.tensor(floor)).mean(0)
        recon = torch.sum((recon_image - image) ** 2, dim=(1, 2, 3)).mean(0)
        return VAELoss(recon + kl, recon, kl)
        """,
    ),
    Chaff(
        "1.6",
        "reshape and unbind, normalised by hand",
        "rnn.py",
        WHOLE,
        """
        x = torch.cat((z, action), dim=2)
        y, final = self.run_lstm(x, state, is_first)
        y = self.out(y)
        heads = self.predict_done + self.predict_reward
        params = y[..., heads:].reshape(*z.shape[:2], self.latent_size, 3, self.mixtures)
        weight, mean, logsig = params.unbind(3)
        weight = weight - weight.logsumexp(-1, keepdim=True)
        return MDNOutput(
            logpi=weight,
            mu=mean,
            logsig=torch.clamp_min(logsig, LOGSIG_MIN),
            reward=y[:, :, heads - 1] if self.predict_reward else None,
            done_logit=y[:, :, 0] if self.predict_done else None,
            state=final,
        )
        """,
    ),
    Chaff(
        "1.6",
        "the floor as a maximum",
        "rnn.py",
        "logsig.clamp(min=LOGSIG_MIN)",
        "logsig.maximum(torch.full_like(logsig, LOGSIG_MIN))",
    ),
    Chaff(
        "1.6",
        "always from an explicit state",
        "rnn.py",
        "hidden, state = self.run_lstm(",
        "state = self.initial_state(z.shape[0]) if state is None else state\n        hidden, state = self.run_lstm(",
    ),
    Chaff(
        "1.7",
        "torch.distributions",
        "rnn.py",
        WHOLE,
        """
        log_prob = torch.distributions.Normal(mu, logsig.exp()).log_prob(target[..., None])
        nll = -(logpi + log_prob).logsumexp(dim=3)
        if mask is None:
            return nll.mean()
        return (nll.mean(-1) * mask).sum() / mask.sum()
        """,
    ),
    Chaff(
        "1.7",
        "a mixture of torch.distributions",
        "rnn.py",
        WHOLE,
        """
        weights = torch.distributions.Categorical(logits=logpi)
        mixture = torch.distributions.MixtureSameFamily(weights, torch.distributions.Normal(mu, logsig.exp()))
        return masked_mean(-mixture.log_prob(target), mask)
        """,
    ),
    Chaff(
        "1.7",
        "logsumexp by hand",
        "rnn.py",
        WHOLE,
        """
        error = (mu - target[..., None]) / logsig.exp()
        each = logpi - error**2 / 2 - logsig - math.log(math.sqrt(2 * math.pi))
        most = each.max(-1, keepdim=True).values.detach()
        each = -(most[..., 0] + (each - most).exp().sum(-1).log())
        keep = torch.ones_like(each[..., 0]) if mask is None else mask.to(each)
        return (each * keep[..., None]).sum() / (keep.sum() * each.shape[-1])
        """,
    ),
    Chaff(
        "1.7", "weights normalised once more", "rnn.py", "logpi + log_density", "logpi.log_softmax(-1) + log_density"
    ),
    Chaff(
        "1.8",
        "Categorical where no noise is given",
        "rnn.py",
        WHOLE,
        """
        logits = logpi / temperature
        if uniform is None:
            index = torch.distributions.Categorical(logits=logits).sample()
        else:
            index = (logits.softmax(-1).cumsum(-1) >= uniform[..., None]).float().argmax(-1)
        chosen = F.one_hot(index, mu.shape[-1]).to(mu)
        normal = torch.randn(index.shape) if normal is None else normal
        return (mu * chosen).sum(-1) + (logsig * chosen).sum(-1).exp() * temperature**0.5 * normal
        """,
    ),
    Chaff(
        "1.8",
        "searchsorted",
        "rnn.py",
        WHOLE,
        """
        if uniform is None:
            uniform = torch.rand(mu.shape[:-1])
        if normal is None:
            normal = torch.randn(mu.shape[:-1])
        cumulative = torch.cumsum(torch.softmax(logpi / temperature, -1), -1).contiguous()
        index = torch.searchsorted(cumulative, uniform.unsqueeze(-1).contiguous()).clamp(max=mu.shape[-1] - 1)
        mu, logsig = torch.take_along_dim(mu, index, -1)[..., 0], torch.take_along_dim(logsig, index, -1)[..., 0]
        return mu + torch.exp(logsig + 0.5 * math.log(temperature)) * normal
        """,
    ),
    Chaff(
        "1.9",
        "by hand, and by name",
        "rnn.py",
        WHOLE,
        """
        mu, logvar = rows["mu"], rows["logvar"]
        noise = torch.randn(mu.shape) if eps is None else eps
        z = mu + (logvar / 2).exp() * noise
        now = {key: value[:, :-1] for key, value in rows.items()}
        later = {key: value[:, 1:] for key, value in rows.items()}
        mask = torch.logical_and(now["mask"], later["mask"])
        return SequenceBatch(
            z.narrow(1, 0, z.shape[1] - 1),
            later["prev_action"],
            z.narrow(1, 1, z.shape[1] - 1),
            later["reward"],
            later["is_terminal"],
            now["is_first"],
            mask,
        )
        """,
    ),
    Chaff(
        "1.9",
        "the mask as a product",
        "rnn.py",
        'rows["mask"][:, :-1] & rows["mask"][:, 1:]',
        'rows["mask"][:, :-1] * rows["mask"][:, 1:]',
    ),
    Chaff(
        "1.10",
        "clipped by hand, zeroed at the end",
        "rnn.py",
        WHOLE,
        """
        model.zero_grad()
        losses = rnn_loss(model, batch)
        losses["loss"].backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad.clamp_(-clip_value, clip_value)
        optimizer.step()
        optimizer.zero_grad()
        return {name: losses[name].detach().clone() for name in losses}
        """,
    ),
    Chaff(
        "1.10",
        "torch.autograd.grad",
        "rnn.py",
        WHOLE,
        """
        losses = rnn_loss(model, batch)
        parameters = list(model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(losses["loss"], parameters)):
            parameter.grad = torch.clamp(gradient, min=-clip_value, max=clip_value)
        optimizer.step()
        return {name: torch.tensor(value.item()) for name, value in losses.items()}
        """,
    ),
    Chaff(
        "1.11",
        "match, sigmoid(2 u), relu",
        "controller.py",
        WHOLE,
        """
        match kind:
            case "car":
                steer, gas, brake = u.split(1, -1)
                return torch.cat([torch.tanh(steer), torch.sigmoid(2 * gas), torch.relu(torch.tanh(brake))], -1)
            case "discrete":
                action = torch.zeros_like(u)
                return action.scatter(-1, u.argmax(-1, keepdim=True), 1.0)
            case "left_right":
                return (3 * u.tanh()).trunc().clamp(-1, 1)
            case _:
                return u.tanh()
        """,
    ),
    Chaff(
        "1.11",
        "filled in place, in a tensor of its own",
        "controller.py",
        WHOLE,
        """
        if kind == "discrete":
            return torch.eye(u.shape[-1])[u.max(-1).indices]
        action = u.tanh()
        if kind == "car":
            action[..., 1] = action[..., 1] / 2 + 0.5
            action[..., 2].clamp_(min=0)
        elif kind == "left_right":
            action = torch.where(action > 1 / 3, 1.0, torch.where(action < -1 / 3, -1.0, 0.0))
        return action
        """,
    ),
    Chaff(
        "1.12",
        "a while loop and lists",
        "controller.py",
        WHOLE,
        """
        past, index = list(history), 0
        while index < generations:
            asked = search.ask()
            returns = past.pop(0) if past else fitness(np.stack(asked), index)
            search.tell(asked, [-float(value) for value in returns])
            yield Generation(index, np.array(returns, np.float64), search.mean.copy(), float(search.sigma))
            index += 1
        """,
    ),
    Chaff("1.12", "times -1", "controller.py", "list(-returns)", "(-1.0 * returns).tolist()"),
    Chaff(
        "1.13",
        "step by step, with where",
        "agent.py",
        WHOLE,
        """
        first = torch.from_numpy(np.asarray(obs["is_first"])).to(self.device)
        memory = {name: torch.where(first.unsqueeze(1), torch.zeros_like(state[name]), state[name]) for name in "hc"}
        mu, logvar = self.vae.encoder(preprocess(torch.from_numpy(np.asarray(obs["image"])).to(self.device)))
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        features = self.controller.features(z, memory["h"], memory["c"])
        native = self.controller.act(features)
        row = self.codec.to_row(native)
        taken = self.codec.to_native(row).unsqueeze(1)
        out = self.rnn(z.unsqueeze(1), taken, (memory["h"], memory["c"]), first[:, None])
        return row.numpy(), dict(zip("hc", out.state))
        """,
    ),
    Chaff(
        "1.13",
        "reset by index, and z kept in the state",
        "agent.py",
        WHOLE,
        """
        is_first = torch.tensor(obs["is_first"])
        h, c = state["h"].clone(), state["c"].clone()
        h[is_first], c[is_first] = 0, 0
        z = reparameterize(*self.vae.encoder(preprocess(torch.tensor(obs["image"]))))
        native = self.controller.act(self.controller.features(z, h, c))
        new_h, new_c = self.rnn(z[:, None], native[:, None], (h, c), is_first[:, None]).state
        return self.codec.to_row(native).numpy(), {"h": new_h, "c": new_c, "z": z}
        """,
    ),
    Chaff(
        "1.14",
        "one minus the sigmoid, and squeezed",
        "agent.py",
        WHOLE,
        """
        z = state["z"].unsqueeze(1)
        a = self.codec.to_native(action.to(self.device)).unsqueeze(1)
        out = self.rnn(z, a, state=(state["h"], state["c"]), is_first=state["is_first"].unsqueeze(1))
        next_z = mdn_sample(out.logpi.squeeze(1), out.mu.squeeze(1), out.logsig.squeeze(1), temperature=temperature)
        reward = cont = torch.ones_like(next_z[:, 0])
        if self.config.predict_reward:
            reward = out.reward.squeeze(1)
        if self.config.predict_done:
            cont = 1 - torch.sigmoid(out.done_logit.squeeze(1))
        frame = None
        if decode:
            frame = to_image(self.vae.decoder(next_z))
        state = {**state, "z": next_z, "h": out.state[0], "c": out.state[1], "is_first": state["is_first"] & False}
        return DreamStep(state, frame, reward, cont)
        """,
    ),
    Chaff(
        "1.14",
        "the sigmoid's other half",
        "agent.py",
        "(-out.done_logit[:, 0]).sigmoid()",
        "1 - out.done_logit[:, 0].sigmoid()",
    ),
]
