"""Runs the stranger's device over a broker.

run.py device HOST PORT DEVICE-KEY-FILE [--wrong MISTAKE]   uses octets and asks for more until it is ended
run.py story HOST PORT DEVICE-KEY-FILE --manager FLEET KID KEY-FILE   a device's whole life, beside its manager
"""
import argparse
import json

from csim import FINAL, Device, Manager
from wrong import MISTAKES


def story(args):
    """Register, be granted, use, report, be cut off, be topped up, return the remainder."""
    fleet, kid, file = args.manager
    manager = Manager(args.host, args.port, fleet, kid, bytes.fromhex(open(file).read().strip()))
    manager.command("package-buy", {"volume": 100_000})
    device = Device(args.host, args.port, open(args.key_file).read(), args.key_file + ".state", args.hurry)
    state = device.state
    device.run_until(lambda: device.code == 4012 and not state["rows"] and device.blocked, args.octets)
    print(json.dumps({"cut_off_at": state["used"]}), flush=True)
    manager.command("package-buy", {"volume": 150_000})
    device.run_until(lambda: state["used"] >= 130_000, args.octets)
    device.end = True
    device.ask(FINAL, 67)
    device.run_until(lambda: not state["request"] and not state["rows"])
    print(json.dumps({"used": state["used"], "ceiling": state["ceiling"], "returned": device.idle,
                      "payload": device.octets + manager.octets, "of_the_device": device.octets}), flush=True)
    for party in (device, manager):
        party.client.disconnect()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["device", "story"])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("key_file")
    parser.add_argument("--manager", nargs=3, metavar=("FLEET", "KID", "KEY-FILE"))
    parser.add_argument("--octets", type=int, default=2000, help="that want to pass in each turn of 50 ms")
    parser.add_argument("--hurry", type=float, default=1, help="how much shorter its timers are")
    parser.add_argument("--wrong", choices=MISTAKES, help="a mistake to make")
    args = parser.parse_args()
    if args.what == "story":
        return story(args)
    kind = MISTAKES[args.wrong] if args.wrong else Device
    line = open(args.key_file).read()
    kind(args.host, args.port, line, args.key_file + ".state", args.hurry).run_until(lambda: False, args.octets)


if __name__ == "__main__":
    main()
