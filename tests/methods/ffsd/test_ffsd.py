import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from kdnb.errors import InputError
from kdnb.method import ledger
from kdnb.methods import FFSD
from kdnb.methods.families.online import LEADERS, ramp_up
from kdnb.networks import Network, Tapped, build, cost
from kdnb.testing import contract
from kdnb.train import evaluate, train

LABELS = [torch.tensor([3, 14, 15, 92]), torch.tensor([6, 53, 58, 97])]
# Logged by the authors' code in float64 (methods/README.md, Golden values), weights included: step 1, step 2.
PUBLISHED = {
    "student1/label": (5.11418928865, 4.67528685264),
    "student1/mutual": (0.369708545889, 0.263244333042),
    "student2/label": (4.30859609198, 4.0362851553),
    "student2/mutual": (0.367596378534, 0.267863918666),
    "student2/diversity": (0.0105202493755, 0.00194787511942),
    "student2/self": (3.35101894728e-08, 3.76776745249e-08),
    "distiller2/feature": (0.236249453477, 0.243820206771),
    "distiller2/attention": (4.83882819059, 5.60196696022),
    "fusion/label": (4.5896029765, 4.56307131242),
    "fusion/soft": (0.300357398189, 0.212975202147),
    "leader/label": (4.64798112693, 4.11587894881),
    "leader/soft": (0.20869389287, 0.119281147378),
    "leader/fusion": (0.118375224577, 0.150336764874),
    "leader/decoder": (0.106607261103, 0.138770917912),
    "leader/self": (0.0433432939938, 0.0563326912052),
    "leader_distiller/feature": (0.243088758855, 0.235976921936),
    "leader_distiller/attention": (4.24500578881, 4.79933253615),
}
SIZES = {
    "student1": 18119.0703676,
    "student2": 18138.1771656,
    "leader": 19323.1984126,
    "fusion": 2357.13805542,
    "distiller2": 1377.08934988,
    "leader_distiller": 1375.40319417,
}


def network(number: int) -> Network:
    return build("resnet8", classes=10, seed=number)


def wave(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    return scale * torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)


def parts(method: FFSD) -> dict[str, list[nn.Module]]:
    """What learns apart from the others; the order of the names is the published order of steps."""
    return {
        "student1": [method.students[0]],
        "student2": [method.students[1]],
        "fusion": [method.fusion],
        "leader": [method.leader, method.decoder],
        "distiller2": [method.distillers[0]],
        "leader_distiller": [method.leader_distiller],
    }


def filled(method: FFSD) -> FFSD:
    """With the weights of the end-to-end run."""
    phases = {"student1": 0, "student2": 1, "leader": 2, "fusion": 3, "distiller2": 4, "leader_distiller": 5}
    for name, modules in parts(method.double()).items():
        for module in (inner for part in modules for inner in part.modules()):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                outgoing = module.out_channels if isinstance(module, nn.Conv2d) else module.in_channels
                scale = math.sqrt(2) * math.sqrt(2 / (math.prod(module.kernel_size) * outgoing))
                _set(module.weight, phases[name], scale)
            elif isinstance(module, nn.Linear):
                _set(module.weight, phases[name], 0.2)
                _set(module.bias, phases[name], 0.05)
    return method


def _set(parameter: Tensor, phase: int, scale: float) -> None:
    with torch.no_grad():
        parameter.copy_(wave(tuple(parameter.shape), 0.37, phase, scale))


def resnet20_run() -> FFSD:
    return filled(FFSD(lambda number: build("resnet20", classes=100, seed=number)))


IMAGES = [wave((4, 3, 32, 32), 0.013, 0.5), wave((4, 3, 32, 32), 0.017, 0.9)]


