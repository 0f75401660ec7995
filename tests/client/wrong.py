"""The device as it is, and devices that each make one mistake, for those who test devices.

wrong.py HOST PORT DEVICE-KEY-FILE [--wrong MISTAKE]: uses octets and asks for more until it is ended.
"""
import argparse
import time

import cbor2

from csim import FINAL, Device, dumps


class Adds(Device):
    """Takes the ceiling for an amount: what comes twice is granted twice."""

    def for_us(self, epoch, number, push):
        return epoch == self.state["epoch"] and number == self.state["number"]

    def take_ceiling(self, ceiling, code):
        granted = max(0, ceiling - self.state["used"]) if code == 2001 else 0
        self.state["ceiling"] += granted


class AnyEpoch(Device):
    """Takes answers of any epoch."""

    def for_us(self, epoch, number, push):
        return super().for_us(self.state["epoch"], number, push)


class Deletes(Device):
    """Forgets samples as soon as they are sent."""

    def report(self):
        rows = self.state["rows"]
        super().report()
        if rows:
            self.state.update(rows=[])
            self.due["usage"] = time.monotonic() + 3600


class Forged(Device):
    """Believes every sender."""

    verify = False


class KeepsEpoch(Device):
    """Goes on when the cloud says that its epoch is over."""

    def disagree(self):
        pass


class Lowers(Device):
    """Takes a lower ceiling from the answer to an update."""

    def take_ceiling(self, ceiling, code):
        self.state["ceiling"] = max(ceiling, self.state["used"])


class NewOctets(Device):
    """Asks again under the same number with other octets."""

    def send_credit(self):
        if self.first_sent:
            body = cbor2.loads(bytes.fromhex(self.state["request"][1]))
            body[5] += 1
            self.state["request"][1] = dumps(body).hex()
        super().send_credit()


class Overspends(Device):
    """Does not stop at the ceiling."""

    def room(self):
        return super().room() + (10_000 if self.gate_open() else 0)


class Receipt(Device):
    """Counts validity from when the answer came."""

    def on_credit(self, answer):
        self.first_sent = time.monotonic()
        super().on_credit(answer)


class Restless(Device):
    """Gives everything back before the holding time is over."""

    give_back = None

    def on_credit(self, answer):
        super().on_credit(answer)
        self.give_back = time.monotonic() + answer[12] / 8 if answer[12] else None

    def plan(self):
        if self.give_back and time.monotonic() >= self.give_back and not self.state["request"]:
            self.give_back = None
            self.ask(FINAL, 1)
        super().plan()


class GoesOn(Device):
    """Goes on beyond the ceiling without end, when the last answer lets it go on in some way."""

    goes_on = False

    def lets(self, answer):
        raise NotImplementedError

    def on_credit(self, answer):
        super().on_credit(answer)
        self.goes_on = self.lets(answer)

    def room(self):
        return 10**12 if self.goes_on and self.gate_open() else super().room()


class Boundless(GoesOn):
    """Has no stop while the cloud is silent."""

    def lets(self, answer):
        return answer[11] > 0


class Unrestricted(GoesOn):
    """Lets everything pass, to any host."""

    def lets(self, answer):
        return bool(answer[10]) and answer[10][0] == 1


class Unthrottled(GoesOn):
    """Is as fast as before."""

    def lets(self, answer):
        return bool(answer[10]) and answer[10][0] == 2


class Silent(Device):
    """Asks once, and waits for ever."""

    def send_credit(self):
        if not self.first_sent:
            super().send_credit()


class Stale(Device):
    """Takes answers to older requests."""

    def for_us(self, epoch, number, push):
        return epoch == self.state["epoch"] and number <= self.state["number"]


class Swaps(Device):
    """Carries out an older command after a newer one."""

    def decide(self, number, body):
        self.state["command"] = 0
        return super().decide(number, body)


class Twice(Device):
    """Carries a command out each time that it comes."""

    def on_command(self, command):
        self.state["outcomes"].pop(command[2], None)
        self.state["command"] = 0
        super().on_command(command)


class Hasty(Device):
    """Asks for credit without having registered."""

    def start(self):
        super().start()
        self.registered = True


MISTAKES = {
    "adds": Adds, "any-epoch": AnyEpoch, "boundless": Boundless, "deletes": Deletes, "forged": Forged, "hasty": Hasty,
    "keeps-epoch": KeepsEpoch, "lowers": Lowers, "new-octets": NewOctets, "overspends": Overspends,
    "receipt": Receipt, "restless": Restless, "silent": Silent, "stale": Stale, "swaps": Swaps, "twice": Twice,
    "unrestricted": Unrestricted, "unthrottled": Unthrottled,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("key_file")
    parser.add_argument("--octets", type=int, default=2000, help="that want to pass in each turn of 50 ms")
    parser.add_argument("--hurry", type=float, default=1, help="how much shorter its timers are")
    parser.add_argument("--wrong", choices=MISTAKES, help="a mistake to make")
    args = parser.parse_args()
    kind = MISTAKES[args.wrong] if args.wrong else Device
    line = open(args.key_file).read()
    kind(args.host, args.port, line, args.key_file + ".state", args.hurry).run_until(lambda: False, args.octets)


if __name__ == "__main__":
    main()
