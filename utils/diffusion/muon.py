"""Muon: steps of equal length in every direction of a weight matrix (Jordan et al. 2024), beside Adam for the rest."""

import math

import torch
from torch import Tensor, nn

ENDS = ("stem", "head", "class_embedding")  # first and last layers, and table of labels; an Autoencoder has none


class Muon(torch.optim.Adam):
    """Adam, in which the weight matrices inside the network take orthogonal steps instead.

    A matrix (a convolution is one, out x (in * height * width)) moves by the nearest orthogonal matrix to its averaged
    gradient: where the gradient is small the step is as long as where it is large. It is scaled to the size of Adam's
    (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2), so that one learning rate serves both. Biases,
    norms, and what ENDS names stay with Adam. A step leaves None as the gradient of the matrices.

    dtype: in which `orthogonalize` computes.
    """

    def __init__(self, model: nn.Module, lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            inside = parameter.ndim >= 2 and name.partition(".")[0] not in ENDS
            (matrices if inside else others).append(parameter)
        groups = [{"params": others, "momentum": None}, {"params": matrices, "momentum": momentum}]
        super().__init__([group for group in groups if group["params"]], lr=lr)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["momentum"] is None:
                continue
            for weight in group["params"]:
                if weight.grad is not None:
                    self._orthogonal_step(weight, group["lr"], group["momentum"])
                    weight.grad = None  # so that Adam leaves it alone
        super().step()
        return loss

    def _orthogonal_step(self, weight: Tensor, lr: float, momentum: float) -> None:
        if not self.state[weight]:  # the names that Adam gives, which it asks for when a state is loaded
            self.state[weight] |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight)}
        self.state[weight]["step"] += 1
        average = self.state[weight]["exp_avg"].lerp_(weight.grad, 1 - momentum)
        ahead = weight.grad.lerp(average, momentum)  # Nesterov: the average if this gradient came once more
        update = orthogonalize(ahead.flatten(1).to(self.dtype)).to(weight.dtype)
        weight.sub_(update.view_as(weight), alpha=0.2 * math.sqrt(max(update.shape)) * lr)


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T for matrix = U S V^T, (rows, columns): singular values above 0.002 |matrix| become 0.7 to 1.2.

    Each step applies a x + b x^3 + c x^5 to the singular values, without finding them (Newton and Schulz's iteration
    with Jordan's numbers, which lift small values fast). Computed in the matrix's own format; bfloat16 is enough.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T
