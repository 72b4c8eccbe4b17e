from __future__ import annotations

from typing import Any

import pytest

from tests.training.cells import BOTH, CELLS, cell
from training.tables import ended_below, explained, how_far, markdown, overview, reasons, rests_on, stayed
from training.transfer import rows


def test_the_table_says_on_what_it_was_measured_and_why_auto_did_what_it_did() -> None:
    text = markdown(rows(CELLS))
    assert "90 labels to learn from, 18 of them made wrong; 6 people held out, with 600 windows" in text
    assert all(f"{word}" in explained() for word in ("bold", "95 %", "–", "Recovery", "free-undersampling", "Spread"))
    auto = {**CELLS[3], "details": {"policy": "learned", "why": "because"}}
    assert "- filterloss-auto, a, hard, seed 0: learned, because" in reasons([*CELLS, auto])
    assert not reasons(CELLS)


def test_which_arms_are_the_original_is_said_and_how_far_the_others_went() -> None:
    def went(arm: str, seed: int, share: float, epochs: int = 0) -> dict[str, Any]:
        return {**cell(arm, seed, 0.6), "details": {"share": share, "epochs": epochs}}

    cells = [
        *(went("stopped-plain", seed, 0.0) for seed in range(3)), went("focal", 0, 0.0), went("focal", 1, 0.5), went("focal", 2, 1.0, 20),
        *(went("free-plain", seed, 1.0, 20) for seed in range(3)), *(cell("original", seed, 0.6) for seed in range(3)),
    ]  # fmt: skip
    said = (
        "a, hard: people left out saw no gain, and the original stays as it is, in stopped-plain, focal (1 of 3 seeds)."
    )
    assert stayed(cells) == said
    lines = how_far(cells).splitlines()
    assert lines[4:] == ["| a, hard | stopped-plain | 3 | 0 | 0 |", "| a, hard | focal | 1 | 1 | 1 |"], (
        "others ask nobody"
    )
    assert stayed(CELLS) == how_far(CELLS) == ""


def test_where_filterloss_ended_below_the_original_is_said() -> None:
    beaten = [cell("filterloss-auto", seed, value) for seed, value in enumerate((0.5, 0.58, 0.7))]
    cells = [
        *(cell("original", seed, 0.6) for seed in range(3)),
        *beaten,
        *(cell("free-plain", seed, 0.1) for seed in range(3)),
    ]
    said = ended_below(cells)
    assert said.startswith(
        "a, hard: filterloss-auto ended below the original as it is in 2 of 3 seeds, by 0.100 at most: "
    )
    assert len(said.splitlines()) == 1
    assert "in 2 of 2 seeds" in ended_below([each for each in cells if each["arm"] == "original" or each["seed"] < 2])
    assert ended_below(CELLS) == ""


def test_one_person_and_a_bar_in_a_scene_s_name_do_not_upset_the_table() -> None:
    alone = {
        **cell("original", 0, 0.6, people=1),
        "scenes": ["Run|fast", "Walk"],
        "recall": {"Run|fast": 0.6, "Walk": None},
    }
    text = markdown(rows([alone]))
    assert "1 person held out, with 100 windows (first seed). One person says nothing of others." in text
    assert "| recall | Run\\|fast | Walk |" in text


def test_a_table_of_the_oracle_alone_has_no_best() -> None:
    assert "| oracle | 0.900 |" in markdown(rows([cell("oracle", 0, 0.9)]))


def test_the_table_on_a_terminal_says_how_little_it_rests_on() -> None:
    text = rests_on(rows([*CELLS, *({**each, "regime": "few"} for each in CELLS if each["seed"] == 0)]))
    lines = text.splitlines()
    assert lines[0].startswith("a, hard, 3 seeds: 90 labels to learn from, 18 of them made wrong; 6 people held out")
    assert lines[1].startswith("a, few, 1 seed: 90 labels")
    assert lines[2].startswith("With one seed, differences of five points mean nothing")
    assert rests_on([]) == ""


def test_how_many_labels_other_seeds_had_is_said() -> None:
    few = [{**cell("free-plain", seed, 0.5), "train_windows": 90 - 10 * seed} for seed in range(3)]
    assert "(first seed; 70 to 90 labels by seed)" in markdown(rows(few))


def test_the_table_reads() -> None:
    text = markdown(rows([*CELLS, *(cell("free-plain", s, 0.5, pair="b") for s in range(2))]))
    assert "### a, hard (3 seeds)" in text
    assert "### b, hard (2 seeds)" in text
    line = next(line for line in text.splitlines() if line.startswith("| filterloss-auto"))
    assert line.startswith("| filterloss-auto | **0.860** | 0.860 to 0.860 | 0.860 | 0.860 (0.860 to 0.860) | +0.360")
    assert text.index("| original |") < text.index("| free-plain |") < text.index("| oracle |"), "in families"


def test_the_overview_has_pairs_side_by_side_and_their_means() -> None:
    lines = overview(rows(BOTH)).splitlines()
    assert "| arm | a | b | mean | recovery |" in lines
    assert "| free-focal | 0.500 | 0.700 | 0.600 | 0.600 |" in lines
    assert "| filterloss-auto | 0.800 | 0.800 | **0.800** | 0.800 |" in lines, "the oracle is no rival"


