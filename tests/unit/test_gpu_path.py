"""The path of a GPU on a machine without one.

Under torch's FakeTensorMode tensors have a shape and claim to live on `cuda`, but hold no numbers; an operation on
tensors of two devices raises, as on a GPU. Each test here fails when a `.to(device)` or `device=` on its path is taken
out. It also counts how often a number is asked for, because there a GPU has to be waited for.
"""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from tests.tiny import tiny_diffusion, tiny_unet
from tests.tiny_ner import make_corpus, make_encoder
from utils.diffusion import batches, sampling, training
from utils.diffusion.metrics import Classifier, ImageQuality
from utils.diffusion.training import Settings, make_accelerator, prepare, train_step, validation_loss
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.chain import LinearChainCRF
from utils.ner.transformer import TransformerTagger

CUDA = torch.device("cuda")


class FakeGPU(FakeTensorMode):
    """`reads` counts the numbers that were asked for on `cuda`, which are made up, and tensors copied from there."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += args[0].device.type == "cuda"
            return True if args[0].dtype == torch.bool else 0 if not args[0].is_floating_point() else 0.5
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cuda":
            self.reads += str(kwargs.get("device")) == "cpu"
        return super().__torch_dispatch__(func, types, args, kwargs)


class FakeGenerator(torch.Generator):
    """Says that it is where it was asked for."""

    device = torch.device("cpu")

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.device = torch.device(device)
        return made


class CheckGenerators(TorchFunctionMode):
    """A generator has to be where the numbers are drawn; fake tensors do not look."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (source := kwargs.get("generator")) is not None:
            assert source.device.type == torch.device(kwargs.get("device") or "cpu").type, "the generator is elsewhere"
        return func(*args, **kwargs)


