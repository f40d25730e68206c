"""The numbers behind the pictures, against SciPy and by hand."""

import pytest
import torch
from scipy import stats

from kdnb.analysis import class_similarity, paired_difference, siblings_found
from kdnb.errors import InputError


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_paired_interval_is_that_of_scipy(count):
    generator = torch.Generator().manual_seed(count)
    baseline = (70 + 3 * torch.randn(count, generator=generator)).tolist()
    treated = [value + 1 + 0.1 * number**2 for number, value in enumerate(baseline)]
    found = paired_difference(treated, baseline)
    expected = stats.ttest_rel(treated, baseline).confidence_interval(0.95)
    assert found.low == pytest.approx(expected.low)
    assert found.high == pytest.approx(expected.high)
    assert found.mean == pytest.approx((expected.low + expected.high) / 2)


def test_the_sign_is_treated_minus_baseline():
    assert paired_difference([5.0, 7.0], [1.0, 2.0]).mean == 4.5
    assert paired_difference([1.0, 2.0], [5.0, 7.0]).mean == -4.5


def test_equal_differences_leave_no_doubt():
    assert paired_difference([2, 3, 4], [1, 2, 3]) == (1, 1, 1)


@pytest.mark.parametrize(("treated", "baseline"), [([1.0], [2.0]), ([], []), ([1, 2, 3], [1, 2])])
def test_runs_that_cannot_be_paired(treated, baseline):
    with pytest.raises(InputError, match=f"found {len(treated)} and {len(baseline)}"):
        paired_difference(treated, baseline)


def test_class_similarity_by_hand():
    probabilities = torch.tensor([[0.8, 0.2, 0.0], [0.6, 0.2, 0.2], [0.1, 0.9, 0.0], [0.3, 0.1, 0.6]])
    labels = torch.tensor([0, 0, 1, 2])
    found = class_similarity(probabilities, labels)
    expected = torch.tensor([[0.0, 0.15, 0.2], [0.15, 0.0, 0.05], [0.2, 0.05, 0.0]])
    torch.testing.assert_close(found, expected)


def test_class_similarity_counts_classes_not_pictures():
    """A class with a thousand pictures weighs as much as one with a single picture."""
    few = torch.tensor([[0.7, 0.3], [0.5, 0.5]])
    many = torch.cat([few[:1].expand(1000, 2), few[1:]])
    labels = torch.tensor([0] * 1000 + [1])
    torch.testing.assert_close(class_similarity(many, labels), class_similarity(few, torch.tensor([0, 1])))


def test_siblings_found_by_hand():
    similarity = torch.tensor(
        [
            [9.0, 0.5, 0.1, 0.2],  # nearest 1: its sibling
            [0.3, 9.0, 0.4, 0.2],  # nearest 2: not
            [0.1, 0.2, 9.0, 0.6],  # nearest 3: its sibling
            [0.1, 0.7, 0.6, 9.0],  # nearest 1: not
        ]
    )
    before = similarity.clone()
    assert siblings_found(similarity, (0, 0, 1, 1)) == 0.5
    assert siblings_found(similarity, (0, 1, 1, 1)) == 0.75
    assert torch.equal(similarity, before)


def test_siblings_found_at_its_ends():
    families = (0, 0, 1, 1, 2, 2)
    family = torch.tensor(families)
    same = (family[:, None] == family).double()
    assert siblings_found(same, families) == 1
    assert siblings_found(1 - same, families) == 0
