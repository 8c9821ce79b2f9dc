"""C, the controller, and its search: exercises 1.11 and 1.12. Read a test beside the docstring that it tests."""

import math

import numpy as np
import pytest
import torch

from paper1_world_models import controller
from paper1_world_models.controller import Controller, evolve, squash
from tests.helpers import expect_close, golden, numbers

# ---- 1.11 squash ----


@pytest.mark.exercise(id="1.11")
@pytest.mark.parametrize(
    ("scores", "expected", "mistakes"),
    [
        ((0, 0, 0), (0, 0.5, 0), {(0, 0, 0): "gas runs from 0 to 1: score 0 is half throttle"}),
        (
            (1, 1, 1),
            (0.761594, 0.880797, 0.761594),
            {
                (0.761594, 0.731059, 0.761594): "gas is (tanh(u) + 1) / 2 = sigmoid(2 u), not sigmoid(u)",
                (0.761594, 0.761594, 0.761594): "gas is (tanh(u) + 1) / 2",
                (0.761594, 0.880797, 0.880797): "brake is tanh(u) with its negative part cut off",
                (0.761594, 0.880797, 1): "brake goes through tanh before it is clipped",
                (1, 1, 1): "there is a tanh before anything else (a known port has none)",
            },
        ),
        (
            (-1, -1, -1),
            (-0.761594, 0.119203, 0),
            {
                (-0.761594, 0.119203, -0.761594): "brake is never negative: clip it to [0, 1]",
                (-0.761594, 0.268941, 0): "gas is (tanh(u) + 1) / 2 = sigmoid(2 u), not sigmoid(u)",
                (-0.761594, 0, 0): "gas is (tanh(u) + 1) / 2, not cut off at 0",
                (-0.761594, 0.119203, 0.119203): "brake is tanh(u) with its negative part cut off",
            },
        ),
    ],
)
def test_car_racing_action_by_hand(scores, expected, mistakes):
    """Steer tanh, gas (tanh + 1) / 2, brake tanh cut off at 0: a car that is told nothing drives at half throttle."""
    u = torch.tensor([scores], dtype=torch.float32)
    expect_close(squash(u, "car"), [expected], mistakes=mistakes, what=f"squash of {scores}")


@pytest.mark.exercise(id="1.11")
@pytest.mark.parametrize("kind", ["car", "box", "discrete"])
def test_squash_takes_any_batch(kind):
    """No leading axis, one or two: each action depends on its own scores alone, and is float like them."""
    torch.manual_seed(0)
    u = 2 * torch.randn(2, 4, 3)
    action = squash(u, kind)
    assert action.shape == (2, 4, 3)
    assert action.dtype == torch.float32, "M takes floats, also where an action is a choice"
    expect_close(squash(u[1, 2], kind), action[1, 2], what="the same scores, alone")


@pytest.mark.exercise(id="1.11")
def test_box_and_discrete_by_hand():
    """Numbers go through tanh; of choices the largest SCORE wins, exactly (no softmax, no sampling)."""
    u = torch.tensor([[-2.0, 0.5, 0.1], [0.0, -1.0, 3.0]])
    expect_close(squash(u, "box"), np.tanh(u.numpy()), what="box")
    mistakes = {
        numbers(u.softmax(-1)): "this is a softmax: the action is the one-hot vector of the largest score",
        numbers(u.tanh().softmax(-1)): "this is a softmax: the action is the one-hot vector of the largest score",
    }
    expect_close(squash(u, "discrete"), [[0, 1, 0], [0, 0, 1]], mistakes=mistakes, what="discrete")
    tie = squash(torch.zeros(2, 3), "discrete")
    expect_close(tie.sum(-1), 1.0, mistakes={3.0: "scores that are equal, as all are at first, give one action"})


@pytest.mark.exercise(id="1.11")
def test_left_right_has_a_dead_zone():
    """VizDoom: tanh(u) below -1/3 is left, above 1/3 right, else stay; tanh(0.345) = 0.332, tanh(0.348) = 0.335."""
    u = torch.tensor([[-20.0], [-3.0], [-0.348], [-0.345], [0.0], [0.345], [0.348], [3.0], [20.0]])
    mistakes = {
        (-1, -1, -1, -1, 0, 1, 1, 1, 1): "the thresholds are -1/3 and 1/3, on tanh(u), not on u",
        numbers(u.tanh()): "round to -1, 0 or 1",
        (-1, -1, 0, 0, 0, 0, 0, 1, 1): "the thresholds are -1/3 and 1/3 (round() has them at -1/2 and 1/2)",
        (-2, -1, -1, 0, 0, 0, 1, 1, 2): "tanh(u) reaches 1, and 1.5 is rounded to 2",
        (1, 1, 1, 0, 0, 0, -1, -1, -1): "left is -1, right is 1",
    }
    expected = [[-1], [-1], [-1], [0], [0], [0], [1], [1], [1]]
    expect_close(squash(u, "left_right"), expected, mistakes=mistakes, what="left_right")


