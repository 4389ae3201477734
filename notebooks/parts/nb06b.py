"""Exercises 06.5 to 06.7: a fragment of notebooks/exercises/nb06.py."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from notebooks.exercises import as_float64, as_number, called, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise

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


# -- 06.6: a test of a sampler's step --------------------------------------------------------------


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
    "06.6",
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


# -- 06.7: a critic's number is a ratio of densities ------------------------------------------------


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
    "06.7",
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
