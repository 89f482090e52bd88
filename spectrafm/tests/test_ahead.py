"""Batches made ahead of time by other processes are those that the stream would make."""

import os
import threading

import pytest
import torch

from spectrafm.exceptions import InputValueError, TrainingError
from spectrafm.stellarperceptron import FitConfig, TableStream, Trainer
from spectrafm.tests.tiny import tiny_model, tiny_table
from spectrafm.training import AheadStream


class Steps:
    """A stream that says which step it is; at some steps it fails, at others its process ends."""

    targets = ("teff",)

    def __init__(self, fails=None, ends=None, strange=None):
        self.fails, self.ends, self.strange = fails, ends, strange

    def batches(self, step):
        """Give one tensor."""
        if step == self.fails:
            raise ValueError("no star today")
        if step == self.ends:
            os._exit(7)
        if step == self.strange:
            # nothing that can be sent
            yield "", 1.0, threading.Lock()
        yield "", 1.0, torch.full((3,), float(step))

    def validation(self):
        """Give another."""
        yield "", torch.zeros(1)

    def settings(self):
        """Return what tells streams apart."""
        return {"fails": self.fails}


def take(ahead, steps):
    """Return the numbers of the batches of some steps."""
    return [batch.tolist() for step in steps for _, _, batch in ahead.batches(step)]


def test_number_of_processes():
    """There is at least one."""
    with pytest.raises(InputValueError, match="n_process: 0, expected a positive integer"):
        AheadStream(Steps(), 0, 10)


@pytest.mark.slow
def test_order():
    """Steps come in order whoever made them, from whichever step training goes on; nobody is left behind."""
    with AheadStream(Steps(), 2, 12) as ahead:
        for start in (7, 2):
            for step in range(start, start + 5):
                [(name, weight, batch)] = ahead.batches(step)
                assert (name, weight, batch.tolist()) == ("", 1.0, [step] * 3)
        processes = [process for process, _, _ in ahead._makers]
        assert len(processes) == 2
        assert ahead.settings() == {"fails": None}
        assert len(list(ahead.validation())) == 1
        with pytest.raises(InputValueError, match="step: 12, expected less than steps = 12"):
            list(ahead.batches(12))
    assert not any(process.is_alive() for process in processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "match"),
    [
        ({"fails": 2}, "(?s)step 2: its batches could not be made.*no star today"),
        ({"strange": 2}, "(?s)step 2: its batches could not be made.*pickle"),
    ],
)
def test_trouble(trouble, match):
    """What goes wrong in another process is told in this one, at its step, and nobody is left behind."""
    with AheadStream(Steps(**trouble), 2, 6) as ahead:
        list(ahead.batches(0))
        processes = [process for process, _, _ in ahead._makers]
        assert take(ahead, range(1, 2)) == [[1.0] * 3]
        with pytest.raises(TrainingError, match=match):
            take(ahead, range(2, 5))
    assert not any(process.is_alive() for process in processes)


@pytest.mark.slow
def test_death():
    """A process that is gone takes with it what waits, which is told as what it is; the others are ended."""
    with AheadStream(Steps(ends=2), 2, 9) as ahead:
        with pytest.raises(TrainingError, match=r"exit code 7\). Where memory ran out"):
            take(ahead, range(9))
        processes = [process for process, _, _ in ahead._makers]
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)


@pytest.mark.slow
def test_resume(tmp_path):
    """A run goes on exactly where it was stopped, with another number of processes."""
    config = FitConfig(steps=12, batch_size=16, warmup_steps=2, checkpoint_every=4, log_every=4, validation_every=4)
    weights = []
    for stop, n_process in ((False, 0), (True, 2)):
        model = tiny_model()
        stream = TableStream(model, tiny_table(), ["teff", "logg"], config)
        folder = tmp_path / str(n_process)
        if stop:
            Trainer(model, stream, config, folder=folder, watch=lambda step: step == 8).run()
            model = tiny_model(seed=5)
            with AheadStream(stream, n_process, config.steps) as ahead:
                Trainer(model, ahead, config, folder=folder, resume=True).run()
        else:
            Trainer(model, stream, config, folder=folder).run()
        weights.append(model.torch_model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
