import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from kdnb.datasets import Batches
from kdnb.errors import InputError
from kdnb.functional import kd_loss, label_loss
from kdnb.method import ledger
from kdnb.methods import ECD, LabelsOnly
from kdnb.methods.ecd.links import watched
from kdnb.networks import Tapped, build, cost
from kdnb.networks.dynamic import DynamicAdditiveConv, convolutions
from kdnb.testing import contract
from kdnb.train import evaluate, train

LAST_BLOCK = ("stages.2.0.conv2", "stages.2.0.shortcut.0")  # they reach the teacher by their links alone


def make(name: str = "resnet8", *, student: nn.Module | None = None, **options) -> ECD:
    torch.manual_seed(5)
    return ECD(student or build(name, classes=10), **options)


def doubled(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch[0].double(), batch[1]


def gradients(term: Tensor, net: nn.Module) -> dict[str, Tensor | None]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


def kernels(net: nn.Module) -> list[str]:
    return [f"{path}.weight" for path in convolutions(net)]


def silence(method: ECD) -> None:
    """The teacher's kernels become 0, and all else that it has in common with the student the student's."""
    mine, student = method.teacher.state_dict(), method.student.state_dict()
    method.teacher.load_state_dict(mine | {name: student[name] for name in mine.keys() & student.keys()})
    with torch.no_grad():
        for module in method.teacher.modules():
            if isinstance(module, DynamicAdditiveConv):
                for parameter in (module.weight, module.experts, module.bias):
                    if parameter is not None:
                        parameter.zero_()


# The invariants of ECD, numbered as in methods/README.md, section ECD


def test_1_the_student_neither_sees_the_teacher_nor_teaches_it(batch):
    method = make().train()
    alone = copy.deepcopy(method.student)
    assert torch.equal(method.outputs(batch[0])["student"], alone(batch[0]))
    for name, tensor in alone.state_dict().items():  # the running statistics too
        assert torch.equal(tensor, method.student.state_dict()[name])
    found = gradients(method.losses(*batch, 0.0)["student/label"], method.teacher)
    assert set(found.values()) == {None}


@pytest.mark.parametrize("detached", [False, True])
def test_2_the_teachers_loss_reaches_every_student_convolution_unless_links_are_detached(batch, detached):
    method = make(detached_links=detached).train()
    found = gradients(method.losses(*batch, 0.0)["teacher/label"], method.student)
    for name in kernels(method.student):
        assert (found[name] is None) if detached else found[name].any(), name


def test_3_a_link_brings_back_what_arrives_at_the_teachers_convolution(batch):
    """dL_t/dz_s = dL_t/dz_t, bit for bit, where no other way leads from z_s to the teacher."""
    method, (images, labels) = make().double().train(), doubled(batch)
    with watched(method.teacher, method.paths) as given:
        _, logits, seen = method._merged(images, 1.0)
    ends = [use.origin for use in given.values()]
    arriving = dict(zip(given, torch.autograd.grad(label_loss(logits, labels), ends), strict=True))
    assert len(arriving) == len(seen) == len(method.paths)
    for path, (own, total, _) in method.link_gradients(images, labels).items():
        assert own.any()
        assert torch.equal(own, arriving[path]), path
        assert torch.equal(own, total) == (path in LAST_BLOCK), path


def test_4_a_silent_teacher_answers_as_the_student(batch):
    method = make().double().train()
    silence(method)
    outputs = method.outputs(batch[0].double())
    torch.testing.assert_close(outputs["teacher"], outputs["student"], rtol=0, atol=1e-15)


def test_5_what_the_teacher_costs():
    method = make(experts=4, computation="grouped")
    convs = convolutions(method.student)
    kernel_numbers = sum(conv.weight.numel() for conv in convs.values())
    attention = {
        path: [m for m in method.teacher.get_submodule(path).attention.modules() if isinstance(m, nn.Linear)]
        for path in convs
    }
    linear = [layer for layers in attention.values() for layer in layers]
    student, teacher = cost(method.student), cost(method.teacher)
    extra = 4 * kernel_numbers
    assert teacher.parameters == student.parameters + extra + sum(
        p.numel() for layer in linear for p in layer.parameters()
    )
    assert teacher.macs == student.macs + extra + sum(layer.weight.numel() for layer in linear)
    assert (student.parameters, teacher.parameters) == (78_042, 387_318)  # methods/README.md, ECD


def test_6_removal_leaves_the_student_as_it_was_bit_for_bit(batch):
    method = make()
    for _ in train(method, [batch] * 3, epochs=1, lr=0.01, precision="fp32"):
        pass
    method.eval()
    before, after = method.logits_before_and_after_removal(batch[0])
    plain = build("resnet8", classes=10, seed=3).eval().to(memory_format=torch.channels_last)  # as trained
    plain.load_state_dict(method.export().state_dict())  # strict: no key of the teacher, none missing
    assert torch.equal(before, after)
    assert torch.equal(before, plain(batch[0]))


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2"])
def test_7_one_link_for_each_convolution_of_equal_shape_and_weights_that_sum_to_1(batch, name):
    method = make(name, experts=3).eval()
    with watched(method.teacher, method.paths) as given:
        _, _, seen = method._merged(batch[0], 1.0)
    modules = [m for m in method.student.modules() if isinstance(m, nn.Conv2d)]
    assert len(method._linked(seen)) == len(given) == len(modules)
    for path, use in seen.items():
        assert use.input.shape == given[path].input.shape
        assert use.output.shape == given[path].output.shape
    weights = method.expert_weights(batch[0])
    assert list(weights) == list(seen)
    for found in weights.values():
        assert found.shape == (8, 3)
        torch.testing.assert_close(found.sum(1), torch.ones(8))


# The options


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"links": "last"},
        {"links": "none"},
        {"detached_links": True, "link_scale": 0.5},
        {"learnable_scale": True},
        {"soft_weight": 0.5, "anneal_epochs": 3},
        {"experts": 1, "computation": "stacked"},
    ],
)
def test_it_keeps_the_contract(batch, options):
    assert len(contract(make(**options), *batch)) == 10


