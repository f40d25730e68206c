"""The answer key of notebook 05 is the library."""

import pytest
import torch

from kdnb.exercises.ffsd import EXERCISES
from kdnb.functional import attention_map
from kdnb.methods import FFSD
from kdnb.methods.families.online import mutual_terms
from kdnb.methods.ffsd.diversity import SelfDistiller, diversity_of
from kdnb.networks import Features, build
from kdnb.train import evaluate


def reference(name: str):
    return EXERCISES[name].reference


def logits(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def test_the_mutual_term_is_that_of_two_students():
    one, other = logits(0, 1)
    students = [Features(stem=x, maps=(), embedding=x, logits=x, final=x) for x in (one, other)]
    terms = mutual_terms(students, 2.0)
    torch.testing.assert_close(reference("mutual_term")(one, other, 2.0), terms["student1/mutual"])
    torch.testing.assert_close(reference("mutual_term")(other, one, 2.0), terms["student2/mutual"])


@pytest.mark.parametrize("count", [1, 5, 21, 63])
def test_the_target_is_that_of_the_method(count):
    maps = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = diversity_of(maps, threshold=(count + 0.5) / 64)
    torch.testing.assert_close(reference("diversity_target")(attention_map(maps), count), wanted.target)
    kept = wanted.target.isclose(wanted.attention).flatten(1).sum(1)
    assert kept.tolist() == [count - 1] * 4


def test_the_notebooks_toy_map():
    """Background 0 0 1 1 keeps its sixteenth, the threshold 2 gets r / 2, all else nearly r."""
    toy = torch.tensor([[0.0, 3, 4, 1], [3, 5, 8, 5], [3, 5, 6, 4], [0, 1, 4, 2]])[None]
    target = reference("diversity_target")(toy, 5)[0]
    assert target[3].tolist() == [0, 1 / 16, 15.75, 8]
    assert target[1, 2] == 15.5
    assert toy.norm() == 16


def test_the_union_is_what_evaluate_reports():
    method = FFSD(lambda number: build("resnet8", classes=4, seed=number)).eval()
    images, labels = torch.randn(12, 3, 16, 16), torch.arange(12) % 4
    with torch.no_grad():
        outputs = method.outputs(images)
    group = torch.stack([outputs[name] for name in method.group])
    found = evaluate(method, [(images, labels)], precision="fp32")["union"]
    assert 100 * reference("union_accuracy")(group, labels).item() == pytest.approx(found)


def test_aims_do_not_depend_on_the_company_of_a_picture():
    distiller = SelfDistiller(build("resnet8", classes=2, seed=0)).train()
    last = torch.rand(3, 64, 4, 4)
    for alone, among in zip(
        reference("steady_aims")(distiller, last[:1]), reference("steady_aims")(distiller, last), strict=True
    ):
        torch.testing.assert_close(alone, among[:1])
    assert distiller.training


def test_a_check_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    for exercise in EXERCISES.values():
        exercise.probe(exercise.reference)
    assert torch.equal(torch.random.get_rng_state(), before)
