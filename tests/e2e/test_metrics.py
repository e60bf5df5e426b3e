"""Prometheus: every series from the start, well-formed text, counters that move."""
import math
import re
import shutil
import subprocess

import pytest

from harness import TIME_SCALE, clean_environment

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\}})? (\S+)\Z')
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(,|\Z)')


def parse(text):
    """{family: (type, {(name, labels): value})}; fails on anything the format does not allow."""
    assert text.endswith("\n") and "\r" not in text
    families, seen_help, current = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert re.fullmatch(NAME, name) and name not in seen_help, line
            assert len(line.split(" ", 3)) == 4, f"no help text: {line}"
            seen_help.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge", "histogram"), line
            assert name in seen_help and name not in families, f"TYPE before HELP, or twice: {line}"
            families[name], current = (kind, {}), name
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"no sample: {line!r}"
            name, labels, value = match.groups()
            kind, samples = families[current]
            tails = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert name in [current + tail for tail in tails], f"{name} inside {current}"
            pairs = LABEL.findall(labels or "")
            assert ",".join(f'{k}="{v}"' for k, v, _ in pairs) == (labels or ""), line
            assert len({k for k, _, _ in pairs}) == len(pairs), line
            key = (name, tuple((k, v) for k, v, _ in pairs))
            assert key not in samples, f"twice: {line}"
            samples[key] = float(value)
            assert not math.isnan(samples[key]), line
            if kind == "counter":
                assert name.endswith("_total") and samples[key] >= 0, line
    for name, (kind, samples) in families.items():
        assert samples, f"{name} has no sample"
        if kind == "histogram":
            check_histogram(name, samples)
    return families


def check_histogram(name, samples):
    """Buckets are cumulative, end with +Inf, and agree with the count."""
    series = {}
    for (sample, labels), value in samples.items():
        plain = tuple(l for l in labels if l[0] != "le")
        one = series.setdefault(plain, {"buckets": []})
        if sample == name + "_bucket":
            one["buckets"].append((float(dict(labels)["le"].replace("+Inf", "inf")), value))
        else:
            one[sample[len(name) + 1:]] = value
    for labels, one in series.items():
        bounds, counts = zip(*one["buckets"])
        assert list(bounds) == sorted(set(bounds)) and bounds[-1] == math.inf, (name, labels)
        assert list(counts) == sorted(counts), (name, labels)
        assert counts[-1] == one["count"] and one["sum"] >= 0, (name, labels)


def value(families, name, **labels):
    """The sum of the samples of a family whose labels include these."""
    kind, samples = families["jadevectordb_" + name]
    wanted = set(labels.items())
    tail = "_count" if kind == "histogram" else ""
    return sum(v for (sample, has), v in samples.items()
               if sample == "jadevectordb_" + name + tail and wanted <= set(has))


EVER = {
    "gauge": ["flush_duration_ms", "open_files", "max_open_files"],
    "histogram": ["flush_duration_seconds", "http_request_duration_seconds",
                  "search_duration_seconds", "wal_sync_duration_seconds"],
    "counter": ["inserts_total", "deletes_total", "searches_total", "lru_hits_total",
                "lru_misses_total", "lru_evictions_total", "rejected_requests_total",
                "checksum_errors_total"],
}
# The contract names these by what they are.
GAUGES = {"databases": r"databases", "vectors": r"vectors", "bytes": r"(storage_|database_)?bytes|"
          r"(storage|total)_\w*bytes", "WAL bytes": r"wal_bytes", "RSS": r"\w*(rss|resident)\w*",
          "disk free": r"\w*disk\w*free\w*", "build info": r"build_info",
          "pending index work": r"\w*index\w*pending\w*|\w*pending\w*", "scrub progress": r"scrub_\w+"}


