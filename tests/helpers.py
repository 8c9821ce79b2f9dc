"""What the tests of all papers share: reference numbers, logs, and failures that name the usual mistake."""

from pathlib import Path

import numpy as np
import torch

from common.metrics import read_metrics

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    """Reference numbers that the official code computed: the arrays of tests/golden/<name>.npz."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def numbers(array) -> tuple[float, ...]:
    """An array's entries as a tuple, which can be a key of `mistakes`."""
    return tuple(_float64(array).ravel().tolist())


def comparable(folder: Path) -> list[dict]:
    """The log without what depends on the clock and the machine."""
    return [
        {k: v for k, v in row.items() if k != "wall_seconds" and not k.startswith("efficiency/")}
        for row in read_metrics(folder / "metrics.jsonl")
    ]


def expect_close(
    actual,
    expected,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    mistakes: dict[float | tuple[float, ...], str] | None = None,
    what: str = "",
) -> None:
    """Fail unless `actual` has the shape of `expected` and is close to it; a single expected number fits any shape.

    mistakes: a wrong value, or the tuple of all entries of a wrong array, and the sentence that says which usual
    mistake gives it. When `actual` is close to one of them, the failure says the sentence.
    """
    __tracebackhide__ = True
    actual, expected = _float64(actual), _float64(expected)
    wanted = np.full_like(actual, expected) if expected.ndim == 0 else expected
    if actual.shape == wanted.shape and np.allclose(actual, wanted, rtol, atol, equal_nan=True):
        return
    lines = [f"{what or 'the result'} is not what it should be:", *_difference(actual, wanted)]
    for value, sentence in (mistakes or {}).items():
        wrong = np.asarray(value, np.float64).ravel()
        if wrong.size == 1 or wrong.size == actual.size:
            wrong = np.broadcast_to(wrong, actual.size)
            if actual.size and np.allclose(actual.ravel(), wrong, max(rtol, 1e-3), atol, equal_nan=True):
                lines.append(f"  -> {sentence}")
    raise AssertionError("\n".join(lines))


def _float64(array) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    return np.asarray(array, np.float64)


def _difference(actual: np.ndarray, expected: np.ndarray) -> list[str]:
    """Both in full where they are short, else the worst entry of them."""
    if actual.shape != expected.shape:
        return [f"  actual has shape {actual.shape}", f"  expected    shape {expected.shape}"]
    if actual.size <= 12:
        return [f"  actual   {_text(actual)}", f"  expected {_text(expected)}"]
    error = np.nan_to_num(np.abs(actual - expected), nan=np.inf)
    worst = np.unravel_index(error.argmax(), error.shape)
    where = f"at {tuple(map(int, worst))}, the worst of {actual.size} entries (shape {actual.shape})"
    return [f"  actual   {_text(actual[worst])} {where}", f"  expected {_text(expected[worst])}"]


def _text(array: np.ndarray) -> str:
    return np.array2string(np.asarray(array), precision=7, separator=", ", suppress_small=True)
