"""Batches that are made ahead of time, by other processes."""

import os
import queue
import threading
import traceback
from contextlib import suppress

import torch
from torch import multiprocessing

from ..exceptions import InputValueError, TrainingError

__all__ = ["AheadStream"]

# batches of so many steps wait in front of the trainer, for each process that makes them
_WAITING = 2
# seconds between looks at whether a process that is waited for is still there
_PATIENCE = 5.0


class AheadStream:
    """A stream whose batches are made by processes of their own, while the model trains on those before.

    Making stars is many small steps: by the side of training they cost a GPU little, in front of it much. Who makes
    the batch of a step does not matter to what is in it, so that training gives the same with any number of
    processes. They share the device of the stream: nothing is copied through the memory of the host.

    Parameters
    ----------
    stream : StarStream
        Makes the batches; it is sent to every process.
    n_process : int
        Number of processes.
    steps : int
        Steps of the whole training.
    """

    def __init__(self, stream, n_process, steps):
        if not isinstance(n_process, int) or n_process < 1:
            raise InputValueError(f"n_process: {n_process!r}, expected a positive integer")
        self.stream, self.n_process, self.steps = stream, n_process, steps
        self._processes, self._queues, self._next = [], [], None

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
            Number of the step. Steps that follow each other are waited for; any other starts anew.

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
        TrainingError
            A process ended before its time.
        """
        if step != self._next:
            self.close()
            self._start(step)
        number = (step - self._first) % self.n_process
        made = self._take(number)
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
        """Return what is asked for, as `StarStream.targets_of`.

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
        """Return those of the stream, as `StarStream.settings`.

        Returns
        -------
        dict
        """
        return self.stream.settings()

    def close(self):
        """End the processes; what they made and nobody took is lost."""
        for waiting in self._queues:
            with suppress(queue.Empty):
                while True:
                    waiting.get_nowait()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._processes, self._queues, self._next = [], [], None

    def _start(self, first):
        # a process that was forked cannot use a GPU
        context = multiprocessing.get_context("spawn")
        self._first, self._next = first, first
        for number in range(self.n_process):
            waiting = context.Queue(_WAITING)
            steps = range(first + number, self.steps, self.n_process)
            process = context.Process(target=_make, args=(self.stream, steps, waiting), daemon=True)
            process.start()
            self._processes.append(process)
            self._queues.append(waiting)

    def _take(self, number):
        while True:
            try:
                made = self._queues[number].get(timeout=_PATIENCE)
                break
            except queue.Empty:
                process = self._processes[number]
                if not process.is_alive():
                    raise TrainingError(
                        f"a process that makes batches ended (exit code {process.exitcode}): where memory ran out, "
                        "train with fewer of them; where a script trains, put that under if __name__ == '__main__'"
                    ) from None
        if isinstance(made, str):
            raise TrainingError(f"batches could not be made:\n{made}")
        return made


def _make(stream, steps, waiting):
    """Put the batches of some steps into a queue, in order, and stay until the process is ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        for step in steps:
            waiting.put(list(stream.batches(step)))
    except Exception:
        waiting.put(traceback.format_exc())
    # what was sent lies in the memory of this process
    threading.Event().wait()


def _end_with_parent():
    """End this process when the trainer is gone, however it went."""
    multiprocessing.parent_process().join()
    os._exit(1)
