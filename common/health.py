"""The health of a run: one line of warning where the log shows that something is wrong, with the guide's section.

Every rule looks at the numbers of a line of the log. It speaks once in a run, when it has held for some lines in a row.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

Line = Mapping[str, float]


class Rule(NamedTuple):
    needs: tuple[str, ...]
    """Metrics: a line without one of them says nothing for or against."""
    wrong: Callable[[Line, Line, float], bool]
    """Whether a line shows it, given the first line with the same metrics, and the most that episodes have paid."""
    patience: int
    """Lines in a row."""
    says: str
    section: str
    """Of IMPLEMENTATION_GUIDE.md."""


LATENTS, NORM, CONT = "world_model/latent_use", "world_model/grad_norm", "world_model/cont_accuracy"
PROMISED, PAID, LENGTH = "policy/imagined_return", "policy/episode_return", "policy/episode_length"


def too_high(line: Line, first: Line, most: float) -> bool:
    """A discounted value may rightly be above what an episode pays where a time limit cuts that short: a value looks
    some hundred steps ahead."""
    return line[PROMISED] > max(1.0, 2 * most * max(1.0, 500 / line[LENGTH]))


RULES = {
    "posterior collapse": Rule(
        (LATENTS,),
        lambda line, first, most: line[LATENTS] == 0,
        5,
        "no latent tells anything of the frames",
        "The latents say nothing",
    ),
    "exploding gradient": Rule(
        (NORM,),
        lambda line, first, most: not line[NORM] < 1000 * max(1.0, first[NORM]),  # of nan, too
        1,
        "the norm of the world model's gradient is no number, or a thousand times what it was",
        "Losses jump, or become nan",
    ),
    "continue head inverted": Rule(
        (CONT,),
        lambda line, first, most: line[CONT] < 0.4,  # 0.5 is knowing nothing
        5,
        "rows that go on are taken for ends, and ends for rows that go on",
        "Dreams end at once, or never",
    ),
    "values too high": Rule(
        (PROMISED, PAID, LENGTH),
        too_high,
        5,
        "dreams promise far more than any episodes have paid",
        "The dream's return rises, the real one does not",
    ),
}


class Health:
    """Looks at one line of the log after the other."""

    def __init__(self):
        self.first: dict[str, Line] = {}
        self.most = float("-inf")
        self.held = dict.fromkeys(RULES, 0)
        self.told: set[str] = set()

    def look(self, line: Line) -> list[str]:
        """The warnings that a new line gives rise to."""
        self.most = max(self.most, line.get(PAID, self.most))
        warnings = []
        for name, rule in RULES.items():
            if not line.keys() >= set(rule.needs):
                continue
            first = self.first.setdefault(name, {key: line[key] for key in rule.needs})
            self.held[name] = self.held[name] + 1 if rule.wrong(line, first, self.most) else 0
            if self.held[name] >= rule.patience and name not in self.told:
                self.told.add(name)
                warnings.append(f'warning: {name}: {rule.says}; see "{rule.section}" in IMPLEMENTATION_GUIDE.md')
        return warnings
