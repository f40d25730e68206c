"""Do two networks, or two layers, see the same? Cosines of their maps, and debiased linear CKA.

Each function takes layers by name, of the same images in the same order, and returns a table: rows
against ``columns``, or against themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from kdnb.errors import InputError
from kdnb.functional import attention_map, cosine_similarity, of_equal_size

Layers = Mapping[str, Tensor]


def raw_cosine(rows: Layers, columns: Layers | None = None) -> pd.DataFrame:
    """Cosine of feature maps (B, C, H, W), mean over the images, from -1 to 1.

    NaN where two layers differ in shape: there it is not defined. After a ReLU it is never negative.
    This is the reading of FFSD's Tab. IV that fits its values: the last maps of two students. It
    compares channel with channel, and nothing ties channel 7 of one network to channel 7 of another.

    Raises InputError when the layers are not of equally many images.
    """

    def cosine(a: Tensor, b: Tensor) -> float:
        _require_same_images(a, b)
        return cosine_similarity(a, b).mean().item() if a.shape == b.shape else float("nan")

    return _table(cosine, rows, rows if columns is None else columns)


def attention_cosine(rows: Layers, columns: Layers | None = None, *, power: float = 2.0) -> pd.DataFrame:
    """Cosine of attention maps of layers (B, C, H, W), mean over the images, from 0 to 1.

    Attention maps have no channels, so any two layers can be compared; the larger is averaged down
    to the smaller size. They have no negative values either, so that unrelated layers are far from 0.

    Raises InputError when the layers are not of equally many images.
    """

    def cosine(a: Tensor, b: Tensor) -> float:
        _require_same_images(a, b)
        return cosine_similarity(*of_equal_size(a, b)).mean().item()

    columns = rows if columns is None else columns
    maps = [{name: attention_map(x, power=power) for name, x in layers.items()} for layers in (rows, columns)]
    return _table(cosine, *maps)


def pairs_by_stage(
    learners: Mapping[str, Sequence[Tensor]], cosine: Callable[[Layers, Layers], pd.DataFrame]
) -> pd.DataFrame:
    """``raw_cosine`` or ``attention_cosine`` of every two learners at the same stage: rows are the pairs.

    learners: the maps (B, C, H, W) of each one's stages. The last column, a control, is that of the
    last stage with the pair's second learner shown another image: what remains has nothing to do with
    what is in the image.
    """
    last = [maps[-1] for maps in learners.values()]
    columns = {f"stage {number}": maps for number, maps in enumerate(zip(*learners.values(), strict=True), 1)}
    pairs, table = list(combinations(range(len(learners)), 2)), {}
    for name, maps in columns.items():
        table[name] = [cosine({"": maps[a]}, {"": maps[b]}).iloc[0, 0] for a, b in pairs]
    table["another image"] = [cosine({"": last[a]}, {"": last[b].roll(1, 0)}).iloc[0, 0] for a, b in pairs]
    names = list(learners)
    return pd.DataFrame(table, [f"{names[a]} – {names[b]}" for a, b in pairs])


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Debiased linear CKA of features (N, ...) of the same N images: at most 1; near 0 if unrelated.

    It compares which images resemble which. It does not change when features are rotated, scaled as
    a whole or shifted, nor when both sets of images are reordered alike. 0 for constant features.
    A few hundred images are enough: the Gram matrices are (N, N).

    Raises InputError for fewer than 4 images, or unequal numbers.
    Source: Kornblith et al., 2019; Nguyen et al., 2021; the unbiased HSIC of Song et al., 2012.
    Differs: written as the cosine of U-centred Gram matrices, which is the same (Székely and Rizzo,
    2014).
    """
    _require_same_images(x, y)
    return torch.dot(_centred_gram(x), _centred_gram(y)).item()


def cka_matrix(rows: Layers, columns: Layers | None = None) -> pd.DataFrame:
    """``linear_cka`` of every layer of ``rows`` with every layer of ``columns``, (N, ...) each."""
    columns = rows if columns is None else columns
    for a in rows.values():
        for b in columns.values():
            _require_same_images(a, b)
    grams = ({name: _centred_gram(x) for name, x in layers.items()} for layers in (rows, columns))
    return _table(lambda a, b: torch.dot(a, b).item(), *grams)


def _centred_gram(x: Tensor) -> Tensor:
    """U-centred Gram matrix of (N, ...), flattened, of length 1: (N N,). Zeros for constant features."""
    count = len(x)
    if count < 4:
        raise InputError(f"CKA without bias needs at least 4 images, found {count}; some hundred are better.")
    x = x.detach().cpu().double().flatten(1)
    x = x - x[:1]  # a shift spares rounding, and changes nothing else
    gram = (x @ x.T).fill_diagonal_(0)
    sums = gram.sum(1) / (count - 2)
    gram = gram - sums[:, None] - sums + sums.sum() / (count - 1)
    gram = gram.fill_diagonal_(0).flatten()
    length = torch.linalg.vector_norm(gram)
    return gram / length if length > 0 else gram


def _require_same_images(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b):
        raise InputError(
            f"Layers of {len(a)} and of {len(b)} images cannot be compared; give both the same images."
        )


def _table(measure: Callable[[Tensor, Tensor], float], rows: Layers, columns: Layers) -> pd.DataFrame:
    values = [[measure(a, b) for b in columns.values()] for a in rows.values()]
    return pd.DataFrame(values, list(rows), list(columns))
