"""What association weights say: bounds, entropy, class means."""

from math import log

import pytest
import torch
from scipy import stats

from kdnb.analysis import (
    association_bounds,
    association_by_class,
    lowest_relative_entropy,
    relative_entropy,
)
from kdnb.errors import InputError


@pytest.mark.parametrize(("layers", "expected"), [(3, (0.0634, 0.7870)), (4, (0.0432, 0.7112))])
def test_the_bounds_are_those_of_the_fact_sheet(layers, expected):
    assert association_bounds(layers) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_the_bounds_are_reached_and_never_passed(layers):
    low, high = association_bounds(layers)
    energies = torch.full((layers, layers), -1.0, dtype=torch.float64).fill_diagonal_(1)
    assert energies.softmax(1).max().item() == pytest.approx(high)
    assert (-energies).softmax(1).min().item() == pytest.approx(low)
    cosines = 2 * torch.rand(1000, layers, generator=torch.Generator().manual_seed(0)) - 1
    assert low <= cosines.softmax(1).min()
    assert cosines.softmax(1).max() <= high + 1e-6


def test_bounds_need_a_layer():
    with pytest.raises(InputError, match="found 0"):
        association_bounds(0)


def test_relative_entropy_is_scipys_over_log_m():
    weights = torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    weights = weights / weights.sum(-1, keepdim=True)
    found = relative_entropy(weights)
    assert found.shape == (5, 2)
    assert found.numpy() == pytest.approx(stats.entropy(weights.numpy(), axis=-1) / log(4))


def test_relative_entropy_at_its_ends():
    ends = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    assert relative_entropy(ends).tolist() == pytest.approx([1, 0])
    with pytest.raises(InputError, match="found 1"):
        relative_entropy(torch.ones(3, 1))


@pytest.mark.parametrize("layers", [2, 3, 4, 8])
def test_no_association_is_more_decided_than_the_lowest(layers):
    """Random corners of the cube of energies, where the extremes of entropy are."""
    energies = torch.randint(0, 2, (2000, layers), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    found = relative_entropy(energies.double().softmax(1)).min().item()
    assert found == pytest.approx(lowest_relative_entropy(layers))


def test_association_by_class_is_the_mean_of_each_class():
    weights = torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 0, 2, 2, 0])
    found = association_by_class(weights, labels)
    assert found.shape == (3, 2, 3)
    torch.testing.assert_close(found[0], weights[[0, 2, 5]].mean(0))
    torch.testing.assert_close(found[2], weights[[1, 3, 4]].mean(0))
    assert found[1].isnan().all()
