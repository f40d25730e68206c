"""The paired interval, against SciPy."""

import pytest
import torch
from scipy import stats

from kdnb.analysis import paired_difference
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
