"""Exercises of notebook 04, training. The checks use plain torch only, nothing of utils.diffusion."""

import copy
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

from notebooks.exercises import as_float64, as_number, called, check_update, close
from utils.course.exercises import Wrong, exercise

# -- 04.1 ------------------------------------------------------------------------------------------

STEPS, BATCH, CLASSES, RATE = 40, 2048, 10, 0.1
CURVE = torch.cos(torch.linspace(0.05, 1.52, STEPS)) ** 2  # alpha-bar, from 0.998 to 0.003


class Spy(nn.Module):
    """A network of one weight, v estimate = weight * x_t, that remembers what it was shown."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append((x_t.detach().clone(), t, y))
        return self.weight * x_t


def check_training_step(training_step: Callable) -> None:
    # The answer draws random numbers; the same ones at every check, and the learner's own stream untouched.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x_0, y = 0.5 + torch.randn(BATCH, 1, 2, 3), torch.randint(CLASSES, (BATCH,))
        model = Spy()
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        for call, chance in enumerate([0.1, 0.4, 0.0, 1.0]):
            model.seen.clear()
            before, given = model.weight.item(), (x_0.clone(), y.clone(), CURVE.clone())
            try:
                loss = training_step(model, optimizer, *given, **({} if call == 0 else {"label_dropout": chance}))
            except RuntimeError as error:
                if "Boolean value" in str(error):
                    raise Wrong("an if decides once for the whole batch; torch.where does so for each label") from error
                if "size of tensor" in str(error):
                    raise Wrong(
                        "the weights do not fit the images: alphas_cumprod[t] has shape (B,); .view(-1, 1, 1, 1) makes "
                        "it (B, 1, 1, 1)"
                    ) from error
                raise
            for name, old, new in zip(["x_0", "y", "alphas_cumprod"], (x_0, y, CURVE), given):
                if not torch.equal(old, new):
                    raise Wrong(f"{name} was changed in place; leave it as it is and make a new tensor")
            if len(model.seen) != 1:
                raise Wrong(f"the network was called {len(model.seen)} times; one step asks it once")
            x_t, t, labels = model.seen[0]
            noise = noise_in(x_t, t, x_0)
            check_labels(labels, y, chance)
            a_bar = CURVE[t].view(-1, 1, 1, 1)
            v = a_bar.sqrt() * noise - (1 - a_bar).sqrt() * x_0
            check_loss(loss, before * x_t, v, noise, x_0, a_bar)
            gradient = 2 * ((before * x_t - v) * x_t).mean().item()
            check_update(model.weight.item() - before, gradient, RATE, again=call > 0)


def noise_in(x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
    """The noise that was mixed into x_0. Raises `Wrong` where t or the noise is not what it should be."""
    if not isinstance(t, Tensor) or t.dtype.is_floating_point or t.shape != (BATCH,):
        seen = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise Wrong(f"t should be {BATCH} whole numbers, one for each image; the network got {seen}")
    if len(t.unique()) == 1:
        raise Wrong("every image of the batch has the same t; draw one for each")
    low, high = int(t.min()), int(t.max())
    if (low, high) != (0, STEPS - 1):
        raise Wrong(f"t runs from {low} to {high}; with {STEPS} steps it should run from 0 to {STEPS - 1}")
    counts = torch.bincount(t, minlength=STEPS)
    if counts.max() > 2.5 * BATCH / STEPS:  # 51 on average; more than 100 does not happen by chance
        raise Wrong("not every t is equally likely; torch.randint draws them so")
    if x_t.shape != x_0.shape or close(x_t, x_0):
        raise Wrong("the network is shown the clean x_0; mix noise into it first (eq. 4)")
    a_bar = CURVE[t].view(-1, 1, 1, 1)
    noise = (x_t - a_bar.sqrt() * x_0) / (1 - a_bar).sqrt()
    if abs(noise.amax() - 1) < 0.01 and noise.mean() > 0.3:
        raise Wrong("the noise is uniform (torch.rand); draw it from a normal distribution with torch.randn_like")
    if close(noise, noise[:1].expand_as(noise), 1e-3, 1e-3):
        raise Wrong("every image gets the same noise; draw some for each, of the shape of x_0")
    # By each t: the noise's own mean and standard deviation, where alpha-bar is small, in the middle and large.
    for part in (t < STEPS // 3, (t >= STEPS // 3) & (t < 2 * STEPS // 3), t >= 2 * STEPS // 3):
        mean, std = noise[part].mean(), noise[part].std()
        along = (noise[part] * x_0[part]).mean() / x_0[part].square().mean()
        if abs(mean) > 0.1 or abs(std - 1) > 0.1 or abs(along) > 0.1:
            raise Wrong(
                "x_t is not the mixture of eq. 4 at the t that the network gets: root of alpha-bar times x_0, plus "
                "root of (1 - alpha-bar) times standard normal noise"
            )
    return noise


def check_labels(labels: Tensor | None, y: Tensor, chance: float) -> None:
    if not isinstance(labels, Tensor) or labels.shape != y.shape or labels.dtype.is_floating_point:
        seen = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else repr(labels)
        raise Wrong(f"the network should get {BATCH} labels, whole numbers, as model(x_t, t, y); it got {seen}")
    changed = labels != y
    others = labels[changed].unique().tolist()
    if others not in ([], [CLASSES]):
        raise Wrong(f"a hidden label becomes model.num_classes, here {CLASSES}; labels were changed to {others[:3]}")
    share = changed.double().mean().item()
    if abs(share - chance) < 0.05:
        return
    if share in (0, 1) and 0 < chance < 1:
        what = "no label is hidden" if share == 0 else "all labels are hidden at once"
        raise Wrong(f"{what}; with label_dropout={chance} each is hidden by itself, with that probability")
    if abs(share - (1 - chance)) < 0.05:
        raise Wrong(f"with label_dropout={chance} {share:.0%} of the labels are hidden: kept and hidden are exchanged")
    raise Wrong(f"with label_dropout={chance} {share:.0%} of the labels are hidden")


def check_loss(loss: object, output: Tensor, v: Tensor, noise: Tensor, x_0: Tensor, a_bar: Tensor) -> None:
    loss, right = as_number(loss, "the loss"), (output - v).square().mean().item()
    signal, sigma = a_bar.sqrt(), (1 - a_bar).sqrt()
    named = {
        "this is the error against the noise; here the target is v": (output - noise).square(),
        "this is the error against x_0; here the target is v": (output - x_0).square(),
        "the sign of v is turned round: v = root of alpha-bar * noise - root of (1 - alpha-bar) * x_0": (
            (output + v).square()
        ),
        "v's second term is subtracted: this has a plus": (output - signal * noise - sigma * x_0).square(),
        "in v the weights are exchanged: the noise's is the root of alpha-bar": (
            (output - sigma * noise + signal * x_0).square()
        ),
        "v has alpha-bar where its root is meant": (output - a_bar * noise + (1 - a_bar) * x_0).square(),
        "this is the mean absolute error; square it": (output - v).abs(),
        "the squared errors are added up; take their mean": (output - v).square() * output.numel(),
        "the squared errors of each image are added up; take the mean over pixels as well": (
            (output - v).square() * output[0].numel()
        ),
        "this is half of the mean squared error": (output - v).square() / 2,
        "this is the root of the mean squared error": torch.tensor(right**0.5),
        "each error is weighted by the SNR; the plain mean is asked for": (output - v).square() * a_bar / (1 - a_bar),
    }
    if abs(loss - right) <= 1e-4 * right:
        return
    for fault, errors in named.items():
        if abs(loss - errors.mean().item()) < 1e-4 * errors.mean().item():
            raise Wrong(fault)
    raise Wrong(f"the loss is {loss:.4f}; the mean of (network's answer - v)² is {right:.4f}")


@exercise(
    "04.1",
    "the training step",
    check_training_step,
    hints=[
        "Three things are random: t, the noise, and which labels are hidden. Each image has its own of all three.",
        "alphas_cumprod[t].view(-1, 1, 1, 1) has one alpha-bar for each image. Its root is the signal's weight in x_t "
        "and the noise's weight in v.",
        "torch.rand(len(y)) < label_dropout is true where a label is hidden; torch.where(hidden, model.num_classes, y) "
        "makes the new labels and leaves y alone.",
        "loss = (model(x_t, t, y) - v).square().mean(); then optimizer.zero_grad(), loss.backward(), "
        "optimizer.step(). Return loss.item().",
    ],
)
def training_step(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))  # one for each image
    noise = torch.randn_like(x_0)
    alpha_bar = alphas_cumprod[t].view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t, v = signal * x_0 + sigma * noise, signal * noise - sigma * x_0
    hidden = torch.rand(len(y)) < label_dropout
    y = torch.where(hidden, model.num_classes, y)
    loss = (model(x_t, t, y) - v).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# -- 04.2 ------------------------------------------------------------------------------------------


def two_layers(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def check_ema_step(ema_step: Callable) -> None:
    for decay, frozen in [(0.9, True), (0.3, False), (0.0, True), (1.0, True)]:
        ema_model, model = two_layers(0).requires_grad_(not frozen), two_layers(1)
        living = list(ema_model.parameters())
        old, new = [[p.detach().clone() for p in network.parameters()] for network in (ema_model, model)]
        try:
            returned = ema_step(ema_model, model, decay)
        except RuntimeError as error:
            if "leaf Variable that requires grad" in str(error):
                raise Wrong(
                    "a weight cannot be changed in place while autograd watches; use torch.no_grad()"
                ) from error
            raise
        if returned is not ema_model and returned is not None:
            raise Wrong("return ema_model itself, changed in place, not another object")
        if not all(map(torch.equal, new, model.parameters())):
            raise Wrong("the weights of model were changed; they are what is trained, only ema_model may change")
        now = list(ema_model.parameters())
        if any(p.grad_fn is not None for p in now):
            raise Wrong("the average keeps a graph of the computation; use torch.no_grad()")
        if any(a.data_ptr() == b.data_ptr() for a, b in zip(now, model.parameters())):
            raise Wrong("ema_model now shares memory with model; it needs numbers of its own")
        if any(a is not b for a, b in zip(now, living)):
            raise Wrong("ema_model got new parameters; change the numbers of the old ones in place")
        compare_average([p.detach() for p in now], old, new, decay)


def compare_average(seen: list[Tensor], old: list[Tensor], new: list[Tensor], decay: float) -> None:
    def all_are(form: Callable) -> bool:
        return all(close(s, form(a, w), 1e-5, 1e-6) for s, a, w in zip(seen, old, new))

    if all_are(lambda a, w: decay * a + (1 - decay) * w):
        return
    faults = {
        "ema_model has not changed; a new tensor that is only given a name changes nothing, so write in place": (
            lambda a, w: a
        ),
        "average and weights are exchanged: the decay is how much of the average stays": (
            lambda a, w: (1 - decay) * a + decay * w
        ),
        "the average became a copy of the weights": lambda a, w: w,
        "the average is not shrunk: multiply it by the decay before you add": lambda a, w: a + (1 - decay) * w,
        "the new weights enter whole: multiply them by 1 - decay": lambda a, w: decay * a + w,
        "the difference is turned round: move from the average towards the weights": (
            lambda a, w: a + (1 - decay) * (a - w)
        ),
        "the decay is not the one that is given; this is 0.999": lambda a, w: 0.999 * a + 0.001 * w,
        "the step was done twice": lambda a, w: decay**2 * a + (1 - decay**2) * w,
    }
    for fault, form in faults.items():
        if all_are(form):
            raise Wrong(fault)
    wrong = [not close(s, decay * a + (1 - decay) * w, 1e-5, 1e-6) for s, a, w in zip(seen, old, new)]
    if not all(wrong):
        raise Wrong(f"only {wrong.count(False)} of {len(wrong)} tensors of weights are right; go over all parameters()")
    s, a, w = (tensors[0].flatten()[0].item() for tensors in (seen, old, new))
    raise Wrong(
        f"with decay {decay}, average {a:.4f} and weight {w:.4f} the new average is {decay * a + (1 - decay) * w:.4f}, "
        f"got {s:.4f}"
    )


@exercise(
    "04.2",
    "the EMA step",
    check_ema_step,
    hints=[
        "zip(ema_model.parameters(), model.parameters()) goes over the pairs of tensors.",
        "Methods whose name ends in _ work in place: average.mul_(decay), average.add_(...), average.lerp_(...).",
        "with torch.no_grad(): for each pair average.mul_(decay).add_(weight, alpha=1 - decay). Return ema_model.",
    ],
)
def ema_step(ema_model, model, decay):
    with torch.no_grad():
        for average, weight in zip(ema_model.parameters(), model.parameters()):
            average.lerp_(weight, 1 - decay)  # average + (1 - decay) * (weight - average)
    return ema_model


# -- 04.3 ------------------------------------------------------------------------------------------


def mean_of_parts(losses: Tensor, part: Tensor, parts: int) -> Tensor:
    return torch.stack([losses[part == k].double().mean() for k in range(parts)])


def wrong_by_t(losses: Tensor, t: Tensor, num_timesteps: int, parts: int) -> dict[str, Tensor]:
    """What the most natural mistakes give, by what is wrong with them."""
    width, by_t = num_timesteps // parts, losses[t.argsort(stable=True)].tensor_split(parts)
    inside = torch.bincount(t // width, minlength=parts) / len(t)
    return {
        "the parts hold equally many images; they should be equally many timesteps wide": (
            torch.stack([part.double().mean() for part in by_t])
        ),
        f"t is counted from 1 here; it runs from 0, so t = {width} is the first of the second part": (
            mean_of_parts(losses, (t - 1).clamp(min=0) // width, parts)
        ),
        "t / width is rounded to the nearest whole number; a part begins at its multiple of the width, so round down": (
            mean_of_parts(losses, (t / width).round().long().clamp(max=parts - 1), parts)
        ),
        "the sum of each part is divided by the number of all losses, not by that of the part": (
            mean_of_parts(losses, t // width, parts) * inside
        ),
        "the order is turned round: the first part is that of the smallest t": (
            mean_of_parts(losses, t // width, parts).flip(0)
        ),
        f"t = {width} counts in two parts; a part ends before the next one begins: < and not <=": torch.stack(
            [losses[(t >= k * width) & (t <= (k + 1) * width)].double().mean() for k in range(parts)]
        ),
        "t // parts is the place inside a part, roughly; the part is t // (num_timesteps // parts)": (
            mean_of_parts(losses, t // parts, parts)
        ),
        "t is compared as a fraction, so only the first t of each part is found; round down to a whole number": (
            mean_of_parts(losses, torch.where(t % width == 0, t // width, -1), parts)
        ),
        "the losses are cut as they come; sort them by their t first": (
            torch.stack([part.double().mean() for part in losses.tensor_split(parts)])
        ),
        "total[part] += losses keeps only one loss a part; index_add adds them all up": (
            torch.zeros(parts).index_put((t // width,), losses).double()
        ),
    }


def check_by_t(loss_by_timestep: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_timesteps, parts, low, high in [(1000, 10, 0, 1000), (1000, 4, 0, 600), (20, 20, 3, 20), (50, 1, 0, 50)]:
        t = torch.randint(low, high, (300,), generator=generator)
        t[0], t[1] = low, high - 1  # both ends are there
        losses = torch.rand(300, generator=generator) + t / num_timesteps
        seen = as_float64(loss_by_timestep(losses.clone(), t.clone(), num_timesteps, parts), (parts,), finite=False)
        width = num_timesteps // parts
        right = mean_of_parts(losses, t * parts // num_timesteps, parts)
        for fault, wrong in wrong_by_t(losses, t, num_timesteps, parts).items():
            same = torch.allclose(wrong, right, rtol=1e-4, equal_nan=True)
            if not same and torch.allclose(seen, wrong, rtol=1e-4, equal_nan=True):
                raise Wrong(fault)
        for part in range(parts):
            inside = (t >= part * width) & (t < (part + 1) * width)
            where = f"part {part} of {parts} (t from {part * width} to {(part + 1) * width - 1} of {num_timesteps})"
            if not inside.any():
                if not seen[part].isnan():
                    raise Wrong(f"{where} has no image, so its mean is not known: expected NaN, got {seen[part]:.4f}")
                continue
            right = losses[inside].double().mean()
            if torch.isclose(seen[part], losses[inside].double().sum(), rtol=1e-4) and inside.sum() > 1:
                raise Wrong(f"in {where} this is the sum of the losses; the mean is asked for")
            if not torch.isclose(seen[part], right, rtol=1e-4):
                count = int(inside.sum())
                raise Wrong(f"in {where} there are {count} losses with mean {right:.4f}; got {seen[part]:.4f}")


@exercise(
    "04.3",
    "the loss per timestep",
    check_by_t,
    hints=[
        "In which part is an image? With 1000 timesteps and 10 parts, t = 0..99 is part 0. One whole-number "
        "division does it for all images at once.",
        "part = t * parts // num_timesteps. Then for each part: the mean of losses[part == k].",
        "The mean of an empty tensor is NaN in PyTorch, so a loop over range(parts) with "
        "losses[part == k].mean() needs no special case; torch.stack makes one tensor of the means.",
    ],
)
def loss_by_timestep(losses, t, num_timesteps, parts):
    part = t * parts // num_timesteps
    total = torch.zeros(parts, dtype=losses.dtype).index_add(0, part, losses)
    return total / torch.bincount(part, minlength=parts)  # 0 / 0 is NaN


# -- 04.4 ------------------------------------------------------------------------------------------


def all_shares(decays: Tensor) -> Tensor:
    shares = torch.ones(1, dtype=torch.float64)
    for decay in decays:
        shares = torch.cat([decay * shares, (1 - decay).view(1)])
    return shares


def wrong_shares(decays: Tensor) -> dict[str, Tensor]:
    """What the most natural mistakes give, by what is wrong with them."""
    new, one = 1 - decays, torch.ones(1, dtype=torch.float64)
    return {
        "decay and 1 - decay are exchanged: the decay is how much of the average stays": all_shares(new),
        "every step counts with its own 1 - decay; each later step shrinks that once more": torch.cat(
            [decays.prod().view(1), new]
        ),
        "a step's own decay shrinks its share too; only the later ones do": all_shares(decays)
        * torch.cat([one, decays]),
        "the first decay is used for every step; each has its own": all_shares(decays[:1].expand(len(decays))),
        "the decays before a step shrink its share; it should be those after it": torch.cat(
            [decays.prod().view(1), new * torch.cat([one, decays.cumprod(0)[:-1]])]
        ),
    }


ONE_IN_FRONT = {"zero-dimensional tensor": "torch.cat joins vectors; .view(1) makes one of a single number"}


def check_shares(ema_shares: Callable) -> None:
    steps = torch.arange(40, dtype=torch.float64)
    for decays in [torch.full((5,), 0.9, dtype=torch.float64), (1 + steps) / (10 + steps), steps[:1] * 0 + 0.3]:
        answer = called(ema_shares, decays.clone(), faults=ONE_IN_FRONT)
        if isinstance(answer, Tensor) and answer.shape == decays.shape:
            raise Wrong(
                f"{len(decays)} shares for {len(decays)} steps: the untrained network has a share too, the first"
            )
        seen = as_float64(answer, (len(decays) + 1,))
        right = all_shares(decays)
        if torch.allclose(seen, right, rtol=1e-4, atol=1e-9):
            continue
        if torch.allclose(seen.flip(0), right, rtol=1e-4, atol=1e-9):
            raise Wrong("the order is turned round: the untrained network comes first, the last step's weights last")
        for fault, wrong in wrong_shares(decays).items():
            if torch.allclose(seen, wrong, rtol=1e-4, atol=1e-9):
                raise Wrong(fault)
        if abs(seen.sum() - 1) > 1e-4:
            raise Wrong(f"shares of an average add up to 1; yours add up to {seen.sum():.4f} for {len(decays)} steps")
        k = int((seen - right).abs().argmax())
        name = "the untrained network" if k == 0 else f"the weights of step {k - 1}"
        raise Wrong(f"after {len(decays)} steps the share of {name} is {right[k]:.4f}, got {seen[k]:.4f}")


@exercise(
    "04.4",
    "what an EMA remembers",
    check_shares,
    hints=[
        "Before the first step the average is all untrained network: shares = [1].",
        "One EMA step multiplies every share by its decay and adds one new share at the end. What is it?",
        "shares = torch.cat([decay * shares, (1 - decay).view(1)]), for each decay in turn. They add up to 1.",
    ],
)
def ema_shares(decays):
    shares = torch.ones(1, dtype=decays.dtype)
    for decay in decays:
        shares = torch.cat([decay * shares, (1 - decay).view(1)])
    return shares


# -- 04.5 ------------------------------------------------------------------------------------------


class _Kept:
    """A tensor that autograd keeps for backward; alive as long as that part of the graph is."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


