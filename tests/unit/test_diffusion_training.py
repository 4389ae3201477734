"""Training: the generator, its options, the average of the weights, and what it does with bad input."""

import copy
import math
import os
import signal

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_training, tiny_unet
from utils.diffusion.checkpoints import load_model, read_notes
from utils.diffusion.images import ImageSet
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.training import Settings, draw, stream_seed, train, update_ema, validation_loss
from utils.files import TrainingDiverged, load_state, lock_folder


def run(*args, **options):
    """The last state of a training."""
    return list(train(*args, **{**OPTIONS, **options}))[-1]


def test_yields_a_state_after_every_step():
    losses = []
    for k, state in enumerate(tiny_training(steps=5)):
        assert state.step == k + 1
        assert math.isfinite(state.loss) and state.gradient_norm > 0 and state.seconds > 0
        assert state.validation_loss is None
        losses.append(state.loss)
    assert len(losses) == 5 and len(set(losses)) == 5


def test_loss_falls():
    losses = [state.loss for state in tiny_training(steps=60, model=tiny_unet(dropout=0.0), learning_rate=3e-3)]
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_trains_the_model_it_was_given_and_hands_it_back_plain():
    model = tiny_unet()
    before = copy.deepcopy(model.state_dict())
    for state in tiny_training(steps=3, model=model):
        assert state.model is model and state.ema_model is not model
        assert not state.ema_model.training and not any(p.requires_grad for p in state.ema_model.parameters())
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert type(model.forward(torch.zeros(1, 1, 8, 8), torch.tensor([0]))) is torch.Tensor


def test_seed_decides_everything():
    def weights(seed):
        state = run(tiny_unet(), tiny_diffusion(), digits(), steps=3, seed=seed)
        return torch.cat([p.detach().flatten() for p in state.model.parameters()])

    torch.manual_seed(0)
    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_learning_rate_rises_and_falls_along_a_cosine():
    rates = [s.learning_rate for s in tiny_training(steps=40, model=Recorder(), warmup=4, learning_rate=1e-3)]
    for k in range(40):
        expected = 1e-3 * min(1, (k + 1) / 4) * 0.5 * (1 + math.cos(math.pi * k / 40))
        assert rates[k] == pytest.approx(expected)
    capped = [s.learning_rate for s in tiny_training(steps=40, model=Recorder(), warmup=100, learning_rate=1e-3)]
    assert capped == rates  # warm-up takes at most a tenth of the steps
    flat = tiny_training(steps=5, model=Recorder(), warmup=0, learning_rate=1e-3, decay=False)
    assert [s.learning_rate for s in flat] == pytest.approx([1e-3] * 5)


def test_first_step_has_the_size_of_the_learning_rate():
    """Adam's first step has the size of the learning rate, however small the gradient was clipped."""
    model = tiny_unet(dropout=0.0)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    once = dict(steps=1, warmup=0, learning_rate=1e-3, decay=False, muon=False)
    state = next(iter(tiny_training(model=model, **once)))
    moved = torch.cat([p.detach().flatten() for p in state.model.parameters()]) - before
    assert moved.abs().max().item() == pytest.approx(1e-3, rel=1e-3)


def momentum(state):
    """The norm of Adam's running average of the gradients: after one step a tenth of the gradient it was given."""
    squares = [values["exp_avg"].square().sum() for values in state.optimizer.state.values()]
    return torch.stack(squares).sum().sqrt().item()


def test_gradients_are_clipped_to_the_norm_and_no_further():
    """Seen in Adam's first running average: the gradient as it was, or scaled down to the limit."""
    adam = dict(steps=1, muon=False)
    kept = run(tiny_unet(dropout=0.0), tiny_diffusion(), digits(), max_gradient_norm=None, **adam)
    norm = kept.gradient_norm
    assert 10 * momentum(kept) == pytest.approx(norm, rel=1e-4)
    for limit, expected in ((norm / 7, norm / 7), (3 * norm, norm)):
        clipped = run(tiny_unet(dropout=0.0), tiny_diffusion(), digits(), max_gradient_norm=limit, **adam)
        assert clipped.gradient_norm == pytest.approx(norm, rel=1e-5)  # the norm before clipping
        assert 10 * momentum(clipped) == pytest.approx(expected, rel=1e-4)


def below(u, middle):
    """How many of the timesteps should lie below u T: the mixture of a logit-normal and a uniform law."""
    return middle * scipy.stats.norm.cdf(scipy.special.logit(u) + 1) + (1 - middle) * u


