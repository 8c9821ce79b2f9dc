"""Frames to GIF, MP4 and grids. Frames are uint8 (..., H, W, C) everywhere, C = 3, or 1 for grey."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError

WHITE = 255  # gaps and labels sit on white, like the paper that a figure is printed on

Frames = Sequence[np.ndarray] | UInt8[np.ndarray, "T H W C"]


def write_video(path: str | Path, frames: Frames, fps: float = 20) -> Path:
    """Write frames (T, H, W, 3 or 1) uint8 to `path`, as .gif (loops forever) or .mp4 by its suffix.

    A GIF frame has at most 256 colours (exact up to there), and equal frames in a row become one that is
    shown longer. An MP4 with an odd side gets its last row or column twice.
    Raises UserError for another suffix, for no frames, and for frames that are not uint8 images.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise UserError(f"cannot write a video to '{path}': the name must end in .gif or .mp4")
    if len(frames) == 0:
        raise UserError(f"no frames to write to '{path}'")
    frames = to_rgb(np.stack(list(frames)))
    if frames.ndim != 4:
        raise UserError(f"the frames of a video are (T, H, W, 3), not {frames.shape}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".gif":
        _write_gif(path, frames, fps)
    else:
        _write_mp4(path, frames, fps)
    return path


def _write_gif(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    # GIF counts in 1/100 s, and browsers slow down what claims to be faster than 50 frames a second.
    duration = max(20, round(100 / fps) * 10)
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def _write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    height, width = frames.shape[1:3]
    # Players want yuv420p, which needs even sides; macro_block_size=1 keeps imageio from rescaling to 16s.
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with imageio.get_writer(path, fps=fps, codec="libx264", quality=8, macro_block_size=1) as writer:
        for frame in frames:
            writer.append_data(frame)


def to_rgb(images: UInt8[np.ndarray, "*batch H W C"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Grey images (C = 1) with their channel repeated, colour images as they are; UserError for others."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise UserError(f"images must be uint8 from 0 to 255, not {images.dtype}")
    if images.ndim < 3 or images.shape[-1] not in (1, 3):
        raise UserError(f"images must be (..., H, W, 3) or (..., H, W, 1), not {images.shape}")
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:-1], 3)))


def enlarge(images: UInt8[np.ndarray, "*batch H W C"], scale: int) -> UInt8[np.ndarray, "*batch H2 W2 C"]:
    """Every pixel becomes a square of scale x scale pixels: sharp, where a player would blur."""
    return images.repeat(scale, axis=-3).repeat(scale, axis=-2)


def error_frames(
    a: UInt8[np.ndarray, "*batch H W C"], b: UInt8[np.ndarray, "*batch H W C"]
) -> UInt8[np.ndarray, "*batch H W C"]:
    """|a - b| per channel: black where the two agree, and the missing or surplus colour where they do not."""
    if a.shape != b.shape:
        raise ValueError(f"cannot compare images of shapes {a.shape} and {b.shape}")
    return np.maximum(a, b) - np.minimum(a, b)  # uint8 wraps around below zero; this never gets there


def frame_grid(
    frames: UInt8[np.ndarray, "R C H W channels"], gap: int = 2, labels: Sequence[str] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """R rows of C frames as one image, `gap` white pixels between frames, labels at the left of the rows."""
    frames = to_rgb(frames)
    rows, columns, height, width, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=WHITE)
    grid = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), columns * (width + gap), 3)
    grid = grid[: rows * (height + gap) - gap, : columns * (width + gap) - gap]
    if labels is None:
        return grid
    font = ImageFont.load_default(max(10, min(18, height // 4)))
    margin = max(round(font.getlength(label)) for label in labels) + 12
    page = Image.new("RGB", (margin + grid.shape[1], grid.shape[0]), "white")
    page.paste(Image.fromarray(grid), (margin, 0))
    for row, label in enumerate(labels):
        middle = row * (height + gap) + height // 2
        ImageDraw.Draw(page).text((margin - 6, middle), label, fill="black", font=font, anchor="rm")
    return np.asarray(page)


def side_by_side(
    *videos: UInt8[np.ndarray, "T H _ _"], titles: Sequence[str] = (), scale: int = 3, gap: int = 6
) -> UInt8[np.ndarray, "T height width 3"]:
    """Videos of one length and height next to each other, enlarged, each under its title.

    side_by_side(truth, model, error_frames(truth, model), titles=["truth", "model", "error"])
    """
    if len({video.shape[:2] for video in videos}) != 1:
        raise ValueError(f"videos differ in length or height: {[video.shape for video in videos]}")
    videos = [enlarge(to_rgb(video), scale) for video in videos]
    gap_frames = np.full_like(videos[0][:, :, :1], WHITE).repeat(gap, axis=2)
    parts = [part for video in videos for part in (video, gap_frames)][:-1]
    joined = np.concatenate(parts, axis=2)
    if not titles:
        return joined
    bar = _title_bar(titles, [video.shape[2] for video in videos], gap)
    return np.concatenate([np.broadcast_to(bar, (len(joined), *bar.shape)), joined], axis=1)


def mark_first(frames: UInt8[np.ndarray, "T H W 3"], count: int, width: int = 4) -> UInt8[np.ndarray, "T H2 W2 3"]:
    """A border around every frame: orange around the first `count`, white around the others."""
    colour = np.where(np.arange(len(frames))[:, None] < count, (232, 113, 10), WHITE).astype(np.uint8)
    height, long = frames.shape[1:3]
    page = np.broadcast_to(colour[:, None, None], (len(frames), height + 2 * width, long + 2 * width, 3)).copy()
    page[:, width:-width, width:-width] = frames
    return page


def _title_bar(titles: Sequence[str], widths: list[int], gap: int) -> UInt8[np.ndarray, "height width 3"]:
    """A white strip, each title centred over its video, in the largest type up to 16 that fits them all."""
    if len(titles) != len(widths):
        raise ValueError(f"{len(widths)} videos but {len(titles)} titles")
    size = 16
    while size > 6 and any(
        ImageFont.load_default(size).getlength(title) > width for title, width in zip(titles, widths, strict=True)
    ):
        size -= 1
    font = ImageFont.load_default(size)
    bar = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), 24), "white")
    left = 0
    for title, width in zip(titles, widths, strict=True):
        ImageDraw.Draw(bar).text((left + width // 2, 12), title, fill="black", font=font, anchor="mm")
        left += width + gap
    return np.asarray(bar)
