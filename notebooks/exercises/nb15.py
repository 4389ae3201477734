"""Exercises of notebook 15, text to image. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from notebooks.exercises import as_float64, called, close, normal, refuse_changes, refuse_dtype
from utils.course.exercises import Wrong, exercise

# -- 15.1: attention from places to pieces -----------------------------------------------------------

SHAPES = {
    "size of tensor": "the scores are (B, N, L): q @ k.mT, or torch.einsum('bnd,bld->bnl', q, k); a mask (B, L) needs "
    "an axis for the places: mask[:, None, :]",
    "mat1 and mat2": "k has to be turned round for the product: q @ k.mT",
    "Expected size": "k has to be turned round for the product: q @ k.mT",
    "boolean mask": "masked_fill takes a mask of True and False as it is: ~mask[:, None, :]",
    "bool": "a mask of True and False cannot be added or subtracted; scores.masked_fill(~mask[:, None, :], -math.inf)",
}


def wrong_weights(scores: Tensor, width: int, mask: Tensor) -> dict[str, Tensor]:
    """Weights (B, N, L) by what is wrong with them. scores: q k, not scaled. mask: (B, 1, L)."""
    scaled = scores / math.sqrt(width)
    free = scaled.softmax(-1)
    return {
        "padding is looked at too: its scores must become -inf before the softmax": free,
        "the mask is turned round: True is where a piece stands": scaled.masked_fill(mask, -math.inf).softmax(-1),
        "padding is put to 0 after the softmax, so that the other weights add up to less than 1": free * mask,
        "a score of 0 is not nothing: exp(0) is 1; padding needs -inf": (scaled * mask).softmax(-1),
        "the scores are not divided by the root of d": scores.masked_fill(~mask, -math.inf).softmax(-1),
        "the scores are divided by d; take its root": (scores / width).masked_fill(~mask, -math.inf).softmax(-1),
        "the scores are divided by the root of L, the number of pieces; take the width d": (
            scores / math.sqrt(scores.shape[-1])
        )
        .masked_fill(~mask, -math.inf)
        .softmax(-1),
        "the softmax runs over the places; the weights of one place over the pieces add up to 1": (
            scaled.masked_fill(~mask, -math.inf).softmax(1)
        ),
        "these are the scores; the softmax is missing": scaled,
    }


def check_cross_attention(cross_attention: Callable) -> None:
    lengths = torch.tensor([4, 2, 1])
    mask = torch.arange(4) < lengths[:, None]
    for width, seed in [(6, 0), (9, 5)]:
        given = [normal(3, count, width, seed=seed + k).float() for k, count in enumerate((5, 4, 4))] + [mask]
        kept = [tensor.clone() for tensor in given]
        answer = called(cross_attention, *given, faults=SHAPES)
        refuse_changes(given, kept, "q, k, v and mask")
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong(f"return two tensors, what was found and the weights; got {type(answer).__name__}")
        for part, name in zip(answer, ("what was found", "the weights")):
            refuse_dtype(part, torch.float32, name, "q, k and v are of that kind")
        found, weights = (
            as_float64(part, shape, name, finite=False)
            for part, shape, name in zip(answer, [(3, 5, width), (3, 5, 4)], ("what was found", "the weights"))
        )
        q, k, v = (tensor.double() for tensor in given[:3])
        scores, seen = q @ k.mT, mask[:, None, :]
        right = (scores / math.sqrt(width)).masked_fill(~seen, -math.inf).softmax(-1)
        if not close(weights, right, 1e-4, 1e-6):
            for fault, wrong in wrong_weights(scores, width, seen).items():
                if torch.allclose(weights, wrong, rtol=1e-4, atol=1e-6, equal_nan=True):
                    raise Wrong(fault)
            worst = (weights - right).abs().nan_to_num(nan=1.0).amax((1, 2)).argmax()
            pairs = [[round(float(value), 3) for value in one[worst, 0]] for one in (right, weights)]
            raise Wrong(f"of sentence {worst} the first place's weights should be {pairs[0]}, got {pairs[1]}")
        if not close(found, right @ v, 1e-4, 1e-5):
            if close(found, right @ k, 1e-4, 1e-5):
                raise Wrong("the weights are right, but they mix the keys; it is the values that are handed on")
            raise Wrong("the weights are right; what a place finds is the sum of weight times value: weights @ v")


@exercise(
    "15.1",
    "attention from places to pieces",
    check_cross_attention,
    hints=[
        "scores = q @ k.mT has shape (B, N, L): how well each place's question fits each piece's key. Divide by "
        "math.sqrt(d).",
        "mask[:, None, :] has shape (B, 1, L). Where it is False, a score becomes -math.inf: "
        "scores.masked_fill(~mask[:, None, :], -math.inf).",
        "weights = scores.softmax(-1); return weights @ v, weights.",
    ],
)
def cross_attention(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask[:, None, :], -math.inf)
    weights = scores.softmax(-1)
    return weights @ v, weights


# -- 15.2: the divergence of a latent from a standard normal -------------------------------------------

LOGS = {
    "must be Tensor, not float": "the functions of math take numbers; a tensor has .exp() and .square()",
    "converted to": "the functions of math take one number; a tensor has .exp() and .square()",
}


def wrong_divergences(mean: Tensor, log_variance: Tensor) -> dict[str, Tensor]:
    """(B, ...) as mean, by what is wrong."""
    ones, std = torch.ones_like(mean), (log_variance / 2).exp()
    plain = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return {
        "log_variance is used as the standard deviation; its exp is the variance": (
            (mean.square() + log_variance.square() - 1 - log_variance.square().log()) / 2
        ),
        "exp(log_variance) is the variance itself; do not square it": (
            (mean.square() + (2 * log_variance).exp() - 1 - log_variance) / 2
        ),
        "this is the divergence the other way round, of the standard normal from the latent": kl_divergence(
            Normal(0 * ones, ones), Normal(mean, std)
        ),
        "a factor of 1/2 is missing": 2 * plain,
        "the sign is turned round: a divergence is never negative": -plain,
        "the -1 is missing: a standard normal has the divergence 0 from itself": plain + 0.5,
        "log_variance is used as the logarithm of the standard deviation; its exp is the variance": (
            mean.square() + (2 * log_variance).exp() - 1 - 2 * log_variance
        )
        / 2,
        "log_variance is used as the variance; take its exp": (mean.square() + log_variance - 1 - log_variance) / 2,
        "the mean has to be squared": (mean + log_variance.exp() - 1 - log_variance) / 2,
        "the means play no part": (log_variance.exp() - 1 - log_variance) / 2,
        "- log_variance is missing, which keeps the variance from going to 0": (mean.square() + log_variance.exp() - 1)
        / 2,
        "log_variance is added; it has to be taken away": (mean.square() + log_variance.exp() - 1 + log_variance) / 2,
    }


def check_divergence(divergence_from_normal: Callable) -> None:
    cases = [(normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)), (normal(2, 1, 3, 3, seed=2), torch.zeros(2, 1, 3, 3))]
    for mean, log_variance in [(m.float(), v.float()) for m, v in cases]:
        given = [mean.clone(), log_variance.clone()]
        answer = called(divergence_from_normal, *given, faults=LOGS)
        refuse_changes(given, [mean, log_variance], "mean and log_variance")
        refuse_dtype(answer, torch.float32, "the divergence", "mean and log_variance are of that kind")
        if answer.shape == mean.shape:
            raise Wrong("this is the divergence of each latent; add up those of one image: .flatten(1).sum(1)")
        if answer.ndim == 0 and len(mean) > 1:
            raise Wrong("this is one number for the whole batch; one for each image is asked for, (B,)")
        seen = as_float64(answer, (len(mean),), "the divergence, one number for each image,")
        m, v = mean.double(), log_variance.double()
        right = kl_divergence(Normal(m, (v / 2).exp()), Normal(torch.zeros_like(m), 1.0))
        if close(seen, right.flatten(1).sum(1), 1e-4, 1e-4):
            continue
        if close(seen, right.flatten(1).mean(1), 1e-4, 1e-4):
            raise Wrong("this is the mean over an image's latents; the divergences of independent numbers add up")
        if close(seen, right.flatten(1).sum(1) / math.log(2), 1e-4, 1e-4):
            raise Wrong("these are bits; leave the natural logarithm")
        for fault, wrong in wrong_divergences(m, v).items():
            if close(seen, wrong.flatten(1).sum(1), 1e-4, 1e-4):
                raise Wrong(fault)
        first = float(right[0].sum()), float(seen[0])
        raise Wrong(f"the first image's divergence should be {first[0]:.4f} nats, yours is {first[1]:.4f}")


@exercise(
    "15.2",
    "the divergence from a standard normal",
    check_divergence,
    hints=[
        "For one number: KL(N(m, s) || N(0, 1)) = (m**2 + s - 1 - log s) / 2, where s is the variance.",
        "The encoder gives log s, so that s = log_variance.exp() is above 0 whatever the network says.",
        "The latents of an image are independent given the image: .flatten(1).sum(1) adds their divergences up.",
    ],
)
def divergence_from_normal(mean, log_variance):
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.flatten(1).sum(1)


# -- 15.3: adaLN-Zero --------------------------------------------------------------------------------


def branch(h: Tensor) -> Tensor:
    """Stands in for attention or the two layers: it mixes patches, and is not linear."""
    return torch.sin(h) + h.roll(1, dims=1)


def wrong_blocks(x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> dict[str, Tensor]:
    normed = F.layer_norm(x, x.shape[-1:])
    over_patches = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    told = normed * (1 + scale) + shift
    return {
        "the scale is a factor of its own; 1 + scale leaves the input as it is where the network says 0": x
        + gate * branch(normed * scale + shift),
        "the gate plays no part, so that the block does not begin as the identity": x + branch(told),
        "x itself is missing: the branch is added to it": gate * branch(told),
        "the norm is missing": x + gate * branch(x * (1 + scale) + shift),
        "the branch gets the normalised x without scale and shift": x + gate * branch(normed),
        "the shift is multiplied by the scale too; first scale, then shift": x
        + gate * branch((normed + shift) * (1 + scale)),
        "shift and scale are exchanged": x + gate * branch(normed * (1 + shift) + scale),
        "the branch is added to the normalised x; the path around it stays as it is": normed + gate * branch(told),
        "the norm runs over patches and channels together; over the channels alone: x.shape[-1:]": x
        + gate * branch(F.layer_norm(x, x.shape[1:]) * (1 + scale) + shift),
        "x is weakened by 1 - gate; the path around the branch stays as it is": (1 - gate) * x + gate * branch(told),
        "the norm runs over the patches; it is taken over the channels of each patch by itself": x
        + gate * branch(over_patches * (1 + scale) + shift),
        "the gate is applied before the branch; it closes the branch behind it": x + branch(gate * told),
        "the gate is used as 1 + gate; 0 has to close it": x + (1 + gate) * branch(told),
        "scale and shift come behind the branch; they belong before it": x
        + gate * (branch(normed) * (1 + scale) + shift),
    }


def check_adaln_zero(adaln_zero: Callable) -> None:
    calls = []
    for seed, closed in [(0, False), (4, False), (8, True)]:
        calls.clear()
        x = 2 * normal(3, 5, 8, seed=seed).float() + 0.5
        parts = [normal(3, 1, 8, seed=seed + k).float() for k in (1, 2, 3)]
        parts[2] = 0 * parts[2] if closed else parts[2]
        given = [tensor.clone() for tensor in (x, *parts)]
        faults = {"must match": "shift, scale and gate are (B, 1, C)"}
        answer = called(adaln_zero, *given, lambda h: calls.append(h) or branch(h), faults=faults)
        refuse_changes(given, [x, *parts], "x, shift, scale and gate")
        seen = as_float64(answer, (3, 5, 8), "the result")
        x, parts = x.double(), [part.double() for part in parts]
        right = x + parts[2] * branch(F.layer_norm(x, (8,)) * (1 + parts[1]) + parts[0])
        if close(seen, right, 2e-3, 2e-3):
            if (seen_often := sum(h.numel() for h in calls) / x.numel()) > 1:
                raise Wrong(f"the branch is the costly part; it gets each patch {seen_often:g} times, once is enough")
            continue
        for fault, wrong in wrong_blocks(x, *parts).items():
            if close(seen, wrong, 2e-3, 2e-3):
                raise Wrong(fault)
        if closed:
            raise Wrong("with a gate of 0 the block should give x back as it is")
        first = float(right[0, 0, 0]), float(seen[0, 0, 0])
        raise Wrong(f"the first value should be {first[0]:.4f}, got {first[1]:.4f}: is the norm that of layer_norm?")


@exercise(
    "15.3",
    "a branch with adaLN-Zero",
    check_adaln_zero,
    hints=[
        "F.layer_norm(x, x.shape[-1:]) has mean 0 and variance 1 over each patch's channels, and no weights.",
        "The branch sees the norm times (1 + scale), plus shift.",
        "x + gate * branch(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift).",
    ],
)
def adaln_zero(x, shift, scale, gate, branch):
    normed = F.layer_norm(x, x.shape[-1:])
    return x + gate * branch(normed * (1 + scale) + shift)


# -- 15.4: patches -----------------------------------------------------------------------------------


def wrong_patches(x: Tensor, size: int) -> dict[str, Tensor]:
    """(B, N, C * size * size) each."""
    b, c, height, width = x.shape
    cut = x.reshape(b, c, height // size, size, width // size, size)  # (B, C, rows, i, columns, j)
    return {
        "reshape alone takes the numbers in the order of the pixels, so that a patch holds pieces of lines": (
            x.reshape(b, -1, c * size**2)
        ),
        "the patches come column by column; go row by row": cut.permute(0, 4, 2, 1, 3, 5).flatten(3).flatten(1, 2),
        "within a patch columns come before rows": cut.permute(0, 2, 4, 1, 5, 3).flatten(3).flatten(1, 2),
        "within a patch the channel comes last; it comes first": cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),
        "each patch holds every so many pixels, spread over the image; it should hold neighbours": (
            x.reshape(b, c, size, height // size, size, width // size)
            .permute(0, 3, 5, 1, 2, 4)
            .flatten(3)
            .flatten(1, 2)
        ),
    }


def check_to_patches(to_patches: Callable) -> None:
    for shape, size in [((2, 1, 6, 4), 2), ((3, 2, 6, 9), 3), ((1, 4, 4, 4), 1)]:
        b, c, height, width = shape
        x = torch.arange(float(math.prod(shape))).reshape(shape)
        given = x.clone()
        answer = called(to_patches, given, size, faults={"shape '": "C * size * size numbers belong to each patch"})
        refuse_changes([given], [x], "x")
        count, numbers = height // size * (width // size), c * size**2
        if isinstance(answer, Tensor) and answer.shape == (b, numbers, count) and numbers != count:
            raise Wrong("each patch is a column; patches come second, their numbers last: .mT turns them round")
        seen = as_float64(answer, (b, count, numbers), f"the patches of images {shape}, size {size},")
        if close(seen, F.unfold(x, size, stride=size).mT):
            continue
        for fault, wrong in wrong_patches(x, size).items():
            if close(seen, wrong):
                raise Wrong(fault)
        raise Wrong("the first patch should hold the pixels of the upper left corner, channel by channel, row by row")


@exercise(
    "15.4",
    "patches",
    check_to_patches,
    hints=[
        "x.unflatten(2, (H // size, size)) makes two axes of the height: which patch, and which line in it. The width "
        "is cut in the same way.",
        "Then the axes are (B, C, row, i, column, j); permute them to (B, row, column, C, i, j).",
        ".flatten(3).flatten(1, 2) makes (B, N, C * size * size) of it.",
    ],
)
def to_patches(x, size):
    b, c, height, width = x.shape
    cut = x.reshape(b, c, height // size, size, width // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
