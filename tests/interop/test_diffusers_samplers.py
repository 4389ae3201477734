"""Every sampler against the scheduler of diffusers, step by step, with the same network and the same noise.

The network is a smooth function in float64, so nothing is trained. Where the schedulers allow it they are
given the course's alphas_cumprod in float64; then the formulas have to agree to the last digits. Their own
float32 table is compared in test_diffusers_process.py.
"""

import diffusers
import pytest
import torch

from utils.diffusion.guidance import ClassifierFreeGuidance, dynamic_threshold
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.sampling import sample, timestep_grid
from utils.diffusion.schedules import NoiseSchedule

SHAPE = (3, 2, 4, 4)
THEIR_NAMES = {"noise": "epsilon", "x_0": "sample", "v": "v_prediction"}
EXACT = dict(rtol=1e-9, atol=1e-9)


def network(x_t, t):
    """Some smooth function of x_t and t that mixes pixels."""
    return torch.tanh(1.3 * x_t.roll(1, -1) - 0.2 * x_t + 0.003 * t.view(-1, 1, 1, 1))


def compare(scheduler, diffusion, steps, *, tolerance, sampler, clip, noisy=False, network=network, **step_options):
    """Walk both from the same x_T and compare x_t after every step."""
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == timestep_grid(diffusion.num_timesteps, steps)
    x_T = torch.randn(SHAPE, dtype=torch.float64)
    ours = sample(
        network,
        diffusion,
        SHAPE,
        sampler=sampler,
        steps=steps,
        clip=clip,
        x_T=x_T,
        eta=step_options.get("eta", 0.0),
        generator=torch.Generator().manual_seed(5),
    )
    if noisy:
        step_options["generator"] = torch.Generator().manual_seed(5)
    x_t, seen = x_T, 0
    for t, state in zip(scheduler.timesteps, ours, strict=True):
        output = network(x_t, t.expand(SHAPE[0]))
        x_t = scheduler.step(output, t, x_t, **step_options).prev_sample
        torch.testing.assert_close(state.x_t, x_t, **tolerance, msg=lambda m, t=t: f"after t={t}: {m}")
        seen += 1
    assert seen == steps


def scheduler_like(cls, diffusion, **options):
    scheduler = cls(
        diffusion.num_timesteps,
        beta_schedule="linear",
        timestep_spacing="trailing",
        prediction_type=THEIR_NAMES[diffusion.prediction],
        **options,
    )
    scheduler.alphas_cumprod = diffusion.schedule.alphas_cumprod.clone()
    return scheduler


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
def test_ddpm(prediction, clip, schedule):
    diffusion = GaussianDiffusion(NoiseSchedule.named(schedule, 40), prediction)
    for steps in (40, 10, 8):
        scheduler = scheduler_like(diffusers.DDPMScheduler, diffusion, clip_sample=clip)
        compare(scheduler, diffusion, steps, tolerance=EXACT, sampler="ddpm", noisy=True, clip=clip)


def test_ddpm_with_a_thousand_steps():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(1000), "noise")
    scheduler = scheduler_like(diffusers.DDPMScheduler, diffusion, clip_sample=True)
    compare(scheduler, diffusion, 1000, tolerance=EXACT, sampler="ddpm", noisy=True, clip=True)


def two_halves(x_t, t):
    """The second half, where the variance lies, is different for every pixel and leaves -1..1 now and then."""
    return torch.cat([network(x_t, t), 1.2 * torch.sin(3 * x_t + t.view(-1, 1, 1, 1))], dim=1)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
def test_ddpm_with_a_learned_variance(prediction, clip):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(40), prediction, variance="learned")
    learned = scheduler_like(diffusers.DDPMScheduler, diffusion, clip_sample=clip, variance_type="learned_range")
    options = dict(tolerance=EXACT, sampler="ddpm", noisy=True, clip=clip, network=two_halves)
    compare(learned, diffusion, 40, **options)
    # With fewer steps diffusers adds noise in the last one too, where beta-tilde is 0 and the course adds none.
    with pytest.raises(AssertionError, match="after t=3:"):
        compare(learned, diffusion, 10, **options)