def test_terms_are_the_weighted_losses(batch):
    method = make(label_weight=0.3, teacher_weight=2.0, soft_weight=0.7, temperature=3.0).eval()
    terms, outputs = method.losses(*batch, 0.0), method.outputs(batch[0])
    student, teacher = outputs["student"], outputs["teacher"]
    torch.testing.assert_close(terms["student/label"], 0.3 * label_loss(student, batch[1]))
    torch.testing.assert_close(terms["teacher/label"], 2.0 * label_loss(teacher, batch[1]))
    torch.testing.assert_close(terms["student/soft"], 0.7 * kd_loss(student, teacher, 3.0))
    assert set(gradients(terms["student/soft"], method.teacher).values()) == {None}


@pytest.mark.parametrize(
    "options",
    [{"links": "none"}, {"detached_links": True}, {"link_scale": 0.0}, {"teacher_weight": 0.0}],
)
def test_without_the_teachers_gradient_the_step_is_the_baselines_bit_for_bit(batch, options):
    stepped = []
    for method in (make(**options), LabelsOnly(build("resnet8", classes=10))):
        (optimizer,) = method.optimizers(0.1)
        sum(method.losses(*batch, 0.0).values()).backward()
        optimizer.step()
        stepped.append(method.student.state_dict())
    assert all(torch.equal(value, stepped[1][name]) for name, value in stepped[0].items())


def test_the_ledger_shows_a_one_way_street(batch):
    norms = ledger(make(soft_weight=1.0), *batch)
    assert list(norms.columns) == ["student", "teacher"]
    assert (norms["student"] > 0).all()
    assert norms["teacher"].gt(0).to_dict() == {
        "student/label": False,
        "teacher/label": True,
        "student/soft": False,
    }


