"""An independent client of the control plane: Python's gRPC against ctl_node. Plain, TLS and mTLS.

ctl_python.py CTL_NODE PROTO_FOLDER. Exit status 77 skips: no Python gRPC, no protoc or its plugin, no openssl for TLS.
"""
import importlib
import os
import shutil
import subprocess
import sys
import tempfile

SYSTEM_PYTHON = "/usr/bin/python3"
SKIP = 77


def skip(why):
    print("skipped:", why)
    sys.exit(SKIP)


try:
    import grpc
    import google.protobuf  # noqa: F401
except ImportError:
    # Distributions install gRPC for their own Python, which need not be the first on the path.
    if os.path.exists(SYSTEM_PYTHON) and os.path.realpath(sys.executable) != os.path.realpath(SYSTEM_PYTHON):
        os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON] + sys.argv)
    skip("python3-grpcio is not installed")

CERTS = """
set -e; EC='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $EC -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
for n in all tenant; do
  openssl req $EC -subj /CN=$n -keyout $n.key -out $n.csr
  u=,URI:longwave://; test $n = all && u=${u}node${u}admin$u
  printf "subjectAltName=DNS:localhost,IP:127.0.0.1${u}tenant/python\\n" > san.ext
  openssl x509 -req -in $n.csr -CA ca.pem -CAkey ca.key -set_serial 1$RANDOM -days 2 -extfile san.ext -out $n.pem
done
"""


class Node:
    """A ctl_node process; ends with its standard input."""

    def __init__(self, program, arguments=()):
        self.process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the node did not start"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(30) == 0, "the node did not end well"


def generate(folder, protos):
    plugin = shutil.which("grpc_python_plugin")
    if not shutil.which("protoc") or not plugin:
        skip("protoc or grpc_python_plugin is not installed")
    names = ["session", "fleet", "admin", "health"]
    subprocess.run(["protoc", "--proto_path=" + protos, "--python_out=" + folder, "--grpc_out=" + folder,
                    "--plugin=protoc-gen-grpc=" + plugin] + [n + ".proto" for n in names], check=True)
    sys.path.insert(0, folder)
    return [importlib.import_module(n + suffix) for n in names for suffix in ("_pb2", "_pb2_grpc")]


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, timeout=20, **options)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError("was not refused: %s" % code)


def exercise(channel, modules):
    session, session_grpc, fleet, fleet_grpc, admin, admin_grpc, health, health_grpc = modules
    sessions, fleets = session_grpc.SessionStub(channel), fleet_grpc.FleetStub(channel)
    admins, healths = admin_grpc.AdminStub(channel), health_grpc.HealthStub(channel)
    client = session.Client(tenant="python", client_id=2**63 + 17, incarnation=5)
    shape = session.Shape(model_id="m", layer_count=2, kv_head_count=1, query_head_count=2, head_dim=64, dtype=1,
                          rank_count=1, segment_tokens=1024, replicas=1)

    # What is refused.
    refused(grpc.StatusCode.UNIMPLEMENTED, channel.unary_unary("/longwave.v1.Session/Nothing"), b"")
    refused(grpc.StatusCode.INVALID_ARGUMENT, channel.unary_unary("/longwave.v1.Session/Get"), b"\x07\x07")
    refused(grpc.StatusCode.NOT_FOUND, sessions.Get, session.GetRequest(client=client, session_id=99))
    refused(grpc.StatusCode.INVALID_ARGUMENT, sessions.Create, session.CreateRequest(client=client, lease_us=1))
    refused(grpc.StatusCode.NOT_FOUND, healths.Check, health.HealthCheckRequest(service="nobody"))
    refused(grpc.StatusCode.PERMISSION_DENIED, fleets.Sync, fleet.SyncRequest(node=fleet.Node(control="stranger:1")))

    # The life of a session.
    row = sessions.Create(session.CreateRequest(client=client, shape=shape, lease_us=60 * 10**6), timeout=20).session
    assert row.term == 1 and len(row.token) == 16 and row.lease_client == client.client_id
    ranges = [session.Range(first_token=i * 1024, token_count=1024, generation=1, replicas=1, bytes=7,
                            node_index=[0, i]) for i in range(3)]
    commit = session.CommitRequest(session_id=row.session_id, token=row.token, term=1, ranges=ranges)
    sessions.Commit(commit, timeout=20)
    sessions.Commit(commit, timeout=20)
    commit.term = 2
    refused(grpc.StatusCode.ABORTED, sessions.Commit, commit)
    commit.token = b"x" * 16
    refused(grpc.StatusCode.PERMISSION_DENIED, sessions.Commit, commit)
    back = sessions.Ranges(session.RangesRequest(session_id=row.session_id, token=row.token, capacity=10), timeout=20)
    assert [(r.first_token, list(r.node_index)) for r in back.ranges] == [(i * 1024, [0, i]) for i in range(3)]
    child = sessions.Fork(session.ForkRequest(client=client, parent_id=row.session_id, max_tokens=2048,
                                              lease_us=60 * 10**6), timeout=20).session
    assert child.cut_tokens == 2048
    check = sessions.Check(session.CheckRequest(session_id=child.session_id, token=child.token), timeout=20)
    assert list(check.origins) == [child.session_id, row.session_id] and list(check.cuts) == [2**32 - 1, 2048]
    assert sessions.Renew(session.RenewRequest(client=client, lease_us=60 * 10**6), timeout=20).renewed == 2
    sessions.Pin(session.PinRequest(client=client, session_id=child.session_id, pinned=True), timeout=20)
    listed = sessions.List(session.ListRequest(client=client, capacity=10), timeout=20).sessions
    assert [s.session_id for s in listed] == [row.session_id, child.session_id] and listed[1].pinned
    for one in (child, row):
        sessions.Drop(session.DropRequest(client=client, session_id=one.session_id), timeout=20)
    refused(grpc.StatusCode.NOT_FOUND, sessions.Get, session.GetRequest(client=client, session_id=row.session_id))

    # Streams, health, the node itself.
    for view in fleets.Watch(fleet.WatchViewRequest(), timeout=20):
        if view.nodes[0].state == 1:
            break
    assert view.nodes[0].data == "127.0.0.1:4242" and view.fleet_id and view.epoch
    for status in healths.Watch(health.HealthCheckRequest(), timeout=20):
        if status.status == health.HealthCheckResponse.SERVING:
            break
    assert healths.Check(health.HealthCheckRequest(), timeout=20).status == health.HealthCheckResponse.SERVING
    status = admins.Status(admin.StatusRequest(), timeout=20)
    assert status.ready and status.holds_catalogue and "storaged_ctl_calls " in status.metrics


