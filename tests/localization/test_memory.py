"""Memory that is kept: at best a setting of the C library, never an error."""

import sys

from ueloc_core.localization import memory
from ueloc_core.localization.memory import keep_freed_memory


def test_it_says_whether_it_could():
    assert keep_freed_memory() in (True, False)
    assert keep_freed_memory() == keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory.__wrapped__()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory.__wrapped__()
