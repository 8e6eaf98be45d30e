"""Nearly all in a Python of its own: in this one trio is imported as anybody imports it."""

import subprocess
import sys
import textwrap

import pytest

from tunnel_agent.small_trio import _Later

STARTED = """
    import sys
    started = []
    sys.addaudithook(lambda event, what: event in PROCESSES and started.append(what))
    PROCESSES = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.system"}
    from tunnel_agent.small_trio import import_trio
    import_trio()
    import trio
"""


def _python(*programs):
    program = "\n".join(map(textwrap.dedent, programs))
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_nothing_is_loaded_or_started_that_an_idle_agent_has_no_use_for():
    unused = "ctypes", "ctypes.util", "_ctypes", "idna", "idna.core", "subprocess"
    said = _python(STARTED, f"print(started, [name for name in {unused} if name in sys.modules])")
    assert said == "[] []\n"


def test_a_python_without_pidfd_open_has_what_trio_takes_instead():
    said = _python("import os\ndel os.pidfd_open", STARTED, "print('_ctypes' in sys.modules)")
    assert said == "True\n"


def test_threads_work():
    said = _python(
        STARTED,
        """
        import threading
        async def main():
            threads = set()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(trio.to_thread.run_sync, lambda: threads.add(threading.get_ident()))
            assert threads and threading.get_ident() not in threads
            print(await trio.to_thread.run_sync(trio.from_thread.run_sync, str.upper, "heard"))
        trio.run(main)
        """,
    )
    assert said == "HEARD\n"


def test_processes_work_and_load_what_they_need():
    said = _python(
        STARTED,
        """
        async def main():
            done = await trio.run_process([sys.executable, "-c", "print('ran')"], capture_stdout=True)
            real = sys.modules["subprocess"]
            print(done.stdout.decode().strip(), type(done).__module__, type(real).__name__)
            try:
                await trio.run_process([sys.executable, "-c", "raise SystemExit(3)"])
            except real.CalledProcessError as error:
                print(error.returncode)
        trio.run(main)
        """,
    )
    assert said == "ran subprocess module\n3\n"


def test_a_name_that_is_not_ascii_is_looked_up():
    said = _python(
        STARTED,
        """
        async def main():
            # These letters are "localhost" once they are mapped as IDNA does.
            name = "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54"
            found = await trio.socket.getaddrinfo(name, 80)
            print({address[0] for *_, address in found} <= {"127.0.0.1", "::1"}, "idna" in sys.modules)
        trio.run(main)
        """,
    )
    assert said == "True True\n"


def test_the_real_modules_can_be_imported_afterwards():
    said = _python(
        STARTED,
        """
        import ctypes, ctypes.util, idna, os, subprocess
        print(ctypes.CDLL(None).getpid() == os.getpid(), bool(ctypes.util.find_library("c")))
        print(idna.encode("b\u00fccher.example").decode())
        print(subprocess.run([sys.executable, "-c", ""]).returncode)
        print({type(each).__name__ for each in (ctypes, ctypes.util, idna, subprocess)})
        """,
    )
    assert said == "True True\nxn--bcher-kva.example\n0\n{'module'}\n"


@pytest.mark.parametrize("name", ["ctypes", "ctypes.util", "idna", "subprocess"])
def test_what_is_there_already_stays(name):
    said = _python(
        f"import {name}, sys\nbefore = sys.modules[{name!r}]",
        STARTED,
        f"print(sys.modules[{name!r}] is before, trio.__version__ > '0')",
    )
    assert said == "True True\n"


def test_an_agent_that_runs_has_it_so(tmp_path):
    said = _python(
        f"""
        import sys
        from tunnel_agent.cli import main
        sys.stderr = sys.stdout  # that it has not joined
        print(main(["--state-dir", {str(tmp_path / "none")!r}]))
        print("trio" in sys.modules, "ctypes" in sys.modules)
        """
    )
    assert said.splitlines()[-2:] == ["1", "True False"]


def test_a_stand_in_gives_way_to_its_module_once_something_is_asked_of_it(monkeypatch):
    stand_in = _Later("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", stand_in)
    assert not hasattr(stand_in, "__path__")
    assert sys.modules["colorsys"] is stand_in
    assert stand_in.rgb_to_hsv(0, 0, 1) == (2 / 3, 1, 1)
    assert sys.modules["colorsys"].rgb_to_hsv is stand_in.rgb_to_hsv
    assert type(sys.modules["colorsys"]).__name__ == "module"
    with pytest.raises(AttributeError, match="colorsys"):
        stand_in.nothing  # noqa: B018
