"""How much memory there is: words, machines and control groups."""

from types import SimpleNamespace

import pytest

from kdnb.datasets import memory
from kdnb.datasets.memory import bytes_from_words, default_budget, free_by_groups
from kdnb.errors import InputError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("0", 0),
        ("123", 123),
        ("500M", 500_000_000),
        ("2G", 2_000_000_000),
        (" 2 gb ", 2_000_000_000),
        ("1.5GiB", 1_610_612_736),
        ("10kib", 10_240),
        ("0.5T", 500_000_000_000),
    ],
)
def test_amounts_are_read(words, expected):
    assert bytes_from_words(words) == expected


@pytest.mark.parametrize("words", ["", "G", "-1G", "2 gigs", "1.5.2G", "1e9", "half", "2G 3M", "GiB", "2iB"])
def test_nonsense_is_refused_with_an_example(words):
    with pytest.raises(InputError, match=r"written like 500M, 2G or 1\.5GiB; found"):
        bytes_from_words(words)


@pytest.fixture
def groups(tmp_path):
    """A limit on an outer group, none on the one inside."""
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    root = tmp_path / "groups"
    for name, limit in (("job", "1000"), ("job/step", "max")):
        (root / name).mkdir(parents=True)
        (root / name / "memory.max").write_text(limit)
        (root / name / "memory.current").write_text("700")
        (root / name / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    return root, own


def test_a_limit_of_an_outer_group_counts_and_pages_that_can_go_are_free(groups):
    assert free_by_groups(*groups) == (400, float("inf"))


def test_groups_of_version_1_have_other_names(tmp_path):
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/\n5:cpu,memory:/job/step\n0::/\n")
    root = tmp_path / "groups"
    for name, limit in (("job", 1000), ("job/step", 2**63 - 4096)):
        folder = root / "memory" / name
        folder.mkdir(parents=True)
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text("700\n")
        (folder / "memory.stat").write_text("inactive_file 5\ntotal_inactive_file 100\n")
    assert min(free_by_groups(root, own)) == 400


def test_without_groups_there_is_no_limit(tmp_path):
    assert free_by_groups(tmp_path, tmp_path / "nothing") == (float("inf"),)


def test_the_budget_is_half_of_what_is_free_for_all_processes_together(monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=800))
    monkeypatch.setattr(memory, "free_by_groups", lambda: (900.0, float("inf")))
    assert default_budget() == 400
    monkeypatch.setattr(memory, "free_by_groups", lambda: (600.0, float("inf")))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert default_budget() == 100
