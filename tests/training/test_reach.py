from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.made import network, windows
from training import asked
from training.finetune import finetune
from training.heads import Head
from training.network import infer
from training.reach import Judges, Reach, choose_below, choose_head, whole_way
from training.settings import FineTuneSettings
from training.trainer import Trainer

LABELS = np.tile(np.arange(3), 16)
GROUPS = np.repeat(np.arange(8), 6)
ONES = np.ones(48)
HEAD = Reach(pull=0.01, share=0.5, value=2 / 3, original=0.5, begins=1e-4)
QUICK = FineTuneSettings(trainable="block", epochs=4, batch=16, learning_rate=1e-3, threads=1, device="cpu")


def judges(groups: np.ndarray = GROUPS) -> Judges:
    return Judges.of(LABELS, groups, ONES, folds=4, seed=0)


def right(share: float, *, people: bool = False) -> np.ndarray:
    """(48, 3) logits of which a share is right: of each person's windows, or of the people."""
    which = share * 8 > GROUPS if people else np.arange(48) % 12 < share * 12
    return np.asarray(np.eye(3)[np.where(which, LABELS, (LABELS + 1) % 3)])


def test_everybody_is_left_out_once_and_one_alone_never() -> None:
    folds = judges().folds
    assert len(folds) == 4
    np.testing.assert_array_equal(np.sum(folds, axis=0), 1)
    for fold in folds:
        assert not set(GROUPS[fold]) & set(GROUPS[~fold])
    assert judges(np.zeros(48, np.int64)).folds == []


def test_a_network_that_is_better_is_taken() -> None:
    those, logits = judges(), right(0.95)
    reach, best = choose_below(those, HEAD, right(0.6), right(0.5), logits, share=0.75, worth=0.0)
    assert (reach.below, reach.share, reach.pull) == (True, 0.75, HEAD.begins)
    assert reach.value == best == pytest.approx(those.judge(logits)[0])


def test_a_network_that_may_be_as_good_as_the_head_is_taken_and_one_that_is_surely_worse_is_not() -> None:
    """Half a standard error below it, and four."""
    those, head = judges(), right(0.75, people=True)
    mixed = head.copy()
    mixed[GROUPS == 0], mixed[GROUPS == 7] = right(0.0)[GROUPS == 0], right(0.8)[GROUPS == 7]
    chosen = replace(HEAD, value=float(those.judge(head)[0]))
    reach, best = choose_below(those, chosen, head, right(0.25), mixed, share=1.0, worth=0.0)
    assert reach.below
    assert best < chosen.value
    assert choose_below(those, chosen, head, right(0.5), right(0.25), share=1.0, worth=0.0)[0] == chosen


def test_a_network_that_is_no_better_than_the_original_is_not_taken_however_unsure_they_are_of_the_head() -> None:
    """Two people, who disagree on the network: two standard errors are more than it lacks, of the head and of the original."""
    groups = GROUPS // 4
    those, head, origin = judges(groups), right(0.75), right(0.5)
    network = head.copy()
    network[groups == 1] = right(0.0)[groups == 1]
    chosen = replace(HEAD, value=float(those.judge(head)[0]), original=float(those.judge(origin)[0]))
    reach, value = choose_below(those, chosen, head, origin, network, share=1.0, worth=0.0)
    assert value < chosen.original
    assert reach == chosen


@pytest.mark.parametrize(("worth", "below"), [(0.0, True), (0.8, False), (-1.0, True)])
def test_it_must_be_worth_it(worth: float, below: bool) -> None:
    reach, best = choose_below(judges(), HEAD, right(0.6), right(0.5), right(0.9), share=1.0, worth=worth)
    assert reach.below == below
    assert best is not None
    assert best > HEAD.value
    worse, _ = choose_below(judges(), HEAD, right(0.6), right(0.5), right(0.4), share=1.0, worth=0.0)
    assert worse == HEAD


def test_the_original_is_left_for_no_more_than_chance() -> None:
    """A gain at one person of eight, half of it lost at another, is within the error; a gain at four is not."""
    those, stays = judges(), Reach(pull=0.01, share=0.0, value=0.5, original=0.5, begins=1e-4)
    logits = right(0.5, people=True)
    one = logits.copy()
    one[GROUPS == 4] = right(1.0)[GROUPS == 4]
    one[:3] = right(0.0)[:3]
    reach, best = choose_below(those, stays, logits, logits, one, share=1.0, worth=0.0)
    assert (reach, best) == (stays, pytest.approx(those.judge(one)[0]))
    assert best > 0.5
    reach, _ = choose_below(those, stays, logits, logits, right(1.0), share=1.0, worth=0.0)
    assert (reach.below, reach.share) == (True, 1.0)


def test_what_is_below_begins_with_the_best_head_that_goes_the_whole_way() -> None:
    rng = np.random.default_rng(0)
    features = np.eye(3)[LABELS] + rng.normal(0, 0.2, (48, 3))
    original, good = (Head(weight=weight, bias=np.zeros(3)) for weight in (np.eye(3)[::-1], np.eye(3)))
    heads = {1e-2: original, 1e-3: good, 1e-5: original}
    pulls = tuple(heads)[::-1]
    found, logits = choose_head(
        judges(), features, original, lambda _, pull: heads[pull], shares=(0.25, 1.0), pulls=pulls
    )
    assert (found.begins, found.pull, found.share) == (1e-3, 1e-3, 1.0)
    assert judges().judge(logits)[0] == found.value > found.original
    stays, _ = choose_head(judges(), features, good, lambda *_: good, shares=(1.0,), pulls=(1e-2, 1e-3))
    assert (stays.share, stays.begins) == (0.0, 1e-2)
    assert whole_way(0.3, 1e-5) == Reach(pull=1e-5, share=1.0, value=0.3, original=0.3, begins=1e-5)


