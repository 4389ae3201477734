"""BioTagger-GM rebuilt (Torii, Hu, Wu & Liu 2009, JAMIA 16:247-255), with the means that the course has.

What the paper does, and what stands for it here:

1. Dictionary look-up: gene and protein names of BioThesaurus and terms of the UMLS Metathesaurus are tagged.
   The UMLS needs a licence of its own, and neither comes with the course. Here: human gene symbols of NCBI Gene for the
   first; names of the Disease Ontology and of MeSH, diseases and chemicals, for the second. They are far smaller, and
   full names of genes and names in other species are missing.
2. Machine learning with the look-up as one kind of feature. The paper votes over four different kinds of system: ABNER
   and a CRF of MALLET, a second-order maximum-entropy Markov model, and LingPipe's model of character sequences. Here:
   four CRFs by CRFsuite, which are more alike, so that a vote has less to gain. The paper's CRF also sees parts of
   speech, for which the course has no tagger, and a list of false positives.
3. Post-processing: heuristic rules correct errors. Here: bracket repair and abbreviation consistency, each kept for a
   member only where it helps on dev.
4. System combination: a voting scheme. Here: a vote of spans, weights chosen on dev.

The paper's F = 0.8887 is on the official test split by the task's own scoring, with alternatives (its Table 3); in
cross-validation on the training corpus the vote has 0.8687 and the best CRF 0.8481 (Table 2).

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
