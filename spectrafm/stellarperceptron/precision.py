"""Where numbers need more precision than a device or autocast gives them."""

import torch

__all__ = ["float64", "float64_device", "without_autocast"]


def without_autocast(tensor):
    """Return a context in which nothing is computed in half precision.

    Parameters
    ----------
    tensor : torch.Tensor
        Tells the kind of device.

    Returns
    -------
    torch.autocast
    """
    return torch.autocast(tensor.device.type, enabled=False)


def float64_device(device):
    """Return where tensors in float64, such as wavelengths, are kept beside those of a device.

    Parameters
    ----------
    device : torch.device or str
        The device.

    Returns
    -------
    torch.device
        The same, or the CPU where it has no float64.
    """
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def float64(tensor):
    """Return a tensor in float64, on the CPU where its device has none.

    Parameters
    ----------
    tensor : torch.Tensor
        Of any precision.

    Returns
    -------
    torch.Tensor
    """
    return tensor.to(float64_device(tensor.device)).double()
