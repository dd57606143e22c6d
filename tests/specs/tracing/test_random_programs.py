"""Traced specifications of random programs preserve the function."""

import pytest

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.random_programs import Program


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_every_group_element_preserves_the_function(seed: int) -> None:
    program = Program(seed, steps=7)
    spec = trace_spec(program, program.inputs())
    assert not spec.coverage.without_rule, program.names
    check = check_spec(spec, program, program.inputs())
    assert check.kept, f"{program.names}\n{check}\n{spec.layout.as_json()['axes']}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_programs_with_indexing_operators_preserve_the_function(seed: int) -> None:
    program = Program(seed, steps=6, indexing=True)
    spec = trace_spec(program, program.inputs())
    check = check_spec(spec, program, program.inputs())
    assert check.kept, f"{program.names}\n{check}\n{spec.layout.as_json()['axes']}"


def test_some_programs_have_symmetries() -> None:
    programs = [Program(seed, steps=7) for seed in range(20)]
    assert sum(bool(trace_spec(program, program.inputs()).groups) for program in programs) >= 5


# Programs that were once traced wrongly: a contraction of tensors that share another axis, and slices of slices.
@pytest.mark.parametrize(("seed", "steps"), [(528, 7), (532, 7), (586, 7), (687, 7), (776, 7), (844, 7), (1141, 9)])
def test_programs_that_were_once_traced_wrongly(seed: int, steps: int) -> None:
    program = Program(seed, steps=steps)
    assert check_spec(trace_spec(program, program.inputs()), program, program.inputs()).kept