def test_the_end_to_end_run_of_two_steps():
    method = resnet20_run().train()
    optimizers = method.optimizers(0.001)
    for step, (images, labels) in enumerate(zip(IMAGES, LABELS, strict=True)):
        terms = method.losses(images, labels, 10.0)
        assert terms.keys() == PUBLISHED.keys()
        for name, values in PUBLISHED.items():
            assert terms[name].item() == pytest.approx(values[step], rel=1e-8), (name, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(terms.values()).backward()
        for optimizer in optimizers:
            optimizer.step()
    for name, modules in parts(method).items():
        found = sum(p.abs().sum().item() for module in modules for p in module.parameters())
        assert found == pytest.approx(SIZES[name], rel=1e-8), name


def test_one_backward_equals_the_published_order_bit_for_bit():
    """Loss, backward and step of one part after the other, as published, or all at once."""
    once, apart = resnet20_run().train(), resnet20_run().train()
    together = once.optimizers(0.01)
    alone = {}
    for name, modules in parts(apart).items():
        learning = [parameter for module in modules for parameter in module.parameters()]
        decay = 1e-5 if name == "fusion" else 1e-4
        alone[name] = SGD(learning, 0.01, momentum=0.9, weight_decay=decay, nesterov=True)
        if "distiller" in name:
            alone[name] = Adam(learning, 1e-3, weight_decay=decay)
    for images, labels in zip(IMAGES, LABELS, strict=True):
        for optimizer in together:
            optimizer.zero_grad()
        sum(once.losses(images, labels, 10.0).values()).backward()
        for optimizer in together:
            optimizer.step()
        terms = apart.losses(images, labels, 10.0)
        for name, optimizer in alone.items():
            optimizer.zero_grad()
            sum(term for key, term in terms.items() if key.startswith(f"{name}/")).backward()
            optimizer.step()
    for (name, ours), theirs in zip(once.state_dict().items(), apart.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("diversity", ["shift", "consistent", "l2", "none"])
@pytest.mark.parametrize("self_distillation", ["both", "none"])
def test_contract(batch, diversity, self_distillation):
    method = FFSD(network, diversity=diversity, self_distillation=self_distillation)
    assert len(contract(method, *batch)) == 10


@pytest.mark.parametrize("leader", LEADERS)
def test_contract_of_the_leaders(batch, leader):
    contract(FFSD(network, leader=leader, students=3), *batch)


@pytest.mark.parametrize(
    "name", ["wrn_16_1", "vgg8", "mobilenetv2", "shufflenetv2", "densenet_40_12", "googlenet"]
)
def test_any_network_can_be_shared(name):
    size = 48 if name == "mobilenetv2" else 16
    images, labels = (
        torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)),
        torch.arange(4),
    )
    method = FFSD(lambda number: build(name, classes=10, seed=number))
    terms = method.train().losses(images, labels, 10.0)
    assert all(term.isfinite() for term in terms.values())
    assert terms.keys() == PUBLISHED.keys()
    assert torch.equal(method.eval().export()(images), method.outputs(images)["leader"])


@pytest.mark.parametrize("students", [2, 3, 6])
def test_every_student_but_the_first_looks_away_from_the_one_before_it(batch, students):
    table = ledger(FFSD(network, students=students), *batch, epoch=10)
    for number in range(2, students + 1):
        for term in ("diversity", "self"):
            reached = table.loc[f"student{number}/{term}"]
            assert list(reached.index[reached > 0]) == [f"students.{number - 1}"]
    assert not {"student1/diversity", "student1/self"} & set(table.index)


def test_who_teaches_whom(batch):
    """The graphs are disjoint: a term of one learner reaches that learner alone."""
    table = ledger(FFSD(network), *batch, epoch=10)
    homes = {
        "student1": {"students.0"},
        "student2": {"students.1"},
        "fusion": {"fusion"},
        "leader": {"leader", "decoder"},
        "distiller2": {"distillers.0"},
        "leader_distiller": {"leader_distiller"},
    }
    for term, row in table.iterrows():
        reached = set(row.index[row > 0])
        assert reached, term
        assert reached <= homes[term.split("/")[0]], term


def test_published_weights_leave_diversity_far_below_the_labels():
    """methods/README.md, FFSD: an untrained resnet32 and 64 images give 3.3e-5 and 2.2e-8 against 3.8."""
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16)
    table = ledger(FFSD(lambda n: build("resnet8", classes=100, seed=n)), images, labels, epoch=10)
    label, diversity, carried = (
        table.loc[f"student2/{term}", "students.1"] for term in ("label", "diversity", "self")
    )
    assert 1e-6 < diversity / label < 1e-3
    assert carried / label < 1e-6


