"""Checks whether this machine can run the course, and says how to mend what is wrong.

Each check is a function of what was found, so that tests can describe any machine to it. ``examine``
describes this one.
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
    """One line of ``kdnb doctor``.

    Attributes:
        name: What was checked.

        status: ``ok``, ``warn`` or ``FAIL``.

        found: What was found.

        remedy: What to do about it, usually a command. It is empty if nothing needs to be done.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def python_check(version: tuple[int, ...]) -> Check:
    """Checks that Python is version 3.10 or newer.

    Args:
        version: The version as numbers.

    Returns:
        The check.
    """
    found = ".".join(map(str, version[:3]))
    if version >= (3, 10):
        return Check("Python", "ok", found)
    remedy = "install Python 3.10 or newer, and make a fresh environment with it"
    return Check("Python", "FAIL", f"{found}, but 3.10 or newer is needed", remedy)


def dependency_checks(requirements: list[str], version_of: Callable[[str], str | None]) -> list[Check]:
    """Checks the versions of all packages that are required here. Requirements of extras are left out.

    Args:
        requirements: Requirements in the form that package metadata has.

        version_of: Returns the installed version of a package, or None if it is not installed.

    Returns:
        One check for each requirement.
    """
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
    """Checks that the versions of torch and torchvision belong together.

    Torch 2.N belongs with torchvision 0.(N+15), and with 0.29 from torch 2.14 on. Which versions belong with
    torch after 2.15 was not known when this was written. Such pairs pass here, and ``import_check`` decides.

    Args:
        torch: Version of torch.

        torchvision: Version of torchvision.

    Returns:
        The check.
    """
    found = f"torch {torch} with torchvision {torchvision}"
    try:
        major, minor = Version(torch).release[:2]
        vision = Version(torchvision).release[:2]
    except InvalidVersion:
        return Check("torch pair", "warn", f"{found}: these version numbers cannot be read", TORCH_REMEDY)
    newest = (major, minor) > (2, 15)
    belongs = (0, min(minor + 15, 29))
    if major < 2 or (not newest and vision != belongs):
        expected = f"torchvision 0.{belongs[1]}.x belongs with it" if major == 2 else "too old"
        return Check("torch pair", "FAIL", f"{found}: {expected}", TORCH_REMEDY)
    return Check("torch pair", "ok", found)


def import_check(code: int, errors: str) -> Check:
    """Checks whether torch and torchvision can be imported together, which another process has tried.

    Args:
        code: Exit code of that process.

        errors: What it wrote to standard error.

    Returns:
        The check.
    """
    if code == 0:
        return Check("torch import", "ok", "torch and torchvision load together")
    last = (errors.strip().splitlines() or [f"the process ended with code {code}"])[-1]
    if "operator torchvision::nms does not exist" in errors:
        last = f"torch and torchvision are of different builds, one CPU, one CUDA ({last})"
    return Check("torch import", "FAIL", last, TORCH_REMEDY)


def device_check(probe: dict, cores: int) -> Check:
    """Says on which device networks will be trained. A CPU is fast enough for every quick preset.

    Args:
        probe: What the trial process found: names of CUDA devices, whether there is MPS, the number of
            threads, and whether bf16 is fast.

        cores: Number of processors.

    Returns:
        The check, which is always ok.
    """
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
        found += "; trainings side by side take turns"
    elif probe["threads"] == 1:
        found = "1, on any core"
    else:
        found = f"{probe['threads']}, placed by the system; a busy process beside them may slow them much"
    return Check("threads", "ok", found)


def kernel_check(argv: list[str] | None, executable: str) -> Check:
    """Checks that the Jupyter kernel called python3 runs this interpreter with this environment.

    Args:
        argv: The command line that starts the kernel, or None if there is no kernel of that name.

        executable: Path of this interpreter.

    Returns:
        The check.
    """
    remedy = f"{executable} -m ipykernel install --sys-prefix"
    if not argv:
        return Check("Jupyter kernel", "FAIL", "there is no kernel called python3", remedy)
    # Jupyter replaces a bare name by its own interpreter. Links are not followed, because the
    # interpreters of two environments may be links to the same file.
    bare = Path(argv[0]).name == argv[0] and argv[0].startswith("python")
    if bare or Path(argv[0]).absolute().parent == Path(executable).absolute().parent:
        return Check("Jupyter kernel", "ok", f"python3 is {executable}")
    found = f"python3 is {argv[0]}, not {executable}: JupyterLab would not find kdnb"
    return Check("Jupyter kernel", "warn", found, remedy)


def disk_check(free: int, folder: Path) -> Check:
    """Checks that 2 GB are free where the course lives.

    Args:
        free: Free space in bytes.

        folder: Folder of the course.

    Returns:
        The check.
    """
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free >= 2e9:
        return Check("disk", "ok", found)
    return Check("disk", "warn", f"{found}; 2 GB are needed for data and records", f"du -sh {folder}/*")


def output_check(folder: Path) -> Check:
    """Checks that ``kdnb run`` could write its default output folder. Nothing is created.

    Args:
        folder: The output folder.

    Returns:
        The check.
    """
    parent = next(place for place in (folder, *folder.parents) if place.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Check("output folder", "ok", f"{folder} can be written")
    remedy = "kdnb run --out ~/kdnb_executed"
    return Check("output folder", "FAIL", f"{parent} cannot be written", remedy)


def examine(output: Path) -> Iterator[Check]:
    """Makes all checks of this machine, one after the other. Importing torch takes seconds.

    Args:
        output: The default output folder of ``kdnb run``.

    Yields:
        The checks.
    """
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
