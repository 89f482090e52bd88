"""Muon for many matrices at once, and where bfloat16 is slow."""

import math

import torch

__all__ = ["Muon", "multiplies_bfloat16"]

# of the quintic iteration, by K. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
_QUINTIC, _N_ITERATION = (3.4445, -4.7750, 2.0315), 5


def multiplies_bfloat16(device):
    """Return whether a kind of device has instructions for bfloat16; without them it is 400 times slower.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    bool
    """
    if device != "cpu":
        return device == "cuda"
    # a recent addition to torch: where it is missing, single precision is safe
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


class Muon(torch.optim.Muon):
    """Muon, all matrices of a shape at once, and in single precision where processors cannot multiply in bfloat16.

    Otherwise `torch.optim.Muon`, whose state it has, with Nesterov's momentum and updates
    scaled to the size of those of AdamW.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
        Matrices.
    lr, weight_decay, momentum : float
        Learning rate, decoupled weight decay, and momentum.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.1, momentum=0.95):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)

    @torch.no_grad()
    def step(self, closure=None):
        """Do one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss again.

        Returns
        -------
        torch.Tensor or None
            That loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters, group):
        """Update matrices of one shape, all at once: one by one, a GPU would wait for Python."""
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        gradients = [parameter.grad for parameter in parameters]
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = _orthogonal(torch.stack(torch._foreach_lerp(gradients, buffers, group["momentum"])))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = -0.2 * group["lr"] * math.sqrt(max(parameters[0].shape))
        torch._foreach_add_(parameters, updates.unbind(), alpha=scale)


def _orthogonal(matrices):
    """Bring the singular values of matrices ``(n, n_row, n_column)`` near to 1, by a quintic iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16 if multiplies_bfloat16(x.device.type) else torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_N_ITERATION):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