def test_every_series_exists_from_the_start(daemons, engine):
    families = parse(daemons(persistence_type=engine).metrics())
    assert all(name.startswith("jadevectordb_") for name in families), list(families)
    for kind, names in EVER.items():
        for name in names:
            assert "jadevectordb_" + name in families, name
            assert families["jadevectordb_" + name][0] == kind, name
    for what, pattern in GAUGES.items():
        found = [n for n, (kind, _) in families.items()
                 if kind == "gauge" and re.fullmatch("jadevectordb_(?:" + pattern + ")", n)]
        assert found, f"no gauge for {what}"
    for name in ("flush_duration_ms", "open_files", "inserts_total", "searches_total",
                 "checksum_errors_total"):
        assert value(families, name) == 0, name
    assert value(families, "max_open_files") == 100


def test_the_content_type_is_that_of_the_text_format(daemon):
    kind = daemon.get("/metrics", root=True).headers["Content-Type"]
    assert kind.startswith("text/plain") and "version=0.0.4" in kind


def test_counters_move_with_what_they_count(daemon):
    before = parse(daemon.metrics())
    daemon.create("x", 2)
    for i in range(5):
        daemon.post("/databases/x/vectors", {"vector_id": i, "data": [i, 0]})
    daemon.put_rows("x", range(5, 15), [[i, 0] for i in range(10)])
    daemon.delete("/databases/x/vectors/0")
    daemon.delete("/databases/x/vectors/1")
    for _ in range(3):
        daemon.search("x", [0, 0])
    daemon.get("/databases/x/vectors/0", 404)
    daemon.post("/storage/flush")
    after = parse(daemon.metrics())

    def moved(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    assert moved("inserts_total") == 15
    assert moved("deletes_total") == 2
    assert moved("searches_total") == 3
    assert moved("search_duration_seconds") == 3
    assert moved("http_request_duration_seconds") >= 13
    assert moved("http_request_duration_seconds", status="404") == 1
    assert moved("http_request_duration_seconds", method="DELETE") == 2
    assert moved("flush_duration_seconds") >= 1
    assert moved("wal_sync_duration_seconds") >= 1
    assert value(after, "flush_duration_ms") > 0
    assert value(after, "open_files") >= 1
    assert value(after, "databases") == 1 and value(after, "vectors") == 13


def test_evictions_hits_and_misses_are_counted(daemons):
    daemon = daemons(persistence_max_open_files=5)
    for i in range(8):
        daemon.create(f"d{i}", 2)
        daemon.post(f"/databases/d{i}/vectors", {"vector_id": 1, "data": [1, 2]})
    for i in range(8):
        daemon.get(f"/databases/d{i}/vectors/1")
        daemon.get(f"/databases/d{i}/vectors/1")
    families, stats = parse(daemon.metrics()), daemon.stats()
    assert value(families, "lru_evictions_total") >= 3
    assert value(families, "lru_hits_total") >= 8
    assert value(families, "lru_misses_total") >= 3
    assert abs(value(families, "lru_evictions_total") - stats["lru_evictions"]) <= 1
    assert value(families, "max_open_files") == 5 >= value(families, "open_files")


def test_labels_are_bounded(daemon):
    """Names, ids and unknown paths of clients do not make series."""
    daemon.create("x", 2)
    parse(daemon.metrics())
    sizes = []
    for turn in range(2):
        for i in range(100):
            daemon.get(f"/databases/x/vectors/{turn}-{i}", 404)
            daemon.get(f"/databases/n{turn}-{i}", 404)
            daemon.get(f"/nothing/{turn}-{i}", 404)
            daemon.request(f"M{turn}{i}", "/databases", 405)
        families = parse(daemon.metrics())
        sizes.append(sum(len(samples) for _, samples in families.values()))
    assert sizes[0] == sizes[1]


def test_promtool_finds_nothing_but_the_guides_own_name(daemon):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian package prometheus)")
    daemon.create("x", 2)
    daemon.search("x", [0, 0])
    done = subprocess.run(["promtool", "check", "metrics"], input=daemon.metrics(), text=True,
                          capture_output=True, timeout=60 * TIME_SCALE, check=False,
                          env=clean_environment())
    complaints = [line for line in (done.stdout + done.stderr).splitlines()
                  if line.strip() and "jadevectordb_flush_duration_ms" not in line]
    assert complaints == []
