"""The loop: what one step does, what is reproducible, what it says when something is wrong."""

import copy
from math import cos, inf, nan, pi

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdnb.datasets import Augmentation, Batches
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.methods import KD, LabelsOnly
from kdnb.networks import build
from kdnb.train import NotFinite, cosine, drops, evaluate, logits_of, losslog, train, warm_cosine
from kdnb.train.losslog import CHECK_EVERY

CLASSES = 4


class Toy(Method):
    """A network with batch norm and dropout, quick enough to train in every test."""

    def __init__(self, *, dropout: float = 0.5, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student = nn.Sequential(
                nn.Conv2d(3, 8, 3),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(8 * 36, CLASSES),
            ).to(dtype)

    def losses(self, images, labels, epoch):
        return {"student/label": F.cross_entropy(self.student(images), labels)}

    def outputs(self, images):
        return {"student": self.student(images)}


def pairs(count: int = 3, size: int = 8, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def finish(method: Method, batches=None, **options) -> Method:
    settings = {"epochs": 2, "lr": 0.1, "precision": "fp32", "device": "cpu"} | options
    for _ in train(method, pairs() if batches is None else batches, **settings):
        pass
    return method


def bits(state) -> bytes:
    """A nested state as bytes: equal only where every bit is."""
    if isinstance(state, torch.Tensor):
        return state.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(state, dict):
        return b"".join(repr(key).encode() + bits(value) for key, value in state.items())
    if isinstance(state, list | tuple):
        return b"".join(map(bits, state))
    return repr(state).encode()


def weights(method: nn.Module) -> bytes:
    return bits(method.state_dict())


# What one step does


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_one_step_is_sgd_written_by_hand(precision):
    method = Toy(dropout=0, dtype=torch.float64 if precision == "fp64" else torch.float32)
    by_hand = copy.deepcopy(method).student.to(memory_format=torch.channels_last)
    [(images, labels)] = batches = pairs(1)
    finish(method, batches, epochs=1, precision=precision)

    images = images.to(by_hand[0].weight.dtype, memory_format=torch.channels_last)
    F.cross_entropy(by_hand(images), labels).backward()
    with torch.no_grad():
        for weight in by_hand.parameters():
            gradient = weight.grad + Method.weight_decay * weight  # the first momentum is this
            weight.add_(gradient, alpha=-0.1)
    assert weights(method.student) == weights(by_hand)


def test_many_steps_are_the_loop_anyone_would_write():
    method, batches = Toy(dropout=0), pairs(3)
    by_hand = copy.deepcopy(method).student.to(memory_format=torch.channels_last)
    finish(method, batches, epochs=2)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    for step in range(6):
        images, labels = batches[step % 3]
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + cos(pi * (step / 3) / 2)) / 2
        optimizer.zero_grad()
        images = images.to(memory_format=torch.channels_last)
        F.cross_entropy(by_hand(images), labels).backward()
        optimizer.step()
    assert weights(method.student) == weights(by_hand)


def test_losses_are_means_over_the_epoch():
    method, batches = Toy(dropout=0), pairs(3)
    by_hand = [F.cross_entropy(copy.deepcopy(method).student(x), y).item() for x, y in batches]
    epoch = next(train(method, batches, epochs=1, lr=1e-12, precision="fp32", device="cpu"))
    assert epoch.losses == {"student/label": pytest.approx(sum(by_hand) / 3, rel=1e-6)}


def test_terms_are_summed_and_epoch_is_fractional():
    seen = []

    class TwoTerms(Toy):
        def losses(self, images, labels, epoch):
            seen.append(epoch)
            label = super().losses(images, labels, epoch)["student/label"]
            return {"student/one": 0.25 * label, "student/two": 0.75 * label}

    both, one = finish(TwoTerms(dropout=0)), finish(Toy(dropout=0))
    for ours, theirs in zip(both.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert seen == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


# The generator


def test_it_yields_after_every_epoch_and_break_stops():
    method, steps = Toy(), []
    method.student.register_forward_hook(lambda *_: steps.append(1))
    for epoch in train(method, pairs(3), epochs=5, lr=0.1):
        assert len(steps) == 3 * epoch.number
        if epoch.number == 2:
            break
    assert len(steps) == 6


def test_every_epoch_is_trained_in_train_mode_whatever_the_notebook_did():
    modes = []
    method = Toy()
    method.student.register_forward_hook(lambda module, *_: modes.append(module.training))
    method.eval()
    for _ in train(method, pairs(1), epochs=2, lr=0.1):
        method.eval()
    assert modes == [True, True]


def test_any_iterable_with_a_length_works_and_a_shuffled_loader_is_reproducible():
    images, labels = (torch.cat(tensors) for tensors in zip(*pairs(3), strict=True))

    def loader():
        return DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)

    assert weights(finish(Toy(), loader())) == weights(finish(Toy(), loader()))
    assert weights(finish(Toy(), loader())) != weights(finish(Toy(), loader(), seed=1))


def test_batches_change_from_epoch_to_epoch():
    seen = []

    class Watching(Toy):
        def losses(self, images, labels, epoch):
            seen.append(labels.tolist())
            return super().losses(images, labels, epoch)

    images = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 8, 8, 3)
    labels, statistics = torch.arange(16) % CLASSES, ((0.5,) * 3, (0.25,) * 3)
    batches = Batches(images, labels, 16, *statistics, shuffle=True)
    finish(Watching(), batches)
    assert seen == [next(batches.epoch(number))[1].tolist() for number in (0, 1)]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("batches", [[], DataLoader(TensorDataset(torch.empty(0, 3, 8, 8)))])
