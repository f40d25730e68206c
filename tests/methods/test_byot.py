import pytest
import torch

from kdnb.errors import InputError
from kdnb.functional import label_loss
from kdnb.method import ledger
from kdnb.methods import BYOT, LabelsOnly
from kdnb.methods.byot import Exit, squared_distance
from kdnb.networks import build
from kdnb.testing import contract


def make(name: str = "resnet20", **options) -> BYOT:
    return BYOT(build(name, classes=10), **options)


@pytest.mark.parametrize("options", [{}, {"soft_weight": 0.0}, {"feature_weight": 0.0}])
def test_it_keeps_the_contract(batch, options):
    assert len(contract(make(**options), *batch)) == 10


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "mobilenetv2"])
def test_any_of_our_networks_can_be_its_own_teacher(batch, name):
    method = make(name)
    contract(method, *batch)
    assert len(method.exits) == len(method.student.channels) - 1


def test_terms_by_the_formula(batch):
    images, labels = batch
    method = make(label_weight=0.7, soft_weight=0.3, feature_weight=0.01, temperature=2.0).eval()
    terms = method.losses(images, labels, 0.0)
    full = method.student.features(images)
    expected = {"full/label": 0.7 * label_loss(full.logits, labels)}
    for number in (1, 2):
        shallow = method.exits[number - 1]
        embedding = shallow.bottleneck(full.maps[number - 1]).mean((2, 3))
        logits = shallow.head(embedding)
        target, log = (full.logits / 2).softmax(1), (logits / 2).log_softmax(1)
        expected |= {
            f"exit{number}/label": 0.7 * label_loss(logits, labels),
            f"exit{number}/soft": 0.3 * 4 * (target * (target.log() - log)).sum(1).mean(),
            f"exit{number}/feature": 0.01 * (embedding - full.embedding).square().sum(1).mean(),
        }
    assert list(terms) == list(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-5, atol=1e-7)


def test_the_deepest_classifier_teaches_and_is_not_pulled(batch):
    norms = ledger(make(), *batch, parts=("student.head", "student.stages.2", "student.stages.0"))
    taught = [name for name in norms.index if name.startswith("exit")]
    assert (norms.loc[taught, ["student.head", "student.stages.2"]] == 0).all(axis=None)
    assert (norms.loc[taught, "student.stages.0"] > 0).all()
    assert (norms.loc["full/label", ["exits.0", "exits.1"]] == 0).all()
    assert norms.loc["exit1/soft", "exits.0"] > 0
    assert norms.loc["exit1/soft", "exits.1"] == 0


def test_without_its_exits_it_is_labels_only(batch):
    method, alone = make(label_weight=1.0), LabelsOnly(build("resnet20", classes=10))
    assert torch.equal(method.losses(*batch, 0.0)["full/label"], alone.losses(*batch, 0.0)["student/label"])
    assert method.export() is method.student


def test_exits_reduce_as_the_rest_of_the_network_does():
    exits, net = make("resnet20").exits, build("resnet20", classes=10)
    maps = net.features(torch.randn(2, 3, 32, 32)).maps
    assert [e.bottleneck(m).shape for e, m in zip(exits, maps[:2], strict=True)] == [(2, 64, 8, 8)] * 2
    assert Exit(16, 64, 4, 10).bottleneck[0].out_channels == 4


def test_squared_distance_is_a_sum_over_entries_and_a_mean_over_images():
    a, b = torch.zeros(3, 5), torch.ones(3, 5)
    assert squared_distance(a, b).item() == pytest.approx(5)
    assert squared_distance(a, a).item() == 0


def test_mistakes_are_told():
    with pytest.raises(InputError, match="feature_weight must be"):
        make(feature_weight=-1.0)
    with pytest.raises(InputError, match="temperature must be"):
        make(temperature=0.0)
    with pytest.raises(InputError, match="Wrap it: Tapped"):
        BYOT(torch.nn.Linear(3, 3))
