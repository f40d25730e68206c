import copy
import pickle
import subprocess
import sys

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from kdnb.method import Method, frozen, influences, ledger
from kdnb.methods import DML, KD
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


LOAD = """
import pickle, sys
import torch

torch.set_num_threads(1)
images, net = pickle.load(open(sys.argv[1], "rb"))
net.train()
assert not any(module.training for module in net.modules()), "not frozen any more"
assert not any(parameter.requires_grad for parameter in net.parameters())
torch.save((type(net).__name__, net(images)), sys.argv[2])
"""


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_frozen_network_is_pickled_into_another_process(batch, tmp_path, protocol):
    """There its class has not been made yet."""
    net = frozen(build("resnet8", classes=10, seed=3))
    with (tmp_path / "net").open("wb") as file:
        pickle.dump((batch[0], net), file, protocol)
    command = [sys.executable, "-c", LOAD, str(tmp_path / "net"), str(tmp_path / "found")]
    subprocess.run(command, check=True)
    name, logits = torch.load(tmp_path / "found")
    assert name == type(net).__name__ == "FrozenResNet"
    torch.testing.assert_close(logits, net(batch[0]))


def test_a_frozen_network_is_pickled_to_its_own_class(batch):
    net = frozen(build("resnet8", classes=10, seed=3))
    twin = pickle.loads(pickle.dumps(net))
    assert type(twin) is type(net)
    assert torch.equal(twin(batch[0]), net(batch[0]))
    assert frozen(twin) is twin


def test_a_whole_method_is_saved_by_torch(batch, tmp_path):
    method = make_kd()
    torch.save(method, tmp_path / "method.pt")
    found = torch.load(tmp_path / "method.pt", weights_only=False)
    assert type(found.teacher) is type(method.teacher)
    terms, expected = found.train().losses(*batch, 0.0), method.train().losses(*batch, 0.0)
    assert not found.teacher.training
    assert {name: term.item() for name, term in terms.items()} == {
        name: term.item() for name, term in expected.items()
    }


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


class Raises(KD):
    """Runs its student, draws at random, and fails: at once, or when the gradient is asked for."""

    def losses(self, images, labels, epoch):
        torch.rand(1)
        terms = super().losses(images, labels, epoch)
        if labels[0] == 0:
            raise RuntimeError("in the losses")
        return terms | {"student/detached": terms["student/soft"].detach()}


@pytest.mark.parametrize(("first", "message"), [(0, "in the losses"), (1, "does not require grad")])
def test_ledger_leaves_the_method_as_it_was_also_when_a_term_raises(batch, first, message):
    method = Raises(build("resnet8", classes=10, seed=0), build("resnet14", classes=10, seed=1)).eval()
    method.student.stem.train()
    images, labels = batch[0], batch[1].roll(-first)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes, random = [module.training for module in method.modules()], torch.get_rng_state()
    with pytest.raises(RuntimeError, match=message):
        ledger(method, images, labels)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in method.parameters())


def test_ledger_leaves_the_random_state_and_depends_on_its_seed_alone(batch):
    class Random(KD):
        def losses(self, images, labels, epoch):
            return {"student/random": torch.rand(()) * self.student(images).square().mean()}

    method = Random(build("resnet8", classes=10, seed=0), build("resnet14", classes=10, seed=1))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = ledger(method, *batch, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert ledger(method, *batch, seed=1).equals(first)
    assert not ledger(method, *batch, seed=2).equals(first)


def test_influences_tell_who_teaches(batch):
    found = influences(make_kd(), *batch)
    assert found.index.tolist() == ["student/label", "student/soft"]
    assert found.columns.tolist() == ["student", "teacher", "labels"]
    assert found.to_numpy().tolist() == [[True, False, True], [True, True, False]]


def test_influences_of_peers_are_mutual(batch):
    method = DML(lambda number: build("resnet8", classes=10, seed=number))
    found, moved = influences(method, *batch), ledger(method, *batch) > 0
    teaches = found.drop(columns="labels") & ~moved
    assert teaches.loc["student1/mutual"].tolist() == [False, True]
    assert teaches.loc["student2/mutual"].tolist() == [True, False]
    assert not teaches.loc[["student1/label", "student2/label"]].any(axis=None)


def test_influences_leave_the_method_as_it_was(batch):
    method = make_kd(scrambled=True)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.random.get_rng_state()
    first = influences(method, *batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert influences(method, *batch).equals(first)


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