def test_another_teacher_gives_another_gradient(batch):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        method = ECD(build("resnet8", classes=10))
        found.append(gradients(method.losses(*batch, 0.0)["teacher/label"], method.student)["stem.0.weight"])
    assert not torch.allclose(*found)


def test_only_linked_convolutions_have_a_gradient_of_their_own(batch):
    found = make(links="last").link_gradients(*batch)
    own = [path for path, gradient in found.items() if gradient.own.any()]
    assert own == [f"stages.{i}.0.conv2" for i in range(3)]
    assert found["stem.0"].total.any()  # through the deeper links
    assert not any(g.total.any() for g in make(links="none").link_gradients(*batch).values())
    assert not any(g.own.any() for g in make(detached_links=True).link_gradients(*batch).values())


def test_the_labels_gradient_stands_beside_the_teachers(batch):
    """As in a student that has never met a teacher, and untouched by the weights of the terms."""
    method = make(label_weight=0.5, teacher_weight=3.0)
    alone = copy.deepcopy(method.student).train()
    with watched(alone, method.paths) as seen:
        logits = alone(batch[0])
    wanted = torch.autograd.grad(label_loss(logits, batch[1]), [use.origin for use in seen.values()])
    found = method.link_gradients(*batch).values()
    assert all(torch.equal(gradient.label, alike) for gradient, alike in zip(found, wanted, strict=True))
    for gradient, other in zip(found, make().link_gradients(*batch).values(), strict=True):
        assert torch.equal(gradient.total, other.total)


def test_links_are_chosen_by_path(batch):
    found = make(links=("stem", "stages.1.0.shortcut")).link_gradients(*batch)
    own = [path for path, gradient in found.items() if gradient.own.any()]
    assert own == ["stem.0", "stages.1.0.shortcut.0"]
    assert found["stages.0.0.conv2"].total.any()
    assert not found["stages.2.0.conv1"].total.any()  # no link behind it
    method = make(links=("stem", "stages"))
    assert all(map(torch.equal, method.outputs(batch[0]).values(), make().outputs(batch[0]).values()))


def test_a_convolution_that_does_not_learn_is_linked_and_has_no_gradient(batch):
    student = build("resnet8", classes=10)
    student.stem.requires_grad_(False)
    method = make(student=student)
    assert set(method.paths) - set(method.link_gradients(*batch)) == {"stem.0"}
    silence(method.eval())
    assert torch.equal(*method.outputs(batch[0]).values())


def test_the_scale_scales_what_arrives_and_what_returns(batch):
    images, labels = doubled(batch)
    method = make(learnable_scale=True, link_scale=0.25).double()
    fixed = make(link_scale=0.25).double()
    assert method.link_scale.tolist() == [0.25] * len(method.paths)
    assert torch.equal(method.eval().outputs(images)["teacher"], fixed.eval().outputs(images)["teacher"])
    deepest = LAST_BLOCK[0]
    assert method.link_gradients(images, labels)[deepest].own.any()
    with torch.no_grad():
        method.link_scale[method.paths.index(deepest)] = 0.0
        after = method.link_gradients(images, labels)
    assert not after.pop(deepest).own.any()
    assert all(gradient.own.any() for gradient in after.values())


def test_the_attention_is_annealed_from_30():
    method = make(anneal_epochs=10, attention_temperature=2.0)
    found = [method.attention_temperature_at(epoch) for epoch in (0.0, 5.0, 10.0, 1e3)]
    assert found == [30.0, 16.0, 2.0, 2.0]
    assert make(attention_temperature=2.0).attention_temperature_at(0.0) == 2.0


