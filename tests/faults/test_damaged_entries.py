"""Entries of the store are damaged, while a sweep runs and between runs: set aside, and computed again."""

from __future__ import annotations

import pytest
from tiny_sweep import assert_undisturbed, wait_for

pytestmark = pytest.mark.slow


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(file):
    file.unlink()


WAYS = (flip, truncate, lose)


def test_entries_damaged_while_a_sweep_runs_and_between_runs_are_computed_again(tiny, undisturbed):
    """Results in each way while others are computed; afterwards the weights of networks, and of each one reader."""
    damaged = set()

    def entry(kind, digest):
        return tiny.storage / "stages" / kind / digest[:2] / digest

    def probes():
        kinds = tiny.stages() if tiny.computed() else {}
        return [digest for digest in tiny.computed() if kinds.get(digest) == "probe" and digest not in damaged]

    with tiny.driver() as driver:
        for way in WAYS:
            wait_for(probes, driver)
            digest = probes()[0]
            way(entry("probe", digest) / "result.json")
            damaged.add(digest)
        _, err = driver.communicate(timeout=900)
    # 1: what was damaged after its trial had ended is missing from the table
    assert driver.returncode in (0, 1), err

    networks = {}
    for trial in tiny.journal.plan()["trials"]:
        for cell in trial["cells"]:
            if not networks.keys() & set(cell["pretrain"]) and cell["transfer"] not in damaged:
                networks[cell["pretrain"][0]] = cell["transfer"]
    for way, (network, probe) in zip(WAYS, networks.items(), strict=False):
        way(next(entry("pretrain", network).glob("weights-*.safetensors")))
        lose(entry("probe", probe) / "result.json")
        damaged |= {network, probe}
    tiny.run()
    assert len(list(tiny.storage.joinpath("damaged").glob("pretrain-*"))) == len(WAYS), "set aside, and not deleted"
    assert_undisturbed(tiny, undisturbed, again=damaged)
