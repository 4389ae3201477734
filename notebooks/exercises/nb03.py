"""Exercises of notebook 03, the U-Net."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from notebooks.exercises import as_float64, called, close
from utils.course.exercises import Wrong, exercise

# -- 03.1 ------------------------------------------------------------------------------------------


class _Parts(nn.Module):
    """The layers of a block, all with random weights, the norms' too; nothing is left at zero."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, in_channels), nn.GroupNorm(2, out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(emb_dim, 2 * out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        generator = torch.Generator().manual_seed(in_channels)
        for parameter in self.parameters():
            values = 0.4 * torch.randn(parameter.shape, generator=generator)
            parameter.data = values.double()


def _block(parts: Any, x: Tensor, emb: Tensor, **other: Any) -> Tensor:
    """The block; `other` puts one of the usual faults in."""
    bend = other.get("bend", F.silu)
    outer = (lambda h: h) if other.get("no_silu") == 1 else bend
    inner = (lambda h: h) if other.get("no_silu") == 2 else bend
    normal = (lambda h: h) if other.get("no_norm") == 1 else parts.norm1
    scale, shift = parts.scale_shift(F.silu(emb) if other.get("emb_silu") else emb)[:, :, None, None].chunk(2, 1)
    if other.get("in_turn"):
        both = torch.cat([scale, shift], dim=1)
        scale, shift = both[:, ::2], both[:, 1::2]
    if other.get("swapped"):
        scale, shift = shift, scale
    h = parts.conv1(outer(normal(x)))
    if other.get("before_norm"):
        h = parts.norm2(h * (1 + scale) + shift)
    else:
        h = h if other.get("no_norm") == 2 else parts.norm2(h)
        h = h * (scale + other.get("one", 1)) + shift * other.get("shift", 1)
    h = parts.conv2(inner(h))
    if other.get("shortcut") == "left out":
        return h
    return h + (x if other.get("shortcut") == "x" and x.shape == h.shape else parts.shortcut(x))


BLOCK_FAULTS = {
    "the scale should multiply by 1 + scale, not by scale: with scale 0 the features should stay": {"one": 0},
    "scale and shift have changed places: of what scale_shift gives, the first half are the scales": {"swapped": True},
    "scale and shift come before norm2, which takes part of them away again; they belong behind it": {
        "before_norm": True
    },
    "scales and shifts are read in turn; the first half are the scales: chunk(2, dim=1)": {"in_turn": True},
    "the bend is ReLU; here it is SiLU": {"bend": F.relu},
    "the shift is not added": {"shift": 0},
    "the shortcut is missing: the result is shortcut(x) + what the branch gives": {"shortcut": "left out"},
    "the first SiLU, between norm1 and conv1, is missing": {"no_silu": 1},
    "the second SiLU, between the shift and conv2, is missing": {"no_silu": 2},
    "norm1 is missing": {"no_norm": 1},
    "norm2 is missing": {"no_norm": 2},
    "emb has been through its SiLU already; give it to scale_shift as it is": {"emb_silu": True},
}


