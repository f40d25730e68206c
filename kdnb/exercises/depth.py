"""Exercises of notebook 07 on depth.

They ask what a convolution costs, where a sub-net leaves the stages of its network, and which depth owns
which batch norm.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdnb.exercises.lesson import Exercise, Mutant
from kdnb.exercises.probes import normal, tensor_from
from kdnb.networks import cost
from kdnb.networks.features import staged


def conv_macs(channels_in: int, channels_out: int, kernel: int, size: int, stride: int) -> int:
    """Counts the multiply-accumulate operations of a convolution for one image, as ``cost`` does.

    The convolution has a square kernel, no bias, and a padding of half the kernel.

    Args:
        channels_in: Channels of its input.

        channels_out: Channels of its output.

        kernel: Height and width of the kernel.

        size: Height and width of the input maps.

        stride: Its stride.

    Returns:
        The number of multiply-accumulate operations.
    """
    about = {"padding": kernel // 2, "bias": False, "device": "meta"}
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, **about)
    return cost(convolution, size=size, channels=channels_in).macs


def sub_net(
    stem: Callable,
    stages: Sequence[Sequence[Callable]],
    head: Callable,
    images: Tensor,
    blocks: Sequence[int],
) -> Tensor:
    """Runs a network that leaves each of its stages early.

    Args:
        stem: The layers before the first stage.

        stages: The blocks of each stage.

        head: The classifier, which receives the averaged last map.

        images: Images, shape (B, C, H, W).

        blocks: How many blocks of each stage to run, counted from its first.

    Returns:
        Logits, shape (B, K).
    """
    kept = [_in_turn(stage[:count]) for stage, count in zip(stages, blocks, strict=True)]
    return staged(stem(images), kept, head).logits


def own_batch_norms(norm: nn.BatchNorm2d, depths: Sequence[int]) -> dict[int, nn.BatchNorm2d]:
    """Makes a batch norm for each depth of a network.

    Args:
        norm: The batch norm of the full network.

        depths: The depths, with the full depth first.

    Returns:
        A batch norm for each depth. The full network keeps ``norm``, and each other depth starts with a copy.
    """
    return {depth: copy.deepcopy(norm) if number else norm for number, depth in enumerate(depths)}


def _in_turn(blocks: Sequence[Callable]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
        return x

    return run


CONVOLUTIONS = ((3, 16, 3, 32, 1), (16, 32, 3, 32, 2), (32, 64, 1, 16, 2), (64, 64, 3, 8, 1))


def _probe_macs(function) -> list[Tensor]:
    return [tensor_from(function(*shape)) for shape in CONVOLUTIONS]


def _probe_sub_net(function) -> list[Tensor]:
    """Uses three stages of three blocks that keep all shapes, so that blocks in any order give numbers."""
    stages = [[_block(3 * stage + number) for number in range(3)] for stage in range(3)]
    mix, images = normal(20, 4, 5), normal(21, 2, 4, 3, 3)
    found = [
        function(lambda x: x.relu(), stages, lambda x: x @ mix, images, kept)
        for kept in ((3, 3, 3), (2, 2, 2), (2, 1, 1))
    ]
    return [tensor_from(logits) for logits in found]


def _block(seed: int) -> Callable[[Tensor], Tensor]:
    weights = normal(seed, 4, 4)
    return lambda x: x + torch.einsum("dc,bchw->bdhw", weights, x).tanh()


def _probe_norms(function) -> list[Tensor]:
    """Trains each depth on maps of its own mean and standard deviation, then runs each in eval mode."""
    norm = nn.BatchNorm2d(2).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0]))
        norm.running_mean.add_(0.5)
    norms = function(norm, (20, 14, 8))
    if norms is ...:
        return [tensor_from(norms)]
    shown = {depth: depth * normal(depth, 8, 2, 2, 2) + depth for depth in (20, 14, 8)}
    for depth, maps in shown.items():
        norms[depth].train()(maps)
    with torch.no_grad():
        answers = [norms[depth].eval()(maps) for depth, maps in shown.items()]
    gains = torch.tensor([float(norms[depth].weight is norm.weight) for depth in shown])
    return [*answers, gains, torch.tensor(float(norms[20] is norm))]


def _sub_net_variant(choose: Callable) -> Callable:
    """Returns a sub-net of the blocks that ``choose`` takes from a stage, given the number of blocks."""

    def run(stem, stages, head, images, blocks):
        kept = [block for pair in zip(stages, blocks, strict=True) for block in choose(*pair)]
        return head(_in_turn(kept)(stem(images)).mean((2, 3)))

    return run


def _cut_at_the_end(stem, stages, head, images, blocks):
    kept = [block for stage in stages for block in stage][: sum(blocks)]
    return head(_in_turn(kept)(stem(images)).mean((2, 3)))


def _norms_variant(norm: nn.BatchNorm2d, depths: Sequence[int], *, gain: bool) -> dict[int, nn.BatchNorm2d]:
    norms = {depth: nn.BatchNorm2d(norm.num_features).to(norm.weight) for depth in depths}
    for one in norms.values() if gain else ():
        one.weight, one.bias = norm.weight, norm.bias
    return norms | {depths[0]: norm}


EXERCISES = {
    "conv_macs": Exercise(
        reference=conv_macs,
        probe=_probe_macs,
        mutants=(
            Mutant(
                "positions of the input",
                lambda c_in, c_out, k, size, stride: c_in * c_out * k**2 * size**2,
                "you counted products at every position of the input; with a stride of 2 only a quarter of "
                "them is computed.",
            ),
            Mutant(
                "stride along one side",
                lambda c_in, c_out, k, size, stride: c_in * c_out * k**2 * size * (size // stride),
                "the stride skips rows and columns; divide both height and width by it.",
            ),
            Mutant(
                "one side of the kernel",
                lambda c_in, c_out, k, size, stride: c_in * c_out * k * (size // stride) ** 2,
                "a kernel has k rows and k columns, so it has k² entries.",
            ),
            Mutant(
                "depthwise",
                lambda c_in, c_out, k, size, stride: c_out * k**2 * (size // stride) ** 2,
                "every output channel reads all input channels; what you counted is a depthwise convolution.",
            ),
            Mutant(
                "operations",
                lambda c_in, c_out, k, size, stride: 2 * c_in * c_out * k**2 * (size // stride) ** 2,
                "you counted multiplications and additions separately; a multiply-accumulate is one of each.",
            ),
            Mutant(
                "parameters",
                lambda c_in, c_out, k, size, stride: c_in * c_out * k**2,
                "that is the number of parameters; each of them is used at every position of the output.",
            ),
        ),
        advice="channels_in * channels_out * kernel**2 * (size // stride) ** 2.",
    ),
    "sub_net": Exercise(
        reference=sub_net,
        probe=_probe_sub_net,
        mutants=(
            Mutant(
                "last blocks",
                _sub_net_variant(lambda stage, count: stage[-count:]),
                "you kept the last blocks of every stage; the first one holds the stride, so it must stay.",
            ),
            Mutant(
                "cut at the end",
                _cut_at_the_end,
                "you cut the network at its end; a sub-net runs through every stage and leaves each of them"
                " early.",
            ),
            Mutant(
                "whole stages",
                _sub_net_variant(lambda stage, count: stage),
                "all blocks of every stage run, which is the full net; take stage[:count].",
            ),
            Mutant(
                "one block repeated",
                _sub_net_variant(lambda stage, count: [stage[0]] * count),
                "the first block runs again and again; each block has its own weights, so take "
                "stage[:count].",
            ),
            Mutant(
                "one too few",
                _sub_net_variant(lambda stage, count: stage[: count - 1]),
                "every stage has one block too few; the slice [:count] already leaves out the block with "
                "index count.",
            ),
            Mutant(
                "one too many",
                _sub_net_variant(lambda stage, count: stage[: count + 1]),
                "every stage has one block too many; count is the number of blocks, not the index of the "
                "last one.",
            ),
        ),
        advice=(
            "x = stem(images); for stage, count in zip(stages, blocks): for block in stage[:count]: "
            "x = block(x). Then head(x.mean((2, 3)))."
        ),
    ),
    "own_batch_norms": Exercise(
        reference=own_batch_norms,
        probe=_probe_norms,
        mutants=(
            Mutant(
                "one for all",
                lambda norm, depths: dict.fromkeys(depths, norm),
                "the bug is still in there: one module serves all depths, so its running mean is nobody's.",
            ),
            Mutant(
                "made anew",
                lambda norm, depths: _norms_variant(norm, depths, gain=False),
                "each depth has its own batch norm now, but weight, bias and statistics start from their "
                "defaults; start with a copy.",
            ),
            Mutant(
                "gain and bias shared",
                lambda norm, depths: _norms_variant(norm, depths, gain=True),
                "the statistics are private, but weight and bias are shared; that is a sensible compromise,"
                " but in DDNN they are private as well.",
            ),
            Mutant(
                "a copy for the full net too",
                lambda norm, depths: {depth: copy.deepcopy(norm) for depth in depths},
                "the full net has a copy as well, so the module inside it belongs to no depth; the full net"
                " must keep norm.",
            ),
            Mutant(
                "one copy for all sub-nets",
                lambda norm, depths: dict.fromkeys(depths, copy.deepcopy(norm)) | {depths[0]: norm},
                "the full net has its own, but all sub-nets share one copy; make a copy for each.",
            ),
        ),
        advice="{depth: deepcopy(norm) for depth in depths} | {depths[0]: norm}.",
        bug="one for all",
    ),
}
