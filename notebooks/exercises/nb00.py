"""Your turn in notebook 00: mixing, the training step, the reverse step. The checks use closed forms only."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from notebooks.exercises import (
    SHAPES,
    as_float64,
    as_number,
    check_update,
    close,
    normal,
    refuse_changes,
    shaped,
    wrong_mixtures,
)
from utils.course.exercises import Wrong, exercise

STEPS = 40
CURVE = torch.cos(torch.linspace(0.05, 1.52, STEPS, dtype=torch.float64)) ** 2  # falls from 0.998 to 0.003


# -- 00.1 ------------------------------------------------------------------------------------------


def weights_of(seen: Tensor, one: Tensor, other: Tensor) -> tuple[float, float, bool]:
    """The two weights that fit `seen` best as a mixture of the two; and whether it is such a mixture."""
    parts = torch.stack([one.flatten(), other.flatten()], dim=1).double()
    weights = torch.linalg.lstsq(parts, seen.double().flatten()[:, None]).solution
    first, second = weights.flatten().tolist()
    return first, second, close(parts @ weights, seen.flatten()[:, None], 1e-3, 1e-3)


def check_q_sample(q_sample: Callable) -> None:
    for shape in [(3, 3), (4, 2), (5, 1, 8, 8)]:
        x_0, noise = normal(*shape).float(), normal(*shape, seed=1).float()
        t = torch.tensor([17, 0, STEPS - 1, 5, 30])[: shape[0]]
        try:
            given = [x_0.clone(), t.clone(), noise.clone(), CURVE.float()]
            answer = q_sample(*given)
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise Wrong(f"the weights do not fit x_0 of shape {shape}: {SHAPES}") from error
            raise
        refuse_changes(given, [x_0, t, noise, CURVE.float()], "x_0, t, noise and alphas_cumprod")
        seen = as_float64(answer, shape, "x_t")
        a_bar = shaped(CURVE[t], x_0)
        right = a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise
        if close(seen, right, 1e-4, 1e-5):
            continue
        for fault, wrong in wrong_mixtures(x_0, noise, t, CURVE).items():
            if close(seen, wrong, 1e-4, 1e-5):
                raise Wrong(fault)
        if not torch.equal(seen, as_float64(q_sample(x_0, t, noise, CURVE.float()), shape)):
            raise Wrong("two calls with the same noise differ: mix in the noise that is given, draw none of your own")
        k = int((seen - right).flatten(1).abs().amax(1).argmax())  # the item that is furthest off
        image, other, mixed = weights_of(seen[k], x_0[k], noise[k])
        where = f"at t = {int(t[k])}, where alpha-bar is {CURVE[t[k]]:.4f}, your "
        if not mixed:
            raise Wrong(
                f"{where}x_t is no mixture of x_0 and noise: nothing is needed but a weight for each of the two"
            )
        raise Wrong(
            f"{where}x_0 has weight {image:.4f} and your noise {other:.4f}; "
            f"right are the roots of alpha-bar and 1 - alpha-bar: {CURVE[t[k]].sqrt():.4f} and "
            f"{(1 - CURVE[t[k]]).sqrt():.4f}"
        )


@exercise(
    "00.1",
    "mixing",
    check_q_sample,
    hints=[
        f"One alpha-bar for each item of the batch. {SHAPES}.",
        "x_t = root of alpha-bar times x_0, plus root of (1 - alpha-bar) times noise.",
    ],
)
def q_sample(x_0, t, noise, alphas_cumprod):
    alpha_bar = alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))  # (B, 1, ..., 1)
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


# -- 00.2 ------------------------------------------------------------------------------------------

BATCH, RATE = 512, 0.1


class Spy(nn.Module):
    """A network of one weight, x_0 estimate = weight * x_t, that remembers what it was shown."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        if not isinstance(x_t, Tensor) or x_t.ndim < 2:
            raise Wrong(f"call the network as model(x_t, t), with x_t of the shape of x_0, {tuple(self.shape)}")
        if x_t.shape != self.shape:
            shapes = f"x_t has shape {tuple(x_t.shape)} and x_0 {tuple(self.shape)}"
            raise Wrong(f"{shapes}; do the weights fit? {SHAPES}")
        self.seen.append((x_t.detach().clone(), t))
        return self.weight * x_t