def test_an_arm_that_a_pair_lacks_has_no_mean() -> None:
    """Means are of the same pairs, or they could not be compared."""
    lacking = [
        each for each in BOTH if (each["pair"], each["arm"]) not in {("b", "free-focal"), ("a", "filterloss-auto")}
    ]
    lines = overview(rows(lacking)).splitlines()
    assert "| arm | a | b | mean | recovery |" in lines
    assert "| free-focal | 0.500 | – | – | – |" in lines
    assert "| filterloss-auto | – | 0.800 | – | – |" in lines
    assert "| oversampling | 0.700 | 0.600 | **0.650** | 0.650 |" in lines, "the best of those that have one"
    assert not any(line.startswith("| free-scratch") for line in lines)
    assert "| oracle | 0.900 | 0.900 | 0.900 |" in overview(rows([cell("oracle", 0, 0.9)]))


def test_each_scene_has_its_recall() -> None:
    """A scene that no holdout shows has none; the best arm but the oracle is bold."""
    lines = markdown(rows(CELLS)).splitlines()
    at = lines.index("| recall | Run | Walk |")
    assert lines[at + 2 : at + 7] == [
        "| original | 0.600 | – |",
        "| free-plain | 0.500 | – |",
        "| free-focal | 0.700 | – |",
        "| filterloss-auto | **0.860** | – |",
        "| oracle | 0.900 | – |",
    ]
    slow = markdown(rows([*CELLS, cell("free-scratch", 0, 0.4)]))
    assert "| free-scratch (1 seed) | 0.400 | – |" in slow


def test_what_stands_out_is_the_best_of_those_that_can_be_compared() -> None:
    """Neither the oracle, be it as good, nor an arm of fewer seeds, nor what nobody recognises."""
    tied = [cell(arm, seed, value) for seed in range(2) for arm, value in (("filterloss-auto", 0.8), ("oracle", 0.8))]
    found = rows([*tied, cell("free-scratch", 0, 0.9)])
    tie = markdown(rows([*tied, cell("free-scratch", 0, 0.8)]))
    assert "| free-scratch (1 seed) | 0.800 |" in tie
    assert "| free-scratch (1 seed) | **" not in tie
    for text in (overview(found), markdown(found)):
        assert "| filterloss-auto | **0.800** |" in text or "| filterloss-auto | 0.800 | **0.800** |" in text
        assert text.count("**") == 2 * (2 if "recall" in text else 1)
    nobody = [{**each, "macro_f1": 0.0, "recall": {"Run": 0.0, "Walk": None}} for each in tied]
    assert "**" not in markdown(rows(nobody))


def test_the_overview_says_of_how_many_seeds_it_is_where_pairs_differ() -> None:
    """An arm is of as few as it has anywhere."""
    more = [{**each, "seed": 1} for each in BOTH if each["pair"] == "b"]
    lines = overview(rows([*BOTH, *more])).splitlines()
    assert "| arm | a (1 seed) | b (2 seeds) | mean | recovery |" in lines
    both = [{**each, "seed": seed} for each in BOTH for seed in range(12)]
    slow = [cell("free-scratch", seed, 0.4, pair=pair) for pair, many in (("a", 10), ("b", 2)) for seed in range(many)]
    assert any(line.startswith("| free-scratch (2 seeds) |") for line in overview(rows([*both, *slow])).splitlines())


def test_a_table_names_the_arms_that_the_differences_are_to() -> None:
    """The best of those that were run: one that was stopped early lacks some."""
    assert "The best of the conventional arms: free-focal (4 of 6 were not run)." in markdown(rows(CELLS))
    some = [*CELLS, *(cell("pruned", seed, 0.84) for seed in range(3))]
    held = [*CELLS, *(cell("stopped-focal", seed, 0.84) for seed in range(3))]
    alone = markdown(rows([cell("stopped-plain", 0, 0.5)]))
    assert "The best of the conventional arms with the stopping rule: stopped-plain (5 of 6 were not run)." in alone
    assert "; of the conventional arms with the stopping rule: stopped-focal (5 of 6 were not run)." in markdown(
        rows(held)
    )
    assert "; of those of the same recipe: pruned (7 of 8 were not run)." in markdown(rows(some))
    assert "The best of the" not in markdown(rows([cell("oracle", 0, 0.9)]))


def test_what_a_second_look_has_changed_is_said_beside_the_reason() -> None:
    look = {"trust": 0.407, "believed": [0.808, 0.811], "changed": 3}
    seen = {**CELLS[3], "details": {"policy": "learned", "why": "because", "second_look": look}}
    assert (
        reasons([seen])
        .rstrip()
        .endswith(
            "learned, because; after a second look at the labels, by the networks (trusted 0.41 of 1): mean belief 0.808 → 0.811, "
            "labels that are believed and were not, or no longer are: 3"
        )
    )


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            {"epochs": 0, "share": 0.75, "validation": 0.7},
            "0.600, the head 0.700, what is trained below the head, too, 0.650: not taken",
        ),
        (
            {"epochs": 0, "share": 0.0, "validation": 0.6},
            "0.600, what is trained below the head, too, 0.650: not taken",
        ),
        ({"epochs": 20, "share": 1.0, "validation": 0.65}, "0.600, what is trained below the head, too, 0.650: taken"),
    ],
)
def test_what_people_left_out_gave_is_said_beside_the_reason(details: dict[str, Any], said: str) -> None:
    judged = {"policy": "learned", "why": "because", "validation_original": 0.6, "validation_below": 0.65, **details}
    assert reasons([{**CELLS[3], "details": judged}]).rstrip().endswith("; people left out gave the original " + said)
    nobody = {key: value for key, value in judged.items() if key != "validation_below"}
    assert reasons([{**CELLS[3], "details": nobody}]).rstrip().endswith("learned, because")
