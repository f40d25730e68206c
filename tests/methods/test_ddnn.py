import copy

import pytest
import torch
from reference import wave
from torch import Tensor

from kdnb.datasets import Batch, Dataset, Part
from kdnb.errors import InputError
from kdnb.functional import label_loss, mean_squared_error
from kdnb.method import ledger
from kdnb.methods import DDNN, LabelsOnly
from kdnb.methods.ddnn import embedded_attention_loss, embedded_zscore_loss, standardised
from kdnb.networks import DepthNet, Features, build
from kdnb.networks.depth import BATCH_NORM
from kdnb.runs import running
from kdnb.runs.spec import Spec, with_options
from kdnb.testing import contract
from kdnb.train import train
from kdnb.train.cost import step_operations

CUT = {"batch_norm": "shared", "label_weight": 0.0, "soft_weight": 0.0, "attention_weight": 0.0}


def make(**options) -> DDNN:
    return DDNN(build("resnet20", classes=10), **options)


def trained(batch, **options) -> DDNN:
    """After a few steps, so that depths disagree and batch norms are each their own."""
    method = make(**options)
    for _ in train(method, [batch] * 3, epochs=1, lr=0.01, precision="fp32"):
        pass
    return method


def gradients(term: Tensor, method: DDNN) -> dict[str, Tensor | None]:
    named = dict(method.net.named_parameters())
    found = torch.autograd.grad(term, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_norm": "shared"},
        {"soft_weight": 0.0},
        {"attention_weight": 0.0},
        {"label_weight": 0.0},
        {"depths": ((3, 3, 2), (3, 1, 1)), "batch_norm": "shared"},
        CUT,
    ],
)
def test_it_keeps_the_contract(batch, options):
    assert len(contract(make(**options), *batch)) == 10


def test_imagenet_style_networks_learn_too():
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    contract(DDNN(build("resnet34", classes=10), depths=(18,)), images, labels)


# The terms


def unit_maps_differ(own: Features, full: Features) -> Tensor:
    total = 0
    for a, b in zip(own.maps, full.maps, strict=True):
        a, b = (m.square().mean(1).flatten(1) for m in (a, b))
        a, b = (m / m.norm(dim=1, keepdim=True) for m in (a, b))
        total += (a - b).square().mean()
    return total


def standardised_maps_differ(own: Features, full: Features) -> Tensor:
    a, b = (m.maps[-1].sum(1).flatten(1) for m in (own, full))
    a, b = ((m - m.mean(1, keepdim=True)) / m.std(1, keepdim=True) for m in (a, b))
    return (a - b).square().mean()


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
@pytest.mark.parametrize(
    ("attention", "distance"), [("zscore", standardised_maps_differ), ("unit", unit_maps_differ)]
)
def test_terms_by_the_formula(batch, batch_norm, attention, distance):
    """The loss of methods/README.md, DDNN + EKD, written out."""
    images, labels = batch
    options = {"batch_norm": batch_norm, "attention": attention, "temperature": 2.0}
    method = trained(batch, **options, attention_weight=10.0).eval()
    terms = method.losses(images, labels, 0.0)
    full = method.net.full.features(images)
    expected = {"full/label": label_loss(full.logits, labels)}
    for depth in (14, 8):
        own = method.net.at_depth(depth).features(images)
        target, log = (full.logits / 2).softmax(1), (own.logits / 2).log_softmax(1)
        soft = 4 * (target * (target.log() - log)).sum(1).mean()
        expected |= {
            f"depth{depth}/label": label_loss(own.logits, labels),
            f"depth{depth}/soft": soft,
            f"depth{depth}/attention": 10 * distance(own, full),
        }
    assert list(terms) == list(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-4, atol=1e-6)


def test_teaching_rises_with_the_ramp(batch):
    """exp(-5 (1 - e / 4)^2) in epoch e, counted from 1; the labels count in full from the start."""
    plain = make().losses(*batch, 0.0)
    for epoch, factor in ((0.0, 0.0600546), (1.5, 0.2865048), (3.0, 1.0), (9.0, 1.0)):
        for name, term in make(ramp_epochs=4).losses(*batch, epoch).items():
            expected = plain[name] if name.endswith("/label") else factor * plain[name]
            torch.testing.assert_close(term, expected, rtol=1e-5, atol=0)


