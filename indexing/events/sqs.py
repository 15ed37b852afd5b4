"""An SQS queue, ten messages a request. These are no S3 requests: they count in no budget."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from indexing.events.take import Message
from vaulthalla.errors import Refused, VaulthallaError
from vaulthalla.vaults.models import ApiKey

BATCH = 10
# A receive waits for messages up to 20 s on the server's side.
LONGEST_WAIT = 20
RECEIVERS = 8
DEFAULT_REGION = "us-east-1"
_REGION = re.compile(
    r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com|^([a-z0-9-]+)\.queue\.amazonaws\.com"
)
_MISSING = ("NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently")
_DENIED = ("AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What a queue says of itself. `at` is its own clock."""

    at: datetime
    retention: timedelta
    visibility: timedelta
    waiting: int
    in_flight: int


class Queue:
    """One queue as one key reaches it. Its methods may be called from any thread."""

    def __init__(self, url: str, key: ApiKey) -> None:
        self.url = url
        self._client = _client(url, key)

    def state(self) -> QueueState:
        """Raises Refused when it does not exist or is not ours to read."""
        names = ["MessageRetentionPeriod", "VisibilityTimeout", "ApproximateNumberOfMessages"]
        names += ["ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
        with told(self.url):
            answer = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        values = {name: int(answer.get("Attributes", {}).get(name, 0)) for name in names}
        return QueueState(
            at=_date(answer),
            retention=timedelta(seconds=values[names[0]] or 60),
            visibility=timedelta(seconds=values[names[1]]),
            waiting=values[names[2]],
            in_flight=values[names[3]] + values[names[4]],
        )

    def receive(self, *, wait: int = 1) -> list[Message]:
        """Up to ten messages; none only when the queue had none for `wait` seconds."""
        with told(self.url):
            answer = self._client.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=min(wait, LONGEST_WAIT)
            )
        return [
            Message(
                id=found.get("MessageId", ""),
                receipt=found["ReceiptHandle"],
                body=found.get("Body", "").encode(errors="surrogatepass"),
            )
            for found in answer.get("Messages", [])
        ]

    def delete(self, messages: Sequence[Message], pool: ThreadPoolExecutor) -> int:
        """How many could not be deleted: they come again, which changes nothing."""
        batches = [messages[start : start + BATCH] for start in range(0, len(messages), BATCH)]
        return sum(pool.map(self._delete, batches))

    def _delete(self, messages: Sequence[Message]) -> int:
        entries = [{"Id": str(number), "ReceiptHandle": one.receipt} for number, one in enumerate(messages)]
        with told(self.url):
            answer = self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return len(answer.get("Failed", []))


def region_of(url: str, key_region: str) -> str:
    """The queue's URL decides; elsewhere than at AWS, the key's region."""
    found = _REGION.search(urlsplit(url).hostname or "")
    if found:
        return found[1] or found[2]
    return DEFAULT_REGION if key_region in ("", "auto") else key_region


@contextmanager
def told(url: str) -> Iterator[None]:
    """What the client library raises, as an operator should read it."""
    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        code, message = str(said.get("Code", "")), str(said.get("Message", ""))
        if any(part in code for part in _MISSING):
            remedy = "Correct the URL: `aws sqs get-queue-url` shows it."
            raise Refused(f"There is no queue {url}.", code="queue_missing", remedy=remedy) from error
        if any(part in code for part in _DENIED):
            remedy = (
                "Allow the key sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes, or name another: "
                "--api-key KEY."
            )
            raise Refused(f"{url}: {message or code}", code="queue_denied", remedy=remedy) from error
        raise _unavailable(url, message or code) from error
    except BotoCoreError as error:
        raise _unavailable(url, str(error)) from error


def _unavailable(url: str, why: str) -> VaulthallaError:
    remedy = "Nothing was lost: what was not merged is still in the queue. Give the command again."
    return VaulthallaError(f"The queue {url} does not answer: {why}", code="queue_unavailable", remedy=remedy)


def _client(url: str, key: ApiKey) -> Any:
    parts = urlsplit(url)
    own = not key.from_environment
    config = Config(
        connect_timeout=5,
        read_timeout=LONGEST_WAIT + 10,
        max_pool_connections=RECEIVERS,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    return botocore.session.Session().create_client(
        "sqs",
        region_name=region_of(url, key.region),
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        config=config,
        aws_access_key_id=key.access_key if own else None,
        aws_secret_access_key=(key.secret or "") if own else None,
    )


def _date(answer: Any) -> datetime:
    """When the queue answered, by its clock; ours only where it does not say."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not text:
        return datetime.now(UTC)
    moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
