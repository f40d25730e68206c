"""What comes back through links, as numbers."""

import pytest
import torch

from kdnb.analysis import link_agreement, link_norms, link_share
from kdnb.methods import ECD
from kdnb.networks import build


def maps(seed: int, strength: float = 1.0) -> torch.Tensor:
    return strength * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


GRADIENTS = {"shallow": (maps(0), maps(1), maps(1) + maps(2)), "deep": (0 * maps(0), maps(3), 2 * maps(3))}


def test_a_row_a_convolution_with_lengths_over_the_batch():
    table = link_norms(GRADIENTS)
    assert list(table.index) == ["shallow", "deep"]
    assert list(table.columns) == ["label", "own", "total"]
    lengths = [gradient.norm().item() for gradient in (maps(1) + maps(2), maps(0), maps(1))]
    assert table.loc["shallow"].tolist() == pytest.approx(lengths)
    assert table.loc["deep", "own"] == 0
    assert table.loc["deep", "label"] == pytest.approx(2 * table.loc["deep", "total"])


def test_agreement_is_a_cosine_of_whole_batches():
    found = link_agreement(GRADIENTS)
    total, label = maps(1).double().flatten(), (maps(1) + maps(2)).double().flatten()
    expected = torch.dot(total, label) / total.norm() / label.norm()
    assert found.tolist() == pytest.approx([expected.item(), 1.0])


def test_agreement_near_zero_is_exact_too():
    """A cosine near 0 is a sum whose terms cancel: in float32 its sixth digit depends on the machine."""
    total, label = maps(1), maps(2)
    found = link_agreement({"": (total, total, label)}).item()
    expected = torch.dot(total.double().flatten(), label.double().flatten())
    expected = expected / total.double().norm() / label.double().norm()
    assert 0 < abs(expected) < 0.01
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_they_read_what_ecd_measures(batch):
    torch.manual_seed(0)
    gradients = ECD(build("resnet8", classes=10)).link_gradients(*batch)
    table = link_norms(gradients)
    assert list(table.index) == list(link_agreement(gradients).index) == list(gradients)
    assert (table > 0).all(axis=None)


def test_a_links_share_is_of_the_variance():
    assert link_share(maps(0), maps(0)) == pytest.approx(0.5)
    assert link_share(maps(0, 3.0), maps(0)) == pytest.approx(0.9)
    assert link_share(maps(0) + 7, maps(0)) == pytest.approx(0.5)  # a constant tells pictures apart from none
    assert link_share(0 * maps(0), maps(0)) == 0
