"""DiffusionTagger: entities, nested ones too, as spans that a diffusion model draws out of noise.

After DiffusionNER (Shen et al. 2023, arXiv 2305.13298). An entity is a point, (centre, width) in [-2, 2]. The network
reads the sentence and a noised point, and says where the entity was: two pointers over the tokens. To tag, points of
pure noise are denoised by DDIM, and a judge gives each span that they end at a type, or none. Other than in the paper:
noise is paired with entities by optimal transport, so that no matching is needed; pointers are softmaxes; the judge is
a network of its own; proposals do not attend to each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from transformers import PreTrainedModel

from utils.device import autocast
from utils.diffusion import GaussianDiffusion, NoiseSchedule, sample
from utils.diffusion.embeddings import TimestepEmbedding, sinusoidal_embedding
from utils.files import stream_seed
from utils.ner.neural import Window
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import Sentences
from utils.ner.tags import token_spans
from utils.ner.transformer import TokenEncoder, TransformerTagger, span_means

SCALE = 2.0  # of the signal beside noise of variance 1, as in DiffusionDet (Chen et al. 2022, arXiv 2211.09788)
PLACE, HIDDEN = 64, 256  # how many numbers tell where an edge is; width of the new layers
TRAINED = 30  # proposals of a sentence in training; the judge alone sees entities beyond so many
JITTER = 2  # tokens by which an edge is moved, at most, to show the judge what is nearly right


def encode_spans(spans: Tensor, lengths: Tensor) -> Tensor:
    """Spans (..., 2), first token and token behind the last, as points: centre and width in [-SCALE, SCALE].

    lengths: tokens of each span's sentence, of the shape of spans without the 2, or one that broadcasts to it.
    """
    start, end = spans.float().unbind(-1)
    return SCALE * torch.stack([(start + end) / lengths - 1, 2 * (end - start) / lengths - 1], dim=-1)


def edges(points: Tensor) -> Tensor:
    """Centre and width (..., 2) as left and right edge, where -1 and 1 are the sentence's own."""
    centre, width = points[..., 0] / SCALE, (points[..., 1] / SCALE + 1) / 2
    return torch.stack([centre - width, centre + width], dim=-1)


def decode_spans(points: Tensor, lengths: Tensor) -> Tensor:
    """The spans (..., 2) of at least one token, inside the sentence, whose edges are nearest: `encode_spans` undone."""
    start, end = ((edges(points) + 1) / 2 * lengths.unsqueeze(-1)).round().long().unbind(-1)
    start = start.clamp(min=0).minimum(lengths - 1)
    return torch.stack([start, end.maximum(start + 1).minimum(lengths)], dim=-1)


def pair_noise(noise: Tensor, x_0: Tensor) -> Tensor:
    """The K points of noise (B, K, 2) of each sentence in another order: that in which their squared distances to x_0
    (B, K, 2) add up to the least, so that each proposal begins near the entity that it is to find. Not for samplers
    that add noise, which would be paired at random."""
    distances = torch.cdist(x_0.cpu().double(), noise.cpu().double()).square().numpy()
    order = np.stack([linear_sum_assignment(one)[1] for one in distances])
    return noise.take_along_dim(torch.from_numpy(order).to(noise.device).unsqueeze(-1), dim=1)


