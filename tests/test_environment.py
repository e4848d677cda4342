"""Devices by name, and what is said of one that is not there."""

import pytest
import torch

from metasd.environment import scoring_device, training_device
from metasd.errors import InputError


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_machine_without_a_gpu_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"{name} is not there: PyTorch finds no CUDA device"):
        scoring_device(name)
    with pytest.raises(InputError, match=r"train.device = cuda, but PyTorch finds no CUDA device"):
        training_device("cuda")
    assert scoring_device("cpu") == training_device("auto") == torch.device("cpu")


def test_a_gpu_too_many_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert scoring_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="cuda:2 is not there: the last one is cuda:1"):
        scoring_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", ""])
def test_a_device_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"a device is cpu, cuda, .*; got '{name}'"):
        scoring_device(name)
