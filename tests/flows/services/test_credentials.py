"""Secrets come from a file or a variable, are checked, and never appear in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.services.credentials import read_secret
from flows.settings import ConfigError

VARIABLE = "LIFESPAN_TEST_SECRET"


def test_a_file_takes_precedence_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_secret(VARIABLE) == ""
    monkeypatch.setenv(VARIABLE, " of-the-variable\n")
    assert read_secret(VARIABLE) == "of-the-variable"
    (tmp_path / "secret").write_text("of-the-file\n")
    assert read_secret(VARIABLE, tmp_path / "secret", "--key") == "of-the-file"


@pytest.mark.parametrize("secret", ["", "  ", "two words", "not-ascii-äöü", "two\nlines", "short"])
def test_an_invalid_secret_is_refused_and_not_shown(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, secret)
    (tmp_path / "secret").write_text(secret)
    for file, where in ((None, VARIABLE), (tmp_path / "secret", f"--key {tmp_path / 'secret'}")):
        with pytest.raises(ConfigError, match="at least 6 characters of printable ASCII without spaces") as error:
            read_secret(VARIABLE, file, "--key", min_length=6)
        assert str(error.value).startswith(f"{where}: ")
        assert not secret.strip() or secret not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--key .*none: cannot read a secret from this file .*No such file"):
        read_secret(VARIABLE, tmp_path / "none", "--key")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not text"):
        read_secret(VARIABLE, tmp_path / "binary", "--key")
