"""Ports of the loopback."""

from etl_supervisor.embedded import ports


def test_a_port_that_was_chosen_is_not_chosen_again_though_nobody_listens(monkeypatch) -> None:
    monkeypatch.setattr(ports, "PORT_MAX", ports.PORT_MIN + 9)
    monkeypatch.setattr(ports, "_chosen", set())
    free = sum(ports.is_free(port) for port in range(ports.PORT_MIN, ports.PORT_MAX + 1))
    chosen = [ports.choose_port() for _ in range(free - 1)]
    assert len(set(chosen)) == len(chosen)
