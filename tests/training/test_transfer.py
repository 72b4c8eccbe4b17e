from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.training.cells import BOTH, CELLS, SCENES, cell
from training import transfer
from training.tables import markdown, overview
from training.transfer import aims, closed, original_beaten, rows


def test_means_differences_and_the_way_to_the_oracle() -> None:
    found = {row.arm: row for row in rows(CELLS)}
    auto = found["filterloss-auto"]
    assert auto.seeds == 3
    assert auto.macro_f1 == pytest.approx(0.86)
    assert auto.interval == pytest.approx((0.86, 0.86), abs=1e-9), "people and seeds that are alike leave no doubt"
    assert auto.to_plain == pytest.approx(0.36)
    assert auto.to_best == pytest.approx(0.16), "focal is the best of the conventional arms"
    assert auto.to_best_interval == pytest.approx((0.16, 0.16), abs=1e-9)
    assert auto.recall == {"Run": pytest.approx(0.86), "Walk": None}
    assert auto.seconds == 3
    shares = closed(list(found.values()))
    assert shares["filterloss-auto"] == pytest.approx(0.8)
    assert shares["oracle"] == pytest.approx(1)


def test_what_the_weights_give_is_the_lead_over_the_best_arm_of_the_same_recipe() -> None:
    more = [cell(arm, seed, value) for seed in range(3) for arm, value in (("focal", 0.8), ("pruned", 0.84))]
    found = {row.arm: row for row in rows([*CELLS, *more])}
    assert found["filterloss-auto"].to_same == pytest.approx(0.02)
    assert (found["filterloss-auto"].best, found["filterloss-auto"].same) == ("free-focal", "pruned")
    assert found["filterloss-auto"].to_same_interval == pytest.approx((0.02, 0.02), abs=1e-9)
    assert found["filterloss-auto"].to_best == pytest.approx(0.16)
    assert {row.to_same for row in rows(CELLS)} == {None}, "there is none to compare with"


def test_the_lead_over_arms_that_may_stay_with_the_original_is_another_than_over_those_that_may_not() -> None:
    more = [cell(arm, s, value) for s in range(3) for arm, value in (("stopped-plain", 0.8), ("stopped-focal", 0.78))]
    found = {row.arm: row for row in rows([*CELLS, *more])}
    auto = found["filterloss-auto"]
    assert (auto.best, auto.stopped) == ("free-focal", "stopped-plain")
    assert auto.to_best == pytest.approx(0.16)
    assert auto.to_stopped == pytest.approx(0.06)
    assert auto.to_stopped_interval == pytest.approx((0.06, 0.06), abs=1e-9)
    assert {row.to_stopped for row in rows(CELLS)} == {None}


def test_rows_stand_in_the_order_of_the_arms_however_cells_came() -> None:
    names = [row.arm for row in rows(CELLS)]
    assert names == ["original", "free-plain", "free-focal", "filterloss-auto", "oracle"]
    assert [row.arm for row in rows(CELLS[::-1])] == names


def test_arms_that_take_long_may_have_fewer_seeds_and_keep_nothing_from_the_table() -> None:
    """They are compared on the seeds that they have; others that a seed lacks are in no row with it."""
    one = {**cell("free-scratch", 2, 0.4), "seed": 2}
    plain = [each if each["seed"] else {**each, "macro_f1": 0.2} for each in CELLS]
    found = {row.arm: row for row in rows([*plain, one])}
    assert (found["free-scratch"].seeds, found["filterloss-auto"].seeds) == (1, 3)
    assert found["free-scratch"].to_plain == pytest.approx(-0.1)
    assert [row.arm for row in rows([*plain, one])] == [
        "original",
        "free-plain",
        "free-focal",
        "free-scratch",
        "filterloss-auto",
        "oracle",
    ]
    assert "| free-scratch (1 seed) |" in markdown(list(found.values()))
    assert "| free-scratch (1 seed) |" in overview(list(found.values()))
    assert [row.arm for row in rows([one])] == ["free-scratch"]
    two = [*plain, one, *({**each, "pair": "b"} for each in plain)]
    assert aims(rows(two), "filterloss-auto")["hard"]["pairs"] == ["a", "b"], (
        "what one pair lacks is no reason to leave it out"
    )
    assert "| free-scratch (1 seed) | 0.400 | – | – | – |" in overview(rows(two))


def test_people_who_differ_make_the_interval_wide_and_the_difference_narrow() -> None:
    """Two arms that are right and wrong on the same people: each is uncertain, their difference is not."""
    worse, better = cell("free-plain", 0, 0.5), cell("filterloss-auto", 0, 0.52)
    for each in (worse, better):
        for at, person in enumerate(each["subjects"]):
            if person in {"p0", "p1"}:
                each["predicted"][at] = 1 - each["truth"][at]
    found = {row.arm: row for row in rows([worse, better])}["filterloss-auto"]
    assert found.interval[1] - found.interval[0] > 0.2
    assert found.to_plain_interval is not None
    low, high = found.to_plain_interval
    assert 0 <= low < high < 0.03


