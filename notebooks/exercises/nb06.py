"""Exercises of notebook 06, evaluation. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
    for dim, rows in [(1, 9), (2, 9), (5, 40), (6, 4)]:
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
