"""A linear-chain conditional random field (Lafferty et al. 2001; as a network's last layer: Lample et al. 2016).

A network gives every token a score for each tag, its *emissions*; a path y of tags also gets one for each step:

    score(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t-1, y_t] + end[y_n]
    p(y)     = exp(score(y)) / Z,    Z = sum of exp(score) over all K^n paths

What leads up to token t can be summed (the forward algorithm), or maximised (Viterbi), once for each tag of t, without
a walk over all paths. Shapes: B sentences of a batch, T tokens of the longest, K tags.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# exp(-10,000) is 0 in every precision; unlike minus infinity it gives no NaN in the gradient.
FORBIDDEN = -10_000.0
IGNORED = -100  # the tag of padding


class LinearChainCRF(nn.Module):
    """Scores of sequences of `tags` (names of the K tags, or their number); a `scheme` ("BIO" or "BIOES") forbids the
    steps that it rules out.

    `mask` is True (B, T) at the tokens and False at the padding behind them, where emissions and tags do not matter.
    Raises ValueError: no tags, a scheme without names, or (when called) shapes or masks that do not fit.
    """

    def __init__(self, tags: Sequence[str] | int, scheme: str | None = None) -> None:
        super().__init__()
        names = ["O"] * tags if isinstance(tags, int) else list(tags)
        if not names or (scheme and isinstance(tags, int)):
            raise ValueError(f"expected the names of at least one tag (or their number, without a scheme), got {tags}")
        self.start = nn.Parameter(torch.zeros(len(names)))
        self.transitions = nn.Parameter(torch.zeros(len(names), len(names)))  # [from, to]
        self.end = nn.Parameter(torch.zeros(len(names)))
        steps = [[not scheme or _allowed(a, b, scheme) for b in (*names, "end")] for a in (*names, "start")]
        self.register_buffer("penalty", FORBIDDEN * (1 - torch.tensor(steps).float()), persistent=False)

    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """start (K), transitions (K, K) and end (K), with FORBIDDEN added where a step is ruled out."""
        penalty = self.penalty
        return self.start + penalty[-1, :-1], self.transitions + penalty[:-1, :-1], self.end + penalty[:-1, -1]

    def score(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """The score (B) of one path for each sentence; tags: integers (B, T)."""
        emissions, mask = _checked(emissions, mask)
        start, transitions, end = self.steps()
        tags = tags.masked_fill(~mask, 0)
        last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
        of_tokens = emissions.gather(2, tags.unsqueeze(2)).squeeze(2) * mask  # (B, T)
        of_steps = transitions[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]  # (B, T - 1)
        return start[tags[:, 0]] + of_tokens.sum(1) + of_steps.sum(1) + end[last]

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """log Z (B), by the forward algorithm."""
        emissions, mask = _checked(emissions, mask)
        start, transitions, end = self.steps()
        alpha = start + emissions[:, 0]  # (B, K): log of the sum over all paths that end here in tag k
        for t in range(1, emissions.shape[1]):
            longer = torch.logsumexp(alpha.unsqueeze(2) + transitions, dim=1) + emissions[:, t]
            alpha = torch.where(mask[:, t, None], longer, alpha)
        return torch.logsumexp(alpha + end, dim=1)

    def forward(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """log p(tags) (B), at most 0: what training maximises."""
        return self.score(emissions, tags, mask) - self.log_partition(emissions, mask)

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """p(y_t = k) (B, T, K), summed over all paths; 0 in the padding. The derivative of log Z by an emission is the
        share of Z that goes through it, so autograd is the backward algorithm."""
        with torch.enable_grad():
            emissions = emissions.detach().float().requires_grad_()
            return torch.autograd.grad(self.log_partition(emissions, mask).sum(), emissions)[0]

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """The path of the highest score for each sentence, as long as the sentence; of equals any one."""
        emissions, mask = _checked(emissions, mask)
        start, transitions, end = self.steps()
        best, pointers = start + emissions[:, 0], []  # (B, K): of the best path that ends here in tag k
        stay = torch.arange(best.shape[1], device=best.device)
        for t in range(1, emissions.shape[1]):
            longer, came_from = (best.unsqueeze(2) + transitions).max(dim=1)
            best = torch.where(mask[:, t, None], longer + emissions[:, t], best)
            pointers.append(torch.where(mask[:, t, None], came_from, stay))
        path = [(best + end).argmax(dim=1, keepdim=True)]  # (B, 1); now back along the pointers
        for came_from in reversed(pointers):
            path.append(came_from.gather(1, path[-1]))
        paths = torch.cat(path[::-1], dim=1).tolist()
        return [path[:length] for path, length in zip(paths, mask.sum(1).tolist())]


def _checked(emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Emissions in float32, because half precision is too coarse for such sums, and 0 in the padding."""
    mask = mask.bool()
    if emissions.dim() != 3 or emissions.shape[:2] != mask.shape:
        shapes = f"{tuple(emissions.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"expected emissions (B, T, K) and a mask (B, T), got {shapes}")
    # Looking at values makes a GPU wait.
    if mask.device.type == "cpu" and (not mask[:, :1].all() or (mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("the mask must be True at the first token and False only behind the last one of a sentence")
    return emissions.float().masked_fill(~mask.unsqueeze(2), 0), mask


def _allowed(before: str, after: str, scheme: str) -> bool:
    """Whether a tag may follow another; "start" stands before the first one and "end" behind the last."""
    is_open = before[0] in "BI"
    if after[0] in "IE":
        return is_open and before[2:] == after[2:]
    return not (is_open and scheme == "BIOES")


class TagHead(nn.Module):
    """Emissions to tags. With `crf` a trained LinearChainCRF; without, every token has its own softmax, and the CRF,
    its scores left at 0, only keeps the steps out that the scheme forbids."""

    def __init__(self, tags: Sequence[str], scheme: str, crf: bool) -> None:
        super().__init__()
        self.chain = LinearChainCRF(tags, scheme).requires_grad_(crf)
        self.crf, self.count = crf, len(tags)

    def loss(self, emissions: Tensor, tags: Tensor) -> Tensor:
        """The mean over tokens (softmax) or over sentences (CRF) of -log p; tags (B, T), IGNORED in the padding."""
        if self.crf:
            return -self.chain(emissions, tags, tags != IGNORED).mean()
        return nn.functional.cross_entropy(emissions.float().flatten(0, 1), tags.flatten(), ignore_index=IGNORED)

    def probabilities(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """p(tag) of every token, (B, T, K)."""
        return self.chain.marginals(emissions, mask) if self.crf else emissions.float().softmax(-1)
