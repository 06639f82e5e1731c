"""Record where rb 1.11 places keys, for the tests to compare with.

    python scripts/record_rb_placements.py

builds a virtual environment of its own in a temporary directory, installs rb beside the
redis-py it needs, asks rb's routers for the owners of two thousand keys on clusters of 1 to
64 hosts, and writes tests/engine/data/rb_placements.json. No server is needed: rb's
routers look at keys and host records only. Running it again writes the same file.
"""

from __future__ import annotations

import json
import os
import random
import string
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REQUIREMENTS = ["rb==1.11.0", "redis==4.6.0"]
TARGET = Path(__file__).parent.parent / "tests" / "engine" / "data" / "rb_placements.json"

# A placement is written as one character per key: character i stands for host id i.
DIGITS = string.digits + string.ascii_letters + "+-"

# With 64 hosts from this port on, a point of host 29 meets one of host 46 on rb's ring; the
# digests of the keys below lie right before it.
MEETING_PORT = 28988
MEETING_KEYS = [2721, 11202, 20505]

# One of each thing that rb's host record holds.
MIXED_HOSTS: list[dict[str, object]] = [
    {"host": "10.0.0.1"},
    {"host": "cache.example.com", "port": 6380, "db": 3},
    {"host": "10.0.0.3", "password": "it's a secret"},
    {"host": "10.0.0.4", "password": "pässwörd"},
    {"host": "10.0.0.5", "ssl": True},
    {"host": "10.0.0.6", "ssl": True, "ssl_options": {"ca_certs": "/etc/ca.pem"}},
    {"unix_socket_path": "/run/valkey.sock"},
    {"unix_socket_path": "/run/valkey.sock", "db": 1, "password": "secret"},
]


def make_keys() -> dict[str, list[str] | list[int]]:
    """Return keys by kind, as JSON can hold them."""
    rng = random.Random(11)
    alphabets = [
        string.ascii_letters + string.digits + ":_-./",
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюя ",
        "日本語鍵値集合漢字かなカナ",
        "äöüßéèñçøåœ€£¥",
        "😀🚀🔑🧊é",
    ]
    text = ["", " ", "0", "{user:7}:name", "{user:7}:cart", "{}:empty", "a\n\0b"]
    text += ["0-0-salt", "1-7-salt", "2-39-salt"]  # exactly on a point of the ring of host ids
    text += [f":1:page:{n}" for n in range(600)]
    text += [
        "".join(rng.choices(rng.choice(alphabets), k=rng.randint(1, 24))) for _ in range(600)
    ]
    integers: list[int] = [
        0,
        1,
        -1,
        7,
        -7,
        2**31,
        -(2**31),
        2**63,
        2**64,
        -(2**70),
        *MEETING_KEYS,
    ]
    integers += range(100, 300)
    integers += [rng.randint(-(10**12), 10**12) for _ in range(200)]
    octets = [b"", b"\0", b"\xff\xfe", b"{tag}\xff"]
    octets += [rng.randbytes(rng.randint(1, 16)) for _ in range(380)]
    return {"text": text, "integers": integers, "bytes_hex": [octet.hex() for octet in octets]}


def record() -> dict[str, object]:
    """Return everything the tests compare with; runs where rb is installed."""
    import redis  # noqa: PLC0415
    from rb import Cluster  # noqa: PLC0415
    from rb.ketama import Ketama  # noqa: PLC0415
    from rb.router import ConsistentHashingRouter, PartitionRouter  # noqa: PLC0415

    kinds = make_keys()
    keys = [
        *kinds["text"],
        *kinds["integers"],
        *(bytes.fromhex(str(octets)) for octets in kinds["bytes_hex"]),
    ]

    def placements(router_cls: type, hosts: dict[int, dict[str, object]]) -> str:
        cluster = Cluster(hosts, router_cls=router_cls)
        owners = map(cluster.get_router().get_host_for_key, keys)
        # The ring of rb gives the host's record, the other router its id.
        return "".join(DIGITS[getattr(owner, "host_id", owner)] for owner in owners)

    def local(count: int, port: int = 7100) -> dict[int, dict[str, object]]:
        return {n: {"host": "127.0.0.1", "port": port + n} for n in range(count)}

    def mixed() -> dict[int, dict[str, object]]:
        return {n: dict(host) for n, host in enumerate(MIXED_HOSTS)}

    counts = range(1, 65)
    return {
        "recorded_with": {"rb": "1.11.0", "redis": redis.__version__},
        "digits": DIGITS,
        "keys": kinds,
        "partition": {n: placements(PartitionRouter, local(n)) for n in counts},
        "ring_rb": {n: placements(ConsistentHashingRouter, local(n)) for n in counts},
        # rb's ring class, given the bare host ids.
        "ring_host_ids": {
            n: "".join(DIGITS[owner] for owner in map(Ketama(range(n)).get_node, keys))
            for n in (1, 2, 3, 8, 64)
        },
        "meeting_port": MEETING_PORT,
        "meeting_ring_rb": placements(ConsistentHashingRouter, local(64, MEETING_PORT)),
        "mixed_hosts": MIXED_HOSTS,
        "mixed_ring_rb": placements(ConsistentHashingRouter, mixed()),
    }


def main() -> None:
    """Record in a fresh environment, and write the file."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = str(Path(directory) / ("Scripts" if os.name == "nt" else "bin") / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        command = [python, str(Path(__file__).resolve()), "--inside"]
        recorded = subprocess.run(command, check=True, capture_output=True).stdout
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(recorded)
    print(f"{TARGET.name}: {len(recorded):,} bytes")


if __name__ == "__main__":
    if "--inside" in sys.argv:
        print(json.dumps(record(), indent=0, ensure_ascii=True))
    else:
        main()
