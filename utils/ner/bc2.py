"""The scoring rules of BioCreative II gene mention (Smith et al. 2008, Genome Biology 9:S2), and its files.

A line of GENE.eval is `sentence id|start end|text`. Offsets count the characters that are not white space, and the end
is the last character of the mention, not the one behind it. ALTGENE.eval lists, in the same form, further spans that
the annotators accept in place of a gold mention.
"""

from dataclasses import dataclass, field
from pathlib import Path

from utils.ner.formats import located, read_lines
from utils.ner.sentence import Entity

Place = tuple[int, int]  # first and last character, white space not counted


@dataclass(frozen=True)
class OfficialGold:
    """What the task's organisers score against: for each sentence id its mentions and their alternatives."""

    genes: dict[str, list[Place]]
    alternatives: dict[str, list[Place]] = field(default_factory=dict)


def read_official(path: Path) -> dict[str, list[Place]]:
    """GENE.eval or ALTGENE.eval, by sentence id. Raises FormatError for a line in another form."""
    found: dict[str, list[Place]] = {}
    for number, line in read_lines(path):
        if line.strip():
            with located(path, number, line, "id|start end|text, 0 <= start <= end"):
                name, offsets, *_ = line.split("|")
                start, end = map(int, offsets.split())
                if not 0 <= start <= end:
                    raise ValueError(f"start {start}, end {end}")
            found.setdefault(name, []).append((start, end))
    return found


def official_place(entity: Entity, text: str) -> Place:
    """An entity's first and last character, counted without white space."""
    before, inside = text[: entity.start], text[entity.start : entity.end]
    first = len("".join(before.split()))
    return first, first + len("".join(inside.split())) - 1


def official_counts(gold: list[Place], alternatives: list[Place], predicted: list[Place]) -> tuple[int, int, int]:
    """Correct, predicted and gold mentions of one sentence.

    A gold mention is found when it, or an alternative that overlaps it, is predicted; however many of them are, it
    counts once. A prediction is wrong when it is neither a gold mention nor an alternative. "Predicted" is found plus
    wrong, so that correct / predicted is the official precision.
    """
    given = set(predicted)
    accepted = set(alternatives) & given
    found = sum((a, b) in given or any(start <= b and a <= end for start, end in accepted) for a, b in gold)
    wrong = len(given - set(gold) - accepted)
    return found, found + wrong, len(gold)
