"""A vector read back is bit-identical to the float32 that was written."""
import base64
import json
import random

import numpy as np
import pytest

from harness import b64, nearest_float32

FLT_MAX = "340282346638528859811704183484516925440"
FLT_MIN = "1.17549435082228750796873653722224567781866555677209e-38"
DENORM = "1.40129846432481707092372958328991613128026194187652e-45"


def pattern(values):
    return np.asarray(values, "<u4").view("<f4")


def tricky_texts():
    """Number texts as clients may write them, with what is hard to round among them."""
    texts = ["0", "-0", "0.0", "-0.0", "-0e5", "0e-999", "1", "-1", "10", "1e0", "1E0", "1e+0",
             "1.0e1", "123456789", "16777216", "16777217", "16777219", "33554433", "9007199254740993",
             "18446744073709551615", "18446744073709551616", "100000000000000000000000000000000000000",
             "0.1", "0.2", "0.3", "0.1e1", "3.4028235e38", "-3.4028235e38", "3.4028234e38",
             "1.17549435e-38", "1.1754942e-38", "1.4e-45", "1e-45", "7e-46", "7.1e-46", "-1e-46",
             "1e-50", "-1e-400", "1e-5000", FLT_MAX, FLT_MAX + ".0", "-" + FLT_MAX, FLT_MIN, DENORM,
             "0." + "0" * 44 + "14", "0." + "0" * 400 + "1", "1" + "0" * 38, "12345678901234567890e-10",
             "0.00000000000000000000000000000000000000000000070064923216240853546186479164495807",
             "0.00000000000000000000000000000000000000000000070064923216240853546186479164495806",
             "1." + "0" * 700 + "1", "1." + "9" * 700, "4e-45", "5e-324", "2.2250738585072014e-308"]
    # Around and on the midpoints between neighbours: short, 17 digits, and to the last digit.
    rng = random.Random(20261120)
    mantissas = [0, 1, 2, 0x7ffffe, 0x7fffff] + [rng.randrange(1 << 23) for _ in range(6)]
    for exponent in (0, 1, 2, 60, 100, 126, 127, 128, 150, 151, 200, 253, 254):
        for mantissa in mantissas:
            low = float(pattern([exponent << 23 | mantissa])[0])
            step = 2.0 ** (max(exponent, 1) - 127 - 24)  # half of the distance to the neighbour
            middle = low + step  # exact in float64
            digits = exact_decimal(middle)
            texts += [repr(middle), f"{middle:.16e}", f"{middle:.8e}", digits, "-" + digits,
                      digits + "0" * 30 + "1", just_below(digits), f"{low:.17g}", f"{low:.9g}"]
    return [t for t in texts if nearest_float32(t) is not None]


def exact_decimal(value):
    """All digits of a float64, no exponent."""
    text = f"{value:.1100f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def just_below(digits):
    """A decimal a very little below `digits` (which ends in a digit that is not 0, or in .0)."""
    whole, _, fraction = digits.partition(".")
    number = int(whole + fraction + "0" * 20) - 1
    text = str(number).rjust(len(fraction) + 21, "0")
    return text[:-(len(fraction) + 20)] + "." + text[-(len(fraction) + 20):]


