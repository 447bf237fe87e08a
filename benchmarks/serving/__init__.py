"""The parts of `benchmarks/serving.py`: the processes under test, the load on them, and the bare endpoint."""
