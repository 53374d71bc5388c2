"""A SPIFFE Workload API on a Unix socket: gives out X.509 and JWT SVIDs, and does what it is told on its input.

usage: workload_api.py SOCKET CA.pem CA.key SPIFFE_ID

It says `ready` once it serves. Each line of its input is one command, answered by one line when it is done:
  rotate [SECONDS]   a new certificate, which lives so long (an hour unless told): answers its serial number
  become SPIFFE_ID   the same for another identity
  deny [TEXT]        the caller has no identity any longer, for this reason
  allow              it has one again
  garble TEXT        tokens have this in place of their end
  fail TEXT          tokens are not given, for this reason
  key                answers the key of the certificate, in hexadecimal
"""

import base64
import datetime
import json
import sys
import threading
import time
from concurrent import futures

import grpc
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from spiffe._proto import workload_pb2 as messages
from spiffe._proto import workload_pb2_grpc as service

DER = serialization.Encoding.DER


class Issuer:
    def __init__(self, certificate, key, spiffe_id):
        self.certificate = x509.load_pem_x509_certificate(open(certificate, "rb").read())
        self.key = serialization.load_pem_private_key(open(key, "rb").read(), None)
        self.spiffe_id = spiffe_id
        self.signer = ec.generate_private_key(ec.SECP256R1())
        self.changed = threading.Condition()
        self.allowed = True
        self.why = "no identity issued"
        self.garbled = self.failing = None
        self.number = 0
        self.rotate()

    def rotate(self, seconds=3600):
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        usage = dict.fromkeys(
            ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
             "crl_sign", "encipher_only", "decipher_only"], False)
        svid = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(self.spiffe_id)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False)
            .sign(self.key, hashes.SHA256())
        )
        with self.changed:
            self.svid = svid
            self.svid_key = key.private_bytes(
                DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            self.number += 1
            self.changed.notify_all()
        digits = f"{svid.serial_number:x}"
        return digits.rjust(len(digits) + len(digits) % 2, "0")

    def allow(self, allowed):
        with self.changed:
            self.allowed = allowed
            self.number += 1
            self.changed.notify_all()

    def response(self):
        svid = messages.X509SVID(
            spiffe_id=self.spiffe_id,
            x509_svid=self.svid.public_bytes(DER),
            x509_svid_key=self.svid_key,
            bundle=self.certificate.public_bytes(DER),
        )
        return messages.X509SVIDResponse(svids=[svid])

    def token(self, audience):
        now = int(time.time())
        claims = {"sub": self.spiffe_id, "aud": audience, "iat": now, "exp": now + 300}
        if self.garbled is not None:
            part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
            return ".".join([part({"alg": "ES256", "typ": "JWT", "kid": "k1"}), part({**claims, "exp": self.garbled}), "c2ln"])
        return jwt.encode(claims, self.signer, algorithm="ES256", headers={"kid": "k1", "typ": "JWT"})


class WorkloadApi(service.SpiffeWorkloadAPIServicer):
    def __init__(self, issuer):
        self.issuer = issuer

    def check(self, context):
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if not self.issuer.allowed:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, self.issuer.why)

    def FetchX509SVID(self, request, context):
        self.check(context)
        told = 0
        while context.is_active():
            with self.issuer.changed:
                self.issuer.changed.wait_for(lambda: self.issuer.number != told, timeout=0.5)
                if self.issuer.number == told:
                    continue
                told, allowed, response = self.issuer.number, self.issuer.allowed, self.issuer.response()
            if not allowed:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, self.issuer.why)
            yield response

    def FetchJWTSVID(self, request, context):
        self.check(context)
        if not request.audience:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        if self.issuer.failing is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.issuer.failing)
        svid = messages.JWTSVID(spiffe_id=self.issuer.spiffe_id, svid=self.issuer.token(list(request.audience)))
        return messages.JWTSVIDResponse(svids=[svid])


def obey(issuer, command, *arguments):
    if command == "rotate":
        return issuer.rotate(*map(int, arguments))
    if command == "become":
        (issuer.spiffe_id,) = arguments
        return issuer.rotate()
    if command == "key":
        return issuer.svid_key.hex()
    if command in ("garble", "fail"):
        issuer.garbled, issuer.failing = [*arguments, None] if command == "garble" else [None, *arguments]
        return "done"
    if command == "deny":
        issuer.why = arguments[0] if arguments else "no identity issued"
    issuer.allow({"allow": True, "deny": False}[command])
    return "done"


def main():
    socket, certificate, key, spiffe_id = sys.argv[1:]
    issuer = Issuer(certificate, key, spiffe_id)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service.add_SpiffeWorkloadAPIServicer_to_server(WorkloadApi(issuer), server)
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        print(obey(issuer, *line.split()), flush=True)
    server.stop(None)


main()