@pytest.mark.parametrize("middle", [0, 0.75, 1])
def test_timesteps_follow_their_law(middle):
    """Kolmogorov and Smirnov's test of u = (t + a fraction) / T."""
    t = draw(torch.zeros(20_000, 1, 1, 1), 1000, Settings(middle=middle), 0, torch.device("cpu"))[0]
    u = (t.double().numpy() + np.random.default_rng(0).random(len(t))) / 1000
    assert scipy.stats.kstest(u, below, args=(middle,)).pvalue > 0.01


def test_the_callers_random_state_is_left_alone():
    """Training seeds dropout for itself: the numbers a caller draws between two steps are the caller's."""
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(4)]
    model = tiny_unet()
    torch.manual_seed(5)
    assert [torch.rand(()).item() for _ in tiny_training(steps=4, model=model)] == expected


def test_dropout_masks_change_from_step_to_step_and_come_from_the_seed():
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.drop, self.masks = nn.Parameter(torch.ones(1)), nn.Dropout(0.5), []

        def forward(self, x_t, t, y=None):
            self.masks.append(self.drop(torch.ones(64)))
            return x_t * self.weight

    first, again, other = Mask(), Mask(), Mask()
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        torch.rand(3)
        run(model, tiny_diffusion(), digits(), steps=3, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(first.masks, again.masks, strict=True))
    assert len({tuple(mask.tolist()) for mask in first.masks + other.masks}) == 6


def test_ema_is_the_average_computed_by_hand():
    model = tiny_unet(dropout=0.0)
    kept = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    for k, state in enumerate(tiny_training(steps=8, model=model, ema_decay=0.5)):
        decay = min(0.5, (1 + k) / (10 + k))
        kept = decay * kept + (1 - decay) * torch.cat([p.detach().flatten() for p in state.model.parameters()])
        seen = torch.cat([p.flatten() for p in state.ema_model.parameters()])
        torch.testing.assert_close(seen, kept, rtol=1e-5, atol=1e-7)


def test_update_ema_copies_buffers():
    a, b = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    b.running_mean.fill_(3.0)
    update_ema(a, b, 0.9)
    assert a.running_mean.tolist() == [3, 3]


class Recorder(nn.Module):
    """Keeps what it is shown."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(1)), []
        if num_classes:
            self.num_classes = num_classes

    def forward(self, x_t, t, y=None):
        self.seen.append((x_t.detach(), t, y))
        return x_t * self.weight


def test_labels_are_dropped_one_by_one():
    model, images = Recorder(), digits(640)
    run(model, tiny_diffusion(), images, steps=10, batch_size=64, label_dropout=0.25)
    labels = torch.stack([y for _, _, y in model.seen])
    dropped = labels == 10
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 640))
    assert (dropped.any(1) & ~dropped.all(1)).all()  # of every batch some and not all
    assert not (labels[~dropped] == 10).any()
    kept = Recorder()
    run(kept, tiny_diffusion(), images, steps=10, batch_size=64, label_dropout=0.0)
    every = torch.cat([y for _, _, y in kept.seen])
    assert torch.equal(every.sort().values, images.labels.sort().values)  # one epoch, all labels as they are
    assert torch.equal(torch.stack([y for _, _, y in kept.seen])[~dropped], labels[~dropped])


@pytest.mark.parametrize("middle", [0, 0.75])
def test_timesteps_cover_the_schedule(middle):
    model, edges = Recorder(), np.arange(5) / 4
    run(model, tiny_diffusion(num_timesteps=4), digits(64), steps=30, batch_size=64, middle=middle)
    share = np.bincount(torch.cat([t for _, t, _ in model.seen]), minlength=4) / (30 * 64)
    assert np.abs(share - np.diff(below(edges, middle))).max() < 5 * math.sqrt(0.25 / (30 * 64))


class TwoHalves(Recorder):
    """As wide as a learned variance asks for."""

    def forward(self, x_t, t, y=None):
        return super().forward(torch.cat([x_t, x_t], dim=1), t, y)


def test_a_learned_variance_sees_uniform_timesteps():
    """Its loss is a sum over all of them; only who says so gets others."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(4), variance="learned")
    for options, middle in (({}, 0), ({"middle": 0.75}, 0.75)):
        run(model := TwoHalves(), diffusion, digits(64), steps=30, batch_size=64, **options)
        share = np.bincount(torch.cat([t for _, t, _ in model.seen]), minlength=4) / (30 * 64)
        assert np.abs(share - np.diff(below(np.arange(5) / 4, middle))).max() < 5 * math.sqrt(0.25 / (30 * 64))


