"""Distillation: trajectories and their ends in closed form, the training, the shipped file, and the errors."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from tests.exact_models import GaussianModel, MixtureModel
from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion import GaussianDiffusion, NoiseSchedule, load_model, save_model
from utils.diffusion.__main__ import main
from utils.diffusion.checkpoints import read_notes
from utils.diffusion.distill import EVALUATIONS, STOPS, distill, draw_pairs, draw_trajectories, landing, paired_noise
from utils.diffusion.metrics import FOLDER
from utils.diffusion.sampling import consistency_step, ddim_step, sample, timestep_grid
from utils.files import load_state

MEAN, STD = torch.tensor([-0.7, 0.0, 0.4]), torch.tensor([0.1, 1.0, 0.5])


class EndModel(GaussianModel):
    """In place of E[x_0 | x_t] the end of the probability flow: the exact consistency function."""

    def posterior_mean(self, x_t, a):
        return self.mean + self.std / (a * self.std**2 + 1 - a).sqrt() * (x_t - a.sqrt() * self.mean)


def process(num_timesteps=1000):
    return GaussianDiffusion(NoiseSchedule.cosine(num_timesteps), "v")


def test_trajectories_are_the_flow_of_a_gaussian():
    diffusion = process()
    model = GaussianModel(diffusion, MEAN, STD)
    x, y = draw_trajectories(model, diffusion, 64, (3,), steps=200, clip=False, progress=False)
    assert x.shape == (64, STOPS + 1, 3) and x.dtype == torch.float16 and y is None
    a_bar = diffusion.schedule.alphas_cumprod.tolist()
    levels = [a_bar[t] for t in timestep_grid(1000, STOPS)] + [1.0]
    for k, level in enumerate(levels):
        expected = model.flow(x[:, 0].float(), levels[0], level)
        torch.testing.assert_close(x[:, k].float(), expected, rtol=0, atol=0.01)


def test_trajectories_are_those_of_scipy():
    """d x_bar / d s = (x_bar - E[x_0]) / s, where x_bar = x / sqrt(alpha-bar) and s = sigma / sqrt(alpha-bar)."""
    diffusion = process()
    means = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.0, -1.0]])
    model = MixtureModel(diffusion, torch.tensor([0.5, 0.3, 0.2]), means, 0.3)
    x, _ = draw_trajectories(model, diffusion, 8, (2,), steps=1000, clip=False, progress=False)
    a_bar = [diffusion.schedule.alphas_cumprod[t].item() for t in timestep_grid(1000, STOPS)]
    levels = [math.sqrt(1 / a - 1) for a in a_bar]

    def slope(s, x_bar):
        a = torch.full((8, 1), 1 / (1 + s * s), dtype=torch.float64)
        points = torch.tensor(x_bar).view(8, 2)
        return ((points - model.posterior_mean(a.sqrt() * points, a)) / s).flatten().numpy()

    start = x[:, 1].double() * math.hypot(1, levels[1])
    found = solve_ivp(slope, (levels[1], 1e-3), start.flatten().numpy(), t_eval=[*levels[2:], 1e-3], rtol=1e-8)
    for k, x_bar in zip(range(2, STOPS + 1), found.y.T, strict=True):
        scale = a_bar[k] ** 0.5 if k < STOPS else 1.0
        torch.testing.assert_close(x[:, k].double(), scale * torch.tensor(x_bar).view(8, 2), rtol=0, atol=0.01)


def test_the_loss_of_the_exact_consistency_function_is_0_and_a_mean_s_is_not():
    diffusion = process()
    model = GaussianModel(diffusion, MEAN, STD)
    trajectories = draw_trajectories(model, diffusion, 64, (3,), steps=200, clip=False, progress=False)
    x_t, end, t, s, y = draw_pairs(trajectories, diffusion, 256, step=0, seed=0)
    assert (s == -1).all() and torch.equal(landing(diffusion, x_t, end, t, s), end)
    noise = paired_noise(diffusion, x_t, end, t)
    torch.testing.assert_close(diffusion.q_sample(end, t, noise), x_t, rtol=1e-4, atol=1e-4)
    assert y is None and set(t.tolist()) == set(timestep_grid(1000, STOPS))
    assert 0.4 < (t == 999).double().mean() < 0.75
    assert diffusion.loss(EndModel(diffusion, MEAN, STD), end, t, noise) < 1e-3
    assert diffusion.loss(model, end, t, noise) > 0.1


@pytest.mark.parametrize("jumps", EVALUATIONS)
def test_a_step_of_ddim_with_the_x_0_of_a_jump_lands_on_the_next_place(jumps):
    diffusion = process()
    model = GaussianModel(diffusion, MEAN, STD)
    trajectories = draw_trajectories(model, diffusion, 64, (3,), steps=200, clip=False, progress=False)
    x_t, x_s, t, s, _ = draw_pairs(trajectories, diffusion, 256, step=0, seed=0, jumps=jumps)
    grid = timestep_grid(1000, jumps)
    assert set(zip(t.tolist(), s.tolist())) == set(zip(grid, [*grid[1:], -1]))
    a_bar = [*diffusion.schedule.alphas_cumprod.tolist(), 1.0]
    x_0 = landing(diffusion, x_t, x_s, t, s)
    for k in range(len(t)):
        own = ddim_step(x_t[k].double(), x_0[k].double(), a_bar[t[k]], a_bar[s[k]], z=0)
        torch.testing.assert_close(own, x_s[k].double(), rtol=0, atol=1e-4)
        expected = model.flow(x_t[k : k + 1], a_bar[t[k]], a_bar[s[k]])[0]
        torch.testing.assert_close(x_s[k], expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("steps", EVALUATIONS)
def test_the_exact_consistency_function_samples_the_data_in_any_number_of_evaluations(steps):
    diffusion, count = process(), 40_000
    generator = torch.Generator().manual_seed(steps)
    options = dict(sampler="consistency", steps=steps, clip=False, generator=generator)
    *_, last = sample(EndModel(diffusion, MEAN, STD), diffusion, (count, 3), **options)
    torch.testing.assert_close(last.x_t.mean(0), MEAN, rtol=0, atol=5 / math.sqrt(count))
    torch.testing.assert_close(last.x_t.std(0), STD, rtol=0.02, atol=0)
    *_, last = sample(GaussianModel(diffusion, MEAN, STD), diffusion, (count, 3), **options)
    assert (last.x_t.std(0) < 0.9 * STD).all()  # of means, which vary less


def test_the_step_keeps_nothing_of_x_t():
    x_0, z = torch.rand(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    torch.testing.assert_close(consistency_step(None, x_0, 0.1, 0.36, z), 0.6 * x_0 + 0.8 * z)
    assert torch.equal(consistency_step(None, x_0, 0.1, 1.0, z), x_0)


# -- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    """A tiny teacher's trajectories, and the losses and last state of a student's training, twice."""
    diffusion, teacher = tiny_diffusion(), tiny_unet(dropout=0.0)
    torch.nn.init.normal_(teacher.head[-1].weight, std=0.05)
    trajectories = draw_trajectories(teacher, diffusion, 40, (1, 8, 8), steps=8, batch_size=16, progress=False)
    runs = []
    for _ in range(2):
        student = tiny_unet(dropout=0.0)
        options = dict(steps=30, batch_size=16, device="cpu", precision="no", progress=False)
        states = [(state.loss, state) for state in distill(student, diffusion, trajectories, **options)]
        runs.append(([loss for loss, _ in states], states[-1][1]))
    return trajectories, runs


def test_trajectories_of_a_network_with_classes(taught):
    trajectories, _ = taught
    assert trajectories.x.shape == (40, STOPS + 1, 1, 8, 8) and trajectories.y.shape == (40,)
    assert set(trajectories.y.tolist()) <= set(range(11)) and len(set(trajectories.y.tolist())) > 4
    assert trajectories.x[:, -1].abs().max() <= 1 and not torch.equal(trajectories.x[0], trajectories.x[16])


def test_training_lowers_the_loss_and_is_the_same_each_time(taught):
    _, ((losses, state), (again, _)) = taught
    assert losses == again
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert state.step == 30
    assert state.ema_model.distilled == {"sampler": "consistency", "evaluations": EVALUATIONS}


def test_a_training_that_is_left_gives_the_network_back_as_it_was(taught):
    trajectories, _ = taught
    student = tiny_unet(dropout=0.0)
    states = distill(student, tiny_diffusion(), trajectories, steps=9, device="cpu", precision="bf16", progress=False)
    next(states)
    assert hasattr(student, "_original_forward")  # accelerate's wrapper
    states.close()
    assert not hasattr(student, "_original_forward")


def test_jumps_are_for_one_number_of_evaluations(taught):
    trajectories, _ = taught
    options = dict(steps=30, batch_size=16, device="cpu", precision="no", progress=False)
    student = tiny_unet(dropout=0.0)
    states = [(state.loss, state) for state in distill(student, tiny_diffusion(), trajectories, jumps=2, **options)]
    losses, last = [loss for loss, _ in states], states[-1][1].ema_model
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert last.distilled == {"sampler": "ddim", "evaluations": [2]}
    assert len(list(sample(last, tiny_diffusion(), (2, 1, 8, 8), sampler="ddim", y=torch.tensor([1, 2])))) == 2
    with pytest.raises(ValueError, match="jumps must be None or one of 1, 2, 4, 8, got 3"):
        next(distill(student, tiny_diffusion(), trajectories, jumps=3, **options))


def test_batches_depend_on_seed_and_step(taught):
    trajectories, _ = taught
    first, same, later, other = (
        draw_pairs(trajectories, tiny_diffusion(), 16, *at) for at in [(3, 0), (3, 0), (4, 0), (3, 1)]
    )
    assert all(map(torch.equal, first, same))
    assert not torch.equal(first[0], later[0]) and not torch.equal(first[0], other[0])


@pytest.mark.parametrize("steps", [0, 4, 20])
def test_steps_that_do_not_pass_the_eight_places(steps):
    with pytest.raises(ValueError, match=f"steps must be a multiple of 8, the places that are kept; got {steps}"):
        draw_trajectories(tiny_unet(), tiny_diffusion(), 4, (1, 8, 8), steps=steps)


# -- a distilled network in sample and on the command line ----------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("distilled") / "tiny.safetensors"
    made_for = {"sampler": "consistency", "evaluations": [1, 2, 4]}
    save_model(path, tiny_unet(), tiny_diffusion(), distilled=made_for, size=8)
    return path


def test_a_saved_network_knows_what_it_was_made_for(saved):
    model, diffusion = load_model(saved)
    assert model.distilled["evaluations"] == [1, 2, 4] and tiny_unet().distilled is None
    shape, y = (2, 1, 8, 8), torch.tensor([1, 2])
    assert len(list(sample(model, diffusion, shape, sampler="consistency", y=y))) == 4
    assert len(list(sample(model, diffusion, shape, sampler=consistency_step, steps=2, y=y, guidance=2.0))) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(sampler="consistency", steps=3), "for 1, 2, 4 evaluations by sampler 'consistency'; got steps = 3"),
        (dict(sampler="ddim", steps=4), "for 1, 2, 4 evaluations by sampler 'consistency'; got sampler 'ddim'"),
        (dict(), "for 1, 2, 4 evaluations by sampler 'consistency'; got sampler 'ddpm'"),
        (dict(sampler=consistency_step, steps=8), "this network is distilled, for 1, 2, 4 evaluations"),
    ],
)
def test_other_steps_and_samplers_are_refused(saved, options, message):
    model, diffusion = load_model(saved)
    with pytest.raises(ValueError, match=message):
        next(sample(model, diffusion, (2, 1, 8, 8), **options))


def test_the_command_line_finds_the_sampler(saved, tmp_path, capsys):
    out = tmp_path / "a.pt"
    main(["sample", str(saved), "--n", "4", "--steps", "2", "--out", str(out), "--device", "cpu"])
    assert "4 images by consistency" in capsys.readouterr().out
    assert load_state(out).shape == (4, 1, 8, 8)
    for options, message in ((["--steps", "3"], "got steps = 3"), (["--sampler", "ddpm", "--steps", "1"], "'ddpm'")):
        with pytest.raises(SystemExit) as stop:
            main(["sample", str(saved), *options, "--out", str(out), "--device", "cpu"])
        assert str(stop.value).startswith("error: this network is distilled, for 1, 2, 4 evaluations")
        assert message in str(stop.value)


# -- the shipped one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, sampler, evaluations", [("distilled", "consistency", EVALUATIONS), ("distilled-4", "ddim", [4])]
)
def test_the_shipped_networks_and_their_card(name, sampler, evaluations):
    path = FOLDER / f"{name}.safetensors"
    model, diffusion = load_model(path)
    notes, card = read_notes(path), (FOLDER / "distilled.md").read_text("utf-8")
    assert model.distilled == {"sampler": sampler, "evaluations": evaluations} == notes["distilled"]
    assert path.stat().st_size < 3_100_000 and notes["size"] == 28
    assert f"{path.stat().st_size / 1e6:.1f} MB" in card and f"{notes['steps']:,} steps" in card and path.name in card
    teacher, _ = load_model(FOLDER / f"{notes['teacher']}.safetensors")
    assert teacher.config == model.config
    x_T, y = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 9])
    steps = evaluations[0]
    *_, state = sample(model, diffusion, x_T.shape, sampler=sampler, steps=steps, x_T=x_T, y=y)
    assert state.x_t.isfinite().all() and state.x_t.std() > 0.3