def test_the_ramp_is_the_published_one():
    found = [ramp_up(epoch, 5) for epoch in (0, 0.99, 1, 2, 3, 4, 5, 100)]
    expected = [0.040762, 0.040762, 0.165299, 0.449329, 0.818731, 1, 1, 1]
    assert found == pytest.approx(expected, abs=5e-7)
    assert ramp_up(0, 0) == 1


def test_the_ramp_scales_the_weighted_terms_alone(batch):
    method = FFSD(network).train()
    first, last = (copy.deepcopy(method).losses(*batch, epoch) for epoch in (0, 10))
    for name in PUBLISHED:
        ramped = name.split("/")[1] not in ("label", "mutual", "soft")
        factor = ramp_up(0, 5) if ramped else 1
        assert first[name].item() == pytest.approx(factor * last[name].item(), rel=1e-5), name


def test_without_self_distillation_l2_looks_at_all_stages(batch):
    """Eq. 6: minus the distance of unit attention maps, at every stage; with it, at the last one."""
    from kdnb.methods.families.online import attention_distance
    from kdnb.methods.ffsd.diversity import stages

    for self_distillation, seen in (("none", slice(None)), ("both", slice(-1, None))):
        method = FFSD(network, diversity="l2", self_distillation=self_distillation, diversity_weight=2.0)
        first, second = (stages(f)[seen] for f in method.train().features(batch[0]))
        distances = [attention_distance(a, b) for a, b in zip(second, first, strict=True)]
        found = copy.deepcopy(method).losses(*batch, 10.0)["student2/diversity"]
        torch.testing.assert_close(found, -2 * sum(distances))


def test_optimizers_are_the_published_ones():
    method = FFSD(network)
    sgd, adam = method.optimizers(0.1)
    assert [group["weight_decay"] for group in sgd.param_groups] == [1e-4, 1e-5]
    assert all(group["nesterov"] and group["lr"] == 0.1 for group in sgd.param_groups)
    assert set(sgd.param_groups[1]["params"]) == set(method.fusion.parameters())
    [group] = adam.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-4)
    distillers = {*method.distillers.parameters(), *method.leader_distiller.parameters()}
    assert set(group["params"]) == distillers


def test_outputs_and_union(batch):
    method = FFSD(network, students=3).eval()
    outputs = method.outputs(batch[0])
    assert list(outputs) == ["student1", "student2", "student3", "ensemble", "fusion", "leader"]
    mean = sum(outputs[f"student{number}"] for number in (1, 2, 3)) / 3
    torch.testing.assert_close(outputs["ensemble"], mean)
    labels = torch.stack([outputs["student1"].argmax(1)[:4], outputs["student2"].argmax(1)[4:]]).flatten()
    found = evaluate(method, [(batch[0], labels)], precision="fp32")
    assert found["union"] == 100
    assert found["student1"] >= 50


def test_export_is_the_leader_without_its_decoder():
    method = FFSD(network)
    plain = build("resnet8", classes=10)
    plain.load_state_dict(method.export().state_dict())
    assert method.export() is method.leader


