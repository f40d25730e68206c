"""No training step waits for the device: shown without one.

A step is watched in two ways. On the CPU its forward and backward pass must not run an operation whose result
the host reads, or whose size depends on values. Then the forward pass and the optimizers run on fake tensors
that say they lie on a GPU: reading one fails, and so does mixing it with a tensor that the method made on the
CPU. (A fake backward pass would need a real GPU.)
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdnb.datasets import Augmentation, Batch, Batches
from kdnb.method import Method, Parts
from kdnb.methods import METHODS, LabelsOnly, SemCKD
from kdnb.networks import build
from kdnb.train.hardware import Rates, fuse

CLASSES, IMAGES, BATCH = 4, 20_000, 8
CUDA = torch.device("cuda", 0)
WAITING = {
    "aten::_local_scalar_dense",  # .item(), float(x), int(x), if x
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",  # x[mask] as well
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
}


class Waits(AssertionError):
    """The step ran an operation for which the host would wait."""


class NoWaiting(TorchDispatchMode):
    """Refuses operations for which the host waits, copies between devices among them."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in WAITING and not _stays_on_device(name, args):
            raise Waits(name)
        if name == "aten::index" and any(x is not None and x.dtype == torch.bool for x in args[1]):
            raise Waits("a mask as an index")
        if name.startswith("aten::_fused_") and isinstance(args[0][0], FakeTensor):
            return _taken(args, kwargs or {})
        result = function(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_"):
            places = {x.device.type for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)}
            if len(places) > 1:
                raise Waits(f"{name} between {places}")
        return result


def _taken(args: tuple, kwargs: dict) -> None:
    """A fused step of an optimizer, for which fake tensors have no rule: all it reads must be on the GPU."""
    places = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
    if places != {CUDA}:
        raise Waits(f"a fused step that reads from {places}")


def _stays_on_device(name: str, args: tuple) -> bool:
    """Repeating by a number, not by a tensor of counts, is done without a look."""
    return name == "aten::repeat_interleave" and not isinstance(args[-1], torch.Tensor)


