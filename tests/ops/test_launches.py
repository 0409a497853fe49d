"""The bench counts the kernels of an optimized program."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "speed" / "launches.py"
PROGRAM = """HloModule program

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%f
  %z = f32[4]{0} dot(%y, %y), lhs_contracting_dims={0}
  ROOT %t = (s32[], /*index=1*/f32[4]{0}) tuple(%z, %z)
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] compare(%p, %p), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %b = f32[4]{0} copy(%a)
  %w = (s32[], /*index=1*/f32[4]{0}) while(%b), condition=%condition, body=%body, config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[4]{0} get-tuple-element(%w), index=1
}
"""


def test_loops_count_as_often_as_they_turn():
    spec = importlib.util.spec_from_file_location("launches", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.launches(PROGRAM) == (1 + 5 * (2 + 1), True)
    unknown = PROGRAM.replace('"known_trip_count":{"n":"5"}', "")
    assert module.launches(unknown) == (1 + 2 + 1, False)
