"""Lines of HMP, and the commands that QEMU reads from them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmpguard.policy.hmp.commands import (
    DeviceAdd,
    DeviceDel,
    Gdbserver,
    HmpCommand,
    Info,
    Migrate,
    MigrateIncoming,
    MigrateSetCapability,
    MigrateSetParameter,
    MigrateStartPostcopy,
    ObjectAdd,
    Other,
    QomSet,
    Rejected,
    SaveVm,
    UnreadableLine,
)
from qmpguard.policy.hmp.parser import read
from qmpguard.policy.hmp.syntax import MAX_STRING

POSTCOPY_ON = MigrateSetCapability("postcopy-ram", state=True)


def device(driver: str, **options: str) -> DeviceAdd:
    return DeviceAdd({"driver": driver, **options})


def assert_rejected(text: str, reason: str) -> None:
    command = read(text)
    assert isinstance(command, Rejected), command
    assert reason in command.reason


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("migrate_set_capability postcopy-ram on", POSTCOPY_ON),
        ("migrate_set_capability postcopy-ram off", MigrateSetCapability("postcopy-ram", state=False)),
        ("\n migrate_set_capability\v\tpostcopy-ram\r\fon \n", POSTCOPY_ON),
        ('migrate_set_capability "postcopy-ram"on', POSTCOPY_ON),
        ('migrate_set_capability"postcopy-ram"on', Other('migrate_set_capability"postcopy-ram"on')),
        ("migrate_set_capability 'postcopy-ram' on", MigrateSetCapability("'postcopy-ram'", state=True)),
        ('migrate_set_capability post"copy-ram" on', MigrateSetCapability('post"copy-ram"', state=True)),
        ("migrate_set_capability post\\copy on", MigrateSetCapability("post\\copy", state=True)),
        ("migrate_set_capability Postcopy-RAM on", MigrateSetCapability("Postcopy-RAM", state=True)),
        ("migrate_set_capability/postcopy-ram on", MigrateSetCapability("/postcopy-ram", state=True)),
        ("migrate_set_capability postcopy-ram\u00a0 on", MigrateSetCapability("postcopy-ram\u00a0", state=True)),
        (r'migrate_set_capability "a\n\r\\\'\"b c" off', MigrateSetCapability("a\n\r\\'\"b c", state=False)),
        ('migrate_set_capability "a\nb" off', MigrateSetCapability("a\nb", state=False)),
        ('migrate_set_capability "" off', MigrateSetCapability("", state=False)),
    ],
)
def test_a_string_is_a_word_or_a_quoted_string_that_ends_at_its_quote(text: str, command: HmpCommand) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("MIGRATE tcp:x", Other("MIGRATE")),
        ("migrate_set_cap postcopy-ram on", Other("migrate_set_cap")),
        ("migrate-set-capability postcopy-ram on", Other("migrate-set-capability")),
        ("migrate|savevm x", Other("migrate|savevm")),
        ("#migrate tcp:x", Other("#migrate")),
        ("stop; migrate tcp:x", Other("stop;")),
        ("quit", Other("quit")),
        ("migrate_cancel anything", Other("migrate_cancel")),
    ],
)
def test_a_name_is_compared_exactly_and_there_is_one_command_on_a_line(text: str, command: HmpCommand) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("migrate tcp:h:1", Migrate("tcp:h:1", resume=False)),
        ("migrate -d tcp:h:1", Migrate("tcp:h:1", resume=False)),
        ("migrate -d -b -i -r tcp:h:1", Migrate("tcp:h:1", resume=True)),
        ("migrate -d-r tcp:h:1", Migrate("tcp:h:1", resume=True)),
        ("migrate -rtcp:h:1", Migrate("tcp:h:1", resume=True)),
        ("migrate -r -d", Migrate("-d", resume=True)),
        ("migrate tcp:h:1 ", Migrate("tcp:h:1", resume=False)),
        ('migrate -d "exec:cat > /tmp/x"', Migrate("exec:cat > /tmp/x", resume=False)),
        ('migrate "-r"', Migrate("-r", resume=False)),
        ("migrate/-d", Migrate("/-d", resume=False)),
        ("migrate_incoming defer", MigrateIncoming("defer")),
        ('migrate_incoming "tcp:[::]:1"', MigrateIncoming("tcp:[::]:1")),
        ("migrate_start_postcopy ", MigrateStartPostcopy()),
        ("migrate_set_parameter mode cpr-exec", MigrateSetParameter("mode", "cpr-exec")),
        ('migrate_set_parameter "mode""cpr-exec" ', MigrateSetParameter("mode", "cpr-exec")),
        ("migrate_set_parameter cpr-exec-command a b ", MigrateSetParameter("cpr-exec-command", "a b ")),
        ('migrate_set_parameter tls-hostname "abc', MigrateSetParameter("tls-hostname", '"abc')),
        ("device_del gpu0", DeviceDel("gpu0")),
        ('device_del "/machine/peripheral/gpu0"', DeviceDel("/machine/peripheral/gpu0")),
        ("qom-set a b c d ", QomSet("a", "b", "c d ", json=False)),
        ('qom-set -j a b {"c": "d"}', QomSet("a", "b", '{"c": "d"}', json=True)),
        ('qom-set -j"a""b""c"', QomSet("a", "b", '"c"', json=True)),
        ("qom-set -j -j realized x", QomSet("-j", "realized", "x", json=True)),
        ("qom-set/a b c", QomSet("/a", "b", "c", json=False)),
        ("gdbserver", Gdbserver(None)),
        ("gdbserver none", Gdbserver("none")),
        ("savevm", SaveVm(None)),
        ('savevm ""', SaveVm("")),
        ('savevm "my tag"', SaveVm("my tag")),
        ("savevm/tag", SaveVm("/tag")),
        ("info", Info("")),
        ("info  ", Info("")),
        ("info migrate", Info("migrate")),
        ("info block/-v x", Info("block")),
    ],
)
def test_each_command_is_read_by_its_own_argument_types(text: str, command: HmpCommand) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("device_add e1000", device("e1000")),
        ("device_add e1000,id=a,", device("e1000", id="a")),
        ('device_add "vfio-pci,host=65:00.0"', device("vfio-pci", host="65:00.0")),
        ("device_add nosuch,id=a,driver=e1000", device("e1000", id="a")),
        ("device_add driver=nosuch,driver=e1000", device("e1000")),
        ("device_add id=a,driver=e1000,driver=vfio-pci", device("vfio-pci", id="a")),
        ("device_add id=a,vfio-pci", Rejected("Parameter 'driver' is missing")),
        ("device_add e1000,driver", device("on")),
        ("device_add e1000,nodriver", device("off")),
        (
            "device_add e1000,multifunction,norombar,no,",
            DeviceAdd({"driver": "e1000", "multifunction": "on", "rombar": "off", "": "off"}),
        ),
        ("device_add vfio-pci,sysfsdev=/a,,b=c,x=", device("vfio-pci", sysfsdev="/a,b=c", x="")),
        ("device_add x,a=,,,,b,,,c=d", device("x", a=",,b,", c="d")),
        ("device_add ,id=a", device("", id="a")),
        ("device_add =x,driver=y", DeviceAdd({"": "x", "driver": "y"})),
        ('device_add {"driver":"vfio-pci"}', device('{"driver":"vfio-pci"}')),
        ("device_add/e1000", device("/e1000")),
        ("device_add help,driver=e1000", device("e1000")),
        ("device_add E1000,ID=a", device("E1000", ID="a")),
    ],
)
def test_options_of_a_device_are_folded_and_the_last_wins(text: str, command: HmpCommand) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("device_add e1000,id=a,id=b", device("e1000", id="a")),
        ("device_add e1000,id=a,id=9", device("e1000", id="a")),
        ("device_add id,driver=e1000", device("e1000", id="on")),
        ("device_add id", device("id", id="on")),
        ("device_add e1000,noid", device("e1000", id="off")),
        ("device_add e1000,,id=a,x=y", device("e1000,id=a", x="y", id="a")),
        ("device_add e1000,id=A-z.0_", device("e1000", id="A-z.0_")),
    ],
)
def test_of_several_ids_the_first_wins_and_is_looked_for_without_an_implied_driver(
    text: str, command: HmpCommand
) -> None:
    assert read(text) == command


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("object_add rng-builtin,id=a", {"qom-type": "rng-builtin", "id": "a"}),
        ("object_add id=a,qom-type=b", {"qom-type": "b", "id": "a"}),
        ("object_add a,qom-type=monitor-qmp,", {"qom-type": "monitor-qmp"}),
        ("object_add a,qom-type=b,qom-type=c", {"qom-type": "c"}),
        ("object_add a,x=1,,2,__org.x_y.0.z=v", {"qom-type": "a", "x": "1,2", "__org.x_y.0.z": "v"}),
        ('object_add "a,x=b c ', {"qom-type": '"a', "x": "b c "}),
        ("object_add/a", {"qom-type": "/a"}),
        ("object_add a,help=x", {"qom-type": "a", "help": "x"}),
        ("object_add a," + "x" * 2000 + "=b", {"qom-type": "a", "x" * 2000: "b"}),
        ("object_add monitor-qmp,x=" + "x" * 2000, {"qom-type": "monitor-qmp", "x": "x" * 2000}),
    ],
)
def test_options_of_an_object_are_the_rest_of_the_line_and_the_last_wins(text: str, options: dict[str, str]) -> None:
    assert read(text) == ObjectAdd(options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no command"),
        (" \n", "no command"),
        ("/", "no command"),
        ("migrate", "string expected"),
        ("migrate -d", "string expected"),
        ("migrate -x tcp:h:1", "unsupported option -x"),
        ("migrate -d -d tcp:h:1", "unsupported option -d"),
        ("migrate -r -r -r", "extraneous"),
        ("migrate - tcp:h:1", "unsupported option - "),
        ("migrate -", "unsupported option -"),
        ("migrate -dr tcp:h:1", "extraneous"),
        ("migrate -r -d tcp:h:1", "extraneous"),
        ("migrate/-d tcp:h:1", "extraneous"),
        ("migrate exec:cat >x", "extraneous"),
        ('migrate "tcp:h:1', "string expected"),
        ('migrate "tcp:h\\t:1"', "string expected"),
        ('migrate "tcp:h\\', "string expected"),
        ('migrate "tcp:h\\"', "string expected"),
        ("migrate_incoming", "string expected"),
        ("migrate_start_postcopy now", "extraneous"),
        ("migrate_set_capability postcopy-ram", "'on' or 'off'"),
        ("migrate_set_capability postcopy-ram On", "'on' or 'off'"),
        ("migrate_set_capability postcopy-ram true", "'on' or 'off'"),
        ('migrate_set_capability postcopy-ram "on"', "'on' or 'off'"),
        ("migrate_set_capability postcopy-ram on,off", "'on' or 'off'"),
        ("migrate_set_capability postcopy-ram on off", "extraneous"),
        ("migrate_set_capability postcopy-ram on\u00a0", "extraneous"),
        ("migrate_set_parameter mode ", "string expected"),
        ("device_add", "'driver' is missing"),
        ('device_add ""', "'driver' is missing"),
        ('device_add "vfio-pci', "string expected"),
        ('device_add "vfio-pci"x', "extraneous"),
        ("device_add vfio-pci, id=a", "extraneous"),
        ("device_add vfio-pci,id=9", "identifier"),
        ("device_add vfio-pci,id=", "identifier"),
        ("device_add vfio-pci,id=\u00e9", "identifier"),
        ("device_add help", "help"),
        ("device_add ?", "help"),
        ("device_add vfio-pci,help", "help"),
        ("device_add vfio-pci,?", "help"),
        ("device_add vfio-pci,help=off", "help"),
        ("device_add vfio-pci,nohelp", "help"),
        ("device_del", "string expected"),
        ("device_del a b", "extraneous"),
        ("object_add", "string expected"),
        ("object_add help", "help"),
        ("object_add monitor-qmp,?", "help"),
        ("object_add help,qom-type=monitor-qmp", "help"),
        ("object_add id=a", "'qom-type' is missing"),
        ("object_add monitor-qmp,,id=a", "Invalid parameter ''"),
        ("object_add ,id=a", "Invalid parameter ''"),
        ("object_add =monitor-qmp", "Invalid parameter ''"),
        ("object_add a,0x=b", "Invalid parameter '0x'"),
        ("object_add a,x.=b", "Invalid parameter 'x.'"),
        ("object_add a,_x=b", "Invalid parameter '_x'"),
        ("object_add a,id", "Expected '='"),
        ("qom-set -x a b c", "unsupported option -x"),
        ("qom-set -", "unsupported option -"),
        ("qom-set a", "string expected"),
        ("qom-set a realized ", "string expected"),
        ("gdbserver a b", "extraneous"),
        ("savevm a b", "extraneous"),
        ("info/version", "unknown command"),
        ("info /version", "unknown command"),
    ],
)
def test_what_every_version_refuses_or_answers_with_help_is_rejected(text: str, reason: str) -> None:
    assert_rejected(text, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("migrate_set_capability postcopy-ram\0 on", "U+0000"),
        ("\0migrate tcp:x", "U+0000"),
        ("stop \ud800", "surrogate"),
        ("migrate \udc80", "surrogate"),
        ("object_add\n {", "JSON"),
        ("object_add {}", "JSON"),
        ("info " + "x" * 65_532, "more than 65536 characters"),
        ('object_add {"qom-type":5}', "JSON"),
        ('object_add {"qom-type":"a"}}', "JSON"),
        ('object_add {"qom-type":"a"} {"qom-type":"b"}', "JSON"),
        ('object_add {"qom-type":"a","qom-type":"b"}', "JSON"),
    ],
)
def test_what_cannot_be_told_is_unreadable(text: str, reason: str) -> None:
    command = read(text)
    assert isinstance(command, UnreadableLine), command
    assert reason in command.reason


def test_escapes_are_read_up_to_where_the_string_is_cut() -> None:
    assert read('savevm "' + "\\n" * 30_000 + '"') == SaveVm("\n" * 1023)
    assert read('savevm "' + "x" * 1022 + "\\n" * 3 + '"') == SaveVm("x" * 1022 + "\n")
    assert read('savevm "' + "é" * 511 + "\\n" * 3 + '"') == SaveVm("é" * 511 + "\n")


def test_an_object_may_be_written_in_json_as_qemu_reads_it() -> None:
    assert read("object_add {'qom-type': 'rng-builtin', 'id': 'a'} ") == ObjectAdd(
        {"qom-type": "rng-builtin", "id": "a"}
    )
    long = '{"qom-type":"x","id":"' + "é" * 60_000 + '"}'
    assert read(f"object_add {long}") == ObjectAdd({"qom-type": "x", "id": "é" * 60_000})


def test_a_line_of_65536_characters_is_read() -> None:
    assert read("savevm a" + " " * (65_536 - 8)) == SaveVm("a")
    assert isinstance(read("savevm a" + " " * (65_537 - 8)), UnreadableLine)


def test_a_string_is_cut_at_1023_bytes_without_a_word() -> None:
    assert read("savevm " + "x" * MAX_STRING) == SaveVm("x" * 1023)
    assert read("savevm " + "x" * 1024) == SaveVm("x" * 1023)
    assert read('savevm "' + r"\n" * 1024 + '"') == SaveVm("\n" * 1023)


def test_the_cut_counts_bytes_of_utf8() -> None:
    assert read("savevm " + "\u00e9" * 600) == SaveVm("\u00e9" * 511 + "\ufffd")


def test_what_is_cut_off_cannot_win_over_the_driver() -> None:
    pad = "x" * (MAX_STRING - len("vfio-pci,x="))
    assert read(f"device_add vfio-pci,x={pad},driver=e1000") == device("vfio-pci", x=pad)


def test_the_rest_of_a_line_is_not_cut() -> None:
    assert read("qom-set a b " + "x" * 5000) == QomSet("a", "b", "x" * 5000, json=False)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        "object_add a" + ",x=y" * 250_000,
        "object_add a,x=" + "," * 1_000_001,
        "object_add a," + "a." * 500_000,
        "object_add a," + "__" + "a" * 1_000_000 + "=",
        'savevm "' + "\\n" * 500_000,
        "savevm" + " " * 1_000_000 + "x",
    ],
    ids=lambda text: text[:20],
)
def test_a_long_line_takes_time_in_proportion(text: str) -> None:
    read(text)


NAMES = [
    "migrate", "migrate_incoming", "migrate_start_postcopy", "migrate_set_capability", "migrate_set_parameter",
    "device_add", "device_del", "object_add", "qom-set", "gdbserver", "savevm", "info",
]  # fmt: skip
CRUMBS = [
    " ", "\n", "\t", "/", "-", "-d", "-r", "-j", '"', "\\", '\\"', "\\n", "=", ",", ",,", "id", "no", "driver", "help",
    "?", "on", "off", "x", "{", "\u00e9", "\u00a0", "\0", "\ud800", "postcopy-ram", "vfio-pci", "qom-type=",
]  # fmt: skip
TEXTS = st.text() | st.builds(
    lambda name, crumbs: name + "".join(crumbs), st.sampled_from(NAMES), st.lists(st.sampled_from(CRUMBS), max_size=12)
)


# Invariant: reading never raises, it always returns a command; only a line whose first word is
# one of the twelve names can be read as anything but Other, Rejected or UnreadableLine; and white
# space before the line changes nothing.
@given(TEXTS)
@example("")
def test_reading_never_raises_and_a_command_is_what_its_first_word_says(text: str) -> None:
    command = read(text)
    first = re.match(r"[ \t-\r]*([^ \t-\r/]*)", text)
    assert first is not None
    assert isinstance(command, HmpCommand)
    assert first[1] in NAMES or isinstance(command, Other | Rejected | UnreadableLine)
    assert isinstance(command, Other) <= (first[1] not in NAMES)
    assert read(" \n\v" + text) == command


# Invariant: a quoted string is read as the text that was quoted, whatever stands in it, and a
# word without spaces and quotes as itself.
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200))
def test_quoting_is_undone(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert read(f'savevm "{quoted}"') == SaveVm(text)
    word = re.sub(r'[ \t-\r"]', "", text)
    assert read(f"savevm {word}") == SaveVm(word or None)
