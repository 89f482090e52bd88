"""Batches made ahead of time by other processes are those that the stream would make."""

import os

import pytest
import torch

from spectrafm.exceptions import InputValueError, TrainingError
from spectrafm.training import AheadStream


class Steps:
    """A stream that says which step it is; at some steps it fails, at others its process ends."""

    targets = ("teff",)

    def __init__(self, fails=None, ends=None):
        self.fails, self.ends = fails, ends

    def batches(self, step):
        """Give one tensor."""
        if step == self.fails:
            raise ValueError("no star today")
        if step == self.ends:
            os._exit(7)
        yield "", 1.0, torch.full((3,), float(step))

    def validation(self):
        """Give another."""
        yield "", torch.zeros(1)

    def settings(self):
        """Return what tells streams apart."""
        return {"fails": self.fails}


def test_number_of_processes():
    """There is at least one."""
    with pytest.raises(InputValueError, match="n_process: 0, expected a positive integer"):
        AheadStream(Steps(), 0, 10)


@pytest.mark.slow
def test_order():
    """Steps come in order whoever made them, from whichever step training goes on; nobody is left behind."""
    with AheadStream(Steps(), 3, 12) as ahead:
        for start in (0, 7, 2):
            for step in range(start, start + 5):
                [(name, weight, batch)] = ahead.batches(step)
                assert (name, weight, batch.tolist()) == ("", 1.0, [step] * 3)
        processes = list(ahead._processes)
        assert len(processes) == 3
        assert ahead.settings() == {"fails": None}
        assert len(list(ahead.validation())) == 1
    assert not any(process.is_alive() for process in processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "match"), [({"fails": 1}, "(?s)could not be made.*no star today"), ({"ends": 1}, r"exit code 7")]
)
def test_trouble(trouble, match):
    """What goes wrong in another process is told in this one, whose steps before are whole."""
    with AheadStream(Steps(**trouble), 2, 4) as ahead:
        list(ahead.batches(0))
        with pytest.raises(TrainingError, match=match):
            list(ahead.batches(1))
