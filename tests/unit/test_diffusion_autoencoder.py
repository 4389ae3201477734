"""The autoencoder: its divergence, its scale, its training by the course's own loop, and diffusion in its latents."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_unet
from utils.diffusion.autoencoder import Autoencoder, Reconstruction
from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.images import ImageSet
from utils.diffusion.sampling import generate
from utils.diffusion.training import train, validation_loss

SMALL = dict(channels=16, latent_channels=3)


def trained(steps: int = 30, **options):
    torch.manual_seed(0)
    return train(Autoencoder(**SMALL), Reconstruction(), digits(), steps=steps, **OPTIONS, **options)


def test_the_divergence_in_closed_form_and_the_draw():
    """That of torch's distributions from a standard normal (Kingma & Welling 2014, appendix B); mean + sigma noise."""
    model, x, noise = Autoencoder(**SMALL), torch.randn(2, 1, 8, 12), torch.randn(2, 1, 8, 12)
    image, found = model(x, noise)
    mean, log_variance = model.encoder(x).split(3, dim=1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0))
    torch.testing.assert_close(found, expected)
    folded = noise.reshape(2, 2, 4, 3, 4).permute(0, 2, 4, 1, 3).reshape(2, 16, 2, 3)[:, :3]
    torch.testing.assert_close(image, model.decoder(mean + (log_variance / 2).exp() * folded))
    assert image.shape == x.shape and model.encode(x).shape == (2, 3, 2, 3)


def test_the_divergence_keeps_its_digits_in_short_precision():
    model, x, noise = Autoencoder(**SMALL), torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    for parameter in model.encoder[-1].parameters():
        nn.init.constant_(parameter, 2**-7)
    with torch.autocast("cpu", torch.bfloat16):
        _, found = model(x, noise)
        mean, log_variance = model.encoder(x).double().chunk(2, dim=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), (mean**2 + log_variance.expm1() - log_variance) / 2, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_the_loss_counts_pixels(kl_weight):
    model, x, noise = Autoencoder(**SMALL), torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    image, divergences = model(x, noise)
    expected = F.mse_loss(image, x) + kl_weight * divergences.sum() / (4 * 64)
    torch.testing.assert_close(Reconstruction(kl_weight).loss(model, x, noise=noise), expected)


def test_the_scale_is_measured_once_and_goes_with_the_weights(tmp_path):
    (*_, state) = trained(out=tmp_path)
    model, images = state.ema_model, digits()
    assert model.scale == 1
    latents = model.encode_set(images, batch_size=10)
    assert latents.pixels.std().item() == pytest.approx(1, abs=1e-5) and not latents.bounded
    assert torch.equal(latents.labels, images.labels) and latents.classes == images.classes
    scale = model.scale.clone()
    torch.testing.assert_close(scale, 1 / (model.encode(images.images) / scale).std())
    model.encode_set(ImageSet(images.pixels[:5], images.labels[:5]))
    assert torch.equal(model.scale, scale)
    save_model(tmp_path / "m.safetensors", model, Reconstruction())
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert type(loaded) is Autoencoder and torch.equal(loaded.scale, scale)
    torch.testing.assert_close(loaded.encode(images.images), latents.pixels, atol=1e-5, rtol=1e-5)


def test_decoding_undoes_the_scale():
    model = Autoencoder(**SMALL)
    latents = torch.randn(2, 3, 2, 2)
    plain = model.decode(latents)
    model.scale.fill_(4.0)
    torch.testing.assert_close(model.decode(4 * latents), plain)


def test_it_learns_by_the_loop_of_the_course_and_resumes(tmp_path):
    losses = [state.loss for state in trained(out=tmp_path / "a", validation=digits(20, "test"), validate_every=10)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    begun = trained(out=tmp_path / "b")
    for _ in range(12):
        next(begun)
    begun.close()
    assert [state.loss for state in trained(out=tmp_path / "b")] == losses[11:]
    with pytest.raises(ValueError, match="none, KL weight 0.001.*but this training has 'none, KL weight 0.1"):
        next(train(Autoencoder(**SMALL), Reconstruction(0.1), digits(), steps=30, out=tmp_path / "b", **OPTIONS))
    model, _ = load_model(tmp_path / "a" / "model.safetensors")
    twice = [validation_loss(model, Reconstruction(), digits(), points=2) for _ in range(2)]
    assert torch.equal(*twice)


def test_diffusion_in_latents():
    """They leave [-1, 1], which `train` admits of latents alone; what is drawn is decoded, then clamped."""
    (*_, state) = trained()
    latents = state.ema_model.encode_set(digits())
    assert latents.pixels.abs().max() > 1.5
    options = dict(in_channels=3, stem=1)
    (*_, last) = train(tiny_unet(**options), tiny_diffusion(), latents, steps=2, validation=latents, **OPTIONS)
    assert last.step == 2
    with pytest.raises(ValueError, match=r"images must lie in \[-1, 1\], got values from"):
        next(train(tiny_unet(**options), tiny_diffusion(), latents.pixels, steps=2, **OPTIONS))
    draw = dict(y=[1, 2, 3], sampler="ddim", steps=3, batch_size=2)
    raw = generate(last.ema_model, tiny_diffusion(), 3, (3, 2, 2), **draw, decode=lambda x: x / 1000) * 1000
    drawn = generate(last.ema_model, tiny_diffusion(), 3, (3, 2, 2), **draw, decode=state.ema_model.decode)
    assert raw.abs().max() > 1 and drawn.shape == (3, 1, 8, 8) and not drawn.requires_grad
    torch.testing.assert_close(drawn, state.ema_model.decode(raw).clamp(-1, 1), atol=1e-4, rtol=1e-4)
    clipped = generate(last.ema_model, tiny_diffusion(), 3, (3, 2, 2), **draw, clip=True, decode=lambda x: x / 1000)
    assert (1000 * clipped).abs().max() <= 1 + 1e-4


def test_bad_sizes():
    with pytest.raises(ValueError, match="height and width must be multiples of 4, got 8x10"):
        Autoencoder(**SMALL).encode(torch.zeros(1, 1, 8, 10))
    with pytest.raises(ValueError, match="latent_channels must be a whole number of at least 1, got 0"):
        Autoencoder(latent_channels=0)
    with pytest.raises(ValueError, match="kl_weight must be a number of at least 0, got -1"):
        Reconstruction(-1)
    with pytest.raises(ValueError, match="latent_channels must be at most 16, got 17"):
        Autoencoder(1, 16, latent_channels=17)


def test_colour_and_as_many_latents_as_there_can_be():
    model, x = Autoencoder(3, 16, latent_channels=48), torch.randn(2, 3, 8, 12)
    latents = model.encode(x)
    assert latents.shape == (2, 48, 2, 3) and model.decode(latents).shape == x.shape
    image, divergences = model(x, torch.randn_like(x))
    assert image.shape == x.shape and divergences.shape == latents.shape
