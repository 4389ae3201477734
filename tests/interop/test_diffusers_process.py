"""Schedules, the forward process and the timestep encoding against diffusers."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from utils.diffusion.embeddings import sinusoidal_embedding
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule

# diffusers keeps betas in float32; a product of a thousand such factors is off by some 1e-5.
FLOAT32_PRODUCT = dict(rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("name, theirs", [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_schedules(name, theirs):
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule=theirs)
    ours = NoiseSchedule.named(name, 1000)
    torch.testing.assert_close(ours.betas.float(), scheduler.betas, rtol=3e-6, atol=1e-9)
    # The last cosine step has 1 - beta = 0.001, of which float32 keeps few digits.
    keep = slice(0, 999) if name == "cosine" else slice(None)
    torch.testing.assert_close(ours.alphas_cumprod.float()[keep], scheduler.alphas_cumprod[keep], **FLOAT32_PRODUCT)


def test_cosine_for_a_short_schedule():
    scheduler = diffusers.DDPMScheduler(50, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(NoiseSchedule.cosine(50).betas.float(), scheduler.betas, rtol=3e-6, atol=1e-9)


def test_unscaled_linear_betas_for_a_short_schedule():
    scheduler = diffusers.DDPMScheduler(200, beta_schedule="linear")
    ours = NoiseSchedule.linear(200, rescale=False)
    torch.testing.assert_close(ours.betas.float(), scheduler.betas, rtol=3e-6, atol=1e-9)
    torch.testing.assert_close(ours.alphas_cumprod.float(), scheduler.alphas_cumprod, **FLOAT32_PRODUCT)


@pytest.fixture
def batch():
    x_0 = torch.rand(6, 3, 8, 8) * 2 - 1
    return x_0, torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 10, 300, 700, 998])


def test_q_sample_is_add_noise(batch):
    x_0, noise, t = batch
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule="linear")
    ours = GaussianDiffusion(NoiseSchedule.linear(1000)).q_sample(x_0, t, noise)
    torch.testing.assert_close(ours, scheduler.add_noise(x_0, noise, t), rtol=1e-4, atol=3e-5)


def test_v_target_is_get_velocity(batch):
    x_0, noise, t = batch
    scheduler = diffusers.DDPMScheduler(1000, beta_schedule="linear")
    ours = GaussianDiffusion(NoiseSchedule.linear(1000), "v").target(x_0, noise, t)
    torch.testing.assert_close(ours, scheduler.get_velocity(x_0, noise, t), rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("dim", [4, 32, 48, 128])
def test_timestep_encoding(dim):
    t = torch.arange(0, 1000, 7)
    theirs = get_timestep_embedding(t, dim, downscale_freq_shift=1)  # the default, and that of the DDPM code
    # Angles reach 1000, where neighbouring float32 numbers are 6e-5 apart.
    torch.testing.assert_close(sinusoidal_embedding(t, dim), theirs, rtol=0, atol=2e-4)


def test_timestep_encoding_against_numpy():
    """The formula of Vaswani et al. 2017 in float64, for small t, where float32 is exact enough to see any slip."""
    t, dim = np.arange(12), 16
    frequencies = 10_000.0 ** (-np.arange(8) / 7)
    angles = t[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    ours = sinusoidal_embedding(torch.tensor(t), dim).double().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6)
