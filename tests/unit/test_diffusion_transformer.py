"""The diffusion Transformer, each piece beside one written out by hand."""

import math

import pytest
import torch
from torch import nn

from tests.tiny import OPTIONS, digits, tiny_diffusion
from tests.unit.test_diffusion_unet import awake
from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.sampling import generate
from utils.diffusion.training import train
from utils.diffusion.transformer import Block, DiT, position_embedding

SMALL = dict(channels=32, depth=2, patch=2)


def normalised(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def test_positions_are_sines_of_row_and_column():
    table = position_embedding(3, 5, 16)
    assert table.shape == (15, 16)
    frequencies = [10_000 ** (-k / 3) for k in range(4)]
    for row, column in [(0, 0), (1, 4), (2, 3)]:
        expected = [f(place * w) for place in (row, column) for f in (math.sin, math.cos) for w in frequencies]
        assert table[5 * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_block_starts_as_the_identity():
    block, x, emb = Block(32, 4), torch.randn(2, 6, 32), torch.randn(2, 32)
    assert torch.equal(block(x, emb), x)


def test_a_block_against_the_formula():
    """x + gate * attention(norm(x) (1 + scale) + shift), one head, one patch at a time; then the MLP so."""
    block, x, emb = awake(Block(8, 2)), torch.randn(2, 5, 8), torch.randn(2, 8)
    numbers = (emb @ block.modulation.weight.T + block.modulation.bias).reshape(2, 6, 1, 8)
    shift, scale, gate, shift_2, scale_2, gate_2 = numbers.unbind(1)
    q, k, v = block.qkv(normalised(x) * (1 + scale) + shift).split(8, dim=-1)
    mixed = torch.zeros(2, 5, 8)
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(5):
            scores = torch.stack([(q[:, i, head] * k[:, j, head]).sum(-1) / 2 for j in range(5)], dim=-1)
            mixed[:, i, head] = torch.einsum("bj,bjd->bd", scores.softmax(-1), v[:, :, head])
    h = x + gate * block.out(mixed)
    hidden = block.mlp[0](normalised(h) * (1 + scale_2) + shift_2)
    hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(block(x, emb), h + gate_2 * block.mlp[2](hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 6, 10)])
def test_starts_at_zero_and_keeps_the_shape(shape):
    output = DiT(**SMALL)(torch.randn(3, *shape), torch.tensor([0, 5, 9]))
    assert output.shape == (3, *shape) and (output == 0).all()


def test_a_patch_goes_out_where_it_came_in():
    """With blocks that do nothing and no positions a patch's answer depends on its own pixels alone."""
    model, x = DiT(in_channels=2, channels=16, depth=1, patch=2), torch.randn(1, 2, 4, 6)
    nn.init.normal_(model.head["out"].weight)
    x.requires_grad_()
    model(x, torch.tensor([3]))[0, :, 0:2, 2:4].sum().backward()
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[0:2, 2:4] = True
    assert ((x.grad[0].abs().sum(0) > 0) == inside).all()


def test_patches_come_from_and_return_to_pixels_in_order():
    """The answer of a patch is a picture of it: pixel (i, j) of channel c is number c * patch^2 + i * patch + j."""
    model = DiT(in_channels=1, channels=16, depth=1, patch=2)
    with torch.no_grad():
        model.head["out"].bias.copy_(torch.arange(4.0))
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 3)
    torch.testing.assert_close(model(torch.randn(1, 1, 4, 6), torch.tensor([3]))[0, 0], expected)


def test_time_label_and_place_tell():
    model = awake(DiT(num_classes=3, **SMALL))
    x = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    by_time = model(x, torch.tensor([0, 1, 500, 999]))
    by_label = model(x, torch.full((4,), 7), torch.tensor([0, 1, 2, 3]))
    for outputs in (by_time, by_label):
        assert all((outputs[i] - outputs[i + 1]).abs().max() > 1e-4 for i in range(3))
    torch.testing.assert_close(model(x, torch.full((4,), 7))[3], by_label[3])
    same = model(torch.ones(1, 1, 8, 8), torch.tensor([7]))
    assert (same[0, 0, :2, :2] - same[0, 0, :2, 2:4]).abs().max() > 1e-4  # equal patches at two places
    by_time.square().mean().add(by_label.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_trains_saves_and_draws(tmp_path):
    states = train(DiT(num_classes=10, **SMALL), tiny_diffusion(), digits(), steps=25, out=tmp_path, **OPTIONS)
    losses = [state.loss for state in states]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    model, diffusion = load_model(tmp_path / "model.safetensors")
    assert type(model) is DiT and model.config == DiT(num_classes=10, **SMALL).config
    save_model(tmp_path / "again.safetensors", model, diffusion, steps=25, size=8)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    drawn = generate(model, diffusion, 2, (1, 8, 8), y=[1, 2], guidance=2.0, sampler="ddim", steps=3)
    assert drawn.shape == (2, 1, 8, 8) and drawn.isfinite().all()


def test_bad_sizes_and_labels():
    with pytest.raises(
        ValueError, match="image size 8x9 cannot be halved or cut by this network: it takes multiples of 2"
    ):
        DiT(**SMALL)(torch.zeros(1, 1, 8, 9), torch.tensor([0]))
    for channels, heads in ((30, 5), (32, 5)):
        with pytest.raises(
            ValueError, match=f"channels must be 8 or more, a multiple of 4 and of the 5 heads, got {channels}"
        ):
            DiT(channels=channels, heads=heads)
    with pytest.raises(ValueError, match="channels must be 8 or more, a multiple of 4 and of the 4 heads, got 4"):
        DiT(channels=4)
    with pytest.raises(ValueError, match="images have 3 channels, but the network 1"):
        DiT(**SMALL)(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    with pytest.raises(ValueError, match="patch must be a whole number of at least 1, got 0"):
        DiT(patch=0)
    with pytest.raises(ValueError, match="no classes; build it with num_classes"):
        DiT(**SMALL)(torch.zeros(1, 1, 8, 8), torch.tensor([0]), torch.tensor([1]))
