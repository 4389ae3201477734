"""Answers to notebook 03's pieces: right ones of another kind pass, wrong ones are told what is wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.exercises import nb03
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def block_by_slices(parts, x, emb):
    both = parts.scale_shift(emb)
    channels = both.shape[1] // 2
    scale, shift = both[:, :channels, None, None], both[:, channels:, None, None]
    h = torch.nn.Sequential(parts.norm1, torch.nn.SiLU(), parts.conv1)(x)
    h = torch.nn.functional.silu(torch.addcmul(shift, parts.norm2(h), scale + 1))
    return parts.conv2(h).add_(parts.shortcut(x))


def block_by_sigmoid(parts, x, emb):
    normal = parts.norm1(x)
    h = parts.norm2(parts.conv1(normal * normal.sigmoid()))
    scale, shift = parts.scale_shift(emb).unflatten(1, (2, -1)).unbind(1)
    h = h + torch.einsum("bc,bchw->bchw", scale, h) + shift.view(*shift.shape, 1, 1)
    return parts.conv2(h / (1 + torch.exp(-h))) + parts.shortcut(x)


def block_by_image(parts, x, emb):
    """One image after the other; never looks at the others."""
    outs = []
    for one, vector in zip(x, emb):
        scale, shift = parts.scale_shift(vector[None]).chunk(2, dim=-1)
        h = parts.norm2(parts.conv1(F.silu(parts.norm1(one[None]))))
        h = h * (1 + scale[..., None, None]) + shift[..., None, None]
        outs.append(parts.shortcut(one[None]) + parts.conv2(F.silu(h)))
    return torch.cat(outs)


def down_by_loop(x, emb, skips, block, shrink):
    for layer in (lambda x: block(x, emb), shrink):
        if layer is not None:
            x = layer(x)
            skips.append(x)
    return x


def down_by_extend(x, emb, skips, block, shrink):
    outputs = [block(x, emb)]
    if shrink:
        outputs.append(shrink(outputs[0]))
    skips.extend(outputs)
    return outputs[-1]


def down_by_early_return(x, emb, skips, block, shrink):
    skips.insert(len(skips), block(x, emb))
    if shrink is None:
        return skips[-1]
    skips += [shrink(skips[-1])]
    return skips[-1]


def up_by_slices(x, emb, skips, blocks, grow):
    taken = skips[len(skips) - len(blocks) :]
    del skips[len(skips) - len(blocks) :]
    for block, skip in zip(blocks, reversed(taken)):
        x = block(torch.cat((x, skip), 1), emb)
    return grow(x) if grow is not None else x


def up_by_index(x, emb, skips, blocks, grow):
    for k in range(len(blocks)):
        joined = torch.concat([x, skips[-1]], dim=-3)
        skips.pop(-1)
        x = blocks[k](joined, emb)
    return x if not grow else grow(x)


def up_by_recursion(x, emb, skips, blocks, grow):
    if len(blocks) == 0:
        return x if grow is None else grow(x)
    first, *rest = blocks
    return up_by_recursion(first(torch.hstack([x, skips.pop()]), emb), emb, skips, rest, grow)


def unfold_by_loop(x, r):
    b, c, h, w = x.shape
    out = x.new_empty(b, c // r**2, h * r, w * r)
    for i in range(r):
        for j in range(r):
            out[:, :, i::r, j::r] = x[:, i * r + j :: r * r]
    return out


def unfold_by_shuffle(x, r):
    return F.pixel_shuffle(x, r)


def unfold_by_einsum(x, r):
    parts = x.unflatten(1, (-1, r, r))
    return torch.einsum("bcijhw->bchiwj", parts).flatten(4, 5).flatten(2, 3)


def cost_by_running(in_channels, out_channels, kernel, stride, padding, height, width):
    conv = torch.nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
    out = conv(torch.zeros(1, in_channels, height, width))
    return out.numel() * conv.weight[0].numel()


def cost_by_weights(in_channels, out_channels, kernel, stride, padding, height, width):
    weights = in_channels * out_channels * kernel * kernel
    steps = [len(range(0, size + 2 * padding - kernel + 1, stride)) for size in (height, width)]
    return weights * steps[0] * steps[1]


def cost_as_tensor(in_channels, out_channels, kernel, stride, padding, height, width):
    size = torch.tensor([height, width])
    out = torch.div(size + 2 * padding - kernel, stride, rounding_mode="floor") + 1
    return out.prod() * in_channels * out_channels * kernel**2


def field_backwards(layers):
    """From the output to the input."""
    size = 1
    for kernel, stride in reversed(layers):
        size = (size - 1) * stride + kernel
    return size


def field_by_products(layers):
    strides = [stride for _, stride in layers]
    jumps = [int(torch.tensor([1, *strides[:k]]).prod()) for k in range(len(layers))]
    return 1 + sum((kernel - 1) * jump for (kernel, _), jump in zip(layers, jumps))


def field_by_sets(layers):
    seen = {0}
    for kernel, stride in reversed(layers):
        seen = {k * stride + j for k in seen for j in range(kernel)}
    return max(seen) - min(seen) + 1


RIGHT = {
    "03.1": [block_by_slices, block_by_sigmoid, block_by_image],
    "03.2": [down_by_loop, down_by_extend, down_by_early_return],
    "03.3": [up_by_slices, up_by_index, up_by_recursion],
    "03.4": [unfold_by_loop, unfold_by_shuffle, unfold_by_einsum],
    "03.5": [cost_by_running, cost_by_weights, cost_as_tensor],
    "03.6": [field_backwards, field_by_products, field_by_sets],
}


@pytest.mark.parametrize(("number", "answer"), [(number, answer) for number in RIGHT for answer in RIGHT[number]])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def faulty_block(**fault):
    return lambda parts, x, emb: nb03._block(parts, x, emb, **fault)


def no_axes(parts, x, emb):
    scale, shift = parts.scale_shift(emb).chunk(2, dim=1)
    h = parts.norm2(parts.conv1(F.silu(parts.norm1(x)))) * (1 + scale) + shift
    return parts.shortcut(x) + parts.conv2(F.silu(h))


def raw_input(parts, x, emb):
    """Right where the widths are equal."""
    return x + nb03._block(parts, x, emb, shortcut="left out")


def first_vector(parts, x, emb):
    return nb03.residual_block(parts, x, emb[:1])


def emb_unused(parts, x, emb):
    return parts.shortcut(x) + parts.conv2(F.silu(parts.norm2(parts.conv1(F.silu(parts.norm1(x))))))


def in_place(parts, x, emb):
    out = nb03.residual_block(parts, x, emb)
    x += parts.conv2(parts.norm2(parts.conv1(x)))[:, :1]
    return out


def shortcut_of_norm(parts, x, emb):
    return nb03._block(parts, x, emb, shortcut="left out") + parts.shortcut(parts.norm1(x))


def down(push_input=False, push_block=True, push_shrink=True, keep=True, ask=True, give=lambda x, y, z: z):
    def answer(x, emb, skips, block, shrink):
        new = []
        if push_input:
            new.append(x)
        y = z = block(x, emb)
        new += [y] * push_block
        if shrink is not None or not ask:
            z = shrink(y)
            new += [z] * push_shrink
        if keep:
            skips.extend(new)
        else:
            skips = skips + new
        return give(x, y, z)

    return answer


def run_twice(x, emb, skips, block, shrink):
    block(x, emb)
    return nb03.down_level(x, emb, skips, block, shrink)


def pushed_in_front(x, emb, skips, block, shrink):
    own = []
    x = nb03.down_level(x, emb, own, block, shrink)
    skips[:0] = own
    return x


def emb_to_shrink(x, emb, skips, block, shrink):
    x = block(x, emb)
    skips.append(x)
    x = shrink(x, emb) if shrink else x
    skips.append(x)
    return x


def shrunk_before(x, emb, skips, block, shrink):
    if shrink is not None:
        x = shrink(x)
        skips.append(x)
    x = block(x, emb)
    skips.append(x)
    return x


def up(take=lambda skips: skips.pop(), join=lambda x, skip: torch.cat([x, skip], dim=1), end=None):
    def answer(x, emb, skips, blocks, grow):
        for block in blocks:
            x = block(join(x, take(skips)), emb)
        return end(x, grow) if end else x if grow is None else grow(x)

    return answer


def one_skip_for_all(x, emb, skips, blocks, grow):
    skip = skips.pop()
    for block in blocks:
        x = block(torch.cat([x, skip], dim=1), emb)
    return x if grow is None else grow(x)


def blocks_from_below(x, emb, skips, blocks, grow):
    for block in blocks:
        out = block(torch.cat([x, skips.pop()], dim=1), emb)
    return out if grow is None else grow(out)


def too_few_blocks(x, emb, skips, blocks, grow):
    return nb03.up_level(x, emb, skips, blocks[:-1], grow)


def grown_first(x, emb, skips, blocks, grow):
    return nb03.up_level(x if grow is None else grow(x), emb, skips, blocks, None)


def emptied(x, emb, skips, blocks, grow):
    for block in blocks:
        x = block(torch.cat([x, skips.pop()], dim=1), emb)
    skips.clear()
    return x if grow is None else grow(x)


def no_emb(x, emb, skips, blocks, grow):
    for block in blocks:
        x = block(torch.cat([x, skips.pop()], dim=1))
    return x


def unfolded(order, last=Tensor.reshape):
    def answer(x, r):
        b, c, h, w = x.shape
        x = x.reshape(b, c // r**2, r, r, h, w).permute(order)
        return last(x, (b, c // r**2, h * r, w * r))

    return answer


def only_reshaped(x, r):
    b, c, h, w = x.shape
    return x.reshape(b, c // r**2, h * r, w * r)


def doubled(x, r):
    return F.interpolate(x[:, :: r * r], scale_factor=r)


def cost(factor=lambda **named: 1, **changed):
    def answer(in_channels, out_channels, kernel, stride, padding, height, width):
        named = {"in_channels": in_channels, "out_channels": out_channels, "kernel": kernel}
        named |= {"stride": stride, "padding": padding, "height": height, "width": width}
        return nb03.conv_multiply_adds(**{**named, **changed}) * factor(**named)

    return answer


def places(along):
    """A count from the number of places along one side."""

    def answer(in_channels, out_channels, kernel, stride, padding, height, width):
        high, wide = (along(size, kernel, stride, padding) for size in (height, width))
        return high * wide * in_channels * out_channels * kernel**2

    return answer


def added_channels(in_channels, out_channels, kernel, *rest):
    one_to_one = nb03.conv_multiply_adds(1, 1, kernel, *rest) // kernel**2
    return one_to_one * (in_channels * kernel**2 + out_channels)


def input_positions(in_channels, out_channels, kernel, stride, padding, height, width):
    return height * width * out_channels * in_channels * kernel**2


def field(start=1, own_stride=False, forget=False, whole=False):
    def answer(layers):
        size, jump = start, 1
        for kernel, stride in layers:
            if own_stride:
                jump *= stride
            size += (kernel - (0 if whole else 1)) * (1 if forget else jump)
            if not own_stride:
                jump *= stride
        return size

    return answer


def added_strides(layers):
    size, jump = 1, 1
    for kernel, stride in layers:
        size += (kernel - 1) * jump
        jump += stride - 1
    return size


def block_unpacked(parts, x, emb):
    scale, shift = parts.scale_shift(emb)
    return parts.shortcut(x) * scale + shift


WRONG = [
    ("03.1", faulty_block(in_turn=True), "scales and shifts are read in turn"),
    ("03.1", faulty_block(bend=F.relu), "the bend is ReLU"),
    ("03.1", block_unpacked, "scale_shift(emb) is one tensor"),
    ("03.1", faulty_block(one=0), "4 to 4 channels: the scale should multiply by 1 + scale"),
    ("03.1", faulty_block(swapped=True), "scale and shift have changed places"),
    ("03.1", faulty_block(before_norm=True), "scale and shift come before norm2"),
    ("03.1", faulty_block(shift=0), "the shift is not added"),
    ("03.1", faulty_block(shortcut="left out"), "the shortcut is missing"),
    ("03.1", faulty_block(no_silu=1), "the first SiLU"),
    ("03.1", faulty_block(no_silu=2), "the second SiLU"),
    ("03.1", faulty_block(no_norm=1), "norm1 is missing"),
    ("03.1", faulty_block(no_norm=2), "norm2 is missing"),
    ("03.1", faulty_block(emb_silu=True), "emb has been through its SiLU already"),
    ("03.1", no_axes, "scale and shift need shape (B, C, 1, 1)"),
    ("03.1", raw_input, "that is what the shortcut is for"),
    ("03.1", first_vector, "every image gets the scale and shift of the first"),
    ("03.1", emb_unused, "emb changes nothing"),
    ("03.1", in_place, "changes its input x in place"),
    ("03.1", shortcut_of_norm, "the values are not those of the equations"),
    ("03.2", down(push_input=True), "the level's input is pushed"),
    ("03.2", down(push_block=False), "that of the block is missing"),
    ("03.2", down(push_shrink=False), "that of the shrink is missing"),
    ("03.2", down(keep=False), "append to it, make no new list"),
    ("03.2", down(ask=False), "where shrink is None: you call it"),
    ("03.2", down(give=lambda x, y, z: y), "return what shrink gives"),
    ("03.2", down(give=lambda x, y, z: x), "return what shrink gives"),
    ("03.2", down(give=lambda x, y, z: (z, [y])), "return x alone"),
    ("03.2", pushed_in_front, "what was on the list must stay in front"),
    ("03.2", emb_to_shrink, "shrink takes x alone, you give it 2"),
    ("03.2", shrunk_before, "the block should get x as it comes"),
    ("03.2", run_twice, "the block should run once; it ran 2 times"),
    ("03.3", up(take=lambda skips: skips.pop(0)), "the last one pushed is taken first"),
    ("03.3", up(take=lambda skips: skips[-1]), "block 1 gets another skip than its own"),
    ("03.3", up(join=lambda x, skip: torch.cat([skip, x], dim=1)), "comes from below comes first, then the skip"),
    ("03.3", up(join=lambda x, skip: x + skip), "side by side as channels (torch.cat, dim=1)"),
    ("03.3", up(join=lambda x, skip: torch.cat([x, skip], dim=2)), "side by side as channels (torch.cat, dim=1)"),
    ("03.3", up(end=lambda x, grow: x), "return what grow gives for the last block"),
    ("03.3", up(end=lambda x, grow: grow(x)), "where grow is None: you call it"),
    ("03.3", up(end=lambda x, grow: (x, grow)), "return x alone"),
    ("03.3", one_skip_for_all, "block 1 gets another skip than its own"),
    ("03.3", blocks_from_below, "block 1 should go on with what block 0 gave"),
    ("03.3", too_few_blocks, "block 1 ran 0 times"),
    ("03.3", emptied, "0 skips are left on the list, there should be 2"),
    ("03.3", grown_first, "before the blocks"),
    ("03.3", no_emb, "block 0 takes x and emb, you give it 1"),
    ("03.4", unfolded((0, 1, 4, 3, 5, 2)), "rows and columns inside each 2x2 patch are swapped"),
    ("03.4", unfolded((0, 1, 2, 4, 3, 5)), "in the wrong places"),
    ("03.4", only_reshaped, "in the wrong places"),
    ("03.4", doubled, "some values are lost or doubled"),
    ("03.4", lambda x, r: x, "the shape: (2, 4, 3, 5) with r = 2 should become (2, 1, 6, 10)"),
    ("03.4", lambda x, r: F.pixel_shuffle(x, r).tolist(), "should return a tensor, got list"),
    ("03.4", lambda x, r: x.reshape(len(x), x.shape[1] / r**2, r, r, *x.shape[2:]), "// divides without a rest"),
    ("03.4", lambda x, r: x.reshape(len(x), x.shape[1], r, r, *x.shape[2:]), "c // r**2 are left"),
    ("03.4", unfolded((0, 1, 4, 2, 5)), "permute needs every axis once"),
    ("03.4", unfolded((0, 1, 4, 2, 5, 3), Tensor.view), "use .reshape"),
    ("03.5", places(lambda size, kernel, stride, padding: (size + padding - kernel) // stride + 1), "on both sides"),
    ("03.5", places(lambda size, kernel, stride, padding: (size + 2 * padding - kernel) // stride), "+ 1"),
    ("03.5", places(lambda size, kernel, stride, padding: (size - kernel) // stride + 1), "the padding is not counted"),
    ("03.5", places(lambda size, kernel, stride, padding: size // stride), "the kernel must fit in"),
    ("03.5", places(lambda size, kernel, stride, padding: (size + 2 * padding - kernel) / stride + 1), "//, not /"),
    ("03.5", lambda *case: nb03.conv_multiply_adds(*case) // case[2], "one side of it is missing"),
    ("03.5", added_channels, "input and output channels are added"),
    ("03.6", lambda layers: layers[0][0] + nb03.receptive_field(layers[1:]), "[] has no such layer; no layer at all"),
    ("03.5", cost(lambda **named: 2), "you count a multiply and an add as two"),
    ("03.5", input_positions, "the output is only 14x14"),
    ("03.5", cost(out_channels=1), "that is the cost of one output channel; there are 32"),
    ("03.5", cost(in_channels=1), "sums over all 16 input channels"),
    ("03.5", lambda *case: 17 + nb03.conv_multiply_adds(*case), "expected 903,168, you return 903,185"),
    ("03.5", lambda *case: str(nb03.conv_multiply_adds(*case)), "should return a number, got str"),
    ("03.6", field(start=0), "no layer at all sees one pixel"),
    ("03.6", field(own_stride=True), "after a stride of 2 each step is worth two input pixels"),
    ("03.6", field(forget=True), "after a stride of 2"),
    ("03.6", field(whole=True), "one 3x3 convolution: [(3, 1)] sees 3 pixels, you return 4"),
    ("03.6", added_strides, "strides multiply"),
]


@pytest.mark.parametrize(("number", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False and told in message, message
