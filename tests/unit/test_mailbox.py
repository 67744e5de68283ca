"""Mailboxes and slabs, over real sockets and real shared memory."""

import os
import selectors

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_supervisor.errors import Kind
from etl_supervisor.ipc import arrow, mailbox, segment
from etl_supervisor.ipc.messages import Apply, CloseTable, Hello, Segment, Trouble


def received(connection: mailbox.Connection):
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while (found := connection.receive()) is None:
            assert selector.select(5), "no message within 5 seconds"
    return found


def test_messages_arrive_whole_and_in_order():
    left, right = mailbox.pair()
    for number in range(500):
        left.send(Apply(number, number * 2))
    for number in range(500):
        left.flush()
        assert received(right) == (Apply(number, number * 2), [])
    left.close()
    right.close()


def test_a_message_larger_than_the_socket_buffer_is_queued_and_arrives():
    left, right = mailbox.pair()
    message = Trouble(Kind.INTERNAL, "x" * 3_000_000, "", "")
    left.send(message)
    assert left.wants_write
    found = None
    while found is None:
        left.flush()
        found = right.receive()
    assert found == (message, [])
    left.close()
    right.close()


def test_descriptors_travel_with_their_message():
    left, right = mailbox.pair()
    reader, writer = os.pipe()
    left.send(CloseTable(1))
    left.send(Hello("reader", 1, 2, 3), [writer])
    left.send(CloseTable(2))
    os.close(writer)
    assert received(right) == (CloseTable(1), [])
    message, (fd,) = received(right)
    assert message == Hello("reader", 1, 2, 3)
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert received(right) == (CloseTable(2), [])
    left.close()
    right.close()


def test_a_dead_peer_is_a_connection_error_after_its_last_message():
    left, right = mailbox.pair()
    left.send(CloseTable(1))
    left.close()
    assert received(right) == (CloseTable(1), [])
    with pytest.raises(ConnectionError):
        received(right)
    with pytest.raises(ConnectionError):
        right.send(CloseTable(2))
    right.close()


def test_a_listener_outlives_whoever_accepts_from_it():
    listener = mailbox.listen()
    assert mailbox.accept(listener) is None
    first = mailbox.connect(mailbox.address(listener))
    accepted = mailbox.accept(listener)
    accepted.close()
    second = mailbox.connect(mailbox.address(listener))
    second.send(CloseTable(7))
    accepted = mailbox.accept(listener)
    assert received(accepted) == (CloseTable(7), [])
    for connection in (first, second, accepted):
        connection.close()
    address = mailbox.address(listener)
    listener.close()
    with pytest.raises(ConnectionError):
        mailbox.connect(address)


def batch(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"id": pa.array(range(rows), pa.int64()), "text": pa.array(["x" * 10] * rows)})


def test_a_batch_is_read_where_it_was_written():
    writer = segment.SlabWriter(1 << 20)
    rows = batch(1000)
    run, length = writer.write(rows, arrow.ipc_size(rows))
    reader = segment.SlabReader(os.dup(writer.fd), writer.slots, writer.slot_bytes)
    before = pa.total_allocated_bytes()
    found = reader.batch(Segment(1, 1, run.slot, run.generation, length, 1000, "a", "b", 0))
    assert pa.total_allocated_bytes() - before < length / 10, "it is not copied"
    assert found.equals(rows)
    writer.close()


def test_a_segment_outside_the_slab_is_refused():
    writer = segment.SlabWriter(1 << 20)
    reader = segment.SlabReader(os.dup(writer.fd), writer.slots, writer.slot_bytes)
    with pytest.raises(ValueError, match="outside"):
        reader.batch(Segment(1, 1, writer.slots, 1, 10, 1, "a", "b", 0))
    writer.close()


def test_an_oversize_batch_travels_in_a_sealed_memfd():
    rows = batch(5000)
    fd, length = segment.oversize(rows, arrow.ipc_size(rows))
    with pytest.raises(OSError):
        os.pwrite(fd, b"x", 0)
    assert segment.oversize_batch(fd, length).equals(rows)


def test_rows_in_flight_are_not_in_dev_shm():
    rows, writer = batch(5000), segment.SlabWriter(1 << 20)
    fd, _ = segment.oversize(rows, arrow.ipc_size(rows))
    assert os.stat("/dev/shm").st_dev not in {os.fstat(writer.fd).st_dev, os.fstat(fd).st_dev}
    os.close(fd)
    writer.close()


def test_a_slab_takes_pages_when_they_are_written_and_nobody_can_take_them_away():
    rows, writer = batch(100), segment.SlabWriter(64 << 20)
    assert os.fstat(writer.fd).st_blocks == 0
    run, _ = writer.write(rows, arrow.ipc_size(rows))
    assert 0 < os.fstat(writer.fd).st_blocks * 512 <= run.count * writer.slot_bytes
    with pytest.raises(PermissionError):
        os.ftruncate(writer.fd, 0)
    writer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=80))
def test_runs_never_overlap_and_all_slots_come_back(steps):
    slab = segment.SlabWriter(16 * 4096, slot_bytes=4096)
    held = []
    for take, size in steps:
        if take:
            run = slab._acquire(size)
            if run is None:
                free = [count for _, count in slab._free]
                assert max(free, default=0) < size
            else:
                held.append(run)
        elif held:
            slab.release(held.pop(size % len(held)))
        taken = [slot for run in held for slot in range(run.slot, run.slot + run.count)]
        assert len(taken) == len(set(taken))
        assert slab.used_bytes == len(taken) * 4096
    for run in held:
        slab.release(run)
    assert slab._free == [(0, slab.slots)]
    slab.close()