def test_weights_weigh_and_0_leaves_a_term_out(batch):
    plain = make(attention_weight=10.0).losses(*batch, 0.0)
    doubled = make(label_weight=2.0, soft_weight=3.0, attention_weight=40.0).losses(*batch, 0.0)
    factors = {"label": 2, "soft": 3, "attention": 4}
    for name in list(plain)[1:]:
        torch.testing.assert_close(doubled[name], factors[name.split("/")[1]] * plain[name])
    assert torch.equal(doubled["full/label"], plain["full/label"])
    for option, kind in (
        ("label_weight", "label"),
        ("soft_weight", "soft"),
        ("attention_weight", "attention"),
    ):
        left = set(make(**{option: 0.0}).losses(*batch, 0.0))
        assert left == set(plain) - {f"depth14/{kind}", f"depth8/{kind}"}


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_sub_net_of_full_depth_has_nothing_to_learn_from_the_full_net(batch, batch_norm):
    """methods/README.md, DDNN + EKD, invariant 3."""
    method = trained(batch, batch_norm=batch_norm)
    method.net.subnets["14"] = copy.deepcopy(method.net.full)
    terms = method.train().losses(*batch, 0.0)
    for kind in ("soft", "attention"):
        assert terms[f"depth14/{kind}"].item() == pytest.approx(0, abs=1e-6)
        assert terms[f"depth8/{kind}"].item() > 1e-3


# Who learns from whom


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_the_ledger_is_a_staircase(batch, batch_norm):
    """methods/README.md, DDNN + EKD, invariant 2: a sub-net's terms move its blocks and no others."""
    method = trained(batch, batch_norm=batch_norm)
    blocks = [f"net.full.stages.{stage}.{block}" for stage in range(3) for block in range(3)]
    norms = ledger(method, *batch, parts=blocks)
    for name, row in norms[blocks].iterrows():
        inside = {"full": 3, "depth14": 2, "depth8": 1}[name.split("/")[0]]
        for part, norm in row.items():
            assert (norm > 0) == (int(part[-1]) < inside), (name, part)


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_every_parameter_inside_a_sub_net_moves_and_none_outside(batch, batch_norm):
    """methods/README.md, DDNN + EKD, invariant 2, for each tensor, with the batch norms of other depths."""
    method = trained(batch, batch_norm=batch_norm).train()
    terms = method.losses(*batch, 0.0)
    for depth in (14, 8):
        inside = {id(parameter) for parameter in method.net.at_depth(depth).parameters()}
        named = dict(method.net.named_parameters())
        for name, gradient in gradients(terms[f"depth{depth}/label"], method).items():
            moved = gradient is not None and bool(gradient.any())
            assert moved == (id(named[name]) in inside), name


def test_no_gradient_of_distillation_reaches_the_full_nets_answers(batch, monkeypatch):
    """methods/README.md, DDNN + EKD, invariant 5: logits and maps of the full net are targets only."""
    method, leaves = make(), []
    original = DepthNet.features_at_all

    def watched(net: DepthNet, images: Tensor) -> dict:
        shown = original(net, images)
        full = shown[20]
        leaves[:] = [t.detach().requires_grad_() for t in (full.logits, *full.maps)]
        shown[20] = full._replace(logits=leaves[0], maps=tuple(leaves[1:]))
        return shown

    monkeypatch.setattr(DepthNet, "features_at_all", watched)
    terms = method.losses(*batch, 0.0)
    taught = sum(term for name, term in terms.items() if name.split("/")[1] in ("soft", "attention"))
    found = torch.autograd.grad(taught, leaves, retain_graph=True, allow_unused=True)
    assert found == (None,) * 4
    assert torch.autograd.grad(terms["full/label"], leaves[0])[0].any()


def test_each_term_scales_with_its_own_reduction_only(batch):
    """Showing every image twice changes no term and no gradient."""
    method = make().double()
    images, labels = batch[0].double(), batch[1]
    once = method.losses(images, labels, 0.0)
    twice = method.losses(images.repeat(2, 1, 1, 1), labels.repeat(2), 0.0)
    for name, term in once.items():
        torch.testing.assert_close(term, twice[name], rtol=1e-9, atol=1e-12)


