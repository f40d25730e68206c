"""Convolutions whose kernel depends on the image, and copies of networks that are made of them.

Source:
    The ECD paper says that a "dynamic additive convolution" replaces every basic convolution of a network,
    and that all other layers keep their structure. The attention and its temperature are those of Chen et
    al., Dynamic Convolution, CVPR 2020. See kdnb/methods/README.md, section ECD.

Differs:
    Neither the formula of the ECD paper nor its code was at hand. The formula here is our own.
"""

import copy
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice

COMPUTATIONS = ("auto", "grouped", "stacked")
MOST_EXPERTS = 256  # each is one more kernel for every convolution
EXPERT_SCALE = 0.05  # the standard deviation of an expert's first weights, relative to the static kernel's
NARROW = 32  # channels up to which a grouped convolution in bf16 is faster with channels innermost
WRITING = 250  # how many multiplications cost as much as writing one number; see grouped_is_cheaper


class DynamicAdditiveConv(nn.Conv2d):
    """A convolution whose kernel is a static kernel plus a mixture of K expert kernels.

    The mixture is computed anew for every image x:

        V(x) = V_0 + sum_k pi_k(x) V_k,    pi(x) from ExpertAttention
        z    = V(x) * x + bias + link

    The static kernel V_0 is ``weight`` and the expert kernels V_k are ``experts``. The weights are new: V_0
    is drawn from Kaiming's normal distribution by fan-out, and V_k likewise but multiplied by 0.05. The
    experts do not start at zero, so that the attention receives a gradient from the first step on.

    Args:
        like: The convolution that this one replaces. Its channels, kernel size, stride, padding, padding
            mode, dilation and groups are kept, and so is whether it has a bias.

        experts: The number of expert kernels K, from 1 to 256.

        temperature: The temperature of the attention over the experts.

        computation: How the result is computed; all ways give the same result up to rounding.
            ``"grouped"`` makes a kernel for each image and convolves the images as the groups of one
            convolution. ``"stacked"`` convolves every image with all K + 1 kernels and mixes the outputs.
            ``"auto"`` takes the way that is cheaper according to ``grouped_is_cheaper``.

    Raises:
        InputError: If there is no expert or more than 256, if the temperature is not above 0, or if
            ``computation`` is unknown.
    """

    def __init__(
        self, like: nn.Conv2d, *, experts: int = 4, temperature: float = 1.0, computation: str = "auto"
    ) -> None:
        if not isinstance(experts, int) or not 1 <= experts <= MOST_EXPERTS:
            raise InputError(
                f"experts must be a whole number from 1 to {MOST_EXPERTS}, found {experts}; 4 is usual."
            )
        place = {"device": like.weight.device, "dtype": like.weight.dtype}
        shape = (like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding)
        super().__init__(
            *shape, like.dilation, like.groups, like.bias is not None, like.padding_mode, **place
        )
        self.temperature = _positive(temperature)
        self.computation = require_choice("computation", computation, COMPUTATIONS)
        self.experts = nn.Parameter(torch.empty(experts, self.weight.numel(), **place))  # (K, |V|)
        self.attention = ExpertAttention(self.in_channels, experts).to(**place)
        self.attention.requires_grad_(experts > 1)  # a single expert has the weight 1: nothing to learn
        for kernel in (self.weight, *self._expert_kernels()):
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            self.experts.mul_(EXPERT_SCALE)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, link: Tensor | None = None, temperature: float | None = None) -> Tensor:
        """Convolves every image with its own kernel.

        Args:
            x: The input, (B, C_in, H, W).

            link: A map that is added to the output, (B, C_out, H', W'), or None.

            temperature: The temperature of the attention in this pass, or None for that of the module.

        Returns:
            The output, (B, C_out, H', W').
        """
        mixture = self.attention(x, self.temperature if temperature is None else temperature)  # (B, K)
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        compute = self._grouped if self._groups_images(x) else self._stacked
        z = compute(x, mixture, padding)
        if self.bias is not None:
            z = z + self.bias.to(z.dtype)[:, None, None]
        return z if link is None else z + link

    def _grouped(self, x: Tensor, mixture: Tensor, padding: int | tuple[int, ...] | str) -> Tensor:
        if _in_bf16_on_cpu(x):
            return self._grouped_in_bf16(x, mixture, padding)
        B, C, H, W = x.shape
        kernels = torch.addmm(self.weight.flatten(), mixture, self.experts)  # (B, |V|)
        kernels = kernels.view(B * self.out_channels, *self.weight.shape[1:])
        images_as_groups = x.reshape(1, B * C, H, W), kernels, None, self.stride, padding, self.dilation
        z = F.conv2d(*images_as_groups, B * self.groups)  # (1, B * C_out, H', W')
        return z.view(B, self.out_channels, *z.shape[2:])

    def _grouped_in_bf16(self, x: Tensor, mixture: Tensor, padding: int | tuple[int, ...] | str) -> Tensor:
        """The same convolution in the order in memory that is fast in bf16 on a CPU.

        The output and the gradient of ``x`` are channels_last. In narrow layers the grouped convolution
        itself has its channels innermost: 128 images of 32 x 32 with 16 channels then take 4 ms forward and
        backward instead of 24. 128 images of 8 x 8 with 64 channels would take 6.8 ms instead of 5.5.
        """
        innermost = max(self.in_channels, self.out_channels) <= NARROW
        experts, static = self._expert_kernels(), self.weight
        if innermost:
            experts, static = experts.permute(0, 1, 3, 4, 2), static.permute(0, 2, 3, 1)
        kernels = torch.addmm(static.flatten(), mixture, experts.flatten(1))  # (B, |V|)
        kernels = kernels.view(-1, *static.shape[1:])  # (B C_out, C_in / G, h, w), or h, w, C_in / G
        if innermost:
            kernels = kernels.permute(0, 3, 1, 2)
        images, groups = _Beside.apply(x, innermost), len(x) * self.groups
        z = F.conv2d(images, kernels, None, self.stride, padding, self.dilation, groups)
        return _apart(z, len(x))  # (B, C_out, H', W')

    def _stacked(self, x: Tensor, mixture: Tensor, padding: int | tuple[int, ...] | str) -> Tensor:
        kernels = torch.cat((self.weight[None], self._expert_kernels()))  # (K + 1, C_out, C_in / G, h, w)
        kernels = kernels.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(0, 2)  # by group first
        answers = F.conv2d(x, kernels, None, self.stride, padding, self.dilation, self.groups)
        answers = answers.unflatten(1, (self.groups, len(self.experts) + 1, -1))  # (B, G, K + 1, C, H', W')
        weights = torch.cat((mixture.new_ones(len(x), 1), mixture), 1)  # (B, K + 1); V_0 has the weight 1
        return torch.einsum("bk,bgkchw->bgchw", weights, answers).flatten(1, 2)

    def _expert_kernels(self) -> Tensor:
        return self.experts.view(-1, *self.weight.shape)

    def _groups_images(self, x: Tensor) -> bool:
        if self.computation != "auto":
            return self.computation == "grouped"
        positions = x[0, 0].numel() // prod(self.stride)
        return grouped_is_cheaper(self.weight[0].numel(), positions, len(self.experts))


