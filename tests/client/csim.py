"""A device and a fleet manager of csim/v1, written from PROTOCOL.md alone: MQTT 3.1.1, no wall clock on the device."""
import functools, hmac, json, os, queue, re, secrets, time
import cbor2
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pycose.algorithms import HMAC25664
from pycose.headers import KID, Algorithm
from pycose.keys import SymmetricKey
from pycose.messages import Mac0Message

INITIAL, UPDATE, FINAL, INTERVAL_S = 1, 2, 3, 60
dumps = functools.partial(cbor2.dumps, canonical=True)


def derive(key, info):
    return HKDF(SHA256(), 32, None, info.encode()).derive(key)


def seal(key, kid, topic, payload):
    message = Mac0Message(phdr={Algorithm: HMAC25664, KID: kid.encode()}, payload=payload)
    message.key, message.external_aad = SymmetricKey(k=key), topic.encode()
    return message.encode()


def plain(value, depth=8):
    """Whether a value is made of what section 3 allows."""
    if isinstance(value, (list, dict)):
        inner = value if isinstance(value, list) else [*value.keys(), *value.values()]
        return depth > 0 and all(plain(item, depth - 1) for item in inner)
    return value is None or isinstance(value, (str, bytes)) or isinstance(value, int) and -(2**64) <= value < 2**64


def opened(key, topic, message, verify=True):
    """The payload's octets and value. Raises on anything that is not right: there is one way to seal a payload."""
    protected, _, payload, _ = cbor2.loads(message).value
    kid = cbor2.loads(protected)[4].decode()
    sealed = not verify or hmac.compare_digest(seal(key, kid, topic, payload), message)
    if not sealed or not re.fullmatch("[a-z0-9-]{1,64}/[1-9][0-9]{0,9}", kid) or len(payload) > 65536:
        raise ValueError("forged, or not an envelope of ours")
    value = cbor2.loads(payload)
    if dumps(value) != payload or not plain(value):
        raise ValueError("not canonical")
    return payload, value


class Party:
    """One who speaks under a key. `octets` are those of all payloads, both ways."""
    verify = True

    def __init__(self, host, port, name, kid, key, topic, password=None):
        self.kid, self.key, self.octets, self.inbox = kid, key, 0, queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name, True, protocol=mqtt.MQTTv311)
        self.client.username_pw_set(name if password else None, password)
        self.client.on_connect = lambda client, *_: (client.subscribe(topic, 1), self.inbox.put(("", None)))
        self.client.on_message = lambda _client, _data, message: self.inbox.put((message.topic, message.payload))
        self.client.connect(host, port)
        self.client.loop_start()

    def say(self, topic, payload):
        message = seal(self.key, self.kid, topic, payload)
        self.octets += len(message)
        self.client.publish(topic, message, 1)

    def heard(self, wait_s):
        """The next message as topic and value: "" for a connection, None for nothing that is for us."""
        try:
            topic, message = self.inbox.get(timeout=wait_s)
            self.octets += len(message or "")
            value = opened(self.key, topic, message, self.verify)[1] if topic else [1, None]
            return (topic, value) if value[0] > 0 else (None, None)
        except Exception:  # Nothing came, or any of several libraries' refusals.
            return None, None


class Manager(Party):
    def __init__(self, host, port, fleet, kid, key):
        author, self.topic = kid.split("/")[0], f"csim/v1/f/{fleet}"
        super().__init__(host, port, author + secrets.token_hex(4), kid, key, f"{self.topic}/reply/{author}")

    def command(self, name, args):
        """The result's parts. The same octets are sent again until the last one is there."""
        command_id, parts, again = "c-" + secrets.token_hex(8), {}, 0
        body = dumps([1, command_id, int(time.time() * 1000) + 3_600_000, None, False, name, args])
        while True:
            if time.monotonic() >= again:
                self.say(f"{self.topic}/command", body)
                again = time.monotonic() + 5
            _, reply = self.heard(0.1)
            if not reply or reply[1] != command_id:
                continue
            if reply[2] != 2001:
                raise RuntimeError(reply[6])
            parts[reply[3]] = reply[5]
            if reply[4]:
                return parts


