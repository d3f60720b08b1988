"""Archives from elsewhere: read without unpacking, and without trusting their names and sizes."""

import io
import os
import tarfile
import zipfile

import pytest

from data_scripts.corpora import CorpusError
from data_scripts.corpora import tree as tree_module
from data_scripts.corpora.tree import Tree

from .trees import sound


def tar_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_names_that_leave_and_links_are_passed_over(tmp_path):
    path = tmp_path / "c.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../up.wav", "/etc/abs.wav", "a/../../up.wav", "ok/1.wav", "__MACOSX/1.wav", "ok/._1.wav"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("ok/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("ok/pipe.wav")
        device.type = tarfile.FIFOTYPE
        archive.addfile(device)
    assert [name for name, _ in Tree.of(path).recordings("*")] == ["c/ok/1.wav"]
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("../up.wav", b"abc")
        archive.writestr("..\\up.wav", b"abc")
        archive.writestr("ok/1.wav", b"abc")
    assert [name for name, _ in Tree.of(tmp_path / "c.zip").recordings("*")] == ["c/ok/1.wav"]
    assert sorted(os.listdir(tmp_path)) == ["c.tar.gz", "c.zip"]  # nothing was unpacked


def test_large_members_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tree_module, "MAX_RECORDING_BYTES", 100)
    monkeypatch.setattr(tree_module, "MAX_TEXT_BYTES", 1000)
    tar = tar_of(tmp_path / "a.tar.gz", {"1.wav": b"x" * 100, "2.wav": b"x" * 101, "t.txt": b"xin"})
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.wav", b"x" * 100)
        archive.writestr("2.wav", b"x" * 101)
        archive.writestr("t.txt", "xin")
    for path in (tar, tmp_path / "a.zip"):
        found = {name: audio["bytes"] for name, audio in Tree.of(path).recordings("*")}
        assert found == {"a/1.wav": b"x" * 100, "a/2.wav": None}
    tables = tar_of(tmp_path / "b.tar.gz", {"t.txt": b"x" * 600, "u.txt": b"x" * 600})
    with pytest.raises(CorpusError, match=r"of tables or .* members: this is no speech corpus"):
        Tree.of(tables).texts("t.txt")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "t.txt").write_bytes(b"x" * 1001)
    with pytest.raises(CorpusError, match="too large for a table"):
        Tree.of(tmp_path / "plain").texts("t.txt")


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_cut_archives(suffix, tmp_path):
    path = tmp_path / f"c.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.wav", sound())
    else:
        tar_of(path, {f"{n}.wav": os.urandom(5000) for n in range(3)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorpusError, match=f"c.{suffix}: damaged or cut archive"):
        Tree.of(path).names()


def test_other_archives_are_refused(tmp_path):
    (tmp_path / "c.rar").write_bytes(b"Rar!")
    with pytest.raises(CorpusError, match=r"a folder or an archive .* is wanted; unpack other archives first"):
        Tree.of(tmp_path / "c.rar")


def test_tables_in_other_encodings(tmp_path):
    (tmp_path / "t.txt").write_bytes("một\nhai\n".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"t\.txt:1: not UTF-8 \(byte 0xff\); convert the file"):
        Tree.of(tmp_path).texts("t.txt")
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfm\xe1\xbb\x99t\r\n\r\nhai\r\n")
    assert list(Tree.of(tmp_path).lines("t.txt")) == [("t.txt:1", "một"), ("t.txt:3", "hai")]


def test_links_between_folders_are_followed_once(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "1.wav").write_bytes(sound())
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "wav").symlink_to(tmp_path / "disk")
    (tmp_path / "corpus" / "round").symlink_to(tmp_path / "corpus")
    assert list(Tree.of(tmp_path / "corpus").files) == ["wav/1.wav"]
