"""Valkey GLIDE's blocking client on a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from glide_sync import (
    ClusterBatch,
    ExpirySet,
    ExpiryType,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    NodeAddress,
)

REQUEST_TIMEOUT = 30_000  # milliseconds


class Glide:
    def __init__(self, hosts: Sequence[tuple[str, int]], prefix: str) -> None:
        self.prefix = f"{prefix}:1:"
        self.client = GlideClusterClient.create(
            GlideClusterClientConfiguration(
                [NodeAddress(host, port) for host, port in hosts],
                request_timeout=REQUEST_TIMEOUT,
            )
        )
        self.expiry = ExpirySet(ExpiryType.SEC, 300)

    def get(self, name: str) -> Any:
        data = self.client.get(f"{self.prefix}{name}")
        return None if data is None else pickle.loads(data)

    def set(self, name: str, value: Any) -> None:
        data = pickle.dumps(value, 5)
        self.client.set(f"{self.prefix}{name}", data, expiry=self.expiry)

    def get_many(self, names: Sequence[str]) -> dict[str, Any]:
        prefix, loads = self.prefix, pickle.loads
        # Quicker than mget(), which makes an MGET for each of up to 16,384 slots.
        batch = ClusterBatch(is_atomic=False)
        for name in names:
            batch.get(f"{prefix}{name}")
        values: Any = self.client.exec(batch, raise_on_error=True)
        return {
            name: loads(data)
            for name, data in zip(names, values, strict=True)
            if data is not None
        }

    def set_many(self, data: Mapping[str, Any]) -> None:
        prefix, dumps = self.prefix, pickle.dumps
        batch = ClusterBatch(is_atomic=False)
        for name, value in data.items():
            batch.set(f"{prefix}{name}", dumps(value, 5), expiry=self.expiry)
        self.client.exec(batch, raise_on_error=True)
