"""What stands in a report's page beside its figures: key figures and tables, as text. Pure.

Tables are (header, rows); a row is as long as the header. Nothing here is escaped: the page does that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfer.cli.simulation_report import series, words
from fedfer.cli.simulation_report.record import Device, Record, Update
from fedfer.cli.simulation_report.series import Point, Tally
from fedfer.cli.simulation_report.words import percent, percent_short, plural, seconds, size

MAX_DEVICES = 100  # rows of a table; the record has the rest
MAX_FAULTS = 200
MAX_MATRIX_LABELS = 20
MAX_CONFUSIONS = 25
HONEST = "none: honest"
COMMITTED = (None, "committed")
Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]


@dataclass(frozen=True)
class Card:
    """A key figure: what it is, the figure, and what goes with it."""

    name: str
    figure: str
    note: str = ""


def lead(record: Record) -> str:
    """In a sentence, what this is."""
    settings = dict(series.flat(record.scenario))
    name = settings.get("run.strategy.name")
    how = f", averaged by {name}" if name else ""
    return (
        f"{plural(len(record.devices), 'device')} trained {record.model.name} "
        f"({record.model.num_parameters:,} parameters) for {plural(num_rounds(record), 'round')}{how}. "
        f"It ended: {record.stop.text or record.stop.reason or 'no reason is given'}."
    )


def num_rounds(record: Record) -> int:
    """Rounds that were trained: the initial model's entry is none."""
    return sum(1 for each in record.rounds if each.round > 0)


def cards(record: Record) -> list[Card]:
    """The figures that a reader asks for first."""
    found = series.points(record)
    up, down = (sum(getattr(r, name) for r in record.rounds) for name in ("bytes_up", "bytes_down"))
    rounds = num_rounds(record)
    failed = sum(1 for each in record.rounds if each.round > 0 and each.outcome not in COMMITTED)
    per_round = f"{size(up / rounds)} a round" if rounds else ""
    per_round_down = f"{size(down / rounds)} a round" if rounds else ""
    return [
        *_accuracy_cards(record, found),
        Card("rounds", f"{rounds:,}", f"{failed or 'none'} without a new version"),
        Card("virtual time", seconds(record.virtual_sec), f"computed in {seconds(record.wall_sec)}"),
        Card("up, all devices", size(up), per_round),
        Card("down, all devices", size(down), per_round_down),
        _updates_card(record),
    ]


def _accuracy_cards(record: Record, found: Sequence[Point]) -> list[Card]:
    measures, best, target = record.final.measures, series.best(found), series.wanted(record)
    num = measures.num_examples if measures else 0
    made = []
    if measures:
        note = f"loss {words.measure(measures.loss)}, on {plural(num, 'image')} that no device holds"
        made.append(Card("final accuracy", percent(measures.accuracy, num), note))
    if record.mean and record.mean.measures:
        note = (
            f"of the last {len(record.mean.rounds)} versions; loss {words.measure(record.mean.measures.loss)}"
        )
        made.append(Card("accuracy of the mean", percent(record.mean.measures.accuracy, num), note))
    if best:
        made.append(Card("best accuracy", percent(best.accuracy, num), f"after round {best.round}"))
    if record.target:
        note = f"after {seconds(record.target.virtual_sec)} and {size(record.target.bytes)}"
        made.append(
            Card(f"{percent_short(record.target.accuracy)} reached", f"round {record.target.round}", note)
        )
    elif target:
        made.append(Card(f"{percent_short(target)} reached", "no", "the accuracy that was asked for"))
    return made


def _updates_card(record: Record) -> Card:
    averaged = sum(len(series.accepted(each)) for each in record.rounds)
    turned_away = sum(series.refusals(record).values())
    dropped = sum(device.num_dropped for device in record.devices)
    note = f"{turned_away:,} turned away, {plural(dropped, 'task')} not finished"
    return Card("updates averaged", f"{averaged:,}", note)


def milestone_table(record: Record) -> Table:
    """What each level of accuracy took."""
    target = series.wanted(record)
    rows = [
        (percent_short(level), str(point.round), seconds(point.virtual_sec), size(point.bytes))
        for level, point in series.milestones(series.points(record), target)
    ]
    return ("accuracy", "after round", "virtual time", "up and down"), rows


def recall_rows(record: Record) -> list[tuple[str, float | None, int]]:
    """Label, recall, number of images of it."""
    measures = record.final.measures
    if measures is None:
        return []
    totals = [sum(row) for row in measures.confusion] or [0] * len(record.model.labels)
    return list(zip(record.model.labels, measures.per_class_recall, totals, strict=False))


def confusion_rows(record: Record) -> list[tuple[str, list[tuple[int, float]]]]:
    """Label, and for each label it was taken for the count and its share; none where labels are too many."""
    measures = record.final.measures
    if measures is None or len(record.model.labels) > MAX_MATRIX_LABELS:
        return []
    return [
        (label, [(count, count / max(1, sum(row))) for count in row])
        for label, row in zip(record.model.labels, measures.confusion, strict=False)
    ]


