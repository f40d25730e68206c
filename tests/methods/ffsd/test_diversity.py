import math

import pytest
import torch
from reference import Reference
from torch import Tensor

from kdnb.errors import InputError
from kdnb.functional import attention_map, normalized_mse, unit_vectors
from kdnb.methods.families.online import Fusion, attention_distance, separable
from kdnb.methods.ffsd.diversity import SelfDistiller, carried_back, diversity_loss, diversity_of
from kdnb.networks import Tapped, build


def wave(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    """The generator of methods/README.md, Golden values."""
    return scale * torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)


S1, G = wave((8, 4, 8, 8), 0.11, 0.2), wave((8, 4, 8, 8), 0.19, 0.7)


def test_reference_attention():
    values = Reference("ffsd_attention")
    [student] = values.all("in/student")
    loss = attention_distance(student, values["in/target"])
    loss.backward()
    values.agrees(loss, "out/loss")
    values.agrees(student.grad, "out/grad_student")


def test_reference_diversity():
    values = Reference("ffsd_diversity")
    [student] = values.all("in/student")
    wanted = diversity_of(values["in/peer"])
    loss = diversity_loss(student, wanted.target)
    loss.backward()
    values.agrees(loss, "out/loss")
    values.agrees(student.grad, "out/grad_student")
    values.agrees(wanted.features, "out/shifted_peer_feature")


def test_reference_fusion():
    values = Reference("ffsd_fusion")
    fusion = Fusion(16, 2, 10).double()
    with torch.no_grad():
        fusion.encoder[0].weight.copy_(values["weight/depthwise_conv"])
        fusion.encoder[3].weight.copy_(values["weight/pointwise_conv"])
        fusion.head.weight.copy_(values["weight/fc/weight"])
        fusion.head.bias.copy_(values["weight/fc/bias"])
    fused, logits = fusion(torch.cat([values["in/student1"], values["in/student2"]], 1))
    values.agrees(fused, "out/fused_feature")
    values.agrees(logits, "out/logits")


def test_reference_decoder():
    values = Reference("ffsd_decoder")
    decoder = separable(16, 32).double()
    with torch.no_grad():
        decoder[0].weight.copy_(values["weight/depthwise_conv"])
        decoder[3].weight.copy_(values["weight/pointwise_conv"])
    values.agrees(decoder(values["in/leader"]), "out/decoded_feature")


class Widths:
    """What a self-distiller reads of a network."""

    channels, reductions = (4, 8, 16), (1, 2, 4)
    head = torch.nn.Linear(16, 2)


def test_reference_self_distillation():
    values = Reference("ffsd_self_distillation")
    distiller = SelfDistiller(Widths()).double()
    with torch.no_grad():
        for number, block in enumerate(distiller.blocks):
            block[0].weight.copy_(values[f"weight/block{number}/conv_transpose"])
    shallow, middle = distiller(values["in/deepest_feature"])
    values.agrees(middle, "out/block0")
    values.agrees(shallow, "out/block1")


def test_closed_forms():
    """methods/README.md, Golden values, printed with 12 and 9 digits."""
    student = S1.clone().requires_grad_()
    loss = diversity_loss(student, diversity_of(G).target)
    loss.backward()
    assert loss.item() == pytest.approx(11.4487676746, rel=1e-11)
    assert student.grad.abs().sum().item() == pytest.approx(1.144942035, rel=1e-9)
    assert attention_distance(S1, G).item() == pytest.approx(0.00272707351326, rel=1e-11)
    assert normalized_mse(S1, G).item() == pytest.approx(0.00777959477484, rel=1e-11)
    wanted = diversity_of(G)
    assert wanted.features.abs().sum().item() == pytest.approx(6528.26540507, rel=1e-11)
    row = [0.64421769, 0.77707175, 0.88195781, 5.6764975, 5.65573785, 5.6021294, 5.52364019, 5.42796051]
    torch.testing.assert_close(wanted.features[0, 0, 0].tolist(), row, rtol=0, atol=5e-9)
    assert attention_map(G)[0].norm().item() == pytest.approx(4.44177915875, rel=1e-11)
    assert wanted.attention[0].flatten().kthvalue(21).values.item() == pytest.approx(
        0.0797740224007, rel=1e-11
    )
    assert int(wanted.task[0].sum()) == 43