def test_a_head_that_may_owe_its_gain_to_chance_is_not_taken_for_being_as_good_as_the_best() -> None:
    """One has a little of everybody who was wrong; the other all of one, and loses most of another: it may be the better, or as before."""
    those, before = judges(), right(0.5, people=True)
    little, other = before.copy(), before.copy()
    little[(np.arange(48) % 6 == 0) & (GROUPS >= 4)] = right(1.0)[(np.arange(48) % 6 == 0) & (GROUPS >= 4)]
    other[GROUPS == 4], other[:4] = right(1.0)[GROUPS == 4], right(0.0)[:4]
    by_little, by_other, by_none = (those.judge(each) for each in (little, other, before))
    assert those.as_good_as_the_best([by_none, by_little, by_other]) == [False, True, True]
    assert [those.better(each, by_none) for each in (by_little, by_other)] == [True, False]
    original, *heads = (Head(weight=each.T, bias=np.zeros(3)) for each in (before, little, other))
    found = dict(zip((1e-3, 1e-5), heads, strict=True))
    reach, _ = choose_head(those, np.eye(48), original, lambda _, pull: found[pull], shares=(1.0,), pulls=tuple(found))
    assert (reach.pull, reach.share) == (1e-3, 1.0)


def test_a_head_that_is_surely_worse_than_the_best_is_not_taken_for_being_better_than_the_original() -> None:
    """However far from the original it is."""
    original, good, fair = (Head(weight=right(each).T, bias=np.zeros(3)) for each in (0.25, 1.0, 0.5))
    those, found = judges(), {1e-3: good, 1e-5: fair}
    judged = [those.judge(each.logits(np.eye(48))) for each in (original, good, fair)]
    assert those.as_good_as_the_best(judged) == [False, True, False]
    assert those.better(judged[2], judged[0])
    reach, _ = choose_head(those, np.eye(48), original, lambda _, pull: found[pull], shares=(1.0,), pulls=tuple(found))
    assert reach.pull == 1e-3


def tuned(**changes: Any) -> Any:
    made, net = windows(people=4, each=5), network()
    ones = np.ones(len(made))
    given = {"believed": ones, "adjust": True, "shares": (0.5, 1.0), "settings": QUICK, **changes}
    cached = infer(net.split(given["settings"].trainable)[0], torch.from_numpy(made.signals))
    return finetune(net, cached, made.scenes, ones, made.groups(), **given)


@pytest.mark.parametrize("few", [20_000, 30])
def test_nobody_is_judged_by_what_has_learned_from_him(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Nor where some of very many windows are asked, whose places are not those of all."""
    groups, learned, seen = windows(people=4, each=5).groups(), list[set[int]](), list[set[int]]()
    restart, fitted, epoch, logits = Trainer.restart, Trainer.fitted, Trainer._epoch, Trainer.logits
    monkeypatch.setattr(asked, "_ASKED", few)
    monkeypatch.setattr(asked, "_OF_A_SCENE", 2)

    def restarting(self: Trainer, rows: np.ndarray, pull: float) -> None:
        learned.append(set(groups[rows].tolist()))
        restart(self, rows, pull)

    def judged(self: Trainer, rows: np.ndarray, share: float) -> torch.Tensor:
        theirs = set(groups[rows].tolist())
        assert not learned[-1] & theirs
        seen.append(theirs)
        return logits(self, rows, share)

    def heads(self: Trainer, rows: np.ndarray, pull: float) -> Head:
        if not learned:  # the choice of the head comes first, a fold after the other
            assert len(set(groups[rows].tolist())) == 3
        return fitted(self, rows, pull)

    def learning(self: Trainer, rows: np.ndarray, number: int, passes: int) -> float:
        assert set(groups[rows].tolist()) == learned[-1]
        return epoch(self, rows, number, passes)

    monkeypatch.setattr(Trainer, "restart", restarting)
    monkeypatch.setattr(Trainer, "fitted", heads)
    monkeypatch.setattr(Trainer, "_epoch", learning)
    monkeypatch.setattr(Trainer, "logits", judged)
    tuned()
    assert set.union(*seen) == {0, 1, 2, 3}
    assert learned[-1] == {0, 1, 2, 3}, "in the end all are learned from"


@pytest.mark.parametrize("trainable", ["block", "all"])
def test_a_network_is_tried_where_no_head_leaves_the_original(monkeypatch: pytest.MonkeyPatch, trainable: Any) -> None:
    """Its features may be what is wrong."""
    monkeypatch.setattr(Trainer, "fitted", lambda self, rows, pull: self.head)
    found = tuned(settings=replace(QUICK, trainable=trainable))
    assert found.validation_below > found.validation_original
    assert found.epochs == 4
    assert found.validation == found.validation_below
    assert tuned(settings=FineTuneSettings(trainable="block", worth=1.0, epochs=1, threads=1)).epochs == 0
    assert tuned(choice="nothing").validation_below is None
