"""What a run computes on."""

import pytest
import torch

from recon3d.errors import UserError
from recon3d.training import machine
from recon3d.training.machine import physical_cores, prepare, select_device, select_precision, set_up
from recon3d.training.trainer import is_out_of_memory

from .toy import CPU, config_in


@pytest.fixture(autouse=True)
def same_threads_after():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_there_is_at_least_one_core():
    assert physical_cores() >= 1


def test_devices():
    assert select_device("cpu") == CPU
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cuda_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device") as caught:
        select_device("cuda")
    assert "--device" in str(caught.value)


def test_of_several_processes_each_has_its_gpu_and_its_threads(monkeypatch):
    """As torchrun starts the third of four on a machine."""
    started = {"RANK": 6, "WORLD_SIZE": 8, "LOCAL_RANK": 2, "LOCAL_WORLD_SIZE": 4, "MASTER_ADDR": "x", "MASTER_PORT": 1}
    for name, value in started.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert select_device("auto") == select_device("cuda") == torch.device("cuda", 2)
    assert select_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UserError, match="4 processes, but torch sees 3 GPUs"):
        select_device("auto")
    monkeypatch.setattr(machine, "physical_cores", lambda: 9)
    set_up("cpu", None)
    assert torch.get_num_threads() == 2


def test_precision():
    assert select_precision("float32", CPU) == torch.float32
    assert select_precision("bfloat16", CPU) == torch.bfloat16
    assert select_precision("auto", CPU) in (torch.float32, torch.bfloat16)
    assert select_precision("auto", torch.device("cuda")) == torch.float16


@pytest.mark.parametrize(("name", "allowed"), [("tf32", "high"), ("float32", "highest"), ("bfloat16", "highest")])
def test_tf32_is_float32_whose_products_may_be_rounded(tmp_path, name, allowed):
    _, precision = prepare(config_in(tmp_path, device="cpu", threads=1, precision=name))
    try:
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (precision == torch.float32) is (name != "bfloat16")


def test_prepare_sets_threads_and_seed(tmp_path):
    draws = []
    for _ in range(2):
        device, precision = prepare(config_in(tmp_path, device="cpu", threads=1, seed=5, precision="float32"))
        draws.append(torch.rand(3))
    assert (device, precision) == (CPU, torch.float32)
    assert torch.get_num_threads() == 1
    assert torch.equal(*draws)


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