def test_kinds_of_images_give_the_same_training():
    found = digits()
    sources = [found, TensorDataset(found.images, found.labels), TensorDataset(found.pixels, found.labels)]
    sources += [TensorDataset(found.images, found.labels.byte()), list(zip(found.images, found.labels.tolist()))]
    sources += [ImageSet(found.pixels, found.labels.tolist(), found.classes)]
    losses = [run(tiny_unet(), tiny_diffusion(), images, steps=2).loss for images in sources]
    assert losses == pytest.approx(losses[:1] * len(losses), rel=1e-6)
    unlabelled = [found.images, TensorDataset(found.images), found.images.double(), found.images.half()]
    losses = [run(tiny_unet(), tiny_diffusion(), images, steps=2).loss for images in unlabelled]
    assert losses == pytest.approx(losses[:1] * 4, rel=1e-4)


def test_images_without_labels_and_a_plain_network():
    model = Recorder(num_classes=None)
    run(model, tiny_diffusion(), digits(), steps=1)
    assert model.seen[0][2] is None
    run(tiny_unet(num_classes=None), tiny_diffusion(), digits().images, steps=1)
    run(tiny_unet(), tiny_diffusion(), digits().images, steps=1)


def test_minutes_end_the_training():
    states = list(train(tiny_unet(), tiny_diffusion(), digits(), minutes=0.02, **OPTIONS))
    assert states[-1].seconds >= 1.2 and len(states) == states[-1].step
    assert states[-1].learning_rate < 2e-3


def test_minutes_count_those_of_the_first_part(tmp_path):
    options = dict(**OPTIONS, out=tmp_path, minutes=0.02)
    first = list(train(tiny_unet(), tiny_diffusion(), digits(), **options))[-1]
    again = list(train(tiny_unet(), tiny_diffusion(), digits(), **options))
    assert len(again) == 1 and again[0].step == first.step


def test_validation_loss_is_measured_on_the_average():
    seen = {}
    for state in tiny_training(steps=4, validation=digits(32, "test"), validate_every=2):
        seen[state.step] = (state.validation_loss, copy.deepcopy(state.ema_model))
    assert seen[1][0] is None and seen[2][0] == seen[3][0] != seen[4][0]
    expected = validation_loss(seen[4][1], tiny_diffusion(), digits(32, "test")).mean().item()
    assert seen[4][0] == pytest.approx(expected, rel=1e-5)


class Zero(nn.Module):
    def forward(self, x_t, t, y=None):
        return torch.zeros_like(x_t)


def test_validation_loss_by_timestep():
    """A network that says 0 has the loss E[v^2], which is 1 - alpha-bar times E[x_0^2] plus alpha-bar."""
    diffusion, images = tiny_diffusion(num_timesteps=100), digits(297, "test")
    losses = validation_loss(Zero(), diffusion, images, points=5, count=297)
    t = torch.tensor([10, 30, 50, 70, 90])
    a = diffusion.schedule.alphas_cumprod[t].float()
    expected = a + (1 - a) * images.images.square().mean()
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0)
    assert torch.equal(losses, validation_loss(Zero(), diffusion, images, points=5, count=297))


def test_validation_loss_knows_no_dropout():
    model = tiny_unet(dropout=0.9)
    nn.init.normal_(model.head[-1].weight)
    nn.init.normal_(model.middle[0].block.conv2.weight)
    a, b = (validation_loss(model.train(), tiny_diffusion(), digits(16)) for _ in range(2))
    assert torch.equal(a, b) and model.training


def test_bf16_trains_too():
    state = run(tiny_unet(), tiny_diffusion(), digits(), steps=2, precision="bf16")
    assert math.isfinite(state.loss) and next(state.model.parameters()).dtype == torch.float32


# -- what is saved ---------------------------------------------------------------------------------


def test_model_safetensors_holds_the_average(tmp_path):
    for state in tiny_training(steps=4, out=tmp_path):
        last = state
    model, diffusion = load_model(tmp_path / "model.safetensors")
    for name, value in last.ema_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert diffusion.prediction == "v" and diffusion.num_timesteps == 50
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 4


