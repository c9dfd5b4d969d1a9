"""Which networks a probe reads."""

from trainables.representation import member_seeds, member_steps, parse


def test_a_representation_is_read_from_its_name():
    assert [parse(name) for name in ("single", "cat:4", "time_cat:2")] == [("single", 1), ("cat", 4), ("time_cat", 2)]


def test_time_cat_shares_the_steps_out_and_cat_does_not():
    assert (member_steps("cat:4", 1000), member_steps("time_cat:4", 1000), member_steps("single", 7)) == (1000, 250, 7)


def test_the_first_member_is_the_replicate_itself_and_replicates_share_no_other():
    seeds = [member_seeds("cat:4", seed) for seed in range(5)]
    assert [found[0] for found in seeds] == list(range(5))
    assert len({seed for found in seeds for seed in found}) == 20
    assert member_seeds("cat:2", 3) == member_seeds("cat:4", 3)[:2]
