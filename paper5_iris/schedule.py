"""Three components that learn by turns, each with an optimiser of its own (official trainer.py)."""

from collections.abc import Mapping

from torch import nn


def components_due(epoch: int, start_after: Mapping[str, int]) -> list[str]:
    """The components that learn in an epoch (the first is 1), in the order of `start_after`, which says after how many
    epochs each begins: {"tokenizer": 5} lets it learn from epoch 6 on."""
    # TODO 5.16: who learns in an epoch
    raise NotImplementedError("exercise 5.16: who learns in an epoch")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The parameters of a model for torch.optim.AdamW, as two groups {"params": [...], "weight_decay": ...}.

    In the first, which decays, are the weights of nn.Linear layers, and nothing else; in the second, with 0, all others
    (biases, norms, tables of embeddings). Each parameter is there once.

    Of the paper's world model that is 8,193,280 and 254,213 numbers.
    """
    # TODO 5.17: what decays
    raise NotImplementedError("exercise 5.17: what decays")
