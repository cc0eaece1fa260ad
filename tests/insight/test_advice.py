"""What is recommended, and that it comes true: a life is had once, and once more as was advised."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.insight.lives import life, live
from trio_rooms._cli.traces import replay_file


async def test_what_is_advised_comes_true(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Few hibernate; a shorter timeout is recommended, and does what was predicted when it is set."""
    lived = life(rooms=6, clients=3, seconds=1200, pause=90)
    before = await live(lived, idle_timeout=300, connection_idle_timeout=300)
    (advice,) = before.recommended
    assert advice.rule == "hibernation_ratio"
    evidence, predicted = advice.evidence, advice.predicted
    assert evidence["hibernation_ratio"] == pytest.approx(before.ratio, abs=0.05)
    assert before.ratio < 0.7 <= predicted["hibernation_ratio"]
    assert f"idle_timeout={predicted['idle_timeout']:g} in place of 300" in advice.message
    after = await live(
        lived,
        idle_timeout=predicted["idle_timeout"],
        connection_idle_timeout=predicted["connection_idle_timeout"],
    )
    assert after.ratio == pytest.approx(predicted["hibernation_ratio"], abs=0.05)
    assert after.wakes * 3600 / lived.seconds == pytest.approx(predicted["wakes_per_hour"], rel=0.1)
    assert after.recommended == ()
    # What was recorded says the same.
    file = tmp_path / "trace"
    file.write_bytes(before.recorded)
    findings = replay_file(file)
    assert findings.lost == 0
    assert findings.seconds == pytest.approx(lived.seconds, abs=1)
    assert findings.present is not None
    assert findings.present.hibernation_ratio == pytest.approx(before.ratio, abs=0.02)
    (advised,) = [one for one in findings.settings if one.policy.idle_timeout == predicted["idle_timeout"]]
    assert advised.hibernation_ratio == pytest.approx(after.ratio, abs=0.02)
    assert advised.added_wakes == pytest.approx(after.wakes, rel=0.1)
