"""Exercises of notebook 07, guidance. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import ONE_NUMBER, as_float64, called, close, normal, refuse_changes, refuse_dtype
from utils.course.exercises import Wrong, exercise

# -- 07.1: from the gradient of log p(y | x_t) to the noise ------------------------------------------

ROOTS = {"must be Tensor, not float": "a_bar_t is a plain number: math.sqrt takes its root"}


def wrong_noises(noise: Tensor, gradient: Tensor, a: float, w: float) -> dict[str, Tensor]:
    sigma = math.sqrt(1 - a)
    return {
        "the gradient is added; the noise points away from where the probability grows": noise + w * sigma * gradient,
        "sigma_t is missing: the score is -noise / sigma_t": noise - w * gradient,
        "the gradient is divided by sigma_t; solve score = -noise / sigma_t": noise - w / sigma * gradient,
        "the gradient has the variance 1 - a_bar_t as its factor; take its root": noise - w * sigma**2 * gradient,
        "the factor is sigma_t = sqrt(1 - a_bar_t), not sqrt(a_bar_t)": noise - w * math.sqrt(a) * gradient,
        "w plays no part": noise - sigma * gradient,
        "the gradient counts w times here, not 1 + w times": noise - (1 + w) * sigma * gradient,
        "the noise is multiplied by 1 - w; log p(x_t) keeps the factor 1": (1 - w) * noise - w * sigma * gradient,
        "this is the guided score; the noise is -sigma_t times it": -noise / sigma + w * gradient,
        "the noise plays no part": -w * sigma * gradient,
    }


def check_guided_noise(guided_noise: Callable) -> None:
    for a, w, shape in [(0.36, 2.0, (3, 2)), (0.9, 0.0, (3, 2)), (0.1, 5.0, (2, 1, 4, 4)), (0.75, 1.0, (3, 2))]:
        given = [normal(*shape, seed=seed).float() for seed in range(2)]
        noise, gradient = (tensor.clone() for tensor in given)
        answer = called(guided_noise, noise, gradient, a, w, faults=ROOTS)
        refuse_changes([noise, gradient], given, "noise and gradient")
        refuse_dtype(answer, torch.float32, "the guided noise", "noise and gradient are of that kind")
        seen = as_float64(answer, shape, "the guided noise")
        noise, gradient = (tensor.double() for tensor in given)
        if close(seen, noise - w * math.sqrt(1 - a) * gradient, 1e-4, 1e-5):
            continue
        for fault, found in wrong_noises(noise, gradient, a, w).items():
            if close(seen, found, 1e-4, 1e-5):
                raise Wrong(f"alpha-bar {a}, w = {w:g}: {fault}")
        one = float(seen.flatten()[0]), float((noise - w * math.sqrt(1 - a) * gradient).flatten()[0])
        raise Wrong(f"alpha-bar {a}, w = {w:g}: the first value should be {one[1]:.4f}, got {one[0]:.4f}")


@exercise(
    "07.1",
    "the guided noise",
    check_guided_noise,
    hints=[
        "Take gradients on both sides of log p(x_t) + w log p(y | x_t): the guided score is the score plus w times the "
        "gradient.",
        "The score is -noise / sigma_t, with sigma_t = sqrt(1 - a_bar_t). Put that in on both sides, and multiply by "
        "-sigma_t.",
        "guided noise = noise - w * sigma_t * gradient.",
    ],
)
def guided_noise(noise, gradient, a_bar_t, w):
    return noise - w * math.sqrt(1 - a_bar_t) * gradient


# -- 07.2: the gradient of a classifier ---------------------------------------------------------------


class LinearClassifier(torch.nn.Module):
    """Logits (B, 4) of images (B, 1, 3, 3), linear in them, and of t: its gradient is known in closed form."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(normal(4, 9).float())
        self.shift = torch.nn.Parameter(normal(4, seed=1).float())

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t.flatten(1) @ self.weight.T + t[:, None] / 500 * self.shift