def test_the_same_people_asked_in_more_seeds_are_no_more_people() -> None:
    """Six people of whom some are always misread: however many seeds hold them out, they are six."""

    def uneven(seed: int) -> dict[str, Any]:
        made = cell("free-plain", seed, 0.9)
        made["predicted"] = [
            1 - truth if person in {"p0", "p1"} else said
            for person, truth, said in zip(made["subjects"], made["truth"], made["predicted"], strict=True)
        ]
        return made

    one, ten = (rows([uneven(seed) for seed in range(many)])[0].interval for many in (1, 10))
    assert one is not None
    assert ten == pytest.approx(one, abs=0.02)


def test_an_interval_is_as_wide_as_few_seeds_and_few_people_make_it() -> None:
    """The standard error of a mean of n values is s / √n, s² being divided by n - 1: drawing n of n would come to less."""
    values = [0.5, 0.6, 0.86]
    cells = [cell("free-plain", seed, value) for seed, value in enumerate(values)]
    spread = float(np.std(transfer._drawn(cells, 0).macro_f1))
    assert spread == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), rel=0.07)
    one = cell("free-plain", 0, 1.0)
    shares = {f"p{n}": value for n, value in enumerate((0.5, 0.6, 0.7, 0.8, 0.9, 1.0))}
    one["predicted"] = [
        truth if at % 50 < 50 * shares[person] else 1 - truth
        for at, (truth, person) in enumerate(zip(one["truth"], one["subjects"], strict=True))
    ]
    spread = float(np.std(transfer._drawn([one], 0).macro_f1))
    assert spread == pytest.approx(np.std(list(shares.values()), ddof=1) / np.sqrt(6), rel=0.07)


def test_recovery_and_recall_have_intervals_of_the_same_draws() -> None:
    """With scenes alike the recall is the accuracy, and so is the macro-F1; the recovery is it, by the accuracy at home."""
    cells = [
        {**cell("free-plain", seed, value), "recovery_ratio": value / 0.8} for seed, value in enumerate((0.5, 0.6, 0.9))
    ]
    (row,) = rows([{**each, "recall": dict.fromkeys(SCENES, each["accuracy"])} for each in cells])
    assert row.interval is not None
    assert row.recovery_ratio == pytest.approx(2 / 3 / 0.8)
    assert row.recovery_interval == pytest.approx([value / 0.8 for value in row.interval])
    assert row.recall == dict.fromkeys(SCENES, pytest.approx(2 / 3))
    assert row.recall_intervals == dict.fromkeys(SCENES, pytest.approx(row.interval))
    nothing = rows([cell("free-plain", 0, 0.0)])[0]
    assert nothing.recovery_interval is None, "nobody can say what it is a share of"


def test_a_scene_that_some_seeds_lack_has_a_recall_of_the_others() -> None:
    """And no interval: a draw may be of those that lack it alone."""
    lacking = cell("free-plain", 0, 0.5)
    keep = [at for at, truth in enumerate(lacking["truth"]) if truth == 0]
    lacking |= {name: [lacking[name][at] for at in keep] for name in ("truth", "predicted", "subjects")}
    lacking["recall"] = {"Run": 0.5, "Walk": None}
    other = {**cell("free-plain", 1, 0.9), "recall": {"Run": 0.9, "Walk": 0.9}}
    (row,) = rows([lacking, other])
    assert row.recall == {"Run": pytest.approx(0.7), "Walk": pytest.approx(0.9)}
    assert row.recall_intervals["Run"] is not None
    assert row.recall_intervals["Walk"] is None


def test_a_seed_in_which_a_scene_is_easily_lost_counts_as_much_as_the_others() -> None:
    """In one seed of three one person alone shows Walk: whoever leaves them out is not counted, in whatever seed."""
    cells = [cell("free-plain", seed, value) for seed, value in enumerate((0.5, 0.5, 1.0))]
    lone = cells[2]
    keep = [
        at
        for at, (person, truth) in enumerate(zip(lone["subjects"], lone["truth"], strict=True))
        if person == "p0" or truth == 0
    ]
    for name in ("subjects", "truth", "predicted"):
        lone[name] = [lone[name][at] for at in keep]
    assert transfer._drawn(cells, 0).macro_f1.mean() == pytest.approx(2 / 3, abs=0.02)


def test_an_arm_that_a_pair_lacks_goes_no_less_of_the_way_for_it() -> None:
    """Nor does one of fewer seeds go a way that others went."""
    both = [
        cell(arm, seed, value, pair=pair)
        for pair in "ab"
        for seed in range(2)
        for arm, value in (("free-plain", 0.5), ("oracle", 0.9))
    ]
    only = [cell("filterloss-auto", seed, 0.7, pair="a") for seed in range(2)]
    assert closed(rows([*both, *only]))["filterloss-auto"] == pytest.approx(0.5)
    assert "free-scratch" not in closed(rows([*both, *only, cell("free-scratch", 0, 0.7, pair="a")]))