def tricky_patterns(dimension):
    """Rows of bit patterns: every class, both signs, then random ones."""
    edge = [0, 1, 2, 0x7fffff, 0x800000, 0x800001, 0x3f800000, 0x3f7fffff, 0x3f800001, 0x7f7fffff,
            0x7f7ffffe, 0x4b000000, 0x4b7fffff, 0x4b800000, 0x4f000000, 0x5f000000, 0x00400000]
    powers = [e << 23 for e in range(255)] + [(e << 23) - 1 for e in range(1, 256)]
    values = edge + powers
    values += [v | 0x80000000 for v in values]
    rng = np.random.default_rng(7)
    random_ones = rng.integers(0, 1 << 32, 12 * dimension, dtype=np.uint32)
    denormals = rng.integers(0, 1 << 23, 2 * dimension, dtype=np.uint32)
    every = np.concatenate([np.array(values, np.uint32), random_ones, denormals])
    every = every[(every & 0x7f800000) != 0x7f800000]  # the finite ones
    return pattern(every[:len(every) // dimension * dimension]).reshape(-1, dimension)


def numbers_in(text):
    """The JSON document, its numbers left as text."""
    return json.loads(text, parse_float=str, parse_int=str)


def from_text(numbers):
    return np.array([nearest_float32(t) for t in numbers], "<f4").tobytes()


def significant(text):
    digits = text.lstrip("-").lower().split("e")[0].replace(".", "")
    return len(digits.strip("0")) or 1


class Reader:
    """Every way to read rows; each gives {id: bytes}."""

    def __init__(self, daemon, name, ids):
        self.daemon, self.name, self.ids = daemon, name, ids

    def one_by_one(self):
        return {i: from_text(numbers_in(
            self.daemon.get(f"/databases/{self.name}/vectors/{i}").text)["data"]) for i in self.ids}

    def by_ordinary_json(self):
        """As a Python client reads it: a float64 from the text, then a float32."""
        return {i: np.array(self.daemon.get(f"/databases/{self.name}/vectors/{i}").json()["data"],
                            np.float64).astype("<f4").tobytes() for i in self.ids}

    def base64(self):
        found = {}
        for i in self.ids:
            row = self.daemon.get(f"/databases/{self.name}/vectors/{i}?encoding=base64").json()
            text = row["data_base64"] if "data_base64" in row else row["data"]
            found[i] = base64.b64decode(text)
        return found

    def listing(self):
        page = numbers_in(self.daemon.get(
            f"/databases/{self.name}/vectors?limit=10000&include=data,metadata").text)
        return {int(row["vector_id"]): from_text(row["data"]) for row in page["vectors"]}

    def search(self):
        dimension = self.daemon.get(f"/databases/{self.name}").json()["dimension"]
        body = {"data": [0] * dimension, "top_k": 10000, "include": ["data"]}
        answer = numbers_in(self.daemon.post(f"/databases/{self.name}/search", body).text)
        return {int(row["vector_id"]): from_text(row["data"]) for row in answer["results"]}

    def export(self):
        dump = numbers_in(self.daemon.post("/export",
                                           {"format": "json", "databases": [self.name]}).text)
        return {int(row["id"]): from_text(row["data"]) for row in dump["databases"][0]["vectors"]}


WAYS = ("one_by_one", "by_ordinary_json", "base64", "listing", "search", "export")


def check_all_ways(daemon, name, want):
    for way in WAYS:
        got = getattr(Reader(daemon, name, list(want)), way)()
        assert set(got) == set(want), way
        for i, row in want.items():
            if got[i] != row:
                a, b = np.frombuffer(row, "<u4"), np.frombuffer(got[i], "<u4")
                at = int(np.flatnonzero(a != b)[0]) if len(a) == len(b) else -1
                raise AssertionError(f"{way}: row {i}, number {at}: wrote {a[at]:#010x},"
                                     f" read {b[at]:#010x}")


def write_texts(daemon, name, dimension):
    """Rows of number texts as JSON; {id: bytes}."""
    texts = tricky_texts()
    texts += ["1"] * (-len(texts) % dimension)
    want = {}
    for i in range(0, len(texts), dimension):
        some = texts[i:i + dimension]
        body = f'{{"vector_id": {i}, "data": [{", ".join(some)}]}}'
        daemon.request("POST", f"/databases/{name}/vectors", 201, data=body.encode(),
                       headers={"Content-Type": "application/json"})
        want[i] = from_text(some)
    return want


@pytest.mark.limit(120)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_every_finite_float32_reads_back_bit_identical(any_daemon, engine, metric):
    daemon, dimension = any_daemon, 64
    daemon.create("bits", dimension, metric)
    want = write_texts(daemon, "bits", dimension)
    rows = tricky_patterns(dimension)
    half = len(rows) // 2
    for i, row in enumerate(rows):
        want[10**6 + i] = row.tobytes()
    # One half as base64, the other as numbers with 9, with 17 and with all digits.
    daemon.put_rows("bits", range(10**6, 10**6 + half), rows[:half])
    form = [lambda x: f"{x:.9g}", lambda x: f"{float(x):.17g}", repr, exact_decimal]
    vectors = []
    for i in range(half, len(rows)):
        numbers = ",".join(form[i % 4](float(x)) for x in rows[i])
        vectors.append(f'{{"vector_id":{10**6 + i},"data":[{numbers}]}}')
    body = f'{{"vectors":[{",".join(vectors)}]}}'
    daemon.request("POST", "/databases/bits/vectors/batch", (200, 201), data=body.encode(),
                   headers={"Content-Type": "application/json"})
    check_all_ways(daemon, "bits", want)
    if engine == "persistent":
        daemon.restart()
        check_all_ways(daemon, "bits", want)
        daemon.restart(kill=True)
        check_all_ways(daemon, "bits", want)


def test_numbers_are_printed_with_the_fewest_digits_that_round_trip(daemon):
    rows = tricky_patterns(128)
    daemon.create("short", 128)
    daemon.put_rows("short", range(len(rows)), rows)
    page = numbers_in(daemon.get("/databases/short/vectors?limit=1000&include=data").text)
    assert len(page["vectors"]) == len(rows)
    for stored in page["vectors"]:
        for text, value in zip(stored["data"], rows[int(stored["vector_id"])]):
            fewest = significant(np.format_float_scientific(value, unique=True, trim="-"))
            assert significant(text) <= fewest, f"{text} for {value!r}"


def test_minus_zero_is_printed_so_that_python_keeps_its_sign(any_daemon):
    any_daemon.create("zero", 2)
    any_daemon.put_rows("zero", [1], np.array([[-0.0, 0.0]]))
    row = any_daemon.get("/databases/zero/vectors/1").json()["data"]
    assert np.signbit(np.array(row, np.float64)).tolist() == [True, False]


@pytest.mark.parametrize("text", [
    "1e39", "-1e39", "3.5e38", "1e400", "-1e5000", "340282356779733661637539395458142568448",
    "340282356779733661637539395458142568448.0", "1" + "0" * 39, "NaN", "nan", "Infinity",
    "-Infinity", "inf", "-inf"])
def test_what_is_not_a_finite_float32_is_refused(module_daemon, text):
    """340282356779733661637539395458142568448 lies halfway to 2^128: ties go to even, too far."""
    daemon = module_daemon
    daemon.put("/databases/finite", {"dimension": 2, "distance_metric": "euclidean"})
    for path, body in (("vectors", f'{{"vector_id": 1, "data": [0, {text}]}}'),
                       ("vectors/batch", f'{{"vectors": [{{"vector_id": 1, "data": [0, {text}]}}]}}'),
                       ("search", f'{{"data": [0, {text}]}}')):
        answer = daemon.request("POST", f"/databases/finite/{path}", 400, data=body.encode(),
                                headers={"Content-Type": "application/json"})
        codes = ("invalid_vector", "invalid_json")[:1 + text.lstrip("-").startswith(("n", "i"))]
        assert answer.json()["error"]["code"] in codes, (path, answer.text)
    assert daemon.count("finite") == 0


def test_the_largest_number_below_the_overflow_is_accepted(any_daemon):
    any_daemon.create("max", 1)
    any_daemon.request("POST", "/databases/max/vectors", 201,
                       data=b'{"vector_id": 1, "data": [340282356779733661637539395458142568447.9]}',
                       headers={"Content-Type": "application/json"})
    assert any_daemon.get("/databases/max/vectors/1?encoding=base64").json()
    assert any_daemon.rows("max")[1][0] == pattern([0x7f7fffff]).tobytes()


@pytest.mark.parametrize("value", [0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff])
def test_base64_that_holds_no_finite_number_is_refused(module_daemon, value):
    daemon = module_daemon
    daemon.put("/databases/finite", {"dimension": 2, "distance_metric": "euclidean"})
    body = {"vector_id": 1, "data_base64": b64(pattern([0, value]))}
    for path, wrapped in (("vectors", body), ("vectors/batch", {"vectors": [body]}),
                          ("search", {"data_base64": body["data_base64"]})):
        answer = daemon.post(f"/databases/finite/{path}", wrapped, 400)
        assert answer.json()["error"]["code"] == "invalid_vector"
