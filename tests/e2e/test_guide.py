"""The migration guide's own tests, as the guide prints them.

Changed from the text: the test's port for 8080, its data directory for /var/lib/jadevectordb/data,
its process id for $(pgrep jadevectordb), SIGTERM and a start for `systemctl restart`, and the 128
numbers written out where the guide prints `...`.  Unless JADEVECTORDB_SLOW=1, one python makes all
random vectors beforehand instead of one python per vector.
"""
import json
import re
import subprocess

import pytest

from harness import SANITIZER, SLOW, TIME_SCALE, clean_environment

TEST_1 = """
# Create database
curl -X POST http://localhost:8080/api/v1/databases/test_db \\
  -H "Content-Type: application/json" \\
  -d '{"dimension": 128, "distance_metric": "cosine"}'

# Store vector
curl -X POST http://localhost:8080/api/v1/databases/test_db/vectors \\
  -H "Content-Type: application/json" \\
  -d '{
    "vector_id": 1,
    "data": [0.1, 0.2, ...],  # 128 dimensions
    "metadata": {"label": "test"}
  }'

# Retrieve vector
curl http://localhost:8080/api/v1/databases/test_db/vectors/1

# Verify .jvdb file created
ls -lh /var/lib/jadevectordb/data/test_db.jvdb
"""

TEST_2 = r"""
# Store 100 vectors
for i in {1..100}; do
  curl -X POST http://localhost:8080/api/v1/databases/test_db/vectors \
    -H "Content-Type: application/json" \
    -d "{\"vector_id\": $i, \"data\": $(python3 -c "import random; print([random.random() for _ in range(128)])"), \"metadata\": \"{}\"}"
done

# Manually flush
curl -X POST http://localhost:8080/api/v1/storage/flush

# Restart server
sudo systemctl restart jadevectordb

# Verify vectors survived restart
for i in {1..100}; do
  curl -s http://localhost:8080/api/v1/databases/test_db/vectors/$i | jq -e '.data' > /dev/null
  if [ $? -ne 0 ]; then
    echo "Vector $i missing after restart!"
    exit 1
  fi
done

echo "✓ All vectors persisted across restart"
"""

TEST_3 = r"""
# Create 150 databases (exceeds default max_open_files=100)
for i in {1..150}; do
  curl -X POST http://localhost:8080/api/v1/databases/db_$i \
    -H "Content-Type: application/json" \
    -d '{"dimension": 64, "distance_metric": "euclidean"}'
  
  # Store 10 vectors in each
  for j in {1..10}; do
    curl -X POST http://localhost:8080/api/v1/databases/db_$i/vectors \
      -H "Content-Type: application/json" \
      -d "{\"vector_id\": $j, \"data\": $(python3 -c "import random; print([random.random() for _ in range(64)])"), \"metadata\": \"{}\"}"
  done
done

# Check open files (should be <= max_open_files)
open_files=$(lsof -p $(pgrep jadevectordb) | grep "\.jvdb" | wc -l)
echo "Open .jvdb files: $open_files (should be <= 100)"

# Access all databases - should work despite LRU eviction
for i in {1..150}; do
  count=$(curl -s http://localhost:8080/api/v1/databases/db_$i/stats | jq '.vector_count')
  if [ "$count" != "10" ]; then
    echo "Database db_$i has incorrect count: $count"
    exit 1
  fi
done

echo "✓ LRU eviction working correctly"
"""

