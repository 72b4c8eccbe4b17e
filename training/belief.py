"""How probable it is that a label is right, given what several judges see who do not know it.

How far each judge is trusted is found from the labels themselves: the mixture of judges that makes them likeliest (expectation-
maximisation: Dempster, Laird & Rubin, 1977). A mixture of judges who agree is less sure than it might be (Ranjan & Gneiting, 2010,
"Combining probability forecasts"), and one of judges fitted to few labels surer; how sure to be of it, is found from the labels, too.
How people mislabel is found likewise: how common each scene truly is, and how often
it is given which label (Dawid & Skene, 1979). That matters most where scenes are rare: if one window in five carries a wrong label,
most of what is called by a rare scene's name is something else.

A person labels a stretch of time, not a window: windows of one session with the same label are right or wrong together, so their
evidence is added, as far as a further window tells anything new.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from training.dataset import WindowSet

Array = NDArray[np.float64]
_SURE = 0.99
"""No look at a window is surer than this, but where it is held against the other windows of an unknown scene."""
_EM_STEPS = 50
_WRONG = 0.1
"""Share of wrong labels, to begin with."""
_IMAGINED = 10.0
"""Imaginary windows of each scene, labelled as wrongly as all are: they keep a scene of few windows from being all right or all wrong."""
_UNSEEN = 3.0
"""Imaginary windows of each scene, in how common it is: what nobody has called by its name may be there all the same."""
_EXPONENTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Inverse temperatures of what the judges see together: below 1 it is taken to be less sure than it says, above 1 surer."""
_USUAL = 0.5
"""Standard deviation of an exponent's logarithm before any label is seen: judges are off by a half or so, and few labels say little."""
_LOOKS = 2.0
"""Evidence of a run is worth no more single looks, however long it is: the same judges err about all of it in the same way."""
_UNKNOWN, _KNOWN = 0.2, 0.3
"""How clearly judges see a scene in its labels: below the first they do not know it on these phones, or hardly a label is right; above the
second they do."""
_SEEN = 3.0
"""Imaginary windows of each scene where it is asked how somebody sees it: they are as all of its labels are, or as all scenes are."""
_CLEAR = 0.1
"""Share of a judge's confusion matrix that is taken to be without confusion: of what is no more than chance, chance is left."""
_LOPSIDED = 2.0
"""Before anybody looks, at most so many times as many labels of an unknown scene are taken to be wrong as mistakes like those in the
labels of known scenes would make, spread evenly."""
_ALIKE = 40.0
"""Imaginary windows of each scene while an exponent is chosen: it is not to be made up for by a scene's own way of being mislabelled."""
_FAINT = 1e-3
"""Share of any scene in what a judge sees, once it is unmixed."""
_LEAST = 1e-4
"""Probability that any scene has in anybody's eyes."""
_TINY = 1e-12


def trust_shares(judges: Array, labels: NDArray[np.int64], *, train: NDArray[np.bool_]) -> Array:
    """How much to trust each judge: the mixture that makes the given labels likeliest.

    Args:
        judges: (judges, n, scenes) probabilities, each by a judge who does not know the label.
        labels: (n,) the labels given, some of them wrong.
        train: (n,) mask of the labels to go by.

    Returns:
        (judges,) shares that sum to 1.
    """
    given = judges[:, np.arange(len(labels)), labels][:, train]
    # A judge of pure chance takes up the labels that nobody can explain, so that the others are not blamed for them.
    given = np.vstack([given, np.full((1, given.shape[1]), 1 / judges.shape[2])])
    shares = np.full(len(given), 1 / len(given))
    for _ in range(_EM_STEPS):
        blame = shares[:, None] * given
        shares = (blame / blame.sum(0)).mean(1)
    trusted: Array = shares[:-1] / shares[:-1].sum()
    return trusted


def calibrated(
    seen: Array, labels: NDArray[np.int64], runs: NDArray[np.int64], *, train: NDArray[np.bool_], novelty: float
) -> tuple[Array, float]:
    """What the judges see together, made as sure as makes the given labels likeliest (temperature scaling: Guo et al., 2017).

    Labels are wrong in ways of their own: each exponent is judged under the errors of labelling that fit it best, or the doubt about
    the labels would be blamed on the judges. Where labels are too few to say, it stays as it is.

    Args:
        seen: (n, scenes) probabilities of the scenes, by somebody who does not know the label.
        labels: (n,) the labels given, some of them wrong.
        runs: (n,) what was labelled together and is right or wrong together.
        train: (n,) mask of the labels to go by.
        novelty: how much a further window of a run tells, 0 to 1.

    Returns:
        (n, scenes) probabilities, and the temperature: below 1 they are surer than they were, above 1 less sure.
    """
    logs = np.log(np.maximum(seen, _LEAST))
    counts = _counts(runs, novelty)[train]
    options = {exponent: softmax(exponent * logs, axis=1) for exponent in _EXPONENTS}
    likely = {
        exponent: _likelihood(each[train], labels[train], counts) - (np.log(exponent) / _USUAL) ** 2 / 2
        for exponent, each in options.items()
    }
    best = max(_EXPONENTS, key=lambda exponent: round(likely[exponent], 9))
    return options[best], 1 / best


