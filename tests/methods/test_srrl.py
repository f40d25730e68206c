import copy

import pytest
import torch
import torchvision
from reference import Reference, wave

from kdnb.errors import InputError
from kdnb.method import ledger
from kdnb.methods import KD, SRRL, LabelsOnly
from kdnb.methods.srrl import Connector, feature_matching_loss, softmax_regression_loss
from kdnb.networks import Tapped, build
from kdnb.testing import contract


def make(**options) -> SRRL:
    student, teacher = build("resnet8", classes=10), build("resnet14", classes=10, seed=1)
    return SRRL(student, teacher, **options)


def official() -> tuple[Reference, Connector, torch.nn.Linear]:
    reference = Reference("srrl")
    connector, head = Connector(12, 20).double(), torch.nn.Linear(20, 10).double()
    with torch.no_grad():
        connector[0].weight.copy_(reference["weight/connector/conv"])
        head.weight.copy_(reference["weight/teacher_fc/weight"])
        head.bias.copy_(reference["weight/teacher_fc/bias"])
    return reference, connector, head.requires_grad_(False)


def test_reference_values():
    reference, connector, head = official()
    student = reference["in/student"].clone().requires_grad_()
    embedding = reference["in/teacher"].mean((2, 3))
    connected = connector(student).mean((2, 3))
    matching = feature_matching_loss(connected, embedding)
    regression = softmax_regression_loss(connected, head, head(embedding))
    (matching + regression).backward()
    reference.agrees(matching, "out/loss_feature_matching")
    reference.agrees(regression, "out/loss_softmax_regression")
    reference.agrees(matching + regression, "out/loss")
    reference.agrees(student.grad, "out/grad_student")
    reference.agrees(connector[0].weight.grad, "out/grad_connector_conv")


@pytest.mark.parametrize(
    ("pool", "matching", "regression"),
    [
        ("after", 0.976877150584, 0.17990281274),
        ("before", 0.991425583722, 0.186447930478),
    ],
)
def test_closed_form_of_both_orders_of_pooling(pool, matching, regression):
    """methods/README.md, Golden values: s3 to t3, on the method's own path."""
    student, teacher = wave((8, 8, 2, 2), 0.17, 0.5), wave((8, 10, 2, 2), 0.29, 1.3).mean((2, 3))
    head = torch.nn.Linear(10, 10).double()
    connector = Connector(8, 10).double()
    with torch.no_grad():
        head.weight.copy_(wave((10, 10), 0.37, 1, 0.2))
        head.bias.copy_(wave((10,), 0.37, 1, 0.05))
        connector[0].weight.copy_(wave((10, 8, 1, 1), 0.37, 0, 0.2))
    method = make(pool=pool)
    method.connector = connector
    connected = method._connect(student, student.mean((2, 3)))
    assert feature_matching_loss(connected, teacher).item() == pytest.approx(matching, rel=1e-9)
    found = softmax_regression_loss(connected, head, head(teacher)).item()
    assert found == pytest.approx(regression, rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "before"},
        {"feature_weight": 0.0},
        {"regression_weight": 0.0},
        {"soft_weight": 1.0},
        {"feature_weight": 0.0, "regression_weight": 0.0},
        {"feature_weight": 0.0, "regression_weight": 0.0, "soft_weight": 1.0},
    ],
)
def test_it_keeps_the_contract(batch, options):
    assert len(contract(make(**options), *batch)) == 10


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "mobilenetv2"])
def test_any_of_our_networks_teaches_and_learns(batch, name):
    contract(SRRL(build(name, classes=10), build("resnet8", classes=10)), *batch)
    contract(SRRL(build("resnet8", classes=10), build(name, classes=10)), *batch)


def test_torchvisions_networks_teach(batch):
    teacher = Tapped(torchvision.models.resnet18(weights=None, num_classes=10), "layer4")
    contract(SRRL(build("resnet8", classes=10), teacher), *batch)


