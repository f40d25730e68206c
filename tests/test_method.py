import copy

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from kdnb.method import Method, frozen, ledger
from kdnb.methods import KD
from kdnb.networks import build


def make_kd(**options) -> KD:
    return KD(build("resnet8", classes=10, seed=0), build("resnet14", classes=10, seed=1), **options)


def test_frozen_cannot_be_undone_by_train(batch):
    net = frozen(build("resnet8", classes=10))
    owner = nn.Sequential(net).train()
    assert owner.training
    assert not any(module.training for module in net.modules())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    owner(batch[0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_frozen_is_not_no_grad(batch):
    images = batch[0].requires_grad_()
    frozen(build("resnet8", classes=10))(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_frozen_keeps_the_class_and_copies_well():
    net = frozen(torchvision.models.resnet18(weights=None))
    assert isinstance(net, torchvision.models.ResNet)
    assert frozen(net) is net
    assert type(net).__mro__.count(torchvision.models.ResNet) == 1
    twin = copy.deepcopy(net)
    assert twin.train() is twin
    assert not twin.training
    assert twin.fc.weight is not net.fc.weight


def test_frozen_drops_old_gradients(batch):
    net = build("resnet8", classes=10)
    net(batch[0]).sum().backward()
    assert all(parameter.grad is None for parameter in frozen(net).parameters())


def test_ledger_shows_who_teaches_whom(batch):
    found = ledger(make_kd(), *batch, parts=["student.head"])
    assert list(found.columns) == ["student", "teacher", "student.head"]
    assert list(found.index) == ["student/label", "student/soft"]
    assert (found["teacher"] == 0).all()
    assert (found[["student", "student.head"]] > 0).all(axis=None)
    assert (found["student.head"] < found["student"]).all()


def test_ledger_cells_are_gradient_norms(batch):
    method = make_kd(label_weight=1.0, soft_weight=0.5)
    found = ledger(method, *batch)
    method.train()
    method.losses(*batch, 0.0)["student/soft"].backward()
    total = sum(p.grad.double().square().sum() for p in method.student.parameters()) ** 0.5
    assert found.loc["student/soft", "student"] == pytest.approx(total.item(), rel=1e-5)


def test_ledger_leaves_the_method_as_it_was(batch):
    method = make_kd().eval()
    method.student.stem.train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    ledger(method, *batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert all(parameter.grad is None for parameter in method.parameters())


def test_ledger_counts_peers_one_by_one(batch):
    class Peers(Method):
        def __init__(self):
            super().__init__()
            self.peers = nn.ModuleList(build("resnet8", classes=10, seed=s) for s in (0, 1))

        def losses(self, images, labels, epoch):
            return {f"peers.{i}/sum": peer(images).square().mean() for i, peer in enumerate(self.peers)}

    found = ledger(Peers(), *batch)
    assert isinstance(found, pd.DataFrame)
    assert (found.to_numpy() > 0).tolist() == [[True, False], [False, True]]


def test_ledger_refuses_an_unknown_part(batch):
    with pytest.raises(AttributeError, match="tail"):
        ledger(make_kd(), *batch, parts=["student.tail"])


def test_the_default_optimizer_decays_every_learning_parameter():
    method = make_kd()
    method.weight_decay = 1e-4
    (optimizer,) = method.optimizers(0.2)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.2, 0.9, 1e-4)
    assert len(group["params"]) == len(list(method.student.parameters()))
