"""Exercises of notebook 00: counting right answers, and telling a difference between methods from luck."""

from statistics import NormalDist

import torch
from torch import Tensor

from kdnb.analysis import Interval, paired_difference
from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import tensor_from
from kdnb.functional import correct


def _probe_correct(function) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 6, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    answers = logits.argmax(1)
    return [
        tensor_from(function(logits, given)).reshape(-1).double()
        for given in (answers, labels, answers.flip(0))
    ]


def _probe_difference(function) -> list[Tensor]:
    runs = ([61.0, 64.5, 59.0, 66.0, 63.5], [55.0, 60.0, 55.5, 58.0, 60.5])
    pairs = ([50.0, 52.0], [50.5, 51.0])
    return [tensor_from(function(*given)) for given in (runs, pairs)]


def _interval(mean: float, half: float) -> Interval:
    return Interval(mean, mean - half, mean + half)


def _unpaired(treated: list[float], baseline: list[float]) -> Interval:
    a, b = torch.tensor(treated).double(), torch.tensor(baseline).double()
    std = (a.var() + b.var()).sqrt().item()
    paired = paired_difference(treated, baseline)
    t = (paired.high - paired.mean) / ((a - b).std().item() / len(a) ** 0.5)
    return _interval(paired.mean, t * std / len(a) ** 0.5)


def _normal(treated: list[float], baseline: list[float]) -> Interval:
    difference = torch.tensor(treated).double() - torch.tensor(baseline).double()
    half = NormalDist().inv_cdf(0.975) * difference.std().item() / len(difference) ** 0.5
    return _interval(difference.mean().item(), half)


def _spread_of_runs(treated: list[float], baseline: list[float]) -> Interval:
    paired = paired_difference(treated, baseline)
    half = (paired.high - paired.mean) * len(treated) ** 0.5
    return _interval(paired.mean, half)


def _reversed(treated: list[float], baseline: list[float]) -> Interval:
    return paired_difference(baseline, treated)


EXERCISES = {
    "correct": Exercise(
        reference=correct,
        probe=_probe_correct,
        mutants=(
            Mutant(
                "over the batch",
                lambda logits, labels: logits.argmax(0) == labels,
                "you took the largest value over the images; logits are (B, K), so take the argmax over the"
                " classes, dim=1.",
            ),
            Mutant(
                "weakest class",
                lambda logits, labels: logits.argmin(1) == labels,
                "argmin picks the class that the network finds least likely; a larger logit means a more "
                "likely class.",
            ),
            Mutant(
                "share instead of answers",
                lambda logits, labels: (logits.argmax(1) == labels).double().mean(),
                "return one True or False for each image, shape (B,); the mean is taken later.",
            ),
        ),
        advice="return a bool tensor of shape (B,) that is True where the largest logit is at the label.",
    ),
    "paired_difference": Exercise(
        reference=paired_difference,
        probe=_probe_difference,
        mutants=(
            Mutant(
                "unpaired",
                _unpaired,
                "you used the standard deviation of each method; subtract seed by seed first, then take the"
                " standard deviation of the differences.",
            ),
            Mutant(
                "normal instead of t",
                _normal,
                "1.96 holds for many runs; with five runs the standard deviation itself is uncertain, so "
                "use Student's t, stats.t.ppf(0.975, n - 1).",
            ),
            Mutant(
                "spread of runs",
                _spread_of_runs,
                "this interval says where one more run would fall; the mean of n runs varies less, so "
                "divide by sqrt(n).",
            ),
            Mutant(
                "sign",
                _reversed,
                "the sign is wrong; subtract the baseline from the treated runs, so that an improvement is "
                "above 0.",
            ),
        ),
        advice="the interval is the mean of the differences, plus and minus t(0.975, n - 1) * s / sqrt(n).",
    ),
}

QUESTIONS = {
    "who_wins": "dbccf3f69a15",
    "which_mistakes": "8c3adf6ff503",
    "how_sure": "b500acdc6cd6",
}