def test_training_moves_everything_and_repeats_to_the_bit(batch):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        method = FFSD(network)
        before = {name: value.clone() for name, value in method.state_dict().items()}
        [*_] = train(method, [batch], epochs=2, lr=0.01, precision="fp32")
        states.append(method.state_dict())
    moved = [name for name, value in states[0].items() if not torch.equal(value, before[name])]
    assert len(moved) == len(before)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_look_leaves_no_trace(batch):
    method = FFSD(network, students=3).train()
    before = copy.deepcopy(method.state_dict())
    attention, wanted = method.attention(batch[0]), method.diversity_targets(batch[0])
    shift, carried = method.shift(batch[0]), method.self_distilled(batch[0])
    assert list(attention) == ["student1", "student2", "student3", "leader"]
    assert [map.shape for map in attention["leader"]] == [(8, 16, 16), (8, 8, 8), (8, 4, 4)]
    assert list(wanted) == list(shift) == ["student2", "student3"]
    assert list(carried) == ["student2", "student3", "leader"]
    assert [map.shape for map in carried["leader"]] == [(8, 16, 16, 16), (8, 32, 8, 8)]
    torch.testing.assert_close(wanted["student3"].attention.flatten(1).norm(dim=1), torch.ones(8))
    assert all(module.training for module in method.modules())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    swapped = FFSD(network, students=2)
    swapped.students = method.students[1::-1]
    torch.testing.assert_close(swapped.shift(batch[0])["student2"][-1], -shift["student2"][-1])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet20", 287_476), ("resnet32", 481_908), ("densenet_40_12", 1_523_140), ("googlenet", 8_371_012)],
)
def test_a_leader_with_its_decoder_has_the_published_size(name, parameters):
    """methods/README.md, Networks, FFSD's own."""
    method = FFSD(lambda number: build(name, classes=100, seed=number), self_distillation="none")
    learning = [*method.leader.parameters(), *method.decoder.parameters()]
    assert sum(parameter.numel() for parameter in learning) == parameters


def test_costs_are_table_7s_arithmetic():
    """methods/README.md, FFSD, Tab. VII, for 128 channels and 100 classes: the paper's 0.05 M of fusion are
    its parameters; counted by inputs a self-distiller takes 9.44 M multiply-accumulates, not 14.3."""
    costs = FFSD(lambda number: build("wrn_16_2", classes=100, seed=number)).costs()
    assert costs["network"] == cost(build("wrn_16_2", classes=100))
    assert costs["fusion"].parameters == 48_740
    assert costs["fusion"].macs == 8 * 8 * (256 * 9 + 256 * 128) + 128 * 100
    assert costs["self-distiller"] == (92_352, 9_437_184)
    assert costs["decoder"].macs == 8 * 8 * (128 * 9 + 128 * 256)
    plain = FFSD(network, leader="none", self_distillation="none")
    assert list(plain.costs()) == ["network"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"students": 1}, "2 to 6 networks that teach each other, found 1"),
        ({"students": 7}, "found 7"),
        ({"temperature": 0}, "temperature must be a finite number above 0"),
        ({"diversity_weight": -1}, "diversity_weight must be a finite number, 0 or more"),
        ({"fusion_weight": -1}, "fusion_weight"),
        ({"distiller_weight": float("nan")}, "distiller_weight"),
        ({"diversity": "shifted"}, "Did you mean 'shift'"),
        ({"self_distillation": "leaders"}, "Did you mean 'leader'"),
        ({"leader": "fused"}, "Unknown leader 'fused'"),
        ({"threshold": 1.0}, "threshold must be a share between 0 and 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        FFSD(network, **options)


def test_bad_networks_and_batches(batch):
    images, labels = batch
    with pytest.raises(InputError, match="batch of one image"):
        FFSD(network).train().losses(images[:1], labels[:1], 0.0)
    with pytest.raises(InputError, match="1 x 1 positions leave no background"):
        FFSD(network).train().losses(images[..., :4, :4], labels, 0.0)
    with pytest.raises(InputError, match="does not show its stages"):
        FFSD(lambda number: nn.Linear(2, 2))
    import torchvision

    def jump(number: int) -> Network:
        return Tapped(torchvision.models.resnet18(num_classes=10), "layer1", "layer3", "layer4")

    with pytest.raises(InputError, match="from stage 2 to stage 1"):
        FFSD(jump)
    FFSD(jump, self_distillation="none")


def test_a_state_of_another_number_of_students_is_refused(batch):
    [epoch] = train(FFSD(network), [batch], epochs=1, lr=0.01, precision="fp32")
    with pytest.raises(InputError, match=r"only one of the two has 'distillers.1.blocks.*as many students"):
        next(train(FFSD(network, students=3), [batch], epochs=2, lr=0.01, resume=epoch.state()))
