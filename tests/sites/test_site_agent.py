"""What a site prints about its own data before it connects."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fedfm.sites.site_agent import SiteAgent


def test_b04_what_is_left_out_of_its_data_is_said_at_the_site(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "images" / name / "1.png")
    (tmp_path / "images" / "dog" / "photo.heic").write_text("x")
    (tmp_path / "data.yaml").write_text("train: images\n")
    said: list[str] = []
    agent = SiteAgent(
        server="fl.example.org:443",
        authority=tmp_path / "ca.crt",
        key=tmp_path / "key",
        data=tmp_path / "data.yaml",
        policy=None,
        folder=tmp_path / "site",
        say=said.append,
    )
    assert agent.check() == (2, ["image", "label"])
    assert said == [
        f"warning: {tmp_path}/images: left out 1 file: 1 .heic (dog/photo.heic; convert to JPEG or PNG)",
    ]
