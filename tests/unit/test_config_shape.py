"""A config.yaml that somebody else wrote: groups that are none are not shown, and end nothing."""

from __future__ import annotations

import pytest

from mha_ablate.run.shape import GROUPS, config_of


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("value", ["[/red]", 3, [1], True])
def test_a_group_of_settings_that_is_no_table_is_not_believed(group: str, value: object) -> None:
    with pytest.raises(ValueError, match=group):
        config_of({group: value})


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_settings_may_be_absent_or_empty(group: str) -> None:
    assert config_of({group: None, "seed": 1}) == {group: None, "seed": 1}
    assert config_of({group: {}}) == {group: {}}
