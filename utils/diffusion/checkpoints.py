"""Models on disk: whole or not at all, and never able to run code.

A model is one safetensors file: the weights, the schedule's betas, and in its header how to rebuild the network.
Training states (weights, EMA, optimiser, step) are those of `utils.files`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.unet import UNet
from utils.files import write_atomically

FORMAT = "diffusion-course-1"
BETAS = "schedule.betas"


def save_model(
    path: str | Path, model: UNet, diffusion: GaussianDiffusion, dtype: torch.dtype = torch.float32, **notes: Any
) -> None:
    """Write weights (as `dtype`), schedule and network settings to one safetensors file.

    `notes` (JSON values, such as steps=1000) are kept in the header; `read_notes` gives them back.
    """
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in model.state_dict().items()}
    tensors[BETAS] = diffusion.schedule.betas
    header = {
        "format": FORMAT,
        "unet": json.dumps(model.config),
        "schedule": diffusion.schedule.name,
        "prediction": diffusion.prediction,
        "notes": json.dumps(notes),
    }
    write_atomically(path, _in_fixed_order(save(tensors, metadata=header)))


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[UNet, GaussianDiffusion]:
    """The network in evaluation mode (float32 on `device`) and its diffusion process.

    `path` is a file that `save_model` wrote. Raises FileNotFoundError, or ValueError where it is no such file or is cut
    short or damaged.
    """
    header, tensors = _read(Path(path))
    schedule = NoiseSchedule(tensors.pop(BETAS), header["schedule"])
    model = UNet(**json.loads(header["unet"]))
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.to(device).eval(), GaussianDiffusion(schedule, header["prediction"])


def read_notes(path: str | Path) -> dict[str, Any]:
    """The notes that were saved with the model."""
    return json.loads(_read(Path(path))[0]["notes"])


def _in_fixed_order(content: bytes) -> bytes:
    """The same safetensors file with its notes sorted: the library writes them in an order that changes from call
    to call, and equal models have to be equal files."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path.name} in {path.parent}; train one, or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            advice = "Save the model with save_model, or use the model.safetensors that training writes"
            refused = "is a pickle, not safetensors, and was refused: loading a pickle can run code"
            raise ValueError(f"{path.name} {refused}. {advice}") from error
        raise ValueError(f"{path.name} is cut short or no safetensors file: {error}; get a whole copy") from error
    if (form := header.get("format")) != FORMAT or BETAS not in tensors:
        raise ValueError(f"{path.name} is no model of this course: its format is {form!r}, expected {FORMAT!r}")
    return header, tensors
