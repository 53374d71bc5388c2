"""grpcio: grpcio_client.py ORIGIN UNLISTED, each HOST:PORT"""

import sys

import grpc


def call(channel, method):
    return channel.unary_unary(f"/test.Shop/{method}")(b"hello", timeout=20)


origin, unlisted = sys.argv[1:]
with grpc.secure_channel(origin, grpc.ssl_channel_credentials()) as channel:
    print("UNARY", call(channel, "Read").decode())
    print("STREAM", len(list(channel.unary_stream("/test.Shop/Watch")(b"hello", timeout=20))))
    try:
        call(channel, "Delete")
        print("DENIED not at all")
    except grpc.RpcError as error:
        print("DENIED", error.code().name, error.details())
with grpc.secure_channel(unlisted, grpc.ssl_channel_credentials()) as channel:
    try:
        call(channel, "Read")
        print("UNLISTED reached")
    except grpc.RpcError as error:
        print("UNLISTED", error.code().name)