def fill_gradients(loss, *args, **kwargs):
    """In place of backward(): a build with CUDA does not start autograd's threads where there is no driver."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            assert leaf.device.type == "cuda"
            leaf.grad = torch.zeros_like(leaf)
        waiting += [before for before, _ in node.next_functions]


@pytest.fixture
def gpu(monkeypatch):
    """To be entered once the networks are built: parameters begin on the CPU and have to be moved."""
    monkeypatch.setattr(torch, "Generator", FakeGenerator)
    monkeypatch.setattr(torch.Tensor, "backward", fill_gradients)
    monkeypatch.setattr(torch.autograd, "grad", lambda output, leaf: [torch.zeros_like(leaf)])
    monkeypatch.setattr(torch.random, "fork_rng", lambda *devices: nullcontext())
    # A second move of a module would swap the contents of fake tensors, which torch does not do.
    monkeypatch.setattr(torch.utils, "swap_tensors", lambda a, b: setattr(a, "fake_device", b.fake_device))
    with CheckGenerators():
        yield FakeGPU(allow_non_fake_inputs=True)


def images(monkeypatch):
    """Eight images with labels on the CPU, as `take` gives them; it and the checks of labels look at numbers."""
    batch = torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)
    for module in (training, batches):
        monkeypatch.setattr(module, "take", lambda data, index: batch)
    for module in (training, sampling):
        monkeypatch.setattr(module, "check_labels", lambda *args, **options: None)
    return batch[0]


# -- diffusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["noise", "x_0", "v"])
def test_network_and_loss(gpu, prediction):
    model, diffusion = tiny_unet(), tiny_diffusion(prediction)
    with gpu:
        model.to(CUDA)
        x_0, y = torch.zeros(8, 1, 8, 8, device=CUDA), torch.zeros(8, dtype=torch.long, device=CUDA)
        loss = diffusion.loss(model, x_0, y=y)
        loss.backward()
        t = torch.zeros(8, dtype=torch.long, device=CUDA)
        mean, variance = diffusion.q_posterior(x_0, x_0, t)
        assert loss.device.type == mean.device.type == variance.device.type == "cuda"
        assert diffusion.to_noise(x_0, x_0, t).device.type == "cuda"
        assert all(p.grad.device.type == "cuda" for p in model.parameters())
        with pytest.raises(RuntimeError, match="same device|two devices"):
            model(x_0, torch.zeros(8, dtype=torch.long))
    assert gpu.reads == 0


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_training_step(gpu, monkeypatch, where):
    """Of images on the CPU, and of some that are on the GPU already."""
    model, data, diffusion = tiny_unet(), images(monkeypatch), tiny_diffusion()
    accelerator = make_accelerator(torch.device("cpu"), "no")
    monkeypatch.setattr(Accelerator, "device", CUDA)
    with gpu:
        batch = data.to(where), torch.zeros(8, dtype=torch.long, device=where)
        monkeypatch.setattr(batches, "take", lambda data, index: batch)
        state = prepare(model, accelerator, muon=True)
        for _ in range(2):
            before = gpu.reads
            train_step(state, diffusion, data, Settings(batch_size=8), accelerator)
            assert gpu.reads - before == 2  # the loss and the gradient's norm, in one go
        for kept in (*state.model.parameters(), *state.ema_model.parameters()):
            assert kept.device.type == "cuda"
    assert state.step == 2


def test_validation_loss(gpu, monkeypatch):
    model, data, diffusion = tiny_unet(), images(monkeypatch), tiny_diffusion()
    with gpu:
        losses = validation_loss(model.to(CUDA), diffusion, data)
        assert losses.device.type == "cpu" and losses.shape == (10,)
    assert gpu.reads == 1  # all losses together


@pytest.mark.parametrize("sampler", sorted(sampling.SAMPLERS))
@pytest.mark.parametrize("where", ["cpu", "cuda", None])
def test_sampling(gpu, monkeypatch, sampler, where):
    images(monkeypatch)
    model, diffusion, y = tiny_unet(), tiny_diffusion(), torch.zeros(4, dtype=torch.long)
    start, known = torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    with gpu:
        source = where and torch.Generator(where)
        constrain = sampling.keep_known(known, torch.ones(1, 1, 8, 8), source)
        for x_T in (None, start):
            options = dict(steps=3, y=y, x_T=x_T, constrain=constrain, generator=source, sampler=sampler)
            for state in sampling.sample(model.to(CUDA), diffusion, (4, 1, 8, 8), **options):
                assert state.x_t.device.type == state.x_0.device.type == "cuda"
        assert state.step == 3
    assert gpu.reads == 0


def test_generate_hands_images_over_on_the_cpu(gpu):
    model, diffusion = tiny_unet(), tiny_diffusion()
    with gpu:
        found = sampling.generate(model.to(CUDA), diffusion, 3, (1, 8, 8), batch_size=2, steps=2)
        assert found.device.type == "cpu" and found.shape == (3, 1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_features_of_images(gpu, dtype):
    reference = {"features.mean": torch.zeros(64), "features.std": torch.ones(64)}
    quality = ImageQuality(Classifier().eval(), reference)
    with gpu:
        quality.classifier.to(CUDA)
        found = quality.features(torch.zeros(501, 1, 28, 28, dtype=dtype))
        assert found.device.type == "cpu" and found.shape == (501, 64)
    assert gpu.reads == 2  # one for each batch of 500


# -- taggers -------------------------------------------------------------------------------------------


def test_linear_chain(gpu):
    crf = LinearChainCRF(["O", "B-X", "I-X"], "BIO")
    with gpu:
        crf.to(CUDA)
        emissions = torch.zeros(2, 5, 3, device=CUDA)
        tags, mask = torch.zeros(2, 5, dtype=torch.long, device=CUDA), torch.ones(2, 5, dtype=bool, device=CUDA)
        assert crf(emissions, tags, mask).device.type == "cuda"
        assert gpu.reads == 0
        assert len(crf.viterbi(emissions, mask)) == 2
        assert gpu.reads == 2 * 5 + 2  # the paths and their lengths, after the last step


def bilstm(folder, **options):
    return BiLSTMCRFTagger(vectors=make_encoder(folder / "encoder"), **options)


def transformer(folder, **options):
    encoder = make_encoder(folder / "encoder")
    return TransformerTagger(encoder, piece_dropout=0.1, precision="no", **options)


def stand_in_for_lstm(monkeypatch):
    """What packs its sentences looks at their lengths, which have to be on the CPU, and the LSTM itself is cuDNN's."""

    def pack(x, lengths, **options):
        assert lengths.device.type == "cpu"
        return x

    def forward(lstm, x):
        return nn.functional.linear(x, lstm.weight_ih_l0)[..., : 2 * lstm.hidden_size], None

    monkeypatch.setattr(nn.utils.rnn, "pack_padded_sequence", pack)
    monkeypatch.setattr(nn.utils.rnn, "pad_packed_sequence", lambda y, **options: (y, None))
    monkeypatch.setattr(nn.LSTM, "forward", forward)


@pytest.mark.parametrize("crf", [True, False])
@pytest.mark.parametrize("kind", [bilstm, transformer])
def test_tagger(gpu, monkeypatch, tmp_path, kind, crf):
    stand_in_for_lstm(monkeypatch)
    corpus = make_corpus(8)
    tagger = kind(tmp_path, crf=crf, device="cpu", scheme="BIO", epochs=1, batch_size=4, progress=False)
    tagger.tags = ["O", "B-Disease", "I-Disease", "B-Gene", "I-Gene"]
    tagger._build(corpus)
    tagger.device = CUDA
    with gpu:
        tagger._train(corpus, (), None, "random weights")
        assert all(p.device.type == "cuda" for p in tagger.network.parameters())
        assert gpu.reads == 2 * 2  # of two steps, the loss and the gradient's norm
        found = tagger.emissions(corpus)
        assert all(scores.device.type == "cpu" for scores in found)
        for _, scores, mask in tagger._sentence_batches(found):
            assert tagger.network.head.probabilities(scores, mask).device.type == "cuda"
            tagger.network.head.chain.viterbi(scores, mask)
