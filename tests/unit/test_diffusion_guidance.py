"""Guidance: closed forms on a mixture, what is the same as without it, how often the network is asked, bad input."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from tests.exact_models import LabelledMixture
from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance, dynamic_threshold
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.sampling import SAMPLERS, generate, sample
from utils.diffusion.schedules import NoiseSchedule

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
CENTRES = torch.tensor([[-1.0, -0.25], [0.75, -0.5], [0.25, 1.0]], dtype=torch.float64)
CLASSES, WIDTH = torch.tensor([0, 1, 1]), 0.4


def mixture(prediction="v", num_timesteps=100):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(num_timesteps), prediction)
    return LabelledMixture(diffusion, WEIGHTS, CENTRES, WIDTH, CLASSES), diffusion


def density(a, kept):
    """The distribution of x_t, of the components that are kept, as PyTorch has it."""
    covariance = (a * WIDTH**2 + 1 - a) * torch.eye(2).double()
    normal = torch.distributions.MultivariateNormal(a**0.5 * CENTRES[kept], covariance)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(WEIGHTS[kept]), normal)


def score_of(density, x_t):
    """The gradient of the log-density."""
    x = x_t.clone().requires_grad_()
    return torch.autograd.grad(density.log_prob(x).sum(), x)[0]


def guided_score(guidance, prediction, x_t, t, y):
    model, diffusion = mixture(prediction)
    ts, ys = torch.full((len(x_t),), t), torch.full((len(x_t),), y)
    noise = diffusion.to_noise(guidance(model, diffusion)(x_t, ts, ys), x_t, ts)
    return -noise / (1 - diffusion.schedule.alphas_cumprod[t]).sqrt()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [0, 30, 70, 98])
def test_the_guided_score_is_the_formula_s(prediction, t):
    """Scores by automatic differentiation of PyTorch's own mixture; 1e-8, and 1e-6 where alpha-bar is near 0."""
    x_t = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(t))
    a = mixture(prediction)[1].schedule.alphas_cumprod[t]
    plain, of_1, of_0 = (score_of(density(a, kept), x_t) for kept in (CLASSES >= 0, CLASSES == 1, CLASSES == 0))
    for w in (-0.5, 0.0, 1.0, 1.7, 8.0):
        seen = guided_score(ClassifierFreeGuidance(w), prediction, x_t, t, 1)
        torch.testing.assert_close(seen, (1 - w) * plain + w * of_1, rtol=1e-6, atol=1e-8)
        seen = guided_score(ClassifierFreeGuidance(w, negative=0), prediction, x_t, t, 1)
        torch.testing.assert_close(seen, (1 - w) * of_0 + w * of_1, rtol=1e-6, atol=1e-8)
        seen = guided_score(ClassifierGuidance(mixture()[0].log_joint, w), prediction, x_t, t, 1)
        torch.testing.assert_close(seen, plain + w * (of_1 - plain), rtol=1e-6, atol=1e-8)
        told = ClassifierGuidance(mixture()[0].log_joint, w, labelled=True)
        seen = guided_score(told, prediction, x_t, t, 1)
        torch.testing.assert_close(seen, of_1 + w * (of_1 - plain), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sampler, steps", [("ddpm", 500), ("ddim", 250), ("dpmpp_2m", 50)])
def test_an_exact_classifier_at_scale_1_samples_the_class(sampler, steps):
    """An unconditional network and the gradient of log p(y | x_t): the two components of class 1, as they are."""
    count, (model, diffusion) = 3000, mixture("noise", 500)
    x_T = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = dict(guidance=ClassifierGuidance(model.log_joint), y=[1] * count, x_T=x_T, clip=False)
    generator = torch.Generator().manual_seed(1)
    *_, last = sample(model, diffusion, x_T.shape, sampler=sampler, steps=steps, generator=generator, **options)
    share, centres = WEIGHTS[1:] / WEIGHTS[1:].sum(), CENTRES[1:]
    mean = share @ centres
    covariance = (share[:, None] * (centres - mean)).T @ (centres - mean) + WIDTH**2 * torch.eye(2)
    # Four standard errors, and 2% of the spread for the finite number of steps.
    spread = covariance.diagonal().sqrt()
    assert ((last.x_t.mean(0) - mean).abs() < (4 / math.sqrt(count) + 0.02) * spread).all()
    assert (last.x_t.T.cov() - covariance).abs().max() < (4 * math.sqrt(2 / count) + 0.02) * covariance.max()


# -- the same as without ---------------------------------------------------------------------------


def awake(**options):
    """A network whose answers differ from label to label and from one timestep to the next."""
    model = tiny_unet(**options)
    for name, weight in model.named_parameters():
        if "head.2" in name or "conv2" in name or "class_embedding" in name:
            nn.init.normal_(weight, std=0.2)
    return model.eval()


SHAPE, Y = (4, 1, 8, 8), torch.tensor([3, 3, 1, 9])


def drawn(model=None, diffusion=None, sampler="ddim", steps=5, y=Y, **options):
    generator = torch.Generator().manual_seed(0)
    diffusion = diffusion or tiny_diffusion()
    states = sample(
        model or awake(), diffusion, SHAPE, sampler=sampler, steps=steps, y=y, generator=generator, **options
    )
    return [state.x_t for state in states]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_weight_1_changes_nothing_and_0_takes_the_label_away(sampler):
    plain, unconditional = drawn(sampler=sampler), drawn(sampler=sampler, y=None)
    assert all(map(torch.equal, drawn(sampler=sampler, guidance=1), plain))
    for seen, expected in zip(drawn(sampler=sampler, guidance=0.0), unconditional, strict=True):
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    almost = drawn(sampler=sampler, guidance=1 + 1e-12)  # both halves are asked
    torch.testing.assert_close(almost, plain, rtol=1e-4, atol=1e-5)
    more = drawn(sampler=sampler, guidance=3.0)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in [*zip(more, plain), *zip(more, unconditional)])


