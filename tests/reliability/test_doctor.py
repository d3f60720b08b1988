"""The doctor sees what is broken and says what to do."""

import os
import runpy
import shutil

import pytest

from trainers import doctor


def findings(check):
    return list(check)


def test_this_machine_is_fit(repo_root, tmp_path, capsys):
    main = runpy.run_path(str(repo_root / "scripts" / "doctor.py"))["main"]
    assert main(["--folder", str(tmp_path), "--wanted_gb", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok   torchaudio 2.11") for line in lines)
    assert any("can meet (gloo)" in line for line in lines) and lines[-1].startswith("ready")


def test_a_broken_package_is_named_with_its_mend(monkeypatch):
    real = doctor.importlib.import_module

    def broken(name):
        if name == "torchaudio":
            raise OSError("libc10_cuda.so: cannot open shared object file\nmore")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    failed = [finding for finding in doctor.check_packages() if finding[0] == doctor.FAIL]
    assert failed == [
        (doctor.FAIL, "torchaudio: OSError: libc10_cuda.so: cannot open shared object file", doctor.PAIR)
    ]


def test_no_room_and_no_way_to_write(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    written, room = findings(doctor.check_folder(tmp_path / "not" / "yet", 5))
    assert written[0] == doctor.FAIL and "Permission denied" in written[1] and str(tmp_path) in written[1]
    assert room[0] == doctor.FAIL and room[1].startswith("1 GB free")


@pytest.mark.parametrize(("token", "state"), [(None, "note"), ("hf_" + "x" * 30, "ok")])
def test_the_token_is_looked_for_and_never_shown(monkeypatch, token, state):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    ((found, what, _),) = findings(doctor.check_token(online=False))
    assert found == state and "x" * 30 not in what


def test_a_token_that_the_hub_refuses(monkeypatch):
    token = "hf_" + "x" * 30
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)

    def refuse(self):
        raise ValueError(f"401 for {token}")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", refuse)
    ((state, what, mend),) = findings(doctor.check_token(online=True))
    assert state == doctor.FAIL and "401 for hf_***" in what and "hf auth login" in mend


def test_a_driver_without_a_gpu_build_of_torch(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    ((state, _, mend),) = findings(doctor.check_devices())
    assert state == doctor.FAIL and "CUDA build" in mend


def test_processes_that_cannot_meet(monkeypatch):
    monkeypatch.setattr(doctor, "GLOO", "raise RuntimeError('no interface')")
    state, what, mend = findings(doctor.check_processes())[0]
    assert state == doctor.FAIL and "no interface" in what and "GLOO_SOCKET_IFNAME" in mend
    assert os.environ.get("GLOO_SOCKET_IFNAME") is None
