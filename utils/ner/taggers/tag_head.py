"""From a network's emissions to tags."""

from collections.abc import Sequence

from torch import Tensor, nn

from utils.ner.linear_chain import LinearChainCRF

IGNORED = -100  # the tag of padding


class TagHead(nn.Module):
    """Emissions to tags. With `crf` a trained LinearChainCRF; without, every token has its own softmax, and the CRF,
    its scores left at 0, only keeps the steps out that the scheme forbids."""

    def __init__(self, tags: Sequence[str], scheme: str, crf: bool) -> None:
        super().__init__()
        self.chain = LinearChainCRF(tags, scheme).requires_grad_(crf)
        self.crf = crf

    def loss(self, emissions: Tensor, tags: Tensor) -> Tensor:
        """The mean over tokens (softmax) or over sentences (CRF) of -log p; tags (B, T), IGNORED in the padding."""
        if self.crf:
            return -self.chain(emissions, tags, tags != IGNORED).mean()
        return nn.functional.cross_entropy(emissions.float().flatten(0, 1), tags.flatten(), ignore_index=IGNORED)

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """The best tags of each sentence that the scheme allows."""
        return self.chain.viterbi(emissions, mask)

    def probabilities(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """p(tag) of every token, (B, T, K)."""
        return self.chain.marginals(emissions, mask) if self.crf else emissions.float().softmax(-1)
