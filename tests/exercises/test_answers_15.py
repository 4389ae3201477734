"""Answers to notebook 15's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from notebooks.exercises import nb15
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def attention_by_einsum(q, k, v, mask):
    scores = torch.einsum("bnd,bld->bnl", q, k) * q.shape[-1] ** -0.5
    scores = torch.where(mask.unsqueeze(1), scores, torch.full_like(scores, -1e9))
    weights = F.softmax(scores, dim=2)
    return torch.einsum("bnl,bld->bnd", weights, v), weights


def attention_by_pytorch(q, k, v, mask):
    """The weights are what is found where the values are the unit vectors."""
    units = torch.eye(k.shape[1]).expand(len(k), -1, -1)
    asked = mask[:, None].expand(-1, q.shape[1], -1)
    return [F.scaled_dot_product_attention(q, k, values, attn_mask=asked) for values in (v, units)]


def attention_one_by_one(q, k, v, mask):
    found, weights = [], []
    for questions, keys, values, known in zip(q, k, v, mask):
        powers = (questions @ keys.T / math.sqrt(keys.shape[1])).exp() * known
        shares = powers / powers.sum(1, keepdim=True)
        found.append(shares @ values)
        weights.append(shares)
    return torch.stack(found), torch.stack(weights)


def divergence_by_pytorch(mean, log_variance):
    latents = Normal(mean, (0.5 * log_variance).exp())
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return kl_divergence(latents, standard).sum(dim=(1, 2, 3))


def divergence_by_parts(mean, log_variance):
    count = mean[0].numel()
    total = mean.pow(2).sum((1, 2, 3)) + torch.exp(log_variance).sum((1, 2, 3)) - log_variance.sum((1, 2, 3))
    return (total - count) / 2


def divergence_image_by_image(mean, log_variance):
    both = zip(mean, log_variance)
    return torch.stack([-0.5 * torch.sum(1 + s - m**2 - s.exp()) for m, s in both])


def adaln_by_hand(x, shift, scale, gate, branch):
    centred = x - x.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return x + branch(normed + normed * scale + shift) * gate


def adaln_by_a_layer(x, shift, scale, gate, branch):
    norm = torch.nn.LayerNorm(x.shape[-1], elementwise_affine=False)
    return torch.addcmul(x, gate, branch(torch.addcmul(shift, norm(x), 1 + scale)))


def adaln_image_by_image(x, shift, scale, gate, branch):
    rows = []
    for one, b, a, g in zip(x, shift, scale, gate):
        told = F.layer_norm(one, one.shape[-1:], weight=(1 + a[0]), bias=b[0])
        rows.append(one + g * branch(told[None])[0])
    return torch.stack(rows)


def patches_by_unfold(x, size):
    return F.unfold(x, size, stride=size).transpose(1, 2)


def patches_by_unshuffle(x, size):
    return F.pixel_unshuffle(x, size).flatten(2).mT


def patches_by_loops(x, size):
    rows, columns = (range(0, end, size) for end in x.shape[2:])
    return torch.stack([x[:, :, i : i + size, j : j + size].flatten(1) for i in rows for j in columns], dim=1)


RIGHT = {
    "15.1": [attention_by_einsum, attention_by_pytorch, attention_one_by_one],
    "15.2": [divergence_by_pytorch, divergence_by_parts, divergence_image_by_image],
    "15.3": [adaln_by_hand, adaln_by_a_layer, adaln_image_by_image],
    "15.4": [patches_by_unfold, patches_by_unshuffle, patches_by_loops],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def attention_with(weights_of):
    """weights_of(scores, mask): scores divided by the root of d; mask (B, 1, L)."""

    def answer(q, k, v, mask):
        weights = weights_of(q @ k.mT / math.sqrt(q.shape[-1]), mask[:, None, :])
        return weights @ v, weights

    return answer


def hidden(scores, mask):
    return scores.masked_fill(~mask, -math.inf)


def scaled_by(factor):
    def answer(q, k, v, mask):
        weights = hidden(q @ k.mT * factor(q.shape[-1], k.shape[1]), mask[:, None, :]).softmax(-1)
        return weights @ v, weights

    return answer


def attention_of_keys(q, k, v, mask):
    weights = nb15.cross_attention(q, k, v, mask)[1]
    return weights @ k, weights


def attention_of_half_the_values(q, k, v, mask):
    found, weights = nb15.cross_attention(q, k, v, mask)
    return found / 2, weights


def attention_not_turned(q, k, v, mask):
    return q @ k, mask


def attention_with_a_flat_mask(q, k, v, mask):
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v, scores.softmax(-1)


def attention_in_place(q, k, v, mask):
    q /= math.sqrt(q.shape[-1])
    weights = hidden(q @ k.mT, mask[:, None, :]).softmax(-1)
    return weights @ v, weights


def divergence_with(wrong):
    """wrong(m, s): for each latent; m the mean, s the logarithm of the variance."""
    return lambda mean, log_variance: wrong(mean, log_variance).flatten(1).sum(1)


def each(m, s):
    return (m**2 + s.exp() - 1 - s) / 2


def divergence_by_math(mean, log_variance):
    return ((mean**2 + math.exp(log_variance) - 1 - log_variance) / 2).flatten(1).sum(1)


def adaln_with(wrong):
    """wrong(x, n, b, a, g, f): n is the norm, then shift, scale, gate and branch."""
    return lambda x, shift, scale, gate, branch: wrong(x, F.layer_norm(x, x.shape[-1:]), shift, scale, gate, branch)


def adaln_over_patches(x, shift, scale, gate, branch):
    normed = F.layer_norm(x.mT, x.shape[1:2]).mT
    return x + gate * branch(normed * (1 + scale) + shift)


def adaln_over_all(x, shift, scale, gate, branch):
    return x + gate * branch(F.layer_norm(x, x.shape[1:]) * (1 + scale) + shift)


def adaln_with_a_wider_norm(x, shift, scale, gate, branch):
    normed = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    return x + gate * branch(normed * (1 + scale) + shift)


def adaln_in_place(x, shift, scale, gate, branch):
    x += gate * branch(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)
    return x


def patches_with(*order):
    def answer(x, size):
        b, c, height, width = x.shape
        cut = x.reshape(b, c, height // size, size, width // size, size)
        return cut.permute(*order).flatten(3).flatten(1, 2)

    return answer


def patches_spread(x, size):
    b, c, height, width = x.shape
    cut = x.reshape(b, c, size, height // size, size, width // size)
    return cut.permute(0, 3, 5, 1, 2, 4).flatten(3).flatten(1, 2)


WRONG = {
    "15.1": [
        (attention_with(lambda s, m: s.softmax(-1)), "padding is looked at too"),
        (attention_with(lambda s, m: hidden(s, ~m).softmax(-1)), "the mask is turned round"),
        (attention_with(lambda s, m: s.softmax(-1) * m), "put to 0 after the softmax"),
        (attention_with(lambda s, m: (s * m).softmax(-1)), "a score of 0 is not nothing"),
        (attention_with(lambda s, m: s.masked_fill(1 - m.float(), -math.inf)), "a mask of True and False as it is"),
        (attention_with(lambda s, m: hidden(s, m).softmax(1)), "the softmax runs over the places"),
        (attention_with(lambda s, m: s), "the softmax is missing"),
        (attention_with(lambda s, m: hidden(2 * s, m).softmax(-1)), "the first place's weights should be"),
        (attention_with(lambda s, m: (s - 1e4 * m).softmax(-1)), "of sentence 2 the first place's weights should be"),
        (attention_with(lambda s, m: (s - 2.0 * ~m).softmax(-1)), r"of sentence [12] the first place's weights"),
        (scaled_by(lambda d, count: 1.0), "not divided by the root of d"),
        (scaled_by(lambda d, count: 1 / d), "divided by d; take its root"),
        (scaled_by(lambda d, count: count**-0.5), "the root of L"),
        (attention_of_keys, "they mix the keys"),
        (attention_of_half_the_values, "weights @ v"),
        (lambda *given: nb15.cross_attention(*given)[0], "return two tensors"),
        (lambda *given: [part.double() for part in nb15.cross_attention(*given)], "should be torch.float32"),
        (lambda *given: [part[:, :1] for part in nb15.cross_attention(*given)], r"should have shape \(3, 5, 6\)"),
        (attention_not_turned, "k has to be turned round"),
        (attention_with_a_flat_mask, r"mask\[:, None, :\]"),
        (attention_in_place, "changes what it is given, in place"),
    ],
    "15.2": [
        (divergence_with(lambda m, s: (((1 + m**2) / s.exp()) - 1 + s) / 2), "the other way round"),
        (divergence_with(lambda m, s: 2 * each(m, s)), "a factor of 1/2 is missing"),
        (divergence_with(lambda m, s: -each(m, s)), "the sign is turned round"),
        (divergence_with(lambda m, s: each(m, s) + 0.5), "the -1 is missing"),
        (divergence_with(lambda m, s: each(m, 2 * s)), "logarithm of the standard deviation"),
        (divergence_with(lambda m, s: (m**2 + s - 1 - s) / 2), "used as the variance"),
        (divergence_with(lambda m, s: (m + s.exp() - 1 - s) / 2), "the mean has to be squared"),
        (divergence_with(lambda m, s: (s.exp() - 1 - s) / 2), "the means play no part"),
        (divergence_with(lambda m, s: (m**2 + s.exp() - 1) / 2), "- log_variance is missing"),
        (divergence_with(lambda m, s: (m**2 + s.exp() - 1 + s) / 2), "it has to be taken away"),
        (divergence_with(lambda m, s: each(m, s) / math.log(2)), "these are bits"),
        (divergence_with(lambda m, s: (m**2 + s**2 - 1 - (s**2).log()) / 2), "used as the standard deviation"),
        (divergence_with(lambda m, s: (m**2 + s.exp() ** 2 - 1 - s) / 2), "is the variance itself"),
        (divergence_with(lambda m, s: 3 * each(m, s)), "the first image's divergence should be"),
        (lambda m, s: each(m, s).flatten(1).mean(1), "the mean over an image's latents"),
        (each, "the divergence of each latent"),
        (lambda m, s: each(m, s).sum(), "one number for the whole batch"),
        (divergence_by_math, "a tensor has .exp"),
    ],
    "15.3": [
        (adaln_with(lambda x, n, b, a, g, f: x + g * f(n * a + b)), "1 \\+ scale leaves the input"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * f(n * (1 + a) + b) + 0 * f(n)), "gets each patch 2 times"),
        (adaln_with(lambda x, n, b, a, g, f: x + f(n * (1 + a) + b)), "the gate plays no part"),
        (adaln_with(lambda x, n, b, a, g, f: g * f(n * (1 + a) + b)), "x itself is missing"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * f(x * (1 + a) + b)), "the norm is missing"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * f(n)), "without scale and shift"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * f((n + b) * (1 + a))), "first scale, then shift"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * f(n * (1 + b) + a)), "shift and scale are exchanged"),
        (adaln_with(lambda x, n, b, a, g, f: n + g * f(n * (1 + a) + b)), "added to the normalised x"),
        (adaln_with(lambda x, n, b, a, g, f: x + f(g * (n * (1 + a) + b))), "applied before the branch"),
        (adaln_with(lambda x, n, b, a, g, f: x + (1 + g) * f(n * (1 + a) + b)), "used as 1 \\+ gate"),
        (adaln_with(lambda x, n, b, a, g, f: x + g * (f(n) * (1 + a) + b)), "they belong before it"),
        (adaln_over_patches, "the norm runs over the patches;"),
        (adaln_over_all, "over patches and channels together"),
        (adaln_with(lambda x, n, b, a, g, f: (1 - g) * x + g * f(n * (1 + a) + b)), "weakened by 1 - gate"),
        (adaln_with_a_wider_norm, "is the norm that of layer_norm"),
        (adaln_with(lambda x, n, b, a, g, f: (x + g * f(n * (1 + a) + b))[0]), r"should have shape \(3, 5, 8\)"),
        (adaln_in_place, "changes what it is given, in place"),
    ],
    "15.4": [
        (lambda x, size: x.reshape(len(x), -1, x.shape[1] * size**2), "in the order of the pixels"),
        (patches_with(0, 4, 2, 1, 3, 5), "column by column"),
        (patches_with(0, 2, 4, 1, 5, 3), "columns come before rows"),
        (patches_with(0, 2, 4, 3, 5, 1), "the channel comes last"),
        (patches_spread, "spread over the image"),
        (lambda x, size: F.unfold(x, size, stride=size), "each patch is a column"),
        (lambda x, size: nb15.to_patches(x, size).flip(1), "the upper left corner"),
        (lambda x, size: nb15.to_patches(x, size)[0], r"should have shape \(2, 6, 4\)"),
        (lambda x, size: nb15.to_patches(x.mul_(2), size) / 2, "changes what it is given, in place"),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message


def test_every_exercise_has_three_other_right_answers_and_five_wrong_ones():
    assert list(RIGHT) == list(WRONG) == [f"15.{k}" for k in range(1, 5)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