def confusions_table(record: Record) -> Table:
    """The most frequent confusions."""
    measures, labels = record.final.measures, record.model.labels
    cells = [
        (count, i, j)
        for i, row in enumerate(measures.confusion if measures else ())
        for j, count in enumerate(row)
        if i != j and count
    ]
    top = sorted(cells, key=lambda cell: (-cell[0], cell[1:]))[:MAX_CONFUSIONS]
    return ("is", "taken for", "images"), [(labels[i], labels[j], f"{count:,}") for count, i, j in top]


def spread_table(record: Record) -> Table:
    """How devices differ, in five numbers each."""
    last, tallies = series.last_updates(record), series.tallies(record).values()
    columns: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("own accuracy, last update", [u.accuracy for u in last.values() if u.accuracy is not None], percent),
        ("own loss, last update", [u.loss for u in last.values() if u.loss is not None], words.measure),
        ("examples", [d.num_examples for d in record.devices], _count),
        ("tasks", [d.num_tasks for d in record.devices], _count),
        ("updates averaged", [each.num_averaged for each in tallies], _count),
        ("updates turned away", [each.num_turned_away for each in tallies], _count),
        ("tasks not finished", [d.num_dropped for d in record.devices], _count),
        ("busy", [d.busy_sec for d in record.devices], seconds),
        ("received", [d.received_bytes for d in record.devices], size),
        ("sent", [d.sent_bytes for d in record.devices], size),
    ]
    rows = []
    for name, values, show in columns:
        if found := series.spread(values):
            cuts = (found.lowest, found.tenth, found.median, found.ninetieth, found.highest, found.mean)
            rows.append((name, *map(show, cuts)))
    return ("a device's", "lowest", "10%", "median", "90%", "highest", "mean"), rows


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def attack_table(record: Record) -> Table:
    """What became of the updates of each kind of attacker, and of the others; no rows without attackers."""
    kinds = sorted({device.attack for device in record.devices if device.attack is not None})
    rows, by_name = [], series.tallies(record)
    for kind in [*kinds, None] if kinds else []:
        found = [by_name[device.name] for device in record.devices if device.attack == kind]
        averaged, turned_away = (sum(t.num_averaged for t in found), sum(t.num_turned_away for t in found))
        rows.append((kind or HONEST, f"{len(found):,}", f"{averaged:,}", f"{turned_away:,}"))
    return ("attack", "devices", "updates averaged", "turned away"), rows


def device_table(record: Record) -> Table:
    """One row a device; of many, those first that something was amiss with."""
    last, tallies = series.last_updates(record), series.tallies(record)

    def amiss(d: Device) -> tuple[float, ...]:
        turned_away = tallies[d.name].num_turned_away
        return d.attack is None, -turned_away, -d.num_dropped, -d.busy_sec, d.index

    many = len(record.devices) > MAX_DEVICES
    chosen = sorted(record.devices, key=amiss)[:MAX_DEVICES] if many else record.devices
    rows = [_device_row(d, tallies[d.name], last.get(d.name)) for d in chosen]
    header = ("device", "attack", "examples", "tasks", "averaged", "turned away", "not finished")
    return (*header, "accuracy", "loss", "busy", "received", "sent"), rows


def _device_row(device: Device, tally: Tally, update: Update | None) -> tuple[str, ...]:
    return (
        device.name,
        device.attack or "",
        f"{device.num_examples:,}",
        f"{device.num_tasks:,}",
        f"{tally.num_averaged:,}",
        f"{tally.num_turned_away:,}",
        f"{device.num_dropped:,}",
        percent(update.accuracy if update else None),
        words.measure(update.loss if update else None),
        seconds(device.busy_sec),
        size(device.received_bytes),
        size(device.sent_bytes),
    )


def round_table(record: Record) -> Table:
    """One row a round."""
    own = {band.round: band for band in series.band(record.rounds, "accuracy")}
    num = record.final.measures.num_examples if record.final.measures else 0
    rows = []
    for each in record.rounds:
        outcome = words.join(": ", each.outcome, each.reason) or "-"
        band, accepted = own.get(each.round), len(series.accepted(each))
        rows.append(
            (
                str(each.round),
                outcome,
                percent(each.accuracy, num),
                words.measure(each.loss),
                f"{percent(band.mean)} ({band.low:.0%} to {band.high:.0%})" if band else "-",
                f"{accepted:,}",
                f"{len(each.updates) - accepted:,}",
                size(each.bytes_up),
                size(each.bytes_down),
                seconds(each.closed_sec - each.opened_sec),
                seconds(each.wall_sec),
            )
        )
    header = ("round", "outcome", "accuracy", "loss", "devices' accuracy", "averaged", "held back by gates")
    return (*header, "up", "down", "virtual time", "computed in"), rows


def refusal_table(record: Record) -> Table:
    """What was turned away, by code, with the codes' meaning where it is known here."""
    rows = [(code, f"{num:,}", words.CODES.get(code, "")) for code, num in series.refusals(record).items()]
    return ("code", "times", ""), rows


def fault_table(record: Record) -> Table:
    """The first faults, as they happened."""
    faults = sorted(record.faults, key=lambda fault: fault.at_sec)[:MAX_FAULTS]
    rows = [(seconds(f.at_sec), f.device or "the aggregator", f.kind, f.text) for f in faults]
    return ("at", "who", "what", ""), rows
