import subprocess
import sys
import time

import numpy as np
import psutil

from agentlightning.report.rss import PeakRss, tree_rss

MIB = 1024 * 1024


def test_peak_stays_after_memory_is_freed():
    with PeakRss(interval=0.02) as rss:
        before = rss.peak
        # Above the process's own high-water mark, or earlier tests could hide it.
        block = np.ones((int(before) - int(tree_rss(psutil.Process())) + 100) * MIB // 8)
        held = tree_rss(psutil.Process())
        del block
    assert held > before + 50
    assert rss.stop() > held - 2  # the kernel's counters lag by a few pages
    assert rss.stop() == rss.stop()


def test_children_count():
    with PeakRss(interval=0.02) as rss:
        own = rss.peak
        code = f"import time; block = b'x' * ({int(own) + 100} * {MIB}); print('ready', flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + 30
        while rss._peak < own + 100 and time.monotonic() < deadline:  # what the thread saw by itself
            time.sleep(0.02)
        child.kill()
        child.wait()
        child.stdout.close()
    assert rss.peak >= own + 100
