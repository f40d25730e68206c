"""Notebook 03's exercises: right answers in other styles pass, and so does nothing that only looks right."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdnb.exercises import lesson


def detached_target(vectors, embedding, teacher_head, student_head):
    with torch.no_grad():
        wanted = teacher_head(embedding)
    return (teacher_head(vectors) - wanted).pow(2).mean()


def by_weights(vectors, embedding, teacher_head, student_head):
    return F.linear(vectors - embedding, teacher_head.weight).square().mean()


def one_class_at_a_time(vectors, embedding, teacher_head, student_head):
    judged, wanted = teacher_head(vectors), teacher_head(embedding.detach())
    return sum(F.mse_loss(mine, theirs) for mine, theirs in zip(judged.T, wanted.T, strict=True)) / len(
        wanted.T
    )


RIGHT = {
    "connected": [
        lambda connector, maps: nn.AdaptiveAvgPool2d(1)(connector(maps)).flatten(1),
        lambda connector, maps: connector(maps).flatten(2).mean(2),
        lambda connector, maps: F.adaptive_avg_pool2d(connector(maps), 1)[:, :, 0, 0],
        lambda connector, maps: connector(maps).mean(dim=[-1, -2]).float(),
    ],
    "feature_matching": [
        lambda s, t: F.mse_loss(s, t.detach()),
        lambda s, t: nn.MSELoss()(t, s),
        lambda s, t: (s - t).square().mean(1).mean(),
        lambda s, t: F.mse_loss(s.float(), t.float()),
        lambda s, t: (s - t).square().sum() / s.numel(),
    ],
    "softmax_regression": [detached_target, by_weights, one_class_at_a_time],
    "the_loss_that_never_falls": [detached_target, by_weights, one_class_at_a_time],
}


@pytest.mark.parametrize(("name", "function"), [(name, f) for name, all in RIGHT.items() for f in all])
def test_right_answers_in_other_styles_pass(name, function, capsys):
    assert lesson("03").check(name, function) is function
    assert capsys.readouterr().out.startswith(f"[passed] {name}")


def connector_run_twice(connector, maps):
    connector(maps)
    return connector(maps).mean((2, 3))


def eval_and_back(connector, maps):
    training = connector.training
    vectors = connector.eval()(maps).mean((2, 3))
    connector.train(training)
    return vectors


WRONG = [
    ("connected", connector_run_twice, "once"),
    ("connected", eval_and_back, "without changing its mode"),
    ("connected", lambda connector, maps: connector(maps).sum((2, 3)) / 6, "mean over dims 2 and 3"),
    ("feature_matching", lambda s, t: (s - t).square().sum() / 24, "average the squared differences"),
    ("feature_matching", lambda s, t: F.mse_loss(s.mean(0), t.mean(0)), "average the squared differences"),
    ("softmax_regression", lambda c, e, t, s: F.mse_loss(t(c.detach()), t(e)), "no gradient reaches"),
    ("the_loss_that_never_falls", lambda c, e, t, s: F.mse_loss(t(c.detach()), t(e)), "the bug is still in"),
]


@pytest.mark.parametrize(("name", "function", "hint"), WRONG)
def test_what_only_looks_right_gets_a_hint(name, function, hint, capsys):
    assert lesson("03").check(name, function) is not function
    line = capsys.readouterr().out
    assert line.startswith(("[try again]", "[todo]"))
    assert hint in line