def label_runs(windows: WindowSet) -> NDArray[np.int64]:
    """(n,) a number for what was labelled together: the windows of one session that carry the same label, verified or not."""
    verified = np.zeros(len(windows), bool) if windows.verified is None else windows.verified
    columns = (windows.devices, windows.sessions, windows.scenes, verified)
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def label_belief(
    seen: Array,
    labels: NDArray[np.int64],
    runs: NDArray[np.int64],
    *,
    train: NDArray[np.bool_],
    novelty: float,
    verified: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array]:
    """How probable it is that each label is right, and how many of each scene's labels are wrong.

    Where the judges hardly see a scene in its own labels, they may not know it on these phones, or its labels may be wrong. So long as the
    labels of other scenes are right, the former is taken to be so, see :data:`_LOPSIDED`; it cannot be told from labels alone.

    Args:
        seen: (n, scenes) probabilities of the scenes, all scenes being as common beforehand, by somebody who does not know the label.
        labels: (n,) the labels given.
        runs: (n,) what was labelled together and is right or wrong together.
        train: (n,) mask of the labels whose errors are estimated; the others are judged by those.
        novelty: how much of its evidence a further window of a run adds, 0 to 1: they overlap, and resemble each other.
        verified: (n,) labels that are known to be right: they tell how common scenes are and which of them the judges know, but nothing
            of how often the other labels are wrong. None: none.

    Returns:
        (n,) belief in [0, 1], and (scenes,) shares of wrong labels among those that are not verified.
    """
    n, scenes = seen.shape
    given = (np.arange(n), labels)
    size = np.bincount(runs)
    verified = np.zeros(n, bool) if verified is None else verified
    times = look_counts(runs, novelty, train=train)
    counts = np.bincount(labels, weights=times, minlength=scenes)
    seen = np.clip(seen, (1 - _SURE) / max(scenes - 1, 1), _SURE)
    surest = np.log(_SURE / (1 - _SURE) * max(scenes - 1, 1))
    common, channel = (counts + _UNSEEN) / (counts.sum() + scenes * _UNSEEN), _evenly(_WRONG, scenes)
    belief = np.where(verified, 1.0, 1 - _WRONG)
    known, clear = _clearly(seen[given], labels, times, scenes)
    # Where they hardly see a scene in its labels on the whole, not all of these are called wrong: they may know it of some people only.
    # What one window shows is held against the others where no label is seen clearly: else what they see there says which are right.
    unsure, unknown = (np.clip((_KNOWN - each) / (_KNOWN - _UNKNOWN), 0, 1) for each in (known, clear))
    # How wrong labels are is measured on those of other scenes: where there are hardly any, what the judges see counts.
    measure = counts * (1 - unsure)
    others = measure.sum() - measure
    # For that, some looks at them are too few; for looks to be held against each other, they are enough, or a long session is condemned.
    excused = unsure * others / (others + _IMAGINED)
    unknown *= np.minimum(others / _IMAGINED, 1)
    # How people err is seen in labels that may be wrong.
    open_times = times * ~verified
    open_counts = np.bincount(labels, weights=open_times, minlength=scenes)
    for _ in range(_EM_STEPS):
        together = common[:, None] * channel  # (truth, label)
        others = together * ~np.eye(scenes, dtype=bool)
        before = np.log(together.diagonal() + _TINY) - np.log(others.sum(0) + _TINY)
        doubted = np.bincount(labels, weights=open_times * (1 - belief), minlength=scenes)
        before += _lift(before, doubted, open_counts, excused)
        # What a window may be instead: the scenes as likely as they are to be called by its label; by an unknown scene's, all alike.
        kinds = others / (others.sum(0) + _TINY)
        kinds += excused * (_evenly(1.0, scenes) - kinds)
        instead = seen * kinds[:, labels].T
        against = instead.sum(1) + _TINY
        evidence = np.clip(np.log(seen[given]) - np.log(against), -surest, surest)
        # Who does not know a scene sees too little of it in all of its windows: what tells is whether one looks more like it than others.
        blindness = np.bincount(labels, weights=times * evidence, minlength=scenes) / (counts + _TINY)
        evidence -= (unknown * np.minimum(blindness, 0))[labels]
        belief = np.where(verified, 1.0, expit(_pooled(evidence, runs, size, novelty) + before[labels]))
        truth = (1 - belief)[:, None] * instead / against[:, None]
        truth[given] = belief
        truth *= times[:, None]
        called = np.zeros((scenes, scenes))
        np.add.at(called.T, labels, truth * ~verified[:, None])
        common = (truth.sum(0) + _UNSEEN) / (truth.sum() + scenes * _UNSEEN)
        overall = (float(open_times @ (1 - belief)) + _WRONG * _IMAGINED) / (open_counts.sum() + _IMAGINED)
        imagined = _IMAGINED * _evenly(overall, scenes)
        channel = (called + imagined) / (called.sum(1, keepdims=True) + _IMAGINED)
    labelled = np.bincount(labels, weights=train & ~verified, minlength=scenes)
    wrong = (np.bincount(labels, weights=train * (1 - belief), minlength=scenes) + 1) / (labelled + 1 / _WRONG)
    return belief, wrong


