"""Seeds for all random parts of a run, derived from the one seed of the run."""

from hashlib import blake2b


def derived_seed(*parts: int | str) -> int:
    """A seed that depends on all given values.

    Args:
        *parts: The seed of the run and what tells one random part of the run from the others, such as its
            name and the number of the epoch.

    Returns:
        A number of 63 bits. It is the same on every machine.

    Example:
        >>> derived_seed(0, "augmentation", 1) == derived_seed(0, "augmentation", 1)
        True
        >>> derived_seed(0, "augmentation", 1) == derived_seed(0, "augmentation", 2)
        False
    """
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
