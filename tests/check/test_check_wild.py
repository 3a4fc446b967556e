"""Histories as they are met in the wild: each form means what the plain one means."""

import pytest

from cluster.check.budget import Budget
from cluster.check.formats import Format, read_history, sniff
from cluster.check.history import HistoryError
from cluster.check.judge import Rules, judge

PLAIN = """
{:type :invoke, :f :write, :value 3, :process 1, :time 4, :index 0}
{:type :info, :f :write, :value 3, :process 1, :time 5, :index 1, :error :timeout}
{:type :info, :f :start, :value [:isolated {"n1" #{"n2" "n3"}}], :process :nemesis, :time 6, :index 2}
{:type :invoke, :f :cas, :value [3 4], :process 2, :time 7, :index 3}
{:type :ok, :f :cas, :value [3 4], :process 2, :time 8, :index 4}
{:type :invoke, :f :read, :value nil, :process 0, :time 9, :index 5}
{:type :ok, :f :read, :value 4, :process 0, :time 10, :index 6}
"""


def by_text(text: str) -> str:
    for word in ("type", "f", "process", "value", "time", "index"):
        text = text.replace(f":{word} ", f'"{word}" ')
    return text


FORMS = {
    "plain": PLAIN,
    "records": PLAIN.replace("{:type", "#jepsen.history.Op{:type"),
    "a vector of records": f"#jepsen.history.History [{PLAIN}]",
    "namespaced maps": PLAIN.replace("{:type", "#:jepsen{:type"),
    "namespaced names": PLAIN.replace(":process", ":jepsen.op/process"),
    "namespaced operations": PLAIN.replace(":f :", ":f :register/"),
    "texts as keys": by_text(PLAIN),
    "texts as keys and values": by_text(PLAIN).replace('"type" :ok', '"type" "ok"'),
    "texts as keys, in a vector": f"[{by_text(PLAIN)}]",
    "comments": f"; begins\n{PLAIN.replace(', :time', ' #_ ignored , :time')};; ends\n",
    "objects of the JVM": PLAIN.replace(
        ":error :timeout", ':error #object[java.net.Socket 0x3f1a "s"] :rate 1/2 :left ##Inf'
    ),
    "a nemesis of nil": PLAIN.replace(":process :nemesis", ":process nil"),
    "other words": PLAIN.replace(":f :read", ":f :r").replace(":f :write", ":f :w"),
    "a map that holds them": f"{{:history [{PLAIN}] :results {{:valid? true}}}}",
    "lines that end as elsewhere": "\ufeff" + PLAIN.replace("\n", "\r\n"),
    "a log": """
INFO  jepsen.util - 1\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:info\t:write\t3\tjava.net.ConnectException: refused (Connection "x
INFO  jepsen.util - :nemesis\t:info\t:start\t[:isolated {"n1" #{"n2" "n3"}}]
2021-02-16 10:07:32,344{GMT}\tINFO\t[jepsen worker 2] jepsen.util: 2\t:invoke\t:cas\t[3 4]
2021-02-16 10:07:32,345{GMT}\tINFO\t[jepsen worker 2] jepsen.util: 2\t:ok\t:cas\t[3 4]
0\t:invoke\t:read\tnil
0\t:ok\t:read\t4
""",
}


def verdict_of(text: str, model: str = "register") -> str:
    return judge(read_history(text.encode()), model, Rules(Budget())).verdict.value


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_what_the_plain_one_says(name: str) -> None:
    history = read_history(FORMS[name].encode())
    assert [op.status.value for op in history.operations] == ["info", "ok", "ok"]
    assert [op.argument for op in history.operations] == [3, (3, 4), None]
    assert len(history.nemesis) == 1
    assert verdict_of(FORMS[name]) == "pass"
    wrong = FORMS[name]
    for right in (":read, :value 4", ':read, "value" 4', ":read\t4", ":register/read, :value 4"):
        wrong = wrong.replace(right, right[:-1] + "5")
    wrong = wrong.replace(":f :r, :value 4", ":f :r, :value 5")
    assert wrong != FORMS[name]
    assert verdict_of(wrong) == "fail"


@pytest.mark.parametrize("tag", ["", "#jepsen.independent.Tuple ", "#clojure.lang.MapEntry "])
def test_values_with_their_keys_are_taken_apart(tag: str) -> None:
    text = f"""
    {{:process 0, :type :invoke, :f :write, :value {tag}[:x 1]}}
    {{:process 0, :type :ok, :f :write, :value {tag}[:x 1]}}
    {{:process 0, :type :invoke, :f :cas, :value {tag}[:x [1 2]]}}
    {{:process 0, :type :ok, :f :cas, :value {tag}[:x [1 2]]}}
    """
    assert verdict_of(text, "cas") == "pass"
    assert verdict_of(text.replace("[1 2]", "[3 2]"), "cas") == "fail"


