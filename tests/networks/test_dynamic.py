import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdnb.errors import InputError
from kdnb.networks import build
from kdnb.networks import dynamic as networks_dynamic
from kdnb.networks.dynamic import (
    DynamicAdditiveConv,
    _apart,
    _Beside,
    convolutions,
    dynamic_copy,
    grouped_is_cheaper,
)

CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "oblong": {"kernel_size": (3, 1), "stride": (1, 2), "padding": (1, 0)},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "in groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 4},
    "same": {"kernel_size": 4, "padding": "same", "dilation": 2},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "same, circular": {"kernel_size": (2, 3), "padding": "same", "padding_mode": "circular"},
}


def make(kind: str, *, bias: bool = True, **options) -> tuple[nn.Conv2d, DynamicAdditiveConv]:
    """A convolution and the dynamic one that stands for it, with experts and biases worth seeing."""
    torch.manual_seed(0)
    like = nn.Conv2d(4, 8, bias=bias, **CONVOLUTIONS[kind]).double()
    dynamic = DynamicAdditiveConv(like, experts=3, **options)
    with torch.no_grad():
        dynamic.experts.mul_(20)
        if bias:
            dynamic.bias.normal_()
    return like, dynamic


def maps() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 4, 7, 9, dtype=torch.float64, generator=generator).requires_grad_()


def one_by_one(like: nn.Conv2d, dynamic: DynamicAdditiveConv, x: Tensor) -> Tensor:
    """The definition: each image convolved by torch's own module with the kernel that is its own."""
    kernels, answers = dynamic.experts.view(3, *dynamic.weight.shape), []
    for image, weights in zip(x, dynamic.attention(x, dynamic.temperature), strict=True):
        kernel = dynamic.weight + sum(share * expert for share, expert in zip(weights, kernels, strict=True))
        own = {"weight": kernel} | ({} if dynamic.bias is None else {"bias": dynamic.bias})
        answers.append(torch.func.functional_call(like, own, (image[None],)))
    return torch.cat(answers)


def result_and_gradients(compute, dynamic: DynamicAdditiveConv) -> list[Tensor]:
    x = maps()
    z = compute(x)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(z.shape, dtype=z.dtype, generator=generator)
    return [z, *torch.autograd.grad((z * weights).sum(), [x, *dynamic.parameters()])]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_both_computations_are_the_definition_gradients_included(kind, bias):
    like, dynamic = make(kind, bias=bias)
    expected = result_and_gradients(lambda x: one_by_one(like, dynamic, x), dynamic)
    for dynamic.computation in ("grouped", "stacked", "auto"):
        found = result_and_gradients(dynamic, dynamic)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("narrow", [0, 32])