class Device(Party):
    """`store` is the file of all that is durable; `hurry` divides its timers, for tests."""

    def __init__(self, host, port, line, store, hurry=1, want=1_000_000):
        _, name, kid, key = line.strip().split(":")
        self.name, self.up, self.hurry, self.want, self.store = name, f"csim/v1/d/{name}/up/", hurry, want, store
        self.state, key = json.load(open(store)) if os.path.exists(store) else self.fresh(), bytes.fromhex(key)
        self.start()
        super().__init__(host, port, name, kid, key, f"csim/v1/d/{name}/down/+", derive(key, "mqtt").hex())

    @staticmethod
    def fresh(closes=None, iccid=None):
        return dict(epoch=secrets.randbits(64), boot=0, used=0, seq=0, mark=0, rows=[], number=0, floor=1, ceiling=0,
                    answered=[0, 0], held=None, request=None, suspended=False, command=0, outcomes={}, closes=closes,
                    iccid=iccid)

    def start(self):
        self.started = now = time.monotonic()
        self.registered = self.idle = self.blocked = False
        self.retire_at = self.code = self.last = self.first_sent = self.damaged = None
        self.sample = self.valid = self.renew = self.renew_below = self.gap = self.not_before = 0
        self.wait, self.due = {}, dict(register=now, credit=now, usage=now + 3600, report=now + 600 / self.hurry)
        self.state["boot"] += 1
        self.cut()
        self.save()

    def save(self):
        with open(self.store + ".new", "w") as file:
            json.dump(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self.store)

    def retry(self, what, first_s, most_s):
        self.wait[what] = min(self.wait.get(what, first_s / 2) * 2, most_s)
        self.due[what] = time.monotonic() + self.wait[what] / self.hurry

    def gate_open(self):
        return time.monotonic() < self.valid and not self.state["suspended"] and self.retire_at is None

    def room(self):
        return max(0, self.state["ceiling"] - self.state["used"]) if self.gate_open() else 0

    def traffic(self, octets):
        """So many octets want to pass; those that may are counted."""
        passed = min(octets, self.room())
        self.state["used"] += passed
        self.sample, self.blocked = self.sample + passed, passed < octets

    def row(self):
        if self.sample:
            state, end_s = self.state, int(time.monotonic() - self.started)
            state["seq"] += 1
            state["rows"].append([state["seq"], state["boot"], end_s, self.sample, state["used"]])
            self.sample = 0

    def cut(self):
        state = self.state
        self.row()
        if state["ceiling"] > state["used"] and not state["held"] and state["answered"][0] >= state["floor"]:
            state["held"] = [*state["answered"], state["ceiling"]]
        state.update(ceiling=state["used"], floor=state["number"] + 1, request=None)
        self.valid, self.asked = 0, set()

    def ask(self, kind, reason):
        state = self.state
        self.cut() if kind != UPDATE else self.row()
        self.asked.add((reason, state["ceiling"]))
        state["number"] += 1
        want = 0 if kind == FINAL else max(0, self.want - (state["ceiling"] - state["used"]))
        body = [1, state["epoch"], state["number"], kind, state["used"], want, reason, "home",
                None if kind == UPDATE else state["held"]]
        state["request"] = [kind, dumps(body).hex()]
        self.first_sent, self.due["credit"], self.idle = None, 0, False
        self.wait.pop("credit", None)
        if reason in (0, 3) or kind == FINAL:
            self.due["report"] = 0
        self.save()

    def plan(self):
        """What time and meter call for: section 7."""
        state, now, ceiling = self.state, time.monotonic(), self.state["ceiling"]
        left = ceiling - state["used"]
        if self.retire_at is not None:
            if now >= self.retire_at:
                self.state = self.fresh([state["epoch"], state["used"]], state["iccid"])
                self.start()
        elif state["request"]:
            if self.first_sent and now >= self.first_sent + 3600:
                self.ask(FINAL if state["request"][0] == FINAL else INITIAL, 69)
        elif not self.registered or state["suspended"] or (self.idle and not self.blocked):
            pass
        elif self.idle or now >= self.valid:
            self.ask(INITIAL, 65 if self.idle else 4 if self.code else 64)
        elif now >= self.renew:
            self.ask(UPDATE, 4)
        elif left <= 0 and (3, ceiling) not in self.asked and now >= self.not_before:
            self.ask(UPDATE, 3)
        elif 0 < left <= self.renew_below and (0, ceiling) not in self.asked and self.last is None:
            self.ask(UPDATE, 0)

    def for_us(self, epoch, number, push):
        """Rules R1, R2 and R7: whether an answer is accepted."""
        state = self.state
        fits = number == state["answered"][0] if push else state["request"] and number == state["number"]
        return epoch == state["epoch"] and fits and number >= state["floor"] and [number, push] > state["answered"]

    def take_ceiling(self, ceiling, _code):
        self.state["ceiling"] = max(self.state["ceiling"], ceiling)

    def on_credit(self, answer):
        state, request, now = self.state, self.state["request"], time.monotonic()
        _, epoch, number, push, code, ceiling, _stop, decided, until, renew_below, last, *_, retry_s = answer[:15]
        if code not in (2001, 4010, 4012):
            if epoch == state["epoch"] and (code == 5003 or request and number == state["number"]):
                self.due["credit"] = now + (retry_s or 60)
                self.trouble(code)
        elif epoch == state["epoch"] and number > state["number"]:
            self.disagree()
        elif self.for_us(epoch, number, push):
            grown = ceiling > state["ceiling"]
            self.take_ceiling(ceiling, code)
            if not push and request:
                span_s = (until - decided) / 1000 if request[0] != FINAL else 0
                self.valid, self.renew = self.first_sent + span_s, self.first_sent + span_s * 0.8  # R3
                self.idle, self.gap = request[0] == FINAL, 0 if grown else max(1, 2 * self.gap)
                self.not_before = now + self.gap
                state.update(request=None, suspended=state["suspended"] and (code != 2001 or self.idle))
            state.update(answered=[number, push], held=None)
            self.code, self.renew_below, self.last = code, renew_below, last
            self.save()

    def trouble(self, code):
        if code in (5003, 5007):
            self.disagree()
        elif code in (5002, 5030):
            self.registered, self.due["register"] = False, time.monotonic() + 5 / self.hurry
            self.cut()

    def disagree(self):
        self.retire_at = self.retire_at or max(time.monotonic(), self.started + 60 / self.hurry)

    def on_register(self, answer):
        _, epoch, boot, code, _now, sim, _policy, retry_s, mark, _total = answer[:10]
        if [epoch, boot] != [self.state["epoch"], self.state["boot"]]:
            return
        if code == 5003 or (code == 2001 and mark > self.state["seq"]):
            self.disagree()
        elif code != 2001:
            self.due["register"] = time.monotonic() + (retry_s or 300)
        elif not self.registered:
            self.registered, self.state["iccid"] = True, sim[0] if sim else self.state["iccid"]
            self.wait.pop("register", None)
            self.save()

    def report(self):
        rows = [row for row in self.state["rows"] if row[1] == self.state["rows"][0][1]][:200]
        self.due["report"], self.due["usage"] = time.monotonic() + 600 / self.hurry, time.monotonic() + 3600
        if rows:
            times, octets = [row[2] for row in rows], [row[3] for row in rows]
            steps = [after - before - INTERVAL_S for before, after in zip(times, times[1:])]
            self.save()
            self.say(self.up + "usage", dumps([
                1, self.state["epoch"], rows[0][1], self.state["iccid"], "home", rows[0][0], 0, times[0], INTERVAL_S,
                rows[-1][4], steps, octets, [0] * len(rows), [], [], [], []]))
            self.retry("usage", 10, 300)

    def on_usage(self, ack):
        (_, epoch, code, mark, _total, first, retry_s, _now), state = ack[:8], self.state
        if epoch != state["epoch"]:
            return
        self.trouble(code)
        if mark > state["seq"] or (code == 5004 and self.damaged == first):
            self.disagree()
        elif code == 5004:
            self.damaged = first
        elif code // 1000 in (2, 3) and mark >= state["mark"]:
            state.update(mark=mark, rows=[row for row in state["rows"] if row[0] > mark])
            self.wait.pop("usage", None)
            self.due["usage"] = time.monotonic() + (retry_s or 0 if state["rows"] else 3600)
            self.save()

    def decide(self, number, body):
        """Carries a command out, and says what came of it."""
        state, what = self.state, body[0]
        if what in (1, 2, 3):
            if number <= state["command"]:
                return 1
            state.update(command=number, suspended=what == 2)
        if what in (1, 2):
            self.ask(FINAL, 7)
        elif what in (0, 3) and not state["request"]:
            self.ask(UPDATE if self.gate_open() else INITIAL, 7)
        elif what == 4:
            self.row()
            self.due["report"] = 0
        return 0 if what < 5 else 3

    def on_command(self, command):
        (_, epoch, command_id, number, _expires, _now, body), outcomes = command[:7], self.state["outcomes"]
        if epoch == self.state["epoch"]:
            if command_id not in outcomes:
                outcomes[command_id] = self.decide(number, body)
                self.save()
            self.say(self.up + "ack", dumps([1, epoch, command_id, number, outcomes[command_id], None]))

    def send_credit(self):
        self.say(self.up + "credit", bytes.fromhex(self.state["request"][1]))
        self.first_sent = self.first_sent or time.monotonic()
        self.retry("credit", 10, 60)

    def turn(self, octets):
        """Hears at most one message, lets so many octets try to pass, does what is due."""
        (topic, value), now = self.heard(0.05), time.monotonic()
        if topic == "":
            self.due.update(register=now, credit=now, usage=now if self.state["rows"] else self.due["usage"])
        elif topic:
            getattr(self, "on_" + topic.rsplit("/", 1)[-1])(value)
        self.traffic(octets)
        self.plan()
        state, now = self.state, time.monotonic()
        if self.retire_at is not None:
            return
        if not self.registered and now >= self.due["register"]:
            self.say(self.up + "register", dumps([1, state["epoch"], state["boot"], self.name, "stranger", "1", [],
                                                  state["iccid"], state["closes"]]))
            self.retry("register", 5, 300)
        if self.registered and state["request"] and now >= self.due["credit"]:
            self.send_credit()
        if self.registered and now >= min(self.due["report"], self.due["usage"]):
            if now >= self.due["report"]:
                self.row()
            self.report()

    def run_until(self, fact, octets=0):
        while not fact():
            self.turn(octets)
