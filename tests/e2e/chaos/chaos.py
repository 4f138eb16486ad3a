#!/usr/bin/env python3
"""Faults on a real fleet while a client decodes.

Four network namespaces on a bridge, a storaged in each; on the bridge's own side a client that decodes at full retrieval
(decode.c), a reader of all copies (audit.c) and, with --etcd, an etcd. Faults come one at a time; after each the fleet gets
the time to be whole again. Everything lies in namespaces of this process, so nothing outlives it, however it ends.

A step is right when it agrees with exact attention; a segment is lost when no copy of it has the right bytes. The time from
a fault to the next token is the time to the end of the first step that began after it: each step needs every node; it contains
the comparison. A step's own time is what it spent in lw_attend.
"""
import argparse, ctypes, json, os, random, shutil, signal, subprocess, sys, tempfile, threading, time

TOLERANCE = 1e-4
STEP_LIMIT_S = 30.0  # a client that finishes no step for so long hangs
SESSION_TOKENS = 6000  # a session that has grown by so many makes way for a fresh one
OWN_SYS = "mount -t sysfs sysfs /sys"  # UCX looks for its interfaces there

LIBC = ctypes.CDLL(None)


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def run(*words, check=True):
    return subprocess.run(words, check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def now():
    return time.monotonic()


class Net:
    """The bridge and a namespace for each node. Each namespace lives as long as the process that holds it."""

    def __init__(self, nodes):
        self.holders = []
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.100/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        for i in range(nodes):
            holder = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", f"{OWN_SYS} && echo up && exec sleep infinity"],
                                      stdout=subprocess.PIPE, preexec_fn=die_with_parent)
            self.holders.append(holder)
            holder.stdout.readline()
            run("ip", "link", "add", f"v{i}", "type", "veth", "peer", "name", f"e{i}", "netns", str(holder.pid))
            run("ip", "link", "set", f"v{i}", "master", "br0", "up")
            run(*self.inside(i), "ip", "addr", "add", f"10.77.0.{i + 1}/24", "dev", f"e{i}")
            run(*self.inside(i), "ip", "link", "set", f"e{i}", "up")
            run(*self.inside(i), "ip", "link", "set", "lo", "up")

    def inside(self, i):
        return ["nsenter", "-t", str(self.holders[i].pid), "-n", "-m"]

    def cut(self, i):
        run("ip", "link", "set", f"v{i}", "nomaster")

    def join(self, i):
        run("ip", "link", "set", f"v{i}", "master", "br0")

    def throttle(self, i, rate):
        run(*self.inside(i), "tc", "qdisc", "add", "dev", f"e{i}", "root", "tbf", "rate", rate, "burst", "32kb", "latency", "800ms")

    def unthrottle(self, i):
        run(*self.inside(i), "tc", "qdisc", "del", "dev", f"e{i}", "root")

    def close(self):
        for holder in self.holders:
            holder.kill()
            holder.wait()


class Fleet:
    def __init__(self, args, net, directory):
        self.args, self.net, self.directory = args, net, directory
        self.processes = [None] * args.nodes
        self.etcd = None
        self.addresses = ",".join(f"10.77.0.{i + 1}:7401" for i in range(args.nodes))
        if args.etcd:
            self.start_etcd()
        for i in range(args.nodes):
            self.start(i)

    def start_etcd(self):
        where = f"{self.directory}/etcd"
        log = open(f"{self.directory}/etcd.log", "ab")
        url = "http://10.77.0.100:2379"
        self.etcd = subprocess.Popen(
            ["etcd", "--data-dir", where, "--listen-client-urls", url, "--advertise-client-urls", url,
             "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error"],
            stdout=log, stderr=log, preexec_fn=die_with_parent)

    def start(self, i):
        address = f"10.77.0.{i + 1}"
        ready, given = os.pipe()
        words = self.net.inside(i) + [
            self.args.storaged, "--ready-fd", str(given), "--ctl.listen", f"{address}:7401",
            "--data.listen", f"{address}:7402", "--ctl.http", f"{address}:7403",
            "--data.transports", "tcp", "--mem.arena_bytes", self.args.arena, "--log.level", "warn",
            "--move.repair_after_us", self.args.repair_after, "--move.scan_us", "1s", "--move.rebalance", "false"]
        if self.args.etcd:
            words += ["--etcd.endpoints", "10.77.0.100:2379"]
        else:
            words += ["--fleet.nodes", self.addresses, "--catalogue.path", f"{self.directory}/catalogue.sqlite"]
        words += self.args.option
        log = open(f"{self.directory}/node{i}.log", "ab")
        process = subprocess.Popen(words, pass_fds=[given], stdout=log, stderr=log, preexec_fn=die_with_parent)
        os.close(given)
        with os.fdopen(ready) as line:
            if not line.readline():
                raise RuntimeError(f"node {i} did not start; {self.directory}/node{i}.log:\n" +
                                   open(f"{self.directory}/node{i}.log").read()[-2000:])
        self.processes[i] = process

    def end(self, i, how=signal.SIGTERM, limit=60):
        process = self.processes[i]
        process.send_signal(how)
        status = process.wait(limit)
        self.processes[i] = None
        return status

    def close(self):
        for process in self.processes + [self.etcd]:
            if process is not None:
                process.kill()
                process.wait()


