"""The training loop: exact resume, equal replicas, nothing hidden."""

import csv
import json
import logging
import math
import os
import pickle
import time
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from .._numerics import mad_std
from .._progress import progress as progress_bar
from .._storage import atomic_write
from ..exceptions import CheckpointError, InputValueError, TrainingError
from .config import FitConfig, ModelConfig, check_type
from .muon import Muon, multiplies_bfloat16
from .nn_utils import learning_rate_factor, robust_mean_squared_error, seeded

__all__ = ["Trainer", "process_group", "processes"]

logger = logging.getLogger("spectrafm")

# smallest dimension of the matrices that Muon trains
_MUON_SIZE = 16
# processes wait this long for one that calibrates
_PATIENCE = timedelta(days=1)
# what the stars decide about a vocabulary
_STANDARDIZATION = ("mean", "std", "fitted")
# what may differ by rounding, as on another processor
_ROUNDED = 1e-6


def processes():
    """Return the number of this process and of all processes that train together.

    Returns
    -------
    rank, world_size : int
        As torchrun sets them; 0 and 1 without it.
    """
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(device):
    """Join the processes that train together, for a while; nothing to do where there is only one.

    Parameters
    ----------
    device : str or torch.device
        Where this process trains.

    Yields
    ------
    None
    """
    started_here = processes()[1] > 1 and not distributed.is_initialized()
    if started_here:
        backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        if started_here:
            distributed.destroy_process_group()