# ---- 1.11 Controller.act ----


@pytest.mark.exercise(id="1.11")
def test_controller_sizes_are_the_papers():
    """867 numbers for CarRacing, 99 without memory, 1,088 for VizDoom: small enough to search without gradient."""
    counts = golden("wm_param_counts")
    car = lambda **options: Controller(32, 256, 3, kind="car", **options).num_params
    assert car() == counts["car_controller_MODE_ZH"] == 867
    assert car(inputs="z") == counts["car_controller_MODE_Z"] == 99
    assert car(inputs="zch") == counts["car_controller_MODE_ZCH"] == 1635
    assert car(inputs="z", hidden=40) == counts["car_controller_MODE_Z_HIDDEN"] == 1443
    doom = Controller(64, 512, 1, inputs="zch", kind="left_right", bias=False)
    assert doom.num_params == counts["doom_controller"] == 1088


@pytest.mark.exercise(id="1.11")
def test_act_agrees_with_the_official_code():
    """The official CarRacing controller: its 867 numbers, four latents and memories, its actions."""
    g = golden("wm_controller")
    c = Controller(32, 256, 3, kind="car")
    c.set_params(g["params"])
    z, h = (torch.tensor(g[key], dtype=torch.float32) for key in ("z", "h"))
    x = np.concatenate([g["z"], g["h"]], 1)
    squashed = lambda u: squash(torch.tensor(u), "car")
    bias, weight = g["params"][:3], g["params"][3:]
    mistakes = {
        numbers(
            squashed(x @ weight.reshape(3, 288).T + bias)
        ): "W is (inputs, outputs) row-major, not (outputs, inputs)",
        numbers(squashed(x @ weight.reshape(288, 3))): "the bias is missing",
        numbers(squashed(x @ g["params"][:-3].reshape(288, 3) + g["params"][-3:])): "the biases come FIRST",
        numbers(x @ weight.reshape(288, 3) + bias): "the scores are not squashed",
        numbers(np.tanh(x @ weight.reshape(288, 3) + bias)): "the squash of kind 'car' is missing",
    }
    features = c.features(z, h, torch.zeros(4, 256))
    expect_close(c.act(features), g["action"], mistakes=mistakes, what="action")


@pytest.mark.exercise(id="1.11")
def test_where_each_number_sits():
    """One number at a time: with bias and two outputs, number 2 + 2 i + o is the weight from input i to output o."""
    c = Controller(2, 1, 2)  # inputs z0, z1, h0; outputs 2; kind box
    x = torch.tensor([[0.1, 0.2, 0.3]])
    inputs_of = [1, 1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    for i, value in enumerate(inputs_of):
        c.set_params(np.eye(8)[i])
        expected = np.zeros((1, 2))
        expected[0, i % 2] = math.tanh(value)
        expect_close(c.act(x), expected, what=f"action where number {i} is 1 and all others 0")
        expect_close(c.get_params(), np.eye(8)[i], what="get_params after set_params")


@pytest.mark.exercise(id="1.11")
def test_no_bias_means_all_numbers_are_weights():
    """VizDoom's controller: at x = 0 it does nothing, whatever its numbers."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal(2 * 5)
    c = Controller(2, 3, 2, bias=False)
    c.set_params(flat)
    expect_close(c.act(torch.zeros(1, 5)), 0.0, what="action at x = 0")
    x = rng.standard_normal((4, 5))
    expected = np.tanh(x @ flat.reshape(5, 2))
    expect_close(c.act(torch.tensor(x, dtype=torch.float32)), expected, what="action")


@pytest.mark.exercise(id="1.11")
@pytest.mark.parametrize("bias", [True, False])
def test_hidden_layer(bias):
    """The first layer's numbers come first, biases before weights in each; ONE tanh between, the squash at the end."""
    rng = np.random.default_rng(1)
    c = Controller(3, 2, 2, hidden=4, bias=bias)
    flat = rng.standard_normal(c.num_params)
    c.set_params(flat)
    x = rng.standard_normal((6, 5))
    parts = np.split(flat, np.cumsum([4, 20, 2, 8] if bias else [20, 8])[:-1])
    (b1, w1, b2, w2) = parts if bias else (0, parts[0], 0, parts[1])
    hidden = x @ w1.reshape(5, 4) + b1
    mistakes = {
        numbers(np.tanh(hidden @ w2.reshape(4, 2) + b2)): "the tanh between the layers is missing",
        numbers(np.tanh(np.tanh(np.tanh(hidden) @ w2.reshape(4, 2) + b2))): "one tanh too many at the end",
        numbers(np.tanh(np.maximum(hidden, 0) @ w2.reshape(4, 2) + b2)): "the activation is tanh, not ReLU",
    }
    expected = np.tanh(np.tanh(hidden) @ w2.reshape(4, 2) + b2)
    action = c.act(torch.tensor(x, dtype=torch.float32))
    expect_close(action, expected, mistakes=mistakes, what="action")


@pytest.mark.exercise(id="1.11")
@pytest.mark.parametrize("hidden", [0, 4])
def test_population_acts_row_by_row(hidden):
    """With (N, params) set, controller i acts for row i: a whole generation dreams as one batch."""
    rng = np.random.default_rng(2)
    c = Controller(3, 2, 2, hidden=hidden)
    population = rng.standard_normal((6, c.num_params))
    x = torch.tensor(rng.standard_normal((6, 5)), dtype=torch.float32)
    one_by_one = []
    for flat, row in zip(population, x, strict=True):
        c.set_params(flat)
        one_by_one.append(c.act(row[None]))
    c.set_params(population)
    expect_close(c.act(x), torch.cat(one_by_one), what="actions of a population")


@pytest.mark.exercise(id="1.11")
def test_features_are_z_then_c_then_h():
    """The order decides which weight meets which number: z first; VizDoom's controller sees c before h."""
    z, h, c = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0]])
    seen = {inputs: Controller(2, 1, 1, inputs=inputs).features(z, h, c).tolist() for inputs in ("z", "zh", "zch")}
    assert seen == {"z": [[1, 2]], "zh": [[1, 2, 3]], "zch": [[1, 2, 4, 3]]}


