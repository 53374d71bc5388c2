"""A gRPC origin on loopback: grpcio_server.py CERTIFICATE KEY. Prints its port, then the name of each method called."""

import sys
from concurrent import futures

import grpc


class Shop(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method
        if name == "/test.Shop/Watch":
            return grpc.unary_stream_rpc_method_handler(lambda request, _: self.watch(name, request))
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self.echo(name, request))

    def echo(self, name, request):
        print(name, flush=True)
        return request

    def watch(self, name, request):
        print(name, flush=True)
        for _ in range(3):
            yield request


certificate, key = (open(path, "rb").read() for path in sys.argv[1:])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((Shop(),))
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
server.start()
print(port, flush=True)
server.wait_for_termination()
