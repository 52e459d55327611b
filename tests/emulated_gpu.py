"""A GPU that is not there: its tensors say ``cuda:0``, and the CPU computes them.

It refuses what a GPU refuses: tensors of two devices in one operation, host memory taken for device memory, and, while
a step is recorded, every wait of the host for the device. A recording that is repeated must consist of the operations
and the numbers that were recorded, for a GPU would not look at others. So it finds on any machine the mistakes that
would otherwise wait for one with a GPU. How fast things are, what the kernels of a GPU compute, and races between
streams it cannot tell.

For a process of its own, in which ``emulated_gpu.cpp`` is preloaded: :func:`install` comes before recon3d is imported,
and is never undone.

    python tests/emulated_gpu.py DATA OUT

does the trainings of together.py and what comes after them; see test_emulated_gpu.py.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
import warnings
from pathlib import Path

import safetensors
import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
WAITS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::bincount"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave"),
}
"""Operations whose result, or its size, the host must know."""

Generator, tensor, as_tensor, safe_open = torch.Generator, torch.tensor, torch.as_tensor, safetensors.safe_open


class Recording:
    """What a CUDA graph is here: the operations of a function, in their order."""

    current: Recording | None = None

    def __init__(self):
        self.operations = []
        self.repeats = 0
        self.function = None

    def register_generator_state(self, generator):
        pass

    def replay(self):
        """A GPU records without computing: the first repetition has already been done by the recording."""
        self.repeats += 1
        if self.repeats > 1:
            again = Recording()
            with again.going_on():
                self.function()
            for then, now in zip(self.operations, again.operations, strict=True):
                assert then == now, f"a repetition would do {then} where the function does {now}"

    @contextlib.contextmanager
    def going_on(self, *args, **kwargs):
        Recording.current = self
        try:
            yield
        finally:
            Recording.current = None


def waits(what):
    """The host waits for the device: not while a step is recorded."""
    if Recording.current is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")


class OnGpu(torch.Tensor):
    """A tensor of the GPU; ``inner`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=GPU, **layout)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    def __repr__(self):
        return f"OnGpu({self.inner!r})"

    def __deepcopy__(self, memo):
        return self.detach().clone().requires_grad_(self.requires_grad)

    def data_ptr(self):
        return self.inner.data_ptr()

    def tolist(self):
        waits("tolist")
        return self.inner.tolist()

    def new_tensor(self, data, dtype=None, device=GPU):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device)

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *args, **kwargs):
        return self.numpy()


class Everything(TorchDispatchMode):
    """Operations without tensors, such as those that make them, come here too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


def on_gpu(device):
    return device is not None and torch.device(device).type == "cuda"


def dispatch(function, args, kwargs):
    """Do an operation, if a GPU would."""
    name = function._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, OnGpu)]
    hosts = [t for t in tensors if not isinstance(t, OnGpu)]
    device = kwargs.get("device")
    if not ours and not on_gpu(device):
        return function(*args, **kwargs)
    to_host = name == "aten::_local_scalar_dense" or (name in COPIES and device is not None and not on_gpu(device))
    if name in COPIES:
        if hosts or to_host:
            waits(name)
    elif name in INDEXING and ours:
        chosen = [index for index in args[1] if index is not None]
        assert isinstance(args[0], OnGpu), f"{name}: indices of the GPU into a tensor of the host"
        if any(index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnGpu) for index in chosen):
            waits(name)
    elif ours and name.startswith("aten::"):
        assert all(t.dim() == 0 for t in hosts), f"{name}: expected all tensors to be on the same device"
    elif ours:
        assert not hosts, f"{name}: a kernel of the GPU cannot read the host's memory"
    if name in WAITS and ours:
        waits(name)
    definition = OPDEFS.get(name)
    if definition is not None and "cuda" not in definition._backend_fns:
        with torch.no_grad(), Everything():  # what a GPU does of an operation that has no kernel for it
            return definition._init_fn(*args, **kwargs)
    if Recording.current is not None and name != "aten::detach":
        Recording.current.operations.append((name, *(described(leaf) for leaf in tree_leaves((args, kwargs)))))
    args_inside, kwargs_inside = tree_map(inside, (args, kwargs))
    if "device" in kwargs:
        kwargs_inside["device"] = torch.device("cpu")
    with torch.no_grad():
        result = function(*args_inside, **kwargs_inside)
    if to_host:
        return result
    if name == "aten::copy_" and not isinstance(args[0], OnGpu):
        return args[0]
    wrapped = tree_map(lambda leaf: OnGpu(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


def inside(leaf):
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def described(leaf):
    """What a recording keeps of an argument: numbers as they are, tensors but for what is in them."""
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape), leaf.dtype
    return None if isinstance(leaf, Generator) else leaf


class GeneratorOfDevice(Generator):
    """One of the host that says where it is wanted."""

    def __new__(cls, device="cpu"):
        return Generator.__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self._device = GPU if on_gpu(device) else torch.device("cpu")

    @property
    def device(self):
        return self._device


class Opened:
    """A file of tensors, read to the host and sent from there."""

    def __init__(self, path, framework, device="cpu"):
        self.file, self.device = safe_open(path, framework=framework), device

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def metadata(self):
        return self.file.metadata()

    def keys(self):
        return self.file.keys()

    def get_tensor(self, name):
        with _disable_current_modes():
            values = self.file.get_tensor(name)
        return values.to(self.device)


def tensor_anywhere(data, *, dtype=None, device=None, requires_grad=False):
    return tensor(data, dtype=dtype).to("cuda" if on_gpu(device) else "cpu").requires_grad_(requires_grad)


def as_tensor_anywhere(data, dtype=None, device=None):
    if isinstance(data, OnGpu):
        return data.to(device=device or GPU, dtype=dtype or data.dtype)
    return as_tensor(data, dtype=dtype).to("cuda" if on_gpu(device) else "cpu")


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


def install():
    """From here on torch has a GPU."""
    torch.Generator, torch.tensor, torch.as_tensor = GeneratorOfDevice, tensor_anywhere, as_tensor_anywhere
    safetensors.safe_open = Opened
    torch.Tensor.pin_memory = lambda self, device=None: self
    torch.__future__.set_swap_module_params_on_conversion(True)
    cuda = torch.cuda
    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: 1, lambda: 0
    cuda._lazy_init = lambda: None
    cuda.manual_seed_all = lambda seed: None
    cuda.synchronize = lambda device=None: waits("synchronize")
    cuda.Stream, cuda.current_stream = Stream, Stream
    cuda.stream = cuda.device = lambda what: contextlib.nullcontext()
    cuda.CUDAGraph, cuda.graph = Recording, Recording.going_on
    cuda.amp.common.amp_definitely_not_available = lambda: False
    Everything().__enter__()

    from recon3d.training.recorded import RecordedStep

    record = RecordedStep._record

    def remembering(self):
        graph = record(self)
        if graph is not None:
            graph.function = self.function
        return graph

    RecordedStep._record = remembering


def mistakes():
    """What must not pass, by name: calls that are to raise."""
    from recon3d.kernels import HashLayout, hash_encode
    from recon3d.training.recorded import WARM_UP, RecordedStep

    values, layout = torch.ones(3, device=GPU), HashLayout.build(3, 1, 2, 4, 2, 2)
    calls = []

    def repeated(function):
        step = RecordedStep(function, torch.Generator(GPU))
        for _ in range(WARM_UP + 2):
            step()

    def counted():
        calls.append(values * len(calls))

    return {
        "two devices": lambda: values + torch.ones(3),
        "an index of the device": lambda: torch.ones(3)[values.long()],
        "memory of the host in a kernel": lambda: hash_encode(values[None], torch.ones(layout.rows, 2), layout),
        "numpy": lambda: values.numpy(),
        "a wait in a recorded step": lambda: repeated(lambda: float(values.sum())),
        "a copy from the host in a recorded step": lambda: repeated(lambda: values.add_(torch.ones(3).to(GPU))),
        "a number that changes in a recorded step": lambda: repeated(counted),
    }


MISTAKES = {
    "two devices": "same device",
    "an index of the device": "indices of the GPU",
    "memory of the host in a kernel": "cannot read the host's memory",
    "numpy": "can't convert",
    "a wait in a recorded step": "not permitted when stream is capturing",
    "a copy from the host in a recorded step": "not permitted when stream is capturing",
    "a number that changes in a recorded step": "a repetition would do",
}
"""What :func:`mistakes` are told."""

AFTERWARDS = """
resume nerf --steps 12
eval nerf --split train
render nerf --frames 1 --size 24
export volume nerf --resolution 16
eval surface --split train
export mesh surface --resolution 24
eval image
render image --scale 2
export signal image
decode image/exports/signal.safetensors
resume batches --steps 8
eval sdf --grid 16 --resolution 16 --samples 500
export mesh sdf --resolution 24
resume ct --steps 8
eval ct
export volume ct
render ct_rays
ct fbp DATA/slice.npz --out OUT/fbp
ct cgls DATA/slice.npz --iterations 3 --out OUT/cgls
ct fdk DATA/cone.npz --out OUT/fdk
ct sirt DATA/cone.npz --iterations 3 --out OUT/sirt
ct tv DATA/cone.npz --iterations 3 --weight 0.01 --out OUT/tv
"""
"""Commands on the runs."""


def main(data, out):
    """What mistakes are told; every task's figures, how often its recorded steps were repeated, the weights after steps
    that were recorded and after as many that were not; then what :data:`AFTERWARDS` ends with."""
    install()
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)
    import together

    from recon3d.cli import main as recon3d

    found = {"told": {}, "tasks": {}, "commands": {}}
    for name, mistake in mistakes().items():
        try:
            mistake()
        except Exception as error:
            found["told"][name] = str(error)
    for name in together.MADE:
        figures, _ = together.train(name, data, out, device=GPU)
        trainer = together.trainer_of(name, data, out / "recorded", device=GPU, steps=8, log_every=100)
        trainer.train()
        repeats = trainer.recorded.graph.repeats if trainer.recorded else 0
        told = together.train(name, data, out / "told", device=GPU, steps=8)[1] if repeats else {}
        ends = [{key: value.cpu() for key, value in end.items()} for end in (trainer.task.state_dict(), told)]
        found["tasks"][name] = figures, repeats, ends
    for line in AFTERWARDS.split("\n")[1:-1]:
        words = [part.replace("DATA", str(data)).replace("OUT", str(out)) for part in shlex.split(line)]
        runs = [str(out / word) if (out / word.split("/")[0]).is_dir() else word for word in words[1:]]
        found["commands"][line] = recon3d([words[0], *runs, "--device", "cuda", "--threads", "1"])
    torch.save(found, out / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