def test_annealing_changes_the_teacher_not_the_student(batch):
    method = make(anneal_epochs=10).eval()
    early, late = method.losses(*batch, 0.0), method.losses(*batch, 10.0)
    assert early["teacher/label"] != late["teacher/label"]
    assert early["student/label"] == late["student/label"]
    assert label_loss(method.outputs(batch[0])["teacher"], batch[1]) == late["teacher/label"]


def test_expert_weights_depend_on_the_image(batch):
    found = make().expert_weights(batch[0])["stages.1.0.conv1"]
    assert found.shape == (8, 4)
    assert found.std(0).min() > 0
    flat = make(attention_temperature=1e6).expert_weights(batch[0])["stages.1.0.conv1"]
    torch.testing.assert_close(flat, torch.full((8, 4), 0.25))


def test_one_expert_is_a_static_teacher_whose_attention_does_not_learn(batch):
    method = make(experts=1)
    contract(method, *batch)
    assert all((weights == 1).all() for weights in method.expert_weights(batch[0]).values())


def test_the_two_computations_give_one_method(batch):
    images, labels = doubled(batch)
    found = []
    for computation in ("grouped", "stacked"):
        method = make(computation=computation).double()
        found.append(gradients(sum(method.losses(images, labels, 0.0).values()), method))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-9, atol=1e-12)


# Any student


