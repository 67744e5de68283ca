"""How processes speak: small typed messages over sockets, rows in shared memory.

messages   every message there is, one union per receiver
wire       a message <-> bytes (orjson)
mailbox    seqpacket connections that carry messages and descriptors; incarnations are checked here
segment    the slab: slots of a memfd that hold Arrow IPC, owned by the reader until the rows are durable
arrow      the Arrow schema of a table's change log; a batch <-> the bytes of a slot
jsontext   JSON text by Arrow kernels
heartbeat  one shared page: the time of each child's last sign of life
scratch    private directories, and those that killed processes have left
"""
