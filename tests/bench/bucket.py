"""python -m tests.bench.bucket ENDPOINT NAME makes a bucket. In a process of its own: boto3 is large."""

from __future__ import annotations

import json
import sys
from urllib.parse import urlsplit

from tests.support.servers import S3Server


def main(endpoint: str, name: str) -> None:
    S3Server("roto", port=urlsplit(endpoint).port or 0).create_bucket(name)
    print(json.dumps({"bucket": name}))


if __name__ == "__main__":
    main(*sys.argv[1:])
