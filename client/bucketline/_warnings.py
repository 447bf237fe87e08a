"""Warnings for a job that continues all the same. Each is its own ``UserWarning``, so that it can be filtered alone."""


class StartWarning(UserWarning):
    """The job takes batches from the middle of a run and has not said where to start.

    Call `begin(state)` with a checkpoint's state dict, or `begin(None)` for the run's first step.

    ```python
    warnings.simplefilter("error", bucketline.StartWarning)  # a job that forgets to call begin() stops
    ```
    """


class RepeatedBatchesWarning(UserWarning):
    """A loader gets the same batches again, because none of them was acknowledged.

    Loop over `sampler.follow(loader)`, or call `sampler.ack()` after each step.

    ```python
    warnings.simplefilter("error", bucketline.RepeatedBatchesWarning)
    ```
    """
