"""What the backward pass makes again: the same values, from what is kept, whatever the program."""

from hypothesis import given
from hypothesis import strategies as st

from fedfer.export.recompute import Recomputed, read_again, recompute
from fedfer.export.schedule import Operator


def values(operators: list[Operator], names: list[int]) -> dict[int, object]:
    """Each tensor as the expression that made it; `names` says what operator each one is."""
    tensors: dict[int, object] = {0: "input"}
    for op, name in zip(operators, names, strict=True):
        made = hash((name, tuple(tensors[tensor] for tensor in op.inputs)))
        assert not tensors.keys() & set(op.outputs), "a tensor has one maker"
        tensors.update(dict.fromkeys(op.outputs, made))
    return tensors


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Operator], set[int], set[int], set[int]]:
    """Operators of one output each; which are late (all users of late results) and cheap, what is large."""
    operators, late = [], set()
    for number in range(draw(st.integers(1, 14))):
        inputs = tuple(draw(st.lists(st.integers(0, number), min_size=1, max_size=3)))
        operators.append(Operator(inputs, (number + 1,)))
        if any(tensor - 1 in late for tensor in inputs) or draw(st.booleans()):
            late.add(number)
    numbers = st.sets(st.integers(0, len(operators)))
    return operators, late, draw(numbers), draw(numbers)


def recomputed(program: tuple[list[Operator], set[int], set[int], set[int]]) -> Recomputed:
    operators, late, cheap, large = program
    return recompute(operators, late, cheap, large, len(operators) + 1)


@given(programs())
def test_late_operators_see_the_same_values(
    program: tuple[list[Operator], set[int], set[int], set[int]],
) -> None:
    before = values(program[0], list(range(len(program[0]))))
    plan = recomputed(program)
    after = values(plan.operators, plan.originals)
    assert {tensor: after[tensor] for tensor in before} == before
    assert all(after[new] == before[old] for old, new in plan.tensors.items())


@given(programs())
def test_early_operators_are_left_alone_and_only_cheap_ones_are_copied(
    program: tuple[list[Operator], set[int], set[int], set[int]],
) -> None:
    operators, late, cheap, _ = program
    plan = recomputed(program)
    copies = set(plan.tensors.values())
    for op, original in zip(plan.operators, plan.originals, strict=True):
        if copies & set(op.outputs):
            assert original in cheap
        elif original not in late:
            assert op == operators[original]


def chain() -> list[Operator]:
    """x -(product)-> 1 -(cheap)-> 2 -(cheap)-> 3, all three early; 4 and 5 are late and use 3 and 1."""
    return [
        Operator((0,), (1,)),
        Operator((1,), (2,)),
        Operator((2,), (3,)),
        Operator((3,), (4,)),
        Operator((1, 4), (5,)),
    ]


def test_a_cheap_chain_from_a_kept_tensor_is_made_again() -> None:
    """1 is kept (the last operator needs it): 2 and 3 are made again from it, as 6 and 7."""
    plan = recompute(chain(), late={3, 4}, cheap={1, 2}, large={1, 2, 3}, num_tensors=6)
    assert plan.tensors == {2: 6, 3: 7}
    assert plan.operators[1:5] == [
        Operator((1,), (2,)),
        Operator((1,), (6,)),
        Operator((2,), (3,)),
        Operator((6,), (7,)),
    ]
    assert plan.operators[5] == Operator((7,), (4,))


def test_a_chain_whose_start_is_not_kept_stays() -> None:
    """Without the last operator nothing late uses 1: keeping it to make 3 again would gain nothing."""
    plan = recompute(chain()[:4], late={3}, cheap={1, 2}, large={1, 2, 3}, num_tensors=5)
    assert plan.operators == chain()[:4]
    assert plan.tensors == {}


def test_what_a_dear_operator_makes_is_kept() -> None:
    plan = recompute(chain(), late={3, 4}, cheap={1}, large={1, 2, 3}, num_tensors=6)
    assert plan.tensors == {}


def weight_chain() -> list[Operator]:
    """A read (of handle 0) of a variable 1, made into 2 by a cheap operator, used by an early one (with 3)
    and by two late ones, which use the read, too."""
    return [
        Operator((0,), (1,), reads="w"),
        Operator((1,), (2,)),
        Operator((2, 3), (4,)),
        Operator((2, 4), (5,)),
        Operator((1, 5), (6,)),
    ]


def test_weights_are_read_again_for_the_backward_pass() -> None:
    """And what is made of them alone: 1 and 2 again as 7 and 8."""
    plan = read_again(weight_chain(), late={3, 4}, cheap={1}, reads={0}, num_tensors=7)
    assert plan.tensors == {1: 7, 2: 8}
    assert plan.operators == [
        Operator((0,), (1,), reads="w"),
        Operator((0,), (7,), reads="w"),
        Operator((1,), (2,)),
        Operator((7,), (8,)),
        Operator((2, 3), (4,)),
        Operator((8, 4), (5,)),
        Operator((7, 5), (6,)),
    ]


def test_what_is_made_of_activations_too_is_not_read_again() -> None:
    """4 is made of 3, which is no weight: it is kept, and so is what a dear operator makes."""
    assert read_again(weight_chain(), {3, 4}, {2}, {0}, 7).tensors == {1: 7}


@given(programs(), st.sets(st.integers(0, 13)))
def test_late_operators_see_the_same_values_of_weights(
    program: tuple[list[Operator], set[int], set[int], set[int]], reads: set[int]
) -> None:
    operators, late, cheap, _ = program
    reads &= set(range(len(operators)))
    plan = read_again(operators, late, cheap, reads, len(operators) + 1)
    before, after = values(operators, list(range(len(operators)))), values(plan.operators, plan.originals)
    assert {tensor: after[tensor] for tensor in before} == before
    assert all(after[new] == before[old] for old, new in plan.tensors.items())
