"""What comes back through links between two networks, convolution by convolution."""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from kdnb.functional import cosine_similarity


def link_norms(gradients: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> pd.DataFrame:
    """Lengths of what ``ECD.link_gradients`` finds: a row a convolution, in the order given.

    label: the student's own cross entropy; own: the teacher's, through this convolution's link; total:
    the teacher's, through all links. Each over the whole batch, (B, C, H, W) as one vector.
    """
    rows = {
        path: {"label": label.norm().item(), "own": own.norm().item(), "total": total.norm().item()}
        for path, (own, total, label) in gradients.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["label", "own", "total"])


def link_agreement(gradients: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> pd.Series:
    """Whether the teacher advises what the labels advise: the cosine of ``total`` and ``label`` of every
    convolution, over the whole batch as one vector. 1: the same direction; 0: another matter."""
    cosines = {
        path: cosine_similarity(total[None], label[None]).item()
        for path, (_, total, label) in gradients.items()
    }
    return pd.Series(cosines, dtype=float)


def link_share(linked: Tensor, own: Tensor) -> float:
    """How much of ``own + linked`` a link brings, as a share of variance: maps (B, C, H, W) twice -> 0 to 1.

    Variance over pictures and positions, mean over channels, of the linked map over that of both parts
    together, what they have in common aside. 0.5: they are equally strong.
    """
    linked_variance, own_variance = (x.var((0, 2, 3), correction=0).mean().item() for x in (linked, own))
    return linked_variance / (linked_variance + own_variance)
