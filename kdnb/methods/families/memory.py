"""A memory of one vector for every training image, the same in all processes."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.errors import InputError


class ImageNumbers(nn.Module):
    """Finds the row of a memory that belongs to an image.

    Args:
        indices: ``Batch.indices`` of all images that are trained on (N,), int64. Each occurs once.

        labels: The classes of these images (N,), int64.
    """

    def __init__(self, indices: Tensor, labels: Tensor) -> None:
        super().__init__()
        row_of = torch.full((int(indices.max()) + 1,), -1)
        row_of[indices] = torch.arange(len(indices))
        self.register_buffer("row_of", row_of)
        self.register_buffer("labels", labels.clone())

    def forward(self, indices: Tensor, labels: Tensor) -> Tensor:
        """Returns the rows of some images.

        Args:
            indices: ``Batch.indices`` of the images (B,).

            labels: Their classes (B,). They must be the classes that the memory was built with.

        Returns:
            Rows (B,), int64.

        Raises:
            InputError: If an image is not among those that are trained on. On a GPU, where reading the
                numbers would wait for the device, the step fails with an assertion of the device instead.
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
    """One unit vector for every image. Each vector follows the vectors that a network computes for the image.

    All processes of a training hold the same rows, because an update gathers the vectors of all processes.
    The rows start uniform between -1 / sqrt(D / 3) and 1 / sqrt(D / 3).

    Args:
        count: N, the number of images.

        width: D, the number of entries in a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        bound = (width / 3) ** -0.5
        self.register_buffer("rows", torch.empty(count, width).uniform_(-bound, bound))

    @torch.no_grad()
    def update(self, rows: Tensor, vectors: Tensor, momentum: float) -> None:
        """Moves rows towards new vectors: row <- normalise(momentum row + (1 - momentum) vector).

        Args:
            rows: The rows to move (B,), int64.

            vectors: One unit vector for each of them (B, D).

            momentum: Share of the old row, from 0 to below 1.
        """
        rows, vectors = gathered(rows), gathered(vectors.detach().to(self.rows.dtype))
        moved = momentum * self.rows[rows] + (1 - momentum) * vectors
        self.rows[rows] = F.normalize(moved, dim=1)


def gathered(x: Tensor) -> Tensor:
    """Concatenates the tensors of all processes, without a gradient.

    Args:
        x: (B, ...), with the same shape in all processes.

    Returns:
        A tensor of P B rows for P processes. With one process it is ``x`` itself.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
