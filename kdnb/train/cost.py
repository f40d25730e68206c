"""What a training step costs in arithmetic and memory. It is counted on a copy, alike on every machine."""

import copy

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from kdnb.datasets import Batch
from kdnb.method import Method

CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward


def step_operations(method: Method, batch: Batch) -> int:
    """Floating-point operations of one forward and backward pass.

    Args:
        method: It is copied, and left as it is.

        batch: What the pass sees.
    """
    copied = copy.deepcopy(method).train()
    counter = FlopCounterMode(display=False, custom_mapping={CONVOLUTION_BACKWARD: _convolution_backward})
    with torch.random.fork_rng(devices=[]), counter:
        sum(copied(batch, 0.0).values()).backward()
    return counter.get_total_flops()


def step_memory(method: Method, batch: Batch) -> int:
    """Bytes that are held when the forward pass of one step ends.

    These are weights and buffers, a gradient and a momentum of each weight that learns, and everything that
    the backward pass will need, in the numbers' own precision. What a convolution needs for itself while it
    runs is left out.

    Args:
        method: It is copied, and left as it is.

        batch: What the pass sees.
    """
    copied = copy.deepcopy(method).train()
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor.detach()

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = copied(batch, 0.0)
    del terms
    own = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in copied.state_dict().values()}
    learned = sum(weight.nbytes for weight in copied.parameters() if weight.requires_grad)
    return (
        sum(own.values())
        + 2 * learned
        + sum(storage.nbytes() for address, storage in kept.items() if address not in own)
    )


def _convolution_backward(
    gradient: list[int], x: list[int], weight: list[int], *shapes: object, out_shape: object
) -> int:
    """Each gradient, of x and of the weight, takes as many products as the convolution itself. torch counts
    the weight's as if there were one group."""
    *_, transposed, _output_padding, _groups, wanted = shapes
    return sum(wanted[:2]) * conv_flop_count(x, weight, gradient, transposed)