def scenes_shown(seen: Array, labels: NDArray[np.int64], belief: Array, times: Array) -> Array:
    """(n, scenes) probabilities of what each window shows: its label as far as that is believed, and the others by what is seen.

    Args:
        seen: (n, scenes) probabilities above 0, all scenes being as common beforehand.
        labels: (n,) the labels given.
        belief: (n,) that they are right.
        times: (n,) how much a label counts where it is told how common scenes are, see :func:`look_counts`.
    """
    given = (np.arange(len(labels)), labels)
    instead = seen * (np.bincount(labels, weights=belief * times, minlength=seen.shape[1]) + _UNSEEN)
    instead[given] = 0
    shown: Array = instead * ((1 - belief) / (instead.sum(1) + _TINY))[:, None]
    shown[given] = belief
    return shown


def unmixed(seen: Array, shown: Array, times: Array) -> Array:
    """What a judge sees, undoing how he takes scenes for each other in the mean.

    A judge who was taught by labels of which three in four are wrong sees something of that scene everywhere, and is never sure of it: he
    says 0.5 of its windows and 0.1 of all others, and is clear all the same. What he says of a window is taken to be a mixture of
    what he says of each scene's, and the mixture, no share of which is below 0, is what he sees: his soft confusion matrix is inverted
    (after the backward correction of Patrini et al., 2017, "Making deep neural networks robust to label noise").

    It also makes one who is rightly unsure look sure: whether to believe it, the labels say (:func:`trust_shares`).

    Args:
        seen: (n, scenes) his probabilities.
        shown: (n, scenes) probabilities of what windows show, see :func:`scenes_shown`.
        times: (n,) how much a window counts, see :func:`look_counts`.
    """
    counts, scenes = shown * times[:, None], seen.shape[1]
    sums, size = counts.T @ seen, counts.sum(0)[:, None]
    # Of few windows it is what he says of all scenes, each being as far from the others: so one who has no opinion gets none.
    own = float(np.mean((sums.diagonal() + _SEEN / scenes) / (size[:, 0] + _SEEN)))
    says = (sums + _SEEN * _evenly(1 - own, scenes)) / (size + _SEEN)
    says = (1 - _CLEAR) * says + _CLEAR * np.eye(scenes)
    mixture = np.maximum(seen @ np.linalg.pinv(says), 0) + _FAINT
    found: Array = mixture / mixture.sum(1, keepdims=True)
    return found


def look_counts(runs: NDArray[np.int64], novelty: float, *, train: NDArray[np.bool_]) -> Array:
    """(n,) how many single looks each window is worth: those of a run, two in all at most; none outside ``train``."""
    times: Array = train * _counts(runs, novelty)
    return times


def second_opinion(
    mixed: Array,
    logits: NDArray[np.floating],
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    runs: NDArray[np.int64],
    *,
    novelty: float,
    verified: NDArray[np.bool_] | None = None,
) -> tuple[Array, float]:
    """The belief in labels, after a network that was fine-tuned without the person has looked at some of the windows, too.

    Heads see what the original model makes of the new phones, a fine-tuned network what these can be told apart by. It is one more judge:
    trusted as far as it makes the labels likelier than the others do, which a network that is sure and wrong does not.

    Args:
        mixed: (n, scenes) probabilities, what the judges see who were there before it.
        logits: (m, scenes) of the network.
        rows: (m,) which windows it has looked at.
        labels: (n,) the labels given.
        runs: (n,) what was labelled together, see :func:`label_runs`.
        novelty: see :func:`label_belief`.
        verified: (n,) labels that are known to be right; None: none.

    Returns:
        (n,) belief in [0, 1], and how far the network is trusted, from 0 to 1.
    """
    everything, looked_at = np.ones(len(labels), bool), np.zeros(len(labels), bool)
    looked_at[rows] = True
    network = mixed.copy()
    network[rows] = softmax(np.asarray(logits, np.float64), axis=1)
    judges = np.stack([mixed, network])
    shares = trust_shares(judges, labels, train=looked_at)
    together = np.einsum("j,jns->ns", shares, judges)
    # How sure to be of those is no guide to how sure to be of the others, and the other way round.
    looks, others = (
        calibrated(each, labels, runs, train=train, novelty=novelty)[0]
        for each, train in ((together, looked_at), (mixed, everything))
    )
    seen = np.where(looked_at[:, None], looks, others)
    belief, _ = label_belief(seen, labels, runs, train=everything, novelty=novelty, verified=verified)
    return belief, float(shares[1])