def test_both_halves_are_one_batch_and_outside_the_interval_there_is_one():
    sizes, model = [], awake()
    model.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    plain = drawn(model)
    assert sizes == [4] * 5
    sizes.clear()
    drawn(model, guidance=1.0)
    assert sizes == [4] * 5
    sizes.clear()
    drawn(model, guidance=2.0)
    assert sizes == [8] * 5
    sizes.clear()
    states = drawn(model, guidance=ClassifierFreeGuidance(2.0, interval=(19, 29)))  # of 49, 39, 29, 19, 9
    assert sizes == [4, 4, 8, 8, 4]
    assert [torch.equal(a, b) for a, b in zip(states, plain)] == [True, True, False, False, False]


def test_images_at_different_timesteps_are_guided_each_by_its_own():
    model, diffusion, x_t, t = awake(), tiny_diffusion(), torch.randn(SHAPE), torch.tensor([5, 20, 30, 45])
    guided = ClassifierFreeGuidance(3.0, interval=(20, 30))(model, diffusion)(x_t, t, Y)
    everywhere, plain = ClassifierFreeGuidance(3.0)(model, diffusion)(x_t, t, Y), model(x_t, t, Y)
    torch.testing.assert_close(guided[1:3], everywhere[1:3])
    torch.testing.assert_close(guided[[0, 3]], plain[[0, 3]])
    assert not torch.allclose(everywhere, plain, atol=1e-2)


def test_a_weaker_network_gives_the_other_answer():
    model, weaker, diffusion = awake(), awake(seed=1), tiny_diffusion()
    x_t, t = torch.randn(SHAPE), torch.tensor([5, 20, 30, 45])
    for y in (Y, None):
        seen = ClassifierFreeGuidance(2.5, weaker=weaker)(model, diffusion)(x_t, t, y)
        torch.testing.assert_close(seen, 2.5 * model(x_t, t, y) - 1.5 * weaker(x_t, t, y), rtol=1e-4, atol=1e-5)
    unlabelled = tiny_unet(num_classes=None).eval()
    assert len(drawn(unlabelled, y=None, guidance=ClassifierFreeGuidance(2.0, weaker=unlabelled))) == 5


def test_rescaling_gives_the_spread_back():
    model, diffusion, x_t, t = awake(), tiny_diffusion(), torch.randn(SHAPE), torch.tensor([5, 20, 30, 45])
    answers = [ClassifierFreeGuidance(6.0, rescale=r)(model, diffusion)(x_t, t, Y) for r in (0.0, 0.5, 1.0)]
    none, half, whole = (answer.flatten(1).std(1) for answer in answers)
    own = model(x_t, t, Y).flatten(1).std(1)
    torch.testing.assert_close(whole, own)
    torch.testing.assert_close(half, (none + own) / 2)
    torch.testing.assert_close(answers[2] / answers[0], (own / none).view(-1, 1, 1, 1).expand(SHAPE), rtol=1e-3, atol=0)