def _in_bf16_on_cpu(x: Tensor) -> bool:
    return x.is_cpu and (x.dtype is torch.bfloat16 or torch.is_autocast_enabled("cpu"))


class _Beside(torch.autograd.Function):
    """The images of a batch side by side, as groups of channels of one image: (B, C, H, W) -> (1, B C, H, W).

    The gradient comes back in channels_last, as the images came: the layers before would otherwise work on
    a mixture of layouts, which is several times as slow.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, innermost: bool) -> Tensor:
        ctx.images = len(x)
        if innermost:
            return x.permute(2, 3, 0, 1).flatten(2).contiguous()[None].permute(0, 3, 1, 2)
        return x.flatten(0, 1)[None]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return _apart(gradient, ctx.images), None


def _apart(z: Tensor, images: int) -> Tensor:
    """The inverse of ``_Beside``: (1, B C, H, W) -> (B, C, H, W), channels_last."""
    z = z.permute(0, 2, 3, 1).squeeze(0).unflatten(2, (images, -1))  # (H, W, B, C)
    return z.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


class ExpertAttention(nn.Module):
    """The weight of every expert for an image: softmax(U_2 ReLU(U_1 mean(x)) / temperature).

    There are C / 4 hidden values, but at least 4. The hidden biases start at 1. The channel means of
    normalised images are all near 0, so with smaller biases some ReLUs might be zero for every image and
    never learn.

    Args:
        channels: The number of channels C.

        experts: The number of experts K.
    """

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 4)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, experts))
        nn.init.ones_(self.layers[0].bias)

    def forward(self, x: Tensor, temperature: float) -> Tensor:
        """Computes the weights of the experts.

        Args:
            x: The input of the convolution, (B, C, H, W).

            temperature: The temperature of the softmax. A high one gives all experts nearly equal weights,
                so that all of them learn.

        Returns:
            The weights, (B, K). Each row sums to 1.
        """
        mean = x.sum((2, 3)) / x[0, 0].numel()
        return (self.layers(mean) / temperature).softmax(1)


def grouped_is_cheaper(filter_size: int, positions: int, experts: int) -> bool:
    """Whether one kernel for each image costs less than all K + 1 kernels on every image.

    For each image and output channel, "grouped" writes one filter. "Stacked" writes K + 1 outputs for each
    position and needs K times more multiplications. Writing a number costs about as much as 250
    multiplications. This was measured for the forward and backward pass of 16 layers, in fp32 and bf16, for
    32 and 64 images, on a CPU core with AVX-512. In 63 of these 64 cases the rule picks the faster way, and
    in the last one both take the same time. It was not measured on a GPU. The rule reads shapes only, so
    that the bits of a run do not depend on a measured time.

    Args:
        filter_size: How many numbers one filter has, C_in / groups * kernel height * kernel width.

        positions: How many positions the output has, H' W'.

        experts: The number of experts K.

    Returns:
        True if "grouped" is cheaper.
    """
    return filter_size < positions * (experts + 1 + experts * filter_size / WRITING)


def dynamic_copy(
    net: nn.Module, *, experts: int = 4, temperature: float = 1.0, computation: str = "auto"
) -> nn.Module:
    """A network with the structure of another, in which every convolution is a ``DynamicAdditiveConv``.

    The new network shares nothing with the given one and has new weights. Every module draws them with its
    ``reset_parameters``. If a module has no such function, each of its parameters is drawn from a normal
    distribution with the mean and standard deviation that the parameter has in ``net``. Constant parameters
    therefore stay as they are.

    Args:
        net: The network that is imitated.

        experts: The number of expert kernels of every convolution.

        temperature: The temperature of the attention over the experts.

        computation: How the convolutions are computed; see ``DynamicAdditiveConv``.

    Returns:
        The new network. Every convolution has the path that it has in ``net``.

    Raises:
        InputError: If ``convolutions`` refuses the network.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        >>> dynamic = dynamic_copy(net, experts=2)
        >>> type(dynamic[0]).__name__, dynamic[0].experts.shape
        ('DynamicAdditiveConv', torch.Size([2, 216]))
    """
    convolutions(net)
    twin = copy.deepcopy(net).requires_grad_()
    for module in reversed(list(twin.modules())):  # children first, so that their parent has the last word
        _draw_anew(module)
    dynamic: dict[nn.Module, nn.Module] = {}
    for path, module in list(twin.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.Conv2d):
            if module not in dynamic:
                dynamic[module] = DynamicAdditiveConv(
                    module, experts=experts, temperature=temperature, computation=computation
                )
            twin.set_submodule(path, dynamic[module])
    return twin


def convolutions(net: nn.Module) -> dict[str, nn.Conv2d]:
    """Every nn.Conv2d of a network. Transposed convolutions are not among them.

    Args:
        net: The network.

    Returns:
        The convolutions by their paths, in the order of the modules.

    Raises:
        InputError: If the network has no convolution or is itself one; if the shape of a module is not
            known yet or a module is quantised; if a convolution does more than convolve with its weight,
            because it has a forward of its own or a parametrization; or if two convolutions share one
            weight.
    """
    for path, module in net.named_modules():
        _require_ready(path, module)
    found = {path: module for path, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    if not found:
        raise InputError(
            f"A {type(net).__name__} has no nn.Conv2d; ECD links convolutions. Use a convolutional student."
        )
    if "" in found:
        raise InputError("The network is itself an nn.Conv2d. Put it into an nn.Sequential.")
    owners: dict[nn.Parameter, str] = {}
    for path, module in found.items():
        if (owner := owners.setdefault(module.weight, path)) != path:
            raise InputError(
                f"The convolutions {owner!r} and {path!r} share one weight; in the teacher they would part. "
                "Give each a weight of its own."
            )
    return found


def _positive(temperature: float) -> float:
    if not 0 < temperature < float("inf"):
        raise InputError(
            f"The attention's temperature must be a finite number above 0, found {temperature!r}; 1 is a "
            "plain softmax over the experts, 30 lets all of them count alike."
        )
    return temperature


def _require_ready(path: str, module: nn.Module) -> None:
    kind, found = type(module), f"{path!r} is a {type(module).__name__}"
    if any(map(nn.parameter.is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
        raise InputError(
            f"{found} whose shape is not known yet. Run the network once on a batch, then use it."
        )
    if kind.__module__.startswith("torch.ao.nn."):
        raise InputError(
            f"{found}, which is quantised and does not learn. Train first, quantise what is exported."
        )
    plain = kind.forward, getattr(kind, "_conv_forward", None), "weight" in module._parameters
    if isinstance(module, nn.Conv2d) and plain != (nn.Conv2d.forward, nn.Conv2d._conv_forward, True):
        raise InputError(
            f"{found} that does more than convolve with its weight (its own forward, or a parametrization); "
            "a dynamic convolution would lose that. Replace it by a plain nn.Conv2d."
        )


@torch.no_grad()
def _draw_anew(module: nn.Module) -> None:
    """Gives the module's own parameters new random values, as ``dynamic_copy`` says."""
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for parameter in module.parameters(recurse=False):
        parameter.normal_(parameter.mean().item(), parameter.std(correction=0).item())