# ---- 1.12 evolve ----


class Recorder:
    """A fitness that remembers what it was asked."""

    def __init__(self, score):
        self.score, self.candidates, self.generations = score, [], []

    def __call__(self, candidates: np.ndarray, generation: int) -> np.ndarray:
        self.candidates.append(np.array(candidates))
        self.generations.append(generation)
        return np.array([self.score(candidate) for candidate in candidates], np.float64)


def near_three(x: np.ndarray) -> float:
    return -float(np.square(x - 3).sum())


def search(score=near_three, num_params=5, **options) -> tuple[list[controller.Generation], Recorder]:
    fitness = Recorder(score)
    options = {"popsize": 10, "generations": 6, "sigma0": 0.5, "seed": 3, **options}
    return list(evolve(fitness, num_params, **options)), fitness


@pytest.mark.exercise(id="1.12")
def test_search_finds_the_highest_return():
    """Maximise -|x - 3|^2: the mean goes to 3. cma minimises, so with a forgotten minus it runs away from it."""
    generations, _ = search(generations=100)
    last = generations[-1]
    assert np.abs(last.mean).max() < 10, "the search flees from the best point: cma MINIMISES what it is told"
    expect_close(last.mean, 3.0, atol=1e-2, what="the mean after 100 generations")
    assert last.sigma < 0.05, "near the optimum the steps become small"


@pytest.mark.exercise(id="1.12")
def test_fitness_is_asked_once_per_generation():
    """All candidates at once, shape (popsize, params), with the generation's number, which is their source of seeds."""
    generations, fitness = search(num_params=7, popsize=12, generations=4)
    assert [candidates.shape for candidates in fitness.candidates] == [(12, 7)] * 4
    assert fitness.generations == [0, 1, 2, 3], "each generation has its own number, or all play the same episodes"
    assert [generation.index for generation in generations] == [0, 1, 2, 3]
    for generation, candidates in zip(generations, fitness.candidates, strict=True):
        expected = [near_three(candidate) for candidate in candidates]
        mistakes = {numbers(np.negative(expected)): "these are costs: report the returns"}
        expect_close(generation.returns, expected, mistakes=mistakes, what="returns, in the order of the candidates")


@pytest.mark.exercise(id="1.12")
def test_first_candidates_surround_zero_at_sigma0():
    """The search starts from zeros with deviation sigma0 in every direction."""
    _, fitness = search(num_params=60, popsize=50, generations=1, sigma0=0.1)
    first = fitness.candidates[0]
    n = first.size
    expect_close(first.mean(), 0.0, rtol=0, atol=6 * 0.1 / math.sqrt(n), what="mean of the first candidates")
    mistakes = {0.01: "sigma0 is a deviation, not a variance", 1.0: "sigma0 is not used"}
    expect_close(first.std(), 0.1, rtol=0, atol=6 * 0.1 / math.sqrt(2 * n), mistakes=mistakes, what="their deviation")


