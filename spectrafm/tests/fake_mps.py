"""A stand-in for a device that has no float64, where there is none."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


def _is_there(tensor):
    return isinstance(tensor, torch.Tensor) and getattr(tensor, "is_there", False)


def _device(leaf):
    """Return which kind of device an argument names, or None."""
    kind = leaf.type if isinstance(leaf, torch.device) else leaf
    return kind if isinstance(kind, str) and kind in ("cpu", "mps") else None


class FakeMps(TorchFunctionMode):
    """Tensors that are sent to ``"mps"`` stay on the CPU and behave as if they were there.

    They refuse float64, NumPy, and the company of tensors of the CPU, and so does what is made of them until it is
    brought back.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call a function of torch as the device would."""
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        leaves, layout = tree_flatten((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        there = any(map(_is_there, tensors))
        if func == torch.Tensor.device.__get__:
            return torch.device("mps" if there else "cpu")
        if func == torch.Tensor.numpy and there:
            raise TypeError("can't convert a tensor of mps to NumPy")
        devices = ["cpu"] if func == torch.Tensor.cpu else [kind for kind in map(_device, leaves) if kind]
        if func == torch.Tensor.to and len(tensors) == 2:
            devices = ["mps" if _is_there(tensors[1]) else "cpu"]
        # those of the CPU are allowed to be copied, to index, and to be single numbers
        indexed = func == torch.Tensor.__getitem__ and _is_there(args[0])
        free = indexed or func in (torch.Tensor.copy_, torch.Tensor.to)
        if there and not free and not all(_is_there(t) or t.ndim == 0 for t in tensors):
            raise RuntimeError(f"{func.__name__}: tensors of mps and of the CPU")
        args, kwargs = tree_unflatten(["cpu" if _device(leaf) else leaf for leaf in leaves], layout)
        goal = devices[-1] == "mps" if devices else there

        def placed(found):
            if not isinstance(found, torch.Tensor):
                return found
            if any(found is tensor for tensor in tensors):
                if not devices or _is_there(found) == goal:
                    return found
                # what stays where it is must not take the mark along
                found = found.view(found.shape)
            # a cast on the way to the CPU is done before it
            if (there or goal) and found.dtype == torch.float64:
                raise TypeError("mps has no float64")
            found.is_there = goal
            return found

        return tree_map(placed, func(*args, **kwargs))


def send(model):
    """Let a model be on ``"mps"``."""
    model.device = torch.device("mps")
    for tensor in (*model.torch_model.parameters(), *model.torch_model.buffers()):
        tensor.is_there = True
    return model
