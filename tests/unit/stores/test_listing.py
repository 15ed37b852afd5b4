"""Pages of ListObjectsV2."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from vaulthalla.stores import listing as listings
from vaulthalla.stores.listing import BadListing, parse, take_over, timestamp

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(*keys: str, head: str = "<IsTruncated>false</IsTruncated>", tail: str = "", gap: str = "") -> bytes:
    contents = gap.join(
        f"<Contents>{gap}<Key>{key}</Key>{gap}<LastModified>2026-11-01T02:03:04.000Z</LastModified>{gap}"
        f"<ETag>&quot;e&quot;</ETag>{gap}<Size>3</Size>{gap}<StorageClass>STANDARD</StorageClass>{gap}</Contents>"
        for key in keys
    )
    return (
        f'<?xml version="1.0"?>\n<ListBucketResult {NAMESPACE}>{gap}<Name>b</Name>{gap}<Prefix></Prefix>{gap}'
        f"{head}{gap}{contents}{gap}{tail}{gap}</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize("gap", ["", "\n    "], ids=["dense", "indented"])
def test_entries_are_read_as_they_are(gap: str) -> None:
    listing = parse(page("a&amp;b", " c ", gap=gap))
    assert [entry["Key"] for entry in listing.entries] == ["a&b", " c "]
    assert {name: listing.entries[1][name] for name in ("ETag", "Size", "StorageClass")} == {
        "ETag": '"e"',
        "Size": "3",
        "StorageClass": "STANDARD",
    }
    assert not listing.truncated


def test_the_page_says_how_it_goes_on_wherever_it_says_it() -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t/+=</NextContinuationToken>"
    for listing in (parse(page("a", head=more)), parse(page("a", head="", tail=more))):
        assert (listing.truncated, listing.next_token) == (True, "t/+=")


def test_restore_states_are_read() -> None:
    status = (
        "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        "<RestoreExpiryDate>2026-12-01T00:00:00.000Z</RestoreExpiryDate></RestoreStatus></Contents>"
    )
    (entry,) = parse(page("a").replace(b"</Contents>", status.encode())).entries
    assert (entry["IsRestoreInProgress"], entry["RestoreExpiryDate"]) == ("false", "2026-12-01T00:00:00.000Z")


@example_settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_encoded_keys_come_back_unchanged(keys: list[str]) -> None:
    head = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    for safe in ("", "/"):
        encoded = [quote(key, safe=safe).replace("%20", "+") for key in keys]
        assert [entry["Key"] for entry in parse(page(*encoded, head=head)).entries] == keys


def test_keys_are_decoded_only_where_the_page_says_they_are_encoded() -> None:
    assert parse(page(escape("a+b%2F"))).entries[0]["Key"] == "a+b%2F"


def test_bytes_that_are_no_text_survive() -> None:
    head = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    key = parse(page("a%FF", head=head)).entries[0]["Key"]
    assert key.encode("utf-8", "surrogateescape") == b"a\xff"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>SlowDown</Code></Error>",
        page("a")[:-1],
        page("a")[: len(page("a")) // 2],
        page("a", head=""),
        b"<html><IsTruncated>false</IsTruncated></html>",
        page("a").replace(b'version="1.0"', b'version="1.0" encoding="foo"'),
    ],
    ids=["empty", "error", "unclosed", "half", "unstated", "foreign", "encoding"],
)
def test_a_partial_listing_is_no_listing(body: bytes) -> None:
    with pytest.raises(BadListing):
        parse(body)
    answer: dict[str, Any] = {"status_code": 200, "body": body}
    taken: dict[str, Any] = {}
    take_over(response_dict=answer, customized_response_dict=taken)
    assert (answer["status_code"], taken) == (500, {})


def test_times_are_utc() -> None:
    assert timestamp("2026-11-01T02:03:04.567Z") == datetime(2026, 11, 1, 2, 3, 4, 567000, tzinfo=UTC)


def test_an_object_without_a_key_is_no_page() -> None:
    with pytest.raises(BadListing, match="no key"):
        parse(page().replace(b"</ListBucketResult>", b"<Contents><Size>1</Size></Contents></ListBucketResult>"))


def test_common_prefixes_are_decoded() -> None:
    more = "<CommonPrefixes><Prefix>a+b/%C3%A9/</Prefix></CommonPrefixes>"
    found = parse(
        page(
            "k", head="<Prefix>top/</Prefix><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>", tail=more
        )
    )
    assert (found.prefixes, [entry["Key"] for entry in found.entries]) == (["a b/é/"], ["k"])


TEXTS = st.text(st.sampled_from("aZ09/%+&<>\"' ]\n\r\t\x7f\x00é"), max_size=6)
LEAVES = st.sampled_from(["Key", "Size", "ETag", "StorageClass", "Owner", "ID"])
WRITTEN = (
    lambda leaf, text: f"<{leaf}>{text}</{leaf}>",
    lambda leaf, text: f"<Owner><{leaf}>{text}</{leaf}></Owner>",
    lambda leaf, text: f"<{leaf} type='x'>{text}</{leaf}>",
    lambda leaf, text: f"<{leaf}/>",
    lambda leaf, text: f"<{leaf}>{text}",
    lambda leaf, text: f"<{leaf}><![CDATA[{text}]]></{leaf}>",
)
AROUND = (
    "{}",
    "<!--{}-->",
    "<Prefix><![CDATA[{}]]></Prefix>",
    "{}<Contents><Key>z</Key><Size>1</Size></Contents >",
    "<Contents ><Key>z</Key><Size>1</Size></Contents>{}",
    "<Other>{}</Other>",
    "text {}",
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Pages of objects that are mostly, but not always, written alike, and now and then no XML at all."""
    leaves = draw(st.lists(LEAVES, min_size=1, max_size=4, unique=True))
    odd = draw(st.booleans())
    styles = {leaf: draw(st.sampled_from(WRITTEN)) if draw(st.booleans()) else WRITTEN[0] for leaf in leaves}
    objects = []
    for _ in range(draw(st.integers(1, 4))):
        names = draw(st.permutations(leaves)) if odd and draw(st.booleans()) else leaves
        texts = st.one_of(st.just("a"), TEXTS.map(escape), TEXTS) if odd else st.sampled_from(["a/b&quot;", "&#34;c"])
        written = (styles[name](name, draw(texts)) for name in names)
        objects.append(f"<Contents>{''.join(written)}</Contents>")
    gap = draw(st.sampled_from(["", "\n", "x", "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>"]))
    around = draw(st.sampled_from(AROUND))
    return page(head=f"<IsTruncated>false</IsTruncated>{around.format(gap.join(objects))}")


@example_settings(deadline=None, max_examples=1000)
@given(bodies())
def test_objects_written_alike_are_read_as_any_parser_would(body: bytes) -> None:
    alike = listings._read_alike(body)
    if alike is not None:
        whole = listings._read(body)
        # The parser takes what the page says of itself before its first object for a property of that.
        whole[0][0].pop("Name")
        for _, _, top in (alike, whole):
            top[listings.ROOT] = "whatever stands between its elements"
        assert alike == whole


def test_a_page_as_stores_write_it_is_read_alike() -> None:
    assert listings._read_alike(page("a", "b/%C3%A9", "c")) is not None
