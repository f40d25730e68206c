from importlib import import_module
from threading import Thread

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from kdnb.errors import InputError
from kdnb.networks import DepthNet, build, cost
from kdnb.networks import depth as depth_module
from kdnb.networks.depth import BATCH_NORM
from kdnb.runs.checkpoints import load_state, save_state

SMALL = [("resnet20", (14, 8)), ("resnet20", ((3, 2, 1), (3, 1, 1)))]
FAMILIES = [("resnet56", (44, 32, 20)), ("resnet34", (18,)), ("resnet101", (50,))]
EACH = [(name, depths, kind) for name, depths in SMALL for kind in BATCH_NORM]


def images(size: int = 32, count: int = 4, **options) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0), **options)


def make(name: str = "resnet20", depths=(14, 8), *, batch_norm: str = "private", seed: int = 0) -> DepthNet:
    """With batch norms that have seen something, each another thing."""
    net = DepthNet(build(name, classes=5, seed=seed), depths, batch_norm=batch_norm)
    generator = torch.Generator().manual_seed(1)
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.3)
    return net.eval()


# What a depth is


@pytest.mark.parametrize(
    ("name", "depths", "batch_norm"), [("resnet20", (14, 8), "shared"), *((*f, "private") for f in FAMILIES)]
)
def test_a_depth_is_the_stand_alone_network_with_the_matching_weights(name, depths, batch_norm):
    """methods/README.md, DDNN + EKD, invariants 1 (bit for bit) and 7 (MACs grow with depth)."""
    net, x = make(name, depths, batch_norm=batch_norm), images(count=1)
    own, macs = net.state_dict(), []
    for depth in depths:
        alone = build(f"resnet{depth}", classes=5, seed=9).eval()
        keys = {key: (f"subnets.{depth}.{key}", f"full.{key}") for key in alone.state_dict()}
        alone.load_state_dict({key: own.get(mine, own.get(full)) for key, (mine, full) in keys.items()})
        assert torch.equal(alone(x), net.at_depth(depth)(x))
        assert cost(alone) == cost(net.at_depth(depth))
        macs.append(cost(alone).macs)
    assert torch.equal(net(x), net.at_depth(net.depths[0])(x))
    assert [cost(net.full).macs, *macs] == sorted({cost(net.full).macs, *macs}, reverse=True)


def test_blocks_name_what_no_layers_do():
    net = make(depths=((3, 2, 1), (3, 1, 1)))
    assert net.depths == (20, 14, 12)
    assert [len(stage) for stage in net.at_depth(12).stages] == [3, 1, 1]


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_weights_are_shared_and_batch_norm_is_private_or_not(batch_norm):
    """methods/README.md, DDNN + EKD, invariant 6."""
    net = make(batch_norm=batch_norm)
    full, sub = net.full, net.at_depth(14)
    assert sub.stages[2][1].conv2 is full.stages[2][1].conv2
    assert sub.head is full.head
    assert (sub.stages[2][1].bn2 is full.stages[2][1].bn2) == (batch_norm == "shared")
    private = 2 * (5 * 32 + 5 * 64) + 2 * (3 * 32 + 3 * 64) if batch_norm == "private" else 0
    assert sum(parameter.numel() for parameter in net.parameters()) == cost(full).parameters + private


@pytest.mark.parametrize(
    ("depths", "common"),
    [  # stages whose batch norms the two deepest, and the two shallowest, have in common
        (((2, 2, 2), (1, 1, 1)), (1, 1)),
        (((3, 2, 1), (3, 1, 1)), (2, 2)),
        (((3, 3, 2), (1, 1, 1)), (3, 1)),
        (((2, 3, 3), (2, 2, 3)), (1, 2)),
    ],
)
def test_private_batch_norms_begin_behind_the_first_early_stop(depths, common):
    """Where two depths see the same maps they have one batch norm; behind it, each its own."""
    net = make(depths=depths)
    nets = [net.at_depth(depth) for depth in net.depths]
    for deep, shallow, stages in zip(nets[:-1], nets[1:], common, strict=True):
        assert shallow.stem[1] is deep.stem[1]
        for stage in range(3):
            assert (shallow.stages[stage][0].bn2 is deep.stages[stage][0].bn2) == (stage < stages)
    x, stage = images(), common[0] - 1
    inputs = [n.features(x).maps[stage - 1] if stage else n.features(x).stem for n in nets[:2]]
    assert torch.equal(*inputs)