def test_of_four_people_there_is_no_interval() -> None:
    few = rows([cell("free-plain", 0, 0.5, people=4), cell("filterloss-auto", 0, 0.7, people=4)])
    assert few[1].interval is few[1].to_plain_interval is None
    assert few[1].to_plain == pytest.approx(0.2)
    line = next(line for line in markdown(few).splitlines() if line.startswith("| filterloss-auto"))
    assert line.startswith("| filterloss-auto | **0.700** | – | 0.700 | 0.700 | +0.200 |")


def test_a_draw_that_loses_a_scene_does_not_count() -> None:
    """One person alone shows Walk, and is misread; who leaves them out is not right more often."""
    made = cell("free-plain", 0, 1.0)
    keep = [
        at
        for at, (person, truth) in enumerate(zip(made["subjects"], made["truth"], strict=True))
        if (person == "p0") == (truth == 1)
    ]
    for name in ("subjects", "truth", "predicted"):
        made[name] = [made[name][at] for at in keep]
    made["predicted"] = [0] * len(keep)
    interval = rows([made])[0].interval
    assert interval is not None
    assert interval[1] < 0.5


def test_only_seeds_that_all_arms_have_are_compared() -> None:
    cells = [*CELLS, cell("free-plain", 3, 0.99)]
    found = {row.arm: row for row in rows(cells)}
    assert found["free-plain"].seeds == 3
    assert found["free-plain"].macro_f1 == pytest.approx(0.5)
    assert rows([cell("free-plain", 0, 0.5), cell("oracle", 1, 0.5)]) == []


def test_where_the_original_was_better_is_said() -> None:
    assert original_beaten(CELLS, "filterloss-auto") == []
    assert original_beaten(CELLS, "free-plain") == [("a", "hard", seed, pytest.approx(-0.1)) for seed in range(3)]


def test_of_pairs_that_have_no_arms_in_common_nothing_can_be_said_together() -> None:
    """A bench that was stopped early."""
    apart = rows([cell("free-plain", 0, 0.5, pair="a"), cell("oracle", 0, 0.9, pair="b")])
    assert aims(apart, "filterloss-auto") == {}


def test_a_pair_that_lacks_an_arm_is_in_no_mean_of_the_aims() -> None:
    """Or the best would be the best of what happens to be there."""
    lacking = [each for each in BOTH if (each["pair"], each["arm"]) != ("b", "free-focal")]
    found = aims(rows(lacking), "filterloss-auto")["hard"]
    assert found["pairs"] == ["a"]
    assert found["same_recipe"] == {"arm": "oversampling", "lead": pytest.approx(0.1)}


def test_how_far_it_is_ahead_of_what_it_is_to_be_ahead_of() -> None:
    found = aims(rows(BOTH), "filterloss-auto")["hard"]
    assert found["behind"] == {"a": pytest.approx(0), "b": pytest.approx(0)}, (
        "it is the best itself; the oracle is no rival"
    )
    plain = aims(rows(BOTH), "free-plain")["hard"]
    assert plain["behind"] == {"a": pytest.approx(0.1), "b": pytest.approx(0.4)}
    assert found["pairs"] == ["a", "b"]
    assert found["conventional"] == {"arm": "free-focal", "lead": pytest.approx(0.2)}
    assert found["conventional_of_each_pair"] == pytest.approx(0.1), "0.7 is the best in both, of another arm each"
    assert found["stopped"] is None, "none was run"
    assert found["same_recipe"] == {"arm": "oversampling", "lead": pytest.approx(0.15)}
    assert found["pruned"] == pytest.approx(0.15)
    assert found["closed"] == pytest.approx(0.5)
    without = aims(rows([each for each in BOTH if each["arm"] in {"original", "filterloss-auto"}]), "filterloss-auto")
    assert without["hard"] == {
        "pairs": ["a", "b"], "conventional": None, "conventional_of_each_pair": None, "stopped": None, "stopped_of_each_pair": None,
        "same_recipe": None, "pruned": None, "closed": None, "behind": {"a": pytest.approx(0), "b": pytest.approx(0)},
    }  # fmt: skip
    assert aims(rows(CELLS), "filterloss-tiers") == {}
    stopped = [cell("stopped-plain", 0, 0.75, pair="a"), cell("stopped-plain", 0, 0.79, pair="b")]
    more = aims(rows([*BOTH, *stopped]), "filterloss-auto")["hard"]
    assert more["stopped"] == {"arm": "stopped-plain", "lead": pytest.approx(0.03)}
    assert more["stopped_of_each_pair"] == pytest.approx(0.03)
    lucky = [cell("free-scratch", 0, 0.95, pair=pair) for pair in "ab"]
    more = [{**each, "seed": 1} for each in BOTH]
    assert aims(rows([*BOTH, *more, *lucky]), "filterloss-auto")["hard"]["behind"]["a"] == pytest.approx(0)
