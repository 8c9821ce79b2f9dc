from contextlib import contextmanager

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from common import plots
from common.agent import DreamStep
from common.errors import UserError
from common.plots import (
    compare_predictions,
    plot_codebook,
    plot_curves,
    plot_latent_use,
    visualize_imagination,
    visualize_vae,
)


class GreyWorld:
    """A model of a world that is one grey level, to which each action adds; it adds `drift` more."""

    def __init__(self, drift: int = 0, end_after: int = 100):
        self.drift, self.end_after = drift, end_after

    def reconstruct(self, batch):
        return batch["image"] + np.uint8(1)

    def begin_dream(self, context):
        return {"level": torch.as_tensor(context["image"][:, -1]).long(), "k": 0}

    def dream_action(self, state):
        return torch.ones(len(state["level"]), 1)

    def dream_step(self, state, action, *, temperature=1.0, decode=True):
        level = state["level"] + action.long()[:, :, None, None] + self.drift
        k = state["k"] + 1
        reward = level.float().mean((1, 2, 3)) / 100
        cont = torch.full_like(reward, 0.1 if k >= self.end_after else 0.9)
        return DreamStep({"level": level, "k": k}, level.to(torch.uint8), reward, cont)


def rows_of(actions, image_size=8) -> dict:
    """Rows (B, T, ...) of the grey world, in which every action is different; `actions[:, 0]` is not used."""
    prev_action = np.array(actions, np.float32)[..., None]
    prev_action[:, 0] = 0
    levels = 50 + 10 * np.arange(len(actions))[:, None] + prev_action[..., 0].cumsum(1)
    image = np.ones((image_size, image_size, 3), np.uint8) * levels.astype(np.uint8)[..., None, None, None]
    is_first = np.zeros(levels.shape, bool)
    is_first[:, 0] = True
    return {"image": image, "prev_action": prev_action, "is_first": is_first}


@pytest.fixture
def drawn(monkeypatch):
    """What the last figure of frames was asked to show."""
    seen = {}
    draw = plots.plot_comparison

    def spy(rows, path, title, **options):
        seen.update(rows=rows, title=title, **options)
        return draw(rows, path, title, **options)

    monkeypatch.setattr(plots, "plot_comparison", spy)
    return seen


@pytest.fixture
def axes(monkeypatch):
    """The axes of the last figure."""
    kept = []
    make = plots.saved_figure

    @contextmanager
    def spy(*arguments):
        with make(*arguments) as figure:
            yield figure
            kept.extend(figure.axes)

    monkeypatch.setattr(plots, "saved_figure", spy)
    return kept


