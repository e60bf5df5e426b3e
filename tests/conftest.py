"""Fixtures of the end-to-end tests: each starts its own daemon in its own directory."""
import faulthandler
import signal

import pytest

import harness
from harness import Daemon  # noqa: F401  (for tests that say `from conftest import Daemon`)

ENGINES = ("persistent", "in-memory")


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): time limit of one test (default 60)")
    faulthandler.enable()


def pytest_report_header():
    build = f"{harness.SANITIZER} build" if harness.SANITIZER else "plain build"
    return f"daemon: {harness.BIN} ({build})"


def pytest_collection_modifyitems(items):
    if not harness.BIN.exists():
        pytest.exit(f"{harness.BIN} is not there: build it, or set JADEVECTORDB_BIN", 2)
    del items


@pytest.fixture(autouse=True)
def time_limit(request):
    """A daemon that hangs must not hang the run."""
    marker = request.node.get_closest_marker("limit")
    seconds = (marker.args[0] if marker else 60) * harness.TIME_SCALE

    def expired(_signal, _frame):
        raise TimeoutError(f"{request.node.name} took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failure shows what the daemons said."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for i, daemon in enumerate(Daemon.every):
            text = "\n".join(daemon.log().splitlines()[-150:])
            report.sections.append((f"log of daemon {i} on {daemon.directory}", text))


def pytest_runtest_logfinish():
    Daemon.every[:] = [daemon for daemon in Daemon.every if daemon.process is not None]


def end(daemons):
    """Stop all; the first that does not stop as it should fails the test."""
    failure = None
    for daemon in daemons:
        try:
            if daemon.process is not None and daemon.process.poll() is not None:
                code = daemon.wait_exit()
                raise AssertionError(f"the daemon ended by itself with {code}")
            daemon.stop()
        except AssertionError as error:
            failure = failure or error
        finally:
            daemon.discard()
    if failure:
        raise failure


@pytest.fixture
def daemons(tmp_path):
    """A factory: daemons(**options) starts a daemon; directory= for one that exists already."""
    made = []

    def make(directory=None, start=True, **options):
        daemon = Daemon(directory or tmp_path / f"data{len(made)}", **options)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    end(made)


@pytest.fixture
def daemon(daemons):
    """A running daemon with the persistent engine and default options."""
    return daemons()


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def kept():
    """The daemons behind any_daemon, by engine: each stop would cost every test 0.1 s."""
    by_engine = {}
    yield by_engine
    end(by_engine.values())


@pytest.fixture
def any_daemon(kept, engine, tmp_path_factory):
    """A running daemon without a database, once with each engine."""
    one = kept.get(engine)
    if one is None:
        one = Daemon(tmp_path_factory.mktemp(engine) / "data", persistence_type=engine).start()
        kept[engine] = one
    for database in one.get("/databases").json()["databases"]:
        one.delete(f"/databases/{database['name']}")
    yield one
    if not one.running():
        del kept[engine]
        end([one])


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory):
    """One daemon for all tests of a file that leave nothing behind or use names of their own."""
    one = Daemon(tmp_path_factory.mktemp("module") / "data").start()
    yield one
    end([one])
