import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.video import enlarge, error_frames, frame_grid, side_by_side, to_rgb, write_video


def moving_square(length: int, height: int = 63, width: int = 65) -> np.ndarray:
    """A green square that moves right over a red and blue background."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[:, :, : width // 2] = (200, 20, 30)
    frames[:, :, width // 2 :] = (20, 40, 180)
    for t in range(length):
        frames[t, 20:40, 4 * t : 4 * t + 20] = (30, 220, 60)
    return frames


def test_gif_keeps_every_frame_and_colour_and_loops_forever(tmp_path):
    frames = moving_square(7)
    path = write_video(tmp_path / "new" / "a.gif", frames, fps=10)
    assert path == tmp_path / "new" / "a.gif"
    np.testing.assert_array_equal(np.stack(imageio.mimread(path, mode="RGB")), frames)
    with Image.open(path) as image:
        assert image.n_frames == 7
        assert image.info["loop"] == 0
        assert image.info["duration"] == 100


def test_gif_of_many_colours_stays_close(tmp_path):
    ramp = np.stack(np.meshgrid(np.arange(64) * 4, np.arange(64) * 4, [128]), -1).reshape(64, 64, 3)
    path = write_video(tmp_path / "a.gif", ramp.astype(np.uint8)[None])
    back = imageio.mimread(path, mode="RGB")[0].astype(int)
    assert np.abs(back - ramp).mean() < 6


def test_gif_shows_equal_frames_for_as_long_as_different_ones(tmp_path):
    frames = moving_square(2).repeat(3, axis=0)
    with Image.open(write_video(tmp_path / "a.gif", frames, fps=20)) as image:
        durations = [(image.seek(k), image.info["duration"])[1] for k in range(image.n_frames)]
    assert sum(durations) == 6 * 50


def test_gif_never_asks_for_more_than_browsers_play(tmp_path):
    with Image.open(write_video(tmp_path / "a.gif", moving_square(2), fps=100)) as image:
        assert image.info["duration"] == 20


def test_mp4_of_odd_size_keeps_frames_and_colours(tmp_path):
    frames = moving_square(9)
    path = write_video(str(tmp_path / "a.MP4"), list(frames), fps=10)
    with imageio.get_reader(path) as reader:
        back = np.stack([frame for frame in reader])  # noqa: C416 (list() asks for the length: infinite)
        assert reader.get_meta_data()["fps"] == 10
    assert back.shape == (9, 64, 66, 3)
    difference = np.abs(back[:, :63, :65].astype(int) - frames)
    assert difference.mean() < 3
    assert difference[:, 5:15, 5:25].max() < 12  # flat areas keep their colour: RGB has not become BGR


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_grey_frames_are_written_too(tmp_path, suffix):
    frames = np.full((3, 16, 16, 1), 90, np.uint8)
    frames[1, :8] = 200
    back = np.stack(imageio.mimread(write_video(tmp_path / f"a{suffix}", frames))).astype(int)
    assert np.abs(back[1, :6, :, :3] - 200).max() < 4
    assert np.abs(back[1, 10:, :, :3] - 90).max() < 4


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("a.avi", moving_square(2), "must end in .gif or .mp4"),
        ("a", moving_square(2), "must end in .gif or .mp4"),
        ("a.gif", [], "no frames"),
        ("a.mp4", np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        ("a.gif", np.zeros((2, 8, 8, 3), np.float32), "uint8"),
        ("a.gif", moving_square(2)[0], r"\(T, H, W, 3\)"),
        ("a.gif", np.zeros((2, 3, 8, 8), np.uint8), r"\(\.\.\., H, W, 3\)"),
    ],
)
def test_what_is_no_video_is_refused_in_a_line(tmp_path, name, frames, message):
    with pytest.raises(UserError, match=message):
        write_video(tmp_path / name, frames)
    assert not list(tmp_path.iterdir())


def test_to_rgb_repeats_grey_and_leaves_colour_alone():
    grey = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(to_rgb(grey)[..., 2], grey[..., 0])
    colour = moving_square(1)
    np.testing.assert_array_equal(to_rgb(colour), colour)


def test_error_frames_do_not_wrap_around():
    a, b = np.uint8([[[[10, 250, 7]]]]), np.uint8([[[[250, 10, 7]]]])
    np.testing.assert_array_equal(error_frames(a, b), [[[[240, 240, 0]]]])
    np.testing.assert_array_equal(error_frames(b, a), [[[[240, 240, 0]]]])
    with pytest.raises(ValueError, match="shapes"):
        error_frames(a, b.repeat(2, axis=0))  # would broadcast


def test_enlarge_makes_squares():
    image = np.uint8([[[1], [2]]])
    np.testing.assert_array_equal(enlarge(image, 2)[..., 0], [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_frame_grid_puts_each_frame_in_its_place():
    frames = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * np.ones((1, 1, 4, 5, 3), np.uint8)
    grid = frame_grid(frames, gap=2)
    assert grid.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    assert (grid[:4, 7:12] == 1).all()
    assert (grid[6:, 14:] == 5).all()
    assert (grid[4:6] == 255).all()
    assert (grid[:, 5:7] == 255).all()


def test_frame_grid_writes_labels_beside_their_rows():
    frames = np.zeros((2, 3, 32, 32, 3), np.uint8)
    grid = frame_grid(frames, gap=0, labels=["truth", "m"])
    margin = grid.shape[1] - 3 * 32
    np.testing.assert_array_equal(grid[:, margin:], frame_grid(frames, gap=0))
    ink = (255 - grid[:, :margin, 0].astype(int)).reshape(2, 32, margin).sum((1, 2))
    assert ink[0] > ink[1] > 0  # five letters beside the first row, one beside the second
    assert (grid[:, :3] == 255).all()  # nothing is cut off at the left


def test_side_by_side_joins_videos_under_their_titles():
    truth, model = moving_square(4, 32, 32), np.full((4, 32, 40, 1), 9, np.uint8)
    video = side_by_side(truth, model, titles=["truth", "a very long title of a model"], scale=2, gap=6)
    bar = video.shape[1] - 64
    assert video.shape == (4, 64 + bar, 64 + 6 + 80, 3)
    assert bar > 0
    np.testing.assert_array_equal(video[:, bar::2, :64:2], truth)
    assert (video[:, bar:, 70:] == 9).all()
    assert (video[:, :, 64:70] == 255).all()  # the gap, and no title that runs into it
    assert video[0, :bar, :64].min() < 128
    assert video[0, :bar, 70:].min() < 128
    assert side_by_side(truth, scale=1).shape == truth.shape


def test_side_by_side_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="length or height"):
        side_by_side(moving_square(3), moving_square(4))
    with pytest.raises(ValueError, match="2 videos but 1 titles"):
        side_by_side(moving_square(3), moving_square(3), titles=["one"])
