"""The exercises of notebook 02: right answers in other styles pass, wrong ones that once passed fail."""

import copy

import pytest
import torch
from torch import nn

from kdnb.exercises import lesson
from kdnb.exercises.looking_inside import EXERCISES, u_centred


def verdict(name: str, attempt, capsys) -> str:
    lesson("02").check(name, attempt)
    return capsys.readouterr().out.split("]")[0].removeprefix("[")


def by_loop(maps, power):
    batch, channels, height, width = maps.shape
    found = torch.zeros(batch, height, width)
    for c in range(channels):
        found += maps[:, c].abs() ** power / channels
    return found


def shares_by_einsum(maps, masks):
    return torch.einsum("bhw,bhw->b", maps, masks.float()) / torch.einsum("bhw->b", maps)


def shares_by_list(maps, masks):
    return [float(m[k].sum() / m.sum()) for m, k in zip(maps, masks, strict=True)]


def above_by_roll(maps, masks):
    def inside(masks):
        return (maps * masks).sum((1, 2)) / maps.sum((1, 2))

    others = [inside(masks.roll(step, 0)) for step in range(1, len(masks))]
    return inside(masks) - torch.stack(others).mean(0)


def above_by_matrix(maps, masks):
    maps = maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True)
    shares = maps @ masks.flatten(1).float().T
    own = shares.diagonal()
    return own - (shares.sum(1) - own) / (len(maps) - 1)


def cka_by_hsic(x, y):
    a, b = (u_centred(z.flatten(1) @ z.flatten(1).T) for z in (x, y))
    return torch.trace(a @ b) / torch.sqrt(torch.trace(a @ a) * torch.trace(b @ b))


def cka_of_centred_features(x, y):
    a, b = (u_centred((z - z.mean(0)) @ (z - z.mean(0)).T) for z in (x.flatten(1), y.flatten(1)))
    return ((a / a.norm()) * (b / b.norm())).sum().item()


def read_through_a_copy(model, path, images):
    kept = []

    def hook(module, inputs, output):
        kept.append(output)
        return output.clone()  # the rest of the model writes into this one

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        model(images)
    finally:
        handle.remove()
    return kept[0]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("attention_map", by_loop),
        ("attention_map", lambda maps, power: (maps.abs() ** power).sum(1) / maps.shape[1]),
        ("attention_map", lambda maps, power: maps.double().abs().pow(power).mean(dim=1)),
        ("mass_inside", shares_by_einsum),
        ("mass_inside", shares_by_list),
        ("mass_inside", lambda maps, masks: (maps.double() * masks.double()).sum((1, 2)) / maps.sum((1, 2))),
        ("above_others", above_by_roll),
        ("above_others", above_by_matrix),
        ("linear_cka", cka_by_hsic),
        ("linear_cka", cka_of_centred_features),
        ("tap_before_relu", read_through_a_copy),
    ],
)
def test_right_answers_in_other_styles_pass(name, right, capsys):
    assert verdict(name, right, capsys) == "passed"


def read_on_a_detached_model(model, path, images):
    with torch.no_grad():
        return EXERCISES["tap_before_relu"].reference(model, path, images)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("attention_map", lambda maps, power: maps.pow(power).mean(1)),
        ("attention_map", lambda maps, power: maps.clamp(min=0).pow(power).mean(1)),
        ("mass_inside", lambda maps, masks: ((maps * masks).sum((1, 2)) / maps.sum((1, 2)))[:, None]),
        ("above_others", lambda maps, masks: torch.zeros(len(maps))),
        ("linear_cka", lambda x, y: torch.tensor(1.0)),
        ("tap_before_relu", read_on_a_detached_model),
    ],
)
def test_wrong_answers_fail(name, wrong, capsys):
    assert verdict(name, wrong, capsys) == "try again"


def test_a_tap_must_not_leave_a_changed_model_behind(capsys):
    def read(model, path, images):
        for name, module in list(model.named_children()):
            if isinstance(module, nn.ReLU):
                setattr(model, name, nn.ReLU())
        return EXERCISES["tap_before_relu"].reference(model, path, images)

    lesson("02").check("tap_before_relu", read)
    assert "[try again]" in capsys.readouterr().out


def test_a_tap_on_a_copy_of_the_model_passes(capsys):
    def read(model, path, images):
        return EXERCISES["tap_before_relu"].reference(copy.deepcopy(model), path, images)

    assert verdict("tap_before_relu", read, capsys) == "passed"
