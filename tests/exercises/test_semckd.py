"""The answer key of notebook 04 is the library."""

import torch

from kdnb.exercises.semckd import EXERCISES
from kdnb.methods.semckd import LayerAttention


def test_the_association_is_what_the_method_computes():
    torch.manual_seed(0)
    attention = LayerAttention(2, 3, 8)
    student, teacher = ([torch.randn(8, 4, 2, 2) for _ in range(layers)] for layers in (2, 3))
    similarity = EXERCISES["batch_similarity"].reference
    queries = attention.queries(torch.stack([similarity(maps) for maps in student]))
    keys = attention.keys(torch.stack([similarity(maps) for maps in teacher]))
    torch.testing.assert_close(EXERCISES["association"].reference(queries, keys), attention(student, teacher))
