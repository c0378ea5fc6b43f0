"""Make the buckets named as arguments, where they are missing.

Address and key come from the variables that boto3 knows: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY.
"""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def main(names: list[str]) -> int:
    """Make the buckets; returns the exit code."""
    client = boto3.client("s3", config=Config(connect_timeout=5, read_timeout=30))
    try:
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in names:
            if name not in there:
                client.create_bucket(Bucket=name)
            print(f"bucket {name}: {'there' if name in there else 'made'}")  # noqa: T201
    except (BotoCoreError, ClientError) as fault:
        print(f"Error: {fault}\nCheck AWS_ENDPOINT_URL_S3 and the key in docker/.env.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
