"""Correct answers for paper 3, written differently."""

from tests.chaffs import WHOLE, Chaff

WHEATS = [
    Chaff(
        "3.1",
        "scattered ones",
        "utils.py",
        WHOLE,
        """
        drawn = torch.argmax(logits + gumbel, dim=-1, keepdim=True)
        hard = torch.zeros_like(logits).scatter(-1, drawn, 1.0)
        soft = torch.softmax(logits, dim=-1)
        return hard + (soft - soft.detach())
        """,
    ),
    Chaff(
        "3.1",
        "a function with a backward of its own",
        "utils.py",
        WHOLE,
        """
        class StraightThrough(torch.autograd.Function):
            @staticmethod
            def forward(ctx, logits, gumbel):
                ctx.save_for_backward(logits.softmax(-1))
                return torch.eye(logits.shape[-1]).to(logits)[(logits + gumbel).argmax(-1)]

            @staticmethod
            def backward(ctx, gradient):
                (probs,) = ctx.saved_tensors
                return probs * (gradient - (probs * gradient).sum(-1, keepdim=True)), None

        return StraightThrough.apply(logits, gumbel)
        """,
    ),
    Chaff(
        "3.1",
        "torch.distributions, and the gradient added to a detached sample",
        "utils.py",
        WHOLE,
        """
        categorical = torch.distributions.OneHotCategorical(logits=logits, validate_args=False)
        with torch.no_grad():
            noisy = logits + gumbel
            sample = (noisy.max(-1, keepdim=True).indices == torch.arange(noisy.shape[-1])).to(noisy)
        return categorical.probs.sub(categorical.probs.detach()).add(sample)
        """,
    ),
    Chaff(
        "3.2",
        "one side of zero after the other",
        "utils.py",
        WHOLE,
        """
        match kind:
            case "none":
                return reward
            case "tanh":
                return torch.tanh(reward)
        return torch.log1p(reward.clamp(min=0)) - torch.log1p(-reward.clamp(max=0))
        """,
    ),
    Chaff(
        "3.2",
        "a table of functions, which return copies",
        "utils.py",
        WHOLE,
        """
        transforms = {
            "none": torch.clone,
            "tanh": torch.nn.Tanh(),
            "symlog": lambda r: torch.copysign(torch.log1p(torch.abs(r)), r),
        }
        return transforms[kind](reward)
        """,
    ),
    Chaff(
        "3.3",
        "written out, the caller's gradients left as they are",
        "utils.py",
        WHOLE,
        """
        norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
        scale = clip / norm.clamp(min=clip)
        at = 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = gradients[at] * scale
                parameter.data *= 1 - weight_decay
                at += 1
        optimizer.step()
        return norm
        """,
    ),
    Chaff(
        "3.3",
        "the norm of one long vector; the decay subtracted",
        "utils.py",
        WHOLE,
        """
        norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
        if norm > clip:
            gradients = [gradient / norm * clip for gradient in gradients]
        optimizer.zero_grad()
        parameters = sum((group["params"] for group in optimizer.param_groups), [])
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter.sub_(weight_decay * parameter)
                parameter.grad = gradient.clone()
        optimizer.step()
        return norm
        """,
    ),
    Chaff(
        "3.4",
        "F.kl_div",
        "rssm.py",
        WHOLE,
        """
        shape = (*post.shape[:-1], self.variables, self.classes)
        log_p, log_q = F.log_softmax(post.reshape(shape), -1), F.log_softmax(prior.reshape(shape), -1)
        return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).sum(-1)
        """,
    ),
    Chaff(
        "3.4",
        "logsumexp and einsum",
        "rssm.py",
        WHOLE,
        """
        p, q = self.logits(post), self.logits(prior)
        p = p - torch.logsumexp(p, -1, keepdim=True)
        q = q - torch.logsumexp(q, -1, keepdim=True)
        return torch.einsum("...vc,...vc->...", p.exp(), p - q)
        """,
    ),
    Chaff(
        "3.4",
        "variable by variable, the cross entropy less the entropy",
        "rssm.py",
        WHOLE,
        """
        total = torch.zeros_like(post[..., 0])
        for p, q in zip(post.split(self.classes, -1), prior.split(self.classes, -1)):
            probs = p.softmax(-1)
            total = total - (probs * q.log_softmax(-1)).sum(-1) + (probs * p.log_softmax(-1)).sum(-1)
        return total
        """,
    ),
    Chaff(
        "3.5",
        "the weight in two shares, slices, lerp",
        "rssm.py",
        WHOLE,
        """
        inputs, size = x.shape[1], h.shape[1]
        weight = self.layer.weight
        gates = self.norm(x @ weight[:, :inputs].T + h @ weight[:, inputs:].T + self.layer.bias)
        reset = gates[:, :size].sigmoid()
        candidate = (reset * gates[:, size : 2 * size]).tanh()
        return torch.lerp(h, candidate, (gates[:, 2 * size :] + self.update_bias).sigmoid())
        """,
    ),
    Chaff(
        "3.5",
        "the layer norm written out",
        "rssm.py",
        WHOLE,
        """
        z = self.layer(torch.hstack([x, h]))
        center = z - z.mean(-1, keepdim=True)
        z = center / (center.square().mean(-1, keepdim=True) + 1e-3).sqrt() * self.norm.weight + self.norm.bias
        reset, candidate, update = z.unflatten(-1, (3, -1)).unbind(-2)
        keep = nn.Sigmoid()(-update - self.update_bias)
        return keep * h + (1 - keep) * nn.Tanh()(nn.Sigmoid()(reset) * candidate)
        """,
    ),
    Chaff(
        "3.6",
        "img_in in two shares, the state by name",
        "rssm.py",
        WHOLE,
        """
        of_stoch, of_action = self.img_in.weight.split([prev.stoch.shape[1], prev_action.shape[1]], dim=1)
        x = nn.ELU()(prev.stoch @ of_stoch.T + prev_action @ of_action.T + self.img_in.bias)
        deter = self.cell(x, prev.deter)
        raw = self.img_dist(nn.ELU()(self.img_out(deter)))
        return State(raw=raw, stoch=self.latent.sample(raw, noise), deter=deter)
        """,
    ),
    Chaff(
        "3.6",
        "a pipeline, the old state replaced",
        "rssm.py",
        WHOLE,
        """
        deter = self.cell(nn.Sequential(self.img_in, nn.ELU())(torch.hstack((prev.stoch, prev_action))), prev.deter)
        raw = nn.Sequential(self.img_out, nn.ELU(), self.img_dist)(deter)
        return prev._replace(deter=deter, raw=raw, stoch=self.latent.sample(raw, noise))
        """,
    ),
    Chaff(
        "3.7",
        "the initial state where an episode begins",
        "rssm.py",
        WHOLE,
        """
        first = is_first.unsqueeze(-1)
        prev = State(*(torch.where(first, new, old) for new, old in zip(self.initial(len(embed)), prev)))
        prior = self.img_step(prev, prev_action.masked_fill(first, 0), noise=noise)
        raw = self.obs_dist(nn.ELU()(self.obs_out(torch.hstack([prior.deter, embed]))))
        return prior._replace(stoch=self.latent.sample(raw, noise), raw=raw), prior
        """,
    ),
    Chaff(
        "3.7",
        "rows of copies set to zero, obs_out in two shares",
        "rssm.py",
        WHOLE,
        """
        prev, prev_action = State(*(x.clone() for x in prev)), prev_action.clone()
        for x in (*prev, prev_action):
            x[is_first] = 0
        prior = self.img_step(prev, prev_action, noise)
        of_deter, of_embed = self.obs_out.weight.split([self.deter, embed.shape[-1]], dim=-1)
        x = F.linear(prior.deter, of_deter, self.obs_out.bias) + F.linear(embed, of_embed)
        raw = self.obs_dist(F.elu(x))
        return State(deter=prior.deter, stoch=self.latent.sample(raw, noise), raw=raw), prior
        """,
    ),
    Chaff(
        "3.8",
        "a loop over obs_step",
        "rssm.py",
        WHOLE,
        """
        state, posts, priors = self.initial(embed.shape[0]), [], []
        for t in range(embed.shape[1]):
            state, prior = self.obs_step(state, prev_action[:, t], embed[:, t], is_first[:, t], noise[:, t])
            posts.append(state)
            priors.append(prior)
        stack = lambda states: State(*(torch.stack(parts, dim=1) for parts in zip(*states, strict=True)))
        return stack(posts), stack(priors)
        """,
    ),
    Chaff(
        "3.8",
        "time first inside, the priors of all steps at once",
        "rssm.py",
        WHOLE,
        """
        embeds, actions, firsts, eps = (x.transpose(0, 1) for x in (embed, prev_action, is_first, noise))
        zero = self.initial(embed.shape[0])
        deter, stoch, post = zero.deter, zero.stoch, []
        for t in range(embed.shape[1]):
            first = firsts[t][:, None]
            seen = torch.cat([torch.where(first, zero.stoch, stoch), actions[t].masked_fill(first, 0)], -1)
            deter = self.cell(F.elu(self.img_in(seen)), torch.where(first, zero.deter, deter))
            raw = self.obs_dist(F.elu(self.obs_out(torch.cat([deter, embeds[t]], -1))))
            stoch = self.latent.sample(raw, eps[t])
            post.append(State(deter, stoch, raw))
        post = State(*(torch.stack(x).transpose(0, 1) for x in zip(*post)))
        raw = self.img_dist(F.elu(self.img_out(post.deter)))
        return post, post._replace(raw=raw, stoch=self.latent.sample(raw, noise))
        """,
    ),
    Chaff(
        "3.9",
        "the floor on the weighted sum: both halves have the same value",
        "rssm.py",
        WHOLE,
        """
        kl = latent.kl(post.raw, prior.raw)
        if balance is not None:
            kl = balance * latent.kl(post.raw.detach(), prior.raw) + (1 - balance) * latent.kl(
                post.raw, prior.raw.detach()
            )
        value = kl.mean()
        loss = torch.clamp(kl, min=free_nats).mean() if free_before_mean else torch.clamp(value, min=free_nats)
        return loss, value
        """,
    ),
    Chaff(
        "3.9",
        "gradients mixed, values alike; the floor by where",
        "rssm.py",
        WHOLE,
        """
        part = lambda x, share: share * x + (1 - share) * x.detach()
        give, take = (1.0, 1.0) if balance is None else (1 - balance, balance)
        kl = latent.kl(part(post.raw, give), part(prior.raw, take))
        floor = lambda x: torch.where(x > free_nats, x, torch.full_like(x, free_nats))
        return (floor(kl).mean() if free_before_mean else floor(kl.mean())), kl.detach().mean()
        """,
    ),
    Chaff(
        "3.9",
        "both halves computed only where they count",
        "rssm.py",
        WHOLE,
        """
        stop = lambda state: State(*(x.detach() for x in state))
        floor = nn.Threshold(free_nats, free_nats)

        def half(post, prior):
            kl = latent.kl(post.raw, prior.raw)
            return floor(kl).mean() if free_before_mean else floor(kl.mean())

        kl = latent.kl(post.raw, prior.raw).mean()
        if balance is None:
            return half(post, prior), kl
        loss = kl.new_zeros(())
        if balance > 0:
            loss = loss + balance * half(stop(post), prior)
        if balance < 1:
            loss = loss + (1 - balance) * half(post, stop(prior))
        return loss, kl
        """,
    ),
    Chaff(
        "3.10",
        "detached by hand, feats at the end",
        "actor_critic.py",
        WHOLE,
        """
        states, actions = [State(start.deter.detach(), start.stoch.detach(), start.raw.detach())], []
        while len(actions) < horizon:
            state = states[-1]
            seen = torch.cat([state.deter, state.stoch], dim=-1).detach()
            actions.append(actor(seen).rsample())
            noise = rssm.latent.noise(state.deter.shape[:1], state.deter.device)
            states.append(rssm.img_step(state, actions[-1], noise))
        feats = torch.cat([torch.stack([s.deter for s in states], 1), torch.stack([s.stoch for s in states], 1)], -1)
        actions = torch.stack(actions, dim=1)
        return feats, torch.cat([torch.zeros_like(actions[:, :1]), actions], dim=1)
        """,
    ),
    Chaff(
        "3.10",
        "recursively",
        "actor_critic.py",
        WHOLE,
        """
        def roll(state, steps):
            if not steps:
                return [state.feat], []
            with torch.no_grad():
                seen = state.feat.clone()
            action = actor(seen).rsample()
            feats, actions = roll(rssm.img_step(state, action), steps - 1)
            return [state.feat, *feats], [action, *actions]

        feats, actions = roll(State._make(x.detach() for x in start), horizon)
        return torch.stack(feats, 1), nn.functional.pad(torch.stack(actions, 1), (0, 0, 1, 0))
        """,
    ),
    Chaff(
        "3.10",
        "the actions that are returned without gradient: it is the states that carry it",
        "actor_critic.py",
        "actions.append(action)",
        "actions.append(action.detach())",
    ),
    Chaff(
        "3.11",
        "in a loop",
        "actor_critic.py",
        WHOLE,
        """
        start = torch.where(is_terminal, torch.zeros_like(predicted[:, 0]), torch.full_like(predicted[:, 0], discount))
        discounts = [start, *predicted.unbind(1)[1:]]
        weight, weights = torch.ones_like(start), []
        for each in discounts:
            weights.append(weight)
            weight = weight * each.detach()
        return torch.stack(discounts, 1), torch.stack(weights, 1)
        """,
    ),
    Chaff(
        "3.11",
        "a copy written to, and a sum of logarithms",
        "actor_critic.py",
        WHOLE,
        """
        discounts = predicted.clone()
        discounts[:, 0] = discount
        discounts[is_terminal, 0] = 0.0
        with torch.no_grad():
            weights = nn.functional.pad(discounts.log().cumsum(1), (1, -1)).exp()
        return discounts, weights
        """,
    ),
    Chaff(
        "3.11",
        "the product taken of all, and moved on by one",
        "actor_critic.py",
        WHOLE,
        """
        discounts = torch.hstack([(1 - is_terminal.float()).unsqueeze(1) * discount, predicted[:, 1:]])
        products = torch.cumprod(discounts.detach(), dim=1).roll(1, dims=1)
        products[:, 0] = 1.0
        return discounts, products
        """,
    ),
    Chaff(
        "3.12",
        "the recursion as it is printed",
        "actor_critic.py",
        WHOLE,
        """
        last = reward.size(1) - 1
        returns = [None] * last + [value[:, last]]
        for k in range(last - 1, -1, -1):
            follows = (1 - lam) * value[:, k + 1] + lam * returns[k + 1]
            returns[k] = reward[:, k] + discount[:, k] * follows
        return torch.stack(returns[:last], dim=-1)
        """,
    ),
    Chaff(
        "3.12",
        "temporal differences, added to the values",
        "actor_critic.py",
        WHOLE,
        """
        delta = reward[:, :-1] + discount[:, :-1] * value[:, 1:] - value[:, :-1]
        advantage, advantages = torch.zeros_like(value[:, 0]), []
        for k in range(delta.shape[1])[::-1]:
            advantage = delta[:, k] + discount[:, k] * lam * advantage
            advantages.insert(0, advantage)
        return value[:, :-1] + torch.stack(advantages, 1)
        """,
    ),
    Chaff(
        "3.12",
        "as a system of linear equations",
        "actor_critic.py",
        WHOLE,
        """
        reward, discount, steps = reward[:, :-1], discount[:, :-1], reward.shape[1] - 1
        known = reward + discount * (1 - lam) * value[:, 1:]
        bootstrap = discount[:, -1:] * lam * value[:, -1:]
        known = torch.cat([known[:, :-1], known[:, -1:] + bootstrap], 1)
        shift = torch.diag_embed(lam * discount[:, :-1], offset=1)
        return torch.linalg.solve(torch.eye(steps).to(reward) - shift, known[..., None])[..., 0]
        """,
    ),
    Chaff(
        "3.13",
        "entry by entry, the actor asked for each",
        "actor_critic.py",
        WHOLE,
        """
        total, entropies, terms = 0.0, [], feat.shape[1] - 2
        for k in range(terms):
            policy = actor(feat[:, k].detach())
            merit = returns[:, k + 1] if advantage == "next" else returns[:, k]
            objective = entropy_scale * policy.entropy()
            entropies.append(policy.entropy().mean())
            if gradient != "dynamics":
                share = 1.0 if gradient == "reinforce" else 1 - mix
                score = policy.log_prob(action[:, k + 1].detach())
                objective = objective + share * score * (merit.detach() - baseline[:, k].detach())
            if gradient != "reinforce":
                share = 1.0 if gradient == "dynamics" else mix
                objective = objective + share * returns[:, k + 1]
            total = total - (weight[:, k] * objective).mean() / terms
        return total, sum(entropies) / terms
        """,
    ),
    Chaff(
        "3.13",
        "the share of the dynamics as a number, sums and counts, entropy without gradient outside of the loss",
        "actor_critic.py",
        WHOLE,
        """
        dynamics = {"reinforce": 0.0, "dynamics": 1.0, "both": mix}[gradient]
        seen, done, terms = feat.detach()[:, :-2], action.detach()[:, 1:-1], returns.shape[1] - 1
        policy = actor(seen)
        entropy = policy.entropy()
        gain = entropy_scale * entropy
        if dynamics < 1:
            with torch.no_grad():
                shift = {"next": 1, "same": 0}[advantage]
                better = returns[:, shift : shift + terms] - baseline[:, :terms]
            gain = gain + (1 - dynamics) * better * policy.log_prob(done)
        if dynamics > 0:
            gain = gain + dynamics * returns[:, 1:]
        loss = -torch.einsum("nk,nk->", weight[:, :terms], gain) / gain.numel()
        return loss, entropy.detach().mean()
        """,
    ),
    Chaff(
        "3.13",
        "the likelihood ratio, which is 1 and has the gradient of the log probability",
        "actor_critic.py",
        WHOLE,
        """
        policy = actor(feat[:, :-2].detach())
        worth = returns[:, 1:]
        merit = worth if advantage == "next" else returns[:, :-1]
        better = (merit - baseline[:, :-2]).detach()
        parts = [entropy_scale * policy.entropy()]
        if gradient in ("reinforce", "both"):
            log_prob = policy.log_prob(action[:, 1:-1].detach())
            ratio = (log_prob - log_prob.detach()).exp() - 1 + log_prob.detach()
            parts.append((1.0 if gradient == "reinforce" else 1 - mix) * ratio * better)
        if gradient in ("dynamics", "both"):
            parts.append((1.0 if gradient == "dynamics" else mix) * worth)
        return torch.mean(-sum(parts) * weight[:, :-2]), torch.mean(policy.entropy())
        """,
    ),
    Chaff(
        "3.14",
        "torch.distributions, sums and counts",
        "actor_critic.py",
        WHOLE,
        """
        steps, target = returns.shape[1], returns.detach()
        normal = torch.distributions.Normal(critic(feat.detach()[:, :steps]), 1.0)
        return -torch.sum(weight[:, :steps] * normal.log_prob(target)) / target.numel()
        """,
    ),
    Chaff(
        "3.14",
        "the critic asked of every entry, the likelihood written out",
        "actor_critic.py",
        WHOLE,
        """
        *values, _ = critic(feat.detach()).unbind(1)
        losses = []
        for k, value in enumerate(values):
            nll = (value - returns[:, k].detach()) ** 2 / 2 + 0.918938533204672742
            losses.append((weight[:, k] * nll).mean())
        return torch.stack(losses).mean()
        """,
    ),
    Chaff(
        "3.15",
        "weight by weight",
        "actor_critic.py",
        WHOLE,
        """
        self.updates += 1
        if (self.updates - 1) % self.every:
            return
        with torch.no_grad():
            for slow, fast in zip(self.network.parameters(), self.critic.parameters(), strict=True):
                slow.copy_(fast)
        """,
    ),
    Chaff(
        "3.15",
        "a new copy",
        "actor_critic.py",
        WHOLE,
        """
        turn, self.updates = self.updates, self.updates + 1
        if turn in range(0, turn + 1, self.every):
            self.network = copy.deepcopy(self.critic).requires_grad_(False)
        """,
    ),
    Chaff(
        "3.16",
        "one by one, parts without gradient",
        "agent.py",
        WHOLE,
        """
        embed = model.embed(batch)
        post, prior = model.rssm.observe(embed, batch["prev_action"], batch["is_first"], noise)
        options = {"balance": config.kl_balance, "free_nats": config.free_nats}
        kl, raw_kl = kl_loss(model.rssm.latent, post, prior, free_before_mean=config.free_before_mean, **options)
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
        "3.16",
        "torch.distributions, batch and time as one axis",
        "agent.py",
        WHOLE,
        """
        D = torch.distributions
        action, first = batch["prev_action"], batch["is_first"]
        posts, priors = model.rssm.observe(embed=model.embed(batch), prev_action=action, is_first=first, noise=noise)
        parts = {"reward": -D.Normal(model.reward(posts.feat), 1.0).log_prob(batch["reward"]).mean()}
        for key in model.decoders:
            mean, target = model.decoders[key](posts.feat).flatten(0, 1), batch[key].flatten(0, 1)
            parts[key] = -D.Normal(mean, 1.0).log_prob(target).flatten(1).sum(1).mean()
        if model.cont:
            label = config.discount * (1 - batch["is_terminal"].to(torch.float32))
            ends = D.Bernoulli(logits=model.cont(posts.feat), validate_args=False)
            parts["cont"] = -config.continue_scale * ends.log_prob(label).mean()
        free = {"free_nats": config.free_nats, "free_before_mean": config.free_before_mean}
        kl, parts["raw_kl"] = kl_loss(model.rssm.latent, posts, priors, balance=config.kl_balance, **free)
        parts["kl"] = kl * config.kl_scale
        return sum(value for name, value in parts.items() if name != "raw_kl"), parts, posts
        """,
    ),
]