def test_leaving_the_loop_saves(tmp_path):
    for state in tiny_training(steps=50, out=tmp_path, save_every=1000):
        if state.step == 3:
            break
    del state
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 3
    assert not (tmp_path / "model.safetensors").exists()


class Interrupted(nn.Module):
    """Ctrl-C in the network's third step: in the forward pass, or once there are gradients; and once only."""

    def __init__(self, where="nowhere"):
        super().__init__()
        self.weight, self.where, self.calls = nn.Parameter(torch.ones(1)), where, 0
        self.weight.register_post_accumulate_grad_hook(lambda weight: self.interrupt("backward"))

    def interrupt(self, where):
        if self.calls == 3 and self.where == where:
            self.where = "nowhere"
            raise KeyboardInterrupt

    def forward(self, x_t, t):
        self.calls += 1
        self.interrupt("forward")
        return x_t * self.weight


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_interrupted_step_is_not_saved_but_those_before_it_are(tmp_path, where):
    """The training goes on with the same network, as a cell does that is run again, to the same bits."""
    options = dict(steps=5, max_gradient_norm=None)  # a gradient that is added twice has to show
    expected = list(tiny_training(model=Interrupted(), **options))[-1]
    model = Interrupted(where)
    with pytest.raises(KeyboardInterrupt):
        list(tiny_training(model=model, out=tmp_path, save_every=100, **options))
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 2 and os.listdir(tmp_path) == ["checkpoint.pt"]
    last = list(tiny_training(model=model, out=tmp_path, **options))[-1]
    assert torch.equal(last.ema_model.weight, expected.ema_model.weight)


def test_weights_half_moved_are_not_saved(tmp_path, monkeypatch):
    states = tiny_training(steps=5, model=Interrupted(), out=tmp_path, save_every=1)
    assert next(states).step == 1
    monkeypatch.setattr("utils.diffusion.training.update_ema", lambda *args: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        next(states)
    saved = load_state(tmp_path / "checkpoint.pt")
    assert saved["step"] == 1 and saved["optimizer"]["state"][0]["step"] == 1


def test_first_state_after_resuming_is_the_restored_one(tmp_path):
    for _ in tiny_training(steps=3, out=tmp_path):
        pass
    steps = [state.step for state in tiny_training(steps=6, out=tmp_path)]
    assert steps == [3, 4, 5, 6]


# -- the folder ------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "model.safetensors").mkdir(parents=True)
    for out, message in [
        ("file", "cannot be written in .*file: that is no folder"),
        ("file/below", "cannot be written in .*below: that is no folder"),
        ("taken", "model.safetensors cannot be written in .*taken: a folder of the name"),
    ]:
        with pytest.raises(OSError, match=message):
            next(tiny_training(out=tmp_path / out))


def test_a_folder_in_which_another_training_writes(tmp_path):
    with lock_folder(tmp_path), pytest.raises(OSError, match=f"process {os.getpid()} on .* trains in .*another folder"):
        next(tiny_training(out=tmp_path))
    assert len(list(tiny_training(steps=2, out=tmp_path))) == 2


def test_a_training_left_open_is_saved_and_closed(tmp_path):
    """As after an interrupted cell, whose loop nobody has closed: the next one goes on from it."""
    earlier = tiny_training(steps=9, out=tmp_path, save_every=100)
    assert [next(earlier).step for _ in range(3)] == [1, 2, 3]
    with pytest.warns(UserWarning, match="was open in .* is saved and closed"):
        later = tiny_training(steps=9, out=tmp_path)
    assert next(later).step == 3 and not list(earlier)
    assert next(later).step == 4


# -- any network -----------------------------------------------------------------------------------


class Shared(nn.Module):
    """Weights, a buffer of whole numbers, and two names for one tensor."""

    def __init__(self):
        super().__init__()
        self.norm, self.weight = nn.BatchNorm2d(1), nn.Parameter(torch.ones(1))
        self.again, self.config = self.weight, {"not": object}

    def forward(self, x_t, t):
        return self.norm(x_t) * self.weight


def test_any_network_can_be_trained_and_its_weights_are_saved(tmp_path):
    with pytest.warns(
        UserWarning, match="of a Shared the weights are saved, but load_model builds UNet, DiT, Autoencoder only"
    ):
        (state,) = tiny_training(steps=1, model=Shared(), out=tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert kept.keys() == {*state.ema_model.state_dict(), "schedule.betas"}
    assert torch.equal(kept["again"], state.ema_model.weight) and kept["norm.num_batches_tracked"].item() == 1
    with pytest.raises(ValueError, match="model.safetensors: they are of no network of the course: build it"):
        load_model(tmp_path / "model.safetensors")


def partly_compiled(model):
    model.middle[0] = torch.compile(model.middle[0], backend="eager")
    return model


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager"), partly_compiled]
)
def test_wrapped_networks_are_saved_as_the_network_itself(tmp_path, wrap):
    """One step wrapped, saved, and the next one without the wrapper."""
    first = tiny_training(steps=2, model=wrap(tiny_unet()), out=tmp_path / "wrapped")
    next(first), first.close()
    again = wrap(tiny_unet()) if wrap is partly_compiled else tiny_unet()
    list(tiny_training(steps=2, model=again, out=tmp_path / "wrapped"))
    list(tiny_training(steps=2, out=tmp_path / "plain"))
    expected, seen = (load_model(tmp_path / name / "model.safetensors")[0] for name in ("plain", "wrapped"))
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(seen.state_dict()[name], value)


@pytest.mark.parametrize("shape, size", [((8, 12), [8, 12]), ((12, 12), 12)])
def test_the_size_of_the_images_is_noted(tmp_path, shape, size):
    list(train(tiny_unet(), tiny_diffusion(), torch.zeros(16, 1, *shape), steps=1, out=tmp_path, **OPTIONS))
    assert read_notes(tmp_path / "model.safetensors") == {"steps": 1, "size": size}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_a_short_format_are_refused(dtype):
    with pytest.raises(ValueError, match=f"lost in weights of {dtype}: train model.float()"):
        next(tiny_training(model=tiny_unet().to(dtype)))


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        *(("learning_rate", value) for value in (-1, math.nan, math.inf)),
        *(("warmup", value) for value in (-1, 2.5)),
        *(("max_gradient_norm", value) for value in (-1.0, 0)),
        *(("ema_decay", value) for value in (2, -0.1, None, "high")),
        *(("label_dropout", value) for value in (5, -1)),
        *((name, value) for name in ("save_every", "validate_every", "batch_size") for value in (0, -3, 1.5)),
        *(("steps", value) for value in (0, -5, 2.5)),
        *(("minutes", value) for value in (0, -1.5, math.inf, math.nan)),
        ("seed", 1.5),
    ],
)
def test_numbers_outside_their_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a (whole )?number.*, got {value!r}"):
        next(tiny_training(**{"steps": None if name == "minutes" else 6, name: value}))


