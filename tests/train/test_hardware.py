"""What a training step finds set on the machine, and that it is put back."""

import types

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop

from kdnb.method import Method
from kdnb.methods import LabelsOnly
from kdnb.networks import cost
from kdnb.train import hardware, train
from kdnb.train.hardware import Rates, exact_kernels, fuse, reproducible

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul
CUDA = torch.device("cuda", 0)


def flags() -> dict[str, object]:
    return {
        "enabled": CUDNN.enabled,
        "deterministic": CUDNN.deterministic,
        "benchmark": CUDNN.benchmark,
        "convolutions in TF32": CUDNN.allow_tf32 or CUDNN.conv.fp32_precision == "tf32",
        "products in TF32": MATMUL.allow_tf32 or MATMUL.fp32_precision == "tf32",
    }


EXACT = {
    "enabled": True,
    "deterministic": True,
    "benchmark": False,
    "convolutions in TF32": False,
    "products in TF32": False,
}


def fail(inside: bool) -> None:
    assert inside
    raise KeyError("a bug")


class Recording(Method):
    """Writes down what the flags are within its losses and in its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.seen = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), []

    def losses(self, images, labels, epoch):
        self.seen.append(flags())
        return {"student/label": nn.functional.cross_entropy(self.student(images), labels)}


def test_a_training_step_runs_with_cudnn_deterministic_and_in_real_fp32():
    method, before = Recording(), flags()
    assert before["enabled"]
    assert not before["deterministic"]
    assert before["convolutions in TF32"], "torch's default, so that the test can fail"
    batches = [(torch.randn(2, 3, 2, 2), torch.tensor([0, 1]))]
    for _ in train(method, batches, epochs=2, lr=0.1, device="cpu"):
        assert flags() == before, "restored between epochs"
    assert method.seen == [EXACT, EXACT]


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_what_the_user_set_comes_back(word):
    try:
        torch.set_float32_matmul_precision(word)
        before = flags(), torch.get_float32_matmul_precision(), MATMUL.fp32_precision
        with pytest.raises(KeyError), exact_kernels():
            fail(flags() == EXACT)
        assert (flags(), torch.get_float32_matmul_precision(), MATMUL.fp32_precision) == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_torch_that_does_not_tell_its_precision_is_no_obstacle(monkeypatch):
    def refuse():
        raise RuntimeError("a mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    before = flags()
    with exact_kernels():
        assert flags() == EXACT
    assert flags() == before


def test_the_random_state_of_mps_comes_back(monkeypatch):
    state = {"now": torch.tensor([7])}
    calls = types.SimpleNamespace(
        get_rng_state=lambda: state["now"],
        set_rng_state=lambda found: state.update(now=found),
        manual_seed=lambda seed: state.update(now=torch.tensor([seed])),
    )
    monkeypatch.setattr(torch, "mps", calls)
    monkeypatch.setattr(torch, "get_device_module", lambda device: calls)
    with pytest.raises(KeyError), reproducible(3, torch.device("mps")):
        fail(state["now"].item() == 3)
    assert state["now"].item() == 7


def test_steps_are_fused_on_cuda_and_left_alone_on_a_cpu():
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
    groups = [{"params": weights[:1]}, {"params": weights[1:2], "weight_decay": 0.1}]
    sgd, adam = SGD(groups, 0.1), Adam(weights[2:3], 0.1)
    other, chosen = RMSprop(weights[3:], 0.1), SGD(weights, 0.1, foreach=True)
    fuse([sgd, adam, other, chosen], torch.device("cpu"), capturable=True)
    made = [group for one in (sgd, adam, other, chosen) for group in one.param_groups]
    assert not any(group.get("fused") or group.get("capturable") for group in made)
    fuse([sgd, adam, other, chosen], CUDA)
    assert [group.get("fused") for group in made] == [True, True, True, None, None]
    assert not any(group.get("capturable") for group in made)
    fuse([sgd, adam, other, chosen], CUDA, capturable=True)
    assert [group.get("capturable") for group in made] == [None, None, True, True, None]


def test_rates_are_numbers_or_tensors_that_stay_in_place():
    weight = nn.Parameter(torch.zeros(2))
    groups = [{"params": [weight]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0}]
    numbers, tensors = (SGD([dict(group) for group in groups], 0.5) for _ in range(2))
    rates = Rates([numbers])
    rates.scale(0.1)
    assert [group["lr"] for group in numbers.param_groups] == [0.05, 0.2]
    rates = Rates([tensors], torch.device("cpu"))
    places = [group["lr"] for group in tensors.param_groups]
    rates.scale(0.3)
    rates.scale(0.1)
    assert [group["lr"] for group in tensors.param_groups] == places
    assert [rate.item() for rate in places] == pytest.approx([0.05, 0.2])
    assert all(group["lr"] is place for group, place in zip(tensors.param_groups, places, strict=True))


def test_a_state_does_not_carry_how_another_machine_takes_its_steps():
    """A state of a GPU says fused=True; the CPU that resumes from it keeps its own kernels and rates."""
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    options = {"epochs": 2, "lr": 0.1, "device": "cpu"}

    def method() -> LabelsOnly:
        torch.manual_seed(0)
        return LabelsOnly(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))

    first = next(train(method(), [(images, labels)], **options)).state()
    [saved] = first["optimizers"]
    assert isinstance(saved["param_groups"][0]["lr"], float)
    saved["param_groups"][0] |= {"fused": True, "lr": 77.0}
    epoch = next(train(method(), [(images, labels)], **options, resume=first))
    [group] = epoch.state()["optimizers"][0]["param_groups"]
    assert group["fused"] is None
    assert group["lr"] == pytest.approx(0.05)


def test_timings_wait_for_any_accelerator(monkeypatch):
    from kdnb.commands.bench import timing

    waited = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waited.append("before or after"))
    timing.seconds(lambda: waited.append("work"))
    assert waited == ["before or after", "work", "before or after"]


def test_forward_times_wait_for_the_device_of_the_networks(monkeypatch):
    waited = []
    machine = types.SimpleNamespace(synchronize=lambda: waited.append(1))
    monkeypatch.setattr(torch, "get_device_module", lambda device: machine)
    cost_module = __import__("kdnb.networks.cost", fromlist=["forward_times"])
    [taken] = cost_module.forward_times([nn.Conv2d(3, 2, 1)], size=4, rounds=2)
    assert taken > 0
    assert len(waited) == 2 * 3
    assert cost(nn.Conv2d(3, 2, 1)).parameters == 8


def test_a_precision_that_is_not_exact_is_chosen_by_name_only():
    assert hardware.PRECISIONS == ("auto", "fp32", "bf16", "fp64"), "no tf32: fp32 means fp32"
