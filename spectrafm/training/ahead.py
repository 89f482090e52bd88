"""Batches that other processes make ahead of time."""

import os
import threading
import traceback
from contextlib import suppress

import torch
from torch import multiprocessing

from ..exceptions import InputValueError, TrainingError

__all__ = ["AheadStream"]

# batches of so many steps wait in front of the trainer, for each process that makes them
_WAITING = 3


class AheadStream:
    """A stream whose batches are made by other processes while the model trains on earlier ones.

    Making stars takes many small operations, which cost a GPU little while it trains, and much in between. A batch
    does not depend on the process that makes it, so that training gives the same with any number of processes.
    They share the device of the stream: nothing is copied through the memory of the host.

    Parameters
    ----------
    stream : StarStream
        Makes the batches; it is sent to every process.
    n_process : int
        Number of processes.
    steps : int
        Number of steps of the whole training.

    Raises
    ------
    InputValueError
        A number of processes that is not a positive integer.
    """

    def __init__(self, stream, n_process, steps):
        if not isinstance(n_process, int) or n_process < 1:
            raise InputValueError(f"n_process: {n_process!r}, expected a positive integer")
        self.stream, self.n_process, self.steps = stream, n_process, steps
        # of each process: itself, where its batches arrive, and what counts those that wait
        self._makers, self._first, self._next = [], None, None

    @property
    def targets(self):
        """Names of all labels that are asked for."""
        return self.stream.targets

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_):
        """End the processes."""
        self.close()

    def batches(self, step):
        """Take the batches of a step, as `StarStream.batches`.

        Parameters
        ----------
        step : int
            Number of the step. Successive steps are waited for; any other one starts the processes anew.

        Yields
        ------
        name : str
            Name of the source.
        weight : float
            Weight of its loss.
        batch : TrainingBatch
            On the device of the stream.

        Raises
        ------
        InputValueError
            A step beyond the last.
        TrainingError
            A process ended early, or could not make a batch.
        """
        if step >= self.steps:
            raise InputValueError(f"step: {step}, expected less than steps = {self.steps}, of the whole training")
        if step != self._next:
            self.close()
            self._start(step)
        made = self._take(step)
        self._next = step + 1
        yield from made

    def validation(self):
        """Draw the batches to validate on, as `StarStream.validation`.

        Returns
        -------
        iterator
        """
        return self.stream.validation()

    def targets_of(self, name):
        """Return the labels that are asked for, as `StarStream.targets_of`.

        Parameters
        ----------
        name : str
            Name of the source.

        Returns
        -------
        tuple of str
        """
        return self.stream.targets_of(name)

    def settings(self):
        """Return the settings of the stream, as `StarStream.settings`.

        Returns
        -------
        dict
        """
        return self.stream.settings()

    def close(self):
        """End the processes; batches that were not taken are lost."""
        try:
            for _, arrived, _ in self._makers:
                # taken, so that it is given back; who is gone cannot be asked
                with suppress(Exception):
                    while arrived.poll():
                        arrived.recv()
        finally:
            for process, arrived, _ in self._makers:
                process.terminate()
                process.join()
                arrived.close()
            self._makers, self._next = [], None

    def _start(self, first):
        # a process that was forked cannot use a GPU
        context = multiprocessing.get_context("spawn")
        self._first = first
        for number in range(self.n_process):
            arrived, sent = context.Pipe(duplex=False)
            room = context.Semaphore(_WAITING)
            steps = range(first + number, self.steps, self.n_process)
            process = context.Process(target=_make, args=(self.stream, steps, sent, room), daemon=True)
            process.start()
            # who ends closes the last end of the pipe, and is not waited for
            sent.close()
            self._makers.append((process, arrived, room))

    def _take(self, step):
        process, arrived, room = self._makers[(step - self._first) % self.n_process]
        try:
            made = arrived.recv()
        except (EOFError, OSError, RuntimeError) as error:
            process.join(1.0)
            raise TrainingError(
                f"step {step}: the process that makes its batches ended (exit code {process.exitcode}). Where memory "
                "ran out, train with fewer of them; where a script trains, put that under if __name__ == '__main__'"
            ) from error
        if isinstance(made, str):
            raise TrainingError(f"step {step}: its batches could not be made\n{made}")
        room.release()
        return made


def _make(stream, steps, sent, room):
    """Send the batches of some steps, in order, and stay until the process is ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        for step in steps:
            room.acquire()
            sent.send(list(stream.batches(step)))
    except Exception:
        sent.send(traceback.format_exc())
    # what was sent lies in the memory of this process
    threading.Event().wait()


def _end_with_parent():
    """End this process when the trainer is gone, however it went."""
    multiprocessing.parent_process().join()
    os._exit(1)