def tenant_only(channel, modules):
    """What the certificate of one tenant's client opens, and what it does not."""
    session, session_grpc, fleet, fleet_grpc, admin, admin_grpc, _, _ = modules
    sessions, fleets = session_grpc.SessionStub(channel), fleet_grpc.FleetStub(channel)
    denied = grpc.StatusCode.PERMISSION_DENIED
    for tenant in ("ruby", "", "pythonic", "pytho", "Python"):
        client = session.Client(tenant=tenant, client_id=1, incarnation=1)
        assert tenant in refused(denied, sessions.List, session.ListRequest(client=client, capacity=10))
    refused(denied, sessions.Check, session.CheckRequest(session_id=1, token=b"x" * 16))
    refused(denied, fleets.Sync, fleet.SyncRequest())
    refused(denied, fleets.Orphans, fleet.OrphansRequest())
    refused(denied, fleets.Expire, fleet.ExpireRequest(bytes=1))
    refused(denied, admin_grpc.AdminStub(channel).Status, admin.StatusRequest())
    refused(denied, admin_grpc.AdminStub(channel).SetLogLevel, admin.SetLogLevelRequest(level="debug"))
    refused(grpc.StatusCode.INVALID_ARGUMENT, sessions.List, session.ListRequest(capacity=10))
    sessions.List(session.ListRequest(client=session.Client(tenant="python"), capacity=10), timeout=20)
    fleets.Get(fleet.GetViewRequest(), timeout=20)


def main():
    program, protos = sys.argv[1:3]
    folder = tempfile.mkdtemp(prefix="lw-python-")
    try:
        modules = generate(folder, protos)
        with Node(program) as node, grpc.insecure_channel(node.address) as channel:
            exercise(channel, modules)
        print("plain: every call passed")
        if shutil.which("openssl") is None:
            return
        subprocess.run(["bash", "-c", CERTS], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        pem = {n: open(os.path.join(folder, n), "rb").read()
               for n in ("ca.pem", "all.pem", "all.key", "tenant.pem", "tenant.key")}
        paths = [os.path.join(folder, n) for n in ("ca.pem", "all.pem", "all.key")]
        with Node(program, paths) as node:
            mutual = grpc.ssl_channel_credentials(pem["ca.pem"], pem["all.key"], pem["all.pem"])
            with grpc.secure_channel(node.address, mutual) as channel:
                exercise(channel, modules)
            tenant = grpc.ssl_channel_credentials(pem["ca.pem"], pem["tenant.key"], pem["tenant.pem"])
            with grpc.secure_channel(node.address, tenant) as channel:
                tenant_only(channel, modules)
            nameless = grpc.ssl_channel_credentials(pem["ca.pem"])
            with grpc.secure_channel(node.address, nameless) as channel:
                refused(grpc.StatusCode.UNAVAILABLE,
                        modules[3].FleetStub(channel).Get, modules[2].GetViewRequest())
        print("mTLS: every call passed, a client without a certificate was refused")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
