"""Correct answers for paper 4, written differently."""

from tests.chaffs import WHOLE, Chaff

WHEATS = [
    Chaff("4.1", "copysign", "symlog.py", WHOLE, "return torch.copysign(torch.log1p(torch.abs(x)), x)"),
    Chaff(
        "4.1",
        "one side of zero after the other",
        "symlog.py",
        WHOLE,
        "return torch.log1p(x.clamp(min=0)) - torch.log1p(-x.clamp(max=0))",
    ),
    Chaff(
        "4.1", "of x times its sign", "symlog.py", WHOLE, "sign = torch.sign(x)\nreturn sign * torch.log1p(sign * x)"
    ),
    Chaff(
        "4.2",
        "filled in from both ends",
        "symlog.py",
        WHOLE,
        """
        bins, half = torch.zeros(count), (count + 1) // 2
        for k, x in enumerate(torch.linspace(-low, 0, half)):
            bins[k], bins[-1 - k] = -torch.expm1(x), torch.expm1(x)
        return bins
        """,
    ),
    Chaff(
        "4.2",
        "the upper half first, in float64",
        "symlog.py",
        WHOLE,
        """
        upper = torch.expm1(torch.linspace(0, -low, (count + 1) // 2, dtype=torch.float64)).float()
        lower = -torch.flip(upper, [0])
        return torch.hstack((lower[:-1], upper) if count % 2 else (lower, upper))
        """,
    ),
    Chaff(
        "4.3",
        "as the official code: one-hot codes of both neighbours, by the other's distance",
        "symlog.py",
        WHOLE,
        """
        last = len(bins) - 1
        below = ((bins <= x[..., None]).sum(-1) - 1).clamp(0, last)
        above = (len(bins) - (bins > x[..., None]).sum(-1)).clamp(0, last)
        equal = below == above
        to_below = torch.where(equal, 1.0, (bins[below] - x).abs())
        to_above = torch.where(equal, 1.0, (bins[above] - x).abs())
        total = to_below + to_above
        one_hot = lambda index: torch.nn.functional.one_hot(index, len(bins)).float()
        return one_hot(below) * (to_above / total)[..., None] + one_hot(above) * (to_below / total)[..., None]
        """,
    ),
    Chaff(
        "4.3",
        "rows of the identity, the other side's equality",
        "symlog.py",
        WHOLE,
        """
        with torch.no_grad():
            inside = torch.minimum(torch.maximum(x, bins[0]), bins[-1])
            right = torch.bucketize(inside, bins).clamp(min=1)
            left = right - 1
            share = (inside - bins[left]) / (bins[right] - bins[left])
            eye = torch.eye(len(bins))
            return torch.lerp(eye[left], eye[right], share[..., None])
        """,
    ),
    Chaff(
        "4.3",
        "number by number",
        "symlog.py",
        WHOLE,
        """
        code = torch.zeros(x.numel(), len(bins))
        for row, number in zip(code, x.detach().flatten()):
            if number >= bins[-1]:
                row[-1] = 1
            elif number <= bins[0]:
                row[0] = 1
            else:
                k = int((bins <= number).nonzero()[-1])
                row[k] = (bins[k + 1] - number) / (bins[k + 1] - bins[k])
                row[k + 1] = 1 - row[k]
        return code.reshape(*x.shape, len(bins))
        """,
    ),
    Chaff(
        "4.4",
        "every pair twice, and half of it",
        "symlog.py",
        WHOLE,
        "terms = torch.softmax(self.logits, -1) * self.bins\nreturn 0.5 * (terms + terms.flip(-1)).sum(-1)",
    ),
    Chaff(
        "4.4",
        "as the official code: three parts",
        "symlog.py",
        WHOLE,
        """
        n, probs = self.logits.shape[-1], self.logits.softmax(-1)
        low, middle, high = (probs * self.bins).split([n // 2, n % 2, n // 2], -1)
        return middle.sum(-1) + (low.flip(-1) + high).sum(-1)
        """,
    ),
    Chaff(
        "4.5",
        "block by block",
        "world_model.py",
        WHOLE,
        """
        outputs = []
        for part, weight in zip(x.split(self.own, -1), self.weight):
            seen = part if shared is None else torch.cat([part, shared], -1)
            outputs.append(seen @ weight)
        return torch.cat(outputs, -1) + self.bias
        """,
    ),
    Chaff(
        "4.5",
        "einsum over what each block sees",
        "world_model.py",
        WHOLE,
        """
        seen = x.reshape(len(x), self.blocks, -1)
        if shared is not None:
            seen = torch.cat([seen, shared[:, None].expand(-1, self.blocks, -1)], 2)
        return torch.einsum("bki,kio->bko", seen, self.weight).reshape(len(x), -1) + self.bias
        """,
    ),
    Chaff(
        "4.5",
        "one dense layer, 0 between the blocks",
        "world_model.py",
        WHOLE,
        """
        y = F.linear(x, torch.block_diag(*self.weight[:, : self.own]).T, self.bias)
        if shared is None:
            return y
        return y + shared @ torch.cat(list(self.weight[:, self.own :]), 1)
        """,
    ),
    Chaff(
        "4.6",
        "searchsorted, and rows of the identity",
        "world_model.py",
        WHOLE,
        """
        probs = (1 - unimix) * torch.softmax(logits, -1) + unimix / logits.shape[-1]
        sums = probs.detach().cumsum(-1).contiguous()
        drawn = torch.searchsorted(sums, uniform.unsqueeze(-1), right=True).squeeze(-1)
        hard = torch.eye(logits.shape[-1])[drawn.clamp(max=logits.shape[-1] - 1)]
        return hard + (probs - probs.detach())
        """,
    ),
    Chaff(
        "4.6",
        "a function with a backward of its own",
        "world_model.py",
        WHOLE,
        """
        class StraightThrough(torch.autograd.Function):
            @staticmethod
            def forward(ctx, logits, uniform):
                soft = logits.softmax(-1)
                ctx.save_for_backward(soft)
                above = ((1 - unimix) * soft + unimix / logits.shape[-1]).cumsum(-1) > uniform[..., None]
                above[..., -1] = True
                before = torch.cat([torch.zeros_like(above[..., :1]), above[..., :-1]], -1)
                return (above & ~before).to(logits)

            @staticmethod
            def backward(ctx, gradient):
                (soft,) = ctx.saved_tensors
                return (1 - unimix) * soft * (gradient - (soft * gradient).sum(-1, keepdim=True)), None

        return StraightThrough.apply(logits, uniform)
        """,
    ),
    Chaff(
        "4.6",
        "class by class, the ones scattered",
        "world_model.py",
        WHOLE,
        """
        probs = torch.exp(log_probs(logits, unimix))
        with torch.no_grad():
            drawn, reached = torch.zeros_like(uniform, dtype=torch.long), torch.zeros_like(uniform)
            for k in range(logits.shape[-1] - 1):
                reached = reached + probs[..., k]
                drawn += reached <= uniform
            sample = torch.zeros_like(probs).scatter_(-1, drawn.unsqueeze(-1), 1.0)
        return (probs - probs.detach()).add(sample)
        """,
    ),
    Chaff(
        "4.7",
        "block by block",
        "world_model.py",
        WHOLE,
        """
        x = torch.hstack((self.deter_in(deter), self.stoch_in(stoch), action))
        hidden = nn.SiLU()(self.core_norm(self.core_hidden(deter, x)))
        new = []
        for gates, old in zip(self.core_gates(hidden).chunk(self.blocks, -1), deter.chunk(self.blocks, -1)):
            reset, candidate, update = gates.chunk(3, -1)
            new.append(torch.lerp(old, (reset.sigmoid() * candidate).tanh(), (update - 1).sigmoid()))
        return torch.cat(new, -1)
        """,
    ),
    Chaff(
        "4.7",
        "gates by a permutation, 1 - update as a sigmoid",
        "world_model.py",
        WHOLE,
        """
        shared = torch.cat([self.deter_in(deter), self.stoch_in(stoch), action], 1)
        z = self.core_norm(self.core_hidden(deter, shared))
        gates = self.core_gates(z * z.sigmoid()).reshape(len(deter), self.blocks, 3, -1).permute(2, 0, 1, 3)
        reset, candidate, update = gates.reshape(3, len(deter), -1)
        keep = torch.sigmoid(1 - update)
        return keep * deter + (1 - keep) * torch.tanh(reset.sigmoid() * candidate)
        """,
    ),
    Chaff(
        "4.8",
        "a plain loop",
        "world_model.py",
        WHOLE,
        """
        state, states, logits = start, [], []
        for t in range(tokens.shape[1]):
            first = is_first[:, t, None]
            deter, stoch = (torch.where(first, 0.0, x) for x in state)
            action = self.embed_action(torch.where(first, 0.0, prev_action[:, t]))
            deter = self.core(deter, stoch, action)
            out = self.post_out(self.post_in(torch.hstack((deter, tokens[:, t]))))
            logits.append(out.reshape(len(out), self.stoch, self.classes))
            stoch = sample_latent(logits[-1], noise[:, t], self.unimix).reshape(len(out), -1)
            state = State(deter, stoch)
            states.append(state)
        deters, stochs = zip(*states)
        return State(torch.stack(deters, dim=1), torch.stack(stochs, dim=1)), torch.stack(logits, dim=1)
        """,
    ),
    Chaff(
        "4.8",
        "masks in front, the state as one tensor",
        "world_model.py",
        WHOLE,
        """
        keep = 1.0 - is_first.float()
        embedded = self.embed_action(keep[..., None] * prev_action)
        feat, feats, logits = start.feat, [], []
        for t, (token, action, go_on, chance) in enumerate(
            zip(*(x.transpose(0, 1) for x in (tokens, embedded, keep[..., None], noise)))
        ):
            deter, stoch = (feat * go_on).split([self.deter, self.stoch * self.classes], -1)
            deter = self.core(deter, stoch, action)
            logit = self.post_out(self.post_in(torch.cat([deter, token], -1))).view(-1, self.stoch, self.classes)
            feat = torch.cat([deter, sample_latent(logit, chance, self.unimix).flatten(1)], -1)
            feats.append(feat)
            logits.append(logit)
        deters, stochs = torch.stack(feats, 1).split([self.deter, self.stoch * self.classes], -1)
        return State(deter=deters, stoch=stochs), torch.stack(logits, 1)
        """,
    ),
    Chaff(
        "4.9",
        "F.kl_div",
        "world_model.py",
        WHOLE,
        """
        p, q = log_probs(post, unimix), log_probs(prior, unimix)
        dyn = F.kl_div(q, p.detach(), log_target=True, reduction="none").sum(-1).sum(-1)
        rep = F.kl_div(q.detach(), p, log_target=True, reduction="none").sum(-1).sum(-1)
        return torch.clip(dyn, min=free_nats), torch.clip(rep, min=free_nats)
        """,
    ),
    Chaff(
        "4.9",
        "the cross entropy less the entropy, of probabilities",
        "world_model.py",
        WHOLE,
        """
        mix = lambda logits: (1 - unimix) * logits.softmax(-1) + unimix / logits.shape[-1]

        def loss(p, q):
            kl = torch.einsum("btvc,btvc->bt", p, torch.log(p)) - torch.einsum("btvc,btvc->bt", p, torch.log(q))
            return torch.maximum(kl, torch.full_like(kl, free_nats))

        return loss(mix(post.detach()), mix(prior)), loss(mix(post), mix(prior.detach()))
        """,
    ),
    Chaff(
        "4.9",
        "both losses in one tensor",
        "world_model.py",
        WHOLE,
        """
        p = log_probs(torch.stack([post.detach(), post]), unimix)
        q = log_probs(torch.stack([prior, prior.detach()]), unimix)
        dyn, rep = ((p - q) * p.exp()).flatten(3).sum(-1).clamp(min=free_nats)
        return dyn, rep
        """,
    ),
    Chaff(
        "4.9",
        "torch.distributions",
        "world_model.py",
        WHOLE,
        """
        def of(logits):
            return torch.distributions.Categorical(logits=log_probs(logits, unimix), validate_args=False)

        pairs = (of(post.detach()), of(prior)), (of(post), of(prior.detach()))
        dyn, rep = (torch.distributions.kl_divergence(p, q).sum(2) for p, q in pairs)
        return dyn.where(dyn > free_nats, free_nats), rep.where(rep > free_nats, free_nats)
        """,
    ),
    Chaff(
        "4.10",
        "part by part",
        "world_model.py",
        WHOLE,
        """
        def seen(gradient: bool):
            return post if gradient else State(deter=post.deter.detach(), stoch=post.stoch.detach())

        losses = {}
        means = model.decoder(*seen(config.recon_grad))
        if "image" in means:
            losses["image"] = torch.pow(batch["image"] - means["image"], 2).sum((-3, -2, -1))
        if "vector" in means:
            losses["vector"] = torch.pow(symlog(batch["vector"]) - means["vector"], 2).sum(-1)
        logit, goes_on = model.cont_logit(post.feat), ~batch["is_terminal"]
        cost = F.softplus(logit) - goes_on * config.discount * logit
        prior = model.rssm.prior(post.deter)
        dyn, rep = kl_losses(post=post_logits, prior=prior, free_nats=config.free_nats, unimix=config.unimix)
        reward = model.reward(seen(config.reward_grad).feat).loss(batch["reward"])
        return {**losses, "rep": rep, "dyn": dyn, "cont": cost, "reward": reward}
        """,
    ),
    Chaff(
        "4.10",
        "the log probabilities of going on and of the end; squared errors of F",
        "world_model.py",
        WHOLE,
        """
        deter, stoch = post
        decoded_from = (deter, stoch) if config.recon_grad else (deter.detach(), stoch.detach())
        means = model.decoder(*decoded_from)
        targets = {key: batch[key] for key in means}
        if "vector" in targets:
            targets["vector"] = symlog(targets["vector"])
        losses = {}
        for key in means:
            error = F.mse_loss(means[key], targets[key], reduction="none")
            losses[key] = error.reshape(*deter.shape[:2], -1).sum(2)
        feat = torch.cat([deter, stoch], -1)
        losses["reward"] = model.reward(feat if config.reward_grad else feat.detach()).loss(batch["reward"])
        label = torch.where(batch["is_terminal"], 0.0, config.discount)
        logit = model.cont_logit(feat)
        losses["cont"] = -(label * F.logsigmoid(logit) + (1 - label) * F.logsigmoid(-logit))
        losses["dyn"], losses["rep"] = kl_losses(post_logits, model.rssm.prior(deter), config.free_nats, config.unimix)
        return losses
        """,
    ),
    Chaff(
        "4.11",
        "the last action behind the loop",
        "actor_critic.py",
        WHOLE,
        """
        def act(state, k):
            return actor(state.feat.detach()).sample(action_noise[:, k])

        horizon = latent_noise.shape[1]
        state = State(start.deter.detach(), start.stoch.detach())
        feats, actions = [state.feat], []
        for k in range(horizon):
            action = act(state, k)
            state = rssm.img_step(state, action, latent_noise[:, k])
            actions.append(action)
            feats.append(state.feat)
        actions.append(act(state, horizon))
        return torch.stack(feats, dim=1), torch.stack(actions, dim=1)
        """,
    ),
    Chaff(
        "4.11",
        "columns joined as they come",
        "actor_critic.py",
        WHOLE,
        """
        state = State(*map(torch.Tensor.detach, start))
        feats = state.feat.unsqueeze(1)
        actions = actor(feats[:, 0]).sample(action_noise[:, 0]).unsqueeze(1)
        for latent, chance in zip(latent_noise.unbind(1), action_noise[:, 1:].unbind(1)):
            state = rssm.img_step(prev=state, prev_action=actions[:, -1], noise=latent)
            feats = torch.cat([feats, state.feat.unsqueeze(1)], 1)
            action = actor(feats[:, -1].detach()).sample(chance)
            actions = torch.cat([actions, action.unsqueeze(1)], 1)
        return feats, actions
        """,
    ),
    Chaff(
        "4.12",
        "lerp, from behind, into a list of its own order",
        "actor_critic.py",
        WHOLE,
        """
        returns = [value[:, -1]]
        for r, c, v in zip(reward.T.flip(0)[:-1], cont.T.flip(0)[:-1], value.T.flip(0)[:-1]):
            returns.insert(0, r + c * ((1 - lam) * v + lam * returns[0]))
        return torch.stack(returns[:-1], dim=1)
        """,
    ),
    Chaff(
        "4.12",
        "a system of equations",
        "actor_critic.py",
        WHOLE,
        """
        steps = reward.shape[1] - 1
        known = reward[:, 1:] + (1 - lam) * cont[:, 1:] * value[:, 1:]
        known = torch.cat([known[:, :-1], known[:, -1:] + lam * cont[:, -1:] * value[:, -1:]], 1)
        matrix = torch.eye(steps, dtype=reward.dtype) - torch.diag_embed(lam * cont[:, 1:-1], offset=1)
        return torch.linalg.solve_triangular(matrix, known[..., None], upper=True)[..., 0]
        """,
    ),
    Chaff(
        "4.12",
        "recursion",
        "actor_critic.py",
        WHOLE,
        """
        behind = value[:, -1:]
        if reward.shape[1] > 2:
            behind = lambda_returns(reward[:, 1:], cont[:, 1:], value[:, 1:], lam)
        mixed = (1 - lam) * value[:, 1:2] + lam * behind[:, :1]
        first = reward[:, 1:2] + cont[:, 1:2] * mixed
        return torch.cat([first, behind], 1) if reward.shape[1] > 2 else first
        """,
    ),
    Chaff(
        "4.13",
        "torch.where",
        "actor_critic.py",
        WHOLE,
        """
        returns, ahead = torch.empty_like(reward[:, 1:]), bootstrap[:, -1]
        for t in range(reward.shape[1] - 2, -1, -1):
            mixed = torch.lerp(bootstrap[:, t + 1], ahead, lam)
            future = torch.where(is_last[:, t + 1], bootstrap[:, t + 1], mixed)
            ahead = reward[:, t + 1] + torch.where(is_terminal[:, t + 1], 0.0, discount * future)
            returns[:, t] = ahead
        return returns
        """,
    ),
    Chaff(
        "4.13",
        "the returns of imagination, with a lam for each row",
        "actor_critic.py",
        WHOLE,
        """
        cont = discount * is_terminal.logical_not()
        mix = lam * (1 - is_last.to(reward.dtype))
        known = reward + cont * (1 - mix) * bootstrap
        returns = [bootstrap[:, -1]]
        for each, factor in zip(known.unbind(1)[:0:-1], (cont * mix).unbind(1)[:0:-1]):
            returns.append(each + factor * returns[-1])
        return torch.stack(returns[:0:-1], 1)
        """,
    ),
    Chaff(
        "4.14",
        "sorted, and interpolated by hand",
        "actor_critic.py",
        WHOLE,
        """
        ordered = returns.detach().float().reshape(-1).sort().values
        for buffer, q in ((self.low, 0.05), (self.high, 0.95)):
            place = q * (len(ordered) - 1)
            below = int(place)
            above = min(below + 1, len(ordered) - 1)
            percentile = ordered[below] + (place - below) * (ordered[above] - ordered[below])
            buffer.copy_((1 - self.rate) * buffer + self.rate * percentile)
        spread = self.high - self.low
        return torch.maximum(spread, torch.full_like(spread, self.limit))
        """,
    ),
    Chaff(
        "4.14",
        "new buffers",
        "actor_critic.py",
        WHOLE,
        """
        flat = returns.to(torch.float32).ravel()
        self.low = self.low + self.rate * (flat.quantile(0.05) - self.low)
        self.high = self.high + self.rate * (flat.quantile(0.95) - self.high)
        return torch.clip(self.high - self.low, min=self.limit)
        """,
    ),
    Chaff(
        "4.15",
        "two losses",
        "actor_critic.py",
        WHOLE,
        """
        with torch.no_grad():
            factor, bonus = weight * advantage, weight * entropy_scale
        reinforce = -policy.log_prob(action.clone().detach()) * factor.detach()
        return reinforce - bonus.detach() * policy.entropy()
        """,
    ),
    Chaff(
        "4.15",
        "the merit, a penalty for certainty",
        "actor_critic.py",
        WHOLE,
        """
        action, advantage, weight = (x.detach() for x in (action, advantage, weight))
        loss = torch.mul(policy.log_prob(action), advantage)
        loss = torch.add(loss, policy.entropy(), alpha=entropy_scale)
        return torch.neg(loss * weight)
        """,
    ),
    Chaff(
        "4.16",
        "both losses stacked",
        "actor_critic.py",
        WHOLE,
        """
        losses = torch.stack([predicted.loss(each) for each in (returns.detach(), slow.mean().detach())], -1)
        return torch.mul(losses @ torch.tensor([1.0, slow_scale]), weight.detach())
        """,
    ),
    Chaff(
        "4.16",
        "target by target",
        "actor_critic.py",
        WHOLE,
        """
        with torch.no_grad():
            targets = ((1.0, returns.clone()), (slow_scale, slow.mean()))
            weight = weight.clone()
        return sum(weight * scale * predicted.loss(target) for scale, target in targets)
        """,
    ),
    Chaff(
        "4.17",
        "parameter by parameter",
        "optimizer.py",
        WHOLE,
        """
        found, (b1, b2), n = [], group["betas"], group["steps"]
        for p, g, square, mean in zip(parameters, gradients, rms, momentum):
            limit = group["agc"] * max(group["min_norm"], p.norm().item())
            norm = g.norm().item()
            if norm > limit:
                g = g * (limit / norm)
            square.copy_(b2 * square + (1 - b2) * g**2)
            g = g / ((square / (1 - b2**n)).sqrt() + group["eps"])
            mean.copy_(b1 * mean + (1 - b1) * g)
            found.append(mean / (1 - b1**n))
        return found
        """,
    ),
    Chaff(
        "4.17",
        "vector norms and in-place steps",
        "optimizer.py",
        WHOLE,
        """
        b1, b2 = group["betas"]
        debias1, debias2 = (1 - b ** group["steps"] for b in (b1, b2))
        directions = []
        for i in range(len(parameters)):
            size = torch.linalg.vector_norm(gradients[i])
            most = torch.linalg.vector_norm(parameters[i]).clamp(min=group["min_norm"]) * group["agc"]
            clipped = torch.where(size > most, gradients[i] * (most / size), gradients[i])
            rms[i].mul_(b2).add_((1 - b2) * clipped.square())
            momentum[i].lerp_(clipped.div(torch.sqrt(rms[i] / debias2) + group["eps"]), 1 - b1)
            directions.append(momentum[i].clone().div_(debias1))
        return directions
        """,
    ),
]