@pytest.mark.parametrize("kind", ["plain", "strided", "in groups"])
def test_grouped_images_in_bf16_come_and_go_in_channels_last(kind, narrow, monkeypatch):
    monkeypatch.setattr(networks_dynamic, "NARROW", narrow)
    _, dynamic = make(kind, computation="grouped")
    x = maps().detach().to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    arrived, inner = [], x * 1
    inner.register_hook(arrived.append)
    z = dynamic.to(torch.bfloat16)._grouped(inner, torch.ones(3, 3, dtype=torch.bfloat16), dynamic.padding)
    assert z.is_contiguous(memory_format=torch.channels_last)
    z.square().sum().backward()
    assert arrived[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("narrow", [0, 32])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_order_in_memory_changes_no_value(kind, narrow, monkeypatch):
    """In float64, by the path that bf16 takes."""
    _, dynamic = make(kind, computation="grouped")
    expected = result_and_gradients(dynamic, dynamic)
    monkeypatch.setattr(networks_dynamic, "NARROW", narrow)
    monkeypatch.setattr(networks_dynamic, "_in_bf16_on_cpu", lambda x: True)
    for ours, theirs in zip(result_and_gradients(dynamic, dynamic), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_only_bf16_on_a_cpu_takes_the_other_order():
    x = torch.zeros(2, 3)
    assert not networks_dynamic._in_bf16_on_cpu(x)
    assert networks_dynamic._in_bf16_on_cpu(x.bfloat16())
    assert not networks_dynamic._in_bf16_on_cpu(x.bfloat16().to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert networks_dynamic._in_bf16_on_cpu(x)


@pytest.mark.parametrize("innermost", [True, False])
def test_images_beside_each_other_are_a_reshape_with_its_gradients(innermost):
    x = maps()
    beside = _Beside.apply(x, innermost)
    assert torch.equal(beside, x.reshape(1, 12, 7, 9))
    assert beside.is_contiguous(memory_format=torch.channels_last) == innermost
    assert torch.equal(_apart(beside, 3), x)
    small = x[:, :2, :3, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(_Beside.apply, (small, innermost))
    assert torch.autograd.gradgradcheck(lambda x: _Beside.apply(x, innermost).square(), small)


def test_a_link_is_added():
    _, dynamic = make("strided")
    x = maps()
    alone = dynamic(x)
    link = torch.randn_like(alone)
    assert torch.equal(dynamic(x, link=link), alone + link)


def test_images_have_kernels_of_their_own():
    _, dynamic = make("plain")
    first, second = dynamic.attention(maps(), 1.0)[:2]
    assert not torch.allclose(first, second)


def test_a_high_temperature_lets_all_experts_count_alike():
    _, dynamic = make("plain", temperature=1e9)
    assert torch.allclose(dynamic.attention(maps(), dynamic.temperature), torch.full((3, 3), 1 / 3).double())
    assert not torch.allclose(dynamic(maps(), temperature=0.1), dynamic(maps()))


@pytest.mark.parametrize("computation", ["grouped", "stacked"])
@pytest.mark.parametrize("kind", ["strided", "depthwise", "reflect"])
def test_bf16_autocast(kind, computation):
    dynamic = make(kind, computation=computation)[1].float().to(memory_format=torch.channels_last)
    x = maps().float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half = dynamic(x)
    half.float().sum().backward()
    assert half.dtype == torch.bfloat16
    assert dynamic.experts.grad.isfinite().all()
    torch.testing.assert_close(half.float(), dynamic(x), rtol=0.03, atol=0.05)


def test_the_cheaper_computation_is_a_matter_of_shapes():
    """The corners of what was measured: large maps and small filters, and the reverse."""
    assert grouped_is_cheaper(16 * 9, 32 * 32, 4)
    assert grouped_is_cheaper(9, 4 * 4, 4)  # depthwise
    assert not grouped_is_cheaper(256 * 9, 4 * 4, 4)
    assert not grouped_is_cheaper(160, 2 * 2, 4)  # pointwise
    _, dynamic = make("plain", computation="auto")
    assert dynamic._groups_images(torch.empty(1, 4, 32, 32))
    assert not dynamic._groups_images(torch.empty(1, 4, 2, 2))


def test_a_copy_keeps_paths_and_structure():
    net = build("mobilenetv2", classes=10)
    twin = dynamic_copy(net, experts=2)
    assert list(convolutions(net)) == [p for p, m in twin.named_modules() if isinstance(m, nn.Conv2d)]
    for path, conv in convolutions(net).items():
        dynamic = twin.get_submodule(path)
        assert isinstance(dynamic, DynamicAdditiveConv)
        for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
            assert getattr(dynamic, name) == getattr(conv, name), (path, name)
    kept = [type(m) for m in net.modules() if not isinstance(m, nn.Conv2d)]
    scaffolding = {id(m) for conv in convolutions_of(twin) for m in conv.modules()}
    assert kept == [type(m) for m in twin.modules() if id(m) not in scaffolding]


def convolutions_of(twin: nn.Module) -> list[nn.Module]:
    return [m for m in twin.modules() if isinstance(m, DynamicAdditiveConv)]


def test_a_copy_shares_nothing_and_is_independent_of_what_the_network_knows():
    twins = []
    for seed in (0, 1):
        net = build("resnet8", classes=10, seed=seed)
        net.stem[1].running_mean.fill_(seed + 1.0)
        torch.manual_seed(7)
        twins.append(dynamic_copy(net))
        assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in twins[-1].parameters()}
    first, second = (twin.state_dict() for twin in twins)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    torch.manual_seed(8)
    other = dynamic_copy(net).state_dict()
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_all_of_a_copy_learns_though_parts_of_the_network_do_not():
    net = build("resnet8", classes=10)
    net.stem.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in dynamic_copy(net).parameters())


def test_parameters_without_a_reset_are_drawn_with_the_same_mean_and_std():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.scale = nn.Parameter(torch.full((4,), 1e-6))
            self.token = nn.Parameter(torch.randn(1000) * 0.5 + 2)

    net = Scaled()
    twin = dynamic_copy(net)
    torch.testing.assert_close(twin.scale, net.scale)
    assert not torch.equal(twin.token, net.token)
    assert (twin.token.mean().item(), twin.token.std().item()) == pytest.approx((2, 0.5), abs=0.1)


def test_a_convolution_with_two_names_stays_one():
    net = nn.Sequential(nn.Conv2d(3, 3, 1))
    net.again = net[0]
    twin = dynamic_copy(net)
    assert twin.again is twin[0]
    assert isinstance(twin.again, DynamicAdditiveConv)


def test_transposed_convolutions_are_left_as_they_are():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2))
    assert list(convolutions(net)) == ["0"]
    assert type(dynamic_copy(net)[1]) is nn.ConvTranspose2d


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4)), "A Sequential has no nn.Conv2d"),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 1)), "has no nn.Conv2d"),
        (nn.Sequential(nn.LazyConv2d(4, 1)), "'0' is a LazyConv2d whose shape is not known yet"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.LazyBatchNorm2d()), "'1' is a LazyBatchNorm2d"),
        (nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 4, 1)), "'0' is a Conv2d, which is quantised"),
        (nn.Sequential(Standardised(3, 4, 1)), "'0' is a Standardised that does more than convolve"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))),
            "'0' is a ParametrizedConv2d that does more",
        ),
    ],
)
def test_networks_that_cannot_be_copied_are_refused_by_name(net, message):
    with pytest.raises(InputError, match=message):
        dynamic_copy(net)


def test_torchvisions_own_convolutions_are_plain():
    assert convolutions(torchvision.models.efficientnet_b0(weights=None))


def test_bad_settings_are_refused():
    like = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match="experts must be a whole number from 1 to 256, found 0"):
        DynamicAdditiveConv(like, experts=0)
    with pytest.raises(InputError, match=r"attention's temperature must be .* found -1"):
        DynamicAdditiveConv(like, temperature=-1)
    with pytest.raises(InputError, match="'grouped'"):
        DynamicAdditiveConv(like, computation="groupd")
