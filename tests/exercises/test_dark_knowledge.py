"""Notebook 01: right answers in other styles pass, and wrong ones that a balanced probe would hide do not."""

import pytest
import torch
import torch.nn.functional as F

from kdnb.exercises import lesson
from kdnb.functional import kd_loss


def answers_in_numpy_style(logits, temperature):
    powers = (logits / temperature).exp()
    return powers / powers.sum(1, keepdim=True)


def answers_picture_by_picture(logits, temperature):
    return torch.stack([F.softmax(row / temperature, dim=-1) for row in logits])


def loss_by_hand(student, teacher, temperature):
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


def loss_by_kl_div(student, teacher, temperature):
    p, log_q = F.softmax(teacher / temperature, 1), F.log_softmax(student / temperature, 1)
    return F.kl_div(log_q, p, reduction="batchmean") * temperature * temperature


def loss_with_a_detached_teacher(student, teacher, temperature):
    return loss_by_kl_div(student, teacher.detach(), temperature)


def loss_without_gradients_of_the_teacher(student, teacher, temperature):
    with torch.no_grad():
        p = F.softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(F.log_softmax(student / temperature, 1), p, reduction="sum") / len(p)


def loss_as_cross_entropy_minus_entropy(student, teacher, temperature):
    p = F.softmax(teacher / temperature, 1)
    entropy = -(p * p.log()).sum(1).mean()
    return temperature**2 * (F.cross_entropy(student / temperature, p) - entropy)


def loss_in_float64(student, teacher, temperature):
    return loss_by_kl_div(student.double(), teacher.double(), temperature)


def similarity_by_one_hots(probabilities, labels):
    members = F.one_hot(labels, probabilities.shape[1]).float()
    rows = members.T @ probabilities / members.sum(0)[:, None]
    table = (rows + rows.T) / 2
    return table - torch.diag(table.diag())


def similarity_by_loops(probabilities, labels):
    classes = probabilities.shape[1]
    table = torch.zeros(classes, classes)
    for a in range(classes):
        for b in range(classes):
            if a != b:
                table[a, b] = (
                    probabilities[labels == a, b].mean() + probabilities[labels == b, a].mean()
                ) / 2
    return table


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("soft_labels", answers_in_numpy_style),
        ("soft_labels", answers_picture_by_picture),
        ("kd_loss", loss_by_hand),
        ("kd_loss", loss_by_kl_div),
        ("kd_loss", loss_with_a_detached_teacher),
        ("kd_loss", loss_without_gradients_of_the_teacher),
        ("kd_loss", loss_as_cross_entropy_minus_entropy),
        ("kd_loss", loss_in_float64),
        ("class_similarity", similarity_by_one_hots),
        ("class_similarity", similarity_by_loops),
        ("teacher_must_not_learn", loss_with_a_detached_teacher),
        ("teacher_must_not_learn", loss_without_gradients_of_the_teacher),
    ],
)
def test_right_answers_in_other_styles_pass(name, answer, capsys):
    assert lesson("01").check(name, answer) is answer
    assert capsys.readouterr().out == f"[passed] {name}: your version is used from here on.\n"


def test_a_student_that_cannot_learn_is_named(capsys):
    course = lesson("01")
    course.check("kd_loss", lambda s, t, T: kd_loss(s.detach(), t, T))
    assert "the loss does not depend on the student's logits any more" in capsys.readouterr().out


def test_the_class_of_every_picture_counts_where_classes_are_unequal(capsys):
    """A version that divides by N / K is right only if every class has equally many pictures."""

    def balanced_only(probabilities, labels):
        classes = probabilities.shape[1]
        rows = F.one_hot(labels, classes).float().T @ probabilities / (len(labels) / classes)
        return ((rows + rows.T) / 2).fill_diagonal_(0)

    course = lesson("01")
    assert course.check("class_similarity", balanced_only) is not balanced_only
    assert "divide each row by the number of its own pictures" in capsys.readouterr().out
    equal = torch.softmax(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 1)
    torch.testing.assert_close(
        balanced_only(equal, torch.arange(8) % 4),
        course.exercises["class_similarity"].reference(equal, torch.arange(8) % 4),
    )
