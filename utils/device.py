"""Which device to compute on, and in which precision."""

import os
from pathlib import Path

import torch

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str | torch.device | None = None) -> torch.device:
    """The device of this name, else ValueError; the first of CUDA, MPS and CPU that is here if None."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind, there in present.items() if there]
    if name is None:
        return torch.device(found[0])
    if str(name).partition(":")[0] not in found:
        raise ValueError(f"no device {str(name)!r} on this machine; choose one of {', '.join(found)}")
    return torch.device(name)


def find_precision(device: torch.device) -> str:
    """The precision that is fast on `device`, in accelerate's terms: "no" (fp32), "bf16" or "fp16".

    A CPU without bf16 matrix instructions runs bf16 slower than fp32, so it stays in fp32.
    """
    if device.type == "cuda":  # emulated bf16 (before Ampere, a Colab T4 for example) is slow; fp16 is not
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and {"amx_bf16", "avx512_bf16"} & cpu_flags():
        return "bf16"
    return "no"


def cpu_flags(path: str | Path = "/proc/cpuinfo") -> set[str]:
    """The processor's feature flags as Linux lists them; empty on other systems."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context whose matrix products are computed in "bf16" or "fp16", or, with "no", in float32 as ever."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "no")


def describe(device: torch.device) -> str:
    """The device in a few words: "2 CPU cores", or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    # A container or a batch system may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} CPU core{'s' if cores > 1 else ''}"
