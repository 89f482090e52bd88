"""Training of a few layers on stars that are held in memory, and seen again and again."""

import torch

from ..stellarperceptron.nn_utils import learning_rate_factor

__all__ = ["set_scale", "train_layers"]


def set_scale(layers, inputs):
    """Set what standardises the inputs of some layers.

    Parameters
    ----------
    layers : torch.nn.Module
        With buffers ``input_mean`` and ``input_scale`` ``(n_input,)``; changed in place.
    inputs : torch.Tensor
        ``(n_star, n_input)`` what they are to be trained on.
    """
    layers.input_mean.copy_(inputs.mean(dim=0))
    layers.input_scale.copy_(inputs.std(dim=0).clamp(min=1e-6))


def train_layers(
    layers, loss_of, n_star, epochs, generator, *, batch_size, learning_rate, weight_decay, warmup, watch=None
):
    """Train layers, epoch by epoch, with AdamW, a warm-up and a cosine.

    Parameters
    ----------
    layers : sequence of torch.nn.Module
        Changed in place.
    loss_of : callable
        ``loss_of(rows)`` is the loss of some of the stars.
    n_star : int
        Number of stars.
    epochs : int
        How often each star is seen.
    generator : torch.Generator
        Source of their order.
    batch_size : int
        Stars in a step, about.
    learning_rate, weight_decay : float
        Of AdamW.
    warmup : int
        The learning rate rises during one in so many of the steps.
    watch : callable, optional
        Called with the number of each epoch that ended.

    Returns
    -------
    torch.Tensor
        Loss of the last step.
    """
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    n_batch = max(n_star // batch_size, 1)
    steps = epochs * n_batch
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, max(steps // warmup, 1), 0.0)
    )
    for epoch in range(epochs):
        order = torch.randperm(n_star, generator=generator, device=generator.device).to(parameters[0].device)
        for rows in order.tensor_split(n_batch):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
        if watch is not None:
            watch(epoch + 1)
    return loss
