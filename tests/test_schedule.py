"""The order of operators: a permutation that computes the same, whatever the program."""

from hypothesis import given
from hypothesis import strategies as st

from fedfer.export.schedule import Operator, dependences, schedule

VARIABLES = ["a", "b", "c"]


@st.composite
def programs(draw: st.DrawFn) -> list[Operator]:
    """CALL_ONCE, then operators that take earlier tensors, read a variable, write one, or neither."""
    operators = [Operator((), (), first=True)]
    tensors = [0]  # tensor 0 is the program's input
    for _ in range(draw(st.integers(0, 15))):
        inputs = tuple(draw(st.lists(st.sampled_from(tensors), max_size=3)))
        kind = draw(st.sampled_from(["compute", "read", "write"]))
        name = draw(st.sampled_from(VARIABLES))
        if kind == "write":
            operators.append(Operator(inputs, (), writes=name))
            continue
        outputs = tuple(range(len(tensors), len(tensors) + draw(st.integers(1, 2))))
        operators.append(Operator(inputs, outputs, reads=name if kind == "read" else None))
        tensors += outputs
    return operators


def run(operators: list[Operator], order: list[int]) -> tuple[dict[int, object], dict[str, object]]:
    """Symbolic values of all tensors and variables: each is the expression that made it.

    CALL_ONCE sets the variables up. A tensor that is not there yet raises KeyError.
    """
    tensors: dict[int, object] = {0: "input"}
    variables: dict[str, object] = {}
    for number in order:
        op = operators[number]
        if op.first:
            variables = dict.fromkeys(VARIABLES, "initial")
        values = tuple(tensors[tensor] for tensor in op.inputs)
        if op.reads is not None:
            values += (variables[op.reads],)
        expression = hash((number, values))
        tensors.update(dict.fromkeys(op.outputs, expression))
        if op.writes is not None:
            variables[op.writes] = expression
    return tensors, variables


@given(programs())
def test_the_new_order_computes_the_same(operators: list[Operator]) -> None:
    order = schedule(operators)
    assert sorted(order) == list(range(len(operators)))
    assert run(operators, order) == run(operators, list(range(len(operators))))


@given(programs())
def test_it_depends_on_the_program_alone(operators: list[Operator]) -> None:
    assert schedule(operators) == schedule(list(operators))


def test_an_assignment_comes_right_after_what_it_needs() -> None:
    """Two long-lived activations; each assignment needs one. By hand: 0, then 1 and its write, 2 and its."""
    operators = [
        Operator((), (), first=True),
        Operator((0,), (1,)),
        Operator((1,), (2,)),
        Operator((1,), (3,)),
        Operator((2,), (4,)),
        Operator((3,), (), writes="a"),
        Operator((4,), (), writes="b"),
    ]
    assert schedule(operators) == [0, 1, 3, 5, 2, 4, 6]


def test_a_read_stays_on_its_side_of_a_write() -> None:
    """Read a, write a, read a: in this order, though no tensor joins them."""
    operators = [
        Operator((), (), first=True),
        Operator((), (1,), reads="a"),
        Operator((0,), (), writes="a"),
        Operator((), (2,), reads="a"),
    ]
    assert dependences(operators) == [[], [0], [0, 1], [0, 2]]
    assert schedule(operators) == [0, 1, 2, 3]


def test_long_chains_need_no_recursion() -> None:
    operators = [Operator((), (), first=True)]
    operators += [Operator((i,), (i + 1,)) for i in range(20_000)]
    assert schedule(operators) == list(range(20_001))


def test_nothing_to_order() -> None:
    assert schedule([]) == []
