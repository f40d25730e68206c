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


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it came in half precision, else unchanged (float64 stays float64)."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