# A step


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_step_is_the_naive_ones(batch, batch_norm, monkeypatch):
    """One pass for all depths, or one after another: the same losses, gradients and statistics."""
    images, labels = batch[0].double(), batch[1]
    found = []
    for naive in (False, True):
        if naive:
            monkeypatch.setattr(
                DepthNet,
                "features_at_all",
                lambda net, x: {depth: net.at_depth(depth).features(x) for depth in net.depths},
            )
        method = make(batch_norm=batch_norm).double()
        terms = method.losses(images, labels, 0.0)
        sum(terms.values()).backward()
        gradients = [parameter.grad for parameter in method.parameters()]
        found.append([*terms.values(), *gradients, *method.buffers()])
    for together, apart in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-12 * max(1, apart.abs().max().item()))


@pytest.mark.parametrize("batch_norm", BATCH_NORM)
def test_a_step_takes_less_arithmetic_than_the_steps_of_its_nets(batch, batch_norm):
    """By all that both sub-nets would repeat: stem and first stage, forward and backward."""
    images, labels = batch
    method, positions = make(batch_norm=batch_norm), 16 * 16
    alone = [LabelsOnly(method.net.export(depth)) for depth in method.net.depths]
    stems, blocks = 2 * 3 * 9 * 16 * positions, (2 + 1) * 2 * 16 * 9 * 16 * positions
    repeated = 2 * len(images) * (2 * stems + 3 * blocks)  # the images need no gradient
    apart = sum(step_operations(net, Batch(images, labels)) for net in alone)
    assert step_operations(method, Batch(images, labels)) == apart - repeated


def test_shared_batch_norm_counts_every_net(batch):
    """methods/README.md, DDNN + EKD, invariant 4."""
    method = make(batch_norm="shared")
    method.losses(*batch, 0.0)
    assert method.net.full.stem[1].num_batches_tracked == 3
    assert method.net.full.stages[2][2].bn2.num_batches_tracked == 1


def test_without_embedded_distillation_the_step_is_labels_only_bit_for_bit(batch):
    states = []
    for method in (make(**CUT), LabelsOnly(build("resnet20", classes=10))):
        for _ in train(method, [batch] * 2, epochs=1, lr=0.01, precision="fp32"):
            pass
        states.append(method.export().state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_cut_network_is_evaluated_without_having_learned(batch):
    method = trained(batch, **CUT).eval()
    outputs = method.outputs(batch[0])
    assert list(outputs) == ["full", "depth14", "depth8"]
    assert torch.equal(outputs["depth8"], method.net.export(8)(batch[0]))


def test_it_learns_at_every_depth(batch):
    method = make()
    for _ in train(method, [batch] * 40, epochs=1, lr=0.05, precision="fp32"):
        pass
    final = method.train().losses(*batch, 0.0)
    for depth in ("full", "depth14", "depth8"):
        assert final[f"{depth}/label"] < 0.5 * torch.tensor(10.0).log()


# From the command line


def test_a_run_is_paired_with_every_other_of_its_seed():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8, generator=generator)
    part = Part(images, torch.arange(20) % 10)
    data = Dataset.of("noise", tuple("abcdefghij"), train=part, validation=part, test=part)
    spec = with_options(Spec("ddnn", student="resnet32", seed=5), ["depths=20,3-2-1", "batch_norm=shared"])
    method, teacher = running.assemble(spec, data)
    alone, _ = running.assemble(Spec("labels-only", student="resnet32", seed=5), data)
    assert teacher is None
    assert method.net.depths == (32, 20, 14)
    assert all(
        torch.equal(tensor, alone.student.state_dict()[name])
        for name, tensor in method.export().state_dict().items()
    )


def test_export_is_the_full_net_as_a_plain_network(batch):
    method = trained(batch).eval()
    plain = build("resnet20", classes=10, seed=4).eval().to(memory_format=torch.channels_last)  # as trained
    plain.load_state_dict(method.export().state_dict())
    assert torch.equal(plain(batch[0]), method.outputs(batch[0])["full"])


