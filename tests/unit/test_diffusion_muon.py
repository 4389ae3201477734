"""Muon against the singular value decomposition, torch's own Muon, and Adam."""

import copy

import pytest
import torch
from torch import nn

from tests.tiny import tiny_unet
from utils.diffusion.muon import Muon, orthogonalize
from utils.diffusion.training import make_accelerator, prepare


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32), (1, 9)])
def test_orthogonalize_keeps_the_directions_and_evens_out_the_lengths(shape, dtype):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.logspace(0, -1.3, u.shape[1])
    found = u.T @ orthogonalize((u * lengths @ vt).to(dtype)).float() @ vt.T
    assert found.diagonal().min() > 0.6 and found.diagonal().max() < 1.25
    assert (found - found.diagonal().diag()).abs().max() < 0.05


def test_orthogonalize_of_nothing_is_nothing():
    assert not orthogonalize(torch.zeros(3, 5)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has a Muon from 2.9 on")
def test_matrices_move_as_by_torchs_own_muon():
    torch.manual_seed(0)
    mine = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    other, lr = copy.deepcopy(mine), 1e-2
    options = dict(weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    optimizers = [Muon(mine, lr, dtype=torch.bfloat16), torch.optim.Muon(other.parameters(), lr, **options)]
    for step in range(4):
        before = [p.detach().clone() for p in mine.parameters()]
        for network, optimizer in zip([mine, other], optimizers):
            torch.manual_seed(step)
            for p in network.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
        for a, b, start in zip(mine.parameters(), other.parameters(), before):
            moved, expected = (a - start).detach().flatten(), (b - start).detach().flatten()
            assert torch.cosine_similarity(moved, expected, dim=0) > 0.99  # bf16 rounds
            assert moved.norm() == pytest.approx(expected.norm().item(), rel=0.05)
        other.load_state_dict(mine.state_dict())


def test_what_is_no_matrix_inside_the_network_moves_as_by_adam():
    torch.manual_seed(0)
    mine = tiny_unet(num_classes=3)
    other = copy.deepcopy(mine)
    optimizers = [Muon(mine, 1e-3), torch.optim.Adam(other.parameters(), 1e-3)]
    before = copy.deepcopy(dict(mine.named_parameters()))
    for network, optimizer in zip([mine, other], optimizers):
        torch.manual_seed(1)
        for p in network.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    expected, alike = dict(other.named_parameters()), set()
    for name, weight in mine.named_parameters():
        assert not torch.equal(weight, before[name]), name
        if torch.equal(weight, expected[name]):
            alike.add(name)
    matrices = {name for name, p in before.items() if p.ndim >= 2}
    ends = {name for name in matrices if name.split(".")[0] in ("stem", "head", "class_embedding")}
    assert len(ends) == 3 and alike == (set(before) - matrices) | ends


def test_a_weight_without_gradient_stays():
    network = nn.Linear(3, 3)
    start = network.weight.detach().clone()
    Muon(network, 0.1).step()
    assert torch.equal(network.weight, start)


def test_an_end_is_known_by_its_whole_name():
    """`heads` and `stem_norm` are no ends of the network; the layer inside `head` is one."""
    layers = {"heads": nn.Linear(3, 3), "stem_norm": nn.Linear(3, 3), "head": nn.Sequential(nn.Linear(3, 3))}
    others, matrices = Muon(nn.ModuleDict(layers), 0.1).param_groups
    assert list(map(id, matrices["params"])) == [id(layers[name].weight) for name in ("heads", "stem_norm")]
    assert any(p is layers["head"][0].weight for p in others["params"])


def test_directions_are_mixed_by_bf16_alone():
    torch.manual_seed(0)
    u, lengths, vt = torch.linalg.svd(torch.randn(24, 80), full_matrices=False)
    mixed = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = u.T @ orthogonalize((u * lengths @ vt).to(dtype)).float() @ vt.T
        mixed[dtype] = (found - found.diagonal().diag()).abs().max()
    assert mixed[torch.float32] < 1e-5 and mixed[torch.bfloat16] > 1e-3


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_a_training_computes_steps_in_its_own_precision(precision, dtype):
    accelerator = make_accelerator(torch.device("cpu"), precision)
    assert prepare(tiny_unet(), accelerator, muon=True).optimizer.optimizer.dtype == dtype


def test_a_closure_is_called_once_and_before_anything_moves():
    torch.manual_seed(0)
    network, x = nn.Linear(3, 3), torch.randn(4, 3)
    start, seen = copy.deepcopy(network), []

    def closure():
        seen.append(torch.equal(network.weight, start.weight))
        loss = network(x).square().mean()
        loss.backward()
        return loss

    loss = Muon(network, 0.1).step(closure)
    assert seen == [True] and loss == start(x).square().mean()
    assert not torch.equal(network.weight, start.weight) and not torch.equal(network.bias, start.bias)


def test_momentum_of_zero_is_still_muon():
    torch.manual_seed(0)
    network = nn.Linear(8, 8, bias=False)
    start = network.weight.detach().clone()
    network.weight.grad = torch.randn(8, 8)
    expected = start - 0.1 * 0.2 * 8**0.5 * orthogonalize(network.weight.grad)
    Muon(network, 0.1, momentum=0.0).step()
    torch.testing.assert_close(network.weight.detach(), expected)


def test_a_scaler_skips_the_step_that_overflowed():
    """As fp16 does: weights and averages stay, and the next step goes on."""
    torch.manual_seed(0)
    network = nn.Linear(4, 4)
    optimizer, scaler = Muon(network, 0.1), torch.amp.GradScaler("cpu", init_scale=2.0)
    start = copy.deepcopy(network.state_dict())
    for bad in (True, False):
        optimizer.zero_grad()
        scaler.scale(network(torch.randn(2, 4)).mean() * (float("inf") if bad else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(start[name], value) for name, value in network.state_dict().items()]
        assert moved == [not bad] * 2 and (network.weight not in optimizer.state) == bad
