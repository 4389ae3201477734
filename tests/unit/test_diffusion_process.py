"""Schedules, the forward process, its posterior, conversions and the loss."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.exact_models import GaussianModel
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion, posterior_weights
from utils.diffusion.schedules import SCHEDULES, NoiseSchedule

LENGTHS = [1, 10, 200, 1000]


@pytest.mark.parametrize("num_timesteps", LENGTHS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_consistent(name, num_timesteps):
    s = NoiseSchedule.named(name, num_timesteps)
    assert s.num_timesteps == num_timesteps and s.name == name
    product = 1.0
    for t in range(num_timesteps):  # alpha-bar by its definition, one factor at a time
        assert s.alphas_cumprod_prev[t].item() == pytest.approx(product, rel=1e-12)
        product *= 1 - s.betas[t].item()
        assert s.alphas_cumprod[t].item() == pytest.approx(product, rel=1e-12)
        assert s.snr[t].item() == pytest.approx(product / (1 - product), rel=1e-9)
    for tensor in (s.betas, s.alphas, s.alphas_cumprod, s.alphas_cumprod_prev, s.snr):
        assert tensor.dtype == torch.float64 and tensor.shape == (num_timesteps,)
    assert (s.betas > 0).all() and (s.betas < 1).all()
    assert (s.alphas_cumprod.diff() < 0).all() and (s.snr.diff() < 0).all()


@pytest.mark.parametrize("num_timesteps", LENGTHS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_last_image_is_noise_whatever_the_length(name, num_timesteps):
    signal = NoiseSchedule.named(name, num_timesteps).alphas_cumprod[-1].sqrt().item()
    assert signal < 0.05  # one step of the largest beta, 0.999, leaves 0.032


def test_unscaled_betas_leave_signal_in_a_short_schedule():
    """What goes wrong with betas made for 1000 steps at T = 200: more than a third of the image is left."""
    signal = NoiseSchedule.linear(200, rescale=False).alphas_cumprod[-1].sqrt().item()
    assert signal == pytest.approx(0.364, abs=5e-4)
    assert NoiseSchedule.linear(200).alphas_cumprod[-1].sqrt().item() < 0.01


def test_linear_and_cosine_formulas():
    linear = NoiseSchedule.linear(1000)
    assert linear.betas[0].item() == pytest.approx(1e-4) and linear.betas[-1].item() == pytest.approx(0.02)
    assert linear.betas.diff().std() < 1e-12

    def curve(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    cosine = NoiseSchedule.cosine(100).alphas_cumprod
    for t in range(99):
        assert cosine[t].item() == pytest.approx(curve((t + 1) / 100) / curve(0), rel=1e-9)


def test_schedule_keeps_what_it_is_given():
    betas = [0.1, 0.5, 0.2]
    schedule = NoiseSchedule(betas)
    assert schedule.betas.tolist() == betas and schedule.name == "custom"


@pytest.mark.parametrize(
    "betas, seen", [([0.1, 1.0], "1.0"), ([0.1, 0.0], "0.0"), ([-0.5], "-0.5"), ([0.1, float("nan")], "nan")]
)
def test_bad_betas_are_named(betas, seen):
    with pytest.raises(ValueError, match=f"between 0 and 1.*{seen}"):
        NoiseSchedule(betas)


def test_empty_or_nested_betas():
    for betas in ([], [[0.1]]):
        with pytest.raises(ValueError, match="list of at least one number, got shape"):
            NoiseSchedule(torch.tensor(betas))


def test_unknown_schedule_lists_the_valid_ones():
    with pytest.raises(ValueError, match="unknown schedule 'quadratic'; choose one of linear, cosine, sigmoid"):
        NoiseSchedule.named("quadratic")


def test_sigmoid_formula_at_its_default_ends():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    expected = [(sigmoid(3) - sigmoid(6 * k / 4 - 3)) / (sigmoid(3) - sigmoid(-3)) for k in (1, 2, 3)]
    assert NoiseSchedule.sigmoid(4).alphas_cumprod[:3].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_number_of_timesteps_of_numpy_or_torch(name):
    for ten in (np.int64(10), np.uint8(10), torch.tensor(10)):
        assert torch.equal(NoiseSchedule.named(name, ten).betas, NoiseSchedule.named(name, 10).betas)


@pytest.mark.parametrize("num_timesteps", [0, -3, 2.5, "10"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_bad_number_of_timesteps(name, num_timesteps):
    with pytest.raises(ValueError, match=f"num_timesteps must be a whole number of at least 1, got {num_timesteps!r}"):
        NoiseSchedule.named(name, num_timesteps)


# -- forward process and posterior -----------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_closed_form_equals_noise_added_step_by_step(name):
    """Mean and variance of T small steps (Ho et al. 2020, eq. 2), followed exactly, are those of eq. 4."""
    schedule = NoiseSchedule.named(name, 50)
    diffusion, x_0 = GaussianDiffusion(schedule), torch.full((1, 1), 0.7, dtype=torch.float64)
    mean, variance = 0.7, 0.0
    for t, beta in enumerate(schedule.betas.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        ts = torch.tensor([t])
        without, with_one = (diffusion.q_sample(x_0, ts, torch.full_like(x_0, z)).item() for z in (0.0, 1.0))
        assert without == pytest.approx(mean, rel=1e-10)
        assert (with_one - without) ** 2 == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes_rule(name):
    """q(x_{t-1} | x_t, x_0) from the product of two Gaussian densities, written with precisions."""
    schedule = NoiseSchedule.named(name, 30)
    diffusion = GaussianDiffusion(schedule)
    x_0, x_t = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[-1.1]], dtype=torch.float64)
    for t in range(1, 30):
        beta, before = schedule.betas[t].item(), schedule.alphas_cumprod[t - 1].item()
        # x_{t-1} ~ N(sqrt(before) x_0, 1 - before), and x_t ~ N(sqrt(1 - beta) x_{t-1}, beta).
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = (math.sqrt(before) * 0.3 / (1 - before) + math.sqrt(1 - beta) * -1.1 / beta) / precision
        seen_mean, seen_variance = diffusion.q_posterior(x_0, x_t, torch.tensor([t]))
        assert seen_mean.item() == pytest.approx(mean, rel=1e-8)
        assert seen_variance.item() == pytest.approx(1 / precision, rel=1e-8)


def test_posterior_at_the_first_step_is_x_0():
    x_0, x_t = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    mean, variance = GaussianDiffusion(NoiseSchedule.cosine(10)).q_posterior(x_0, x_t, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(mean, x_0)
    assert variance.shape == (3, 1, 1, 1) and (variance == 0).all()


def test_each_image_gets_its_own_timestep():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(100))
    x_0, noise, t = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.tensor([0, 30, 60, 99])
    together = diffusion.q_sample(x_0, t, noise)
    for i in range(4):
        one = slice(i, i + 1)
        torch.testing.assert_close(together[one], diffusion.q_sample(x_0[one], t[one], noise[one]))


def test_q_sample_draws_its_own_noise():
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100))
    x_t = diffusion.q_sample(torch.zeros(20_000, 1), torch.full((20_000,), 50))
    expected = 1 - diffusion.schedule.alphas_cumprod[50].item()
    assert x_t.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_dtype_of_the_images_is_kept(prediction, dtype):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(10), prediction)
    x, t = torch.randn(2, 1, 4, 4, dtype=dtype), torch.tensor([1, 9])
    results = [
        diffusion.q_sample(x, t),
        *diffusion.q_posterior(x, x, t),
        diffusion.target(x, x, t),
        diffusion.to_x_0(x, x, t),
        diffusion.to_noise(x, x, t),
    ]
    assert {r.dtype for r in results} == {dtype}


# -- targets ---------------------------------------------------------------------------------------


@given(
    t=st.integers(0, 99),
    prediction=st.sampled_from(PREDICTIONS),
    name=st.sampled_from(SCHEDULES),
    x=st.floats(-1, 1),
    z=st.floats(-4, 4),
)
def test_conversions_go_there_and_back(t, prediction, name, x, z):
    diffusion = GaussianDiffusion(NoiseSchedule.named(name, 100), prediction)
    x_0, noise, ts = (torch.tensor([[value]], dtype=torch.float64) for value in (x, z, 0))
    ts = torch.tensor([t])
    x_t = diffusion.q_sample(x_0, ts, noise)
    output = diffusion.target(x_0, noise, ts)
    # Dividing by sqrt(alpha-bar), 5e-4 and more here, costs four of the sixteen digits.
    torch.testing.assert_close(diffusion.to_x_0(output, x_t, ts), x_0, rtol=0, atol=1e-10)
    torch.testing.assert_close(diffusion.to_noise(output, x_t, ts), noise, rtol=0, atol=1e-10)


def test_v_is_the_definition_of_salimans_and_ho():
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), "v")
    x_0, noise, t = torch.randn(5, 2), torch.randn(5, 2), torch.tensor([0, 20, 50, 80, 99])
    a = diffusion.schedule.alphas_cumprod[t].float()[:, None]
    torch.testing.assert_close(diffusion.target(x_0, noise, t), a.sqrt() * noise - (1 - a).sqrt() * x_0)


def test_unknown_prediction_lists_the_valid_ones():
    with pytest.raises(ValueError, match="unknown prediction 'score'; choose one of noise, x_0, v"):
        GaussianDiffusion(NoiseSchedule.cosine(10), "score")


# -- loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_is_the_mean_squared_error_to_the_target(prediction):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100), prediction)
    x_0, noise, t = torch.rand(4, 1, 3, 3) * 2 - 1, torch.randn(4, 1, 3, 3), torch.tensor([0, 10, 50, 99])
    output = torch.randn(4, 1, 3, 3)
    each = (output - diffusion.target(x_0, noise, t)).square().mean((1, 2, 3))
    torch.testing.assert_close(diffusion.loss(lambda x, t: output, x_0, t, noise, reduction="none"), each)
    torch.testing.assert_close(diffusion.loss(lambda x, t: output, x_0, t, noise), each.mean())
    perfect = diffusion.loss(lambda x, t: diffusion.target(x_0, noise, t), x_0, t, noise)
    assert perfect.item() == 0


def test_loss_shows_the_network_the_noisy_image_and_labels():
    diffusion, seen = GaussianDiffusion(NoiseSchedule.cosine(100), "noise"), {}

    def model(x_t, t, y=None):
        seen.update(x_t=x_t, t=t, y=y)
        return torch.zeros_like(x_t)

    x_0, noise = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    t, y = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    diffusion.loss(model, x_0, t, noise, y)
    torch.testing.assert_close(seen["x_t"], diffusion.q_sample(x_0, t, noise))
    assert seen["t"] is t and seen["y"] is y
    diffusion.loss(model, x_0, t, noise)
    assert seen["y"] is None


def test_loss_draws_all_timesteps_equally_often():
    diffusion, drawn = GaussianDiffusion(NoiseSchedule.cosine(5), "noise"), []

    def model(x_t, t):
        drawn.append(t)
        return x_t

    diffusion.loss(model, torch.zeros(20_000, 1))
    share = torch.bincount(drawn[0], minlength=5) / 20_000
    assert (share - 0.2).abs().max() < 5 * math.sqrt(0.2 * 0.8 / 20_000)


def test_unknown_reduction():
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(5))
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
        diffusion.loss(lambda x, t: pytest.fail("the network ran"), torch.zeros(2, 1), reduction="sum")


class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.5, dtype=dtype))

    def forward(self, x_t, t, y=None):
        assert x_t.dtype == self.weight.dtype
        return x_t * self.weight


@pytest.mark.parametrize("images", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_loss_of_networks_and_images_in_other_formats(weights, images):
    """Both are cast, and the error itself is float32 or float64."""
    diffusion, pixels = GaussianDiffusion(NoiseSchedule.cosine(100)), torch.arange(0, 256, 8).view(2, 1, 4, 4)
    x_0, noise, t = pixels / 127.5 - 1, torch.randn(2, 1, 4, 4), torch.tensor([10, 80])
    expected = diffusion.loss(Net(torch.float32), x_0, t, noise)
    given = pixels.to(torch.uint8) if images == torch.uint8 else x_0.to(images)
    loss = diffusion.loss(Net(weights), given, t, noise)
    assert loss.dtype == (torch.float64 if images == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-2)


def test_loss_of_whole_numbers_or_of_an_answer_of_another_shape():
    diffusion, x_0 = GaussianDiffusion(NoiseSchedule.cosine(10)), torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="images must be uint8 0..255 or floats in .*, got torch.int64"):
        diffusion.loss(lambda x, t: x, x_0.long())
    for output, seen in [(x_0[:, :1], r"\(2, 1, 4, 4\)"), ([x_0], "list")]:
        with pytest.raises(ValueError, match=rf"tensor of the images' shape \(2, 3, 4, 4\), got {seen}"):
            diffusion.loss(lambda x, t, output=output: output, x_0)


# -- bad timesteps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 100, 1000])
@pytest.mark.parametrize("method", ["q_sample", "q_posterior", "to_x_0", "to_noise", "loss"])
def test_timestep_outside_the_schedule(method, bad):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(100))
    x, t = torch.zeros(2, 1, 4, 4), torch.tensor([5, bad])
    calls = {
        "q_sample": lambda: diffusion.q_sample(x, t),
        "q_posterior": lambda: diffusion.q_posterior(x, x, t),
        "to_x_0": lambda: diffusion.to_x_0(x, x, t),
        "to_noise": lambda: diffusion.to_noise(x, x, t),
        "loss": lambda: diffusion.loss(lambda x, t: x, x, t),
    }
    with pytest.raises(ValueError, match=rf"t must lie in 0..99 \(T = 100\), got {bad}"):
        calls[method]()


def test_values_of_timesteps_are_not_looked_at_elsewhere_than_on_the_cpu():
    """On the meta device nothing has a value: whatever looked at one would raise, as it would make a GPU wait."""
    x, t = torch.zeros(2, 1, 4, 4, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(10))
    assert diffusion.loss(lambda x, t: x, x, t).shape == ()
    assert diffusion.q_posterior(x, x, t)[0].shape == diffusion.to_x_0(x, x, t).shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match="one timestep per image"):
        diffusion.q_sample(x, t[:1])


@pytest.mark.parametrize("t", [torch.tensor([1.0, 2.0]), torch.tensor([1]), torch.tensor(1), 3, [1, 2]])
def test_timestep_of_the_wrong_kind(t):
    with pytest.raises(ValueError, match=r"integer tensor of shape \(2,\), one timestep per image"):
        GaussianDiffusion(NoiseSchedule.cosine(10)).q_sample(torch.zeros(2, 1), t)


# -- a learned variance ----------------------------------------------------------------------------


def term_by_hand(x_0_estimate, fraction, x_0, x_t, t, schedule):
    """Nichol & Dhariwal 2021, eq. 4 to 7 and 15, in NumPy and SciPy, for one timestep: bits per dimension, (B,)."""
    beta, a_bar, before = (x.numpy() for x in (schedule.betas, schedule.alphas_cumprod, schedule.alphas_cumprod_prev))
    tilde = (1 - before) / (1 - a_bar) * beta
    guess, x_0, x_t, fraction = (np.asarray(x, dtype=np.float64) for x in (x_0_estimate, x_0, x_t, fraction))

    def mean(image):
        scale = 1 - a_bar[t]
        return before[t] ** 0.5 * beta[t] / scale * image + (1 - beta[t]) ** 0.5 * (1 - before[t]) / scale * x_t

    log_variance = fraction * np.log(beta[t]) + (1 - fraction) * np.log(tilde[max(t, 1)])
    if t == 0:
        edges = np.linspace(-1, 1, 256)[:-1] + 1 / 255
        bins = np.concatenate([[-np.inf], edges, [np.inf]])
        value = np.rint((x_0 + 1) * 127.5).astype(int)
        above, below = ((bins[value + k] - mean(guess)) / np.exp(log_variance / 2) for k in (1, 0))
        nats = -np.log(np.maximum(scipy.stats.norm.cdf(above) - scipy.stats.norm.cdf(below), 1e-12))
    else:
        gap = (mean(x_0) - mean(guess)) ** 2
        variance = np.exp(log_variance)
        nats = 0.5 * (log_variance - np.log(tilde[t]) + (tilde[t] + gap) / variance - 1)
    return torch.tensor(nats.reshape(len(nats), -1).mean(1) / np.log(2))


@pytest.mark.parametrize("t", [0, 1, 2, 20, 49])
@pytest.mark.parametrize("fraction", [0.0, 1.0, None])
def test_terms_of_the_bound(t, fraction):
    schedule, generator = NoiseSchedule.cosine(50), torch.Generator().manual_seed(t)
    pixels = torch.tensor([0, 255, 1, 128, 77, 254]).repeat(3, 4).view(3, 2, 3, 4)
    x_0, noise = pixels.double() / 127.5 - 1, torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64)
    diffusion, ts = GaussianDiffusion(schedule, variance="learned"), torch.full((3,), t)
    x_t, guess = diffusion.q_sample(x_0, ts, noise), x_0 + 0.02 * noise.roll(1, 0)
    fraction = torch.rand(x_0.shape, generator=generator).double() * 1.4 - 0.2 if fraction is None else fraction
    expected = term_by_hand(guess, fraction, x_0, x_t, t, schedule)
    seen = diffusion.bound_terms(guess, fraction, x_0, x_t, ts)
    torch.testing.assert_close(seen, expected, rtol=1e-7, atol=1e-9)
    in_float32 = (x.float() for x in (guess, torch.as_tensor(fraction), x_0, x_t))
    torch.testing.assert_close(diffusion.bound_terms(*in_float32, ts).double(), expected, rtol=5e-3, atol=1e-4)


def test_the_bound_of_a_perfect_model_comes_near_to_the_entropy():
    """8-bit pixels from a normal distribution: log2(std sqrt(2 pi e) / bin) bits each, and the bound lies above.

    It is least for the variance that a reverse step has: beta-tilde, and that which not knowing x_0 adds.
    """
    diffusion, std, count = GaussianDiffusion(NoiseSchedule.cosine(1000)), 0.25, 20
    model, generator = GaussianModel(diffusion, torch.zeros(1), torch.tensor([std])), torch.Generator().manual_seed(0)
    t = torch.arange(1000).repeat_interleave(count)
    x_0 = std * torch.randn(len(t), 50, generator=generator, dtype=torch.float64)
    x_0 = (x_0.clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    x_t = diffusion.q_sample(x_0, t, torch.randn(x_0.shape, generator=generator, dtype=torch.float64))
    guess, entropy = diffusion.to_x_0(model(x_t, t), x_t, t), math.log2(std * math.sqrt(2 * math.pi * math.e) * 127.5)
    x_0_weight, _, tilde = posterior_weights(diffusion.schedule.alphas_cumprod, diffusion.schedule.alphas_cumprod_prev)
    a_bar = diffusion.schedule.alphas_cumprod
    true = tilde + x_0_weight**2 * std**2 * (1 - a_bar) / (a_bar * std**2 + 1 - a_bar)
    (best,) = diffusion.at(t, x_t, (true / tilde).log() / (diffusion.schedule.betas / tilde).log())
    best = best.nan_to_num(1.0)  # at t = 0 tilde is 0
    terms = [diffusion.bound_terms(guess, fraction, x_0, x_t, t).sum().item() / count for fraction in (0.0, 1.0, best)]
    small, large, learned = terms
    assert entropy - 0.03 < learned < min(small, large) and learned < entropy + 0.1, (entropy, terms)


def halves(scale):
    """A network with one number for each half of its answer."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
    model.forward = lambda x, t: torch.cat([model.weight[0] * x, model.weight[1] * x.tanh()], dim=1)
    return model


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_hybrid_loss(prediction):
    """Eq. 16, and its gradient: the bound reaches the variance only, the squared error the prediction only."""
    schedule, t = NoiseSchedule.cosine(50), torch.tensor([0, 1, 20, 45])
    learned, fixed = (GaussianDiffusion(schedule, prediction, variance) for variance in ("learned", "fixed"))
    x_0, noise = torch.rand(4, 1, 4, 4, dtype=torch.float64) * 2 - 1, torch.randn(4, 1, 4, 4, dtype=torch.float64)
    model, x_t = halves([0.9, 0.3]), learned.q_sample(x_0, t, noise)
    simple = fixed.loss(lambda x, t: model(x, t)[:, :1], x_0, t, noise, reduction="none")
    output, between = model(x_t, t).chunk(2, dim=1)
    terms = learned.bound_terms(learned.to_x_0(output, x_t, t), (between + 1) / 2, x_0, x_t, t)
    loss = learned.loss(model, x_0, t, noise, reduction="none")
    torch.testing.assert_close(loss, simple + 0.001 * 50 * terms)
    of_loss, of_simple, of_bound = (torch.autograd.grad(x.sum(), model.weight)[0] for x in (loss, simple, terms))
    torch.testing.assert_close(of_loss[0], of_simple[0])
    torch.testing.assert_close(of_loss[1], 0.001 * 50 * of_bound[1])
    assert of_bound.abs().min() > 1e-3 and of_simple[1] == 0


def test_a_loss_that_is_no_number_is_left_to_the_training():
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(50), variance="learned")
    loss = diffusion.loss(
        lambda x, t: torch.full((2, 2, 4, 4), math.nan), torch.zeros(2, 1, 4, 4), torch.tensor([0, 9])
    )
    assert loss.isnan()


def test_an_unknown_variance_and_an_answer_without_it():
    with pytest.raises(ValueError, match="unknown variance 'free'; choose one of fixed, learned"):
        GaussianDiffusion(NoiseSchedule.cosine(10), variance="free")
    with pytest.raises(ValueError, match="a learned variance needs at least 2 timesteps, got 1"):
        GaussianDiffusion(NoiseSchedule.cosine(1), variance="learned")
    diffusion, x_0 = GaussianDiffusion(NoiseSchedule.cosine(10), variance="learned"), torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"twice the images' channels, .*: \(2, 6, 4, 4\), got \(2, 3, 4, 4\)"):
        diffusion.loss(lambda x, t: x, x_0)
