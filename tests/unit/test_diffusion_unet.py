"""Timestep embeddings and the U-Net."""

import math

import pytest
import torch
from torch import nn

from utils.diffusion.embeddings import TimestepEmbedding, sinusoidal_embedding
from utils.diffusion.unet import Downsample, ResidualBlock, SelfAttention, UNet, Upsample, group_norm


def awake(model):
    """Zero-initialised layers get weights, so that signal passes everywhere."""
    for parameter in model.parameters():
        if (parameter == 0).all():
            nn.init.normal_(parameter, std=0.1)
    return model


# -- embeddings ------------------------------------------------------------------------------------


def test_sinusoidal_embedding_values():
    embedding = sinusoidal_embedding(torch.tensor([0, 3]), 4, max_period=100.0)
    assert embedding[0].tolist() == [0, 0, 1, 1]
    expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    assert embedding[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_sinusoidal_embedding_tells_all_timesteps_apart():
    embedding = sinusoidal_embedding(torch.arange(1000), 32)
    assert embedding.dtype == torch.float32 and embedding.abs().max() <= 1
    distance = torch.cdist(embedding, embedding) + 10 * torch.eye(1000)
    assert distance.min() > 0.1


@pytest.mark.parametrize("dim", [3, 2, 0, 7])
def test_sinusoidal_embedding_of_a_bad_size(dim):
    with pytest.raises(ValueError, match=f"dim must be even and at least 4, got {dim}"):
        sinusoidal_embedding(torch.tensor([1]), dim)


def test_timestep_embedding_against_the_formula():
    """Linear, SiLU, linear on the sinusoidal features."""
    embedding, t = TimestepEmbedding(16, 24), torch.tensor([0, 5, 99])
    first, second = embedding.layers[0], embedding.layers[2]
    hidden = sinusoidal_embedding(t, 16) @ first.weight.T + first.bias
    expected = hidden * torch.sigmoid(hidden) @ second.weight.T + second.bias
    torch.testing.assert_close(embedding(t), expected)


# -- blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels, groups", [(48, 8), (6, 6), (7, 7), (1, 1), (22, 2), (30, 6), (13, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_residual_block_starts_as_its_shortcut():
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    torch.testing.assert_close(ResidualBlock(8, 8, 16)(x, emb), x)
    wider = ResidualBlock(8, 12, 16)
    torch.testing.assert_close(wider(x, emb), wider.shortcut(x))


def silu(x):
    return x / (1 + torch.exp(-x))


def conv(x, layer, stride=1):
    """A 3x3 convolution by its definition: nine shifted products, zeros around the image."""
    padded, (height, width) = nn.functional.pad(x, (1, 1, 1, 1)), x.shape[-2:]
    total = layer.bias[None, :, None, None]
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + height : stride, j : j + width : stride]
            total = total + torch.einsum("bchw,dc->bdhw", window, layer.weight[:, :, i, j])
    return total


