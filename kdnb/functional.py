"""Formulas that several papers share, as functions of tensors.

All losses are computed in float32 or float64. Under bf16 autocast, logits arrive with 8 significant bits,
and the logarithm of probabilities that are rounded so coarsely would lose much of what a teacher tells.
See kdnb/methods/README.md, sections KD and AT, for the equations, and section Golden values for the values
that the tests check.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnb.errors import InputError


def label_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """The cross entropy of logits and labels.

    Args:
        logits: The logits, (B, K).

        labels: The labels, (B,).

        smoothing: The share of the probability that every label gives away to all K classes alike.

    Returns:
        The mean over the batch, a scalar.
    """
    return F.cross_entropy(at_least_float32(logits), labels, label_smoothing=smoothing)


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """The probabilities softmax(logits / T).

    Args:
        logits: The logits, (B, K).

        temperature: The temperature T. A higher one makes the probabilities more alike.

    Returns:
        The probabilities, (B, K).

    Raises:
        InputError: If the temperature is not a finite number above 0.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> soft_labels(logits, temperature=1.0), soft_labels(logits, temperature=4.0)
        (tensor([[0.8808, 0.1192]]), tensor([[0.6225, 0.3775]]))

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, equation 1.
    """
    return torch.softmax(at_least_float32(logits) / positive_temperature(temperature), dim=1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """The distillation loss of Hinton et al.: T^2 KL(softmax(teacher / T) || softmax(student / T)).

    The factor T^2 keeps the size of the gradient when T changes. The smallest value is 0. It is reached
    when each row of the student's logits differs from the teacher's by a constant. Gradients flow into the
    teacher's logits too, unless these are detached.

    Args:
        student_logits: The logits of the student, (B, K).

        teacher_logits: The logits of the teacher, (B, K).

        temperature: The temperature T.

    Returns:
        The mean over the batch, a scalar.

    Raises:
        InputError: If the temperature is not a finite number above 0, or if the shapes differ.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0, -1.0]])
        >>> kd_loss(torch.zeros(1, 3), teacher, temperature=1.0)
        tensor(0.5743)
        >>> abs(kd_loss(teacher + 7.0, teacher)) < 1e-5
        tensor(True)

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
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
    """The attention map of a layer: the mean of ``|maps|**power`` over the channels.

    Args:
        maps: The maps of the layer, (B, C, H, W).

        power: The power, at least 1. The papers use 2.

    Returns:
        The attention maps, (B, H, W), without negative values.

    Raises:
        InputError: If the power is below 1 or not finite.

    Source:
        Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, section 3.1.

    Differs:
        The paper takes the sum over the channels. This is the mean, as in the benchmarks. After
        normalisation both are the same.
    """
    if not 1 <= power < float("inf"):
        raise InputError(f"power must be a finite number, 1 or more, found {power!r}; papers use 2.")
    maps = at_least_float32(maps)
    strength = maps.square() if power == 2 else maps.abs().pow(power)  # equal bits, half the passes
    return strength.sum(1) / strength.shape[1]


def unit_vectors(x: Tensor) -> Tensor:
    """Flattens each sample and divides it by its Euclidean norm.

    Args:
        x: The samples, (B, ...).

    Returns:
        Vectors of norm 1, (B, D). A sample that is zero everywhere stays zero.

    Example:
        >>> unit_vectors(torch.tensor([[[3.0], [4.0]]]))
        tensor([[0.6000, 0.8000]])
    """
    return F.normalize(at_least_float32(x).flatten(1), dim=1)


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """The mean of the squared differences over all entries.

    Args:
        a: A tensor of any shape.

        b: A tensor of the same shape.

    Returns:
        A scalar in float32 or float64.

    Raises:
        InputError: If the shapes differ. Broadcasting would otherwise hide such a mistake.
    """
    if a.shape != b.shape:
        raise InputError(
            f"A mean squared error compares equal shapes, found {tuple(a.shape)} and {tuple(b.shape)}; "
            "bring the student to the teacher's width first, as connectors and projectors do."
        )
    return F.mse_loss(at_least_float32(a), at_least_float32(b))


def normalized_mse(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared error of two tensors whose samples are flattened and scaled to norm 1.

    Args:
        a: The samples, (B, ...), with D entries each.

        b: Samples of the same shape.

    Returns:
        The mean over all B * D entries, a scalar, at most 4 / D.

    Raises:
        InputError: If the numbers of samples or of entries differ.
    """
    return mean_squared_error(unit_vectors(a), unit_vectors(b))


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of each sample of one tensor with the same sample of another.

    Args:
        a: The samples, (B, ...).

        b: Samples of the same shape.

    Returns:
        The cosines, (B,), from -1 to 1. A cosine is 0 if a sample is zero everywhere.

    Raises:
        InputError: If the shapes differ.
    """
    if a.shape != b.shape:
        raise InputError(
            f"Cosine similarity compares equal shapes, found {tuple(a.shape)} and {tuple(b.shape)}; "
            "compare attention maps, or layers of equal width and size."
        )
    return (unit_vectors(a) * unit_vectors(b)).sum(1)


def pooled(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Averages maps to a given size.

    Args:
        maps: The maps, (B, C, H, W).

        size: The height and width H', W' of the result, or one number for both.

    Returns:
        The maps, (B, C, H', W'). If they have this size already, they are returned as they are.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    return maps if maps.shape[-2:] == size else F.adaptive_avg_pool2d(maps, size)


def of_equal_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Averages two maps of the same images to the smaller height and the smaller width of the two.

    Args:
        a: Maps, (B, ..., H_a, W_a).

        b: Maps of the same images, (B, ..., H_b, W_b).

    Returns:
        Both maps with height min(H_a, H_b) and width min(W_a, W_b).

    Raises:
        InputError: If the numbers of images differ.
    """
    if len(a) != len(b):
        raise InputError(
            f"Maps of {len(a)} and of {len(b)} images cannot be compared; give both the same images."
        )
    size = min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1])
    return pooled(a, size), pooled(b, size)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are classified correctly.

    Args:
        logits: The logits, (B, K).

        labels: The labels, (B,).

    Returns:
        True for each image whose largest logit is that of its label, (B,).
    """
    return logits.argmax(dim=1) == labels


def positive_temperature(temperature: float) -> float:
    """Checks a temperature.

    Args:
        temperature: The temperature.

    Returns:
        The same temperature.

    Raises:
        InputError: If it is not a finite number above 0.
    """
    if not 0 < temperature < float("inf"):
        raise InputError(
            f"temperature must be a finite number above 0, found {temperature!r}; "
            "1 leaves the logits as they are, papers use 2 to 4."
        )
    return temperature


def require_weights(**weights: float) -> None:
    """Checks the weights of loss terms.

    Args:
        **weights: The weights by name. The names are used in the message.

    Raises:
        InputError: If a weight is negative or not finite.
    """
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise InputError(f"{name} must be a finite number, 0 or more, found {weight!r}.")


def require_counts(**counts: int) -> None:
    """Checks numbers of things.

    Args:
        counts: The numbers by name.

    Raises:
        InputError: If a number is negative or not whole. The message names it.
    """
    for name, count in counts.items():
        if not 0 <= count < float("inf") or count != int(count):
            raise InputError(f"{name} must be a whole number, 0 or more, found {count!r}.")


def at_least_float32(x: Tensor) -> Tensor:
    """Converts half precision to float32.

    Args:
        x: A tensor of any shape.

    Returns:
        The tensor in float32 if it was in bfloat16 or float16, otherwise the same tensor.
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