class Talker:
    """A program that says lines and is told lines."""

    def __init__(self, words, log, heard):
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "ab"),
                                        text=True, bufsize=1, preexec_fn=die_with_parent)
        self.thread = threading.Thread(target=self.read, args=(heard,), daemon=True)
        self.thread.start()

    def read(self, heard):
        for line in self.process.stdout:
            heard(line.rstrip("\n"))

    def say(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def close(self, last):
        if self.process.poll() is None:
            self.say(last)
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.thread.join(5)
        return self.process.wait()


class Decoder:
    def __init__(self, args, fleet, log):
        self.steps = []  # (began, ended, attend), seconds
        self.failures = []  # (began, ended, words)
        self.wrong, self.slow = [], []
        self.worst_off, self.tokens, self.first_tokens = 0.0, 0, 0
        self.session, self.sealed, self.traffic = None, 0, {}
        environment = dict(os.environ, LW_TEST_SEED=str(args.seed))
        self.changed = threading.Condition()
        os.environ.update(environment)
        self.talker = Talker([args.decode, fleet.addresses, str(args.tokens), str(args.pause_ms),
                              f"client.transports=tcp;client.control_timeout=2s;{args.client}"], log, self.heard)

    def heard(self, line):
        words = line.split()
        with self.changed:
            if words[0] == "step":
                began, ended, attend = (int(w) / 1e6 for w in words[1:4])
                off = float(words[4])
                self.tokens = int(words[5])
                self.worst_off = max(self.worst_off, off)
                if not off < TOLERANCE:
                    self.wrong.append(line)
                self.steps.append((began, ended, attend))
            elif words[0] == "failed":
                self.failures.append((int(words[1]) / 1e6, int(words[2]) / 1e6, " ".join(words[3:])))
            elif words[0] == "ready":
                self.session, self.tokens, self.sealed = int(words[1]), int(words[2]), int(words[3])
                self.first_tokens = self.tokens
            elif words[0] == "slow":
                self.slow.append(line)
            elif words[0] == "traffic":
                self.traffic = dict(zip(words[1::2], map(int, words[2::2])))
            else:
                print("  decode:", line, flush=True)
            self.changed.notify_all()

    def wait_for(self, what, limit):
        with self.changed:
            if not self.changed.wait_for(lambda: what() or self.talker.process.poll() is not None, limit) or not what():
                raise Hang("the client ended" if self.talker.process.poll() is not None else f"no progress in {limit:.0f} s")

    def step_after(self, since):
        def there():
            return next((s for s in reversed(self.steps) if s[0] >= since), None)
        self.wait_for(there, STEP_LIMIT_S)
        with self.changed:
            return next(s for s in self.steps if s[0] >= since)

    def fresh(self):
        before = self.session
        self.talker.say("fresh")
        self.wait_for(lambda: self.session != before, 120)


class Hang(Exception):
    pass


class Auditor:
    def __init__(self, args, fleet, log):
        self.lines, self.changed = [], threading.Condition()
        self.talker = Talker([args.audit, fleet.addresses, "tcp"], log, self.heard)

    def heard(self, line):
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    def ask(self, line):
        with self.changed:
            count = len(self.lines)
        self.talker.say(line)
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.lines) > count, 60):
                raise Hang("the audit does not end")
            return self.lines[-1].split()

    def look(self, session):
        words = self.ask(f"audit {session}")
        if words[0] != "audit":
            return None
        seen = dict(zip(("segments", "wanted", "right", "lost", "wrong", "bytes"), map(int, words[1:7])))
        seen["on_node"] = list(map(int, words[7:]))
        return seen


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


