"""ttrpc, containerd's small RPC protocol: frames, a server and a client. There is no library for Python."""
