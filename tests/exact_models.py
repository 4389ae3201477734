"""Networks that are perfect by construction: data whose E[x_0 | x_t] is known in closed form."""

import torch
from torch import Tensor

from utils.diffusion.process import GaussianDiffusion


class PerfectModel:
    """Outputs what `diffusion.prediction` asks for, from the exact E[x_0 | x_t] of the data.

    Subclasses give posterior_mean(x_t, a), where a is alpha-bar. The conversions are written here once more,
    from the definitions, so that those of GaussianDiffusion are tested and not repeated.
    """

    def __init__(self, diffusion: GaussianDiffusion):
        self.diffusion = diffusion

    def posterior_mean(self, x_t: Tensor, a: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        a = self.diffusion.schedule.alphas_cumprod[t].to(x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))
        x_0 = self.posterior_mean(x_t, a)
        noise = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        v = a.sqrt() * noise - (1 - a).sqrt() * x_0
        return {"noise": noise, "x_0": x_0, "v": v}[self.diffusion.prediction]


class GaussianModel(PerfectModel):
    """For x_0 ~ N(mean, std^2), each coordinate by itself."""

    def __init__(self, diffusion: GaussianDiffusion, mean: Tensor, std: Tensor):
        super().__init__(diffusion)
        self.mean, self.std = mean, std

    def posterior_mean(self, x_t: Tensor, a: Tensor) -> Tensor:
        variance = self.std**2
        return self.mean + a.sqrt() * variance / (a * variance + 1 - a) * (x_t - a.sqrt() * self.mean)

    def flow(self, x_t: Tensor, a_bar_t: float, a_bar_s: float) -> Tensor:
        """Where the probability-flow equation takes x_t, from a_bar_t to a_bar_s: quantiles stay quantiles."""
        before, after = ((a * self.std**2 + 1 - a) ** 0.5 for a in (a_bar_t, a_bar_s))
        return a_bar_s**0.5 * self.mean + after / before * (x_t - a_bar_t**0.5 * self.mean)


class MixtureModel(PerfectModel):
    """For a mixture of isotropic Gaussians in the plane: x_t of shape (N, 2)."""

    def __init__(self, diffusion: GaussianDiffusion, weights: Tensor, means: Tensor, std: float):
        super().__init__(diffusion)
        self.weights, self.means, self.std = weights, means, std

    def posterior_mean(self, x_t: Tensor, a: Tensor) -> Tensor:
        variance = a * self.std**2 + 1 - a  # (N, 1), of each component at that noise level
        gap = x_t[:, None] - a.sqrt()[:, None] * self.means  # (N, K, 2)
        responsibility = (self.weights.log() - gap.square().sum(-1) / (2 * variance)).softmax(1)
        of_each = self.means + (a.sqrt() * self.std**2 / variance)[:, None] * gap
        return (responsibility[..., None] * of_each).sum(1)


class LabelledMixture:
    """A mixture whose components belong to classes; y = num_classes, or None, is the whole mixture."""

    def __init__(self, diffusion: GaussianDiffusion, weights: Tensor, means: Tensor, std: float, classes: Tensor):
        self.diffusion, self.weights, self.means, self.std, self.classes = diffusion, weights, means, std, classes
        self.num_classes = int(classes.max()) + 1

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = torch.full_like(t, self.num_classes) if y is None else y
        kept = (self.classes == y[:, None]) | (y[:, None] == self.num_classes)
        return MixtureModel(self.diffusion, self.weights * kept, self.means, self.std)(x_t, t)

    def log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y, x_t) of each class, (N, classes), but for a number that is the same for all of them."""
        a = self.diffusion.schedule.alphas_cumprod[t].to(x_t.dtype)[:, None, None]
        gap = x_t[:, None] - a.sqrt() * self.means
        terms = self.weights.log() - gap.square().sum(-1) / (2 * (a[..., 0] * self.std**2 + 1 - a[..., 0]))
        return torch.stack([terms[:, self.classes == k].logsumexp(1) for k in range(self.num_classes)], dim=1)
