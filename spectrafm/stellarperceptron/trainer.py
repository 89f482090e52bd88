"""The training loop: exact resume, equal replicas, nothing hidden."""

import csv
import json
import logging
import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from .._progress import progress as progress_bar
from ..exceptions import CheckpointError, TrainingError
from .config import AugmentationConfig, FitConfig
from .model_core import atomic_write
from .nn_utils import TrainingGenerator, learning_rate_factor, robust_mean_squared_error, split_by_star

__all__ = ["Trainer"]

logger = logging.getLogger("spectrafm")


class Trainer:
    """Trains a model on a table of stars.

    Parameters
    ----------
    model : StellarPerceptron
        Trained in place. A vocabulary that was never standardised is
        standardised from the training stars.
    table : TokenTable
        Spectra and quantities.
    targets : sequence of str
        Quantities to learn to predict.
    config : FitConfig, optional
        Steps, learning rate, seed and the rest.
    augmentation : AugmentationConfig, optional
        What is drawn anew for every star and step.
    divisor : callable, optional
        See `TrainingGenerator`.
    validation : array_like of int, optional
        Stars to validate on; drawn with the seed when left out.
    folder : str or pathlib.Path, optional
        Where checkpoint and log go; none are written without it.
    resume : bool, optional
        Go on from the checkpoint in ``folder``, if there is one.
    progress : bool, optional
        Show a progress bar, where tqdm is installed.
    """

    def __init__(
        self,
        model,
        table,
        targets,
        config=None,
        *,
        augmentation=None,
        divisor=None,
        validation=None,
        folder=None,
        resume=False,
        progress=False,
    ):
        self.model, self.config = model, config or FitConfig()
        self.augmentation = augmentation or AugmentationConfig()
        self.folder = None if folder is None else Path(folder)
        self.resume, self.progress = resume, progress
        self.rank, self.world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if validation is None:
            train, validation = split_by_star(len(table), self.config.validation_fraction, self.config.seed)
        else:
            validation = np.unique(validation)
            train = np.setdiff1d(np.arange(len(table)), validation)
        self.train_stars, self.validation_stars = train, validation
        standardize = not model.vocabulary.fitted
        if standardize:
            model.vocabulary.fit(table, train)
        self.generator = TrainingGenerator(
            table,
            model.vocabulary,
            targets,
            train,
            batch_size=self.config.batch_size,
            context_length=model.config.context_length,
            patch_size=model.config.patch_size,
            augmentation=self.augmentation,
            divisor=divisor,
            seed=self.config.seed,
            rank=self.rank,
            world_size=self.world_size,
        )
        if standardize:
            model.fit_patches(self.generator)
        self.step, self.log = 0, []

    def run(self):
        """Train to the last step.

        Returns
        -------
        list of dict
            The log.
        """
        started_here = self.world_size > 1 and not distributed.is_initialized()
        if started_here:
            distributed.init_process_group("nccl" if self.model.device.type == "cuda" else "gloo")
        try:
            return self._run()
        finally:
            if started_here:
                distributed.destroy_process_group()

    def _run(self):
        config, network = self.config, self.model.torch_model
        self._make_optimizer()
        if self.resume and self.folder is not None and (self.folder / "checkpoint.pt").exists():
            self._load_checkpoint()
        # without any given quantity in a batch, their embedding is not used
        trained = DistributedDataParallel(network, find_unused_parameters=True) if self.world_size > 1 else network
        network.train()
        steps = progress_bar(range(self.step, config.steps), self.progress and self.rank == 0, description="training")
        clock, stars = time.perf_counter(), 0
        for step in steps:
            loss, norm = self._step(trained, step)
            self.step = step + 1
            stars += config.batch_size
            last = self.step == config.steps
            if self.step % config.log_every == 0 or last:
                seconds = time.perf_counter() - clock
                entry = {"step": self.step, "learning_rate": self.optimizer.param_groups[0]["lr"], "loss": loss}
                entry |= {"gradient_norm": norm, "stars_per_second": stars / seconds}
                if self.step % config.validation_every < config.log_every or last:
                    entry |= self.validate()
                self._write_log(entry)
                clock, stars = time.perf_counter(), 0
            if self.folder is not None and (self.step % config.checkpoint_every == 0 or last):
                self._save_checkpoint()
        if self.average is not None:
            network.load_state_dict(self.average, strict=False)
        network.eval()
        return self.log

    def _make_optimizer(self):
        matrices, rest = [], []
        for name, parameter in self.model.torch_model.named_parameters():
            decays = parameter.ndim >= 2 and "embedding_layer" not in name and "bias_" not in name
            (matrices if decays else rest).append(parameter)
        groups = [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.98), fused=True)
        parameters = self.model.torch_model.named_parameters()
        self.average = {k: p.detach().clone() for k, p in parameters} if self.config.ema_decay else None

    def _autocast(self):
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16)

    def _loss(self, network, batch):
        with self._autocast():
            prediction, log_variance = network(batch.tokens, batch.request_token, batch.request_wavelength)
        return robust_mean_squared_error(
            batch.target, prediction.float(), log_variance.float(), batch.target_sigma, batch.weight
        )

    def _step(self, network, step):
        config = self.config
        factor = learning_rate_factor(step, config.steps, config.warmup_steps, config.final_learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        batch = self.generator.batch(step).to(self.model.device)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # dropout draws from the global generator: lend it one seeded by the step
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(np.random.SeedSequence((4, config.seed, step, self.rank)).generate_state(1)[0]))
            loss = self._loss(network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.torch_model.parameters(), config.clip_norm)
        loss, norm = loss.item(), norm.item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step}: loss {loss}, gradient norm {norm}; the weights are still those of the step before. "
                "Lower learning_rate, or look for absurd values in the table"
            )
        self.optimizer.step()
        if self.average is not None:
            # a young average follows closely
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            for name, parameter in self.model.torch_model.named_parameters():
                self.average[name].lerp_(parameter.detach(), 1 - decay)
        return loss, norm

    def validate(self):
        """Measure the loss and the residuals of the validation stars.

        Returns
        -------
        dict
            ``validation_loss`` and, for each target, ``mad_std_<name>`` in
            standardised units; empty without validation stars.
        """
        if not len(self.validation_stars):
            return {}
        network = self.model.torch_model
        kept = None
        if self.average is not None:
            kept = {k: p.detach().clone() for k, p in network.named_parameters()}
            network.load_state_dict(self.average, strict=False)
        network.eval()
        residuals, losses, weights = [], [], []
        with torch.inference_mode():
            for start in range(0, len(self.validation_stars), 512):
                batch = self.generator.draw(self.validation_stars[start : start + 512]).to(self.model.device)
                with self._autocast():
                    answer = network(batch.tokens, batch.request_token, batch.request_wavelength)
                prediction, log_variance = (a.float() for a in answer)
                loss = robust_mean_squared_error(batch.target, prediction, log_variance, batch.target_sigma)
                weights.append(torch.isfinite(batch.target).sum().item())
                losses.append(loss.item())
                residuals.append((prediction - batch.target).cpu().numpy())
        network.train()
        if kept is not None:
            network.load_state_dict(kept, strict=False)
        residual = np.concatenate(residuals)
        entry = {"validation_loss": float(np.average(losses, weights=np.maximum(weights, 1e-12)))}
        for i, name in enumerate(self.generator.targets):
            known = residual[np.isfinite(residual[:, i]), i]
            if known.size:
                entry[f"mad_std_{name}"] = float(1.4826 * np.median(np.abs(known - np.median(known))))
        return entry

    def _write_log(self, entry):
        self.log.append(entry)
        if self.rank != 0:
            return
        logger.info("training: %s", {k: round(v, 5) for k, v in entry.items()})
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = ["step", "learning_rate", "loss", "gradient_norm", "stars_per_second", "validation_loss"]
        fields += [f"mad_std_{name}" for name in self.generator.targets]

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
            "augmentation": self.augmentation.to_dict(),
            "vocabulary": self.model.vocabulary.to_dict(),
            "targets": list(self.generator.targets),
            "world_size": self.world_size,
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
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "log": json.dumps(self.log),
        }
        atomic_write(self.folder / "checkpoint.pt", lambda path: torch.save(state, path))

    def _load_checkpoint(self):
        path = self.folder / "checkpoint.pt"
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        if state["settings"] != self._settings():
            theirs, ours = json.loads(state["settings"]), json.loads(self._settings())
            differ = [k for k in ours if theirs.get(k) != ours[k]]
            raise CheckpointError(
                f"folder: {path} was written with another {', '.join(differ)}; "
                "resume with the settings it was started with, or start in an empty folder"
            )
        self.model.torch_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.log = state["average"], state["step"], json.loads(state["log"])
