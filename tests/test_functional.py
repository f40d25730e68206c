from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from kdnb.errors import InputError
from kdnb.functional import (
    at_least_float32,
    attention_map,
    correct,
    cosine_similarity,
    kd_loss,
    label_loss,
    mean_squared_error,
    normalized_mse,
    of_equal_size,
    pooled,
    require_counts,
    require_weights,
    soft_labels,
    unit_vectors,
)

FIXTURES = Path(__file__).parent / "fixtures"


def wave(*shape: int, a: float, b: float, scale: float = 1.0) -> torch.Tensor:
    """scale * sin(a i + b) over the flat index: the generator of methods/README.md, Golden values."""
    count = int(np.prod(shape))
    return scale * torch.sin(a * torch.arange(count, dtype=torch.float64) + b).reshape(shape)


@pytest.mark.parametrize(("file", "temperature"), [("kd", 4.0), ("kd_t2", 2.0)])
def test_kd_loss_gives_the_reference_values(file, temperature):
    reference = np.load(FIXTURES / f"{file}.npz")
    inputs = {name: torch.from_numpy(reference[name]) for name in reference.files}
    student = inputs["in/student0"].requires_grad_()
    loss = kd_loss(student, inputs["in/teacher0"], temperature)
    loss.backward()
    torch.testing.assert_close(loss, inputs["out/loss"].reshape(()), rtol=1e-9, atol=0)
    torch.testing.assert_close(student.grad, inputs["out/grad_student0"], rtol=1e-9, atol=1e-15)


def test_kd_loss_gives_the_published_closed_form():
    student = wave(8, 10, a=0.7, b=0.1, scale=3).requires_grad_()
    loss = kd_loss(student, wave(8, 10, a=0.9, b=0.4, scale=3), 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(4.27605170597, rel=1e-9)
    assert student.grad.abs().sum().item() == pytest.approx(2.297142367, rel=1e-9)


def test_kd_loss_is_zero_for_logits_that_differ_by_a_constant():
    logits = wave(4, 6, a=0.3, b=0.2)
    assert kd_loss(logits + 5, logits, 2.0).item() == pytest.approx(0, abs=1e-14)


def test_kd_gradient_does_not_shrink_with_temperature():
    """For high T it tends to (student - teacher) / (B K) of centred logits: Hinton et al., eq. 4."""
    student, teacher = wave(4, 6, a=0.3, b=0.2), wave(4, 6, a=0.5, b=0.9)
    student, teacher = student - student.mean(1, True), teacher - teacher.mean(1, True)
    student.requires_grad_()
    kd_loss(student, teacher, 1e4).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 24, rtol=1e-3, atol=1e-6)


def test_kd_loss_is_a_mean_over_the_batch():
    student, teacher = wave(4, 6, a=0.3, b=0.2), wave(4, 6, a=0.5, b=0.9)
    doubled = kd_loss(student.repeat(2, 1), teacher.repeat(2, 1), 4.0)
    torch.testing.assert_close(doubled, kd_loss(student, teacher, 4.0))


def test_kd_loss_reaches_the_teacher_unless_detached():
    teacher = wave(4, 6, a=0.5, b=0.9).requires_grad_()
    kd_loss(wave(4, 6, a=0.3, b=0.2), teacher, 4.0).backward()
    assert teacher.grad.abs().sum() > 0


def test_losses_of_half_precision_logits_are_float32():
    logits = wave(4, 6, a=0.3, b=0.2).to(torch.bfloat16)
    assert kd_loss(logits, logits + 1).dtype == torch.float32
    assert label_loss(logits, torch.arange(4)).dtype == torch.float32
    assert at_least_float32(logits.double()).dtype == torch.float64


def test_kd_loss_survives_logits_whose_probabilities_underflow():
    student = torch.tensor([[0.0, -2000.0]], requires_grad=True)
    kd_loss(student, torch.tensor([[-2000.0, 0.0]]), 1.0).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(InputError, match="temperature must be a finite number above 0"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
    with pytest.raises(InputError, match="temperature"):
        soft_labels(torch.zeros(2, 3), temperature)


def test_logits_of_different_classes_are_refused_not_broadcast():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 1\)"):
        kd_loss(torch.zeros(2, 3), torch.zeros(2, 1))


def test_soft_labels_flatten_with_temperature():
    logits = torch.tensor([[0.0, log(3.0)]], dtype=torch.float64)
    assert soft_labels(logits, 1.0)[0].tolist() == pytest.approx([0.25, 0.75])
    assert soft_labels(logits, 1e9)[0].tolist() == pytest.approx([0.5, 0.5])