def made(name: str, **options: object) -> Method:
    """A method of ``METHODS``, built small as a run would build it."""
    kind = METHODS[name]
    labels = torch.arange(IMAGES) % CLASSES
    pixels = torch.zeros(BATCH, 16, 16, 3, dtype=torch.uint8)
    held_out = Batches(pixels, labels[:BATCH], BATCH, (0.5,) * 3, (0.25,) * 3)
    student = "resnet20" if name in ("ddnn",) else "resnet8"
    parts = Parts(
        network=lambda number: build(student, classes=CLASSES, seed=number),
        load_teacher=lambda: build("resnet8", classes=CLASSES, seed=9),
        batch_size=BATCH,
        labels=labels,
        indices=torch.arange(IMAGES),
        held_out=held_out,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind.assemble(parts, **options).train()


def batch_for(method: Method, device: torch.device) -> Batch:
    images = torch.ones(BATCH, 3, 16, 16, device=device)
    indices = torch.arange(BATCH, device=device)
    return Batch(images, indices % CLASSES, indices, (torch.zeros_like(images),) * method.views)


CASES = [(name, {}) for name in METHODS] + [
    ("semckd", {"variant": "shuffled"}),
    ("semckd", {"variant": "fixed"}),
    ("ecd", {"anneal_epochs": 3, "learnable_scale": True}),
    ("ffsd", {"diversity": "l2", "students": 3}),
    ("ddnn", {"batch_norm": "shared"}),
    *[("kdcl", {"target": target, "students": 3}) for target in ("naive", "linear", "min-logit")],
]
# Forward passes that read on a CPU alone: CRD checks there that the images are those of its memory (on a GPU
# the device asserts it), and one_hot of torch looks for negative labels.
READ_ON_CPU = [("crd", {}), ("kdcl", {"target": "linear", "students": 3})]
IDS = ["-".join([name, *map(str, options.values())]) for name, options in CASES]


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_step_reads_nothing_back(name, options):
    method = made(name, **options)
    batch = batch_for(method, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        method(batch, 0.0)  # what a method does once, such as fixing a constant, may wait
    method.begin_epoch(0)
    with torch.random.fork_rng(devices=[]):
        with nullcontext() if (name, options) in READ_ON_CPU else NoWaiting():
            loss = sum(method(batch, 0.3).values())
        with NoWaiting():
            loss.backward()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_a_step_on_a_gpu_mixes_no_devices_and_its_optimizers_stay_there(name, options):
    method = made(name, **options)
    with FakeTensorMode():
        method = on_fake_gpu(method)
        optimizers = method.optimizers(0.1)
        fuse(optimizers, CUDA)
        rates = Rates(optimizers, CUDA)
        batch = batch_for(method, CUDA)
        with NoWaiting():
            terms = method(batch, 0.3)
            assert {term.device for term in terms.values()} == {CUDA}
            rates.scale(0.5)
            for parameter in method.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            for optimizer in optimizers:
                assert all(group["fused"] for group in optimizer.param_groups)
                optimizer.step()
            with torch.no_grad():
                outputs = method.eval().outputs(batch.images)
    assert {logits.device for logits in outputs.values()} == {CUDA}


def on_fake_gpu(method: Method) -> Method:
    """The method with fake parameters and buffers that say they lie on a GPU. Shared ones stay shared."""
    placed: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in placed:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
            learns = isinstance(tensor, nn.Parameter)
            placed[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if learns else empty
        return placed[id(tensor)]

    kept = []  # so that no id is used twice
    for module in method.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                kept.append(tensor)
                held[name] = fake(tensor)
    return method


def test_batches_after_the_first_are_made_without_a_wait():
    pixels = torch.zeros(24, 16, 16, 3, dtype=torch.uint8)
    options = {"shuffle": True, "augmentation": Augmentation(), "views": 1}
    batches = Batches(pixels, torch.arange(24) % CLASSES, 8, (0.5,) * 3, (0.25,) * 3, **options)
    epoch = batches.epoch(0)
    next(epoch)
    with NoWaiting():
        assert len(list(epoch)) == 2


# That the watch sees


class Reading(LabelsOnly):
    def losses(self, images, labels, epoch):
        terms = super().losses(images, labels, epoch)
        return terms if terms["student/label"] > 0 else {}


class Masking(LabelsOnly):
    def losses(self, images, labels, epoch):
        return super().losses(images[labels == 0], labels[labels == 0], epoch)


class Mixing(LabelsOnly):
    def losses(self, images, labels, epoch):
        return super().losses(images + torch.ones(images.shape), labels, epoch)


class Copying(LabelsOnly):
    def losses(self, images, labels, epoch):
        return super().losses(
            images * torch.tensor([1.0, 2.0, 3.0]).to(images.device)[:, None, None], labels, 0
        )


@pytest.mark.parametrize("kind", [Reading, Masking])
def test_a_step_that_waits_is_seen_on_the_cpu(kind):
    method = kind(build("resnet8", classes=CLASSES))
    with pytest.raises(Waits), NoWaiting():
        method(batch_for(method, torch.device("cpu")), 0.0)


@pytest.mark.parametrize("kind", [Reading, Masking, Mixing, Copying])
def test_a_step_that_waits_or_mixes_is_seen_on_the_fake_gpu(kind):
    method = kind(build("resnet8", classes=CLASSES))
    with FakeTensorMode(allow_non_fake_inputs=True):
        method = on_fake_gpu(method)
        batch = batch_for(method, CUDA)
        with pytest.raises((Waits, RuntimeError)), NoWaiting():
            method(batch, 0.0)


def test_the_shuffled_association_is_rolled_as_before():
    """What is drawn on the device gives the bits of the roll by a number that the host knew."""
    method = made("semckd", variant="shuffled")
    plain = copy.deepcopy(method)
    plain.variant = "learned"
    batch = Batch(torch.randn(BATCH, 3, 16, 16), torch.zeros(BATCH, dtype=torch.int64))
    for seed in range(5):
        torch.manual_seed(seed)
        shift = int(torch.randint(1, BATCH, ()))
        student, teacher = plain.features(batch.images)
        weights = plain._weights(student.maps, teacher.maps)
        torch.manual_seed(seed)
        found = weights[_places(BATCH)]
        assert torch.equal(found, weights.roll(shift, 0))
    assert isinstance(method, SemCKD)


def _places(count: int) -> torch.Tensor:
    from kdnb.methods.semckd import _other_images

    return _other_images(count, torch.device("cpu"))
