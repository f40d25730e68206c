import copy

import pytest
import torch
import torchvision
from reference import Reference

from kdnb.errors import InputError
from kdnb.functional import attention_map
from kdnb.methods import AttentionTransfer, LabelsOnly
from kdnb.methods.attention_transfer import attention_transfer_loss
from kdnb.networks import Tapped, build
from kdnb.testing import contract


def make(**options) -> AttentionTransfer:
    return AttentionTransfer(build("resnet8", classes=10), build("resnet14", classes=10, seed=1), **options)


@pytest.mark.parametrize("file", ["at", "at_resize"])
def test_reference_values(file):
    reference = Reference(file)
    student, teacher = reference.all("in/student"), reference.all("in/teacher")
    loss = attention_transfer_loss(student, teacher)
    loss.backward()
    reference.agrees(loss, "out/loss")
    for stage, map in enumerate(student):
        reference.agrees(map.grad, f"out/grad_student{stage}")


@pytest.mark.parametrize("soft_weight", [0.0, 1.0])
def test_it_keeps_the_contract(batch, soft_weight):
    assert len(contract(make(soft_weight=soft_weight), *batch)) == 10


def test_across_architectures(batch):
    contract(
        AttentionTransfer(build("mobilenetv2", classes=10), build("vgg8", classes=10)),
        batch[0].repeat(1, 1, 2, 2),
        batch[1],
    )


def test_stages_of_one_size_are_paired_where_numbers_differ(batch):
    """resnet: image / 1, 2, 4; mobilenet: / 2, 4, 8, 16."""
    student, teacher = build("mobilenetv2", classes=10), build("resnet8", classes=10)
    with pytest.raises(InputError, match=r'4 stages and the teacher 3.*pairs="size"'):
        AttentionTransfer(student, teacher)
    method = AttentionTransfer(student, teacher, pairs="size").eval()
    contract(method, *batch)
    own, shown = (net(batch[0]).maps for net in (student.features, teacher.features))
    expected = attention_transfer_loss(own[:2], shown[1:])
    torch.testing.assert_close(method.losses(*batch, 0.0)["student/attention"], 1000 * expected)
    last = Tapped(torchvision.models.resnet18(num_classes=10), "layer4")  # divides by 32
    with pytest.raises(InputError, match=r"No stage of the student .* is as large"):
        AttentionTransfer(student, last, pairs="size")


def test_a_student_equal_to_its_teacher_has_nothing_to_transfer(batch):
    teacher = build("resnet8", classes=10)
    terms = AttentionTransfer(copy.deepcopy(teacher), teacher).eval().losses(*batch, 0.0)
    assert terms["student/attention"].item() == pytest.approx(0, abs=1e-9)


def test_attention_forgets_the_order_and_the_strength_of_channels(batch):
    map = build("resnet8", classes=10).features(batch[0]).maps[1].detach()
    other = 3 * map[:, torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    assert attention_transfer_loss([map], [other]).item() == pytest.approx(0, abs=1e-9)


def test_duplicating_the_batch_changes_neither_loss_nor_gradient():
    reference, found = Reference("at"), []
    for copies in (1, 2):
        student = [
            map.detach().repeat(copies, 1, 1, 1).requires_grad_() for map in reference.all("in/student")
        ]
        teacher = [map.detach().repeat(copies, 1, 1, 1) for map in reference.all("in/teacher")]
        loss = attention_transfer_loss(student, teacher)
        loss.backward()
        found.append((loss.detach(), copies * student[0].grad[:8]))
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-12, atol=1e-15)


def test_without_the_term_the_step_is_the_baselines_bit_for_bit(batch):
    gradients = []
    for method in (make(attention_weight=0.0), LabelsOnly(build("resnet8", classes=10))):
        sum(method.losses(*batch, 0.0).values()).backward()
        gradients.append([parameter.grad for parameter in method.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_constant_image_gives_finite_gradients():
    method = make()
    sum(method.losses(torch.zeros(8, 3, 16, 16), torch.arange(8), 0.0).values()).backward()
    assert all(p.grad.isfinite().all() for p in method.student.parameters())
    assert torch.equal(attention_map(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 4, 4))


def test_bad_pairs_are_refused(batch):
    with pytest.raises(InputError, match="3 stages and the teacher 4"):
        AttentionTransfer(build("resnet8", classes=10), build("vgg8", classes=10))
    with pytest.raises(InputError, match="one position"):
        AttentionTransfer(build("mobilenetv2", classes=10), build("mobilenetv2", classes=10)).losses(
            *batch, 0.0
        )
    with pytest.raises(InputError, match=r"Wrap it: Tapped"):
        AttentionTransfer(torch.nn.Flatten(), build("vgg8", classes=10))
    with pytest.raises(InputError, match="2 student maps and 1"):
        attention_transfer_loss([torch.ones(1, 2, 3, 3)] * 2, [torch.ones(1, 2, 3, 3)])
    with pytest.raises(InputError, match="of 2 and of 1 images"):
        attention_transfer_loss([torch.ones(2, 2, 3, 3)], [torch.ones(1, 2, 3, 3)])
