"""Writes C types and codecs of a device's messages from protocol.cddl, by zcbor: a start for firmware.

generate_c.py SCHEMA FOLDER: csim_types.h, csim_decode.[ch], csim_encode.[ch], and zcbor's own sources beside them.
"""
import pathlib
import re
import subprocess
import sys

# What a device sends and receives, and what operators read. A fleet's commands hold values of any type: they are for
# programs that have a CBOR library.
MESSAGES = ["register-up", "register-down", "usage-up", "usage-down", "credit-up", "credit-down", "command", "ack",
            "status", "fleet-summary", "node-status", "statistics", "rejected"]
ROWS = 64  # The most entries of any list: memory is set aside for them.


def for_zcbor(schema):
    """The payloads' rules, in the part of CDDL that zcbor reads."""
    schema = schema[schema.index("; ---- Words"):]
    for from_, to in ((' .regexp "[a-z0-9-]{1,64}"', " .size (1..64)"),
                      (" .within (-9223372036854775808..9223372036854775807)", " .size 8"),
                      ("/ restrict /", "/ restrict-to /"), ("\nrestrict =", "\nrestrict-to =")):  # A word of C.
        assert from_ in schema, from_
        schema = schema.replace(from_, to)
    # It takes a member's name for a key where there is a type of that name.
    types = {"number", *re.findall(r"^([a-z0-9-]+) =", schema, re.M)}
    return re.sub(r"(?<![\w-])([a-z0-9_-]+): ", lambda name: f"{name[1]}{'-' * (name[1] in types)}: ", schema)


def main():
    schema, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "csim.cddl").write_text(for_zcbor(schema.read_text()))
    subprocess.run([pathlib.Path(sys.executable).with_name("zcbor"), "code", "-c", folder / "csim.cddl",
                    "-d", "-e", "-b", "64", "--copy-sources", "--default-max-qty", str(ROWS), "-t", *MESSAGES,
                    "--output-h-types", folder / "csim_types.h", "--output-c", folder / "csim.c",
                    "--output-h", folder / "csim.h"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