def _clearly(
    seen: Array, labels: NDArray[np.int64], times: Array, scenes: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """(scenes,) how clearly a scene is seen in its labels: the mean probability; and the same, each label counting by that probability.

    Labels of which most are wrong lower the former, and say nothing against judges who see the others clearly: the latter. Of fewer than
    some three looks, it is drawn to the mean.

    Args:
        seen: (n,) probability of the label's scene.
        labels: (n,) the labels given.
        times: (n,) how much a label counts.
        scenes: how many there are.
    """
    counts, once, twice = (np.bincount(labels, weights=times * seen**power, minlength=scenes) for power in range(3))
    mean = once / (counts + _TINY)
    weighed: Array = (twice + _SEEN * mean**2) / (once + _SEEN * mean + _TINY)
    return mean, weighed


def _lift(before: Array, doubted: NDArray[np.number], counts: NDArray[np.number], unknown: Array) -> Array:
    """(scenes,) what is added to the log odds that a label is right, where the judges do not know its scene.

    Args:
        before: (scenes,) log odds as they would be.
        doubted: (scenes,) labels that are taken to be wrong.
        counts: (scenes,) labels.
        unknown: (scenes,) from 0, known, to 1.
    """
    # Other unknown scenes are no measure of how often people err.
    measure, doubt = counts * (1 - unknown), doubted * (1 - unknown)
    wrong = (doubt.sum() - doubt + _WRONG * _IMAGINED) / (measure.sum() - measure + _IMAGINED)
    strays = _LOPSIDED * wrong * (counts.sum() - counts) / max(len(counts) - 1, 1)
    least = np.log(np.maximum(counts - strays, 0) + _TINY) - np.log(strays + _TINY)
    lift: Array = unknown * np.maximum(least - before, 0)
    return lift


def _likelihood(seen: Array, labels: NDArray[np.int64], counts: Array) -> float:
    """Σ counts · log probability of labels, scenes being as common and as mislabelled as suits them (by expectation-maximisation)."""
    if not len(labels):
        return 0.0
    scenes, total = seen.shape[1], float(counts.sum())
    common, channel, value = np.full(scenes, 1 / scenes), _evenly(_WRONG, scenes), 0.0
    for _ in range(_EM_STEPS):
        truth = seen * common
        truth = truth / truth.sum(1, keepdims=True) * channel[:, labels].T
        given = truth.sum(1, keepdims=True)
        value = float(counts @ np.log(given[:, 0] + _TINY))
        truth *= (counts / (given[:, 0] + _TINY))[:, None]
        common = (truth.sum(0) + 1) / (total + scenes)
        called = np.zeros((scenes, scenes))
        np.add.at(called.T, labels, truth)
        imagined = _ALIKE * _evenly(1 - float(called.trace()) / total, scenes)
        channel = (called + imagined) / (called.sum(1, keepdims=True) + _ALIKE)
    return value


def _evenly(wrong: float, scenes: int) -> Array:
    """(truth, label) probabilities if this share of every scene's labels is wrong, each other scene being as likely."""
    channel = np.full((scenes, scenes), wrong / max(scenes - 1, 1))
    np.fill_diagonal(channel, 1 - wrong)
    return channel


def _pooled(evidence: Array, runs: NDArray[np.int64], size: NDArray[np.int64], novelty: float) -> Array:
    """(n,) evidence of each window and of its run: a run speaks for its windows; what a window says itself still counts in full."""
    mean, worth = (np.bincount(runs, weights=evidence) / np.maximum(size, 1))[runs], _worth(size[runs], novelty)
    pooled: Array = mean * worth + (1 - novelty) * (evidence - mean)
    return pooled


def _counts(runs: NDArray[np.int64], novelty: float) -> Array:
    """(n,) how much each window counts as evidence of how people label: a run is one mistake or none, not as many as it has windows."""
    size = np.bincount(runs)[runs]
    counts: Array = _worth(size, novelty) / size
    return counts


def _worth(size: NDArray[np.int64], novelty: float) -> Array:
    """How many single looks a run of so many windows is worth."""
    worth: Array = np.minimum(1 + novelty * (size - 1.0), _LOOKS)
    return worth
