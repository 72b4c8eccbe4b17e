from __future__ import annotations

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from training.figures import comparison_figure, confusion_figure, recall_figure, tier_figure, transfer_figure

SCENES = ("Bike", "Run", "Walk")


def drawn(figure: Figure) -> bytes:
    """As a PNG; matplotlib's warnings are errors here."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_a_confusion_matrix_has_a_number_in_each_cell_that_has_windows() -> None:
    figure = confusion_figure(np.array([[5, 1, 0], [0, 0, 0], [2, 0, 7]]), SCENES, "plain: accuracy 0.8")
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "5", (1, 0): "1", (0, 2): "2", (2, 2): "7"}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(SCENES)
    np.testing.assert_allclose(axes.images[0].get_array()[1], 0, err_msg="a scene that does not occur has no share")
    assert axes.get_title() == "plain: accuracy 0.8"
    assert drawn(figure).startswith(b"\x89PNG")


def test_tiers_show_every_scenes_scores_and_where_tiers_begin() -> None:
    score, labels = np.array([0.0, 0.1, 0.5, 1.0, 1.0]), np.array([0, 0, 0, 2, 2])
    figure = tier_figure(score, labels, SCENES, (0.4, 0.55))
    counts = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert counts == [3, 0, 2], "a score of exactly 1 counts too"
    assert [axes.get_ylabel() for axes in figure.axes] == ["Bike\n3", "Run\n0", "Walk\n2"]
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines] == [0.4, 0.55]
        assert len({bar.get_facecolor() for bar in axes.patches}) == 3
    assert drawn(figure)


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.2, 0.4, 0.6, 0.8)])
def test_any_number_of_tiers_has_colours(thresholds: tuple[float, ...]) -> None:
    figure = tier_figure(np.linspace(0, 1, 9), np.zeros(9, np.int64), ("Walk",), thresholds)
    colours = {bar.get_facecolor() for axes in figure.axes for bar in axes.patches}
    assert len(colours) == min(3, len(thresholds) + 1)
    assert drawn(figure)


def test_arms_are_compared_with_the_best_recovery_on_top() -> None:
    def arm(value: float) -> dict[str, float]:
        return {"accuracy": value, "macro_f1": value, "recovery_ratio": value}

    figure = comparison_figure({"plain": arm(0.5), "filterloss": arm(0.9), "original": arm(0.7)}, 0.9)
    panels = figure.axes
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["plain", "original", "filterloss"]
    assert [axes.get_title() for axes in panels] == ["accuracy", "macro-F1", "recovery ratio"]
    assert [bar.get_width() for bar in panels[2].patches] == [0.5, 0.7, 0.9]
    colours = [bar.get_facecolor() for bar in panels[0].patches]
    assert colours[2] != colours[0] == colours[1]
    assert [list(line.get_xdata()) for line in panels[2].lines] == [[0.9, 0.9]]
    assert drawn(figure)


def test_a_recovery_that_is_undefined_is_left_out_and_not_drawn_on_top(caplog: pytest.LogCaptureFixture) -> None:
    """An original model that got nothing right at home: there is nothing to recover."""
    arms = {
        name: {"accuracy": value, "macro_f1": value, "recovery_ratio": ratio}
        for name, value, ratio in (("a", 0.2, math.nan), ("b", 0.9, 1.0), ("c", 0.5, math.nan), ("d", 0.4, 0.5))
    }
    figure = comparison_figure(arms, 0.9)
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert set(names[:2]) == {"a", "c"}
    assert names[2:] == ["d", "b"]
    assert drawn(figure)
    assert not caplog.records


def test_recall_is_a_shade_with_its_number_and_white_where_there_is_none() -> None:
    figure = recall_figure(
        {"original": {"Run": 0.2, "Walk": None}, "filterloss-auto": {"Run": 0.9, "Walk": 1.0}}, title="a, hard"
    )
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["original", "filterloss-auto"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["Run", "Walk"]
    assert [text.get_text() for text in axes.texts] == ["0.20", "0.90", "1.00"]
    shades = axes.images[0].get_array()
    assert shades is not None
    assert list(shades.mask.ravel()) == [False, True, False, False]
    assert drawn(figure)


def test_an_arm_has_its_interval_the_best_on_top_and_a_line_marks_the_limit() -> None:
    values = {"oracle": (0.9, 0.9, 0.9), "free-plain": (0.5, 0.4, 0.6), "filterloss-auto": (0.8, 0.75, 0.85)}
    figure = transfer_figure(values, title="a, hard", highlight="filterloss", limit="oracle")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["free-plain", "filterloss-auto", "oracle"]
    *spans, limit = [list(line.get_xdata()) for line in axes.lines]
    assert limit == [0.9, 0.9]
    assert spans[::2] == [[0.4, 0.6], [0.75, 0.85], [0.9, 0.9]]
    assert spans[1::2] == [[0.5], [0.8], [0.9]]
    assert len({axes.lines[at].get_color() for at in (0, 2, 4)}) == 3
    bare = transfer_figure({"free-plain": (0.5, 0.4, 0.6)}, title="a", highlight="filterloss", limit="oracle")
    assert len(bare.axes[0].lines) == 2, "no limit, no line"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["oracle"]
    assert bare.axes[0].get_legend() is None
    assert "95 % interval" in axes.get_xlabel()
    few = transfer_figure({"free-plain": (0.5, 0.5, 0.5)}, title="a", highlight="filterloss", limit="oracle")
    assert "too few for an interval" in few.axes[0].get_xlabel()
    assert drawn(figure)
