"""Seeds for the many random things of one run, all derived from the run's one seed."""

from hashlib import blake2b


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part: ``derived_seed(seed, "augmentation", epoch)``."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