def normalised(x, norm):
    """Group norm by its definition: each group of channels of each image to mean 0 and variance 1."""
    groups = x.reshape(len(x), norm.num_groups, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    unit = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return unit * norm.weight[None, :, None, None] + norm.bias[None, :, None, None]


@pytest.mark.parametrize("out_channels", [8, 12])
def test_residual_block_against_the_formula(out_channels):
    """x + conv(silu(norm(h) (1 + scale) + shift)) with h = conv(silu(norm(x))): every piece from its definition."""
    block, x, emb = awake(ResidualBlock(8, out_channels, 16)), torch.randn(2, 8, 5, 4), torch.randn(2, 16)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    h = normalised(conv(silu(normalised(x, block.norm1)), block.conv1), block.norm2)
    scale, shift = (emb @ block.scale_shift.weight.T + block.scale_shift.bias)[:, :, None, None].chunk(2, dim=1)
    branch = conv(silu(h * (1 + scale) + shift), block.conv2)
    wider = out_channels != 8
    shortcut = torch.einsum("bchw,dc->bdhw", x, block.shortcut.weight[:, :, 0, 0]) if wider else x
    shortcut = shortcut + block.shortcut.bias[None, :, None, None] if wider else shortcut
    torch.testing.assert_close(block(x, emb), shortcut + branch, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_block_hides_units_in_training_only():
    """With all units dropped nothing but the last bias is left of the branch; in evaluation nothing is dropped."""
    block, x, emb = awake(ResidualBlock(8, 8, 16, dropout=1.0)), torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    torch.testing.assert_close(block.train()(x, emb), x + block.conv2.bias[None, :, None, None])
    branch = block.eval()(x, emb) - x
    assert branch.std() > 0.1
    half = awake(ResidualBlock(8, 8, 16, dropout=0.5)).train()
    assert not torch.equal(half(x, emb), half(x, emb))


def test_upsampling_repeats_every_pixel_and_then_convolves():
    upsample, x = Upsample(4, 6), torch.randn(2, 4, 3, 5)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(upsample(x), conv(repeated, upsample.conv), rtol=1e-4, atol=1e-5)


def test_downsampling_takes_every_second_pixel_of_a_convolution():
    downsample, x = Downsample(4), torch.randn(2, 4, 6, 8)
    torch.testing.assert_close(downsample(x), conv(x, downsample.conv, stride=2), rtol=1e-4, atol=1e-5)


def test_attention_starts_as_the_identity_and_then_looks_everywhere():
    attention, x = SelfAttention(32), torch.randn(1, 32, 4, 4)
    torch.testing.assert_close(attention(x), x)
    nn.init.normal_(attention.out.weight)
    x.requires_grad_()
    attention(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0].abs().sum(0) > 0).all()  # every position had a say in the first


def test_attention_against_the_formula():
    """softmax(q k / sqrt(d)) v, one head and one position at a time."""
    attention, x = SelfAttention(64, head_dim=32), torch.randn(1, 64, 2, 3)
    nn.init.normal_(attention.out.weight, std=0.1)
    q, k, v = attention.qkv(attention.norm(x)).reshape(3, 2, 32, 6).unbind(0)  # (heads, head_dim, positions)
    mixed = torch.zeros(64, 6)
    for head in range(2):
        for i in range(6):
            weights = torch.stack([q[head, :, i] @ k[head, :, j] / math.sqrt(32) for j in range(6)]).softmax(0)
            mixed[32 * head : 32 * head + 32, i] = v[head] @ weights
    expected = x + attention.out(mixed.reshape(1, 64, 2, 3))
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_of_odd_width():
    with pytest.raises(ValueError, match="divisible by 32, got 40"):
        SelfAttention(40)


# -- the network -----------------------------------------------------------------------------------

CONFIGS = [
    (dict(channels=32), (1, 8, 8)),
    (dict(channels=32, stem=1), (1, 8, 8)),
    (dict(channels=16, multipliers=(1, 2, 2)), (1, 16, 16)),
    (dict(channels=16, multipliers=(1, 2, 4), stem=1, blocks=2, in_channels=3), (3, 8, 12)),
    (dict(channels=32, multipliers=(1,), attention=(0,), stem=1), (1, 5, 7)),
    (dict(channels=32, attention=(0, 1), num_classes=10), (1, 8, 8)),
]


@pytest.mark.parametrize("config, shape", CONFIGS)
def test_output_has_the_shape_of_the_input_and_starts_at_zero(config, shape):
    output = UNet(**config)(torch.randn(3, *shape), torch.tensor([0, 5, 9]))
    assert output.shape == (3, *shape)
    assert (output == 0).all()


@pytest.mark.parametrize("config, shape", CONFIGS)
def test_gradient_reaches_every_parameter(config, shape):
    model = awake(UNet(**config))
    y = None if model.num_classes is None else torch.tensor([0, 10, 3])
    model(torch.randn(3, *shape), torch.tensor([0, 5, 9]), y).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config, shape", CONFIGS)
def test_every_skip_is_popped_once(config, shape):
    """As many blocks join a skip on the way up as tensors were pushed on the way down, of the same height."""
    model = UNet(**config)
    pushed, joined = [], []
    model.stem.register_forward_hook(lambda m, i, o: pushed.append(o.shape[-2:]))
    for stage in model.down:
        stage.register_forward_hook(lambda m, i, o: pushed.append(o.shape[-2:]))
    for stage in model.up:
        if hasattr(stage, "block"):
            stage.register_forward_pre_hook(lambda m, i: joined.append(i[0].shape[-2:]))
    model(torch.randn(1, *shape), torch.tensor([3]))
    levels, blocks = len(model.config["multipliers"]), model.config["blocks"]
    assert len(pushed) == levels * (blocks + 1)
    assert joined == pushed[::-1]


def test_normalisation_is_group_norm_so_images_do_not_see_each_other():
    model = awake(UNet(channels=32)).eval()
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    assert norms and all(isinstance(m, nn.GroupNorm) for m in norms)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(model(x, t)[2:3], model(x[2:3], t[2:3]), rtol=1e-4, atol=1e-5)


def test_output_depends_on_time_and_label():
    model = awake(UNet(channels=32, num_classes=3)).eval()
    x = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    by_time = model(x, torch.tensor([0, 1, 500, 999]))
    by_label = model(x, torch.full((4,), 7), torch.tensor([0, 1, 2, 3]))
    for outputs in (by_time, by_label):
        assert all((outputs[i] - outputs[i + 1]).abs().max() > 1e-3 for i in range(3))
    torch.testing.assert_close(model(x, torch.full((4,), 7))[3], by_label[3])  # no label is the class after the last


def test_timestep_and_label_are_added_and_go_through_a_silu():
    model, t, y = UNet(channels=32, num_classes=3), torch.tensor([1, 500]), torch.tensor([2, 0])
    expected = silu(model.time_embedding(t) + model.class_embedding.weight[y])
    torch.testing.assert_close(model.embed(t, y), expected)
    torch.testing.assert_close(model.embed(t), silu(model.time_embedding(t) + model.class_embedding.weight[3]))
    plain = UNet(channels=32)
    torch.testing.assert_close(plain.embed(t), silu(plain.time_embedding(t)))


def test_parameter_count_of_the_default_network():
    """The shipped checkpoint depends on it."""
    assert sum(p.numel() for p in UNet(num_classes=10).parameters()) == 1_521_652


@pytest.mark.parametrize(
    "config, size, multiple",
    [
        (dict(channels=32), (28, 30), 4),
        (dict(channels=32, stem=1), (7, 8), 2),
        (dict(channels=32, multipliers=(1, 2, 2)), (28, 28), 8),
    ],
)
def test_image_size_that_cannot_be_halved(config, size, multiple):
    model, (height, width) = UNet(**config), size
    message = f"image size {height}x{width} cannot be halved.*multiples of {multiple}; resize"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 1, height, width), torch.tensor([0]))


