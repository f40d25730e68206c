"""The formulas the papers share: tensors in, tensors out.

Losses are computed in at least float32: under bf16 autocast logits arrive with 8 bits of mantissa,
and a logarithm of rounded probabilities is the classic way to lose a distillation signal.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.errors import InputError


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of ``logits`` (B, K) with ``labels`` (B,), mean over the batch: a scalar."""
    return F.cross_entropy(at_least_float32(logits), labels)


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) over the classes: (B, K) -> (B, K).

    Raises InputError unless T > 0. Source: Hinton et al., 2015, eq. 1.
    """
    return torch.softmax(at_least_float32(logits) / positive_temperature(temperature), dim=1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch: a scalar.

    Both logits (B, K). Gradients reach the teacher too unless its logits are detached. The factor
    T^2 keeps the gradient's size when T changes (Hinton et al., 2015, section 2). Zero, its minimum,
    when the logits agree up to a constant a row.

    Raises InputError unless T > 0 and the shapes agree.
    """
    if student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"Student logits have shape {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)}; distillation needs the same images and the same "
            "classes in both. Build the student with the teacher's number of classes."
        )
    scale = positive_temperature(temperature)
    student = F.log_softmax(at_least_float32(student_logits) / scale, dim=1)
    teacher = F.log_softmax(at_least_float32(teacher_logits) / scale, dim=1)
    return scale**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def attention_map(maps: Tensor, *, power: float = 2.0) -> Tensor:
    """Where a layer is active: mean over the channels of |F|^power, (B, C, H, W) -> (B, H, W).

    Raises InputError unless power is at least 1. Source: Zagoruyko and Komodakis, Paying More
    Attention to Attention, 2017, section 3.1.
    Differs: a mean where the paper sums, as in the benchmarks; a normalised map is the same.
    """
    if not 1 <= power < float("inf"):
        raise InputError(f"power must be a finite number, 1 or more, found {power!r}; papers use 2.")
    return at_least_float32(maps).abs().pow(power).mean(1)


def unit_vectors(x: Tensor) -> Tensor:
    """Each sample flattened and divided by its Euclidean norm: (B, ...) -> (B, D).

    A sample of zeros stays zeros.
    """
    return F.normalize(at_least_float32(x).flatten(1), dim=1)


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over all entries: a scalar, in at least float32.

    Raises InputError for unequal shapes, which broadcasting would hide.
    """
    if a.shape != b.shape:
        raise InputError(
            f"A mean squared error compares equal shapes, found {tuple(a.shape)} and {tuple(b.shape)}; "
            "bring the student to the teacher's width first, as connectors and projectors do."
        )
    return F.mse_loss(at_least_float32(a), at_least_float32(b))


def normalized_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of unit vectors, over samples and entries: a scalar, at most 4 / D.

    Raises InputError for unequal shapes (B, ...).
    """
    return mean_squared_error(unit_vectors(a), unit_vectors(b))


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each sample of ``a`` with the same sample of ``b``: (B, ...) twice -> (B,).

    0 where either is all zeros. Raises InputError for unequal shapes.
    """
    if a.shape != b.shape:
        raise InputError(
            f"Cosine similarity compares equal shapes, found {tuple(a.shape)} and {tuple(b.shape)}; "
            "compare attention maps, or layers of equal width and size."
        )
    return (unit_vectors(a) * unit_vectors(b)).sum(1)


def pooled(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """``maps`` (B, C, H, W) averaged down to ``size``; untouched where they have it already."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    return maps if maps.shape[-2:] == size else F.adaptive_avg_pool2d(maps, size)


def of_equal_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps (B, ..., H, W) at the smaller height and the smaller width of the two.

    Raises InputError when they are not of the same images.
    """
    if len(a) != len(b):
        raise InputError(
            f"Maps of {len(a)} and of {len(b)} images cannot be compared; give both the same images."
        )
    size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
    return pooled(a, size), pooled(b, size)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are answered right: logits (B, K), labels (B,) -> bool (B,)."""
    return logits.argmax(dim=1) == labels


def positive_temperature(temperature: float) -> float:
    """``temperature`` itself; raises InputError unless it is a finite number above 0."""
    if not 0 < temperature < float("inf"):
        raise InputError(
            f"temperature must be a finite number above 0, found {temperature!r}; "
            "1 leaves the logits as they are, papers use 2 to 4."
        )
    return temperature


def require_weights(**weights: float) -> None:
    """Raises InputError for a loss weight that is negative or not finite, by its name."""
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"{name} must be a finite number, 0 or more, found {weight!r}.")


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it came in half precision, else unchanged (float64 stays float64)."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