def check_residual_block(answer: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for in_channels, out_channels in ((4, 4), (6, 4), (4, 8)):
        parts = _Parts(in_channels, out_channels, emb_dim=5)
        x = torch.randn(3, in_channels, 4, 6, generator=generator, dtype=torch.float64)
        emb = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        named = f"{in_channels} to {out_channels} channels"
        kept = x.clone()
        try:
            seen = answer(parts, x, emb)
        except ValueError as error:
            if "to unpack" not in str(error):
                raise
            raise Wrong(f"{named}: scale_shift(emb) is one tensor, (B, 2C); halve it with chunk(2, dim=1)") from error
        except RuntimeError as error:
            if "must match" not in str(error) and "to have" not in str(error):
                raise
            raise Wrong(
                f"{named}: shapes do not fit ({error}). scale and shift need shape (B, C, 1, 1), and x may have "
                "other channels than the result: that is what the shortcut is for"
            ) from error
        with torch.no_grad():
            seen = as_float64(seen, (3, out_channels, 4, 6), f"{named}: the result")
            if not torch.equal(x, kept):
                raise Wrong(f"{named}: your block changes its input x in place; a skip may still need it")
            if close(seen, _block(parts, x, emb)):
                continue
            for told, fault in BLOCK_FAULTS.items():
                if close(seen, _block(parts, x, emb, **fault)):
                    raise Wrong(f"{named}: {told}")
            if not close(answer(parts, x, emb[[1, 2, 0]]), seen) and close(
                seen, _block(parts, x, emb[:1].expand_as(emb))
            ):
                raise Wrong(f"{named}: every image gets the scale and shift of the first; each has its own")
            if close(answer(parts, x, -emb), seen):
                raise Wrong(f"{named}: emb changes nothing; scale and shift come from scale_shift(emb)")
        raise Wrong(f"{named}: the values are not those of the equations; is the order norm, SiLU, conv, twice?")


@exercise(
    "03.1",
    "the residual block",
    check_residual_block,
    hints=[
        "Three lines, one an equation. parts.conv1(F.silu(parts.norm1(x))) is the first.",
        "parts.scale_shift(emb) has shape (B, 2C). Halve it with chunk(2, dim=1), and give both halves two more "
        "axes, [:, :, None, None], so that they reach every pixel.",
        "h = parts.norm2(h) * (1 + scale) + shift, and at the end parts.shortcut(x) + parts.conv2(F.silu(h)).",
    ],
)
def residual_block(parts, x, emb):
    h = parts.conv1(F.silu(parts.norm1(x)))
    scale, shift = parts.scale_shift(emb).chunk(2, dim=1)  # (B, C) each
    h = parts.norm2(h) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return parts.shortcut(x) + parts.conv2(F.silu(h))


# -- 03.2, 03.3 ------------------------------------------------------------------------------------


def _images(*shape: int) -> Tensor:
    """Numbers that are all different, so that a tensor is known by its values."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class _Layer:
    """Stands for a block (with emb) or for a change of size; notes what it is given."""

    def __init__(self, name: str, give: Callable[..., Tensor], arguments: int):
        self.name, self.give, self.arguments, self.calls = name, give, arguments, []

    def __call__(self, *given: Any) -> Tensor:
        if len(given) != self.arguments:
            wanted = "x and emb" if self.arguments == 2 else "x alone"
            raise Wrong(f"{self.name} takes {wanted}, you give it {len(given)} arguments")
        self.calls.append([value.clone() for value in given])
        return self.give(*given)


def check_down_level(answer: Callable[..., Tensor]) -> None:
    for shrinks in (True, False):
        x, emb, stem = _images(2, 3, 4, 4), _images(2, 5), _images(2, 3, 4, 4) + 7
        block = _Layer("block", lambda x, emb: 2 * x + emb.mean(), 2)
        shrink = _Layer("shrink", lambda x: x[:, :, ::2, ::2] - 1, 1) if shrinks else None
        after_block = 2 * x + emb.mean()
        after_shrink = after_block[:, :, ::2, ::2] - 1
        skips, case = [stem], "with a shrink" if shrinks else "on the lowest level, where shrink is None"
        try:
            seen = answer(x.clone(), emb, skips, block, shrink)
        except TypeError as error:
            if "NoneType" not in str(error) or shrinks:
                raise
            raise Wrong(f"{case}: you call it; leave the shrinking out there") from error
        if seen is None:
            raise Wrong(f"{case}: it returned None; give x for the next level")
        if isinstance(seen, (tuple, list)):
            raise Wrong(f"{case}: return x alone; skips is changed in place, with append")
        if len(block.calls) != 1:
            raise Wrong(f"{case}: the block should run once; it ran {len(block.calls)} times")
        if not torch.equal(block.calls[0][0], x):
            raise Wrong(f"{case}: the block should get x as it comes; it got something else")
        _check_pushed(skips, stem, [after_block, after_shrink] if shrinks else [after_block], x, case)
        wanted = after_shrink if shrinks else after_block
        if seen.shape != wanted.shape and shrinks:
            raise Wrong(f"{case}: the next level works at half the size; return what shrink gives")
        if seen.shape != wanted.shape or not torch.equal(seen, wanted):
            last = "shrink" if shrinks else "block"
            raise Wrong(f"{case}: the next level should get the last output, here that of the {last}")


def _check_pushed(skips: list[Tensor], stem: Tensor, wanted: list[Tensor], x: Tensor, case: str) -> None:
    names = "the block's output, then the shrink's" if len(wanted) == 2 else "the block's output"
    if not skips or (len(skips) == 1 and skips[0] is stem):
        raise Wrong(f"{case}: nothing is on the list skips that was not there before; append to it, make no new list")
    if any(isinstance(pushed, (tuple, list)) for pushed in skips):
        raise Wrong(f"{case}: push each output by itself, not two together")
    if skips[0] is not stem:
        raise Wrong(f"{case}: what was on the list must stay in front; push at the end, with append")
    pushed = skips[1:]
    if any(skip.shape == x.shape and torch.equal(skip, x) for skip in pushed):
        raise Wrong(f"{case}: the level's input is pushed; it is on the list already, push outputs only")
    if len(pushed) < len(wanted):
        missing = "shrink" if pushed[0].shape == wanted[0].shape else "block"
        raise Wrong(
            f"{case}: {len(wanted)} outputs should be pushed, you push {len(pushed)}: that of the {missing} is missing"
        )
    if len(pushed) > len(wanted):
        raise Wrong(f"{case}: {len(wanted)} should be pushed ({names}), you push {len(pushed)}: each output once")
    if any(one.shape != right.shape or not torch.equal(one, right) for one, right in zip(pushed, wanted)):
        raise Wrong(f"{case}: pushed should be {names}, as they come out and in the order they run")


@exercise(
    "03.2",
    "one level down",
    check_down_level,
    hints=[
        "Run the block, push what it gives, and go on with that.",
        "skips.append(x) changes the list that you were given. The shrink's output is pushed too.",
        "x = block(x, emb); skips.append(x). Then, if shrink is not None, the same with shrink(x). Return x.",
    ],
)
def down_level(x, emb, skips, block, shrink):
    x = block(x, emb)
    skips.append(x)
    if shrink is not None:
        x = shrink(x)
        skips.append(x)
    return x


def check_up_level(answer: Callable[..., Tensor]) -> None:
    for count, grows in ((2, True), (2, False), (3, True)):
        emb = _images(2, 5)
        stays = [_images(2, 3, 4, 4) + k for k in range(2)]  # for the levels above
        mine = [_images(2, 3, 4, 4) * (k + 2) for k in range(count)]
        blocks = [_Layer(f"block {k}", _a_block_up(k, count), 2) for k in range(count)]
        grow = _Layer("grow", lambda x: F.interpolate(x, scale_factor=2.0) + 1, 1) if grows else None
        skips, below = [*stays, *mine], _images(2, 3, 4, 4) - 5
        case = f"{count} blocks" + ("" if grows else ", on the topmost level, where grow is None")
        try:
            seen = answer(below.clone(), emb, skips, blocks, grow)
        except RuntimeError as error:
            if "Sizes of tensors" not in str(error):
                raise
            grown = " Also, grow comes after the blocks, not before the blocks" if grow and grow.calls else ""
            raise Wrong(f"{case}: torch.cat cannot join what you give it: {error}{grown}") from error
        except IndexError as error:
            if "pop from" not in str(error):
                raise
            raise Wrong(f"{case}: you pop more skips than there are; one for each block") from error
        except TypeError as error:
            if "NoneType" not in str(error) or grows:
                raise
            raise Wrong(f"{case}: you call it; leave the growing out there") from error
        if seen is None:
            raise Wrong(f"{case}: it returned None; give x for the level above")
        x = _check_joined(blocks, below, mine[::-1], stays, case)
        if len(skips) != 2 or any(kept is not stay for kept, stay in zip(skips, stays)):
            raise Wrong(
                f"{case}: {len(skips)} skips are left on the list, there should be 2, those of the levels above; "
                "pop() takes one off the list that you were given, skips[-1] only looks at it"
            )
        if isinstance(seen, (tuple, list)):
            raise Wrong(f"{case}: return x alone; skips is changed in place, by pop")
        wanted = F.interpolate(x, scale_factor=2.0) + 1 if grows else x
        if seen.shape != wanted.shape or not torch.equal(seen, wanted):
            raise Wrong(f"{case}: return what {'grow gives for the last block' if grows else 'the last block gives'}")


def _a_block_up(k: int, count: int) -> Callable[[Tensor, Tensor], Tensor]:
    """What block k gives. Raises `Wrong` where it is not given x and a skip as channels."""

    def give(x: Tensor, emb: Tensor) -> Tensor:
        if x.shape != (2, 6, 4, 4):
            wanted = "(2, 6, 4, 4): x and its skip, (2, 3, 4, 4) each, side by side as channels (torch.cat, dim=1)"
            raise Wrong(f"{count} blocks: block {k} should get {wanted}; it got {tuple(x.shape)}")
        return x[:, :3] + x[:, 3:] * (k + 3) + emb.mean()

    return give


def _check_joined(blocks: list[_Layer], x: Tensor, skips: list[Tensor], stays: list[Tensor], case: str) -> Tensor:
    """Whether each block was given x and its skip; what the last one gives."""
    for k, (block, skip) in enumerate(zip(blocks, skips)):
        if len(block.calls) != 1:
            raise Wrong(f"{case}: each block should run once, block {k} ran {len(block.calls)} times")
        given, emb = block.calls[0]
        right = torch.cat([x, skip], dim=1)
        if not torch.equal(given, right):
            last = given[:, 3:]
            if torch.equal(given, torch.cat([skip, x], dim=1)):
                raise Wrong(f"{case}: block {k} gets the skip first; what comes from below comes first, then the skip")
            if torch.equal(last, skip) and k:
                raise Wrong(f"{case}: block {k} should go on with what block {k - 1} gave, joined to its skip")
            if any(torch.equal(last, other) for other in (*skips, *stays) if other is not skip):
                raise Wrong(f"{case}: block {k} gets another skip than its own; the last one pushed is taken first")
            raise Wrong(f"{case}: block {k} should get x as it comes from below, then its skip, both unchanged")
        x = block.give(given, emb)
    return x


@exercise(
    "03.3",
    "one level up",
    check_up_level,
    hints=[
        "A loop over the blocks. Each takes x and the newest skip, joined along the channels.",
        "skips.pop() gives the last tensor of the list and takes it off. torch.cat([x, skip], dim=1) joins.",
        "for block in blocks: x = block(torch.cat([x, skips.pop()], dim=1), emb). Then grow, if there is one.",
    ],
)
def up_level(x, emb, skips, blocks, grow):
    for block in blocks:
        skip = skips.pop()
        x = block(torch.cat([x, skip], dim=1), emb)
    if grow is not None:
        x = grow(x)
    return x


# -- 03.4 ------------------------------------------------------------------------------------------


RESHAPING = {
    "got float": "a shape is made of whole numbers: // divides without a rest, / gives a float",
    "is invalid for input of size": "the new shape must hold as many values as the old one; of the channels "
    "c // r**2 are left, and r is not always 2",
    "view size is not compatible": "after permute use .reshape; .view only takes tensors that lie in order",
    "length of the desired ordering": "permute needs every axis once",
}


def check_depth_to_space(answer: Callable[[Tensor, int], Tensor]) -> None:
    cases = ((2, 1, 2, 3, 5), (1, 3, 2, 4, 4), (2, 2, 3, 2, 1))
    for b, c, r, h, w in cases:
        image = torch.arange(b * c * h * r * w * r, dtype=torch.float32).reshape(b, c, h * r, w * r)
        folded = F.pixel_unshuffle(image, r)
        case = f"{tuple(folded.shape)} with r = {r}"
        out = called(answer, folded.clone(), r, faults={text: f"for {case}: {why}" for text, why in RESHAPING.items()})
        if not isinstance(out, Tensor):
            raise Wrong(f"it should return a tensor, got {type(out).__name__}")
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
    "03.4",
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


# -- 03.5 ------------------------------------------------------------------------------------------


def check_conv_multiply_adds(answer: Callable[..., int]) -> None:
    # 16 to 32 channels on 14x14, a network of one 1x1 tap, then stride, no padding, an oblong image.
    cases = [(16, 32, 3, 1, 1, 14, 14), (1, 1, 1, 1, 0, 1, 1), (16, 32, 1, 1, 0, 7, 7)]
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
        if float(seen) * kernel == expected:
            raise Wrong(f"{named}: the kernel is {kernel} x {kernel}; one side of it is missing")
        each = in_channels * out_channels * kernel**2
        sizes = wrong_sizes(kernel, stride, padding, height, width)
        if faults := [fault for fault, size in sizes.items() if float(seen) == size * each]:
            raise Wrong(f"{named}: the output is {'x'.join(map(str, out.shape[2:]))}; {', or: '.join(faults)}")
        if float(seen) == out[:, :1].numel() * (in_channels * kernel**2 + out_channels):
            raise Wrong(f"{named}: input and output channels are added; every output channel sums over every input one")
        if stride > 1 and float(seen) == height * width * out_channels * in_channels * kernel**2:
            size = "x".join(map(str, out.shape[2:]))
            raise Wrong(f"{named}: the output is only {size}; count output values, not input values")
        if float(seen) == out[:, :1].numel() * in_channels * kernel**2:
            raise Wrong(f"{named}: that is the cost of one output channel; there are {out_channels}")
        if float(seen) == out.numel() * kernel**2:
            raise Wrong(f"{named}: one output value sums over all {in_channels} input channels, not over one")
        raise Wrong(f"{named}: expected {expected:,}, you return {float(seen):,.0f}")


def wrong_sizes(kernel: int, stride: int, padding: int, height: int, width: int) -> dict[str, float]:
    """How many places the output has by the most natural mistakes, by what is wrong with them."""

    def places(around: int, one: int) -> float:
        sizes = ((height + around - kernel) // stride + one, (width + around - kernel) // stride + one)
        return sizes[0] * sizes[1]

    def by_fraction(size: int) -> float:
        return (size + 2 * padding - kernel) / stride + 1

    return {
        "the padding counts on both sides": places(padding, 1),
        "the padding is not counted": places(0, 1),
        "there is one place more than steps between them: + 1": places(2 * padding, 0),
        "the kernel must fit in; size // stride is right only with the padding that makes it so": (height // stride)
        * (width // stride),
        "a last step that does not fit is left out: //, not /": by_fraction(height) * by_fraction(width),
    }


@exercise(
    "03.5",
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


# -- 03.6 ------------------------------------------------------------------------------------------


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
        seen = called(answer, list(layers), faults={"list index out of range": f"{layers} has no such layer; {why}"})
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
    "03.6",
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
