"""An SQS queue of a test's own, on a server that speaks SQS beside S3."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.support.servers import ACCESS_KEY, SECRET, S3Server


class Queue:
    """New and empty."""

    def __init__(self, server: S3Server) -> None:
        import boto3

        endpoint = {"endpoint_url": server.endpoint, "region_name": "us-east-1"}
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET}
        self.client: Any = boto3.client("sqs", **endpoint, **keys)
        self.url = self.client.create_queue(QueueName=f"q-{uuid4().hex}")["QueueUrl"]

    def hear_of(self, bucket: str, s3: Any) -> None:
        """Has the bucket tell this queue what is created and removed in it; `s3` is a client of the same server."""
        arn = self._attributes("QueueArn")["QueueArn"]
        events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": events}]}
        )

    def send(self, body: str) -> None:
        self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> int:
        """Waiting or held by somebody."""
        told = self._attributes("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(map(int, told.values()))

    def _attributes(self, *names: str) -> dict[str, str]:
        told: dict[str, str] = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=[*names])[
            "Attributes"
        ]
        return {name: told[name] for name in names}
