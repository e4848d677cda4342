"""What is installed, what the machine offers, and what a process uses of it."""

import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

import torch

from metasd import _C, kernels
from metasd.errors import InputError

_PACKAGES = ("torch", "numpy", "safetensors", "pyarrow", "pydantic", "triton")
_EXTRAS = ("matplotlib", "tensorboard", "pykeen")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {package: _version(package) for package in ("metasd", "torch", "numpy")}
    return {"python": platform.python_version(), **{k: v for k, v in found.items() if v}}


def environment() -> dict[str, Any]:
    """Everything that `metasd env` prints."""
    return {
        "metasd": _version("metasd"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "extras": {package: _version(package) for package in _EXTRAS},
        "compiled": {
            "instruction_set": _C.isa(),
            "openmp": _C.OPENMP,
            "bf16_products": _C.bf16_products(),
            "cuda": _C.CUDA_ARCHS or None,
            "precision_auto": str(kernels.product_dtype("auto")).removeprefix("torch."),
        },
        "cuda_available": torch.cuda.is_available(),
        "METASD_DATA": os.environ.get("METASD_DATA"),
    }


def measured_on() -> dict[str, Any]:
    """What a figure has to say of where it was taken: `machine` and `versions`."""
    found = environment()
    return {
        "machine": {key: found[key] for key in ("processor", "cores", "threads", "compiled")},
        "versions": {
            **found["packages"],
            "metasd": found["metasd"],
            "python": found["python"],
        },
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def training_device(name: str) -> torch.device:
    """The device of `train.device`; InputError if it is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("train.device = cuda, but PyTorch finds no CUDA device here")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def scoring_device(name: str) -> torch.device:
    """A device by PyTorch's name (cpu, cuda, cuda:1); InputError if it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"a device is cpu, cuda, or cuda:N for the GPU N; got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"a device is cpu, cuda, or cuda:N for the GPU N; got {name!r}")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        found = (
            f"the last one is cuda:{there - 1}" if there else "PyTorch finds no CUDA device here"
        )
        raise InputError(f"device {name} is not there: {found}")
    return device


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of tensors on a GPU, else the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