def check_training_step(training_step: Callable) -> None:
    # The answer draws random numbers; the same ones at every check, and the learner's own stream untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for shape in [(BATCH, 2), (BATCH, 1, 4, 4)]:  # points, and images
            x_0, drawn = 1 + 2 * normal(*shape).float(), []
            model = Spy(x_0.shape)
            optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
            for call in range(2):
                model.seen.clear()
                before = model.weight.item()
                loss = take_step(training_step, model, optimizer, x_0)
                if len(model.seen) != 1:
                    raise Wrong(f"the network was called {len(model.seen)} times; one step asks it once")
                x_t, t = model.seen[0]
                noise = noise_in(x_t, t, x_0)
                drawn.append((t, noise))
                error, variance = before * x_t - x_0, 1 - shaped(CURVE.float()[t], x_0)
                check_target(loss, error, before * x_t - noise, variance)
                gradient = 2 * (error * x_t / variance.clamp(min=0.1)).mean().item()
                check_update(model.weight.item() - before, gradient, RATE, again=call == 1)
                if isinstance(loss, Tensor):
                    raise Wrong("the loss is asked for as a float, not as a tensor; loss.item() makes one of it")
            (t, noise), (t_again, noise_again) = drawn
            if torch.equal(t, t_again) or close(noise, noise_again, 1e-2, 1e-2):
                raise Wrong("two steps draw the same random numbers; draw anew in each, and set no seed")


def take_step(training_step: Callable, model: Spy, optimizer: torch.optim.Optimizer, x_0: Tensor) -> object:
    """What the answer returns; its most natural errors in plain words."""
    try:
        return training_step(model, optimizer, x_0.clone(), CURVE.float())
    except RuntimeError as error:
        if "Boolean value" in str(error):
            raise Wrong("Python's max and if take one number; a whole tensor gets .clamp(min=0.1)") from error
        if "size of tensor" in str(error):
            raise Wrong(f"the weights of the errors do not fit x_0 of shape {tuple(x_0.shape)}: {SHAPES}") from error
        raise
    except IndexError as error:
        if "out of bounds" in str(error):
            raise Wrong(
                f"t is drawn too large: this alphas_cumprod has {STEPS} entries; draw below len(alphas_cumprod)"
            ) from error
        if "Dimension out of range" in str(error):
            fault = f"x_0 of shape {tuple(x_0.shape)} has {x_0.ndim} axes; .flatten(1) leaves two, whatever there are"
            raise Wrong(fault) from error
        if "too many indices" in str(error):
            raise Wrong(f"the weights do not fit x_0 of shape {tuple(x_0.shape)}: {SHAPES}") from error
        raise Wrong("t should be whole numbers, one for each item; torch.randint draws them") from error