NO_GRAPH = {"does not require grad": "backward needs what torch.no_grad() leaves out: run mean_loss outside of it"}


def check_accumulate(accumulate_gradients: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sizes: list[int] = []
    kept, kept_before = weakref.WeakSet(), []

    def keep(tensor: Tensor) -> _Kept:
        kept.add(one := _Kept(tensor))
        return one

    def mean_loss(model: nn.Module, items: Tensor) -> Tensor:
        sizes.append(len(items))
        kept_before.append(len(kept))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
            return model(items).square().mean()

    for count, part_size in [(12, 4), (10, 4), (7, 7), (5, 1)]:
        batch = torch.randn(count, 3, generator=generator) * torch.arange(1.0, count + 1)[:, None]
        model.zero_grad()
        whole = model(batch).square().mean()
        whole.backward()
        right = [parameter.grad.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)  # left over from an earlier step
        sizes.clear()
        kept_before.clear()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        returned = called(accumulate_gradients, model, mean_loss, batch.clone(), part_size, faults=NO_GRAPH)
        seen = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        case = f"{count} items in parts of {part_size}"
        if max(sizes, default=0) > part_size:
            raise Wrong(f"{case}: mean_loss got {max(sizes)} items at once; that is what does not fit into memory")
        if not all(torch.equal(a, b) for a, b in zip(before, model.parameters())):
            raise Wrong(f"{case}: the weights were changed; only the gradients are asked for")
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(seen, right)):
            raise Wrong(f"{case}: {_why_wrong(seen, right, count, part_size)}")
        if any(kept_before):
            raise Wrong(
                f"{case}: the gradient is right, but what backward needs of one part was still kept when the next one "
                "ran: memory holds several parts at once; call backward for each part before the next"
            )
        if returned is None:
            raise Wrong(f"{case}: the gradient is right, but the mean loss of the batch was not returned")
        if isinstance(returned, Tensor):
            raise Wrong(f"{case}: the mean loss is asked for as a float, not as a tensor; .item() makes one of it")
        value = as_number(returned, f"{case}: the mean loss of the batch")
        if not abs(value - whole.item()) <= 1e-4 * whole.item():  # true of NaN as well
            raise Wrong(f"{case}: the mean loss of the batch is {whole.item():.4f}, but {value:.4f} was returned")


