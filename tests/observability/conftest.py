from tests.worlds import *  # noqa: F403
