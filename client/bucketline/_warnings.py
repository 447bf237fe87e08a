"""What is told to a job that goes on all the same. Each is a ``UserWarning`` of its own, to be filtered alone."""


class StartWarning(UserWarning):
    """The job has not said where it starts, and its run is not at its start: ``begin(state)`` or ``begin(None)``."""


class RepeatedBatchesWarning(UserWarning):
    """A loader gets the same batches again, because none of them was acknowledged: ``follow(loader)`` or ``ack()``."""
