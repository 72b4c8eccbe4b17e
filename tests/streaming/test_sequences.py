from hypothesis import given
from hypothesis import strategies as st

from streaming.sequences import Sequences


@given(st.lists(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30))
def test_behaves_like_a_set(numbers: list[int], first: int, last: int) -> None:
    model: set[int] = set()
    sequences = Sequences()
    for number in numbers:
        assert sequences.add(number) == (number not in model)
        model.add(number)
    assert sequences.next == max(model, default=-1) + 1
    assert sequences.covers(first, last) == (set(range(first, last + 1)) <= model and last in model)
    assert sequences.contiguous_from(first) == next(n for n in range(first, 40) if n not in model)