INTEGRITY = """
# test_integrity.py
import requests
import numpy as np

def test_data_integrity():
    base_url = "http://localhost:8080/api/v1"
    db_name = "integrity_test"
    
    # Create database
    requests.post(f"{base_url}/databases/{db_name}", json={
        "dimension": 128,
        "distance_metric": "cosine"
    })
    
    # Store 1000 vectors with known data
    stored_vectors = {}
    for i in range(1000):
        vec = np.random.rand(128).tolist()
        stored_vectors[i] = vec
        
        requests.post(f"{base_url}/databases/{db_name}/vectors", json={
            "vector_id": i,
            "data": vec,
            "metadata": f'{{"index": {i}}}'
        })
    
    # Flush to ensure durability
    requests.post(f"{base_url}/storage/flush")
    
    # Restart server (manual step)
    input("Restart server and press Enter to continue...")
    
    # Retrieve and validate all vectors
    errors = 0
    for i in range(1000):
        response = requests.get(f"{base_url}/databases/{db_name}/vectors/{i}")
        retrieved = response.json()["data"]
        
        # Check if vectors match (within floating point tolerance)
        if not np.allclose(stored_vectors[i], retrieved, rtol=1e-5):
            errors += 1
            print(f"Mismatch at vector {i}")
    
    print(f"Data integrity test: {1000 - errors}/1000 vectors correct")
    return errors == 0

if __name__ == "__main__":
    assert test_data_integrity(), "Data integrity test failed!"
    print("✓ Data integrity test passed")
"""

RESTORE = r"""
# Restore each database using API
for db in $(jq -r '.databases[].name' /backup/databases.json); do
  echo "Restoring database: $db"
  curl -X POST http://localhost:8080/api/v1/databases/$db/restore \
    -H "Content-Type: application/json" \
    -d @/backup/$db.json
done
"""

VALIDATION = r"""
# Verify database count
curl http://localhost:8080/api/v1/databases | jq '.databases | length'

# Verify vector counts
for db in $(curl -s http://localhost:8080/api/v1/databases | jq -r '.databases[].name'); do
  count=$(curl -s http://localhost:8080/api/v1/databases/$db/stats | jq '.vector_count')
  echo "$db: $count vectors"
done

# Check storage statistics
curl http://localhost:8080/api/v1/storage/stats | jq .
"""

NUMBERS_128 = ", ".join(f"{(i + 1) / 10:.1f}" for i in range(128))
PYTHON = re.compile(
    r'\$\(python3 -c "import random; print\(\[random\.random\(\) for _ in range\((\d+)\)\]\)"\)')


def fitted(daemon, text):
    return (text.replace("localhost:8080", f"localhost:{daemon.port}")
            .replace("/var/lib/jadevectordb/data", str(daemon.directory))
            .replace("$(pgrep jadevectordb)", str(daemon.pid))
            .replace('[0.1, 0.2, ...],  # 128 dimensions', f"[{NUMBERS_128}],")
            .replace("$(python3 -c", "$(/usr/bin/python3 -c"))


def with_vectors_made_beforehand(text, count, dimension):
    """The same commands, the vectors from an array instead of a python process each."""
    text, places = PYTHON.subn(r"${vectors[next++ % ${#vectors[@]}]}", text)
    assert places == 1
    return f"""
mapfile -t vectors < <(/usr/bin/python3 -c "import random
for _ in range({count}): print([random.random() for _ in range({dimension})])")
next=0
""" + text


def bash(script, timeout=240, env=None):
    done = subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout * TIME_SCALE, env=clean_environment(env),
                          check=False)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-500:]}"
    return done.stdout


def guide_test_1(daemon):
    return bash(fitted(daemon, TEST_1))


def test_guide_test_1_basic_operations(daemon):
    out = guide_test_1(daemon)
    assert "error" not in out
    assert '"label"' in out and f"{daemon.directory}/test_db.jvdb" in out
    row = daemon.get("/databases/test_db/vectors/1").json()
    assert row["data"] == [float(x) for x in NUMBERS_128.split(", ")]
    assert row["metadata"] == {"label": "test"}


@pytest.mark.limit(180)
def test_guide_test_2_restart_persistence(daemon):
    guide_test_1(daemon)
    text = TEST_2 if SLOW else with_vectors_made_beforehand(TEST_2, 100, 128)
    before, after = text.split("sudo systemctl restart jadevectordb")
    out = bash(fitted(daemon, before))
    assert '"error"' not in out
    assert daemon.count("test_db") == 100
    daemon.restart()
    assert "All vectors persisted across restart" in bash(fitted(daemon, after))


