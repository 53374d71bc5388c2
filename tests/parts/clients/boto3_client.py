"""What an agent does with S3 and STS: boto3 with dummy keys, in an environment that leads to the sidecar.

Arguments: the URL of S3, the URL of STS.
"""

import os
import sys

import boto3
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

s3_url, sts_url = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=s3_url, config=Config(signature_version="s3v4"))
key = "notes/a b(1)+ü.txt"

put = s3.put_object(Bucket="box", Key=key, Body=b"hello", ContentType="text/plain", Metadata={"from": "an  agent"})
print("PUT", put["ResponseMetadata"]["HTTPStatusCode"])
print("GET", s3.get_object(Bucket="box", Key=key)["Body"].read().decode())

for name, signed in [("hashed", True), ("unsigned", False)]:
    config = Config(request_checksum_calculation="when_required", s3={"payload_signing_enabled": signed})
    put = boto3.client("s3", endpoint_url=s3_url, config=config).put_object(Bucket="box", Key=name, Body=b"whole")
    print(name.upper(), put["ResponseMetadata"]["HTTPStatusCode"])

upload = s3.create_multipart_upload(Bucket="box", Key="large")["UploadId"]
parts = []
for number, size in [(1, 5 << 20), (2, 7)]:
    part = {"Bucket": "box", "Key": "large", "UploadId": upload, "PartNumber": number}
    etag = s3.upload_part(**part, Body=b"x" * size)["ETag"]
    parts.append({"PartNumber": number, "ETag": etag})
s3.complete_multipart_upload(Bucket="box", Key="large", UploadId=upload, MultipartUpload={"Parts": parts})
print("MULTIPART", s3.head_object(Bucket="box", Key="large")["ContentLength"])

listed = s3.list_objects_v2(Bucket="box", Prefix="notes/", Delimiter="/")
print("LIST", [entry["Key"] for entry in listed["Contents"]])

url = s3.generate_presigned_url("get_object", Params={"Bucket": "box", "Key": key}, ExpiresIn=60)
print("PRESIGNED", requests.get(url, verify=os.environ["AWS_CA_BUNDLE"], timeout=10).text)

identity = boto3.client("sts", endpoint_url=sts_url).get_caller_identity()
print("WHO", identity["Arn"].rsplit("/", 1)[0])

try:
    s3.delete_object(Bucket="box", Key=key)
    print("DELETED")
except ClientError as error:
    print("DENIED", error.response["Error"]["Code"])
