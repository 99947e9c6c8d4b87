"""The published equations of PlaNet and Dreamer 1, 2 and 3 in slow, plain float64 NumPy.

Written from the papers, with their constants, and without any of worldmodel/:

    PlaNet     Hafner et al. 2019, arXiv 1811.04551      Dreamer 2  Hafner et al. 2021, 2010.02193
    Dreamer 1  Hafner et al. 2020, arXiv 1912.01603      Dreamer 3  Hafner et al. 2025, 2301.04104

Weights are a dictionary of arrays with the names that PyTorch gives them. Where the project
deviates from a paper on purpose (docs/algorithms.md), this follows the project: RMS norm and SiLU
everywhere, 4x4 convolutions, a continuation head in every model, vectors in symlog.

No equation stands here twice in one form: returns are weighted means of n-step returns instead of
a recursion, convolutions and codes are spelt out.
"""

from math import erf, log, pi, sqrt
from statistics import NormalDist

import numpy as np


class Stop:
    """A stop-gradient for finite differences: what is stopped keeps its first value when the same
    equations are evaluated again with moved weights.
    """

    def __init__(self):
        self.values, self.place = [], 0

    def __call__(self, x):
        if self.place == len(self.values):
            self.values.append(np.array(x, float))
        self.place += 1
        return self.values[self.place - 1]

    def rewind(self):
        self.place = 0


# ---- Elementary functions


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(x))


def silu(x):
    return x * sigmoid(x)


def softmax(x):
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def symlog(x):
    return np.sign(x) * np.log(1 + np.abs(x))


def symexp(x):
    return np.sign(x) * (np.exp(np.abs(x)) - 1)


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * log(2 * pi)


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))


# ---- Networks


def linear(w, name, x):
    bias = w.get(name + ".bias")
    return x @ w[name + ".weight"].T + (0 if bias is None else bias)


