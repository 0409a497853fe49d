"""`keras-tfcl train` on 1,000 files, of which 100 are damaged, hostile or odd."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer")
COMMAND = "import sys; sys.argv[0] = 'keras-tfcl'; from keras_tfcl.cli import main; sys.exit(main())"


def image(rng):
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype("uint8"))
    return small.resize((24, 20), Image.Resampling.BICUBIC)


def encoded(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    """A PNG file of a few bytes that says it is large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def bad_files(rng):
    """Name and content of 95 files."""
    jpeg, picture = encoded(image(rng), "JPEG"), encoded(image(rng), "PNG")
    bomb = zlib.compress(bytes(10**8), 9)
    single = {
        "empty.jpg": b"",
        "bomb.png": png(100_000, 100_000, chunk(b"IDAT", zlib.compress(b""))),
        "profile.png": png(8, 8, chunk(b"iCCP", b"x\0\0" + bomb), chunk(b"IDAT", zlib.compress(b""))),
        "program.jpg": b"#!/bin/sh\ntouch here\n",
        "postscript.tif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(here) (w) file\n",
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "text.gif": "kein Bild".encode("utf-16"),
        "new\nline.png": b"\x89PNG",
        "--out.jpg": b"\xff\xd8\xff",
        "$(touch here).jpg": b"\xff\xd8\xff\xe0",
        "umlaut \u00e4 \u2028.webp": b"RIFF\xff\xff\xff\xffWEBP",
        "not utf-8 \udcff.bmp": b"BM",
        "float.tif": encoded(Image.fromarray(rng.normal(size=(8, 8)).astype("float32")), "TIFF"),
    }
    cut = {f"cut{i:02}.jpg": jpeg[: 20 + i * (len(jpeg) - 40) // 41] for i in range(41)}
    cut |= {f"cut{i:02}.png": picture[: 20 + i * (len(picture) - 60) // 41] for i in range(41)}
    return single | cut


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")
def test_a_hundred_bad_files_among_a_thousand(tmp_path):
    rng = np.random.default_rng(0)
    photos, around, elsewhere = (tmp_path / name for name in ("photos", "around", "elsewhere"))
    for folder in (photos / "a", photos / "b", around, elsewhere):
        folder.mkdir(parents=True)
    for i in range(900):
        (photos / "ab"[i % 2] / f"{i:03}.{('jpg', 'png')[i % 3 == 0]}").write_bytes(
            encoded(image(rng), ("JPEG", "PNG")[i % 3 == 0])
        )
    bad = bad_files(rng)
    for name, data in bad.items():
        (photos / "a" / name).write_bytes(data)
    (photos / "b" / "nowhere.jpg").symlink_to(photos / "absent")
    (photos / "b" / "circle.jpg").symlink_to("circle.jpg")
    (photos / "b" / "passwords.jpg").symlink_to("/etc/passwd")
    os.mkfifo(photos / "b" / "pipe.jpg")
    with (photos / "b" / "holes.png").open("wb") as file:
        file.truncate(2**31)
    (photos / "b" / "again").symlink_to(photos)  # a loop of folders
    (photos / "b" / "folder.jpg").mkdir()
    names = {f"a/{name}" for name in bad} | {
        f"b/{name}" for name in ("nowhere.jpg", "circle.jpg", "passwords.jpg", "pipe.jpg", "holes.png")
    }
    assert len(names) == 100

    def files(folder):
        return sorted((path, path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*"))

    before = files(photos)
    settings = ("--backbone", "resnet10", "--image-size", "16", "--epochs", "1", "--batch-size", "100", "--json")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "train", photos, "-o", "run", *settings],
        cwd=around,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(elsewhere)},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == 1000 and set(result["skipped"]) == names
    lines = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 21 and lines[-1].startswith("skipped: 80 more (")
    assert files(photos) == before
    assert [path.name for path in around.iterdir()] == ["run"] and not [*elsewhere.iterdir()]
