import platform

import pytest

from halflabel.training.allocator import keep_freed_memory


def test_off_switch(monkeypatch):
    monkeypatch.setenv("HALFLABEL_KEEP_MEMORY", "0")
    assert keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_set_on_glibc(monkeypatch):
    monkeypatch.delenv("HALFLABEL_KEEP_MEMORY", raising=False)
    assert keep_freed_memory() is True
