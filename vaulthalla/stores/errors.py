"""botocore's and urllib3's exceptions become ours here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as UnreachableError

from vaulthalla.errors import Refused
from vaulthalla.stores.base import (
    AccessDenied,
    BodyCorrupt,
    BucketMissing,
    NotModified,
    ObjectArchived,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UnexpectedResponse,
    UploadMissing,
)

# The provider does not accept who we are; any other refusal means "known, but not allowed to do this".
CREDENTIAL_CODES = frozenset(
    {
        "401",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "NoCredentials",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "Unauthorized",
    }
)

BY_CODE: dict[str, type[StoreError]] = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "404", "NotFound"), ObjectMissing),
    **dict.fromkeys(("304", "NotModified"), NotModified),
    "NoSuchBucket": BucketMissing,
    "NoSuchUpload": UploadMissing,
    # OperationAborted: another write of the same key is under way, which is the same news.
    **dict.fromkeys(
        ("PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted"), PreconditionFailed
    ),
    "InvalidObjectState": ObjectArchived,
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull", "StorageQuotaExceeded", "507"), StoreFull),
    **dict.fromkeys(
        (
            "BadDigest",
            "ChecksumMismatch",
            "ContentSHA256Mismatch",
            "IncompleteBody",
            "InvalidDigest",
            "XAmzContentChecksumMismatch",
            "XAmzContentSHA256Mismatch",
        ),
        BodyCorrupt,
    ),
    **dict.fromkeys(CREDENTIAL_CODES, AccessDenied),
    **dict.fromkeys(
        (
            "SlowDown",
            "RequestTimeout",
            "RequestTimeoutException",
            "Throttling",
            "TooManyRequests",
            "RequestLimitExceeded",
        ),
        StoreUnavailable,
    ),
}
BY_STATUS: dict[int, type[StoreError]] = {
    304: NotModified,
    401: AccessDenied,
    403: AccessDenied,
    404: ObjectMissing,
    412: PreconditionFailed,
    429: StoreUnavailable,
    501: UnexpectedResponse,
    507: StoreFull,
}
CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    NoAuthTokenError,
    TokenRetrievalError,
)
CUT_SHORT = (
    IncompleteReadError,
    ResponseStreamingError,
    urllib3.exceptions.ProtocolError,  # includes IncompleteRead
)
NO_ANSWER = (
    HTTPClientError,
    UnreachableError,
    urllib3.exceptions.HTTPError,
)


@contextmanager
def translated(what: str = "") -> Iterator[None]:
    """Raises StoreError for anything the client library raises inside the block."""
    try:
        yield
    except ClientError as error:
        raise from_answer(error, what) from error
    except CREDENTIAL_ERRORS as error:
        raise AccessDenied(str(error), provider_code="NoCredentials") from error
    except CUT_SHORT as error:
        raise StoreUnavailable(_said(what, f"the answer was cut short: {error}")) from error
    except NO_ANSWER as error:
        raise StoreUnavailable(_said(what, str(error))) from error
    except BotoCoreError as error:
        raise UnexpectedResponse(_said(what, str(error))) from error
    except ValueError as error:
        if "nvalid endpoint" not in str(error):
            raise
        raise Refused(str(error), remedy="Correct the endpoint: https://host or http://host:port.") from error


def from_answer(error: ClientError, what: str = "") -> StoreError:
    """The provider's answer, by its code first and its status second."""
    said = error.response.get("Error", {})
    code = str(said.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return kind_of(code, status)(
        _said(what, f"{said.get('Message') or code} ({code}, {status})"),
        provider_code=code,
        observed_at=parsedate_to_datetime(date) if date else None,
    )


def kind_of(code: str, status: int) -> type[StoreError]:
    other = StoreUnavailable if status >= 500 else UnexpectedResponse
    return BY_CODE.get(code) or BY_STATUS.get(status, other)


def _said(what: str, text: str) -> str:
    return f"{what}: {text}" if what else text