def test_the_target_by_hand():
    """A 2 x 2 map of one channel: attention 1, 4, 4, 4, of norm 7, threshold at the lowest position."""
    maps = torch.tensor([[[[1.0, 2.0], [2.0, 2.0]]]], dtype=torch.float64)
    wanted = diversity_of(maps)
    assert wanted.task.tolist() == [[[False, True], [True, True]]]
    expected = torch.tensor([[[3.5, 7 - 4 / 7], [7 - 4 / 7, 7 - 4 / 7]]], dtype=torch.float64)
    torch.testing.assert_close(wanted.target, expected)
    torch.testing.assert_close(wanted.features[0, 0], maps[0, 0] + 7 * (expected[0] - wanted.attention[0]))


def test_the_consistent_target_has_unit_norm_and_turns_the_order_round():
    wanted = diversity_of(G, consistent=True)
    torch.testing.assert_close(wanted.target.flatten(1).norm(dim=1), torch.ones(8, dtype=torch.float64))
    for image in range(8):
        task = wanted.task[image]
        order = wanted.attention[image][task].argsort(descending=True)
        ordered = wanted.target[image][task][order]
        assert bool((ordered.diff() >= 0).all())


@pytest.mark.parametrize("consistent", [False, True])
def test_background_keeps_its_features(consistent):
    wanted = diversity_of(G, consistent=consistent)
    start = attention_map(G).flatten(1)
    level = start.kthvalue(21, dim=1).values[:, None]
    background = (start < level).view(8, 1, 8, 8).expand_as(G)
    torch.testing.assert_close(wanted.features[background], G[background], rtol=0, atol=1e-15)
    assert not torch.isclose(wanted.features[~background], G[~background]).any()


def test_the_consistent_variant_does_not_depend_on_scale():
    torch.testing.assert_close(
        diversity_of(3 * G, consistent=True).target, diversity_of(G, consistent=True).target
    )
    assert not torch.allclose(diversity_of(3 * G).target, diversity_of(G).target)


def test_a_map_of_zeros_gives_zeros():
    wanted = diversity_of(torch.zeros(2, 3, 4, 4))
    for part in wanted:
        assert not part.isnan().any()
        assert not part.any()


def test_one_position_is_refused():
    with pytest.raises(InputError, match="1 x 1 positions leave no background"):
        diversity_of(torch.ones(2, 3, 1, 1))


def test_a_self_distiller_gives_the_shapes_of_the_shallow_stages():
    """methods/README.md, FFSD, Modules, for stages of any width that a network declares."""
    sizes = {"resnet20": 23_136, "wrn_16_2": 92_352, "densenet_40_12": 1_753_152, "googlenet": 11_264_576}
    for name, parameters in sizes.items():
        net = build(name, classes=100)
        distiller = SelfDistiller(net)
        assert sum(p.numel() for p in distiller.parameters()) == parameters
        images = torch.zeros(2, 3, 16, 16)
        seen = net.features(images)
        for made, map in zip(distiller(seen.final), seen.maps[:-1], strict=True):
            assert made.shape == map.shape


def test_carrying_back_leaves_no_trace():
    distiller = SelfDistiller(build("resnet8", classes=10)).train()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    maps = carried_back(distiller, torch.randn(2, 64, 8, 8))
    assert not any(map.requires_grad for map in maps)
    assert all(module.training for module in distiller.modules())
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())


def test_stages_of_equal_size_have_a_block_and_a_jump_has_none():
    vgg = build("vgg8", classes=10)
    seen = vgg.features(torch.zeros(2, 3, 32, 32))
    made = SelfDistiller(vgg)(seen.final)
    assert [map.shape for map in made] == [map.shape for map in seen.maps[:-1]]
    torchvision = pytest.importorskip("torchvision")
    jump = Tapped(torchvision.models.resnet18(num_classes=10), "layer2", "layer4")
    with pytest.raises(
        InputError, match="from stage 2 to stage 1 of a Tapped: they divide the image by 32 and by 8"
    ):
        SelfDistiller(jump)


def test_auxiliary_modules_have_the_published_sizes():
    """methods/README.md, FFSD, Modules, for 100 classes and two students."""

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    fusions = {64: 16_228, 128: 48_740, 456: 472_516, 1024: 2_224_228}
    decoders = {64: 9_152, 128: 34_688, 456: 422_712, 1024: 2_112_512}
    assert {channels: size(Fusion(channels, 2, 100)) for channels in fusions} == fusions
    assert {channels: size(separable(channels, 2 * channels)) for channels in decoders} == decoders


def test_initial_spread_counts_the_depthwise_kernels():
    torch.manual_seed(0)
    depthwise, pointwise = (separable(256, 256)[layer].weight for layer in (0, 3))
    assert depthwise.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.1)
    assert pointwise.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)


def test_unit_attention_is_what_is_compared():
    wanted = diversity_of(G)
    torch.testing.assert_close(wanted.attention.flatten(1), unit_vectors(attention_map(G)))
