"""A server that answers ListObjectsV2 and nothing else: pages made once, so that a client's own CPU shows.

python -m tests.bench.pages PAGES    prints {"endpoint"} and serves until interrupted
"""

from __future__ import annotations

import json
import sys
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote_plus, urlsplit

PER_PAGE = 1000
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name><Prefix></Prefix>'
    "<MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><KeyCount>1000</KeyCount>"
)
CONTENTS = (
    "<Contents><Key>{key}</Key><LastModified>2026-03-0{day}T12:{minute:02}:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>{number}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def key(number: int) -> str:
    return f"photos {number // 10_000:04}/2026/{number:010}.jpg"


@cache
def page(index: int, pages: int) -> bytes:
    """Page `index` of `pages`, as AWS writes it."""
    numbers = range(index * PER_PAGE, (index + 1) * PER_PAGE)
    entries = (
        CONTENTS.format(key=quote_plus(key(n), safe="/"), number=n, day=1 + n % 9, minute=n % 60) for n in numbers
    )
    is_last = index == pages - 1
    rest = "" if is_last else f"<NextContinuationToken>{index + 1}</NextContinuationToken>"
    truncated = f"<IsTruncated>{'false' if is_last else 'true'}</IsTruncated>"
    return (HEAD + "".join(entries) + rest + truncated + "</ListBucketResult>").encode()


def index_of(query: dict[str, list[str]]) -> int:
    """Which page a request is for, by token or by the last key of the page before."""
    if token := query.get("continuation-token"):
        return int(token[0])
    if after := query.get("start-after"):
        return int(after[0].rpartition("/")[2].removesuffix(".jpg")) // PER_PAGE + 1
    return 0


def server(pages: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = page(index_of(parse_qs(urlsplit(self.path).query)), pages)
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


if __name__ == "__main__":
    serving = server(int(sys.argv[1]))
    print(json.dumps({"endpoint": f"http://127.0.0.1:{serving.server_port}"}), flush=True)
    serving.serve_forever()
