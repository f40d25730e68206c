import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdnb.analysis import association_bounds
from kdnb.errors import InputError
from kdnb.methods import SemCKD
from kdnb.methods.semckd import VARIANTS, batch_similarity, cross_layer_loss, ranked_similarity
from kdnb.networks import Network, build
from kdnb.testing import contract
from kdnb.train import train

VALUES = np.load(Path(__file__).parents[1] / "fixtures" / "semckd.npz")
STUDENT = [torch.from_numpy(VALUES[f"in/student{i}"]) for i in range(3)]
TEACHER = [torch.from_numpy(VALUES[f"in/teacher{j}"]) for j in range(4)]


class Shaped(Network):
    """A network that only declares shapes."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.channels = tuple(map.shape[1] for map in maps)
        self.reductions = tuple(8 // map.shape[2] for map in maps)
        self.classes = 10


def official() -> SemCKD:
    """With the weights of the reference values."""
    method = SemCKD(Shaped(STUDENT), Shaped(TEACHER), 8).double()
    with torch.no_grad():
        for side, mlp, layers in (("query", method.attention.queries, 3), ("key", method.attention.keys, 4)):
            for layer in range(layers):
                for number in (1, 2):
                    at = f"weight/{side}{layer}/linear{number}"
                    getattr(mlp, f"weight{number}")[layer] = torch.from_numpy(VALUES[f"{at}/weight"])
                    getattr(mlp, f"bias{number}")[layer, 0] = torch.from_numpy(VALUES[f"{at}/bias"])
        for name, projector in method.projectors.items():
            for layer, part in ((0, "conv1x1_in"), (3, "conv3x3"), (6, "conv1x1_out")):
                projector[layer].weight.copy_(torch.from_numpy(VALUES[f"weight/projection{name}/{part}"]))
    return method


def make(variant: str = "learned", **options) -> SemCKD:
    student, teacher = build("resnet8", classes=10, seed=0), build("resnet14", classes=10, seed=1)
    return SemCKD(student, teacher, 8, variant=variant, **options)


def loss_of(method: SemCKD, student: list[Tensor]) -> Tensor:
    weights = method._weights(student, TEACHER)
    return cross_layer_loss(method._distances(student, TEACHER), weights)


def close(found: Tensor, key: str) -> None:
    torch.testing.assert_close(found, torch.from_numpy(np.asarray(VALUES[key])), rtol=1e-9, atol=1e-14)


def test_reference_values():
    method, student = official(), [map.clone().requires_grad_() for map in STUDENT]
    loss = loss_of(method, student)
    loss.backward()
    close(loss.detach(), "out/loss")
    close(method._weights(STUDENT, TEACHER).detach(), "out/attention")
    for i in range(3):
        close(student[i].grad, f"out/grad_student{i}")
    close(method.attention.queries.weight1.grad[0], "out/grad_query0_linear1_weight")
    close(method.projectors["0_1"][3].weight.grad, "out/grad_projection0_1_conv3x3")


def test_closed_form():
    """methods/README.md, Golden values: three student and three teacher layers of other sizes."""

    def wave(shape, a, b, scale=1.0):
        return scale * torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)

    student = [wave((8, 4, 8, 8), 0.11, 0.2), wave((8, 6, 4, 4), 0.13, 0.3), wave((8, 8, 2, 2), 0.17, 0.5)]
    teacher = [wave((8, 5, 8, 8), 0.19, 0.7), wave((8, 8, 4, 4), 0.23, 1.1), wave((8, 10, 2, 2), 0.29, 1.3)]
    method = SemCKD(Shaped(student), Shaped(teacher), 8).double()
    with torch.no_grad():
        for projector in method.projectors.values():
            for layer in (0, 3, 6):
                projector[layer].weight.copy_(wave(projector[layer].weight.shape, 0.37, 0, 0.2))
        for mlp in (method.attention.queries, method.attention.keys):
            for layer in range(3):
                for weight, bias in ((mlp.weight1, mlp.bias1), (mlp.weight2, mlp.bias2)):
                    weight[layer] = wave(weight[layer].shape, 0.37, 0, 0.2)
                    bias[layer, 0] = wave(bias[layer, 0].shape, 0.37, 0, 0.05)
    leaves = [map.requires_grad_() for map in student]
    weights = method._weights(leaves, teacher)
    loss = cross_layer_loss(method._distances(leaves, teacher), weights)
    loss.backward()
    assert loss.item() == pytest.approx(0.478217356712, rel=1e-9)
    sums = [leaf.grad.abs().sum().item() for leaf in leaves]
    assert sums == pytest.approx([0.1289164477, 0.7456624628, 0.02582903206], rel=1e-8)
    assert weights[0, 0].tolist() == pytest.approx([0.35188011, 0.3082216, 0.33989828], abs=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_keeps_the_contract(variant, batch):
    assert len(contract(make(variant), *batch)) == 10


@pytest.mark.parametrize(
    ("student", "teacher", "variant"),
    [
        ("resnet8", "mobilenetv2", "learned"),
        ("vgg8", "resnet8", "learned"),
        ("wrn_16_1", "mobilenetv2", "learned"),
        ("resnet8", "vgg8", "fixed"),
        ("vgg8", "resnet8", "fixed"),
        ("wrn_16_1", "mobilenetv2", "fixed"),
    ],
)
def test_any_number_of_layers_of_any_size(student, teacher, variant, batch):
    method = SemCKD(build(student, classes=10), build(teacher, classes=10), 8, variant=variant)
    contract(method, *batch)
    shape = 8, len(method.student.channels), len(method.teacher.channels)
    assert method.association(batch[0]).shape == shape


def test_rows_sum_to_one_within_the_bounds(batch):
    method = make()
    weights = method.association(batch[0])
    torch.testing.assert_close(weights.sum(2), torch.ones(8, 3))
    low, high = association_bounds(3)
    assert low <= weights.min() < weights.max() <= high
    assert (low, high) == pytest.approx((0.0634, 0.7870), abs=5e-5)


def test_the_association_depends_on_the_image(batch):
    assert make().association(batch[0]).std(0).min() > 0


def test_controls_have_constant_weights(batch):
    uniform, fixed = (make(variant).association(batch[0])[3] for variant in ("uniform", "fixed"))
    torch.testing.assert_close(uniform, torch.full((3, 3), 1 / 3))
    assert torch.equal(fixed, torch.eye(3))
    assert len(make("fixed").projectors) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_in_float64(variant, batch):
    terms = make(variant).double().losses(batch[0].double(), batch[1], 0.0)
    assert {term.dtype for term in terms.values()} == {torch.float64}


def test_fixed_pairs_end_at_the_deepest_layer():
    student, teacher = build("resnet8", classes=10), build("vgg8", classes=10)
    fixed = SemCKD(student, teacher, 8, variant="fixed").association(torch.randn(8, 3, 16, 16))[0]
    assert fixed.argmax(1).tolist() == [1, 2, 3]
    turned = SemCKD(teacher, student, 8, variant="fixed").association(torch.randn(8, 3, 16, 16))[0]
    assert turned.argmax(1).tolist() == [0, 1, 2, 2]


def test_shuffled_gives_every_image_weights_of_the_batch(batch):
    """Learned and shuffled differ in the loss alone, and only by who gets whose weights."""
    learned, shuffled = make(), make("shuffled")
    shuffled.load_state_dict(learned.state_dict())
    torch.manual_seed(0)
    terms = [method.losses(*batch, 0.0)["student/cross_layer"] for method in (learned, shuffled)]
    assert not torch.equal(*terms)
    assert torch.equal(learned.association(batch[0]), shuffled.association(batch[0]))
    torch.manual_seed(0)
    assert torch.equal(shuffled.losses(*batch, 0.0)["student/cross_layer"], terms[1])


def test_weights_learn_from_the_distances(batch):
    """The association is not detached: it moves to lower the loss."""
    make_gradient = make()
    make_gradient.losses(*batch, 0.0)["student/cross_layer"].backward()
    assert make_gradient.attention.keys.weight1.grad.abs().sum() > 0


def test_a_batch_of_another_size_is_told_the_remedy(batch):
    images, labels = batch
    with pytest.raises(InputError, match=r"batches of 8 images and got 5.*drop_last=True"):
        make().losses(images[:5], labels[:5], 0.0)
    for variant in VARIANTS:
        with pytest.raises(InputError, match="got 5"):
            make(variant).association(images[:5])


def test_training_drops_the_incomplete_batch_and_inspection_fills_it(batch):
    from kdnb.datasets import Batches

    pixels = torch.randint(0, 256, (21, 16, 16, 3), dtype=torch.uint8)
    batches = Batches(pixels, torch.arange(21) % 10, 8, (0.5,) * 3, (0.25,) * 3)
    method = make()
    (epoch,) = train(method, batches, epochs=1, lr=0.001)
    assert all(math.isfinite(loss) for loss in epoch.losses.values())
    assert method.associations(batches).shape == (21, 3, 3)


def test_filled_batches_keep_the_weights_of_whole_ones(batch):
    method, images = make().eval(), batch[0]
    whole = method.associations([(images, None)])
    assert torch.equal(whole, method.association(images))
    repeated = method.association(images[torch.arange(8) % 5])[:5]
    assert torch.equal(method.associations([(images[:5], None)]), repeated)


def test_without_the_term_the_step_is_kds_bit_for_bit(batch):
    from kdnb.methods import KD

    gradients = []
    for method in (
        make(cross_layer_weight=0.0),
        KD(
            build("resnet8", classes=10),
            build("resnet14", classes=10, seed=1),
            label_weight=1.0,
            soft_weight=1.0,
        ),
    ):
        sum(method.losses(*batch, 0.0).values()).backward()
        gradients.append([parameter.grad for parameter in method.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_looking_leaves_no_trace(batch):
    method = make().train()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.association(batch[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert method.student.training


def test_permuting_the_batch_changes_the_association(batch):
    """Rows of the similarity matrix are read by batch position: a fact of the method, shown in 04."""
    images, order = batch[0], torch.arange(8).flip(0)
    method = make().eval()
    assert not torch.allclose(method.association(images[order]), method.association(images)[order], atol=1e-4)


OURS = {"similarity": "ranked", "distance": "relative"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_options_keep_the_contract(variant, batch):
    assert len(contract(make(variant, **OURS), *batch)) == 10


def test_with_ranked_similarities_the_association_moves_along_with_its_image(batch):
    images, order = batch[0], torch.randperm(8, generator=torch.Generator().manual_seed(0))
    method = make(similarity="ranked").double()
    before, after = (method.association(shown.double()) for shown in (images, images[order]))
    torch.testing.assert_close(after, before[order])
    assert before.std(0).min() > 0


def test_ranked_similarities_forget_the_scale_of_a_layer_and_what_all_images_share():
    maps = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranked = ranked_similarity(batch_similarity([maps, 5 * maps + 7]))
    torch.testing.assert_close(ranked[0], ranked[1])
    torch.testing.assert_close(ranked.sum(2), torch.zeros(2, 8, dtype=torch.float64))
    assert (ranked.diff(dim=2) <= 0).all()
    assert ranked[0, :, 0].mean().item() == pytest.approx(1)  # of these images each is most like itself


def test_relative_distances_are_1_on_average_for_every_pair(batch):
    absolute, relative = make(), make(distance="relative")
    relative.load_state_dict(absolute.state_dict())
    student, teacher = absolute.features(batch[0])
    plain, scaled = (method._distances(student.maps, teacher.maps) for method in (absolute, relative))
    torch.testing.assert_close(scaled.mean(0), torch.ones(3, 3))
    torch.testing.assert_close(scaled * plain.mean(0), plain)
    (slope,) = torch.autograd.grad(scaled.sum(), student.maps[2])
    assert slope.abs().sum() > 0  # the mean is a constant, else the sum could not change


def test_relative_distances_of_unused_pairs_are_0(batch):
    method = make("fixed", distance="relative")
    student, teacher = method.features(batch[0])
    torch.testing.assert_close(method._distances(student.maps, teacher.maps).mean(0), torch.eye(3))


@pytest.mark.parametrize("options", [{}, OURS])
def test_constant_images_give_finite_terms(options):
    method = make(**options)
    terms = method.losses(torch.zeros(8, 3, 16, 16), torch.arange(8), 0.0)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


def test_weights_are_not_broadcast():
    with pytest.raises(InputError, match=r"\(2, 3, 4\) and \(1, 3, 4\)"):
        cross_layer_loss(torch.ones(2, 3, 4), torch.ones(1, 3, 4))


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="'learned'"):
        make("lerned")
    with pytest.raises(InputError, match="similarity"):
        make(similarity="rank")
    with pytest.raises(InputError, match="distance"):
        make(distance="relativ")
    with pytest.raises(InputError, match="at least 4, found 2"):
        SemCKD(build("resnet8", classes=10), build("resnet8", classes=10), 2)
    with pytest.raises(InputError, match="cross_layer_weight"):
        make(cross_layer_weight=-1.0)
    with pytest.raises(InputError, match="classes=12"):
        SemCKD(build("resnet8", classes=10), build("resnet8", classes=12), 8)


def test_a_map_of_one_position_is_allowed():
    student, teacher = build("resnet8", classes=10), build("mobilenetv2", classes=10)
    method = SemCKD(student, teacher, 8)
    terms = method.losses(torch.randn(8, 3, 16, 16), torch.arange(8), 0.0)
    assert torch.isfinite(terms["student/cross_layer"])
