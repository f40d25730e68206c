"""``evaluate`` and ``logits_of``: any network, any loader, and few waits for the device."""

import inspect
import typing
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from kdnb.datasets import Augmentation, Batch, Batches
from kdnb.methods import LabelsOnly
from kdnb.networks import build
from kdnb.train import evaluate, evaluation, logits_of, loop, train
from kdnb.train.evaluation import Loader

CLASSES = 4


def images_and_labels(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % CLASSES


def batches(**options: object) -> Batches:
    return Batches(*images_and_labels(), 5, (0.5,) * 3, (0.25,) * 3, **options)


def test_the_annotations_say_any_module_and_any_loader():
    for function in (evaluate, logits_of):
        hints = typing.get_type_hints(function)
        assert hints["net"] is nn.Module
        assert hints["batches"] == Loader
    accepted = typing.get_args(typing.get_type_hints(train)["batches"])
    assert accepted == (Batches, loop.TrainingLoader)
    asked = {name for name in vars(loop.TrainingLoader) if name in ("__len__", "__iter__")}
    assert asked == {"__len__", "__iter__"}
    assert "Method" in inspect.getdoc(evaluate)
    assert "any module" in inspect.getdoc(evaluate)


class Brightest(nn.Module):
    """A network without parameters: its logits are the first pixels."""

    def forward(self, images):
        return images[:, 0, 0, :CLASSES]


@pytest.mark.parametrize("net", [build("resnet8", classes=CLASSES), Brightest()], ids=["network", "bare"])
def test_every_kind_of_loader_gives_the_same_accuracy(net):
    shown = list(batches())
    tensors = [torch.cat([batch[place] for batch in shown]) for place in (0, 1)]
    loaders = [batches(), shown, [tuple(batch) for batch in shown], iter(shown)]
    loaders += [[Batch(*tensors)], DataLoader(TensorDataset(*tensors), batch_size=5)]
    found = [evaluate(net, loader, precision="fp32") for loader in loaders]
    assert list(found[0]) == ["network"]
    assert found == found[:1] * len(loaders)
    assert logits_of(net, batches()).shape == (12, CLASSES)


def test_a_method_gives_every_output_and_a_network_of_that_name_only_one():
    method = LabelsOnly(build("resnet8", classes=CLASSES))
    method.student.group = ("student", "other")  # an attribute of a network is not a method's group
    whole = evaluate(method, batches(), precision="fp32")
    assert evaluate(method.student, batches(), precision="fp32") == {"network": whole["student"]}


class Reads(TorchDispatchMode):
    """Counts how often a number is read from the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_the_device_is_read_once_whatever_the_number_of_batches(monkeypatch):
    stacked, whole = [], torch.stack

    def watched(tensors, *dimension):
        stacked.append(len(tensors))
        return whole(tensors, *dimension)

    shown, net = list(batches()), Brightest()
    monkeypatch.setattr(torch, "stack", watched)
    with Reads() as reads:
        evaluate(net, shown, precision="fp32")
    assert reads.count == 0, "no number is read by itself"
    assert stacked == [1], "all of them are read as one tensor, at the end"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, evaluation.AT_ONCE // 64),
        ({"shuffle": True}, evaluation.AT_ONCE // 64),
        ({"drop_last": True}, 5),
        ({"augmentation": Augmentation(pad=1)}, 5),
    ],
)
def test_a_gpu_sees_many_images_at_once_where_they_stay_the_same(monkeypatch, options, expected):
    given = batches(**options)
    assert evaluation._placed(given, torch.device("cpu")).batch_size == 5
    monkeypatch.setattr(Batches, "to", lambda self, device: self)
    placed = evaluation._placed(given, torch.device("cuda"))
    assert placed.batch_size == expected
    small, large = (torch.cat([images for images, _ in part]) for part in (given, placed))
    assert torch.equal(small, large), "the same images in the same order"
    wide = replace(given, batch_size=12)
    monkeypatch.setattr(evaluation, "AT_ONCE", 64)
    assert evaluation._placed(wide, torch.device("cuda")).batch_size == 12, "never fewer"


def test_evaluation_is_exact_too():
    class Recording(Brightest):
        def forward(self, images):
            self.seen = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
            return super().forward(images)

    for look in (
        lambda net: evaluate(net, batches(), precision="fp32"),
        lambda net: logits_of(net, batches()),
    ):
        net = Recording()
        look(net)
        assert net.seen == (True, False)