def test_dynamic_threshold():
    x_0 = torch.cat([torch.linspace(-3, 1.5, 64).view(1, 1, 8, 8), torch.linspace(-0.5, 0.9, 64).view(1, 1, 8, 8)])
    seen = dynamic_threshold(x_0, 0.9)
    s = x_0[0].abs().flatten().quantile(0.9)
    torch.testing.assert_close(seen[0], x_0[0].clamp(-s, s) / s)
    assert seen.abs().max() == 1 and torch.equal(seen[1], x_0[1])
    big = [drawn(guidance=8.0, clip=clip)[-1] for clip in (True, partial(dynamic_threshold, quantile=0.8))]
    assert all(x.abs().max() <= 1 for x in big) and not torch.allclose(*big, atol=1e-2)
    with pytest.raises(ValueError, match="quantile must be a number from 0 to 1, got 99.5"):
        dynamic_threshold(x_0, 99.5)


def test_a_learned_variance_stays_that_of_the_conditional_answer():
    model, x_t, t = awake(out_channels=2), torch.randn(SHAPE), torch.tensor([5, 20, 30, 45])
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(50), variance="learned")
    conditional, other = model(x_t, t, Y), model(x_t, t)
    classifier = ClassifierGuidance(lambda x, t: -x.flatten(1)[:, :10].square(), labelled=True)
    for guidance in (ClassifierFreeGuidance(3.0, rescale=0.5), classifier):
        seen = guidance(model, diffusion)(x_t, t, Y)
        assert seen.shape == (4, 2, 8, 8)
        torch.testing.assert_close(seen[:, 1:], conditional[:, 1:])
        assert not torch.allclose(seen[:, :1], conditional[:, :1], atol=1e-3)
    assert not torch.allclose(conditional[:, 1:], other[:, 1:], atol=1e-2)
    assert len(drawn(model, diffusion, sampler="ddpm", guidance=2.0)) == 5


def test_generate_guides_every_batch():
    model, diffusion = awake(), tiny_diffusion()
    options = dict(image_shape=(1, 8, 8), sampler="ddim", steps=3, batch_size=4)
    guided, plain = (generate(model, diffusion, 6, y=[1] * 6, guidance=g, **options) for g in (4.0, None))
    assert guided.shape == plain.shape and not torch.allclose(guided[4:], plain[4:], atol=1e-2)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, "much", None, [1, 2]])
def test_weights_that_are_no_numbers(bad):
    for name, make in [("weight", ClassifierFreeGuidance), ("scale", partial(ClassifierGuidance, print))]:
        with pytest.raises(ValueError, match=f"{name} must be a finite number, got "):
            make(bad)
    if bad is not None:
        with pytest.raises(ValueError, match="weight must be a finite number, got "):
            drawn(guidance=bad)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(interval=(0, 50)), r"interval must be two timesteps of 0..49, the lower first; got \(0, 50\)"),
        (dict(interval=(-1, 20)), r"interval must be two timesteps of 0..49, the lower first; got \(-1, 20\)"),
        (dict(interval=(30, 20)), r"interval must be two timesteps of 0..49, the lower first; got \(30, 20\)"),
        (dict(interval=(30,)), r"interval must be two timesteps of 0..49, the lower first; got \(30,\)"),
        (dict(interval="all"), "interval must be two timesteps of 0..49, the lower first; got 'all'"),
        (dict(negative=11), r"label 11 is outside the classes 0..9"),
        (dict(negative=-1), r"label -1 is outside the classes 0..9"),
        (dict(negative=0.5), "negative must be a whole number, got 0.5"),
        (dict(rescale=1.5), "rescale must be a number from 0 to 1, got 1.5"),
        (dict(negative=1, weaker=tiny_unet()), "of a weaker network, or of class 1; give one of them"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(guidance=ClassifierFreeGuidance(2.0, **options))


def test_no_labels_no_classes():
    classifier = ClassifierGuidance(lambda x, t: x.flatten(1)[:, :10])
    for guidance in (1.0, 2.0, ClassifierFreeGuidance(2.0, negative=3), classifier):
        with pytest.raises(ValueError, match="guidance needs labels, and there are none: give y"):
            drawn(y=None, guidance=guidance)
    for guidance in (2.0, ClassifierFreeGuidance(2.0, negative=3)):
        with pytest.raises(ValueError, match="guidance needs a network with classes, got one without"):
            drawn(tiny_unet(num_classes=None), guidance=guidance)
    with pytest.raises(ValueError, match=r"label 12 is outside the classes 0..9"):
        drawn(tiny_unet(num_classes=None), y=[12] * 4, guidance=classifier)
