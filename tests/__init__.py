"""Tests of wasm-sandboxer."""

import os

# gRPC's fork handlers (fork_posix.cc) stop its threads around each fork of a test: now and then a connection is lost
# or the process hangs. No test uses gRPC in what it forks.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
