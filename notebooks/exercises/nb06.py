"""Exercises of notebook 06, evaluation. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from notebooks.exercises import as_float64, as_number, called, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise


def near(seen: float, right: float, rtol: float = 1e-4, atol: float = 1e-6) -> bool:
    return math.isclose(seen, right, rel_tol=rtol, abs_tol=atol)


def name_fault(seen: float, right: float, faults: dict[str, float], where: str, what: str) -> None:
    """Raises `Wrong` unless `seen` is right; `faults` are the numbers that the natural mistakes give."""
    if near(seen, right):
        return
    for fault, number in faults.items():
        if near(seen, number):
            raise Wrong(f"{where}: {fault}")
    raise Wrong(f"{where}: {what} should be {right:.5f}, yours is {seen:.5f}")


# -- 06.1 ------------------------------------------------------------------------------------------


def root_of(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def gaussians(dim: int, rows: int) -> list[Tensor]:
    """Mean and covariance of two clouds of `rows` points; with fewer rows than columns both are singular."""
    found = []
    for seed in (dim, dim + 100):
        points = normal(rows, dim, seed=seed) @ normal(dim, dim, seed=seed + 7) + 2 * normal(dim, seed=seed + 9)
        found += [points.mean(0), points.T.cov().view(dim, dim)]
    return found


def wrong_distances(m_a: Tensor, c_a: Tensor, m_b: Tensor, c_b: Tensor) -> dict[str, float]:
    gap, spread = (m_a - m_b).square().sum(), c_a.trace() + c_b.trace()
    root_a, root_b = root_of(c_a), root_of(c_b)
    cross = root_of(root_a @ c_b @ root_a).trace()
    right = gap + spread - 2 * cross
    values = {
        "the distance is asked for squared, as the formula has it; take no root at the end": right.clamp(min=0).sqrt(),
        "the distance of the means is squared: the sum of the squared differences": gap.sqrt() + spread - 2 * cross,
        "the differences of the means are squared before they are added": (m_a - m_b).sum() ** 2 + spread - 2 * cross,
        "the means play no part in it": spread - 2 * cross,
        "the covariances play no part in it": gap,
        "the root of C_a C_b is taken away twice": gap + spread - cross,
        "the last part is taken away, not added": gap + spread + 2 * cross,
        "the root is missing: trace of (C_a C_b)^(1/2)": gap + spread - 2 * (c_a @ c_b).trace(),
        "the root of a product is not the product of the roots, unless the matrices commute": gap
        + spread
        - 2 * (root_a @ root_b).trace(),
        "a matrix's root is not the root of its entries: its square, as a matrix product, gives the matrix": gap
        + spread
        - 2 * (c_a @ c_b).clamp(min=0).sqrt().trace(),
        "C_a C_b is the matrix product, `@`, not `*`": gap + spread - 2 * root_of(c_a * c_b).trace(),
        "this compares the variances alone; what lies off the diagonals counts too": gap
        + (c_a.diagonal().sqrt() - c_b.diagonal().sqrt()).square().sum(),
        "the root of the trace is not the trace of the root": gap + spread - 2 * (c_a @ c_b).trace().abs().sqrt(),
        "this is the trace of (C_a + C_b)'s own root; see the formula": gap + spread - 2 * root_of(c_a + c_b).trace(),
    }
    return {fault: float(value) for fault, value in values.items()}


def check_frechet(frechet: Callable) -> None:
    for dim, rows in [(5, 40), (1, 9), (2, 9), (6, 4)]:
        given = gaussians(dim, rows)
        copies = [tensor.clone() for tensor in given]
        try:
            answer = frechet(*copies)
        except Exception as error:
            if rows <= dim and "positive" in str(error):
                raise Wrong("the covariance of few points is singular, with eigenvalues of 0: no Cholesky") from error
            raise
        if isinstance(answer, complex) or (hasattr(answer, "dtype") and "complex" in str(answer.dtype)):
            raise Wrong("the result is complex; the root of C_a C_b is real but for rounding: take its real part")
        refuse_changes(copies, given, "means and covariances")
        m_a, c_a, m_b, c_b = given
        root = root_of(c_a)
        right = float((m_a - m_b).square().sum() + (c_a + c_b).trace() - 2 * root_of(root @ c_b @ root).trace())
        singular = rows <= dim
        where = f"for {dim} dimensions" + (f" and covariances of {rows} points, which are singular" if singular else "")
        seen = as_number(answer, f"{where}: the distance")
        if not (singular and near(seen, right, rtol=1e-3)):
            name_fault(seen, right, wrong_distances(*given), where, "the distance")


@exercise(
    "06.1",
    "the Frechet distance of two Gaussians",
    check_frechet,
    hints=[
        "Three parts: the squared distance of the means, both traces, and twice the trace of a matrix's root.",
        "The trace of a root is the sum of the roots of the eigenvalues. Those of C_a C_b are real and not below 0; "
        "torch.linalg.eigvals gives them as complex numbers, so take .real.clamp(min=0).",
    ],
)
def frechet(mean_a, cov_a, mean_b, cov_b):
    values = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0)
    gap = (mean_a - mean_b).square().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * values.sqrt().sum())


# -- 06.2 ------------------------------------------------------------------------------------------


def wrong_kernel_distances(aa: Tensor, bb: Tensor, ab: Tensor) -> dict[str, float]:
    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    both, between = within(aa) + within(bb), ab.mean()
    off_a, off_b = (k.sum() - k.trace() for k in (aa, bb))
    n, m = ab.shape
    values = {
        "this is the biased estimate: the pairs of an image with itself, the diagonals, are still in it": aa.mean()
        + bb.mean()
        - 2 * between,
        "the diagonals are out of the sums, but still counted: N images make N (N - 1) pairs": off_a / n**2
        + off_b / m**2
        - 2 * between,
        "the diagonals are still in the sums": aa.sum() / (n * (n - 1)) + bb.sum() / (m * (m - 1)) - 2 * between,
        "the similarity between the sets is taken away twice": both - between,
        "the similarity between the sets is taken away, not added": both + 2 * between,
        "the similarity within the second set plays no part in it": within(aa) - 2 * between,
        "the similarity within the first set plays no part in it": within(bb) - 2 * between,
        "the similarity between the sets plays no part in it": both,
        "the mean within the sets is taken twice, in place of that between them": 2 * both - 2 * between,
        "between the sets every pair counts, so divide by N M": both - 2 * ab.sum() / (n * (m - 1)),
        "these are sums; take the means over the pairs": off_a + off_b - 2 * ab.sum(),
        "take no root: the unbiased estimate may be below 0": (both - 2 * between).abs().sqrt(),
    }
    return {fault: float(value) for fault, value in values.items()}


def check_kernel_distance(unbiased_mmd: Callable) -> None:
    for n, m in [(7, 5), (4, 9), (6, 6)]:
        a, b = normal(n, 3, seed=n), normal(m, 3, seed=m + 50) + 0.4
        given = [(x @ y.T / 3 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
        copies = [tensor.clone() for tensor in given]
        faults = {"must match the size": "the three matrices differ in size; take a mean of each first"}
        answer = called(unbiased_mmd, *copies, faults=faults)
        refuse_changes(copies, given, "the three matrices")
        aa, bb, ab = given
        right = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1)) - 2 * ab.mean()
        where = f"for sets of {n} and {m}"
        seen = as_number(answer, f"{where}: the distance")
        name_fault(seen, float(right), wrong_kernel_distances(*given), where, "the distance")


@exercise(
    "06.2",
    "the kernel distance without bias",
    check_kernel_distance,
    hints=[
        "The mean over the pairs of two different images: sum of all entries less the diagonal, over N (N - 1).",
        "Between the sets no image meets itself, so .mean() takes all pairs.",
    ],
)
def unbiased_mmd(within_a, within_b, between):
    def mean_of_pairs(kernel):
        count = len(kernel)
        return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))

    return float(mean_of_pairs(within_a) + mean_of_pairs(within_b) - 2 * between.mean())


# -- 06.3 ------------------------------------------------------------------------------------------


def wrong_precisions(real: Tensor, generated: Tensor, k: int) -> dict[str, float]:
    gaps, own, theirs = (torch.cdist(x, y) for x, y in ((real, generated), (real, real), (generated, generated)))
    reach, reach_generated = (x.sort(1).values for x in (own, theirs))
    inside = gaps <= reach[:, k, None]
    nearest = gaps.argmin(0)
    columns = torch.arange(gaps.shape[1])
    values = {
        "this is recall: the share of real points in a ball around a generated one": (
            gaps <= reach_generated[:, k]
        ).any(1),
        "the nearest point of all is the point itself, at distance 0: your balls reach to the neighbour before the k-th"
        "": (gaps <= reach[:, k - 1, None]).any(0),
        "your balls reach one neighbour too far: without the point itself, count from 1": (
            gaps <= reach[:, k + 1, None]
        ).any(0),
        "the balls are those of the real points; yours have the reach of the generated ones": (
            gaps <= reach_generated[:, k]
        ).any(0),
        "one ball is enough: a point need not lie in all of them": inside.all(0),
        "this is coverage: the share of real balls with a generated point in them": inside.any(1),
        "this is density: count a point once, in however many balls it lies": inside.double().sum(0) / k,
        "this counts pairs; count the generated points that lie in at least one ball": inside,
        "only the nearest real point's ball is looked at; a wider one may reach further": inside[nearest, columns],
        "this is the share outside of all balls": ~inside.any(0),
        "every ball has a reach of its own; yours have their mean": (gaps <= reach[:, k].mean()).any(0),
    }
    return {fault: float(value.double().mean()) for fault, value in values.items()}


def check_precision(precision: Callable) -> None:
    for n, m, k, spread in [(60, 40, 3, 1.6), (50, 80, 1, 1.2), (40, 70, 5, 2.4)]:
        given = [normal(n, 3, seed=k), normal(m, 3, seed=k + 20) * spread + 0.3]
        copies = [tensor.clone() for tensor in given]
        faults = {"must match the size": "gaps is (N, M), the reaches are (N,): reach[:, None] lets each meet its row"}
        answer = called(precision, *copies, k, faults=faults)
        refuse_changes(copies, given, "real and generated")
        where = f"for {n} real and {m} generated points with k = {k}"
        seen = as_number(answer, f"{where}: the share")
        own, gaps = torch.cdist(given[0], given[0]), torch.cdist(*given)
        right = float((gaps <= own.sort(1).values[:, k, None]).any(0).double().mean())
        faults = wrong_precisions(*given, k)
        if near(seen, 100 * right):
            raise Wrong(f"{where}: a share from 0 to 1 is asked for, not per cent")
        name_fault(seen, right, {f: v for f, v in faults.items() if not near(v, right)}, where, "the share")
    line, beside = torch.arange(4.0).double()[:, None], torch.tensor([[-1.0], [-2.0]]).double()
    if not near(as_number(precision(line, beside, 1)), 0.5):
        raise Wrong("a point at the very edge of a ball lies in it: <=, not <")


@exercise(
    "06.3",
    "precision",
    check_precision,
    hints=[
        "torch.cdist(real, real) holds every distance within the real set, 0 on the diagonal. Sorted along a row, the "
        "entry with index k is the distance to the k-th nearest other point.",
        "gaps = torch.cdist(real, generated) is (N, M). Point m lies in ball n where gaps[n, m] <= reach[n].",
        "(gaps <= reach[:, None]).any(0) says of every generated point whether it lies in some ball; take the mean.",
    ],
)
def precision(real, generated, k):
    reach = torch.cdist(real, real).sort(dim=1).values[:, k]
    inside = torch.cdist(real, generated) <= reach[:, None]
    return float(inside.any(0).double().mean())


# -- 06.4 ------------------------------------------------------------------------------------------


def velocity_of(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A velocity that mixes the numbers of each row, and no two rows."""
    size = math.prod(shape[1:])
    matrix = normal(size, size, seed=size)

    def velocity(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (torch.tanh(flat @ matrix.T) + 0.5 * flat.square()).view(x.shape)

    return velocity


def jacobians(velocity: Callable, x: Tensor) -> Tensor:
    """(B, D, D): the derivative of output i by input j, at [b, i, j]."""
    rows = [torch.autograd.functional.jacobian(lambda one: velocity(one[None])[0], one) for one in x]
    return torch.stack(rows).view(len(x), x[0].numel(), x[0].numel())


def wrong_divergences(jacobian: Tensor, probe: Tensor, v: Tensor) -> dict[str, Tensor]:
    flat, out = probe.flatten(1), v.flatten(1)
    back = torch.einsum("bi,bij->bj", flat, jacobian)  # the gradient of v . probe
    right = (back * flat).sum(1)
    return {
        "the gradient is not multiplied with the probe again": back.sum(1),
        "v is not multiplied with the probe before the gradient is taken": (jacobian.sum(1) * flat).sum(1),
        "the probe plays no part in it: this is the sum of all entries of the derivative, not of its diagonal": (
            jacobian.sum((1, 2))
        ),
        "v is multiplied with the gradient; multiply the probe with it": (back * out).sum(1),
        "take the sum over the numbers of a row, not the mean": right / flat.shape[1],
        "the gradient's squares are no divergence; multiply it with the probe": back.square().sum(1),
        "the sign is turned": -right,
    }


def check_divergence(v_and_divergence: Callable) -> None:
    faults = {
        "does not require grad": "x does not ask for a gradient; begin with x = x.detach().requires_grad_()",
        "grad can be implicitly created": "a gradient is that of one number: (v * probe).sum()",
        "one of the differentiated": "v was not computed from the x that you differentiate by",
    }
    for shape in [(5, 2), (3, 1, 2, 3)]:
        x, velocity = normal(*shape, seed=1), velocity_of(shape)
        probe = normal(*shape, seed=2).sign()
        given = [x.clone(), probe.clone()]
        answer = called(v_and_divergence, velocity, *given, faults=faults)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong(f"two things are to be returned, v and the divergence; got {type(answer).__name__}")
        refuse_changes(given, [x, probe], "x and probe")
        if given[0].requires_grad:
            raise Wrong("the x that was given now asks for a gradient; work on x.detach().requires_grad_()")
        check_both(answer, velocity, x, probe)


def check_both(answer: Any, velocity: Callable, x: Tensor, probe: Tensor) -> None:
    v, shape = velocity(x), tuple(x.shape)
    if not close(as_float64(answer[0], shape, "v"), v, 1e-5):
        raise Wrong("the first of the two should be velocity(x) itself")
    jacobian = jacobians(velocity, x)
    right = torch.einsum("bi,bij,bj->b", probe.flatten(1), jacobian, probe.flatten(1))
    if isinstance(answer[1], Tensor) and answer[1].ndim == 0 and near(float(answer[1]), float(right.sum())):
        raise Wrong("the divergence is one number for each row of x, (B,); yours is the sum over all rows")
    seen = as_float64(answer[1], shape[:1], "the divergence")
    if not close(seen, right, 1e-4, 1e-6):
        for fault, number in wrong_divergences(jacobian, probe, v).items():
            if close(seen, number, 1e-4, 1e-6):
                raise Wrong(fault)
        if close(seen, jacobian.diagonal(dim1=1, dim2=2).sum(1), 1e-4, 1e-6):
            raise Wrong("this is the exact divergence, at one gradient for each number; use the probe: one for all")
        raise Wrong("for each row the estimate is probe . (dv/dx) probe; yours is another number")
    if any(isinstance(part, Tensor) and part.requires_grad for part in answer):
        raise Wrong("right, but the results still hold the graph of the gradient, which grows step by step: .detach()")


@exercise(
    "06.4",
    "velocity and divergence",
    check_divergence,
    hints=[
        "x = x.detach().requires_grad_(), then v = velocity(x). The sum of v * probe is one number.",
        "torch.autograd.grad((v * probe).sum(), x) gives a tuple of one: probe times the derivative, shaped as x.",
        "Multiply that with the probe and sum over all but the first axis: .flatten(1).sum(1). Return v.detach() too.",
    ],
)
def v_and_divergence(velocity, x, probe):
    x = x.detach().requires_grad_()
    v = velocity(x)
    (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1)


# -- 06.5: the gradient penalty --------------------------------------------------------------------

IMAGES = (5, 1, 3, 4)


class Bowl(nn.Module):
    """A critic whose gradient is known: scale * x, plus a direction."""

    def __init__(self):
        super().__init__()
        # so that some of the norms are below 1
        self.scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.direction = nn.Parameter(0.2 * normal(*IMAGES[1:], seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale / 2 * x**2 + self.direction * x).flatten(1).sum(1, keepdim=True)

    def gradient(self, x: Tensor) -> Tensor:
        return self.scale * x + self.direction


def right_penalty(critic: Bowl, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    return (critic.gradient(mix * real + (1 - mix) * fake).flatten(1).norm(dim=1) - 1).square().mean()


def wrong_penalties(critic: Bowl, real: Tensor, fake: Tensor, mix: Tensor) -> dict[str, Tensor]:
    """The most natural mistakes, by what is wrong with them."""
    gradient = critic.gradient(mix * real + (1 - mix) * fake).flatten(1)
    norms, whole = gradient.norm(dim=1), gradient.norm()

    def at(x: Tensor) -> Tensor:
        return (critic.gradient(x).flatten(1).norm(dim=1) - 1).square().mean()

    return {
        "this is the sum over the images; take the mean": (norms - 1).square().sum(),
        "the norm is that of all images' gradients together; each image has its own": (whole - 1).square(),
        "the norm is that of all images' gradients together, over their number; each image has its own": (
            whole - 1
        ).square()
        / len(real),
        "the norm needs a root: this takes the sum of squares": (norms.square() - 1).square().mean(),
        "1 is taken from the mean norm and that is squared; square first, for each image": (norms.mean() - 1).square(),
        "the distance from 1 is not squared": (norms - 1).abs().mean(),
        "the distance from 1 is not squared, so that a flat critic is rewarded": (norms - 1).mean(),
        "1 is not taken away: only steep is punished, and flat is not": norms.square().mean(),
        "the gradient is pulled to 1 number by number; its norm over the whole image is meant": (gradient - 1)
        .square()
        .mean(),
        "the norm is the root of the mean of squares here, of the sum is meant": (
            (gradient.square().mean(1).sqrt() - 1).square().mean()
        ),
        "norms below 1 go free; the paper punishes both sides (this form has been used too)": (
            (norms - 1).clamp(min=0).square().mean()
        ),
        "it carries the factor 10 already; critic_loss has it": 10 * (norms - 1).square().mean(),
        "the gradient is taken at the real images; take it between": at(real),
        "the gradient is taken at the made images; take it between": at(fake),
        "the gradient is taken half-way; the share of the real image is `mix`": at((real + fake) / 2),
        "the two shares have to add up to 1": at(mix * real + mix * fake),
    }


NO_GRADIENT = {
    "does not require grad": "the point between has no gradient: .requires_grad_() it before the critic sees it",
    "grad can be implicitly created only for scalar": "the gradient is of one number: critic(between).sum()",
    "'tuple' object": "torch.autograd.grad returns a tuple; take its first item",
}


def check_penalty(gradient_penalty: Callable) -> None:
    real, fake, mix = normal(*IMAGES), normal(*IMAGES, seed=1), normal(5, 1, 1, 1, seed=2).sigmoid()
    critic, given = Bowl(), [real.clone(), fake.clone(), mix.clone()]
    answer = called(gradient_penalty, critic, *given, faults=NO_GRADIENT)
    refuse_changes(given, [real, fake, mix], "real, fake and mix")
    if any(tensor.requires_grad for tensor in given):
        raise Wrong("real or fake has been made to need a gradient; only the point between them should")
    seen = as_float64(answer, (), "the penalty")
    # which of the two has the share `mix` does not matter: it is uniform
    rights = [right_penalty(critic, real, fake, mix), right_penalty(critic, fake, real, mix)]
    right = next((one for one in rights if close(seen, one.detach(), 1e-6)), None)
    if right is None:
        for fault, value in wrong_penalties(critic, real, fake, mix).items():
            if close(seen, value.detach(), 1e-6):
                raise Wrong(fault)
        raise Wrong(f"for a critic of known gradient the penalty should be {rights[0]:.4f}, got {seen:.4f}")
    if critic.scale.grad is not None:
        raise Wrong("the critic's weights have received a gradient; use torch.autograd.grad, not backward")
    check_second_gradient(answer, right, critic)


def check_second_gradient(answer: Tensor, right: Tensor, critic: Bowl) -> None:
    """Raises `Wrong` unless the penalty moves the critic's weights."""
    advice = "torch.autograd.grad(..., create_graph=True), and no detach, no .item()"
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        raise Wrong(f"the penalty cannot be differentiated, so that it teaches the critic nothing: {advice}")
    found = torch.autograd.grad(answer, [critic.scale, critic.direction], allow_unused=True)
    wanted = torch.autograd.grad(right, [critic.scale, critic.direction])
    if any(one is None for one in found):
        raise Wrong(f"the penalty does not depend on the critic's weights: {advice}")
    if not all(close(one, right_one, 1e-6) for one, right_one in zip(found, wanted)):
        raise Wrong(f"the value is right, its gradient by the critic's weights is not: {advice}")


@exercise(
    "06.5",
    "the gradient penalty",
    check_penalty,
    hints=[
        "Three lines: the point between, the critic's gradient there, the mean of (norm - 1) ** 2.",
        "between = (mix * real + (1 - mix) * fake).requires_grad_(); then critic(between).sum() is what to "
        "differentiate, with create_graph=True.",
        "gradient.flatten(1).norm(dim=1) is the norm of each image.",
    ],
)
def gradient_penalty(critic, real, fake, mix):
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return (norms - 1).square().mean()


# -- 06.6: a critic's number is a ratio of densities ------------------------------------------------


def check_acceptance(acceptance: Callable) -> None:
    for logits in (torch.tensor([-2.0, 0.0, 1.5, 3.0], dtype=torch.float64), 30 * normal(200, seed=5)):
        given = logits.clone()
        chances = as_float64(acceptance(given), tuple(logits.shape), "the chances")
        refuse_changes([given], [logits], "the critic's numbers")
        if not bool(((chances >= 0) & (chances <= 1)).all()):
            raise Wrong(f"chances lie between 0 and 1; yours go from {chances.min():.3g} to {chances.max():.3g}")
        if float(chances.max()) == 0:
            raise Wrong("all chances are 0; the exponential has overflowed or underflowed: subtract the largest first")
        kept = chances > 1e-250  # the smaller ones may be rounded to 0
        left = chances[kept].log() - logits[kept]
        if float(left.max() - left.min()) < 1e-6 and bool((logits[~kept] <= logits[kept].min()).all()):
            if float(chances.max()) < 0.999:
                raise Wrong(
                    f"the proportions are right, but the largest chance is {chances.max():.3g}: points are thrown away "
                    "for nothing; let the best one have 1"
                )
            continue
        for fault, value in wrong_chances(logits).items():
            if close(chances, value, 1e-6):
                raise Wrong(fault)
        raise Wrong(
            "the chances should be in the proportion of data to generator, exp(D): yours, divided by exp(D), go from "
            f"{left.exp().min():.3g} to {left.exp().max():.3g}"
        )


def wrong_chances(logits: Tensor) -> dict[str, Tensor]:
    """The most natural mistakes, by what is wrong with them."""
    return {
        "this is the chance that a point is real, data / (data + generator); what is asked for is the share of the "
        "generator's points to keep, in proportion to data / generator": logits.sigmoid(),
        "this keeps what the critic takes for made: the sign is turned": (logits.min() - logits).exp(),
        "D is the logarithm of the ratio; take its exponential": (logits - logits.min())
        / (logits.max() - logits.min()),
        "the ratio is cut off at 1: all points above are treated alike": logits.exp().clamp(max=1),
    }


@exercise(
    "06.6",
    "from a critic's number to a chance",
    check_acceptance,
    hints=[
        "sigmoid(D) = p / (p + q), for the density p of the data and q of the generator. Solve for p / q.",
        "p / q = exp(D). To keep a point with a chance in proportion to it, divide by the largest one there is.",
        "exp(D - D.max()): the same, and nothing overflows.",
    ],
)
def acceptance(logits):
    return (logits - logits.max()).exp()


# -- 06.7: a test of a sampler's step --------------------------------------------------------------


def weights_of_ddpm(a: float, b: float) -> tuple[float, float, float]:
    """Weights of x_t and x_0, and the variance of the noise."""
    alpha = a / b
    return math.sqrt(alpha) * (1 - b) / (1 - a), math.sqrt(b) * (1 - alpha) / (1 - a), (1 - alpha) * (1 - b) / (1 - a)


def ddpm(x_t, x_0, a, b, z):
    of_x_t, of_x_0, variance = weights_of_ddpm(a, b)
    return of_x_t * x_t + of_x_0 * x_0 + math.sqrt(variance) * z


def ddim(eta: float) -> Callable:
    def step(x_t, x_0, a, b, z):
        sigma = eta * math.sqrt(weights_of_ddpm(a, b)[2])
        noise = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
        return math.sqrt(b) * x_0 + math.sqrt(max(0.0, 1 - b - sigma**2)) * noise + sigma * z

    return step


def fresh(x_t, x_0, a, b, z):
    """All the noise is new."""
    return math.sqrt(b) * x_0 + math.sqrt(1 - b) * z


SOUND = {
    "DDPM's step": ddpm,
    "DDIM's with eta = 0": ddim(0.0),
    "DDIM's with eta = 0.5": ddim(0.5),
    "one that draws all the noise anew": fresh,
}


def changed(of_x_t: Callable | None = None, of_x_0: Callable | None = None, of_z: Callable | None = None) -> Callable:
    """DDPM's step with other weights, as functions of alpha-bar before and after."""

    def step(x_t, x_0, a, b, z):
        x_t_weight, x_0_weight, variance = weights_of_ddpm(a, b)
        weights = x_t_weight, x_0_weight, math.sqrt(variance)
        chosen = [one(a, b) if one else weight for one, weight in zip((of_x_t, of_x_0, of_z), weights)]
        return chosen[0] * x_t + chosen[1] * x_0 + chosen[2] * z

    return step


FAULTY = {
    "noise is left on in the last step": changed(of_z=lambda a, b: math.sqrt(weights_of_ddpm(a, b)[2] or 1 - a)),
    "the variance stands where its root belongs": changed(of_z=lambda a, b: weights_of_ddpm(a, b)[2]),
    "no noise is added, though the mean is DDPM's": changed(of_z=lambda a, b: 0.0),
    "z has all the noise of s, beside what x_t brings": changed(of_z=lambda a, b: math.sqrt(1 - b)),
    "the image has its weight at t": lambda x_t, x_0, a, b, z: math.sqrt(a) * x_0 + math.sqrt(1 - b) * z,
    "the image is not shrunk": lambda x_t, x_0, a, b, z: x_0 + math.sqrt(1 - b) * z,
    "a root is missing, of the image's weight": lambda x_t, x_0, a, b, z: b * x_0 + math.sqrt(1 - b) * z,
    "nothing is done: x_t comes back": lambda x_t, x_0, a, b, z: x_t,
    "it jumps to x_0 and stays there": lambda x_t, x_0, a, b, z: x_0 + 0 * x_t,
    "it goes forward, to more noise": changed(
        lambda a, b: math.sqrt(a / b), lambda a, b: 0.0, lambda a, b: math.sqrt(1 - a / b)
    ),
    "the noise is uniform, with a mean of 0.5": lambda x_t, x_0, a, b, z: (
        math.sqrt(b) * x_0 + math.sqrt(1 - b) * (z / math.sqrt(2)).erf().add(1).div(2)
    ),
    "the image is turned into its negative": lambda x_t, x_0, a, b, z: -ddpm(x_t, x_0, a, b, z),
    "everything is a little too bright": lambda x_t, x_0, a, b, z: ddpm(x_t, x_0, a, b, z) + 0.2,
}


def check_keeps(keeps_eq_4: Callable) -> None:
    for seed in range(3):  # a test that passes by chance is none
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            for name, step in SOUND.items():
                if not verdict(keeps_eq_4, step):
                    raise Wrong(f"it turns away a sound step, {name}: all that is asked is eq. 4 at s, up to chance")
            for name, step in FAULTY.items():
                if verdict(keeps_eq_4, step):
                    raise Wrong(f"it lets a faulty step pass: {name}")


NUMBERS = {
    "must be real number": "the two alpha-bar are plain numbers; give no tensors for them",
    "only one element tensors": "the two alpha-bar are plain numbers; give no tensors for them",
    "float division by zero": "a_bar_t is below 1: only a_bar_s may be 1",
    "math domain error": "the two alpha-bar need 0 < a_bar_t < a_bar_s <= 1",
}


def verdict(keeps_eq_4: Callable, step: Callable) -> bool:
    answer = called(keeps_eq_4, step, faults=NUMBERS)
    if answer is None:
        raise Wrong("it returned None; return True or False")
    return bool(as_number(float(answer), "the verdict"))


@exercise(
    "06.7",
    "a test that tells sound steps from faulty ones",
    check_keeps,
    hints=[
        "Draw many numbers: x_0, noise and z. Make x_t by eq. 4, call the step, and take sqrt(a_bar_s) * x_0 away from "
        "what it returns. What is left should be noise of mean 0 and variance 1 - a_bar_s.",
        "Let x_0 vary and have a mean of its own, or look at the product of what is left with x_0: else a wrong weight "
        "of the image goes unseen. Allow for chance, a few hundredths with 50,000 numbers.",
        "Ask at several pairs, and at a_bar_s = 1, where the variance should be 0: noise in the last step shows "
        "nowhere else.",
    ],
)
def keeps_eq_4(step):
    generator = torch.Generator().manual_seed(0)
    x_0, noise, z = torch.randn(3, 50_000, generator=generator)
    for a_bar_t, a_bar_s in [(0.1, 0.3), (0.5, 0.6), (0.6, 1.0)]:
        x_t = math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise
        rest = step(x_t, x_0, a_bar_t, a_bar_s, z) - math.sqrt(a_bar_s) * x_0
        errors = [rest.mean(), (rest * x_0).mean(), rest.var() - (1 - a_bar_s)]
        if max(abs(float(error)) for error in errors) > 0.03:
            return False
    return True