def test_empty_batches_are_an_error(batches):
    with pytest.raises(InputError, match="empty"):
        finish(Toy(), batches)


def test_batches_that_are_used_up_are_an_error():
    class UsedUp:
        def __init__(self):
            self.left = iter(pairs(2))

        def __len__(self):
            return 2

        def __iter__(self):
            return self.left

    epochs = train(Toy(), UsedUp(), epochs=2, lr=0.1)
    next(epochs)
    with pytest.raises(InputError, match="empty"):
        next(epochs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0}, "lr above 0"),
        ({"lr": -0.1}, "lr above 0"),
        ({"lr": nan}, "found 2 and nan"),
        ({"lr": inf}, "found 2 and inf"),
        ({"precision": "fp23"}, "Unknown precision 'fp23'. Did you mean 'fp32'"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
    ],
)
def test_settings_out_of_range_are_errors(wrong, message):
    with pytest.raises(InputError, match=message):
        finish(Toy(), **wrong)


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"no cuda on this machine; there is: .*cpu"):
        finish(Toy(), device="cuda")


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level("INFO")
    for precision in ("auto", "bf16", "fp32", "fp64"):
        finish(Toy(), precision=precision, epochs=1)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# The schedule


def test_schedules_have_their_closed_forms():
    assert [cosine(x) for x in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])
    warmed = [warm_cosine(x) for x in (0, 0.05, 0.2, 0.2 + 0.8 / 3, 0.6, 1)]
    assert warmed == pytest.approx([0, 0.25, 1, 0.75, 0.5, 0])
    falling = drops(0.5, 0.75)
    values = [falling(x) for x in (0, 0.49, 0.5, 0.74, 0.75, 0.99)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert drops(0.5, factor=0.2)(0.6) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", [cosine, warm_cosine, drops(0.5)])
def test_every_optimizer_follows_the_schedule_from_its_own_rate(schedule):
    seen = []

    class TwoRates(Toy):
        def optimizers(self, lr):
            body = torch.optim.SGD(self.student[0].parameters(), lr)
            head = torch.optim.Adam(
                [
                    {"params": self.student[1].parameters(), "lr": 2 * lr},
                    {"params": self.student[5].parameters(), "lr": lr / 10},
                ]
            )
            self.made = [body, head]
            return self.made

        def losses(self, images, labels, epoch):
            groups = [group for optimizer in self.made for group in optimizer.param_groups]
            seen.append([group["lr"] for group in groups])
            return super().losses(images, labels, epoch)

    finish(TwoRates(), epochs=2, lr=0.1, schedule=schedule)
    factors = [schedule(step / 6) for step in range(6)]
    expected = [[0.1 * factor, 0.2 * factor, 0.01 * factor] for factor in factors]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


def test_an_epoch_tells_the_rate_of_its_last_step():
    rates = [epoch.lr for epoch in train(Toy(), pairs(3), epochs=2, lr=0.1)]
    assert rates == pytest.approx([0.1 * cosine(2 / 6), 0.1 * cosine(5 / 6)])


# Reproducibility


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, again, other = finish(Toy()), finish(Toy()), finish(Toy(), seed=1)
    assert weights(first) == weights(again)
    assert weights(first) != weights(other), "dropout must differ"


def test_dropout_differs_from_epoch_to_epoch():
    losses = [e.losses["student/label"] for e in train(Toy(), pairs(1), epochs=2, lr=1e-12)]
    assert losses[0] != losses[1]


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finish(Toy())
    assert torch.equal(torch.rand(3), expected)


def test_the_random_state_is_left_alone_when_training_fails():
    before = torch.get_rng_state()
    with pytest.raises(NotFinite):
        finish(Broken(at=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_a_resumed_training_ends_in_the_same_bits(precision):
    whole = list_of_states(Toy(), precision)
    rest = list_of_states(Toy(), precision, resume=whole[0])
    assert [bits(state) for state in rest] == [bits(state) for state in whole[1:]]


def list_of_states(method: Method, precision: str, **options) -> list[dict]:
    settings = {"epochs": 3, "lr": 0.1, "device": "cpu"} | options
    epochs = train(method, pairs(), precision=precision, **settings)
    return [copy.deepcopy(epoch.state()) for epoch in epochs]


def test_momentum_is_part_of_the_state():
    state = list_of_states(Toy(), "fp32")[0]
    assert state["optimizers"][0]["state"][0]["momentum_buffer"].abs().sum() > 0
    without = copy.deepcopy(state)
    for kept in without["optimizers"][0]["state"].values():
        kept["momentum_buffer"].zero_()
    ends = [list_of_states(Toy(), "fp32", resume=start)[-1] for start in (state, without)]
    assert bits(ends[0]["method"]) != bits(ends[1]["method"])


def test_a_resumed_training_takes_its_rate_from_the_call():
    state = list_of_states(Toy(), "fp32")[0]
    epoch = next(train(Toy(), pairs(3), epochs=3, lr=0.5, resume=state))
    assert epoch.lr == pytest.approx(0.5 * cosine(5 / 9))


# What is not finite


class Broken(Toy):
    """One term takes a bad value at one step, counted from 0; its gradient stays finite."""

    def __init__(self, *, at: int, value: float = nan) -> None:
        super().__init__()
        self.at, self.value, self.step = at, value, 0

    def losses(self, images, labels, epoch):
        terms = super().losses(images, labels, epoch)
        bad = torch.tensor(self.value if self.step == self.at else 0.0)
        self.step += 1
        return {"student/first": terms["student/label"], "student/second": bad}


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("at", [0, 7, CHECK_EVERY - 1, CHECK_EVERY, CHECK_EVERY + 7, 139])
def test_a_term_that_is_not_finite_stops_training_with_its_name_and_step(at, value):
    batches = pairs(2, size=4) * 35  # epochs of 70 steps: a whole chunk and a part of one
    epochs = train(Broken(at=at, value=value), batches, epochs=2, lr=0.01, precision="fp32")
    if at >= 70:
        assert next(epochs).number == 1
    with pytest.raises(NotFinite, match=rf"'student/second' is not finite at step {at}\. "):
        next(epochs)


def test_training_stops_at_the_end_of_the_chunk_and_not_of_the_epoch():
    method = Broken(at=3)
    with pytest.raises(NotFinite):
        finish(method, pairs(1) * (2 * CHECK_EVERY))
    assert method.step == CHECK_EVERY


def test_an_infinite_gradient_of_a_finite_term_never_reaches_a_saved_state():
    class Root(Toy):
        def losses(self, images, labels, epoch):
            terms = super().losses(images, labels, epoch)
            return terms | {"student/root": (0 * self.student[5].weight).sum().sqrt()}

    with pytest.raises(NotFinite, match=r"'student\.5\.weight' is not finite after 1 steps"):
        finish(Root(), pairs(1))


# Knowledge distillation through the loop


def kd(soft_weight: float = 0.5, label_weight: float = 0.5) -> KD:
    student, teacher = (build("resnet8", classes=CLASSES, seed=seed) for seed in (0, 1))
    return KD(student, teacher, label_weight=label_weight, soft_weight=soft_weight)


def test_a_frozen_teacher_does_not_change():
    method = kd()
    before = weights(method.teacher), weights(method.student)
    finish(method)
    assert weights(method.teacher) == before[0]
    assert weights(method.student) != before[1]
    assert all(weight.grad is None for weight in method.teacher.parameters())
    assert not any(module.training for module in method.teacher.modules())


def test_weight_zero_is_the_labels_only_run_to_the_bit():
    alone = LabelsOnly(build("resnet8", classes=CLASSES, seed=0))
    zero, half = kd(soft_weight=0, label_weight=1), kd(soft_weight=0.5, label_weight=1)
    for method in (alone, zero, half):
        finish(method)
    assert weights(zero.student) == weights(alone.student)
    assert weights(half.student) != weights(alone.student)


# Precision and layout


class Layouts(Toy):
    def losses(self, images, labels, epoch):
        self.images_last = images.is_contiguous(memory_format=torch.channels_last)
        convolved = self.student[0](images)
        self.dtype = convolved.dtype
        return super().losses(images, labels, epoch)


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bf16_where_that_is_fast(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    method = Layouts()
    epoch = next(train(method, pairs(), epochs=1, lr=0.1, precision="auto", device="cpu"))
    check_layout(method, epoch, fast)


@pytest.mark.parametrize(("precision", "fast"), [("fp32", False), ("bf16", True)])
def test_a_precision_asked_for_is_the_one_used(monkeypatch, precision, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not fast)
    method = Layouts()
    epoch = next(train(method, pairs(), epochs=1, lr=0.1, precision=precision, device="cpu"))
    check_layout(method, epoch, fast)


def check_layout(method, epoch, fast):
    kernel = method.student[0].weight
    assert epoch.bf16 is fast
    assert method.dtype is (torch.bfloat16 if fast else torch.float32)
    assert method.images_last
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous()
    assert kernel.dtype is torch.float32, "the weights themselves stay in fp32"


# evaluate


class Answers(Method):
    """Knows the labels of ``pairs(1)`` entirely, or only of the first class."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm2d(3)
        self.norm.eval()  # modes are mixed on purpose

    def outputs(self, images):
        self.norm(images)
        right = F.one_hot(images[:, 0, 0, 0].long(), CLASSES).float() + self.bias
        return {"all": right, "first": F.one_hot(torch.zeros(len(images)).long(), CLASSES)}


def answered(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.arange(count) % CLASSES
    images = labels[:, None, None, None].expand(count, 3, 8, 8).float()
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_evaluate_gives_percent_by_learner_whatever_the_batch_size():
    for size in (3, 12, 50):
        found = evaluate(Answers(), answered(50, size), precision="fp32")
        assert found == {"all": 100.0, "first": pytest.approx(100 * 13 / 50)}


def test_a_group_has_a_union_that_no_member_reaches():
    class Pair(Toy):
        group = ("first", "second")

        def outputs(self, images):
            return {
                "first": images[:, 0, :1, :CLASSES].flatten(1),
                "second": images[:, 1, :1, :CLASSES].flatten(1),
            }

    images = torch.zeros(4, 3, 8, 8)
    images[:2, 0, 0, 1], images[2:, 1, 0, 1] = 1, 1  # each is right on its half
    found = evaluate(Pair(), [(images, torch.ones(4, dtype=torch.int64))], precision="fp32")
    assert found == {"first": 50, "second": 50, "union": 100}


def test_evaluate_changes_nothing():
    method = Answers()
    method.bias.grad = torch.ones(())
    modes, before = [module.training for module in method.modules()], weights(method)
    random = torch.get_rng_state()
    evaluate(method, answered(8, 4))
    assert [module.training for module in method.modules()] == modes
    assert sorted(modes) == [False, True], "the test must see mixed modes"
    assert weights(method) == before
    assert method.bias.grad == 1
    assert torch.equal(torch.get_rng_state(), random)


def test_evaluate_is_in_eval_mode_and_restores_modes_after_an_error():
    class Failing(Toy):
        def outputs(self, images):
            assert not any(module.training for module in self.modules())
            assert not self.student(images).requires_grad
            raise KeyError("a bug")

    method = Failing()
    with pytest.raises(KeyError):
        evaluate(method, pairs(1))
    assert all(module.training for module in method.modules())


def test_evaluate_takes_a_plain_network_and_batches():
    net = build("resnet8", classes=CLASSES)
    images = torch.randint(0, 256, (10, 8, 8, 3), dtype=torch.uint8)
    statistics = ((0.5,) * 3, (0.25,) * 3)
    batches = Batches(images, torch.arange(10) % CLASSES, 4, *statistics)
    with torch.no_grad():
        net.eval()
        guesses = torch.cat([net(x).argmax(1) for x, _ in batches])
        net.train()
    right = (guesses == torch.arange(10) % CLASSES).sum().item()
    assert evaluate(net, batches, precision="fp32") == {"network": 10.0 * right}


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp64"])
def test_evaluate_follows_the_precision_of_training(precision):
    method = finish(Toy(), precision=precision)
    assert 0 <= evaluate(method, pairs(), precision=precision)["student"] <= 100


def test_evaluate_refuses_unknown_precision_and_no_images():
    with pytest.raises(InputError, match="Unknown precision 'half'"):
        evaluate(Toy(), pairs(), precision="half")
    with pytest.raises(InputError, match="empty"):
        evaluate(Toy(), [])


def test_augmented_batches_train_alike_under_one_seed():
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    statistics = ((0.5,) * 3, (0.25,) * 3)
    options = {"shuffle": True, "augmentation": Augmentation(pad=2), "seed": 3}
    batches = Batches(images, torch.arange(20) % CLASSES, 8, *statistics, **options)
    assert weights(finish(Toy(), batches)) == weights(finish(Toy(), batches))


def test_the_chunk_length_does_not_change_the_losses(monkeypatch):
    losses = []
    for every in (CHECK_EVERY, 2):
        monkeypatch.setattr(losslog, "CHECK_EVERY", every)
        losses.append([e.losses for e in train(Toy(), pairs(5), epochs=2, lr=0.1)])
    assert losses[0] == losses[1]


def test_logits_are_those_of_eval_mode_in_order():
    net = build("resnet8", classes=4).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = torch.randn(10, 3, 8, 8)
    found = logits_of(net, [(part, None) for part in images.split(4)])
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(found, net.eval()(images))
    assert not found.requires_grad
