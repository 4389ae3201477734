"""The sampling loop itself: what it yields, its noise, its options, and helpers around it."""

import math
import re

import pytest
import torch
from torch import nn

from tests.exact_models import GaussianModel
from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.sampling import SAMPLERS, ddim_step, generate, keep_known, sample, slerp, timestep_grid
from utils.diffusion.schedules import NoiseSchedule

SHAPE = (3, 1, 4, 4)


def network(x_t, t, y=None):
    return torch.tanh(x_t + 0.01 * t.view(-1, 1, 1, 1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_yields_a_state_after_every_evaluation(sampler):
    diffusion = tiny_diffusion("x_0", 100)
    states = list(sample(network, diffusion, SHAPE, sampler=sampler, steps=10))
    assert [s.step for s in states] == list(range(1, 11))
    assert [s.t for s in states] == list(range(99, 0, -10)) == timestep_grid(100, 10)
    assert all(s.x_t.shape == s.x_0.shape == SHAPE for s in states)
    torch.testing.assert_close(states[-1].x_t, states[-1].x_0)  # the last step ends at the estimate


def test_a_sampler_of_ones_own():
    """A function in place of a name: DDIM's as the learner writes it, and one that keeps a record."""
    seen = []

    def step(x_t, x_0, a_bar_t, a_bar_s, z, previous):
        seen.append((a_bar_t, a_bar_s, z, previous))
        return ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, previous, eta=0.5)

    diffusion, x_T = tiny_diffusion("x_0", 100), torch.randn(SHAPE)
    options = dict(x_T=x_T, steps=4)
    mine, theirs = (
        list(sample(network, diffusion, SHAPE, generator=torch.Generator().manual_seed(3), **options, **kind))
        for kind in (dict(sampler=step), dict(sampler="ddim", eta=0.5))
    )
    for ours, other in zip(mine, theirs, strict=True):
        assert torch.equal(ours.x_t, other.x_t) and torch.equal(ours.x_0, other.x_0)
    a_bar = diffusion.schedule.alphas_cumprod.tolist()
    assert [pair[:2] for pair in seen] == [
        (a_bar[99], a_bar[74]),
        (a_bar[74], a_bar[49]),
        (a_bar[49], a_bar[24]),
        (a_bar[24], 1.0),
    ]
    assert len({float(z.sum()) for _, _, z, _ in seen}) == 4  # fresh noise for every step
    assert seen[0][3] is None
    for (_, _, _, previous), state, record in zip(seen[1:], mine, seen):
        assert torch.equal(previous[0], state.x_0) and previous[1] == record[0]
    with pytest.raises(ValueError, match="eta = 0.5 is a setting of 'ddim'"):
        next(sample(network, diffusion, SHAPE, sampler=step, eta=0.5))
    assert len(list(sample(network, diffusion, SHAPE, sampler=step))) == 50


def test_is_lazy():
    calls = []

    def counting(x_t, t):
        calls.append(int(t[0]))
        return x_t

    steps = sample(counting, tiny_diffusion("x_0", 100), SHAPE, sampler="ddim", steps=10)
    assert calls == []
    next(steps)
    assert calls == [99]


def test_default_steps():
    for sampler, expected in (("ddpm", 80), ("ddim", 50), ("dpmpp_2m", 20)):
        assert len(list(sample(network, tiny_diffusion("x_0", 80), SHAPE, sampler=sampler))) == expected
    assert len(list(sample(network, tiny_diffusion("x_0", 10), SHAPE, sampler="ddim"))) == 10


@pytest.mark.parametrize("steps, grid", [(1, [9]), (2, [9, 4]), (5, [9, 7, 5, 3, 1]), (10, list(range(9, -1, -1)))])
def test_timestep_grid(steps, grid):
    assert timestep_grid(10, steps) == grid


def test_timestep_grid_never_repeats():
    for num_timesteps in (1, 7, 64, 1000):
        for steps in range(1, num_timesteps + 1, max(1, num_timesteps // 50)):
            grid = timestep_grid(num_timesteps, steps)
            assert len(set(grid)) == steps and grid[0] == num_timesteps - 1 and grid[-1] >= 0
            assert grid == sorted(grid, reverse=True)


def last(**options):
    *_, state = sample(network, tiny_diffusion("x_0"), SHAPE, **options)
    return state.x_t


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_seed_decides(sampler):
    def seeded(seed):
        return last(sampler=sampler, steps=8, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


def test_which_samplers_draw_noise():
    x_T = torch.randn(SHAPE)
    for sampler, eta, noisy in (("ddpm", 0, True), ("ddim", 0, False), ("ddim", 0.5, True), ("dpmpp_2m", 0, False)):
        a, b = (
            last(sampler=sampler, eta=eta, steps=8, x_T=x_T, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
        )
        assert torch.equal(a, b) != noisy, sampler


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_outside_0_to_1_is_refused(eta):
    with pytest.raises(ValueError, match="eta must lie in 0..1"):
        last(sampler="ddim", eta=eta, steps=2)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
def test_eta_is_refused_where_it_would_do_nothing(sampler):
    with pytest.raises(ValueError, match=f"eta = 0.5 is a setting of 'ddim', '{sampler}' has no use"):
        last(sampler=sampler, eta=0.5, steps=2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping(sampler):
    def bold(x_t, t):
        return 3 * torch.sign(x_t)

    diffusion = tiny_diffusion("x_0")
    for clip, most in ((True, 1.0), (False, 3.0)):
        for state in sample(bold, diffusion, SHAPE, sampler=sampler, steps=5, clip=clip):
            assert state.x_0.abs().max().item() == most


def test_labels_reach_the_network():
    seen = []

    def labelled(x_t, t, y):
        seen.append(y)
        return x_t

    y = torch.tensor([1, 2, 3])
    list(sample(labelled, tiny_diffusion("x_0"), SHAPE, sampler="ddim", steps=2, y=y))
    assert all(torch.equal(labels, y) for labels in seen) and len(seen) == 2


class Mode(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.modes = nn.Parameter(torch.ones(1)), []

    def forward(self, x_t, t):
        self.modes.append(self.training)
        return x_t * self.weight


def test_network_is_put_into_evaluation_mode_and_back():
    model = Mode().train()
    for state in sample(model, tiny_diffusion("x_0"), SHAPE, sampler="ddim", steps=3):
        assert not state.x_t.requires_grad
    assert model.modes == [False] * 3 and model.training
    states = sample(model, tiny_diffusion("x_0"), SHAPE, sampler="ddim", steps=3)
    next(states)
    states.close()  # left half-way
    assert model.training


def test_inpainting_keeps_what_is_known():
    known = torch.rand(SHAPE) * 2 - 1
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    for sampler in SAMPLERS:
        generator = torch.Generator().manual_seed(0)
        result = last(sampler=sampler, steps=10, constrain=keep_known(known, mask, generator), generator=generator)
        torch.testing.assert_close(result[..., :2], known[..., :2])
        assert not torch.allclose(result[..., 2:], known[..., 2:])


def test_known_part_has_the_noise_of_its_level():
    known = torch.full((20_000, 1), 0.5)
    constrained = keep_known(known, torch.ones(1), torch.Generator().manual_seed(0))(torch.zeros(20_000, 1), 0.36)
    assert constrained.mean().item() == pytest.approx(0.3, abs=5 * 0.8 / math.sqrt(20_000))
    assert constrained.var().item() == pytest.approx(0.64, rel=5 * math.sqrt(2 / 20_000))


# -- slerp and generate ----------------------------------------------------------------------------


def test_slerp_stays_on_the_sphere():
    a, b = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    a, b = a / a.norm(), b / b.norm()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    angle = torch.acos((a * b).sum())
    for weight in (0.25, 0.5, 0.9):
        between = slerp(a, b, weight)
        assert between.norm().item() == pytest.approx(1)
        assert torch.acos((a * between).sum()).item() == pytest.approx(weight * angle.item())
    assert (0.5 * a + 0.5 * b).norm().item() < 0.9  # what a straight line loses


def test_slerp_of_equal_tensors():
    a = torch.randn(2, 2)
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_generate_counts_clamps_and_repeats():
    mean, std = torch.zeros(1), torch.full((1,), 2.0)
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(50), "v")
    model = GaussianModel(diffusion, mean, std)
    options = dict(image_shape=(1, 2, 2), batch_size=4, sampler="ddim", steps=5, clip=False)
    images = generate(model, diffusion, 10, seed=3, **options)
    assert images.shape == (10, 1, 2, 2) and images.abs().max() == 1
    assert torch.equal(images, generate(model, diffusion, 10, seed=3, **options))
    assert not torch.equal(images, generate(model, diffusion, 10, seed=4, **options))
    assert len({tuple(image.flatten().tolist()) for image in images}) == 10  # batches do not repeat each other


def test_generate_deals_labels_out_by_batch():
    seen = []

    def labelled(x_t, t, y):
        seen.append(y.tolist())
        return x_t

    generate(labelled, tiny_diffusion("x_0"), 5, (1, 2, 2), batch_size=2, y=torch.arange(5), sampler="ddim", steps=1)
    assert seen == [[0, 1], [2, 3], [4]]


def test_a_real_network_samples():
    y = torch.tensor([0, 5, 9])
    images = generate(tiny_unet(), tiny_diffusion(), 3, (1, 8, 8), y=y, sampler="dpmpp_2m", steps=4)
    assert images.shape == (3, 1, 8, 8) and torch.isfinite(images).all()


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(sampler="euler"), "unknown sampler 'euler'; choose one of ddpm, ddim, dpmpp_2m"),
        (dict(steps=0), r"steps must lie in 1..50, the timesteps of the schedule; got 0"),
        (dict(steps=51), r"steps must lie in 1..50, the timesteps of the schedule; got 51"),
        (dict(y=torch.tensor([1])), r"labels must be whole numbers, one for each of 3 images; got \(1,\) torch.int64"),
        (dict(x_T=torch.zeros(2, 1, 4, 4)), r"x_T has shape \(2, 1, 4, 4\), expected \(3, 1, 4, 4\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        next(sample(network, tiny_diffusion("x_0"), SHAPE, **options))


def test_label_outside_the_classes():
    with pytest.raises(ValueError, match="label 12 is outside the classes 0..9"):
        next(sample(tiny_unet(), tiny_diffusion(), (1, 1, 8, 8), y=torch.tensor([12])))


def test_size_the_network_cannot_halve():
    model = tiny_unet(multipliers=(1, 2))
    with pytest.raises(ValueError, match="image size 10x10 cannot be halved"):
        next(sample(model, tiny_diffusion(), (1, 1, 10, 10)))


@pytest.mark.parametrize("predicted, expected", [(0.5, 0.5), (5.0, 1.0), (-5.0, -1.0)])
def test_generated_images_are_clamped_to_their_range(predicted, expected):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(10), "x_0")

    def model(x_t, t):
        return torch.full_like(x_t, predicted)

    images = generate(model, diffusion, 2, (1, 2, 2), sampler="ddim", steps=2, clip=False)
    torch.testing.assert_close(images, torch.full((2, 1, 2, 2), expected))


@pytest.mark.parametrize("name", ["count", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_generate_refuses_other_numbers(name, value):
    arguments = {"count": 3, "batch_size": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value}"):
        generate(network, tiny_diffusion("x_0"), image_shape=(1, 2, 2), **arguments)


def test_seeds_of_more_than_32_bits_differ():
    seeds = [0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**33, -1]
    drawn = [generate(network, tiny_diffusion("x_0"), 2, (1, 2, 2), steps=1, seed=seed) for seed in seeds]
    assert len({tuple(images.flatten().tolist()) for images in drawn}) == len(seeds)
    x_T = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))  # small ones are torch's own
    (state,) = sample(network, tiny_diffusion("x_0"), x_T.shape, steps=1, x_T=x_T)
    assert torch.equal(drawn[1], state.x_t.clamp(-1, 1))


def test_labels_may_be_a_list_and_have_to_be_as_many_as_the_images():
    model, options = tiny_unet(), dict(image_shape=(1, 8, 8), steps=2, batch_size=2)
    nn.init.normal_(model.head[-1].weight)
    as_list, as_bytes = (
        generate(model, tiny_diffusion(), 3, y=y, **options) for y in ([1, 2, 3], torch.tensor([1, 2, 3]).byte())
    )
    assert torch.equal(as_list, as_bytes)
    for y in ([1, 2], [1, 2, 3, 4], ["cat"] * 3):
        with pytest.raises(ValueError, match=rf"one for each of 3 images; got a list, {re.escape(str(y))}"):
            generate(model, tiny_diffusion(), 3, y=y, **options)
