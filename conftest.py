"""How the suite runs: in several processes, a file or a notebook in each, those that take long first."""

import os
from collections import Counter

import pytest

# Processes side by side compute with one thread each, and so do the kernels and programs that they start.
# With torch's own choice, a thread for every core in every process, they would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Outputs that depend on a trained network differ between machines, so nbval ignores them. The training that
# leads to them need not be whole. Eight epochs: the notebooks that ask for 80 evaluate at every eighth.
SHORT_TRAINING = """
import kdnb.train

def train_shortly(method, batches, *, epochs, whole=kdnb.train.train, **options):
    return whole(method, batches, epochs=min(epochs, 8), **options)

kdnb.train.train = train_shortly
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "let nbval train in the notebooks as long as their readers do, instead of eight epochs at most"
    parser.addoption("--whole-training", action="store_true", help=about)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for every core, up to four: with a notebook's kernel each takes two gigabytes. A single
    file needs no process beside this one."""
    from kdnb.headless import cores

    names = [name.partition("::")[0] for name in config.args]
    return 0 if len(names) == 1 and names[0].endswith((".py", ".ipynb")) else min(cores(), 4)


def pytest_configure(config: pytest.Config) -> None:
    """The file named in pyproject.toml is found from any working directory."""
    rules = config.option.nbval_sanitize_with
    config.option.nbval_sanitize_with = rules and str(config.rootpath / rules)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the cells that nbval collects, and begins with the files that take long or hold many tests, so
    that no process is left with one of them when the others are through."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")
            item.add_marker("slow")
            if "parameters" in item.cell.metadata.get("tags", []) and not config.option.whole_training:
                item.cell.source += SHORT_TRAINING
    counts = Counter(item.path for item in items)
    files = [{item.path for item in items if item.get_closest_marker(mark)} for mark in ("notebook", "slow")]
    items.sort(key=lambda item: (*(item.path not in long for long in files), -counts[item.path]))