def test_numbers_of_numpy_are_numbers(tmp_path):
    numbers = dict(seed=np.int64(3), batch_size=np.int32(8), learning_rate=np.float32(0.5))
    for state in tiny_training(np.int64(2), **numbers, out=tmp_path):
        last = state.loss
    assert last == [state.loss for state in tiny_training(2, seed=3, batch_size=8, learning_rate=0.5)][-1]
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 2


@pytest.mark.parametrize("precision", ["fp16", "fp8", "half"])
def test_precisions_of_another_device(precision):
    with pytest.raises(ValueError, match=f"must be one of 'no', 'bf16' on this device .cpu., got '{precision}'"):
        next(tiny_training(precision=precision))


def last_is(values, bad):
    return torch.cat([values[:-1], torch.full_like(values[-1:], bad)])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(images=last_is(digits().images, 3)), "values from -1 to 3; scale pixels"),
        (dict(images=digits().pixels.float()), r"images must lie in .-1, 1., got values from 0 to 255"),
        (dict(images=last_is(digits().images, math.nan)), "values from nan"),
        (dict(images=digits().pixels.long()), "images must be uint8 0..255 or floats in .*, got torch.int64"),
        (dict(images=TensorDataset(digits().images, last_is(digits().labels, 12))), "label 12 is outside"),
        (dict(images=TensorDataset(digits().images, torch.full((64,), -1))), "label -1 .* 0..9; number .* from 0"),
        (dict(images=TensorDataset(digits().images, digits().labels + 0.5)), "must be whole numbers"),
        (dict(images=[(image, "cat") for image in digits().images]), "must be whole numbers.*got a tuple"),
        (dict(images=ImageSet(digits().pixels, digits().labels[:9], digits().classes)), "one for each of 64 images"),
        (dict(images=(image for image in digits().images)), "a generator without length"),
        (dict(images=digits().images.expand(-1, 3, -1, -1)), "images have 3 channels, but the network 1"),
        (dict(validation=torch.zeros(4, 1, 16, 16)), "validation images are .1, 16, 16., but the images .1, 8, 8."),
        (dict(validation=torch.full((4, 1, 8, 8), 9.0)), "values from 9 to 9"),
    ],
)
def test_images_and_labels_are_looked_at_before_the_first_step(change, message):
    seen = tiny_unet()
    with pytest.raises(ValueError, match=message):
        next(train(seen, tiny_diffusion(), **{"images": digits(), "steps": 1, **OPTIONS, **change}))
    assert torch.equal(seen.stem.weight, tiny_unet().stem.weight)