@pytest.mark.parametrize("words", ["", "14;8", "14,", "a", "2-2-"])
def test_depths_that_are_no_numbers_are_refused(words):
    with pytest.raises(InputError, match="depths is an int or a tuple of int, found"):
        with_options(Spec("ddnn"), [f"depths={words}"])


def test_depths_are_read_from_words():
    assert with_options(Spec("ddnn"), ["depths=44,32,20"]).options == {"depths": (44, 32, 20)}
    assert with_options(Spec("ddnn"), ["depths=14, 2-2-1"]).options == {"depths": (14, (2, 2, 1))}


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (8, 14)}, "from deep to shallow"),
        ({"depths": (14, 14)}, "each once"),
        ({"depths": (26,)}, "does not lie inside"),
        ({"depths": ()}, "at least one depth"),
        ({"depths": ((4, 1, 1),)}, "does not lie inside"),
        ({"batch_norm": "own"}, "Unknown batch_norm"),
        ({"soft_weight": -1.0}, "soft_weight must be"),
        ({"attention_weight": float("nan")}, "attention_weight must be"),
        ({"ramp_epochs": -1}, "ramp_epochs must be"),
        ({"label_weight": -0.1}, "label_weight must be"),
        ({"temperature": 0.0}, "temperature must be .* above 0"),
        ({"temperature": -4.0}, "temperature must be .* above 0"),
        (CUT | {"batch_norm": "private"}, "would never learn"),
    ],
)
def test_mistakes_are_told(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_unfit_networks_are_told(batch):
    with pytest.raises(InputError, match="kdnb's ResNets, found a WideResNet"):
        DDNN(build("wrn_16_1", classes=10))
    with pytest.raises(InputError, match="choose a deeper network"):
        DDNN(build("resnet8", classes=10))


def test_maps_of_one_position_are_told():
    features = build("resnet20", classes=10).features(torch.randn(2, 3, 4, 4))
    with pytest.raises(InputError, match=r"one position.*attention_weight=0"):
        embedded_attention_loss(features, features)
    with pytest.raises(InputError, match=r"one position.*attention_weight=0"):
        embedded_zscore_loss(features, features)


class TestStandardisedMaps:
    """``attention="zscore"``, the reading inferred from the authors' sister method."""

    def test_the_value_of_the_sister_methods_code(self):
        own = wave((8, 4, 8, 8), 0.11, 0.2).requires_grad_()
        target = wave((8, 4, 8, 8), 0.19, 0.7).requires_grad_()
        loss = mean_squared_error(standardised(own), standardised(target.detach()))
        loss.backward()
        assert loss.item() == pytest.approx(1.95035270771, rel=1e-11)
        assert target.grad is None

    def test_mean_0_and_standard_deviation_1(self):
        maps = standardised(torch.randn(5, 3, 4, 6, dtype=torch.float64))
        torch.testing.assert_close(maps.mean(1), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(maps.std(1), torch.ones(5, dtype=torch.float64))

    def test_a_constant_map_is_0_and_harms_no_gradient(self):
        maps = torch.ones(2, 3, 4, 4, requires_grad=True)
        found = standardised(maps)
        found.sum().backward()
        assert found.abs().max() == 0
        assert maps.grad.isfinite().all()

    def test_only_the_last_stage_counts_and_only_the_sub_net_learns(self):
        own, full = (
            build("resnet8", classes=10, seed=seed).features(torch.randn(4, 3, 16, 16)) for seed in (1, 2)
        )
        wrong = own._replace(maps=(*(map * 2 for map in own.maps[:-1]), own.maps[-1]))
        assert embedded_zscore_loss(own, full) == embedded_zscore_loss(wrong, full) > 0
        assert embedded_zscore_loss(own, own) == 0

    def test_the_contract_holds(self, batch):
        contract(make(attention="zscore"), *batch)

    def test_it_is_chosen_by_name(self, batch):
        torch.manual_seed(0)
        unit, zscore = make(attention="unit"), make()
        terms = [method(Batch(*batch), 0.0)["depth14/attention"].item() for method in (unit, zscore)]
        assert terms[0] != terms[1]
        with pytest.raises(InputError, match=r"Unknown attention 'z-score'. Did you mean 'zscore'"):
            make(attention="z-score")
