"""Cosines and CKA of layers: by hand, against the published estimator, and by their invariances."""

import pytest
import torch
from torch import Tensor

from kdnb.analysis import attention_cosine, cka_matrix, linear_cka, pairs_by_stage, raw_cosine
from kdnb.errors import InputError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unbiased_hsic(k: Tensor, other: Tensor) -> Tensor:
    """HSIC_1 as Song et al. print it."""
    n, one = len(k), torch.ones(len(k), dtype=k.dtype)
    k, other = k - k.diag().diag(), other - other.diag().diag()
    first = torch.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return (first - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3))


@pytest.mark.parametrize("count", [4, 5, 40])
def test_cka_is_the_ratio_of_the_published_estimators(count):
    x, y = random(count, 7), random(count, 3, seed=1)
    y[:, :2] += x[:, :2]
    k, other = x @ x.T, y @ y.T
    expected = unbiased_hsic(k, other) / (unbiased_hsic(k, k) * unbiased_hsic(other, other)).sqrt()
    assert linear_cka(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_cka_with_itself_is_1():
    assert linear_cka(random(20, 6), random(20, 6)) == pytest.approx(1)


def test_cka_ignores_rotation_scale_and_shift():
    x = random(40, 6)
    y = random(40, 6, seed=1) + x.cumsum(1)
    rotation = torch.linalg.qr(random(6, 6, seed=2)).Q
    expected = linear_cka(x, y)
    assert 0.05 < expected < 0.95
    assert linear_cka(x @ rotation, y) == pytest.approx(expected, rel=1e-9)
    assert linear_cka(-1000 * x, y) == pytest.approx(expected, rel=1e-9)
    assert linear_cka(x + 1e6, y) == pytest.approx(expected, rel=1e-6)
    assert linear_cka(y, x) == pytest.approx(expected, rel=1e-9)


def test_cka_is_not_blind_to_the_scale_of_single_features():
    x = random(20, 6)
    assert linear_cka(x * torch.tensor([10, 1, 1, 1, 1, 1]), x) < 0.9


def test_cka_needs_the_same_order_and_only_that():
    x, order = random(100, 6), torch.randperm(100, generator=torch.Generator().manual_seed(3))
    y = x + 0.1 * random(100, 6, seed=1)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(x, y) > 0.95
    assert abs(linear_cka(x[order], y)) < 0.2  # what a shuffled loader does


def test_cka_of_independent_features_is_0_on_average_where_the_biased_one_is_not():
    """More features than images, as in every feature map."""
    x, y = random(200, 30, 500), random(200, 30, 500, seed=1)
    found = [linear_cka(a, b) for a, b in zip(x, y, strict=True)]
    assert abs(sum(found) / 200) < 0.015  # four standard errors
    x, y = (z[0] - z[0].mean(0) for z in (x, y))
    biased = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert biased > 0.8


def test_cka_takes_maps_and_half_precision():
    maps = random(12, 3, 4, 4)
    assert linear_cka(maps, maps.flatten(1)) == pytest.approx(1)
    assert linear_cka(maps.bfloat16(), maps) == pytest.approx(1, abs=1e-3)


def test_cka_of_constant_features_is_0():
    for value in (0.0, 0.1, 0.3, 1e6 / 3):
        assert linear_cka(torch.full((9, 4), value), random(9, 5)) == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_cka_of_too_few_images(count):
    with pytest.raises(InputError, match=f"at least 4 images, found {count}"):
        linear_cka(random(count, 2), random(count, 2))


def test_layers_of_different_images_cannot_be_compared():
    layers = {"a": random(5, 2, 4, 4)}, {"b": random(6, 2, 4, 4)}
    for compare in (cka_matrix, raw_cosine, attention_cosine):
        with pytest.raises(InputError, match="5 and of 6"):
            compare(*layers)
    with pytest.raises(InputError, match="5 and of 6"):
        linear_cka(random(5, 2), random(6, 2))


def test_cka_matrix_is_linear_cka_of_every_pair():
    rows = {"a": random(10, 2, 4, 4), "b": random(10, 8, seed=1)}
    columns = {"c": random(10, 3, seed=2), "d": rows["a"] + random(10, 2, 4, 4, seed=3), "e": rows["b"]}
    found = cka_matrix(rows, columns)
    assert list(found.index) == ["a", "b"]
    assert list(found.columns) == ["c", "d", "e"]
    for a, x in rows.items():
        for b, y in columns.items():
            assert found.loc[a, b] == pytest.approx(linear_cka(x, y))
    itself = cka_matrix(rows)
    assert itself.equals(itself.T)
    assert itself.loc["a", "a"] == pytest.approx(1)


def test_raw_cosine_by_hand_is_the_mean_over_images():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    b = torch.tensor([[4.0, 3.0], [0.0, 5.0]]).view(2, 2, 1, 1)
    found = raw_cosine({"a": a, "b": b})
    assert found.loc["a", "b"] == found.loc["b", "a"] == pytest.approx((24 / 25 + 0) / 2)
    assert found.loc["a", "a"] == pytest.approx(1)
    assert raw_cosine({"a": a}, {"b": -a}).loc["a", "b"] == pytest.approx(-1)


def test_raw_cosine_has_no_value_for_unequal_shapes():
    found = raw_cosine({"a": random(4, 2, 8, 8), "b": random(4, 3, 8, 8)})
    assert found.isna().to_numpy().tolist() == [[False, True], [True, False]]


def test_raw_cosine_sees_channels_and_attention_does_not():
    a = random(6, 8, 4, 4)
    shuffled = a[:, torch.arange(8).roll(1)]
    assert attention_cosine({"a": a}, {"b": shuffled}).loc["a", "b"] == pytest.approx(1)
    assert abs(raw_cosine({"a": a}, {"b": shuffled}).loc["a", "b"]) < 0.5


def test_attention_cosine_by_hand_and_at_the_smaller_size():
    a = torch.zeros(1, 1, 4, 4)
    a[..., 0, 0] = 2.0  # attention 4 in the corner: 1 on average over the corner's quarter
    b = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert attention_cosine({"a": a}, {"b": b}).loc["a", "b"] == pytest.approx(2**-0.5)
    a = torch.tensor([[[[2.0, 1.0]]]])
    b = torch.tensor([[[[1.0, 2.0]]]])
    for power, expected in ((2.0, 8 / 17), (1.0, 4 / 5)):
        found = attention_cosine({"a": a}, {"b": b}, power=power)
        assert found.loc["a", "b"] == pytest.approx(expected)


def test_attention_cosine_has_a_value_for_every_pair():
    layers = {"a": random(4, 2, 8, 8), "b": random(4, 3, 4, 4), "c": random(4, 5, 2, 2)}
    found = attention_cosine(layers)
    assert found.notna().to_numpy().all()
    assert found.to_numpy() == pytest.approx(found.to_numpy().T)
    assert found.to_numpy().diagonal() == pytest.approx(1)


def test_pairs_by_stage_are_single_cosines_and_a_control_on_another_image():
    learners = {name: (random(4, 2, 8, 8), random(4, 3, 4, 4)) for name in "ab"}
    learners["c"] = learners["a"]
    for cosine in (raw_cosine, attention_cosine):
        found = pairs_by_stage(learners, cosine)
        assert list(found.index) == ["a – b", "a – c", "b – c"]
        assert list(found.columns) == ["stage 1", "stage 2", "another image"]
        assert found.loc["a – c", ["stage 1", "stage 2"]].tolist() == pytest.approx([1, 1])
        expected = cosine({"a": learners["a"][1]}, {"b": learners["b"][1]}).iloc[0, 0]
        assert found.loc["a – b", "stage 2"] == pytest.approx(expected)
        a = learners["a"][1]
        other = cosine({"a": a}, {"b": a.roll(1, 0)}).iloc[0, 0]
        assert found.loc["a – c", "another image"] == pytest.approx(other)
