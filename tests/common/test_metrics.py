import json
import math
import sys
import time

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from common import metrics
from common.errors import UserError
from common.metrics import METRICS, Logger, Timer, check_finite, read_metrics


def strict(line: str) -> dict:
    """Parse as other languages do: the nan and Infinity that Python lets through are no JSON."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


# --- Logger ------------------------------------------------------------------------------------------------


def test_every_line_is_strict_json_and_there_at_once(tmp_path):
    with Logger(tmp_path / "run", tensorboard=False) as logger:
        logger.log({"world_model/kl": torch.tensor(2.5), "a": np.float32(0.5), "b": 3}, step=10, frames=40)
        logger.log({"a": math.nan, "b": math.inf, "c": -math.inf}, step=20, frames=80)
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()  # before the logger is closed
    first, second = map(strict, lines)
    assert list(first) == ["step", "frames", "wall_seconds", "world_model/kl", "a", "b"]
    assert (first["step"], first["frames"], first["world_model/kl"], first["b"]) == (10, 40, 2.5, 3)
    assert second["a"] == "nan"
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert math.isnan(rows[1]["a"])
    assert (rows[1]["b"], rows[1]["c"], rows[0]["a"]) == (math.inf, -math.inf, 0.5)


def test_a_half_written_line_is_cut_off_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "frames": 4, "wall_seconds": 100.0, "a": 1.0}\n{"step": 2, "fra')
    assert [row["step"] for row in read_metrics(path)] == [1]
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log({"a": 2.0}, step=2, frames=8)
    rows = read_metrics(path)
    assert [(row["step"], row["a"]) for row in rows] == [(1, 1.0), (2, 2.0)]
    assert len(path.read_text().splitlines()) == 2
    assert 100 <= rows[1]["wall_seconds"] < 110  # the clock goes on where it stood


def test_a_file_that_holds_only_half_a_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"st')
    with Logger(tmp_path, tensorboard=False) as logger:
        logger.log({"a": 1.0}, step=1, frames=1)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    with Logger(tmp_path, tensorboard=False) as logger:
        for step in (10, 20, 30):
            logger.log({"a": step}, step=step, frames=4 * step)
    with Logger(tmp_path, tensorboard=False, resume_step=20) as logger:
        logger.log({"a": -1}, step=30, frames=120)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["a"]) for row in rows] == [(10, 10), (20, 20), (30, -1)]
    with Logger(tmp_path, tensorboard=False, resume_step=0):
        assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_wall_seconds_counts_time(tmp_path, monkeypatch):
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Logger(tmp_path, tensorboard=False) as logger:
        now = 53.5
        logger.log({}, step=1, frames=1)
    now = 1000.0  # a pause between two pieces of a run is not counted
    with Logger(tmp_path, tensorboard=False) as logger:
        now = 1001.0
        assert logger.wall_seconds == 4.5


def test_read_metrics_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl"):
        read_metrics(tmp_path / "no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path / "bad.jsonl")


def test_tensorboard_gets_scalars_images_and_videos(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    frames = np.zeros((3, 8, 10, 3), np.uint8)
    frames[1] = (200, 10, 10)
    with Logger(tmp_path) as logger:
        logger.log({"world_model/kl": 2.5}, step=7, frames=28)
        image_path = logger.image("dream/first", frames[1], 7)
        video_path = logger.video("dream/all", frames, 7)
    board = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (scalar,) = board.Scalars("world_model/kl")
    assert (scalar.step, scalar.value) == (7, 2.5)
    assert (board.Images("dream/first")[0].width, board.Images("dream/first")[0].height) == (10, 8)
    assert board.Images("dream/all")[0].encoded_image_string == video_path.read_bytes()
    assert image_path.parent == tmp_path / "figures"
    assert video_path.parent == tmp_path / "videos"
    np.testing.assert_array_equal(imageio.imread(image_path), frames[1])
    assert len(imageio.mimread(video_path)) == 3


# --- Names and the guard -----------------------------------------------------------------------------------


def test_names_are_grouped_and_explained():
    assert {name.split("/")[0] for name in METRICS} == {"world_model", "policy", "efficiency"}
    assert all(name.count("/") == 1 and name == name.lower() for name in METRICS)
    assert all(text and "\n" not in text for text in METRICS.values())


def test_check_finite_names_the_first_loss_that_is_not():
    fine = {"world_model/recon_loss": torch.tensor(1.0), "policy/value_explained_variance": math.nan}
    check_finite(fine, "step 1")
    with pytest.raises(UserError, match=r"^world_model/recon_loss is nan at step 120: .*last good checkpoint"):
        check_finite({"a/loss": 1.0, "world_model/recon_loss": math.nan, "b/loss": math.inf}, "step 120")
    with pytest.raises(UserError, match=r"world_model/kl is inf"):
        check_finite({"world_model/kl": torch.tensor(math.inf)}, "step 3")


# --- World model -------------------------------------------------------------------------------------------


def test_reconstruction_error():
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert metrics.reconstruction_error(black, white) == 1  # and not 1 / 255^2, as uint8 wraps around
    assert metrics.reconstruction_error(white, torch.ones(1, 2, 2, 3)) == 0
    half = white.copy()
    half[..., 0] = 0
    assert metrics.reconstruction_error(half, white).item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="shapes"):
        metrics.reconstruction_error(black, white[..., :1])  # would broadcast


def test_kl_gaussian_by_hand():
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 1.0]])
    zero = torch.zeros(1, 2)
    kl = metrics.kl_gaussian(one, torch.ones(1, 2), zero, two)
    # ln(2 / 1) + (1 + 1) / (2 * 4) - 1/2 = 0.4431; swapped it is 1.3069, with variances for deviations 0.3466
    torch.testing.assert_close(kl, torch.tensor([[math.log(2) + 0.25 - 0.5, 0.0]]))


def test_kl_categorical_by_hand():
    post, prior = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]), torch.tensor([[[0.25, 0.75], [0.25, 0.75]]])
    logits = torch.where(post > 0, post.log(), -1e9) + 3  # logits may carry any constant
    kl = metrics.kl_categorical(logits, prior.log() - 2)
    torch.testing.assert_close(kl, torch.tensor([[0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(4)]]))


def test_reward_accuracy_by_hand():
    predicted, reward = torch.tensor([0.01, 0.9, -0.2, 0.0]), torch.tensor([0.0, 1.0, -1.0, 1.0])
    error, sign = metrics.reward_accuracy(predicted, reward)
    assert error.item() == pytest.approx((0.01 + 0.1 + 0.8 + 1.0) / 4)
    assert sign.item() == pytest.approx((1 + 0.5 + 1) / 3)  # zeros, positives, negatives


def test_a_reward_model_that_always_says_zero_is_not_called_good():
    reward = torch.zeros(10, 10)
    reward[3, 4] = 1
    error, sign = metrics.reward_accuracy(torch.zeros(10, 10), reward)
    assert error.item() == pytest.approx(0.01)
    assert sign == 0.5
    assert metrics.reward_accuracy(torch.zeros(5), torch.zeros(5))[1] == 1


def test_continue_accuracy_is_balanced():
    terminal = torch.tensor([[False] * 6 + [True] * 2])
    assert metrics.continue_accuracy(torch.full((1, 8), 0.9), terminal) == 0.5
    assert metrics.continue_accuracy((~terminal).float(), terminal) == 1
    assert metrics.continue_accuracy(terminal.float(), terminal) == 0
    prob = torch.tensor([[0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.1, 0.9]])
    assert metrics.continue_accuracy(prob, terminal) == 0.5
    assert metrics.continue_accuracy(torch.full((1, 6), 0.9), terminal[:, :6]) == 1


def test_active_units_vary_with_the_observation():
    mean = torch.tensor([[[0.0, 5.0, 0.05]], [[1.0, 5.0, -0.05]]])  # variances .25, 0 (constant but large), .0025
    assert metrics.active_units(mean).tolist() == [True, False, False]


def test_informative_units_take_the_mean_over_batch_and_time():
    kl = torch.tensor([[[0.0, 0.009, 0.0], [0.06, 0.009, 0.0]], [[0.0, 0.009, 0.0], [0.0, 0.009, 0.04]]])
    assert metrics.informative_units(kl).tolist() == [True, False, False]


def test_class_counts_keep_variables_apart():
    classes = torch.tensor([[[0, 2], [0, 1]], [[0, 2], [1, 2]]])
    assert metrics.class_counts(classes, 4).tolist() == [[3, 1, 0, 0], [0, 1, 3, 0]]
    assert metrics.class_counts(classes.reshape(-1, 1), 4).tolist() == [[3, 2, 3, 0]]


def test_categorical_use():
    counts = torch.zeros(1, 512, dtype=torch.long)
    counts[0, 100:116] = 7
    use, perplexity = metrics.categorical_use(counts)
    assert (use.item(), perplexity.item()) == pytest.approx((16 / 512, 16.0))
    one = torch.tensor([[9, 0, 0, 0], [3, 3, 3, 3]])  # perplexities 1 and 4: the mean is 2.5, pooled counts give 3.2
    use, perplexity = metrics.categorical_use(one)
    assert (use.item(), perplexity.item()) == pytest.approx((5 / 8, 2.5))


# --- Policy ------------------------------------------------------------------------------------------------


def test_episodes_are_counted_only_when_whole():
    rows = {
        #            | end of one |  a whole one  | one cut  |    | ends    | a whole one |
        "reward": np.float32([[9, 9, 0, 1, 2, 4, 0, 7], [9, 9, 9, 0, 5, 0, -1, 0]]),
        "is_first": np.array([[0, 0, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 1, 0, 0]], bool),
        "is_last": np.array([[0, 1, 0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0, 0, 0]], bool),
    }
    assert metrics.episode_returns(rows) == [7.0, 5.0]
    assert metrics.episode_lengths(rows) == [3, 1]
    one_env = {name: values[0] for name, values in rows.items()}
    assert metrics.episode_returns(one_env) == [7.0]


@pytest.mark.parametrize("truncated", [False, True])
def test_value_accuracy_by_hand(truncated):
    rows = {
        "reward": np.float32([0, 1, 2, 0, 4, 6]),
        "is_last": np.array([0, 0, 1, 0, 0, 0], bool),
        "is_terminal": np.array([0, 0, not truncated, 0, 0, 0], bool),
    }
    # At row 2 the episode ends: its value stands in where it was cut off, and means nothing where it is over.
    tail = 100.0 if truncated else 0.0
    second = 2 + 0.5 * tail
    first = 1 + 0.5 * second
    fifth = 6 + 0.5 * 8.0  # the rows stop at row 5: its value stands in
    returns = np.array([first, second, 100.0, 4 + 0.5 * fifth, fifth, 8.0])
    exact = {"policy/value_error": 0.0, "policy/value_bias": 0.0, "policy/value_explained_variance": 1.0}
    assert metrics.value_accuracy(returns, rows, 0.5) == pytest.approx(exact)

    off = returns + np.array([2, -1, 0, 2, -1, 0])
    scored = returns[[0, 1, 3, 4]]
    accuracy = metrics.value_accuracy(off, rows, 0.5)
    assert accuracy["policy/value_error"] == pytest.approx(1.5)
    assert accuracy["policy/value_bias"] == pytest.approx(0.5), "promised too much"
    assert accuracy["policy/value_explained_variance"] == pytest.approx(1 - 2.25 / scored.var())


def test_a_constant_value_explains_nothing():
    rows = {
        "reward": np.float32([[0, 1, 0, 0, 2], [0, 0, 0, 3, 1]]),
        "is_last": np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], bool),
        "is_terminal": np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], bool),
    }
    accuracy = metrics.value_accuracy(np.full((2, 5), 3.0), rows, 1.0)
    # returns 3 2 2 2 and 4 4 4 1
    assert accuracy["policy/value_error"] == pytest.approx((0 + 1 + 1 + 1 + 1 + 1 + 1 + 2) / 8)
    assert accuracy["policy/value_bias"] == pytest.approx((0 + 1 + 1 + 1 - 1 - 1 - 1 + 2) / 8)
    assert accuracy["policy/value_explained_variance"] == pytest.approx(0.0)
    rows["reward"][:] = 0
    assert "policy/value_explained_variance" not in metrics.value_accuracy(np.zeros((2, 5)), rows, 1.0)


def test_policy_entropy():
    assert metrics.policy_entropy(Categorical(logits=torch.zeros(3, 4))).item() == pytest.approx(math.log(4))
    normal = Independent(Normal(torch.zeros(5, 2), torch.full((5, 2), 2.0)), 1)
    assert metrics.policy_entropy(normal).item() == pytest.approx(2 * (0.5 * math.log(2 * math.pi * math.e * 4)))


def test_policy_entropy_of_a_squashed_gaussian_is_estimated():
    torch.manual_seed(0)
    squashed = TransformedDistribution(Normal(torch.zeros(400), 0.5), TanhTransform(cache_size=1))
    u = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    density = Normal(0.0, 0.5).log_prob(u).exp()
    # h(tanh u) = h(u) + E[ln(1 - tanh(u)^2)]
    exact = Normal(0.0, 0.5).entropy() + torch.trapezoid(density * torch.log(1 - u.tanh() ** 2), u)
    assert metrics.policy_entropy(squashed).item() == pytest.approx(exact.item(), abs=0.03)


def test_grad_norm_is_of_all_gradients_as_one_vector():
    a, b, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 2.0])
    assert metrics.grad_norm(p for p in (a, unused, b)).item() == pytest.approx(5.0)
    assert a.grad.tolist() == [1.0, 2.0]  # measured, not clipped
    assert metrics.grad_norm([unused]) == 0


# --- Efficiency --------------------------------------------------------------------------------------------


def test_timer(monkeypatch):
    ticks = iter([10.0, 11.0, 20.0, 23.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    timer = Timer(smoothing=0.9)
    assert math.isnan(timer.mean_seconds)
    with timer:
        pass
    assert timer.recent_seconds == 1.0
    with timer:
        pass
    assert timer.mean_seconds == 2.0
    assert timer.recent_seconds == pytest.approx(0.9 * 1 + 0.1 * 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with /proc")
def test_peak_memory_is_in_mib():
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert metrics.peak_memory_mib() == pytest.approx(kib / 1024, rel=0.05)


def test_peak_gpu_memory():
    if torch.cuda.is_available():
        kept = torch.zeros(2**20, device="cuda")
        assert metrics.peak_gpu_memory_mib() >= kept.numel() * 4 / 2**20
    else:
        assert metrics.peak_gpu_memory_mib() == 0


def test_model_size_counts_shared_parameters_once():
    layer = nn.Linear(3, 2)
    tied = nn.Sequential(layer, nn.ReLU(), layer)
    assert metrics.model_size(tied) == (8, 8 * 4 / 2**20)
    assert metrics.model_size(nn.Linear(3, 2).half()) == (8, 8 * 2 / 2**20)