@pytest.mark.parametrize("steps, minutes", [(None, None), (3, 3)])
def test_steps_or_minutes(steps, minutes):
    with pytest.raises(ValueError, match=f"one of the two; got steps={steps}, minutes={minutes}"):
        run(tiny_unet(), tiny_diffusion(), digits(), steps=steps, minutes=minutes)


def test_an_unknown_setting():
    with pytest.raises(TypeError, match="learning_rat"):
        run(tiny_unet(), tiny_diffusion(), digits(), steps=1, learning_rat=1e-3)


def test_a_state_of_another_network(tmp_path):
    """A network that has no `config` is told apart by its weights."""
    state = tiny_training(steps=3, model=Diverging(9, "loss"), out=tmp_path)
    next(state)
    state.close()
    with pytest.raises(ValueError, match="checkpoint.pt in .* is of another network: .*bias"):
        run(nn.Conv2d(1, 1, 1), tiny_diffusion(), digits(), steps=3, out=tmp_path)


class Diverging(nn.Module):
    """A network whose output becomes NaN, or whose gradient does, at one step."""

    def __init__(self, at, what):
        super().__init__()
        self.weight, self.at, self.what, self.calls = nn.Parameter(torch.ones(1)), at, what, 0

    def forward(self, x_t, t, y=None):
        self.calls += 1
        if self.calls <= self.at:
            return x_t * self.weight
        if self.what == "loss":
            return x_t * self.weight * math.nan
        return x_t + (self.weight - self.weight.detach()).abs().sqrt()  # the root's slope at 0 is infinite


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path, what):
    reached = []
    message = f"the {what} became .* at step 5: .*last good checkpoint is kept. Try a lower"
    with pytest.raises(TrainingDiverged, match=message):
        for state in train(
            Diverging(5, what), tiny_diffusion(), digits(), steps=10, out=tmp_path, save_every=2, **OPTIONS
        ):
            reached.append(state.step)
    assert reached == [1, 2, 3, 4, 5]
    saved = load_state(tmp_path / "checkpoint.pt")
    assert saved["step"] == 4 and all(torch.isfinite(value).all() for value in saved["model"].values())
    assert not (tmp_path / "model.safetensors").exists()


def test_training_that_diverges_before_anything_is_saved(tmp_path):
    with pytest.raises(TrainingDiverged, match="at step 1: training stopped, and nothing had been saved. Try a lower"):
        list(tiny_training(model=Diverging(1, "loss"), out=tmp_path))


def test_which_image_and_which_timestep_are_independent():
    # torch draws both from the same kind of generator: from equal seeds a permutation's r_i and a timestep's r_i are
    # one number, and agree modulo every common divisor of their ranges.
    images, agreements = 60_000, []
    for seed in range(5):
        order = torch.randperm(images, generator=torch.Generator().manual_seed(stream_seed(seed, "order", 0)))
        t = torch.randint(1000, (64,), generator=torch.Generator().manual_seed(stream_seed(seed, "step", 0)))
        drawn = order[:64] - torch.arange(64)  # the first entries, before later swaps: Fisher-Yates draws i + r_i
        agreements.append(((drawn - t) % 4 == 0)[::4].double().mean())
    assert max(agreements) < 0.75 and sum(agreements) / 5 < 0.45


def test_seeds_of_uses_differ_and_fit_a_generator():
    seeds = {stream_seed(seed, use, k) for seed in (0, 1, 2**32) for use in ("order", "step") for k in range(50)}
    assert len(seeds) == 300 and all(0 <= seed < 2**32 for seed in seeds)
    assert stream_seed(0, "order", 0) == stream_seed(0, "order", 0)