class Chaos:
    def __init__(self, args, net, fleet, decoder, auditor):
        self.args, self.net, self.fleet, self.decoder, self.auditor = args, net, fleet, decoder, auditor
        self.random = random.Random(args.seed)
        self.drained, self.bad_ends = None, 0
        self.faults, self.lost, self.wrong_copies, self.audits, self.last = [], 0, 0, 0, None

    # each fault: what begins it, what ends it
    def begin(self, kind, node):
        if kind == "kill":
            self.fleet.end(node, signal.SIGKILL)
        elif kind == "stop":
            self.fleet.processes[node].send_signal(signal.SIGSTOP)
        elif kind == "partition":
            self.net.cut(node)
        elif kind == "slow":
            self.net.throttle(node, self.args.slow_rate)
        elif kind == "drain":
            self.drained = self.drain(node)
        elif kind == "restart":
            status = self.fleet.end(node)
            if status != 0:
                print(f"  node {node} ended with {status}")
                self.bad_ends += 1
        elif kind == "etcd-stop":
            self.fleet.etcd.send_signal(signal.SIGSTOP)
        elif kind == "etcd-kill":
            self.fleet.etcd.kill()
            self.fleet.etcd.wait()

    def heal(self, kind, node):
        if kind in ("kill", "restart"):
            self.fleet.start(node)
        elif kind == "stop":
            self.fleet.processes[node].send_signal(signal.SIGCONT)
        elif kind == "partition":
            self.net.join(node)
        elif kind == "slow":
            self.net.unthrottle(node)
        elif kind == "drain":
            self.auditor.ask(f"undrain {node}")
        elif kind == "etcd-stop":
            self.fleet.etcd.send_signal(signal.SIGCONT)
        elif kind == "etcd-kill":
            self.fleet.start_etcd()

    def drain(self, node):
        """The operator's drain: until the manifest has nothing there. Seconds, bytes that left (copies are alike in size)."""
        def look():
            seen = None
            while seen is None:
                seen = self.auditor.look(self.decoder.session)
            return seen
        before, began = look(), now()
        words = self.auditor.ask(f"drain {node}")
        if words[:2] != ["drain", "0"]:
            raise Hang(f"drain of node {node}: {words}")
        while look()["on_node"][node] > 0:
            if now() - began > self.args.whole_limit:
                raise Hang(f"node {node} is not empty after {self.args.whole_limit:.0f} s")
        return now() - began, before["bytes"] / max(1, before["right"]) * before["on_node"][node]

    def whole(self, limit):
        """Waits until every copy that the manifest names is there and right; seconds, or None."""
        began, seen = now(), None
        while now() - began < limit:
            seen = self.auditor.look(self.decoder.session)
            self.last = seen or self.auditor.lines[-1]
            if seen is not None:
                self.audits += 1
                self.wrong_copies += seen["wrong"]
                if seen["segments"] > 0 and seen["right"] == seen["wanted"]:
                    return now() - began
            time.sleep(0.1)
        if seen is not None:
            self.lost += seen["lost"]
        return None

    def settle(self):
        if self.decoder.tokens > self.decoder.first_tokens + SESSION_TOKENS:
            self.decoder.fresh()
        time.sleep(self.args.calm)

    def fault(self, kind, node=None):
        if kind == "roll":  # every node once, the session open throughout
            for i in range(self.args.nodes):
                self.fault("restart", i)
            return
        if node is None:
            node = self.random.randrange(self.args.nodes)
        self.settle()
        failures, slow = len(self.decoder.failures), len(self.decoder.slow)
        began = now()
        self.begin(kind, node)
        took = now() - began  # a kill is a fault when the process is gone
        if kind not in ("drain", "restart"):
            time.sleep(self.args.hold)
        self.heal(kind, node)
        healed = now()
        self.decoder.step_after(healed)
        whole = self.whole(self.args.whole_limit)
        first = self.decoder.step_after(began)
        with self.decoder.changed:
            during = [s for s in self.decoder.steps if s[1] >= began]
        result = {"kind": kind, "node": node, "to_token_s": first[1] - began, "worst_step_s": max(s[2] for s in during),
                  "failed_steps": len(self.decoder.failures) - failures, "begin_s": took, "whole_s": whole, "steps": len(during)}
        if kind == "drain":
            seconds, left = self.drained
            result.update(drain_s=seconds, drain_bytes=left, step_p99_s=percentile([s[2] for s in during if s[0] < healed], .99))
            print(f"drain      node {node}: empty after {seconds:.2f} s, {left / 1e6:.1f} MB, {left / 1e6 / seconds:.1f} MB/s; "
                  f"p99 of steps meanwhile {result['step_p99_s'] * 1e3:.0f} ms")
        self.faults.append(result)
        words = "" if whole is not None else f"; NOT WHOLE AGAIN: {self.last}"
        for failure in self.decoder.failures[failures:]:
            words += f"\n  failed after {failure[1] - failure[0]:.3f} s: {failure[2]}"
        for line in self.decoder.slow[slow:]:
            words += f"\n  {line}"
        print(f"{kind:10} node {node}: next token after {result['to_token_s'] * 1e3:6.0f} ms, worst step "
              f"{result['worst_step_s'] * 1e3:6.0f} ms, {result['failed_steps']} failed, whole again "
              f"{whole if whole is not None else -1:.1f} s after its end{words}", flush=True)

    def baseline(self, seconds):
        began = now()
        time.sleep(seconds)
        self.decoder.step_after(began)
        with self.decoder.changed:
            return [s[2] for s in self.decoder.steps if s[0] >= began]

    def run(self, kinds, minutes):
        calm = self.baseline(3.0)
        if self.whole(self.args.whole_limit) is None:
            raise Hang(f"the session was never whole: {self.last}")
        until = now() + minutes * 60
        while now() < until:
            for kind in kinds:
                if now() < until:
                    self.fault(kind)
        return calm

    def report(self, calm, load):
        decoder = self.decoder
        rows = {"none": {"faults": 0, "step_p50_ms": percentile(calm, .5) * 1e3, "step_p99_ms": percentile(calm, .99) * 1e3,
                         "step_worst_ms": max(calm) * 1e3}}
        for kind in dict.fromkeys(f["kind"] for f in self.faults):
            mine = [f for f in self.faults if f["kind"] == kind]
            token = [f["to_token_s"] * 1e3 for f in mine]
            rows[kind] = {"faults": len(mine), "token_p50_ms": percentile(token, .5), "token_p99_ms": percentile(token, .99),
                          "token_worst_ms": max(token), "step_worst_ms": max(f["worst_step_s"] for f in mine) * 1e3,
                          "failed_steps": sum(f["failed_steps"] for f in mine),
                          "whole_worst_s": max((f["whole_s"] or float("inf")) for f in mine)}
        good = not (self.bad_ends or decoder.wrong or decoder.failures or self.lost or self.wrong_copies) and \
            all(f["whole_s"] is not None for f in self.faults)
        print(f"\n{'fault':10} {'count':>5} {'to the next token: p50':>23} {'p99':>7} {'worst':>7}  {'worst step':>10} {'failed':>7} {'whole again':>12}")
        for kind, row in rows.items():
            if kind == "none":
                print(f"{'none':10} {'':>5} {row['step_p50_ms']:20.0f} ms {row['step_p99_ms']:7.0f} {row['step_worst_ms']:7.0f}  (steps)")
            else:
                print(f"{kind:10} {row['faults']:5} {row['token_p50_ms']:20.0f} ms {row['token_p99_ms']:7.0f} {row['token_worst_ms']:7.0f}  "
                      f"{row['step_worst_ms']:7.0f} ms {row['failed_steps']:7} {row['whole_worst_s']:10.1f} s")
        print(f"steps {len(decoder.steps)}, wrong {len(decoder.wrong)}, failed {len(decoder.failures)}, largest error {decoder.worst_off:.2g}; "
              f"audits {self.audits}: lost segments {self.lost}, wrong copies {self.wrong_copies}; load {load[0]:.1f} to "
              f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; seed {self.args.seed}: {'ok' if good else 'BAD'}", flush=True)
        return good, {"kinds": rows, "faults": self.faults, "steps": len(decoder.steps), "wrong": len(decoder.wrong),
                      "failed": len(decoder.failures), "worst_off": decoder.worst_off, "audits": self.audits, "lost": self.lost,
                      "wrong_copies": self.wrong_copies, "traffic": decoder.traffic, "load": [load[0], os.getloadavg()[0]],
                      "cores": os.cpu_count(), "seed": self.args.seed, "ok": good}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storaged", required=True)
    parser.add_argument("--decode", required=True)
    parser.add_argument("--audit", required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kinds", default="", help="kill,stop,partition,slow and with --etcd etcd-stop,etcd-kill (these are the default); "
                        "drain (one node by the operator, then taken back), roll (all nodes ended and started, one after another)")
    parser.add_argument("--etcd", action="store_true", help="members and catalogue on an etcd instead of a static fleet")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=6000, help="prefilled")
    parser.add_argument("--pause-ms", type=int, default=20, help="between two steps")
    parser.add_argument("--hold", type=float, default=3.0, help="seconds that a fault lasts")
    parser.add_argument("--calm", type=float, default=1.0, help="seconds before a fault")
    parser.add_argument("--whole-limit", type=float, default=60.0, help="seconds in which the fleet must be whole again")
    parser.add_argument("--slow-rate", default="4mbit")
    parser.add_argument("--arena", default="128m")
    parser.add_argument("--repair-after", default="10s")
    parser.add_argument("--client", default="", help="options of the client, as client.hedge=0")
    parser.add_argument("--option", action="append", default=[], help="of every storaged, as --option=--move.bytes_s=64m")
    parser.add_argument("--json", help="the figures, as a file")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    args = parser.parse_args()
    known = ["kill", "stop", "partition", "slow"] + (["etcd-stop", "etcd-kill"] if args.etcd else [])
    args.kinds = args.kinds.split(",") if args.kinds else known
    for kind in args.kinds:
        if kind not in known + ["drain", "restart", "roll"]:
            parser.error(f"no such fault here: {kind}")
    return args


