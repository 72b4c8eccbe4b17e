"""What people read of labels that are known to be right; how it is found is seen in test_labels_later."""

from __future__ import annotations

from dags.verified import verified_lines

DONE = {"verified": 3, "verified_held_out": 2, "verified_lacks": {}, "verified_unknown": {}}


def test_nothing_is_said_where_nobody_is_named() -> None:
    assert verified_lines({"scored": 7}) == []


def test_how_many_there_are_and_whether_they_judge() -> None:
    (line,) = verified_lines(DONE)
    assert (
        line
        == "3 windows to learn from are verified (2 more of people held out); they alone judge how to weigh the rest."
    )


def test_what_is_missing_is_said_scene_by_scene_and_who_has_labelled_nothing() -> None:
    lacks = {"Bus": "1 more people with some", "Run": "5 more verified windows and 2 more people with some"}
    first, second, third = verified_lines(
        {**DONE, "verified_lacks": lacks, "verified_unknown": {"anna": "ana", "zoe": ""}}
    )
    assert "do not judge alone how to weigh the rest: that takes 1 more people with some of Bus; 5 more" in first
    assert second == "Nobody called 'anna' has labelled anything; 'ana' has: see [data] verified_by."
    assert third == "Nobody called 'zoe' has labelled anything: see [data] verified_by."
