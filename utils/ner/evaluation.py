"""Precision, recall and F1 of entities, per type, with confidence intervals; the difference of two taggers."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from utils.files import check_choice
from utils.ner.bc2 import OfficialGold, official_counts, official_place
from utils.ner.sentence import Entity, Sentence

MODES = ("strict", "partial", "type", "bc2")
Annotated = Sentence | Sequence[Entity]
Annotations = Sequence[Annotated]
Groups = Sequence[Hashable] | None  # one for each sentence
Interval = tuple[float, float]
EDGES = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # the quantiles that an interval of 95% lies between


@dataclass(frozen=True)
class Report:
    """Precision, recall and F1 in [0, 1], of all types together (micro average); a ratio with nothing below it is 0."""

    mode: str
    correct: float  # found entities; half a point each for those found in part, in "partial" mode
    predicted: int  # how many were predicted
    support: int  # how many there are in the gold annotation
    intervals: dict[str, Interval]  # "precision", "recall", "f1": (low, high); empty if not drawn
    per_type: dict[str, "Report"] = field(default_factory=dict)  # of each type the same; none in "bc2" mode

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __str__(self) -> str:
        rows = [f"{self.mode:<20}{'precision':>10}{'recall':>10}{'f1':>10}{'support':>10}  f1 interval"]
        total = "all types" if "all" in self.per_type else "all"  # a type has no white space
        for name, scores in [*self.per_type.items(), (total, self)]:
            interval = "{:.4f} to {:.4f}".format(*scores.intervals["f1"]) if scores.intervals else ""
            numbers = f"{scores.precision:>10.4f}{scores.recall:>10.4f}{scores.f1:>10.4f}{scores.support:>10,}"
            rows.append(f"{name:<20}{numbers}  {interval}".rstrip())
        return "\n".join(rows)


def evaluate(
    gold: Annotations,
    predicted: Annotations,
    mode: str = "strict",
    *,
    official: OfficialGold | None = None,
    resamples: int = 1000,
    groups: Groups = None,
    seed: int = 0,
) -> Report:
    """Score predictions against gold annotation, sentence by sentence in the same order.

    gold, predicted: sentences, or for each sentence its entities; duplicates count once.
    mode: "strict": same start, end, type and pieces, as seqeval (`mode="strict"`, IOB2) and nervaluate's "strict".
        "partial": the same characters are worth 1 and an overlap 1/2, types ignored in the total (nervaluate's
        "partial"). "type": an overlap with the same type is worth 1 (nervaluate's "ent_type"). In both, each gold
        entity pays for one prediction at most, from left to right. "bc2": as in `utils.ner.bc2`, of all types together.
    official: for "bc2", the task's own mentions and alternatives, by sentence id (a warning says how many ids do not
        match); without it the gold entities count and there are no alternatives.
    resamples: bootstrap samples of sentences or groups, drawn with replacement, for intervals of 95%; 0 for none.
    groups: for each sentence the group it is drawn with, such as its document, whose sentences resemble each other.
    Raises ValueError: an unknown mode, another number of sentences or groups, sentences whose texts differ, "bc2"
    without texts, or official gold with none of the sentences' ids.
    """
    _check_groups(gold, groups)
    if resamples < 0:
        raise ValueError(f"expected resamples >= 0, got {resamples}")
    tables = {"": count(gold, predicted, mode, official)}  # "" is the total; no type has this name
    if mode != "bc2":
        for name in sorted({entity.type for annotated in (*gold, *predicted) for entity in _entities(annotated)}):
            pair = ([_entities(annotated, name) for annotated in some] for some in (gold, predicted))
            tables[name] = count(*pair, mode)
    drawn = resample(np.concatenate(list(tables.values()), axis=1), groups, resamples, seed)
    reports = {}
    for k, (name, rows) in enumerate(tables.items()):
        correct, found, support = rows.sum(0).tolist()
        reports[name] = Report(mode, correct, int(found), int(support), _intervals(drawn[:, 3 * k : 3 * k + 3]))
    return replace(reports.pop(""), per_type=reports)


def difference(
    gold: Annotations, first: Annotations, second: Annotations, mode: str = "strict", *, groups: Groups = None
) -> tuple[float, Interval]:
    """F1 of `first` minus F1 of `second` on the same gold, and its interval: `change, (low, high) = difference(...)`.

    Both are scored on the same resampled sentences or groups (paired bootstrap, Efron 1979): what is hard for both
    cancels out. Arguments as in `evaluate`; ValueError also without a sentence.
    """
    _check_groups(gold, groups)
    if not gold:
        raise ValueError("no interval from 0 sentences; expected 1 or more")
    tables = np.concatenate([count(gold, predicted, mode) for predicted in (first, second)], axis=1)
    drawn = np.vstack([tables.sum(0), resample(tables, groups)])  # the first row: as it is
    here, *changes = (f1_of(drawn[:, :3]) - f1_of(drawn[:, 3:])).tolist()
    return here, tuple(np.quantile(changes, EDGES).tolist())


def count(
    gold: Annotations, predicted: Annotations, mode: str = "strict", official: OfficialGold | None = None
) -> np.ndarray:
    """Points, predicted and gold entities of each sentence: array (sentences, 3). Arguments as in `evaluate`."""
    check_choice("mode", mode, MODES)
    if official is not None and mode != "bc2":
        raise ValueError(f'official gold is for mode="bc2", got mode={mode!r}')
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences and {len(predicted)} predicted; expected one for one")
    rows = []
    for number, (true, found) in enumerate(zip(gold, predicted)):
        if isinstance(true, Sentence) and isinstance(found, Sentence) and true.text != found.text:
            texts = f"{true.text[:60]!r} in gold and {found.text[:60]!r} in predicted"
            raise ValueError(f"sentence {number} is {texts}; expected the same sentences in the same order")
        if mode == "bc2":
            rows.append(_official(true, found, official))
        else:
            true, found = _entities(true), _entities(found)
            rows.append((_points(true, found, mode), len(found), len(true)))
    if official is not None:
        _check_ids(gold, official)
    return np.array(rows, dtype=float).reshape(-1, 3)


def _check_ids(gold: Sequence[Sentence], official: OfficialGold) -> None:
    """Official mentions are found by sentence ids; a sentence without any may be one without a name."""
    unknown = sum(bool(sentence.entities) and sentence.id not in official.genes for sentence in gold)
    missing = len(official.genes.keys() - {sentence.id for sentence in gold})
    if gold and official.genes and missing == len(official.genes):
        some = f"({gold[0].id!r} here, {next(iter(official.genes))!r} there); expected official gold of the same split"
        raise ValueError(f"none of the {len(gold)} sentences has an id of the official gold {some}")
    if unknown or missing:
        what = f"{unknown} of {len(gold)} sentences have entities but no mention in the official gold"
        rest = f"{missing} of its {len(official.genes)} ids no sentence here"
        warnings.warn(f"{what}, and {rest}; what is missing does not count", stacklevel=4)


def _entities(annotated: Annotated, kind: str = "") -> list[Entity]:
    """Each once, in order; of one type or, of "", of all."""
    given = annotated.entities if isinstance(annotated, Sentence) else annotated
    return sorted({entity for entity in given if kind in ("", entity.type)})


def _points(gold: list[Entity], predicted: list[Entity], mode: str) -> float:
    if mode == "strict":
        return len(set(gold) & set(predicted))
    free, points = list(gold), 0.0
    for entity in predicted:
        touched = [other for other in free if entity.overlaps(other)]
        if mode == "partial":
            right = [other for other in touched if other.pieces == entity.pieces]
        else:  # of one type, those with the closest boundaries first
            right = [other for other in touched if other.type == entity.type]
            right.sort(key=lambda other, found=entity: abs(other.start - found.start) + abs(other.end - found.end))
        if touched:
            free.remove((right or touched)[0])
            points += 1 if right else 0.5 * (mode == "partial")
    return points


def _official(gold: Annotated, predicted: Annotated, official: OfficialGold | None) -> tuple[int, int, int]:
    if not isinstance(gold, Sentence):
        raise ValueError(f'mode="bc2" counts characters, so gold must be sentences; got {type(gold).__name__}')
    found, true = ([official_place(entity, gold.text) for entity in _entities(some)] for some in (predicted, gold))
    if official is None:
        return official_counts(true, [], found)
    return official_counts(official.genes.get(gold.id, []), official.alternatives.get(gold.id, []), found)


def resample(rows: np.ndarray, groups: Groups = None, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Sums of rows (sentences, columns) over samples drawn with replacement: array (resamples, columns).

    Of groups, all rows are drawn together; as many groups are drawn as there are. The same seed draws the same
    sentences, whatever stands in the rows. Without rows the result has none either.
    """
    if groups is not None:
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        single, rows = rows, np.zeros((len(places), rows.shape[1]))
        np.add.at(rows, [places[group] for group in groups], single)
    units, generator = len(rows), np.random.default_rng(seed)
    drawn = np.empty((resamples if units else 0, rows.shape[1]))
    for sums in drawn:
        sums[:] = np.bincount(generator.integers(units, size=units), minlength=units) @ rows
    return drawn


def f1_of(sums: np.ndarray) -> np.ndarray:
    """F1 (n,) from sums of counts (n, 3): 2 correct / (predicted + gold), 0 where there is nothing."""
    correct, predicted, support = sums.T
    return _ratio(2 * correct, predicted + support)


def _check_groups(gold: Annotations, groups: Groups) -> None:
    if groups is not None and len(groups) != len(gold):
        raise ValueError(f"{len(groups)} groups for {len(gold)} sentences; expected one for each")


def _intervals(drawn: np.ndarray) -> dict[str, Interval]:
    """Percentile intervals (Efron 1979); none where nothing was drawn."""
    if not len(drawn):
        return {}
    correct, predicted, support = drawn.T
    values = {"precision": _ratio(correct, predicted), "recall": _ratio(correct, support), "f1": f1_of(drawn)}
    return {name: tuple(np.quantile(value, EDGES).tolist()) for name, value in values.items()}


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
