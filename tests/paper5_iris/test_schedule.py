"""Who learns when, and what decays: exercises 5.16 and 5.17."""

import pytest
import torch
import torch._dynamo  # an optimiser imports it, which takes seconds: not within a test
from torch import nn

from paper5_iris import schedule
from paper5_iris.transformer import WorldModel
from tests.helpers import expect_close

# ---- 5.16 components_due ----

PAPERS = {"tokenizer": 5, "world_model": 25, "actor_critic": 50}


@pytest.mark.exercise(id="5.16")
@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (1, []),
        (5, []),
        (6, ["tokenizer"]),
        (25, ["tokenizer"]),
        (26, ["tokenizer", "world_model"]),
        (50, ["tokenizer", "world_model"]),
        (51, ["tokenizer", "world_model", "actor_critic"]),
        (600, ["tokenizer", "world_model", "actor_critic"]),
    ],
)
def test_components_of_an_epoch(epoch, expected):
    """Epoch 5 is one of the five in which the tokenizer does not learn, epoch 6 the first in which it does."""
    found = schedule.components_due(epoch, PAPERS)
    one_early = "AFTER 5 epochs begins with epoch 6" if len(found) > len(expected) else ""
    one_late = "after 5 epochs of the first, counted from 1, comes epoch 6" if len(found) < len(expected) else ""
    assert isinstance(found, list)
    assert found == expected, f"in epoch {epoch} learn {found}, but should {expected}; {one_early}{one_late}"


@pytest.mark.exercise(id="5.16")
def test_order_is_that_of_the_components():
    """Whatever they are called, and whichever begins first."""
    start_after = {"second": 3, "first": 0, "third": 1}
    kept = dict(start_after)
    found = [schedule.components_due(epoch, start_after) for epoch in range(1, 5)]
    assert found[0] == ["first"], "after 0 epochs a component learns from the first on, which is 1"
    assert found[1] == ["first", "third"]
    assert found[2] == ["first", "third"]
    assert found[3] == ["second", "first", "third"], "the order is that of `start_after`"
    assert schedule.components_due(9, {}) == []
    assert start_after == kept, "the caller's dict is changed"


# ---- 5.17 decay_groups ----


class Odd(nn.Module):
    """A bit of everything, nested; 11 + 30 numbers in linear weights."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.free = nn.Parameter(torch.randn(3, 4))
        self.rows = nn.ModuleList([nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6)), nn.Conv2d(2, 3, 3)])
        self.heads = nn.ModuleDict({"one": nn.Linear(11, 1, bias=False)})


def split(model: nn.Module, weight_decay: float = 0.03) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, the others), in whatever order the groups come."""
    groups = schedule.decay_groups(model, weight_decay)
    assert len(groups) == 2, f"{len(groups)} groups: there should be two"
    by_decay = {group.get("weight_decay", "AdamW's"): list(group["params"]) for group in groups}
    wrong = "one with the weight decay that was asked for, one with 0, or AdamW decays it by its own"
    assert by_decay.keys() == {weight_decay, 0.0}, f"the groups decay by {list(by_decay)}: {wrong}"
    return by_decay[weight_decay], by_decay[0.0]


def names(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {name for name, each in model.named_parameters() if any(each is other for other in parameters)}


@pytest.mark.exercise(id="5.17")
def test_the_papers_world_model_is_split_as_there():
    """Breakout's: 8,447,493 numbers in all."""
    model = WorldModel(512, 4, 16, 20, width=256, layers=10, heads=4, dropout=0.1)
    found = [sum(each.numel() for each in group) for group in split(model)]
    mistakes = {
        (8_412_416, 35_077): "tables of embeddings do not decay",
        (254_213, 8_193_280): "the other way round: linear weights decay, all else does not",
        (8_217_605, 229_888): "biases of linear layers do not decay",
        (8_417_792, 29_701): "tables of embeddings and norms do not decay",
        (8_325_376, 122_117): "the positions are not decayed, but the two other tables are: they should not be",
    }
    expect_close(found, [8_193_280, 254_213], rtol=0, atol=0, mistakes=mistakes, what="numbers that decay, and others")


@pytest.mark.exercise(id="5.17")
def test_weights_of_linear_layers_decay_and_nothing_else():
    """However deep they lie: no biases, norms, embeddings, convolutions or parameters of their own."""
    model = Odd()
    decayed, others = split(model)
    wanted = {"rows.0.0.weight", "heads.one.weight"}
    assert names(model, decayed) == wanted, f"decayed are {sorted(names(model, decayed))}"
    assert names(model, others) == {name for name, _ in model.named_parameters()} - wanted


@pytest.mark.exercise(id="5.17")
def test_every_parameter_is_there_once_and_itself():
    """The very tensors: an optimiser moves them where they are."""
    for model in (Odd(), WorldModel(6, 3, 4, 3, width=8, layers=2, heads=2, dropout=0.1)):
        decayed, others = split(model)
        found, wanted = [id(each) for each in decayed + others], [id(each) for each in model.parameters()]
        assert len(found) == len(set(found)), "a parameter is in it twice"
        assert set(found) <= set(wanted), "there are tensors that are no parameters of the model: copies?"
        assert set(found) == set(wanted), f"{len(set(wanted) - set(found))} parameters are missing"


@pytest.mark.exercise(id="5.17")
def test_adamw_takes_them():
    """With gradients of 0 a step at a learning rate of 0.1 and a decay of 0.5 leaves 0.95 of what decays."""
    model = WorldModel(6, 3, 4, 3, width=8, layers=1, heads=2, dropout=0.1)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    torch.optim.AdamW(schedule.decay_groups(model, 0.5), lr=0.1).step()
    linear = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for name, each in model.named_parameters():
        share = 0.95 if name in linear else 1.0
        mistakes = {tuple((0.999 * before[name]).flatten().tolist()): "it decays by AdamW's own 0.01"}
        expect_close(each, share * before[name], mistakes=mistakes, what=f"{name} after a step without gradient")