def test_a_key_value_log_whose_process_crashes_without_a_return() -> None:
    text = """
    {:process 0, :type :invoke, :f :put, :key "0", :value "a"}
    {:process 0, :type :ok, :f :put, :key "0", :value "a"}
    {:process 2, :type :invoke, :f :append, :key "0", :value "b"}
    {:process 3, :type :invoke, :f :get, :key "0", :value nil}
    {:process 3, :type :ok, :f :get, :key "0", :value "ab"}
    """
    assert verdict_of(text, "kv-append") == "pass"
    assert verdict_of(text.replace('"ab"', '"abb"'), "kv-append") == "fail"


ELLE = """
{:index 0, :type :ok, :value [[:append :x 1] [:r :y [1]]]}
{:index 1, :type :ok, :value [[:append :y 1] [:r :x [1]]]}
"""


def test_transactions_without_their_beginnings_are_judged_by_what_they_saw() -> None:
    history = read_history(ELLE.encode())
    assert "unknown beginning" in history.warnings[0]
    judgement = judge(history, "list-append", Rules(Budget()))
    assert judgement.verdict.value == "fail"
    assert "G1c" in judgement.findings[0].reason
    assert verdict_of(ELLE.replace("[:r :x [1]]", "[:r :x []]"), "list-append") == "pass"


def test_transactions_that_end_without_a_word() -> None:
    text = """
    {:process 0 :type :invoke, :value [[:append :x 1]]}
    {:process 0 :type :info, :value nil}
    {:process 1 :type :invoke, :value [[:r :x nil]]}
    {:process 1 :type :ok, :value [[:r :x [1]]]}
    """
    assert verdict_of(text, "list-append") == "pass"
    assert verdict_of(text.replace(":info", ":fail"), "list-append") == "fail", "an aborted read"


def test_times_in_fractions_leave_the_order_to_the_lines() -> None:
    text = '{"process":0,"type":"invoke","f":"read","time":0.5}\n'
    text += '{"process":0,"type":"ok","f":"read","value":null,"time":0.25}\n'
    assert verdict_of(text) == "pass"


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ('{"type" :invoke}', Format.EDN),
        ('[{"type" "invoke"}]', Format.EDN),
        ('{"type" : null}', Format.JSON),
        ('{"type" :null}', Format.JSON),
        ('{"ty', Format.JSON),
    ],
)
def test_keys_of_text_are_edn_if_no_colon_stands_behind_them(text: str, format_: Format) -> None:
    assert sniff(text) is format_


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"process":0,"type":"invoke","f":"write","value":' + "[" * 100_000, "nested too deep"),
        ('{"process":0,"type":"invoke","f":"write","value":' + "9" * 5_000 + "}", "4,300 digits"),
        ("{:process 0 :type :invoke :f :write :value " + "9" * 5_000 + "}", "9…' is no EDN"),
    ],
)
def test_what_no_history_holds_is_refused_in_a_short_sentence(text: str, words: str) -> None:
    with pytest.raises(HistoryError, match=words) as raised:
        read_history(text.encode())
    assert len(str(raised.value)) < 120


def test_json_events_may_be_held_by_an_object_and_lines_be_comments() -> None:
    events = (
        '{"process":0,"type":"invoke","f":"read","value":null}',
        '{"process":0,"type":"ok","f":"read","value":1}',
    )
    assert verdict_of(f'{{"history": [{events[0]},\n {events[1]}]}}') == "fail"
    assert verdict_of(f"{events[0]}\n# a remark\n// another\n{events[1]}\n") == "fail"
    with pytest.raises(HistoryError, match="is no event"):
        read_history(b'{"history": [1]}')


def test_each_key_has_a_set_of_its_own() -> None:
    text = """
    {:process 0, :type :invoke, :f :add, :value [7 1]}
    {:process 0, :type :ok, :f :add, :value [7 1]}
    {:process 0, :type :invoke, :f :add, :value [8 2]}
    {:process 0, :type :ok, :f :add, :value [8 2]}
    {:process 1, :type :invoke, :f :read, :value [7 nil]}
    {:process 1, :type :ok, :f :read, :value [7 #{1}]}
    {:process 1, :type :invoke, :f :read, :value [8 nil]}
    {:process 1, :type :ok, :f :read, :value [8 [2]]}
    """
    assert verdict_of(text, "set") == "pass"
    assert verdict_of(text.replace("[8 [2]]", "[8 []]"), "set") == "fail"


