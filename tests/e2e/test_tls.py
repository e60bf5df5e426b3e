"""TLS: which versions, and certificates that are exchanged while the daemon runs."""
import http.client
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from harness import BIN, REQUEST_S, TIME_SCALE, clean_environment, run_threads, scaled

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """{"one", "two"}: (certificate, key), each its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    for name, kind in (("one", ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]), ("two", ["rsa:2048"])):
        subprocess.run(["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "2",
                        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"],
                       check=True, capture_output=True)
    return {name: (folder / f"{name}.crt", folder / f"{name}.key") for name in ("one", "two")}


@pytest.fixture
def files(tmp_path):
    return tmp_path / "server.crt", tmp_path / "server.key"


def install(pair, files):
    """As certificate renewals do it: each file is replaced in one step."""
    for source, target in zip(pair, files):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        fresh.rename(target)


@pytest.fixture
def secure(daemons, pairs, files):
    install(pairs["one"], files)
    return daemons(security_tls_cert=files[0], security_tls_key=files[1])


def trusting(*certificates):
    context = ssl.create_default_context()
    for path in certificates:
        context.load_verify_locations(path)
    return context


def connect(daemon, context):
    return http.client.HTTPSConnection("127.0.0.1", daemon.port, timeout=REQUEST_S, context=context)


def ask(connection):
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.status == 200 and b"ok" in answer.read()


def shown_to(daemon):
    """The name in the certificate that a new client gets."""
    pem = ssl.get_server_certificate(("127.0.0.1", daemon.port), timeout=REQUEST_S)
    done = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, text=True, check=True,
                          capture_output=True)
    return done.stdout.strip().rsplit("= ", 1)[-1]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_current_versions_are_served(secure, files, version):
    context = trusting(files[0])
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    connection = connect(secure, context)
    ask(connection)
    assert connection.sock.version() == version.replace("_", ".")
    ask(connection)
    connection.close()


def shake_hands_in_memory(client, server):
    """The version that both agree on; an SSLError if there is none."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(5):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ends[0].version()


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_are_refused(secure, files, version):
    client, lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = client.maximum_version = getattr(ssl.TLSVersion, version)
    lenient.minimum_version = ssl.TLSVersion.TLSv1
    lenient.load_cert_chain(*files)
    for context in (client, lenient):
        context.set_ciphers("ALL:@SECLEVEL=0")
    assert shake_hands_in_memory(client, lenient) == version.replace("_", ".")  # this side would do it
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(connect(secure, client))


def test_text_on_the_tls_port_and_tls_cut_short_do_no_harm(secure, files):
    for data in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" * 100, b""):
        with socket.create_connection(("127.0.0.1", secure.port), REQUEST_S) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
            except OSError:  # reset, or gone before our end was sent
                pass
    ask(connect(secure, trusting(files[0])))


def test_sighup_exchanges_the_certificate_and_open_connections_stay(secure, pairs, files):
    both = trusting(pairs["one"][0], pairs["two"][0])
    old = connect(secure, both)
    ask(old)
    assert shown_to(secure) == "one"
    install(pairs["two"], files)
    assert shown_to(secure) == "one"  # not before it is told to
    secure.reload()
    assert shown_to(secure) == "two"
    ask(connect(secure, trusting(pairs["two"][0])))
    ask(old)
    old.close()
    install(pairs["one"], files)
    secure.reload()
    assert shown_to(secure) == "one"


def test_a_certificate_that_cannot_be_used_leaves_the_old_one(secure, pairs, files):
    def broken():
        yield lambda: install((pairs["two"][0], pairs["one"][1]), files)  # not a pair
        yield lambda: files[0].write_text("no certificate")
        yield lambda: files[0].write_bytes(b"")
        yield lambda: files[1].unlink()

    for number, damage in enumerate(broken(), 1):
        install(pairs["one"], files)
        damage()
        secure.reload()
        assert secure.log().count("the TLS certificate stays as it is: ") == number
        assert shown_to(secure) == "one"
    install(pairs["two"], files)
    secure.reload()
    assert shown_to(secure) == "two"


@pytest.mark.limit(120)
def test_handshakes_while_certificates_are_exchanged_all_succeed(secure, pairs, files):
    both = trusting(pairs["one"][0], pairs["two"][0])
    rounds, done = scaled(20, 5), threading.Event()
    counted, count = threading.Condition(), [0]

    def client():
        while not done.is_set():
            connection = connect(secure, both)
            ask(connection)
            connection.close()
            with counted:
                count[0] += 1
                counted.notify_all()

    def exchange():
        try:
            for i in range(rounds):
                install(pairs["two" if i % 2 == 0 else "one"], files)
                secure.reload()
                with counted:  # all of them once, and one of them begun behind the exchange
                    goal = count[0] + 4
                    assert counted.wait_for(lambda goal=goal: count[0] >= goal, REQUEST_S)
        finally:
            done.set()

    run_threads([client, client, client, exchange])
    print(f"{count[0]} handshakes, {rounds} certificates")


def test_a_pair_that_does_not_fit_refuses_to_start(tmp_path, pairs):
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    for cert, key, words in ((pairs["one"][0], pairs["two"][1], "cannot be used"),
                             (pairs["one"][1], pairs["one"][1], "cannot be used"),
                             (pathlib.Path("/nonexistent"), pairs["one"][1], "tls_cert"),
                             (pairs["one"][0], empty, "tls_key")):
        for check in ([], ["--check-config"]):
            done = subprocess.run(
                [str(BIN), f"--persistence-storage-path={tmp_path}/d", "--server-port=0",
                 f"--security-tls-cert={cert}", f"--security-tls-key={key}", *check], check=False,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20 * TIME_SCALE,
                env=clean_environment())
            assert done.returncode == 78, done
            assert words in done.stderr and "security.tls" in done.stderr
            assert not (tmp_path / "d").exists()
