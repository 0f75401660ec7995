"""Holds shared/vectors.json against implementations of COSE, CBOR, HKDF and Ed25519 that share nothing with ours.

vectors.py VECTORS: prints how many were accepted and refused; ends with 1 and a line for each that was not as it says.
"""
import json
import sys

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from csim import derive, dumps, opened, plain, seal


def diagnostic(value):
    """Diagnostic notation, RFC 8949, 8."""
    if isinstance(value, list):
        return "[" + ", ".join(map(diagnostic, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{diagnostic(key)}: {diagnostic(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    return json.dumps(value, ensure_ascii=False)


def to_be_signed(protected, topic, payload):
    return cbor2.dumps(["Signature1", protected, topic.encode(), payload])


def sign(seed, kid, topic, payload):
    protected = cbor2.dumps({1: -8, 4: kid.encode()})
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(to_be_signed(protected, topic, payload))
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature]))


def opened_signed(key, topic, message):
    tagged = cbor2.loads(message)
    protected, unprotected, payload, signature = tagged.value
    header = cbor2.loads(protected)
    if not (tagged.tag == 18 and unprotected == {} and cbor2.dumps(tagged) == message and header[1] == -8
            and cbor2.dumps({1: -8, 4: header[4]}) == protected):
        raise ValueError("not an envelope of ours")
    Ed25519PublicKey.from_public_bytes(key).verify(signature, to_be_signed(protected, topic, payload))
    value = cbor2.loads(payload)
    if dumps(value) != payload or not plain(value):
        raise ValueError("not canonical")
    return payload, value


def main():
    vectors = json.load(open(sys.argv[1]))
    keys = {name: bytes.fromhex(key) for name, key in vectors["keys"].items()}
    wrong = []
    enrolment = bytes.fromhex(vectors["enrolment_key"])
    for row in vectors["derived"]:
        key = derive(enrolment, f"csim/v1/device/{row['device']}/{row['generation']}")
        if key.hex() != row["key"] or derive(key, "mqtt").hex() != row["password"]:
            wrong.append(f"derived: {row['device']}/{row['generation']}")

    def read(row):
        reader = opened_signed if row["key"] == "node" else opened
        return reader(keys[row["key"]], row["topic"], bytes.fromhex(row["envelope"]))

    for row in vectors["pass"]:
        payload, value = read(row)
        if row["key"] == "node":
            written = sign(keys["node_seed"], row["kid"], row["topic"], payload)
        else:
            written = seal(keys[row["key"]], row["kid"], row["topic"], dumps(value))
        if payload.hex() != row["payload"] or written.hex() != row["envelope"]:
            wrong.append(f"pass: {row['name']}: other octets")
        if diagnostic(value) != row["message"]:
            wrong.append(f"pass: {row['name']}: {diagnostic(value)} is not {row['message']}")
    refused = 0
    for row in vectors["fail"]:
        try:
            read(row)
            accepted = True
        except Exception:  # Any of several libraries' refusals.
            accepted = False
        refused += not accepted
        # What a message may hold is not known here: the schema says it.
        if accepted != (row["refused_by"] == "message"):
            wrong.append(f"fail: {row['name']}: {'accepted' if accepted else 'refused'}")
    print(json.dumps({"derived": len(vectors["derived"]), "pass": len(vectors["pass"]), "refused": refused}))
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