def test_private_batch_norms_begin_as_the_full_nets():
    full = build("resnet20", classes=5)
    full.train()(images())
    theirs, own = (net.stages[1][0].bn1 for net in (DepthNet(full, (8,)).at_depth(8), full))
    assert theirs is not own
    assert torch.equal(theirs.running_mean, own.running_mean)


def test_an_export_has_weights_of_its_own():
    net = make()
    exported = net.export(14)
    assert type(exported) is type(build("resnet14", classes=5))
    before, x = exported(images()), images()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(exported(x), before)


# No state


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_going_back_and_forth_changes_nothing(batch_norm):
    """methods/README.md, DDNN + EKD, invariant 8."""
    net, x = make(batch_norm=batch_norm), images()
    first = {depth: net.at_depth(depth)(x) for depth in net.depths}
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for depth in (8, 20, 14, 14, 8, 20, 8):
        assert torch.equal(net.at_depth(depth)(x), first[depth])
    net.costs(size=16)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(net(x), first[20])


def test_threads_may_run_different_depths_at_a_time():
    net, x = make(), images(16)
    expected = {depth: net.at_depth(depth)(x) for depth in net.depths}
    wrong = []

    def work(depth: int) -> None:
        for _ in range(20):
            if not torch.equal(net.at_depth(depth)(x), expected[depth]):
                wrong.append(depth)

    threads = [Thread(target=work, args=(depth,)) for depth in (*net.depths, *net.depths)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# All depths in one pass


def naive(net: DepthNet, x: Tensor) -> dict:
    return {depth: net.at_depth(depth).features(x) for depth in net.depths}


def step(net: DepthNet, x: Tensor, features) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """All outputs, gradients, and buffers after one step."""
    shown = features(net, x)
    loss = sum(f.logits.float().square().mean() + f.maps[1].float().square().mean() for f in shown.values())
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    tensors = [t for f in shown.values() for t in (f.stem, *f.maps, f.embedding, f.logits, f.final)]
    return tensors, list(gradients), list(net.buffers())


def whole_gradient(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.double().flatten() for gradient in gradients])


def all_equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("name", "depths", "batch_norm"), [*EACH, ("resnet34", (18,), "shared")])
def test_one_pass_is_equal_to_one_after_another(name, depths, batch_norm):
    x = images(32 if name == "resnet20" else 64, dtype=torch.float64)
    one, other = (make(name, depths, batch_norm=batch_norm).double().train() for _ in range(2))
    for net in (one, other):  # its statistics are a mean over all batches
        net.full.stages[0][0].bn1.momentum = None
    together = step(one, x, DepthNet.features_at_all)
    apart = step(other, x, naive)
    assert all_equal(together[0], apart[0])
    for found, expected in zip(together[1:], apart[1:], strict=True):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("memory_format", "bf16", "gradient_error"),
    [
        (torch.contiguous_format, False, 1e-6),
        (torch.channels_last, False, 1e-6),
        (torch.contiguous_format, True, 4e-3),
        (torch.channels_last, True, 4e-3),
    ],
    ids=["contiguous", "channels_last", "contiguous bf16", "channels_last bf16"],
)
def test_what_is_exact_and_what_is_rounded_in_one_pass(
    batch_norm, training, memory_format, bf16, gradient_error
):
    """Outputs are equal bit for bit in every precision and memory format; two things are sums in another
    order: running statistics in training, and gradients."""
    x = images(16, count=8).to(memory_format=memory_format)
    one, other = (
        make(batch_norm=batch_norm).to(memory_format=memory_format).train(training) for _ in range(2)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        together, apart = step(one, x, DepthNet.features_at_all), step(other, x, naive)
    assert all_equal(together[0], apart[0])
    found, expected = (whole_gradient(result[1]) for result in (together, apart))
    assert (found - expected).norm() <= gradient_error * expected.norm()
    if not training:
        assert all_equal(together[2], apart[2])
    for a, b in zip(together[2], apart[2], strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=4 * torch.finfo(torch.float32).eps * b.abs().max().item()
        )


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_one_pass_in_eval_mode_is_equal_too(batch_norm):
    net, x = make(batch_norm=batch_norm), images()
    for depth, features in net.features_at_all(x).items():
        assert torch.equal(features.logits, net.at_depth(depth)(x))


def calls(net: DepthNet) -> dict[str, int]:
    """How often each convolution runs in one pass over all depths."""
    counts = {name: 0 for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda *_, name=name: counts.update({name: counts[name] + 1})
        )
        for name in counts
    ]
    net.features_at_all(images(16))
    for handle in handles:
        handle.remove()
    return counts


