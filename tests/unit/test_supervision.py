"""The supervisor's decisions: pure, with a clock that the test holds."""

from types import SimpleNamespace

import pytest

from etl_supervisor.errors import Kind
from etl_supervisor.exits import Exit, code_of
from etl_supervisor.model.pipeline import Source, SourceSpec
from etl_supervisor.policy import DIRECTIVES
from etl_supervisor.supervision.breaker import COOL_DOWN_SECONDS, TRANSITIONS, Breaker, Event, State
from etl_supervisor.supervision.decide import changes
from etl_supervisor.supervision.intensity import RESTARTS_MAX, STEADY_SECONDS, WINDOW_SECONDS, Intensity
from etl_supervisor.supervision.post import UNBORN_SECONDS, Post
from etl_supervisor.supervision.spec import ChildKind, ChildSpec


def spec(name, host="h"):
    return SourceSpec(Source(1, name, host, 1, "d", "u", None, "disable", None, "p", 1), ())


def post():
    return Post(ChildSpec("actor-0", ChildKind.ACTOR, "m:f"))


def test_a_new_source_starts_a_gone_one_stops_a_changed_one_restarts():
    running = {"kept": spec("kept"), "gone": spec("gone"), "changed": spec("changed")}
    decided = changes([spec("kept"), spec("changed", "other"), spec("new")], running)
    assert [s.source.name for s in decided.start] == ["new"]
    assert decided.stop == ("gone",)
    assert [s.source.pg_host for s in decided.restart] == ["other"]


def test_the_same_configuration_changes_nothing():
    decided = changes([spec("a")], {"a": spec("a")})
    assert (decided.start, decided.stop, decided.restart) == ((), (), ())


def test_restarts_wait_longer_each_time_until_they_are_too_many():
    intensity = Intensity()
    delays = [intensity.ended(float(n), 0.0) for n in range(RESTARTS_MAX)]
    assert delays == sorted(delays)
    assert delays[0] < 0.1 < delays[-1]
    assert intensity.ended(float(RESTARTS_MAX), 0.0) is None


def test_after_a_steady_life_the_first_delay_comes_again_and_the_breaker_counts_on():
    intensity = Intensity()
    delays = [intensity.ended(float(n), 0.0, steady=n == 3) for n in range(RESTARTS_MAX)]
    assert delays[3] == delays[0]
    assert delays[4] == delays[1]
    assert intensity.ended(float(RESTARTS_MAX), 0.0, steady=True) is None


@pytest.mark.parametrize(("code", "opened"), [(Exit.STREAM, False), (-9, True), (Exit.UNREACHABLE, True)])
def test_a_stream_that_breaks_off_after_a_steady_life_does_not_count(code, opened):
    it = post()
    for n in range(RESTARTS_MAX + 1):
        it.child = SimpleNamespace(ready=True, started=n * 10.0)
        it.ended(code, n * 10.0 + STEADY_SECONDS, 0.5)
    assert (it.breaker.state is State.OPEN) == opened


def test_restarts_long_ago_do_not_count():
    intensity = Intensity()
    for n in range(RESTARTS_MAX * 3):
        assert intensity.ended(n * WINDOW_SECONDS, 0.9) < 0.2


def test_the_breakers_transitions_are_complete():
    for state in State:
        assert (state, Event.TRIPPED) in TRANSITIONS
    breaker = Breaker()
    breaker.trip(100.0)
    assert not breaker.trial(100.0 + COOL_DOWN_SECONDS - 1)
    assert breaker.trial(100.0 + COOL_DOWN_SECONDS)
    assert not breaker.trial(100.0 + COOL_DOWN_SECONDS), "one trial per cool-down"
    breaker.ready()
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("code", [Exit.CONFIG, Exit.REFUSED])
def test_what_needs_a_person_opens_the_breaker_at_once(code):
    it = post()
    it.ended(code, 10.0, 0.5)
    assert it.breaker.state is State.OPEN
    assert not it.may_start(11.0)
    assert it.may_start(10.0 + COOL_DOWN_SECONDS)


def test_a_trial_that_fails_opens_the_breaker_again():
    it = post()
    it.ended(Exit.CONFIG, 0.0, 0.0)
    assert it.may_start(COOL_DOWN_SECONDS)
    it.ended(1, COOL_DOWN_SECONDS, 0.0)
    assert it.breaker.state is State.OPEN


def test_a_child_for_which_there_is_no_room_is_tried_again_and_its_breaker_too():
    it = post()
    error = OSError(11, "Resource temporarily unavailable")
    it.unborn(100.0, error)
    assert not it.may_start(100.0 + UNBORN_SECONDS - 0.1)
    assert it.may_start(100.0 + UNBORN_SECONDS)
    it.breaker.trip(200.0)
    assert it.may_start(200.0 + COOL_DOWN_SECONDS)
    it.unborn(200.0 + COOL_DOWN_SECONDS, error)
    assert it.may_start(200.0 + 2 * COOL_DOWN_SECONDS), "a trial that never began is not the only one"


def test_a_child_killed_once_comes_back_nearly_at_once():
    it = post()
    it.ended(-9, 10.0, 0.0)
    assert it.may_start(10.2)
    assert it.restarts == 1


def test_every_kind_has_a_directive_and_an_exit_code():
    assert set(DIRECTIVES) == set(Kind)
    for kind in Kind:
        assert code_of(kind) in Exit
