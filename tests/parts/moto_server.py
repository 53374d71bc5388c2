"""AWS as moto plays it, with signatures and permissions checked: STS, IAM and S3 on a free port of loopback.

Makes the role `agent`, which may do everything in S3, and the bucket `box`. Says its port in one line, and ends with its
standard input. Of a session policy moto keeps the text and never looks at it; here it must permit an action too.
"""

import json
import logging
import sys

import boto3
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.access_control import IAMPolicy, IAMRequestBase
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.sts.models import sts_backends
from werkzeug.serving import WSGIRequestHandler

ALLOW_S3 = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*", "dynamodb:*"], "Resource": "*"}],
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Federated": "issuer"}, "Action": "sts:AssumeRoleWithWebIdentity"}
    ],
}
checked = ActionAuthenticatorMixin._authenticate_and_authorize_action
permitted_by_role = IAMRequestBase.check_action_permitted


def checked_but_web_identity(response, request_class, resource="*"):
    # This one call is not signed: the token in it is what proves who calls.
    if response._get_action() != "AssumeRoleWithWebIdentity":
        checked(response, request_class, resource)


def permitted_by_both(request, resource):
    permitted_by_role(request, resource)
    sessions = sts_backends[request.account_id]["aws"].assumed_roles
    key = request._access_key._access_key_id
    policy = next((session.policy for session in sessions if session.access_key_id == key), None)
    if policy and IAMPolicy(policy).is_action_permitted(request._action, resource).name != "PERMITTED":
        request._raise_access_denied()


def main():
    ActionAuthenticatorMixin._authenticate_and_authorize_action = checked_but_web_identity
    IAMRequestBase.check_action_permitted = permitted_by_both
    WSGIRequestHandler.log = lambda *_: None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    ours = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "region_name": "eu-west-1",
        "aws_access_key_id": "setup",
        "aws_secret_access_key": "setup",
    }
    iam = boto3.client("iam", **ours)
    iam.create_role(RoleName="agent", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="agent", PolicyName="s3", PolicyDocument=json.dumps(ALLOW_S3))
    bucket = {"LocationConstraint": "eu-west-1"}
    boto3.client("s3", **ours).create_bucket(Bucket="box", CreateBucketConfiguration=bucket)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    ActionAuthenticatorMixin.request_count = 0
    print(port, flush=True)
    sys.stdin.read()


main()
