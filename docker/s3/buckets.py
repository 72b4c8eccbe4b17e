"""Makes the buckets that are named, unless they are there. The S3 store is the one that AWS_… of the environment says."""

import sys

import boto3


def main(names: list[str]) -> None:
    """Make them; a store that does not answer is boto3's error, and exit code 1."""
    client = boto3.client("s3")
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            client.create_bucket(Bucket=name)


if __name__ == "__main__":
    main(sys.argv[1:])
