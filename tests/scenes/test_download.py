"""Downloads, from a server of this process."""

import http.server
import io
import re
import sys
import threading
import zipfile

import pytest

from autoint.__main__ import main
from autoint.scenes.data import download as module
from autoint.scenes.data.download import Archive, download, fetch


def zipped(**files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


CONTENT = zipped(
    **{
        "nerf_example_data/nerf_synthetic/lego/transforms_train.json": "{}",
        "nerf_example_data/nerf_synthetic/lego/train/r_0.png": "x" * 5000,
        "nerf_example_data/nerf_synthetic/legoland/a.txt": "not wanted",
        "nerf_example_data/nerf_llff_data/fern/poses_bounds.npy": "not wanted",
        "__MACOSX/nerf_synthetic/lego/._r_0.png": "rubbish",
    }
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``content``, with ranges if ``ranges``, and stops after ``at_most`` bytes."""

    content, ranges, at_most, kind, asked = CONTENT, True, None, "application/zip", None

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).asked = asked
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:][: self.at_most])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    handler = type("Own", (Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}/a.zip"
        monkeypatch.setitem(module.SCENES, "lego", Archive("a.zip", address, "nerf_synthetic"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield handler
        running.shutdown()


def test_a_scene_is_fetched_and_only_it_is_extracted(server, tmp_path):
    folder = download("lego", tmp_path / "data")
    assert folder == tmp_path / "data" / "nerf_synthetic" / "lego"
    files = sorted(str(p.relative_to(tmp_path / "data")) for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert files == ["nerf_synthetic/lego/train/r_0.png", "nerf_synthetic/lego/transforms_train.json"]
    server.content = b""
    assert download("lego", tmp_path / "data") == folder  # it is there: nothing is fetched


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_was(ranges, server, tmp_path):
    server.at_most, server.ranges = 1000, ranges
    with pytest.raises(ValueError, match=r"a.zip.part: 1000 of \d+ bytes arrived; the same command again"):
        download("lego", tmp_path)
    server.at_most = None
    download("lego", tmp_path, keep=True)
    assert server.asked == "bytes=1000-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert not (tmp_path / "a.zip.part").exists()


def test_a_download_cut_off_before_its_last_step_is_finished(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    fetch(module.SCENES["lego"].address, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def flipped(content: bytes) -> bytes:
    at = content.index(b"x" * 100) + 50
    return content[:at] + b"y" + content[at + 1 :]


BAD = {
    "a flipped byte": (flipped(CONTENT), "damaged archive .bad CRC-32 for .*r_0.png"),
    "half an archive": (CONTENT[:3000], "damaged archive"),
    "another archive": (zipped(a="b"), "no nerf_synthetic/lego in it"),
    "a path outside": (zipped(**{"nerf_synthetic/lego/../../../x": "b"}), "leaves the scene's folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused_and_leave_no_scene(case, server, tmp_path):
    server.content, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        download("lego", tmp_path / "data")
    assert not (tmp_path / "data" / "nerf_synthetic" / "lego").exists()
    assert not (tmp_path / "x").exists()


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["autoint", "download", *map(str, arguments)])
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_the_program_says_what_to_do_next(server, tmp_path, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "lego", "--to", tmp_path)
    assert status == 0
    assert f"next: python train.py scene=lego data_dir={tmp_path}" in out
    server.kind = "text/html"
    status, _, err = run(monkeypatch, capsys, "lego", "--to", tmp_path / "other")
    assert status == 2
    assert "answers with a page instead of an archive" in err


def test_without_a_network_one_line_says_so(monkeypatch, tmp_path, capsys):
    nobody = Archive("a.zip", "http://127.0.0.1:9/a.zip", "nerf_synthetic")
    monkeypatch.setitem(module.SCENES, "lego", nobody)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    status, _, err = run(monkeypatch, capsys, "lego", "--to", tmp_path)
    assert status == 2
    assert err.startswith("error: http://127.0.0.1:9/a.zip cannot be fetched (")
    assert err.count("\n") == 1
    status, _, err = run(monkeypatch, capsys, "legoo", "--to", tmp_path)
    assert status == 2
    assert "scene 'legoo' has no public address; did you mean 'lego'?" in err
