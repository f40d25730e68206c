"""How much memory a data set may fill, and how much there is."""

import os
import re
from pathlib import Path

import psutil

from kdnb.errors import InputError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
# Of a control group: the files with its limit and with what it uses, and the entry of memory.stat for pages
# of files that can be given up. The numbers of version 1 include the groups inside.
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)b?|([kmgt])ib)\s*", re.IGNORECASE)


def bytes_from_words(words: str) -> int:
    """Reads an amount of memory.

    Args:
        words: A number with a unit: ``2G`` and ``2GB`` are two billion bytes, ``2GiB`` is 2 x 1024^3. K, M
            and T work alike, and a number alone is bytes.

    Raises:
        InputError: If it cannot be read.

    Example:
        >>> bytes_from_words("500M"), bytes_from_words("1.5GiB")
        (500000000, 1610612736)
    """
    found = AMOUNT.fullmatch(words)
    if found is None:
        raise InputError(f"An amount of memory is written like 500M, 2G or 1.5GiB; found {words!r}.")
    number, decimal, binary = found.groups()
    return int(float(number) * (BINARY[binary.lower()] if binary else UNITS[decimal.lower()]))


def in_words(count: int) -> str:
    """An amount of memory or disk for a message.

    Args:
        count: Of bytes.

    Example:
        >>> in_words(1_234_567_890), in_words(20_000)
        ('1.23 GB', '0.02 MB')
    """
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def default_budget() -> int:
    """Bytes that a data set may fill: half of what is free, shared by the processes of torchrun here."""
    return free_memory() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def free_memory() -> int:
    """Bytes that this process may still fill, by the machine and by its control groups."""
    return min(psutil.virtual_memory().available, *free_by_groups())


def free_by_groups(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> tuple[float, ...]:
    """What is free in each of the control groups of this process that has a limit.

    Containers and schedulers set such limits. Pages of files that the system can give up at once count as
    free. A group that cannot be read has no limit. Both versions of control groups are known.

    Args:
        groups: Where the system shows the groups.

        own: Where it says which ones are this process's.

    Returns:
        Bytes for each limit, and infinity at the end.
    """
    found = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = groups, VERSION_2
        elif "memory" in controllers.split(","):
            root, names = groups / "memory", VERSION_1
        else:
            continue
        group = root / path.strip().lstrip("/")
        for folder in (group, *(up for up in group.parents if up.is_relative_to(root))):
            found += _free_in(folder, *names)
    return (*found, float("inf"))


def _free_in(group: Path, most: str, now: str, reclaimable: str) -> list[int]:
    try:
        limit, used = (int((group / name).read_text()) for name in (most, now))
        numbers = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no limit
        return []
    return [max(0, limit - used + int(numbers.get(reclaimable, 0)))]
