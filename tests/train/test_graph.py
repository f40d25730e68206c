"""``graph=True`` and ``compile=True``: what can be tested without a GPU, and what needs one."""

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import RMSprop
from torch.utils.data import DataLoader, TensorDataset

from kdnb.datasets import Augmentation, Batches
from kdnb.errors import InputError
from kdnb.method import Method
from kdnb.methods import ECD, FFSD, LabelsOnly
from kdnb.networks import build
from kdnb.train import graph, train

CLASSES = 4
CUDA = torch.device("cuda", 0)


class Small(Method):
    """Batch norm and dropout: state and random numbers that a warm-up could spoil."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student = nn.Sequential(
                nn.Conv2d(3, 4, 3),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Flatten(),
                nn.Dropout(),
                nn.Linear(144, 4),
            )

    def losses(self, images, labels, epoch):
        return {"student/label": F.cross_entropy(self.student(images), labels)}

    def outputs(self, images):
        return {"student": self.student(images)}


class Replayed(graph.CudaGraphs):
    """Captures nothing and runs the work at every replay. Like a graph it overwrites one result."""

    def __init__(self) -> None:
        self.captures, self.replays, self.generators = 0, 0, []

    @contextmanager
    def aside(self):
        yield

    def capture(self, work, generators):
        self.captures += 1
        self.generators = generators
        results = []

        def replay():
            self.replays += 1
            results.append(work())
            return results[0].copy_(results[-1])

        return replay


@pytest.fixture
def graphs(monkeypatch) -> Replayed:
    made = Replayed()
    monkeypatch.setattr(graph, "CudaGraphs", lambda: made)
    monkeypatch.setattr(graph, "require_graph", lambda *_: None)
    return made


def batches(count: int = 24, **options: object) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    settings = {"shuffle": True, "augmentation": Augmentation(pad=1)} | options
    return Batches(images, torch.arange(count) % CLASSES, 8, (0.5,) * 3, (0.25,) * 3, **settings)


def finish(method: Method, shown=None, **options: object) -> list[dict[str, float]]:
    settings = {"epochs": 3, "lr": 0.1, "precision": "fp32", "device": "cpu"} | options
    return [epoch.losses for epoch in train(method, shown or batches(), **settings)]


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# With a graph that is none


def test_replayed_steps_are_eager_steps_to_the_bit(graphs):
    eager, graphed = Small(), Small()
    assert finish(eager) == finish(graphed, graph=True)
    assert_same_bits(eager, graphed)
    assert graphs.replays == 9
    assert graphs.captures == 3, "anew in every epoch"


def test_warm_up_steps_do_not_count(graphs, monkeypatch):
    seen = []

    class Watched(Small):
        def losses(self, images, labels, epoch):
            seen.append(epoch)
            return super().losses(images, labels, epoch)

    eager, graphed = Small(), Watched()
    finish(eager, epochs=1)
    finish(graphed, epochs=1, graph=True)
    assert seen == [0] * graph.WARM_UP + [0.0, 0.5] + [0] * 3, "warm-up, two looks, three steps"
    assert_same_bits(eager, graphed)
    monkeypatch.setattr(graph.GraphedStep, "_left_as_it_was", lambda self: _nothing())
    monkeypatch.setattr(graph.GraphedStep, "_require_constant", lambda *_: None)
    spoilt = Small()
    finish(spoilt, epochs=1, graph=True)
    assert not torch.equal(spoilt.student[0].weight, eager.student[0].weight), "the test can fail"


@contextmanager
def _nothing():
    yield


def test_several_optimizers_and_a_ramp_are_graphed(graphs):
    """FFSD: SGD with two groups, Adam, and weights that change from epoch to epoch."""

    def ffsd() -> FFSD:
        torch.manual_seed(0)
        return FFSD(lambda number: build("resnet8", classes=CLASSES, seed=number))

    torch.manual_seed(1)
    eager, graphed = ffsd(), ffsd()
    shown = batches(16)
    found = finish(eager, shown, epochs=2, lr=0.01), finish(graphed, shown, epochs=2, lr=0.01, graph=True)
    for plain, replayed in zip(*found, strict=True):
        assert replayed == pytest.approx(plain, rel=1e-4)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(graphed.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_graphed_training_resumes_with_the_same_bits(graphs):
    whole, rest = Small(), Small()
    states = [
        copy.deepcopy(epoch.state())
        for epoch in train(whole, batches(), epochs=3, lr=0.1, precision="fp32", device="cpu", graph=True)
    ]
    assert isinstance(states[0]["optimizers"][0]["param_groups"][0]["lr"], float)
    finish(rest, graph=True, resume=states[0])
    assert_same_bits(whole, rest)


def test_the_batch_lies_in_fixed_buffers_and_the_rate_in_a_tensor(graphs):
    places, rates = set(), set()

    class Watched(Small):
        def optimizers(self, lr):
            self.made = super().optimizers(lr)
            return self.made

        def losses(self, images, labels, epoch):
            places.add((images.data_ptr(), labels.data_ptr()))
            rates.add(self.made[0].param_groups[0]["lr"].data_ptr())
            return super().losses(images, labels, epoch)

    finish(Watched(), graph=True)
    assert len(places) == len(rates) == 1


def test_terms_of_a_step_are_copies(graphs):
    step = made_step(Small(), graphs)
    shown = list(batches())
    first = step(shown[0], 0.0)["student/label"]
    kept = first.clone()
    step(shown[1], 0.25)
    assert torch.equal(first, kept)


def made_step(method: Method, graphs: Replayed) -> graph.GraphedStep:
    [optimizer] = method.optimizers(0.1)

    def step(batch, epoch):
        terms = method(batch, epoch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        return terms

    return graph.GraphedStep(method, step, method, [optimizer], graphs)


def test_a_method_that_changes_within_an_epoch_is_refused(graphs):
    annealed = ECD(build("resnet8", classes=CLASSES), anneal_epochs=2)
    with pytest.raises(InputError, match="'teacher/label' of ECD changes within an epoch"):
        finish(annealed, batches(8), graph=True)
    finish(ECD(build("resnet8", classes=CLASSES)), batches(8), graph=True, epochs=1)


def test_a_batch_of_another_size_is_refused_also_where_the_loader_did_not_tell(graphs):
    shown = [tuple(batch) for batch in batches(20)]
    with pytest.raises(InputError, match="the first had 8 images and another has 4"):
        finish(Small(), shown, graph=True)


def test_generators_of_a_method_are_registered_and_put_back(graphs):
    class Drawing(Small):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator().manual_seed(3)

        def losses(self, images, labels, epoch):
            noise = torch.rand(images.shape, generator=self.generator)
            return super().losses(images + noise, labels, epoch)

    eager, graphed = Drawing(), Drawing()
    finish(eager, epochs=1)
    finish(graphed, epochs=1, graph=True)
    assert graphs.generators == [graphed.generator]
    assert_same_bits(eager, graphed)


def test_draws_on_the_cpu_during_a_capture_are_refused(graphs):
    """A capture runs Python once: what it draws there would be the same in every replay."""

    def capture(work, generators):
        work()
        return work

    graphs.capture = capture
    with pytest.raises(InputError, match="Small draws random numbers on the CPU"):
        finish(Small(), graph=True)


# What is refused


def optimizers() -> list[torch.optim.Optimizer]:
    made = Small().optimizers(0.1)
    made[0].param_groups[0]["fused"] = True  # as on a GPU
    return made


def test_a_graph_on_a_cpu_is_refused():
    with pytest.raises(InputError, match="graph=True asks for a CUDA graph, and this training runs on cpu"):
        finish(Small(), graph=True)


def test_a_graph_in_several_processes_is_refused():
    with pytest.raises(InputError, match="one process, and there are 2"):
        graph.require_graph(CUDA, 2, batches(), optimizers())


def loader(**options: object) -> DataLoader:
    data = TensorDataset(torch.zeros(20, 3, 8, 8), torch.zeros(20, dtype=torch.int64))
    return DataLoader(data, batch_size=8, **options)


@pytest.mark.parametrize("shown", [batches(20), loader()], ids=["Batches", "DataLoader"])
def test_an_incomplete_last_batch_is_refused(shown):
    with pytest.raises(InputError, match=r"the last one of an epoch has 4 images.*drop_last=True"):
        graph.require_graph(CUDA, 1, shown, optimizers())


@pytest.mark.parametrize(
    "shown", [batches(24), batches(20, drop_last=True), loader(drop_last=True), list(batches(20))]
)
def test_full_batches_are_accepted_and_a_list_does_not_tell(shown):
    graph.require_graph(CUDA, 1, shown, optimizers())


def test_an_optimizer_that_reads_its_rate_on_the_host_is_refused():
    with pytest.raises(InputError, match="this RMSprop does not"):
        graph.require_graph(CUDA, 1, batches(), [RMSprop(Small().parameters())])


# Further views


def test_a_loader_without_the_views_that_a_method_asks_for_is_refused_before_a_step():
    class TwoViews(Small):
        views = 2

        def forward(self, batch, epoch):
            self.ran = True
            return super().forward(batch, epoch)

    pairs = [tuple(batch) for batch in batches()]
    one = list(batches(views=1))
    for shown, carried in ((pairs, 0), (one, 1)):
        method = TwoViews()
        with pytest.raises(InputError, match=f"asks for 2 further views.*carries {carried}.*train_batches"):
            finish(method, shown)
        assert not hasattr(method, "ran")
    finish(TwoViews(), list(batches(views=2)), epochs=1)
    finish(TwoViews(), batches(), epochs=1)


# compile


def test_compiled_training_keeps_names_and_results(monkeypatch):
    backend = partial(
        torch.compile, backend="eager"
    )  # the compiler's front half: quick, and any machine has it
    monkeypatch.setattr(torch, "compile", backend)
    eager, compiled = Small(), Small()
    names = list(compiled.state_dict())
    found = [finish(eager), finish(compiled, compile=True)]
    assert found[0] == found[1]
    assert list(compiled.state_dict()) == names
    assert not any("_orig_mod" in name for name in names)
    assert_same_bits(eager, compiled)
    assert type(compiled) is Small


# On a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_trains_what_eager_steps_train(precision):
    def trained(**options: object) -> Method:
        method = Small()
        finish(method, batches(drop_last=True), precision=precision, device="cuda", **options)
        return method

    assert_same_bits(trained(), trained(graph=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_of_two_optimizers_trains_what_eager_steps_train():
    def trained(**options: object) -> Method:
        torch.manual_seed(0)
        method = FFSD(lambda number: build("resnet8", classes=CLASSES, seed=number))
        finish(method, batches(drop_last=True), device="cuda", lr=0.01, **options)
        return method

    eager, graphed = trained(), trained(graph=True)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(graphed.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu():
    modes = []

    class Strict(LabelsOnly):
        def losses(self, images, labels, epoch):
            modes.append(torch.cuda.get_sync_debug_mode())
            torch.cuda.set_sync_debug_mode("error")
            return super().losses(images, labels, epoch)

    method = Strict(build("resnet8", classes=CLASSES))
    try:
        step = train(method, batches(drop_last=True), epochs=1, lr=0.1, device="cuda")
        with pytest.raises(RuntimeError, match="synchroniz"):  # the losses are read as the epoch ends
            next(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(modes) == 3, "all steps ran before anything waited"
