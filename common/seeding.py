"""Random numbers that depend on a key alone: what update 500 draws is the same before and after a resume."""

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """A seed of 32 bits for a key of non-negative integers: the same for the same key, others for other keys.

    The key's length counts, too: numpy alone takes (3,) and (3, 0) for the same.
    """
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


def seeded(*key: int) -> np.random.Generator:
    """Seed torch's global generator by the key, and return a numpy generator."""
    torch.manual_seed(seed_of(*key))
    return np.random.default_rng(key)
