"""The health of a run: one line of warning where the log shows that something is wrong, with the guide's section.

Every rule looks at the numbers of a line of the log. It speaks once, after it has held for some lines in a row.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

Line = Mapping[str, float]


class Rule(NamedTuple):
    needs: tuple[str, ...]
    """Metrics: a line without one of them says nothing for or against."""
    wrong: Callable[[list[Line]], bool]
    """Whether the last of the lines with these metrics shows it, given those before."""
    patience: int
    """Lines in a row."""
    says: str
    section: str
    """Of IMPLEMENTATION_GUIDE.md."""


LATENTS, NORM, CONT = "world_model/latent_use", "world_model/grad_norm", "world_model/cont_accuracy"
PROMISED, PAID = "policy/imagined_return", "policy/episode_return"
RULES = {
    "posterior collapse": Rule(
        (LATENTS,),
        lambda lines: lines[-1][LATENTS] == 0,
        5,
        "no latent tells anything of the frames",
        "The latents say nothing",
    ),
    "exploding gradient": Rule(
        (NORM,),
        lambda lines: not lines[-1][NORM] < 1000 * max(1.0, lines[0][NORM]),  # of nan, too
        1,
        "the norm of the world model's gradient is no number, or a thousand times what it was",
        "Losses jump, or become nan",
    ),
    "continue head inverted": Rule(
        (CONT,),
        lambda lines: lines[-1][CONT] < 0.4,  # 0.5 is knowing nothing
        5,
        "ends are foreseen where there are none, and none where they are",
        "Dreams end at once, or never",
    ),
    "values too high": Rule(
        (PROMISED, PAID),
        lambda lines: lines[-1][PROMISED] > 2 * max(1.0, *(abs(line[PAID]) for line in lines)),
        5,
        "a dream promises more than twice what any whole episode has paid",
        "The dream's return rises, the real one does not",
    ),
}


class Health:
    """Looks at one line of the log after the other."""

    def __init__(self):
        self.lines: dict[str, list[Line]] = {name: [] for name in RULES}
        self.held = dict.fromkeys(RULES, 0)

    def look(self, line: Line) -> list[str]:
        """The warnings that a new line gives rise to."""
        warnings = []
        for name, rule in RULES.items():
            if not line.keys() >= set(rule.needs):
                continue
            self.lines[name].append({key: line[key] for key in rule.needs})
            self.held[name] = self.held[name] + 1 if rule.wrong(self.lines[name]) else 0
            if self.held[name] == rule.patience:
                warnings.append(f'warning: {name}: {rule.says}; see "{rule.section}" in IMPLEMENTATION_GUIDE.md')
        return warnings
