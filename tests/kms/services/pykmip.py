"""What the service `pykmip` does in Python: its server, and its keys.

usage: pykmip.py serve|make-key|delete-key|remake-key|rotate-key|tell-key|make-others DIR
"""

import os
import sys

from kmip import enums
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.objects import SymmetricKey

AES = enums.CryptographicAlgorithm.AES
USES = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]


def serve(directory):
    from kmip.services.server.server import KmipServer

    server = KmipServer(config_path=f"{directory}/server.conf", log_path=f"{directory}/server.log")
    with server:
        server.serve()


def register(client, name, length=256, uses=USES, active=True):
    key = SymmetricKey(AES, length, os.urandom(length // 8), masks=uses, name=name)
    identifier = client.register(key)
    if active:
        client.activate(identifier)


def named(name, index=None):
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, name, index)


def find(client):
    [identifier] = client.locate(attributes=[named("vtpm")])
    return identifier


def delete(client):
    identifier = find(client)
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, identifier)
    client.destroy(identifier)


def rotate(client):
    client.modify_attribute(find(client), attribute=named("vtpm-1", 0))
    register(client, "vtpm")


def tell(client, directory):
    with open(f"{directory}/vtpm.key", "wb") as file:
        file.write(client.get(find(client)).value)


def make_others(client):
    register(client, "idle", active=False)
    register(client, "short", length=128)
    wraps = [enums.CryptographicUsageMask.WRAP_KEY, enums.CryptographicUsageMask.UNWRAP_KEY]
    register(client, "wrap-only", uses=wraps)
    register(client, "twice")
    register(client, "twice")


def main():
    verb, directory = sys.argv[1:]
    if verb == "serve":
        serve(directory)
        return
    client = ProxyKmipClient(
        hostname="127.0.0.1",
        port=5696,
        cert=f"{directory}/tls/client.pem",
        key=f"{directory}/tls/client.key",
        ca=f"{directory}/tls/ca.pem",
        ssl_version="PROTOCOL_TLSv1_2",
        kmip_version=enums.KMIPVersion.KMIP_1_4,
        config_file="/dev/null",
    )
    with client:
        if verb == "make-key":
            register(client, "vtpm")
        elif verb == "delete-key":
            delete(client)
        elif verb == "remake-key":
            delete(client)
            register(client, "vtpm")
        elif verb == "rotate-key":
            rotate(client)
        elif verb == "tell-key":
            tell(client, directory)
        elif verb == "make-others":
            make_others(client)
        else:
            sys.exit(f"unknown verb {verb}")


main()