class SpanNetwork(TokenEncoder):
    """Token vectors, two pointers for each proposal, and the judge of spans."""

    def __init__(self, encoder, tokenizer, features: list[int], types: int, options: dict[str, Any]) -> None:
        super().__init__(encoder, tokenizer, features, options)
        self.time = TimestepEmbedding(PLACE, HIDDEN)
        width = self.width + 2 * PLACE + HIDDEN  # of what a proposal is told: the tokens, its edges, the time
        self.query = nn.Sequential(nn.Linear(width, 512), nn.SiLU(), nn.Linear(512, 2 * HIDDEN))
        self.keys = nn.ModuleList(nn.Linear(self.width + PLACE, HIDDEN) for _ in range(2))
        self.judge = nn.Sequential(nn.Linear(3 * self.width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, types + 1))
        self.new += [self.time, self.query, self.keys, self.judge]

    def pointers(self, tokens: Tensor, lengths: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Where the first and the last token of each proposal's entity are: logits (B, K, 2, T).

        tokens: (B, T, width). lengths: (B, 1). x_t: (B, K, 2). t: (B, K).
        """
        around = span_means(tokens, *decode_spans(x_t, lengths).split(1, dim=-1))
        time = self.time(t.flatten()).view(*t.shape, -1)
        query = self.query(torch.cat([around, _places(edges(x_t)).flatten(-2), time], dim=-1))
        number = torch.arange(tokens.shape[1], device=tokens.device)
        logits = []
        for side, (key, part) in enumerate(zip(self.keys, query.chunk(2, dim=-1))):
            place = _places(2 * (number + side) / lengths - 1)  # (B, T, PLACE), of the token's left or right edge
            logits.append(part @ key(torch.cat([tokens, place], dim=-1)).mT / part.shape[-1] ** 0.5)
        return torch.stack(logits, dim=2).float().masked_fill((number >= lengths)[:, None, None], -torch.inf)

    def judge_spans(self, tokens: Tensor, spans: Tensor) -> Tensor:
        """Logits (B, S, types + 1) of spans (B, S, 2), the first for no entity: by first token, last token and mean."""
        ends = [tokens.take_along_dim(place.unsqueeze(-1), 1) for place in (spans[..., 0], spans[..., 1] - 1)]
        return self.judge(torch.cat([*ends, span_means(tokens, *spans.split(1, dim=-1))], dim=-1)).float()


def _places(x: Tensor) -> Tensor:
    """Coordinates in [-1, 1], of any shape, as PLACE sines and cosines each."""
    return sinusoidal_embedding(100 * x.flatten(), PLACE).view(*x.shape, PLACE)


class DiffusionTagger(TransformerTagger):
    """Names that nest are found, because nothing is said of tokens; each entity's `score` is the judge's probability.

    proposals: points of noise for each sentence. steps: of DDIM, 1 to 1000. sure: how probable an entity has to be,
        above 0 to 1. nested: whether returned entities may be inside each other; `fit` sets it by what training has.
        All four may be changed in `options` later.
    others, errors: as in TransformerTagger, of which crf and scheme mean nothing here; ValueError also for proposals or
        steps out of range. Of two entities of one span that differ in type it learns one.
    """

    name = "diffusion"
    _layers = 99  # that entities nest or cross is no loss here

    def __init__(
        self,
        encoder: str | Path | None = None,
        proposals: int = 60,
        steps: int = 5,
        sure: float = 0.5,
        nested: bool = True,
        **others: Any,
    ) -> None:
        if proposals < 1 or steps not in range(1, 1001) or not 0 < sure <= 1:
            given = f"{proposals}, {steps} and {sure}"
            raise ValueError(f"proposals must be at least 1, steps 1 to 1000, sure above 0 to 1; got {given}")
        super().__init__(encoder, **dict(pooling="mean", shapes=True) | others)
        self.options |= dict(proposals=proposals, steps=steps, sure=sure, nested=nested)
        self.diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), prediction="x_0")

    def _network(self, encoder: PreTrainedModel) -> SpanNetwork:
        return SpanNetwork(encoder, self.tokenizer, self.features.sizes, len(self.types), self.options)

    def _build(self, train: Sentences) -> None:
        overlaps = (a.overlaps(b) for one in train for a in one.entities for b in one.entities if a < b)
        self.options["nested"] = any(overlaps)
        super()._build(train)

    def _examples(self, sentence: Sentence) -> list[tuple[Window, list[tuple[int, int, int]]]]:
        """The windows, each with the spans (start, end, number of the type) that are wholly inside."""
        spans, types, examples = token_spans(sentence).values(), self.types, []
        for window in self._windows(sentence):
            inside = [span for span in spans if window.start <= span[0] and span[1] <= window.end]
            moved = [(a - window.start, b - window.start, types.index(kind) + 1) for a, b, kind in inside]
            examples.append((window, moved))
        return examples

    def _loss(self, windows: Sequence[Window], spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        """Cross-entropies of the pointers and of the judge, which sees gold and what proposals could end at."""
        tokens, lengths = self.network(self._batch(windows)), self._lengths(windows)
        # What stands in for the entities of a sentence without any is not learnt by the pointers.
        has, gold = torch.tensor([bool(some) for some in spans], device=self.device), self._repeated(spans)
        x_t, t = self._noised(encode_spans(gold, lengths))
        logits = self.network.pointers(tokens, lengths, x_t, t)
        pointing = self._pointing(logits[has], gold[has]) if has.any() else 0.0
        near = gold + torch.randint(-JITTER, JITTER + 1, gold.shape, device=self.device)
        found = [decode_spans(points, lengths) for points in (encode_spans(near, lengths), x_t)]
        candidates = torch.cat([gold, *found, shown(logits)], dim=1)
        return pointing + self._judging(tokens, candidates, spans)

    def _repeated(self, spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        """The spans (B, TRAINED, 2) of each sentence again and again; where there is none, its first token."""
        copies = ([(some or [(0, 1)])[k % max(len(some), 1)][:2] for k in range(TRAINED)] for some in spans)
        return self._padded(list(copies))

    def _noised(self, x_0: Tensor) -> tuple[Tensor, Tensor]:
        """x_t (B, K, 2) and t (B, K): proposals do not see each other, so each may have a timestep of its own."""
        t = torch.randint(self.diffusion.num_timesteps, x_0.shape[:2], device=self.device)
        noise = pair_noise(torch.randn_like(x_0), x_0)
        return self.diffusion.q_sample(x_0.flatten(0, 1), t.flatten(), noise.flatten(0, 1)).view_as(x_0), t

    def _pointing(self, logits: Tensor, gold: Tensor) -> Tensor:
        wanted = torch.stack([gold[..., 0], gold[..., 1] - 1], dim=-1)
        return nn.functional.cross_entropy(logits.flatten(0, 2), wanted.flatten())

    def _judging(self, tokens: Tensor, candidates: Tensor, spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        """The judge's cross-entropy, over candidates (B, S, 2): the type of the entity that one equals, or none."""
        gold = self._padded([some or [(0, 0, 0)] for some in spans])  # (B, G, 3); what is padded equals no span
        equal = (candidates.unsqueeze(2) == gold[:, None, :, :2]).all(-1)  # (B, S, G)
        types = (equal * gold[:, None, :, 2]).amax(-1)
        return nn.functional.cross_entropy(self.network.judge_spans(tokens, candidates).flatten(0, 1), types.flatten())

    def _lengths(self, windows: Sequence[Window]) -> Tensor:
        """(B, 1), in tokens."""
        return torch.tensor([[window.end - window.start] for window in windows], device=self.device)

    def start(self) -> Tensor:
        """x_T (K, 2), the same for all sentences, so that none changes what is found in another."""
        generator = torch.Generator().manual_seed(stream_seed(self.recipe.seed, "proposals"))
        return torch.randn(self.options["proposals"], 2, generator=generator).to(self.device)

    def denoise(self, sentences: Sentences) -> Iterator[tuple]:
        """For each batch its windows, with their sentences' numbers, its token vectors, and the `steps` of DDIM."""
        x_T = self.start()
        for windows, batch in self._batches(sentences):
            lengths = self._lengths([window for _, window in windows])
            with torch.no_grad(), autocast(self.device, self.precision):
                tokens = self.network(batch)
                steps = self.steps(tokens, lengths, x_T.expand(len(windows), -1, -1))
            yield windows, tokens, steps

    def steps(self, tokens: Tensor, lengths: Tensor, x_T: Tensor) -> list[tuple[Tensor, ...]]:
        """From noise x_T (B, K, 2): for each step x_t, the estimate of x_0 that led there, and the most probable spans.

        The estimate is the mean of the places where the pointers point, each by its probability."""
        spans = []

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            logits = self.network.pointers(tokens, lengths, x_t, t.unsqueeze(1).expand(x_t.shape[:2]))
            spans.append(shown(logits))
            return encode_spans(mean_places(logits), lengths)

        options = dict(sampler="ddim", steps=self.options["steps"], clip=False, x_T=x_T)
        options["generator"] = torch.Generator()  # what it draws is not used, and the caller's stays as it is
        states = list(sample(network, self.diffusion, tuple(x_T.shape), **options))
        return [(state.x_t, state.x_0, found) for state, found in zip(states, spans)]

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        found: list[set[Entity]] = [set() for _ in sentences]
        types = self.types
        for windows, tokens, states in self.denoise(sentences):
            spans = states[-1][-1]
            with torch.no_grad(), autocast(self.device, self.precision):
                chances = self.network.judge_spans(tokens, spans).softmax(-1)
            scores, kinds = chances.index_fill(-1, torch.tensor(0, device=self.device), 0.0).max(-1)  # none is no kind
            for (number, window), *rows in zip(windows, spans.tolist(), kinds.tolist(), scores.tolist()):
                places = sentences[number].tokens[window.start : window.end]
                for (start, end), kind, score in zip(*rows):
                    if score >= self.options["sure"] and window.keep[0] <= window.start + start < window.keep[1]:
                        offsets = places[start].start, places[end - 1].end
                        found[number].add(Entity(*offsets, types[kind - 1], score=min(score, 1.0)))
        return list(map(self._compatible, found))

    def _compatible(self, entities: Iterable[Entity]) -> list[Entity]:
        """The entities, from the surest on, that overlap no surer one, or that nest with those that they overlap."""
        kept: list[Entity] = []
        for entity in sorted(entities, key=lambda entity: (-entity.score, entity)):
            touched = list(filter(entity.overlaps, kept))
            if self.options["nested"]:  # those that cross it have both edges on the same side of its own
                touched = [one for one in touched if (one.start - entity.start) * (one.end - entity.end) > 0]
            if not touched:
                kept.append(entity)
        return kept

    def emissions(self, sentences: Sentences) -> list[Tensor]:
        """A TypeError: there are no tags, and so no probabilities of them."""
        raise TypeError("a DiffusionTagger scores spans, not tags; its entities have their `score`")


def mean_places(logits: Tensor) -> Tensor:
    """The mean edges (B, K, 2) of pointers (B, K, 2, T), in tokens: the end is behind the last one."""
    number = torch.arange(logits.shape[-1], device=logits.device).float()
    # Not by @, which autocast would do in bf16: up to a token off in a long sentence.
    means = ((part.softmax(-1) * (number + side)).sum(-1) for side, part in enumerate(logits.unbind(2)))
    return torch.stack(list(means), dim=-1)


def shown(logits: Tensor) -> Tensor:
    """The most probable spans (B, K, 2) of pointers (B, K, 2, T); the end, not included, is behind the start."""
    start, last = logits.argmax(-1).unbind(-1)
    return torch.stack([start, last.maximum(start) + 1], dim=-1)
