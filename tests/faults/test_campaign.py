"""A sample of the campaign of faults, on a clone that pulled the embedded results."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from campaign import GOOD, Campaign, combinations, finished_project, sample
from kills import GOOD as GOOD_ENDS
from kills import Campaign as KillCampaign
from kills import draw, undisturbed_project

COUNT, REAL_COUNT, KILL_COUNT = 100, 30, 28


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def campaign(finished, tmp_path):
    made = Campaign(finished, tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(1800)
def test_no_fault_of_a_sample_ends_badly(finished, campaign):
    outcomes = [campaign.run(combination) for combination in sample(combinations(finished), COUNT, seed=0)]
    assert len(outcomes) == COUNT
    failures = [str(outcome) for outcome in outcomes if outcome.verdict not in GOOD]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forked_processes_give_the_verdicts_of_real_ones(finished, campaign, tmp_path):
    real = Campaign(finished, tmp_path / "real", forked=False)
    for combination in sample(combinations(finished), REAL_COUNT, seed=1):
        assert campaign.run(combination).verdict == real.run(combination).verdict, combination


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_kill_of_a_sample_ends_badly(tmp_path):
    campaign = KillCampaign(undisturbed_project(tmp_path / "undisturbed"), tmp_path)
    failures = [
        str(outcome) for kill in draw(KILL_COUNT, seed=0) if (outcome := campaign.run(kill)).verdict not in GOOD_ENDS
    ]
    assert not failures, "\n".join(failures)
