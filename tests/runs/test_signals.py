import os
import signal
import threading

import pytest

from landscape.runs import StopFlag, stop_on_signals

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_sets_the_flag_and_handlers_are_restored(number):
    before = handlers()
    with stop_on_signals() as flag:
        assert not flag()
        assert flag.signal is None
        os.kill(os.getpid(), number)
        assert flag()
        assert flag.signal == number.name
    assert handlers() == before


def test_a_second_interrupt_from_the_keyboard_interrupts_at_once():
    before = handlers()
    reached = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as flag:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append(flag())
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("not reached")
    assert reached == [True]
    assert handlers() == before


def test_handlers_are_restored_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        raise ZeroDivisionError
    assert handlers() == before


def test_blocks_may_be_nested():
    with stop_on_signals() as outer:
        with stop_on_signals() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert inner()
        assert not outer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.signal == "SIGTERM"


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with stop_on_signals() as flag:
            seen.append((handlers(), flag()))

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_flag_can_be_set_by_hand():
    flag = StopFlag()
    assert not flag()
    flag.set("a test")
    assert flag()
    assert flag.signal == "a test"
