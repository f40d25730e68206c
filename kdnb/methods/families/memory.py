"""A memory of one vector for every training image, the same in all processes."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError


class ImageNumbers(nn.Module):
    """Finds the row of a memory that belongs to an image.

    Args:
        indices: ``Batch.indices`` of all images that are trained on (N,), int64, each once.

        labels: Their classes (N,), int64.
    """

    def __init__(self, indices: Tensor, labels: Tensor) -> None:
        super().__init__()
        row_of = torch.full((int(indices.max()) + 1,), -1)
        row_of[indices] = torch.arange(len(indices))
        self.register_buffer("row_of", row_of)
        self.register_buffer("labels", labels.clone())

    def forward(self, indices: Tensor, labels: Tensor) -> Tensor:
        """The rows (B,) of some images.

        Args:
            indices: ``Batch.indices`` (B,).

            labels: Classes (B,), which must be those of the images.

        Raises:
            InputError: For images that are not among those that are trained on. On a GPU, where a look at
                the numbers would wait for the device, the step fails with an assertion of the device.
        """
        inside = (indices >= 0) & (indices < len(self.row_of))
        rows = self.row_of[indices.clamp(0, len(self.row_of) - 1)]
        fits = (inside & (rows >= 0) & (self.labels[rows] == labels)).all()
        message = (
            "The batch holds images that the memory was not built for: their indices or their labels are not "
            "those of the training part. Build the method with the labels and the indices of the data that "
            "it trains on."
        )
        if fits.device.type != "cpu":
            torch._assert_async(fits, message)
        elif not fits:
            raise InputError(message)
        return rows


class MemoryBank(nn.Module):
    """Unit vectors, a row for every image, which follow the vectors that a network gives.

    All processes of a training hold the same rows: an update gathers what every process has seen.

    Args:
        count: N, the number of images.

        width: D, numbers in a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        bound = (width / 3) ** -0.5
        self.register_buffer("rows", torch.empty(count, width).uniform_(-bound, bound))

    @torch.no_grad()
    def update(self, rows: Tensor, vectors: Tensor, momentum: float) -> None:
        """Moves rows towards new vectors: row <- normalise(momentum row + (1 - momentum) vector).

        Args:
            rows: Places in the bank (B,), int64.

            vectors: Unit vectors (B, D).

            momentum: Share of the old row, in [0, 1).
        """
        rows, vectors = gathered(rows), gathered(vectors.detach().to(self.rows.dtype))
        moved = momentum * self.rows[rows] + (1 - momentum) * vectors
        self.rows[rows] = F.normalize(moved, dim=1)


def gathered(x: Tensor) -> Tensor:
    """The tensors of all processes one behind the other, without a gradient; of a lone process its own.

    Args:
        x: (B, ...), of one shape in all processes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
