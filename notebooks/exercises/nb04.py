"""Exercises of notebook 04, training. The checks use plain torch only, nothing of utils.diffusion."""

import copy
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

from notebooks.exercises import as_float64, as_number
from utils.course.exercises import Wrong, exercise

# -- 04.1 ------------------------------------------------------------------------------------------


def check_by_t(loss_by_timestep: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_timesteps, parts, low, high in [(1000, 10, 0, 1000), (1000, 4, 0, 600), (20, 20, 3, 20), (50, 1, 0, 50)]:
        t = torch.randint(low, high, (300,), generator=generator)
        t[0], t[1] = low, high - 1  # both ends are there
        losses = torch.rand(300, generator=generator) + t / num_timesteps
        seen = as_float64(loss_by_timestep(losses.clone(), t.clone(), num_timesteps, parts), (parts,), finite=False)
        width = num_timesteps // parts
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
    "04.1",
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


# -- 04.2 ------------------------------------------------------------------------------------------


def check_shares(ema_shares: Callable) -> None:
    steps = torch.arange(40, dtype=torch.float64)
    for decays in [torch.full((5,), 0.9, dtype=torch.float64), (1 + steps) / (10 + steps), steps[:1] * 0 + 0.3]:
        seen = as_float64(ema_shares(decays.clone()), (len(decays) + 1,))
        # The share of each network, by averaging unit vectors.
        right = torch.eye(len(decays) + 1, dtype=torch.float64)[0]
        for k, decay in enumerate(decays):
            right = decay * right + (1 - decay) * torch.eye(len(decays) + 1, dtype=torch.float64)[k + 1]
        if torch.allclose(seen, right, rtol=1e-4, atol=1e-9):
            continue
        if torch.allclose(seen.flip(0), right, rtol=1e-4, atol=1e-9):
            raise Wrong("the order is turned round: the untrained network comes first, the last step's weights last")
        if abs(seen.sum() - 1) > 1e-4:
            raise Wrong(f"shares of an average add up to 1; yours add up to {seen.sum():.4f} for {len(decays)} steps")
        k = int((seen - right).abs().argmax())
        name = "the untrained network" if k == 0 else f"the weights of step {k - 1}"
        raise Wrong(f"after {len(decays)} steps the share of {name} is {right[k]:.4f}, got {seen[k]:.4f}")


@exercise(
    "04.2",
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


# -- 04.3 ------------------------------------------------------------------------------------------


class _Kept:
    """A tensor that autograd keeps for backward; alive as long as that part of the graph is."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


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
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor):
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
        returned = accumulate_gradients(model, mean_loss, batch.clone(), part_size)
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
    "04.3",
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


# -- 04.4 ------------------------------------------------------------------------------------------


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
        try:
            other.load_state_dict(checkpoint["model"])
            its_optimizer.load_state_dict(checkpoint["optimizer"])
            its_generator.set_state(checkpoint["generator"])
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise Wrong(f"the checkpoint cannot be loaded again: {type(error).__name__}: {error}") from error
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
    "04.4",
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
