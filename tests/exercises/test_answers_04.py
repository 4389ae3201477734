"""Answers to notebook 04's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import copy
import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from notebooks.exercises import nb04
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def by_loop(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    items = []
    for x, label in zip(x_0, y):
        t = int(torch.randint(len(alphas_cumprod), ()))
        hidden = torch.rand(()) < label_dropout
        items.append((x, torch.randn_like(x), t, model.num_classes if hidden else int(label)))
    x, noise, t, label = zip(*items)
    x, noise, t, label = torch.stack(x), torch.stack(noise), torch.tensor(t), torch.tensor(label)
    a = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    loss = F.mse_loss(model(a**0.5 * x + (1 - a) ** 0.5 * noise, t, label), a**0.5 * noise - (1 - a) ** 0.5 * x)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def angles(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    """v as the derivative of the mixture by its angle; labels hidden by a Bernoulli draw, in another order."""
    y = y.clone()
    y[torch.bernoulli(torch.full(y.shape, float(label_dropout))).bool()] = model.num_classes
    noise = torch.empty_like(x_0).normal_()
    t = (torch.rand(len(x_0)) * len(alphas_cumprod)).long()
    phi = torch.acos(alphas_cumprod.sqrt())[t][:, None, None, None]
    error = model(phi.cos() * x_0 + phi.sin() * noise, t, y=y) - (phi.cos() * noise - phi.sin() * x_0)
    loss = error.pow(2).flatten(1).mean(1).mean()
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss


def gradient_by_hand(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    t = torch.from_numpy(np.random.default_rng(0).integers(len(alphas_cumprod), size=len(x_0)))
    a = alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    signal, sigma, noise = a.sqrt().float(), (1 - a).sqrt().float(), torch.randn(x_0.shape)
    kept = torch.rand(len(y)) >= label_dropout
    labels = y * kept + model.num_classes * ~kept
    error = model(signal * x_0 + sigma * noise, t, labels) - signal * noise + sigma * x_0
    loss = error.square().sum() / error.numel()
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = gradient
    optimizer.step()
    return loss.item()


@torch.no_grad()
def ema_by_mul(ema_model, model, decay):
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        average.mul_(decay).add_(weight, alpha=1 - decay)
    return ema_model


def ema_by_state(ema_model, model, decay):
    weights = model.state_dict()
    mixed = {name: decay * average + (1 - decay) * weights[name] for name, average in ema_model.state_dict().items()}
    ema_model.load_state_dict(mixed)
    return ema_model


def ema_by_data(ema_model, model, decay):
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        average.data = average.data * decay + weight.data * (1 - decay)
    return ema_model


def ema_by_copy(ema_model, model, decay):
    for name, weight in model.named_parameters():
        average = ema_model.get_parameter(name).detach()
        average.copy_(weight.detach() - decay * (weight.detach() - average))
    return ema_model


def by_t_loop(losses, t, num_timesteps, parts):
    width, means = num_timesteps // parts, []
    for k in range(parts):
        inside = [loss for loss, step in zip(losses.tolist(), t.tolist()) if k * width <= step < (k + 1) * width]
        means.append(sum(inside) / len(inside) if inside else float("nan"))
    return means


def by_t_histogram(losses, t, num_timesteps, parts):
    edges = np.arange(parts + 1) * (num_timesteps // parts)
    total, count = np.histogram(t, edges, weights=losses)[0], np.histogram(t, edges)[0]
    with np.errstate(invalid="ignore"):
        return total / count


def by_t_one_hot(losses, t, num_timesteps, parts):
    inside = F.one_hot(torch.div(t, num_timesteps // parts, rounding_mode="floor"), parts).float()
    return losses @ inside / inside.sum(0)


def shares_by_product(decays):
    later = torch.cat([decays, torch.ones(1, dtype=decays.dtype)]).flip(0).cumprod(0).flip(0)  # (K + 1,)
    return torch.cat([later[:1], (1 - decays) * later[1:]])


def shares_of_unit_vectors(decays):
    average = torch.eye(len(decays) + 1)[0]
    for k, decay in enumerate(decays):
        average.lerp_(torch.eye(len(decays) + 1)[k + 1], 1 - float(decay))
    return average


def shares_backwards(decays):
    left, shares = 1.0, []
    for decay in reversed(decays.tolist()):
        shares.append((1 - decay) * left)
        left *= decay
    return [left, *reversed(shares)]


def gradients_of_parts(model, mean_loss, batch, part_size):
    parameters = list(model.parameters())
    sums, total = [torch.zeros_like(p) for p in parameters], 0.0
    for part in batch.split(part_size):
        loss = mean_loss(model, part) * (len(part) / len(batch))
        for one, gradient in zip(sums, torch.autograd.grad(loss, parameters)):
            one += gradient
        total += loss.item()
    for parameter, one in zip(parameters, sums):
        parameter.grad = one
    return total


def scaled_at_the_end(model, mean_loss, batch, part_size):
    model.zero_grad(set_to_none=False)
    total = 0.0
    for start in range(0, len(batch), part_size):
        part = batch[start : start + part_size]
        loss = mean_loss(model, part) * len(part)
        loss.backward()
        total += float(loss.detach())
    for parameter in model.parameters():
        parameter.grad /= len(batch)
    return total / len(batch)


def one_by_one(model, mean_loss, batch, part_size):
    for parameter in model.parameters():
        parameter.grad = None
    losses = []
    for item in batch:
        loss = mean_loss(model, item[None])
        (loss / len(batch)).backward()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def all_copied(model, optimizer, generator, step):
    saved = dict(model=model.state_dict(), optimizer=optimizer.state_dict())
    return copy.deepcopy(saved) | dict(generator=generator.get_state(), step=step)


def through_a_file(model, optimizer, generator, step):
    file = io.BytesIO()
    state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), generator=generator.get_state())
    torch.save(state, file)
    file.seek(0)
    return {**torch.load(file), "step": step}


def cloned(model, optimizer, generator, step):
    of_adam = optimizer.state_dict()
    state = {k: {name: value.clone() for name, value in one.items()} for k, one in of_adam["state"].items()}
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": {"state": state, "param_groups": of_adam["param_groups"]},
        "generator": generator.get_state().clone(),
        "step": step,
    }


RIGHT = {
    "04.1": [by_loop, angles, gradient_by_hand],
    "04.2": [ema_by_mul, ema_by_state, ema_by_data, ema_by_copy],
    "04.3": [by_t_loop, by_t_histogram, by_t_one_hot],
    "04.4": [shares_by_product, shares_of_unit_vectors, shares_backwards],
    "04.5": [gradients_of_parts, scaled_at_the_end, one_by_one],
    "04.6": [all_copied, through_a_file, cloned],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def v_of(signal, sigma, noise, x_0):
    return signal * noise - sigma * x_0


def mse(output, target):
    return (output - target).square().mean()


def hide(y, classes, chance):
    return torch.where(torch.rand(len(y)) < chance, classes, y)


def step(
    t_of=torch.randint,
    noise_of=torch.randn_like,
    mix=None,
    target=v_of,
    loss_of=mse,
    labels=hide,
    clear=True,
    update=True,
):
    """A training step with one thing changed."""

    def answer(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
        t, noise = t_of(len(alphas_cumprod), (len(x_0),)), noise_of(x_0)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        signal, sigma = a.sqrt(), (1 - a).sqrt()
        x_t = mix(a, x_0, noise) if mix else signal * x_0 + sigma * noise
        loss = loss_of(model(x_t, t, labels(y, model.num_classes, label_dropout)), target(signal, sigma, noise, x_0))
        if clear:
            optimizer.zero_grad()
        loss.backward()
        if update:
            optimizer.step()
        return loss.item()

    return answer


def unshaped(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    return model(alphas_cumprod[torch.randint(40, (len(x_0),))].sqrt() * x_0, torch.zeros(1), y)


def in_y_itself(y, classes, chance):
    y[torch.rand(len(y)) < chance] = classes
    return y


def no_labels(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    with torch.no_grad():
        return model(x_0, torch.randint(40, (len(x_0),))).mean()


def ema(form, watched=False):
    """An EMA step that moves the average to form(average, weight, decay)."""

    def answer(ema_model, model, decay):
        with torch.set_grad_enabled(watched):
            for average, weight in zip(ema_model.parameters(), model.parameters()):
                average.copy_(form(average, weight, decay))
        return ema_model

    return answer


def ema_dropped(ema_model, model, decay):
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        average = decay * average + (1 - decay) * weight
    return ema_model


def ema_into_model(ema_model, model, decay):
    nb04.ema_step(model, ema_model, 1 - decay)
    return ema_model


def ema_of_the_first(ema_model, model, decay):
    with torch.no_grad():
        for average, weight in zip(ema_model.parameters(), model.parameters()):
            average.lerp_(weight, 1 - decay)
            return ema_model


def ema_in_a_copy(ema_model, model, decay):
    return nb04.ema_step(copy.deepcopy(ema_model), model, decay)


def ema_shared(ema_model, model, decay):
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        weight.data.lerp_(average.data, 0.0)
        average.data = weight.data
    return ema_model


def ema_new_parameters(ema_model, model, decay):
    for one, other in zip(ema_model, model):
        one.weight = nn.Parameter((decay * one.weight + (1 - decay) * other.weight).detach())
    return ema_model


def by_t(part_of, empty=float("nan")):
    """Means of parts, where an image's part is part_of(t, width)."""

    def answer(losses, t, num_timesteps, parts):
        part = part_of(t, num_timesteps // parts).clamp(0, parts - 1)
        means = [losses[part == k].mean() if (part == k).any() else torch.tensor(empty) for k in range(parts)]
        return torch.stack(means)

    return answer


def by_t_sum(losses, t, num_timesteps, parts):
    return torch.zeros(parts).index_add(0, t * parts // num_timesteps, losses)


def by_t_over_all(losses, t, num_timesteps, parts):
    filled = torch.bincount(t * parts // num_timesteps, minlength=parts) > 0
    return torch.where(filled, by_t_sum(losses, t, num_timesteps, parts) / len(losses), torch.nan)


def by_t_quantiles(losses, t, num_timesteps, parts):
    return torch.stack([part.mean() for part in losses[t.argsort(stable=True)].tensor_split(parts)])


def by_t_including_ends(losses, t, num_timesteps, parts):
    width = num_timesteps // parts
    return torch.stack([losses[(t >= k * width) & (t <= (k + 1) * width)].mean() for k in range(parts)])


def by_t_fraction(losses, t, num_timesteps, parts):
    part = t / num_timesteps * parts
    return torch.stack([losses[part == k].mean() for k in range(parts)])


def by_t_one_each(losses, t, num_timesteps, parts):
    total = torch.zeros(parts)
    total[t * parts // num_timesteps] += losses
    return total


def by_t_inside(losses, t, num_timesteps, parts):
    return torch.stack([losses[t // parts == k].mean() for k in range(parts)])


def by_t_reversed(losses, t, num_timesteps, parts):
    return nb04.loss_by_timestep(losses, t, num_timesteps, parts).flip(0)


def shares_not_shrunk(decays):
    return torch.cat([decays.prod().view(1), 1 - decays])


def shares_shrunk_by_earlier(decays):
    return torch.cat([decays.prod().view(1), (1 - decays) * torch.cat([torch.ones(1), decays.cumprod(0)[:-1]])])


def shares_shrunk_by_own(decays):
    return nb04.ema_shares(decays) * torch.cat([torch.ones(1), decays])


def accumulate(scale, clear=True, move=False):
    """Gradients added up over parts, where a part counts by scale(part, batch, part_size)."""

    def answer(model, mean_loss, batch, part_size):
        if clear:
            model.zero_grad()
        total = 0.0
        for part in batch.split(part_size):
            loss = mean_loss(model, part) * scale(len(part), len(batch), part_size)
            loss.backward()
            total += loss.item()
        if move:
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        return total

    return answer


def whole_batch(model, mean_loss, batch, part_size):
    model.zero_grad()
    loss = mean_loss(model, batch)
    loss.backward()
    return loss.item()


def one_backward(model, mean_loss, batch, part_size):
    model.zero_grad()
    total = sum(mean_loss(model, part) * len(part) / len(batch) for part in batch.split(part_size))
    total.backward()
    return total.item()


def graphs_held(model, mean_loss, batch, part_size):
    model.zero_grad()
    total = 0.0
    for part in batch.split(part_size):
        loss = mean_loss(model, part) * len(part) / len(batch)
        loss.backward(retain_graph=True)
        total = total + loss
    return total.item()


def a_tensor(model, mean_loss, batch, part_size):
    return torch.tensor(nb04.accumulate_gradients(model, mean_loss, batch, part_size))


def nan_loss(model, mean_loss, batch, part_size):
    nb04.accumulate_gradients(model, mean_loss, batch, part_size)
    return float("nan")


def without_graph(model, mean_loss, batch, part_size):
    with torch.no_grad():
        return nb04.accumulate_gradients(model, lambda *items: mean_loss(*items).detach(), batch, part_size)


def checkpoint(**changes):
    """A right checkpoint with some of it changed: functions of model, optimizer, generator, step."""

    def answer(model, optimizer, generator, step):
        saved = nb04.take_checkpoint(model, optimizer, generator, step)
        return {**saved, **{key: form(model, optimizer, generator, step) for key, form in changes.items()}}

    return answer


def living(model, optimizer, generator, step):
    state = generator.get_state()
    return dict(model=model.state_dict(), optimizer=optimizer.state_dict(), generator=state, step=step)


def no_generator(model, optimizer, generator, step):
    return dict(model=copy.deepcopy(model.state_dict()), optimizer=copy.deepcopy(optimizer.state_dict()), step=step)


def fresh_adam(model, optimizer, generator, step):
    return torch.optim.Adam(model.parameters(), lr=0.01).state_dict()


def hidden_by_if(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    if torch.rand(len(y)) < label_dropout:
        y = torch.full_like(y, model.num_classes)


WRONG = [
    ("04.1", hidden_by_if, "torch.where does so for each label"),
    ("04.1", step(t_of=lambda total, shape: torch.randint(total, (1,)).expand(shape)), "draw one for each"),
    ("04.1", step(t_of=lambda total, shape: torch.randint(1, total, shape)), "t runs from 1 to 39"),
    ("04.1", step(t_of=lambda total, shape: torch.randint(total - 1, shape)), "t runs from 0 to 38"),
    ("04.1", step(t_of=lambda total, shape: (total * torch.rand(shape) ** 4).long()), "not every t is equally likely"),
    ("04.1", step(noise_of=torch.rand_like), "the noise is uniform"),
    ("04.1", step(noise_of=lambda x: torch.randn(1, *x.shape[1:]).expand_as(x)), "every image gets the same noise"),
    ("04.1", step(mix=lambda a, x_0, noise: x_0), "shown the clean x_0"),
    ("04.1", step(mix=lambda a, x_0, noise: a * x_0 + (1 - a) * noise), "not the mixture of eq. 4"),
    ("04.1", step(mix=lambda a, x_0, noise: (1 - a).sqrt() * x_0 + a.sqrt() * noise), "not the mixture of eq. 4"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: noise), "the error against the noise"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: x_0), "the error against x_0"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: sigma * x_0 - signal * noise), "sign of v"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: signal * noise + sigma * x_0), "has a plus"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: sigma * noise - signal * x_0), "weights are exchanged"),
    ("04.1", step(target=lambda signal, sigma, noise, x_0: signal**2 * noise - sigma**2 * x_0), "root is meant"),
    ("04.1", step(loss_of=lambda output, v: (output - v).abs().mean()), "absolute error"),
    ("04.1", step(loss_of=lambda output, v: (output - v).square().sum()), "take their mean"),
    ("04.1", step(loss_of=lambda output, v: mse(output, v).sqrt()), "the root of the mean"),
    ("04.1", step(labels=lambda y, classes, chance: y), "0% of the labels|no label is hidden"),
    ("04.1", step(labels=lambda y, classes, chance: hide(y, 0, chance)), r"becomes model.num_classes, here 10"),
    ("04.1", step(labels=lambda y, classes, chance: hide(y, -1, chance)), r"changed to \[-1\]"),
    ("04.1", step(labels=lambda y, classes, chance: hide(y, classes, 1 - chance)), "kept and hidden are exchanged"),
    ("04.1", step(labels=lambda y, classes, chance: hide(y, classes, 0.1)), "with label_dropout=0.4 1.% of the labels"),
    (
        "04.1",
        step(labels=lambda y, classes, chance: y if torch.rand(()) > chance else torch.full_like(y, classes)),
        "each is hidden by itself",
    ),
    ("04.1", step(labels=in_y_itself), "y was changed in place"),
    ("04.1", step(labels=lambda y, classes, chance: None), "should get 2048 labels"),
    ("04.1", no_labels, "should get 2048 labels|clean x_0"),
    ("04.1", unshaped, r"view\(-1, 1, 1, 1\)"),
    ("04.1", step(clear=False), r"optimizer.zero_grad\(\)"),
    ("04.1", step(update=False), "the weights have not changed"),
    ("04.2", ema(lambda a, w, d: (1 - d) * a + d * w), "average and weights are exchanged"),
    ("04.2", ema(lambda a, w, d: w), "a copy of the weights"),
    ("04.2", ema(lambda a, w, d: a + (1 - d) * w), "is not shrunk"),
    ("04.2", ema(lambda a, w, d: d * a + w), "enter whole"),
    ("04.2", ema(lambda a, w, d: a + (1 - d) * (a - w)), "turned round"),
    ("04.2", ema(lambda a, w, d: 0.999 * a + 0.001 * w), "not the one that is given"),
    ("04.2", ema(lambda a, w, d: d * a + (1 - d) * w, watched=True), r"torch.no_grad\(\)"),
    ("04.2", ema_dropped, "has not changed"),
    ("04.2", ema_into_model, "the weights of model were changed"),
    ("04.2", ema_of_the_first, "only 1 of 3"),
    ("04.2", ema_in_a_copy, "return ema_model itself"),
    ("04.2", ema_shared, "shares memory"),
    ("04.2", ema_new_parameters, "got new parameters"),
    ("04.3", by_t(lambda t, width: t // width, empty=0.0), "expected NaN, got 0.0000"),
    ("04.3", by_t_sum, "this is the sum of the losses|the mean is asked for"),
    ("04.3", by_t_over_all, "the number of all losses"),
    ("04.3", by_t_quantiles, "equally many timesteps wide"),
    ("04.3", by_t(lambda t, width: (t - 1) // width), "counted from 1"),
    ("04.3", by_t(lambda t, width: (t / width).round().long()), "round down"),
    ("04.3", by_t_reversed, "turned round"),
    ("04.3", by_t_including_ends, "< and not <="),
    ("04.3", by_t_fraction, "compared as a fraction"),
    ("04.3", lambda losses, t, num_timesteps, parts: losses.view(parts, -1).mean(1), "the losses are cut as they come"),
    ("04.3", by_t_one_each, "keeps only one loss a part"),
    ("04.3", by_t_inside, "roughly; the part is"),
    ("04.4", lambda decays: torch.cat([decays.prod(), 1 - decays]), r"torch.cat joins vectors; .view\(1\)"),
    ("04.5", without_graph, r"what torch.no_grad\(\) leaves out"),
    ("04.6", checkpoint(generator=lambda *parts: parts[2]), r'"generator" cannot be loaded again; generator.get_state'),
    ("04.4", lambda decays: nb04.ema_shares(decays).flip(0), "turned round"),
    ("04.4", lambda decays: nb04.ema_shares(1 - decays), "exchanged"),
    ("04.4", lambda decays: nb04.ema_shares(decays)[1:], "the untrained network has a share too"),
    ("04.4", lambda decays: nb04.ema_shares(decays)[2:], "should have shape"),
    ("04.4", shares_not_shrunk, "each later step shrinks"),
    ("04.4", shares_shrunk_by_earlier, "those after it"),
    ("04.4", shares_shrunk_by_own, "only the later ones do"),
    ("04.4", lambda decays: nb04.ema_shares(decays[:1].expand(len(decays))), "each has its own"),
    ("04.5", one_backward, "12 items in parts of 4: .* memory holds several parts at once"),
    ("04.5", graphs_held, "memory holds several parts at once"),
    ("04.5", a_tensor, "as a float, not as a tensor"),
    ("04.5", nan_loss, "should be a finite number, got nan"),
    ("04.5", whole_batch, "got 12 items at once"),
    ("04.5", accumulate(lambda part, batch, size: 1), "3 times too large"),
    ("04.5", accumulate(lambda part, batch, size: 1 / -(-batch // size)), "the last part is smaller"),
    ("04.5", accumulate(lambda part, batch, size: part / batch, clear=False), "were not dropped"),
    ("04.5", accumulate(lambda part, batch, size: part / batch, move=True), "the weights were changed"),
    ("04.6", living, "living tensors"),
    ("04.6", no_generator, "expected a dict with"),
    ("04.6", checkpoint(step=lambda model, optimizer, generator, step: step + 1), "the checkpoint says 6"),
    (
        "04.6",
        checkpoint(generator=lambda model, optimizer, generator, step: torch.Generator().manual_seed(0).get_state()),
        "other noise is drawn",
    ),
    ("04.6", checkpoint(optimizer=fresh_adam), "the optimiser's running averages"),
    ("04.6", checkpoint(model=lambda model, *_: nn.Linear(4, 4).state_dict()), "the model's weights are not"),
    ("04.6", checkpoint(model=lambda model, *_: copy.deepcopy(model)), "cannot be loaded again"),
    ("04.6", checkpoint(optimizer=lambda _, optimizer, *rest: dict(optimizer.state_dict())), "living tensors"),
]


@pytest.mark.parametrize(("number", "answer", "fault"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, fault):
    passed, message = grade(number, answer)
    assert passed is False, message
    assert re.search(fault, message), message
