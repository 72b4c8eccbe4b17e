from __future__ import annotations

from pathlib import Path

import pytest

from streaming.errors import SettingsError
from streaming.secret import reveal


def test_a_secret_is_where_the_setting_says(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("  from-a-file\n", encoding="utf-8")
    assert reveal("", setting="s") == ""
    assert reveal("env:KEY", setting="s", environ={"KEY": "from-the-environment"}) == "from-the-environment"
    assert reveal(f"file:{tmp_path}/key", setting="s") == "from-a-file"


@pytest.mark.parametrize(
    "reference", ["hunter2", "env:", "file:", "vault:hunter2", "env:MISSING", "file:missing", "file:empty"]
)
def test_a_setting_that_names_no_secret_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    with pytest.raises(SettingsError, match=r"\[lake\] s3_secret_access_key") as caught:
        reveal(reference, setting="[lake] s3_secret_access_key", environ={})
    assert "hunter2" not in str(caught.value)
