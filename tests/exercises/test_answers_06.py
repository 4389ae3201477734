"""Answers to notebook 06's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors

from notebooks.exercises import nb06
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def frechet_by_sqrtm(mean_a, cov_a, mean_b, cov_b):
    root = scipy.linalg.sqrtm((cov_a @ cov_b).numpy()).real
    return ((mean_a - mean_b) ** 2).sum() + np.trace((cov_a + cov_b).numpy() - 2 * root)


def frechet_by_singular_values(mean_a, cov_a, mean_b, cov_b):
    """The trace of the root is the nuclear norm of the product of the two roots."""
    cross = torch.linalg.svdvals(nb06.root_of(cov_a) @ nb06.root_of(cov_b)).sum()
    return (mean_a - mean_b).norm() ** 2 + torch.trace(cov_a) + torch.trace(cov_b) - 2 * cross


def frechet_by_symmetric_root(mean_a, cov_a, mean_b, cov_b):
    root = nb06.root_of(cov_b)
    middle = nb06.root_of(root @ cov_a @ root)
    return float(torch.dot(mean_a - mean_b, mean_a - mean_b) + (cov_a + cov_b - 2 * middle).diagonal().sum())


def mmd_by_loops(within_a, within_b, between):
    def mean(kernel):
        return np.mean([kernel[i, j] for i in range(len(kernel)) for j in range(len(kernel)) if i != j])

    return mean(within_a.numpy()) + mean(within_b.numpy()) - 2 * between.numpy().mean()


def mmd_by_masks(within_a, within_b, between):
    parts = [k[~torch.eye(len(k), dtype=torch.bool)].mean() for k in (within_a, within_b)]
    return sum(parts) - 2 * between.mean()


def mmd_by_triangles(within_a, within_b, between):
    """A kernel is symmetric: the pairs above the diagonal are enough."""
    above = [torch.triu(k, diagonal=1).sum() * 2 / (len(k) * (len(k) - 1)) for k in (within_a, within_b)]
    return torch.stack([*above, -2 * between.mean()]).sum()


def precision_by_loops(real, generated, k):
    reaches = [sorted((real - point).norm(dim=1).tolist())[k] for point in real]
    inside = [any(float((g - r).norm()) <= reach for r, reach in zip(real, reaches)) for g in generated]
    return sum(inside) / len(inside)


def precision_by_scikit_learn(real, generated, k):
    reach = NearestNeighbors(n_neighbors=k + 1).fit(real.numpy()).kneighbors(real.numpy())[0][:, -1]
    gaps = np.linalg.norm(real.numpy()[:, None] - generated.numpy()[None], axis=2)
    return np.mean((gaps <= reach[:, None]).any(0))


def precision_by_topk(real, generated, k):
    own = torch.cdist(real, real)
    own.fill_diagonal_(float("inf"))
    reach = own.topk(k, largest=False).values[:, -1]
    return ((torch.cdist(generated, real) - reach).min(dim=1).values <= 0).float().mean()


def divergence_by_jvp(velocity, x, probe):
    v, along = torch.func.jvp(velocity, (x,), (probe,))
    return v, (along * probe).flatten(1).sum(1)


def divergence_by_backward(velocity, x, probe):
    x = x.clone().requires_grad_(True)
    v = velocity(x)
    v.backward(probe)
    return v.detach(), torch.einsum("bi,bi->b", x.grad.flatten(1), probe.flatten(1))


def divergence_by_differences(velocity, x, probe):
    h = 1e-5
    along = (velocity(x + h * probe) - velocity(x - h * probe)) / (2 * h)
    return [velocity(x), (along * probe).flatten(1).sum(1)]


def penalty_by_loop(critic, real, fake, mix):
    parts = []
    for one, other, share in zip(real, fake, mix):
        x = (other + share * (one - other))[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).squeeze(), x, create_graph=True)
        parts.append((gradient.square().sum().sqrt() - 1) ** 2)
    return torch.stack(parts).mean()


def penalty_with_the_other_share(critic, real, fake, mix):
    return nb06.gradient_penalty(critic, fake, real, mix)


def penalty_by_ones(critic, real, fake, mix):
    x = torch.lerp(fake, real, mix).detach().requires_grad_(True)
    numbers = critic(x)
    ones = torch.ones_like(numbers)
    gradient = torch.autograd.grad(outputs=numbers, inputs=x, grad_outputs=ones, create_graph=True)[0]
    return ((gradient.reshape(len(real), -1).pow(2).sum(1) + 1e-16).sqrt() - 1).pow(2).mean()


def keeps_by_a_constant_image(step):
    for a, b in [(0.05, 0.2), (0.3, 0.9), (0.9, 1.0)]:
        x_0 = torch.full((200, 1, 16, 16), 0.8)
        x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * torch.randn_like(x_0)
        x_s = step(x_t, x_0, a, b, torch.randn_like(x_0))
        if abs(x_s.mean() - 0.8 * b**0.5) > 0.02 or abs(x_s.var() - (1 - b)) > 0.03:
            return False
    return True


def keeps_by_two_images(step):
    right = []
    for value in (-1.0, 1.0):
        for a, b in [(0.2, 0.5), (0.5, 1.0)]:
            x_0 = torch.full((40_000,), value, dtype=torch.float64)
            x_t = math.sqrt(a) * x_0 + math.sqrt(1 - a) * torch.randn_like(x_0)
            x_s = step(x_t, x_0, a, b, torch.randn_like(x_0))
            right.append(torch.allclose(x_s.mean(), value * torch.tensor(b).double().sqrt(), atol=0.03))
            right.append(torch.allclose(x_s.std(), torch.tensor(1 - b).double().sqrt(), atol=0.03))
    return torch.tensor(all(right))


def keeps_by_regression(step):
    for a, b in [(0.3, 0.6), (0.4, 1.0)]:
        x_0, noise, z = torch.randn(3, 60_000, dtype=torch.float64) + torch.tensor([[0.5], [0.0], [0.0]])
        x_s = step(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, x_0, a, b, z)
        design = torch.stack([x_0, torch.ones_like(x_0)], 1)
        weights = torch.linalg.lstsq(design, x_s[:, None]).solution.flatten()
        rest = x_s - design @ weights
        wanted = torch.tensor([b**0.5, 0.0, 1 - b])
        if (torch.stack([*weights, rest.var()]) - wanted).abs().max() > 0.04:
            return False
    return True


def acceptance_by_softmax(logits):
    chances = logits.softmax(0)
    return chances / chances.max()


def acceptance_by_ratio(logits):
    best = logits.max()
    return torch.exp(logits.double() - best).clamp(0, 1)


def acceptance_by_log(logits):
    return torch.minimum(torch.zeros_like(logits), logits - max(logits.tolist())).exp()


RIGHT = {
    "06.1": [frechet_by_sqrtm, frechet_by_singular_values, frechet_by_symmetric_root],
    "06.2": [mmd_by_loops, mmd_by_masks, mmd_by_triangles],
    "06.3": [precision_by_loops, precision_by_scikit_learn, precision_by_topk],
    "06.4": [divergence_by_jvp, divergence_by_backward, divergence_by_differences],
    "06.5": [penalty_by_loop, penalty_with_the_other_share, penalty_by_ones],
    "06.6": [acceptance_by_softmax, acceptance_by_ratio, acceptance_by_log],
    "06.7": [keeps_by_a_constant_image, keeps_by_two_images, keeps_by_regression],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def frechet_with(cross_of=None, gap_of=None, finish=None):
    """The distance with another cross term of the covariances, part of the means, or last step."""

    def answer(mean_a, cov_a, mean_b, cov_b):
        gap = gap_of(mean_a - mean_b) if gap_of else (mean_a - mean_b).square().sum()
        root = nb06.root_of(cov_a)
        cross = cross_of(cov_a, cov_b) if cross_of else nb06.root_of(root @ cov_b @ root).trace()
        found = gap + cov_a.trace() + cov_b.trace() - 2 * cross
        return finish(found) if finish else found

    return answer


def frechet_by_cholesky(mean_a, cov_a, mean_b, cov_b):
    factor = torch.linalg.cholesky(cov_a)
    return frechet_with(lambda a, b: torch.linalg.eigvalsh(factor.T @ b @ factor).sqrt().sum())(
        mean_a, cov_a, mean_b, cov_b
    )


def frechet_complex(mean_a, cov_a, mean_b, cov_b):
    values = torch.linalg.eigvals(cov_a @ cov_b)
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * values.sqrt().sum()


def frechet_in_place(mean_a, cov_a, mean_b, cov_b):
    gap = mean_a.sub_(mean_b).square().sum()
    return frechet_with(gap_of=lambda _: gap)(mean_a, cov_a, mean_b, cov_b)


def frechet_of_variances(mean_a, cov_a, mean_b, cov_b):
    gaps = (mean_a - mean_b).square() + (cov_a.diagonal().sqrt() - cov_b.diagonal().sqrt()).square()
    return gaps.sum()


def off(kernel):
    return kernel.sum() - kernel.trace()


def mmd_one_size(within_a, within_b, between):
    return (within_a + within_b - 2 * between).mean()


def precision_with(reach_of=None, share_of=None, swap=False):
    def answer(real, generated, k):
        real, generated = (generated, real) if swap else (real, generated)
        reach = torch.cdist(real, real).sort(1).values
        reach = reach_of(reach, k) if reach_of else reach[:, k]
        inside = torch.cdist(real, generated) <= reach[:, None]
        return float((share_of(inside, k) if share_of else inside.any(0)).double().mean())

    return answer


def precision_without_edges(real, generated, k):
    reach = torch.cdist(real, real).sort(1).values[:, k, None]
    return float((torch.cdist(real, generated) < reach).any(0).double().mean())


def precision_unshaped(real, generated, k):
    reach = torch.cdist(real, real).sort(1).values[:, k]
    return (torch.cdist(real, generated) <= reach).any(0).double().mean()


def precision_of_the_nearest(real, generated, k):
    reach, gaps = torch.cdist(real, real).sort(1).values[:, k], torch.cdist(generated, real)
    return (gaps.min(1).values <= reach[gaps.argmin(1)]).double().mean()


def divergence_with(before=None, after=None):
    """The number whose gradient is taken, of v and the probe; the estimate, of gradient, probe and v."""

    def answer(velocity, x, probe):
        x = x.detach().requires_grad_()
        v = velocity(x)
        (gradient,) = torch.autograd.grad(before(v, probe) if before else (v * probe).sum(), x)
        return v.detach(), after(gradient, probe, v) if after else (gradient * probe).flatten(1).sum(1)

    return answer


def divergence_in_place(velocity, x, probe):
    x.requires_grad_()
    v = velocity(x)
    (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1)


def divergence_with_graph(velocity, x, probe):
    x = x.detach().requires_grad_()
    v = velocity(x)
    (gradient,) = torch.autograd.grad((v * probe).sum(), x, create_graph=True)
    return v, (gradient * probe).flatten(1).sum(1)


def divergence_exact(velocity, x, probe):
    return velocity(x), nb06.jacobians(velocity, x).diagonal(dim1=1, dim2=2).sum(1)


def divergence_alone(velocity, x, probe):
    return nb06.v_and_divergence(velocity, x, probe)[1]


def divergence_exchanged(velocity, x, probe):
    return nb06.v_and_divergence(velocity, x, probe)[::-1]


def divergence_without_grad(velocity, x, probe):
    v = velocity(x)
    return v, (torch.autograd.grad((v * probe).sum(), x)[0] * probe).flatten(1).sum(1)


def penalty(of_gradient, between=None, create_graph=True):
    """A penalty of that function of the gradients (B, N), at another point."""

    def answer(critic, real, fake, mix):
        x = between(real, fake, mix) if between else mix * real + (1 - mix) * fake
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=create_graph)
        return of_gradient(gradient.flatten(1))

    return answer


def squares(gradient):
    return (gradient.norm(dim=1) - 1).square().mean()


def penalty_without_requiring(critic, real, fake, mix):
    x = mix * real + (1 - mix) * fake
    with torch.no_grad():
        numbers = critic(x).sum()
    return torch.autograd.grad(numbers, x, create_graph=True)[0].mean()


def penalty_by_backward(critic, real, fake, mix):
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    critic(x).sum().backward()
    return squares(x.grad.flatten(1))


def penalty_marks_real(critic, real, fake, mix):
    real.requires_grad_()
    return nb06.gradient_penalty(critic, real.detach(), fake, mix)


def penalty_with_a_constant_norm(critic, real, fake, mix):
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return ((norms - 1) * (norms.detach() - 1)).mean()


def penalty_as_number(critic, real, fake, mix):
    return nb06.gradient_penalty(critic, real, fake, mix).item()


def keeps_at(pairs, mean=True, variance=True, image=1.0):
    """A test that asks at these pairs, for the mean, the variance or both, of a constant image."""

    def answer(step):
        for a, b in pairs:
            x_0 = torch.full((40_000,), image)
            x_s = step(a**0.5 * x_0 + (1 - a) ** 0.5 * torch.randn(40_000), x_0, a, b, torch.randn(40_000))
            off = abs(x_s.mean() - image * b**0.5) > 0.03 and mean
            if off or (variance and abs(x_s.var() - (1 - b)) > 0.03):
                return False
        return True

    return answer


def keeps_only_ddpm(step):
    x_t, x_0, z = torch.randn(3, 100)
    return torch.allclose(step(x_t, x_0, 0.3, 0.5, z), nb06.ddpm(x_t, x_0, 0.3, 0.5, z), atol=1e-4)


def keeps_too_strictly(step):
    x_0, noise, z = torch.randn(3, 1000)
    x_s = step(0.3**0.5 * x_0 + 0.7**0.5 * noise, x_0, 0.3, 0.5, z)
    return abs(float(x_s.var()) - 1) < 1e-3


def keeps_from_clean(step):
    return step(torch.randn(10), torch.randn(10), 1.0, 1.0, torch.randn(10)) is not None


WRONG = {
    "06.1": [
        (frechet_with(finish=lambda found: found.sqrt()), "take no root at the end"),
        (frechet_with(gap_of=lambda gap: gap.norm()), "the distance of the means is squared"),
        (frechet_with(gap_of=lambda gap: 0.0), "the means play no part"),
        (frechet_with(gap_of=lambda gap: gap.sum() ** 2), "squared before they are added"),
        (frechet_with(lambda a, b: (a @ b).trace()), "the root is missing"),
        (frechet_with(lambda a, b: (nb06.root_of(a) @ nb06.root_of(b)).trace()), "not the product of the roots"),
        (frechet_with(lambda a, b: (a @ b).clamp(min=0).sqrt().trace()), "not the root of its entries"),
        (frechet_with(lambda a, b: nb06.root_of(a * b).trace()), "is the matrix product"),
        (frechet_with(lambda a, b: (a @ b).trace().sqrt()), "the root of the trace is not"),
        (frechet_of_variances, "compares the variances alone"),
        (frechet_by_cholesky, "no Cholesky"),
        (frechet_complex, "the result is complex"),
        (frechet_in_place, "changes what it is given"),
        (frechet_with(finish=lambda found: found + 0.5), "the distance should be .*, yours is"),
    ],
    "06.2": [
        (lambda a, b, ab: a.mean() + b.mean() - 2 * ab.mean(), "this is the biased estimate"),
        (lambda a, b, ab: off(a) / len(a) ** 2 + off(b) / len(b) ** 2 - 2 * ab.mean(), "diagonals are out of the sums"),
        (
            lambda a, b, ab: a.sum() / len(a) / (len(a) - 1) + b.sum() / len(b) / (len(b) - 1) - 2 * ab.mean(),
            "the diagonals are still in the sums",
        ),
        (lambda a, b, ab: nb06.unbiased_mmd(a, b, ab) + ab.mean(), "taken away twice"),
        (lambda a, b, ab: nb06.unbiased_mmd(a, b, -ab), "taken away, not added"),
        (lambda a, b, ab: off(a) + off(b) - 2 * ab.sum(), "these are sums"),
        (lambda a, b, ab: abs(nb06.unbiased_mmd(a, b, ab)) ** 0.5, "take no root"),
        (mmd_one_size, "take a mean of each first"),
        (lambda a, b, ab: nb06.unbiased_mmd(a, b, ab) + 1, "the distance should be"),
    ],
    "06.3": [
        (precision_with(swap=True), "this is recall"),
        (precision_with(lambda reach, k: reach[:, k - 1]), "to the neighbour before the k-th"),
        (precision_with(lambda reach, k: reach[:, k + 1]), "one neighbour too far"),
        (precision_with(share_of=lambda inside, k: inside.any(1)), "this is coverage"),
        (precision_with(share_of=lambda inside, k: inside.double().sum(0) / k), "this is density"),
        (precision_with(share_of=lambda inside, k: inside.all(0)), "one ball is enough"),
        (precision_with(share_of=lambda inside, k: ~inside.any(0)), "outside of all balls"),
        (precision_with(lambda reach, k: reach[:, k].mean().expand(len(reach))), "yours have their mean"),
        (precision_of_the_nearest, "only the nearest real point's ball"),
        (precision_without_edges, "the very edge of a ball"),
        (precision_unshaped, "lets each meet its row"),
        (lambda real, generated, k: 100 * nb06.precision(real, generated, k), "not per cent"),
        (lambda real, generated, k: torch.ones(3), "should be a number"),
    ],
    "06.4": [
        (divergence_with(after=lambda g, u, v: g.flatten(1).sum(1)), "not multiplied with the probe again"),
        (divergence_with(before=lambda v, u: v.sum()), "before the gradient is taken"),
        (
            divergence_with(before=lambda v, u: v.sum(), after=lambda g, u, v: g.flatten(1).sum(1)),
            "sum of all entries of the derivative",
        ),
        (divergence_with(after=lambda g, u, v: (g * v).detach().flatten(1).sum(1)), "multiply the probe with it"),
        (divergence_with(after=lambda g, u, v: (g * u).flatten(1).mean(1)), "not the mean"),
        (divergence_with(after=lambda g, u, v: (g * u).sum()), "yours is the sum over all rows"),
        (divergence_with(after=lambda g, u, v: -(g * u).flatten(1).sum(1)), "the sign is turned"),
        (divergence_with(before=lambda v, u: v * u), "a gradient is that of one number"),
        (divergence_in_place, "the x that was given now asks for a gradient"),
        (divergence_with_graph, "still hold the graph"),
        (divergence_exact, "this is the exact divergence"),
        (divergence_alone, "two things are to be returned"),
        (divergence_exchanged, r"v should have shape \(5, 2\), got \(5,\)"),
        (divergence_without_grad, "x does not ask for a gradient"),
    ],
    "06.5": [
        (penalty(lambda g: (g.norm(dim=1) - 1).square().sum()), "sum over the images"),
        (penalty(lambda g: (g.norm() - 1).square()), "all images' gradients together; each"),
        (penalty(lambda g: (g.square().sum(1) - 1).square().mean()), "the norm needs a root"),
        (penalty(lambda g: (g.norm(dim=1).mean() - 1).square()), "square first"),
        (penalty(lambda g: (g.norm(dim=1) - 1).abs().mean()), "not squared"),
        (penalty(lambda g: g.norm(dim=1).square().mean()), "1 is not taken away"),
        (penalty(lambda g: (g - 1).square().mean()), "number by number"),
        (penalty(lambda g: (g.norm(dim=1) - 1).relu().square().mean()), "punishes both sides"),
        (penalty(lambda g: 10 * squares(g)), "factor 10"),
        (penalty(squares, lambda real, fake, mix: real), "at the real images"),
        (penalty(squares, lambda real, fake, mix: fake), "at the made images"),
        (penalty(squares, lambda real, fake, mix: (real + fake) / 2), "half-way"),
        (penalty(squares, create_graph=False), "create_graph=True"),
        (penalty_without_requiring, "requires_grad_"),
        (penalty_by_backward, "not backward"),
        (penalty_marks_real, "only the point between"),
        (penalty_with_a_constant_norm, "its gradient by the critic's weights is not"),
        (penalty_as_number, "teaches the critic nothing"),
    ],
    "06.6": [
        (torch.sigmoid, r"data / \(data \+ generator\)"),
        (lambda logits: (logits.min() - logits).exp(), "the sign is turned"),
        (lambda logits: (logits - logits.min()) / (logits.max() - logits.min()), "take its exponential"),
        (lambda logits: logits.exp().clamp(max=1), "cut off at 1"),
        (lambda logits: logits.exp(), "between 0 and 1"),
        (lambda logits: logits.softmax(0), "thrown away for nothing"),
        (lambda logits: torch.ones_like(logits), "in the proportion of data to generator"),
        (lambda logits: (logits - 1e6).exp(), "subtract the largest first"),
    ],
    "06.7": [
        (lambda step: True, "lets a faulty step pass: noise is left on in the last step"),
        (lambda step: False, "turns away a sound step, DDPM's"),
        (keeps_only_ddpm, "turns away a sound step, DDIM's"),
        (keeps_too_strictly, "turns away a sound step"),
        (keeps_at([(0.3, 0.5), (0.1, 0.2)]), "noise is left on in the last step"),
        (keeps_at([(0.3, 1.0)]), "the variance stands where its root belongs"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], variance=False), "lets a faulty step pass"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], mean=False), "lets a faulty step pass"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], image=0.0), "lets a faulty step pass: the image has its weight at t"),
        (keeps_from_clean, "only a_bar_s may be 1"),
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
    assert list(RIGHT) == list(WRONG) == [f"06.{k}" for k in range(1, 8)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
