"""A device's life beside its manager: it registers, is granted, uses, reports, is cut off, topped up, returns the rest.

story.py HOST PORT DEVICE-KEY-FILE FLEET KID MANAGER-KEY-FILE
"""
import json, sys
from csim import FINAL, Device, Manager

OCTETS = 2000  # That want to pass in each turn of 50 ms.
host, port, device_key, fleet, kid, manager_key = sys.argv[1:]
manager = Manager(host, int(port), fleet, kid, bytes.fromhex(open(manager_key).read().strip()))
manager.command("package-buy", {"volume": 100_000})
device = Device(host, int(port), open(device_key).read(), device_key + ".state")
state = device.state
device.run_until(lambda: device.code == 4012 and not state["rows"] and device.blocked, OCTETS)
print(json.dumps({"cut_off_at": state["used"]}), flush=True)
manager.command("package-buy", {"volume": 150_000})
device.run_until(lambda: state["used"] >= 130_000, OCTETS)
device.ask(FINAL, 67)
device.run_until(lambda: not state["request"] and not state["rows"])
print(json.dumps({"used": state["used"], "ceiling": state["ceiling"], "returned": device.idle,
                  "payload": device.octets + manager.octets, "of_the_device": device.octets}), flush=True)
for party in (device, manager):
    party.client.disconnect()
