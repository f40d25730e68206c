"""CRD: closed forms, the memories, the draw of negatives, and what is refused."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference import wave
from torch.utils.data import DataLoader, TensorDataset

from kdnb.datasets import Augmentation, Batch, Batches
from kdnb.errors import InputError
from kdnb.methods import CRD
from kdnb.methods.crd import bank_scores, contrastive_loss
from kdnb.networks import build
from kdnb.testing import contract
from kdnb.train import train

LABELS = torch.arange(40) % 10


def make(labels=LABELS, indices=None, **options) -> CRD:
    options = {"width": 16, "negatives": 12} | options
    torch.manual_seed(0)
    student, teacher = build("resnet8", classes=10), build("resnet14", classes=10, seed=1)
    return CRD(student, teacher, labels, indices, **options)


def some_batches(count=40, **options) -> Batches:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return Batches(images, torch.arange(count) % 10, 8, (0.5,) * 3, (0.25,) * 3, **options)


def test_the_closed_form_of_the_fact_sheet():
    """Section Golden values: 12 to 6 numbers, 50 images, 16 negatives."""
    method = make(torch.arange(50) % 10, width=6, negatives=16).double()
    embeddings = [wave((8, 12), 0.31, 0.6).requires_grad_(), wave((8, 12), 0.37, 0.8)]
    vectors = []
    for phase, embedding in enumerate(embeddings):
        weight, bias = wave((6, 12), 0.37, phase, 0.2), wave((6,), 0.37, phase, 0.05)
        vectors.append(F.normalize(embedding @ weight.T + bias, dim=1))
    method.student_bank.rows.copy_(F.normalize(wave((50, 6), 0.41, 0.2), dim=1))
    method.teacher_bank.rows.copy_(F.normalize(wave((50, 6), 0.43, 0.9), dim=1))
    rows = torch.arange(8)
    negatives = (7 * rows[:, None] + 3 * torch.arange(1, 17) + 1) % 50
    loss = method.contrast(*vectors, rows, negatives)
    assert loss.item() == pytest.approx(12.0544773677, rel=1e-9)
    assert method.constants.tolist() == pytest.approx([447.066787363, 707.227972404], rel=1e-9)
    loss.backward()
    assert embeddings[0].grad.abs().sum().item() == pytest.approx(2.087536552, rel=1e-9)
    for bank, vector, expected in zip(
        (method.student_bank, method.teacher_bank), vectors, (107.820972637, 108.435334591), strict=True
    ):
        bank.update(rows, vector, 0.5)
        assert bank.rows.abs().sum().item() == pytest.approx(expected, rel=1e-9)


def test_scores_by_one_product_equal_gathered_rows():
    vectors, bank = wave((5, 7), 0.3, 0.1).requires_grad_(), wave((30, 7), 0.7, 0.2)
    rows = torch.randint(30, (5, 11))
    fast, slow = bank_scores(vectors, bank, rows), torch.einsum("bd,brd->br", vectors, bank[rows])
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weights = wave((5, 11), 0.9, 0.3)
    gradients = [torch.autograd.grad((found * weights).sum(), vectors)[0] for found in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_the_loss_is_least_where_the_image_is_found_and_the_others_are_not():
    noise = torch.full((1, 5), 4 / 40)
    found = torch.tensor([[1e6, 1e-9, 1e-9, 1e-9, 1e-9]])
    assert contrastive_loss(found, 40) < 1e-4
    expected = math.log(2) * 5  # each decision is a coin flip
    assert contrastive_loss(noise, 40).item() == pytest.approx(expected, rel=1e-5)


def test_negatives_are_of_other_classes_each_once_and_all_alike_often():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)
    method = make(labels, negatives=25)
    rows = torch.tensor([0, 15, 40, 59])
    drawn = torch.stack([method.draw_negatives(rows) for _ in range(400)])  # (400, 4, 25)
    assert drawn.shape == (400, 4, 25)
    assert (labels[drawn] != labels[rows][:, None]).all()
    assert all(len(set(row.tolist())) == 25 for row in drawn.flatten(0, 1))
    shares = drawn[:, 0].flatten().bincount(minlength=60)[10:] / 400  # of image 0: 50 others, 25 drawn
    assert shares.min() > 0.35
    assert shares.max() < 0.65


def test_the_largest_number_of_negatives_is_all_of_the_other_classes():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)
    method = make(labels, negatives=None)
    assert method.negatives == 30
    drawn = method.draw_negatives(torch.tensor([45]))
    assert sorted(drawn[0].tolist()) == list(range(30))


def test_it_keeps_the_contract(batch):
    contract(make(), *batch)
    contract(make(soft_weight=1.0), *batch)


def test_weight_0_leaves_the_student_as_with_labels_alone(batch):
    method = make(contrast_weight=0.0)
    terms = method(Batch(*batch, torch.arange(8)), 0.0)
    gradients = torch.autograd.grad(sum(terms.values()), list(method.student.parameters()), retain_graph=True)
    alone = torch.autograd.grad(terms["student/label"], list(method.student.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, alone, strict=True))


def test_only_training_changes_the_memories_and_only_the_rows_of_the_batch(batch):
    method, rows = make(), torch.arange(8)
    before = method.student_bank.rows.clone()
    method.eval()(Batch(*batch, rows), 0.0)
    assert torch.equal(method.student_bank.rows, before)
    method.train()(Batch(*batch, rows), 0.0)
    changed = (method.student_bank.rows != before).any(1)
    assert changed.tolist() == [True] * 8 + [False] * 32
    torch.testing.assert_close(method.student_bank.rows[:8].norm(dim=1), torch.ones(8))


def test_the_first_batch_fixes_the_constants(batch):
    method = make()
    method(Batch(*batch, torch.arange(8)), 0.0)
    fixed = method.constants.clone()
    assert (fixed > 0).all()
    method(Batch(batch[0] * 2, batch[1], torch.arange(8)), 0.0)
    assert torch.equal(method.constants, fixed)


def test_images_keep_their_rows_in_any_order_and_among_few():
    """Numbers of the whole training part: the memory of a subset finds its own rows."""
    batches = some_batches(shuffle=True, augmentation=Augmentation(pad=1))
    chosen = torch.tensor([3, 17, 5, 38, 20, 11, 29, 2, 14, 26])
    method = make(LABELS[chosen], chosen, negatives=5)
    rows = method.numbers(chosen.flip(0), LABELS[chosen].flip(0))
    assert rows.tolist() == list(range(10))[::-1]
    whole = make(batches.labels)
    for batch in batches.epoch(2):
        assert torch.equal(whole.numbers(batch.indices, batch.labels), batch.indices)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_it_trains(precision):
    method = make()
    run = train(method, some_batches(), epochs=3, lr=0.02, precision=precision, device="cpu")
    losses = [epoch.losses for epoch in run]
    assert losses[-1]["student/contrast"] < losses[0]["student/contrast"]
    assert set(losses[0]) == {"student/label", "student/contrast"}


def test_an_interrupted_training_goes_on_to_the_same_bits():
    options = {"epochs": 2, "lr": 0.02, "precision": "fp32", "device": "cpu"}
    whole, first, second = make(), make(), make()
    for _ in train(whole, some_batches(shuffle=True), **options):
        pass
    state = copy.deepcopy(next(train(first, some_batches(shuffle=True), **options)).state())
    for _ in train(second, some_batches(shuffle=True), resume=state, **options):
        pass
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_loader_of_pairs_is_refused():
    loader = DataLoader(TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8)), batch_size=4)
    with pytest.raises(InputError, match="which images a batch holds"):
        next(train(make(), loader, epochs=1, lr=0.1, device="cpu"))


@pytest.mark.parametrize("indices", [[0, 1, 40], [0, 1, -1], [0, 1, 10**6]])
def test_images_of_another_data_set_are_refused(indices):
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 0])
    with pytest.raises(InputError, match="images that the memory was not built for"):
        make()(Batch(images, labels, torch.tensor(indices)), 0.0)


def test_indices_whose_labels_are_others_are_refused():
    batch = Batch(torch.randn(3, 3, 8, 8), torch.tensor([5, 6, 7]), torch.arange(3))
    with pytest.raises(InputError, match="images that the memory was not built for"):
        make()(batch, 0.0)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABELS, {"negatives": 37}, "negatives must be between 1 and 36"),
        (LABELS, {"negatives": 0}, "negatives must be between 1 and 36"),
        (torch.zeros(40, dtype=torch.int64), {}, "all training images are of one class"),
        (LABELS, {"width": 0}, "width must be at least 1"),
        (LABELS, {"bank_momentum": 1.0}, "bank_momentum in"),
        (LABELS, {"contrast_temperature": 0.0}, "temperature must be"),
        (LABELS, {"contrast_weight": -1.0}, "contrast_weight must be"),
    ],
)
def test_mistakes_are_refused_by_name(labels, options, message):
    with pytest.raises(InputError, match=message):
        make(labels, **options)
