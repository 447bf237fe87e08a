"""What an operator asks of a coordinator: maps and runs put, looked at and deleted, and what plans would cost."""

from ._operator import Operator

__all__ = ["Operator"]
