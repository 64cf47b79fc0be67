"""What clients may send to a QEMU, sensible or not: the corpus that is played to QEMU and to the guard.

Nothing here ends a QEMU, blocks it, or leaves it other than it was; `stop` is undone after the script. Big replies are
awaited before the end: QEMU may cut them short for who has sent its last byte, see the differences.
"""

from __future__ import annotations

import json
from typing import Any

from tests.support.conformance.twins import NEGOTIATE, NEGOTIATE_OOB, Script

STATUS = b'{"execute": "query-status"}'
NAME = b'{"execute": "query-name", "id": 1}'
MIXTURE = rb"2.0, 0.1, 1e5, -0, 18446744073709551616, [{'a': []}], true, '\u00e9\n', null, "
YANK = b'{"exec-oob": "query-yank", "id": "oob"}'


def ask(command: str, arguments: Any = ..., **members: Any) -> bytes:
    request = {"execute": command} | ({} if arguments is ... else {"arguments": arguments}) | members
    return json.dumps(request).encode()


def _plain(**named: bytes) -> list[Script]:
    """Scripts past the negotiation; a request follows, to show what of the bytes before it is still open."""
    return [Script(f"{name}, then a request", (NEGOTIATE, data, NAME)) for name, data in _titles(named)]


def _before(**named: bytes) -> list[Script]:
    """Scripts that begin before the negotiation, negotiate, and ask."""
    return [Script(f"{name}, before the negotiation", (data, NEGOTIATE, NAME)) for name, data in _titles(named)]


def _ends(**named: bytes) -> list[Script]:
    """Scripts after which nothing more is sent."""
    return [Script(f"{name}, and the end", (NEGOTIATE, data)) for name, data in _titles(named)]


def _oob(**named: bytes) -> list[Script]:
    return [Script(f"{name}, with oob", (NEGOTIATE_OOB, data), oob=True) for name, data in _titles(named)]


def _ids(**named: bytes) -> list[Script]:
    """The id comes back in a success, in an error of QEMU's dispatcher and in one of a command."""
    request = b'{"execute": %b, "id": %b}'
    commands = (b'"query-name"', b'"no-such-command"', b'"qom-list"', b"1")
    return [
        Script(f"id {name}", (NEGOTIATE, *(request % (command, value) for command in commands)))
        for name, value in _titles(named)
    ]


