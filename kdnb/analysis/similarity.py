"""How similar the layers of two networks, or of one, are: cosines of their maps, and debiased linear CKA.

The functions that return a table take layers by name. All layers must come from the same images in the same
order. The rows of the table are compared with ``columns``, or with each other if no columns are given.
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
    """The cosine of the feature maps of two layers, as a mean over the images.

    Maps after a ReLU never give a negative cosine. Applied to the last maps of two students, this measure
    is the reading of FFSD's Tab. IV that fits its values. It compares each channel with the channel of the
    same number, but nothing makes channel 7 of one network correspond to channel 7 of another.

    Args:
        rows: Maps (B, C, H, W) by name.

        columns: Maps (B, C, H, W) by name, or None to compare ``rows`` with each other.

    Returns:
        A table of cosines from -1 to 1. An entry is NaN where the shapes of the two layers differ.

    Raises:
        InputError: If two layers come from different numbers of images.
    """

    def cosine(a: Tensor, b: Tensor) -> float:
        _require_same_images(a, b)
        return cosine_similarity(a, b).mean().item() if a.shape == b.shape else float("nan")

    return _table(cosine, rows, rows if columns is None else columns)


def attention_cosine(rows: Layers, columns: Layers | None = None, *, power: float = 2.0) -> pd.DataFrame:
    """The cosine of the attention maps of two layers, as a mean over the images.

    Attention maps have no channels, so any two layers can be compared. The larger map is averaged to the
    size of the smaller one. Attention maps have no negative values, so even unrelated layers have a cosine
    well above 0.

    Args:
        rows: Maps (B, C, H, W) by name.

        columns: Maps (B, C, H, W) by name, or None to compare ``rows`` with each other.

        power: The power of ``kdnb.functional.attention_map``.

    Returns:
        A table of cosines from 0 to 1.

    Raises:
        InputError: If two layers come from different numbers of images.
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
    """Compares every two learners at the same stage.

    Args:
        learners: The maps (B, C, H, W) of the stages of each learner, by the name of the learner.

        cosine: ``raw_cosine`` or ``attention_cosine``.

    Returns:
        A table with a row for each pair of learners, a column for each stage, and a last column
        ``another image``. This column is a control: it compares the last stages when the second learner
        sees another image. The similarity that remains has nothing to do with the content of the image.
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
    """The debiased linear CKA of two sets of features of the same images.

    CKA compares which images the two layers represent similarly. It does not change if features are
    rotated, scaled as a whole or shifted, nor if the images of both sets are reordered in the same way. A
    few hundred images are enough. The Gram matrices have N x N entries.

    Args:
        x: Features of N images, (N, ...).

        y: Features of the same images, (N, ...). The other dimensions may differ from those of ``x``.

    Returns:
        The similarity: at most 1, near 0 for unrelated features, and 0 for constant features.

    Raises:
        InputError: If there are fewer than 4 images, or if the numbers of images differ.

    Example:
        >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> round(linear_cka(x, 3 * x + 1), 6)
        1.0

    Source:
        Kornblith et al., Similarity of Neural Network Representations Revisited, 2019; Nguyen et al., Do Wide
        and Deep Networks Learn the Same Things?, 2021; the unbiased HSIC is that of Song et al., 2012.

    Differs:
        It is written as the cosine of U-centred Gram matrices, which gives the same value (Székely and
        Rizzo, 2014).
    """
    _require_same_images(x, y)
    return torch.dot(_centred_gram(x), _centred_gram(y)).item()


def cka_matrix(rows: Layers, columns: Layers | None = None) -> pd.DataFrame:
    """The debiased linear CKA of every two layers.

    Args:
        rows: Features (N, ...) by name.

        columns: Features (N, ...) by name, or None to compare ``rows`` with each other.

    Returns:
        A table of similarities, as ``linear_cka`` gives them.

    Raises:
        InputError: If there are fewer than 4 images, or if the numbers of images differ.
    """
    columns = rows if columns is None else columns
    for a in rows.values():
        for b in columns.values():
            _require_same_images(a, b)
    grams = ({name: _centred_gram(x) for name, x in layers.items()} for layers in (rows, columns))
    return _table(lambda a, b: torch.dot(a, b).item(), *grams)


def _centred_gram(x: Tensor) -> Tensor:
    """The U-centred Gram matrix of features (N, ...), as a vector (N N,) of norm 1.

    Constant features give zeros.
    """
    count = len(x)
    if count < 4:
        raise InputError(f"CKA without bias needs at least 4 images, found {count}; some hundred are better.")
    x = x.detach().cpu().double().flatten(1)
    x = x - x[:1]  # this shift reduces rounding errors and changes nothing else
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
    """The measure of every row with every column."""
    values = [[measure(a, b) for b in columns.values()] for a in rows.values()]
    return pd.DataFrame(values, list(rows), list(columns))
