"""Writes C types and codecs of all messages from protocol.cddl, by zcbor: a start for firmware.

generate_c.py SCHEMA FOLDER: csim_types.h, csim_decode.[ch], csim_encode.[ch], csim_check.[ch] that they call, and zcbor's
own sources beside them. A message is read by csim_check, then by cbor_decode_<message>.
"""
import pathlib
import re
import shutil
import subprocess
import sys

MESSAGES = ["register-up", "register-down", "usage-up", "usage-down", "credit-up", "credit-down", "command", "ack",
            "status", "fleet-command", "fleet-reply", "fleet-event", "fleet-summary", "node-status", "statistics",
            "rejected"]
ROWS = 64  # The most entries of any list: memory is set aside for them.
# Types that zcbor does not read: what it is told instead, and whose decoder and encoder take that one's place.
PLAIN = "int / bstr / tstr / bool / null / [* plain] / { * plain => plain }"
STAND_INS = {PLAIN: "bstr .size (0..65530)", "{ * tstr => plain }": "bstr .size (0..65531)"}


def for_zcbor(schema):
    """The payloads' rules, in the part of CDDL that zcbor reads."""
    schema = schema[schema.index("; ---- Words"):]
    for from_, to in (('tstr .regexp "[a-z0-9-]{1,64}"', "tstr .size (1..64)"),
                      ('(tstr .size (0..128)) .and (tstr .regexp "\\\\P{Cc}*")', "tstr .size (0..128)"),
                      (" .within (-9223372036854775808..9223372036854775807)", " .size 8"),
                      ("/ restrict /", "/ restrict-to /"), ("\nrestrict =", "\nrestrict-to ="),  # A word of C.
                      *STAND_INS.items()):
        assert from_ in schema, from_
        schema = schema.replace(from_, to)
    # It takes a member's name for a key where there is a type of that name.
    types = {"number", *re.findall(r"^([a-z0-9-]+) =", schema, re.M)}
    return re.sub(r"(?<![\w-])([a-z0-9_-]+): ", lambda name: f"{name[1]}{'-' * (name[1] in types)}: ", schema)


# What a string's greatest length says of its type.
CHECKED = {"64": "id", "128": "text", "65530": "plain", "65531": "figures"}


def with_checks(decode, encode):
    """The generated code, with calls of csim_check.h for ids, texts and values of any type."""
    def checked(call):
        kind = CHECKED.get(call[3])
        if kind in ("plain", "figures"):
            members[call[2]] = kind
        return f"csim_{kind}_decode{call[1]}" if kind else call[0]

    members = {}
    decode = re.sub(r"zcbor_[tb]str_decode(\(state, \(&\(\*result\)(?:\.(\w+))?\)\))(?=[^;]*?len <= (\d+)\))", checked, decode)
    for member, kind in members.items():
        encode = encode.replace(f"zcbor_bstr_encode(state, (&(*input).{member}))",
                                f"csim_{kind}_encode(state, (&(*input).{member}))")
    include = '#include "zcbor_print.h"\n'
    return [code.replace(include, include + '#include "csim_check.h"\n') for code in (decode, encode)]


def main():
    schema, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "csim.cddl").write_text(for_zcbor(schema.read_text()))
    subprocess.run([pathlib.Path(sys.executable).with_name("zcbor"), "code", "-c", folder / "csim.cddl",
                    "-d", "-e", "-b", "64", "--copy-sources", "--default-max-qty", str(ROWS), "-t", *MESSAGES,
                    "--output-h-types", folder / "csim_types.h", "--output-c", folder / "csim.c",
                    "--output-h", folder / "csim.h"], check=True, capture_output=True)
    sources = [folder / "csim_decode.c", folder / "csim_encode.c"]
    for path, code in zip(sources, with_checks(*(path.read_text() for path in sources))):
        path.write_text(code)
    for name in ("csim_check.c", "csim_check.h"):
        shutil.copy(pathlib.Path(__file__).with_name(name), folder)


if __name__ == "__main__":
    main()
