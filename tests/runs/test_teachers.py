import shutil
from dataclasses import replace

import pytest
import torch

from kdnb.datasets import Dataset, Part, load
from kdnb.errors import InputError
from kdnb.networks import Renormalised, build
from kdnb.runs import teachers
from kdnb.runs.checkpoints import load_network, save_network
from kdnb.train import logits_of


def tiny(classes: tuple[str, ...] = ("a", "b"), name: str = "pictures") -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 8, 8, 3), dtype=torch.uint8, generator=generator)
    part = Part(images, torch.arange(24) % len(classes))
    return Dataset.of(name, classes, train=part, validation=part, test=part)


def test_the_shipped_teacher_knows_shapes_well():
    from kdnb.datasets.shapes import CLASSES, shapes

    saved = load_network(teachers.shapes_teacher())
    assert (saved.name, saved.classes) == ("resnet20", CLASSES)
    data = shapes(train=48, validation=12, test=240)
    part = data.test
    batches = Dataset("shapes", CLASSES, part, part, part, saved.mean, saved.std).batches("test")
    right = (logits_of(saved.net, batches).argmax(1) == part.labels).double().mean()
    assert right > 0.95


def test_a_missing_teacher_is_trained_again_and_kept(tmp_path, monkeypatch):
    shipped, calls = tmp_path / "teachers" / "shapes-resnet20.safetensors", []
    monkeypatch.setattr(teachers, "SHIPPED", shipped)
    monkeypatch.setattr(teachers, "load", lambda name: tiny(name="shapes"))
    monkeypatch.setattr(
        teachers, "fresh_teacher", lambda data, name, **_: calls.append(name) or build(name, classes=2)
    )
    assert teachers.shapes_teacher() == shipped
    assert load_network(shipped).name == "resnet20"
    teachers.shapes_teacher()
    assert calls == ["resnet20"]


def test_a_fresh_teacher_is_a_function_of_its_seed():
    one, same, other = (teachers.fresh_teacher(tiny(), "resnet8", epochs=1, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_other_data_get_a_teacher_trained_on_them():
    net = teachers.teacher_for(tiny(("a", "b", "c")), "resnet8", epochs=1, images=12)
    assert net.classes == 3


def test_a_file_or_a_run_folder_is_taken(tmp_path):
    net = build("resnet8", classes=2, seed=5)
    save_network(net, "resnet8", tiny(), tmp_path / "student.safetensors")
    for given in (tmp_path, tmp_path / "student.safetensors"):
        found = teachers.teacher_for(tiny(), "resnet20", file=str(given), epochs=1)
        assert torch.equal(found.head.weight, net.head.weight)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    save_network(build("resnet8", classes=2), "resnet8", tiny(("cat", "dog")), tmp_path / "net")
    shutil.copy(tmp_path / "net", tmp_path / "student.safetensors")
    with pytest.raises(InputError, match="knows the classes cat, dog, but the data have a, b"):
        teachers.teacher_for(tiny(), "resnet8", file=str(tmp_path), epochs=1)


def test_a_teacher_of_other_image_sizes_is_refused(tmp_path):
    data = tiny()
    save_network(build("resnet8", classes=2), "resnet8", data, tmp_path / "student.safetensors")
    large = Dataset.of(
        "large", data.classes, train=double(data.train), validation=data.validation, test=data.test
    )
    with pytest.raises(InputError, match=rf"images of {data.size} pixels a side.*--size {data.size}"):
        teachers.teacher_for(large, "resnet8", file=str(tmp_path), epochs=1)


def test_a_teacher_of_another_normalisation_sees_images_normalised_its_way(tmp_path):
    data = tiny()
    mean, std = (0.2, 0.3, 0.6), (0.4, 0.1, 0.2)
    net = build("resnet8", classes=2, seed=5).eval()
    save_network(net, "resnet8", replace(data, mean=mean, std=std), tmp_path / "student.safetensors")
    saved = teachers.fit_teacher(tmp_path, data)
    assert isinstance(saved.net, Renormalised)
    assert (saved.name, saved.mean, saved.std) == ("resnet8", mean, std)
    found = logits_of(saved.net, data.batches("test"))
    expected = logits_of(net, replace(data, mean=mean, std=std).batches("test"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits_of(net, data.batches("test")), expected, rtol=1e-2), (
        "a test that can fail"
    )


def test_a_teacher_of_the_datas_normalisation_stays_plain(tmp_path):
    net = build("resnet8", classes=2, seed=5)
    save_network(net, "resnet8", tiny(), tmp_path / "student.safetensors")
    assert type(teachers.fit_teacher(tmp_path, tiny()).net) is type(net)
    sums = tuple(value * (1 + 2**-52) for value in tiny().mean)  # as another processor may add them up
    assert sums != tiny().mean
    assert type(teachers.fit_teacher(tmp_path, replace(tiny(), mean=sums)).net) is type(net)


def test_the_shipped_teacher_is_plain_on_shapes():
    assert type(teachers.fit_teacher(teachers.shapes_teacher(), load("shapes")).net).__name__ == "ResNet"


def double(part: Part) -> Part:
    return Part(part.images.repeat_interleave(2, 1).repeat_interleave(2, 2), part.labels)
