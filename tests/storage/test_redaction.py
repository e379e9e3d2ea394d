"""What is masked and what is left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.artifacts import Artifact, Record
from storage.fingerprint import digest, plain
from storage.home import Home
from storage.redaction import masked, masked_addresses, masked_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("read https://me:p@ss:w@host:80/x?a=1 failed", "read https://***@host:80/x?a=1 failed"),
        ("https://token@host/x", "https://***@host/x"),
        ("http://h/x?token=abc&a=1", "http://h/x?token=***&a=1"),
        ("http://h/x?a=1&X-Amz-Signature=abc#f", "http://h/x?a=1&X-Amz-Signature=***#f"),
        ('{"path": "http://h/x?api_key=abc"}', '{"path": "http://h/x?api_key=***"}'),
        ("http://h/x?tokenizer=gpt", "http://h/x?tokenizer=***"),  # rather too much than too little
    ],
)
def test_credentials_of_addresses_are_masked(text: str, shown: str) -> None:
    assert masked_addresses(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "someone@example.org wrote to http://example.org/a",
        "http://example.org/a?page=2",
        "s3://bucket/key=1/x",
        "a=b@c",
    ],
)
def test_other_text_is_left_as_it_is(text: str) -> None:
    assert masked_addresses(text) == text


name = st.text("abcXYZ019._~-", min_size=1, max_size=12)


@given(name, st.text("abcXYZ019._~!$*+,;=:@-", min_size=1, max_size=12), name, st.text("abc /?", max_size=10))
def test_no_password_of_an_address_survives(user: str, password: str, host: str, rest: str) -> None:
    address = f"see sftp://{user}:{password}@{host}/data{rest} there"
    assert masked_addresses(address) == f"see sftp://***@{host}/data{rest} there"


def test_values_of_secret_variables_are_masked_but_no_number_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "123456789")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    assert masked("the key is 123456789, at /home/me/token") == "the key is ***, at /home/me/token"
    assert json.loads(masked_json('{"a": [1234567890, 0.123456789, "123456789"]}')) == {
        "a": [1234567890, 0.123456789, "***"]
    }
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert masked("abc") == "abc"


def test_identity_does_not_know_the_password() -> None:
    assert digest({"path": "s3://a:one@bucket/x"}) == digest({"path": "s3://a:two@bucket/x"})
    assert digest({"path": "s3://a:one@bucket/x"}) != digest({"path": "s3://a:one@bucket/y"})
    assert plain("s3://a:one@bucket/x") == "s3://***@bucket/x"


def test_tables_and_records_keep_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    home, address = Home(tmp_path), "ftp://me:planted@host/x?token=planted"
    row = {"run_id": "r", "stage": "s", "label": "s", "key": "k", "status": "failed"}
    row |= {"reason": f"{address} refused hf_planted_secret", "config_json": {"path": address, "n": 3}}  # type: ignore[dict-item]
    home.tables.write("stages", "p", [row])
    home.tables.write("quarantine", "p", [{"run_id": "r", "key": "k", "file": address, "reason": "broken"}])
    with home.store.writing("a" * 64) as folder:
        (folder / "x").touch()
        facts = {"files": [address], "num_tokens": 3}
        record = Record(Artifact("corpus", "a" * 64, facts), "s", {"path": plain(address)}, {}, {}, "r")
        assert home.store.seal(folder, record).facts == {"files": ["ftp://***@host/x?token=***"], "num_tokens": 3}
    found = home.tables.read("stages").to_pylist()[0]
    assert found["reason"] == "ftp://***@host/x?token=*** refused ***"
    assert json.loads(found["config_json"]) == {"path": "ftp://***@host/x?token=***", "n": 3}
    assert b"planted" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "planted" not in repr(Home(f"memory://me:planted@bucket/{tmp_path.name}"))