def noise_in(x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
    """The noise that was mixed into x_0. Raises `Wrong` where t or the noise is not what it should be."""
    if not isinstance(t, Tensor) or t.dtype.is_floating_point or t.shape != (BATCH,):
        seen = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise Wrong(f"t should be {BATCH} whole numbers, one for each item of the batch; the network got {seen}")
    if len(t.unique()) == 1:
        raise Wrong("every item of the batch has the same t; draw one for each")
    low, high = int(t.min()), int(t.max())
    if (low, high) != (0, STEPS - 1):  # by chance once in 100,000 draws, and the seed is fixed
        raise Wrong(f"t runs from {low} to {high}; with {STEPS} steps it should run from 0 to {STEPS - 1}")
    mean, spread = t.double().mean().item(), t.double().std().item()
    if abs(mean - (STEPS - 1) / 2) > 3 or abs(spread - STEPS / 12**0.5) > 1.5:  # six standard errors each
        raise Wrong(
            f"not every step is equally likely: t has mean {mean:.1f} and standard deviation {spread:.1f} instead of "
            f"{(STEPS - 1) / 2} and {STEPS / 12**0.5:.1f}; torch.randint draws it"
        )
    if close(x_t, x_0):
        raise Wrong("the network is shown the clean x_0; mix noise into it first, with q_sample")
    a_bar = shaped(CURVE.float()[t], x_0)
    noise = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()
    mean, spread = noise.mean().item(), noise.std().item()
    items = noise.flatten(1)
    if spread > 0.05 and close(items[0], items[1], 1e-2, 1e-2):
        raise Wrong("every item has the same noise; draw it in the shape of x_0, with torch.randn_like")
    if spread > 0.05 and close(items[:, 0], items[:, 1], 1e-2, 1e-2):
        raise Wrong("one random number serves a whole item; draw one for each of its numbers, with torch.randn_like")
    if spread > 0.05 and (noise - mean).abs().amax() < 2 * spread:  # of 1,000 normal ones some are beyond 2
        raise Wrong("the noise is uniform (torch.rand); draw it from a normal distribution with torch.randn_like")
    if abs(mean) > 0.15 or abs(spread - 1) > 0.1:
        raise Wrong(
            f"the noise in x_t has mean {mean:.2f} and standard deviation {spread:.2f} instead of 0 and "
            "1; mix with q_sample, with the same t that the network gets"
        )
    return noise


def check_target(loss: object, error: Tensor, noise_error: Tensor, variance: Tensor) -> None:
    loss, limited, squares = as_number(loss, "the loss"), variance.clamp(min=0.1), error.square()
    right, per_item = (squares / limited).mean().item(), error[0].numel()
    target = "this is the error against the noise; here the network is asked for x_0"
    upper = "the 0.1 is a lower limit for 1 - alpha-bar, no upper one: .clamp(min=0.1)"
    before_mean = "divide each squared error by 1 - alpha-bar of its own step, before you take the mean"
    alpha_bar = "this divides by alpha-bar; divide by 1 - alpha-bar, the noise's variance"
    named = [
        (target, noise_error.square()),
        (target, noise_error.square() / limited),
        ("divide each squared error by 1 - alpha-bar of its step, before you take the mean", squares),
        (before_mean, squares / limited.mean()),
        (before_mean, squares.mean() * (1 / limited)),
        ("divide by 0.1 where 1 - alpha-bar is less: .clamp(min=0.1)", squares / variance),
        (upper, squares / variance.clamp(max=0.1)),
        ("0.1 is the least that you divide by; it is not added", squares / (variance + 0.1)),
        ("divide by 1 - alpha-bar, the noise's variance; this is its root", squares / limited.sqrt()),
        ("divide the squared error; here the error is divided and then squared", (error / limited).square()),
        (alpha_bar, squares / (1 - variance)),
        (alpha_bar, squares / (1 - variance).clamp(min=0.1)),
        ("this multiplies by 1 - alpha-bar; divide by it", squares * limited),
        ("this is the mean absolute error; square it", error.abs() / limited),
        ("the squared errors are added up; take their mean", squares / limited * error.numel()),
        ("an item's squared errors are added up; take the mean of all numbers", squares / limited * per_item),
    ]
    for fault, errors in named:
        if abs(loss - errors.mean().item()) < 1e-4 * errors.mean().item():
            raise Wrong(fault)
    if abs(loss - right) > 1e-4 * right:
        raise Wrong(
            f"the loss is {loss:.4f}; the mean of "
            f"(network's answer - x_0)² / (1 - alpha-bar, at least 0.1) is {right:.4f}"
        )


@exercise(
    "00.2",
    "the training step",
    check_training_step,
    hints=[
        "Which two things are random in one step, and how many of each does the batch need?",
        "t = torch.randint(len(alphas_cumprod), (len(x_0),)) draws one step for each item; torch.randn_like(x_0) draws "
        "the noise; q_sample mixes them.",
        "The loss is the mean of (model(x_t, t) - x_0) squared over (1 - alpha-bar).clamp(min=0.1), shaped as in 00.1.",
        "Then the three lines of every PyTorch loop: optimizer.zero_grad(), loss.backward(), optimizer.step(). "
        "Return loss.item().",
    ],
)
def training_step(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))  # a step for each item
    noise = torch.randn_like(x_0)
    x_t = q_sample(x_0, t, noise, alphas_cumprod)
    variance = 1 - alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))  # of the noise
    loss = ((model(x_t, t) - x_0).square() / variance.clamp(min=0.1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# -- 00.3 ------------------------------------------------------------------------------------------


def wrong_steps(x_t: Tensor, x_0: Tensor, a: float, b: float) -> dict[str, Tensor]:
    """What the most natural mistakes give, by what is wrong with them. a, b: alpha-bar at t and at s."""
    noise = (x_t - a**0.5 * x_0) / (1 - a) ** 0.5
    posterior = (b**0.5 * (1 - a / b) * x_0 + (a / b) ** 0.5 * (1 - b) * x_t) / (1 - a)
    return {
        "this goes the whole way to the guess; go to step s only": x_0,
        "the noise is taken away: its part of the new mixture is added": b**0.5 * x_0 - (1 - b) ** 0.5 * noise,
        "a**1/2 is (a**1)/2; the root is a**0.5": b / 2 * x_0 + (1 - b) / 2 * (x_t - a / 2 * x_0) / (1 - a) / 2,
        "nothing has moved: this is x_t; use a_bar_s in the new mixture": x_t,
        "this is the noise alone; mix it with the guess, as step s does": noise,
        "t and s are exchanged": a**0.5 * x_0 + (1 - a) ** 0.5 * (x_t - b**0.5 * x_0) / (1 - b + 1e-9) ** 0.5,
        "the noise is x_t minus the guess's part (its weight times the guess), over the noise's weight": b**0.5 * x_0
        + (1 - b) ** 0.5 * (x_t - x_0),
        "1 - a**0.5 is not (1 - a)**0.5": b**0.5 * x_0 + (1 - b**0.5) * (x_t - a**0.5 * x_0) / (1 - a**0.5),
        "noise and guess are mixed as for step t again; step s has less noise": a**0.5 * x_0 + (1 - b) ** 0.5 * noise,
        "the noise is not made less: its weight is still that of step t": b**0.5 * x_0 + (1 - a) ** 0.5 * noise,
        "x_t is mixed in as if it were the noise; take the guess out of it first": b**0.5 * x_0 + (1 - b) ** 0.5 * x_t,
        "x_t minus the guess's part is not yet the noise: divide by the root of 1 - alpha-bar at t": b**0.5 * x_0
        + (1 - b) ** 0.5 * (x_t - a**0.5 * x_0),
        "the noise is x_t minus the guess; but in x_t the guess has the weight root of alpha-bar": b**0.5 * x_0
        + (1 - b) ** 0.5 * (x_t - x_0) / (1 - a) ** 0.5,
        "alpha-bar is the square of the weight: the weights are its root and the root of 1 minus it": b * x_0
        + (1 - b) * (x_t - a * x_0) / (1 - a),
        "this is the mean of the paper's step, which needs fresh noise on top; here the noise of x_t is used again": (
            posterior
        ),
    }


def check_reverse_step(reverse_step: Callable) -> None:
    points, images = (6, 2), (3, 1, 4, 4)
    for shape, a_bar_t, a_bar_s in [(points, 0.3, 0.7), (images, 0.01, 0.04), (points, 0.9, 0.95), (images, 0.5, 1.0)]:
        x_0, noise = normal(*shape), normal(*shape, seed=1)
        x_t = a_bar_t**0.5 * x_0 + (1 - a_bar_t) ** 0.5 * noise
        right = a_bar_s**0.5 * x_0 + (1 - a_bar_s) ** 0.5 * noise
        given = [x_t.clone(), x_0.clone()]
        try:
            seen = as_float64(reverse_step(*given, a_bar_t, a_bar_s), shape, "x_s")
        except (AttributeError, TypeError) as error:
            if "sqrt" in str(error):
                raise Wrong("a_bar_t and a_bar_s are plain numbers; the root of one is a_bar_t**0.5") from error
            raise
        refuse_changes(given, [x_t, x_0], "x_t and x_0")
        if close(seen, right, 1e-4, 1e-5):
            continue
        again = as_float64(reverse_step(x_t.clone(), x_0.clone(), a_bar_t, a_bar_s), shape, "x_s")
        if not torch.equal(seen, again):
            raise Wrong("two calls give different results: use the noise that is in x_t, draw no fresh noise")
        for fault, wrong in wrong_steps(x_t, x_0, a_bar_t, a_bar_s).items():
            if close(seen, wrong, 1e-4, 1e-5):
                raise Wrong(fault)
        guess, kept, mixed = weights_of(seen, x_0, x_t)
        if not mixed:
            raise Wrong(
                "your x_s is no mixture of the guess and x_t: nothing is needed but a weight for each of the two"
            )
        ratio = ((1 - a_bar_s) / (1 - a_bar_t)) ** 0.5
        raise Wrong(
            f"from alpha-bar {a_bar_t} to {a_bar_s} your guess has weight {guess:.4f} and your x_t {kept:.4f}; mixing "
            f"guess and noise anew gives {a_bar_s**0.5 - a_bar_t**0.5 * ratio:.4f} and {ratio:.4f}"
        )


@exercise(
    "00.3",
    "the reverse step",
    check_reverse_step,
    hints=[
        "If x_0 is the guess, which noise is in x_t? Solve q_sample's line for it.",
        "noise = (x_t - root of a_bar_t times x_0) / root of (1 - a_bar_t). Then q_sample's line once more, with "
        "a_bar_s. a_bar_t and a_bar_s are plain numbers: root of a is a**0.5.",
    ],
)
def reverse_step(x_t, x_0, a_bar_t, a_bar_s):
    noise = (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5  # the noise it implies
    return a_bar_s**0.5 * x_0 + (1 - a_bar_s) ** 0.5 * noise
