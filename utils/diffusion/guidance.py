"""Guidance: a network that is told a class, pushed further towards it while it samples.

    sample(model, diffusion, shape, y=y, guidance=2.0)
    sample(model, diffusion, shape, y=y, guidance=ClassifierFreeGuidance(2.0, interval=(200, 800)))

A guidance makes another network of a network: guided = guidance(model, diffusion) is called as guided(x_t, t, y) and
answers in the same form, so that every sampler can use it. Two answers are mixed as the network gives them. For one x_t
the estimates of noise, x_0 and v follow from each other by a multiplication and an addition, and the weights of the
mixture add to 1: so mixing any one of them mixes all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from utils.diffusion.checks import check_labels, check_numbers
from utils.diffusion.process import GaussianDiffusion, answer


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """output = (1 - weight) other + weight conditional (Ho & Salimans 2022, eq. 6, whose w is weight - 1).

    weight: 0 is the other answer alone, 1 the plain conditional network, above 1 goes on in that direction.
    interval: (first, last) timestep, 0..T-1, at which it guides; elsewhere weight is 1 (Kynkäänniemi et al. 2024).
    negative: a class whose answer is the other one; num_classes, as by default, for that without a label.
    weaker: a network in evaluation mode that gives the other answer, for the same label (Karras et al. 2024).
    rescale: 0..1, how far the output's standard deviation, per image, returns to that of the conditional one (Lin et
        al. 2023, eq. 15 and 16).
    Raises ValueError for other numbers, and when called for labels that are missing, a network without classes, an
    interval outside 0..T-1, a negative label that is no class.
    """

    weight: float
    interval: tuple[int, int] | None = None
    negative: int | None = None
    weaker: nn.Module | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        vars(self).update(check_numbers(weight=self.weight, rescale=self.rescale, negative=self.negative))
        if self.negative is not None and self.weaker is not None:
            raise ValueError(f"the other answer is of a weaker network, or of class {self.negative}; give one of them")

    def __call__(self, model: nn.Module, diffusion: GaussianDiffusion) -> Callable[..., Tensor]:
        classes, last = getattr(model, "num_classes", None), diffusion.num_timesteps - 1
        if self.weaker is None and classes is None:
            raise ValueError("guidance needs a network with classes, got one without: build it with num_classes=...")
        if self.negative is not None:
            check_labels(torch.tensor([self.negative]), classes, True, getattr(model, "encoder_name", None))
        ends = (0, last) if self.interval is None else tuple(self.interval)
        if len(ends) != 2 or not all(end in range(last + 1) for end in ends) or ends[0] > ends[1]:
            raise ValueError(f"interval must be two timesteps of 0..{last}, the lower first; got {self.interval!r}")
        return partial(self.output, model, diffusion, *ends)

    def output(self, model, diffusion, low: int, high: int, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None and self.weaker is None:
            raise ValueError("guidance needs labels, and there are none: give y, the class of each image")
        inside = (low <= t) & (t <= high)
        if self.weight == 1 or (self.interval is not None and not inside.any()):
            return answer(model, x_t, t, y, diffusion.parts)
        if self.weaker is not None:
            answers = answer(model, x_t, t, y, diffusion.parts), answer(self.weaker, x_t, t, y, diffusion.parts)
        else:  # both in one batch of 2B images
            others = torch.full_like(y, model.num_classes if self.negative is None else self.negative)
            batch = torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, others])
            answers = answer(model, *batch, diffusion.parts).chunk(2)
        channels = x_t.shape[1]  # a learned variance, in the channels after these, stays the conditional answer's
        conditional, other = (one[:, :channels] for one in answers)
        guided = torch.lerp(other, conditional, _beside(x_t, 1 + (self.weight - 1) * inside.to(x_t.dtype)))
        if self.rescale:
            back = _beside(x_t, conditional.flatten(1).std(1) / guided.flatten(1).std(1))
            guided = guided * (1 + self.rescale * (back - 1))
        return torch.cat([guided, answers[0][:, channels:]], dim=1)


@dataclass(frozen=True)
class ClassifierGuidance:
    """The noise estimate less scale * sigma_t * gradient of log p(y | x_t) (Dhariwal & Nichol 2021, Algorithm 2).

    In a DDPM step this moves the mean by scale * beta_t / sqrt(alpha_t) times the gradient; their Algorithm 1, by
    scale * Sigma times it. For small steps the two are the same.

    classifier: called as classifier(x_t, t), returns log-probabilities or logits (B, classes); differentiable.
    scale: 1 samples p(x | y), if classifier and network are exact; above 1 is more certain of y.
    labelled: whether the network sees the label too.
    """

    classifier: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0
    labelled: bool = False

    def __post_init__(self) -> None:
        vars(self).update(check_numbers(scale=self.scale))

    def __call__(self, model: nn.Module, diffusion: GaussianDiffusion) -> Callable[..., Tensor]:
        return partial(self.output, model, diffusion)

    def output(self, model, diffusion, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            raise ValueError("guidance needs labels, and there are none: give y, the class of each image")
        plain = answer(model, x_t, t, y if self.labelled else None, diffusion.parts)
        image, rest = plain[:, : x_t.shape[1]], plain[:, x_t.shape[1] :]
        signal, sigma = diffusion.signal_and_noise(t, x_t)
        push = self.scale * sigma * self.gradient(x_t, t, y)
        noise = diffusion.to_noise(image, x_t, t) - push
        x_0 = diffusion.to_x_0(image, x_t, t) + sigma / signal * push
        return torch.cat([diffusion.target(x_0, noise, t), rest], dim=1)

    def gradient(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The gradient of log p(y | x_t) with respect to x_t; of its shape."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            log_p = self.classifier(x, t).log_softmax(1)
            check_labels(y, log_p.shape[1])
            return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]


def dynamic_threshold(x_0: Tensor, quantile: float = 0.995) -> Tensor:
    """x_0 clamped to [-s, s] and divided by s: this quantile of its absolute values, per image, at least 1.

    Saharia et al. 2022, section 2.3. Use: sample(..., clip=dynamic_threshold).
    """
    quantile = check_numbers(quantile=quantile)["quantile"]
    s = _beside(x_0, x_0.abs().flatten(1).quantile(quantile, dim=1).clamp(min=1))
    return x_0.clamp(-s, s) / s


def _beside(images: Tensor, numbers: Tensor) -> Tensor:
    """One number per image (B,), shaped (B, 1, ...) to multiply images (B, ...)."""
    return numbers.view(-1, *[1] * (images.ndim - 1))
