"""Correct answers for paper 5, written differently."""

from tests.chaffs import WHOLE, Chaff

WHEATS = [
    Chaff(
        "5.1",
        "the SiLU as x * sigmoid(x)",
        "tokenizer.py",
        WHOLE,
        """
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            y = norm(x if conv is self.conv1 else y)
            y = conv(y * torch.sigmoid(y))
        return y.add(self.skip(x))
        """,
    ),
    Chaff(
        "5.1",
        "in place, where it is nobody else's",
        "tokenizer.py",
        WHOLE,
        """
        y = self.conv1(F.silu(self.norm1(x), inplace=True))
        return self.conv2(F.silu(self.norm2(y), inplace=True)) + self.skip(x)
        """,
    ),
    Chaff(
        "5.2",
        "as the official code: bmm",
        "tokenizer.py",
        WHOLE,
        """
        b, c, h, w = x.shape
        y = self.norm(x)
        q = self.q(y).reshape(b, c, h * w).permute(0, 2, 1)
        k, v = (layer(y).reshape(b, c, h * w) for layer in (self.k, self.v))
        weights = (torch.bmm(q, k) * c**-0.5).softmax(dim=2)
        return x + self.proj(torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, h, w))
        """,
    ),
    Chaff(
        "5.2",
        "einsum over heights and widths",
        "tokenizer.py",
        WHOLE,
        """
        y = self.norm(x)
        scores = torch.einsum("bchw,bcij->bhwij", self.q(y) / x.shape[1] ** 0.5, self.k(y))
        weights = scores.flatten(3).softmax(-1).view(scores.shape)
        return self.proj(torch.einsum("bhwij,bcij->bchw", weights, self.v(y))).add(x)
        """,
    ),
    Chaff(
        "5.3",
        "cdist, and an embedding",
        "tokenizer.py",
        WHOLE,
        """
        b, e, h, w = z.shape
        flat = z.movedim(1, -1).reshape(b, h * w, e)
        tokens = torch.cdist(flat, codebook.expand(b, -1, -1)).argmin(-1)
        code = F.embedding(tokens, codebook).view(b, h, w, e).movedim(-1, 1)
        return Quantized(tokens, code, code.detach() + z - z.detach())
        """,
    ),
    Chaff(
        "5.3",
        "all differences, and one-hot rows",
        "tokenizer.py",
        WHOLE,
        """
        vectors = z.flatten(2).mT
        with torch.no_grad():
            tokens = (vectors[:, :, None] - codebook).pow(2).sum(-1).min(-1).indices
        code = (F.one_hot(tokens, len(codebook)).to(z) @ codebook).mT.reshape(z.shape)
        return Quantized(tokens=tokens, code=code, straight=z - (z - code).detach())
        """,
    ),
    Chaff(
        "5.3",
        "without |z|^2, which is the same for all codes",
        "tokenizer.py",
        WHOLE,
        """
        score = torch.einsum("behw,ke->bhwk", z, codebook) - codebook.square().sum(1) / 2
        tokens = score.argmax(-1)
        code = torch.index_select(codebook, 0, tokens.flatten()).view(*tokens.shape, -1).movedim(-1, 1)
        return Quantized(tokens.flatten(1), code, z + code.detach() - z.detach())
        """,
    ),
    Chaff(
        "5.4",
        "the losses of F",
        "tokenizer.py",
        WHOLE,
        """
        loss = F.mse_loss if squared else F.l1_loss
        return {
            "commitment": F.mse_loss(z, code.detach()) * beta,
            "codebook": F.mse_loss(code, z.detach()),
            "recon": loss(2 * reconstruction - 1, 2 * image - 1),
        }
        """,
    ),
    Chaff(
        "5.4",
        "sums, divided; the factor outside",
        "tokenizer.py",
        WHOLE,
        """
        power = 2 if squared else 1
        recon = 2**power * (reconstruction - image).abs().pow(power).sum() / image.numel()
        codebook, commitment = (
            (a - b.detach()).pow(2).sum() / z.numel() for a, b in ((code, z), (z, code))
        )
        return {"recon": recon, "codebook": codebook, "commitment": commitment.mul(beta)}
        """,
    ),
    Chaff(
        "5.5",
        "those that occur",
        "tokenizer.py",
        WHOLE,
        """
        _, counts = tokens.unique(return_counts=True)
        share = counts / counts.sum()
        return torch.tensor(len(counts) / codes), (-(share * share.log()).sum()).exp()
        """,
    ),
    Chaff(
        "5.5",
        "one-hot rows, and an epsilon that does not show",
        "tokenizer.py",
        WHOLE,
        """
        share = F.one_hot(tokens.reshape(-1), codes).float().mean(0)
        return (share > 0).sum() / codes, torch.exp(-torch.sum(share * torch.log(share + 1e-10)))
        """,
    ),
    Chaff(
        "5.6",
        "scores plus a mask of -inf",
        "transformer.py",
        WHOLE,
        """
        at = torch.arange(k.shape[2], device=q.device)
        ahead = at > at[k.shape[2] - q.shape[2] :, None]
        mask = torch.zeros(ahead.shape, dtype=q.dtype, device=q.device).masked_fill(ahead, float("-inf"))
        scores = (q / q.shape[-1] ** 0.5) @ k.transpose(2, 3) + mask
        return torch.dropout(scores.softmax(dim=3), dropout, train=True) @ v
        """,
    ),
    Chaff(
        "5.6",
        "query by query, over what it sees",
        "transformer.py",
        WHOLE,
        """
        rows, before = [], k.shape[2] - q.shape[2]
        for i in range(q.shape[2]):
            seen = before + i + 1
            scores = torch.einsum("bhs,bhjs->bhj", q[:, :, i], k[:, :, :seen]) * q.shape[3] ** -0.5
            rows.append(torch.einsum("bhj,bhjs->bhs", F.dropout(scores.softmax(-1), dropout), v[:, :, :seen]))
        return torch.stack(rows, 2)
        """,
    ),
    Chaff(
        "5.7",
        "narrow and copy_, and copies come back",
        "transformer.py",
        WHOLE,
        """
        start, new = self.size, k.size(2)
        if new > self.room - start:
            raise ValueError(f"{new} positions do not fit behind {start} of {self.room}")
        for ours, theirs in ((self.keys, k), (self.values, v)):
            ours.narrow(2, start, new).copy_(theirs)
        self.size = start + new
        return self.keys[:, :, : self.size].clone(), self.values[:, :, : self.size].clone()
        """,
    ),
    Chaff(
        "5.7",
        "new tensors of the same room",
        "transformer.py",
        WHOLE,
        """
        start, stop = self.size, self.size + k.shape[-2]
        if stop > self.keys.shape[2]:
            raise ValueError("no room")
        self.keys = torch.cat([self.keys[:, :, :start], k, self.keys[:, :, stop:]], 2)
        self.values = torch.cat([self.values[:, :, :start], v, self.values[:, :, stop:]], 2)
        self.size = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]
        """,
    ),
    Chaff(
        "5.8",
        "a list, by what comes next",
        "transformer.py",
        WHOLE,
        """
        block = places + 1
        following = [(before + i + 1) % block for i in range(new)]
        at = [i for i, inside in enumerate(following) if (inside < places if kind == "token" else inside == 0)]
        return torch.tensor(at, dtype=torch.long)
        """,
    ),
    Chaff(
        "5.8",
        "as the official code: a pattern, repeated",
        "transformer.py",
        WHOLE,
        """
        pattern = torch.ones(places + 1)
        pattern[-2] = 0
        if kind == "outcome":
            pattern = torch.zeros(places + 1)
            pattern[-1] = 1
        blocks = (before + new) // (places + 1) + 1
        speaks = torch.where(pattern.repeat(blocks))[0]
        return speaks[(speaks >= before) & (speaks < before + new)] - before
        """,
    ),
    Chaff(
        "5.9",
        "as the official code: each table fills in its places",
        "transformer.py",
        WHOLE,
        """
        at = torch.arange(before, before + ids.shape[1])
        action = at % (self.places + 1) == self.places
        x = self.position_table.weight.new_empty(*ids.shape, self.position_table.embedding_dim)
        x[:, action] = self.action_table(ids[:, action])
        x[:, ~action] = self.token_table(ids[:, ~action])
        return x + self.position_table(at)
        """,
    ),
    Chaff(
        "5.9",
        "position by position",
        "transformer.py",
        WHOLE,
        """
        columns = []
        for at, column in enumerate(ids.unbind(1), start=before):
            table = self.token_table if (at + 1) % (self.places + 1) else self.action_table
            columns.append(table.weight[column] + self.position_table.weight[at])
        return torch.stack(columns, dim=1)
        """,
    ),
    Chaff(
        "5.10",
        "torch.where, and two comparisons",
        "transformer.py",
        WHOLE,
        """
        ignored = torch.tensor(IGNORED)
        token = torch.where(real[:, :, None], tokens, ignored).reshape(len(tokens), -1)[:, 1:]
        kind = 1 + (reward > 0).long() - (reward < 0).long()
        return Labels(token, torch.where(real, kind, ignored), torch.where(real, end.long(), ignored))
        """,
    ),
    Chaff(
        "5.10",
        "copies, written into",
        "transformer.py",
        WHOLE,
        """
        token, kind, ends = tokens.clone(), torch.ones_like(tokens[..., 0]), end.to(tokens.dtype)
        kind[reward < 0], kind[reward > 0] = 0, 2
        for labels in (token, kind, ends):
            labels[~real] = IGNORED
        return Labels(token=token.flatten(1).narrow(1, 1, tokens[0].numel() - 1), reward=kind, end=ends)
        """,
    ),
    Chaff(
        "5.11",
        "only those that are real are remembered",
        "actor_critic.py",
        WHOLE,
        """
        seen = policy.look(tokens)
        state = {key: value.clone() for key, value in policy.initial(tokens.shape[0]).items()}
        for each, here in zip(seen.unbind(1), real.unbind(1)):
            if here.any():
                after = policy.remember(each[here], {key: value[here] for key, value in state.items()})
                for key, value in after.items():
                    state[key][here] = value
        return state
        """,
    ),
    Chaff(
        "5.11",
        "sequence by sequence",
        "actor_critic.py",
        WHOLE,
        """
        seen, states = policy.look(tokens), []
        for each, mask in zip(seen, real):
            state = policy.initial(1)
            for frame in each[mask]:
                state = policy.remember(frame[None], state)
            states.append(state)
        return {key: torch.cat([state[key] for state in states]) for key in states[0]}
        """,
    ),
    Chaff(
        "5.12",
        "as the official code: what is known first, then from behind",
        "actor_critic.py",
        WHOLE,
        """
        returns = torch.empty_like(value)
        returns[:, -1] = value[:, -1]
        goes_on = end[:, :-1].logical_not() * discount
        returns[:, :-1] = reward[:, :-1] + goes_on * (1 - lam) * value[:, 1:]
        for t in range(value.shape[1] - 2, -1, -1):
            returns[:, t] += goes_on[:, t] * lam * returns[:, t + 1]
        return returns
        """,
    ),
    Chaff(
        "5.12",
        "recursion",
        "actor_critic.py",
        WHOLE,
        """
        if reward.shape[1] == 1:
            return value.clone()
        behind = lambda_returns(reward[:, 1:], value[:, 1:], end[:, 1:], discount, lam)
        future = discount * torch.lerp(value[:, 1:2], behind[:, :1], lam)
        return torch.cat([reward[:, :1] + torch.where(end[:, :1], 0.0, future), behind], 1)
        """,
    ),
    Chaff(
        "5.12",
        "a system of equations",
        "actor_critic.py",
        WHOLE,
        """
        weight = discount * (~end[:, :-1]).to(value)
        known = torch.cat([reward[:, :-1] + weight * (1 - lam) * value[:, 1:], value[:, -1:]], 1)
        matrix = torch.eye(value.shape[1], dtype=value.dtype) - torch.diag_embed(lam * weight, offset=1)
        return torch.linalg.solve_triangular(matrix, known[..., None], upper=True)[..., 0]
        """,
    ),
    Chaff(
        "5.13",
        "as the official code: torch.distributions",
        "actor_critic.py",
        WHOLE,
        """
        policy = torch.distributions.Categorical(logits=logits[:, :-1])
        advantage = returns[:, :-1] - value[:, :-1]
        return {
            "actor": -1 * (policy.log_prob(action[:, :-1]) * advantage.detach()).mean(),
            "critic": nn.functional.mse_loss(value[:, :-1], returns[:, :-1].detach()),
            "entropy": -entropy_scale * policy.entropy().mean(),
        }
        """,
    ),
    Chaff(
        "5.13",
        "cross entropies; sums, divided by how many steps count",
        "actor_critic.py",
        WHOLE,
        """
        logits, value, action, returns = (each[:, :-1].flatten(0, 1) for each in (logits, value, action, returns))
        error = returns.detach() - value
        surprise = nn.functional.cross_entropy(logits, action, reduction="none")
        entropy = nn.functional.cross_entropy(logits, logits.softmax(-1), reduction="sum")
        return {
            "entropy": -entropy_scale * entropy / len(value),
            "actor": surprise @ error.detach() / len(value),
            "critic": error @ error / len(value),
        }
        """,
    ),
    Chaff(
        "5.14",
        "as the official code: one loop over all that is read",
        "sample.py",
        WHOLE,
        """
        reads = 1 + self.model.places if next_frame else 1
        if self.caches[0].size + reads > self.caches[0].room:
            self.reset(frame)
        read, tokens = action, []
        for k in range(reads):
            said = self.model(read.unsqueeze(1), self.caches)
            if k == 0:
                reward = sample(said.reward, temperature).squeeze(1).float().sub(1)
                end = sample(said.end, temperature).squeeze(1) == 1
            if k + 1 < reads:
                read = sample(said.token, temperature).squeeze(1)
                tokens.append(read)
        return Imagined(torch.stack(tokens, dim=1) if next_frame else None, reward, end)
        """,
    ),
    Chaff(
        "5.14",
        "tokens into a tensor, reward and end behind them",
        "sample.py",
        WHOLE,
        """
        places, left = self.model.places, self.model.room - self.caches[-1].size
        if left < 1 or (next_frame and left < 1 + places):
            self.reset(frame)
        outcome = said = self.model(action.reshape(-1, 1), self.caches)
        tokens = torch.empty_like(frame) if next_frame else None
        for k in range(places * next_frame):
            tokens[:, k] = sample(said.token.squeeze(1), temperature)
            said = self.model(tokens[:, k : k + 1], self.caches)
        kinds = sample(outcome.reward[:, -1], temperature)
        reward = torch.tensor([-1.0, 0.0, 1.0], device=kinds.device)[kinds]
        return Imagined(tokens, reward, sample(outcome.end[:, -1], temperature) > 0)
        """,
    ),
    Chaff(
        "5.15",
        "the last frame is drawn",
        "segments.py",
        WHOLE,
        """
        at = rng.integers(0, frames, dtype=np.int64).item()
        first, last = (at - length + 1, at) if left else (at, at + length - 1)
        return max(first, 0), min(last, frames - 1) + 1
        """,
    ),
    Chaff(
        "5.15",
        "to the left it is the mirror image",
        "segments.py",
        WHOLE,
        """
        start = int(rng.integers(low=0, high=frames - 1, endpoint=True))
        stop = start + length if start + length < frames else frames
        return (frames - stop, frames - start) if left else (start, stop)
        """,
    ),
    Chaff(
        "5.16",
        "filter",
        "schedule.py",
        WHOLE,
        "return list(filter(lambda name: start_after[name] < epoch, start_after))",
    ),
    Chaff(
        "5.17",
        "by name, the others first",
        "schedule.py",
        WHOLE,
        """
        linear = {f"{name}.weight" for name, layer in model.named_modules() if type(layer) is nn.Linear}
        groups = {False: [], True: []}
        for name, parameter in model.named_parameters():
            groups[name in linear].append(parameter)
        return [{"params": groups[key], "weight_decay": key * weight_decay} for key in (False, True)]
        """,
    ),
    Chaff(
        "5.17",
        "layer by layer, each with its own parameters",
        "schedule.py",
        WHOLE,
        """
        decay, rest = {"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}
        for layer in model.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                group = decay if isinstance(layer, nn.Linear) and name == "weight" else rest
                group["params"].append(parameter)
        return [decay, rest]
        """,
    ),
]
