"""Notebook 04's exercises: the answer key is the library, other styles pass, and wrong ones get a hint."""

import pytest
import torch
import torch.nn.functional as F

from kdnb.exercises import lesson
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


def picture_by_picture(maps):
    return torch.stack([torch.stack([(a * b).sum() for b in maps]) for a in maps])


def by_loops(queries, keys):
    def unit(vectors):
        return vectors / vectors.norm(dim=2, keepdim=True)

    rows = [torch.stack([(q * k).sum(1) for k in unit(keys)], 1) for q in unit(queries)]  # (B, M) each
    return torch.stack([torch.softmax(row, dim=-1) for row in rows], 1)


def by_cosine_similarity(queries, keys):
    return F.cosine_similarity(queries[:, None], keys[None], dim=-1).permute(2, 0, 1).softmax(-1)


RIGHT = {
    "batch_similarity": [
        lambda maps: maps.flatten(1) @ maps.flatten(1).T,
        lambda maps: torch.einsum("bchw,dchw->bd", maps, maps),
        lambda maps: (maps.reshape(len(maps), -1) @ maps.reshape(len(maps), -1).mT).float(),
        picture_by_picture,
    ],
    "association": [by_loops, by_cosine_similarity, lambda q, k: by_loops(q, k).float()],
    "cross_layer_loss": [
        lambda d, w: (w * d).sum() / (d.shape[0] * d.shape[1]),
        lambda d, w: (w * d).sum() / w.sum(),
        lambda d, w: ((w * d).sum(2) / w.sum(2)).mean(),
        lambda d, w: torch.einsum("bsm,bsm->bs", d, w).mean(),
        lambda d, w: (w * d).sum(-1).mean(0).mean().float(),
    ],
    "who_shares_out": [
        lambda energies: energies.softmax(-1),
        lambda energies: energies.exp() / energies.exp().sum(2, keepdim=True),
        lambda energies: F.log_softmax(energies, dim=2).exp(),
    ],
}


@pytest.mark.parametrize(("name", "function"), [(name, f) for name, all in RIGHT.items() for f in all])
def test_right_answers_in_other_styles_pass(name, function, capsys):
    assert lesson("04").check(name, function) is function
    assert capsys.readouterr().out.startswith(f"[passed] {name}")


WRONG = [
    ("batch_similarity", lambda maps: torch.cdist(maps.flatten(1), maps.flatten(1)), "R = maps.flatten(1)"),
    ("association", lambda q, k: by_loops(q, k.detach()), "no gradient reaches the keys"),
    ("association", lambda q, k: by_loops(q.detach(), k), "no gradient reaches the queries"),
    ("cross_layer_loss", lambda d, w: (w * d).sum() / 8, "(weights * distances).sum(2).mean()"),
    ("who_shares_out", lambda energies: energies.detach().softmax(2), "no gradient reaches the energies"),
    ("who_shares_out", lambda energies: energies.softmax(2)[:, :3, :3], "must become weights that sum to 1"),
]


@pytest.mark.parametrize(("name", "function", "hint"), WRONG)
def test_what_only_looks_right_gets_a_hint(name, function, hint, capsys):
    assert lesson("04").check(name, function) is not function
    line = capsys.readouterr().out
    assert line.startswith(f"[try again] {name}")
    assert hint in line
