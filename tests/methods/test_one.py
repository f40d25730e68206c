import pytest
import torch

from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss
from kdnb.method import ledger
from kdnb.methods import ONE
from kdnb.methods.families.online import LEADERS, ramp_up
from kdnb.networks import Network, Tapped, build
from kdnb.testing import contract


def network(number: int) -> Network:
    return build("resnet8", classes=10, seed=number)


@pytest.mark.parametrize("leader", LEADERS)
def test_contract(batch, leader):
    assert len(contract(ONE(network, leader=leader, students=3), *batch)) == 10


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv2"])
def test_any_of_our_networks_can_branch(name, batch):
    method = ONE(lambda number: build(name, classes=10, seed=number), students=2).eval()
    outputs = method.outputs(batch[0])
    assert torch.equal(outputs["student1"], method.export()(batch[0]))
    assert not torch.equal(outputs["student1"], outputs["student2"])


def test_terms_by_the_formula(batch):
    images, labels = batch
    method = ONE(network, students=3).eval()
    students = method.features(images)
    weights = method.gate(students[0].maps[1])
    torch.testing.assert_close(weights.sum(1), torch.ones(8))
    mixture = sum(weights[:, [branch]] * students[branch].logits for branch in range(3))
    terms = method.losses(images, labels, 40.0)
    torch.testing.assert_close(terms["ensemble/label"], label_loss(mixture, labels))
    expected = ramp_up(40, 80) * kd_loss(students[2].logits, mixture, 3.0)
    torch.testing.assert_close(terms["student3/soft"], expected)


def test_branches_share_all_stages_but_the_last(batch):
    method = ONE(network, students=2)
    whole = sum(parameter.numel() for parameter in network(0).parameters())
    branch = sum(p.numel() for part in (network(1).stages[-1], network(1).head) for p in part.parameters())
    gate = 32 * 2 + 2 + 2 * 2
    assert sum(parameter.numel() for parameter in method.parameters()) == whole + branch + gate
    first, second = method.eval().features(batch[0])
    assert all(a is b for a, b in zip(first.maps[:-1], second.maps[:-1], strict=True))


def test_the_mixture_learns_from_being_followed(batch):
    """The target is not detached: the gate and the other branches feel the soft terms."""
    table = ledger(ONE(network, students=2), *batch, epoch=100)
    assert table.loc["student1/soft", "gate"] > 0
    assert table.loc["student1/soft", "students.1"] > 0


@pytest.mark.parametrize("leader", LEADERS)
def test_the_gate_sees_every_batch_once(batch, leader):
    method = ONE(network, students=2, leader=leader).train()
    method.losses(*batch, 0.0)
    assert method.gate.layers[1].num_batches_tracked == 1


def test_a_network_that_hides_its_stages_is_refused():
    import torchvision

    def tapped(number: int) -> Network:
        return Tapped(torchvision.models.resnet18(num_classes=10), "layer3", "layer4")

    with pytest.raises(InputError, match="does not hold its stages apart"):
        ONE(tapped)