def rms_norm(w, name, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * w[name + ".weight"]


def mlp(w, name, x):
    layer = 0
    while f"{name}.hidden.{layer}.weight" in w:
        x = linear(w, f"{name}.hidden.{layer}", x)
        x = silu(rms_norm(w, f"{name}.norms.{layer}", x))
        layer += 1
    return linear(w, name + ".out", x)


def convolve(x, kernel, bias):
    """A 4x4 convolution of stride 2 with a border of one: (N,H,W,C) -> (N,H/2,W/2,O)."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((len(x), height, width, len(kernel))) + bias
    for i in range(4):
        for j in range(4):
            y += x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] @ kernel[:, :, i, j].T
    return y


def transpose_convolve(x, kernel, bias):
    """The transpose of that convolution: (N,H,W,C) -> (N,2H,2W,O)."""
    n, height, width, _ = x.shape
    y = np.zeros((n, 2 * height + 2, 2 * width + 2, kernel.shape[1]))
    for i in range(4):
        for j in range(4):
            y[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += x @ kernel[:, :, i, j]
    return y[:, 1:-1, 1:-1] + bias


def join_phases(w, name):
    """The kernel (C,O,4,4) and the bias (O,) that are stored as four 2x2 kernels, one for each
    position of an output pixel.
    """
    phases, bias = w[name + ".weight"], w[name + ".bias"]
    outputs = len(bias) // 4
    kernel = np.zeros((phases.shape[1], outputs, 4, 4))
    for a in range(2):
        for b in range(2):
            block = phases[(2 * a + b) * outputs :][:outputs]
            for u in range(2):
                for v in range(2):
                    kernel[:, :, a + 2 - 2 * u, b + 2 - 2 * v] = block[:, :, u, v].T
    return kernel, bias.reshape(4, outputs)


def encode(w, batch):
    """Embeddings (B,T,E) of the picture and the vector."""
    batch_size, length = batch["image"].shape[:2]
    x = batch["image"].reshape(-1, *batch["image"].shape[2:]) / 255 - 0.5
    layer = 0
    while f"encoder.parts.image.convs.{layer}.weight" in w:
        name = f"encoder.parts.image.convs.{layer}"
        x = silu(convolve(x, w[name + ".weight"], w[name + ".bias"]))
        layer += 1
    picture = x.reshape(batch_size, length, -1)
    return np.concatenate([picture, mlp(w, "encoder.parts.vector", symlog(batch["vector"]))], -1)


def decode(w, feat, shape):
    """The mean (N,H,W,3) of the picture, centred on grey."""
    name = "objectives.reconstruction.decoders.image"
    layers = sum(key.startswith(name) and key.endswith("phases.weight") for key in w)
    x = linear(w, name + ".project", feat)
    x = x.reshape(len(x), shape[0] // 2**layers, shape[1] // 2**layers, -1)
    for layer in range(layers):
        x = silu(x) if layer else x
        kernel, bias = join_phases(w, f"{name}.convs.{layer}.phases")
        x = transpose_convolve(x, kernel, 0)
        for a in range(2):
            for b in range(2):  # the transposed convolution puts phase 1 first, the border is cut
                x[:, a::2, b::2] += bias[2 * (1 - a) + (1 - b)]
    return x


# ---- Latents


class GaussianLatent:
    """PlaNet, Dreamer 1: diagonal, std = softplus + 0.1, sampled by reparameterisation."""

    def dist(self, params):
        mean, raw = np.split(params, 2, -1)
        return {"mean": mean, "std": softplus(raw) + 0.1}

    def sample(self, params, noise, stop):
        dist = self.dist(params)
        return dist["mean"] + dist["std"] * noise

    def kl(self, p, q):
        square = (p["std"] ** 2 + (p["mean"] - q["mean"]) ** 2) / (2 * q["std"] ** 2)
        return (np.log(q["std"] / p["std"]) + square - 0.5).sum(-1)

    def flat(self, stoch):
        return stoch


class CategoricalLatent:
    """Dreamer 2, 3: one-hot groups; straight-through gradients: sample + probs - sg(probs)."""

    def __init__(self, groups, classes, unimix):
        self.shape, self.unimix = (groups, classes), unimix

    def dist(self, params):
        probs = softmax(params.reshape(*params.shape[:-1], *self.shape))
        return {"probs": (1 - self.unimix) * probs + self.unimix / self.shape[1]}

    def sample(self, params, noise, stop):
        return sample_one_hot(self.dist(params)["probs"], noise, stop)

    def kl(self, p, q):
        p, q = p["probs"], q["probs"]
        return (p * np.log(p) - p * np.log(q)).sum((-2, -1))

    def flat(self, stoch):
        return stoch.reshape(*stoch.shape[:-2], -1)


def sample_one_hot(probs, uniform, stop):
    """The class whose share of [0, 1) holds the uniform number."""
    above = np.cumsum(probs, -1)
    hard = (above - probs <= uniform[..., None]) & (uniform[..., None] < above)
    return stop(hard) + probs - stop(probs)


# ---- The recurrent state-space model


def gru(w, x, hidden):
    """Gates from [x, h], or blockwise from [a block of h, x] (Dreamer 3)."""
    weight = w["dynamics.gru.gates.weight"]
    if weight.ndim == 2:
        gates = linear(w, "dynamics.gru.gates", np.concatenate([x, hidden], -1))
    else:
        parts = []
        for g, own in enumerate(np.split(hidden, len(weight), -1)):
            both = np.concatenate([own, x], -1)
            parts.append(both @ weight[g] + w["dynamics.gru.gates.bias"][g])
        by_gate = zip(*(np.split(part, 3, -1) for part in parts), strict=True)
        gates = np.concatenate([np.concatenate(gate, -1) for gate in by_gate], -1)
    reset, candidate, update = np.split(rms_norm(w, "dynamics.gru.norm", gates), 3, -1)
    update = sigmoid(update - 1)
    return update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * hidden


def advance(w, latent, deter, stoch, action):
    """h_t = f(h_{t-1}, s_{t-1}, a_{t-1})."""
    x = linear(w, "dynamics.from_action", action)
    x = x + linear(w, "dynamics.from_stoch", latent.flat(stoch))
    return gru(w, silu(rms_norm(w, "dynamics.input_norm", x)), deter)


def posterior(w, deter, embed):
    """Parameters of q(s_t | h_t, o_t)."""
    x = linear(w, "dynamics.post_deter", deter) + linear(w, "dynamics.post_embed", embed)
    return linear(w, "dynamics.post_out", silu(rms_norm(w, "dynamics.post_norm", x)))


def prior(w, deter):
    """Parameters of p(s_t | h_t)."""
    return mlp(w, "dynamics.prior_net", deter)


def observe(w, latent, embed, batch, start, noise, stop):
    """Filter a batch; each state is (deter, stoch, posterior, prior)."""
    first = batch["is_first"].copy()
    deter, stoch = start
    states = []
    for t in range(embed.shape[1]):
        keep = 1.0 - first[:, t]
        deter = deter * keep[:, None]
        stoch = stoch * keep.reshape(-1, *[1] * (stoch.ndim - 1))
        deter = advance(w, latent, deter, stoch, batch["prev_action"][:, t] * keep[:, None])
        params = posterior(w, deter, embed[:, t])
        stoch = latent.sample(params, noise["posterior"][t], stop)
        states.append((deter, stoch, latent.dist(params), latent.dist(prior(w, deter))))
    return states


def features(latent, deter, stoch):
    return np.concatenate([deter, latent.flat(stoch)], -1)


# ---- The terms of the world model's loss; each (B,T)


def gaussian_nll(x, mean):
    """-ln N(x; mean, 1) without its constant, summed over the last axis."""
    return -(log_normal(x, mean, 1.0) + 0.5 * log(2 * pi)).sum(-1)


def continuation_nll(logit, going):
    return -(going * np.log(sigmoid(logit)) + (1 - going) * np.log(1 - sigmoid(logit)))


BINS = symexp(np.linspace(-20, 20, 255))


def two_hot(x):
    """The code (...,255) of x: its two neighbouring bins by nearness (Dreamer 3, eq. 9), which is
    a triangle around each bin.
    """
    gaps = np.concatenate([[np.inf], np.diff(BINS), [np.inf]])
    apart = x[..., None] - BINS
    return np.maximum(0, 1 - np.maximum(-apart / gaps[:-1], apart / gaps[1:]))


class Number:
    """A head for a number: unit Gaussian or two-hot categorical."""

    def __init__(self, coded):
        self.coded = coded

    def mean(self, read):
        return (softmax(read) * BINS).sum(-1) if self.coded else read[..., 0]

    def nll(self, read, x):
        if self.coded:
            return -(two_hot(x) * np.log(softmax(read))).sum(-1)
        return gaussian_nll(x[..., None], read)


def observe_and_predict(w, latent, head, batch, start, noise, stop):
    """What all four models share: states, features (B,T,F) and the likelihoods' losses."""
    states = observe(w, latent, encode(w, batch), batch, start, noise, stop)
    feat = np.stack([features(latent, s[0], s[1]) for s in states], 1)
    decoded = decode(w, feat.reshape(-1, feat.shape[-1]), batch["image"].shape[2:])
    picture = (batch["image"] / 255 - 0.5).reshape(len(decoded), -1)
    vector = mlp(w, "objectives.reconstruction.decoders.vector.net", feat)
    losses = {
        "image": gaussian_nll(picture, decoded.reshape(len(decoded), -1)),
        "vector": gaussian_nll(symlog(batch["vector"]), vector),
        "reward": head.nll(mlp(w, "reward.net", feat), batch["reward"]),
        "cont": continuation_nll(mlp(w, "cont.net", feat)[..., 0], 1.0 - batch["is_terminal"]),
    }
    losses["image"] = losses["image"].reshape(feat.shape[:2])
    return states, feat, losses


def stop_all(dist, stop):
    return {k: stop(v) for k, v in dist.items()}


def plain_kl(latent, states, free):
    """PlaNet, Dreamer 1: max(free, mean KL(posterior || prior))."""
    kl = np.stack([latent.kl(post, prior) for _, _, post, prior in states], 1)
    return max(kl.mean(), free)


def balanced_kl(latent, states, stop):
    """Dreamer 2, 3: KL(sg(posterior) || prior) and KL(posterior || sg(prior)), each (B,T)."""
    dyn = [latent.kl(stop_all(s[2], stop), s[3]) for s in states]
    rep = [latent.kl(s[2], stop_all(s[3], stop)) for s in states]
    return np.stack(dyn, 1), np.stack(rep, 1)


def overshoot(w, latent, states, batch, furthest, noise, stop):
    """PlaNet, eq. 7, for the distances d = 2..furthest: KL(sg(q(s_t)) || p(s_t | s_{t-d})).

    The mean over the distances of each step, (B,T); nothing is predicted across a start.
    """
    batch_size, length = batch["reward"].shape
    found = np.zeros((batch_size, length))
    for b in range(batch_size):
        by_step = [[] for _ in range(length)]
        for t in range(length):
            deter, stoch = states[t][0][b], states[t][1][b]
            for d in range(1, furthest + 1):
                if t + d >= length or batch["is_first"][b, t + d]:
                    break
                deter = advance(w, latent, deter, stoch, batch["prev_action"][b, t + d])
                params = prior(w, deter)
                stoch = latent.sample(params, noise["overshoot"][d][b, t], stop)
                target = {k: stop(v[b]) for k, v in states[t + d][2].items()}
                if d > 1:
                    by_step[t + d].append(latent.kl(target, latent.dist(params)))
        found[b] = [np.mean(kls) if kls else 0.0 for kls in by_step]
    return found


# ---- Returns


def mix_returns(reward, value, discount, lam):
    """V_lambda (Dreamer 1, eq. 5 and 6) of the state before the first of K steps (K,...):

    V_N^k is the sum of k discounted rewards and the value after them;
    V_lambda = (1 - lambda) sum_{k<K} lambda^(k-1) V_N^k + lambda^(K-1) V_N^K.
    """
    steps = len(reward)
    total = np.zeros_like(reward[0])
    for k in range(1, steps + 1):
        n_step = np.prod(discount[:k], 0) * value[k - 1]
        for n in range(k):
            n_step = n_step + np.prod(discount[:n], 0) * reward[n]
        share = (1 - lam) * lam ** (k - 1) if k < steps else lam ** (k - 1)
        total = total + share * n_step
    return total


def replay_returns(batch, value, gamma, lam):
    """Returns along replayed rows, (B,T-1): each stops at the last row of its episode."""
    size, length = batch["reward"].shape
    found = np.zeros((size, length - 1))
    for b in range(size):
        for t in range(length - 1):
            rows = [t + 1]
            while rows[-1] + 1 < length and not batch["is_last"][b, rows[-1]]:
                rows.append(rows[-1] + 1)
            discount = gamma * (1.0 - batch["is_terminal"][b, rows])
            found[b, t] = mix_returns(batch["reward"][b, rows], value[b, rows], discount, lam)
    return found


# ---- Actors


class TanhNormal:
    """Dreamer 1: mean 5 tanh(mean / 5), std softplus(std + 5) + 1e-4, squashed."""

    def __init__(self, read):
        mean, raw = np.split(read, 2, -1)
        self.mean, self.std = 5 * np.tanh(mean / 5), softplus(raw + 5) + 1e-4

    def sample(self, noise, stop):
        return np.tanh(self.mean + self.std * noise)

    def log_prob(self, action):
        return self.log_prob_of_tanh(np.arctanh(action))

    def log_prob_of_tanh(self, x):
        # 1 - tanh(x)^2 = cosh(x)^-2, which is exact where tanh(x) is nearly 1
        log_slope = -2 * (np.logaddexp(x, -x) - log(2))
        return (log_normal(x, self.mean, self.std) - log_slope).sum(-1)

    def entropy(self, noise):
        return -self.log_prob_of_tanh(self.mean + self.std * noise)


class TruncatedNormal:
    """Dreamer 2: mean tanh, std 2 sigmoid(std / 2) + 0.1, cut to [-1, 1] and renormalised."""

    def __init__(self, read):
        mean, raw = np.split(read, 2, -1)
        self.mean, self.std = np.tanh(mean), 2 * sigmoid(raw / 2) + 0.1
        self.low, self.high = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        self.mass = normal_cdf(self.high) - normal_cdf(self.low)

    def sample(self, noise, stop):
        quantile = normal_cdf(self.low) + noise * self.mass
        return self.mean + self.std * np.vectorize(NormalDist().inv_cdf)(quantile)

    def log_prob(self, action):
        return (log_normal(action, self.mean, self.std) - np.log(self.mass)).sum(-1)

    def entropy(self, noise):
        def density(x):
            return np.exp(-(x**2) / 2) / sqrt(2 * pi)

        edges = self.low * density(self.low) - self.high * density(self.high)
        whole = np.log(sqrt(2 * pi * np.e) * self.std * self.mass)
        return (whole + edges / (2 * self.mass)).sum(-1)


class BoundedNormal:
    """Dreamer 3: mean tanh, std from 0.1 to 1."""

    def __init__(self, read):
        mean, raw = np.split(read, 2, -1)
        self.mean, self.std = np.tanh(mean), 0.1 + 0.9 * sigmoid(raw + 2)

    def sample(self, noise, stop):
        return self.mean + self.std * noise

    def log_prob(self, action):
        return log_normal(action, self.mean, self.std).sum(-1)

    def entropy(self, noise):
        return (0.5 * np.log(2 * pi * np.e * self.std**2)).sum(-1)


class Choices:
    """Discrete actions, one-hot group by group; Dreamer 3 mixes in 1 % of uniform."""

    def __init__(self, read, groups, unimix):
        parts = np.split(read, np.cumsum(groups)[:-1], -1)
        self.probs = [(1 - unimix) * softmax(x) + unimix / x.shape[-1] for x in parts]

    def sample(self, noise, stop):
        drawn = [sample_one_hot(p, u, stop) for p, u in zip(self.probs, noise, strict=True)]
        return np.concatenate(drawn, -1)

    def log_prob(self, action):
        return (np.log(np.concatenate(self.probs, -1)) * action).sum(-1)

    def entropy(self, noise):
        return -sum((p * np.log(p)).sum(-1) for p in self.probs)


# ---- Imagination, actor and critic


class Imagination:
    """N rollouts of H steps by frozen weights of model and critics, and the actor's own.

    Arrays are (H,N). `dists` and `actions` belong to the states before each step, with features
    `before`; reward, cont and value to the states after it.
    """

    def __init__(self, w, frozen, latent, head, critic, make_dist, states, picks, noise, stop):
        deter, stoch = (
            stop(np.stack([s[i] for s in states], 1)).reshape(-1, *states[0][i].shape[1:])[picks]
            for i in range(2)
        )
        self.before, self.dists, self.actions, after = [], [], [], []
        for t in range(len(noise["prior"])):
            feat = stop(features(latent, deter, stoch))
            self.before.append(feat)
            self.dists.append(make_dist(mlp(w, "actor.net", feat)))
            action = self.dists[-1].sample(noise["action"][t], stop)
            self.actions.append(action)
            action = stop(np.clip(action, -1, 1) - action) + action
            deter = advance(frozen, latent, deter, stoch, action)
            stoch = latent.sample(prior(frozen, deter), noise["prior"][t], stop)
            after.append(features(latent, deter, stoch))
        after, self.before = np.stack(after), np.stack(self.before)
        self.reward = head.mean(mlp(frozen, "reward.net", after))
        self.cont = sigmoid(mlp(frozen, "cont.net", after)[..., 0])
        self.value = critic(after)

    def returns(self, gamma, lam):
        """(H,N)."""
        return np.stack(
            [
                mix_returns(self.reward[t:], self.value[t:], gamma * self.cont[t:], lam)
                for t in range(len(self.reward))
            ]
        )

    def weights(self, gamma, alive):
        """The probability that the episode has not ended: c_0 prod gamma c_k, (H,N)."""
        ones = np.ones((1, self.cont.shape[1]))
        return alive * np.cumprod(np.concatenate([ones, gamma * self.cont[:-1]]), 0)

    def log_probs(self, stop):
        pairs = zip(self.dists, self.actions, strict=True)
        return np.stack([dist.log_prob(stop(action)) for dist, action in pairs])

    def entropies(self, noise):
        drawn = noise.get("entropy", [None] * len(self.dists))
        pairs = zip(self.dists, drawn, strict=True)
        return np.stack([dist.entropy(own) for dist, own in pairs])


# ---- The four algorithms; each returns its terms by name, and what gradients are taken of


def planet(w, batch, start, noise, stop, free=3.0, furthest=1):
    """PlaNet: reward loss times ten, 3 free nats, no overshooting unless asked for."""
    latent = GaussianLatent()
    states, _, terms = observe_and_predict(w, latent, Number(False), batch, start, noise, stop)
    terms["kl"] = plain_kl(latent, states, free)
    total = terms["image"].mean() + terms["vector"].mean() + 10 * terms["reward"].mean()
    total += terms["cont"].mean() + terms["kl"]
    if furthest > 1:
        kl = overshoot(w, latent, states, batch, furthest, noise, stop)
        terms["overshoot"] = max(kl.mean(), free)
        total += terms["overshoot"]
    return states, terms, total


def dreamer1(w, frozen, batch, start, noise, stop, make_dist=TanhNormal, free=3.0, entropy=0.0):
    """Dreamer 1: gamma 0.99, lambda 0.95; the actor maximises returns through the model."""
    latent, head, gamma, lam = GaussianLatent(), Number(False), 0.99, 0.95
    states, _, terms = observe_and_predict(w, latent, head, batch, start, noise, stop)
    terms["kl"] = plain_kl(latent, states, free)
    total = terms["kl"] + sum(terms[k].mean() for k in ("image", "vector", "reward", "cont"))

    def value(feat):
        return mlp(frozen, "critic.net", feat)[..., 0]

    dream = Imagination(
        w, frozen, latent, head, value, make_dist, states, noise["starts"], noise, stop
    )
    alive = (1.0 - batch["is_terminal"]).reshape(-1)[noise["starts"]]
    returns, weight = dream.returns(gamma, lam), stop(dream.weights(gamma, alive))
    bonus = dream.entropies(noise)
    terms["actor"] = -(weight * (returns + entropy * bonus)).mean()
    target, read = stop(returns), mlp(w, "critic.net", dream.before)
    terms["critic"] = (weight * 0.5 * (read[..., 0] - target) ** 2).mean()
    terms |= describe(dream, returns, bonus, read[..., 0])
    return states, terms, total + terms["actor"] + terms["critic"]


def dreamer2(
    w, frozen, batch, start, noise, stop, make_dist=TruncatedNormal, free=1.0, rho=0.0,
    eta=1e-4, groups=(4, 3),
):  # fmt: skip
    """Dreamer 2: KL balance 0.8, targets and baseline from the target critic, and eq. 6: a share
    rho of the actor's gradient by REINFORCE, the rest through the model.
    """
    latent, head, gamma, lam = CategoricalLatent(*groups, 0.0), Number(False), 0.99, 0.95
    states, _, terms = observe_and_predict(w, latent, head, batch, start, noise, stop)
    dyn, rep = balanced_kl(latent, states, stop)
    terms["dyn"], terms["rep"] = max(dyn.mean(), free), max(rep.mean(), free)
    total = sum(terms[k].mean() for k in ("image", "vector", "reward", "cont"))
    total += 0.8 * terms["dyn"] + 0.2 * terms["rep"]

    def value(feat):
        return mlp(frozen, "slow.net", feat)[..., 0]

    dream = Imagination(
        w, frozen, latent, head, value, make_dist, states, noise["starts"], noise, stop
    )
    alive = (1.0 - batch["is_terminal"]).reshape(-1)[noise["starts"]]
    returns, weight = dream.returns(gamma, lam), stop(dream.weights(gamma, alive))
    advantage, bonus = stop(returns - value(dream.before)), dream.entropies(noise)
    gain = rho * dream.log_probs(stop) * advantage + (1 - rho) * returns + eta * bonus
    terms["actor"] = -(weight * gain).mean()
    target, read = stop(returns), mlp(w, "critic.net", dream.before)
    terms["critic"] = (weight * 0.5 * (read[..., 0] - target) ** 2).mean()
    terms |= describe(dream, returns, bonus, read[..., 0])
    return states, terms, total + terms["actor"] + terms["critic"]


def dreamer3(
    w, frozen, batch, start, noise, stop, make_dist=BoundedNormal, ranges=(0.0, 0.0, 0.0),
    groups=(4, 3),
):  # fmt: skip
    """Dreamer 3: KL of at least one nat per step, 1 and 0.1 of it; REINFORCE on returns over
    max(1, S), S an average of their 5 to 95 percentile range; a two-hot critic that is pulled to
    its average, and 0.3 of its loss on the replayed rows, which trains the model too.

    `ranges` are the running averages of both percentiles, and of 1, before this update.
    """
    latent, head = CategoricalLatent(*groups, 0.01), Number(True)
    gamma, lam = 0.997, 0.95
    states, feat, terms = observe_and_predict(w, latent, head, batch, start, noise, stop)
    dyn, rep = balanced_kl(latent, states, stop)
    terms["dyn"], terms["rep"] = np.maximum(dyn, 1.0), np.maximum(rep, 1.0)
    total = sum(terms[k].mean() for k in ("image", "vector", "reward", "cont", "dyn"))
    total += 0.1 * terms["rep"].mean()

    def value(feat, name="critic.net"):
        return head.mean(mlp(frozen, name, feat))

    dream = Imagination(
        w, frozen, latent, head, value, make_dist, states, noise["starts"], noise, stop
    )
    alive = (1.0 - batch["is_terminal"]).reshape(-1)[noise["starts"]]
    returns, weight = dream.returns(gamma, lam), stop(dream.weights(gamma, alive))
    low, high, seen = (
        0.99 * kept + 0.01 * new
        for kept, new in zip(ranges, (*np.quantile(returns, (0.05, 0.95)), 1.0), strict=True)
    )
    scale = max(1.0, (high - low) / seen)
    advantage = stop((returns - value(dream.before)) / scale)
    bonus = dream.entropies(noise)
    terms["actor"] = -(weight * (dream.log_probs(stop) * advantage + 3e-4 * bonus)).mean()

    def fit(read, feat, target):
        pull = stop(value(feat, "slow.net"))
        return head.nll(read, stop(target)) + head.nll(read, pull)

    read = mlp(w, "critic.net", dream.before)
    terms["critic"] = (weight * fit(read, dream.before, returns)).mean()
    value_of_rows = value(stop(feat))
    value_of_rows.reshape(-1)[noise["starts"]] = returns[0]
    target = replay_returns(batch, value_of_rows, gamma, lam)
    on_rows = fit(mlp(w, "critic.net", feat[:, :-1]), stop(feat)[:, :-1], target)
    terms["critic_replay"] = 0.3 * ((1.0 - batch["is_last"][:, :-1]) * on_rows).mean()
    terms |= describe(dream, returns, bonus, head.mean(read))
    return states, terms, total + sum(terms[k] for k in ("actor", "critic", "critic_replay"))


def describe(dream, returns, entropies, value):
    """What is shown of imagined rollouts."""
    return {
        "entropy": entropies[0].mean(),
        "return": returns.mean(),
        "imag_reward": dream.reward.mean(),
        "value": value.mean(),
        "value_error": np.abs(value - returns).mean(),
    }


# ---- PlaNet's planner


def plan_with_cem(w, latent, deter, stoch, noise, elites):
    """PlaNet, algorithm 2, from one state: N candidates around a mean, refitted to the `elites`
    best by predicted reward, in as many rounds as there is noise; the plan is the last mean.
    """
    horizon, size = noise["candidates"][0].shape[1:]
    mean, std = np.zeros((horizon, size)), np.ones((horizon, size))
    for drawn, steps in zip(noise["candidates"], noise["prior"], strict=True):
        plans = np.clip(mean + std * drawn, -1, 1)
        worth = np.zeros(len(plans))
        h, s = (np.repeat(x[None], len(plans), 0) for x in (deter, stoch))
        for t in range(horizon):
            h = advance(w, latent, h, s, plans[:, t])
            s = latent.sample(prior(w, h), steps[t], None)
            worth += mlp(w, "reward.net", features(latent, h, s))[:, 0]
        best = plans[np.argsort(-worth)[:elites]]
        mean = best.mean(0)
        std = np.sqrt(((best - mean) ** 2).mean(0))
    return mean
