"""Networks and schedules to diffusers and back, as notebook 08 does it: pipelines draw the images of `sample`."""

import inspect
import math

import pytest
import torch
from diffusers import ConfigMixin, DDIMPipeline, DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.utils.logging import disable_progress_bar
from torch import nn

from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.sampling import sample, timestep_grid
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.training import train
from utils.diffusion.unet import UNet

SHAPE, STEPS, T = (2, 1, 8, 8), 10, 100
CLOSE = dict(rtol=0, atol=1e-5)


class FromDiffusers(nn.Module):
    """A network of diffusers, called as the course calls one."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x_t, t):
        return self.unet(x_t, t).sample


class CourseUNet(ModelMixin, ConfigMixin):
    """The course's network as diffusers calls one. settings: those of UNet."""

    @register_to_config
    def __init__(self, sample_size, in_channels, settings):
        super().__init__()
        self.network = UNet(**settings)

    def forward(self, sample, timestep, class_labels=None):
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return UNet2DOutput(self.network(sample, t, class_labels))


@pytest.mark.parametrize("own", [FromDiffusers, CourseUNet])
def test_the_classes_are_those_of_notebook_08(own, root):
    (notebook,) = root.glob("notebooks/src/08_*.py")
    assert inspect.getsource(own) in notebook.read_text("utf-8")


@pytest.fixture(autouse=True)
def quiet():
    disable_progress_bar()


@pytest.fixture
def diffusion():
    return GaussianDiffusion(NoiseSchedule.cosine(T), "v")


def in_their_words(diffusion, **others):
    betas = diffusion.schedule.betas.tolist()
    words = dict(num_train_timesteps=T, trained_betas=betas, prediction_type="v_prediction")
    return words | dict(timestep_spacing="trailing") | others


def of_pipeline(unet, diffusion, **others):
    pipeline = DDIMPipeline(unet, DDIMScheduler(**in_their_words(diffusion, **others)))
    pipeline.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=STEPS, use_clipped_model_output=True, output_type="np")
    images = pipeline(SHAPE[0], generator=torch.Generator().manual_seed(0), **options).images
    return torch.from_numpy(images).movedim(-1, 1)


def of_course(model, diffusion, **options):
    options = dict(sampler="ddim", steps=STEPS, generator=torch.Generator().manual_seed(0)) | options
    *_, last = sample(model, diffusion, SHAPE, **options)
    return (last.x_t / 2 + 0.5).clamp(0, 1)


def small_unet():
    """The course's, with a head that is not zero."""
    torch.manual_seed(0)
    model = UNet(channels=16, num_classes=3, stem=1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_their_network_trained_here_and_saved_draws_the_same_images(diffusion, tmp_path):
    torch.manual_seed(0)
    blocks = dict(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    blocks |= dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **blocks)
    images = torch.rand(32, 1, 8, 8) * 2 - 1
    options = dict(steps=2, batch_size=8, device="cpu", precision="no", progress=False)
    *_, state = train(FromDiffusers(unet), diffusion, images, **options)
    state.ema_model.unet.save_pretrained(tmp_path)
    loaded = UNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(of_pipeline(loaded, diffusion), of_course(state.ema_model, diffusion), **CLOSE)


def test_the_courses_network_in_a_pipeline(diffusion, tmp_path):
    model = small_unet()
    wrapped = CourseUNet(8, 1, model.config)
    wrapped.network.load_state_dict(model.state_dict())
    wrapped.save_pretrained(tmp_path)
    loaded, right = CourseUNet.from_pretrained(tmp_path), of_course(model, diffusion)
    torch.testing.assert_close(of_pipeline(loaded, diffusion), right, **CLOSE)
    for other in (dict(timestep_spacing="leading"), dict(trained_betas=None), dict(prediction_type="epsilon")):
        assert (of_pipeline(loaded, diffusion, **other) - right).abs().max() > 1e-3, other


def test_eulers_step_of_flow_matching_is_ddim(diffusion):
    model, grid = small_unet(), timestep_grid(T, STEPS)
    a_bar = diffusion.schedule.alphas_cumprod.tolist()
    sums = {t: math.sqrt(a_bar[t]) + math.sqrt(1 - a_bar[t]) for t in grid}
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
    scheduler.set_timesteps(sigmas=[math.sqrt(1 - a_bar[t]) / sums[t] for t in grid])
    x_T = torch.randn(SHAPE)
    x = x_T / sums[grid[0]]
    for their_t, t in zip(scheduler.timesteps, grid, strict=True):
        x_t, ts = sums[t] * x, torch.full(SHAPE[:1], t)
        with torch.no_grad():
            v = model(x_t, ts)
        velocity = diffusion.to_noise(v, x_t, ts) - diffusion.to_x_0(v, x_t, ts)
        x = scheduler.step(velocity, their_t, x).prev_sample
    *_, last = sample(model, diffusion, SHAPE, sampler="ddim", steps=STEPS, clip=False, x_T=x_T)
    torch.testing.assert_close(x, last.x_t, rtol=1e-4, atol=1e-5)
