"""Convolutions whose kernel depends on the image, and the copy of a network that is made of them.

Stated in the ECD paper: a "dynamic additive convolution" replaces every basic convolution of a network,
and all other layers keep their structure. We have neither its formula nor code, so the formula here is
ours; its attention and temperature are those of Chen et al., Dynamic Convolution, CVPR 2020.
"""

import copy
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError, require_choice

COMPUTATIONS = ("auto", "grouped", "stacked")
EXPERT_SCALE = 0.05  # of an expert's first weights, relative to the static kernel's
WRITING = 250  # products that take as long as a number written; see grouped_is_cheaper


class DynamicAdditiveConv(nn.Conv2d):
    """A static kernel plus a mixture of K expert kernels, mixed anew for every image:

        V(x) = V_0 + sum_k pi_k(x) V_k,    pi(x) from ExpertAttention
        z    = V(x) * x + bias + link

    x (B, C_in, H, W), link (B, C_out, H', W') or none -> z (B, C_out, H', W').

    like: the convolution it stands for. Its stride, padding and padding mode, dilation, groups, and
    whether it has a bias are kept. The weights are new: V_0 (``weight``) is Kaiming normal by fan-out,
    V_k (``experts``) the same times 0.05, so that the attention has a gradient from the first step on.

    computation: how, not what, is computed. "grouped" makes a kernel for each image and convolves the
    images as groups of one big convolution; "stacked" convolves with all K + 1 kernels and mixes what
    they answer; "auto" takes the cheaper by ``grouped_is_cheaper``.

    Raises InputError for fewer than 1 expert, a temperature that is not above 0, an unknown word.
    """

    def __init__(
        self, like: nn.Conv2d, *, experts: int = 4, temperature: float = 1.0, computation: str = "auto"
    ) -> None:
        if not isinstance(experts, int) or experts < 1:
            raise InputError(f"experts must be a whole number from 1 on, found {experts}; 4 is usual.")
        place = {"device": like.weight.device, "dtype": like.weight.dtype}
        shape = (like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding)
        super().__init__(
            *shape, like.dilation, like.groups, like.bias is not None, like.padding_mode, **place
        )
        self.temperature = _positive(temperature)
        self.computation = require_choice("computation", computation, COMPUTATIONS)
        self.experts = nn.Parameter(torch.empty(experts, self.weight.numel(), **place))  # (K, |V|)
        self.attention = ExpertAttention(self.in_channels, experts).to(**place)
        self.attention.requires_grad_(experts > 1)  # one expert always counts fully: nothing to learn
        for kernel in (self.weight, *self._expert_kernels()):
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
        with torch.no_grad():
            self.experts.mul_(EXPERT_SCALE)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, link: Tensor | None = None, temperature: float | None = None) -> Tensor:
        """temperature: of the attention in this pass, where it is not the module's own."""
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
        B, C, H, W = x.shape
        kernels = torch.addmm(self.weight.flatten(), mixture, self.experts)  # (B, |V|)
        kernels = kernels.view(B * self.out_channels, *self.weight.shape[1:])
        images_as_groups = x.reshape(1, B * C, H, W), kernels, None, self.stride, padding, self.dilation
        z = F.conv2d(*images_as_groups, B * self.groups)  # (1, B * C_out, H', W')
        return z.view(B, self.out_channels, *z.shape[2:])

    def _stacked(self, x: Tensor, mixture: Tensor, padding: int | tuple[int, ...] | str) -> Tensor:
        kernels = torch.cat((self.weight[None], self._expert_kernels()))  # (K + 1, C_out, C_in / G, h, w)
        kernels = kernels.unflatten(1, (self.groups, -1)).transpose(0, 1).flatten(0, 2)  # by group first
        answers = F.conv2d(x, kernels, None, self.stride, padding, self.dilation, self.groups)
        answers = answers.unflatten(1, (self.groups, len(self.experts) + 1, -1))  # (B, G, K + 1, C, H', W')
        weights = torch.cat((mixture.new_ones(len(x), 1), mixture), 1)  # V_0 counts fully
        return torch.einsum("bk,bgkchw->bgchw", weights, answers).flatten(1, 2)

    def _expert_kernels(self) -> Tensor:
        return self.experts.view(-1, *self.weight.shape)

    def _groups_images(self, x: Tensor) -> bool:
        if self.computation != "auto":
            return self.computation == "grouped"
        positions = x[0, 0].numel() // prod(self.stride)
        return grouped_is_cheaper(self.weight[0].numel(), positions, len(self.experts))


class ExpertAttention(nn.Module):
    """How much each expert counts for an image: (B, C, H, W) -> (B, K), rows sum to 1.

    softmax(U_2 ReLU(U_1 mean(x)) / temperature), with C / 4 hidden values, at least 4. A high
    temperature lets all experts count alike, so that all of them learn. The hidden biases start at 1, so
    that no value starts behind a ReLU that no image opens: the means of pictures are all near 0.
    """

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 4)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, experts))
        nn.init.ones_(self.layers[0].bias)

    def forward(self, x: Tensor, temperature: float) -> Tensor:
        return (self.layers(x.mean((2, 3))) / temperature).softmax(1)


def grouped_is_cheaper(filter_size: int, positions: int, experts: int) -> bool:
    """Whether a kernel for each image costs less than all K + 1 kernels on every image.

    filter_size: numbers in one filter, C_in / G * h * w. positions: H' W'. Per image and output channel
    "grouped" writes a filter; "stacked" writes K + 1 answers a position, and multiplies K times more.
    A number written costs about as much as 250 products: forward and backward of 16 layers, in fp32 and
    bf16, 32 and 64 images, on a CPU core with AVX-512; of the 64 cases this rule picks the faster in 63,
    and in the last they tie. On a GPU it is not measured. It reads shapes alone, so that a run's
    bits do not hang on a stopwatch.
    """
    return filter_size < positions * (experts + 1 + experts * filter_size / WRITING)


def dynamic_copy(
    net: nn.Module, *, experts: int = 4, temperature: float = 1.0, computation: str = "auto"
) -> nn.Module:
    """``net`` in structure, with a DynamicAdditiveConv under the path of every convolution.

    Nothing is shared with ``net``, nor are its weights: every module draws its own by its
    ``reset_parameters``; where a module has none, each of its parameters is drawn from a normal
    distribution of the mean and the standard deviation it has in ``net``, which leaves constants constant.

    Raises InputError where ``convolutions`` does.
    """
    convolutions(net)
    twin = copy.deepcopy(net).requires_grad_()
    for module in reversed(list(twin.modules())):  # children first: what a network says of them counts
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
    """Every nn.Conv2d of ``net`` by its path, in module order; transposed ones are none.

    Raises InputError for a network without any, or that is one itself, for one that is not built yet or is
    quantised, for a convolution that is more than its weights (another forward, or a weight made by a
    parametrization), and for two with one weight.
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
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
        return
    for parameter in module.parameters(recurse=False):
        parameter.normal_(parameter.mean().item(), parameter.std(correction=0).item())