class Trainer:
    """Trains a model on a stream of batches.

    Parameters
    ----------
    model : StellarPerceptron
        Trained in place.
    stream : TableStream, StarStream or AheadStream
        Gives the batches of each step and those to validate on.
    config : FitConfig, optional
        Steps, learning rate, seed and the rest.
    folder : str or pathlib.Path, optional
        Where checkpoint and log go; none are written without it.
    resume : bool, optional
        Go on from the checkpoint in ``folder``, if there is one.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    watch : callable, optional
        Called with the number of the step at each validation, when the model is as it
        would be kept; training ends where it returns True.

    Raises
    ------
    InputTypeError
        A configuration of another type.
    InputValueError
        ``resume`` without a folder.
    """

    def __init__(self, model, stream, config=None, *, folder=None, resume=False, progress=False, watch=None):
        config = FitConfig() if config is None else config
        check_type("config", config, FitConfig)
        if resume and folder is None:
            raise InputValueError("resume: True without a folder; give the folder whose checkpoint to go on from")
        self.model, self.stream, self.config, self.watch = model, stream, config, watch
        self.folder = None if folder is None else Path(folder)
        self.resume, self.progress = resume, progress
        self.rank, self.world_size = processes()
        self.step, self.log, self.average = 0, [], None

    def run(self):
        """Train to the last step.

        Returns
        -------
        list of dict
            The log.
        """
        with process_group(self.model.device), self._compiled():
            return self._run()

    @contextmanager
    def _compiled(self):
        """Compile the transformer blocks for a while: those of the same shapes share what is compiled."""
        network = self.model.torch_model
        blocks = [*network.torch_encoder.blocks, *network.torch_decoder.blocks] if self.config.compile else []
        for block in blocks:
            # in front of the method of its class: from `torch.nn.Module.compile` there is no public way back
            block.forward = torch.compile(block.forward, dynamic=True)
        try:
            yield
        finally:
            for block in blocks:
                del block.forward

    def _run(self):
        config, network = self.config, self.model.torch_model
        self._make_optimizers()
        if self.resume and self.folder is not None and (self.folder / "checkpoint.pt").exists():
            self._load_checkpoint()
        self._share_start()
        if config.ema_decay and self.average is None:
            self.average = {k: p.detach().clone() for k, p in network.named_parameters()}
        network.train()
        steps = progress_bar(range(self.step, config.steps), self.progress and self.rank == 0, description="training")
        clock, done = time.perf_counter(), self.step
        for step in steps:
            last = step + 1 == config.steps
            validated = last or (step + 1) % config.validation_every == 0
            logged = validated or (step + 1) % config.log_every == 0
            ended = False
            # a step that is logged is timed in parts, which makes the device wait
            loss, norm, waited = self._step(network, step, timed=logged)
            self.step = step + 1
            if logged:
                seconds = (time.perf_counter() - clock) / (self.step - done)
                entry = {"step": self.step, "learning_rate": self.optimizers[0].param_groups[0]["lr"], "loss": loss}
                entry |= {"gradient_norm": norm, "stars_per_second": config.batch_size / seconds}
                entry |= {"data_share": waited}
                if validated:
                    entry |= self.validate()
                    ended = self._watched()
                self._write_log(entry)
                clock, done = time.perf_counter(), self.step
            if self.folder is not None and (last or self.step % config.checkpoint_every == 0):
                self._save_checkpoint()
            if ended:
                break
        if self.average is not None:
            network.load_state_dict(self.average, strict=False)
        network.eval()
        return self.log

    def _make_optimizers(self):
        matrices, rest = [], []
        for name, parameter in self.model.torch_model.named_parameters():
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim >= 2 and "embedding_layer" not in name and "bias_" not in name
            (matrices if decays else rest).append(parameter)
        rate, decay = self.config.learning_rate, self.config.weight_decay
        self.optimizers = []
        if self.config.optimizer == "muon":
            # it makes updates orthogonal, which means nothing where a matrix has but a row or two
            wide = [p for p in matrices if p.ndim == 2 and min(p.shape) >= _MUON_SIZE]
            matrices = [p for p in matrices if not any(p is other for other in wide)]
            if wide:
                self.optimizers.append(Muon(wide, lr=rate, weight_decay=decay))
        groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True))

    def _autocast(self):
        precision, device = self.config.precision, self.model.device.type
        if precision == "float32" or (precision == "auto" and not multiplies_bfloat16(device)):
            return nullcontext()
        return torch.autocast(device, dtype=torch.bfloat16)

    def _loss(self, network, batch):
        with self._autocast():
            prediction, log_variance = network(batch.tokens, batch.request_token, batch.request_wavelength)
        return robust_mean_squared_error(
            batch.target, prediction.float(), log_variance.float(), batch.target_sigma, batch.weight, self.config.beta
        )

    def _wait(self):
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _step(self, network, step, timed=False):
        """Train one step; return loss, norm of the gradient and share of the time that batches took."""
        config, device = self.config, self.model.device
        factor = learning_rate_factor(step, config.steps, config.warmup_steps, config.final_learning_rate)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
        seed = int(np.random.SeedSequence((4, config.seed, step, self.rank)).generate_state(1)[0])
        total, data_seconds = 0.0, 0.0
        begin = self._wait() if timed else 0.0
        with seeded(seed, device):
            batches = iter(self.stream.batches(step))
            while True:
                begun = self._wait() if timed else 0.0
                _, weight, batch = next(batches, (None, None, None))
                if batch is None:
                    break
                batch = batch.to(device)
                data_seconds += self._wait() - begun if timed else 0.0
                loss = weight * self._loss(network, batch)
                before = self._take_gradients() if config.source_clip_norm else None
                loss.backward()
                if before is not None:
                    self._add_gradients(before, config.source_clip_norm * weight)
                total = total + loss.detach()
        self._share_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters(), config.clip_norm)
        loss, norm = float(total), norm.item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step}: loss {loss}, gradient norm {norm}; the weights are still those of the step before. "
                "Lower learning_rate, or look for absurd values in the data"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average is not None:
            # a young average follows closely
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            parameters = {name: p.detach() for name, p in self.model.torch_model.named_parameters()}
            torch._foreach_lerp_([self.average[name] for name in parameters], list(parameters.values()), 1 - decay)
        return loss, norm, data_seconds / (self._wait() - begin) if timed else math.nan

    def _take_gradients(self):
        """Return the gradients so far, and leave none."""
        taken = [parameter.grad for parameter in self._parameters()]
        for parameter in self._parameters():
            parameter.grad = None
        return taken

    def _add_gradients(self, before, most):
        """Clip the gradients of one source, and add those of the sources before."""
        parameters = self._parameters()
        torch.nn.utils.clip_grad_norm_(parameters, most)
        for parameter, earlier in zip(parameters, before, strict=True):
            if parameter.grad is None:
                parameter.grad = earlier
        both = [(p.grad, b) for p, b in zip(parameters, before, strict=True) if b is not None and p.grad is not b]
        if both:
            torch._foreach_add_(*map(list, zip(*both, strict=True)))

    def _parameters(self):
        """Return the parameters that are trained."""
        return [parameter for parameter in self.model.torch_model.parameters() if parameter.requires_grad]

    def _share_start(self):
        """Give all processes the standardisation and the weights of the first."""
        if self.world_size == 1:
            return
        vocabulary = self.model.vocabulary
        scale = torch.from_numpy(np.stack((vocabulary.mean, vocabulary.std))).to(self.model.device)
        for tensor in (scale, *self.model.torch_model.state_dict().values()):
            distributed.broadcast(tensor, 0)
        vocabulary.mean[:], vocabulary.std[:] = scale.cpu().numpy()

    def _share_gradients(self):
        """Replace gradients by their mean over all processes."""
        if self.world_size == 1:
            return
        parameters = self._parameters()
        # a parameter that no star of this process needed may have one elsewhere
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.world_size
        for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    @contextmanager
    def _kept(self):
        """Put the model into the state in which it would be kept, for a while."""
        network, now = self.model.torch_model, None
        if self.average is not None:
            now = {k: p.detach().clone() for k, p in network.named_parameters()}
            network.load_state_dict(self.average, strict=False)
        network.eval()
        try:
            yield network
        finally:
            network.train()
            if now is not None:
                network.load_state_dict(now, strict=False)

    def _watched(self):
        """Show the model to who watches; return whether to end."""
        if self.watch is None:
            return False
        with self._kept():
            return bool(self.watch(self.step))

    @torch.inference_mode()
    def validate(self):
        """Measure the loss and the residuals of the stars to validate on.

        Returns
        -------
        dict
            ``validation_loss`` and, for each target, ``mad_std_<name>`` in standardised
            units; of several sources, for each with its name and a colon before.
        """
        found = {}
        with self._kept() as network:
            for name, batch in self.stream.validation():
                batch = batch.to(self.model.device)
                with self._autocast():
                    answer = network(batch.tokens, batch.request_token, batch.request_wavelength)
                prediction, log_variance = (a.float() for a in answer)
                loss = robust_mean_squared_error(
                    batch.target, prediction, log_variance, batch.target_sigma, batch.weight
                ).item()
                weight = (torch.isfinite(batch.target) * batch.weight).sum().item()
                found.setdefault(name, []).append((loss, weight, (prediction - batch.target).cpu().numpy()))
        entry = {}
        for name, parts in found.items():
            before, targets = (f"{name}:", self.stream.targets_of(name)) if name else ("", self.stream.targets)
            losses, weights, residuals = zip(*parts, strict=True)
            entry[f"{before}validation_loss"] = float(np.average(losses, weights=np.maximum(weights, 1e-12)))
            residual = np.concatenate([r[:, : len(targets)] for r in residuals])
            for i, target in enumerate(targets):
                known = residual[np.isfinite(residual[:, i]), i]
                if known.size:
                    entry[f"{before}mad_std_{target}"] = mad_std(known)
        return entry

    def _write_log(self, entry):
        self.log.append(entry)
        if self.rank != 0:
            return
        logger.info("training: %s", {k: round(v, 5) for k, v in entry.items()})
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = list(dict.fromkeys(name for line in self.log for name in line))

        def write(path):
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, fields)
                writer.writeheader()
                writer.writerows(self.log)

        atomic_write(self.folder / "log.csv", write)

    def _settings(self):
        settings = {
            "fit": self.config.to_dict(),
            "model": self.model.config.to_dict(),
            "vocabulary": self.model.vocabulary.to_dict(),
            "world_size": self.world_size,
            **self.stream.settings(),
        }
        return json.dumps(settings, sort_keys=True)

    def _save_checkpoint(self):
        if self.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "settings": self._settings(),
            "model": self.model.torch_model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "log": json.dumps(self.log),
        }
        atomic_write(self.folder / "checkpoint.pt", lambda path: torch.save(state, path))

    def _load_checkpoint(self):
        path = self.folder / "checkpoint.pt"
        remedy = "resume with the settings it was started with, or start in an empty folder"
        state, theirs = _read_checkpoint(path, self.model.device)
        ours = json.loads(self._settings())
        scale, own = ({k: some["vocabulary"].pop(k) for k in _STANDARDIZATION} for some in (theirs, ours))
        if missing := [k for k in ours if k not in theirs]:
            raise CheckpointError(
                f"folder: {path} does not tell {', '.join(missing)}: it is of an earlier version, or of training on "
                f"something else; {remedy}"
            )
        sums = [some.get("table", {}).pop("sums", []) for some in (theirs, ours)]
        differ = [k for k in ours | theirs if theirs.get(k) != ours.get(k)]
        if "table" not in differ and not _nearly(*sums, least=0.0):
            differ.append("table")
        if not differ and not all(_nearly(scale[k], own[k]) for k in ("mean", "std")):
            differ.append("standardisation, as of other stars")
        if differ:
            raise CheckpointError(f"folder: {path} was written with another {', '.join(differ)}; {remedy}")
        # in place: the stream standardises with the same arrays
        vocabulary = self.model.vocabulary
        vocabulary.mean[1:], vocabulary.std[1:] = scale["mean"], scale["std"]
        try:
            self.model.torch_model.load_state_dict(state["model"])
            for optimizer, its_state in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(its_state)
            self.average, self.step, self.log = state["average"], int(state["step"]), json.loads(state["log"])
        except _DAMAGED as error:
            raise _damaged(path, error) from error


def _nearly(these, those, least=_ROUNDED):
    """Tell whether numbers are the same but for rounding."""
    return len(these) == len(those) and np.allclose(these, those, _ROUNDED, least)


# what reading a file that is no checkpoint, or only part of one, ends in
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)
_DAMAGED += (pickle.UnpicklingError,)


def _damaged(path, error):
    """Return the error of a checkpoint that cannot be read."""
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"folder: {path} is no checkpoint, or is damaged ({reason}); put a copy of it back, or start in an empty folder"
    )


def _read_checkpoint(path, device):
    """Return what a checkpoint holds, and its settings."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        theirs = json.loads(state["settings"])
        # settings that are newer than the checkpoint are as they were by default
        theirs["model"] = ModelConfig.from_dict(theirs["model"]).to_dict()
        whole = state.keys() >= {"step", "model", "optimizers", "average", "log"}
        if not whole or not theirs["vocabulary"].keys() >= set(_STANDARDIZATION):
            raise ValueError("parts of it are missing")
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return state, theirs
