"""Which classes are alike: by hand, and on logits whose families are known."""

import pytest
import torch

from kdnb.analysis import class_similarity, logit_similarity, sibling_share, siblings_found
from kdnb.errors import InputError

FAMILIES = (0, 0, 1, 1, 2, 2)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("similarity", [class_similarity, logit_similarity])
def test_a_class_without_pictures_is_named(similarity):
    with pytest.raises(InputError, match="class number 1"):
        similarity(random(4, 3), torch.tensor([0, 2, 2, 0]))


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


def test_sibling_share_by_hand():
    probabilities = torch.tensor(
        [
            [0.6, 0.3, 0.1, 0.0],  # of the 0.4 that are left, 0.3 are the sibling's
            [0.5, 0.0, 0.25, 0.25],  # a mistake: the true class is 2, its sibling 3
            [0.0, 1.0, 0.0, 0.0],  # nothing is left
        ]
    )
    before = probabilities.clone()
    found = sibling_share(probabilities, torch.tensor([0, 2, 1]), (0, 0, 1, 1))
    torch.testing.assert_close(found, torch.tensor([0.75, 0.25 / 0.75, 0.0]))
    assert torch.equal(probabilities, before)


def test_sibling_share_of_uniform_soft_labels_and_without_siblings():
    uniform, labels = torch.ones(6, 6, dtype=torch.float64) / 6, torch.arange(6)
    torch.testing.assert_close(
        sibling_share(uniform, labels, FAMILIES), torch.full((6,), 0.2, dtype=torch.float64)
    )
    assert sibling_share(uniform, labels, range(6)).eq(0).all()


def test_sibling_share_sees_the_tail_of_a_sure_network():
    logits = torch.tensor([[60.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    share = sibling_share(logits.softmax(1), torch.tensor([0]), (0, 0, 1, 1)).item()
    assert share == pytest.approx(torch.e / (torch.e + 2))


def family_logits(sibling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits 5 for the own class, ``sibling`` for its sibling, 0 elsewhere, with noise; and labels."""
    means = 5 * torch.eye(6, dtype=torch.float64)
    for a, b in ((0, 1), (2, 3), (4, 5)):
        means[a, b] = means[b, a] = sibling
    labels = torch.arange(6).repeat(50)
    return means[labels] + 0.1 * random(300, 6), labels


def test_logit_similarity_is_numpys_correlation_of_centred_class_means():
    logits, labels = random(40, 5), torch.arange(40) % 5
    means = torch.stack([logits[labels == k].mean(0) for k in range(5)])
    expected = torch.corrcoef(means - means.mean(0))
    torch.testing.assert_close(logit_similarity(logits, labels), expected)


def test_logit_similarity_ignores_what_softmax_or_all_classes_share():
    logits, labels = family_logits(2.0)
    moved = logits + random(300, 1, seed=1) + random(1, 6, seed=2)  # a constant a row, a bias a class
    torch.testing.assert_close(logit_similarity(moved, labels), logit_similarity(logits, labels))
    torch.testing.assert_close(logit_similarity(7 * logits, labels), logit_similarity(logits, labels))


def contrast(similarity):
    """Mean similarity of two classes of one family, minus that of two classes of different families."""
    family = torch.tensor(FAMILIES)
    alike = family[:, None] == family
    same = alike & ~torch.eye(len(family), dtype=torch.bool)
    return similarity[same].mean() - similarity[~alike].mean()


def test_logit_similarity_finds_the_families():
    with_families = logit_similarity(*family_logits(2.0))
    without = logit_similarity(*family_logits(0.0))
    torch.testing.assert_close(with_families.diagonal(), torch.ones(6, dtype=torch.float64))
    assert siblings_found(with_families, FAMILIES) == 1
    assert contrast(with_families) > 0.8
    assert abs(contrast(without)) < 0.05
    others = ~torch.eye(6, dtype=torch.bool)
    assert without[others].mean().item() == pytest.approx(-1 / 5, abs=0.01)