def test_each_loss_alone_leaves_the_other_out(batch):
    assert set(make(feature_weight=0.0).losses(*batch, 0.0)) == {"student/label", "student/regression"}
    assert set(make(regression_weight=0.0).losses(*batch, 0.0)) == {"student/label", "student/feature"}


def test_the_students_head_moves_by_the_labels_only(batch):
    norms = ledger(make(), *batch, parts=("student.head",))
    assert norms.loc["student/label", "student.head"] > 0
    assert (norms.loc[["student/feature", "student/regression"], "student.head"] == 0).all()
    assert (norms["teacher"] == 0).all()
    assert (norms.loc[["student/feature", "student/regression"], ["student", "connector"]] > 0).all(axis=None)


def test_regression_is_0_where_the_heads_answer_is_the_teachers_though_features_differ():
    """The head judges: an error in its null space costs nothing, any other one does."""
    _, _, head = official()
    embedding = torch.randn(4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unseen = torch.linalg.svd(head.weight)[2][-1]
    seen = torch.linalg.svd(head.weight)[2][0]
    logits = head(embedding)
    assert softmax_regression_loss(embedding + unseen, head, logits).item() == pytest.approx(0, abs=1e-20)
    assert feature_matching_loss(embedding + unseen, embedding).item() == pytest.approx(1 / 20)
    assert softmax_regression_loss(embedding + seen, head, logits).item() > 1e-3


def test_identical_features_cost_nothing():
    reference, _, head = official()
    embedding = reference["in/teacher"].mean((2, 3))
    assert feature_matching_loss(embedding, embedding).item() == 0
    assert softmax_regression_loss(embedding, head, head(embedding)).item() == 0


@pytest.mark.parametrize("soft", [0.0, 0.9])
def test_without_its_terms_the_step_is_that_of_labels_or_kd_bit_for_bit(batch, soft):
    off = make(feature_weight=0.0, regression_weight=0.0, soft_weight=soft)
    student, teacher = build("resnet8", classes=10), build("resnet14", classes=10, seed=1)
    plain = KD(student, teacher, label_weight=1.0, soft_weight=soft) if soft else LabelsOnly(student)
    stepped = []
    for method in (off, plain):
        (optimizer,) = method.optimizers(0.1)
        terms = method.losses(*batch, 0.0)
        sum(terms.values()).backward()
        optimizer.step()
        stepped.append((list(terms), method.student.state_dict()))
    assert stepped[0][0] == stepped[1][0]
    assert all(torch.equal(value, stepped[1][1][name]) for name, value in stepped[0][1].items())


def test_without_its_terms_there_is_no_connector():
    off = make(feature_weight=0.0, regression_weight=0.0)
    assert not [name for name, _ in off.named_parameters() if "connector" in name]
    with pytest.raises(InputError, match="SRRL has no connector"):
        off.connected_logits(torch.randn(2, 3, 16, 16))


def test_connected_logits_are_what_the_teachers_head_says(batch):
    method = make().eval()
    features = method.student.features(batch[0])
    expected = method.teacher.head(method.connector(features.final).mean((2, 3)))
    assert torch.equal(method.connected_logits(batch[0]), expected)


def test_looking_leaves_no_trace(batch):
    method = make().train()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.connected_logits(batch[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())
    assert method.connector.training


def test_a_single_value_cannot_be_normalised(batch):
    with pytest.raises(InputError, match="no single image over"):
        make(pool="before").losses(batch[0][:1], batch[1][:1], 0.0)


def test_unfit_teachers_are_refused():
    teacher = copy.deepcopy(build("resnet8", classes=10))
    teacher.head = torch.nn.Conv2d(64, 10, 1)
    with pytest.raises(InputError, match="head is a Conv2d; SRRL needs a linear layer"):
        SRRL(build("resnet8", classes=10), teacher)
    with pytest.raises(InputError, match="Wrap it: Tapped"):
        SRRL(build("resnet8", classes=10), torchvision.models.resnet18(weights=None, num_classes=10))
    with pytest.raises(InputError, match="'after'"):
        make(pool="aftr")


def test_a_trainable_teacher_is_frozen():
    method = make()
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not method.train().teacher.training
