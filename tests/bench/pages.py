"""A server that answers ListObjectsV2 and nothing else: pages made once, so that a client's own CPU shows.

python -m tests.bench.pages PAGES [SECONDS]    prints {"endpoint"} and serves until interrupted, each answer so late
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote_plus, urlsplit

PER_PAGE = 1000
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name><Prefix></Prefix>'
    "<MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><KeyCount>1000</KeyCount>"
)
EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
CONTENTS = (
    "<Contents><Key>{key}</Key><LastModified>2026-03-0{day}T12:{minute:02}:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>{number}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def key(number: int) -> str:
    return f"photos {number // 10_000:04}/2026/{number:010}.jpg"


@cache
def page(first: int, pages: int) -> bytes:
    """The page that begins with object `first` of `pages` full pages, as AWS writes it."""
    end = min(first + PER_PAGE, pages * PER_PAGE)
    entries = (
        CONTENTS.format(key=quote_plus(key(n), safe="/"), number=n, day=1 + n % 9, minute=n % 60)
        for n in range(first, end)
    )
    is_last = end == pages * PER_PAGE
    rest = "" if is_last else f"<NextContinuationToken>{end}</NextContinuationToken>"
    truncated = f"<IsTruncated>{'false' if is_last else 'true'}</IsTruncated>"
    return (HEAD + "".join(entries) + rest + truncated + "</ListBucketResult>").encode()


def first_of(query: dict[str, list[str]]) -> int:
    """The object a page begins with, by token or by the key before it."""
    if token := query.get("continuation-token"):
        return int(token[0])
    if after := query.get("start-after"):
        return int(after[0].rpartition("/")[2].removesuffix(".jpg")) + 1
    return 0


def server(pages: int, late: float = 0) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(late)
            query = parse_qs(urlsplit(self.path).query)
            # Nothing is below any prefix.
            body = EMPTY if "prefix" in query else page(first_of(query), pages)
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


if __name__ == "__main__":
    serving = server(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(json.dumps({"endpoint": f"http://127.0.0.1:{serving.server_port}"}), flush=True)
    serving.serve_forever()