def test_what_depths_have_in_common_runs_once():
    shared, private = (calls(make(batch_norm=kind)) for kind in ("shared", "private"))
    assert shared["full.stem.0"] == private["full.stem.0"] == 1
    assert [shared[f"full.stages.0.{block}.conv1"] for block in range(3)] == [1, 1, 1]
    assert [private[f"full.stages.0.{block}.conv1"] for block in range(3)] == [1, 1, 1]
    for counts in (shared, private):
        assert [counts[f"full.stages.1.{block}.conv1"] for block in range(3)] == [3, 2, 1]
    for kind in BATCH_NORM:
        alike = calls(make(depths=((3, 2, 1), (3, 1, 1)), batch_norm=kind))
        assert [alike[f"full.stages.1.{block}.conv1"] for block in range(3)] == [1, 1, 1]
        assert [alike[f"full.stages.2.{block}.conv1"] for block in range(3)] == [3, 1, 1]


def test_shared_batch_norm_counts_every_net_that_uses_it():
    """methods/README.md, DDNN + EKD, invariant 4."""
    net = make(batch_norm="shared").train()
    net.features_at_all(images(16))
    counts = {name: int(n) for name, n in net.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts["full.stem.1.num_batches_tracked"] == 3
    for stage in range(3):
        tracked = [counts[f"full.stages.{stage}.{block}.bn2.num_batches_tracked"] for block in range(3)]
        assert tracked == [3, 2, 1]
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


# Costs and budgets


def test_costs_are_those_of_each_network(monkeypatch):
    net = make()
    monkeypatch.setattr(depth_module, "forward_times", lambda nets, **_: [float(n.depth) for n in nets])
    costs = net.costs(size=16)
    assert list(costs) == [20, 14, 8]
    for depth, found in costs.items():
        assert (found.parameters, found.macs) == cost(build(f"resnet{depth}", classes=5), size=16)
        assert found.milliseconds == depth


def test_milliseconds_are_measured_and_leave_no_trace(monkeypatch):
    """By a clock that ticks once for every convolution: no machine's speed enters."""
    done = []
    timing = import_module("kdnb.networks.cost")  # kdnb.networks.cost itself is the function of this name
    monkeypatch.setattr(timing, "perf_counter", lambda: float(len(done)))
    net = make().train()

    def tick(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and not inputs[0].is_meta:  # MACs are counted on meta tensors
            assert inputs[0].shape[0] == 8, "batch"
            done.append(module)

    hook = register_module_forward_hook(tick)
    try:
        costs = net.costs(size=32, batch=8)
    finally:
        hook.remove()
    for depth, found in costs.items():
        ticks = sum(isinstance(module, nn.Conv2d) for module in net.at_depth(depth).modules())
        assert found.milliseconds == 1000 * ticks
    assert all(module.training for module in net.modules())
    assert not {id(module) for module in done} & {id(module) for module in net.modules()}, "copies ran"


def test_the_deepest_affordable_depth_is_chosen(monkeypatch):
    monkeypatch.setattr(depth_module, "forward_times", lambda nets, **_: [float(n.depth) for n in nets])
    net = make()
    macs = {depth: found.macs for depth, found in net.costs().items()}
    for depth in net.depths:
        assert net.fit_budget(macs=macs[depth]) == depth
        assert net.fit_budget(milliseconds=depth) == depth
    assert net.fit_budget(macs=macs[20] - 1) == 14
    assert net.fit_budget(milliseconds=13.9) == 8
    assert net.fit_budget(macs=1e12, milliseconds=14.5) == 14
    assert net.fit_budget(macs=macs[8], milliseconds=1e9) == 8


@pytest.mark.parametrize(
    "budget", [{"macs": 1e6}, {"milliseconds": 0.0}, {"macs": float("nan")}, {"macs": -1}]
)
def test_a_budget_that_nothing_fits_names_the_cheapest(budget):
    with pytest.raises(InputError, match=r"No depth fits .*cheapest, 8, takes 12501312 MACs and"):
        make().fit_budget(**budget)
    with pytest.raises(InputError, match="needs a budget"):
        make().fit_budget()


def test_the_time_that_did_not_fit_is_the_time_that_is_named(monkeypatch):
    clock = iter((9.0, 6.0, 3.0))
    monkeypatch.setattr(depth_module, "forward_times", lambda nets, **_: [next(clock)])
    with pytest.raises(InputError, match="cheapest, 8, takes 12501312 MACs and 3 milliseconds"):
        make().fit_budget(milliseconds=1.0)


# Files


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_state_holds_every_tensor_once_and_comes_back(batch_norm, tmp_path):
    net, other = (
        make(batch_norm=batch_norm),
        DepthNet(build("resnet20", classes=5, seed=3), (14, 8), batch_norm=batch_norm),
    )
    state = net.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert set(state) == {name for name, _ in (*net.named_parameters(), *net.named_buffers())}
    save_state({"net": state}, tmp_path)
    other.load_state_dict(load_state(tmp_path)["net"])
    for depth in net.depths:
        assert torch.equal(other.eval().at_depth(depth)(images()), net.at_depth(depth)(images()))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: make("resnet20", (14,)), r"blocks a stage are \[\[3, 3, 3\], \[2, 2, 2\]\], here"),
        (lambda: make("resnet32", (14, 8)), r"\[\[5, 5, 5\], .*here \[\[3, 3, 3\]"),
        (lambda: make("resnet20", ((2, 2, 1), (1, 1, 1))), r"\[2, 2, 1\]"),
        (lambda: build("resnet20", classes=5), "are no depths, here"),
        (lambda: make(batch_norm="shared"), r"only one has 'subnets\.14.*batch_norm"),
    ],
)
def test_weights_of_another_family_are_refused(other, message):
    with pytest.raises(InputError, match=message):
        make().load_state_dict(other().state_dict())


