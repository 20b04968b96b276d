"""The new order of operators respects every dependence, and uses gradients up layer by layer."""

from hypothesis import given
from hypothesis import strategies as st

from fedfer.export.schedule import Operator, dependences, schedule


def test_filter_gradients_come_before_the_next_layers_backward_pass() -> None:
    """dy2 -> (w2's step), dy2 -> dy1 -> (w1's step): listed with both steps last, as the converter does."""
    setup = Operator((), (), first=True)
    forward = Operator((), (1,), reads="w1"), Operator((1,), (2,), reads="w2")
    back_2, back_1 = Operator((2,), (3,)), Operator((3,), (4,))
    step_1, step_2 = Operator((4,), (), writes="w1"), Operator((3,), (), writes="w2")
    operators = [setup, *forward, back_2, back_1, step_1, step_2]
    assert schedule(operators) == [0, 1, 2, 3, 6, 4, 5]


def test_a_variable_is_read_before_it_is_written_and_again_after() -> None:
    read, write, again = (
        Operator((), (1,), reads="w"),
        Operator((9,), (), writes="w"),
        Operator((), (2,), reads="w"),
    )
    assert dependences([read, write, again]) == [[], [0], [1]]


@st.composite
def programs(draw: st.DrawFn) -> list[Operator]:
    """Operators that use earlier outputs, some reading or writing one of two variables."""
    operators = [Operator((), (0,), first=True)]
    for number in range(1, draw(st.integers(1, 30))):
        inputs = tuple(draw(st.lists(st.integers(0, number - 1), max_size=3)))
        variable = st.sampled_from(["a", "b", None, None])
        operators.append(Operator(inputs, (number,), reads=draw(variable), writes=draw(variable)))
    return operators


@given(programs())
def test_any_order_is_a_permutation_that_respects_dependences(operators: list[Operator]) -> None:
    order = schedule(operators)
    assert sorted(order) == list(range(len(operators)))
    place = {number: i for i, number in enumerate(order)}
    for number, before in enumerate(dependences(operators)):
        assert all(place[other] < place[number] for other in before)


@given(programs())
def test_running_in_the_new_order_gives_the_same_values(operators: list[Operator]) -> None:
    """Interprets both orders symbolically: each tensor's and variable's value is how it was made."""
    assert _run(operators, range(len(operators))) == _run(operators, schedule(operators))


def _run(operators: list[Operator], order: object) -> tuple[dict[int, object], dict[str, object]]:
    tensors: dict[int, object] = {}
    variables: dict[str, object] = {}
    for number in order:  # type: ignore[attr-defined]
        op = operators[number]
        value = (number, tuple(tensors[i] for i in op.inputs), op.reads and variables.get(op.reads))
        tensors.update(dict.fromkeys(op.outputs, hash(value)))
        if op.writes is not None:
            variables[op.writes] = hash(value)
    return tensors, variables
