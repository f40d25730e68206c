"""The contract must catch what it promises to catch: each method here breaks one promise."""

import pytest
import torch
from torch import nn

from kdnb.functional import kd_loss, label_loss
from kdnb.methods import KD
from kdnb.networks import build
from kdnb.testing import BrokenContract, contract


def make(kind: type[KD], **options) -> KD:
    return kind(build("resnet8", classes=10, seed=0), build("resnet8", classes=10, seed=1), **options)


class TeacherInTrainMode(KD):
    def train(self, mode=True):
        super().train(mode)
        for module in self.teacher.modules():
            module.training = mode
        return self


class TeacherLearns(KD):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.teacher.requires_grad_(True)


class SoftTermDetached(KD):
    def losses(self, images, labels, epoch):
        terms = super().losses(images, labels, epoch)
        return terms | {"student/soft": terms["student/soft"].detach()}


class TeacherIsItsStudent(KD):
    def losses(self, images, labels, epoch):
        logits = self.student(images)
        soft = kd_loss(logits, self.student(images).detach()) + 0 * self.teacher(images).sum()
        return {"student/label": label_loss(logits, labels), "student/soft": soft + logits.mean()}


class TeacherForgotten(KD):
    """Its weight is 0, and a teacher would not matter with another one either."""

    def __init__(self, student, teacher):
        super().__init__(student, teacher, label_weight=1.0, soft_weight=0.0)

    def losses(self, images, labels, epoch):
        logits = self.student(images)
        return self.logit_terms(logits, logits.detach().roll(1, 0), labels)


class SoftTermDead(KD):
    def losses(self, images, labels, epoch):
        terms = super().losses(images, labels, epoch)
        return terms | {"student/soft": 0 * terms["student/soft"]}


class KeepsItsFeatures(KD):
    def losses(self, images, labels, epoch):
        self.last_images = images
        return super().losses(images, labels, epoch)


class ForgottenConnector(KD):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.connector = nn.Linear(4, 4)


class ConnectorOutsideTheOptimizer(KD):
    def optimizers(self, lr):
        return [torch.optim.SGD(list(self.student.parameters())[:-1], lr)]


class NotFinite(KD):
    def losses(self, images, labels, epoch):
        terms = super().losses(images, labels, epoch)
        return terms | {"student/soft": terms["student/soft"] / 0}


class TermPerImage(KD):
    def losses(self, images, labels, epoch):
        return {"student/label": self.student(images).square().mean(1)}


class UnnamedTerm(KD):
    def losses(self, images, labels, epoch):
        return {"label": label_loss(self.student(images), labels)}


class ExportsTheTeacher(KD):
    def export(self):
        return self.teacher


class ExportsItself(KD):
    def export(self):
        return self


class EvaluatesInTrainMode(KD):
    def outputs(self, images):
        self.student.train()
        return super().outputs(images)


class BufferNotSaved(KD):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def outputs(self, images):
        return {"student": self.student(images) * self.scale}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (TeacherInTrainMode, "teacher does not learn, but is in train mode"),
        (TeacherLearns, "teacher.* learns but no term reaches it"),
        (SoftTermDetached, "'student/soft' has no gradient: it was detached"),
        (TeacherIsItsStudent, "another teacher changes no loss"),
        (TeacherForgotten, "another teacher changes no loss, also with soft_weight above 0"),
        (SoftTermDead, "'student/soft' has no gradient in any network"),
        (KeepsItsFeatures, "a pass left .*last_images"),
        (ForgottenConnector, "connector.weight learns but no term reaches it"),
        (ConnectorOutsideTheOptimizer, "student.head.bias is in 0 optimizers, expected 1"),
        (NotFinite, "'student/soft' is (inf|nan)"),
        (TermPerImage, r"has shape \(8,\), expected a scalar"),
        (UnnamedTerm, "named 'learner/term', found 'label'"),
        (ExportsTheTeacher, "gives none of the method's outputs"),
        (ExportsItself, "returns the method, not a network"),
        (EvaluatesInTrainMode, "differs when asked again|evaluation changed"),
        (BufferNotSaved, "differs after saving and loading"),
    ],
)
def test_a_broken_promise_is_named(kind, message, batch):
    with pytest.raises(BrokenContract, match=message):
        contract(make(kind), *batch)


def test_the_contract_leaves_the_method_untouched(batch):
    method = make(KD)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    contract(method, *batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