@pytest.mark.exercise(id="1.12")
def test_mean_is_the_weighted_mean_of_the_better_half():
    """CMA-ES by hand: the new mean is sum w_i x_i over the 5 best of 10, w_i ~ ln 5.5 - ln i, the best one first."""
    generations, fitness = search()
    weights = math.log(5.5) - np.log(np.arange(1, 6))
    weights /= weights.sum()
    assert abs(weights[0] - 0.456273) < 1e-6
    before = np.zeros(5)
    for generation, candidates in zip(generations, fitness.candidates, strict=True):
        best_first = candidates[np.argsort([-near_three(candidate) for candidate in candidates])]
        expected = weights @ best_first[:5]
        mistakes = {
            numbers(weights @ best_first[::-1][:5]): "the WORST are recombined: cma minimises what it is told",
            numbers(weights @ candidates[:5]): "returns and candidates are out of order",
            numbers(best_first[0]): "this is the best of a noisy generation: report the mean of the distribution",
            numbers(before): "this is the mean BEFORE the update: tell first",
        }
        expect_close(generation.mean, expected, atol=1e-8, mistakes=mistakes, what=f"mean {generation.index}")
        before = generation.mean


@pytest.mark.exercise(id="1.12")
def test_only_the_ranking_counts():
    """Add 1000 to every return, or double it: the search goes the same way."""
    plain, _ = search()
    for score in (lambda x: near_three(x) + 1000, lambda x: 2 * near_three(x)):
        moved, _ = search(score)
        expect_close([g.mean for g in moved], [g.mean for g in plain], what="means of the search")


@pytest.mark.exercise(id="1.12")
@pytest.mark.parametrize("seed", [0, 3])
def test_one_seed_gives_one_search(seed):
    """Two runs with one seed are alike, with seed 0 too (for the `seed` option of cma, 0 means: take the clock)."""
    np.random.seed(1)  # noqa: NPY002  whatever state numpy's global generator is in
    first, _ = search(seed=seed)
    np.random.seed(2)  # noqa: NPY002
    second, _ = search(seed=seed)
    expect_close([g.mean for g in second], [g.mean for g in first], what=f"means of two searches with seed {seed}")
    other, _ = search(seed=seed + 1)
    assert not np.allclose(other[0].mean, first[0].mean), "another seed gives another search"


@pytest.mark.exercise(id="1.12")
def test_interrupted_search_goes_on_where_it_stopped():
    """Returns of the finished generations in `history`: they are told again without being played again."""
    whole, fitness = search(generations=6)
    resumed, later = search(generations=6, history=[g.returns for g in whole[:4]])
    assert later.generations != list(range(6)), "generations of the history are evaluated again"
    assert later.generations != [0, 1], "after 4 generations comes number 4: its seeds are its own"
    assert later.generations == [4, 5]
    expect_close(later.candidates, fitness.candidates[4:], what="candidates of generations 4 and 5")
    assert [g.index for g in resumed] == list(range(6)), "generations of the history are yielded too"
    for name in ("returns", "mean", "sigma"):
        expect_close([getattr(g, name) for g in resumed], [getattr(g, name) for g in whole], what=name)


@pytest.mark.exercise(id="1.12")
def test_finished_search_asks_nothing():
    """With the whole history at hand nothing is played, and nothing is lost."""
    whole, _ = search()
    resumed, fitness = search(history=[g.returns for g in whole])
    assert fitness.generations == []
    expect_close([g.mean for g in resumed], [g.mean for g in whole], what="means of the search")


@pytest.mark.exercise(id="1.12")
@pytest.mark.parametrize("score", [lambda x: 0.0, lambda x: float(x.sum())], ids=["flat", "a slope without end"])
def test_search_runs_for_as_many_generations_as_it_is_told(score):
    """All returns are equal, or the steps grow and grow; cma would like to give up: the loop counts, no more."""
    generations, _ = search(score, generations=60)
    assert len(generations) == 60
    assert np.isfinite([generation.mean for generation in generations]).all()


@pytest.mark.exercise(id="1.12")
def test_each_generation_is_yielded_before_the_next_is_played():
    """The caller logs, evaluates and saves between generations, so evolve must not run ahead."""
    fitness = Recorder(near_three)
    running = evolve(fitness, 5, popsize=10, generations=3, seed=3)
    next(running)
    assert fitness.generations == [0]
    next(running)
    assert fitness.generations == [0, 1]


@pytest.mark.exercise(id="1.12")
def test_diagonal_covariance_cannot_follow_a_tilted_valley():
    """A narrow valley that is not parallel to an axis: full covariance learns its direction, a diagonal one cannot."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    scale = 10 ** np.linspace(0, 4, 5)
    valley = lambda x: -float(scale @ np.square(rotation @ (x - 1)))
    loss = {}
    for diagonal in (False, True):
        generations, _ = search(valley, generations=140, diagonal=diagonal)
        loss[diagonal] = -generations[-1].returns.max()
    assert loss[False] < 1e-5, "full covariance should have reached the bottom"
    assert loss[True] > 1e-3, "`diagonal` did not keep the covariance diagonal"