def test_versions_beside_values_are_left_out() -> None:
    text = """
    {:type :invoke, :f :write, :value [0 [nil 1]], :process 0}
    {:type :ok, :f :write, :value [0 [1 1]], :process 0}
    {:type :invoke, :f :read, :value [0 [nil nil]], :process 0}
    {:type :ok, :f :read, :value [0 [1 1]], :process 0}
    {:type :invoke, :f :cas, :value [0 [nil [1 2]]], :process 0}
    {:type :ok, :f :cas, :value [0 [2 [1 2]]], :process 0}
    {:type :invoke, :f :read, :value [0 [nil nil]], :process 0}
    {:type :ok, :f :read, :value [0 [2 2]], :process 0}
    """
    assert verdict_of(text, "cas") == "pass"
    assert verdict_of(text.replace("[0 [2 2]]", "[0 [2 1]]"), "cas") == "fail"


def test_a_register_may_hold_pairs() -> None:
    """A cas of two of them looks like `[key [old new]]`; that nobody reads a key tells them apart."""
    text = """
    {:process 0, :type :invoke, :f :write, :value [1 2]}
    {:process 0, :type :ok, :f :write, :value [1 2]}
    {:process 0, :type :invoke, :f :cas, :value [[1 2] [3 4]]}
    {:process 0, :type :ok, :f :cas, :value [[1 2] [3 4]]}
    """
    look = "{:process 0, :type :invoke, :f :read}\n{:process 0, :type :ok, :f :read, :value [3 4]}"
    assert verdict_of(text, "cas") == "pass"
    assert verdict_of(text + look, "cas") == "pass"
    assert verdict_of(text + look.replace("[3 4]", "[1 2]"), "cas") == "fail"


def test_a_cas_that_expects_nil_of_a_key_is_no_version() -> None:
    text = """
    {:process 0, :type :invoke, :f :cas, :value [:x [nil 1]]}
    {:process 0, :type :ok, :f :cas, :value [:x [nil 1]]}
    """
    assert verdict_of(text, "cas") == "pass"
    assert verdict_of(text.replace("nil", "2"), "cas") == "fail"


def test_what_nobody_reads_still_has_its_key() -> None:
    text = """
    {:process 0, :type :invoke, :f :append, :value [:x "a"]}
    {:process 0, :type :ok, :f :append, :value [:x "a"]}
    """
    assert verdict_of(text, "kv-append") == "pass"
    counts = text.replace(":append", ":add").replace('"a"', "1")
    assert verdict_of(counts, "counter") == "unknown"
    assert verdict_of(counts, "set") == "unknown"


@pytest.mark.parametrize("answer", ["5", "[2 5]", "[5 6 7]"])
def test_an_answer_for_another_key_is_refused(answer: str) -> None:
    text = f"""
    {{:process 0, :type :invoke, :f :read, :value [1 nil]}}
    {{:process 0, :type :ok, :f :read, :value {answer}}}
    """
    with pytest.raises(HistoryError, match=r"line 2: .* answers \(1, None\); another key"):
        verdict_of(text)


@pytest.mark.parametrize("value", ['{"base64": "abc"}', '{"base64": "!"}'])
def test_a_map_that_only_looks_like_bytes_is_a_map(value: str) -> None:
    text = f"""
    {{"process":0,"type":"invoke","f":"write","value":{value}}}
    {{"process":0,"type":"ok","f":"write","value":{value}}}
    {{"process":1,"type":"invoke","f":"read"}}
    {{"process":1,"type":"ok","f":"read","value":{value}}}
    """
    assert verdict_of(text) == "pass"
    assert verdict_of(text.replace('"f":"read","value":', '"f":"read","value":0,"x":')) == "fail"


def test_a_position_in_porcupine_style_is_a_number() -> None:
    text = '{"ClientId":0,"Input":{"f":"read"},"Call":1,"Output":{"position":"x"},"Return":2}'
    with pytest.raises(HistoryError, match="line 1: position 'x'"):
        verdict_of(text)


@pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x85"])
def test_only_line_ends_end_the_lines_of_a_log(end: str) -> None:
    text = f'0 :invoke :put "a{end}b"\r\n0 :ok :put "a{end}b"\n0 :invoke :get\r0 :ok :get "a{end}b"'
    assert verdict_of(text, "kv-append") == "pass"
    assert verdict_of(text.replace(f'get "a{end}', f'get "{end}'), "kv-append") == "fail"


@pytest.mark.parametrize("object_", ["#<Socket closed [1 2}>", '#"a.b[c"', "#'user/f"])
def test_objects_of_old_printers_are_values(object_: str) -> None:
    assert verdict_of(PLAIN.replace(":error :timeout", f":error {object_}")) == "pass"


def test_steps_may_be_named_with_a_colon_in_json() -> None:
    step = '{"process":0,"type":"%s","f":"txn","value":[[":append","x",1],[":r","x",%s]]}\n'
    text = step % ("invoke", "null") + step % ("ok", "[1]")
    assert verdict_of(text, "list-append") == "pass"
    assert verdict_of(text.replace("[1]", "[2]"), "list-append") == "fail"
