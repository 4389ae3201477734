"""A network's weights on disk: whole or not at all, and never able to run code."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from utils.course.files import write_atomically


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's weights and buffers as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, lambda part: save_file(tensors, part, metadata={"format": "pt"}))


def load_weights(path: Path, network: nn.Module) -> None:
    """Put the weights that `save_weights` wrote into a network of the same shape.

    Raises:
        ValueError: no such file, a damaged one, or one of another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); get a whole copy, or train again") from error
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another network: {error}") from error