def test_label_loss_of_uniform_logits_is_log_k():
    assert label_loss(torch.zeros(5, 7), torch.arange(5)).item() == pytest.approx(log(7))


def test_correct_compares_along_the_classes():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    assert correct(logits, torch.tensor([1, 0])).tolist() == [True, False]


def test_attention_is_the_mean_power_over_the_channels():
    maps = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])  # (1, 2, 1, 2)
    assert attention_map(maps).tolist() == [[[5.0, 2.0]]]
    assert attention_map(maps, power=1).tolist() == [[[2.0, 1.0]]]
    assert attention_map(maps.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_square_has_the_bits_of_the_general_power_gradient_included(dtype):
    maps = wave(2, 3, 4, 4, a=0.7, b=0.1).to(dtype).requires_grad_()
    plain = maps.float() if dtype is torch.bfloat16 else maps
    general = plain.abs().pow(2.0).mean(1)
    assert torch.equal(attention_map(maps), general)
    weights = wave(2, 4, 4, a=0.3, b=0.2).to(general.dtype)
    ours, theirs = (torch.autograd.grad((m * weights).sum(), maps)[0] for m in (attention_map(maps), general))
    assert torch.equal(ours, theirs)


def test_a_square_keeps_one_copy_of_the_maps_for_the_backward_pass():
    maps, kept = torch.ones(2, 3, 4, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention_map(maps)
    assert len(kept) == 1


@pytest.mark.parametrize("power", [0.5, -1, float("nan"), float("inf")])
def test_powers_without_a_finite_gradient_are_refused(power):
    with pytest.raises(InputError, match="power must be a finite number, 1 or more"):
        attention_map(torch.ones(1, 1, 2, 2), power=power)


def test_unit_vectors_have_length_one_and_zeros_stay_zeros():
    units = unit_vectors(torch.stack([wave(3, 4, a=0.7, b=0.1), torch.zeros(3, 4)]))
    assert units.shape == (2, 12)
    assert units.norm(dim=1).tolist() == pytest.approx([1, 0])


def test_normalized_mse_is_closed_form():
    """methods/README.md, Golden values: two maps, and their attention maps."""
    a, b = wave(8, 4, 8, 8, a=0.11, b=0.2), wave(8, 4, 8, 8, a=0.19, b=0.7)
    assert normalized_mse(a, b).item() == pytest.approx(0.00777959477484, rel=1e-9)
    found = normalized_mse(attention_map(a), attention_map(b)).item()
    assert found == pytest.approx(0.00272707351326, rel=1e-9)
    assert normalized_mse(a, -a).item() == pytest.approx(4 / 256)


def test_errors_of_unequal_shapes_are_not_broadcast():
    assert mean_squared_error(torch.zeros(2, 3), torch.full((2, 3), 2.0)).item() == 4
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 1\)"):
        mean_squared_error(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(InputError, match="equal shapes"):
        normalized_mse(torch.ones(2, 3), torch.ones(2, 4))


def test_cosine_similarity_is_one_for_scaled_and_minus_one_for_turned():
    a = wave(4, 3, 2, 2, a=0.7, b=0.1)
    assert cosine_similarity(a, 5 * a).tolist() == pytest.approx([1] * 4)
    assert cosine_similarity(a, -a).tolist() == pytest.approx([-1] * 4)
    with pytest.raises(InputError, match="equal shapes"):
        cosine_similarity(a, a[:, :2])


def test_pooling_averages_and_leaves_alone_what_fits():
    maps = wave(2, 3, 4, 4, a=0.7, b=0.1)
    assert pooled(maps, 4) is maps
    torch.testing.assert_close(pooled(maps, 1)[..., 0, 0], maps.mean((2, 3)))
    wide, high = of_equal_size(maps[:, :, :2], maps[:, :, :, :2])
    assert wide.shape == high.shape == (2, 3, 2, 2)
    with pytest.raises(InputError, match="of 2 and of 1 images"):
        of_equal_size(maps, maps[:1])


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_weights_out_of_range_are_named(weight):
    with pytest.raises(InputError, match="hint_weight"):
        require_weights(label_weight=0.0, hint_weight=weight)


@pytest.mark.parametrize("number", [-1, -5, 0.5, float("nan"), float("inf")])
def test_numbers_of_things_are_whole_and_not_negative(number):
    with pytest.raises(InputError, match=f"ramp_epochs must be a whole number, 0 or more, found {number}"):
        require_counts(students=2, ramp_epochs=number)
    require_counts(students=2, ramp_epochs=0)