def _why_wrong(seen: list[Tensor], right: list[Tensor], count: int, part_size: int) -> str:
    parts = -(-count // part_size)
    if all(torch.allclose(a - 100, b, rtol=1e-3, atol=1e-2) for a, b in zip(seen, right)):
        return "the gradients that were there before were not dropped"
    if all(torch.allclose(a, parts * b, rtol=1e-3, atol=1e-3) for a, b in zip(seen, right)):
        return f"the gradient is {parts} times too large: means of parts add up to {parts} times the mean"
    if count % part_size:
        return "the gradient is not that of the whole batch; the last part is smaller, so it must count for less"
    return "the gradient is not that of the whole batch's mean loss"


@exercise(
    "04.5",
    "a large batch on a small machine",
    check_accumulate,
    hints=[
        "backward() adds to .grad. So calling it once for each part adds the parts' gradients; begin with "
        "model.zero_grad().",
        "The mean over the batch is a sum over parts of (mean of the part) * (its size) / (size of the batch).",
        "for part in batch.split(part_size): (mean_loss(model, part) * len(part) / len(batch)).backward()",
    ],
)
def accumulate_gradients(model, mean_loss, batch, part_size):
    model.zero_grad()
    total = 0.0
    for part in batch.split(part_size):
        loss = mean_loss(model, part) * len(part) / len(batch)
        loss.backward()
        total += loss.item()
    return total


# -- 04.6 ------------------------------------------------------------------------------------------


KEYS = ("model", "optimizer", "generator", "step")


def _start() -> tuple[nn.Module, torch.optim.Optimizer, torch.Generator]:
    model = nn.Linear(4, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model, torch.optim.Adam(model.parameters(), lr=0.01), torch.Generator().manual_seed(0)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: int) -> None:
    for _ in range(steps):
        noise = torch.randn(8, 4, generator=generator)
        optimizer.zero_grad()
        (model(noise) - noise).square().mean().backward()
        optimizer.step()


def check_checkpoint(take_checkpoint: Callable) -> None:
    model, optimizer, generator = _start()
    _train(model, optimizer, generator, 5)
    saved = take_checkpoint(model, optimizer, generator, 5)
    if not isinstance(saved, dict) or set(KEYS) - set(saved):
        got = sorted(saved) if isinstance(saved, dict) else type(saved).__name__
        raise Wrong(f"expected a dict with {', '.join(KEYS)}; got {got}")
    if saved["step"] != 5:
        raise Wrong(f"the training was at step 5, but the checkpoint says {saved['step']}")
    at_once = copy.deepcopy(saved)
    _train(model, optimizer, generator, 5)  # the training that was never stopped goes on

    for what, checkpoint in [("", at_once), ("live", saved)]:
        other, its_optimizer, its_generator = _start()
        loads = other.load_state_dict, its_optimizer.load_state_dict, its_generator.set_state
        for key, load, gives in zip(KEYS, loads, ("state_dict()", "state_dict()", "get_state()")):
            try:
                load(checkpoint[key])
            except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
                raised = f"{type(error).__name__}: {error}"
                raise Wrong(f'"{key}" cannot be loaded again; {key}.{gives} gives what is needed. {raised}') from error
        _train(other, its_optimizer, its_generator, 5)
        if all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters())):
            continue
        if what == "live":
            raise Wrong(
                "the checkpoint changed while the training went on: state_dict() holds the living tensors, "
                "not copies of them"
            )
        raise Wrong(f"the resumed training ends with other weights; {_what_differs(checkpoint)}")


def _what_differs(checkpoint: dict) -> str:
    """Which part of a checkpoint is not that of the training after 5 steps."""
    model, optimizer, generator = _start()
    _train(model, optimizer, generator, 5)
    if not torch.equal(checkpoint["generator"], generator.get_state()):
        return "the generator's state is not that of step 5, so other noise is drawn"
    if not all(torch.equal(checkpoint["model"][name], value) for name, value in model.state_dict().items()):
        return "the model's weights are not those of step 5"
    return "the optimiser's running averages are not those of step 5"


@exercise(
    "04.6",
    "a checkpoint that is complete",
    check_checkpoint,
    hints=[
        "model.state_dict(), optimizer.state_dict() and generator.get_state() hold what is needed.",
        "Train one step after taking the checkpoint and look at a tensor in it: did it change?",
        "copy.deepcopy(model.state_dict()) keeps the numbers as they are now; the optimiser's state needs the same.",
    ],
)
def take_checkpoint(model, optimizer, generator, step):
    # state_dict() holds the living tensors; a copy keeps them as they are now.
    return {
        "model": copy.deepcopy(model.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "generator": generator.get_state(),
        "step": step,
    }
