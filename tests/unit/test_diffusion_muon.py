"""Muon against the singular value decomposition, torch's own Muon, and Adam."""

import copy

import pytest
import torch
from torch import nn

from tests.tiny import tiny_unet
from utils.diffusion.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32), (1, 9)])
def test_orthogonalize_keeps_the_directions_and_evens_out_the_lengths(shape):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    lengths = torch.logspace(0, -1.3, u.shape[1])
    found = u.T @ orthogonalize(u * lengths @ vt) @ vt.T
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
    optimizers = [Muon(mine, lr), torch.optim.Muon(other.parameters(), lr, **options)]
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