def test_private_weights_do_not_fit_shared_batch_norm():
    with pytest.raises(InputError, match=r"only one has 'subnets\.14.*batch_norm"):
        make(batch_norm="shared").load_state_dict(make().state_dict())


# Mistakes


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        ((), "name at least one depth"),
        ((20,), r"\(3, 3, 3\) blocks .* does not lie inside \(3, 3, 3\)"),
        ((26,), r"\(4, 4, 4\) blocks .* does not lie inside \(3, 3, 3\)"),
        (((3, 3, 4),), "Name depths below 20"),
        (((3, 0, 3),), "every stage keeps a block"),
        (((3, 3),), r"\(3, 3\) blocks"),
        (((2, 2, 2, 2),), r"\(2, 2, 2, 2\) blocks"),
        ((8, 14), r"\(2, 2, 2\) blocks .* does not lie inside \(1, 1, 1\), the net before"),
        ((14, 14), "each once"),
        (((2, 1, 1), (1, 1, 2)), r"\(1, 1, 2\) blocks .* inside \(2, 1, 1\)"),
        ((15,), "6n \\+ 2.*found 15"),
        (14, "whole numbers of layers, .*; found 14"),
        ("14,8", "whole numbers of layers, .*; found '14,8'"),
        ((14.0,), "whole numbers"),
        (((2.0, 2.0, 1.0),), "whole numbers"),
    ],
)
def test_unfit_depths_are_refused(depths, message):
    with pytest.raises(InputError, match=message):
        DepthNet(build("resnet20", classes=5), depths)


def test_unfit_networks_and_options_are_refused():
    with pytest.raises(InputError, match="found a VGG"):
        DepthNet(build("vgg8", classes=5), (8,))
    with pytest.raises(InputError, match="Or choose a deeper network"):
        DepthNet(build("resnet8", classes=5), (8,))
    with pytest.raises(InputError, match="have 18 or 34 layers, found 50"):
        DepthNet(build("resnet34", classes=5), (50,))
    with pytest.raises(InputError, match="'private'"):
        DepthNet(build("resnet20", classes=5), (8,), batch_norm="privat")
    with pytest.raises(InputError, match="no depth 9; there are 20, 14, 8"):
        make().at_depth(9)
