"""The loss log: every term is averaged under its own name, also where steps have different terms."""

import pytest
import torch

from kdnb.errors import InputError
from kdnb.train.losslog import CHECK_EVERY, LossLog, NotFinite


def means_of(steps: list[dict[str, float]]) -> dict[str, float]:
    log = LossLog(lambda values: values, 0)
    for terms in steps:
        log.add({name: torch.tensor(value) for name, value in terms.items()})
    return log.means()


@pytest.mark.parametrize("further", [0, CHECK_EVERY])
def test_terms_that_come_and_go_are_averaged_under_their_own_names(further):
    """A log that knows the names of the first step only would mix them up."""
    steps = [{"a/x": 1.0, "a/y": 10.0}, {"a/y": 30.0, "b/z": 5.0}, {"b/z": 7.0, "a/x": 3.0}]
    steps += [{"c/w": 4.0}] * further
    expected = {"a/x": 2.0, "a/y": 20.0, "b/z": 6.0} | ({"c/w": 4.0} if further else {})
    assert means_of(steps) == expected


def test_the_order_of_the_terms_does_not_matter():
    assert means_of([{"a/x": 1.0, "a/y": 2.0}, {"a/y": 4.0, "a/x": 3.0}]) == {"a/x": 2.0, "a/y": 3.0}


def test_a_term_that_is_not_finite_is_named_with_its_own_step():
    with pytest.raises(NotFinite, match="'b/z' is not finite at step 2"):
        means_of([{"a/x": 1.0}, {"a/x": 1.0, "a/y": 2.0}, {"b/z": float("nan")}])


def test_no_step_is_an_error():
    with pytest.raises(InputError, match="The batches are empty"):
        means_of([])
