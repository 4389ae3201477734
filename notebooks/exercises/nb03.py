"""Exercises of notebook 03, the U-Net."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.course.exercises import Wrong, exercise

# -- 03.1 ------------------------------------------------------------------------------------------


def check_depth_to_space(answer: Callable[[Tensor, int], Tensor]) -> None:
    cases = ((2, 1, 2, 3, 5), (1, 3, 2, 4, 4), (2, 2, 3, 2, 1))
    for b, c, r, h, w in cases:
        image = torch.arange(b * c * h * r * w * r, dtype=torch.float32).reshape(b, c, h * r, w * r)
        folded = F.pixel_unshuffle(image, r)
        out = answer(folded.clone(), r)
        if not isinstance(out, Tensor):
            raise Wrong(f"it should return a tensor, got {type(out).__name__}")
        case = f"{tuple(folded.shape)} with r = {r}"
        if out.shape != image.shape:
            raise Wrong(f"the shape: {case} should become {tuple(image.shape)}, you return {tuple(out.shape)}")
        if not torch.equal(out.flatten().sort().values, image.flatten()):
            raise Wrong(f"for {case} some values are lost or doubled; each pixel should appear exactly once")
        if not torch.equal(out, image):
            if torch.equal(out, _swapped(folded, r)):
                raise Wrong(f"for {case} rows and columns inside each {r}x{r} patch are swapped")
            raise Wrong(
                f"for {case} the values are all there, in the wrong places; reshape only splits or joins "
                "neighbouring axes, so permute must first bring h beside i and w beside j"
            )


def _swapped(folded: Tensor, r: int) -> Tensor:
    """What comes out when the two axes inside a patch change places."""
    b, c, h, w = folded.shape
    x = folded.reshape(b, c // r**2, r, r, h, w).permute(0, 1, 4, 3, 5, 2)
    return x.reshape(b, c // r**2, h * r, w * r)


@exercise(
    "03.1",
    "unfold the stem",
    check_depth_to_space,
    hints=[
        "Run the steps of space_to_depth backwards. Its last reshape joined c, i and j: split them first.",
        "Split the channels to (b, c, r, r, h, w). Which order of axes must you have for the last reshape to "
        "join h with i to a height, and w with j to a width?",
        "x.reshape(b, c // r**2, r, r, h, w).permute(0, 1, 4, 2, 5, 3), then one more reshape.",
    ],
)
def depth_to_space(x, r):
    b, c, h, w = x.shape
    x = x.reshape(b, c // r**2, r, r, h, w)  # b c i j h w: row i, column j of a patch
    x = x.permute(0, 1, 4, 2, 5, 3)  # b c h i w j
    return x.reshape(b, c // r**2, h * r, w * r)


# -- 03.2 ------------------------------------------------------------------------------------------


def check_conv_multiply_adds(answer: Callable[..., int]) -> None:
    # 48 to 48 channels on 14x14, a network of one 1x1 tap, then stride, no padding, an oblong image.
    cases = [(48, 48, 3, 1, 1, 14, 14), (1, 1, 1, 1, 0, 1, 1), (16, 32, 1, 1, 0, 7, 7)]
    cases += [(16, 16, 3, 2, 1, 28, 28), (3, 8, 5, 1, 0, 12, 20), (4, 4, 3, 2, 1, 7, 9)]
    for case in cases:
        in_channels, out_channels, kernel, stride, padding, height, width = case
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        out = conv(torch.zeros(1, in_channels, height, width))
        expected = out.numel() * in_channels * kernel**2
        seen = answer(*case)
        if not isinstance(seen, (int, float, Tensor)):
            raise Wrong(f"it should return a number, got {type(seen).__name__}")
        if abs(float(seen) - expected) < 0.5:
            continue
        named = (
            f"{in_channels} to {out_channels} channels, kernel {kernel}, stride {stride}, padding {padding}, "
            f"{height}x{width}"
        )
        if float(seen) == 2 * expected:
            raise Wrong(f"{named}: you count a multiply and an add as two; one multiply-add is one pair")
        if stride > 1 and float(seen) == height * width * out_channels * in_channels * kernel**2:
            size = "x".join(map(str, out.shape[2:]))
            raise Wrong(f"{named}: the output is only {size}; count output values, not input values")
        if float(seen) == out[:, :1].numel() * in_channels * kernel**2:
            raise Wrong(f"{named}: that is the cost of one output channel; there are {out_channels}")
        raise Wrong(f"{named}: expected {expected:,}, you return {float(seen):,.0f}")


@exercise(
    "03.2",
    "count multiply-adds",
    check_conv_multiply_adds,
    hints=[
        "Count output values first, then multiply-adds for each.",
        "One output value sums over kernel x kernel positions and all input channels.",
        "The output is (height + 2 * padding - kernel) // stride + 1 high; the width likewise.",
    ],
)
def conv_multiply_adds(in_channels, out_channels, kernel, stride, padding, height, width):
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    each_output_value = in_channels * kernel**2
    return out_channels * out_height * out_width * each_output_value


# -- 03.3 ------------------------------------------------------------------------------------------


def check_receptive_field(answer: Callable[[list[tuple[int, int]]], int]) -> None:
    cases = (
        ([], "no layer at all sees one pixel"),
        ([(3, 1)], "one 3x3 convolution"),
        ([(3, 1)] * 3, "three 3x3 convolutions with stride 1, each adds 2"),
        ([(1, 1), (3, 1), (1, 1)], "1x1 convolutions add nothing"),
        ([(2, 2), (3, 1)], "after a stride of 2 each step is worth two input pixels"),
        ([(3, 2), (3, 2), (3, 1)], "strides multiply"),
        ([(3, 1), (3, 1), (3, 2), (3, 1), (3, 1), (3, 2), (3, 1)], "a longer chain"),
        ([(4, 4), (7, 1), (2, 2), (3, 1)], "other kernels and strides"),
    )
    for layers, why in cases:
        seen = answer(list(layers))
        expected = _measured_field(layers)
        if seen != expected:
            raise Wrong(f"{why}: {layers} sees {expected} pixels, you return {seen!r}")


def _measured_field(layers: list[tuple[int, int]]) -> int:
    """Counted by gradient: the input values of a line that change one output value in the middle."""
    x = torch.zeros(1, 1, 256, dtype=torch.float64, requires_grad=True)
    out = x
    for kernel, stride in layers:
        out = F.conv1d(out, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
    out[0, 0, out.shape[-1] // 2].backward()
    return int((x.grad != 0).sum())


@exercise(
    "03.3",
    "receptive field",
    check_receptive_field,
    hints=[
        "Go through the layers in order and keep two numbers: the size so far, and the distance in input "
        "pixels between two neighbouring values at this depth.",
        "A layer with kernel k adds (k - 1) of these distances. When does its stride count, for itself or "
        "for the layers behind it?",
        "size += (kernel - 1) * jump; then jump *= stride.",
    ],
)
def receptive_field(layers):
    size, jump = 1, 1  # jump: the input pixels between two neighbours at this depth
    for kernel, stride in layers:
        size += (kernel - 1) * jump
        jump *= stride
    return size


# -- 03.4 ------------------------------------------------------------------------------------------


def check_up_widths(answer: Callable[[int, tuple[int, ...], int], list[int]]) -> None:
    cases = [(16, (1, 2), 1), (48, (1, 2), 1), (32, (1,), 2), (8, (1, 2, 4), 2), (10, (1, 3, 2, 2), 1)]
    for channels, multipliers, blocks in cases:
        expected = _up_widths(channels, multipliers, blocks)
        named = f"channels={channels}, multipliers={multipliers}, blocks={blocks}"
        try:
            seen = answer(channels, multipliers, blocks)
        except IndexError as error:
            if "pop from" not in str(error):
                raise
            raise Wrong(
                f"{named}: your way up pops from an empty list. The {len(expected)} blocks there need {len(expected)} "
                "skips; was something not pushed on the way down (the stem's output, or that of a downsampling)?"
            ) from error
        if not isinstance(seen, (list, tuple)):
            raise Wrong(f"it should return a list of widths, got {type(seen).__name__}")
        seen = [int(width) for width in seen]
        if seen == expected:
            continue
        count = len(multipliers) * (blocks + 1)
        if len(seen) != count:
            raise Wrong(
                f"{named}: {len(multipliers)} levels with blocks + 1 blocks each need {count} widths, you "
                f"return {len(seen)}; where one is missing, a skip is pushed that nobody pops"
            )
        if sum(seen) == sum(expected):
            raise Wrong(f"{named}: the sum is right, the order is not: {seen}; the last skip pushed is popped first")
        k = next(k for k in range(count) if seen[k] != expected[k])
        raise Wrong(f"{named}: block {k} on the way up takes {expected[k]} channels, you say {seen[k]}")


def _up_widths(channels: int, multipliers: tuple[int, ...], blocks: int) -> list[int]:
    """Read off a list of (width, height) pairs: each block takes the newest skip of its own height."""
    widths = [channels * m for m in multipliers]
    pushed = [(channels, 0)]
    for level, width in enumerate(widths):
        pushed += [(width, level)] * blocks + ([(width, level + 1)] if level + 1 < len(widths) else [])
    result = []
    for level in reversed(range(len(widths))):
        skips = [width for width, height in pushed if height == level][::-1]
        below = widths[level]  # the last level's own width, or what upsampling made of the level below
        result += [(below if k == 0 else widths[level]) + skip for k, skip in enumerate(skips)]
    return result


@exercise(
    "03.4",
    "account for every skip",
    check_up_widths,
    hints=[
        "Write the way down first: a list of the widths pushed, beginning with the stem's.",
        "On the way up keep the width of what comes from below; a block takes that plus skips.pop().",
        "The first block of a level gets the width that upsampling made; the others get the level's own "
        "width. At the end the list of skips must be empty.",
    ],
)
def up_widths(channels, multipliers, blocks):
    widths = [channels * m for m in multipliers]
    skips = [channels]
    for level, width in enumerate(widths):
        skips += [width] * blocks
        if level < len(widths) - 1:
            skips.append(width)  # behind the downsampling
    x, result = widths[-1], []  # x: the width of what comes from below
    for level in reversed(range(len(widths))):
        for _ in range(blocks + 1):
            result.append(x + skips.pop())
            x = widths[level]
        if level > 0:
            x = widths[level - 1]
    assert not skips  # every skip that was pushed is popped
    return result