@pytest.mark.parametrize("sampler, steps", [("ddim", 20), ("dpmpp_2m", 10)])
def test_the_other_samplers_leave_a_learned_variance_alone(sampler, steps):
    learned, fixed = (GaussianDiffusion(NoiseSchedule.cosine(40), "v", variance) for variance in ("learned", "fixed"))
    options = dict(sampler=sampler, steps=steps, x_T=torch.randn(SHAPE, dtype=torch.float64))
    pairs = zip(sample(two_halves, learned, SHAPE, **options), sample(network, fixed, SHAPE, **options), strict=True)
    assert all(torch.equal(mine.x_t, plain.x_t) for mine, plain in pairs)


def test_rescaling_and_dynamic_thresholding():
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    y, t, x_t = torch.tensor([0, 1, 2]), torch.tensor([3, 10, 35]), torch.randn(SHAPE, dtype=torch.float64)

    def model(x_t, t, y):
        return network(x_t, t) * (1 + y.view(-1, 1, 1, 1))

    model.num_classes = 3
    conditional, other = model(x_t, t, y), model(x_t, t, torch.full_like(y, 3))
    guided = other + 5.0 * (conditional - other)
    for rescale in (0.3, 0.7, 1.0):
        ours = ClassifierFreeGuidance(5.0, rescale=rescale)(model, GaussianDiffusion(NoiseSchedule.cosine(40)))
        theirs = pipeline.rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
        torch.testing.assert_close(ours(x_t, t, y), theirs, **EXACT)
    for ratio in (0.5, 0.9, 0.995):
        scheduler = diffusers.DDPMScheduler(dynamic_thresholding_ratio=ratio, sample_max_value=1e9)
        torch.testing.assert_close(dynamic_threshold(3 * x_t, ratio), scheduler._threshold_sample(3 * x_t), **EXACT)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
def test_ddim(prediction, clip, eta):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), prediction)
    for steps in (100, 20, 5):
        scheduler = scheduler_like(diffusers.DDIMScheduler, diffusion, clip_sample=clip)
        # The course derives the noise from the clipped estimate, which diffusers does on request.
        compare(
            scheduler,
            diffusion,
            steps,
            tolerance=EXACT,
            sampler="ddim",
            clip=clip,
            noisy=True,
            use_clipped_model_output=True,
            eta=eta,
        )


# Noise predictions go with the linear schedule only: with the others an error in x_T is divided by
# sqrt(alpha-bar_T), some 5e-4, and this scheduler computes in float32 whatever it is given.
@pytest.mark.parametrize(
    "prediction, schedule",
    [("noise", "linear"), ("x_0", "linear"), ("v", "linear"), ("x_0", "cosine"), ("v", "cosine"), ("v", "sigmoid")],
)
def test_dpmpp_2m(prediction, schedule):
    diffusion = GaussianDiffusion(NoiseSchedule.named(schedule, 100), prediction)
    for steps in (50, 20, 10, 4, 2, 1):
        scheduler = scheduler_like(
            diffusers.DPMSolverMultistepScheduler,
            diffusion,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            final_sigmas_type="zero",
            lower_order_final=True,
        )
        compare(scheduler, diffusion, steps, tolerance=dict(rtol=1e-3, atol=2e-4), sampler="dpmpp_2m", clip=False)


@pytest.mark.parametrize("num_timesteps, steps", [(1000, 1), (1000, 7), (1000, 20), (1000, 50), (200, 60), (30, 30)])
def test_trailing_timesteps(num_timesteps, steps):
    scheduler = diffusers.DDIMScheduler(num_timesteps, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    # Counting down in floating point, diffusers can end on one timestep too many, which is -1.
    theirs = [t for t in scheduler.timesteps.tolist() if t >= 0]
    assert timestep_grid(num_timesteps, steps) == theirs