@pytest.mark.parametrize("bad", [-1, 11, 400])
def test_label_outside_the_classes(bad):
    model = UNet(channels=32, num_classes=10)
    with pytest.raises(ValueError, match=rf"label {bad} is outside the classes 0..9 \(10 stands for no label\)"):
        model(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), torch.tensor([3, bad]))


@pytest.mark.parametrize("y", [torch.tensor([1.0, 2.0]), torch.tensor([1]), torch.tensor(1)])
def test_labels_of_the_wrong_kind(y):
    with pytest.raises(ValueError, match="y must hold one whole number per image; got "):
        UNet(channels=32, num_classes=10)(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), y)


def test_values_of_labels_are_not_looked_at_elsewhere_than_on_the_cpu():
    """On the meta device nothing has a value: whatever looked at one would raise, as it would make a GPU wait."""
    model = UNet(channels=32, num_classes=10).to("meta")
    whole = torch.zeros(2, dtype=torch.long, device="meta")
    assert model(torch.zeros(2, 1, 8, 8, device="meta"), whole, whole).shape == (2, 1, 8, 8)


def test_labels_for_a_network_without_classes():
    with pytest.raises(ValueError, match="no classes; build it with num_classes"):
        UNet(channels=32)(torch.zeros(1, 1, 8, 8), torch.tensor([0]), torch.tensor([1]))


def test_bad_stem():
    with pytest.raises(ValueError, match="stem must be 1 or 2, got 4"):
        UNet(channels=32, stem=4)


def test_overfits_one_batch():
    """A small network learns 4 images at one noise level by heart."""
    from utils.diffusion.process import GaussianDiffusion
    from utils.diffusion.schedules import NoiseSchedule

    diffusion, model = GaussianDiffusion(NoiseSchedule.cosine(10), "x_0"), UNet(channels=32)
    x_0, noise, t = torch.rand(4, 1, 8, 8) * 2 - 1, torch.randn(4, 1, 8, 8), torch.full((4,), 9)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        loss = diffusion.loss(model, x_0, t, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * x_0.square().mean().item()
