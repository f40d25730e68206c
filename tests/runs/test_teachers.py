import json
import shutil
from dataclasses import replace
from hashlib import sha256

import pytest
import torch

from kdnb.datasets import Dataset, Part, load, shapes, shapes_v1
from kdnb.errors import InputError
from kdnb.networks import Renormalised, build
from kdnb.paths import PROJECT
from kdnb.runs import teachers
from kdnb.runs.checkpoints import load_network, save_network
from kdnb.train import logits_of


def tiny(classes: tuple[str, ...] = ("a", "b"), name: str = "pictures") -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 8, 8, 3), dtype=torch.uint8, generator=generator)
    part = Part(images, torch.arange(24) % len(classes))
    return Dataset.of(name, classes, train=part, validation=part, test=part)


@pytest.mark.parametrize(("name", "drawn"), [("shapes", shapes), ("shapes-v1", shapes_v1)])
def test_a_shipped_teacher_knows_its_shapes_well(name, drawn):
    saved = load_network(teachers.shapes_teacher(name))
    data = drawn(train=48, validation=12, test=240)
    assert (saved.name, saved.classes) == ("resnet20", data.classes)
    part = data.test
    batches = Dataset(name, data.classes, part, part, part, saved.mean, saved.std).batches("test")
    right = (logits_of(saved.net, batches).argmax(1) == part.labels).double().mean()
    assert right > 0.93


@pytest.mark.parametrize("name", ["shapes", "shapes-v1"])
def test_a_shipped_file_is_the_one_that_the_page_tells_of(name):
    checksum = sha256(teachers.shapes_teacher(name).read_bytes()).hexdigest()
    record = json.loads((PROJECT / "data" / "teachers" / f"{name}-resnet20.json").read_text())
    assert record["student"] == checksum
    page = (PROJECT / "data" / "README.md").read_text()
    section = page.partition(f"## teachers/{name}-resnet20.safetensors")[2].partition("\n## ")[0]
    for told in (checksum, record["data"], f"{record['metrics']['student']['last']:.2f} %"):
        assert told in section


def test_other_data_have_no_shipped_teacher():
    with pytest.raises(InputError, match=r"Unknown data set with a shipped teacher 'shapes-v2'"):
        teachers.shapes_teacher("shapes-v2")


def test_a_missing_teacher_is_trained_again_and_kept(tmp_path, monkeypatch):
    shipped, calls = tmp_path / "teachers" / "shapes-resnet20.safetensors", []
    monkeypatch.setitem(teachers.SHIPPED, "shapes", shipped)
    monkeypatch.setattr(teachers, "load", lambda name: tiny(name=name))
    monkeypatch.setattr(
        teachers, "fresh_teacher", lambda data, name, **_: calls.append(name) or build(name, classes=2)
    )
    assert teachers.shapes_teacher() == shipped
    assert load_network(shipped).name == "resnet20"
    teachers.shapes_teacher()
    assert calls == ["resnet20"]


def test_a_notebook_gets_the_teacher_of_its_shapes():
    for name, drawn in (("shapes", shapes), ("shapes-v1", shapes_v1)):
        data = drawn(train=48, validation=12, test=12)
        found = teachers.teacher_for(data, "resnet8", epochs=1)
        shipped = teachers.fit_teacher(teachers.shapes_teacher(name), data).net
        pairs = zip(found.state_dict().values(), shipped.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_larger_shapes_get_a_teacher_trained_on_them(monkeypatch):
    asked = []
    monkeypatch.setattr(teachers, "fresh_teacher", lambda data, name, **_: asked.append((data.size, name)))
    teachers.teacher_for(shapes(size=64, train=24, validation=12, test=12), "resnet8", epochs=1)
    assert asked == [(64, "resnet8")]


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shapes", "shapes-v1"])
def test_the_shipped_teacher_is_plain_on_its_shapes(name):
    assert type(teachers.fit_teacher(teachers.shapes_teacher(name), load(name)).net).__name__ == "ResNet"


def double(part: Part) -> Part:
    return Part(part.images.repeat_interleave(2, 1).repeat_interleave(2, 2), part.labels)