def size(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_reconstructions_stand_under_their_originals(tmp_path, drawn):
    batch = rows_of([[0, 1, 2, 3], [0, 5, 5, 5]])
    path = visualize_vae(GreyWorld(), batch, tmp_path / "new" / "vae.png", num_samples=3)
    assert path == tmp_path / "new" / "vae.png"
    assert size(path)[0] >= 3 * 128
    original, recon = drawn["rows"]["original"], drawn["rows"]["reconstruction"]
    np.testing.assert_array_equal(original[:, 0, 0, 0], [50, 60, 75])  # first, one between, last
    np.testing.assert_array_equal(recon, original + 1)
    assert "0.0000" in drawn["title"]  # (1 / 255)^2
    visualize_vae(GreyWorld(), batch, path, num_samples=100)
    assert len(drawn["rows"]["original"]) == 8  # no more than there are


def test_imagination_shows_the_start_then_the_dream_and_its_rewards(tmp_path, drawn):
    context = rows_of([[0, 1], [0, 2]])
    visualize_imagination(GreyWorld(end_after=2), context, tmp_path / "a.png", horizon=4, num_dreams=3)
    level = drawn["rows"]["dream 1"][:, 0, 0, 0]
    assert level[:3].tolist() == [51, 52, 53]  # the last real frame, then one action of 1 after the other
    assert (level[3:] > 200).all()  # what follows the predicted end is faded
    assert drawn["captions"]["dream 1"] == ["real", "+0.52", "+0.53 end", "", ""]
    assert drawn["rows"]["dream 2"][0, 0, 0, 0] == 62
    assert drawn["rows"]["dream 3"][0, 0, 0, 0] == 51  # two starts for three dreams: they take turns
    assert drawn["framed"] == 1


def test_prediction_takes_the_actions_that_were_really_taken(tmp_path, drawn):
    rows = rows_of([[0, 1, 2, 4, 8, 16], [0, 3, 5, 7, 11, 13]])
    path, mse = compare_predictions(GreyWorld(), rows, tmp_path / "a.png", context=2)
    np.testing.assert_array_equal(mse, np.zeros(4))  # one action too early or too late, and it is not
    assert drawn["framed"] == 2
    assert drawn["headers"] == [f"t = {t}" for t in range(6)]
    np.testing.assert_array_equal(drawn["rows"]["model"][:2], rows["image"][0, :2] + 1)  # reconstructions
    np.testing.assert_array_equal(drawn["rows"]["error"][2:], 0)
    assert size(path)[0] >= 6 * 128


def test_prediction_error_is_per_step_and_beside_that_of_a_copy(tmp_path, drawn):
    rows = rows_of([[0, 7, 0, 1, 1], [0, 7, 0, 1, 1]])
    _, mse = compare_predictions(GreyWorld(drift=3), rows, tmp_path / "a.png", context=3)
    np.testing.assert_allclose(mse, [(3 / 255) ** 2, (6 / 255) ** 2])
    assert drawn["captions"]["error"] == ["0.0000", "0.0000", "0.0000", "0.0001", "0.0006"]
    np.testing.assert_array_equal(drawn["rows"]["error"][:, 0, 0, 0], [1, 1, 1, 3, 6])
    assert f"{(3**2 + 6**2) / 2 / 255**2:.4f}\n" in drawn["title"]
    assert f"last frame seen: {(1 + 2**2) / 2 / 255**2:.4f}" in drawn["title"]


def test_prediction_stops_where_another_episode_starts(tmp_path, drawn):
    rows = rows_of([[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    rows["is_first"][:, 4] = True
    rows["image"][:, 4:] = 200
    rows["is_first"][0, 3] = True
    rows["image"][0, 3:] = 200
    _, mse = compare_predictions(GreyWorld(), rows, tmp_path / "a.png", context=2)
    np.testing.assert_array_equal(mse, [0, 0, np.nan, np.nan])
    assert len(drawn["rows"]["truth"]) == 4  # the second sequence, which goes on longer
    assert (drawn["rows"]["truth"][:, 0, 0, 0] == [60, 61, 62, 63]).all()


def test_a_long_prediction_shows_every_so_many_frames(tmp_path, drawn):
    rows = rows_of([[0] + [1] * 20])
    _, mse = compare_predictions(GreyWorld(), rows, tmp_path / "a.png", context=6, max_columns=8)
    assert drawn["headers"] == ["t = 2", "t = 5", "t = 8", "t = 11", "t = 14", "t = 17", "t = 20"]
    assert drawn["framed"] == 2
    assert len(mse) == 15


def test_prediction_refuses_a_context_that_leaves_nothing(tmp_path):
    rows = rows_of([[0, 1, 1]])
    for context in (0, 3):
        with pytest.raises(ValueError, match="context must be from 1 to 2"):
            compare_predictions(GreyWorld(), rows, tmp_path / "a.png", context=context)


def test_frames_are_drawn_pixel_by_pixel(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 64, 64, 1), np.uint8)  # grey
    path = plots.plot_comparison({"a": frames, "long label": frames[::-1]}, tmp_path / "a.png", "title")
    with Image.open(path) as image:
        page = np.asarray(image.convert("RGB"))
    enlarged = frames[0].repeat(2, 0).repeat(2, 1).repeat(3, 2)
    windows = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (1, 128))[:, :, 0]
    top, left = np.argwhere((windows == enlarged[0, :, 0]).all(-1))[0]
    np.testing.assert_array_equal(page[top : top + 128, left : left + 128], enlarged)
    assert (page[:, :4] == 255).all()  # no label is cut off


# --- Curves and latents ------------------------------------------------------------------------------------


def log_of(points, name="policy/episode_return") -> list[dict]:
    return [{"step": 0, "frames": frames, name: value} for frames, value in points]


def test_curves_are_means_over_seeds_where_all_have_data(tmp_path, axes):
    seeds = [log_of([(0, 0.0), (10, 10.0), (20, 20.0)]), log_of([(5, 7.0), (25, 27.0)])]
    seeds[0] += [{"frames": 22, "world_model/kl": 1.0}, {"frames": 23, "policy/episode_return": float("nan")}]
    path = plot_curves({"V3": seeds}, tmp_path / "a.png", baselines={"random": -1.0})
    assert size(path) == (720, 440)
    first, second, mean, baseline = axes[0].lines
    assert list(first.get_xdata()) == [0, 10, 20]  # what was logged
    assert list(second.get_xdata()) == [5, 25]
    assert list(mean.get_xdata()) == [5, 10, 20]
    assert list(mean.get_ydata()) == [6, 11, 21]  # the second seed is two above the first
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (5, 22)
    assert list(baseline.get_ydata()) == [-1, -1]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["V3 (2 seeds)"]


def test_one_seed_has_a_curve_but_no_band(tmp_path, axes):
    plot_curves({"IRIS": log_of([(0, 1.0), (4, 3.0)], "a/b")}, tmp_path / "a.png", y="a/b")
    points, line = axes[0].lines
    assert list(line.get_ydata()) == list(points.get_ydata()) == [1, 3]
    assert not axes[0].collections
    assert axes[0].get_ylabel() == "b"
    assert axes[0].get_xlabel() == "environment frames"


def test_seeds_that_never_overlap_are_drawn_as_points(tmp_path, axes):
    plot_curves({"a": [log_of([(0, 1.0)]), log_of([(9, 3.0)])]}, tmp_path / "a.png")
    assert len(axes[0].lines[2].get_xdata()) == 0


def test_smoothing_starts_at_the_first_value():
    values = np.array([4.0, 0.0, 0.0])
    # weights .5 and .25 before, over their sum: no pull towards zero
    np.testing.assert_allclose(plots._smooth(values, 0.5), [4.0, 4 / 3, 4 / 7])
    np.testing.assert_array_equal(plots._smooth(values, 0.0), values)


def test_curves_of_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match="policy/entropy"):
        plot_curves({"a": [log_of([(0, 1.0)])], "b": []}, tmp_path / "a.png", y="policy/entropy")
    assert not list(tmp_path.iterdir())


def test_codebook_bars_are_sorted_shares(tmp_path, axes):
    plot_codebook(np.array([1, 0, 3, 0]), tmp_path / "a.png")
    assert [bar.get_height() for bar in axes[0].patches] == [0.75, 0.25, 0, 0]
    assert "50% of 4 classes" in axes[0].get_title()
    assert "perplexity 1.8" in axes[0].get_title()  # exp(.75 ln(4/3) + .25 ln 4) = 1.75


def test_codes_of_several_variables_are_a_map(tmp_path, axes):
    plot_codebook(np.array([[1, 0, 3], [2, 2, 0]]), tmp_path / "a.png")
    np.testing.assert_array_equal(axes[0].images[0].get_array(), [[0.25, 0, 0.75], [0.5, 0.5, 0]])
    assert "67% of 2 x 3 classes" in axes[0].get_title()


def test_latent_use_counts_what_lies_above_the_threshold(tmp_path, axes):
    plot_latent_use(np.array([0.005, 2.0, 0.0, 0.3]), tmp_path / "a.png")
    assert [bar.get_height() for bar in axes[0].patches] == [2.0, 0.3, 0.005, 0.0]
    assert axes[0].get_title().startswith("2 of 4")


def test_figures_leave_no_global_state(tmp_path):
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    plot_latent_use(np.array([0.5]), tmp_path / "a.png")
    with pytest.raises(RuntimeError), plots.saved_figure(tmp_path / "b.png", 1, 1):
        raise RuntimeError
    assert not (tmp_path / "b.png").exists()
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()
