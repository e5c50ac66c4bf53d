"""Ray tracing that has one outcome."""

from collections.abc import Iterator
from contextlib import contextmanager

from ueloc_core.radio.ray_tracing import device_name


@contextmanager
def one_thread() -> Iterator[None]:
    """Give Dr.Jit one thread.

    Where several rays find the same edge at once, the first to come decides how Sionna files
    it; with more threads the same seed then gives other draws of the diffracted rays.
    """
    device_name()  # finds LLVM and imports Dr.Jit
    import drjit

    before = drjit.thread_count()
    drjit.set_thread_count(1)
    try:
        yield
    finally:
        drjit.set_thread_count(before)
