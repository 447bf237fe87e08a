"""fork, spawn and the end of the interpreter, each in its own process."""

import copy
import multiprocessing
import pickle
import subprocess
import sys

from bucketline import BucketClient, Operator
from tests import warm

FORK = """
import os, sys, traceback, warnings
from bucketline import BucketClient, Fenced
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
client = BucketClient(*sys.argv[1:])
print("parent", client.next_batch(0).step, client.next_batch(0).step, client.next_batch(0).step)
client.flush()
sys.stdout.flush()
child = os.fork()
if child == 0:
    code = 1
    try:
        print("child", client.next_batch(0).step, client.next_batch(1).step)
        client.close()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
client.ack(0)
try:
    client.flush()
except Fenced:
    print("parent fenced")
"""

FORK_UNUSED = """
import os, sys
from bucketline import BucketClient
client = BucketClient(*sys.argv[1:])
if os.fork() == 0:
    with client:
        print("child", client.next_batch(0).step)
    sys.exit()
os.wait()
print("parent", client.next_batch(1).step)
"""

EXIT = """
import sys
from bucketline import BucketClient
client = BucketClient(*sys.argv[1:], ack_interval_s=3600)
for _ in range(4):
    client.next_batch(0)
"""


def script(text, *args):
    """The standard output of a program, which must succeed without warnings."""
    command = [sys.executable, "-c", f"import warnings; warnings.simplefilter('error')\n{text}", *args]
    with warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    return out.splitlines()


def test_a_forked_child_has_a_connection_and_a_lease_of_its_own(url, run):
    """It continues at the cursor, because the parent's third batch is not finished. The parent has lost the rank to
    it."""
    assert script(FORK, url, run) == ["parent 0 1 2", "child 2 0", "parent fenced"]


def test_forking_before_the_first_use(url, run):
    assert script(FORK_UNUSED, url, run) == ["child 0", "parent 0"]


def test_the_interpreter_ends_cleanly_and_acknowledges_what_is_finished(url, run):
    assert script(EXIT, url, run) == []
    with Operator(url) as operator:
        assert operator.ranks(run)[0]["step"] == 3


def test_the_interpreter_ends_without_a_coordinator(own):
    text = EXIT + "import os, signal; os.kill(int(sys.stdin.readline()), signal.SIGKILL)"
    assert own._process is not None
    command, pipe = [sys.executable, "-c", text, own.url, "run"], subprocess.PIPE
    with warm.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        _, errors = process.communicate(f"{own._process.pid}\n", timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


def _work(client, rank, answers):
    with client:
        answers.put([batch.ids for batch in client.epoch(rank)])


def test_a_spawned_process_gets_the_client_pickled(url, run):
    client = BucketClient(url, run)
    session = client.start_session(2, "start", session="spawned")
    client.next_batch(1)
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_work, args=(client, 0, answers))
    process.start()
    process.join()
    assert process.exitcode == 0
    ids = answers.get()
    process.close()
    answers.close()
    with Operator(url) as operator:
        assert ids == [batch.ids for batch in operator.batches(run, 0, 0, 0, 19)]
        assert operator.run(run)["generation"] == session.generation
    assert client.next_batch(1).step == 1  # the other rank is not touched
    client.close()


def test_what_pickling_takes_along(url, run, monkeypatch):
    client = BucketClient(url, run, window=3, holder="me", session="s", token="secret")
    client.start_session(2, "start")
    client.next_batch(0)
    for twin in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client)):
        assert twin._engine is None
        assert (twin.url, twin.run, twin._window, twin._holder, twin._token) == (url, run, 3, "me", "secret")
        assert twin._started == "s"
        assert twin.next_batch(0).step == 0
        twin.close()
    monkeypatch.setenv("BUCKETLINE_TOKEN", "from-environment")
    assert b"from-environment" not in pickle.dumps(BucketClient(url, run))
    client.close()
