"""Prompts as labels, their word vectors, cross-attention, and networks, training and guidance that are told words."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_unet
from tests.unit.test_diffusion_unet import awake
from utils.diffusion import conditioning
from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.conditioning import LENGTH, MINILM, NO_PROMPT, WIDTH, CrossAttention, TextEncoder, text_encoder
from utils.diffusion.distill import draw_trajectories
from utils.diffusion.guidance import ClassifierFreeGuidance
from utils.diffusion.images import ImageSet
from utils.diffusion.sampling import generate
from utils.diffusion.training import train
from utils.diffusion.transformer import DiT
from utils.ner.encoders import find_minilm, load_encoder

NAMES = ["a bag", "a dark bag", "a sneaker", "a wide sneaker"]


def encoder_for(text):
    """The encoder of a network that is told prompts."""
    return text and "stand-in"


MADE = {
    "UNet": lambda text, **more: tiny_unet(num_classes=None, dropout=0.0, text=text, encoder=encoder_for(text), **more),
    "DiT": lambda text, **more: DiT(channels=32, depth=2, text=text, encoder=encoder_for(text), **more),
}


@pytest.fixture
def text():
    return text_encoder("stand-in")


def prompted(count: int = 64) -> ImageSet:
    """Digits, each with one of four prompts."""
    prompts = [NAMES[label % 4] for label in digits(count).labels]
    return ImageSet(digits(count).pixels, text_encoder("stand-in")(prompts), tuple(NAMES))


# -- prompts as labels -----------------------------------------------------------------------------


def test_a_label_is_made_of_the_letters_alone(text):
    expected = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little") for name in NAMES]
    assert text(NAMES).tolist() == expected and text(NAMES[::-1]).tolist() == expected[::-1]
    assert TextEncoder("stand-in")(NAMES[2]).tolist() == expected[2:3] and max(expected) < NO_PROMPT
    assert text("").tolist() == [NO_PROMPT] and text([]).shape == (0,)


def test_words_are_found_under_their_label_in_whatever_order_they_were_read():
    one, other = TextEncoder("stand-in"), TextEncoder("stand-in")
    one(NAMES)
    for name in NAMES[::-1]:
        other([name, name])
    y = one([*NAMES, "", NAMES[1]])
    (words, mask), (again, mask_again) = one.look_up(y), other.look_up(y)
    assert torch.equal(words, again) and torch.equal(mask, mask_again)
    assert words.shape == (6, LENGTH, WIDTH) and mask.sum(1).tolist() == [4, 5, 4, 5, 2, 5]
    assert torch.equal(words[1], words[5]) and (words[~mask] == 0).all()
    assert torch.equal(words[0, 1], words[1, 1])  # "a" is "a", whatever stands around it
    torch.testing.assert_close(words[mask].mean(1), torch.zeros(25), atol=1e-3, rtol=0)
    torch.testing.assert_close(words[mask].square().mean(1), torch.ones(25), atol=5e-3, rtol=0)


def test_words_are_found_under_autocast_too():
    """There float16 cannot be stacked on a CPU."""
    new = TextEncoder("stand-in")
    label = new("a red bag")
    with torch.autocast("cpu", torch.bfloat16):
        words, _ = new.look_up(label)
    assert words.dtype == torch.float32 and torch.equal(words, new.look_up(label)[0])


def test_words_of_ones_own_can_be_kept(text):
    words, mask = text.look_up(text(NAMES[:2]))
    text.remember(["between"], words.mean(0, keepdim=True), mask[1:])
    kept, kept_mask = text.look_up(text("between"))
    torch.testing.assert_close(kept[0], words.mean(0), atol=2e-3, rtol=0)
    assert torch.equal(kept_mask[0], mask[1])


def test_what_is_kept_anew_takes_the_place_of_the_old():
    text, y = TextEncoder("stand-in"), torch.tensor([conditioning.label_of("mine")])
    mask = torch.arange(LENGTH)[None] < 3
    for number in (0.0, 1.0, 2.0):
        text.remember(["mine"], torch.full((1, LENGTH, WIDTH), number), mask)
        words, kept = text.look_up(y)
        assert (words[kept] == number).all() and torch.equal(kept, mask)


@pytest.mark.parametrize("kind", MADE)
def test_a_word_that_is_masked_is_not_in_the_mean(kind, text):
    words, mask = text.look_up(text(NAMES[1]))
    smaller = mask & (torch.arange(LENGTH) != 2)
    text.remember(["without dark"], words, smaller)
    model, t, y = MADE[kind]("both"), torch.tensor([500]), text("without dark")
    told = words[0, [0, 1, 3, 4]].mean(0) @ model.class_embedding.weight.T + model.class_embedding.bias
    torch.testing.assert_close(model.embed(t, y), F.silu(model.time_embedding(t) + told))
    assert torch.equal(text.look_up(y)[1], smaller)


@pytest.mark.parametrize("shape", [(1, 5, WIDTH), (2, LENGTH, WIDTH), (1, LENGTH, 4)])
def test_words_of_a_wrong_shape_break_nothing(shape):
    text = TextEncoder("stand-in")
    before = text.look_up(text(NAMES))
    with pytest.raises(RuntimeError, match="size"):
        text.remember(["wrong"], torch.zeros(shape), torch.ones(1, LENGTH, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="size"):
        text.remember(["wrong"], torch.zeros(1, LENGTH, WIDTH), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="every prompt needs a word that is not masked"):
        text.remember(["wrong"], torch.zeros(1, LENGTH, WIDTH), torch.zeros(1, LENGTH, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(before, text.look_up(text(NAMES))))
    with pytest.raises(ValueError, match="is of no prompt read here"):
        text.look_up(torch.tensor([conditioning.label_of("wrong")]))


def test_more_prompts_than_are_read_at_once(monkeypatch):
    monkeypatch.setattr(conditioning, "READ_AT_ONCE", 3)
    text, one_by_one, read = TextEncoder("stand-in"), TextEncoder("stand-in"), []
    monkeypatch.setattr(text, "_read", lambda part: read.append(len(part)) or TextEncoder._read(text, part))
    prompts = [f"bag number {k}" for k in range(8)]
    y = text([*prompts, *prompts])
    assert read == [3, 3, 2] and torch.equal(y[:8], y[8:])
    for prompt in prompts:
        one_by_one(prompt)
    assert all(torch.equal(a, b) for a, b in zip(text.look_up(y), one_by_one.look_up(y)))


@pytest.mark.skipif(find_minilm() is None, reason="the package with the small encoder is not installed")
def test_minilm_gives_the_same_bits_in_whatever_order_it_reads():
    together, alone = TextEncoder(MINILM), TextEncoder(MINILM)
    y = together([*NAMES, "a dark and wide ankle boot, photographed from its side"])
    for name in NAMES[::-1]:
        alone(name)
    (words, mask), (again, mask_again) = together.look_up(y[:4]), alone.look_up(y[:4])
    assert torch.equal(words, again) and torch.equal(mask, mask_again)


@pytest.mark.skipif(find_minilm() is None, reason="the package with the small encoder is not installed")
def test_minilm_as_transformers_calls_it():
    text, (encoder, tokenizer) = text_encoder(MINILM), load_encoder()
    prompts = ["a bag", "a dark and wide ankle boot, photographed from its side"]
    words, mask = text.look_up(text(prompts))
    for k, prompt in enumerate(prompts):
        alone = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            expected = encoder(**alone).last_hidden_state[0]
        expected = (expected - expected.mean(1, keepdim=True)) / expected.std(1, keepdim=True, correction=0)
        assert mask[k].sum() == len(expected) == len(text.pieces(prompt))
        torch.testing.assert_close(words[k][mask[k]], expected, atol=1e-2, rtol=1e-2)
    assert text.pieces("a bag") == ["[CLS]", "a", "bag", "[SEP]"]


def test_bad_prompts_and_labels(text, monkeypatch):
    for bad in (3, None, ["a bag", 3]):
        with pytest.raises((ValueError, TypeError), match="a prompt must be text|not iterable"):
            text(bad)
    with pytest.raises(ValueError, match="a prompt may have 20 pieces, got 32; shorten 'a a a "):
        text(["a bag", "a " * 30])
    with pytest.raises(
        ValueError, match=r"label 5 is of no prompt read here; make it by text_encoder\('stand-in'\)\(...\)"
    ):
        text.look_up(torch.tensor([int(text("a bag")), 5]))
    with pytest.raises(ValueError, match="encoder must be 'all-MiniLM-L6-v2' or 'stand-in', got 'bert'"):
        text_encoder("bert")
    monkeypatch.setattr(conditioning, "_ENCODERS", {})
    monkeypatch.setattr("utils.ner.encoders.find_minilm", lambda: None)
    with pytest.raises(OSError, match="-r encoder.txt"):
        text_encoder(MINILM)


# -- cross-attention -------------------------------------------------------------------------------


def attention_and_input(heads: int = 4):
    attention = awake(CrossAttention(16, 12, heads))
    nn.init.normal_(attention.norm.weight), nn.init.normal_(attention.norm.bias)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    return attention, torch.randn(3, 9, 16), torch.randn(3, 5, 12), mask


@pytest.mark.parametrize("heads", [1, 4])
def test_cross_attention_is_that_of_torch(heads):
    attention, x, words, mask = attention_and_input(heads)
    theirs = nn.MultiheadAttention(16, heads, kdim=12, vdim=12, batch_first=True)
    key, value = attention.key_value.weight.chunk(2)
    bias = torch.cat([attention.query.bias, attention.key_value.bias])
    weights = {"q_proj_weight": attention.query.weight, "k_proj_weight": key, "v_proj_weight": value}
    weights |= {"in_proj_bias": bias, "out_proj.weight": attention.out.weight, "out_proj.bias": attention.out.bias}
    theirs.load_state_dict(weights)
    attention.keep, query = True, F.layer_norm(x, (16,), attention.norm.weight, attention.norm.bias)
    expected, looked = theirs(query, words, words, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(attention(x, words, mask), x + expected)
    torch.testing.assert_close(attention.weights, looked)


def test_cross_attention_is_scaled_dot_product_attention():
    attention, x, words, mask = attention_and_input(heads=1)
    key, value = attention.key_value(words).chunk(2, dim=-1)
    query = attention.query(attention.norm(x))
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None])
    torch.testing.assert_close(attention(x, words, mask), x + attention.out(found))


def test_a_sentence_of_one_word_gives_its_value_to_every_position():
    attention, x, words, _ = attention_and_input()
    value = attention.key_value(words[:, :1])[..., 16:]
    expected = x + attention.out(value)
    torch.testing.assert_close(attention(x, words[:, :1], torch.ones(3, 1, dtype=torch.bool)), expected)


def test_padding_is_not_looked_at():
    attention, x, words, mask = attention_and_input()
    other = torch.where(mask[..., None], words, 100 * torch.randn(3, 5, 12))
    torch.testing.assert_close(attention(x, words, mask), attention(x, other, mask))
    attention.keep = True
    attention(x, words, mask)
    assert (attention.weights[1, :, :, 3:] == 0).all() and attention.weights.shape == (3, 4, 9, 5)
    torch.testing.assert_close(attention.weights.sum(-1), torch.ones(3, 4, 9))


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="channels must be a multiple of the 5 heads, got 16"):
        CrossAttention(16, heads=5)


# -- networks that are told words ------------------------------------------------------------------


@pytest.mark.parametrize("kind", MADE)
def test_without_its_last_layer_cross_attention_leaves_the_network_as_it_is(kind, text):
    told, plain = MADE[kind]("words"), MADE[kind](None)
    plain.load_state_dict({name: value for name, value in told.state_dict().items() if name in plain.state_dict()})
    for model in (told, plain):
        for name, parameter in model.named_parameters():
            if "words" not in name:
                torch.manual_seed(len(name))
                nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 20, 49])
    assert torch.equal(told(x, t, text(NAMES[:3])), plain(x, t))
    awake(told)
    assert not torch.allclose(told(x, t, text(NAMES[:3])), plain(x, t), atol=1e-3)


@pytest.mark.parametrize("how", ["pooled", "words", "both"])
@pytest.mark.parametrize("kind", MADE)
def test_prompts_tell_and_none_is_the_empty_one(kind, how, text):
    model, x, t = awake(MADE[kind](how)), torch.randn(1, 1, 8, 8).expand(5, -1, -1, -1), torch.full((5,), 7)
    answers = model(x, t, text([*NAMES, ""]))
    assert all((answers[i] - answers[k]).abs().max() > 1e-4 for i in range(5) for k in range(i))
    torch.testing.assert_close(model(x, t)[4], answers[4])
    assert model.num_classes == NO_PROMPT
    answers.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_pooled_is_the_mean_of_the_words(text):
    model, t, y = MADE["UNet"]("pooled"), torch.tensor([1, 500, 999]), text(NAMES[1:])
    means = torch.stack([words[mask].mean(0) for words, mask in zip(*text.look_up(y))])
    expected = F.silu(model.time_embedding(t) + means @ model.class_embedding.weight.T + model.class_embedding.bias)
    torch.testing.assert_close(model.embed(t, y), expected)


@pytest.mark.parametrize("kind", MADE)
def test_there_and_back(tmp_path, kind, text):
    model, x, t = awake(MADE[kind]("both")).eval(), torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 30, 40])
    save_model(tmp_path / "m.safetensors", model, tiny_diffusion())
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert type(loaded) is type(model) and loaded.config == model.config and loaded.config["encoder"] == "stand-in"
    assert torch.equal(loaded(x, t, text(NAMES)), model(x, t, text(NAMES)))


@pytest.mark.parametrize("options", [dict(text="sentence"), dict(text="words", num_classes=10)])
def test_networks_that_cannot_be(options):
    with pytest.raises(ValueError, match="text must be one of pooled, words, both, without classes; got "):
        tiny_unet(**{"num_classes": None, **options})


@pytest.mark.parametrize("options", [dict(encoder="stand-in"), dict(text="words", encoder="bert")])
@pytest.mark.parametrize("make", [tiny_unet, DiT])
def test_an_encoder_without_text_or_that_none_knows(make, options):
    with pytest.raises(ValueError, match="encoder must be one of all-MiniLM-L6-v2, stand-in, for a network with text"):
        make(**{"num_classes": None, **options})


def test_labels_of_no_prompt_are_found_before_the_network_sees_any(tmp_path):
    model, diffusion = MADE["UNet"]("words"), tiny_diffusion()
    model.register_forward_pre_hook(lambda module, inputs: pytest.fail("the network was called"))
    for images, validation in ((digits(), None), (prompted(), digits())):
        states = train(model, diffusion, images, steps=1, validation=validation, out=tmp_path / "out", **OPTIONS)
        with pytest.raises(ValueError, match="label 0 is of no prompt read here"):
            next(states)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="label 1 is of no prompt read here"):
        generate(model, diffusion, 2, (1, 8, 8), y=[1, 2], steps=1)
    with pytest.raises(ValueError, match="label 3 is of no prompt read here"):
        ClassifierFreeGuidance(2.0, negative=3)(model, diffusion)


def test_no_negative_prompt_is_the_empty_one(text):
    model, diffusion, x, t = (
        awake(MADE["UNet"]("both")),
        tiny_diffusion(),
        torch.randn(2, 1, 8, 8),
        torch.tensor([9, 30]),
    )
    y = text(NAMES[:2])
    by_name = ClassifierFreeGuidance(3.0, negative=int(text("")))(model.eval(), diffusion)(x, t, y)
    assert torch.equal(by_name, ClassifierFreeGuidance(3.0)(model, diffusion)(x, t, y))


def test_trajectories_of_a_network_that_is_told_prompts():
    with pytest.raises(ValueError, match="told prompts cannot be distilled here"):
        draw_trajectories(MADE["UNet"]("words"), tiny_diffusion(), 2, (1, 8, 8), steps=8)


# -- training and guidance, of which no line knows words -------------------------------------------


def test_training_resumes_to_the_same_bits(tmp_path, text, monkeypatch):
    """In what is a new process for the encoder too, which has read the prompts in another order."""

    def begin(out=None):
        return train(MADE["UNet"]("both"), tiny_diffusion(), prompted(), steps=4, out=out, **OPTIONS)

    (*_, alone), begun = begin(), begin(tmp_path)
    assert [next(begun).step, next(begun).step] == [1, 2]
    begun.close()
    monkeypatch.setattr(conditioning, "_ENCODERS", {})
    text_encoder("stand-in")(NAMES[::-1])
    (*_, resumed) = begin(tmp_path)
    assert resumed.step == 4 and resumed.loss == alone.loss
    for a, b in zip(alone.ema_model.parameters(), resumed.ema_model.parameters()):
        assert torch.equal(a, b)


def test_other_prompts_are_other_data(tmp_path, text):
    for _ in train(MADE["UNet"]("words"), tiny_diffusion(), prompted(), steps=1, out=tmp_path, **OPTIONS):
        pass
    other = prompted()
    other.labels = text(["a hat"] * len(other))
    with pytest.raises(ValueError, match="was trained with images"):
        next(train(MADE["UNet"]("words"), tiny_diffusion(), other, steps=2, out=tmp_path, **OPTIONS))


def test_labels_are_dropped_to_the_empty_prompt():
    model, seen = MADE["UNet"]("pooled"), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    for _ in train(model, tiny_diffusion(), prompted(), steps=12, label_dropout=0.3, **OPTIONS):
        pass
    share = (torch.cat(seen) == NO_PROMPT).double().mean()
    assert len(torch.cat(seen)) == 12 * 16 and 0.2 < share < 0.4


def test_guidance_away_from_a_prompt(text):
    """(1 - w) times the answer for the negative prompt, plus w times that for the prompt."""
    model, diffusion, x, t = (
        awake(MADE["DiT"]("words")),
        tiny_diffusion(),
        torch.randn(2, 1, 8, 8),
        torch.tensor([9, 30]),
    )
    y, away = text(["a bag", "a sneaker"]), text(["a dark bag"] * 2)
    guided = ClassifierFreeGuidance(3.0, negative=int(away[0]))(model, diffusion)(x, t, y)
    torch.testing.assert_close(guided, 3 * model(x, t, y) - 2 * model(x, t, away), atol=1e-4, rtol=1e-4)
    guided = ClassifierFreeGuidance(3.0)(model, diffusion)(x, t, y)
    torch.testing.assert_close(guided, 3 * model(x, t, y) - 2 * model(x, t), atol=1e-4, rtol=1e-4)
    drawn = generate(model, diffusion, 2, (1, 8, 8), y=y, guidance=2.0, sampler="ddim", steps=3)
    assert not torch.equal(
        drawn, generate(model, diffusion, 2, (1, 8, 8), y=away, guidance=2.0, sampler="ddim", steps=3)
    )
