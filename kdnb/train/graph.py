"""``train(..., graph=True)``: a whole training step captured as one CUDA graph.

A small network's step on a large GPU is hundreds of kernels of a few microseconds each, and Python needs
longer to launch them than the GPU to run them. A graph is recorded once and launched as one.

A graph repeats exactly what was recorded, with the same memory. So the batch is copied into fixed buffers,
learning rates are tensors, the generators of random numbers are registered, and ``epoch``, a Python number,
is frozen while a graph lives: the step is captured anew at the start of every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import floor

import torch
from torch import Tensor
from torch.optim import Optimizer

from kdnb.datasets.batches import Batch, Batches
from kdnb.errors import InputError
from kdnb.method import Method

WARM_UP = 3  # steps before the first capture, in which cuDNN and the optimizers allocate what they keep

Terms = dict[str, Tensor]


class CudaGraphs:
    """What ``GraphedStep`` needs of CUDA. A test puts something else in its place."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A stream of its own for what is run before a capture, as torch asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def capture(
        self, work: Callable[[], Tensor], generators: Sequence[torch.Generator]
    ) -> Callable[[], Tensor]:
        """Records ``work`` without running it.

        Args:
            work: Launches kernels on the device and never waits for one.

            generators: From which ``work`` draws, beside the device's own.

        Returns:
            What runs the recorded work, and gives its result: the same tensor each time, overwritten.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a loader's threads go on
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class GraphedStep:
    """A training step that is captured at the start of an epoch and replayed for each of its batches.

    Before the first capture a few steps run as a warm-up. They do not count as training: weights, buffers,
    the optimizers' state and random states are put back.

    Args:
        forward: The loss terms of a batch at an epoch.

        step: The whole step: loss terms, backward pass, optimizers. It returns the terms.

        method: What is trained, on its device.

        optimizers: Those that ``step`` uses, with rates that are tensors (``Rates``).

        graphs: How work is captured and replayed.
    """

    def __init__(
        self,
        forward: Callable[[Batch, float], Terms],
        step: Callable[[Batch, float], Terms],
        method: Method,
        optimizers: Sequence[Optimizer],
        graphs: CudaGraphs,
    ) -> None:
        self.forward, self.step, self.graphs = forward, step, graphs
        self.method, self.optimizers = method, optimizers
        self.device = next(method.parameters()).device
        self.epoch: int | None = None  # of the graph that lives
        self.batch: Batch | None = None  # the buffers that it reads
        self.names: tuple[str, ...] = ()
        self.replay: Callable[[], Tensor] | None = None

    def __call__(self, batch: Batch, epoch: float) -> Terms:
        """Takes one step.

        Args:
            batch: On the device, always of the same shapes.

            epoch: Fractional. The step sees the whole part of it.

        Returns:
            The loss terms, copies that later steps leave alone.

        Raises:
            InputError: For a batch of other shapes, a method whose terms depend on the position within an
                epoch, and one that draws random numbers on the CPU.
        """
        if self.batch is None:
            self.batch = Batch(*map(_cloned, (batch.images, batch.labels, batch.indices)), ())
            self.batch.views = tuple(map(_cloned, batch.views))
        _copy(batch, self.batch)
        if floor(epoch) != self.epoch:
            self._capture(floor(epoch))
        values = self.replay().clone().unbind()
        return dict(zip(self.names, values, strict=True))

    def _capture(self, epoch: int) -> None:
        self.replay = None  # frees the memory of the graph before
        with self._left_as_it_was(), self.graphs.aside():
            if self.epoch is None:
                for _ in range(WARM_UP):
                    self.step(self.batch, epoch)
            self._require_constant(epoch)
        self.method.zero_grad()  # the graph makes gradients in memory of its own
        self.epoch = epoch

        def work() -> Tensor:
            terms = self.step(self.batch, epoch)
            self.names = tuple(terms)
            return torch.stack([term.detach() for term in terms.values()])

        drawn = _generators(self.method)
        here = [generator for generator in drawn if generator.device.type == self.device.type]
        hosts = [torch.default_generator, *(one for one in drawn if one.device.type == "cpu")]
        before = [generator.get_state() for generator in hosts]
        self.replay = self.graphs.capture(work, here)
        after = [generator.get_state() for generator in hosts]
        if not all(map(torch.equal, before, after)):
            raise InputError(
                f"{type(self.method).__name__} draws random numbers on the CPU in its losses, and a graph "
                "would repeat the first draw for ever. Draw them on the images' device, or train without "
                "graph=True."
            )

    def _require_constant(self, epoch: int) -> None:
        """The terms must be the same at the start and in the middle of an epoch, bit for bit."""
        found = []
        for position in (float(epoch), epoch + 0.5):
            with self._left_as_it_was(), torch.no_grad():
                found.append(self.forward(self.batch, position))
        start, middle = found
        for name in start.keys() | middle.keys():
            if name not in start or name not in middle or not _same(start[name], middle[name]):
                raise InputError(
                    f"The term {name!r} of {type(self.method).__name__} changes within an epoch, with these "
                    "options. A graph freezes the epoch at its start. Train without graph=True."
                )

    @contextmanager
    def _left_as_it_was(self) -> Iterator[None]:
        """Puts weights, buffers, the optimizers' state and random states back at the end of the block.

        State that an optimizer makes in the block becomes 0, which is what a first step of SGD or Adam
        starts from.
        """
        tensors = [*self.method.parameters(), *self.method.buffers(), *_states(self.optimizers)]
        kept = {id(tensor): tensor.detach().clone() for tensor in tensors}
        generators = [torch.default_generator, *_generators(self.method)]
        if self.device.type == "cuda":
            generators.append(torch.cuda.default_generators[self.device.index])
        random = [generator.get_state() for generator in generators]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor in [*tensors, *_states(self.optimizers)]:
                    tensor.copy_(kept[id(tensor)]) if id(tensor) in kept else tensor.zero_()
            for generator, state in zip(generators, random, strict=True):
                generator.set_state(state)


def require_graph(
    device: torch.device, processes: int, batches: object, optimizers: Sequence[Optimizer]
) -> None:
    """Checks that steps can be captured.

    Args:
        device: Where the training runs.

        processes: How many there are.

        batches: The loader, as ``train`` will use it.

        optimizers: Of the method, after ``fuse``.

    Raises:
        InputError: If they cannot, with what to do.
    """
    if device.type != "cuda":
        raise InputError(
            f"graph=True asks for a CUDA graph, and this training runs on {device.type}. Leave graph out, or "
            'train on a GPU of NVIDIA (device="cuda").'
        )
    if processes > 1:
        raise InputError(
            f"graph=True works in one process, and there are {processes}. Leave graph out, or start one."
        )
    if rest := _left_over(batches):
        raise InputError(
            f"graph=True needs batches of one size, and the last one of an epoch has {rest} images. Give the "
            "loader drop_last=True, or another batch_size."
        )
    for optimizer in optimizers:
        if not all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups):
            raise InputError(
                f"graph=True needs optimizers that read their learning rate on the device, and this "
                f"{type(optimizer).__name__} does not. Use SGD, Adam or AdamW without foreach=True, or one "
                "that is capturable."
            )


def _left_over(batches: object) -> int:
    """Images in an incomplete last batch, of a loader that tells; 0 where there is none."""
    if getattr(batches, "drop_last", False):
        return 0
    size = getattr(batches, "batch_size", None)
    images = batches.labels if isinstance(batches, Batches) else getattr(batches, "dataset", ())
    return len(images) % size if size and hasattr(images, "__len__") else 0


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _tensors(batch: Batch) -> list[Tensor]:
    return [x for x in (batch.images, batch.labels, batch.indices, *batch.views) if x is not None]


def _copy(batch: Batch, buffers: Batch) -> None:
    given, kept = _tensors(batch), _tensors(buffers)
    if [tensor.shape for tensor in given] != [tensor.shape for tensor in kept]:
        raise InputError(
            f"graph=True needs batches of one size: the first had {len(buffers.labels)} images and another "
            f"has {len(batch.labels)}. Give the loader drop_last=True."
        )
    for tensor, buffer in zip(given, kept, strict=True):
        buffer.copy_(tensor, non_blocking=True)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two scalars are equal, or both are not a number."""
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _states(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    return [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def _generators(method: Method) -> list[torch.Generator]:
    """Generators that modules of the method hold."""
    held = (value for module in method.modules() for value in vars(module).values())
    return [value for value in held if isinstance(value, torch.Generator)]