@pytest.mark.limit(600)
def test_guide_test_3_lru_eviction(daemon):
    databases = 30 if SANITIZER and not SLOW else 150
    limit = 100 if databases == 150 else 20
    if limit != 100:
        daemon.restart(persistence_max_open_files=limit)
    text = TEST_3.replace("{1..150}", f"{{1..{databases}}}")
    text = text if SLOW else with_vectors_made_beforehand(text, 100, 64)
    out = bash(fitted(daemon, text), timeout=500)
    assert '"error"' not in out
    assert "LRU eviction working correctly" in out
    open_files = int(re.search(r"Open \.jvdb files: (\d+) ", out).group(1))
    print(f"open .jvdb files with {databases} databases: {open_files}")
    assert 0 < open_files <= limit
    stats = daemon.stats()
    assert stats["total_databases"] == databases
    assert stats["total_vectors"] == 10 * databases
    assert stats["open_files"] <= limit == stats["max_open_files"]
    assert stats["lru_evictions"] >= databases - limit


@pytest.mark.limit(180)
def test_guide_python_integrity_test(daemon, tmp_path):
    script = tmp_path / "test_integrity.py"
    script.write_text(fitted(daemon, INTEGRITY))
    child = subprocess.Popen(["/usr/bin/python3", "-u", str(script)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env=clean_environment())
    try:
        said = b""
        while b"press Enter to continue..." not in said:
            piece = child.stdout.read1(4096)
            assert piece, said.decode()
            said += piece
        daemon.restart()
        said += child.communicate(b"\n", timeout=120 * TIME_SCALE)[0]
    finally:
        child.kill()
        child.wait()
    assert "1000/1000 vectors correct" in said.decode()
    assert "Data integrity test passed" in said.decode()
    assert child.returncode == 0


@pytest.mark.limit(120)
def test_guide_restore_by_curl_and_validation(daemons, tmp_path):
    """Step 6 option B from a dump made by step 1 option B, then step 7."""
    old = daemons()
    for name, dimension in (("alpha", 4), ("beta", 8), ("empty", 3)):
        old.create(name, dimension, "cosine", description="of " + name)
    for i in range(30):
        old.post("/databases/alpha/vectors",
                 {"vector_id": i, "data": [i + 0.5, 1, 2, 3], "metadata": {"i": i}})
    old.post("/databases/beta/vectors", {"vector_id": "s", "data": [0.1] * 8, "metadata": "{}"})
    backup = tmp_path / "backup"
    backup.mkdir()
    bash(f"""cd {backup}
curl -X POST http://localhost:{old.port}/api/v1/export \\
  -H "Content-Type: application/json" \\
  -d '{{"format": "json", "output": "/backup/snapshot.json"}}' \\
  -o {backup}/databases.json
for db in $(jq -r '.databases[].name' databases.json); do
  jq ".databases[] | select(.name == \\"$db\\")" databases.json > $db.json
done""")
    dump = json.loads((backup / "databases.json").read_text())
    assert sorted(d["name"] for d in dump["databases"]) == ["alpha", "beta", "empty"]

    new = daemons()
    text = fitted(new, RESTORE).replace("/backup/", f"{backup}/")
    out = bash(text)
    assert '"error"' not in out
    assert out.count("Restoring database: ") == 3
    for name in ("alpha", "beta", "empty"):
        assert new.rows(name) == old.rows(name)

    out = bash(fitted(new, VALIDATION))
    assert out.startswith("3\n")
    for line in ("alpha: 30 vectors", "beta: 1 vectors", "empty: 0 vectors"):
        assert line in out
    stats = json.loads(out[out.index("{"):])
    assert stats["total_databases"] == 3
    assert stats["total_vectors"] == 31
    assert stats["total_bytes"] > 0
    assert stats["open_files"] >= 3