def can_run(args):
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "-m", "sh", "-c", f"{OWN_SYS} && ip link add br0 type bridge && ip link add v0 type veth peer name e0"],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        return "network namespaces with bridges cannot be made here"
    if args.etcd and not shutil.which("etcd"):
        return "there is no etcd"
    return None


def chaos(args):
    directory = tempfile.mkdtemp(prefix="longwave-chaos-")
    net = fleet = decoder = auditor = None
    good = False
    load = os.getloadavg()
    try:
        net = Net(args.nodes)
        fleet = Fleet(args, net, directory)
        time.sleep(1.5)  # the nodes hear of each other
        decoder = Decoder(args, fleet, f"{directory}/decode.log")
        decoder.wait_for(lambda: decoder.session is not None, 120)
        auditor = Auditor(args, fleet, f"{directory}/audit.log")
        print(f"seed {args.seed}: {args.nodes} nodes, session of {decoder.tokens} tokens, {decoder.sealed} sealed, load {load[0]:.1f}", flush=True)
        test = Chaos(args, net, fleet, decoder, auditor)
        try:
            calm = test.run(args.kinds, args.minutes)
        finally:
            ended = decoder.talker.close("end"), auditor.talker.close("end")
        good, figures = test.report(calm, load)
        if ended != (0, 0):
            print(f"the client ended with {ended[0]}, the audit with {ended[1]}")
            good = False
        if args.json:
            with open(args.json, "w") as out:
                json.dump(figures, out, indent=1)
    except Hang as hang:
        print(f"HANG: {hang}", flush=True)
        args.keep = True
    finally:
        if fleet:
            fleet.close()
        if net:
            net.close()
        if good and not args.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"logs in {directory}")
    return 0 if good else 1


def main():
    args = parse()
    if os.environ.get("LW_CHAOS_INSIDE") != "1":
        cannot = can_run(args)
        if cannot:
            print(f"skipped: {cannot}")
            sys.exit(77)
        os.environ["LW_CHAOS_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "-m", "sh", "-c", f'{OWN_SYS} && exec "$@"', "sh", sys.executable,
                              os.path.abspath(__file__)] + sys.argv[1:])
    sys.exit(chaos(args))


if __name__ == "__main__":
    main()