def _titles(named: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [(name.replace("_", " "), data) for name, data in named.items()]


NEGOTIATION = [
    Script("nothing", ()),
    Script("only spaces", (b" \r\n\t ",)),
    Script("the negotiation alone", (NEGOTIATE,)),
    Script("the negotiation with an id", (b'{"execute": "qmp_capabilities", "id": {"a": [null]}}', NAME)),
    *_before(
        a_command=STATUS,
        an_unknown_command=ask("no-such-command", id=7),
        a_command_with_wrong_arguments=ask("qom-list", {"x": 1}, id="a"),
        an_out_of_band_command=YANK,
        an_out_of_band_negotiation=b'{"exec-oob": "qmp_capabilities", "id": 2}',
        no_object=b"5",
        a_list=b"[]",
        an_empty_object=b"{}",
        an_object_without_a_command=b'{"id": 3, "arguments": {}}',
        a_command_that_is_no_string=b'{"execute": 5, "id": 3}',
        junk=b"hello world\n",
        a_control_byte=b"\x01",
        a_broken_negotiation=b'{"execute": "qmp_capabilities"]',
        a_negotiation_with_arguments_that_are_no_object=b'{"execute": "qmp_capabilities", "arguments": []}',
        a_negotiation_with_arguments_null=b'{"execute": "qmp_capabilities", "arguments": null, "id": 5}',
        enable_null=ask("qmp_capabilities", {"enable": None}, id=1),
        enable_a_string=ask("qmp_capabilities", {"enable": "oob"}, id=1),
        enable_a_number=ask("qmp_capabilities", {"enable": 1}),
        enable_an_object=ask("qmp_capabilities", {"enable": {"oob": True}}),
        enable_a_list_of_numbers=ask("qmp_capabilities", {"enable": [1]}),
        enable_a_list_of_null=ask("qmp_capabilities", {"enable": [None]}),
        enable_oob_and_a_list=ask("qmp_capabilities", {"enable": ["oob", []]}),
        enable_something_unknown=ask("qmp_capabilities", {"enable": ["oob", "magic"]}, id="x"),
        enable_something_unknown_with_quotes=ask("qmp_capabilities", {"enable": ["a'b\"c\n\0d"]}),
        enable_something_unknown_and_an_unknown_argument=ask("qmp_capabilities", {"enable": ["b"], "a": 1}),
        enable_oob_and_an_unknown_argument=ask("qmp_capabilities", {"enable": ["oob"], "x": 1}),
        two_unknown_arguments=ask("qmp_capabilities", {"zz": 1, "a": 1}),
        two_unknown_arguments_in_the_other_order=ask("qmp_capabilities", {"a": 1, "zz": 1}),
        an_unknown_argument_with_strange_letters=ask("qmp_capabilities", {"a'é\n": 1}),
        OOB_in_capitals=ask("qmp_capabilities", {"enable": ["OOB"]}),
        capitals=ask("QMP_CAPABILITIES"),
        another_member=ask("qmp_capabilities", control={}),
    ),
    Script("enable nothing", (ask("qmp_capabilities", {"enable": []}), YANK, NAME)),
    Script("enable oob twice", (ask("qmp_capabilities", {"enable": ["oob", "oob"]}), YANK), oob=True),
    Script("empty arguments", (ask("qmp_capabilities", {}), NAME)),
    Script("a second negotiation", (NEGOTIATE, NEGOTIATE, NAME)),
    Script("a second negotiation for oob", (NEGOTIATE, NEGOTIATE_OOB, YANK, NAME)),
    Script("a second negotiation with oob", (NEGOTIATE_OOB, NEGOTIATE, NEGOTIATE_OOB), oob=True),
    Script("a second negotiation with wrong arguments", (NEGOTIATE, ask("qmp_capabilities", {"enable": 5}, id=1))),
    Script("a second negotiation out of band", (NEGOTIATE_OOB, b'{"exec-oob": "qmp_capabilities"}'), oob=True),
    Script("many commands, never a negotiation", (STATUS * 20,)),
]

REQUESTS = [
    *_plain(
        an_empty_object=b"{}",
        only_an_id=b'{"id": 1}',
        a_command_that_is_null=b'{"execute": null, "id": 1}',
        a_command_that_is_a_list=b'{"execute": ["query-name"], "id": 1}',
        a_command_that_is_empty=b'{"execute": "", "id": 1}',
        a_command_with_a_space=b'{"execute": "query-name ", "id": 1}',
        a_command_in_capitals=b'{"execute": "Query-Name", "id": 1}',
        a_command_with_an_underscore=b'{"execute": "query_name", "id": 1}',
        a_command_with_an_escape=b'{"execute": "query\\u002dname", "id": 1}',
        a_command_with_a_nul=b'{"execute": "query-name\\u0000x", "id": 1}',
        a_command_with_strange_letters="{'execute': 'quéry\U0001f600', 'id': 1}".encode(),
        a_key_with_an_escape=b'{"e\\u0078ecute": "query-name", "id": 1}',
        a_key_with_a_nul=b'{"execute\\u0000": "query-name", "id": 1}',
        a_key_in_capitals=b'{"Execute": "query-name", "id": 1}',
        an_unknown_member=b'{"execute": "query-name", "id": 1, "control": {"run-oob": true}}',
        two_unknown_members=b'{"execute": "query-name", "foo": 1, "bar": 2}',
        two_unknown_members_in_the_other_order=b'{"bar": 2, "foo": 1, "execute": "query-name"}',
        unknown_members_that_a_hash_table_turns_round=b'{"x": 1, "b": 2, "a": 3, "execute": "query-name"}',
        unknown_members_in_one_bucket=b'{"": 1, "\\u00bf": 2}',
        unknown_members_in_one_bucket_the_other_way=b'{"\\u00bf": 2, "": 1}',
        an_unknown_member_behind_bad_arguments=b'{"foo": 1, "arguments": 5, "execute": "query-name"}',
        an_unknown_member_before_bad_arguments=b'{"arguments": 5, "zz": 1, "execute": "query-name"}',
        an_unknown_member_behind_a_bad_command=b'{"zz": 1, "execute": 5, "id": 1}',
        an_unknown_member_before_a_bad_command=b'{"execute": 5, "x": 1, "id": 1}',
        bad_arguments_and_a_bad_command=b'{"arguments": 5, "execute": 5, "id": 1}',
        many_unknown_members=b"{%b}" % b", ".join(b'"m%d": %d' % (i, i) for i in range(40)),
        an_unknown_member_and_no_command=b'{"foo": 1}',
        an_unknown_member_with_strange_letters=b'{"f\\u00e9\\n\'": 1}',
        an_empty_member=b'{"": 1, "execute": "query-name"}',
        arguments_null=b'{"execute": "query-name", "arguments": null, "id": 1}',
        arguments_a_list=b'{"execute": "query-name", "arguments": [], "id": 1}',
        arguments_a_string=b'{"execute": "query-name", "arguments": "x"}',
        arguments_a_number_and_no_command=b'{"arguments": 1}',
        arguments_empty=b'{"execute": "query-name", "arguments": {}, "id": 1}',
        arguments_unwanted=b'{"execute": "query-name", "arguments": {"a": 1}, "id": 1}',
        arguments_unwanted_by_an_unknown_command=b'{"execute": "nothing", "arguments": {"a": 1}, "id": 1}',
        arguments_missing=b'{"execute": "qom-list", "id": 1}',
        an_argument_of_the_wrong_type=b'{"execute": "qom-list", "arguments": {"path": 1}, "id": 1}',
        an_argument_null=b'{"execute": "qom-list", "arguments": {"path": null}, "id": 1}',
        an_argument_too_many=b'{"execute": "qom-list", "arguments": {"path": "/", "x": 1}, "id": 1}',
        two_arguments_too_many=b'{"execute": "qom-list", "arguments": {"zz": 1, "path": "/", "x": 1}, "id": 1}',
        an_argument_with_a_nul=b'{"execute": "qom-list", "arguments": {"path": "/\\u0000x"}, "id": 1}',
        an_argument_with_strange_letters='{"execute": "qom-list", "arguments": {"path": "é\\u20ac\U0001f600\\"\'"}}'.encode(),
        a_path_that_is_not_there=b'{"execute": "qom-list", "arguments": {"path": "/nowhere"}, "id": 1}',
        a_property_that_is_not_there=b'{"execute": "qom-get", "arguments": {"path": "/machine", "property": "x"}}',
        a_property=b'{"execute": "qom-get", "arguments": {"path": "/machine", "property": "type"}, "id": 1}',
        exec_oob_without_oob=YANK,
        exec_oob_without_oob_and_an_unknown_member=b'{"exec-oob": "query-yank", "foo": 1, "id": 2}',
        exec_oob_without_oob_that_is_no_string=b'{"exec-oob": 1, "id": 2}',
        execute_and_exec_oob_without_oob=b'{"execute": "query-yank", "exec-oob": "query-yank", "id": 2}',
        exec_oob_and_execute_without_oob=b'{"exec-oob": "query-yank", "execute": "query-yank", "id": 2}',
        a_downstream_command=b'{"execute": "__org.example_x", "id": 2}',
        no_descriptor=b'{"execute": "getfd", "arguments": {"fdname": "a"}, "id": 1}',
        no_descriptor_and_a_wrong_name=b'{"execute": "getfd", "arguments": {"fdname": "1a"}, "id": 1}',
        no_descriptor_to_close=b'{"execute": "closefd", "arguments": {"fdname": "a"}, "id": 1}',
        no_descriptor_to_add=b'{"execute": "add-fd", "arguments": {"fdset-id": 1}, "id": 1}',
        id_first=b'{"id": "first", "execute": "query-name"}',
        a_string=b'"query-name"',
        a_number=b"42 ",
        true=b"true ",
        null=b"null ",
        a_list=b'[{"execute": "query-name", "id": 1}]',
        a_list_of_everything=b'[1, -2.5e3, "a", true, false, null, {}, [[]]]',
    ),
    Script("what was said last is answered though it ends with no space", (NEGOTIATE, NAME, b"null")),
]

IDS = _ids(
    null=b"null",
    true=b"true",
    false=b"false",
    zero=b"0",
    minus_zero=b"-0",
    minus_zero_point_zero=b"-0.0",
    a_small_number=b"-17",
    the_largest_int64=b"9223372036854775807",
    the_smallest_int64=b"-9223372036854775808",
    less_than_the_smallest_int64=b"-9223372036854775809",
    more_than_an_int64=b"9223372036854775808",
    the_largest_uint64=b"18446744073709551615",
    more_than_a_uint64=b"18446744073709551616",
    twenty_digits=b"99999999999999999999",
    thirty_digits=b"123456789012345678901234567890",
    two_point_zero=b"2.0",
    a_tenth=b"0.1",
    an_exponent=b"1E5",
    an_exponent_with_a_sign=b"-1.25e+30",
    a_negative_exponent=b"1e-7",
    the_smallest_double=b"4.9e-324",
    less_than_the_smallest_double=b"1e-400",
    the_largest_double=b"1.7976931348623157e308",
    more_than_the_largest_double=b"1e400",
    less_than_the_least_double=b"-1e400",
    four_hundred_digits=b"9" * 400,
    an_empty_string=b'""',
    a_string=b'"libvirt-12"',
    a_string_in_single_quotes=b"'a\"b\\'c'",
    a_string_with_escapes=rb'"\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\ud83d\ude00"',
    a_string_with_a_nul=rb'"a\u0000b"',
    a_string_with_a_raw_nul_of_java=b'"a\xc0\x80b"',
    a_string_with_strange_letters='"é€\U0001f600\ufffd\x7f\x80"'.encode(),
    a_string_like_a_number=b'"2.0"',
    a_string_like_an_id=b'"\\", \\"id\\": 5}"',
    a_long_string=b'"' + b"x" * 5000 + b'"',
    an_empty_list=b"[]",
    a_list=b'[1, "2", [3.0, {}], null]',
    an_empty_object=b"{}",
    an_object=b'{"b": [1, 2.50], "a": {"id": 3}, "": ""}',
    an_object_like_a_request=b'{"execute": "query-status", "id": 5}',
    a_list_five_hundred_deep=b"[" * 500 + b"]" * 500,
)

SYNTAX = [
    *_plain(
        junk_and_an_object=b"x{}",
        junk_and_a_request=b"@ # %d" + NAME,
        words=b"info status\n",
        http=b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        a_comment=b"// a comment\n",
        a_byte_order_mark=b"\xef\xbb\xbf",
        utf_16=b"\xff\xfe{\0}\0",
        tls=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        nan=b"NaN ",
        infinity=b'{"execute": "query-name", "id": Infinity}',
        minus_infinity=b"[-Infinity]",
        a_word=b"yes ",
        true_with_a_tail=b"truefalse ",
        a_very_long_word=b"a" * 2000 + b" ",
        a_leading_zero=b'{"execute": "query-name", "id": 007}',
        a_plus=b"+1 ",
        a_point_without_digits=b"[1.]",
        a_point_first=b"[.5]",
        two_points=b"1.5.5 ",
        an_exponent_after_zero=b'{"execute": "query-name", "id": 0e1}',
        an_exponent_without_digits=b"1e ",
        a_hexadecimal_number=b"0x10 ",
        a_lonely_minus=b"- 1 ",
        two_minuses=b"--1 ",
        single_quotes=b"{'execute': 'query-name', 'id': 'a'}",
        mixed_quotes=b"{'execute\": 'query-name'}\n",
        duplicate_keys=b'{"execute": "query-name", "execute": "query-status"}',
        duplicate_keys_by_an_escape=b'{"id": 1, "\\u0069d": 2, "execute": "query-name"}',
        duplicate_keys_inside=b'{"execute": "query-name", "id": {"a": 1, "a": 2}}',
        a_comma_too_many=b'{"execute": "query-name", "id": 1,}',
        a_comma_too_many_in_a_list=b"[1,]",
        a_comma_first=b"{,}",
        two_commas=b"[1,,2]",
        no_comma=b'{"execute": "query-name" "id": 1}',
        no_comma_in_a_list=b"[1 2]",
        no_colon=b'{"execute" "query-name"}',
        two_colons=b'{"execute":: "query-name"}',
        a_colon_alone=b"{:}",
        no_value=b'{"execute":}',
        a_key_that_is_a_number=b'{1: 2, "execute": "query-name"}',
        a_key_that_is_an_object=b"{{}: 1}",
        a_key_that_is_true=b"{true: 1}",
        a_closing_brace=b"}",
        a_closing_bracket=b"]",
        many_closing_braces=b"}}}",
        a_bracket_for_a_brace=b'{"execute": "query-name"]',
        a_brace_for_a_bracket=b"[1}",
        crossed_brackets=b"{[}]",
        crossed_brackets_the_other_way=b"[{]}",
        a_comma_alone=b",",
        a_colon_at_the_top=b":",
        a_lone_high_surrogate=b'{"execute": "query-name", "id": "\\ud800"}',
        a_lone_low_surrogate=b'"\\udc00"',
        surrogates_in_the_wrong_order=b'"\\udc00\\ud800"',
        a_high_surrogate_and_a_letter=b'"\\ud83dx"',
        a_high_surrogate_and_another=b'"\\ud83d\\u0041"',
        a_noncharacter=b'"\\uffff"',
        another_noncharacter=b'"\\ufdd0"',
        a_noncharacter_beyond=b'"\\udbff\\udfff"',
        a_raw_noncharacter=b'"\xef\xbf\xbf"',
        an_unknown_escape=b'"\\x41"',
        an_unfinished_escape=b'"\\u00e"',
        an_escape_of_no_hexadecimal=b'"\\uGHIJ"',
        an_escape_of_a_control_byte=b'"\\\x01"\n',
        broken_utf_8=b'"\xe2\x82"',
        overlong_utf_8=b'"\xc0\xaf"',
        a_surrogate_in_utf_8=b'"\xed\xa0\x80"',
        beyond_unicode=b'"\xf4\x90\x80\x80"',
        utf_8_continued_without_a_beginning=b'"\x80"',
        latin_1=b'"caf\xe9"',
        a_raw_delete=b'{"execute": "query-name", "id": "\x7f"}',
        a_raw_tab_in_a_string=b'"a\tb"',
        a_newline_in_a_string=b'"a\nb"',
        a_nul=b"\0",
        nuls=b"\0\0\0",
        a_nul_in_a_string=b'"a\0b"',
        a_control_byte=b"\x01",
        escape=b"\x1b[A",
        a_form_feed=b"\x0c",
        a_vertical_tab=b"\x0b",
        telnet=b"\xff\xfb\x01",
        byte_fe=b"\xfe",
        byte_ff=b"\xff",
        byte_ff_in_an_object=b'{"execute": "query-name", \xff',
        byte_ff_in_a_string=b'{"execute": "query-\xffname"}\n',
        byte_80=b"\x80",
        a_no_break_space=b"\xc2\xa0",
        a_control_byte_in_an_object=b'{"execute": \x02',
        a_stray_byte_in_an_object=b'{"execute": @ "query-name", "id": 7}',
        a_stray_byte_in_a_deep_list=b"[[[@ ",
        a_stray_byte_and_a_request_within=b'{"a": [@ {"execute": "query-status", "id": 2}]}',
        a_percent_sign=b'{"execute": %s}',
        an_error_and_a_request_within=b'{"a" {"execute": "query-status", "id": 2}}',
        an_error_and_a_bracket_more=b'[{"a" [}, {"execute": "query-status", "id": 2}]]',
        capitals=b"TRUE ",
        a_python_dictionary=b"{'a': None, 'b': True}",
        javascript=b"{execute: 'query-name'}",
        an_at_sign_before_everything=b"@" + NAME + b"@" + NAME,
        deep_lists=b"[" * 1024 + b"]" * 1024,
        a_deep_id=b'{"execute": "query-name", "id": ' + b"[" * 1023 + b"]" * 1023 + b"}",
        deep_arguments=b'{"execute": "query-name", "arguments": {"a": ' + b"[" * 1022 + b"]" * 1022 + b"}}",
        deep_objects=b'{"id":' * 1023 + b"{}" + b"}" * 1023,
        lists_that_are_too_deep=b"[" * 1025 + b"]" * 1025,
        a_list_that_is_too_deep_with_a_request_within=b"[" * 1025 + STATUS + b"]" * 1025,
        objects_that_are_too_deep=b'{"id":' * 1025 + b"1" + b"}" * 1025,
        an_id_that_is_too_deep=b'{"execute": "query-name", "id": ' + b"[" * 1024 + b"]" * 1024 + b"}",
        a_list_that_is_too_deep_and_a_stray_byte=b"[" * 1025 + b"@" + STATUS,
        a_list_that_is_too_deep_and_a_brace=b"[" * 1025 + b"}" + STATUS,
        a_list_that_is_too_deep_and_byte_ff=b"[" * 1025 + b"\xff" + STATUS,
        a_list_that_is_too_deep_twice=(b"[" * 1030 + b"]" * 1030) * 2,
    ),
    *_ends(
        an_unfinished_object=b'{"execute": "query-name"',
        an_unfinished_object_after_a_request=NAME + b'{"execute": "query-name",',
        an_unfinished_string=b'{"execute": "query-na',
        an_unfinished_escape=b'"\\',
        an_unfinished_number=b"12",
        an_unfinished_word=b"tru",
        an_unfinished_list=b"[1, 2",
        an_unfinished_list_with_an_error=b"[1 2",
        an_unfinished_object_with_an_error=b'{"execute": foo',
        an_unfinished_list_that_is_too_deep=b"[" * 1025 + STATUS,
        many_opening_brackets=b"[" * 100,
        many_requests=STATUS * 30,
        junk=b"@",
        a_carriage_return=NAME + b"\r",
    ),
]

FRAMING = [
    Script("values back to back", (NEGOTIATE + b'{}[]1"a"' + NAME + b"'b'null true{}" + STATUS,)),
    Script("requests back to back", (NEGOTIATE + NAME + STATUS + NAME,)),
    Script("a request on many lines", (NEGOTIATE, b'{\n  "execute"\n:\r\n\t"query-name",\r\n\r\n"id"\t:\n1\n}\n')),
    Script("CR LF", (NEGOTIATE + b"\r\n" + STATUS + b"\r\n" + NAME + b"\r\n",)),
    Script("CR alone", (NEGOTIATE + b"\r" + STATUS + b"\r",)),
    Script("many empty lines", (b"\n" * 500 + NEGOTIATE + b"\n" * 500 + NAME,)),
    Script("many spaces", (NEGOTIATE, b" " * 5000 + NAME + b" " * 5000)),
    Script("no spaces at all", (b'{"execute":"qmp_capabilities"}{"execute":"query-name","id":1}',)),
    Script("byte by byte", tuple(bytes([byte]) for byte in NEGOTIATE + NAME)),
    Script("byte by byte, with an error", tuple(bytes([byte]) for byte in NEGOTIATE + b'{"a": @}' + NAME)),
    Script("a request in halves, with an answer between", (1, NEGOTIATE + NAME + NAME[:12], 2, NAME[12:], 1)),
    Script("each request when the last is answered", (1, NEGOTIATE, 1, NAME, 1, STATUS, 1, NAME, 1)),
    Script("each error when the last is answered", (1, b"@\n", 1, NEGOTIATE, 1, b"@\n", 1, b"{}", 1, b"5 ", 1)),
    Script("a long string", (NEGOTIATE, ask("qom-list", {"path": "x" * 20_000}, id=1))),
    Script("a request of 60 KB", (NEGOTIATE, ask("query-name", id=["y" * 1000] * 60))),
    Script(
        "what cannot be judged, with an infinite id",
        (
            NEGOTIATE,
            b'{"execute": "human-monitor-command", "arguments": {"command": "info name"}, "id": [1E400, "1e400"]}',
        ),
    ),
    Script("an id of 100 KB", (NEGOTIATE, b'{"execute": "query-name", "id": [%b0]}' % (MIXTURE * 1500), NAME)),
    Script(
        "arguments of 100 KB",
        (NEGOTIATE, b'{"execute": "qom-list", "arguments": {"a": [%b0]}}' % (MIXTURE * 1500), NAME),
    ),
    Script("a path of 100 KB", (NEGOTIATE, ask("qom-list", {"path": "é😀\n" * 5000}, id=1), NAME)),
    Script("a command of 100 KB", (NEGOTIATE, ask("é" * 17_000, id="é" * 3_000), NAME)),
    Script("an id of 100 KB, with oob", (NEGOTIATE_OOB, ask("query-name", id="y" * 100_000) + YANK), oob=True),
    Script("a request with many members", (NEGOTIATE, ask("query-name", {f"m{i}": i for i in range(2000)}))),
    Script("a list with many items", (NEGOTIATE, json.dumps(list(range(4000))).encode(), NAME)),
    Script("errors and requests in turn", (NEGOTIATE, (NAME + b"@\n" + b"{}" + b"[1 2]") * 10)),
    Script("many errors", (NEGOTIATE, b"@\n" * 100)),
]

REPLIES = [
    Script("the schema", (NEGOTIATE, ask("query-qmp-schema", id="big"), 3)),
    Script("the schema, with no id", (NEGOTIATE, ask("query-qmp-schema"), NAME, 4)),
    Script(
        "the schema five times, and requests between", (NEGOTIATE, (ask("query-qmp-schema", id=1) + STATUS) * 5, 12)
    ),
    Script("the commands", (NEGOTIATE, ask("query-commands", id=1), ask("query-command-line-options", id=2))),
    Script("the version", (NEGOTIATE, ask("query-version", id=1), ask("query-kvm"), ask("query-uuid", id=2))),
    Script("QOM", (NEGOTIATE, ask("qom-list", {"path": "/"}, id=1), ask("qom-list", {"path": "/machine"}))),
    Script("events", (NEGOTIATE, ask("stop", id=1) + ask("cont", id=2) + ask("stop", id=3) + ask("cont", id=4))),
    Script("events one by one", (1, NEGOTIATE, 1, ask("stop"), 2, ask("query-status"), 1, ask("cont"), 2)),
    Script("events between replies", (NEGOTIATE, NAME + ask("stop") + NAME + STATUS + ask("cont") + STATUS)),
    Script("no events before the negotiation", (ask("stop"), NEGOTIATE, ask("stop"), ask("cont"))),
    Script("stop, stop, cont, cont", (NEGOTIATE, ask("stop") * 2 + ask("cont") * 2 + STATUS)),
    Script("stop, and the end", (NEGOTIATE, ask("stop"))),
    Script("events in a burst", (NEGOTIATE, (ask("stop") + ask("cont")) * 15)),
    Script("events in a burst, with oob", (NEGOTIATE_OOB, (ask("stop") + ask("cont")) * 15), oob=True),
    Script("info status", (NEGOTIATE, ask("human-monitor-command", {"command-line": "info status"}, id=1))),
    Script("info version", (NEGOTIATE, ask("human-monitor-command", {"command-line": "info version"}, id=1))),
    Script("an unknown HMP command", (NEGOTIATE, ask("human-monitor-command", {"command-line": "frobnicate"}, id=1))),
    Script("an empty HMP command", (NEGOTIATE, ask("human-monitor-command", {"command-line": ""}, id=1))),
    Script(
        "HMP stop and cont", (NEGOTIATE, *(ask("human-monitor-command", {"command-line": c}) for c in ("stop", "cont")))
    ),
    Script(
        "HMP with a CPU that is not there",
        (NEGOTIATE, ask("human-monitor-command", {"command-line": "info status", "cpu-index": 5}, id=1)),
    ),
    Script("HMP without a command", (NEGOTIATE, ask("human-monitor-command", {}, id=1))),
    Script("HMP with a number", (NEGOTIATE, ask("human-monitor-command", {"command-line": 5}, id=1))),
    Script("capabilities are read", (NEGOTIATE, ask("query-migrate-capabilities", id=1), ask("query-migrate", id=2))),
    Script(
        "a harmless capability is set and read",
        (
            NEGOTIATE,
            *(
                ask("migrate-set-capabilities", {"capabilities": [{"capability": "xbzrle", "state": state}]}, id=state)
                + ask("query-migrate-capabilities")
                for state in (True, False)
            ),
        ),
    ),
    Script("a list of no capabilities", (NEGOTIATE, ask("migrate-set-capabilities", {"capabilities": []}, id=1), NAME)),
    Script(
        "a migration that there is none of",
        (NEGOTIATE, ask("migrate-start-postcopy", id=1), ask("migrate_cancel"), NAME),
    ),
    Script("a device that is not there", (NEGOTIATE, ask("device_add", {"driver": "no-such-device"}, id=1), NAME)),
    Script("a device to remove that is not there", (NEGOTIATE, ask("device_del", {"id": "nothing"}, id=1), NAME)),
    Script(
        "a chardev comes and goes",
        (
            NEGOTIATE,
            ask("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}, id=1),
            ask("chardev-remove", {"id": "c"}, id=2),
        ),
    ),
    Script(
        "an object comes and goes",
        (NEGOTIATE, ask("object-add", {"qom-type": "iothread", "id": "t"}, id=1), ask("object-del", {"id": "t"}, id=2)),
    ),
]

BURSTS = [
    Script("nine requests at once", (NEGOTIATE, b"".join(ask("query-status", id=i) for i in range(9)))),
    Script("a hundred requests at once", (NEGOTIATE, b"".join(ask("query-status", id=i) for i in range(100)))),
    Script("nine at once, with oob", (NEGOTIATE_OOB, b"".join(ask("query-status", id=i) for i in range(9))), oob=True),
    Script("a hundred, with oob", (NEGOTIATE_OOB, b"".join(ask("query-status", id=i) for i in range(100))), oob=True),
    Script("nine schemas at once", (NEGOTIATE, ask("query-qmp-schema", id=1) * 9, 11)),
    Script("nine schemas at once, with oob", (NEGOTIATE_OOB, ask("query-qmp-schema", id=1) * 9), oob=True),
    Script("errors of all kinds in a burst", (NEGOTIATE, (b"{}5 @\n" + ask("nothing") + ask("qom-list") + b"]") * 8)),
    Script("a burst before the negotiation", (STATUS * 9 + b"{}" * 9 + NEGOTIATE + STATUS * 9,)),
]

OOB = [
    *_oob(
        exec_oob=YANK,
        exec_oob_of_a_command_that_has_none=b'{"exec-oob": "query-name", "id": "oob"}',
        exec_oob_of_an_unknown_command=b'{"exec-oob": "nothing", "id": "oob"}',
        exec_oob_that_is_no_string=b'{"exec-oob": 1, "id": "oob"}',
        exec_oob_with_an_unknown_member=b'{"exec-oob": "query-yank", "foo": 1, "id": "oob"}',
        exec_oob_with_arguments_null=b'{"exec-oob": "query-yank", "arguments": null, "id": "oob"}',
        exec_oob_with_an_argument=b'{"exec-oob": "query-yank", "arguments": {"a": 1}, "id": "oob"}',
        exec_oob_with_no_id=b'{"exec-oob": "query-yank"}',
        exec_oob_in_single_quotes=b"{'exec-oob': 'query-yank', 'id': 'oob'}",
        execute_and_exec_oob=b'{"execute": "query-yank", "exec-oob": "query-yank", "id": 1}',
        exec_oob_and_execute=b'{"exec-oob": "query-yank", "execute": "query-yank", "id": 1}',
        an_out_of_band_command_in_band=b'{"execute": "query-yank", "id": 1}',
        exec_oob_between_requests=NAME + YANK + NAME + YANK + STATUS,
        exec_oob_behind_many_requests=NAME * 20 + YANK,
        exec_oob_many_times=YANK * 30,
        exec_oob_between_errors=b"@\n" + YANK + b"{}" + YANK + b"[1 2]" + YANK,
        exec_oob_of_migrate_pause=b'{"exec-oob": "migrate-pause", "id": "oob"}',
        exec_oob_of_yank_of_nothing=b'{"exec-oob": "yank", "arguments": {"instances": []}, "id": "oob"}',
        exec_oob_of_yank_of_what_is_not_there=(
            b'{"exec-oob": "yank", "arguments": {"instances": [{"type": "chardev", "id": "x"}]}, "id": "oob"}'
        ),
        junk=b"hello\n" + NAME,
        an_unfinished_request=b'{"execute": ',
        an_unfinished_string=b'{"execute": "que',
        no_objects=b'1 "a" [] null ',
        events=ask("stop") + NAME + YANK + ask("cont"),
        a_list_that_is_too_deep=b"[" * 1025 + NAME,
        an_unknown_member=b'{"execute": "query-name", "foo": 1, "id": 1}',
        an_id_of_each_kind=b"".join(
            b'{"exec-oob": "query-yank", "id": %b}' % i for i in (b"1", b"2.0", b"{}", b"null")
        ),
    ),
]

SCRIPTS = [*NEGOTIATION, *REQUESTS, *IDS, *SYNTAX, *FRAMING, *REPLIES, *BURSTS, *OOB]
