"""The doctor's checks, fed with machines that we do not have."""

import sys
from itertools import islice
from pathlib import Path

import pytest

from kdnb.commands import doctor


def test_an_old_python_fails():
    assert doctor.python_check((3, 9, 7)).status == "FAIL"
    assert doctor.python_check((3, 10, 0)).status == "ok"


def test_dependencies_are_held_against_their_ranges():
    needed = ["numpy>=2.0", "tqdm>=4.66", "torch>=2.14", "ruff>=0.14 ; extra == 'test'"]
    versions = {"numpy": "1.26.4", "torch": "2.15.0+cpu"}
    checks = {check.name: check for check in doctor.dependency_checks(needed, versions.get)}
    assert {name: check.status for name, check in checks.items()} == {
        "numpy": "FAIL",
        "tqdm": "FAIL",
        "torch": "ok",
    }
    assert checks["numpy"].remedy == "pip install 'numpy>=2.0'"
    assert "1.26.4" in checks["numpy"].found
    assert "not installed" in checks["tqdm"].found


@pytest.mark.parametrize(
    ("torch", "torchvision", "status"),
    [
        ("2.13.0", "0.28.0", "ok"),
        ("2.14.1", "0.29.2", "ok"),
        ("2.15.0+cpu", "0.29.2+cpu", "ok"),
        ("2.17.0", "0.31.0", "ok"),
        ("2.15.0", "0.28.0", "FAIL"),
        ("2.13.0", "0.29.2", "FAIL"),
        ("1.13.1", "0.14.1", "FAIL"),
        ("unknown", "0.29.2", "warn"),
    ],
)
def test_torch_and_torchvision_belong_together(torch, torchvision, status):
    check = doctor.torch_pair_check(torch, torchvision)
    assert check.status == status
    assert (check.remedy == "") == (status == "ok")


def test_builds_that_do_not_fit_are_named_plainly():
    errors = "Traceback ...\nRuntimeError: operator torchvision::nms does not exist\n"
    check = doctor.import_check(1, errors)
    assert check.status == "FAIL"
    assert "one CPU, one CUDA" in check.found
    assert check.remedy == "pip install --force-reinstall torch==2.15.0 torchvision==0.29.2"


def test_other_import_errors_show_their_last_line():
    check = doctor.import_check(1, "Traceback ...\nImportError: libcudart.so.13: no such file\n")
    assert check.found == "ImportError: libcudart.so.13: no such file"
    assert "code -9" in doctor.import_check(-9, "").found


@pytest.mark.parametrize(
    ("probe", "found"),
    [
        ({"cuda": ["NVIDIA H200"], "mps": False, "bf16": True, "threads": 8}, "cuda: NVIDIA H200"),
        ({"cuda": [], "mps": True, "bf16": False, "threads": 8}, "mps"),
        ({"cuda": [], "mps": False, "bf16": True, "threads": 8}, "8 threads, fast bf16"),
        ({"cuda": [], "mps": False, "bf16": False, "threads": 8}, "8 threads, no fast bf16"),
    ],
)
def test_the_device_is_named(probe, found):
    assert found in doctor.device_check(probe, cores=16).found


@pytest.mark.parametrize(
    ("threads", "own_cores", "found"),
    [
        (2, [0, 1], "2, on cores 0 and 1, one to a core"),
        (2, [], "2, placed by the system"),
        (1, [], "1, on any core"),
    ],
)
def test_the_place_of_the_threads_is_told(threads, own_cores, found):
    assert doctor.threads_check({"threads": threads, "own_cores": own_cores}).found.startswith(found)


def test_the_kernel_must_be_of_this_environment(tmp_path):
    here, there = tmp_path / "here/bin", tmp_path / "there/bin"
    for folder in (here, there):
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(sys.executable)  # two environments of one Python
    mine = str(here / "python")
    assert doctor.kernel_check(["python", "-m", "ipykernel_launcher"], mine).status == "ok"
    assert doctor.kernel_check([str(here / "python3"), "-m"], mine).status == "ok"
    other = doctor.kernel_check([str(there / "python"), "-m"], mine)
    assert other.status == "warn"
    assert other.remedy == f"{mine} -m ipykernel install --sys-prefix"
    assert doctor.kernel_check(None, mine).status == "FAIL"


def test_little_disk_is_a_warning():
    assert doctor.disk_check(int(1.9e9), Path("/course")).status == "warn"
    assert doctor.disk_check(int(2.1e9), Path("/course")).status == "ok"


def test_an_output_folder_that_cannot_be_made_fails(tmp_path):
    assert doctor.output_check(tmp_path / "deep/executed").status == "ok"
    assert not (tmp_path / "deep").exists()
    (tmp_path / "file").write_text("")
    assert doctor.output_check(tmp_path / "file/executed").status == "FAIL"


def test_a_missing_installation_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("kdnb.commands.doctor._version", lambda name: None)
    found = {check.name: check for check in islice(doctor.examine(tmp_path), 2)}
    assert found["kdnb"].status == "FAIL"
    assert found["kdnb"].remedy.startswith("pip install -e ")


@pytest.mark.slow
def test_this_machine_is_examined(tmp_path):
    checks = {check.name: check for check in doctor.examine(tmp_path / "executed")}
    assert {"Python", "torch", "torch pair", "torch import", "device", "disk"} <= checks.keys()
    assert checks["device"].status == "ok"
    assert all(check.remedy for check in checks.values() if check.status != "ok")
