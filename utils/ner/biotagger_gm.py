"""BioTagger-GM rebuilt (Torii, Hu, Wu & Liu 2009, JAMIA 16:247-255), as far as its paper discloses it.

What the paper says, and what stands for it here:

1. Dictionary look-up: gene and protein names of BioThesaurus and terms of the UMLS Metathesaurus are tagged.
   The UMLS needs a licence of its own, and neither comes with the course. Here: human gene symbols of NCBI Gene for the
   first; names of the Disease Ontology and of MeSH, diseases and chemicals, for the second. They are far smaller, and
   full names of genes and names in other species are missing.
2. Machine learning: several systems are trained with the look-up as one kind of feature. Here: four CRFs by CRFsuite.
3. Post-processing: heuristic rules correct errors. Here: bracket repair and abbreviation consistency, each kept for a
   member only where it helps on dev.
4. System combination: a voting scheme. Here: a vote of spans, weights chosen on dev.

What it does not disclose in its abstract, on which this file rests: which systems vote, with which features and
parameters, how look-up is matched and encoded, the rules, the weights. All of that is this file's choice. The paper's
F = 0.8887 is by the task's own scoring, with alternatives, and from cross-validation, not on the official test split.

The members differ in direction, tags, window and features. Direction needs BIO to matter: "B" marks the first word of
an entity when read forward and the last when read backward, whereas BIOES marks both, in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence

from utils.ner.features import WordFeatures
from utils.ner.lexicons import Lexicon
from utils.ner.taggers.base import Tagger
from utils.ner.taggers.corrected import CorrectedTagger
from utils.ner.taggers.crf import CRFTagger
from utils.ner.taggers.voting import VotingTagger

MEMBERS = (
    {"scheme": "BIO", "backward": False, "features": {}},
    {"scheme": "BIO", "backward": True, "features": {}},
    {"scheme": "BIOES", "backward": False, "features": {"window": 3, "grams": (2, 3, 4)}},
    {"scheme": "BIOES", "backward": False, "features": {"window": 1, "stems": False, "affixes": 4}},
)


class BioTaggerGM(VotingTagger):
    """Look-up as features, four CRFs, post-processing of each, and a vote.

    Args:
        lexicons: lists of names whose look-up the CRFs see.
        further: more taggers that vote, such as a Transformer; the paper has none.
        iterations: of each CRF.
    """

    name = "biotagger-gm"

    def __init__(self, lexicons: Sequence[Lexicon] = (), further: Sequence[Tagger] = (), iterations: int = 150) -> None:
        members = [
            CRFTagger(
                WordFeatures(**one["features"], lexicons=tuple(lexicons)),
                one["scheme"],
                iterations=iterations,
                backward=one["backward"],
            )
            for one in MEMBERS
        ]
        super().__init__([CorrectedTagger(member) for member in (*members, *further)])