def right_gradients(classifier: LinearClassifier, x_t: Tensor, t: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient, and by what is wrong with them the most natural mistakes: (B, 1, 3, 3) each."""
    with torch.no_grad():
        chances = classifier(x_t, t).softmax(1)
        rows, mean = classifier.weight[y], chances @ classifier.weight
        own, count = chances[torch.arange(len(y)), y][:, None], len(y)
        found = {
            "": rows - mean,
            "this is the gradient of the loss, -log p: the sign is turned round": mean - rows,
            "this is the gradient of the logit of y; take that of log p(y | x_t), with log_softmax": rows,
            "this is the gradient of p; take that of log p, with log_softmax": own * (rows - mean),
            "the mean over the batch makes each image's gradient B times too small; add up instead": (rows - mean)
            / count,
            "this is the mean loss's gradient: B times too small, and of the other sign": (mean - rows) / count,
            "this adds up over all classes; log p(y | x_t) needs the label's own column": classifier.weight.sum(0)
            - 4 * mean,
        }
        return {fault: gradient.view(-1, 1, 3, 3).double() for fault, gradient in found.items()}


NO_GRAPH = {
    "does not require grad": "autograd needs to know that it shall follow x_t: x = x_t.detach().requires_grad_(), "
    "inside torch.enable_grad(), since samplers run without gradients",
    "grad can be implicitly created only": "the gradient is that of one number: add up log p over the batch",
    "argument after **": "the classifier is called as classifier(x_t, t)",
}


def check_label_gradient(label_gradient: Callable) -> None:
    for seed, count in [(0, 3), (1, 5)]:
        classifier, given = LinearClassifier(), normal(count, 1, 3, 3, seed=seed + 5).float()
        x_t, t, y = given.clone(), torch.arange(count) * 100, torch.arange(count) % 4
        with torch.no_grad():
            answer = called(label_gradient, classifier, x_t, t, y, faults=NO_GRAPH)
        refuse_changes([x_t], [given], "x_t")
        if x_t.requires_grad:
            raise Wrong("x_t itself now requires gradients; ask that of a copy: x_t.detach().requires_grad_()")
        if any(weight.grad is not None for weight in classifier.parameters()):
            raise Wrong("the classifier's own weights have got gradients; torch.autograd.grad(log_p, x) asks for x's")
        refuse_dtype(answer, torch.float32, "the gradient", "x_t is of that kind")
        if answer.requires_grad:
            raise Wrong("the gradient is still tied to the graph, which would grow step by step; detach it")
        seen = as_float64(answer, (count, 1, 3, 3), "the gradient")
        found = right_gradients(classifier, given, t, y)
        if close(seen, found.pop(""), 1e-4, 1e-5):
            continue
        for fault, gradient in found.items():
            if close(seen, gradient, 1e-4, 1e-5):
                raise Wrong(fault)
        raise Wrong("on a classifier with linear logits W x the gradient should be W's row of y, less the mean row")


@exercise(
    "07.2",
    "the gradient of the classifier",
    check_label_gradient,
    hints=[
        "The sampler runs without gradients: work inside `with torch.enable_grad():`, on x = x_t.detach()"
        ".requires_grad_().",
        "classifier(x, t).log_softmax(1) has shape (B, classes); pick each image's own column y: "
        "log_p[torch.arange(len(y)), y].",
        "Images do not look at each other, so the gradient of the sum holds each image's own: "
        "torch.autograd.grad(log_p.sum(), x)[0].",
    ],
)
def label_gradient(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(1)[torch.arange(len(y)), y]
        return torch.autograd.grad(log_p.sum(), x)[0]


# -- 07.3: both halves in one batch -------------------------------------------------------------------


class CountingModel:
    """A network in closed form: its answer depends on image, timestep and label; it notes how it was called."""

    num_classes = 10

    def __init__(self):
        self.calls: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = torch.full_like(t, self.num_classes) if y is None else y
        if not isinstance(y, Tensor) or y.shape != t.shape or len(t) != len(x_t):
            sizes = len(x_t), tuple(t.shape), tuple(getattr(y, "shape", ()))
            raise Wrong(f"x_t, t and y should have one entry per image each; the network got {sizes}")
        if y.dtype.is_floating_point or bool(((y < 0) | (y > 10)).any()):
            raise Wrong(f"labels are whole numbers 0 to 10, where 10 is 'no label'; the network got {y.tolist()}")
        self.calls.append(len(x_t))
        return self.answer(x_t, t, y)

    @staticmethod
    def answer(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        t, y = (one.to(x_t.dtype).view(-1, 1, 1, 1) for one in (t, y))
        return torch.sin(x_t * (1 + y)) + t / 1000 * torch.cos(y)


def parts_of(x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return CountingModel.answer(x_t, t, y).double()


def asked(answer: Callable, *args, count: int, parts: int) -> Tensor:
    """The answer to (model, x_t, t, ...) in float64. Raises `Wrong` unless it asks once, for all parts together."""
    model, kept = CountingModel(), args[0].clone()
    result = called(answer, model, *args, faults={"Sizes of tensors must match": "put the parts one below the other"})
    refuse_changes([args[0]], [kept], "x_t")
    if sum(model.calls) > parts * count:
        raise Wrong(f"the network worked on {sum(model.calls)} images; {parts * count} are enough")
    if len(model.calls) > 1:
        raise Wrong(f"the network was called {len(model.calls)} times; put the parts into one batch with torch.cat")
    return as_float64(result, tuple(kept.shape), "the guided output")


def check_guided_output(guided_output: Callable) -> None:
    x_t, t, y = normal(4, 1, 3, 3).float(), torch.tensor([999, 500, 20, 0]), torch.tensor([3, 0, 9, 9])
    without, with_label = parts_of(x_t, t, torch.full_like(y, 10)), parts_of(x_t, t, y)
    for w in (3.0, 1.0, 0.0):
        seen = asked(guided_output, x_t, t, y, w, count=4, parts=2)
        found = {
            "this is the other convention: here w = 1 is the label alone": with_label + w * (with_label - without),
            "the two halves are exchanged: w = 0 is without a label": with_label + w * (without - with_label),
            "the answer without the label counts 1 - w times, not w times": w * (without + with_label),
            "the answer without the label must be added once": w * (with_label - without),
            "w plays no part": with_label,
        }
        if close(seen, without + w * (with_label - without), 1e-4, 1e-5):
            continue
        for fault, output in found.items():
            if close(seen, output, 1e-4, 1e-5):
                raise Wrong(f"w = {w:g}: {fault}")
        raise Wrong(f"w = {w:g}: the output should be (1 - w) times that without a label plus w times that with it")


@exercise(
    "07.3",
    "classifier-free guidance",
    check_guided_output,
    hints=[
        "One batch of 2B images: torch.cat([x_t, x_t]), torch.cat([t, t]), and labels, of which the first half is "
        "torch.full_like(y, model.num_classes).",
        "both.chunk(2) gives the halves back.",
        "without + w * (with_label - without): w = 0 is the first half, w = 1 the second.",
    ],
)
def guided_output(model, x_t, t, y, w):
    labels = torch.cat([torch.full_like(y, model.num_classes), y])
    both = model(torch.cat([x_t, x_t]), torch.cat([t, t]), labels)
    without, with_label = both.chunk(2)
    return without + w * (with_label - without)


# -- 07.4 ------------------------------------------------------------------------------------------


def check_step_variance(step_variance: Callable) -> None:
    beta = torch.tensor([0.02, 0.3, 0.999], dtype=torch.float64).view(3, 1, 1, 1)
    tilde = torch.tensor([0.001, 0.29, 0.5], dtype=torch.float64).view(3, 1, 1, 1)
    second = 0.9 * normal(3, 2, 4, 4)
    for name, values in {"1": torch.ones_like(second), "-1": -torch.ones_like(second), "between": second}.items():
        given = [values.clone(), beta.clone(), tilde.clone()]
        answer = called(step_variance, *given, faults=ONE_NUMBER)
        refuse_changes(given, [values, beta, tilde], "second, beta and beta_tilde")
        seen = as_float64(answer, tuple(second.shape), "the variance")
        if close(seen, variance_between(values, beta, tilde), 1e-6):
            continue
        where = "at a network output of 1 and -1" if name != "between" else "between the ends"
        for fault, wrong in wrong_variances(values, beta, tilde).items():
            if close(seen, wrong, 1e-6):
                raise Wrong(f"{where}: {fault}")
        if name != "between":
            end = "beta" if name == "1" else "beta-tilde"
            raise Wrong(f"where the network says {name}, the variance should be {end} itself; it is not")
        raise Wrong("the ends are right, but between them the logarithm of the variance should lie on a straight line")


def variance_between(second: Tensor, beta: Tensor, tilde: Tensor) -> Tensor:
    return tilde * (beta / tilde) ** ((second + 1) / 2)


def wrong_variances(second: Tensor, beta: Tensor, tilde: Tensor) -> dict[str, Tensor]:
    fraction, right = (second + 1) / 2, variance_between(second, beta, tilde)
    return {
        "the output runs from -1 to 1, eq. 15's v from 0 to 1: v = (output + 1) / 2": tilde * (beta / tilde) ** second,
        "the ends are exchanged: 1 is beta, -1 is beta-tilde": beta * (tilde / beta) ** fraction,
        "this is the logarithm of the variance; exp is missing": right.log(),
        "this is the standard deviation; the variance is asked for": right.sqrt(),
        "this is a mixture of the variances; mix their logarithms": fraction * beta + (1 - fraction) * tilde,
        "the output is cut off at -1 and 1; the paper leaves it free (section 3.1)": variance_between(
            second.clamp(-1, 1), beta, tilde
        ),
    }


@exercise(
    "07.4",
    "a variance between two ends",
    check_step_variance,
    hints=[
        "First bring the network's -1 to 1 to eq. 15's v, 0 to 1.",
        "v * log(beta) + (1 - v) * log(beta_tilde) is the logarithm of the variance.",
        "Take torch.exp of it. All factors have shapes that fit each other already.",
    ],
)
def step_variance(second, beta, beta_tilde):
    v = (second + 1) / 2
    return torch.exp(v * torch.log(beta) + (1 - v) * torch.log(beta_tilde))


# -- 07.5 ------------------------------------------------------------------------------------------


def check_bound_term(bound_term: Callable) -> None:
    true_mean, tilde = (normal(3, 1, 4, 4), torch.tensor([0.01, 0.2, 0.5], dtype=torch.float64).view(3, 1, 1, 1))
    given = [true_mean, tilde, true_mean + 0.3 * normal(3, 1, 4, 4, seed=1), tilde * normal(3, 1, 4, 4, seed=2).exp()]
    mean, variance = (tensor.clone().requires_grad_() for tensor in given[2:])
    answer = called(bound_term, given[0].clone(), tilde.clone(), mean, variance, faults=ONE_NUMBER)
    seen = as_float64(answer, (3,), "the result, one number for each image,")
    nats = divergence(*given)
    right = nats.flatten(1).mean(1) / math.log(2)
    if not close(seen, right, 1e-5):
        for fault, wrong in wrong_terms(*given).items():
            if close(seen, wrong, 1e-5):
                raise Wrong(fault)
        raise Wrong(
            f"the first image's term should be {right[0]:.4f} bits per dimension, yours is {seen[0]:.4f}; for each "
            "pixel: (log(variance / beta_tilde) + (beta_tilde + gap**2) / variance - 1) / 2"
        )
    if not answer.requires_grad:
        raise Wrong("no gradient reaches the variance, which should learn from this; only the mean is held fixed")
    of_mean, of_variance = torch.autograd.grad(answer.sum(), [mean, variance], allow_unused=True)
    if of_mean is not None and bool(of_mean.abs().max() > 0):
        raise Wrong("the value is right, but a gradient reaches the mean: mean.detach() stops it (eq. 16)")
    expected = (1 / given[3] - (tilde + (given[0] - given[2]) ** 2) / given[3] ** 2) / (2 * 16 * math.log(2))
    if of_variance is None or not close(of_variance, expected, 1e-4):
        raise Wrong("the value is right, but the gradient of the variance is not: do not detach the variance")


def divergence(true_mean: Tensor, tilde: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Of N(true_mean, tilde) from N(mean, variance), for each pixel, in nats."""
    return 0.5 * ((variance / tilde).log() + (tilde + (true_mean - mean) ** 2) / variance - 1)


def wrong_terms(true_mean: Tensor, tilde: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    nats, gap = divergence(true_mean, tilde, mean, variance), (true_mean - mean) ** 2
    bits = {
        "this is the divergence the other way round: q comes first, the step second": divergence(
            mean, variance, true_mean, tilde.expand_as(mean)
        ),
        "the variances are used as standard deviations: do not square them": 0.5
        * (2 * (variance / tilde).log() + (tilde**2 + gap) / variance**2 - 1),
        "the -1 is missing: two equal normals have the divergence 0": nats + 0.5,
        "the gap of the means has to be squared": 0.5
        * ((variance / tilde).log() + (tilde + (true_mean - mean)) / variance - 1),
        "the ratio in the logarithm stands upside down": nats - (variance / tilde).log(),
        "a factor of 1/2 is missing": 2 * nats,
        "the gap of the means is left out": 0.5 * ((variance / tilde).log() + tilde / variance - 1),
    }
    found = {fault: wrong.flatten(1).mean(1) / math.log(2) for fault, wrong in bits.items()}
    found["these are nats; divide by log 2"] = nats.flatten(1).mean(1)
    found["this is the sum over the pixels; per dimension is their mean"] = nats.flatten(1).sum(1) / math.log(2)
    return found


@exercise(
    "07.5",
    "the bound's term, with the mean held fixed",
    check_bound_term,
    hints=[
        "KL(N(m_1, s_1) || N(m_2, s_2)), s being variances, 1 for q and 2 for the network, is "
        "(log(s_2 / s_1) + (s_1 + (m_1 - m_2)**2) / s_2 - 1) / 2.",
        "mean.detach() has the same values and passes no gradient on.",
        ".flatten(1).mean(1) is the mean over the pixels of each image; nats divided by math.log(2) are bits.",
    ],
)
def bound_term(true_mean, beta_tilde, mean, variance):
    gap = true_mean - mean.detach()
    nats = (torch.log(variance / beta_tilde) + (beta_tilde + gap**2) / variance - 1) / 2
    return nats.flatten(1).mean(1) / math.log(2)


# -- 07.6: several labels -----------------------------------------------------------------------------


def check_composed_output(composed_output: Callable) -> None:
    x_t, t = normal(3, 1, 3, 3).float(), torch.tensor([999, 500, 20])
    without = parts_of(x_t, t, torch.full_like(t, 10))
    for weights in ({3: 2.0, 7: 1.5}, {4: 3.0}, {0: 2.0, 5: -1.0, 9: 0.5}, {}):
        differences = {k: w * (parts_of(x_t, t, torch.full_like(t, k)) - without) for k, w in weights.items()}
        right = without + sum(differences.values())
        seen = asked(composed_output, x_t, t, dict(weights), count=3, parts=len(weights) + 1)
        if close(seen, right, 1e-4, 1e-5):
            continue
        total = sum(weights.values())
        found = {
            "the answer without a label is missing": right - without,
            "it is added once for each label; once in all is right": right + (len(weights) - 1) * without,
            "the labels' answers are added without taking away the one without a label": right + total * without,
            "the weights are divided by their sum": without + (right - without) / (total or 1),
            "the weights are divided by how many there are": without + (right - without) / max(1, len(weights)),
            "a negative weight pushes away; yours pulls": without
            + sum(abs(w) / w * difference for (k, difference), w in zip(differences.items(), weights.values())),
        }
        for fault, output in found.items():
            if close(seen, output, 1e-4, 1e-5):
                raise Wrong(f"weights {weights}: {fault}")
        raise Wrong(f"weights {weights}: add w times (with that label - without) for each, to that without a label")


@exercise(
    "07.6",
    "several labels at once",
    check_composed_output,
    hints=[
        "A batch of (K + 1) B images: x_t.repeat(K + 1, 1, 1, 1), t.repeat(K + 1), and labels, B of each kind.",
        "Labels: torch.tensor([model.num_classes, *weights]).repeat_interleave(len(x_t)). The answer .chunk(K + 1): "
        "first the part without a label.",
        "Start from the first part, and add w * (part - first) for each of the others.",
    ],
)
def composed_output(model, x_t, t, weights):
    count = len(weights) + 1
    labels = torch.tensor([model.num_classes, *weights], device=t.device)
    labels = labels.repeat_interleave(len(x_t))
    every_x, every_t = x_t.repeat(count, 1, 1, 1), t.repeat(count)
    without, *others = model(every_x, every_t, labels).chunk(count)
    gaps = [w * (part - without) for w, part in zip(weights.values(), others)]
    return without + sum(gaps)
