from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from agentlightning.report.plot import plot_learning_curve, series, smooth

from .rows import learning_rows

TEAL = np.array([0x0F, 0x76, 0x6E])
BLUE = np.array([0x25, 0x63, 0xEB])


def pixels(path: Path, colour: np.ndarray) -> int:
    """How many pixels of the picture have this colour."""
    picture = (imread(path)[..., :3] * 255).round()
    return int((np.abs(picture - colour).max(-1) <= 2).sum())


def test_picture_shows_the_curve_and_the_test_results(tmp_path: Path):
    plot_learning_curve(learning_rows(), tmp_path / "new" / "reward.png", title="It learns", before=0.55, after=0.96)
    plot_learning_curve(learning_rows(), tmp_path / "no_test.png", title="It learns")
    assert imread(tmp_path / "new" / "reward.png").shape[:2] == (752, 1344)
    assert pixels(tmp_path / "new" / "reward.png", BLUE) > 1000
    assert pixels(tmp_path / "new" / "reward.png", TEAL) > 500
    assert pixels(tmp_path / "no_test.png", TEAL) == 0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0, "val/reward": 0.5}],
        [{"step": 1, "critic/score/mean": None}, {"step": 2, "critic/score/mean": float("nan")}],
        learning_rows(steps=2),
        [{"step": step, "critic/score/mean": -3.0 * step} for step in range(5)],
    ],
)
def test_any_run_gives_a_picture(tmp_path: Path, rows: list[dict[str, float]]):
    plot_learning_curve(rows, tmp_path / "reward.png", title="Short", after=0.5)
    assert imread(tmp_path / "reward.png").ndim == 3


def test_series_leaves_out_what_is_not_there():
    rows = [
        {"step": 0},
        {"step": 1, "a": 2.0},
        {"step": 2, "a": None},
        {"step": 3, "a": float("inf")},
        {"step": 4, "a": 1},
    ]
    assert series(rows, "a") == ([1.0, 4.0], [2.0, 1.0])


def test_smoothing_keeps_constants_and_calms_noise():
    assert smooth([0.7] * 30) == pytest.approx([0.7] * 30)
    assert smooth([0.3]) == pytest.approx([0.3])
    noisy = [0.0, 1.0] * 50
    calm = smooth(noisy)
    assert len(calm) == 100
    assert calm[10:-10] == pytest.approx([0.5] * 80, abs=0.01)
