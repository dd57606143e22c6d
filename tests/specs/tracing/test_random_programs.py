"""Whatever a network does to its axes, what is traced keeps the function."""

import pytest

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.random_programs import Program


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_every_group_element_keeps_the_function(seed: int) -> None:
    program = Program(seed, steps=7)
    spec = trace_spec(program, program.inputs())
    assert not spec.coverage.without_rule, program.names
    check = check_spec(spec, program, program.inputs())
    assert check.kept, f"{program.names}\n{check}\n{spec.layout.as_json()['axes']}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_operators_that_choose_keep_the_function_too(seed: int) -> None:
    program = Program(seed, steps=6, choosing=True)
    spec = trace_spec(program, program.inputs())
    check = check_spec(spec, program, program.inputs())
    assert check.kept, f"{program.names}\n{check}\n{spec.layout.as_json()['axes']}"


def test_the_programs_are_not_all_rigid() -> None:
    programs = [Program(seed, steps=7) for seed in range(20)]
    assert sum(bool(trace_spec(program, program.inputs()).groups) for program in programs) >= 5


# Programs that were once traced wrongly: an axis summed over, with the same axis of both factors beside it, and slices
# of slices.
@pytest.mark.parametrize(("seed", "steps"), [(528, 7), (532, 7), (586, 7), (687, 7), (776, 7), (844, 7), (1141, 9)])
def test_programs_that_were_wrong(seed: int, steps: int) -> None:
    program = Program(seed, steps=steps)
    assert check_spec(trace_spec(program, program.inputs()), program, program.inputs()).kept
