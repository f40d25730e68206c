"""Can this machine run the course? Each check says what it found, and how to mend it.

The checks are functions of what was found, so that the tests can feed them any machine;
``examine`` looks at this one.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from kdnb.paths import PROJECT

TORCH_REMEDY = "pip install --force-reinstall torch==2.15.0 torchvision==0.29.2"

_PROBE = """
import json, os, torch, torchvision
try:
    from kdnb.train.threads import core_of_each_thread
    own_cores = sorted(core_of_each_thread().values())
except ImportError:
    own_cores = []
print(json.dumps({
    "own_cores": own_cores,
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
    "bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)(),
}))
"""


@dataclass(frozen=True)
class Check:
    """One line of ``kdnb doctor``: status is ``ok``, ``warn`` or ``FAIL``; remedy, a command."""

    name: str
    status: str
    found: str
    remedy: str = ""


def python_check(version: tuple[int, ...]) -> Check:
    """Python 3.10 or newer."""
    found = ".".join(map(str, version[:3]))
    if version >= (3, 10):
        return Check("Python", "ok", found)
    remedy = "install Python 3.10 or newer, and make a fresh environment with it"
    return Check("Python", "FAIL", f"{found}, but 3.10 or newer is needed", remedy)


def dependency_checks(requirements: list[str], version_of: Callable[[str], str | None]) -> list[Check]:
    """One check for each requirement that applies here; extras are left out."""
    wanted = [Requirement(line) for line in requirements]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [_dependency_check(one, version_of(one.name)) for one in wanted]


def _dependency_check(wanted: Requirement, version: str | None) -> Check:
    remedy = f"pip install '{wanted.name}{wanted.specifier}'"
    if version is None:
        return Check(wanted.name, "FAIL", f"not installed, {wanted.specifier} is needed", remedy)
    if not wanted.specifier.contains(version, prereleases=True):
        return Check(wanted.name, "FAIL", f"{version}, {wanted.specifier} is needed", remedy)
    return Check(wanted.name, "ok", version)


def torch_pair_check(torch: str, torchvision: str) -> Check:
    """torch 2.N belongs with torchvision 0.(N+15), from 2.14 on with 0.29; of the pairs that
    came later we know nothing, and trust the import."""
    found = f"torch {torch} with torchvision {torchvision}"
    try:
        major, minor = Version(torch).release[:2]
        vision = Version(torchvision).release[:2]
    except InvalidVersion:
        return Check("torch pair", "warn", f"{found}: no version numbers we can read", TORCH_REMEDY)
    newest = (major, minor) > (2, 15)
    belongs = (0, min(minor + 15, 29))
    if major < 2 or (not newest and vision != belongs):
        expected = f"torchvision 0.{belongs[1]}.x belongs with it" if major == 2 else "too old"
        return Check("torch pair", "FAIL", f"{found}: {expected}", TORCH_REMEDY)
    return Check("torch pair", "ok", found)


def import_check(code: int, errors: str) -> Check:
    """Whether torch and torchvision can be imported together, from a trial in another process."""
    if code == 0:
        return Check("torch import", "ok", "torch and torchvision load together")
    last = (errors.strip().splitlines() or [f"the process ended with code {code}"])[-1]
    if "operator torchvision::nms does not exist" in errors:
        last = f"torch and torchvision are of different builds, one CPU, one CUDA ({last})"
    return Check("torch import", "FAIL", last, TORCH_REMEDY)


def device_check(probe: dict, cores: int) -> Check:
    """What the networks will be trained on; a CPU is good enough for every quick preset."""
    if probe["cuda"]:
        return Check("device", "ok", f"cuda: {', '.join(probe['cuda'])}; {cores} cores")
    if probe["mps"]:
        return Check("device", "ok", f"mps; {cores} cores")
    bf16 = "fast bf16" if probe["bf16"] else "no fast bf16"
    return Check("device", "ok", f"cpu: {cores} cores, {probe['threads']} threads, {bf16}")


def threads_check(probe: dict) -> Check:
    """How torch's threads are placed, which matters when another process is busy.

    Args:
        probe: ``threads``, their number, and ``own_cores``, the core of each thread while a network learns
            on the CPU; empty where the system places them.
    """
    if probe["own_cores"]:
        cores = " and ".join(map(str, probe["own_cores"]))
        found = f"{probe['threads']}, on cores {cores}, one to a core while a network learns"
    elif probe["threads"] == 1:
        found = "1, on any core"
    else:
        found = f"{probe['threads']}, placed by the system; a busy process beside them may slow them much"
    return Check("threads", "ok", found)


def kernel_check(argv: list[str] | None, executable: str) -> Check:
    """Whether the Jupyter kernel called python3 is this interpreter, environment and all."""
    remedy = f"{executable} -m ipykernel install --sys-prefix"
    if not argv:
        return Check("Jupyter kernel", "FAIL", "there is no kernel called python3", remedy)
    # Jupyter replaces a bare name by its own interpreter. Links are not followed: the
    # interpreters of two environments may well be links to the same file.
    bare = Path(argv[0]).name == argv[0] and argv[0].startswith("python")
    if bare or Path(argv[0]).absolute().parent == Path(executable).absolute().parent:
        return Check("Jupyter kernel", "ok", f"python3 is {executable}")
    found = f"python3 is {argv[0]}, not {executable}: JupyterLab would not find kdnb"
    return Check("Jupyter kernel", "warn", found, remedy)


def disk_check(free: int, folder: Path) -> Check:
    """At least 2 GB where the course lives."""
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free >= 2e9:
        return Check("disk", "ok", found)
    return Check("disk", "warn", f"{found}; 2 GB are needed for data and records", f"du -sh {folder}/*")


def output_check(folder: Path) -> Check:
    """Whether ``kdnb run`` could write its default output folder; nothing is made."""
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Check("output folder", "ok", f"{folder} can be written")
    remedy = "kdnb run --out ~/kdnb_executed"
    return Check("output folder", "FAIL", f"{parent} cannot be written", remedy)


def examine(output: Path) -> Iterator[Check]:
    """All the checks, on this machine, one after the other; importing torch takes seconds."""
    yield python_check(sys.version_info[:3])
    if _version("kdnb") is None:
        yield Check("kdnb", "FAIL", "not installed in this environment", f"pip install -e {PROJECT}")
    else:
        yield from dependency_checks(importlib.metadata.requires("kdnb") or [], _version)
    if _version("torch") and _version("torchvision"):
        yield torch_pair_check(_version("torch"), _version("torchvision"))
    trial = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    yield import_check(trial.returncode, trial.stderr)
    if trial.returncode == 0:
        probe = json.loads(trial.stdout.splitlines()[-1])
        yield device_check(probe, os.cpu_count() or 1)
        yield threads_check(probe)
    yield kernel_check(_kernel_argv(), sys.executable)
    yield disk_check(shutil.disk_usage(PROJECT).free, PROJECT)
    yield output_check(output)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _kernel_argv() -> list[str] | None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        return KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        return None