class Reader(nn.Module):
    """A network as a reader may write it: dilated, biased, in place, without batch norm or stages."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 5, stride=2, padding=2, padding_mode="reflect"), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=4), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 12, (1, 3)), nn.ReLU(inplace=True)),
        )
        self.classify = nn.Conv2d(12, 10, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.body(images)).mean((2, 3))


def theirs(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=10)


STUDENTS = {
    **{name: lambda name=name: build(name, classes=10) for name in ("resnet8", "wrn_16_1", "vgg8")},
    **{name: lambda name=name: build(name, classes=10) for name in ("mobilenetv2", "shufflenetv2")},
    "torchvision resnet18": lambda: theirs("resnet18"),
    "torchvision mobilenet_v2": lambda: theirs("mobilenet_v2"),  # depthwise, dropout
    "torchvision regnet_x_400mf": lambda: theirs("regnet_x_400mf"),  # groups of 16
    "torchvision squeezenet1_1": lambda: theirs("squeezenet1_1"),  # bias, no batch norm, no linear layer
    "torchvision mobilenet_v3_small": lambda: theirs("mobilenet_v3_small"),  # squeeze and excitation
    "torchvision convnext_tiny": lambda: theirs("convnext_tiny"),  # bare parameters, 7 x 7 depthwise
    "tapped": lambda: Tapped(theirs("resnet18"), "layer1", "layer4"),
    "the reader's own": Reader,
}


@pytest.mark.parametrize("name", STUDENTS)
def test_any_student_learns_from_its_teacher_and_leaves_without_it(name):
    images, labels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(2)
    student = STUDENTS[name]()
    method = make(student=student, experts=2).train()
    names = list(student.state_dict())
    terms = method.losses(images, labels, 0.0)
    found = gradients(terms["teacher/label"], method.student)
    assert all(found[weight].any() for weight in kernels(student))
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    assert torch.equal(*method.logits_before_and_after_removal(images))
    assert method.export() is student
    assert list(student.state_dict()) == names
    assert not any(module._forward_hooks for module in student.modules())


def test_an_in_place_relu_behind_a_convolution_does_not_spoil_its_link(batch):
    """Links carry what the convolution gave, before the ReLU: a silent teacher answers as the student."""
    method = make(student=Reader()).eval()
    silence(method)
    outputs = method.outputs(batch[0])
    assert torch.equal(outputs["teacher"], outputs["student"])


def test_it_trains_in_bf16_and_in_fp64(batch):
    pixels = torch.randint(0, 256, (16, 16, 16, 3), dtype=torch.uint8)
    batches = Batches(pixels, torch.arange(16) % 10, 8, (0.5,) * 3, (0.25,) * 3)
    for precision in ("bf16", "fp64"):
        method = make(soft_weight=1.0, learnable_scale=True)
        for epoch in train(method, batches, epochs=2, lr=0.01, precision=precision):
            assert epoch.losses.keys() == {"student/label", "teacher/label", "student/soft"}
        assert evaluate(method, batches, precision="fp32").keys() == {"student", "teacher"}


def test_the_ambient_seed_decides_and_looking_leaves_no_trace(batch):
    method, again = make().train(), make()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in before.items())
    method.expert_weights(batch[0])
    method.link_gradients(*batch)
    method.logits_before_and_after_removal(batch[0])
    assert all(torch.equal(tensor, method.state_dict()[name]) for name, tensor in before.items())
    assert all(module.training for module in method.modules())
    assert not any(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 0}, "experts must be a whole number from 1 to 256, found 0"),
        ({"experts": 10**6}, "experts must be a whole number from 1 to 256, found 1000000"),
        ({"experts": 2.5}, r"experts must be a whole number from 1 to 256, found 2\.5"),
        ({"attention_temperature": 0.0}, "attention's temperature must be"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
        ({"links": "lst"}, "Did you mean 'last'"),
        ({"links": ("lst",)}, "Did you mean 'last'"),  # as the command line reads it
        ({"links": ("stem", "stages.3")}, r"Unknown links 'stages\.3'. Did you mean 'stages"),
        ({"links": ("stem", "all")}, "Unknown links 'all'"),
        ({"links": ""}, "Unknown links ''"),
        ({"links": ()}, "links is an empty tuple"),
        ({"computation": "stack"}, "Did you mean 'stacked'"),
        ({"links": "none", "learnable_scale": True}, "nothing to learn"),
        *[
            ({name: -1}, f"{name} must be .* found -1")
            for name in ("label_weight", "teacher_weight", "soft_weight", "link_scale", "anneal_epochs")
        ],
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


class Calling(nn.Module):
    """Two convolutions, called as ``call`` says."""

    def __init__(self, call) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)
        self.call = call

    def forward(self, x):
        return self.call(self, x)


def pooled(net: Calling, maps):
    return net.head(maps.mean((2, 3)))


def test_a_convolution_may_be_called_by_keyword(batch):
    by_position = Calling(lambda net, x: pooled(net, net.second(net.first(x))))
    by_keyword = Calling(lambda net, x: pooled(net, net.second(input=net.first(input=x))))
    by_keyword.load_state_dict(by_position.state_dict())
    terms = [make(student=student).losses(*batch, 0.0) for student in (by_position, by_keyword)]
    assert terms[0] == terms[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: pooled(net, net.second(net.second(net.first(x)))), "'second' runs twice"),
        (lambda net, x: pooled(net, net.first(x)), "'second' did not run"),
        (lambda net, x: pooled(net, F.conv2d(net.first(x), net.second.weight)), "'second' did not run"),
        (lambda net, x: {"out": pooled(net, net.second(net.first(x)))}, "gives a dict; ECD needs its logits"),
    ],
)
def test_students_that_cannot_be_linked_are_refused_by_name(batch, call, message):
    with pytest.raises(InputError, match=message):
        make(student=Calling(call)).outputs(batch[0])


def test_unfit_students_are_refused_by_name():
    with pytest.raises(InputError, match=r"A Sequential has no nn\.Conv2d"):
        ECD(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    with pytest.raises(InputError, match=r"is itself an nn\.Conv2d"):
        ECD(nn.Conv2d(3, 10, 8))
    shared = nn.Conv2d(3, 3, 1)
    method = ECD(nn.Sequential(shared, shared, nn.Flatten()))  # one module with two names: copied as one
    with pytest.raises(InputError, match="'0' runs twice"):
        method.outputs(torch.randn(2, 3, 2, 2))
    tied = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="'0' and '1' share one weight"):
        ECD(tied)
