"""Bounds: what an interval over so few people may claim, and how a holdout that is asked again claims less."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.bounds import ERROR, Person, allowed_error, lower_accuracy
from training.evaluation import accuracy_interval

persons = st.integers(1, 200).flatmap(
    lambda windows: st.builds(Person, right=st.integers(0, windows), windows=st.just(windows))
)


def test_all_questions_together_spend_the_error_of_one() -> None:
    spent = [allowed_error(question) for question in range(1, 10_001)]
    assert spent[0] == ERROR / 2, "the first is the lower end of the two-sided interval"
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) == pytest.approx(ERROR * (1 - 1 / 10_001))


@given(st.lists(persons, min_size=2, max_size=8), st.integers(1, 20))
def test_a_bound_lies_between_the_worst_person_and_the_mean(people: list[Person], question: int) -> None:
    found = lower_accuracy(people, allowed_error(question))
    mean = sum(person.right for person in people) / sum(person.windows for person in people)
    assert min(person.right / person.windows for person in people) - 1e-9 <= found <= mean + 1e-9
    assert found >= lower_accuracy(people, allowed_error(question + 1))
    assert found == lower_accuracy(people, allowed_error(question)), "a function of what is given"


@pytest.mark.parametrize("people", [[], [Person(right=3, windows=4)]])
def test_of_fewer_than_two_nothing_can_be_said(people: list[Person]) -> None:
    assert math.isnan(lower_accuracy(people, 0.025))


def test_the_first_bound_is_that_of_the_interval_which_training_draws() -> None:
    rng = np.random.default_rng(3)
    subjects = np.repeat([f"p{at}" for at in range(12)], 50)
    right = rng.random(600) < np.repeat(rng.uniform(0.5, 1.0, 12), 50)
    people = [Person(right=int(right[subjects == name].sum()), windows=50) for name in sorted(set(subjects))]
    low, _ = accuracy_interval(right, subjects)
    assert lower_accuracy(people, allowed_error(1)) == pytest.approx(low, abs=0.01)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Of 120 holdouts of 30 people each, the bound is above what is true of everybody in about 2.5 %."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(120):
        shares = rng.beta(8, 2, size=30)  # people differ; of all of them 0.8 is true
        people = [Person(right=int(rng.binomial(40, share)), windows=40) for share in shares]
        wrong += lower_accuracy(people, allowed_error(1)) > 0.8
    assert wrong / 120 < 0.08
