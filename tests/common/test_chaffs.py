"""The chaffs and wheats fit the solutions; tests/chaffs/run.py grades them."""

from collections import Counter

import pytest

from common.exercises import exercises
from tests.chaffs import WHOLE, Chaff, chaffs, papers, replace, submission, wheats

SOURCE = """def f(x):
    return x + 1


def g(x):
    ### BEGIN SOLUTION 1.1: one more
    y = x + 1
    return y
    ### END SOLUTION


def h(x):
    ### BEGIN SOLUTION 1.10: one more
    return x + 1
    ### END SOLUTION
"""


@pytest.mark.parametrize("paper", papers())
def test_every_replacement_fits_and_parses(paper):
    for chaff in chaffs(paper) + wheats(paper):
        submission(paper, chaff)  # raises where it does not


@pytest.mark.parametrize("paper", papers())
def test_every_exercise_has_five_chaffs_and_a_wheat(paper):
    for all_of, least in ((chaffs, 5), (wheats, 1)):
        counts = Counter(chaff.exercise for chaff in all_of(paper))
        assert set(counts) == {exercise.id for exercise in exercises() if exercise.paper == paper}
        assert min(counts.values()) >= least, counts
        texts = [(chaff.exercise, chaff.old, chaff.new) for chaff in all_of(paper)]
        assert len(texts) == len(set(texts)), "one of them is there twice"


def test_replacement_stays_within_its_fence():
    changed = replace(SOURCE, Chaff("1.1", "two more", "f.py", "x + 1", "x + 2"))
    assert changed == SOURCE.replace("y = x + 1", "y = x + 2")


def test_whole_body_is_replaced_and_indented():
    changed = replace(SOURCE, Chaff("1.10", "in a loop", "f.py", WHOLE, "for _ in range(1):\n    x += 1\nreturn x\n"))
    assert "10: one more\n    for _ in range(1):\n        x += 1\n    return x\n    ### END" in changed
    assert changed.startswith(SOURCE[: SOURCE.index("def h")])


@pytest.mark.parametrize(
    ("chaff", "message"),
    [
        (Chaff("1.1", "", "f.py", "y", "z"), "2 times, not once"),
        (Chaff("1.1", "", "f.py", "nowhere", "z"), "0 times, not once"),
        (Chaff("1.1", "", "f.py", "return y", "return ("), "no Python"),
        (Chaff("1.1", "", "f.py", "return y", "return y"), "changes nothing"),
        (Chaff("1.2", "", "f.py", "return y", "return x"), "no exercise 1.2"),
    ],
)
def test_replacement_that_does_not_fit_is_refused(chaff, message):
    with pytest.raises(ValueError, match=message):
        replace(SOURCE, chaff)
